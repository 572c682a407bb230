//! Chains: which plugins are asked, in which order, for whom.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus::{Histogram, IntCounter};

use super::filter::Filter;
use super::stage::Stage;

/// Whose rule it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Platform,
    Reseller(Arc<str>),
    Tenant(Arc<str>),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform => f.write_str("platform"),
            Self::Reseller(name) => write!(f, "reseller:{name}"),
            Self::Tenant(name) => write!(f, "tenant:{name}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

/// Which mail an entry judges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Directions {
    Inbound,
    Outbound,
    #[default]
    Both,
}

impl Directions {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Both => "both",
        }
    }

    pub fn has(self, direction: Direction) -> bool {
        match self {
            Self::Inbound => direction == Direction::Inbound,
            Self::Outbound => direction == Direction::Outbound,
            Self::Both => true,
        }
    }
}

/// What a plugin's failure means; never consent by accident.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// 451 4.3.0: the client tries again.
    #[default]
    Defer,
    /// As if it had said `next`.
    Continue,
    Reject,
    Quarantine,
    Disconnect,
}

impl OnFailure {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Defer => "defer",
            Self::Continue => "continue",
            Self::Reject => "reject",
            Self::Quarantine => "quarantine",
            Self::Disconnect => "disconnect",
        }
    }
}

/// One plugin's place in a chain.
#[derive(Clone)]
pub struct Entry {
    /// The name of the test, for exemptions, log and metrics.
    pub name: Arc<str>,
    pub filter: Arc<dyn Filter>,
    pub directions: Directions,
    pub on_failure: OnFailure,
    /// The platform allows that white lists lift this test's refusals.
    pub exemptable: bool,
    pub series: Series,
}

/// The metrics of one entry, found by their labels once.
#[derive(Clone, Default)]
pub struct Series {
    seconds: [OnceLock<Histogram>; Stage::ALL.len()],
    nexts: [OnceLock<IntCounter>; Stage::ALL.len()],
}

impl Series {
    /// How long it takes at a stage.
    pub fn seconds(&self, stage: Stage, find: impl FnOnce() -> Histogram) -> Histogram {
        known(&self.seconds, stage, find)
    }

    /// How often it says `next` there.
    pub fn nexts(&self, stage: Stage, find: impl FnOnce() -> IntCounter) -> IntCounter {
        known(&self.nexts, stage, find)
    }
}

fn known<T: Clone>(series: &[OnceLock<T>], stage: Stage, find: impl FnOnce() -> T) -> T {
    match series.get(stage as usize) {
        Some(cell) => cell.get_or_init(find).clone(),
        None => find(),
    }
}

impl Entry {
    /// It is asked there.
    pub fn is_asked(&self, stage: Stage, direction: Direction) -> bool {
        self.directions.has(direction) && self.filter.interest().of(direction).has(stage)
    }

    /// For which mail counts what it says there.
    pub fn directions_at(&self, stage: Stage) -> Directions {
        match [Direction::Inbound, Direction::Outbound].map(|direction| self.is_asked(stage, direction)) {
            [true, false] => Directions::Inbound,
            [false, true] => Directions::Outbound,
            [true, true] | [false, false] => self.directions,
        }
    }
}

#[derive(Clone, Default)]
pub struct Chain {
    pub entries: Vec<Entry>,
}

impl Chain {
    pub fn at(&self, stage: Stage, direction: Direction) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.is_asked(stage, direction))
    }
}

/// The chains of all scopes. Published whole, so one mail is judged by one set.
#[derive(Clone, Default)]
pub struct Chains {
    pub platform: Arc<Chain>,
    pub resellers: HashMap<Arc<str>, Arc<Chain>>,
    pub tenants: HashMap<Arc<str>, Arc<Chain>>,
}

impl Chains {
    /// Some plugin wants to be asked at this stage.
    pub fn asks(
        &self,
        stage: Stage,
        direction: Direction,
        tenant: Option<&Arc<str>>,
        reseller: Option<&Arc<str>>,
    ) -> bool {
        let reseller = reseller.and_then(|name| self.resellers.get(name));
        let tenant = tenant.and_then(|name| self.tenants.get(name));
        let chains = std::iter::once(&self.platform).chain(reseller).chain(tenant);
        chains.into_iter().any(|chain| chain.at(stage, direction).next().is_some())
    }
}
