//! Fuzz bodies of what stands in a message, and of what is said about it.

use bytes::Bytes;
use postern::mail::mime::{MimeLimits, PartReader, parts};
use postern::mail::{Body, Field, Header, Message};
use postern::smtp::{Enhanced, Mailbox, Reply, ReplyReader};

use super::check_replies;

/// A header section: not an octet is lost or added, and what is called a name is one.
pub fn header_fields(octets: &[u8]) {
    let raw = Bytes::copy_from_slice(octets);
    let header = Header::parse(&raw);
    assert_eq!(header.to_bytes(), raw);
    for field in header.fields() {
        assert!(field.name().bytes().all(|b| matches!(b, 33..=126)));
        assert!(!field.value().contains(&b'\n'));
    }
}

/// The MIME view: every part lies within the body, and is not longer decoded than it stands there.
pub fn mime(octets: &[u8]) {
    let end = octets.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 2);
    let (header, body) = octets.split_at(end);
    let body = Body::from_bytes(Bytes::copy_from_slice(body.strip_prefix(b"\r\n").unwrap_or(body)));
    let message = Message { header: Header::parse(&Bytes::copy_from_slice(header)), body: body.clone() };
    let limits = MimeLimits::default();
    let Ok(parts) = parts(&message, limits) else { return };
    assert!(parts.len() <= limits.parts);
    for part in parts {
        assert!(part.offset + part.len <= body.len(), "{part:?} in {} octets", body.len());
        let encoded = part.len;
        let mut names = part.content_type.chars().chain(part.filename.iter().flat_map(|name| name.chars()));
        assert!(!names.any(char::is_control), "{part:?}");
        let mut reader = PartReader::new(body.clone(), part);
        let whole = reader.read_at(0, usize::MAX).expect("a body in memory");
        assert!(whole.len() as u64 <= encoded);
        // However it is read, it is the same.
        let mut pieces = PartReader::new(body.clone(), reader.part().clone());
        let mut joined = Vec::new();
        while let piece @ [_, ..] = &pieces.read_at(joined.len() as u64, 7).expect("a body in memory")[..] {
            joined.extend_from_slice(piece);
        }
        assert_eq!(joined, whole);
    }
}

/// The replies of a next hop: split anywhere they are the same, bounded and clean.
pub fn server_reply(octets: &[u8]) {
    let whole = read_replies(octets, octets.len().max(1));
    for piece in [1, 2, 7] {
        assert_eq!(read_replies(octets, piece), whole, "in pieces of {piece}");
    }
}

fn read_replies(octets: &[u8], piece: usize) -> (Vec<String>, Option<String>) {
    let mut reader = ReplyReader::new();
    let mut replies = Vec::new();
    for mut input in octets.chunks(piece) {
        while !input.is_empty() {
            match reader.read(&mut input) {
                Ok(Some(said)) => {
                    let text = said.reply.to_string();
                    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
                    let mut written = Vec::new();
                    said.reply.write(&mut written);
                    check_replies(&written);
                    replies.push(text);
                }
                Ok(None) => assert!(input.is_empty()),
                Err(error) => return (replies, Some(error.to_string())),
            }
        }
    }
    (replies, None)
}

/// What a plugin gives as a reply, as a header field and as an address: refused, or exactly what stands there.
pub fn plugin_reply(octets: &[u8]) {
    let (numbers, text) = octets.split_at(octets.len().min(6));
    let number = |at: usize| numbers.get(at..at + 2).map_or(0, |pair| u16::from_le_bytes([pair[0], pair[1]]));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let enhanced = (number(2) != 0).then(|| Enhanced::new(number(2), number(4)));
    if let Ok(reply) = Reply::checked(u32::from(number(0) % 700), enhanced, text) {
        let mut written = Vec::new();
        reply.write(&mut written);
        check_replies(&written);
        let read = ReplyReader::new().read(&mut &written[..]).expect("a reply of ours").expect("a whole one");
        assert_eq!(read.reply.code(), reply.code());
    }
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    if let Ok(field) = Field::new(name, value) {
        let header = Header::parse(&Bytes::copy_from_slice(field.raw()));
        assert_eq!(header.fields().len(), 1, "{:?}", field.raw());
        assert!(header.fields()[0].is(name), "{:?}", field.raw());
        let raw = field.raw();
        assert!(raw.ends_with(b"\r\n"));
        for line in raw.split(|&octet| octet == b'\n').filter(|line| !line.is_empty()) {
            let line = line.strip_suffix(b"\r").expect("a bare line feed");
            assert!(line.len() <= 998 && !line.contains(&b'\r') && !line.contains(&0), "{raw:?}");
        }
    }
    if let Ok(mailbox) = Mailbox::parse(text) {
        let shown = mailbox.to_string();
        assert_eq!(Mailbox::parse(&shown).as_ref().map(ToString::to_string), Ok(shown));
    }
}
