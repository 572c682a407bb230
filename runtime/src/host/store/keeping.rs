//! What the store keeps over a restart: all of it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::archive::{Kind, Record};
use super::{Entry, MAX_KEY, MAX_SECONDS, MAX_VALUE, Owner, Shelf, Store, locked};

/// Keys that are told of while nobody else gets at the shelf: a few milliseconds, however many there are.
const CHUNK: usize = 2048;

impl Store {
    /// Entries and octets of all scopes.
    pub fn size(&self) -> (usize, usize) {
        let sizes = self.by_owner().into_iter().map(|(_, shelf)| {
            let shelf = locked(&shelf);
            (shelf.entries.len(), shelf.octets)
        });
        sizes.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Tells what has changed since this was asked last, or all there is. Nobody who reads or writes waits for the writing, nor
    /// for more than a part of the telling.
    pub(in super::super) fn kept(&self, all: bool, write: &mut impl FnMut(Record) -> io::Result<()>) -> io::Result<()> {
        let now = (self.clock)();
        for (owner, shelf) in self.by_owner() {
            let keys = locked(&shelf).untold(all);
            for keys in keys.chunks(CHUNK) {
                let told = self.change(&shelf, |shelf, _| shelf.kept(&owner, keys, all, now));
                told.into_iter().try_for_each(&mut *write)?;
            }
        }
        Ok(())
    }

    /// Takes in what was kept, as far as it has not ended; in the order in which it was told. More than may be kept is
    /// taken in too: it was less when it was written.
    pub(in super::super) fn restore(&self, record: Record) {
        let Record { scope, plugin, key, until, value, .. } = record;
        if key.is_empty() || key.len() > MAX_KEY || value.len() > MAX_VALUE {
            return;
        }
        let now = (self.clock)();
        let until = until.min(now.saturating_add(u64::from(MAX_SECONDS) * 1000));
        let shelf = self.shelf(&scope, &plugin);
        self.change(&shelf, |shelf, _| {
            if until > now {
                shelf.put(key, Entry { until, value, is_kept: true });
            } else {
                shelf.take(&key);
            }
        });
    }

    fn by_owner(&self) -> Vec<(Owner, Arc<Mutex<Shelf>>)> {
        let shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        shelves.iter().map(|(owner, shelf)| (owner.clone(), shelf.clone())).collect()
    }
}

impl Shelf {
    /// What changes from now on is told the next time.
    fn untold(&mut self, all: bool) -> Vec<Arc<str>> {
        let changed = std::mem::take(&mut self.changed);
        if all { self.entries.keys().cloned().collect() } else { changed.into_keys().collect() }
    }

    /// `all`: a key that is gone need not be told, and what has ended goes.
    fn kept(&mut self, owner: &Owner, keys: &[Arc<str>], all: bool, now: u64) -> Vec<Record> {
        let mut told = Vec::with_capacity(keys.len());
        for key in keys {
            match self.entries.get_mut(key) {
                Some(entry) if all && entry.until <= now => drop(self.take(key)),
                Some(entry) => {
                    entry.is_kept = true;
                    told.push(record(owner, key, Some(entry)));
                }
                None if all => {}
                None => told.push(record(owner, key, None)),
            }
        }
        told
    }
}

fn record((scope, plugin): &Owner, key: &Arc<str>, entry: Option<&Entry>) -> Record {
    Record {
        kind: Kind::Value,
        scope: scope.clone(),
        plugin: plugin.clone(),
        key: key.clone(),
        seconds: 0,
        until: entry.map_or(0, |entry| entry.until),
        count: 0,
        value: entry.map(|entry| entry.value.clone()).unwrap_or_default(),
    }
}
