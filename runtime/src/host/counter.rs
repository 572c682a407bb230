//! Exact counts in fixed windows, and blocks that end by themselves; shared by all sessions of this node.
//!
//! In memory: a restart forgets them. Behind this struct, so that counts shared by several nodes can come later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC; injected, so that tests turn it by hand.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The system's own.
pub fn system_clock() -> WallClock {
    Arc::new(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    })
}

/// A block lasts no longer than this.
const MAX_BLOCK_MILLIS: u64 = 48 * 3600 * 1000;
/// Octets of a key: an address and a word.
const MAX_KEY: usize = 400;
/// Keys that one scope may have by default: a busy hour's clients, 30 MB at most.
const MAX_KEYS: usize = 100_000;

/// More keys than the scope may have, or a key that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the scope has as many counters as it may have")]
pub struct Full;

pub struct Counters {
    clock: WallClock,
    max_keys: usize,
    scopes: Mutex<HashMap<Box<str>, Arc<Mutex<Scope>>>>,
}

/// All counts of one scope. Its plugins keep apart by the first half of the key.
#[derive(Default)]
struct Scope {
    windows: HashMap<(Box<str>, u32), Window>,
    blocks: HashMap<Box<str>, u64>,
    /// Nothing ends before this time, so looking for room is in vain until then.
    next_end: u64,
}

struct Window {
    end: u64,
    count: u64,
}

impl Counters {
    pub fn new(clock: WallClock) -> Self {
        Self::with_max_keys(clock, MAX_KEYS)
    }

    pub fn with_max_keys(clock: WallClock, max_keys: usize) -> Self {
        Self { clock, max_keys, scopes: Mutex::default() }
    }

    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Adds to the count of the running window and gives the count after it. 0 only reads. Windows start at whole
    /// multiples of their length.
    pub fn add(&self, scope: &str, plugin: &str, key: &str, by: u64, seconds: u32) -> Result<u64, Full> {
        let now = self.now();
        let length = u64::from(seconds.max(1)) * 1000;
        let end = (now / length + 1).saturating_mul(length);
        let scope = self.scope(scope);
        let mut scope = scope.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (full_key(plugin, key)?, seconds);
        match scope.windows.get_mut(&name) {
            Some(window) => {
                if window.end != end {
                    *window = Window { end, count: 0 };
                }
                window.count = window.count.saturating_add(by);
                Ok(window.count)
            }
            None if by == 0 => Ok(0),
            None => {
                scope.make_room(now, self.max_keys)?;
                scope.next_end = scope.next_end.min(end);
                scope.windows.insert(name, Window { end, count: by });
                Ok(by)
            }
        }
    }

    /// Until when the key is blocked.
    pub fn blocked(&self, scope: &str, plugin: &str, key: &str) -> Option<u64> {
        let now = self.now();
        let key = full_key(plugin, key).ok()?;
        let scope = self.scope(scope);
        let scope = scope.lock().unwrap_or_else(PoisonError::into_inner);
        scope.blocks.get(&key).copied().filter(|&until| until > now)
    }

    /// Blocks the key until then, at most 48 hours from now. A time that has passed ends the block.
    pub fn block(&self, scope: &str, plugin: &str, key: &str, until: u64) -> Result<(), Full> {
        let now = self.now();
        let until = until.min(now.saturating_add(MAX_BLOCK_MILLIS));
        let key = full_key(plugin, key)?;
        let scope = self.scope(scope);
        let mut scope = scope.lock().unwrap_or_else(PoisonError::into_inner);
        if until <= now {
            scope.blocks.remove(&key);
            return Ok(());
        }
        if !scope.blocks.contains_key(&key) {
            scope.make_room(now, self.max_keys)?;
        }
        scope.next_end = scope.next_end.min(until);
        scope.blocks.insert(key, until);
        Ok(())
    }

    /// Scopes come from config, so there are as many as there are tenants.
    fn scope(&self, name: &str) -> Arc<Mutex<Scope>> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        match scopes.get(name) {
            Some(scope) => scope.clone(),
            None => scopes.entry(name.into()).or_default().clone(),
        }
    }
}

