//! RFC 3461 §4 `xtext`: printable ASCII, with `+` and two upper-case hexadecimal digits for all else.

/// `None` when it is not xtext, or hides a control character (T-DSN-PARAM).
pub fn decode(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            b'=' => return None,
            33..=126 => octet,
            _ => return None,
        });
    }
    let text = String::from_utf8(octets).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

fn digit(octet: u8) -> Option<u8> {
    match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    }
}

/// RFC 3461 §4.2: `addr-type ";" xtext`, as the fields of a DSN want it.
pub fn decode_orcpt(orcpt: &str) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    let is_atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !is_atom {
        return None;
    }
    // RFC 6533 §3: utf-8-addr-xtext and unitext stay as they are.
    if kind.eq_ignore_ascii_case("utf-8") {
        return (!address.chars().any(char::is_control)).then(|| format!("{kind}; {address}"));
    }
    decode(address).map(|address| format!("{kind}; {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding() {
        for (text, expected) in [
            ("plain@example.com", Some("plain@example.com")),
            ("a+2Bb+3Dc", Some("a+b=c")),
            ("a+20b", Some("a b")),
            ("a+00b", None),
            ("a+0D+0Ab", None),
            ("a+0ab", None),
            ("a+", None),
            ("a+4", None),
            ("a=b", None),
            ("a b", None),
        ] {
            assert_eq!(decode(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn original_recipients() {
        for (text, expected) in [
            ("rfc822;a+2Bb@example.com", Some("rfc822; a+b@example.com")),
            ("utf-8;\\x{FC}@example.com", Some("utf-8; \\x{FC}@example.com")),
            ("a@example.com", None),
            (";a@example.com", None),
            ("rfc 822;a@example.com", None),
        ] {
            assert_eq!(decode_orcpt(text).as_deref(), expected, "{text}");
        }
    }
}
