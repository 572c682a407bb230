//! Reads the replies of a next hop (RFC 5321 §4.2): incremental, bounded, and strict, for what comes is not to be trusted.
//!
//! A reply that breaks the grammar is an error, and the connection it came over is good for nothing more: which reply
//! belongs to which command would be a guess, and a wrong guess loses mail.

use super::reply::{Enhanced, Reply};

/// Octets of one line, CRLF included. RFC 5321 §4.5.3.1.5 says 512, which real servers pass.
const MAX_LINE: usize = 4096;
const MAX_LINES: usize = 1000;
/// Lines whose text is kept; of those beyond only the form is looked at.
const MAX_KEPT_LINES: usize = 128;

/// A whole reply of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReply {
    /// Cleaned of controls, with the enhanced status code of its last line that has one (RFC 2034 §4).
    pub reply: Reply,
    /// What follows the code on each line, as it came; for EHLO.
    pub lines: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("reply line longer than {MAX_LINE} octets")]
    LineTooLong,
    #[error("reply of more than {MAX_LINES} lines")]
    TooManyLines,
    #[error("reply line does not end in <CR><LF>")]
    BareLineEnd,
    #[error("NUL octet in a reply")]
    Nul,
    #[error("reply without a valid code")]
    NoCode,
    #[error("reply with different codes on its lines")]
    CodesDiffer,
}

/// Takes octets as they come. After an error it gives that error for ever.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// The line so far.
    line: Vec<u8>,
    code: Option<u16>,
    count: usize,
    lines: Vec<String>,
    failed: Option<ReplyError>,
}

impl ReplyReader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads from the front of `input`, up to the end of a reply if there is one, and takes away what it has read.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<ServerReply>, ReplyError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.read_lines(input);
        self.failed = result.as_ref().err().copied();
        result
    }

    /// Nothing of a reply has been read yet.
    pub fn is_at_start(&self) -> bool {
        self.line.is_empty() && self.code.is_none()
    }

    fn read_lines(&mut self, input: &mut &[u8]) -> Result<Option<ServerReply>, ReplyError> {
        while let Some((&octet, rest)) = input.split_first() {
            *input = rest;
            if self.take_octet(octet)? && self.end_line()? {
                return Ok(self.code.take().map(|code| self.finish(code)));
            }
        }
        Ok(None)
    }

    /// True at the end of a line.
    fn take_octet(&mut self, octet: u8) -> Result<bool, ReplyError> {
        let after_cr = self.line.last() == Some(&b'\r');
        match octet {
            0 => return Err(ReplyError::Nul),
            b'\n' if !after_cr => return Err(ReplyError::BareLineEnd),
            octet if after_cr && octet != b'\n' => return Err(ReplyError::BareLineEnd),
            _ if self.line.len() >= MAX_LINE => return Err(ReplyError::LineTooLong),
            _ => self.line.push(octet),
        }
        Ok(octet == b'\n')
    }

    /// True when the line is a reply's last.
    fn end_line(&mut self) -> Result<bool, ReplyError> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r\n").unwrap_or(&line);
        self.count += 1;
        if self.count > MAX_LINES {
            return Err(ReplyError::TooManyLines);
        }
        let (code, rest) = split_code(line).ok_or(ReplyError::NoCode)?;
        if self.code.is_some_and(|first| first != code) {
            return Err(ReplyError::CodesDiffer);
        }
        self.code = Some(code);
        // RFC 5321 §4.2: the text, and then the space before it, may be missing.
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyError::NoCode),
        };
        if self.lines.len() < MAX_KEPT_LINES {
            self.lines.push(to_text(text));
        }
        Ok(last)
    }

    fn finish(&mut self, code: u16) -> ServerReply {
        self.count = 0;
        let lines = std::mem::take(&mut self.lines);
        let mut enhanced = None;
        let texts: Vec<&str> = lines
            .iter()
            .map(|line| match split_enhanced(code, line) {
                Some((status, text)) => {
                    enhanced = Some(status);
                    text
                }
                None => line,
            })
            .collect();
        let reply = Reply::new(code, enhanced, texts.join("\n"));
        ServerReply { reply, lines }
    }
}

/// RFC 5321 §4.2: `%x32-35 %x30-35 %x30-39`; the second digit is not held against a server.
fn split_code(line: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = line.split_first_chunk::<3>()?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    (200..600).contains(&code).then_some((code, rest))
}

