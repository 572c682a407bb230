//! Who is new waits a while, and who comes back is let in: spam is often tried once only, and its source is on a list
//! by the time it is tried again.
//!
//! It judges triplets of origin, sender and recipient at `rcpt`. The origin is the client's network, or the domain that
//! SPF says the mail is of.

mod config;
#[cfg(test)]
mod tests;
mod triplet;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_sdk::authentication::{self, Outcome};
use postern_sdk::prelude::*;
use postern_sdk::{ReadError, clock, metrics, store};

use config::{Config, SpfPass};

struct Greylist {
    config: Config,
}

/// What is written anew is not written with each mail.
const RENEWAL: Duration = Duration::from_secs(24 * 3600);

/// What the store has of a triplet: a letter, and a time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// It came first then.
    Waiting(SystemTime),
    /// It came back; written then.
    Known(SystemTime),
}

/// What is remembered of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Earned {
    /// Triplets of it that came back.
    passes: u32,
    written: SystemTime,
}

#[plugin]
impl Plugin for Greylist {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config: config.check()? })
    }

    fn wants(&self, _: Stage, direction: Direction) -> bool {
        direction == Direction::Inbound
    }

    fn rcpt(&self, session: &Session, message: &Message, recipient: &Recipient) -> Verdict {
        if !self.concerns(session) {
            return Verdict::Next;
        }
        let Some(origin) = self.origin(session, message) else { return Verdict::Next };
        let now = clock::now();
        if self.is_allowed(&origin, now) {
            metrics::add("auto_allowed", 1);
            return Verdict::Next;
        }
        let key = triplet::key(&origin, message.reverse_path().as_ref(), &recipient.address);
        match store::read(&key).and_then(|value| Record::parse(&value)) {
            Some(Record::Known(written)) => {
                if is_old(written, now) {
                    keep(&key, Record::Known(now), self.config.keep);
                }
                metrics::add("known", 1);
                Verdict::Next
            }
            Some(Record::Waiting(first)) => self.again(&origin, &key, first, now),
            None => self.first(&key, now),
        }
    }
}

impl Greylist {
    /// Own users and neighbours have their say elsewhere.
    fn concerns(&self, session: &Session) -> bool {
        let client = session.client_address();
        !session.trusted()
            && session.login().is_none()
            && !self.config.exempt_networks.iter().any(|network| network.contains(client))
    }

    /// `None`: it does not have to wait.
    fn origin(&self, session: &Session, message: &Message) -> Option<String> {
        match authentication::origin(session, message) {
            // A relay of our own has taken the mail already, and would have to keep it for us.
            Err(ReadError::Stage) => return None,
            Ok(origin) if origin.relayed => return None,
            _ => {}
        }
        let by_network = || Some(triplet::network(session.client_address()));
        if self.config.spf == SpfPass::Ignore {
            return by_network();
        }
        match authentication::spf_mail_from(session, message) {
            Ok(spf) if spf.outcome == Outcome::Pass && !spf.domain.is_empty() => match self.config.spf {
                SpfPass::Skip => None,
                _ => Some(format!("spf:{}", spf.domain.to_ascii_lowercase())),
            },
            // No answer from DNS is none for this: by its network it may be known, too.
            _ => by_network(),
        }
    }

    fn first(&self, key: &str, now: SystemTime) -> Verdict {
        if keep(key, Record::Waiting(now), self.config.window) {
            metrics::add("deferred_first", 1);
            wait(self.config.delay)
        } else {
            // To hold back everyone new would turn a flood into an outage.
            metrics::add("store_full", 1);
            Verdict::Next
        }
    }

    fn again(&self, origin: &str, key: &str, first: SystemTime, now: SystemTime) -> Verdict {
        // A clock that was set back starts the wait again.
        let waited = now.duration_since(first).unwrap_or_default();
        if waited < self.config.delay {
            metrics::add("deferred_early", 1);
            return wait(self.config.delay - waited);
        }
        info!("came back after {} s", waited.as_secs());
        metrics::add("passed", 1);
        keep(key, Record::Known(now), self.config.keep);
        self.earn(origin, now);
        Verdict::Next
    }

    fn is_allowed(&self, origin: &str, now: SystemTime) -> bool {
        let key = triplet::origin_key(origin);
        let earned = store::read(&key).and_then(|value| Earned::parse(&value));
        let Some(earned) = earned.filter(|earned| self.is_enough(earned.passes)) else { return false };
        if is_old(earned.written, now) {
            write(&key, &Earned { written: now, ..earned }.octets(), self.config.keep);
        }
        true
    }

    /// Two sessions at the same time may count as one.
    fn earn(&self, origin: &str, now: SystemTime) {
        if self.config.auto_allow_after == 0 {
            return;
        }
        let key = triplet::origin_key(origin);
        let passes = store::read(&key).and_then(|value| Earned::parse(&value)).map_or(0, |earned| earned.passes) + 1;
        if write(&key, &Earned { passes, written: now }.octets(), self.config.keep) && self.is_enough(passes) {
            info!("{origin} is let in from now on");
        }
    }

    fn is_enough(&self, passes: u32) -> bool {
        self.config.auto_allow_after > 0 && passes >= self.config.auto_allow_after
    }
}

fn wait(left: Duration) -> Verdict {
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    defer!("451 4.7.1", "Greylisted: this is new here, try again in {} seconds", seconds.max(1))
}

fn is_old(written: SystemTime, now: SystemTime) -> bool {
    now.duration_since(written).is_ok_and(|age| age >= RENEWAL)
}

fn keep(key: &str, record: Record, duration: Duration) -> bool {
    write(key, &record.octets(), duration)
}

fn write(key: &str, value: &[u8], duration: Duration) -> bool {
    let written = store::write(key, value, duration);
    if let Err(error) = written {
        warn!("{key} is not remembered: {error}");
    }
    written.is_ok()
}

impl Record {
    fn octets(self) -> Vec<u8> {
        let (letter, time) = match self {
            Self::Waiting(first) => (b'w', first),
            Self::Known(written) => (b'k', written),
        };
        [&[letter], &millis(time)[..]].concat()
    }

    /// `None`: another version has written it; then it is new.
    fn parse(octets: &[u8]) -> Option<Self> {
        let (letter, time) = octets.split_first()?;
        match letter {
            b'w' => Some(Self::Waiting(time_of(time)?)),
            b'k' => Some(Self::Known(time_of(time)?)),
            _ => None,
        }
    }
}

impl Earned {
    fn octets(self) -> Vec<u8> {
        [&self.passes.to_le_bytes()[..], &millis(self.written)].concat()
    }

    fn parse(octets: &[u8]) -> Option<Self> {
        let (passes, time) = octets.split_first_chunk()?;
        Some(Self { passes: u32::from_le_bytes(*passes), written: time_of(time)? })
    }
}

fn millis(time: SystemTime) -> [u8; 8] {
    let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX).to_le_bytes()
}

fn time_of(octets: &[u8]) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_le_bytes(octets.try_into().ok()?)))
}
