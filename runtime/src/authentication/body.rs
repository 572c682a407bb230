//! Hashes of a body for signatures, all in one pass, whatever its size: 64 KiB of it in memory at a time.

use std::io;

use sha2::{Digest as _, Sha256};

use super::canonical::{CanonicalBody, Form};
use crate::mail::Body;

/// Octets of a body read at a time.
const PIECE: usize = 64 * 1024;

/// What one signature wants to know of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub form: Form,
    /// `l=`: so many octets of the canonical form.
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    pub sha256: Vec<u8>,
    /// Octets of the whole canonical form.
    pub len: u64,
}

struct Hasher {
    wanted: Wanted,
    canonical: CanonicalBody,
    sha256: Sha256,
    len: u64,
}

impl Hasher {
    fn new(wanted: Wanted) -> Self {
        Self { wanted, canonical: CanonicalBody::new(wanted.form), sha256: Sha256::new(), len: 0 }
    }

    fn write(&mut self, octets: &[u8]) {
        let Self { wanted, canonical, sha256, len } = self;
        canonical.write(octets, &mut |octets| take(octets, wanted.limit, sha256, len));
    }

    fn finish(mut self) -> Hashed {
        let (sha256, len) = (&mut self.sha256, &mut self.len);
        self.canonical.finish(&mut |octets| take(octets, self.wanted.limit, sha256, len));
        Hashed { sha256: self.sha256.finalize().to_vec(), len: self.len }
    }
}

fn take(octets: &[u8], limit: Option<u64>, sha256: &mut Sha256, len: &mut u64) {
    let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(*len));
    let within = usize::try_from(left).unwrap_or(usize::MAX).min(octets.len());
    sha256.update(octets.get(..within).unwrap_or_default());
    *len += octets.len() as u64;
}

/// In the order of what is wanted; the same twice is computed once. Blocking when the body is in a file.
pub fn hash(body: &Body, wanted: &[Wanted]) -> io::Result<Vec<Hashed>> {
    let mut distinct: Vec<Wanted> = Vec::new();
    for want in wanted {
        if !distinct.contains(want) {
            distinct.push(*want);
        }
    }
    let mut hashers: Vec<Hasher> = distinct.iter().copied().map(Hasher::new).collect();
    let mut offset = 0;
    while offset < body.len() {
        let piece = body.read_at(offset, PIECE)?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += piece.len() as u64;
        hashers.iter_mut().for_each(|hasher| hasher.write(&piece));
    }
    let hashes: Vec<Hashed> = hashers.into_iter().map(Hasher::finish).collect();
    let of = |want: &Wanted| distinct.iter().position(|known| known == want).and_then(|at| hashes.get(at).cloned());
    Ok(wanted.iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::BodyWriter;

    fn in_file(directory: &std::path::Path, octets: &[u8]) -> Body {
        let mut writer = BodyWriter::new(directory.to_owned(), 0);
        writer.push(octets);
        writer.flush().unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn the_same_from_memory_and_file_and_over_the_borders_of_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let text: Vec<u8> = b"some words \t and\r\n \r\n".iter().copied().cycle().take(3 * PIECE + 7).collect();
        let wanted = [
            Wanted { form: Form::Relaxed, limit: None },
            Wanted { form: Form::Simple, limit: Some(10) },
            Wanted { form: Form::Relaxed, limit: None },
        ];
        let memory = hash(&Body::from_bytes(text.clone().into()), &wanted).unwrap();
        assert_eq!(hash(&in_file(directory.path(), &text), &wanted).unwrap(), memory);
        assert_eq!((memory.len(), &memory[0]), (3, &memory[2]));
        assert_eq!(memory[1].sha256, Sha256::digest(&text[..10]).to_vec());
        assert_eq!(memory[1].len, text.len() as u64 + 2);
    }
}
