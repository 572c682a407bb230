//! The open segment: one write and one sync for a whole group of batches.
//!
//! What a group was answered is what the file holds: after an error the file is cut back to where the last good group
//! ended, so that mail that was answered 4xx does not come back at the next start. A sync that failed is never repeated
//! to turn it into a success, because the kernel marks such pages clean; the segment takes nothing more.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::record::{Draft, RECORD_HEADER};
use super::segment::{Name, encode_index, index_record};
use super::trouble::Trouble;

pub(super) struct OpenSegment {
    pub name: Name,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Where the next group goes; all before is synced.
    len: u64,
    group: u64,
    index: Vec<u8>,
}

/// What became of the segment after an error.
pub(super) struct Rejected {
    pub trouble: Trouble,
    /// The segment is as it was before and takes the next group.
    pub usable: bool,
}

impl OpenSegment {
    /// Durable, with its name in the directory, when this returns.
    pub fn create(disk: &dyn Disk, directory: &Path, name: Name) -> Result<Self, Trouble> {
        let path = directory.join(name.file_name());
        let file = disk.create(&path).map_err(|error| Trouble::new("create", &path, &error))?;
        let segment = Self { name, path, file, len: 0, group: 0, index: Vec::new() };
        segment.begin(disk, directory, &name.header()).inspect_err(|_| {
            // An empty segment does no harm: the next start removes it.
            let _ = disk.remove(&segment.path);
        })?;
        let len = name.header().len() as u64;
        Ok(Self { len, ..segment })
    }

    fn begin(&self, disk: &dyn Disk, directory: &Path, header: &[u8]) -> Result<(), Trouble> {
        let write = |error| Trouble::at_write("write", &self.path, &error);
        self.file.write_at(&mut [IoSlice::new(header)], 0).map_err(write)?;
        self.file.sync().map_err(|error| Trouble::at_write("sync", &self.path, &error))?;
        disk.sync_directory(directory).map_err(|error| Trouble::at_write("sync", directory, &error))
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.group == 0
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a group durable, and says where each record is. Sets the place of each record in its header.
    pub fn append<'a>(
        &mut self,
        batches: impl Iterator<Item = &'a mut [Draft]>,
    ) -> Result<Vec<(u64, &'a Draft)>, Rejected> {
        let mut drafts: Vec<&'a Draft> = Vec::new();
        for (number, batch) in (0..).zip(batches) {
            let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            for (position, draft) in (0..).zip(batch.iter_mut()) {
                draft.header.group = self.group + 1;
                draft.header.batch = number;
                (draft.header.position, draft.header.count) = (position, count);
            }
            drafts.extend(batch.iter());
        }
        let mut headers = Vec::with_capacity(drafts.len() * RECORD_HEADER);
        drafts.iter().for_each(|draft| draft.header.encode(self.name.salt, &mut headers));
        self.write(&headers, &drafts)?;

        self.group += 1;
        let mut placed = Vec::with_capacity(drafts.len());
        for draft in drafts {
            index_record(&mut self.index, self.name.salt, self.len, &draft.header, &draft.head);
            placed.push((self.len, draft));
            self.len += draft.len();
        }
        Ok(placed)
    }

    fn write(&self, headers: &[u8], drafts: &[&Draft]) -> Result<(), Rejected> {
        let mut parts = Vec::with_capacity(drafts.len() * 3);
        for (header, draft) in headers.chunks_exact(RECORD_HEADER).zip(drafts) {
            let octets: [&[u8]; 3] = [header, &draft.head, &draft.body];
            parts.extend(octets.into_iter().filter(|octets| !octets.is_empty()).map(IoSlice::new));
        }
        if let Err(error) = self.file.write_at(&mut parts, self.len) {
            return Err(self.cut_back(Trouble::at_write("write", &self.path, &error), true));
        }
        if let Err(error) = self.file.sync() {
            return Err(self.cut_back(Trouble::at_write("sync", &self.path, &error), false));
        }
        if !self.file.is_at(&self.path) {
            let text = format!("{} was removed or moved away", self.path.display());
            // What is answered with an error must not come back with the file.
            return Err(self.cut_back(Trouble::Fatal(text), false));
        }
        Ok(())
    }

    fn cut_back(&self, trouble: Trouble, usable: bool) -> Rejected {
        let cut = self.file.truncate(self.len).and_then(|()| self.file.sync());
        match (trouble, cut) {
            (Trouble::Full, Err(error)) => {
                let text = format!("truncate {}: {error}", self.path.display());
                Rejected { trouble: Trouble::Fatal(text), usable: false }
            }
            (trouble, _) => Rejected { usable: usable && trouble == Trouble::Full, trouble },
        }
    }

    /// Ends the segment with its index. Without one, nothing is lost: the next start searches through it.
    pub fn seal(self) -> Result<u64, Trouble> {
        let octets = encode_index(&self.index, self.name.salt, self.len);
        let written = self
            .file
            .write_at(&mut [IoSlice::new(&octets)], self.len)
            .map_err(|error| Trouble::at_write("write", &self.path, &error))
            .and_then(|()| self.file.sync().map_err(|error| Trouble::at_write("sync", &self.path, &error)));
        match written {
            Ok(()) => Ok(self.len + octets.len() as u64),
            Err(trouble) => Err(self.cut_back(trouble, false).trouble),
        }
    }
}
