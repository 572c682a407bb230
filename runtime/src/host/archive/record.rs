//! One record of the archive: what one key of one plugin in one scope is now.
//!
//! ```text
//! length of what follows the CRC 4 · CRC of it 4 · kind 1 · seconds 4 · until 8 · count 8
//! · scope, plugin, key: each length 2 and octets · value
//! ```
//! Integers are little-endian, the CRC is CRC-32 (IEEE).

use std::io::{self, Read};
use std::sync::Arc;

/// Octets in front of a record.
const FRAME: usize = 8;
/// A value of 4 KiB, and three names of a few hundred octets.
const MAX_RECORD: usize = 8 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A window of `seconds` that ends at `until` has `count`.
    Count,
    /// The key is blocked until then; 0: no more.
    Block,
    /// The key has this value until then; 0: there is none.
    Value,
}

/// Times are milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    pub scope: Arc<str>,
    pub plugin: Arc<str>,
    pub key: Arc<str>,
    pub seconds: u32,
    pub until: u64,
    pub count: u64,
    pub value: Arc<[u8]>,
}

/// What came out of reading one.
#[derive(Debug)]
pub(super) enum Found {
    Record(Record),
    End,
    /// The file ends in the middle of it.
    Torn,
    Damaged,
}

impl Record {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let frame = out.len();
        out.extend_from_slice(&[0; FRAME]);
        out.push(match self.kind {
            Kind::Count => 1,
            Kind::Block => 2,
            Kind::Value => 3,
        });
        out.extend_from_slice(&self.seconds.to_le_bytes());
        out.extend_from_slice(&self.until.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        for name in [&self.scope, &self.plugin, &self.key] {
            let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend(name.bytes().take(length.into()));
        }
        out.extend_from_slice(&self.value);
        let (before, payload) = out.split_at_mut(frame + FRAME);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if let Some(frame) = before.last_chunk_mut::<FRAME>() {
            *frame = (u64::from(crc32fast::hash(payload)) << 32 | u64::from(length)).to_le_bytes();
        }
    }

    /// The next one.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Found> {
        let mut frame = [0; FRAME];
        match fill(from, &mut frame)? {
            0 => return Ok(Found::End),
            FRAME => {}
            _ => return Ok(Found::Torn),
        }
        let frame = u64::from_le_bytes(frame);
        let length = usize::try_from(frame & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        if length > MAX_RECORD {
            return Ok(Found::Damaged);
        }
        let mut payload = vec![0; length];
        if fill(from, &mut payload)? < length {
            return Ok(Found::Torn);
        }
        let record = if u64::from(crc32fast::hash(&payload)) == frame >> 32 { Self::decode(&payload) } else { None };
        Ok(record.map_or(Found::Damaged, Found::Record))
    }

    /// Octets that it takes in the file.
    pub(super) fn octets(&self) -> u64 {
        let names = self.scope.len() + self.plugin.len() + self.key.len();
        (FRAME + 21 + 6 + names + self.value.len()) as u64
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (kind, rest) = payload.split_first()?;
        let kind = match kind {
            1 => Kind::Count,
            2 => Kind::Block,
            3 => Kind::Value,
            _ => return None,
        };
        let (seconds, rest) = rest.split_first_chunk()?;
        let (until, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (scope, rest) = name(rest)?;
        let (plugin, rest) = name(rest)?;
        let (key, rest) = name(rest)?;
        Some(Self {
            kind,
            scope,
            plugin,
            key,
            seconds: u32::from_le_bytes(*seconds),
            until: u64::from_le_bytes(*until),
            count: u64::from_le_bytes(*count),
            value: rest.into(),
        })
    }
}

fn name(octets: &[u8]) -> Option<(Arc<str>, &[u8])> {
    let (length, rest) = octets.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    Some((std::str::from_utf8(name).ok()?.into(), rest))
}

/// As many octets as there are.
fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &[u8]) -> Record {
        Record {
            kind: Kind::Value,
            scope: "tenant:a".into(),
            plugin: "greylist".into(),
            key: "ké".into(),
            seconds: 7,
            until: u64::MAX,
            count: 1 << 40,
            value: value.into(),
        }
    }

    #[test]
    fn records_read_back() {
        let mut octets = Vec::new();
        record(b"").encode(&mut octets);
        record(&[0; 4096]).encode(&mut octets);
        assert_eq!(octets.len() as u64, record(b"").octets() + record(&[0; 4096]).octets());
        let mut from = octets.as_slice();
        assert!(matches!(Record::read(&mut from).unwrap(), Found::Record(found) if found == record(b"")));
        assert!(matches!(Record::read(&mut from).unwrap(), Found::Record(found) if found == record(&[0; 4096])));
        assert!(matches!(Record::read(&mut from).unwrap(), Found::End));
    }

    #[test]
    fn each_cut_is_torn_and_each_flipped_bit_is_seen() {
        let mut octets = Vec::new();
        record(b"value").encode(&mut octets);
        for end in 1..octets.len() {
            assert!(matches!(Record::read(&mut &octets[..end]).unwrap(), Found::Torn), "{end}");
        }
        for at in 0..octets.len() * 8 {
            let mut octets = octets.clone();
            octets[at / 8] ^= 1 << (at % 8);
            // A length that grew reaches beyond the end.
            let found = Record::read(&mut octets.as_slice()).unwrap();
            assert!(matches!(found, Found::Damaged | Found::Torn), "{at}");
        }
    }
}
