//! Encoded words (RFC 2047): how header fields say what is not ASCII.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::encoding;

/// Octets of text in one encoded word: `=?utf-8?B?` and `?=` around their base64 are 72 of the 75 that it may have.
const MAX_OCTETS: usize = 45;

/// Of an encoded word that is read. It should have 75; nobody needs to search further for its end than this.
const MAX_WORD: usize = 400;

/// Text that is not ASCII, as encoded words; none cuts a character in two (RFC 2047 §5).
pub fn encode(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut piece = String::new();
    for c in text.chars() {
        if piece.len() + c.len_utf8() > MAX_OCTETS {
            words.push(word(&std::mem::take(&mut piece)));
        }
        piece.push(c);
    }
    if !piece.is_empty() {
        words.push(word(&piece));
    }
    words.join(" ")
}

/// ASCII as it is.
pub fn encode_if_needed(text: &str) -> String {
    if text.is_ascii() { text.to_owned() } else { encode(text) }
}

fn word(piece: &str) -> String {
    format!("=?utf-8?B?{}?=", STANDARD.encode(piece))
}

/// What people see of a field. Tolerant; what can't be known of a foreign charset becomes U+FFFD.
pub fn decode(value: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = value;
    let mut after_word = false;
    while !rest.is_empty() {
        let start = rest.windows(2).position(|two| two == b"=?");
        let (before, from) = rest.split_at(start.unwrap_or(rest.len()));
        let found = read_word(from);
        // White space between two encoded words means nothing (RFC 2047 §6.2).
        if !(after_word && found.is_some() && before.iter().all(u8::is_ascii_whitespace)) {
            out.push_str(&text_of("utf-8", before));
        }
        (rest, after_word) = match found {
            Some((text, octets)) => {
                out.push_str(&text);
                (from.get(octets..).unwrap_or_default(), true)
            }
            None => {
                let (plain, after) = from.split_at(from.len().min(2));
                out.push_str(&text_of("utf-8", plain));
                (after, false)
            }
        };
    }
    out
}

/// `=?charset?B?text?=`, and how many octets it has.
fn read_word(octets: &[u8]) -> Option<(String, usize)> {
    let octets = octets.get(..MAX_WORD).unwrap_or(octets);
    let mut parts = octets.strip_prefix(b"=?")?.splitn(3, |&octet| octet == b'?');
    let (charset, encoding, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let end = rest.windows(2).position(|two| two == b"?=")?;
    let text = rest.get(..end)?;
    if text.iter().chain(charset).any(u8::is_ascii_whitespace) {
        return None;
    }
    let content = match encoding {
        b"B" | b"b" => encoding::from_base64(text)?,
        b"Q" | b"q" => {
            let spaced: Vec<u8> = text.iter().map(|&octet| if octet == b'_' { b' ' } else { octet }).collect();
            encoding::from_quoted_printable(&spaced)
        }
        _ => return None,
    };
    // RFC 2231 §5: a language may follow.
    let charset = charset.split(|&octet| octet == b'*').next().unwrap_or_default();
    let charset = std::str::from_utf8(charset).unwrap_or_default().to_ascii_lowercase();
    Some((text_of(&charset, &content), octets.len() - rest.len() + end + 2))
}

fn text_of(charset: &str, octets: &[u8]) -> String {
    match charset {
        "utf-8" | "utf8" | "us-ascii" => match std::str::from_utf8(octets) {
            Ok(text) => text.to_owned(),
            // What nobody has declared is most often this.
            Err(_) => octets.iter().map(|&octet| char::from(octet)).collect(),
        },
        "iso-8859-1" | "iso-8859-15" | "windows-1252" => octets.iter().map(|&octet| char::from(octet)).collect(),
        _ => {
            let known = |&octet: &u8| if octet.is_ascii() { char::from(octet) } else { char::REPLACEMENT_CHARACTER };
            octets.iter().map(known).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_read() {
        for (value, expected) in [
            ("plain text", "plain text"),
            ("=?utf-8?B?w6k=?=", "é"),
            ("=?UTF-8?q?caf=C3=A9_au_lait?= noir", "café au lait noir"),
            ("a =?iso-8859-1?Q?=E9?= b", "a é b"),
            ("=?utf-8?Q?a?= =?utf-8?Q?b?=", "ab"),
            ("=?utf-8?Q?a?=  c =?utf-8?Q?b?=", "a  c b"),
            ("=?utf-8*fr?Q?a?=", "a"),
            ("=?koi8-r?B?W1hdIMHC?=", "[X] \u{fffd}\u{fffd}"),
            // None of these is an encoded word.
            ("=?utf-8?X?a?=", "=?utf-8?X?a?="),
            ("=?utf-8?B?a b?=", "=?utf-8?B?a b?="),
            ("=?utf-8?B?!!?=", "=?utf-8?B?!!?="),
            ("=?utf-8?Q?open", "=?utf-8?Q?open"),
            ("=?", "=?"),
            ("=?=?=?=?", "=?=?=?=?"),
            ("", ""),
        ] {
            assert_eq!(decode(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(decode(b"caf\xe9"), "café");
    }

    #[test]
    fn what_is_encoded_is_read_again_and_no_word_is_too_long() {
        for text in ["é", "[Extérieur] ", &"é".repeat(200), &"a€😀".repeat(50)] {
            let encoded = encode(text);
            assert!(encoded.is_ascii() && encoded.split(' ').all(|word| word.len() <= 75), "{encoded}");
            assert_eq!(decode(encoded.as_bytes()), text);
        }
    }
}
