//! Who has really handed a mail in, where it came through a trusted relay (R11): the `Received` fields that relays have
//! written are read from the top, as long as each names another relay as its client; the first client that is none is
//! the origin.
//!
//! Everything below that is the sender's to forge. And in a relay's own field its client chooses the name at HELO, so an
//! address is taken only from where the server writes it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Source;
use crate::mail::Header;
use crate::mail::evidence::Origin;

pub(super) fn is_relay(relays: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    relays.iter().any(|relay| relay.contains(&client))
}

/// Of a mail that a relay hands over; the header as it was received. Never the address of a relay.
pub(super) fn behind_relay(relays: &[IpNet], header: &Header) -> Source {
    for field in header.named("Received") {
        let value = field.value();
        let Some(hop) = std::str::from_utf8(&value).ok().and_then(Hop::parse) else {
            return Err("a trusted relay's Received field does not say where the mail came from".to_owned());
        };
        // What a relay got from itself (a filter, say) it got from where the field below says.
        if !hop.address.is_loopback() && !is_relay(relays, hop.address) {
            return Ok(Origin { address: hop.address, helo: hop.helo, relayed: true });
        }
    }
    Err("the mail came through trusted relays, and none says from where".to_owned())
}

/// The client in one `Received` field.
#[derive(Debug, PartialEq, Eq)]
struct Hop {
    address: IpAddr,
    helo: Option<String>,
}

impl Hop {
    /// RFC 5321 §4.4 `From-domain`, and what Postfix, Exim, Exchange, sendmail, qmail and Postern make of it.
    fn parse(value: &str) -> Option<Self> {
        let rest = value.trim_start();
        let (word, rest) = rest.split_at_checked(4)?;
        if !word.eq_ignore_ascii_case("from") || !rest.starts_with([' ', '\t']) {
            return None;
        }
        let rest = rest.trim_start();
        let end = rest.find([' ', '\t', '(']).unwrap_or(rest.len());
        let (name, mut rest) = rest.split_at(end);
        let mut comments = Vec::new();
        while let Some((comment, after)) = leading_comment(rest.trim_start()) {
            comments.push(comment);
            rest = after;
        }
        let said = comments.iter().find_map(|comment| helo_in(comment));
        let bracketed = comments.iter().find_map(|comment| bracketed_in(comment));
        let bare = || comments.iter().find_map(|comment| bare_in(comment));
        // Exim puts the address first where the client has no name, and says so by a HELO name of its own.
        let first = || address(name.strip_prefix('[')?.split_once(']')?.0).filter(|_| said.is_some());
        let address = bracketed.or_else(bare).or_else(first)?.to_canonical();
        let helo = said.map_or(name, |said| said);
        Some(Self { address, helo: (!helo.is_empty()).then(|| super::printable(helo, 255)) })
    }
}

/// A comment and what follows it.
fn leading_comment(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('(')?;
    let mut depth = 1usize;
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((inner.get(..at)?, inner.get(at + 1..)?));
        }
    }
    None
}

/// Exim's `helo=NAME`, qmail's `HELO NAME`.
fn helo_in(comment: &str) -> Option<&str> {
    let mut words = comment.split_ascii_whitespace();
    while let Some(word) = words.next() {
        match word.split_at_checked(5) {
            Some((key, name)) if key.eq_ignore_ascii_case("helo=") => return Some(name),
            _ if matches!(word, "HELO" | "EHLO") => return words.next(),
            _ => {}
        }
    }
    None
}

/// The last `[ADDRESS]` or `[ADDRESS]:PORT` that stands for itself: before it may stand what the client has chosen
/// (sendmail's `IDENT:`), and `helo=[ADDRESS]` is the client's own words.
fn bracketed_in(comment: &str) -> Option<IpAddr> {
    let words = comment.split_ascii_whitespace().rev();
    words.filter_map(|word| word.strip_prefix('[')).find_map(|word| {
        let (inside, after) = word.split_once(']')?;
        let port = after.is_empty() || after.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
        address(inside).filter(|_| port)
    })
}

/// A comment that is an address and nothing else (Exchange, qmail), or has one after an `@` (qmail with ident).
fn bare_in(comment: &str) -> Option<IpAddr> {
    let text = comment.trim();
    address(text.rsplit_once('@').map_or(text, |(_, after)| after))
}

