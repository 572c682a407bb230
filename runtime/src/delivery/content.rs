//! A message on its way out: read in pieces, dot-stuffed, and checked octet by octet.
//!
//! What goes over the wire never holds a CR without LF, an LF without CR or a NUL, and CRLF.CRLF exactly once, whatever the
//! message holds: a next hop that is careless about line ends must not find a second message in the first.

use bytes::Bytes;
use memchr::memchr3;

use super::failure::Failure;
use crate::mail::{Body, Message};

/// Octets read and written at once.
pub(super) const PIECE: usize = 64 * 1024;

/// Header, empty line, body, in pieces.
pub(super) struct Content {
    /// The header with the empty line after it, where there is one.
    head: Bytes,
    body: Body,
    at: u64,
    head_sent: usize,
}

impl Content {
    pub(super) fn new(message: &Message) -> Self {
        let mut head = Vec::from(message.header.to_bytes());
        if message.body.is_separated() {
            head.extend_from_slice(b"\r\n");
        }
        Self { head: head.into(), body: message.body.clone(), at: 0, head_sent: 0 }
    }

    /// `None` at the end. A body in a file is read off the async threads.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.head_sent < self.head.len() {
            let end = self.head.len().min(self.head_sent + PIECE);
            let piece = self.head.slice(self.head_sent..end);
            self.head_sent = end;
            return Ok(Some(piece));
        }
        if self.at >= self.body.len() {
            return Ok(None);
        }
        let (body, at) = (self.body.clone(), self.at);
        let read = if body.as_memory().is_some() {
            body.read_at(at, PIECE)
        } else {
            tokio::task::spawn_blocking(move || body.read_at(at, PIECE))
                .await
                .map_err(|error| Failure::Unreadable(error.to_string()))?
        };
        let piece = read.map_err(|error| Failure::Unreadable(error.to_string()))?;
        if piece.is_empty() {
            return Err(Failure::Unreadable("it is shorter than it was".to_owned()));
        }
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }

    /// Some octet is above 127 (RFC 6152 calls such a body 8-bit).
    pub(super) async fn is_eight_bit(message: &Message) -> Result<bool, Failure> {
        let mut content = Self::new(message);
        if let Some(digest) = message.body.as_file().and_then(|file| file.digest()) {
            return Ok(!digest.is_ascii || !content.head.is_ascii());
        }
        while let Some(piece) = content.piece().await? {
            if !piece.is_ascii() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Turns a message into what stands between the reply 354 and the next reply (RFC 5321 §4.5.2).
#[derive(Debug, Default)]
pub(super) struct DotStuffer {
    last: Last,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Last {
    /// The start of the message counts as one.
    #[default]
    LineEnd,
    Cr,
    Other,
}

impl DotStuffer {
    /// Nothing is repaired: a message with octets that can't be sent has got past the checks at the entrance, and what
    /// it was meant to be is unknown.
    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            let run = memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
            let (taken, after) = rest.split_at(run.max(1));
            self.last = match (first, self.last) {
                (b'\n', Last::Cr) => Last::LineEnd,
                (b'\n', _) => return Err(Failure::Unsendable("bare <LF>")),
                (_, Last::Cr) => return Err(Failure::Unsendable("bare <CR>")),
                (b'\r', _) => Last::Cr,
                (0, _) => return Err(Failure::Unsendable("NUL octet")),
                (b'.', Last::LineEnd) => {
                    out.push(b'.');
                    Last::Other
                }
                _ => Last::Other,
            };
            out.extend_from_slice(taken);
            rest = after;
        }
        Ok(())
    }

    /// RFC 5321 §4.1.1.4: the CRLF before the dot is the message's own; one that ends without gets it.
    pub(super) fn finish(self, out: &mut Vec<u8>) -> Result<(), Failure> {
        match self.last {
            Last::LineEnd => {}
            Last::Other => out.extend_from_slice(b"\r\n"),
            Last::Cr => return Err(Failure::Unsendable("bare <CR>")),
        }
        out.extend_from_slice(b".\r\n");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stuff(pieces: &[&[u8]]) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::new();
        let mut stuffer = DotStuffer::default();
        for piece in pieces {
            stuffer.push(piece, &mut out)?;
        }
        stuffer.finish(&mut out)?;
        Ok(out)
    }

    #[test]
    fn dots_and_ends() {
        for (message, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"..a\r\n.b\r\nc.\r\n", b"...a\r\n..b\r\nc.\r\n.\r\n"),
            (b"\r\n.\r\n", b"\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(stuff(&[message]).unwrap(), wire, "{}", message.escape_ascii());
        }
    }

    /// The sequences that have ended messages on real servers too early.
    #[test]
    fn smuggling_sequences_are_not_sent() {
        for sequence in [
            "\n.\n",
            "\n.\r",
            "\n.\r\n",
            "\r.\r",
            "\r.\n",
            "\r.\r\n",
            "\r\n.\n",
            "\r\n.\r",
            "\r\n.\r\r\n",
            "\r\r\n.\r\r\n",
            "\n\r.\r\n",
            "\r\n.\n\r",
            "\n\n.\r\n",
            "\r\n\0.\r\n",
            "\r\n.\0\r\n",
            "\r\n.\r\0\n",
            "\r\r\n.\r\n",
        ] {
            for tail in ["", "MAIL FROM:<a@b.example>\r\n"] {
                let message = format!("body{sequence}{tail}");
                assert!(matches!(stuff(&[message.as_bytes()]), Err(Failure::Unsendable(_))), "{message:?}");
            }
        }
        for harmless in ["\r\n. \r\n", "\r\n.\t\r\n", "\r\n\x0b.\r\n", "\r\n.\r\n", "\u{85}.\r\n"] {
            let wire = stuff(&[b"body", harmless.as_bytes(), b"MAIL FROM:<a@b.example>\r\n"]).unwrap();
            check_wire(&wire);
        }
    }

    fn check_wire(wire: &[u8]) {
        let ends = wire.windows(5).filter(|window| window == b"\r\n.\r\n").count();
        assert_eq!(ends + usize::from(wire.starts_with(b".\r\n")), 1, "{}", wire.escape_ascii());
        assert!(wire.ends_with(b".\r\n") && !wire.contains(&0));
        for (n, &octet) in wire.iter().enumerate() {
            match octet {
                b'\n' => assert_eq!(wire[n - 1], b'\r'),
                b'\r' => assert_eq!(wire[n + 1], b'\n'),
                _ => {}
            }
        }
    }

    /// As a server reads it (RFC 5321 §4.5.2).
    fn unstuff(wire: &[u8]) -> Vec<u8> {
        let content = wire.strip_suffix(b".\r\n").unwrap();
        let lines = content.split_inclusive(|&b| b == b'\n');
        lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
    }

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![4 => Just(b"\r\n".to_vec()), 4 => Just(b".".to_vec()), 1 => Just(b"\r".to_vec()),
            1 => Just(b"\n".to_vec()), 1 => Just(b"\0".to_vec()), 8 => Just(b"a".to_vec()), 1 => Just(vec![0xe9])];
        proptest::collection::vec(octet, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_sent_is_the_message_once(message in octets(), at in 0_usize..60) {
            let (a, b) = message.split_at(at.min(message.len()));
            let wire = stuff(&[a, b]);
            prop_assert_eq!(&wire, &stuff(&[&message]));
            if let Ok(wire) = wire {
                check_wire(&wire);
                let mut expected = message.clone();
                if !message.is_empty() && !message.ends_with(b"\r\n") {
                    expected.extend_from_slice(b"\r\n");
                }
                prop_assert_eq!(unstuff(&wire), expected);
            }
        }
    }
}
