//! The tables that are in use, each once however many plugins use it, and read anew when its file has changed.
//!
//! A thread of its own looks at the files every few seconds: reading a big one takes a second of CPU. What can't be read leaves
//! the old table in force. Each file is looked at in yet another thread, because one on a network's disk may keep whoever asks
//! for it waiting for ever: it is waited for so long, and then it is that table's trouble and nobody else's.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use super::late::within;
use super::read::{Definition, Stamp};
use super::{Table, TableError};
use crate::metrics::Metrics;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// A file that was changed less than that ago is looked at again before it is read: whoever writes it may not have ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a file is waited for. The largest takes some seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// A table in use.
#[derive(Debug)]
pub struct Kept {
    /// `None`: one that is in no file.
    definition: Option<Definition>,
    table: ArcSwapOption<Table>,
    last: Mutex<Last>,
    /// Told when a look at the file has ended.
    looked: Condvar,
}

/// What came of reading the file last.
#[derive(Debug, Default)]
struct Last {
    stamp: Option<Stamp>,
    error: Option<TableError>,
    /// Somebody has the table, though it may not be there.
    is_in_use: bool,
    /// A thread looks at the file now.
    is_looking: bool,
    /// It takes longer than anybody waits; said once.
    is_late: bool,
}

type Read = dyn Fn(&Definition) -> (Option<Stamp>, Result<Table, TableError>) + Send + Sync;

/// How files are read; a test has others.
#[derive(Clone)]
struct Reader {
    metrics: Arc<Metrics>,
    patience: Duration,
    limit: Duration,
    read: Arc<Read>,
}

impl Kept {
    /// One that never changes.
    pub fn fixed(table: Table) -> Arc<Self> {
        Arc::new(Self::new(None, Some(table)))
    }

    fn new(definition: Option<Definition>, table: Option<Table>) -> Self {
        let table = ArcSwapOption::from(table.map(Arc::new));
        Self { definition, table, last: Mutex::default(), looked: Condvar::new() }
    }

    /// Read once, and never again. Blocking, for so long.
    pub fn once(definition: &Definition) -> Result<Arc<Self>, TableError> {
        let (path, definition) = (definition.path.clone(), definition.clone());
        let read = within(LIMIT, move || definition.read().1);
        read.unwrap_or(Err(TableError::Late(path))).map(Self::fixed)
    }

    /// As it is now; `None` as long as it could not be read.
    pub fn table(&self) -> Option<Arc<Table>> {
        self.table.load_full()
    }

    /// Reads the file if it has changed, at once or when it has settled. What is wrong with it now, as far as that is known
    /// in time; one that is late already is not waited for again.
    fn refresh(self: &Arc<Self>, reader: &Reader, at_once: bool) -> Result<(), TableError> {
        let Some(definition) = &self.definition else { return Ok(()) };
        let late = || Err(TableError::Late(definition.path.clone()));
        let mut last = self.lock();
        // What another one looks for may not be as new as what is asked for here.
        while last.is_looking {
            if last.is_late {
                return late();
            }
            last = self.wait(last, definition, reader);
        }
        last.is_looking = true;
        let look = Look { kept: self.clone(), reader: reader.clone(), at_once };
        // Dropped where there is no thread for it.
        drop(last);
        let started = std::thread::Builder::new().name("table".to_owned()).spawn(move || look.begin());
        let thread = started.map_err(|error| TableError::Read(definition.path.clone(), error.to_string()))?;
        last = self.lock();
        while last.is_looking {
            if last.is_late {
                return late();
            }
            last = self.wait(last, definition, reader);
        }
        let result = last.error.clone().map_or(Ok(()), Err);
        drop(last);
        // It has nothing more to do, and no longer the table when it is gone.
        let _ = thread.join();
        result
    }

