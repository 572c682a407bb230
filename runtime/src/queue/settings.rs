//! What config says of the queue.

use tokio::time::Duration;

use crate::smtp::Domain;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Our name: who reports in a DSN, and the domain of its `MAILER-DAEMON`.
    pub host: Domain,
    /// How long a message waits after its first, second … failed attempt; the last one repeats.
    pub retry: Vec<Duration>,
    /// The same for a destination that is down: one message tries it, all others wait for that.
    pub destination_retry: Vec<Duration>,
    /// Each wait is longer or shorter by up to this many per cent, so that what failed together is not tried together.
    pub jitter_percent: u8,
    /// The age at which the sender is told that it did not work (RFC 5321 §4.5.4.1: at least 4–5 days).
    pub expiry: Duration,
    /// The age at which the sender is told that it takes long; `None`: never.
    pub delay_warning: Option<Duration>,
    pub quarantine_keep: Duration,
    /// Deliveries at a time: in all, to one destination, of one tenant.
    pub max_deliveries: usize,
    pub max_per_destination: usize,
    pub max_per_tenant: usize,
    /// Messages for which the `deliver` chains are asked at a time.
    pub max_preparing: usize,
    /// Messages, those in quarantine too: the memory holds something of each. With so many, no new mail is taken.
    pub max_messages: usize,
    /// Octets of mails just accepted that stay in memory until their first attempt; others are read back from the spool.
    pub cache: u64,
    /// How long a stop waits for attempts that are under way.
    pub shutdown_deadline: Duration,
    /// Octets of a message that a DSN returns whole (RET=FULL); of a longer one, and otherwise, only the header.
    pub max_returned: u64,
}

impl Settings {
    pub fn new(host: Domain) -> Self {
        let minutes = |list: &[u64]| list.iter().map(|n| Duration::from_secs(n * MINUTE)).collect();
        Self {
            host,
            retry: minutes(&[5, 10, 20, 40, 60, 120, 240]),
            destination_retry: minutes(&[1, 2, 5, 10, 20, 40, 60]),
            jitter_percent: 10,
            expiry: Duration::from_secs(5 * DAY),
            delay_warning: Some(Duration::from_secs(4 * HOUR)),
            quarantine_keep: Duration::from_secs(30 * DAY),
            max_deliveries: 200,
            max_per_destination: 20,
            max_per_tenant: 100,
            max_preparing: 32,
            max_messages: 1_000_000,
            cache: 64 << 20,
            shutdown_deadline: Duration::from_secs(30),
            max_returned: 64 * 1024,
        }
    }
}
