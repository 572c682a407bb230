//! Exact counts in fixed windows, and blocks that end by themselves; shared by all sessions of this node.
//!
//! In memory. Windows of an hour and more, and blocks, go to the [archive](super::archive) as well; a restart forgets shorter
//! ones. Behind this struct, so that counts shared by several nodes can come later.

mod keeping;

use std::collections::{HashMap, HashSet};
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

/// No window and no block lasts longer than this.
const MAX_SECONDS: u32 = 48 * 3600;
const MAX_BLOCK_MILLIS: u64 = MAX_SECONDS as u64 * 1000;
/// Octets of a key: an address and a word.
const MAX_KEY: usize = 400;
/// Keys of one scope, half of which a plugin alone may have: a busy hour's clients, 30 MB at most.
const MAX_KEYS: usize = 100_000;

/// More keys than the plugin may have in its scope, or a key that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the plugin has as many counters as it may have")]
pub struct Full;

pub struct Counters {
    clock: WallClock,
    max_keys: usize,
    scopes: Mutex<HashMap<Box<str>, Arc<Mutex<Scope>>>>,
}

/// Key and length in seconds; 0 for one that ends with the day.
type WindowName = (Box<str>, u32);

/// All counts of one scope, by plugin.
#[derive(Default)]
struct Scope {
    plugins: HashMap<Box<str>, Counts>,
    /// Keys of all of them.
    keys: usize,
    /// Nothing ends before this time, so looking for room is in vain until then.
    next_end: u64,
    /// Windows that the archive does not know of as they are; those that do are marked.
    changed: Vec<(Box<str>, WindowName)>,
    /// Blocks, likewise.
    blocks_changed: HashSet<(Box<str>, Box<str>)>,
}

#[derive(Default)]
struct Counts {
    windows: HashMap<WindowName, Window>,
    blocks: HashMap<Box<str>, u64>,
}

struct Window {
    end: u64,
    count: u64,
    /// It stands in the list of those.
    is_changed: bool,
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
    /// multiples of their length, which is 48 hours at most.
    pub fn add(&self, scope: &str, plugin: &str, key: &str, by: u64, seconds: u32) -> Result<u64, Full> {
        let now = self.now();
        let seconds = seconds.clamp(1, MAX_SECONDS);
        let length = u64::from(seconds) * 1000;
        let end = (now / length + 1).saturating_mul(length);
        self.count(scope, plugin, (checked(key)?, seconds), by, now, end)
    }

    /// The same for a window that ends then, as a day does.
    pub fn add_until(&self, scope: &str, plugin: &str, key: &str, by: u64, end: u64) -> Result<u64, Full> {
        self.count(scope, plugin, (checked(key)?, 0), by, self.now(), end)
    }

    fn count(&self, scope: &str, plugin: &str, name: WindowName, by: u64, now: u64, end: u64) -> Result<u64, Full> {
        let scope = self.scope(scope);
        let mut scope = scope.lock().unwrap_or_else(PoisonError::into_inner);
        let scope = &mut *scope;
        if let Some(window) = scope.plugins.get_mut(plugin).and_then(|counts| counts.windows.get_mut(&name)) {
            if window.end != end {
                (window.end, window.count) = (end, 0);
            }
            window.count = window.count.saturating_add(by);
            if by > 0 && keeping::outlasts_a_restart(name.1) && !window.is_changed {
                window.is_changed = true;
                scope.changed.push((plugin.into(), name));
            }
            return Ok(window.count);
        }
        if by > 0 {
            let is_changed = keeping::outlasts_a_restart(name.1);
            let counts = scope.room(plugin, now, end, self.max_keys)?;
            counts.windows.insert(name.clone(), Window { end, count: by, is_changed });
            if is_changed {
                scope.changed.push((plugin.into(), name));
            }
        }
        Ok(by)
    }

    /// Until when the key is blocked.
    pub fn blocked(&self, scope: &str, plugin: &str, key: &str) -> Option<u64> {
        let now = self.now();
        let scope = self.scope(scope);
        let scope = scope.lock().unwrap_or_else(PoisonError::into_inner);
        scope.plugins.get(plugin)?.blocks.get(key).copied().filter(|&until| until > now)
    }

