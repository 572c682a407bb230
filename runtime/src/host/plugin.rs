//! A plugin that is loaded: what the pipeline asks.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::Engine;
use wasmtime::component::InstancePre;

use super::abi;
use super::breaker::Breaker;
use super::component::ContentDigest;
use super::failure::failure;
use super::instance::{Exports, Instance};
use super::limits::Limits;
use super::permit::{Permit, Quota};
use super::pool::Pool;
use super::state::{Asked, CallState, Environment};
use crate::pipeline::{Answer, Call, Cause, Event, Failure, Filter, Judged, Scope, StageSet, Usage};

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
    pub(super) calls: AtomicU64,
    pub(super) failures: AtomicU64,
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
    pub stages: StageSet,
    /// It has `on-load`.
    pub checks_config: bool,
    /// Interfaces that it imports: `dns`, `tables`, …
    pub imports: Vec<String>,
}

impl Plugin {
    pub fn inspect(&self) -> &Inspection {
        &self.inspection
    }

    /// That were begun.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Calls that failed by its own fault.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn instance(&self) -> Instance {
        let warm = self.pool.as_ref().and_then(Pool::take);
        warm.unwrap_or_else(|| Instance::new(&self.engine, self.environment.clone(), &self.limits))
    }

    /// Runs one call under the wall limit.
    pub(super) async fn limited<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::time::timeout(self.limits.wall, call).await.unwrap_or_else(|_| {
            Err(failure(Cause::Wall, format!("no answer within {} ms", self.limits.wall.as_millis())))
        })
    }

    async fn permit(&self) -> Result<Permit, Failure> {
        let busy = || failure(Cause::Busy, "as many calls as may run at a time, and none ended in time");
        tokio::time::timeout(self.wait, self.quota.turn()).await.ok().flatten().ok_or_else(busy)
    }

    async fn ask(&self, call: Call, started: Instant) -> (Result<Answer, Failure>, Usage) {
        let stage = call.stage;
        let recipient = call.recipient.as_ref().map(abi::recipient);
        let mut instance = self.instance();
        let said = self.limited(instance.judge(&self.pre, &self.exports, Asked::new(call), recipient)).await;
        let state = instance.store.data_mut();
        state.finish_log();
        let usage = state.meter.usage(started.elapsed());
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

    async fn notify(&self, event: Event) -> Result<(), Failure> {
        let mut instance = self.instance();
        let told = self.limited(instance.tell(&self.pre, &self.exports, event)).await;
        instance.store.data_mut().finish_log();
        self.keep(instance, told.is_ok());
        told
    }

    /// An instance that has failed in whatever way is dropped.
    fn keep(&self, instance: Instance, well: bool) {
        if let (true, Some(pool)) = (well, &self.pool) {
            pool.put(instance);
        }
    }

    /// Asks leave of breaker and quota, and tells the breaker how it went.
    async fn guarded<T, F: Future<Output = (Result<T, Failure>, Usage)>>(
        &self,
        call: impl FnOnce() -> F,
    ) -> (Result<T, Failure>, Usage) {
        let Some(admission) = self.breaker.admit() else {
            return (Err(failure(Cause::Breaker, "it has failed too often lately")), Usage::default());
        };
        let _permit = match self.permit().await {
            Ok(permit) => permit,
            Err(busy) => return (Err(busy), Usage::default()),
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (result, usage) = call().await;
        match &result {
            Ok(_) => admission.succeeded(),
            // Not the plugin's fault.
            Err(failure) if failure.cause == Cause::Host => drop(admission),
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                admission.failed();
            }
        }
        (result, usage)
    }
}

impl Filter for Plugin {
    fn stages(&self) -> StageSet {
        self.inspection.stages
    }

    fn version(&self) -> Option<&str> {
        Some(&self.inspection.version)
    }

    fn judge<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Judged> + Send + 'a>> {
        Box::pin(async move {
            let started = Instant::now();
            let (result, usage) = self.guarded(|| self.ask(call, started)).await;
            Judged { result, usage: Usage { wall: started.elapsed(), ..usage } }
        })
    }

    fn tell<'a>(&'a self, event: Event) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        Box::pin(async move { self.guarded(|| async { (self.notify(event).await, Usage::default()) }).await.0 })
    }
}
