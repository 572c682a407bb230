//! What plugins keep: small values with an end, of each plugin in each scope alone, bounded.
//!
//! In memory, and in the [archive](super::archive) a few seconds later. What there is no room for is refused and never
//! pushes out anything but what has ended. Behind this struct, so that a store shared by several nodes can come later.

mod keeping;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::counter::WallClock;

/// Octets of a key and of a value.
pub const MAX_KEY: usize = 256;
pub const MAX_VALUE: usize = 4096;
/// Nothing is kept longer.
const MAX_SECONDS: u32 = 365 * 24 * 3600;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Entries of one plugin in one scope.
    pub entries: usize,
    /// Their octets, keys included. An entry takes about 100 octets more of memory.
    pub octets: usize,
    /// Octets of all. A plugin in a scope has no more of them than it leaves free, so that however many are flooded there
    /// is something left for the next.
    pub total: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { entries: 500_000, octets: 64 << 20, total: 512 << 20 }
    }
}

/// Between two looks for what has ended.
const SWEEP_MILLIS: u64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("a key of more than {MAX_KEY} octets, or none, or a value of more than {MAX_VALUE}")]
    TooBig,
    #[error("the plugin keeps as much as it may")]
    Full,
}

pub struct Store {
    clock: WallClock,
    limits: StoreLimits,
    /// Octets of all shelves.
    octets: AtomicUsize,
    shelves: Mutex<HashMap<Owner, Arc<Mutex<Shelf>>>>,
}

/// Scope and plugin.
type Owner = (Arc<str>, Arc<str>);

#[derive(Default)]
struct Shelf {
    entries: HashMap<Arc<str>, Entry>,
    octets: usize,
    /// Nothing ends before this time, so looking for room is in vain until then.
    next_end: u64,
    /// When it was looked last.
    swept: u64,
    /// Keys of which the archive has to hear, and whether it has heard of them before. One that it never heard of and that
    /// is gone again is not among them, so they are bounded as the entries are.
    changed: HashMap<Arc<str>, bool>,
}

struct Entry {
    until: u64,
    value: Arc<[u8]>,
    /// The archive has heard of this key.
    is_kept: bool,
}

impl Store {
    pub fn new(clock: WallClock) -> Self {
        Self::with_limits(clock, StoreLimits::default())
    }

    pub fn with_limits(clock: WallClock, limits: StoreLimits) -> Self {
        Self { clock, limits, octets: AtomicUsize::new(0), shelves: Mutex::default() }
    }

    pub fn read(&self, scope: &str, plugin: &str, key: &str) -> Option<Vec<u8>> {
        let now = (self.clock)();
        let shelf = self.shelf(scope, plugin);
        let shelf = locked(&shelf);
        shelf.entries.get(key).filter(|entry| entry.until > now).map(|entry| entry.value.to_vec())
    }

    /// Until `seconds` from now, at most a year.
    pub fn write(&self, scope: &str, plugin: &str, key: &str, value: &[u8], seconds: u32) -> Result<(), StoreError> {
        if key.is_empty() || key.len() > MAX_KEY || value.len() > MAX_VALUE {
            return Err(StoreError::TooBig);
        }
        let now = (self.clock)();
        let until = now.saturating_add(u64::from(seconds.min(MAX_SECONDS)) * 1000);
        let shelf = self.shelf(scope, plugin);
        self.change(&shelf, |shelf, before| {
            if !self.has_room(shelf, before, key, value) {
                shelf.drop_ended(now);
                if !self.has_room(shelf, before, key, value) {
                    return Err(StoreError::Full);
                }
            }
            let is_kept = shelf.entries.get(key).is_some_and(|entry| entry.is_kept)
                || shelf.changed.get(key).is_some_and(|is_kept| *is_kept);
            let key: Arc<str> = key.into();
            shelf.changed.insert(key.clone(), is_kept);
            shelf.put(key, Entry { until, value: value.into(), is_kept });
            Ok(())
        })
    }

