//! The body: in memory when small, else in a file, so that memory stays bounded however big mails are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// What follows the header section. Cheap to clone; its octets never change.
#[derive(Debug, Clone)]
pub struct Body {
    content: Content,
    /// There was an empty line between header and body; a message may end with its header (RFC 5322 §3.5).
    separated: bool,
}

#[derive(Debug, Clone)]
enum Content {
    Memory(Bytes),
    File(Arc<BodyFile>),
}

/// What is known of octets since they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// CRC-32 (IEEE).
    pub crc: u32,
    /// None is above 127.
    pub is_ascii: bool,
}

/// A part of a file that holds a body: the whole of an incoming file, or a record of a spool segment.
#[derive(Debug)]
pub struct BodyFile {
    file: File,
    offset: u64,
    len: u64,
    /// Set for a file that holds this body and nothing else: the spool links it instead of copying it.
    path: Option<PathBuf>,
    /// The file is nobody else's: the last owner removes it.
    temporary: bool,
    digest: Option<Digest>,
}

impl BodyFile {
    pub fn new(file: File, offset: u64, len: u64) -> Self {
        Self { file, offset, len, path: None, temporary: false, digest: None }
    }

    /// A file that holds one body and stays when this value goes.
    pub fn kept(file: File, len: u64, path: PathBuf) -> Self {
        Self { file, offset: 0, len, path: Some(path), temporary: false, digest: None }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Known of a body that this process has written, not of one that it has read back.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        if let (true, Some(path)) = (self.temporary, &self.path) {
            // What is left over is removed at the next start; nothing to do about an error here.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Body {
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self { content: Content::Memory(bytes), separated: true }
    }

    pub fn from_file(file: Arc<BodyFile>) -> Self {
        Self { content: Content::File(file), separated: true }
    }

    /// The message ended with its header: no empty line, no body.
    pub fn absent() -> Self {
        Self { content: Content::Memory(Bytes::new()), separated: false }
    }

    pub fn is_separated(&self) -> bool {
        self.separated
    }

    pub(super) fn separator_len(&self) -> u64 {
        if self.separated { 2 } else { 0 }
    }

    pub fn len(&self) -> u64 {
        match &self.content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(file) => file.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The octets, when they are in memory.
    pub fn as_memory(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Memory(bytes) => Some(bytes),
            Content::File(_) => None,
        }
    }

    pub fn as_file(&self) -> Option<&Arc<BodyFile>> {
        match &self.content {
            Content::Memory(_) => None,
            Content::File(file) => Some(file),
        }
    }

    /// Up to `len` octets from `offset`; shorter only at the end. Blocking when the body is in a file.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let available = self.len().saturating_sub(offset);
        let len = usize::try_from(available).unwrap_or(usize::MAX).min(len);
        match &self.content {
            Content::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..start + len))
            }
            Content::File(file) => {
                let mut buffer = BytesMut::zeroed(len);
                file.file.read_exact_at(&mut buffer, file.offset + offset)?;
                Ok(buffer.freeze())
            }
        }
    }
}

/// Takes a body as it arrives: memory up to a threshold, then a file in `directory`.
#[derive(Debug)]
pub struct BodyWriter {
    memory: BytesMut,
    threshold: usize,
    directory: PathBuf,
    file: Option<Written>,
}

/// What is in the file so far.
#[derive(Debug)]
struct Written {
    file: File,
    path: PathBuf,
    len: u64,
    crc: crc32fast::Hasher,
    is_ascii: bool,
}

impl BodyWriter {
    pub fn new(directory: PathBuf, threshold: usize) -> Self {
        Self { memory: BytesMut::new(), threshold, directory, file: None }
    }

    pub fn len(&self) -> u64 {
        self.memory.len() as u64 + self.file.as_ref().map_or(0, |written| written.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, octets: &[u8]) {
        self.memory.extend_from_slice(octets);
    }

    /// [`flush`](Self::flush) is due: what is in memory has passed the threshold.
    pub fn is_over_threshold(&self) -> bool {
        self.memory.len() > self.threshold
    }

    pub fn is_in_memory(&self) -> bool {
        self.file.is_none()
    }

    /// Moves what is in memory to the file. Blocking.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let name = format!("{}.body", super::MessageId::next());
            let path = self.directory.join(name);
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            self.file = Some(Written { file, path, len: 0, crc: crc32fast::Hasher::new(), is_ascii: true });
        }
        if let Some(written) = &mut self.file {
            written.file.write_all_at(&self.memory, written.len)?;
            written.len += self.memory.len() as u64;
            written.crc.update(&self.memory);
            written.is_ascii &= self.memory.is_ascii();
            self.memory.clear();
        }
        Ok(())
    }

    /// The body. Blocking only when part of it is in a file.
    pub fn finish(mut self) -> io::Result<Body> {
        if self.file.is_some() {
            self.flush()?;
        }
        Ok(match self.file.take() {
            None => Body::from_bytes(std::mem::take(&mut self.memory).freeze()),
            Some(Written { file, path, len, crc, is_ascii }) => {
                let digest = Some(Digest { crc: crc.finalize(), is_ascii });
                Body::from_file(Arc::new(BodyFile { file, offset: 0, len, path: Some(path), temporary: true, digest }))
            }
        })
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if let Some(written) = &self.file {
            let _ = std::fs::remove_file(&written.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bodies_stay_in_memory_and_big_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = BodyWriter::new(directory.path().to_owned(), 4);
        writer.push(b"abcd");
        assert!(!writer.is_over_threshold());
        writer.push(b"efgh");
        assert!(writer.is_over_threshold());
        writer.flush().unwrap();
        writer.push(b"ij");
        let body = writer.finish().unwrap();
        assert_eq!(&body.read_at(2, 100).unwrap()[..], b"cdefghij");
        assert_eq!(&body.read_at(50, 100).unwrap()[..], b"");
        let digest = Digest { crc: crc32fast::hash(b"abcdefghij"), is_ascii: true };
        assert_eq!(body.as_file().unwrap().digest(), Some(digest));
        drop(body);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_abandoned_body_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = BodyWriter::new(directory.path().to_owned(), 0);
        writer.push(b"x");
        writer.flush().unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
