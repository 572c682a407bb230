//! The open segment: one write and one sync for a whole group of batches.
//!
//! What a group was answered is what the file holds: after an error the file is cut back to where the last good group
//! ended, so that mail that was answered 4xx does not come back at the next start. A sync that failed is never repeated
//! to turn it into a success, because the kernel marks such pages clean; the segment takes nothing more.
//!
//! A write that makes a file longer has its sync write down the file's size as well: a second write, and on a file system with
//! a journal a commit of that. So the file is made longer in steps, by zeros behind a group; the groups after it replace them.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::record::{Draft, RECORD_HEADER};
use super::segment::{Name, encode_index, index_record};
use super::trouble::Trouble;

/// The longest step.
const MAX_STEP: usize = 1 << 20;
/// The largest group that zeros are written behind; what they save is the same for each, what they cost is not.
const MAX_PADDED: u64 = 32 << 10;
static ZEROS: [u8; MAX_STEP] = [0; MAX_STEP];

pub(super) struct OpenSegment {
    pub name: Name,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Where the next group goes; all before is synced.
    len: u64,
    /// Octets of the file: from `len` on they are zeros.
    size: u64,
    /// By how much the file is made longer at a time.
    step: usize,
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
    /// `segment_octets`: how long it is to become.
    pub fn create(disk: &dyn Disk, directory: &Path, name: Name, segment_octets: u64) -> Result<Self, Trouble> {
        let path = directory.join(name.file_name());
        let file = disk.create(&path).map_err(|error| Trouble::new("create", &path, &error))?;
        let step = usize::try_from(segment_octets / 2).unwrap_or(MAX_STEP).min(MAX_STEP);
        let segment = Self { name, path, file, len: 0, size: 0, step, group: 0, index: Vec::new() };
        segment.begin(disk, directory, &name.header()).inspect_err(|_| {
            // An empty segment does no harm: the next start removes it.
            let _ = disk.remove(&segment.path);
        })?;
        let len = name.header().len() as u64;
        Ok(Self { len, size: len, ..segment })
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

    /// Octets that it takes on the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn is_empty(&self) -> bool {
        self.group == 0
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a group durable, and says where each record is. Sets the place of each record in its header. `has_room`: the
    /// disk has room for zeros, too.
    pub fn append<'a>(
        &mut self,
        batches: impl Iterator<Item = &'a mut [Draft]>,
        has_room: bool,
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
        self.write(&headers, &drafts, has_room)?;

        self.group += 1;
        let mut placed = Vec::with_capacity(drafts.len());
        for draft in drafts {
            index_record(&mut self.index, self.name.salt, self.len, &draft.header, &draft.head);
            placed.push((self.len, draft));
            self.len += draft.len();
        }
        Ok(placed)
    }

    fn write(&mut self, headers: &[u8], drafts: &[&Draft], has_room: bool) -> Result<(), Rejected> {
        let mut parts = Vec::with_capacity(drafts.len() * 3 + 1);
        for (header, draft) in headers.chunks_exact(RECORD_HEADER).zip(drafts) {
            let octets: [&[u8]; 3] = [header, &draft.head, &draft.body];
            parts.extend(octets.into_iter().filter(|octets| !octets.is_empty()).map(IoSlice::new));
        }
        let octets: u64 = drafts.iter().map(|draft| draft.len()).sum();
        let zeros = self.zeros(octets, has_room);
        parts.extend((!zeros.is_empty()).then(|| IoSlice::new(zeros)));
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
        self.size = self.size.max(self.len + octets + zeros.len() as u64);
        Ok(())
    }

    /// What goes behind so many octets of records. A large group makes the file longer by itself: with zeros all would be
    /// written twice.
    fn zeros(&self, octets: u64, has_room: bool) -> &'static [u8] {
        let fits = self.len + octets <= self.size;
        let wanted = !fits && has_room && octets <= MAX_PADDED.min(self.step as u64 / 4);
        if wanted { ZEROS.get(..self.step).unwrap_or_default() } else { &[] }
    }

    fn cut_back(&mut self, trouble: Trouble, usable: bool) -> Rejected {
        let cut = self.file.truncate(self.len).and_then(|()| self.file.sync());
        self.size = self.len;
        match (trouble, cut) {
            (Trouble::Full, Err(error)) => {
                let text = format!("truncate {}: {error}", self.path.display());
                Rejected { trouble: Trouble::Fatal(text), usable: false }
            }
            (trouble, _) => Rejected { usable: usable && trouble == Trouble::Full, trouble },
        }
    }

    /// Ends the segment with its index. Without one, nothing is lost: the next start searches through it.
    pub fn seal(mut self) -> Result<u64, Trouble> {
        let octets = encode_index(&self.index, self.name.salt, self.len);
        let end = self.len + octets.len() as u64;
        let cut = || if end < self.size { self.file.truncate(end) } else { Ok(()) };
        let written = self
            .file
            .write_at(&mut [IoSlice::new(&octets)], self.len)
            .and_then(|()| cut())
            .map_err(|error| Trouble::at_write("write", &self.path, &error))
            .and_then(|()| self.file.sync().map_err(|error| Trouble::at_write("sync", &self.path, &error)));
        match written {
            Ok(()) => Ok(end),
            Err(trouble) => Err(self.cut_back(trouble, false).trouble),
        }
    }
}