    /// Blocks the key until then, at most 48 hours from now. A time that has passed ends the block.
    pub fn block(&self, scope: &str, plugin: &str, key: &str, until: u64) -> Result<(), Full> {
        let now = self.now();
        let until = until.min(now.saturating_add(MAX_BLOCK_MILLIS));
        let key = checked(key)?;
        let scope = self.scope(scope);
        let mut scope = scope.lock().unwrap_or_else(PoisonError::into_inner);
        let scope = &mut *scope;
        scope.block_changed(plugin, &key, self.max_keys);
        let known = scope.plugins.get_mut(plugin).filter(|counts| counts.blocks.contains_key(&key));
        match (known, until > now) {
            (Some(counts), true) => {
                counts.blocks.insert(key, until);
                scope.next_end = scope.next_end.min(until);
            }
            (Some(counts), false) => {
                counts.blocks.remove(&key);
                scope.keys -= 1;
            }
            (None, true) => {
                scope.room(plugin, now, until, self.max_keys)?.blocks.insert(key, until);
            }
            (None, false) => {}
        }
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
    /// Where one key more of the plugin goes, which ends then; counts it. Drops what has ended when there is no room.
    fn room(&mut self, plugin: &str, now: u64, end: u64, max_keys: usize) -> Result<&mut Counts, Full> {
        if !self.has_room(plugin, max_keys) {
            self.drop_ended(now);
            if !self.has_room(plugin, max_keys) {
                return Err(Full);
            }
        }
        self.keys += 1;
        self.next_end = self.next_end.min(end);
        Ok(self.plugins.entry(plugin.into()).or_default())
    }

    /// A plugin has no more keys than are free after it: half of them alone, a third each of two. However many are
    /// flooded, there is something left for the next.
    fn has_room(&self, plugin: &str, max_keys: usize) -> bool {
        self.plugins.get(plugin).map_or(0, Counts::keys) < max_keys.saturating_sub(self.keys)
    }

    fn drop_ended(&mut self, now: u64) {
        if now < self.next_end {
            return;
        }
        self.next_end = u64::MAX;
        for counts in self.plugins.values_mut() {
            counts.windows.retain(|_, window| window.end > now);
            counts.blocks.retain(|_, until| *until > now);
            let ends = counts.windows.values().map(|window| window.end).chain(counts.blocks.values().copied());
            self.next_end = self.next_end.min(ends.min().unwrap_or(u64::MAX));
        }
        self.plugins.retain(|_, counts| counts.keys() > 0);
        self.keys = self.plugins.values().map(Counts::keys).sum();
    }
}

impl Counts {
    fn keys(&self) -> usize {
        self.windows.len() + self.blocks.len()
    }
}

fn checked(key: &str) -> Result<Box<str>, Full> {
    if key.len() > MAX_KEY { Err(Full) } else { Ok(key.into()) }
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
        let (time, counters) = counters(6);
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
    fn w15_a_plugin_that_is_flooded_leaves_room_for_others() {
        let (time, counters) = counters(64);
        let flood = |plugin: &str| {
            (0..1000).filter(|n| counters.add("platform", plugin, &n.to_string(), 1, 60).is_ok()).count()
        };
        assert_eq!(["a", "b", "c"].map(flood), [32, 16, 8]);
        assert_eq!(counters.block("platform", "d", "k", u64::MAX), Ok(()));
        // An ended block is room again, and so is what has ended by itself.
        assert_eq!(counters.block("platform", "d", "k", 0), Ok(()));
        assert_eq!(counters.block("platform", "d", "k", 0), Ok(()));
        time.fetch_add(60_000, Ordering::Relaxed);
        assert_eq!(["c", "b"].map(flood), [32, 16]);
    }

    #[test]
    fn windows_are_48_hours_at_most() {
        let (time, counters) = counters(10);
        assert_eq!(counters.add("platform", "p", "k", 1, u32::MAX), Ok(1));
        assert_eq!(counters.add("platform", "p", "k", 1, MAX_SECONDS), Ok(2), "the same window");
        time.fetch_add(MAX_BLOCK_MILLIS, Ordering::Relaxed);
        assert_eq!(counters.add("platform", "p", "k", 1, u32::MAX), Ok(1));
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
