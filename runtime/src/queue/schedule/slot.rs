//! What the memory holds of one message: what the schedule and a list need, some 200 octets. All else is in the spool.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Duration;

use super::super::clock::{Clock, Millis, millis};
use super::super::life::Life;
use super::super::meta::{Accepted, Kind, State};

/// Whose mail it is; `None`: nobody's.
pub type Tenant = Option<Arc<str>>;

#[derive(Debug)]
pub struct Slot {
    pub tenant: Tenant,
    /// Its destination's key; that of the first recipient's until it is prepared.
    pub key: Arc<str>,
    /// Empty for the null reverse-path.
    pub sender: Box<str>,
    /// The first one.
    pub recipient: Box<str>,
    pub recipients: u32,
    pub size: u64,
    pub arrival: Timestamp,
    pub life: Life,
    pub attempts: u32,
    pub kind: Kind,
    /// The `deliver` chains have been asked.
    pub prepared: bool,
    /// No delay warning is to come any more.
    pub warned: bool,
    /// Why it is held or in quarantine.
    pub reason: Option<Box<str>>,
    /// What was last said of a recipient that is still to be tried, cut.
    pub last_word: Option<Box<str>>,
    pub(super) phase: Phase,
    pub(super) timer: Option<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Nowhere,
    Waiting(Millis),
    Ready {
        lane: Lane,
        sequence: u64,
    },
    Running(Lane),
    /// An operator's verb is at work on it.
    Claimed,
    Held,
    Quarantined(Millis),
}

/// What is to be done with a message that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Ask the `deliver` chains.
    Prepare,
    Deliver,
    /// Its time is up, though its destination can't be tried: delay warning, expiry, end of quarantine.
    Overdue,
}

/// Where a message rests between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Waiting(Millis),
    /// As soon as its destination has room for it.
    Ready,
    Held,
    /// Until it is removed.
    Quarantined(Millis),
    /// It has left the queue.
    Gone,
}

/// The same, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    Ready,
    Waiting,
    Delivering,
    Held,
    Quarantined,
}

impl Standing {
    pub const ALL: [Self; 5] = [Self::Ready, Self::Waiting, Self::Delivering, Self::Held, Self::Quarantined];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Delivering => "delivering",
            Self::Held => "held",
            Self::Quarantined => "quarantined",
        }
    }
}

impl Slot {
    pub fn new(accepted: &Accepted, state: &State, size: u64, key: Arc<str>, clock: &Clock) -> Self {
        let recipients = &accepted.envelope.recipients;
        let reason = state.held.as_ref().or(state.quarantined.as_ref().map(|q| &q.reason));
        Self {
            tenant: accepted.tenant.clone(),
            key,
            sender: accepted.envelope.reverse_path.to_string().into(),
            recipient: recipients.first().map(|r| r.mailbox.to_string()).unwrap_or_default().into(),
            recipients: u32::try_from(recipients.len()).unwrap_or(u32::MAX),
            size,
            arrival: accepted.arrival,
            life: Life::new(clock.offset(state.revived.unwrap_or(accepted.arrival)), state.observed, clock.now()),
            attempts: state.attempts,
            kind: accepted.kind,
            prepared: accepted.prepared || state.prepared,
            warned: state.delay_warned || accepted.envelope.reverse_path.is_null(),
            reason: reason.map(|reason| reason.as_str().into()),
            last_word: state.last_word(),
            phase: Phase::Nowhere,
            timer: None,
        }
    }

    /// When it must be looked at even if its destination can't be tried. What is past comes again after `recheck`.
    pub(super) fn deadline(&self, now: Millis, warning: Option<Duration>, expiry: Duration, recheck: u64) -> Millis {
        let warning = warning.filter(|_| !self.warned).map(|age| self.life.reaches(age));
        let next = warning.unwrap_or(Millis::MAX).min(self.life.reaches(expiry));
        if next > now { next } else { now.saturating_add(recheck) }
    }

    /// The key of [`Schedule::ages`](super::Schedule): when it came, or 0 where that was before this run.
    pub(super) fn born(&self) -> Millis {
        self.life.reaches(Duration::ZERO)
    }

    pub fn standing(&self) -> Standing {
        match self.phase {
            Phase::Ready { .. } | Phase::Nowhere => Standing::Ready,
            Phase::Waiting(_) => Standing::Waiting,
            Phase::Running(_) | Phase::Claimed => Standing::Delivering,
            Phase::Held => Standing::Held,
            Phase::Quarantined(_) => Standing::Quarantined,
        }
    }

    /// When it is tried again, for one that waits.
    pub fn next_attempt(&self) -> Option<Millis> {
        match self.phase {
            Phase::Waiting(at) => Some(at),
            _ => None,
        }
    }
}

/// When a message in quarantine is removed. A gateway that starts with a wrong clock would empty the quarantine at
/// once; so nothing leaves it in the first thirtieth of that time (a day, by default).
pub fn quarantine_end(since: Timestamp, keep: Duration, clock: &Clock) -> Millis {
    let now = clock.now();
    let keep = millis(keep);
    let end = clock.offset(since).saturating_add(i64::try_from(keep).unwrap_or(i64::MAX));
    let end = u64::try_from(end).unwrap_or(0);
    end.clamp(now.saturating_add(keep / 30), now.saturating_add(keep))
}
