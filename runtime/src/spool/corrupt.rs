//! Where damaged records are set aside, for a human to look at: `corrupt/` in the spool's directory.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::SpoolError;
use super::disk::Disk;
use crate::metrics::Metrics;

/// Files in `corrupt/`. Beyond it, what is damaged stays in its segment, and the segment is kept.
const MAX_FILES: usize = 1000;
const PART: &str = ".part";

pub(super) struct Corrupt {
    directory: PathBuf,
    /// Names of what was set aside, in this run or an earlier one.
    names: Mutex<HashSet<String>>,
}

impl Corrupt {
    pub fn open(disk: &dyn Disk, directory: &Path) -> Result<Self, SpoolError> {
        let open = |error: io::Error| SpoolError::Open {
            action: "list",
            path: directory.to_owned(),
            source_text: error.to_string(),
        };
        let mut names = HashSet::new();
        for (name, _) in disk.list(directory).map_err(open)? {
            if name.ends_with(PART) {
                disk.remove(&directory.join(name)).map_err(open)?;
            } else {
                names.insert(name);
            }
        }
        Ok(Self { directory: directory.to_owned(), names: Mutex::new(names) })
    }

    /// Counts a damaged record, and copies its octets. The same place of a segment is counted and copied once. False:
    /// there is no copy, and the original must stay.
    pub fn set_aside(&self, disk: &dyn Disk, metrics: &Metrics, segment: u64, offset: u64, octets: &[u8]) -> bool {
        let name = format!("{segment:016x}-{offset:016x}.record");
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.contains(&name) {
            return true;
        }
        metrics.spool_damaged.inc();
        tracing::error!(segment, offset, octets = octets.len(), "a damaged record in the spool");
        if names.len() >= MAX_FILES {
            return false;
        }
        if let Err(error) = self.copy(disk, &name, octets) {
            tracing::error!(%error, segment, offset, "a damaged record can't be set aside");
            return false;
        }
        names.insert(name)
    }

    /// A copy has its name only once it is whole.
    fn copy(&self, disk: &dyn Disk, name: &str, octets: &[u8]) -> io::Result<()> {
        let part = self.directory.join(format!("{name}{PART}"));
        let written = disk.create(&part).and_then(|file| {
            file.write_at(&mut [IoSlice::new(octets)], 0)?;
            file.sync()?;
            disk.link(&part, &self.directory.join(name))
        });
        let removed = disk.remove(&part);
        written?;
        removed?;
        disk.sync_directory(&self.directory)
    }
}
