//! What plugins may import: one file for each interface of the contract, and what config must grant.

use std::collections::BTreeSet;
use std::sync::Arc;

use self::absent::Absent;
use super::calendar::Calendar;
use super::counter::{Counters, WallClock};
use super::store::Store;
use super::unknown::UnknownRecipients;
use crate::log::EventLog;
use crate::metrics::Metrics;

pub mod absent;
pub mod authentication;
pub mod call_ahead;
pub mod clock;
pub mod config;
pub mod counters;
pub mod dns;
pub(super) mod edit;
pub(super) mod log;
pub(super) mod message;
pub mod metrics;
pub mod scan;
pub mod session;
pub mod signing;
pub mod store;
pub mod tables;

/// What stands behind the interfaces.
#[derive(Clone)]
pub struct Services {
    pub log: EventLog,
    pub metrics: Arc<Metrics>,
    pub names: Arc<dyn dns::NameService>,
    pub counters: Arc<Counters>,
    pub store: Arc<Store>,
    pub calendar: Calendar,
    pub unknown_recipients: Arc<UnknownRecipients>,
    pub authenticator: Arc<dyn authentication::Authenticator>,
    pub keys: Arc<dyn signing::Keys>,
    pub scanners: Arc<dyn scan::Scanners>,
    pub call_ahead: Arc<dyn call_ahead::CallAhead>,
}

impl Services {
    /// With nobody to ask about senders, keys, scanners and mailboxes.
    pub fn new(
        log: EventLog,
        metrics: Arc<Metrics>,
        names: Arc<dyn dns::NameService>,
        clock: WallClock,
        calendar: Calendar,
    ) -> Self {
        let counters = Arc::new(Counters::new(clock.clone()));
        Self {
            log,
            metrics,
            names,
            unknown_recipients: Arc::new(UnknownRecipients::new(counters.clone(), calendar.clone())),
            counters,
            store: Arc::new(Store::new(clock)),
            calendar,
            authenticator: Arc::new(Absent),
            keys: Arc::new(Absent),
            scanners: Arc::new(Absent),
            call_ahead: Arc::new(Absent),
        }
    }
}

/// Interfaces that every plugin may import.
pub(super) const FREE: [&str; 5] = ["types", "session", "message", "config", "log"];
/// Interfaces that need a grant of their name.
pub(super) const GRANTED: [&str; 10] =
    ["metrics", "clock", "dns", "tables", "counters", "store", "authentication", "signing", "scan", "call-ahead"];

/// Adding recipients makes a plugin a relay for anyone.
pub(super) const RECIPIENTS: &str = "recipients";

/// What config grants a plugin: interfaces, `recipients`, `route:mx`, `route:host`, `route:NAME` of a smart host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Grants(BTreeSet<String>);

impl Grants {
    /// The error is the grant that there is not.
    pub fn new(grants: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let grants: BTreeSet<String> = grants.into_iter().collect();
        let known = |grant: &str| {
            GRANTED.contains(&grant)
                || grant == RECIPIENTS
                || grant.strip_prefix("route:").is_some_and(|route| !route.is_empty())
        };
        match grants.iter().find(|grant| !known(grant)) {
            Some(unknown) => Err(unknown.clone()),
            None => Ok(Self(grants)),
        }
    }

    pub fn has(&self, grant: &str) -> bool {
        self.0.contains(grant)
    }
}

/// The text without what is beyond `max` octets.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=text.len().min(max)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Capability;

    #[test]
    fn what_can_be_called_can_be_imported() {
        let counted: BTreeSet<_> = Capability::ALL.into_iter().map(Capability::name).collect();
        // `types` has no functions.
        let imported = FREE.into_iter().chain(GRANTED).filter(|name| *name != "types").collect();
        assert_eq!(counted, imported);
    }

    #[test]
    fn a_grant_that_there_is_not_is_an_error() {
        let grants = |names: &[&str]| Grants::new(names.iter().map(|name| (*name).to_owned()));
        assert!(grants(&["dns", "recipients", "route:mx", "route:partner"]).is_ok());
        for unknown in ["dsn", "route:", "session", ""] {
            assert_eq!(grants(&["dns", unknown]), Err(unknown.to_owned()));
        }
    }
}
