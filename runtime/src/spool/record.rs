//! One record: a fixed header and a payload, each under a CRC.
//!
//! ```text
//! salt 8 · kind 1 · flags 1 · zero 2 · id 8 · group 8 · batch 4 · position 4 · count 4 · meta 4 · state 4 · header 4
//! · body 8 · body file 8 · CRC of meta, state, header 4 · CRC of body 4 · CRC of all before 4
//! meta · state · header · body (unless it is in a file of its own)
//! ```
//! Integers are little-endian, the CRC is CRC-32 (IEEE). The salt is a random number of the segment: a search for the
//! next record after damage looks for it, and what a sender put into a mail can't pass for a record. A batch is whole
//! when all its positions from 0 to `count` are there, so a torn tail drops it whole.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::mail::MessageId;

/// Octets of the fixed part.
pub(super) const RECORD_HEADER: usize = 80;
const CHECKED: usize = RECORD_HEADER - 4;

const SEPARATED: u8 = 1;
const HAS_STATE: u8 = 2;

pub(super) type Salt = [u8; 8];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Store = 1,
    State = 2,
    Done = 3,
    /// The index at the end of a sealed segment, as the body of a record.
    Index = 4,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub kind: Kind,
    /// `Body::is_separated`.
    pub separated: bool,
    pub has_state: bool,
    pub id: MessageId,
    /// Number of the write and sync that the record came with. Grows within a segment.
    pub group: u64,
    /// Number of the batch within the group.
    pub batch: u32,
    /// Number of the record within its batch.
    pub position: u32,
    /// Records in the batch.
    pub count: u32,
    pub meta_len: u32,
    pub state_len: u32,
    pub header_len: u32,
    pub body_len: u64,
    /// Number of the file that holds the body; 0: the body is in the record.
    pub body_file: u64,
    /// Of meta, state and header.
    pub head_crc: u32,
    pub body_crc: u32,
}

impl RecordHeader {
    pub fn new(kind: Kind, id: MessageId) -> Self {
        Self {
            kind,
            separated: true,
            has_state: false,
            id,
            group: 0,
            batch: 0,
            position: 0,
            count: 1,
            meta_len: 0,
            state_len: 0,
            header_len: 0,
            body_len: 0,
            body_file: 0,
            head_crc: 0,
            body_crc: 0,
        }
    }

    pub fn encode(&self, salt: Salt, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_slice(&salt);
        out.put_u8(self.kind as u8);
        let separated = if self.separated { SEPARATED } else { 0 };
        out.put_u8(separated | if self.has_state { HAS_STATE } else { 0 });
        out.put_u16_le(0);
        out.put_u64_le(self.id.as_u64());
        out.put_u64_le(self.group);
        for number in [self.batch, self.position, self.count, self.meta_len, self.state_len, self.header_len] {
            out.put_u32_le(number);
        }
        out.put_u64_le(self.body_len);
        out.put_u64_le(self.body_file);
        out.put_u32_le(self.head_crc);
        out.put_u32_le(self.body_crc);
        let crc = crc32fast::hash(out.get(start..).unwrap_or_default());
        out.put_u32_le(crc);
    }

    /// From the first octets of `data`; `None` when there is no header of that segment.
    pub fn decode(data: &[u8], salt: Salt) -> Option<Self> {
        let mut data = data.get(..RECORD_HEADER)?;
        let crc = crc32fast::hash(data.get(..CHECKED)?);
        if data.get(..salt.len())? != salt || data.get(CHECKED..)? != crc.to_le_bytes() {
            return None;
        }
        data.advance(salt.len());
        let kind = match data.get_u8() {
            1 => Kind::Store,
            2 => Kind::State,
            3 => Kind::Done,
            4 => Kind::Index,
            _ => return None,
        };
        let flags = data.get_u8();
        data.advance(2);
        Some(Self {
            kind,
            separated: flags & SEPARATED != 0,
            has_state: flags & HAS_STATE != 0,
            id: MessageId::from_u64(data.get_u64_le()),
            group: data.get_u64_le(),
            batch: data.get_u32_le(),
            position: data.get_u32_le(),
            count: data.get_u32_le(),
            meta_len: data.get_u32_le(),
            state_len: data.get_u32_le(),
            header_len: data.get_u32_le(),
            body_len: data.get_u64_le(),
            body_file: data.get_u64_le(),
            head_crc: data.get_u32_le(),
            body_crc: data.get_u32_le(),
        })
    }

