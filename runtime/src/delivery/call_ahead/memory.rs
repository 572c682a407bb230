//! What outlasts a restart: that a mailbox exists, until when that counts, and who has said it. Kept elsewhere, as a small
//! value under a name; what can't be kept or read is asked for anew.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Key;
use crate::mail::Route;

/// What is older counts no more, not even while the destination is down.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// Of a tenant, under that name.
type Read = dyn Fn(&str, &str) -> Option<Vec<u8>> + Send + Sync;
/// The value, and how long it matters; `None`: there is none any more.
type Write = dyn Fn(&str, &str, Option<(&[u8], Duration)>) + Send + Sync;

pub struct Memory {
    pub read: Box<Read>,
    pub write: Box<Write>,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    route: Route,
    /// Seconds since 1970.
    until: i64,
}

impl Memory {
    pub(super) fn recall(&self, (tenant, mailbox): &Key) -> Option<(Route, Instant)> {
        let value = (self.read)(tenant, &mailbox.to_string())?;
        let Remembered { route, until } = serde_json::from_slice(&value).ok()?;
        let left = u64::try_from(until.saturating_sub(Timestamp::now().as_second())).unwrap_or(0);
        // A clock that was set back does not make years of it.
        Some((route, Instant::now() + Duration::from_secs(left).min(KEEP)))
    }

    pub(super) fn keep(&self, (tenant, mailbox): &Key, route: &Route, counts: Duration) {
        let seconds = i64::try_from(counts.as_secs()).unwrap_or(i64::MAX);
        let until = Timestamp::now().as_second().saturating_add(seconds);
        if let Ok(value) = serde_json::to_vec(&Remembered { route: route.clone(), until }) {
            (self.write)(tenant, &mailbox.to_string(), Some((&value, KEEP)));
        }
    }

    pub(super) fn forget(&self, (tenant, mailbox): &Key) {
        (self.write)(tenant, &mailbox.to_string(), None);
    }
}
