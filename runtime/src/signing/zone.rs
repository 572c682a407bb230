//! Records as lines of a zone's master file (RFC 1035 §5.1), for whoever publishes them.

use super::Selector;
use crate::smtp::Domain;

/// Octets of one character-string (RFC 1035 §3.3).
const MAX_STRING: usize = 255;

/// Where the record of a key is published (RFC 6376 §3.6.2.1), without a dot at its end.
pub fn name(domain: &Domain, selector: &Selector) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// A TXT record: its name with the dot at the end, its text in strings of at most 255 octets, which are read as one
/// (RFC 7208 §3.3, RFC 6376 §3.6.2.2). The text is printable ASCII.
pub fn txt(name: &str, text: &str) -> String {
    let strings: Vec<String> = strings(text).map(quote).collect();
    match strings.as_slice() {
        [one] => format!("{name}. IN TXT {one}"),
        several => format!("{name}. IN TXT ( {} )", several.join(" ")),
    }
}

/// The strings of a TXT record, of at most 255 octets each.
pub fn strings(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        match text.split_at_checked(MAX_STRING) {
            Some((string, after)) if !after.is_empty() => {
                rest = Some(after);
                Some(string)
            }
            _ => Some(text),
        }
    })
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_where_dns_must() {
        let name = name(&Domain::parse("example.com").unwrap(), &Selector::parse("s1").unwrap());
        assert_eq!(txt(&name, "v=DKIM1; p="), "s1._domainkey.example.com. IN TXT \"v=DKIM1; p=\"");
        assert_eq!(txt("x", "a\"b\\"), "x. IN TXT \"a\\\"b\\\\\"");
        for (len, expected) in [(0, vec![0]), (255, vec![255]), (256, vec![255, 1]), (510, vec![255, 255])] {
            let text = "x".repeat(len);
            assert_eq!(strings(&text).map(str::len).collect::<Vec<_>>(), expected);
        }
        assert_eq!(txt("x", &"y".repeat(256)), format!("x. IN TXT ( \"{}\" \"y\" )", "y".repeat(255)));
    }
}