    /// Octets of meta, state and header.
    pub fn head_len(&self) -> u64 {
        u64::from(self.meta_len) + u64::from(self.state_len) + u64::from(self.header_len)
    }

    /// Octets of the body that are in the record.
    pub fn inline_len(&self) -> u64 {
        if self.body_file == 0 { self.body_len } else { 0 }
    }

    /// Octets of the whole record; a damaged length must not overflow.
    pub fn record_len(&self) -> u64 {
        (RECORD_HEADER as u64 + self.head_len()).saturating_add(self.inline_len())
    }

    /// Octets of the message.
    pub fn message_len(&self) -> u64 {
        let separator = if self.separated { 2 } else { 0 };
        u64::from(self.header_len) + separator + self.body_len
    }

    /// Meta, state and header out of a payload that was checked.
    pub fn split<'a>(&self, head: &'a [u8]) -> Option<Head<'a>> {
        let (meta, rest) = head.split_at_checked(usize::try_from(self.meta_len).ok()?)?;
        let (state, rest) = rest.split_at_checked(usize::try_from(self.state_len).ok()?)?;
        let header = rest.get(..usize::try_from(self.header_len).ok()?)?;
        Some(Head { meta, state: self.has_state.then_some(state), header })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub meta: &'a [u8],
    pub state: Option<&'a [u8]>,
    /// The header section of the mail.
    pub header: &'a [u8],
}

/// A record that is ready but for its place: group, batch and position are set when it is written.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub header: RecordHeader,
    /// Meta, state and header.
    pub head: Bytes,
    /// Empty when the body is in a file of its own.
    pub body: Bytes,
}

/// Meta, state or header of 4 GiB and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Draft {
    pub fn done(id: MessageId) -> Self {
        Self { header: RecordHeader::new(Kind::Done, id), head: Bytes::new(), body: Bytes::new() }
    }

    pub fn state(id: MessageId, state: &[u8]) -> Result<Self, TooLarge> {
        let head = Head { meta: &[], state: Some(state), header: &[] };
        Self::new(RecordHeader::new(Kind::State, id), head, Bytes::new())
    }

    /// `header` says where the body is and what its CRC is.
    pub fn new(mut header: RecordHeader, head: Head<'_>, body: Bytes) -> Result<Self, TooLarge> {
        let len = |octets: &[u8]| u32::try_from(octets.len()).map_err(|_| TooLarge);
        let state = head.state.unwrap_or_default();
        header.has_state = head.state.is_some();
        (header.meta_len, header.state_len) = (len(head.meta)?, len(state)?);
        header.header_len = len(head.header)?;
        let mut octets = BytesMut::with_capacity(head.meta.len() + state.len() + head.header.len());
        for part in [head.meta, state, head.header] {
            octets.extend_from_slice(part);
        }
        header.head_crc = crc32fast::hash(&octets);
        Ok(Self { header, head: octets.freeze(), body })
    }

    /// Octets of the whole record.
    pub fn len(&self) -> u64 {
        self.header.record_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = *b"\x01\xffsalty\0";

    #[test]
    fn headers_read_back_and_a_changed_bit_is_seen() {
        let mut header = RecordHeader::new(Kind::Store, MessageId::from_u64(7));
        header.body_len = u64::MAX;
        header.meta_len = u32::MAX;
        let head = Head { meta: b"meta", state: Some(b""), header: b"A: b\r\n" };
        let draft = Draft::new(header, head, Bytes::new()).unwrap();
        let mut octets = Vec::new();
        draft.header.encode(SALT, &mut octets);
        assert_eq!(octets.len(), RECORD_HEADER);
        assert_eq!(RecordHeader::decode(&octets, SALT), Some(draft.header.clone()));
        assert_eq!(draft.header.split(&draft.head), Some(head));
        assert_eq!(draft.header.record_len(), u64::MAX);
        assert_eq!(RecordHeader::decode(&octets, *b"another."), None);
        assert_eq!(RecordHeader::decode(&octets[..RECORD_HEADER - 1], SALT), None);
        for bit in 0..RECORD_HEADER * 8 {
            let mut damaged = octets.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&damaged, SALT), None, "bit {bit}");
        }
    }
}
