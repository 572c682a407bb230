//! Who has really handed a mail in, where it came through a trusted relay (R11): the `Received` fields that relays have
//! written are read from the top, as long as each names another relay as its client; the first client that is none is
//! the origin.
//!
//! Everything below that is the sender's to forge. And in a relay's own field its client chooses the name at HELO, the name
//! in its certificate and the answer to ident, some of which some servers copy as they are: the address must stand where
//! servers write it, and there must be but one. What could be read in two ways says nothing.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Source;
use crate::mail::Header;
use crate::mail::evidence::Origin;

pub(super) fn is_relay(relays: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    relays.iter().any(|relay| relay.contains(&client))
}

/// Of a mail that a relay hands over; the header as it was received. Never the address of a relay, nor one that is not of the
/// Internet: that is some host behind the relay, and who has written what stands below is not known. Where it may be believed,
/// its network belongs among the relays.
pub(super) fn behind_relay(relays: &[IpNet], header: &Header) -> Source {
    for field in header.named("Received") {
        let value = field.value();
        let Some(hop) = std::str::from_utf8(&value).ok().and_then(Hop::parse) else {
            return Err("a trusted relay's Received field does not say where the mail came from".to_owned());
        };
        // What a relay got from itself (a filter, say) it got from where the field below says.
        if hop.address.is_loopback() || is_relay(relays, hop.address) {
            continue;
        }
        if !is_public(hop.address) {
            let address = hop.address;
            return Err(format!("a trusted relay had the mail from {address}, an internal address that is no relay's"));
        }
        return Ok(Origin { address: hop.address, helo: hop.helo, relayed: true });
    }
    Err("the mail came through trusted relays, and none says from where".to_owned())
}

/// A host of the Internet may have it. The networks for documentation count as such: nothing real uses them.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            // RFC 6598.
            let shared = matches!(four.octets(), [100, 64..128, ..]);
            let here = four.is_unspecified() || four.is_loopback() || four.is_link_local() || four.is_private();
            !(shared || here || four.is_multicast() || four.is_broadcast())
        }
        IpAddr::V6(six) => {
            let here = six.is_unspecified() || six.is_loopback() || six.is_unicast_link_local();
            !(here || six.is_unique_local() || six.is_multicast())
        }
    }
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
        let rest = after_word(value, "from")?;
        let end = rest.find([' ', '\t', '(']).unwrap_or(rest.len());
        let (name, mut rest) = rest.split_at(end);
        let mut comments = Vec::new();
        while let Some((comment, after)) = leading_comment(rest.trim_start()) {
            comments.push(comment);
            rest = after;
        }
        after_word(rest, "by").filter(|_| has_one_of_each(value))?;
        let said = comments.iter().find_map(|comment| helo_in(comment));
        let mut addresses: Vec<IpAddr> = comments.iter().flat_map(|comment| addresses_in(comment)).collect();
        // Exim puts the address first where the client has no name, and says so by a HELO name of its own.
        if comments.iter().any(|comment| comment.split_ascii_whitespace().any(|word| after_key(word).is_some())) {
            addresses.extend(bracketed(name));
        }
        let address = *addresses.first()?;
        if addresses.iter().any(|other| *other != address) {
            return None;
        }
        let helo = said.unwrap_or(name);
        Some(Self { address, helo: (!helo.is_empty()).then(|| super::printable(helo, 255)) })
    }
}

/// What follows that word and white space.
fn after_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = text.trim_start().split_at_checked(word.len())?;
    (first.eq_ignore_ascii_case(word) && rest.starts_with([' ', '\t'])).then(|| rest.trim_start())
}

/// `from` and `by` are there once, wherever: a second one may be the relay's own, after a client's words that look like a
/// whole field and whatever could hide the rest of it.
fn has_one_of_each(value: &str) -> bool {
    let words = value.split(|c: char| c.is_ascii_whitespace() || "()<>\"\\;,".contains(c));
    let (mut from, mut by) = (0, 0);
    for word in words {
        from += usize::from(word.eq_ignore_ascii_case("from"));
        by += usize::from(word.eq_ignore_ascii_case("by"));
    }
    (from, by) == (1, 1)
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
        match after_key(word) {
            Some(name) => return Some(name),
            None if matches!(word, "HELO" | "EHLO") => return words.next(),
            None => {}
        }
    }
    None
}

/// The value of `helo=`.
fn after_key(word: &str) -> Option<&str> {
    word.split_at_checked(5).filter(|(key, _)| key.eq_ignore_ascii_case("helo=")).map(|(_, name)| name)
}

/// Each `[ADDRESS]` or `[ADDRESS]:PORT` that stands for itself; `helo=[ADDRESS]` and sendmail's `IDENT:[ADDRESS]@NAME` do not.
/// Or the comment is an address and nothing else (Exchange, qmail), or has one behind an `@` (qmail with ident).
fn addresses_in(comment: &str) -> Vec<IpAddr> {
    let mut words = comment.split_ascii_whitespace().peekable();
    // qmail: what follows is the client's word.
    if words.next_if(|word| matches!(*word, "HELO" | "EHLO")).is_some() {
        return words.skip(1).filter_map(bracketed).collect();
    }
    let text = comment.trim();
    let bare = address(text.rsplit_once('@').map_or(text, |(_, after)| after));
    bare.into_iter().chain(words.filter_map(bracketed)).collect()
}

fn bracketed(word: &str) -> Option<IpAddr> {
    let (inside, after) = word.strip_prefix('[')?.split_once(']')?;
    let port = after.is_empty() || after.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    address(inside).filter(|_| port)
}