/// RFC 3463 §2 `status-code`, of the class that the reply code has; else it is text.
fn split_enhanced(code: u16, line: &str) -> Option<(Enhanced, &str)> {
    let (status, text) = line.split_once(' ').unwrap_or((line, ""));
    let mut numbers = status.split('.').map(|number| {
        let valid = (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        if valid { number.parse::<u16>().ok() } else { None }
    });
    let (class, subject, detail) = (numbers.next()??, numbers.next()??, numbers.next()??);
    (numbers.next().is_none() && class == code / 100).then_some((Enhanced::new(subject, detail), text))
}

/// Octets of a line that is not UTF-8 (RFC 6531 §3.6) stand as `?` where they are not ASCII.
fn to_text(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => octets.iter().map(|&b| if b.is_ascii() { char::from(b) } else { '?' }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(mut input: &[u8], reader: &mut ReplyReader) -> (Vec<ServerReply>, Option<ReplyError>) {
        let mut replies = Vec::new();
        loop {
            match reader.read(&mut input) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => return (replies, None),
                Err(error) => return (replies, Some(error)),
            }
        }
    }

    #[test]
    fn replies() {
        for (wire, expected) in [
            ("250 ok\r\n", "250 ok"),
            ("250\r\n", "250 "),
            ("250 \r\n", "250 "),
            ("250-a\r\n250-\r\n250 b\r\n", "250 a  b"),
            ("550 5.7.1 no\r\n", "550 5.7.1 no"),
            ("550-5.7.1 no\r\n550 5.7.1 really\r\n", "550 5.7.1 no really"),
            ("550 5.7.1\r\n", "550 5.7.1 "),
            // Of another class, or not a status code at all: text.
            ("450 5.7.1 no\r\n", "450 5.7.1 no"),
            ("550 5.7.1.1 no\r\n", "550 5.7.1.1 no"),
            ("550 5.7.1000 no\r\n", "550 5.7.1000 no"),
            ("220 a\x1b[0mb\r\n", "220 a?[0mb"),
            ("354 go\r\n", "354 go"),
        ] {
            let (replies, error) = read_all(wire.as_bytes(), &mut ReplyReader::new());
            assert_eq!(error, None, "{wire:?}");
            assert_eq!(replies.len(), 1, "{wire:?}");
            assert_eq!(replies[0].reply.to_string(), expected, "{wire:?}");
        }
        assert_eq!(read_all(b"450 5.7.1 no\r\n", &mut ReplyReader::new()).0[0].reply.enhanced(), None);
        assert_eq!(read_all(b"250 caf\xe9\r\n", &mut ReplyReader::new()).0[0].lines, ["caf?"]);
    }

    #[test]
    fn o6_abuse() {
        let long = format!("250 {}\r\n", "a".repeat(5000));
        let endless = "250-a\r\n".repeat(1001);
        for (wire, expected) in [
            (&b"250 a\n"[..], ReplyError::BareLineEnd),
            (b"250 a\rb\r\n", ReplyError::BareLineEnd),
            (b"250 a\r\r\n", ReplyError::BareLineEnd),
            (b"250 a\0\r\n", ReplyError::Nul),
            (b"999 a\r\n", ReplyError::NoCode),
            (b"199 a\r\n", ReplyError::NoCode),
            (b"000 a\r\n", ReplyError::NoCode),
            (b"ok\r\n", ReplyError::NoCode),
            (b"25\r\n", ReplyError::NoCode),
            (b"\r\n", ReplyError::NoCode),
            (b"2500\r\n", ReplyError::NoCode),
            (b"250x\r\n", ReplyError::NoCode),
            (b" 250 a\r\n", ReplyError::NoCode),
            (b"250-a\r\n251 b\r\n", ReplyError::CodesDiffer),
            (b"250-a\r\nb\r\n", ReplyError::NoCode),
            (long.as_bytes(), ReplyError::LineTooLong),
            (endless.as_bytes(), ReplyError::TooManyLines),
        ] {
            let mut reader = ReplyReader::new();
            assert_eq!(read_all(wire, &mut reader), (vec![], Some(expected)), "{:?}", wire.escape_ascii().to_string());
            assert_eq!(reader.read(&mut &b"250 ok\r\n"[..]), Err(expected));
        }
    }

    #[test]
    fn rs7_an_endless_reply_takes_bounded_memory() {
        let mut reader = ReplyReader::new();
        let line = format!("250-{}\r\n", "a".repeat(4000));
        for _ in 0..1000 {
            assert_eq!(reader.read(&mut line.as_bytes()), Ok(None));
        }
        assert_eq!(reader.lines.len(), MAX_KEPT_LINES);
        assert_eq!(reader.read(&mut line.as_bytes()), Err(ReplyError::TooManyLines));
    }

    /// Octets that come close to replies.
    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"250".to_vec()),
            Just(b"-".to_vec()),
            Just(b" ".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"250 5.1.2 ok\r\n".to_vec()),
            Just(b"250-x\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn never_panics_and_splits_do_not_matter(wire in wire(), sizes in proptest::collection::vec(1_usize..7, 1..9)) {
            let whole = read_all(&wire, &mut ReplyReader::new());
            let mut reader = ReplyReader::new();
            let mut pieces = (Vec::new(), None);
            let mut rest = &wire[..];
            for size in sizes.iter().cycle() {
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                let (replies, error) = read_all(piece, &mut reader);
                pieces.0.extend(replies);
                pieces.1 = error;
                rest = after;
                if rest.is_empty() || error.is_some() {
                    break;
                }
            }
            prop_assert_eq!(whole, pieces);
        }
    }
}