impl Scope {
    /// Drops what has ended when the scope is full.
    fn make_room(&mut self, now: u64, max_keys: usize) -> Result<(), Full> {
        if self.windows.len() + self.blocks.len() < max_keys {
            return Ok(());
        }
        if now >= self.next_end {
            self.windows.retain(|_, window| window.end > now);
            self.blocks.retain(|_, until| *until > now);
            let ends = self.windows.values().map(|window| window.end).chain(self.blocks.values().copied());
            self.next_end = ends.min().unwrap_or(u64::MAX);
        }
        if self.windows.len() + self.blocks.len() < max_keys { Ok(()) } else { Err(Full) }
    }
}

fn full_key(plugin: &str, key: &str) -> Result<Box<str>, Full> {
    // A plugin's name has no NUL, so two plugins' keys never meet.
    if key.len() > MAX_KEY { Err(Full) } else { Ok(format!("{plugin}\0{key}").into_boxed_str()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn counters(max_keys: usize) -> (Arc<AtomicU64>, Counters) {
        let time = Arc::new(AtomicU64::new(1_000_000_030_000));
        let clock = time.clone();
        (time, Counters::with_max_keys(Arc::new(move || clock.load(Ordering::Relaxed)), max_keys))
    }

    #[test]
    fn windows_start_at_whole_multiples() {
        let (time, counters) = counters(10);
        // 1_000_000_030 s is 10 s into a minute.
        assert_eq!(counters.add("platform", "p", "k", 2, 60), Ok(2));
        time.fetch_add(49_999, Ordering::Relaxed);
        assert_eq!(counters.add("platform", "p", "k", 1, 60), Ok(3));
        time.fetch_add(1, Ordering::Relaxed);
        assert_eq!(counters.add("platform", "p", "k", 0, 60), Ok(0));
        assert_eq!(counters.add("platform", "p", "k", 1, 60), Ok(1));
    }

    #[test]
    fn plugins_scopes_and_lengths_keep_apart() {
        let (_, counters) = counters(10);
        assert_eq!(counters.add("platform", "p", "k", 5, 60), Ok(5));
        assert_eq!(counters.add("platform", "q", "k", 1, 60), Ok(1));
        assert_eq!(counters.add("tenant:a", "p", "k", 1, 60), Ok(1));
        assert_eq!(counters.add("platform", "p", "k", 1, 61), Ok(1));
        assert_eq!(counters.add("platform", "p", "k", u64::MAX, 60), Ok(u64::MAX));
    }

    #[test]
    fn counts_are_exact_under_concurrency() {
        let (_, counters) = counters(10);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| (0..1000).for_each(|_| assert!(counters.add("platform", "p", "k", 1, 3600).is_ok())));
            }
        });
        assert_eq!(counters.add("platform", "p", "k", 0, 3600), Ok(4000));
    }

    #[test]
    fn w15_a_full_scope_says_so_and_recovers_by_itself() {
        let (time, counters) = counters(3);
        for key in ["a", "b", "c"] {
            counters.add("platform", "p", key, 1, 60).unwrap();
        }
        assert_eq!(counters.add("platform", "p", "d", 1, 60), Err(Full));
        assert_eq!(counters.block("platform", "p", "d", u64::MAX), Err(Full));
        assert_eq!(counters.add("platform", "p", "a", 1, 60), Ok(2));
        assert_eq!(counters.add("tenant:a", "p", "d", 1, 60), Ok(1));
        time.fetch_add(60_000, Ordering::Relaxed);
        assert_eq!(counters.add("platform", "p", "d", 1, 60), Ok(1));
        assert_eq!(counters.add("platform", "p", &"k".repeat(500), 1, 60), Err(Full));
    }

    #[test]
    fn blocks_end_within_48_hours() {
        let (time, counters) = counters(10);
        let now = counters.now();
        counters.block("platform", "p", "k", u64::MAX).unwrap();
        assert_eq!(counters.blocked("platform", "p", "k"), Some(now + MAX_BLOCK_MILLIS));
        assert_eq!(counters.blocked("platform", "q", "k"), None);
        time.fetch_add(MAX_BLOCK_MILLIS, Ordering::Relaxed);
        assert_eq!(counters.blocked("platform", "p", "k"), None);
        counters.block("platform", "p", "k", counters.now() + 5).unwrap();
        counters.block("platform", "p", "k", 0).unwrap();
        assert_eq!(counters.blocked("platform", "p", "k"), None);
    }
}
