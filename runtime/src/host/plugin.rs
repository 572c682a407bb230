//! A plugin that is loaded: what the pipeline asks.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};
use wasmtime::Engine;
use wasmtime::component::InstancePre;

use super::abi;
use super::breaker::{Breaker, BreakerState};
use super::component::ContentDigest;
use super::failure::failure;
use super::instance::{Exports, Instance};
use super::limits::Limits;
use super::permit::{Permit, Quota};
use super::pool::Pool;
use super::state::{Asked, CallState, Environment};
use super::statistics::{Activity, Statistics};
use super::stopwatch;
use crate::pipeline::{Answer, Call, Cause, Event, Failure, Filter, Interest, Judged, Scope, StageSet, Usage};

/// A component, configured for one scope.
pub struct Plugin {
    pub(super) engine: Engine,
    pub(super) environment: Arc<Environment>,
    pub(super) pre: InstancePre<CallState>,
    pub(super) exports: Exports,
    pub(super) inspection: Inspection,
    pub(super) limits: Limits,
    pub(super) quota: Quota,
    /// How long a call waits for its turn.
    pub(super) wait: Duration,
    pub(super) breaker: Breaker,
    /// `None`: a fresh instance for each call.
    pub(super) pool: Option<Pool>,
    pub(super) statistics: Statistics,
}

/// What a loaded plugin is, and what it has done since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub plugin: String,
    /// `platform`, `reseller:NAME` or `tenant:NAME`.
    pub scope: String,
    /// SHA-256, 64 hexadecimal digits.
    pub digest: String,
    /// Octets of the file.
    pub size: usize,
    pub stages: Vec<String>,
    pub checks_config: bool,
    pub imports: Vec<String>,
    #[serde(flatten)]
    pub activity: Activity,
}

/// A call under way. What it has used is charged when it ends, also where whoever asked has gone by then.
struct Run<'a> {
    plugin: &'a Plugin,
    instance: &'a mut Instance,
    started: Instant,
    /// How long it has run so far.
    running: Duration,
    charged: bool,
}

impl<'a> Run<'a> {
    fn new(plugin: &'a Plugin, instance: &'a mut Instance, started: Instant) -> Self {
        Self { plugin, instance, started, running: Duration::ZERO, charged: false }
    }

    fn end(mut self) -> Usage {
        self.charge()
    }

    fn charge(&mut self) -> Usage {
        self.charged = true;
        let state = self.instance.store.data_mut();
        state.finish_log();
        let usage = state.meter.usage(self.running, self.started.elapsed());
        self.plugin.statistics.charge(&usage);
        usage
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !self.charged {
            self.charge();
        }
    }
}

/// What is known of a plugin without asking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    pub name: Arc<str>,
    pub scope: Scope,
    /// SHA-256 of the bytes it was loaded from.
    pub digest: ContentDigest,
    /// The first 12 digits of the digest: enough for people.
    pub version: Arc<str>,
    /// Octets of those.
    pub size: usize,
    /// Those that it has.
    pub stages: StageSet,
    /// Where it has something to do with its config.
    pub interest: Interest,
    /// It has `on-load`.
    pub checks_config: bool,
    /// Interfaces that it imports: `dns`, `tables`, …
    pub imports: Vec<String>,
}

impl Plugin {
    pub fn inspect(&self) -> &Inspection {
        &self.inspection
    }

    /// Calls that have run, in this version.
    pub fn calls(&self) -> u64 {
        self.statistics.calls()
    }

    /// Of those, the ones that failed by the plugin's own fault; not those that were kept from running, by its breaker or
    /// for want of room, or that the gateway itself failed.
    pub fn failures(&self) -> u64 {
        self.statistics.failures()
    }

    /// It is not asked any more, or it is again: while it rests, no instance of it is kept warm.
    pub fn rest(&self, resting: bool) {
        if let Some(pool) = &self.pool {
            pool.rest(resting);
        }
    }

    pub fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    pub fn report(&self) -> Report {
        let inspection = &self.inspection;
        Report {
            plugin: inspection.name.to_string(),
            scope: inspection.scope.to_string(),
            digest: inspection.digest.to_string(),
            size: inspection.size,
            stages: inspection.interest.stages().iter().map(|stage| stage.name().to_owned()).collect(),
            checks_config: inspection.checks_config,
            imports: inspection.imports.clone(),
            activity: self.statistics.report(self.breaker(), self.pool.as_ref().map_or(0, Pool::idle)),
        }
    }

