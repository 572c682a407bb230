//! How old a message is, when it is tried again, and when it has been tried for long enough.
//!
//! The oldest message is not always the one whose date says so: the clock may have been wrong when it came, or may be
//! wrong now. So age alone never ends a message. It must also have been waited on by a running gateway for a tenth
//! of that time, have been tried three times, and once more after its time had come.

use tokio::time::Duration;

use super::clock::{Millis, millis};

/// Attempts without which nothing expires.
const MIN_TRIES: u32 = 3;
/// The part of the expiry time that a gateway must have been running with the message in its queue.
const MIN_OBSERVED: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it was accepted, on the queue's clock; negative for what was there before this run.
    born: i64,
    /// When this run first saw it.
    since: Millis,
    /// How long earlier runs had it.
    observed: u64,
}

/// What was tried for a message: itself, or its destination with another message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tries {
    pub count: u32,
    /// The last one in this run.
    pub last: Option<Millis>,
}

impl Life {
    /// `born` in the future (the clock was set back) counts as now.
    pub fn new(born: i64, observed: u64, now: Millis) -> Self {
        let latest = signed(now).saturating_sub(signed(observed));
        Self { born: born.min(latest), since: now, observed }
    }

    pub fn begin(now: Millis) -> Self {
        Self::new(signed(now), 0, now)
    }

    pub fn age(&self, now: Millis) -> u64 {
        u64::try_from(signed(now).saturating_sub(self.born)).unwrap_or(0)
    }

    /// How long running gateways have had the message.
    pub fn observed(&self, now: Millis) -> u64 {
        self.observed.saturating_add(now.saturating_sub(self.since))
    }

    /// When it reaches this age; 0 where that was before this run.
    pub fn reaches(&self, age: Duration) -> Millis {
        u64::try_from(self.born.saturating_add(signed(millis(age)))).unwrap_or(0)
    }

    pub fn is_expired(&self, now: Millis, expiry: Duration, tries: Tries) -> bool {
        self.age(now) >= millis(expiry)
            && self.observed(now) >= millis(expiry) / MIN_OBSERVED
            && tries.count >= MIN_TRIES
            && tries.last.is_some_and(|last| last >= self.reaches(expiry))
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// How long to wait after the `failures`th failure (1 is the first).
pub fn interval(intervals: &[Duration], failures: u32, jitter_percent: u8) -> u64 {
    let step = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let base = intervals.get(step).or(intervals.last()).copied().map_or(60_000, millis);
    let spread = base.saturating_mul(u64::from(jitter_percent.min(90))) / 100;
    rand::random_range(base - spread..=base.saturating_add(spread)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600_000;
    const EXPIRY: Duration = Duration::from_secs(5 * 24 * 3600);

    #[test]
    fn d7_a_clock_that_jumps_expires_nothing() {
        let tried = |last| Tries { count: 9, last: Some(last) };
        let years = 5 * 365 * i64::try_from(DAY).unwrap();
        // Set forward by five years between two runs: as if accepted long ago, but hardly observed.
        let life = Life::new(-years, 3_600_000, 0);
        assert!(!life.is_expired(60_000, EXPIRY, tried(60_000)));
        assert!(life.is_expired(DAY, EXPIRY, tried(DAY)));
        // Set back by five years: it still ends, by the time it was observed.
        let life = Life::new(years, DAY, 0);
        assert_eq!(life.age(0), DAY);
        assert!(!life.is_expired(4 * DAY - 1, EXPIRY, tried(4 * DAY)));
        assert!(life.is_expired(4 * DAY, EXPIRY, tried(4 * DAY)));
    }

    #[test]
    fn expiry_wants_tries_and_one_after_the_time() {
        let life = Life::new(0, 0, 0);
        for (count, last, expected) in
            [(3, Some(5 * DAY), true), (2, Some(5 * DAY), false), (3, Some(5 * DAY - 1), false), (3, None, false)]
        {
            assert_eq!(life.is_expired(5 * DAY + 9, EXPIRY, Tries { count, last }), expected, "{count} {last:?}");
        }
    }

    #[test]
    fn intervals_grow_and_the_last_repeats() {
        let list = [Duration::from_secs(5), Duration::from_secs(10)];
        for (failures, base) in [(0, 5000), (1, 5000), (2, 10_000), (3, 10_000), (u32::MAX, 10_000)] {
            assert_eq!(interval(&list, failures, 0), base);
            let jittered = interval(&list, failures, 10);
            assert!((base * 9 / 10..=base * 11 / 10).contains(&jittered), "{jittered}");
        }
        assert_eq!(interval(&[], 1, 0), 60_000);
    }
}
