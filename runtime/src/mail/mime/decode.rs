//! The content of a part without its transfer encoding (RFC 2045 §6), read in pieces.

use std::io;

use super::super::Body;
use super::{CHUNK, Encoding, Part};

/// White space that is held back until what follows tells whether it counts.
const MAX_PENDING: usize = 256;

/// Reads a part's content, decoded. Made for reading on: going back starts again.
pub struct PartReader {
    body: Body,
    part: Part,
    decoder: Decoder,
    /// What has been read of the part, encoded.
    taken: u64,
    /// Decoded octets, the first of which is the `position`th of the part.
    decoded: Vec<u8>,
    position: u64,
}

impl PartReader {
    pub fn new(body: Body, part: Part) -> Self {
        let decoder = Decoder::new(part.encoding);
        Self { body, part, decoder, taken: 0, decoded: Vec::new(), position: 0 }
    }

    pub fn part(&self) -> &Part {
        &self.part
    }

    /// Encoded octets that reading up to the end of `offset + len` may take, for whoever counts them.
    pub fn cost(&self, offset: u64, len: usize) -> u64 {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        let ahead = if offset < self.position { offset } else { offset - self.position };
        ahead.saturating_add(len).min(self.part.len)
    }

    /// Up to `len` octets from `offset` of the decoded content; shorter only at the end. Blocking when the body is in
    /// a file.
    pub fn read_at(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        if offset < self.position {
            *self = Self::new(self.body.clone(), self.part.clone());
        }
        loop {
            let skip = usize::try_from(offset - self.position).unwrap_or(usize::MAX).min(self.decoded.len());
            self.decoded.drain(..skip);
            self.position += skip as u64;
            if self.position == offset && self.decoded.len() >= len || !self.decode_more()? {
                break;
            }
        }
        let skip = usize::try_from(offset.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let rest = self.decoded.get(skip..).unwrap_or_default();
        Ok(rest.get(..len).unwrap_or(rest).to_vec())
    }

    /// Octets of the decoded content. Reads all of it.
    pub fn decoded_len(mut self) -> io::Result<u64> {
        if self.part.encoding == Encoding::Identity {
            return Ok(self.part.len);
        }
        while self.decode_more()? {
            self.position += self.decoded.len() as u64;
            self.decoded.clear();
        }
        Ok(self.position + self.decoded.len() as u64)
    }

    /// False at the end of the part.
    fn decode_more(&mut self) -> io::Result<bool> {
        let left = self.part.len - self.taken;
        if left == 0 {
            return Ok(self.decoder.finish(&mut self.decoded));
        }
        let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let chunk = self.body.read_at(self.part.offset + self.taken, len)?;
        if chunk.is_empty() {
            return Ok(false);
        }
        self.taken += chunk.len() as u64;
        self.decoder.feed(&chunk, &mut self.decoded);
        Ok(true)
    }
}

/// Decodes in pieces; the state is what stands between two of them.
enum Decoder {
    Identity,
    /// Bits that don't make an octet yet, and how many sextets they came from.
    Base64 {
        bits: u32,
        sextets: u8,
    },
    /// An escape or white space whose meaning depends on what follows.
    QuotedPrintable {
        pending: Vec<u8>,
    },
}

impl Decoder {
    fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Identity => Self::Identity,
            Encoding::Base64 => Self::Base64 { bits: 0, sextets: 0 },
            Encoding::QuotedPrintable => Self::QuotedPrintable { pending: Vec::new() },
        }
    }

    fn feed(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Identity => out.extend_from_slice(chunk),
            Self::Base64 { bits, sextets } => {
                chunk.iter().for_each(|&octet| base64_octet(bits, sextets, octet, out));
            }
            Self::QuotedPrintable { pending } => {
                chunk.iter().for_each(|&octet| quoted_printable_octet(pending, octet, out));
            }
        }
    }

    /// True when something was left.
    fn finish(&mut self, out: &mut Vec<u8>) -> bool {
        let Self::QuotedPrintable { pending } = self else { return false };
        // White space at the end of a line was added on the way (RFC 2045 §6.7 rule 3); a broken escape stays.
        let left = pending.starts_with(b"=") && pending.len() > 1;
        if left {
            out.append(pending);
        }
        pending.clear();
        left
    }
}

