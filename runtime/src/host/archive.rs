//! What counters and store keep over a restart: one file to which what has changed is appended every few seconds, by a
//! thread of its own. No mail waits for it.
//!
//! After a kill or a power cut what changed in the last seconds is lost, and nothing else. In the memory is the truth: the
//! file is only read at a start. It is written anew, aside and renamed, when half of it speaks of what is over. A plain
//! file and no embedded store, because nothing is ever looked up in it, and because each record has a CRC that we check:
//! what is damaged costs what stands behind it and can't bring the gateway down.

mod record;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use self::record::{Kind, Record};

use self::record::Found;
use super::counter::Counters;
use super::store::Store;
use crate::metrics::Metrics;

/// What may be lost when the machine is.
const INTERVAL: Duration = Duration::from_secs(3);
/// The longest wait after a write has failed: each tries all of it anew, on a disk that is full or has other troubles.
const MAX_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// At the beginning of the file, which says which form the rest has.
const MAGIC: &[u8] = b"postern state 1\n";
/// Octets that may be appended before the file is written anew, however small it is.
const MAX_APPENDED: u64 = 4 << 20;

const FILE: &str = "kept";
const ASIDE: &str = "kept.new";
const DAMAGED: &str = "kept.damaged";

/// The file, and who speaks in it.
pub struct Archive {
    directory: PathBuf,
    /// The directory has been there.
    is_made: AtomicBool,
    counters: Arc<Counters>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    /// `None`: it is written whole the next time.
    open: Mutex<Option<Open>>,
}

struct Open {
    file: File,
    /// Octets when it was written whole, and since then.
    base: u64,
    appended: u64,
}

/// How reading the file has ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// There are this many octets of it.
    Whole(u64),
    /// The file can be used up to there.
    Torn(u64),
    Damaged,
    /// There is none.
    None,
}

impl Archive {
    /// Puts into counters and store what was kept. Trouble with the file is told and counted, and the gateway goes on
    /// without what it can't have. Blocking.
    pub fn open(directory: PathBuf, counters: Arc<Counters>, store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        let is_made = AtomicBool::new(make_private(&directory).is_ok());
        let archive = Self { directory, is_made, counters, store, metrics, open: Mutex::default() };
        let opened = archive.load().unwrap_or_else(|error| {
            archive.failed("read", &format!("what plugins have kept can't be read: {error}"));
            None
        });
        *archive.open.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        archive
    }

    /// Writes what has changed from now on, until the archive is dropped.
    pub fn write_behind(self: &Arc<Self>) -> io::Result<()> {
        let archive = Arc::downgrade(self);
        let write = move || {
            let mut wait = INTERVAL;
            loop {
                std::thread::sleep(wait);
                match archive.upgrade() {
                    Some(archive) => wait = next_wait(wait, archive.flush()),
                    None => return,
                }
            }
        };
        std::thread::Builder::new().name("state".to_owned()).spawn(write).map(drop)
    }

