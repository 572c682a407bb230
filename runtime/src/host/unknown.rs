//! R72: how many mailboxes that don't exist a client has written to today. The gateway's own count, fed by what RCPT was
//! answered in the end; plugins read it.

use std::net::IpAddr;
use std::sync::Arc;

use super::calendar::Calendar;
use super::counter::Counters;

/// Not the name of any scope or plugin.
const SCOPE: &str = "gateway";
const NAME: &str = "unknown-recipients";

pub struct UnknownRecipients {
    counters: Arc<Counters>,
    calendar: Calendar,
}

impl UnknownRecipients {
    pub fn new(counters: Arc<Counters>, calendar: Calendar) -> Self {
        Self { counters, calendar }
    }

    /// One more. Where there are too many clients to count, it is not counted.
    pub fn add(&self, client: IpAddr) {
        let _ = self.count(client, 1);
    }

    pub fn of(&self, client: IpAddr) -> u32 {
        u32::try_from(self.count(client, 0)).unwrap_or(u32::MAX)
    }

    fn count(&self, client: IpAddr, by: u64) -> u64 {
        let end = self.calendar.next_day(self.counters.now());
        self.counters.add_until(SCOPE, NAME, &network(client).to_string(), by, end).unwrap_or(0)
    }
}

/// An IPv6 client has its whole /64 to send from.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use jiff::tz::TimeZone;

    use super::*;

    #[test]
    fn r72_counts_until_the_day_ends() {
        let time = Arc::new(AtomicU64::new(1_767_225_600_000));
        let clock = time.clone();
        let counters = Arc::new(Counters::new(Arc::new(move || clock.load(Ordering::Relaxed))));
        let unknown = UnknownRecipients::new(counters, Calendar::new(TimeZone::UTC));
        let [a, b, c]: [IpAddr; 3] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"].map(|ip| ip.parse().unwrap());
        unknown.add(a);
        unknown.add(b);
        assert_eq!((unknown.of(a), unknown.of(b), unknown.of(c)), (2, 2, 0));
        time.fetch_add(24 * 3600 * 1000 - 1, Ordering::Relaxed);
        assert_eq!(unknown.of(a), 2);
        time.fetch_add(1, Ordering::Relaxed);
        assert_eq!(unknown.of(a), 0);
    }
}
