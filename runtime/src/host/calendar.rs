//! When a day ends: in the time zone of the gateway, not in that of whoever sends.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

#[derive(Debug, Clone)]
pub struct Calendar(TimeZone);

impl Calendar {
    pub fn new(zone: TimeZone) -> Self {
        Self(zone)
    }

    /// Milliseconds since 1970-01-01 UTC, both. Beyond the calendar's years: a day of 24 hours.
    pub fn next_day(&self, now: u64) -> u64 {
        const DAY: u64 = 24 * 3600 * 1000;
        let next = || {
            let now = Timestamp::from_millisecond(i64::try_from(now).ok()?).ok()?.to_zoned(self.0.clone());
            let tomorrow = now.checked_add(1.day()).ok()?.start_of_day().ok()?;
            u64::try_from(tomorrow.timestamp().as_millisecond()).ok()
        };
        next().unwrap_or_else(|| (now / DAY + 1).saturating_mul(DAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(zone: &str, now: &str) -> String {
        let zone = if zone == "UTC" { TimeZone::UTC } else { TimeZone::posix(zone).unwrap() };
        let now: Timestamp = now.parse().unwrap();
        let next = Calendar::new(zone).next_day(now.as_millisecond().cast_unsigned());
        Timestamp::from_millisecond(next.cast_signed()).unwrap().to_string()
    }

    #[test]
    fn a_day_ends_at_midnight_there() {
        const PARIS: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
        for (zone, now, expected) in [
            ("UTC", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            ("UTC", "2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00Z"),
            (PARIS, "2026-01-10T12:00:00Z", "2026-01-10T23:00:00Z"),
            // 23 and 25 hours long.
            (PARIS, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (PARIS, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ] {
            assert_eq!(next(zone, now), expected, "{zone} {now}");
        }
        assert_eq!(Calendar::new(TimeZone::UTC).next_day(u64::MAX), u64::MAX);
    }
}