fn address(text: &str) -> Option<IpAddr> {
    let text = match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => text.get(5..)?,
        _ => text,
    };
    // A scope (`fe80::1%eth0`) is the relay's own affair.
    text.split('%').next()?.parse().ok().map(|address: IpAddr| address.to_canonical())
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
            ("from unknown (HELO [10.0.0.1]) (192.0.2.1) by r with SMTP", "192.0.2.1", "[10.0.0.1]"),
            ("From a.example (b.example [::ffff:192.0.2.1]) by r", "192.0.2.1", "a.example"),
            (
                "from a.example (b.example [192.0.2.1]) (Client CN \"x\" (not verified)) by r (x) for <by@c.example>; date (UTC)",
                "192.0.2.1",
                "a.example",
            ),
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
            "from a.example (mail.a.example [192.0.2.1]) with ESMTP",
            "from by (mail.a.example [192.0.2.1]) by r",
            "from a.example (mail.a.example [192.0.2.1]) by z <; (mail.x.example [192.0.2.2]) by r for <a@b.example>",
            // Two of them: one is not the relay's.
            "from a.example (mail.a.example [192.0.2.1]) (Client CN \"x [192.0.2.9] y\") by r",
            "from mail.a.example ([192.0.2.1] helo=x [192.0.2.9]) by r",
            "from",
            "",
        ] {
            assert_eq!(hop(bad), None, "{bad}");
        }
    }

    /// The name at HELO in the words of each server, copied as it is: no server that neuters it is worse off.
    #[test]
    fn r11_no_name_at_helo_forges_the_address() {
        const REAL: &str = "198.18.0.1";
        const SERVERS: [&str; 8] = [
            "from HELO (unknown [198.18.0.1]) by r.example (Postfix) with ESMTP id 4711 for <\")) by x\"@y>; Sun",
            "from HELO (mail.x.example [198.18.0.1]) (using TLSv1.3 (256/256 bits)) by r.example (Postfix); Sun",
            "from HELO (198.18.0.1) by R.example (10.0.0.9) with Microsoft SMTP Server id 15; Sun",
            "from HELO (IDENT:joe@mail.x.example [198.18.0.1] (may be forged)) by r (8.17/8.17) with ESMTP; Sun",
            "from mail.x.example (IDENT:HELO@mail.x.example [198.18.0.1]) by r (8.17/8.17) with ESMTP; Sun",
            "from mail.x.example ([198.18.0.1] helo=HELO) by r with esmtps (TLS1.3) (Exim 4.98); Sun",
            "from [198.18.0.1] (port=99 helo=HELO ident=joe) by r with esmtp (Exim 4.98) for <a@b.example>; Sun",
            "from unknown (HELO HELO) (198.18.0.1) by r with SMTP; Sun",
        ];
        const PARTS: [&str; 16] = [
            "x",
            " ",
            "(",
            ")",
            "[1.2.3.4]",
            "1.2.3.4",
            " by ",
            "by r.example ",
            "helo=",
            "HELO ",
            "\\",
            "\"",
            "<",
            "@",
            ";",
            "([IPv6:2001:db8::9])",
        ];
        let check = |said: &str| {
            for server in SERVERS {
                // The last `HELO` is the place.
                let (before, after) = server.rsplit_once("HELO").unwrap();
                let value = format!("{before}{said}{after}");
                let found = hop(&value).map(|(address, _)| address);
                assert!(found.as_deref().is_none_or(|address| address == REAL), "{value}: {found:?}");
            }
        };
        for said in [
            "[1.2.3.4]",
            "x ([1.2.3.4])",
            "x (y [1.2.3.4]) by",
            "x (y [1.2.3.4]) by z.example",
            "x (y [1.2.3.4]) by z.example; (",
            "x (1.2.3.4) by z.example (",
            "x) (1.2.3.4",
            "x) ([1.2.3.4]",
            "[1.2.3.4] (helo=x)",
            "x [1.2.3.4] helo=y",
            " [1.2.3.4] helo=",
            "x\\) by z.example ([1.2.3.4]) by",
        ] {
            check(said);
        }
        for n in 0..PARTS.len().pow(4) {
            let parts = (0..4).map(|place| PARTS[n / PARTS.len().pow(place) % PARTS.len()]);
            check(&parts.collect::<String>());
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
            // Hosts behind it, which may have let in anything.
            &["from x (x [10.0.0.5]) by relay", "from forged (forged [203.0.113.9]) by relay"],
            &["from x (x [172.16.0.1]) by relay", "from forged (forged [203.0.113.9]) by x"],
            &["from x (x [192.168.1.1]) by relay"],
            &["from x (x [100.64.0.1]) by relay"],
            &["from x (x [169.254.0.1]) by relay"],
            &["from x (x [0.0.0.0]) by relay"],
            &["from x (x [IPv6:fe80::1%eth0]) by relay"],
            &["from x (x [IPv6:fd00::1]) by relay"],
            &["from x (x [IPv6:::ffff:10.0.0.5]) by relay"],
            &["from localhost (localhost [127.0.0.1]) by relay", "from x (x [10.0.0.5]) by relay"],
        ] {
            let found = origin(received);
            assert!(found.is_err(), "{received:?}: {found:?}");
        }
        // Those behind it that config trusts are passed.
        let relays = ["198.51.100.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let text = "Received: from x (x [10.0.0.5]) by relay\r\nReceived: from a (a [192.0.2.1]) by x\r\n";
        let found = behind_relay(&relays, &Header::parse(&Bytes::from_static(text.as_bytes())));
        assert_eq!(found.map(|origin| origin.address), Ok("192.0.2.1".parse().unwrap()));
    }
}
