//! How many messages and recipients a tenant, a login or a client's address may send out in an hour and in a day (R23):
//! one stolen password must not spoil the addresses that everybody's mail leaves from.
//!
//! A message is counted at `mail-from`, a recipient at `rcpt`. Who is over its own limit is not counted for its tenant,
//! and what the hour has refused is not counted for the day.

mod config;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use postern_sdk::prelude::*;
use postern_sdk::tables::{self, TableError};
use postern_sdk::{counters, metrics};

use config::{Config, DAY, HOUR, Limits, Measure};

struct SendingLimits {
    config: Config,
}

/// Who is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sender {
    Tenant(String),
    Login(String),
    /// An IPv6 client has its whole /64 to send from.
    Address(IpAddr),
}

#[plugin]
impl Plugin for SendingLimits {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config: config.check()? })
    }

    fn load(&self) -> Result<(), String> {
        match &self.config.overrides {
            Some(table) if tables::lookup(table, "") == Err(TableError::NoTable) => {
                Err(format!("overrides: no table `{table}` is granted to this plugin"))
            }
            _ => Ok(()),
        }
    }

    fn wants(&self, _: Stage, direction: Direction) -> bool {
        direction == Direction::Outbound
    }

    fn mail_from(&self, session: &Session, message: &Message) -> Verdict {
        self.judge(session, message, Measure::Messages)
    }

    fn rcpt(&self, session: &Session, message: &Message, _: &Recipient) -> Verdict {
        self.judge(session, message, Measure::Recipients)
    }
}

impl SendingLimits {
    fn judge(&self, session: &Session, message: &Message, measure: Measure) -> Verdict {
        let client = session.client_address();
        let exempt = self.config.exempt_networks.iter().any(|network| network.contains(client));
        if exempt {
            return Verdict::Next;
        }
        let own = session.login().map_or_else(|| Sender::Address(counted_as(client)), Sender::Login);
        let tenant = message.tenant().map(Sender::Tenant);
        let refused = [Some(own), tenant].into_iter().flatten().find_map(|sender| self.count(&sender, measure));
        refused.unwrap_or(Verdict::Next)
    }

    /// One more. The refusal, where that is too many.
    fn count(&self, sender: &Sender, measure: Measure) -> Option<Verdict> {
        let limits = self.limits(sender);
        let windows = limits.of(measure).into_iter().filter(|(limit, _)| *limit > 0);
        for (limit, seconds) in windows {
            let count = match counters::add(&format!("{}/{sender}", measure.name()), 1, seconds) {
                Ok(count) => count,
                Err(full) => {
                    // To refuse everyone new would turn a flood of addresses into an outage.
                    warn!("{} of {sender} are not counted: {full}", measure.name());
                    metrics::add("not_counted", 1);
                    return None;
                }
            };
            self.warn(sender, measure, count, limit, seconds);
            if count > limit {
                return Some(refuse(sender, measure, count, limit, seconds, limits.reject_at));
            }
        }
        None
    }

    /// Once in a window: counts are exact, so one message alone is the one that reaches the mark.
    fn warn(&self, sender: &Sender, measure: Measure, count: u64, limit: u64, seconds: u32) {
        let mark = limit.saturating_mul(self.config.warn_at).div_ceil(100);
        if self.config.warn_at > 0 && count == mark {
            let percent = self.config.warn_at;
            warn!("{sender} has reached {percent} % of its {limit} {} {}", measure.name(), per(seconds));
            metrics::add("warned", 1);
        }
    }

    fn limits(&self, sender: &Sender) -> Limits {
        let limits = match sender {
            Sender::Tenant(_) => self.config.tenant,
            Sender::Login(_) => self.config.login,
            Sender::Address(_) => self.config.address,
        };
        let Some(table) = &self.config.overrides else { return limits };
        let row = match sender {
            Sender::Address(address) => tables::match_ip(table, *address),
            named => tables::lookup(table, &named.to_string()),
        };
        // A table with a mistake takes nobody's limits away, and keeps nobody from sending.
        match row {
            Ok(Some(row)) => limits.overridden(&row).unwrap_or_else(|problem| {
                error!("table {table:?}: {sender}: {problem}");
                limits
            }),
            Ok(None) => limits,
            Err(why) => {
                error!("table {table:?}: {why}");
                limits
            }
        }
    }
}

fn refuse(sender: &Sender, measure: Measure, count: u64, limit: u64, seconds: u32, reject_at: u64) -> Verdict {
    let (what, per) = (measure.name(), per(seconds));
    info!("{sender}: {count} {what} of {limit} {per}");
    let whose = match sender {
        Sender::Tenant(_) => "Your organisation",
        Sender::Login(_) => "Your account",
        Sender::Address(_) => "Your address",
    };
    if reject_at > 0 && count > limit.saturating_mul(reject_at) {
        metrics::add("rejected", 1);
        return reject!("550 5.7.1", "{whose} is far beyond its {limit} {what} {per}");
    }
    metrics::add("deferred", 1);
    defer!("450 4.7.1", "{whose} has sent its {limit} {what} {per}, try again later")
}

const fn per(seconds: u32) -> &'static str {
    match seconds {
        HOUR => "an hour",
        DAY => "a day",
        _ => "",
    }
}

fn counted_as(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        ip => ip,
    }
}

/// As keys of counters and of the table: `tenant:NAME`, `login:NAME`, `ip:ADDRESS`.
impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(name) => write!(f, "tenant:{name}"),
            Self::Login(name) => write!(f, "login:{name}"),
            Self::Address(address) => write!(f, "ip:{address}"),
        }
    }
}