    /// Until the look has ended, or is late.
    fn wait<'a>(&self, last: MutexGuard<'a, Last>, definition: &Definition, reader: &Reader) -> MutexGuard<'a, Last> {
        let waited = self.looked.wait_timeout_while(last, reader.limit, |last| last.is_looking && !last.is_late);
        let (mut last, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && last.is_looking && !last.is_late {
            last.is_late = true;
            self.looked.notify_all();
            self.note_failure(definition, &TableError::Late(definition.path.clone()), true, &reader.metrics);
        }
        last
    }

    fn note_failure(&self, definition: &Definition, error: &TableError, is_new: bool, metrics: &Metrics) {
        let labels = &[&*definition.name];
        metrics.table_failing.with_label_values(labels).set(1);
        if is_new {
            metrics.table_failures.with_label_values(labels).inc();
            let fate = if self.table.load().is_some() { "the old one stays in force" } else { "there is none" };
            tracing::error!(table = %definition.name, "{}: {error}; {fate}", definition.path.display());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look at a file under way; dropped, it is none any more, however it ended.
struct Look {
    kept: Arc<Kept>,
    reader: Reader,
    at_once: bool,
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut last = self.kept.lock();
        (last.is_looking, last.is_late) = (false, false);
        self.kept.looked.notify_all();
    }
}

impl Look {
    /// May take for ever. Nothing is locked meanwhile.
    fn begin(self) {
        let Some(definition) = &self.kept.definition else { return };
        let (stamp, before) = {
            let last = self.kept.lock();
            (last.stamp, last.error.clone())
        };
        let Reader { metrics, patience, read, .. } = &self.reader;
        let is_fresh = |stamp: &Stamp| stamp.is_fresh(*patience);
        // What was wrong with the content is still wrong; what kept it from being read may have passed.
        let is_read = !matches!(before, Some(TableError::Read(..) | TableError::Unsettled(_)));
        let now = Stamp::of(&definition.path);
        if stamp.is_some() && is_read && stamp == now {
            // It may have been late, and nothing else.
            let is_failing = i64::from(before.is_some());
            metrics.table_failing.with_label_values(&[&*definition.name]).set(is_failing);
            return;
        }
        if !self.at_once && now.as_ref().is_some_and(is_fresh) {
            return;
        }
        let (stamp, result) = read(definition);
        let mut last = self.kept.lock();
        last.stamp = stamp.filter(|stamp| !is_fresh(stamp));
        match result {
            Ok(table) => {
                tracing::info!(table = %definition.name, "{table} loaded");
                note_loaded(&definition.name, &table, metrics);
                last.error = None;
                self.kept.table.store(Some(Arc::new(table)));
            }
            Err(error) => {
                self.kept.note_failure(definition, &error, before.as_ref() != Some(&error), metrics);
                last.error = Some(error);
            }
        }
    }
}

fn note_loaded(name: &str, table: &Table, metrics: &Metrics) {
    let labels = &[name];
    metrics.table_entries.with_label_values(labels).set(gauge(table.len()));
    metrics.table_octets.with_label_values(labels).set(gauge(table.octets()));
    metrics.table_loaded.with_label_values(labels).set(Timestamp::now().as_second());
    metrics.table_failing.with_label_values(labels).set(0);
    metrics.table_failures.with_label_values(labels).inc_by(0);
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// All tables that are read from files. One for the whole gateway.
pub struct Library {
    reader: Reader,
    kept: Mutex<HashMap<Definition, Weak<Kept>>>,
}

impl Library {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let reader = Reader { metrics, patience: PATIENCE, limit: LIMIT, read: Arc::new(Definition::read) };
        Self { reader, kept: Mutex::default() }
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
    /// before goes on with it. One that is in use already and is only late is no error: what hangs must not stop what
    /// has nothing to do with it. Blocking.
    pub fn open(&self, definition: &Definition) -> Result<Arc<Kept>, TableError> {
        let kept = self.shelved(definition);
        match kept.refresh(&self.reader, true) {
            Err(TableError::Late(_)) if kept.lock().is_in_use => {}
            result => result?,
        }
        kept.lock().is_in_use = true;
        Ok(kept)
    }

    /// As [`open`](Self::open), but a table that can't be read is there, and unavailable until it can.
    pub fn open_anyhow(&self, definition: &Definition) -> Arc<Kept> {
        let kept = self.shelved(definition);
        // Whoever reads the log knows.
        let _ = kept.refresh(&self.reader, true);
        kept.lock().is_in_use = true;
        kept
    }

    fn shelved(&self, definition: &Definition) -> Arc<Kept> {
        let mut shelf = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = shelf.get(definition).and_then(Weak::upgrade) {
            return kept;
        }
        let kept = Arc::new(Kept::new(Some(definition.clone()), None));
        shelf.insert(definition.clone(), Arc::downgrade(&kept));
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
            let _ = kept.refresh(&self.reader, false);
        }
    }

    /// A table that nobody uses any more has no series; unless it is read in another way now.
    fn forget(&self, name: &str, shelf: &HashMap<Definition, Weak<Kept>>) {
        if shelf.keys().any(|definition| &*definition.name == name) {
            return;
        }
        let Metrics { table_entries, table_octets, table_loaded, table_failing, table_failures, .. } =
            &*self.reader.metrics;
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
        let mut library = Library::new(metrics.clone());
        library.reader.patience = Duration::ZERO;
        (tempfile::tempdir().unwrap(), metrics, library)
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
        library.reader.patience = Duration::from_secs(3600);
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

    /// A disk that hangs stops neither the other tables nor a reload, and is said once; when it goes on, so does the table.
    #[test]
    fn a_file_that_hangs_is_that_tables_trouble_alone() {
        let (directory, metrics, mut library) = library();
        let (hung, well) = (directory.path().join("hung"), directory.path().join("well"));
        [&hung, &well].iter().for_each(|path| std::fs::write(path, "a\n").unwrap());
        let [hung, well] = [hung, well].map(|path| Definition {
            name: path.file_name().unwrap().to_str().unwrap().into(),
            ..Definition::of(path)
        });
        let (kept, other) = (library.open(&hung).unwrap(), library.open(&well).unwrap());
        let disk = Arc::new(Mutex::new(()));
        let (stuck, path) = (disk.clone(), hung.path.clone());
        library.reader.read = Arc::new(move |definition| {
            let _waits = (definition.path == path).then(|| stuck.lock().unwrap());
            definition.read()
        });
        library.reader.limit = Duration::from_millis(20);
        let hangs = disk.lock().unwrap();
        [&hung, &well].iter().for_each(|definition| replace(&definition.path, "b\n"));
        for _ in 0..3 {
            library.refresh();
        }
        assert!(lookup(&other, "b") && !lookup(&kept, "b"), "the others go on");
        assert!(Arc::ptr_eq(&library.open(&hung).unwrap(), &kept) && lookup(&kept, "a"), "a reload does as well");
        let fresh = Definition { name: "fresh".into(), ..hung };
        for _ in 0..2 {
            assert!(matches!(library.open(&fresh), Err(TableError::Late(_))), "what nobody has had is refused");
        }
        let failing = || metrics.table_failing.with_label_values(&["hung"]).get();
        assert_eq!((failing(), metrics.table_failures.with_label_values(&["hung"]).get()), (1, 1));
        drop(hangs);
        library.reader.limit = Duration::from_secs(60);
        // The look that hung ends by itself; another one waits for it no longer than that takes.
        while failing() == 1 {
            library.refresh();
        }
        assert!(lookup(&kept, "b"));
    }
}