fn address(text: &str) -> Option<IpAddr> {
    let text = match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => text.get(5..)?,
        _ => text,
    };
    // A scope (`fe80::1%eth0`) is the relay's own affair.
    text.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn hop(value: &str) -> Option<(String, String)> {
        let hop = Hop::parse(value)?;
        Some((hop.address.to_string(), hop.helo.unwrap_or_default()))
    }

    #[test]
    fn r11_fields_of_other_servers() {
        for (value, address, helo) in [
            // Postfix
            (
                "from mx.a.example (mail.a.example [192.0.2.1]) by r.example (Postfix) with ESMTP",
                "192.0.2.1",
                "mx.a.example",
            ),
            ("from [10.0.0.1] (unknown [192.0.2.1]) by r.example", "192.0.2.1", "[10.0.0.1]"),
            ("from a.example (1.2.3.4 [IPv6:2001:db8::1]) (using TLSv1.3 (x)) by r", "2001:db8::1", "a.example"),
            // Exim
            (
                "from mail.a.example ([192.0.2.1] helo=mx.a.example) by r with esmtps (TLS1.3)",
                "192.0.2.1",
                "mx.a.example",
            ),
            ("from mail.a.example ([192.0.2.1]:4711 helo=[5.6.7.8] ident=x) by r", "192.0.2.1", "[5.6.7.8]"),
            ("from [192.0.2.1] (port=99 helo=mx.a.example) by r", "192.0.2.1", "mx.a.example"),
            ("from mail.a.example ([192.0.2.1])\tby r", "192.0.2.1", "mail.a.example"),
            // Exchange
            (
                "from mx.a.example (192.0.2.1) by R.example (10.0.0.9) with Microsoft SMTP Server",
                "192.0.2.1",
                "mx.a.example",
            ),
            ("from mx.a.example (2001:db8::1) by R.example (::1) with", "2001:db8::1", "mx.a.example"),
            // sendmail
            (
                "from mx.a.example (IDENT:[9.9.9.9]@mail.a.example [192.0.2.1] (may be forged)) by r",
                "192.0.2.1",
                "mx.a.example",
            ),
            ("from mx.a.example ([192.0.2.1]) by r (8.17/8.17)", "192.0.2.1", "mx.a.example"),
            // qmail
            ("from unknown (HELO mx.a.example) (192.0.2.1) by r with SMTP", "192.0.2.1", "mx.a.example"),
            ("from mail.a.example (HELO mx.a.example) (joe@192.0.2.1) by r", "192.0.2.1", "mx.a.example"),
            ("From a.example (b.example [::ffff:192.0.2.1]) by r", "192.0.2.1", "a.example"),
        ] {
            assert_eq!(hop(value), Some((address.to_owned(), helo.to_owned())), "{value}");
        }
        for bad in [
            "by r.example (Postfix, from userid 33)",
            "from mx.a.example by r.example",
            // Just what it said at HELO.
            "from [192.0.2.1] by r.example",
            "from [192.0.2.1] (mail.a.example) by r.example",
            "from a.example (mail.a.example [192.0.2.999]) by r",
            "from a.example (mail.a.example [192.0.2.1] by r",
            "from a.example (helo=[192.0.2.1]) by r",
            "from",
            "",
        ] {
            assert_eq!(hop(bad), None, "{bad}");
        }
    }

    fn origin(received: &[&str]) -> Source {
        let text: String = received.iter().map(|value| format!("Received: {value}\r\n")).collect();
        let relays = ["198.51.100.0/24".parse().unwrap(), "2001:db8:5::/48".parse().unwrap()];
        behind_relay(&relays, &Header::parse(&Bytes::from(text)))
    }

    #[test]
    fn r11_the_first_client_that_is_no_relay() {
        let found = origin(&[
            "from inner (inner [198.51.100.2]) by outer",
            "from localhost (localhost [127.0.0.1]) by inner",
            "from six ([IPv6:2001:db8:5::1]) by inner",
            "from mx.a.example (mail.a.example [192.0.2.1]) by six",
            "from forged (forged [203.0.113.9]) by mx.a.example",
        ]);
        let (address, helo) = ("192.0.2.1".parse().unwrap(), Some("mx.a.example".to_owned()));
        assert_eq!(found, Ok(Origin { address, helo, relayed: true }));
    }

    #[test]
    fn r11_never_the_relay_itself() {
        for received in [
            &[][..],
            &["from inner (inner [198.51.100.2]) by outer"],
            // Submitted at the relay: what stands below is the submitter's.
            &["by relay (Postfix, from userid 33)", "from forged (forged [203.0.113.9]) by x"],
        ] {
            let found = origin(received);
            assert!(found.is_err(), "{received:?}: {found:?}");
        }
    }
}
