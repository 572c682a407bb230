//! A segment as octets: its name, its header, its records, and the index that ends it once it is sealed.
//!
//! ```text
//! "PSTNSEG\x1a" · version 4 · zero 4 · number 8 · salt 8 · CRC 4         segment header
//! record, record, …                                                      see `record`
//! record of kind Index: offset 8 · header without salt · meta · state, for each record that still matters
//! offset of the index record 8 · "PSTNIDX\x1a" · CRC over salt and both 4
//! ```
//! The salt is in the file's name too, so a damaged first block costs one record at most. No salt stands within the index:
//! a search for records never takes a copy of a header for a record.

use std::collections::HashMap;
use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};

use super::disk::DiskFile;
use super::record::{Kind, RECORD_HEADER, RecordHeader, Salt};
use crate::mail::MessageId;

pub(super) const SEGMENT_HEADER: usize = 36;
const MAGIC: &[u8; 8] = b"PSTNSEG\x1a";
const INDEX_MAGIC: &[u8; 8] = b"PSTNIDX\x1a";
const VERSION: u32 = 1;
const TRAILER: usize = 20;
const SALT_LEN: usize = 8;

/// Segments are replayed in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub number: u64,
    pub salt: Salt,
}

impl Name {
    pub fn new(number: u64) -> Self {
        Self { number, salt: rand::random() }
    }

    pub fn file_name(&self) -> String {
        format!("{:016x}-{:016x}.segment", self.number, u64::from_be_bytes(self.salt))
    }

    pub fn parse(file_name: &str) -> Option<Self> {
        let (number, salt) = file_name.strip_suffix(".segment")?.split_once('-')?;
        let name = Self {
            number: u64::from_str_radix(number, 16).ok()?,
            salt: u64::from_str_radix(salt, 16).ok()?.to_be_bytes(),
        };
        (name.file_name() == file_name).then_some(name)
    }

    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER);
        out.put_slice(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(0);
        out.put_u64_le(self.number);
        out.put_slice(&self.salt);
        let crc = crc32fast::hash(&out);
        out.put_u32_le(crc);
        out
    }
}

/// The format version in a segment's first octets; `None` when they are damaged, and then ours is assumed.
pub(super) fn other_version(data: &[u8]) -> Option<u32> {
    let mut header = data.get(..SEGMENT_HEADER)?;
    let crc = crc32fast::hash(header.get(..SEGMENT_HEADER - 4)?);
    if !header.ends_with(&crc.to_le_bytes()) || !header.starts_with(MAGIC) {
        return None;
    }
    header.advance(MAGIC.len());
    Some(header.get_u32_le()).filter(|&version| version != VERSION)
}

/// A record that was found, without header and body of the mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub offset: u64,
    pub header: RecordHeader,
    pub meta: Bytes,
    pub state: Option<Bytes>,
}

/// What a search through a segment that has no index gave.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub found: Vec<Found>,
    /// Where octets are that make no record, or a record that must not be used.
    pub damaged: Vec<Range<u64>>,
    /// Where the records end: behind it are the zeros by which the file was made longer, or nothing.
    pub end: usize,
    /// All of its records were synced: there is an index, only its trailer is missing.
    sealed: bool,
    last_group: u64,
}

/// Finds the records of a segment. Damage costs the records that it hit and no other.
pub(super) fn scan(data: &[u8], salt: Salt) -> Scan {
    let zeros = data.iter().rev().take_while(|octet| **octet == 0).count();
    // The last octets of a record may be zeros themselves.
    let content = data.len() - zeros;
    let mut scan = Scan { end: data.len(), ..Scan::default() };
    let mut at = SEGMENT_HEADER.min(data.len());
    while at < data.len() && !scan.sealed {
        if at >= content {
            scan.end = at;
            break;
        }
        let rest = data.get(at..).unwrap_or_default();
        at = match RecordHeader::decode(rest, salt) {
            Some(header) => scan.take(at, rest, header),
            None => {
                let searched = rest.get(1..).unwrap_or_default();
                let next = searched.windows(SALT_LEN).position(|octets| octets == salt);
                let next = next.map_or(data.len(), |distance| at + 1 + distance);
                scan.damaged.push(at as u64..next as u64);
                next
            }
        };
    }
    scan.drop_torn();
    scan
}