    pub fn remove(&self, scope: &str, plugin: &str, key: &str) {
        let shelf = self.shelf(scope, plugin);
        self.change(&shelf, |shelf, _| {
            let Some(entry) = shelf.take(key) else { return };
            if entry.is_kept {
                shelf.changed.insert(key.into(), true);
            } else {
                shelf.changed.remove(key);
            }
        });
    }

    /// What the shelf has more or less afterwards counts for all. The change is told what it has counted for before.
    fn change<T>(&self, shelf: &Mutex<Shelf>, change: impl FnOnce(&mut Shelf, usize) -> T) -> T {
        let mut shelf = locked(shelf);
        let before = shelf.octets;
        let result = change(&mut shelf, before);
        // Wraps where it has become less.
        self.octets.fetch_add(shelf.octets.wrapping_sub(before), Ordering::Relaxed);
        result
    }

    /// For this value under this key, in place of the one that is there.
    fn has_room(&self, shelf: &Shelf, before: usize, key: &str, value: &[u8]) -> bool {
        let there = shelf.entries.get(key);
        let octets = key.len() + value.len();
        let after = shelf.octets + octets - there.map_or(0, |entry| key.len() + entry.value.len());
        if after <= shelf.octets && there.is_some() {
            return true;
        }
        let others = self.octets.load(Ordering::Relaxed).saturating_sub(before);
        let left = self.limits.total.saturating_sub(others.saturating_add(after));
        shelf.entries.len() + usize::from(there.is_none()) <= self.limits.entries
            && after <= self.limits.octets
            && after <= left
    }

    /// Plugins and scopes come from config, so there are as many as there are entries of chains.
    fn shelf(&self, scope: &str, plugin: &str) -> Arc<Mutex<Shelf>> {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        shelves.entry((scope.into(), plugin.into())).or_default().clone()
    }
}

