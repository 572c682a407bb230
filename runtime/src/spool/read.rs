//! Reading a message back. Every octet is checked against its CRC before any is handed out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::disk::DiskFile;
use super::index::{Entry, Place};
use super::record::{Kind, RECORD_HEADER, RecordHeader, Salt};
use super::stage::CHUNK;
use super::store::Shared;
use super::trouble::Trouble;
use super::{SpoolError, Stored};
use crate::mail::body::BodyFile;
use crate::mail::{Body, Header, Message, MessageId};

/// A record moves when its segment is compacted; that it is gone so often in a row has another cause.
const ATTEMPTS: usize = 8;
/// Records up to this size are read with one call.
const SMALL: u64 = 512 * 1024;

/// Why a record can't be read.
pub(super) enum Failure {
    /// The octets at this place are not those that were written.
    Damaged(Place),
    /// The file is not there (any more).
    Gone(PathBuf),
    /// The disk gives an error for them, which may pass.
    Disk(PathBuf, io::Error),
}

/// A record's place with the way there.
#[derive(Clone)]
pub(super) struct At {
    pub place: Place,
    salt: Salt,
    path: PathBuf,
}

pub(super) struct Located {
    pub entry: Entry,
    pub record: At,
    /// The state, when it has a record of its own.
    pub state: Option<At>,
}

/// A record as it stands on disk.
pub(super) struct Raw {
    at: At,
    file: Box<dyn DiskFile>,
    pub header: RecordHeader,
    /// Meta, state and header of the mail: checked.
    pub head: Bytes,
    /// The first octets of the record, fixed header included.
    first: Bytes,
}

impl Shared {
    /// Blocking.
    pub fn read(&self, id: MessageId) -> Result<Stored, SpoolError> {
        let mut gone = PathBuf::new();
        for _ in 0..ATTEMPTS {
            let located = self.locate(id).ok_or(SpoolError::NotFound(id))?;
            match self.read_located(id, &located) {
                Ok(stored) => return Ok(stored),
                // Removed after it was looked up: the message has moved, or is done.
                Err(Failure::Gone(path)) => gone = path,
                Err(Failure::Damaged(place)) => {
                    self.set_aside(id, &located.entry, place);
                    return Err(SpoolError::Damaged(id));
                }
                Err(Failure::Disk(path, error)) => {
                    return Err(SpoolError::Open { action: "read", path, source_text: error.to_string() });
                }
            }
        }
        Err(self.missing(id, &gone))
    }

    /// A file is gone to which the index leads. Where it is one body, and all around it is there, that costs this
    /// message; a segment or a directory that is gone is the disk's trouble, and everybody's.
    fn missing(&self, id: MessageId, path: &Path) -> SpoolError {
        // Done meanwhile.
        let Some(located) = self.locate(id) else { return SpoolError::NotFound(id) };
        if !self.lacks_only_its_body(id, &located, path) {
            return self.failed(Trouble::Fatal(format!("{} is gone", path.display())));
        }
        self.set_aside(id, &located.entry, located.record.place);
        SpoolError::Damaged(id)
    }

    fn lacks_only_its_body(&self, id: MessageId, located: &Located, path: &Path) -> bool {
        let Entry { body_file, .. } = located.entry;
        body_file != 0
            && self.layout.body(id, body_file) == path
            && self.disk.has_directory(&self.layout.bodies)
            && self.disk.open(&located.record.path).is_ok()
    }

    pub fn locate(&self, id: MessageId) -> Option<Located> {
        let index = self.index();
        let entry = index.find(id)?;
        let at = |place: Place| {
            let name = index.name(place.segment)?;
            Some(At { place, salt: name.salt, path: self.layout.segments.join(name.file_name()) })
        };
        let state = match entry.state {
            Some(place) => Some(at(place)?),
            None => None,
        };
        Some(Located { entry, record: at(entry.place)?, state })
    }

    fn read_located(&self, id: MessageId, located: &Located) -> Result<Stored, Failure> {
        let raw = self.read_record(id, Kind::Store, &located.record)?;
        let head = raw.header.split(&raw.head).ok_or_else(|| raw.damaged())?;
        let state = match &located.state {
            Some(at) => Some(self.read_state(id, at)?),
            None => head.state.map(|state| raw.head.slice_ref(state)),
        };
        let header = Header::parse(&raw.head.slice_ref(head.header));
        let meta = raw.head.slice_ref(head.meta);
        Ok(Stored { meta, state, message: Message { header, body: self.read_body(id, raw)? } })
    }

    pub fn read_state(&self, id: MessageId, at: &At) -> Result<Bytes, Failure> {
        Ok(self.read_record(id, Kind::State, at)?.head)
    }

    /// Its body is not checked yet.
    pub fn read_record(&self, id: MessageId, kind: Kind, at: &At) -> Result<Raw, Failure> {
        let failed = |error| Failure::at(at, error);
        let file = self.disk.open(&at.path).map_err(failed)?;
        let first = read(&*file, at.place.offset, at.place.len.min(SMALL)).map_err(failed)?;
        let header = RecordHeader::decode(&first, at.salt).ok_or(Failure::Damaged(at.place))?;
        if (header.kind, header.id, header.record_len()) != (kind, id, at.place.len) {
            return Err(Failure::Damaged(at.place));
        }
        let mut raw = Raw { at: at.clone(), file, header, head: Bytes::new(), first };
        raw.head = raw.part(RECORD_HEADER as u64, raw.header.head_len())?;
        if crc32fast::hash(&raw.head) == raw.header.head_crc { Ok(raw) } else { Err(raw.damaged()) }
    }

