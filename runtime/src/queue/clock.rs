//! The queue's clock: the wall clock as it stood at the start, carried on by the monotonic one.
//!
//! A wall clock that jumps while the gateway runs so changes nothing: no message grows five years older in a second.
//! What a jump between two runs does is bounded in [`life`](super::life).

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

/// Milliseconds since the queue was made: what the schedule counts in.
pub type Millis = u64;

#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    wall: Timestamp,
}

impl Clock {
    pub fn start() -> Self {
        Self { start: Instant::now(), wall: Timestamp::now() }
    }

    pub fn now(&self) -> Millis {
        millis(self.start.elapsed())
    }

    /// The date and time now.
    pub fn wall(&self) -> Timestamp {
        self.at(self.now())
    }

    pub fn at(&self, when: Millis) -> Timestamp {
        let offset = i64::try_from(when).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(self.wall.as_millisecond().saturating_add(offset)).unwrap_or(Timestamp::MAX)
    }

    /// Milliseconds from the queue's start to `when`; negative for what was before it.
    pub fn offset(&self, when: Timestamp) -> i64 {
        when.as_millisecond().saturating_sub(self.wall.as_millisecond())
    }

    pub fn instant(&self, when: Millis) -> Instant {
        self.start + Duration::from_millis(when)
    }
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
