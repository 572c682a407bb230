//! What counters keep over a restart: windows of an hour and more, and blocks.

use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::super::archive::{Kind, Record};
use super::{Counters, MAX_BLOCK_MILLIS, MAX_KEY, Scope, Window, WindowName};

const HOUR: u32 = 3600;
/// Keys that are told of while nobody else gets at the scope: a few milliseconds, however many there are.
const CHUNK: usize = 2048;

/// A window that does not is over before anyone misses it. 0: until a time that was given, as the end of a day.
pub(super) const fn outlasts_a_restart(seconds: u32) -> bool {
    seconds == 0 || seconds >= HOUR
}

impl Counters {
    /// Keys of all scopes.
    pub fn len(&self) -> usize {
        self.by_name().iter().map(|(_, scope)| locked(scope).keys).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells what has changed since this was asked last, or all there is. No count waits for the writing, nor for more than a
    /// part of the telling.
    pub(in super::super) fn kept(&self, all: bool, write: &mut impl FnMut(Record) -> io::Result<()>) -> io::Result<()> {
        for (name, scope) in self.by_name() {
            let Untold { windows, blocks } = locked(&scope).untold(all);
            for windows in windows.chunks(CHUNK) {
                let told = locked(&scope).windows_kept(&name, windows);
                told.into_iter().try_for_each(&mut *write)?;
            }
            for blocks in blocks.chunks(CHUNK) {
                let told = locked(&scope).blocks_kept(&name, blocks, all);
                told.into_iter().try_for_each(&mut *write)?;
            }
        }
        Ok(())
    }

    /// Takes in what was kept, as far as it still matters; in the order in which it was told.
    pub(in super::super) fn restore(&self, record: Record) {
        let Record { kind, scope, plugin, key, seconds, until, count, .. } = record;
        if key.len() > MAX_KEY {
            return;
        }
        let now = self.now();
        // A clock that was set back does not make years of it.
        let until = until.min(now.saturating_add(MAX_BLOCK_MILLIS));
        let scope = self.scope(&scope);
        let mut scope = locked(&scope);
        let scope = &mut *scope;
        let counts = scope.plugins.entry(plugin.as_ref().into()).or_default();
        let before = counts.keys();
        let (key, is_over): (Box<str>, _) = (key.as_ref().into(), until <= now);
        match kind {
            Kind::Count if is_over => {
                counts.windows.remove(&(key, seconds));
            }
            Kind::Count => {
                counts.windows.insert((key, seconds), Window { end: until, count, is_changed: false });
            }
            Kind::Block if is_over => {
                counts.blocks.remove(&key);
            }
            Kind::Block => {
                counts.blocks.insert(key, until);
            }
            Kind::Value => {}
        }
        scope.keys = scope.keys + counts.keys() - before;
        if !is_over {
            scope.next_end = scope.next_end.min(until);
        }
    }

    fn by_name(&self) -> Vec<(Arc<str>, Arc<std::sync::Mutex<Scope>>)> {
        let scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.iter().map(|(name, scope)| (name.as_ref().into(), scope.clone())).collect()
    }
}

fn locked(scope: &std::sync::Mutex<Scope>) -> MutexGuard<'_, Scope> {
    scope.lock().unwrap_or_else(PoisonError::into_inner)
}

/// By plugin and name.
struct Untold {
    windows: Vec<(Box<str>, WindowName)>,
    blocks: Vec<(Box<str>, Box<str>)>,
}

impl Scope {
    /// Notes that the archive has to hear of it. Of a flood of blocks that are lifted again at once only so many: at worst
    /// one of them is there once more after a restart.
    pub(super) fn block_changed(&mut self, plugin: &str, key: &str, max_keys: usize) {
        if self.blocks_changed.len() < max_keys.saturating_mul(2) {
            self.blocks_changed.insert((plugin.into(), key.into()));
        }
    }

    /// What changes from now on is told the next time.
    fn untold(&mut self, all: bool) -> Untold {
        let changed = std::mem::take(&mut self.changed);
        let blocks_changed = std::mem::take(&mut self.blocks_changed);
        if !all {
            return Untold { windows: changed, blocks: blocks_changed.into_iter().collect() };
        }
        let mut all = Untold { windows: Vec::new(), blocks: Vec::new() };
        for (plugin, counts) in &self.plugins {
            let lasting = counts.windows.keys().filter(|window| outlasts_a_restart(window.1));
            all.windows.extend(lasting.map(|window| (plugin.clone(), window.clone())));
            all.blocks.extend(counts.blocks.keys().map(|key| (plugin.clone(), key.clone())));
        }
        all
    }

    /// One that is gone has ended by itself.
    fn windows_kept(&mut self, name: &Arc<str>, windows: &[(Box<str>, WindowName)]) -> Vec<Record> {
        let mut told = Vec::with_capacity(windows.len());
        for (plugin, window) in windows {
            let counts = self.plugins.get_mut(plugin);
            if let Some(there) = counts.and_then(|counts| counts.windows.get_mut(window)) {
                there.is_changed = false;
                told.push(count(name, plugin, window, there));
            }
        }
        told
    }

    /// `all`: one that is gone need not be told.
    fn blocks_kept(&self, name: &Arc<str>, blocks: &[(Box<str>, Box<str>)], all: bool) -> Vec<Record> {
        let told = blocks.iter().filter_map(|(plugin, key)| {
            let until = self.plugins.get(plugin).and_then(|counts| counts.blocks.get(key).copied());
            (until.is_some() || !all).then(|| block(name, plugin, key, until.unwrap_or(0)))
        });
        told.collect()
    }
}

fn count(scope: &Arc<str>, plugin: &str, (key, seconds): &(Box<str>, u32), window: &Window) -> Record {
    Record { seconds: *seconds, count: window.count, ..record(Kind::Count, scope, plugin, key, window.end) }
}

fn block(scope: &Arc<str>, plugin: &str, key: &str, until: u64) -> Record {
    record(Kind::Block, scope, plugin, key, until)
}

fn record(kind: Kind, scope: &Arc<str>, plugin: &str, key: &str, until: u64) -> Record {
    let (scope, plugin, key) = (scope.clone(), plugin.into(), key.into());
    Record { kind, scope, plugin, key, seconds: 0, until, count: 0, value: Arc::default() }
}
