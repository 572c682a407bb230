//! Takes a message as it arrives: line ends checked, header and body told apart, sizes counted, memory bounded.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;

use super::settings::Settings;
use crate::mail::{Body, BodyWriter, Header, Message};
use crate::smtp::data::{ChunkReader, DataReader, Faults, LineEnds, Progress};

/// How far past the size limit a message is read on, so that the client hears 552 at the end, not a broken connection.
pub(super) const MAX_SURPLUS: u64 = 64 * 1024 * 1024;

/// Why a message that was read to its end can't be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unacceptable {
    TooBig,
    HeaderTooBig,
    BareCr,
    BareLf,
    Nul,
}

#[derive(Debug)]
enum Source {
    Data(DataReader),
    Chunks(ChunkReader),
}

pub struct Reception {
    source: Source,
    settings: Arc<Settings>,
    max_size: u64,
    /// Decoded octets that were not sorted into header or body yet.
    pending: Vec<u8>,
    header: BytesMut,
    in_header: bool,
    /// The empty line between header and body was there, or is to be put in.
    separated: bool,
    fields: usize,
    header_too_big: bool,
    body: BodyWriter,
    /// Octets so far, those thrown away included.
    size: u64,
}

impl Reception {
    pub fn data(settings: Arc<Settings>, max_size: u64, line_ends: LineEnds) -> Self {
        Self::new(Source::Data(DataReader::new(line_ends)), settings, max_size)
    }

    pub fn chunks(settings: Arc<Settings>, max_size: u64, line_ends: LineEnds) -> Self {
        Self::new(Source::Chunks(ChunkReader::new(line_ends)), settings, max_size)
    }

    fn new(source: Source, settings: Arc<Settings>, max_size: u64) -> Self {
        Self {
            source,
            max_size,
            pending: Vec::new(),
            header: BytesMut::new(),
            in_header: true,
            separated: false,
            fields: 0,
            header_too_big: false,
            body: BodyWriter::new(settings.incoming_directory.clone(), settings.body_memory),
            size: 0,
            settings,
        }
    }

    /// Takes what there is of DATA. `Progress::End`: the terminator was read.
    pub fn read_data(&mut self, input: &mut BytesMut) -> Progress {
        let Source::Data(reader) = &mut self.source else { return Progress::End };
        let before = self.pending.len();
        let progress = reader.read(input, &mut self.pending);
        self.sort(before, progress == Progress::End);
        progress
    }

    /// Takes a piece of a BDAT chunk; `end`: it is the end of the last one.
    pub fn read_chunk(&mut self, piece: &[u8], end: bool) {
        let Source::Chunks(reader) = &mut self.source else { return };
        let before = self.pending.len();
        reader.read(piece, &mut self.pending);
        if end {
            reader.finish(&mut self.pending);
        }
        self.sort(before, end);
    }

    /// What is in memory should go to the file now: see [`flush`](Self::flush).
    pub fn flush_is_due(&self) -> bool {
        self.body.is_over_threshold()
    }

    /// Nothing of it is in a file: [`finish`](Self::finish) won't block.
    pub fn is_in_memory(&self) -> bool {
        self.body.is_in_memory()
    }

    /// Blocking.
    pub fn flush(&mut self) -> io::Result<()> {
        self.body.flush()
    }

    /// From here on nothing is kept: what comes is read and thrown away.
    pub fn discard(&mut self) {
        self.body = BodyWriter::new(self.settings.incoming_directory.clone(), self.settings.body_memory);
        self.header_too_big = true;
    }

    /// So much too long that it is not read to its end.
    pub fn is_hopeless(&self) -> bool {
        self.size > self.max_size.saturating_add(MAX_SURPLUS)
    }

