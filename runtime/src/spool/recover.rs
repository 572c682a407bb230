//! What a start makes of the directory: segments are replayed in order, from their indexes where they have one.
//!
//! A segment without a good index is synced, read from the disk itself and searched; then it gets an index, so that it
//! is searched once. Damaged octets are copied to `corrupt/` first; when that fails, the segment is kept as it is.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::corrupt::Corrupt;
use super::disk::{Disk, DiskFile};
use super::index::Index;
use super::record::{Kind, RecordHeader};
use super::segment::{Found, Name, SEGMENT_HEADER, Scan, encode_index, index_of, other_version, read_index, scan};
use super::store::Layout;
use super::{Recovered, SpoolError};
use crate::mail::MessageId;
use crate::metrics::Metrics;

/// Octets of a read, and of the smaller ones that are tried where it fails.
const READ: usize = 1 << 20;
const BLOCK: usize = 4096;

pub(super) struct Recovery {
    pub index: Index,
    /// In the order of their ids: oldest first.
    pub recovered: Vec<Recovered>,
    pub next_segment: u64,
    pub next_body: u64,
}

/// Blocking. An error when the directory can't be read, or a newer Postern has written it; damage is no error.
pub(super) fn recover(
    disk: &dyn Disk,
    layout: &Layout,
    corrupt: &Corrupt,
    metrics: &Metrics,
) -> Result<Recovery, SpoolError> {
    let mut replay =
        Replay { disk, layout, corrupt, metrics, index: Index::default(), texts: HashMap::new(), next_body: 1 };
    let mut names = Vec::new();
    for (file_name, octets) in disk.list(&layout.segments).map_err(open_error("list", &layout.segments))? {
        match Name::parse(&file_name) {
            Some(name) => names.push((name, octets)),
            None => tracing::warn!(file_name, "not a segment of the spool; left alone"),
        }
    }
    names.sort_unstable();
    for (name, octets) in &names {
        replay.segment(*name, *octets)?;
    }
    replay.check_bodies()?;
    metrics.spool_octets.set(i64::try_from(replay.index.octets()).unwrap_or(i64::MAX));
    Ok(Recovery {
        recovered: replay.recovered(),
        next_body: replay.next_body,
        index: replay.index,
        next_segment: names.last().map_or(0, |(name, _)| name.number).saturating_add(1),
    })
}

fn open_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    move |error| SpoolError::Open { action, path: path.to_owned(), source_text: error.to_string() }
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    corrupt: &'a Corrupt,
    metrics: &'a Metrics,
    index: Index,
    /// Meta and state of the messages in the index.
    texts: HashMap<MessageId, (Bytes, Option<Bytes>)>,
    next_body: u64,
}

