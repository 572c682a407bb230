//! The MIME view of a message (RFC 2045, RFC 2046): which parts it has, where they stand in the body, and what their
//! content is without its transfer encoding.
//!
//! The fields of a part are read by `mail-parser`. The walk over the body is our own: one pass in pieces, so that a
//! big mail is never held whole, and with limits, because whoever sends mail chooses how deep it is. Tolerant: what
//! breaks the grammar is seen as its surroundings suggest; only what passes a limit is an error.

use std::io;

use mail_parser::{MessageParser, MimeHeaders as _};

use super::Message;

mod decode;

pub use decode::PartReader;

/// How far a message is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MimeLimits {
    /// Multiparts and messages inside each other. Real mail that was forwarded many times has about 20.
    pub depth: usize,
    /// Parts of all kinds. Real digests have some hundreds.
    pub parts: usize,
}

impl Default for MimeLimits {
    fn default() -> Self {
        Self { depth: 50, parts: 1000 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MimeError {
    #[error("more than {0} multiparts inside each other")]
    TooDeep(usize),
    #[error("more than {0} parts")]
    TooManyParts(usize),
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// A part that is no multipart. A message inside the message is a part, and its parts follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `type/subtype`, lower case; `text/plain` where there is none (RFC 2045 §5.2).
    pub content_type: String,
    pub filename: Option<String>,
    pub attachment: bool,
    pub encoding: Encoding,
    /// Where its content stands in the body, encoded.
    pub offset: u64,
    pub len: u64,
}

/// RFC 2045 §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// 7bit, 8bit, binary, and what is unknown.
    Identity,
    Base64,
    QuotedPrintable,
}

/// Octets read at a time.
const CHUNK: usize = 64 * 1024;
/// Octets of the fields of one part; what is beyond them is not looked at.
const MAX_PART_HEADER: usize = 64 * 1024;
/// RFC 2046 §5.1.1: a boundary has at most 70 characters. Room for the dashes and for padding.
const MAX_DELIMITER: usize = 256;
/// Octets of a type or a file name.
const MAX_NAME: usize = 255;

/// The parts in the order of the body. Blocking when the body is in a file.
pub fn parts(message: &Message, limits: MimeLimits) -> Result<Vec<Part>, MimeError> {
    let mut walk = Walk { limits, parts: Vec::new(), open: Vec::new(), levels: Vec::new(), header: None, entities: 0 };
    walk.enter(&message.header.to_bytes(), 0)?;
    let mut offset = 0;
    let mut line = Vec::new();
    let (mut line_start, mut line_len) = (0, 0);
    loop {
        let chunk = message.body.read_at(offset, CHUNK)?;
        if chunk.is_empty() {
            break;
        }
        offset += chunk.len() as u64;
        for piece in chunk.split_inclusive(|&b| b == b'\n') {
            let room = walk.line_room().saturating_sub(line.len());
            line.extend_from_slice(piece.get(..room).unwrap_or(piece));
            line_len += piece.len() as u64;
            if piece.ends_with(b"\n") {
                walk.line(&line, line_start, line_start + line_len)?;
                line_start += line_len;
                line_len = 0;
                line.clear();
            }
        }
    }
    if line_len > 0 {
        walk.line(&line, line_start, line_start + line_len)?;
    }
    walk.finish(line_start + line_len)
}

/// Where the walk stands.
struct Walk {
    limits: MimeLimits,
    parts: Vec<Part>,
    /// Parts whose end has not been seen: their index, and how many levels were open when they began.
    open: Vec<(usize, usize)>,
    /// The boundaries of the multiparts around us, outermost first; `None` for a message inside the message.
    levels: Vec<Option<Vec<u8>>>,
    /// The fields of the part that begins, until its empty line.
    header: Option<Vec<u8>>,
    entities: usize,
}

impl Walk {
    /// How much of a line is of interest.
    fn line_room(&self) -> usize {
        if self.header.is_some() { MAX_PART_HEADER } else { MAX_DELIMITER }
    }

    /// One line with its line end, from `start` to before `end`.
    fn line(&mut self, line: &[u8], start: u64, end: u64) -> Result<(), MimeError> {
        if let Some((level, closing)) = self.delimiter(line) {
            return self.delimit(level, closing, start);
        }
        let Some(header) = &mut self.header else { return Ok(()) };
        if line.trim_ascii_end().is_empty() {
            let header = self.header.take().unwrap_or_default();
            return self.enter(&header, end);
        }
        let room = MAX_PART_HEADER.saturating_sub(header.len());
        header.extend_from_slice(line.get(..room).unwrap_or(line));
        Ok(())
    }

    /// RFC 2046 §5.1.1: `--boundary`, or `--boundary--` for the last one; white space may follow.
    fn delimiter(&self, line: &[u8]) -> Option<(usize, bool)> {
        let rest = line.trim_ascii_end().strip_prefix(b"--")?;
        let level =
            |boundary: &[u8]| self.levels.iter().rposition(|level| level.as_deref().is_some_and(|own| own == boundary));
        level(rest).map(|at| (at, false)).or_else(|| level(rest.strip_suffix(b"--")?).map(|at| (at, true)))
    }

    /// A delimiter of that level ends all that began inside it. The line end before it belongs to it.
    fn delimit(&mut self, level: usize, closing: bool, start: u64) -> Result<(), MimeError> {
        // Fields that are not followed by an empty line are those of an empty part.
        if let Some(header) = self.header.take() {
            self.enter(&header, start)?;
        }
        self.close(level, start.saturating_sub(2));
        self.levels.truncate(if closing { level } else { level + 1 });
        if !closing {
            self.header = Some(Vec::new());
        }
        Ok(())
    }

    fn close(&mut self, level: usize, end: u64) {
        while let Some((index, _)) = self.open.pop_if(|(_, levels)| *levels > level) {
            if let Some(part) = self.parts.get_mut(index) {
                part.len = end.saturating_sub(part.offset);
            }
        }
    }

    /// A part's fields are complete, its content begins at `offset`.
    fn enter(&mut self, header: &[u8], offset: u64) -> Result<(), MimeError> {
        self.entities += 1;
        if self.entities > self.limits.parts {
            return Err(MimeError::TooManyParts(self.limits.parts));
        }
        let fields = Fields::parse(header);
        if let Some(boundary) = fields.boundary {
            return self.deepen(Some(boundary));
        }
        let nested = fields.part.encoding == Encoding::Identity
            && matches!(fields.part.content_type.as_str(), "message/rfc822" | "message/global");
        self.open.push((self.parts.len(), self.levels.len()));
        self.parts.push(Part { offset, ..fields.part });
        if nested {
            self.deepen(None)?;
            self.header = Some(Vec::new());
        }
        Ok(())
    }

    fn deepen(&mut self, boundary: Option<Vec<u8>>) -> Result<(), MimeError> {
        if self.levels.len() >= self.limits.depth {
            return Err(MimeError::TooDeep(self.limits.depth));
        }
        self.levels.push(boundary);
        Ok(())
    }

    fn finish(mut self, end: u64) -> Result<Vec<Part>, MimeError> {
        if let Some(header) = self.header.take() {
            self.enter(&header, end)?;
        }
        for (index, _) in std::mem::take(&mut self.open) {
            if let Some(part) = self.parts.get_mut(index) {
                part.len = end.saturating_sub(part.offset);
            }
        }
        Ok(self.parts)
    }
}

/// What the fields of a part say.
struct Fields {
    part: Part,
    /// Set for a multipart.
    boundary: Option<Vec<u8>>,
}

impl Fields {
    fn parse(header: &[u8]) -> Self {
        let mut raw = header.get(..MAX_PART_HEADER).unwrap_or(header).to_vec();
        raw.extend_from_slice(b"\r\n\r\n");
        let parsed = MessageParser::new().with_mime_headers().parse_headers(&raw);
        let content_type = parsed.as_ref().and_then(|message| message.content_type());
        let name = content_type.map_or_else(
            || "text/plain".to_owned(),
            |c| format!("{}/{}", c.ctype(), c.subtype().unwrap_or("")).to_ascii_lowercase(),
        );
        let boundary = content_type
            .filter(|c| c.ctype().eq_ignore_ascii_case("multipart"))
            .and_then(|c| c.attribute("boundary"))
            .filter(|boundary| !boundary.is_empty() && boundary.len() <= MAX_DELIMITER - 8)
            .map(|boundary| boundary.as_bytes().to_vec());
        let message = parsed.as_ref();
        let encoding = match message.and_then(|m| m.content_transfer_encoding()).map(str::trim) {
            Some(name) if name.eq_ignore_ascii_case("base64") => Encoding::Base64,
            Some(name) if name.eq_ignore_ascii_case("quoted-printable") => Encoding::QuotedPrintable,
            _ => Encoding::Identity,
        };
        let part = Part {
            content_type: shorten(&name),
            filename: message.and_then(|m| m.attachment_name()).map(shorten),
            attachment: message.and_then(|m| m.content_disposition()).is_some_and(|d| d.is_attachment()),
            encoding,
            offset: 0,
            len: 0,
        };
        Self { part, boundary }
    }
}

/// For plugins, who repeat it in replies and logs: of bounded length, and no controls, which RFC 2231 lets a name have.
fn shorten(text: &str) -> String {
    let end = (0..=text.len().min(MAX_NAME)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let kept = text.get(..end).unwrap_or_default();
    kept.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::mail::{Body, Header};

    fn message(header: &str, body: &[u8]) -> Message {
        let header = Header::parse(&Bytes::from(header.to_owned()));
        Message { header, body: Body::from_bytes(Bytes::copy_from_slice(body)) }
    }

    fn contents(message: &Message) -> Vec<(String, String)> {
        let parts = parts(message, MimeLimits::default()).unwrap();
        parts
            .into_iter()
            .map(|part| {
                let name = part.content_type.clone();
                let content = PartReader::new(message.body.clone(), part).read_at(0, 1 << 20).unwrap();
                (name, String::from_utf8(content).unwrap())
            })
            .collect()
    }

    fn expect(message: &Message, expected: &[(&str, &str)]) {
        let found = contents(message);
        let found: Vec<_> = found.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
        assert_eq!(found, expected);
    }

    /// Found by `make fuzz`.
    #[test]
    fn sp17_names_have_no_controls() {
        let header =
            "Content-Type: a/b\u{1}\u{85}\r\nContent-Disposition: attachment; filename*=utf-8''x%0d%0aBcc:%20y\r\n";
        let parts = parts(&message(header, b"x"), MimeLimits::default()).unwrap();
        assert!(!parts[0].content_type.chars().any(char::is_control), "{parts:?}");
        assert_eq!(parts[0].filename.as_deref(), Some("x??Bcc: y"));
    }

    #[test]
    fn a_mail_without_mime_is_one_part() {
        expect(&message("Subject: x\r\n", b"hello\r\n"), &[("text/plain", "hello\r\n")]);
        expect(&message("", b""), &[("text/plain", "")]);
    }

    #[test]
    fn multiparts_inside_each_other() {
        let body = b"preamble\r\n--a\r\nContent-Type: multipart/alternative; boundary=\"b\"\r\n\r\n\
            --b\r\n\r\nplain\r\n--b \r\nContent-Type: TEXT/HTML\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
            <b>=C3=A9</b> \r\nlong=\r\n line\r\n--b--\r\nepilogue\r\n\
            --a\r\nContent-Type: application/x; name=a.bin\r\nContent-Disposition: attachment;\r\n filename*=utf-8''b%20c\r\n\
            Content-Transfer-Encoding: BASE64\r\n\r\naGVs\r\nbG8=\r\n--a--\r\nrest";
        let message = message("Content-Type: multipart/mixed;\r\n boundary=a\r\n", body);
        expect(
            &message,
            &[("text/plain", "plain"), ("text/html", "<b>é</b>\r\nlong line"), ("application/x", "hello")],
        );
        let parts = parts(&message, MimeLimits::default()).unwrap();
        assert_eq!(parts[2].filename.as_deref(), Some("b c"));
        assert!(parts[2].attachment && !parts[1].attachment);
        assert_eq!(PartReader::new(message.body, parts[2].clone()).decoded_len().unwrap(), 5);
    }

    #[test]
    fn a_message_inside_the_message_is_walked_too() {
        let body = b"--a\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\
            Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n--a--\r\n";
        let message = message("Content-Type: multipart/mixed; boundary=a\r\n", body);
        let found = contents(&message);
        assert_eq!(found.len(), 2);
        assert!(found[0].1.starts_with("Subject: in") && found[0].1.ends_with("--b--"), "{found:?}");
        assert_eq!(found[1], ("text/plain".to_owned(), "x".to_owned()));
    }

    #[test]
    fn what_is_broken_is_still_seen() {
        let header = "Content-Type: multipart/mixed; boundary=a\r\n";
        // No closing delimiter; an inner multipart that the outer one cuts off; fields without an empty line.
        expect(&message(header, b"--a\r\n\r\nx\r\n"), &[("text/plain", "x\r\n")]);
        let cut = b"--a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--a\r\n\r\ny\r\n--a--";
        expect(&message(header, cut), &[("text/plain", "x"), ("text/plain", "y")]);
        expect(&message(header, b"--a\r\nContent-Type: text/x\r\n--a--\r\n"), &[("text/x", "")]);
        expect(&message("Content-Type: multipart/mixed\r\n", b"x"), &[("multipart/mixed", "x")]);
    }

    #[test]
    fn rs10_depth_and_number_are_bounded() {
        let rfc822 = "Content-Type: message/rfc822\r\n\r\n".repeat(100_000);
        let deep = message("Content-Type: message/rfc822\r\n", rfc822.as_bytes());
        assert!(matches!(parts(&deep, MimeLimits::default()), Err(MimeError::TooDeep(50))));
        let wide = message("Content-Type: multipart/mixed; boundary=a\r\n", "--a\r\n\r\n".repeat(100_000).as_bytes());
        assert!(matches!(parts(&wide, MimeLimits::default()), Err(MimeError::TooManyParts(1000))));
        let nested: String =
            (0..1000).map(|n| format!("--{n}\r\nContent-Type: multipart/x; boundary={}\r\n\r\n", n + 1)).collect();
        let nested = message("Content-Type: multipart/x; boundary=0\r\n", nested.as_bytes());
        assert!(matches!(parts(&nested, MimeLimits::default()), Err(MimeError::TooDeep(50))));
        let line = message("Content-Type: multipart/x; boundary=0\r\n", &vec![b'-'; 300_000]);
        assert!(parts(&line, MimeLimits::default()).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_octets_are_walked_without_a_panic(header in "[ -~\r\n]{0,200}", body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let message = message(&header, &body);
            for part in parts(&message, MimeLimits::default()).unwrap() {
                prop_assert!(part.offset + part.len <= body.len() as u64);
                PartReader::new(message.body.clone(), part).decoded_len().unwrap();
            }
        }
    }
}
