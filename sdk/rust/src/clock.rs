//! The time of day. Grant `clock`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sys;

/// To 10 ms.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(sys::now())
}

/// When the next day begins in the gateway's time zone.
pub fn next_day() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(sys::next_day())
}