fn locked(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    fn put(&mut self, key: Arc<str>, entry: Entry) {
        self.take(&key);
        self.octets += key.len() + entry.value.len();
        self.next_end = self.next_end.min(entry.until);
        self.entries.insert(key, entry);
    }

    fn take(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.octets -= key.len() + entry.value.len();
        Some(entry)
    }

    fn drop_ended(&mut self, now: u64) {
        // Where the ends lie close together, each writer would look at all entries.
        if now < self.next_end.max(self.swept.saturating_add(SWEEP_MILLIS)) {
            return;
        }
        self.swept = now;
        let changed = &mut self.changed;
        self.entries.retain(|key, entry| {
            let stays = entry.until > now;
            if !stays && !entry.is_kept {
                changed.remove(key);
            }
            stays
        });
        self.octets = self.entries.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
        self.next_end = self.entries.values().map(|entry| entry.until).min().unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn store(entries: usize, octets: usize) -> (Arc<AtomicU64>, Store) {
        limited(StoreLimits { entries, octets, total: 1 << 30 })
    }

    fn limited(limits: StoreLimits) -> (Arc<AtomicU64>, Store) {
        let time = Arc::new(AtomicU64::new(1_000));
        let clock = time.clone();
        (time, Store::with_limits(Arc::new(move || clock.load(Ordering::Relaxed)), limits))
    }

    #[test]
    fn values_have_an_end_and_an_owner() {
        let (time, store) = store(10, 1000);
        store.write("platform", "p", "k", b"v", 2).unwrap();
        for (scope, plugin, key) in [("platform", "q", "k"), ("tenant:a", "p", "k"), ("platform", "p", "K")] {
            assert_eq!(store.read(scope, plugin, key), None);
        }
        time.fetch_add(1999, Ordering::Relaxed);
        assert_eq!(store.read("platform", "p", "k").as_deref(), Some(&b"v"[..]));
        time.fetch_add(1, Ordering::Relaxed);
        assert_eq!(store.read("platform", "p", "k"), None);
        store.write("platform", "p", "k", b"w", u32::MAX).unwrap();
        time.fetch_add(u64::from(MAX_SECONDS) * 1000, Ordering::Relaxed);
        assert_eq!(store.read("platform", "p", "k"), None, "a year at most");
    }

    #[test]
    fn w15_full_is_said_and_what_has_ended_makes_room() {
        let (time, store) = store(2, 20);
        let write = |key: &str, value: &[u8], seconds| store.write("platform", "p", key, value, seconds);
        assert_eq!(write("", b"", 1), Err(StoreError::TooBig));
        assert_eq!(write(&"k".repeat(257), b"", 1), Err(StoreError::TooBig));
        assert_eq!(write("k", &[0; 4097], 1), Err(StoreError::TooBig));
        write("a", &[0; 9], 1).unwrap();
        write("b", &[0; 9], 9).unwrap();
        assert_eq!(write("c", b"", 9), Err(StoreError::Full));
        assert_eq!(write("b", &[1; 10], 9), Err(StoreError::Full));
        assert_eq!(store.read("platform", "p", "b").as_deref(), Some(&[0; 9][..]), "the old one stays");
        write("b", &[1; 9], 9).unwrap();
        store.write("tenant:a", "p", "c", b"", 9).unwrap();
        time.fetch_add(1000, Ordering::Relaxed);
        write("c", &[0; 9], 9).unwrap();
        store.remove("platform", "p", "c");
        write("d", b"", 9).unwrap();
    }

    #[test]
    fn w15_a_plugin_that_is_flooded_leaves_room_for_others() {
        let (time, store) = limited(StoreLimits { entries: 10_000, octets: 10_000, total: 6_400 });
        let flood = |scope: &str, first: u32| {
            let keys = (first..first + 1000).map(|n| format!("{n:04}"));
            keys.filter(|key| store.write(scope, "p", key, &[0; 96], 60).is_ok()).count()
        };
        assert_eq!(["tenant:a", "tenant:b", "tenant:c"].map(|scope| flood(scope, 0)), [32, 16, 8]);
        store.write("tenant:a", "p", "0001", &[1; 96], 60).unwrap();
        store.write("tenant:d", "p", "k", b"v", 60).unwrap();
        time.fetch_add(60_000, Ordering::Relaxed);
        // What has ended makes room where it is, when room is looked for; the others still have theirs.
        assert_eq!(flood("tenant:a", 2000), 19);
    }

    /// What had ended when the archive was written anew counted for all of them, for ever.
    #[test]
    fn w15_what_has_ended_when_all_is_told_counts_no_more() {
        let (time, store) = limited(StoreLimits { entries: 10_000, octets: 10_000, total: 6_400 });
        let flood = |scope: &str| {
            let keys = (0..1000).map(|n| format!("{n:04}"));
            keys.filter(|key| store.write(scope, "p", key, &[0; 96], 60).is_ok()).count()
        };
        assert_eq!(flood("tenant:a"), 32);
        time.fetch_add(60_000, Ordering::Relaxed);
        store.kept(true, &mut |record| panic!("{record:?}")).unwrap();
        assert_eq!((store.size(), flood("tenant:b")), ((0, 0), 32));
    }

    #[test]
    fn w15_writers_at_the_same_time_keep_the_books() {
        let (_, store) = store(1000, 1 << 20);
        std::thread::scope(|threads| {
            for writer in 0..4_u8 {
                let store = &store;
                threads.spawn(move || {
                    for n in 0..2000 {
                        let key = format!("{}", n % 100);
                        store.write("platform", "p", &key, &vec![writer; n % 50], 60).unwrap();
                        if n % 7 == 0 {
                            store.remove("platform", "p", &key);
                        }
                    }
                });
            }
        });
        let there: Vec<_> =
            (0..100).filter_map(|n| Some((n.to_string(), store.read("platform", "p", &n.to_string())?))).collect();
        let octets = there.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert_eq!(store.size(), (there.len(), octets));
        assert!(there.iter().all(|(_, value)| value.windows(2).all(|pair| pair[0] == pair[1])), "of one writer each");
        (0..100).for_each(|n| store.remove("platform", "p", &n.to_string()));
        assert_eq!(store.size(), (0, 0));
    }
}