/// RFC 2045 §6.8: characters outside the alphabet are ignored; padding starts anew, as in concatenated encodings.
fn base64_octet(bits: &mut u32, sextets: &mut u8, octet: u8, out: &mut Vec<u8>) {
    let value = match octet {
        b'A'..=b'Z' => octet - b'A',
        b'a'..=b'z' => octet - b'a' + 26,
        b'0'..=b'9' => octet - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => {
            *sextets = 0;
            return;
        }
        _ => return,
    };
    *bits = *bits << 6 | u32::from(value);
    *sextets = (*sextets + 1) % 4;
    match *sextets {
        2 => out.push(low_octet(*bits >> 4)),
        3 => out.push(low_octet(*bits >> 2)),
        0 => out.push(low_octet(*bits)),
        _ => {}
    }
}

fn low_octet(bits: u32) -> u8 {
    let [.., low] = bits.to_be_bytes();
    low
}

/// RFC 2045 §6.7. `pending` holds white space, or `=` and what followed it.
fn quoted_printable_octet(pending: &mut Vec<u8>, octet: u8, out: &mut Vec<u8>) {
    if pending.first() == Some(&b'=') {
        pending.push(octet);
        match pending.as_slice() {
            // A soft line break.
            [_, rest @ .., b'\n'] if rest.trim_ascii().is_empty() => pending.clear(),
            [_, rest @ ..] if rest.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r')) && rest.len() < 80 => {}
            [_, high, low] => {
                match (char::from(*high).to_digit(16), char::from(*low).to_digit(16)) {
                    (Some(high), Some(low)) => out.push(low_octet(high << 4 | low)),
                    // Not an escape: as it stands (RFC 2045 §6.7, note on robustness).
                    _ => out.extend_from_slice(pending),
                }
                pending.clear();
            }
            [_, high] if high.is_ascii_hexdigit() => {}
            _ => out.append(pending),
        }
        return;
    }
    match octet {
        b' ' | b'\t' if pending.len() < MAX_PENDING => pending.push(octet),
        b'=' => {
            out.append(pending);
            pending.push(octet);
        }
        b'\r' | b'\n' => {
            pending.clear();
            out.push(octet);
        }
        _ => {
            out.append(pending);
            out.push(octet);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reader(encoding: Encoding, encoded: &[u8]) -> PartReader {
        let part = Part {
            content_type: "text/plain".to_owned(),
            filename: None,
            attachment: false,
            encoding,
            offset: 0,
            len: encoded.len() as u64,
        };
        PartReader::new(Body::from_bytes(Bytes::copy_from_slice(encoded)), part)
    }

    #[test]
    fn reading_in_pieces_gives_the_same() {
        let plain: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(&plain);
        let lines: Vec<_> = encoded.as_bytes().chunks(76).flat_map(|line| [line, b"\r\n"].concat()).collect();
        let mut reader = reader(Encoding::Base64, &lines);
        let mut read = Vec::new();
        loop {
            let piece = reader.read_at(read.len() as u64, 7001).unwrap();
            if piece.is_empty() {
                break;
            }
            read.extend(piece);
        }
        assert_eq!(read, plain);
        assert_eq!(reader.read_at(10, 3).unwrap(), plain[10..13]);
        assert_eq!(reader.read_at(1 << 40, 3).unwrap(), b"");
        assert_eq!(reader.decoded_len().unwrap(), 200_000);
    }

    #[test]
    fn quoted_printable_that_is_broken_stays_as_it_is() {
        for (encoded, expected) in [
            ("a=3Db", "a=b"),
            ("a=ZZb", "a=ZZb"),
            ("a=4", "a=4"),
            ("a=  \r\nb", "ab"),
            ("a  \r\nb\t", "a\r\nb"),
            ("=e9", "\u{fffd}"),
            ("a =20\r\n", "a  \r\n"),
        ] {
            let content = reader(Encoding::QuotedPrintable, encoded.as_bytes()).read_at(0, 100).unwrap();
            let text: String = content
                .utf8_chunks()
                .map(|c| c.valid().to_owned() + if c.invalid().is_empty() { "" } else { "\u{fffd}" })
                .collect();
            assert_eq!(text, expected, "{encoded:?}");
        }
    }
}
