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

/// One canonical form, hashed once however many want it: what is wanted of its first octets is told when they have passed.
struct Stream {
    form: Form,
    canonical: CanonicalBody,
    hashing: Hashing,
}

struct Hashing {
    sha256: Sha256,
    len: u64,
    /// The limits that are ahead, the nearest last.
    ahead: Vec<u64>,
    /// By limit; at the end also by those that the body is shorter than.
    reached: Vec<(Option<u64>, Vec<u8>)>,
}

impl Stream {
    /// Of all those that want this form.
    fn new(form: Form, wanted: &[Wanted]) -> Self {
        let mut ahead: Vec<u64> =
            wanted.iter().filter(|want| want.form == form).filter_map(|want| want.limit).collect();
        ahead.sort_unstable_by(|one, other| other.cmp(one));
        ahead.dedup();
        let hashing = Hashing { sha256: Sha256::new(), len: 0, ahead, reached: Vec::new() };
        Self { form, canonical: CanonicalBody::new(form), hashing }
    }

    fn write(&mut self, octets: &[u8]) {
        let Self { canonical, hashing, .. } = self;
        canonical.write(octets, &mut |octets| hashing.take(octets));
    }

    fn finish(self) -> Hashes {
        let Self { form, canonical, mut hashing } = self;
        canonical.finish(&mut |octets| hashing.take(octets));
        let whole = hashing.sha256.finalize().to_vec();
        let longer = hashing.ahead.iter().map(|limit| (Some(*limit), whole.clone()));
        let mut by_limit: Vec<_> = hashing.reached.into_iter().chain(longer).collect();
        by_limit.push((None, whole));
        Hashes { form, len: hashing.len, by_limit }
    }
}

impl Hashing {
    fn take(&mut self, mut octets: &[u8]) {
        while let Some(limit) = self.ahead.last().copied() {
            let until = usize::try_from(limit - self.len).unwrap_or(usize::MAX);
            let Some((within, beyond)) = octets.split_at_checked(until) else { break };
            self.update(within);
            self.reached.push((Some(limit), self.sha256.clone().finalize().to_vec()));
            self.ahead.pop();
            octets = beyond;
        }
        self.update(octets);
    }

    fn update(&mut self, octets: &[u8]) {
        self.sha256.update(octets);
        self.len += octets.len() as u64;
    }
}

/// Of one canonical form.
struct Hashes {
    form: Form,
    len: u64,
    by_limit: Vec<(Option<u64>, Vec<u8>)>,
}

impl Hashes {
    fn find(&self, want: &Wanted) -> Option<Hashed> {
        let (_, sha256) = self.by_limit.iter().find(|(limit, _)| *limit == want.limit)?;
        Some(Hashed { sha256: sha256.clone(), len: self.len })
    }
}

/// At most one for each canonical form.
fn streams(wanted: &[Wanted]) -> Vec<Stream> {
    let is_wanted = |form: &Form| wanted.iter().any(|want| want.form == *form);
    [Form::Simple, Form::Relaxed].into_iter().filter(is_wanted).map(|form| Stream::new(form, wanted)).collect()
}

/// In the order of what is wanted. The body is read once, and each canonical form hashed once: signatures with many a `l=` cost no
/// more than one. Blocking when the body is in a file.
pub fn hash(body: &Body, wanted: &[Wanted]) -> io::Result<Vec<Hashed>> {
    let mut streams = streams(wanted);
    let mut offset = 0;
    while offset < body.len() {
        let piece = body.read_at(offset, PIECE)?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += piece.len() as u64;
        streams.iter_mut().for_each(|stream| stream.write(&piece));
    }
    let hashes: Vec<Hashes> = streams.into_iter().map(Stream::finish).collect();
    let of = |want: &Wanted| hashes.iter().find(|hashes| hashes.form == want.form)?.find(want);
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

    /// Ten signatures of one mail, each with a limit of its own, cost what one costs of each form.
    #[test]
    fn n6_each_form_is_hashed_once_whatever_is_wanted() {
        let text: Vec<u8> = b"0123456789\r\n".iter().copied().cycle().take(2 * PIECE + 24).collect();
        let canonical =
            [&text[..text.len() - text.len() % 12], &text[text.len() - text.len() % 12..], b"\r\n"].concat();
        let canonical = canonical.strip_suffix(b"\r\n\r\n").map_or(canonical.clone(), |head| [head, b"\r\n"].concat());
        let whole = canonical.len() as u64;
        let piece = PIECE as u64;
        let limits = [0, 1, 9, 9, 10, 11, piece - 1, piece, piece + 1, whole - 1, whole, whole + 1, u64::MAX];
        let wanted: Vec<Wanted> = [Form::Simple, Form::Relaxed]
            .into_iter()
            .flat_map(|form| limits.into_iter().rev().map(Some).chain([None]).map(move |limit| Wanted { form, limit }))
            .collect();
        assert_eq!(streams(&wanted).len(), 2);
        let hashed = hash(&Body::from_bytes(text.into()), &wanted).unwrap();
        assert_eq!(hashed.len(), wanted.len());
        for (want, hashed) in wanted.iter().zip(hashed) {
            let until = usize::try_from(want.limit.unwrap_or(whole).min(whole)).unwrap();
            let expected = Hashed { sha256: Sha256::digest(&canonical[..until]).to_vec(), len: whole };
            assert_eq!(hashed, expected, "{want:?}");
        }
    }
}
