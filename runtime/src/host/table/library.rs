//! The tables that are in use, each once however many plugins use it, and read anew when its file has changed.
//!
//! A thread of its own looks at the files every few seconds: reading a big one takes a second of CPU, and a file on a
//! network's disk may keep whoever asks for it waiting. What can't be read leaves the old table in force.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use super::read::{Definition, Stamp};
use super::{Table, TableError};
use crate::metrics::Metrics;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// A file that was changed less than that ago is looked at again before it is read: whoever writes it may not have ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// A table in use.
#[derive(Debug)]
pub struct Kept {
    /// `None`: one that is in no file.
    definition: Option<Definition>,
    table: ArcSwapOption<Table>,
    /// Held while the file is read.
    last: Mutex<Last>,
}

/// What came of reading the file last.
#[derive(Debug, Default)]
struct Last {
    stamp: Option<Stamp>,
    error: Option<TableError>,
}

impl Kept {
    /// One that never changes.
    pub fn fixed(table: Table) -> Arc<Self> {
        Arc::new(Self { definition: None, table: ArcSwapOption::from_pointee(table), last: Mutex::default() })
    }

    /// Read once, and never again. Blocking.
    pub fn once(definition: &Definition) -> Result<Arc<Self>, TableError> {
        definition.read().1.map(Self::fixed)
    }

    /// As it is now; `None` as long as it could not be read.
    pub fn table(&self) -> Option<Arc<Table>> {
        self.table.load_full()
    }