    /// Writes what has changed; durable when it says true. Blocking.
    pub fn flush(&self) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match open.take() {
            Some(file) if file.appended <= file.base.max(MAX_APPENDED) => self.append(file),
            _ => self.rewrite(),
        };
        match written {
            Ok(file) => {
                self.metrics.state_octets.set(i64::try_from(file.base + file.appended).unwrap_or(i64::MAX));
                *open = Some(file);
            }
            // The next time all of it is written, so nothing that has changed is forgotten.
            Err(error) => self.failed("write", &format!("what plugins keep can't be written: {error}")),
        }
        self.metrics.counter_keys.set(i64::try_from(self.counters.len()).unwrap_or(i64::MAX));
        let (entries, octets) = self.store.size();
        self.metrics.store_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.metrics.store_octets.set(i64::try_from(octets).unwrap_or(i64::MAX));
        open.is_some()
    }

    fn failed(&self, what: &str, text: &str) {
        self.metrics.state_failures.with_label_values(&[what]).inc();
        tracing::error!(directory = %self.directory.display(), "{text}");
    }

    fn load(&self) -> io::Result<Option<Open>> {
        let path = self.directory.join(FILE);
        let mut records = 0_u64;
        let set_aside = || std::fs::rename(&path, self.directory.join(DAMAGED));
        let ending = read(&path, |record| {
            records += 1;
            match record.kind {
                Kind::Count | Kind::Block => self.counters.restore(record),
                Kind::Value => self.store.restore(record),
            }
        });
        // It is not written over: whoever can read it may have it back.
        let ending = ending.or_else(|error| set_aside().and(Err(error)))?;
        let octets = match ending {
            Ending::None => return Ok(None),
            Ending::Whole(octets) => octets,
            Ending::Torn(octets) => {
                tracing::info!(path = %path.display(), "the last write was cut off; what stands before it is there");
                octets
            }
            Ending::Damaged => {
                set_aside()?;
                self.failed(
                    "damaged",
                    &format!("what plugins have kept is damaged behind {records} records, and set aside as {DAMAGED}"),
                );
                return Ok(None);
            }
        };
        let file = OpenOptions::new().append(true).open(&path)?;
        file.set_len(octets)?;
        Ok(Some(Open { file, base: octets, appended: 0 }))
    }

    fn append(&self, mut open: Open) -> io::Result<Open> {
        let mut octets = Vec::new();
        self.each(false, |record| {
            record.encode(&mut octets);
            Ok(())
        })?;
        if !octets.is_empty() {
            open.file.write_all(&octets)?;
            open.file.sync_data()?;
            open.appended += octets.len() as u64;
        }
        Ok(open)
    }

    /// All that is in force, into a new file.
    fn rewrite(&self) -> io::Result<Open> {
        // Once made and gone since, its disk is gone, and what would be made now would lie on another one (D5).
        if !self.is_made.load(Ordering::Relaxed) {
            make_private(&self.directory)?;
            self.is_made.store(true, Ordering::Relaxed);
        }
        let aside = self.directory.join(ASIDE);
        let written = self.write_to(&aside);
        if written.is_err() {
            // On a full disk it would stand in the way of mail.
            let _ = std::fs::remove_file(&aside);
        }
        let base = written?;
        std::fs::rename(&aside, self.directory.join(FILE))?;
        File::open(&self.directory)?.sync_all()?;
        let file = OpenOptions::new().append(true).open(self.directory.join(FILE))?;
        Ok(Open { file, base, appended: 0 })
    }

    /// Octets of it.
    fn write_to(&self, path: &Path) -> io::Result<u64> {
        let mut writer = BufWriter::with_capacity(1 << 18, private(path)?);
        writer.write_all(MAGIC)?;
        let (mut base, mut octets) = (MAGIC.len() as u64, Vec::new());
        self.each(true, |record| {
            octets.clear();
            record.encode(&mut octets);
            base += octets.len() as u64;
            writer.write_all(&octets)
        })?;
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(base)
    }

    fn each(&self, all: bool, mut write: impl FnMut(Record) -> io::Result<()>) -> io::Result<()> {
        self.counters.kept(all, &mut write)?;
        self.store.kept(all, &mut write)
    }
}

/// Twice as long after each failure.
fn next_wait(wait: Duration, is_written: bool) -> Duration {
    if is_written { INTERVAL } else { (wait * 2).min(MAX_INTERVAL) }
}

/// Fine when it is there already. Its parent must be there.
fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        made => made,
    }
}

/// Addresses of clients and recipients stand in it.
fn private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn read(path: &Path, mut then: impl FnMut(Record)) -> io::Result<Ending> {
    let mut file = match File::open(path) {
        Ok(file) => BufReader::with_capacity(1 << 18, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ending::None),
        Err(error) => return Err(error),
    };
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == *MAGIC => {}
        Ok(()) => return Ok(Ending::Damaged),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Ending::Damaged),
        Err(error) => return Err(error),
    }
    let mut octets = MAGIC.len() as u64;
    loop {
        match Record::read(&mut file)? {
            Found::Record(record) => {
                octets += record.octets();
                then(record);
            }
            Found::End => return Ok(Ending::Whole(octets)),
            Found::Torn => return Ok(Ending::Torn(octets)),
            Found::Damaged => return Ok(Ending::Damaged),
        }
    }
}

#[cfg(test)]
mod tests;