    /// Header lines go to the header until the empty line, everything else to the body. The first `seen` octets of what
    /// is pending are an unfinished line that was counted, and searched for its end, before.
    fn sort(&mut self, seen: usize, end: bool) {
        let pending = std::mem::take(&mut self.pending);
        self.size += pending.len().saturating_sub(seen) as u64;
        let mut rest = pending.as_slice();
        let mut searched = seen;
        while self.in_header && !rest.is_empty() {
            let unseen = rest.get(searched..).unwrap_or_default();
            let Some(lf) = unseen.iter().position(|&b| b == b'\n').map(|at| at + searched) else { break };
            searched = 0;
            let (line, after) = rest.split_at(lf + 1);
            self.header_line(line, &mut rest, after);
        }
        if self.in_header && (end || rest.len() > self.settings.max_header_size) {
            // The last line has no CRLF (BDAT), or a line without end is no header field.
            self.header_too_big |= !end;
            let unfinished = [rest, b"\r\n"].concat();
            if !rest.is_empty() && end {
                let mut nothing: &[u8] = &[];
                self.header_line(&unfinished, &mut nothing, &[]);
            }
            rest = &[];
        }
        if self.in_header {
            // A line that comes in many pieces is not copied for each of them.
            let sorted = pending.len() - rest.len();
            self.pending = pending;
            self.pending.drain(..sorted);
        } else if self.size <= self.max_size && !self.header_too_big {
            self.body.push(rest);
        }
    }

    /// One line while in the header; `rest` is set to what is still to be sorted.
    fn header_line<'a>(&mut self, line: &'a [u8], rest: &mut &'a [u8], after: &'a [u8]) {
        *rest = after;
        if line == b"\r\n" {
            self.in_header = false;
            self.separated = true;
            return;
        }
        let first = self.header.is_empty();
        if first && is_mbox_line(line) {
            // With our trace field above it, it would end the header for those who take it for the body's first line.
            return;
        }
        if !is_header_line(line, first) {
            // A body without an empty line before it. It gets one, else its first line would stand among the fields that
            // we and the plugins add, and servers differ on where such a header ends.
            self.in_header = false;
            self.separated = true;
            self.body.push(line);
            return;
        }
        self.fields += usize::from(!line.starts_with(b" ") && !line.starts_with(b"\t"));
        let full = self.header.len() + line.len() > self.settings.max_header_size;
        if full || self.fields > self.settings.max_header_fields {
            self.header_too_big = true;
        } else {
            self.header.extend_from_slice(line);
        }
    }

    /// After the end. Blocking only when the body is in a file.
    pub fn finish(self) -> Result<io::Result<Message>, Unacceptable> {
        let faults = match &self.source {
            Source::Data(reader) => reader.faults(),
            Source::Chunks(reader) => reader.faults(),
        };
        match faults {
            _ if self.size > self.max_size => return Err(Unacceptable::TooBig),
            _ if self.header_too_big => return Err(Unacceptable::HeaderTooBig),
            Faults { bare_lf: true, .. } => return Err(Unacceptable::BareLf),
            Faults { bare_cr: true, .. } => return Err(Unacceptable::BareCr),
            Faults { nul: true, .. } => return Err(Unacceptable::Nul),
            Faults { .. } => {}
        }
        let header = Header::parse(&self.header.freeze());
        if !self.separated {
            return Ok(Ok(Message { header, body: Body::absent() }));
        }
        Ok(self.body.finish().map(|body| Message { header, body }))
    }
}

/// The `From ` with which an mbox begins each message, and which some clients leave there. `From :` is a field.
fn is_mbox_line(line: &[u8]) -> bool {
    (line.starts_with(b"From ") || line.starts_with(b">From ")) && !is_header_line(line, true)
}

