//! The name of a message in spool, log, `Received` and replies.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// 13 characters of Crockford's base 32 (no I, L, O, U), upper case: milliseconds since 1970 times 2^20 plus a count.
/// Ids of one spool are unique and grow; they are parsed as a fixed form, so none can be a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u64);

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: usize = 13;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id has 13 characters of 0-9 and A-Z without I, L, O, U")]
pub struct InvalidMessageId;

static LAST: AtomicU64 = AtomicU64::new(0);

impl MessageId {
    /// The next id: later than all made or seen before, even when the clock was set back.
    pub fn next() -> Self {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let now = u64::try_from(millis).unwrap_or(u64::MAX >> 20) << 20;
        let last =
            LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last.saturating_add(1))));
        Self(last.map_or(now, |last| now.max(last.saturating_add(1))))
    }

    /// Recovery has found this id: never make it again.
    pub fn seen(self) {
        LAST.fetch_max(self.0, Ordering::Relaxed);
    }

    pub const fn from_u64(value: u64) -> Self {
        Self(value)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; LENGTH];
        for (digit, letter) in text.iter_mut().rev().enumerate() {
            let index = (self.0 >> (digit * 5)) & 31;
            *letter = ALPHABET.get(usize::try_from(index).unwrap_or(0)).copied().unwrap_or(b'0');
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for MessageId {
    type Err = InvalidMessageId;
    fn from_str(text: &str) -> Result<Self, InvalidMessageId> {
        if text.len() != LENGTH {
            return Err(InvalidMessageId);
        }
        let mut value: u128 = 0;
        for letter in text.bytes() {
            let index = ALPHABET.iter().position(|&a| a == letter).ok_or(InvalidMessageId)?;
            value = value << 5 | u128::try_from(index).map_err(|_| InvalidMessageId)?;
        }
        u64::try_from(value).map(Self).map_err(|_| InvalidMessageId)
    }
}

impl serde::Serialize for MessageId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for MessageId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_and_read_back() {
        let (a, b) = (MessageId::next(), MessageId::next());
        assert!(a < b);
        assert_eq!(b.to_string().parse(), Ok(b));
        for bad in ["", "../../../etc/", "0000000000OOO", "ZZZZZZZZZZZZZ", "00000000000000"] {
            assert_eq!(bad.parse::<MessageId>(), Err(InvalidMessageId), "{bad}");
        }
    }
}
