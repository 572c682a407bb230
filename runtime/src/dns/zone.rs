//! Records as lines of a zone file (RFC 1035 §5.1), and octets from DNS as text that can be shown anywhere.

use std::fmt::Write as _;

use crate::smtp::Domain;

/// Of what we propose: an hour, so that a mistake does not stay for a day.
pub const TTL: u32 = 3600;
/// RFC 1035 §3.3: one character-string of a TXT record.
const MAX_STRING: usize = 255;
/// Characters of one record that are shown: strangers may publish 64 KiB. A key of 4096 bits has less.
const MAX_SHOWN: usize = 1000;

pub fn mx(owner: &Domain, preference: u16, host: &str) -> String {
    let dot = if host == "." { "" } else { "." };
    format!("{owner}. {TTL} IN MX {preference} {host}{dot}")
}

/// `owner`: without the dot at its end.
pub fn txt(owner: &str, value: &[u8]) -> String {
    let strings: Vec<String> = match value {
        [] => vec!["\"\"".to_owned()],
        value => value.chunks(MAX_STRING).map(|string| format!("\"{}\"", escaped(string, true))).collect(),
    };
    format!("{owner}. {TTL} IN TXT {}", strings.join(" "))
}

/// What somebody has published, without its quotes; cut when it is long.
pub fn shown(value: &[u8]) -> String {
    let (part, rest) = value.split_at(value.len().min(MAX_SHOWN));
    let mut text = escaped(part, false);
    if text.len() > MAX_SHOWN || !rest.is_empty() {
        // All of it is ASCII.
        text.truncate(MAX_SHOWN);
        // Writing to a String can't fail.
        let _ = write!(text, "... ({} octets)", value.len());
    }
    text
}

/// Printable ASCII stays, all else is `\DDD`: no octet of a stranger reaches a terminal or breaks a line.
fn escaped(value: &[u8], in_quotes: bool) -> String {
    let mut out = String::with_capacity(value.len());
    for octet in value {
        match octet {
            b'\\' => out.push_str("\\\\"),
            b'"' if in_quotes => out.push_str("\\\""),
            b' '..=b'~' => out.push(char::from(*octet)),
            octet => drop(write!(out, "\\{octet:03}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_zone_file() {
        let domain = Domain::parse("company.com").unwrap();
        assert_eq!(mx(&domain, 10, "mx.example.net"), "company.com. 3600 IN MX 10 mx.example.net.");
        assert_eq!(mx(&domain, 0, "."), "company.com. 3600 IN MX 0 .");
        assert_eq!(txt("company.com", b"v=spf1 -all"), "company.com. 3600 IN TXT \"v=spf1 -all\"");
        assert_eq!(txt("a", b""), "a. 3600 IN TXT \"\"");
        let long = txt("a", &[b'x'; 300]);
        assert_eq!(long, format!("a. 3600 IN TXT \"{}\" \"{}\"", "x".repeat(255), "x".repeat(45)));
    }

    #[test]
    fn no_octet_of_a_stranger_gets_through() {
        assert_eq!(shown(b"a\x1b[31m\"\\\r\n\xc3\xbc\x7f"), "a\\027[31m\"\\\\\\013\\010\\195\\188\\127");
        assert_eq!(txt("a", b"x\"\n;y"), "a. 3600 IN TXT \"x\\\"\\010;y\"");
        let long = shown(&vec![b'x'; 65_000]);
        assert!(long.len() < 1100 && long.ends_with("x... (65000 octets)"), "{long}");
        assert!(shown(&[0xff; 999]).len() < 1100);
    }
}
