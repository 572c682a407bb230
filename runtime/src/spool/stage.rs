//! A batch made ready: payloads encoded and summed, large bodies in files of their own, all before the committer sees it.
//!
//! A body file is durable, with its name, before the record that refers to it is written.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use super::record::{Draft, Head, Kind, RecordHeader, TooLarge};
use super::store::Shared;
use super::trouble::Trouble;
use super::{Batch, Entry, SpoolError};
use crate::mail::Body;

/// Octets read at once from a body in a file.
pub(super) const CHUNK: usize = 64 * 1024;

/// Ready to be written.
pub(super) struct Staged {
    pub drafts: Vec<Draft>,
    /// Removes its files again unless the batch is committed.
    bodies: Vec<StagedBody>,
}

impl Staged {
    pub fn of(drafts: Vec<Draft>) -> Self {
        Self { drafts, bodies: Vec::new() }
    }

    pub fn octets(&self) -> u64 {
        self.drafts.iter().map(Draft::len).sum()
    }

    /// The records that refer to the body files are durable.
    pub fn committed(mut self) {
        self.bodies.iter_mut().for_each(|body| body.needed = true);
    }
}

struct StagedBody {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    needed: bool,
}

impl Drop for StagedBody {
    fn drop(&mut self) {
        if !self.needed {
            // What is left over is removed at the next start.
            let _ = self.disk.remove(&self.path);
        }
    }
}

/// False when all of the batch is in memory and small, so that staging it does not block.
pub(super) fn blocks(batch: &Batch) -> bool {
    batch.store.iter().any(|entry| entry.message.body.as_memory().is_none_or(|body| body.len() > 8 * CHUNK))
}

/// Blocking when [`blocks`] says so.
pub(super) fn stage(shared: &Shared, batch: &Batch) -> Result<Staged, SpoolError> {
    let mut staged = Staged::of(Vec::with_capacity(batch.store.len() + batch.state.len() + batch.done.len()));
    for entry in &batch.store {
        stage_entry(shared, entry, &mut staged)?;
    }
    if !staged.bodies.is_empty() {
        let directory = &shared.layout.bodies;
        let synced = shared.disk.sync_directory(directory);
        synced.map_err(|error| shared.failed(Trouble::at_write("sync", directory, &error)))?;
    }
    for (id, state) in &batch.state {
        staged.drafts.push(Draft::state(*id, state).map_err(too_large)?);
    }
    staged.drafts.extend(batch.done.iter().map(|id| Draft::done(*id)));
    Ok(staged)
}

fn too_large(TooLarge: TooLarge) -> SpoolError {
    SpoolError::Failed("a part of the message is larger than 4 GiB".to_owned())
}

fn stage_entry(shared: &Shared, entry: &Entry, staged: &mut Staged) -> Result<(), SpoolError> {
    let body = &entry.message.body;
    let mut header = RecordHeader::new(Kind::Store, entry.id);
    header.separated = body.is_separated();
    header.body_len = body.len();
    let inline = match body.as_memory() {
        Some(octets) => Some(octets.clone()),
        None if body.len() <= shared.settings.inline_octets => Some(read(shared, body, 0, usize::MAX)?),
        None => None,
    };
    match &inline {
        Some(octets) => header.body_crc = crc32fast::hash(octets),
        None => {
            header.body_file = shared.next_body();
            let (body_crc, file) = stage_body(shared, entry, header.body_file)?;
            header.body_crc = body_crc;
            staged.bodies.push(file);
        }
    }
    let mail_header = entry.message.header.to_bytes();
    let head = Head { meta: &entry.meta, state: entry.state.as_deref(), header: &mail_header };
    staged.drafts.push(Draft::new(header, head, inline.unwrap_or_default()).map_err(too_large)?);
    Ok(())
}

/// An error here is the reader's, not the spool's: the file of the body is not ours.
fn read(shared: &Shared, body: &Body, offset: u64, len: usize) -> Result<Bytes, SpoolError> {
    body.read_at(offset, len).map_err(|error| SpoolError::Open {
        action: "read a body for",
        path: shared.settings.directory.clone(),
        source_text: error.to_string(),
    })
}

/// Gives the body a name in the spool, or a copy when its file can't be linked. Gives its CRC too.
fn stage_body(shared: &Shared, entry: &Entry, number: u64) -> Result<(u32, StagedBody), SpoolError> {
    let body = &entry.message.body;
    let path = shared.layout.body(entry.id, number);
    let disk = &*shared.disk;
    let staged = StagedBody { disk: shared.disk.clone(), path: path.clone(), needed: false };
    let linked = body.as_file().and_then(|file| file.path()).map(|from| disk.link(from, &path));
    let file = match linked {
        Some(Ok(())) => disk.open(&path).map_err(|error| shared.failed(Trouble::new("open", &path, &error)))?,
        Some(Err(error)) if !may_copy(&error) => return Err(shared.failed(Trouble::new("link", &path, &error))),
        _ => {
            let file = disk.create(&path).map_err(|error| shared.failed(Trouble::new("create", &path, &error)))?;
            copy(shared, body, |octets, offset| {
                let written = file.write_at(&mut [IoSlice::new(octets)], offset);
                written.map_err(|error| shared.failed(Trouble::at_write("write", &path, &error)))
            })?;
            file
        }
    };
    file.sync().map_err(|error| shared.failed(Trouble::at_write("sync", &path, &error)))?;
    if let Some(digest) = body.as_file().and_then(|file| file.digest()) {
        return Ok((digest.crc, staged));
    }
    let mut crc = crc32fast::Hasher::new();
    copy(shared, body, |octets, _| {
        crc.update(octets);
        Ok(())
    })?;
    Ok((crc.finalize(), staged))
}

/// The body is on another file system, its name is gone, or it has as many names as it may have.
fn may_copy(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, NotFound, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | NotFound | PermissionDenied | TooManyLinks | Unsupported)
}

fn copy(
    shared: &Shared,
    body: &Body,
    mut take: impl FnMut(&[u8], u64) -> Result<(), SpoolError>,
) -> Result<(), SpoolError> {
    let mut offset = 0;
    while offset < body.len() {
        let octets = read(shared, body, offset, CHUNK)?;
        take(&octets, offset)?;
        offset += octets.len() as u64;
    }
    Ok(())
}