impl Scan {
    /// Takes the record that starts `rest`; gives where the next one starts. A good header is trusted for its length,
    /// so that nothing within a payload is ever taken for a record.
    fn take(&mut self, at: usize, rest: &[u8], header: RecordHeader) -> usize {
        if header.kind == Kind::Index {
            self.sealed = true;
            return at;
        }
        self.last_group = self.last_group.max(header.group);
        let len = usize::try_from(header.record_len()).unwrap_or(usize::MAX).min(rest.len());
        let end = at + len;
        match whole(rest, &header) {
            Some((meta, state)) => self.found.push(Found { offset: at as u64, header, meta, state }),
            None => self.damaged.push(at as u64..end as u64),
        }
        end
    }

    /// A batch that is not whole is dropped, but only in the last group: when a later group is there, the sync of this
    /// one had succeeded, so what is missing was damaged later and the rest of it was acknowledged.
    fn drop_torn(&mut self) {
        if self.sealed {
            return;
        }
        let mut present: HashMap<u32, u32> = HashMap::new();
        let last = self.last_group;
        for found in self.found.iter().filter(|found| found.header.group == last) {
            *present.entry(found.header.batch).or_default() += 1;
        }
        let damaged = &mut self.damaged;
        self.found.retain(|found| {
            let header = &found.header;
            let keep = header.group != last || present.get(&header.batch) == Some(&header.count);
            if !keep {
                damaged.push(found.offset..found.offset.saturating_add(header.record_len()));
            }
            keep
        });
    }
}

/// Meta and state of the record that starts `data`, if all of it is as it was written.
fn whole(data: &[u8], header: &RecordHeader) -> Option<(Bytes, Option<Bytes>)> {
    let payload = data.get(RECORD_HEADER..usize::try_from(header.record_len()).ok()?)?;
    let (head, body) = payload.split_at_checked(usize::try_from(header.head_len()).ok()?)?;
    if crc32fast::hash(head) != header.head_crc {
        return None;
    }
    if header.body_file == 0 && crc32fast::hash(body) != header.body_crc {
        return None;
    }
    let head = header.split(head)?;
    Some((Bytes::copy_from_slice(head.meta), head.state.map(Bytes::copy_from_slice)))
}

/// Adds a record to an index that grows along with its segment.
pub(super) fn index_record(index: &mut Vec<u8>, salt: Salt, offset: u64, header: &RecordHeader, head: &[u8]) {
    index.put_u64_le(offset);
    let start = index.len();
    header.encode(salt, index);
    index.drain(start..start + SALT_LEN);
    let kept = header.head_len() - u64::from(header.header_len);
    index.put_slice(usize::try_from(kept).ok().and_then(|kept| head.get(..kept)).unwrap_or_default());
}

/// The end of a sealed segment: the index record, to be written at `offset`, and the trailer.
pub(super) fn encode_index(index: &[u8], salt: Salt, offset: u64) -> Vec<u8> {
    let body = prune(index, salt);
    let mut header = RecordHeader::new(Kind::Index, MessageId::from_u64(0));
    header.body_len = body.len() as u64;
    header.body_crc = crc32fast::hash(&body);
    let mut out = Vec::with_capacity(RECORD_HEADER + body.len() + TRAILER);
    header.encode(salt, &mut out);
    out.put_slice(&body);
    out.put_slice(&trailer(salt, offset));
    out
}

fn trailer(salt: Salt, offset: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(TRAILER);
    out.put_u64_le(offset);
    out.put_slice(INDEX_MAGIC);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt);
    crc.update(&out);
    out.put_u32_le(crc.finalize());
    out
}

