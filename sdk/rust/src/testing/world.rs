//! Everything that a plugin can ask for beside session and message.

use std::any::{Any, TypeId};
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::UNKNOWN;
use crate::authentication::{Arc, Dmarc, Origin, Signature, Spf};
use crate::call_ahead::Presence;
use crate::dns::{Answer, DnsError, Question};
use crate::scan::{Assessment, ScanError};

/// 2026-01-01 00:00 UTC.
const START: u64 = 1_767_225_600_000;

/// Lines and octets of log a call may write.
const MAX_LINES: usize = 64;
const MAX_LOG: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct World {
    state: RefCell<State>,
}

pub(super) struct State {
    pub(super) config: String,
    pub(super) name: String,
    pub(super) scope: String,
    pub(super) grants: BTreeSet<String>,
    /// `None`: could not be read.
    pub(super) tables: HashMap<String, Option<Vec<(String, String)>>>,
    records: HashMap<Question, Answer>,
    failing_names: BTreeMap<String, DnsError>,
    /// Milliseconds since 1970.
    pub(super) clock: u64,
    /// By key and seconds: which window, and its count.
    pub(super) counters: HashMap<(String, u32), (u64, u64)>,
    pub(super) blocks: HashMap<String, u64>,
    pub(super) counters_full: bool,
    pub(super) metrics: BTreeMap<String, u64>,
    /// Until when, and what.
    pub(super) store: HashMap<String, (u64, Vec<u8>)>,
    pub(super) store_full: bool,
    pub(super) evidence: Evidence,
    /// By domain.
    pub(super) keys: BTreeMap<String, Vec<String>>,
    pub(super) viruses: HashMap<String, Result<Option<String>, ScanError>>,
    pub(super) assessments: HashMap<String, Result<Assessment, ScanError>>,
    pub(super) presences: HashMap<String, Presence>,
    log: Vec<String>,
    log_octets: usize,
    instances: HashMap<TypeId, Rc<dyn Any>>,
}

/// What is found out about any mail. `None`: as of a mail without records, signatures and sets.
#[derive(Default)]
pub(super) struct Evidence {
    pub(super) origin: Option<Origin>,
    pub(super) spf_helo: Option<Spf>,
    pub(super) spf_mail_from: Option<Spf>,
    pub(super) dkim: Vec<Signature>,
    pub(super) dmarc: Option<Dmarc>,
    pub(super) arc: Option<Arc>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            config: "{}".into(),
            name: "test".into(),
            scope: "platform".into(),
            grants: BTreeSet::new(),
            tables: HashMap::new(),
            records: HashMap::new(),
            failing_names: BTreeMap::new(),
            clock: START,
            counters: HashMap::new(),
            blocks: HashMap::new(),
            counters_full: false,
            metrics: BTreeMap::new(),
            store: HashMap::new(),
            store_full: false,
            evidence: Evidence::default(),
            keys: BTreeMap::new(),
            viruses: HashMap::new(),
            assessments: HashMap::new(),
            presences: HashMap::new(),
            log: Vec::new(),
            log_octets: 0,
            instances: HashMap::new(),
        }
    }
}

thread_local! {
    /// Whose plugin runs now.
    static CURRENT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The gateway that has called.
pub(super) fn current() -> Rc<World> {
    CURRENT
        .with(|current| current.borrow().clone())
        .expect("the plugin's code asks the gateway, so a test must call it through testing::Gateway")
}

impl World {
    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Runs a call into the plugin; what it asks for comes from here.
    pub(super) fn enter<R>(self: &Rc<Self>, call: impl FnOnce() -> R) -> R {
        struct Leave(Option<Rc<World>>);
        impl Drop for Leave {
            fn drop(&mut self) {
                CURRENT.with(|current| *current.borrow_mut() = self.0.take());
            }
        }
        let _leave = Leave(CURRENT.with(|current| current.borrow_mut().replace(self.clone())));
        call()
    }

    pub(super) fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.state().clock)
    }

    pub(super) fn take_log(&self) -> Vec<String> {
        let mut state = self.state();
        state.log_octets = 0;
        std::mem::take(&mut state.log)
    }
}

impl State {
    pub(super) fn instance<P: 'static>(&self) -> Option<Rc<P>> {
        self.instances.get(&TypeId::of::<P>()).cloned().and_then(|made| made.downcast().ok())
    }

    pub(super) fn keep_instance(&mut self, made: Rc<dyn Any>) {
        self.instances.insert((*made).type_id(), made);
    }

    pub(super) fn add_records(&mut self, question: Question, records: Answer) {
        let question = normal(question);
        match (self.records.get_mut(&question), records) {
            (Some(Answer::Addresses(known)), Answer::Addresses(more)) => known.extend(more),
            (Some(Answer::Exchanges(known)), Answer::Exchanges(more)) => known.extend(more),
            (Some(Answer::Texts(known)), Answer::Texts(more)) => known.extend(more),
            (Some(Answer::Names(known)), Answer::Names(more)) => known.extend(more),
            (_, records) => {
                self.records.insert(question, records);
            }
        }
    }

    pub(super) fn fail_name(&mut self, name: &str, how: DnsError) {
        self.failing_names.insert(normal_name(name), how);
    }

    pub(super) fn resolve(&self, question: Question) -> Result<Answer, DnsError> {
        let question = normal(question);
        let label = |label: &str| !label.is_empty() && label.len() <= 63;
        let is_name = question.name.len() <= 253 && question.name.is_ascii() && question.name.split('.').all(label);
        if !is_name && question.name.parse::<std::net::IpAddr>().is_err() {
            return Err(DnsError::BadName);
        }
        if let Some(how) = self.failing_names.get(&question.name) {
            return Err(*how);
        }
        self.records.get(&question).cloned().map_or(UNKNOWN, Ok)
    }

    pub(super) fn log(&mut self, level: &str, text: &str) {
        let left = MAX_LOG.saturating_sub(self.log_octets);
        let end = (0..=left.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let cut = text.get(..end).unwrap_or_default();
        if self.log.len() < MAX_LINES && (!cut.is_empty() || text.is_empty()) {
            self.log_octets += cut.len();
            self.log.push(format!("{level}: {cut}"));
        }
    }
}

fn normal(question: Question) -> Question {
    Question::new(normal_name(&question.name), question.kind)
}

fn normal_name(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
