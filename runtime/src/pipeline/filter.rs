//! The seam between the pipeline and whatever answers it: the WebAssembly host, or a test's own filter.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::edit::Edit;
use super::facts::SessionFacts;
use super::stage::{Interest, Stage};
use super::verdict::Verdict;
use crate::mail::{Mail, MessageId, Recipient};

/// One plugin, loaded and configured for one scope.
pub trait Filter: Send + Sync {
    /// Where it wants to be asked.
    fn interest(&self) -> Interest;

    /// Which version it is, for the log.
    fn version(&self) -> Option<&str> {
        None
    }

    /// Asks it. Takes and gives values only, so an implementation can't half-apply anything.
    fn judge<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Judged> + Send + 'a>>;

    /// Tells it what became of a mail. Returns when it was told; its failure is logged, nothing else.
    fn tell<'a>(&'a self, event: Event) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;
}

/// One question.
#[derive(Debug, Clone)]
pub struct Call {
    pub stage: Stage,
    pub session: Arc<SessionFacts>,
    /// From `mail-from` on, with the edits of the plugins before.
    pub mail: Option<Arc<Mail>>,
    /// At `rcpt`: the recipient in question, not yet among `mail`'s.
    pub recipient: Option<Recipient>,
    /// What this plugin, in this scope, has remembered earlier in the session or transaction.
    pub notes: Notes,
}

/// A plugin's memory within a session and transaction: keys and values, bounded by the host.
pub type Notes = Arc<BTreeMap<String, Vec<u8>>>;

/// Nothing is noted: the same value each time, so that it costs nothing and is known again.
pub fn no_notes() -> Notes {
    static NONE: LazyLock<Notes> = LazyLock::new(Notes::default);
    NONE.clone()
}

#[derive(Debug, Clone)]
pub struct Judged {
    pub result: Result<Answer, Failure>,
    pub usage: Usage,
}

/// What a plugin that returned well has said.
#[derive(Debug, Clone)]
pub struct Answer {
    pub verdict: Verdict,
    pub edits: Vec<Edit>,
    /// Tests whose refusals do not count for this mail.
    pub exemptions: Vec<Exemption>,
    pub notes: Notes,
}

impl Answer {
    pub fn new(verdict: Verdict) -> Self {
        Self { verdict, edits: Vec::new(), exemptions: Vec::new(), notes: no_notes() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exemption {
    /// The name of the test that is lifted.
    pub test: String,
    /// The rule that lifts it, for the log.
    pub rule: String,
}

/// What one call has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time that the guest has kept a processor busy, and the host on its behalf. Waiting (DNS, its turn) is not in it.
    pub cpu: Duration,
    /// From call to return, waiting included.
    pub wall: Duration,
    /// Largest linear memory of the instance so far, octets.
    pub memory: u64,
    /// Of all capabilities.
    pub host_calls: u64,
    pub calls_of: HostCalls,
    /// Octets passed between host and guest, both ways.
    pub octets: u64,
}

/// What a plugin may call: the interfaces of the contract that have functions, by their names there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    Session,
    Message,
    Config,
    Log,
    Metrics,
    Clock,
    Dns,
    Tables,
    Counters,
    Store,
    Authentication,
    Signing,
    Scan,
    CallAhead,
}

impl Capability {
    pub const COUNT: usize = 14;
    pub const ALL: [Self; Self::COUNT] = [
        Self::Session,
        Self::Message,
        Self::Config,
        Self::Log,
        Self::Metrics,
        Self::Clock,
        Self::Dns,
        Self::Tables,
        Self::Counters,
        Self::Store,
        Self::Authentication,
        Self::Signing,
        Self::Scan,
        Self::CallAhead,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Message => "message",
            Self::Config => "config",
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::Clock => "clock",
            Self::Dns => "dns",
            Self::Tables => "tables",
            Self::Counters => "counters",
            Self::Store => "store",
            Self::Authentication => "authentication",
            Self::Signing => "signing",
            Self::Scan => "scan",
            Self::CallAhead => "call-ahead",
        }
    }
}

/// Calls to the host, by capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCalls([u32; Capability::COUNT]);

impl HostCalls {
    pub fn add(&mut self, capability: Capability) {
        if let Some(calls) = self.0.get_mut(capability as usize) {
            *calls = calls.saturating_add(1);
        }
    }

    pub fn of(&self, capability: Capability) -> u32 {
        self.0.get(capability as usize).copied().unwrap_or(0)
    }

    /// Those that were called.
    pub fn iter(&self) -> impl Iterator<Item = (Capability, u32)> {
        Capability::ALL.into_iter().zip(self.0).filter(|(_, calls)| *calls > 0)
    }
}

/// A plugin that did not answer. Never consent: the chain entry's `OnFailure` says what happens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", cause.name())]
pub struct Failure {
    pub cause: Cause,
    /// For the log: trap and stack, or what was malformed. Never shown to a client.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    Trap,
    Stack,
    Cpu,
    Wall,
    Memory,
    HostCalls,
    /// What it returned breaks the contract.
    Malformed,
    /// It asked for what it may not do, and did not handle the refusal.
    Denied,
    /// No permit was free in time.
    Busy,
    /// The circuit breaker is open: it was not asked.
    Breaker,
    /// Our own fault: it could not be instantiated.
    Host,
}

impl Cause {
    pub const COUNT: usize = 11;
    pub const ALL: [Self; Self::COUNT] = [
        Self::Trap,
        Self::Stack,
        Self::Cpu,
        Self::Wall,
        Self::Memory,
        Self::HostCalls,
        Self::Malformed,
        Self::Denied,
        Self::Busy,
        Self::Breaker,
        Self::Host,
    ];

    /// The plugin ran and did wrong. Else it was not asked, or the gateway failed it.
    pub const fn is_plugins_own(self) -> bool {
        !matches!(self, Self::Busy | Self::Breaker | Self::Host)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Stack => "stack",
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::Memory => "memory",
            Self::HostCalls => "host-calls",
            Self::Malformed => "malformed",
            Self::Denied => "denied",
            Self::Busy => "busy",
            Self::Breaker => "breaker",
            Self::Host => "host",
        }
    }
}

/// What became of a mail, for the `event` hook.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: EventKind,
    pub id: MessageId,
    /// The recipient concerned; empty where it is the whole mail.
    pub recipient: String,
    /// The reply or reason.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    Accepted,
    Delivered,
    Deferred,
    Bounced,
    Expired,
    Quarantined,
    Discarded,
}

impl EventKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Quarantined => "quarantined",
            Self::Discarded => "discarded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_the_order_of_their_numbers() {
        assert!(Capability::ALL.iter().enumerate().all(|(number, capability)| *capability as usize == number));
        assert!(Cause::ALL.iter().enumerate().all(|(number, cause)| *cause as usize == number));
    }

    #[test]
    fn host_calls_are_counted_apart() {
        let mut calls = HostCalls::default();
        [Capability::Dns, Capability::Session, Capability::Dns].into_iter().for_each(|called| calls.add(called));
        assert_eq!((calls.of(Capability::Dns), calls.of(Capability::Log)), (2, 0));
        assert_eq!(calls.iter().collect::<Vec<_>>(), [(Capability::Session, 1), (Capability::Dns, 2)]);
    }
}
