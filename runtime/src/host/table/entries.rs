//! The keys and values of a table: all of them in one arena of octets, found by a hash table of offsets into it.
//!
//! A million addresses of 30 octets take about 45 MB so. Two allocations for each, as in a `HashMap` of strings, would
//! take three times as much.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Where an entry begins in the arena.
pub(super) type Offset = u32;

/// In front of each entry: the lengths of key and value, two octets each.
const LENGTHS: usize = 4;

/// The arena is full: offsets have 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflow;

#[derive(Debug, Default)]
pub(super) struct Entries {
    arena: Vec<u8>,
    index: HashTable<Offset>,
    hasher: DefaultHashBuilder,
}

impl Entries {
    /// `octets`: of the file, about as many as the arena will need.
    pub fn with_room_for(octets: usize) -> Self {
        Self { arena: Vec::with_capacity(octets), ..Self::default() }
    }

    /// The key must be in lower case; neither may have more than 65535 octets, what is beyond is cut. A key that is there
    /// stays as it is.
    pub fn insert(&mut self, key: &str, value: &str) -> Result<Inserted<'_>, Overflow> {
        let hash = self.hasher.hash_one(key.as_bytes());
        if let Some(&there) = self.index.find(hash, |&at| key_at(&self.arena, at) == key.as_bytes()) {
            return Ok(Inserted::Already(self.value(there)));
        }
        let at = Offset::try_from(self.arena.len()).map_err(|_| Overflow)?;
        let length = |text: &str| u16::try_from(text.len()).unwrap_or(u16::MAX);
        let (key_length, value_length) = (length(key), length(value));
        self.arena.extend_from_slice(&key_length.to_le_bytes());
        self.arena.extend_from_slice(&value_length.to_le_bytes());
        self.arena.extend(key.bytes().take(key_length.into()));
        self.arena.extend(value.bytes().take(value_length.into()));
        let (arena, hasher) = (&self.arena, &self.hasher);
        self.index.insert_unique(hash, at, |&at| hasher.hash_one(key_at(arena, at)));
        Ok(Inserted::At(at))
    }

    /// Gives back what was reserved and not used.
    pub fn shrink(&mut self) {
        self.arena.shrink_to_fit();
        let (arena, hasher) = (&self.arena, &self.hasher);
        self.index.shrink_to_fit(|&at| hasher.hash_one(key_at(arena, at)));
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Octets of memory.
    pub fn octets(&self) -> usize {
        self.arena.capacity() + self.index.allocation_size()
    }

    /// The key must be in lower case.
    pub fn find(&self, key: &[u8]) -> Option<&str> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |&at| key_at(&self.arena, at) == key).map(|&at| self.value(at))
    }

    /// For messages.
    pub fn key(&self, at: Offset) -> &str {
        std::str::from_utf8(key_at(&self.arena, at)).unwrap_or_default()
    }

    pub fn value(&self, at: Offset) -> &str {
        let value = lengths(&self.arena, at).and_then(|(start, key, value)| {
            let start = start.checked_add(key)?;
            self.arena.get(start..start.checked_add(value)?)
        });
        value.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }
}

/// What became of a key and value.
pub(super) enum Inserted<'t> {
    At(Offset),
    /// The key is there, with this value.
    Already(&'t str),
}

fn key_at(arena: &[u8], at: Offset) -> &[u8] {
    let key = lengths(arena, at).and_then(|(start, key, _)| arena.get(start..start.checked_add(key)?));
    key.unwrap_or_default()
}

/// Where the key begins, and the lengths of key and value.
fn lengths(arena: &[u8], at: Offset) -> Option<(usize, usize, usize)> {
    let at = usize::try_from(at).ok()?;
    let (key, rest) = arena.get(at..)?.split_first_chunk::<2>()?;
    let (value, _) = rest.split_first_chunk::<2>()?;
    Some((at + LENGTHS, u16::from_le_bytes(*key).into(), u16::from_le_bytes(*value).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_there_once() {
        let mut entries = Entries::default();
        for n in 0..1000 {
            assert!(matches!(entries.insert(&format!("key{n}"), &format!("value{n}")), Ok(Inserted::At(_))));
        }
        assert!(matches!(entries.insert("key7", "other"), Ok(Inserted::Already("value7"))));
        entries.shrink();
        assert_eq!((entries.len(), entries.find(b"key999"), entries.find(b"key")), (1000, Some("value999"), None));
    }

    #[test]
    fn what_is_too_long_is_cut_and_disturbs_no_other() {
        let mut entries = Entries::default();
        let long = "v".repeat(70_000);
        assert!(matches!(entries.insert("long", &long), Ok(Inserted::At(0))));
        assert!(matches!(entries.insert("next", "n"), Ok(Inserted::At(_))));
        assert_eq!(entries.find(b"long").map(str::len), Some(65_535));
        assert_eq!(entries.find(b"next"), Some("n"));
    }
}
