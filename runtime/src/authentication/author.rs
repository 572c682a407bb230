//! The author's domain (RFC 9989 §4.2): what stands right of the `@` in From. Display names are not looked at, but must
//! not be mistaken for addresses: quotes, comments, groups (RFC 6854) and routes are read, encoded words are left alone.

use crate::mail::Header;
use crate::smtp::Domain;

/// Authors of one mail with domains of their own; more are nobody's mail.
const MAX_AUTHOR_DOMAINS: usize = 10;

/// At least one, none twice. The error says why nobody can say who wrote it.
pub fn domains(header: &Header) -> Result<Vec<Domain>, String> {
    let mut fields = header.named("From");
    let (Some(field), others) = (fields.next(), fields.count()) else {
        return Err("the mail has no From field".to_owned());
    };
    if others > 0 {
        return Err(format!("the mail has {} From fields", others + 1));
    }
    let value = field.value();
    let mut domains: Vec<Domain> = Vec::new();
    let mut nameless = false;
    for address in addresses(&value)? {
        // A display name with a comma, unquoted: it names nobody.
        let Some(at) = address.iter().rposition(|&b| b == b'@') else {
            nameless = true;
            continue;
        };
        let text = address.get(at + 1..).and_then(|domain| std::str::from_utf8(domain).ok());
        let domain = text.and_then(|text| Domain::parse(text.trim()).ok());
        let domain = domain.ok_or("From has an address whose domain is no domain")?;
        if !domains.contains(&domain) {
            domains.push(domain);
        }
        if domains.len() > MAX_AUTHOR_DOMAINS {
            return Err(format!("From has addresses of more than {MAX_AUTHOR_DOMAINS} domains"));
        }
    }
    match (domains.is_empty(), nameless) {
        (true, true) => Err("From has an address without a domain".to_owned()),
        (true, false) => Err("From has no address".to_owned()),
        (false, _) => Ok(domains),
    }
}

/// Of one `mailbox`: what is between angle brackets, else all that is no comment.
#[derive(Default)]
struct Mailbox {
    bare: Vec<u8>,
    angle: Vec<Vec<u8>>,
}

impl Mailbox {
    fn finish(self, found: &mut Vec<Vec<u8>>) {
        if self.angle.is_empty() {
            let bare = self.bare.trim_ascii();
            if !bare.is_empty() {
                found.push(bare.to_vec());
            }
        } else {
            found.extend(self.angle);
        }
    }
}

/// RFC 5322 §3.4 `mailbox-list`, groups among it. Quoted parts come without their quotes: only domains are asked for.
fn addresses(value: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut found = Vec::new();
    let mut mailbox = Mailbox::default();
    let mut inside: Option<Vec<u8>> = None;
    let mut rest = value;
    while let Some((&b, after)) = rest.split_first() {
        rest = after;
        match (b, &mut inside) {
            (b'"', _) => {
                rest = after_quoted(after).ok_or("From has a quoted text without an end")?;
                // It holds a place, so that `"a@b"@c` is no bare `@c`.
                inside.as_mut().unwrap_or(&mut mailbox.bare).push(b'"');
            }
            (b'(', _) => rest = after_comment(after).ok_or("From has a comment without an end")?,
            (b'<', None) => inside = Some(Vec::new()),
            (b'<', Some(_)) => return Err("From has brackets in brackets"),
            (b'>', Some(address)) => {
                mailbox.angle.push(std::mem::take(address));
                inside = None;
            }
            (b'>', None) => return Err("From has a closing bracket without an opening one"),
            // RFC 5322 §4.4: a route before the address proper.
            (b':', Some(address)) => address.clear(),
            (b',', Some(address)) if address.starts_with(b"@") => address.push(b','),
            (b',', Some(_)) => return Err("From has a comma in an address"),
            // The name of a group.
            (b':', None) if mailbox.angle.is_empty() => mailbox = Mailbox::default(),
            (b',' | b';', None) => std::mem::take(&mut mailbox).finish(&mut found),
            (b, Some(address)) => address.push(b),
            (b, None) => mailbox.bare.push(b),
        }
    }
    if inside.is_some() {
        return Err("From has an address without an end");
    }
    mailbox.finish(&mut found);
    Ok(found)
}

fn after_quoted(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (&b, after) = rest.split_first()?;
        rest = match b {
            b'"' => return Some(after),
            b'\\' => after.get(1..)?,
            _ => after,
        };
    }
}

fn after_comment(mut rest: &[u8]) -> Option<&[u8]> {
    let mut depth = 1usize;
    while depth > 0 {
        let (&b, after) = rest.split_first()?;
        rest = after;
        match b {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b'\\' => rest = after.get(1..)?,
            _ => {}
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn of(header: &[u8]) -> Result<String, String> {
        let found = domains(&Header::parse(&Bytes::copy_from_slice(header)))?;
        Ok(found.iter().map(Domain::as_str).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn n7_authors() {
        for (from, domains) in [
            ("joe@Example.COM", "example.com"),
            ("Joe <joe@example.com>", "example.com"),
            ("\"boss@bank.example\" <joe@example.com>", "example.com"),
            ("boss@bank.example <joe@example.com>", "example.com"),
            ("(boss@bank.example, \\( x) joe@example.com (really)", "example.com"),
            ("=?utf-8?q?boss=40bank.example?= <joe@example.com>", "example.com"),
            ("John Q. Public <joe@example.com>", "example.com"),
            ("\"a\\\"<x@evil.example>\" <joe@example.com>", "example.com"),
            ("<\"x@y\"@example.com>", "example.com"),
            ("<@a.example,@b.example:joe@example.com>", "example.com"),
            ("a@example.com, b@example.org, c@EXAMPLE.com", "example.com example.org"),
            ("<a@example.com> <b@example.org>", "example.com example.org"),
            ("Team: a@example.com, B <b@example.org>;", "example.com example.org"),
            ("joe@b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("joe@example.com,", "example.com"),
        ] {
            assert_eq!(of(format!("From: {from}\r\n").as_bytes()).as_deref(), Ok(domains), "{from}");
        }
    }

    #[test]
    fn n7_nobody_can_say_who_wrote_it() {
        for header in [
            &b"To: x@y.example\r\n"[..],
            b"From: a@b.example\r\nfrom: c@d.example\r\n",
            b"From:\r\n",
            b"From: undisclosed:;\r\n",
            b"From: joe\r\n",
            b"From: joe@[192.0.2.1]\r\n",
            b"From: \"joe@example.com\r\n",
            b"From: joe@example.com (\r\n",
            b"From: <joe@example.com\r\n",
            b"From: joe@example.com>\r\n",
            b"From: <a@b.example, c@d.example>\r\n",
            b"From: joe@ex\xffample.com\r\n",
            b"From: <>\r\n",
        ] {
            assert!(of(header).is_err(), "{header:?}");
        }
        let many: Vec<String> = (0..1000).map(|n| format!("x@d{n}.example")).collect();
        assert!(of(format!("From: {}\r\n", many.join(",")).as_bytes()).is_err());
    }

    #[test]
    fn eight_bit_names_and_a_megabyte_are_no_trouble() {
        assert_eq!(of(b"From: J\xf6rg <joe@example.com>\r\n").as_deref(), Ok("example.com"));
        let long = [b"From: (", &vec![b'('; 1 << 20][..], b"\r\n"].concat();
        assert!(of(&long).is_err());
    }
}