    fn instance(&self) -> Instance {
        let warm = self.pool.as_ref().and_then(Pool::take);
        warm.unwrap_or_else(|| Instance::new(&self.engine, self.environment.clone(), &self.limits))
    }

    /// Runs one call under the wall limit.
    pub(super) async fn limited<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let end = Instant::now() + self.limits.wall;
        let mut call = pin!(call);
        // Most calls wait for nothing, and need no timer.
        if let Poll::Ready(result) = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
            return result;
        }
        timeout_at(end, call).await.unwrap_or_else(|_| {
            Err(failure(Cause::Wall, format!("no answer within {} ms", self.limits.wall.as_millis())))
        })
    }

    async fn permit(&self) -> Result<Permit<'_>, Failure> {
        if let Some(permit) = self.quota.turn_at_once() {
            return Ok(permit);
        }
        let busy = || failure(Cause::Busy, "as many calls as may run at a time, and none ended in time");
        timeout(self.wait, self.quota.turn()).await.ok().flatten().ok_or_else(busy)
    }

    async fn ask(&self, call: Call, started: Instant) -> (Result<Answer, Failure>, Usage) {
        let stage = call.stage;
        let recipient = call.recipient.as_ref().map(abi::recipient);
        let mut instance = self.instance();
        let mut run = Run::new(self, &mut instance, started);
        let asked = run.instance.judge(&self.pre, &self.exports, Asked::new(call), recipient);
        let said = self.limited(stopwatch::poll(&mut run.running, asked)).await;
        let usage = run.end();
        let state = instance.store.data_mut();
        let answer = said.and_then(|said| {
            let verdict = abi::verdict(stage, said).map_err(|problem| failure(Cause::Malformed, problem))?;
            let lost = || failure(Cause::Host, "the state of the call is gone");
            let asked = state.asked.take().ok_or_else(lost)?;
            let edits = asked.journal.into_edits();
            Ok(Answer { verdict, edits, exemptions: asked.exemptions, notes: asked.notes })
        });
        self.keep(instance, answer.is_ok());
        (answer, usage)
    }

    async fn notify(&self, event: Event, started: Instant) -> (Result<(), Failure>, Usage) {
        let mut instance = self.instance();
        let mut run = Run::new(self, &mut instance, started);
        let told = run.instance.tell(&self.pre, &self.exports, event);
        let told = self.limited(stopwatch::poll(&mut run.running, told)).await;
        let usage = run.end();
        self.keep(instance, told.is_ok());
        (told, usage)
    }

    /// An instance that has failed in whatever way is dropped.
    fn keep(&self, instance: Instance, well: bool) {
        if let (true, Some(pool)) = (well, &self.pool) {
            pool.put(instance);
        }
    }

    /// Asks leave of breaker and quota, and tells the breaker how it went.
    async fn admitted<T, F: Future<Output = (Result<T, Failure>, Usage)>>(
        &self,
        started: Instant,
        call: impl FnOnce() -> F,
    ) -> (Result<T, Failure>, Usage) {
        let not_run = |failure| (Err(failure), Usage { wall: started.elapsed(), ..Usage::default() });
        let Some(admission) = self.breaker.admit() else {
            return not_run(failure(Cause::Breaker, "it has failed too often lately"));
        };
        let _permit = match self.permit().await {
            Ok(permit) => permit,
            Err(busy) => return not_run(busy),
        };
        let (result, usage) = call().await;
        match &result {
            Ok(_) => admission.succeeded(),
            // Not the plugin's fault.
            Err(failure) if failure.cause == Cause::Host => drop(admission),
            Err(_) => admission.failed(),
        }
        (result, usage)
    }

    /// Counts what fails, whether it ran or not.
    async fn counted<T, F: Future<Output = (Result<T, Failure>, Usage)>>(
        &self,
        started: Instant,
        call: impl FnOnce() -> F,
    ) -> (Result<T, Failure>, Usage) {
        let (result, usage) = self.admitted(started, call).await;
        if let Err(failure) = &result {
            self.statistics.fail(failure.cause);
        }
        (result, usage)
    }
}

impl Filter for Plugin {
    fn interest(&self) -> Interest {
        self.inspection.interest
    }

    fn version(&self) -> Option<&str> {
        Some(&self.inspection.version)
    }

    fn judge<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Judged> + Send + 'a>> {
        Box::pin(async move {
            let started = Instant::now();
            let (result, usage) = self.counted(started, || self.ask(call, started)).await;
            Judged { result, usage }
        })
    }

    fn tell<'a>(&'a self, event: Event) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        Box::pin(async move {
            let started = Instant::now();
            self.counted(started, || self.notify(event, started)).await.0
        })
    }
}
