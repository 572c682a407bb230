//! What plugins keep: small values with an end, of each plugin in each scope alone, bounded.
//!
//! Behind this struct, so that a store shared by several nodes can come later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::counter::WallClock;

/// Octets of a key and of a value.
pub const MAX_KEY: usize = 256;
pub const MAX_VALUE: usize = 4096;
/// Nothing is kept longer.
const MAX_SECONDS: u32 = 365 * 24 * 3600;
/// Entries of one plugin in one scope, and their octets, keys included.
const MAX_ENTRIES: usize = 500_000;
const MAX_OCTETS: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("a key of more than {MAX_KEY} octets, or none, or a value of more than {MAX_VALUE}")]
    TooBig,
    #[error("the plugin keeps as much as it may")]
    Full,
}

pub struct Store {
    clock: WallClock,
    max_entries: usize,
    max_octets: usize,
    shelves: Mutex<HashMap<Owner, Arc<Mutex<Shelf>>>>,
}

/// Scope and plugin.
type Owner = (Box<str>, Box<str>);

#[derive(Default)]
struct Shelf {
    entries: HashMap<Box<str>, Entry>,
    octets: usize,
    /// Nothing ends before this time, so looking for room is in vain until then.
    next_end: u64,
}

struct Entry {
    until: u64,
    value: Box<[u8]>,
}

impl Store {
    pub fn new(clock: WallClock) -> Self {
        Self::with_limits(clock, MAX_ENTRIES, MAX_OCTETS)
    }

    pub fn with_limits(clock: WallClock, max_entries: usize, max_octets: usize) -> Self {
        Self { clock, max_entries, max_octets, shelves: Mutex::default() }
    }

    pub fn read(&self, scope: &str, plugin: &str, key: &str) -> Option<Vec<u8>> {
        let now = (self.clock)();
        let shelf = self.shelf(scope, plugin);
        let shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shelf.take(key);
        if !shelf.has_room(key.len() + value.len(), self.max_entries, self.max_octets) {
            shelf.drop_ended(now);
        }
        if !shelf.has_room(key.len() + value.len(), self.max_entries, self.max_octets) {
            if let Some(before) = before {
                shelf.put(key, before);
            }
            return Err(StoreError::Full);
        }
        shelf.put(key, Entry { until, value: value.into() });
        Ok(())
    }

    pub fn remove(&self, scope: &str, plugin: &str, key: &str) {
        let shelf = self.shelf(scope, plugin);
        shelf.lock().unwrap_or_else(PoisonError::into_inner).take(key);
    }

    /// Plugins and scopes come from config, so there are as many as there are entries of chains.
    fn shelf(&self, scope: &str, plugin: &str) -> Arc<Mutex<Shelf>> {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        shelves.entry((scope.into(), plugin.into())).or_default().clone()
    }
}

impl Shelf {
    fn has_room(&self, octets: usize, max_entries: usize, max_octets: usize) -> bool {
        self.entries.len() < max_entries && self.octets + octets <= max_octets
    }

    fn put(&mut self, key: &str, entry: Entry) {
        self.octets += key.len() + entry.value.len();
        self.next_end = self.next_end.min(entry.until);
        self.entries.insert(key.into(), entry);
    }

    fn take(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.octets -= key.len() + entry.value.len();
        Some(entry)
    }

    fn drop_ended(&mut self, now: u64) {
        if now < self.next_end {
            return;
        }
        self.entries.retain(|_, entry| entry.until > now);
        self.octets = self.entries.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
        self.next_end = self.entries.values().map(|entry| entry.until).min().unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn store(max_entries: usize, max_octets: usize) -> (Arc<AtomicU64>, Store) {
        let time = Arc::new(AtomicU64::new(1_000));
        let clock = time.clone();
        (time, Store::with_limits(Arc::new(move || clock.load(Ordering::Relaxed)), max_entries, max_octets))
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
}
