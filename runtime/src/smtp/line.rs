//! Command lines out of a stream of octets (RFC 5321 §2.3.8, §4.5.3.1.4).

use bytes::{Buf, BytesMut};

/// RFC 5321 §4.5.3.1.4 gives 512, and extensions add to it: DSN (RFC 3461 §4) alone 700. One bound for all of them.
pub const MAX_COMMAND: usize = 2048;
/// RFC 4954 §4: a line of an authentication exchange.
pub const MAX_AUTH: usize = 12_288;
/// What is read of an endless line before the connection is closed.
const MAX_DISCARD: usize = 64 * 1024;
/// RFC 8446 §5.1: the content type of a handshake record.
const TLS_HANDSHAKE: u8 = 22;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// More octets are needed.
    Incomplete,
    /// Without its CRLF.
    Complete(Vec<u8>),
    /// It ended in a bare LF, or had a CR inside.
    BareLineEnd,
    /// It was longer than allowed; it has been read to its end.
    TooLong,
    /// It was longer than anybody will read.
    Endless,
    /// The first octet of a TLS record: no line of a client that speaks SMTP begins so.
    TlsHello,
}

#[derive(Debug, Default)]
pub struct LineReader {
    /// Octets of an over-long line that were thrown away already.
    discarded: usize,
    /// Where the search for LF goes on; what stands before was looked at.
    searched: usize,
    /// The line that was given last began with `BDAT`, whatever became of it.
    bdat: bool,
}

impl LineReader {
    /// The next line of `input`, which is advanced past it. `lenient` takes a bare LF as a line end.
    pub fn next(&mut self, input: &mut BytesMut, max: usize, lenient: bool) -> Line {
        // A client that begins TLS where none is awaits our hello: without this it would wait until the timeout.
        if self.discarded == 0 && self.searched == 0 && input.first() == Some(&TLS_HANDSHAKE) {
            return Line::TlsHello;
        }
        let unseen = input.get(self.searched..).unwrap_or_default();
        let Some(lf) = unseen.iter().position(|&b| b == b'\n').map(|at| at + self.searched) else {
            self.searched = input.len();
            return self.keep_waiting(input, max);
        };
        self.searched = 0;
        let discarded = std::mem::take(&mut self.discarded);
        if discarded == 0 {
            self.bdat = starts_with(input, b"BDAT");
        }
        let mut line = input.split_to(lf + 1);
        line.truncate(lf);
        let crlf = line.last() == Some(&b'\r');
        if crlf {
            line.truncate(lf - 1);
        }
        if discarded + line.len() > max {
            return Line::TooLong;
        }
        if (!crlf && !lenient) || line.contains(&b'\r') {
            return Line::BareLineEnd;
        }
        Line::Complete(line.to_vec())
    }

    /// Octets follow a BDAT that could not be understood, and nobody knows how many.
    pub fn was_bdat(&self) -> bool {
        self.bdat
    }

    fn keep_waiting(&mut self, input: &mut BytesMut, max: usize) -> Line {
        if input.len() + self.discarded > MAX_DISCARD {
            return Line::Endless;
        }
        // One octet stays: it may be the CR of a CRLF that is still on its way.
        if input.len() > max + 2 {
            if self.discarded == 0 {
                self.bdat = starts_with(input, b"BDAT");
            }
            let surplus = input.len() - 1;
            input.advance(surplus);
            self.discarded += surplus;
            self.searched = input.len();
        }
        Line::Incomplete
    }
}

/// Without regard to case.
pub fn starts_with(input: &[u8], word: &[u8]) -> bool {
    input.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], piece: usize) -> Vec<Line> {
        let mut reader = LineReader::default();
        let mut buffer = BytesMut::new();
        let mut lines = Vec::new();
        for octets in input.chunks(piece) {
            buffer.extend_from_slice(octets);
            loop {
                match reader.next(&mut buffer, MAX_COMMAND, false) {
                    Line::Incomplete => break,
                    line => lines.push(line),
                }
            }
        }
        lines
    }

    #[test]
    fn splitting_does_not_matter() {
        let input = b"NOOP\r\nbare\nEHLO a\rb\r\n\r\nQUIT\r\n";
        let expected = vec![
            Line::Complete(b"NOOP".to_vec()),
            Line::BareLineEnd,
            Line::BareLineEnd,
            Line::Complete(Vec::new()),
            Line::Complete(b"QUIT".to_vec()),
        ];
        for piece in 1..=input.len() {
            assert_eq!(lines(input, piece), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn a_long_line_is_skipped_to_its_end() {
        let mut input = vec![b'x'; 10_000];
        input.extend_from_slice(b"\r\nNOOP\r\n");
        for piece in [1, 7, 4096, 20_000] {
            assert_eq!(lines(&input, piece), [Line::TooLong, Line::Complete(b"NOOP".to_vec())], "pieces of {piece}");
        }
    }

    #[test]
    fn a_tls_hello_is_known_by_its_first_octet() {
        for input in [&b"\x16"[..], b"\x16\x03\x01\x00\x0a\r\n"] {
            let mut buffer = BytesMut::from(input);
            assert_eq!(LineReader::default().next(&mut buffer, MAX_COMMAND, false), Line::TlsHello);
        }
        assert_eq!(lines(b"NOOP \x16\r\n", 1), [Line::Complete(b"NOOP \x16".to_vec())]);
    }

    #[test]
    fn an_endless_line_ends_the_matter() {
        let mut reader = LineReader::default();
        let mut buffer = BytesMut::new();
        for _ in 0..100 {
            buffer.extend_from_slice(&[b'x'; 1000]);
            assert!(buffer.len() < 8 * 1024);
            if reader.next(&mut buffer, MAX_COMMAND, false) == Line::Endless {
                return;
            }
        }
        panic!("read an endless line for ever");
    }
}
