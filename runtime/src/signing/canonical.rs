//! The relaxed canonical form (RFC 6376 §3.4.2, §3.4.4), of a body piece by piece.

use aws_lc_rs::digest::{Context, Digest, SHA256};

use crate::mail::Field;

/// RFC 6376 §3.4.2: the name in lower case, the value unfolded, white space runs as one space, none around it; and CRLF.
pub fn relaxed(field: &Field, out: &mut Vec<u8>) {
    let raw = field.raw();
    let colon = raw.iter().position(|&octet| octet == b':').unwrap_or(raw.len());
    let (name, value) = raw.split_at(colon);
    out.extend(name.trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let begin = out.len();
    let mut space = false;
    for &octet in value.iter().skip(1) {
        match octet {
            b'\r' | b'\n' => {}
            b' ' | b'\t' => space = true,
            _ => {
                if std::mem::take(&mut space) && out.len() > begin {
                    out.push(b' ');
                }
                out.push(octet);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Octets hashed at once.
const BLOCK: usize = 4096;

/// SHA-256 of a relaxed body (RFC 6376 §3.4.4): runs of white space are one space, none at the end of a line, no empty
/// lines at the end of the body, and whatever is there ends in CRLF. A line of nothing but white space is an empty one.
pub struct BodyHash {
    digest: Context,
    block: Vec<u8>,
    /// Line ends that count only when text follows them.
    line_ends: u64,
    /// White space that counts only when text follows it in the line.
    space: bool,
    has_text: bool,
}

impl Default for BodyHash {
    fn default() -> Self {
        let block = Vec::with_capacity(BLOCK + 2);
        Self { digest: Context::new(&SHA256), block, line_ends: 0, space: false, has_text: false }
    }
}

impl BodyHash {
    pub fn push(&mut self, piece: &[u8]) {
        for &octet in piece {
            match octet {
                b' ' | b'\t' => self.space = true,
                // Only together with LF: a bare one is never sent.
                b'\r' => {}
                b'\n' => {
                    self.space = false;
                    self.line_ends += 1;
                }
                _ => self.text(octet),
            }
        }
    }

    fn text(&mut self, octet: u8) {
        self.has_text = true;
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.write(b"\r\n");
        }
        if std::mem::take(&mut self.space) {
            self.write(b" ");
        }
        self.write(&[octet]);
    }

    fn write(&mut self, octets: &[u8]) {
        self.block.extend_from_slice(octets);
        if self.block.len() >= BLOCK {
            self.digest.update(&self.block);
            self.block.clear();
        }
    }

    pub fn finish(mut self) -> Digest {
        if self.has_text {
            self.write(b"\r\n");
        }
        self.digest.update(&self.block);
        self.digest.finish()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::digest;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn hash(pieces: &[&[u8]]) -> Vec<u8> {
        let mut hash = BodyHash::default();
        pieces.iter().for_each(|piece| hash.push(piece));
        hash.finish().as_ref().to_vec()
    }

    #[test]
    fn bodies() {
        for (body, canonical) in [
            (&b""[..], &b""[..]),
            (b"\r\n", b""),
            (b"\r\n\r\n\r\n", b""),
            // RFC 6376 §3.4.5.
            (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
            // What mail-auth 0.13.3 gets wrong: lines of white space at the end are empty lines.
            (b"text\r\n \r\n", b"text\r\n"),
            (b"text\r\n\t \r\n  ", b"text\r\n"),
            (b"text\r\n\r\n \t\r\n\r\n", b"text\r\n"),
            (b" \r\n \r\n", b""),
            (b" ", b""),
            (b"a\r\n \r\nb", b"a\r\n\r\nb\r\n"),
            (b"\r\n\r\na\r\n", b"\r\n\r\na\r\n"),
            (b"no end", b"no end\r\n"),
            (b"  lead\ting  \r\n", b" lead ing\r\n"),
            (b"\xff\xfe 8bit\r\n", b"\xff\xfe 8bit\r\n"),
        ] {
            let expected = digest(&SHA256, canonical).as_ref().to_vec();
            assert_eq!(hash(&[body]), expected, "{}", body.escape_ascii());
            for at in 0..body.len() {
                assert_eq!(hash(&[&body[..at], &body[at..]]), expected, "{} at {at}", body.escape_ascii());
            }
        }
    }

    #[test]
    fn fields() {
        for (raw, expected) in [
            (&b"SUBJect : \t a  b\t\r\n  c \r\n"[..], &b"subject:a b c\r\n"[..]),
            (b"A: X\r\n", b"a:X\r\n"),
            (b"B : Y\t\r\n\tZ  \r\n", b"b:Y Z\r\n"),
            (b"Empty:\r\n", b"empty:\r\n"),
            (b"Empty: \r\n \r\n", b"empty:\r\n"),
            (b"X: a:b\r\n", b"x:a:b\r\n"),
        ] {
            let mut out = Vec::new();
            relaxed(&Field::from_raw(Bytes::from_static(raw)), &mut out);
            assert_eq!(out, expected, "{}", raw.escape_ascii());
        }
    }

    /// The whole body at once, as the RFC says it.
    fn by_the_book(body: &[u8]) -> Vec<u8> {
        let text = String::from_utf8(body.to_vec()).unwrap();
        let lines = text.split("\r\n").map(|line| {
            let words: Vec<_> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            let lead = if line.starts_with([' ', '\t']) && !words.is_empty() { " " } else { "" };
            format!("{lead}{}\r\n", words.join(" "))
        });
        let mut whole = lines.collect::<String>();
        while whole.ends_with("\r\n\r\n") {
            whole.truncate(whole.len() - 2);
        }
        if whole == "\r\n" { Vec::new() } else { whole.into_bytes() }
    }

    proptest! {
        #[test]
        fn any_body_is_hashed_by_the_book(pieces in proptest::collection::vec("[a \t]{0,3}|\r\n", 0..30)) {
            let body = pieces.concat();
            let expected = digest(&SHA256, &by_the_book(body.as_bytes())).as_ref().to_vec();
            let pieces: Vec<&[u8]> = pieces.iter().map(String::as_bytes).collect();
            prop_assert_eq!(hash(&pieces), expected);
        }
    }
}
