//! How many calls may run at a time: a quota of each plugin in its scope, under a global one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The global quota, and how long a call waits for its turn.
#[derive(Clone)]
pub(super) struct Permits {
    all: Arc<Semaphore>,
    wait: Duration,
}

/// One plugin's share.
pub(super) struct Quota {
    own: Arc<Semaphore>,
    permits: Permits,
}

/// A call's turn; ends when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Permits {
    pub fn new(calls: usize, wait: Duration) -> Self {
        Self { all: Arc::new(Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS))), wait }
    }

    pub fn quota(&self, calls: usize) -> Quota {
        Quota { own: Arc::new(Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS))), permits: self.clone() }
    }
}

impl Quota {
    /// `None` when it was not our turn in time. The plugin's own permit comes first, always: so there is no cycle,
    /// and a plugin that is stuck in all its calls takes no more of the global ones than its share.
    pub async fn acquire(&self) -> Option<Permit> {
        let turn = async {
            let own = self.own.clone().acquire_owned().await.ok()?;
            let all = self.permits.all.clone().acquire_owned().await.ok()?;
            Some(Permit { _own: own, _all: all })
        };
        tokio::time::timeout(self.permits.wait, turn).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_is_stuck_leaves_room_for_others() {
        let permits = Permits::new(3, Duration::from_secs(1));
        let (stuck, other) = (permits.quota(2), permits.quota(2));
        let held = (stuck.acquire().await.unwrap(), stuck.acquire().await.unwrap());
        assert!(stuck.acquire().await.is_none());
        let third = other.acquire().await.unwrap();
        assert!(other.acquire().await.is_none(), "the global quota is used up");
        drop(held);
        assert!(other.acquire().await.is_some());
        drop(third);
    }
}
