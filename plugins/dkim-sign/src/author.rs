//! Who has written a mail: the domains in its From (RFC 5322 §3.6.2).

use postern_sdk::ReadError;
use postern_sdk::address::domain_name;
use postern_sdk::prelude::*;

/// Authors of one mail that are looked at.
const MAX_AUTHORS: usize = 8;

/// Of all authors in their order, each once. Who has no domain that DNS could have is left out.
pub fn domains(message: &Message) -> Result<Vec<String>, ReadError> {
    let mut domains = Vec::new();
    for domain in message.header("From")?.iter().flat_map(|value| of_field(value)) {
        if domains.len() < MAX_AUTHORS && !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    Ok(domains)
}

/// What is read of a field: comments and quoted names are skipped.
#[derive(Default)]
struct Reader {
    /// The address without its angle brackets, or what stands where one could be.
    address: Vec<u8>,
    domains: Vec<String>,
    comment: usize,
    quoted: bool,
    angle: bool,
    /// An address in angle brackets has been read; what follows it belongs to no other.
    closed: bool,
}

fn of_field(value: &[u8]) -> Vec<String> {
    let mut reader = Reader::default();
    let mut octets = value.iter().copied();
    while let Some(octet) = octets.next() {
        match octet {
            b'\\' if reader.quoted || reader.comment > 0 => drop(octets.next()),
            b'"' if reader.comment == 0 => reader.quoted = !reader.quoted,
            _ if reader.quoted => {}
            b'(' => reader.comment += 1,
            b')' => reader.comment = reader.comment.saturating_sub(1),
            _ if reader.comment > 0 => {}
            _ => reader.take(octet),
        }
    }
    reader.end();
    reader.domains
}

impl Reader {
    fn take(&mut self, octet: u8) {
        match octet {
            b'<' => {
                self.address.clear();
                self.angle = true;
            }
            b'>' => {
                self.angle = false;
                self.closed = true;
            }
            // Between addresses, behind the name of a group and behind its last one (§3.4); not in a source route.
            b',' | b';' if !self.angle => self.end(),
            b':' if !self.angle => self.address.clear(),
            _ if self.closed => {}
            _ => self.address.push(octet),
        }
    }

    fn end(&mut self) {
        let address = std::mem::take(&mut self.address);
        let at = address.iter().rposition(|&octet| octet == b'@');
        let domain = at.and_then(|at| std::str::from_utf8(address.get(at + 1..)?).ok());
        self.domains.extend(domain.and_then(|domain| domain_name(domain.trim()).ok()));
        (self.angle, self.closed) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_of_a_field() {
        for (value, expected) in [
            (&b"ann@example.com"[..], &["example.com"][..]),
            (b"Ann <ann@Example.COM>", &["example.com"]),
            (b"\"evil@evil.example\" <ann@example.com>", &["example.com"]),
            (b"\"a \\\" <evil@evil.example>\" <ann@example.com>", &["example.com"]),
            (b"evil@evil.example <ann@example.com>", &["example.com"]),
            (b"<ann@example.com> evil@evil.example", &["example.com"]),
            (b"(evil@evil.example (nested \\) x@y)) ann@example.com (c)", &["example.com"]),
            (b"ann@example.com, Bob <bob@example.org>", &["example.com", "example.org"]),
            (b"\"x, y@evil.example\" <ann@example.com>, <bob@example.org>", &["example.com", "example.org"]),
            (b"Team: ann@example.com, <bob@example.org>;", &["example.com", "example.org"]),
            (b"undisclosed:;", &[]),
            (b"<@relay.example,@other.example:ann@example.com>", &["example.com"]),
            (b"\"odd@local\"@example.com", &["example.com"]),
            (b"ann@example.com.", &["example.com"]),
            (b"ann@[192.0.2.1]", &[]),
            (b"ann@b\xc3\xbccher.example", &[]),
            (b"ann@\xff", &[]),
            (b"ann", &[]),
            (b"", &[]),
            (b"<ann@example.com", &["example.com"]),
            (b"\"never closed <ann@example.com>", &[]),
        ] {
            assert_eq!(of_field(value), expected, "{}", value.escape_ascii());
        }
    }
}
