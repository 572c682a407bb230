//! Connections that wait for a next mail. Each is used by one delivery at a time: taken out, then put back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use crate::mail::TlsPolicy;

/// Mail with other demands never goes over a connection that was opened with fewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    pub(super) tls: TlsPolicy,
    /// The smart host whose login was used.
    pub(super) login: Option<Arc<str>>,
    /// Of the settings under which it was opened: others may trust, know or come from something else.
    pub(super) generation: u64,
}

struct Idle {
    key: Key,
    connection: Connection,
    since: Instant,
    /// Has carried as many mails as it may: waits for QUIT only.
    spent: bool,
}

/// Oldest first.
#[derive(Default)]
pub(super) struct Pool(Mutex<VecDeque<Idle>>);

impl Pool {
    /// The one used last, which is the least likely to have been closed by its server.
    pub(super) fn take(&self, key: &Key, idle_time: Duration) -> Option<Connection> {
        let mut idle = self.lock();
        let at = idle.iter().rposition(|idle| !idle.spent && idle.key == *key && idle.since.elapsed() < idle_time)?;
        idle.remove(at).map(|idle| idle.connection)
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.lock().iter().any(|idle| !idle.spent && idle.key == *key)
    }

    /// Beyond `max` the oldest ones are dropped, which closes them.
    pub(super) fn put(&self, key: Key, connection: Connection, spent: bool, max: usize) {
        let mut idle = self.lock();
        idle.push_back(Idle { key, connection, since: Instant::now(), spent });
        while idle.len() > max {
            idle.pop_front();
        }
    }

    /// Takes out those that have waited long enough.
    pub(super) fn expired(&self, idle_time: Duration) -> Vec<Connection> {
        let mut idle = self.lock();
        let (gone, stay) = idle.drain(..).partition(|idle| idle.spent || idle.since.elapsed() >= idle_time);
        *idle = stay;
        VecDeque::into_iter(gone).map(|idle| idle.connection).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
