//! Exact counts in fixed windows, shared by all sessions; of this plugin in this scope alone. Grant `counters`.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sys;

/// More keys than the scope may have: nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountersFull;

impl fmt::Display for CountersFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("more counters than this scope may have")
    }
}

impl std::error::Error for CountersFull {}

/// Adds `by` to the count of `key` in the running window of `seconds`, and gives the count after it. Windows start at
/// whole multiples of their length, so one of 60 ends at the full minute; the longest has 48 hours. `by` 0 only reads.
pub fn add(key: &str, by: u64, seconds: u32) -> Result<u64, CountersFull> {
    sys::counter_add(key, by, seconds)
}

/// Until when the key is blocked; `None` where it is not.
pub fn blocked(key: &str) -> Option<SystemTime> {
    sys::counter_blocked(key).map(|millis| UNIX_EPOCH + Duration::from_millis(millis))
}

/// Blocks the key until then, at most 48 hours from now.
pub fn block(key: &str, until: SystemTime) -> Result<(), CountersFull> {
    sys::counter_block(key, millis(until))
}

pub(crate) fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