impl Replay<'_> {
    fn segment(&mut self, name: Name, octets: u64) -> Result<(), SpoolError> {
        let path = self.layout.segments.join(name.file_name());
        let file = self.disk.open(&path).map_err(open_error("open", &path))?;
        let mut first = [0; SEGMENT_HEADER];
        // One that ends before is empty.
        if file.read_at(&mut first, 0).is_ok()
            && let Some(version) = other_version(&first)
        {
            let source_text = format!("format version {version} is not one that this postern knows");
            return Err(SpoolError::Open { action: "read", path, source_text });
        }
        self.index.add_segment(name);
        self.index.seal(name.number);
        self.index.grow(name.number, octets);
        let found = match read_index(&*file, name.salt) {
            Some(found) => found,
            None => self.search(name, &path, &*file)?,
        };
        for found in found {
            self.apply(name.number, found);
        }
        Ok(())
    }

    fn apply(&mut self, segment: u64, found: Found) {
        let Found { offset, header, meta, state } = found;
        header.id.seen();
        self.next_body = self.next_body.max(header.body_file.saturating_add(1));
        // Body files that are not needed any more are found by looking at all of them.
        self.index.apply(segment, offset, &header);
        match header.kind {
            Kind::Store => drop(self.texts.insert(header.id, (meta, state))),
            Kind::State => {
                if let Some(texts) = self.texts.get_mut(&header.id) {
                    texts.1 = state;
                }
            }
            Kind::Done => drop(self.texts.remove(&header.id)),
            Kind::Index => {}
        }
    }

    fn search(&mut self, name: Name, path: &Path, file: &dyn DiskFile) -> Result<Vec<Found>, SpoolError> {
        file.settle().map_err(open_error("sync", path))?;
        let (data, all_read) = read_whole(file).map_err(open_error("read", path))?;
        let Scan { found, damaged, end, .. } = scan(&data, name.salt);
        let mut complete = all_read;
        for range in damaged {
            let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
            let octets = start.ok().zip(end.ok()).and_then(|(start, end)| data.get(start..end)).unwrap_or_default();
            complete &= self.corrupt.set_aside(self.disk, self.metrics, name.number, range.start, octets);
        }
        if !complete {
            self.index.keep(name.number);
            return Ok(found);
        }
        // Without its index the segment is searched again at the next start: no harm.
        let octets = encode_index(&index_of(&found, name.salt), name.salt, end as u64);
        let size = (end + octets.len()) as u64;
        let written = file.write_at(&mut [io::IoSlice::new(&octets)], end as u64);
        match written.and_then(|()| file.truncate(size)).and_then(|()| file.sync()) {
            Ok(()) => self.index.grow(name.number, size),
            Err(error) => tracing::warn!(%error, path = %path.display(), "the segment stays without index"),
        }
        Ok(found)
    }

    /// A message whose body file is gone or cut is not delivered; a body file without a message is removed.
    fn check_bodies(&mut self) -> Result<(), SpoolError> {
        let directory = &self.layout.bodies;
        let files = self.disk.list(directory).map_err(open_error("list", directory))?;
        let present: HashMap<PathBuf, u64> = files.into_iter().map(|(name, len)| (directory.join(name), len)).collect();
        let mut needed = HashSet::new();
        let mut broken = Vec::new();
        for (id, entry) in self.index.entries().filter(|(_, entry)| entry.body_file != 0) {
            let path = self.layout.body(id, entry.body_file);
            if present.get(&path) == Some(&entry.body_len) {
                needed.insert(path);
            } else {
                broken.push((id, entry.place));
            }
        }
        for (id, place) in broken {
            let name = self.index.name(place.segment);
            let record = name.and_then(|name| self.raw(name, place.offset, place.len));
            let octets = record.unwrap_or_default();
            if !self.corrupt.set_aside(self.disk, self.metrics, place.segment, place.offset, &octets) {
                self.index.keep(place.segment);
            }
            tracing::error!(%id, "the body file of a message is gone or has the wrong size");
            self.index.remove(id);
            self.texts.remove(&id);
        }
        for path in present.into_keys().filter(|path| !needed.contains(path)) {
            self.disk.remove(&path).map_err(open_error("remove", &path))?;
        }
        Ok(())
    }

    fn raw(&self, name: Name, offset: u64, len: u64) -> Option<Vec<u8>> {
        let file = self.disk.open(&self.layout.segments.join(name.file_name())).ok()?;
        let mut octets = vec![0; usize::try_from(len).ok()?];
        file.read_at(&mut octets, offset).ok()?;
        RecordHeader::decode(&octets, name.salt).map(|_| octets)
    }

    fn recovered(&mut self) -> Vec<Recovered> {
        let texts = &mut self.texts;
        let recovered = self.index.entries().filter_map(|(id, entry)| {
            let (meta, state) = texts.remove(&id)?;
            Some(Recovered { id, meta, state, size: entry.size })
        });
        let mut recovered: Vec<_> = recovered.collect();
        recovered.sort_unstable_by_key(|recovered| recovered.id);
        recovered
    }
}

/// All octets of a file; blocks that can't be read are zeros, and then the second value is false.
fn read_whole(file: &dyn DiskFile) -> io::Result<(Vec<u8>, bool)> {
    let len = file.len()?;
    let mut data = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
    let mut all_read = true;
    let mut offset = 0;
    for chunk in data.chunks_mut(READ) {
        if file.read_at(chunk, offset).is_err() {
            let mut at = offset;
            for block in chunk.chunks_mut(BLOCK) {
                if file.read_at(block, at).is_err() {
                    block.fill(0);
                    all_read = false;
                }
                at += block.len() as u64;
            }
        }
        offset += chunk.len() as u64;
    }
    Ok((data, all_read))
}
