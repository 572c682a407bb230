//! Small values that this plugin keeps in this scope, over a restart. Grant `store`.
//!
//! What was written in the last seconds may be lost with the machine: it is no place for what must not be lost.

use std::fmt;
use std::time::Duration;

use crate::sys;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// A key is 1 to 256 octets, a value at most 4 KiB.
    TooBig,
    /// More entries or octets than this plugin may have in this scope.
    Full,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooBig => "a key of more than 256 octets, or none, or a value of more than 4 KiB",
            Self::Full => "more entries than this plugin may have in this scope",
        })
    }
}

impl std::error::Error for StoreError {}

/// `None`: there is no such key, or its time is over.
pub fn read(key: &str) -> Option<Vec<u8>> {
    sys::store_read(key)
}

/// Keeps the value for that long, in whole seconds, at least one; one year at most.
pub fn write(key: &str, value: &[u8], keep: Duration) -> Result<(), StoreError> {
    sys::store_write(key, value, u32::try_from(keep.as_secs().max(1)).unwrap_or(u32::MAX))
}

pub fn remove(key: &str) {
    sys::store_remove(key);
}