/// Leaves out what a later record of the same segment has overtaken. Most messages come and go within one segment: of
/// them only the `done` stays, for an older segment may hold an earlier version.
fn prune(index: &[u8], salt: Salt) -> Vec<u8> {
    let entries = entries(index, salt).unwrap_or_default();
    // True once the message was stored anew or done: nothing before that counts.
    let mut settled: HashMap<MessageId, bool> = HashMap::new();
    let mut kept: Vec<&[u8]> = Vec::new();
    for (header, octets) in entries.iter().rev().map(|(found, octets)| (&found.header, octets)) {
        let settles = header.kind != Kind::State;
        match settled.get(&header.id) {
            Some(true) => continue,
            Some(false) if !settles => continue,
            _ => settled.insert(header.id, settles),
        };
        kept.push(octets);
    }
    kept.reverse();
    kept.concat()
}

/// The entries of an index, each also as the octets it stands in; `None` when any is not as it was written.
fn entries(index: &[u8], salt: Salt) -> Option<Vec<(Found, &[u8])>> {
    let mut entries = Vec::new();
    let mut rest = index;
    while !rest.is_empty() {
        let start = rest;
        let offset = rest.try_get_u64_le().ok()?;
        let (fixed, after) = rest.split_at_checked(RECORD_HEADER - SALT_LEN)?;
        let header = RecordHeader::decode(&[&salt, fixed].concat(), salt)?;
        let (meta, after) = after.split_at_checked(usize::try_from(header.meta_len).ok()?)?;
        let (state, after) = after.split_at_checked(usize::try_from(header.state_len).ok()?)?;
        let state = header.has_state.then(|| Bytes::copy_from_slice(state));
        rest = after;
        let octets = start.get(..start.len() - rest.len())?;
        entries.push((Found { offset, header, meta: Bytes::copy_from_slice(meta), state }, octets));
    }
    Some(entries)
}

/// What the index of a sealed segment says; `None` when there is none, or it can't be trusted.
pub(super) fn read_index(file: &dyn DiskFile, salt: Salt) -> Option<Vec<Found>> {
    let end = file.len().ok()?.checked_sub(TRAILER as u64)?;
    let mut last = [0; TRAILER];
    file.read_at(&mut last, end).ok()?;
    let offset = last.as_slice().get_u64_le();
    if last != *trailer(salt, offset) {
        return None;
    }
    let mut octets = vec![0; usize::try_from(end.checked_sub(offset)?).ok()?];
    file.read_at(&mut octets, offset).ok()?;
    let header = RecordHeader::decode(&octets, salt)?;
    let body = octets.get(RECORD_HEADER..)?;
    if header.kind != Kind::Index || header.body_len != body.len() as u64 || header.body_crc != crc32fast::hash(body) {
        return None;
    }
    Some(entries(body, salt)?.into_iter().map(|(found, _)| found).collect())
}

/// An index made anew for a segment that recovery had to search through.
pub(super) fn index_of(found: &[Found], salt: Salt) -> Vec<u8> {
    let mut index = Vec::new();
    for found in found {
        let head = [&found.meta, found.state.as_deref().unwrap_or_default()].concat();
        index_record(&mut index, salt, found.offset, &found.header, &head);
    }
    index
}

/// Takes any octets for a segment and for an index: how many records were found. For fuzzing, hence without a disk.
pub fn recover_segment(data: &[u8]) -> usize {
    let salt = data.get(SEGMENT_HEADER - 12..SEGMENT_HEADER - 4).and_then(|salt| salt.try_into().ok());
    let salt: Salt = salt.unwrap_or_default();
    let indexed = entries(data.get(SEGMENT_HEADER..).unwrap_or_default(), salt).map_or(0, |entries| entries.len());
    let versions = usize::from(other_version(data).is_some());
    scan(data, salt).found.len() + indexed + versions
}