    /// Reads the file if it has changed, at once or when it has settled. What is wrong with it now.
    fn refresh(&self, metrics: &Metrics, patience: Duration, at_once: bool) -> Result<(), TableError> {
        let Some(definition) = &self.definition else { return Ok(()) };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // What was wrong with the content is still wrong; what kept it from being read may have passed.
        let is_read = !matches!(last.error, Some(TableError::Read(..) | TableError::Unsettled(_)));
        let now = Stamp::of(&definition.path);
        if last.stamp.is_some() && is_read && last.stamp == now {
            return last.error.clone().map_or(Ok(()), Err);
        }
        let is_fresh = |stamp: &Stamp| stamp.is_fresh(patience);
        if !at_once && now.as_ref().is_some_and(is_fresh) {
            return Ok(());
        }
        let (stamp, result) = definition.read();
        last.stamp = stamp.filter(|stamp| !is_fresh(stamp));
        let is_new = result.as_ref().err() != last.error.as_ref();
        let labels = &[&*definition.name];
        match result {
            Ok(table) => {
                tracing::info!(table = %definition.name, "{table} loaded");
                metrics.table_entries.with_label_values(labels).set(gauge(table.len()));
                metrics.table_octets.with_label_values(labels).set(gauge(table.octets()));
                metrics.table_loaded.with_label_values(labels).set(Timestamp::now().as_second());
                metrics.table_failing.with_label_values(labels).set(0);
                metrics.table_failures.with_label_values(labels).inc_by(0);
                last.error = None;
                self.table.store(Some(Arc::new(table)));
                Ok(())
            }
            Err(error) => {
                metrics.table_failing.with_label_values(labels).set(1);
                if is_new {
                    metrics.table_failures.with_label_values(labels).inc();
                    let fate = if self.table.load().is_some() { "the old one stays in force" } else { "there is none" };
                    tracing::error!(table = %definition.name, "{}: {error}; {fate}", definition.path.display());
                }
                last.error = Some(error.clone());
                Err(error)
            }
        }
    }
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// All tables that are read from files. One for the whole gateway.
pub struct Library {
    metrics: Arc<Metrics>,
    patience: Duration,
    kept: Mutex<HashMap<Definition, Weak<Kept>>>,
}

impl Library {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, patience: PATIENCE, kept: Mutex::default() }
    }

    /// Has the files looked at until the library is dropped.
    pub fn watch(self: &Arc<Self>) -> std::io::Result<()> {
        let library = Arc::downgrade(self);
        let watch = move || {
            loop {
                std::thread::sleep(INTERVAL);
                match library.upgrade() {
                    Some(library) => library.refresh(),
                    None => return,
                }
            }
        };
        std::thread::Builder::new().name("tables".to_owned()).spawn(watch).map(drop)
    }

    /// A table, as its file is now. The error: that can't be read now, and there may be an older one; what was opened
    /// before goes on with it. Blocking.
    pub fn open(&self, definition: &Definition) -> Result<Arc<Kept>, TableError> {
        let kept = self.shelved(definition);
        kept.refresh(&self.metrics, self.patience, true).map(|()| kept)
    }

    /// As [`open`](Self::open), but a table that can't be read is there, and unavailable until it can.
    pub fn open_anyhow(&self, definition: &Definition) -> Arc<Kept> {
        let kept = self.shelved(definition);
        // Whoever reads the log knows.
        let _ = kept.refresh(&self.metrics, self.patience, true);
        kept
    }

    fn shelved(&self, definition: &Definition) -> Arc<Kept> {
        let mut shelf = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = shelf.get(definition).and_then(Weak::upgrade) {
            return kept;
        }
        let definition = definition.clone();
        let kept = Arc::new(Kept {
            definition: Some(definition.clone()),
            table: ArcSwapOption::empty(),
            last: Mutex::default(),
        });
        shelf.insert(definition, Arc::downgrade(&kept));
        kept
    }

    /// Looks at all files once. Blocking.
    pub fn refresh(&self) {
        let kept: Vec<_> = {
            let mut shelf = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let gone: Vec<_> = shelf.extract_if(|_, kept| kept.strong_count() == 0).collect();
            for (definition, _) in gone {
                self.forget(&definition.name, &shelf);
            }
            shelf.values().filter_map(Weak::upgrade).collect()
        };
        for kept in kept {
            // What is wrong stands in the log.
            let _ = kept.refresh(&self.metrics, self.patience, false);
        }
    }

    /// A table that nobody uses any more has no series; unless it is read in another way now.
    fn forget(&self, name: &str, shelf: &HashMap<Definition, Weak<Kept>>) {
        if shelf.keys().any(|definition| &*definition.name == name) {
            return;
        }
        let Metrics { table_entries, table_octets, table_loaded, table_failing, table_failures, .. } = &*self.metrics;
        for series in [table_entries, table_octets, table_loaded, table_failing] {
            // There is none where it never was loaded.
            let _ = series.remove_label_values(&[name]);
        }
        let _ = table_failures.remove_label_values(&[name]);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn library() -> (tempfile::TempDir, Arc<Metrics>, Library) {
        let metrics = Arc::new(Metrics::new().unwrap());
        (tempfile::tempdir().unwrap(), metrics.clone(), Library { patience: Duration::ZERO, ..Library::new(metrics) })
    }

    fn lookup(kept: &Kept, key: &str) -> bool {
        kept.table().unwrap().lookup(key).is_some()
    }

    /// Aside and renamed, as whoever means well does.
    fn replace(path: &Path, content: &str) {
        let aside = path.with_extension("new");
        std::fs::write(&aside, content).unwrap();
        std::fs::rename(aside, path).unwrap();
    }

    #[test]
    fn a_changed_file_is_read_and_a_broken_one_is_not() {
        let (directory, metrics, library) = library();
        let path = directory.path().join("t.csv");
        std::fs::write(&path, "a,1\n").unwrap();
        let definition = Definition { name: "t".into(), ..Definition::of(path.clone()) };
        let kept = library.open(&definition).unwrap();
        assert!(Arc::ptr_eq(&kept, &library.open(&definition).unwrap()), "one for all");
        let first = kept.table().unwrap();
        library.refresh();
        assert!(Arc::ptr_eq(&first, &kept.table().unwrap()), "nothing has changed");
        replace(&path, "a,1\nb,2\n");
        library.refresh();
        assert!(lookup(&kept, "b"));
        let gauge = |gauge: &prometheus::IntGaugeVec| gauge.with_label_values(&["t"]).get();
        let failures = || metrics.table_failures.with_label_values(&["t"]).get();
        assert_eq!((gauge(&metrics.table_entries), gauge(&metrics.table_failing), failures()), (2, 0, 0));
        for (content, failed) in [("a,1\nb,\"2", 1), ("a,1\nb,2\na,2\n", 2)] {
            std::fs::write(&path, content).unwrap();
            library.refresh();
            library.refresh();
            assert!(lookup(&kept, "b"), "the old one stays");
            assert_eq!((gauge(&metrics.table_failing), failures()), (1, failed), "told once");
            assert!(library.open(&definition).is_err());
        }
        std::fs::remove_file(&path).unwrap();
        library.refresh();
        assert!(lookup(&kept, "b"));
        assert_eq!((gauge(&metrics.table_failing), failures()), (1, 3));
        std::fs::write(&path, "c,3\n").unwrap();
        library.refresh();
        assert!(lookup(&kept, "c") && !lookup(&kept, "b"));
        assert_eq!((gauge(&metrics.table_entries), gauge(&metrics.table_failing), failures()), (1, 0, 3));
    }

    #[test]
    fn what_cannot_be_read_at_first_is_there_later() {
        let (directory, _, library) = library();
        let path = directory.path().join("list");
        let definition = Definition::of(path.clone());
        assert!(matches!(library.open(&definition), Err(TableError::Read(..))));
        let kept = library.open_anyhow(&definition);
        assert!(kept.table().is_none());
        std::fs::write(&path, "a\n").unwrap();
        library.refresh();
        assert!(lookup(&kept, "a"));
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone() {
        let (directory, _, mut library) = library();
        library.patience = Duration::from_secs(3600);
        let path = directory.path().join("list");
        std::fs::write(&path, "a\n").unwrap();
        let kept = library.open(&Definition::of(path.clone())).unwrap();
        std::fs::write(&path, "a\nb").unwrap();
        library.refresh();
        assert!(!lookup(&kept, "b"));
        library.open(&Definition::of(path)).unwrap();
        assert!(lookup(&kept, "b"), "who reloads means it");
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let (directory, metrics, library) = library();
        let path = directory.path().join("list");
        std::fs::write(&path, "a\n").unwrap();
        let definition = Definition { name: "gone".into(), ..Definition::of(path) };
        let kept = library.open(&definition).unwrap();
        let told = || String::from_utf8(metrics.render()).unwrap().contains("table=\"gone\"");
        library.refresh();
        assert!(told());
        drop(kept);
        library.refresh();
        assert!(!told());
        assert!(library.kept.lock().unwrap().is_empty());
    }

    #[test]
    fn readers_see_the_whole_old_one_or_the_whole_new_one() {
        let (directory, _, library) = library();
        let path = directory.path().join("t.csv");
        let write = |generation: u32| {
            replace(&path, &(0..500).map(|n| format!("{n},{generation}\n")).collect::<String>());
        };
        write(0);
        let kept = library.open(&Definition::of(path.clone())).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                (1..30).for_each(|generation| {
                    write(generation);
                    library.refresh();
                });
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let table = kept.table().unwrap();
                assert_eq!(table.lookup("0"), table.lookup("499"));
            }
        });
        assert_eq!(kept.table().unwrap().lookup("7"), Some("29"));
    }
}
