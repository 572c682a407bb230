//! File descriptors, and who may have how many of them (RS1): sessions must not take those that spool, queue and delivery
//! need, else the mail that they bring could not be kept, and that which is kept could not leave.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Settings;

/// Of a session: its connection, and the file of a body that is too big for memory.
const PER_SESSION: u64 = 2;
/// Of a delivery: its connection, and a body file.
const PER_DELIVERY: u64 = 2;
/// Listeners, logs, segments of the spool, DNS, scanners, the control socket, plugins that are compiled.
const OTHERS: u64 = 256;

/// How many of each there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    pub sessions: u32,
    pub deliveries: u32,
}

impl Shares {
    /// What the config wants, as far as this process may have it.
    pub fn of(settings: &Settings) -> Self {
        Self::within(getrlimit(Resource::Nofile).current, wishes(settings))
    }

    /// `limit`: `None` when there is none. Where it is short, half of it is for all but sessions and deliveries, and a
    /// quarter of the rest for deliveries. One of each is always left, whatever then fails.
    fn within(limit: Option<u64>, wishes: Self) -> Self {
        let Some(limit) = limit else { return wishes };
        let others = OTHERS.min(limit / 2);
        let left = limit - others;
        let deliveries =
            (left / 4 / PER_DELIVERY).max(left.saturating_sub(PER_SESSION * u64::from(wishes.sessions)) / 2);
        let deliveries = deliveries.clamp(1, u64::from(wishes.deliveries).max(1));
        let sessions = left.saturating_sub(PER_DELIVERY * deliveries) / PER_SESSION;
        let sessions = sessions.clamp(1, u64::from(wishes.sessions).max(1));
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self { sessions: count(sessions), deliveries: count(deliveries) }
    }
}

fn wishes(settings: &Settings) -> Shares {
    Shares { sessions: settings.server.max_connections, deliveries: settings.queue.concurrency }
}

/// As far as the hard limit allows; says so when that is too little.
pub fn raise_limit(settings: &Settings) {
    let wishes = wishes(settings);
    let wanted = OTHERS + PER_SESSION * u64::from(wishes.sessions) + PER_DELIVERY * u64::from(wishes.deliveries);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        // What is in force then is looked at below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit });
    }
    let shares = Shares::of(settings);
    if shares != wishes {
        let Shares { sessions, deliveries } = shares;
        tracing::warn!(
            sessions,
            deliveries,
            open_files = getrlimit(Resource::Nofile).current,
            wanted,
            "fewer open files are allowed than max_connections needs: so many sessions and deliveries are possible"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rs1_sessions_leave_descriptors_for_the_rest() {
        let wishes = Shares { sessions: 2000, deliveries: 200 };
        for (limit, sessions, deliveries) in [
            (None, 2000, 200),
            (Some(65536), 2000, 200),
            (Some(4656), 2000, 200),
            (Some(4655), 1999, 200),
            (Some(1024), 288, 96),
            (Some(64), 12, 4),
            (Some(4), 1, 1),
            (Some(0), 1, 1),
        ] {
            assert_eq!(Shares::within(limit, wishes), Shares { sessions, deliveries }, "{limit:?}");
        }
    }
}
