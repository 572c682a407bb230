//! What is looked up in lists: addresses, and the names that a mail came with.

use std::net::IpAddr;

use postern_sdk::address::domain_name;

/// The octets of an IPv4 address or the nibbles of an IPv6 address, last first (RFC 5782 §2.1, §2.4).
pub fn reversed(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}")
        }
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            let nibbles = (0..32).map(|place| format!("{:x}", bits >> (4 * place) & 15));
            nibbles.collect::<Vec<_>>().join(".")
        }
    }
}

/// An address that lists can know: those of private networks mean something else everywhere.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            let special = ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast();
            !(ip.is_private() || special || shared || first == 0)
        }
        IpAddr::V6(ip) => {
            let first = ip.segments().first().copied().unwrap_or_default();
            let local = first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80;
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || local)
        }
    }
}

/// A name that a list of domains can have: lists of domains must not be asked for addresses, in whatever clothes.
pub fn domain(text: &str) -> Option<String> {
    let name = domain_name(text).ok()?;
    let (_, last) = name.rsplit_once('.')?;
    (!last.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

/// Authors whose domains are looked at.
const MAX_AUTHORS: usize = 10;

/// The domains of the mailboxes in a `From` (RFC 5322 §3.4). Tolerant: what is no mailbox is passed over.
pub fn author_domains(value: &[u8]) -> Vec<String> {
    let text = plain(value);
    let mut found = Vec::new();
    for mailbox in text.split([',', ';']) {
        let address = match mailbox.rsplit_once('<') {
            Some((_, inside)) => inside.split('>').next().unwrap_or_default(),
            None => mailbox,
        };
        let Some((_, after)) = address.rsplit_once('@') else { continue };
        if let Some(name) = domain(after.trim())
            && !found.contains(&name)
            && found.len() < MAX_AUTHORS
        {
            found.push(name);
        }
    }
    found
}

/// Without comments and quoted strings, in which `@`, `<` and `,` mean nothing. A quoted local part becomes a `q`.
fn plain(value: &[u8]) -> String {
    let mut out = String::new();
    let (mut comments, mut quoted, mut escaped) = (0_usize, false, false);
    for &octet in value {
        let meant = !std::mem::take(&mut escaped);
        match octet {
            b'\\' if meant && (quoted || comments > 0) => escaped = true,
            b'"' if meant && comments == 0 => {
                quoted = !quoted;
                if quoted {
                    out.push('q');
                }
            }
            _ if quoted => {}
            b'(' if meant => comments += 1,
            b')' if meant && comments > 0 => comments -= 1,
            _ if comments > 0 => {}
            _ => out.push(if octet.is_ascii() { char::from(octet) } else { '?' }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_backwards() {
        let reversed = |address: &str| reversed(address.parse().unwrap());
        assert_eq!(reversed("192.0.2.99"), "99.2.0.192");
        assert_eq!(reversed("::ffff:192.0.2.99"), "99.2.0.192");
        let expected = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2";
        assert_eq!(reversed("2001:db8::1"), expected);
    }

    #[test]
    fn private_addresses_are_nobodys_business() {
        for address in [
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::ffff:10.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "fc00::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["192.0.2.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "11.0.0.1", "2001:db8::1", "2a00::1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn names_that_a_list_can_have() {
        for (text, expected) in [
            ("Mail.Example.ORG", Some("mail.example.org")),
            ("mail.example.org.", Some("mail.example.org")),
            ("192.0.2.1", None),
            ("[192.0.2.1]", None),
            ("[IPv6:2001:db8::1]", None),
            ("localhost", None),
            ("a b.example", None),
            ("", None),
        ] {
            assert_eq!(domain(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn authors() {
        for (value, expected) in [
            ("ann@example.org", &["example.org"][..]),
            ("Ann <ann@Example.ORG>", &["example.org"]),
            ("\"b@b.example, <c@c.example>\" <ann@example.org>", &["example.org"]),
            ("Ann (a@c.example (b@d.example)) <ann@example.org>", &["example.org"]),
            ("\"a@b\"@example.org", &["example.org"]),
            ("\"a \\\" @x.example\" <ann@example.org>", &["example.org"]),
            ("a@one.example, b@two.example, c@one.example", &["one.example", "two.example"]),
            ("team: a@one.example, b@two.example;", &["one.example", "two.example"]),
            ("undisclosed:;", &[]),
            ("ann@[192.0.2.1]", &[]),
            ("ann@localhost", &[]),
            ("=?utf-8?q?a=40b=2Eexample?= <ann@example.org>", &["example.org"]),
            ("<ann@example.org", &["example.org"]),
            ("((((", &[]),
            ("", &[]),
        ] {
            assert_eq!(author_domains(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(author_domains(b"\xe9 <ann@example.org>"), ["example.org"]);
        let many: String = (0..500).map(|n| format!("a@d{n}.example, ")).collect();
        assert_eq!(author_domains(many.as_bytes()).len(), MAX_AUTHORS);
    }
}