/// RFC 5322 §2.2: `name:`, or a continuation.
fn is_header_line(line: &[u8], first: bool) -> bool {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return !first;
    }
    let Some(colon) = line.iter().position(|&b| b == b':') else { return false };
    let name = line.get(..colon).unwrap_or_default().trim_ascii_end();
    !name.is_empty() && name.iter().all(|b| matches!(b, 33..=126))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Arc<Settings> {
        Arc::new(Settings { max_header_size: 200, max_header_fields: 5, body_memory: 64, ..Settings::default() })
    }

    fn receive(input: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, bool), Unacceptable> {
        let mut reception = Reception::data(settings(), 1000, LineEnds::Strict);
        let mut buffer = BytesMut::new();
        for octets in input.chunks(piece) {
            buffer.extend_from_slice(octets);
            if reception.read_data(&mut buffer) == Progress::End {
                break;
            }
            if reception.flush_is_due() {
                reception.flush().unwrap();
            }
        }
        let message = reception.finish()?.unwrap();
        let body = message.body.read_at(0, 10_000).unwrap().to_vec();
        Ok((message.header.to_bytes().to_vec(), body, message.body.is_separated()))
    }

    #[test]
    fn header_and_body_are_told_apart() {
        for (input, header, body, separated) in [
            ("A: 1\r\n\r\nbody\r\n.\r\n", "A: 1\r\n", "body\r\n", true),
            ("A: 1\r\n.\r\n", "A: 1\r\n", "", false),
            ("A: 1\r\n\r\n.\r\n", "A: 1\r\n", "", true),
            (".\r\n", "", "", false),
            ("\r\nbody\r\n.\r\n", "", "body\r\n", true),
            ("hello\r\nA: 1\r\n.\r\n", "", "hello\r\nA: 1\r\n", true),
            ("A: 1\r\n folded\r\nno field\r\n\r\nx\r\n.\r\n", "A: 1\r\n folded\r\n", "no field\r\n\r\nx\r\n", true),
            ("From me\r\nA: 1\r\n\r\nx\r\n.\r\n", "A: 1\r\n", "x\r\n", true),
            ("From : me\r\n\r\nx\r\n.\r\n", "From : me\r\n", "x\r\n", true),
            (" folded first\r\n\r\nx\r\n.\r\n", "", " folded first\r\n\r\nx\r\n", true),
        ] {
            for piece in 1..=input.len() {
                let got = receive(input.as_bytes(), piece);
                let expected = (header.as_bytes().to_vec(), body.as_bytes().to_vec(), separated);
                assert_eq!(got, Ok(expected), "{input:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn limits() {
        let long_field = format!("A: {}\r\n\r\nx\r\n.\r\n", "y".repeat(300));
        let endless_line = format!("A: {}", "y".repeat(800)) + "\r\n.\r\n";
        let many_fields = "A: 1\r\n".repeat(6) + "\r\nx\r\n.\r\n";
        let big = format!("A: 1\r\n\r\n{}\r\n.\r\n", "y".repeat(1000));
        for (input, fault) in [
            (long_field, Unacceptable::HeaderTooBig),
            (endless_line, Unacceptable::HeaderTooBig),
            (many_fields, Unacceptable::HeaderTooBig),
            (big, Unacceptable::TooBig),
            ("A: 1\r\n\r\na\nb\r\n.\r\n".to_owned(), Unacceptable::BareLf),
            ("A: 1\r\n\r\na\rb\r\n.\r\n".to_owned(), Unacceptable::BareCr),
            ("A: 1\r\n\r\na\0b\r\n.\r\n".to_owned(), Unacceptable::Nul),
        ] {
            for piece in [1, 50, 10_000] {
                assert_eq!(receive(input.as_bytes(), piece), Err(fault), "{input:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn chunks_without_a_last_line_end() {
        let mut reception = Reception::chunks(settings(), 1000, LineEnds::Strict);
        reception.read_chunk(b"A: 1\r\nB", false);
        reception.read_chunk(b": 2", true);
        let message = reception.finish().unwrap().unwrap();
        assert_eq!(&message.header.to_bytes()[..], b"A: 1\r\nB: 2\r\n");
        assert!(!message.body.is_separated());
    }
}
