//! What the host keeps for one instance, and for the call that it is answering.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Engine, Store};

use super::abi::interface::types;
use super::capability::{Grants, Services, edit::Journal, log::LogBudget, message::Parts, metrics::MetricNames};
use super::limits::{Breach, Limits, Meter};
use super::permit::Quota;
use super::stopwatch;
use super::table::Tables;
use crate::mail::{Mail, MessageId};
use crate::pipeline::{Call, Capability, Cause, Exemption, Interest, Notes, Scope, SessionFacts, Stage};

/// What a plugin is and may do; the same for all its instances.
pub(super) struct Environment {
    pub name: Arc<str>,
    /// As text: `platform`, `reseller:NAME` or `tenant:NAME`.
    pub scope: String,
    pub owner: Scope,
    /// JSON.
    pub config: String,
    pub grants: Grants,
    pub tables: Arc<Tables>,
    /// Scanners that it may ask.
    pub scanners: BTreeSet<Arc<str>>,
    pub services: Services,
    /// Questions to the resolver that all its calls have under way.
    pub look_ups: Quota,
    /// Of the plugin's own counters; shared by all plugins of that name, which share a label.
    pub metric_names: MetricNames,
}

impl Environment {
    /// It wanted to keep more than it may. `what`: counters, store.
    pub fn count_full(&self, what: &str) {
        let metrics = &self.services.metrics;
        metrics.plugin_full.with_label_values(&[&*self.name, &metrics.scope_label(&self.scope), what]).inc();
    }
}

/// The data of a store.
pub(super) struct CallState {
    pub environment: Arc<Environment>,
    pub meter: Meter,
    pub log: LogBudget,
    /// What it wrote last at level `error`: when it traps next, this is why (the SDK's panics).
    pub last_error: Option<String>,
    /// The mail that the log lines are about.
    pub mail_id: Option<MessageId>,
    /// At which stages it said, when it was loaded, that it has nothing to do.
    pub skipped: Interest,
    /// `None` where no mail is judged: at load, and when an event is told.
    pub asked: Option<Asked>,
}

/// What one hook call is about, and what it has asked for so far.
pub(super) struct Asked {
    pub stage: Stage,
    pub session: Arc<SessionFacts>,
    pub mail: Option<Arc<Mail>>,
    pub journal: Journal,
    pub exemptions: Vec<Exemption>,
    pub notes: Notes,
    pub parts: Parts,
    /// Computed once: the mail does not change during a call.
    pub digest: Option<[u8; 32]>,
}

impl Asked {
    pub fn new(call: Call) -> Self {
        Self {
            stage: call.stage,
            session: call.session,
            mail: call.mail,
            journal: Journal::default(),
            exemptions: Vec::new(),
            notes: call.notes,
            parts: Parts::default(),
            digest: None,
        }
    }

    /// The notes, to be changed: a copy, so that a call that fails has changed nothing.
    pub fn notes_mut(&mut self) -> &mut BTreeMap<String, Vec<u8>> {
        Arc::make_mut(&mut self.notes)
    }
}

impl CallState {
    pub fn store(engine: &Engine, environment: Arc<Environment>, limits: &Limits) -> Store<Self> {
        let state = Self {
            environment,
            meter: Meter::new(limits.clone()),
            log: LogBudget::new(limits),
            last_error: None,
            mail_id: None,
            skipped: Interest::default(),
            asked: None,
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.meter);
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().meter.tick()?));
        // Of one crossing; the meter counts all of them.
        store.set_hostcall_fuel(usize::try_from(limits.octets).unwrap_or(usize::MAX));
        store.set_max_component_handles(limits.handles);
        store
    }

    /// Sets the state to a new call: nothing of the one before is left.
    pub fn begin(&mut self, asked: Option<Asked>, mail_id: Option<MessageId>) {
        self.meter.restart();
        self.log = LogBudget::new(self.meter.limits());
        self.last_error = None;
        self.mail_id = mail_id;
        self.asked = asked;
    }

    /// Each host function begins with this: counts the call and the octets that came with it.
    pub fn enter(&mut self, capability: Capability, octets: usize) -> Result<(), Breach> {
        self.meter.host_call(capability)?;
        self.meter.pass(octets)
    }

    /// What the call is about. There is nothing to ask about without a handle, and no handle where nothing is judged.
    pub fn asked(&mut self) -> Result<&mut Asked, Breach> {
        self.asked.as_mut().ok_or_else(|| Breach::new(Cause::Malformed, "asked about a session without having one"))
    }

    pub fn session(&mut self) -> Result<&SessionFacts, Breach> {
        self.asked().map(|asked| &*asked.session)
    }

    pub fn mail(&mut self) -> Result<&Arc<Mail>, Breach> {
        let missing = || Breach::new(Cause::Malformed, "asked about a mail without having one");
        self.asked()?.mail.as_ref().ok_or_else(missing)
    }

    /// Runs what may block, or takes long, on a thread made for that when `apart`. What it takes there is CPU time of the
    /// call too: a search costs the same wherever it runs.
    pub async fn work<T: Send + 'static>(
        &mut self,
        apart: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Breach> {
        if !apart {
            return Ok(work());
        }
        let start = tokio::time::Instant::now();
        let timed = move || {
            let mut took = Duration::ZERO;
            (stopwatch::run(&mut took, work), took)
        };
        let result = tokio::task::spawn_blocking(timed).await;
        self.meter.waited(start.elapsed());
        let (result, took) = result.map_err(|error| Breach::new(Cause::Host, error.to_string()))?;
        self.meter.worked_apart += took;
        Ok(result)
    }
}

/// The interface has types only.
impl types::Host for CallState {}
