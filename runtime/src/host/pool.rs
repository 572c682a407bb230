//! Warm instances of plugins with `reuse = true`, per plugin and scope. An instance that is called is out of the pool,
//! and comes back only when the call went well: one that failed, or whose caller went away, is gone by itself.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::instance::Instance;

/// Calls after which an instance is replaced: a leak in a guest, or what it gathers against the contract, ends.
const MAX_CALLS: u32 = 1000;

/// How many may be kept, all plugins together.
#[derive(Clone)]
pub(super) struct Room {
    left: Arc<AtomicUsize>,
}

impl Room {
    pub fn new(instances: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(instances)) }
    }

    fn take(&self) -> Option<Place> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.ok().map(|_| Place(self.left.clone()))
    }
}

/// Room for one instance; free again when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) struct Pool {
    room: Room,
    idle: Mutex<Vec<(Instance, Place)>>,
    /// The plugin was replaced: what ends now is not kept.
    resting: AtomicBool,
}

impl Pool {
    pub fn new(room: Room) -> Self {
        Self { room, idle: Mutex::default(), resting: AtomicBool::new(false) }
    }

    /// The one used last: its memory is warmest.
    pub fn take(&self) -> Option<Instance> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop().map(|(instance, _)| instance)
    }

    /// Keeps an instance whose call went well, if there is room.
    pub fn put(&self, mut instance: Instance) {
        if instance.calls >= MAX_CALLS || self.resting.load(Ordering::Relaxed) {
            return;
        }
        instance.forget();
        if let Some(place) = self.room.take() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((instance, place));
        }
    }

    /// A plugin that is not asked any more gives its room to others.
    pub fn rest(&self, resting: bool) {
        self.resting.store(resting, Ordering::Relaxed);
        if resting {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    pub fn idle(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