    fn read_body(&self, id: MessageId, raw: Raw) -> Result<Body, Failure> {
        let len = raw.header.body_len;
        if !raw.header.separated {
            return Ok(Body::absent());
        }
        if raw.header.body_file != 0 {
            return self.read_body_file(id, &raw);
        }
        let start = RECORD_HEADER as u64 + raw.header.head_len();
        if len > self.settings.inline_octets {
            raw.check_body(len, |offset, len| raw.part(start + offset, len))?;
            let body = BodyFile::new;
            return in_file(raw.file, raw.at.place.offset + start, len, body)
                .map_err(|error| Failure::at(&raw.at, error));
        }
        let body = raw.part(start, len)?;
        raw.check_body(len, |offset, len| Ok(slice(&body, offset, len).unwrap_or_default()))?;
        Ok(Body::from_bytes(body))
    }

    fn read_body_file(&self, id: MessageId, raw: &Raw) -> Result<Body, Failure> {
        let at = At { path: self.layout.body(id, raw.header.body_file), ..raw.at.clone() };
        let failed = |error| Failure::at(&at, error);
        let file = self.disk.open(&at.path).map_err(failed)?;
        let len = raw.header.body_len;
        if file.len().map_err(failed)? != len {
            return Err(raw.damaged());
        }
        raw.check_body(len, |offset, len| read(&*file, offset, len).map_err(failed))?;
        in_file(file, 0, len, |file, _, len| BodyFile::kept(file, len, at.path.clone())).map_err(failed)
    }

    /// Counts the damage and keeps what is there of the record and of its body file.
    pub fn set_aside(&self, id: MessageId, entry: &Entry, place: Place) {
        let name = self.index().name(place.segment);
        let octets = name.and_then(|name| {
            let file = self.disk.open(&self.layout.segments.join(name.file_name())).ok()?;
            read(&*file, place.offset, place.len).ok()
        });
        let octets = octets.unwrap_or_default();
        let kept = self.corrupt.set_aside(&*self.disk, &self.metrics, place.segment, place.offset, &octets);
        if !kept || octets.is_empty() {
            self.index().keep(place.segment);
        }
        if entry.body_file != 0 {
            let path = self.layout.body(id, entry.body_file);
            let copy = path.file_name().map(|name| self.layout.corrupt.join(name));
            // It may have been set aside before; without it, there is still the record.
            let _ = copy.map(|copy| self.disk.link(&path, &copy));
        }
    }
}

impl Failure {
    fn at(at: &At, error: io::Error) -> Self {
        match (error.kind(), Errno::from_io_error(&error)) {
            (io::ErrorKind::NotFound, _) => Self::Gone(at.path.clone()),
            // The file is shorter than it was, or the disk can't read the sector any more.
            (io::ErrorKind::UnexpectedEof, _) | (_, Some(Errno::IO)) => Self::Damaged(at.place),
            _ => Self::Disk(at.path.clone(), error),
        }
    }
}

impl Raw {
    /// The inline body, as it stands there: not checked.
    pub fn inline_body(&self) -> Result<Bytes, Failure> {
        self.part(RECORD_HEADER as u64 + self.header.head_len(), self.header.inline_len())
    }

    fn damaged(&self) -> Failure {
        Failure::Damaged(self.at.place)
    }

    /// A part of the record; offsets count from its start.
    fn part(&self, offset: u64, len: u64) -> Result<Bytes, Failure> {
        match slice(&self.first, offset, len) {
            Some(part) => Ok(part),
            None => read(&*self.file, self.at.place.offset + offset, len).map_err(|error| Failure::at(&self.at, error)),
        }
    }

    fn check_body(&self, len: u64, read: impl Fn(u64, u64) -> Result<Bytes, Failure>) -> Result<(), Failure> {
        let mut crc = crc32fast::Hasher::new();
        let mut offset = 0;
        while offset < len {
            let chunk = (len - offset).min(CHUNK as u64);
            crc.update(&read(offset, chunk)?);
            offset += chunk;
        }
        if crc.finalize() == self.header.body_crc { Ok(()) } else { Err(self.damaged()) }
    }
}

fn slice(octets: &Bytes, offset: u64, len: u64) -> Option<Bytes> {
    let (start, end) = (usize::try_from(offset).ok()?, usize::try_from(offset.checked_add(len)?).ok()?);
    (end <= octets.len()).then(|| octets.slice(start..end))
}

fn read(file: &dyn DiskFile, offset: u64, len: u64) -> io::Result<Bytes> {
    let mut octets = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
    file.read_at(&mut octets, offset)?;
    Ok(octets.into())
}

/// A body that stays in its file, or comes into memory where there is no real file.
fn in_file(
    file: Box<dyn DiskFile>,
    offset: u64,
    len: u64,
    body: impl FnOnce(std::fs::File, u64, u64) -> BodyFile,
) -> io::Result<Body> {
    match file.into_std() {
        Ok(file) => Ok(Body::from_file(Arc::new(body(file, offset, len)))),
        Err(file) => Ok(Body::from_bytes(read(&*file, offset, len)?)),
    }
}
