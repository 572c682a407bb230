//! The SPF record (RFC 7208 §4.6.1, §5, §6): read as a whole, because a fault anywhere in it makes all of it useless.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::super::Outcome;
use super::expansion::MacroString;

/// Records longer than this are not read. RFC 7208 §3.4 wants them to fit into 512 octets.
pub(super) const MAX_RECORD: usize = 16 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub directives: Vec<Directive>,
    pub redirect: Option<MacroString>,
    pub explanation: Option<MacroString>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    /// What a match means.
    pub outcome: Outcome,
    pub mechanism: Mechanism,
    /// As it stands in the record.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mechanism {
    All,
    Include(MacroString),
    A(Option<MacroString>, Cidr),
    Mx(Option<MacroString>, Cidr),
    Ptr(Option<MacroString>),
    Ip4(Ipv4Net),
    Ip6(Ipv6Net),
    Exists(MacroString),
}

/// RFC 7208 §5.6 `dual-cidr-length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr {
    pub four: u8,
    pub six: u8,
}

/// The error says what is wrong.
type Parsed<T> = Result<T, String>;

/// RFC 7208 §4.5: starts with the version, and a space or nothing after it.
pub(super) fn is_spf(text: &[u8]) -> bool {
    let version = text.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"v=spf1"));
    version && matches!(text.get(6), None | Some(b' '))
}

impl Record {
    pub fn parse(text: &[u8]) -> Parsed<Self> {
        if text.len() > MAX_RECORD {
            return Err(format!("it is longer than {MAX_RECORD} octets"));
        }
        // RFC 7208 §3.1.
        let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii()).ok_or("it is not all ASCII")?;
        let mut record = Self { directives: Vec::new(), redirect: None, explanation: None };
        for term in text.split(' ').skip(1).filter(|term| !term.is_empty()) {
            record.add(term)?;
        }
        Ok(record)
    }

    fn add(&mut self, term: &str) -> Parsed<()> {
        let fault = |what: String| format!("{}: {what}", super::super::printable(term, 80));
        let end = term.find([':', '/', '=']).unwrap_or(term.len());
        let (name, rest) = term.split_at(end);
        let Some(value) = rest.strip_prefix('=') else {
            self.directives.push(Directive::parse(term).map_err(fault)?);
            return Ok(());
        };
        if !is_name(name) {
            return Err(fault("not a modifier".to_owned()));
        }
        // RFC 7208 §6: these two not more than once each.
        let place = match () {
            () if name.eq_ignore_ascii_case("redirect") => &mut self.redirect,
            () if name.eq_ignore_ascii_case("exp") => &mut self.explanation,
            () => return MacroString::parse(value, false).map(drop).map_err(fault),
        };
        if place.is_some() {
            return Err(fault("said twice".to_owned()));
        }
        *place = Some(MacroString::parse_domain(value).map_err(fault)?);
        Ok(())
    }
}

/// RFC 7208 §4.6.1 `name`.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl Directive {
    fn parse(term: &str) -> Parsed<Self> {
        let (outcome, bare) = match term.as_bytes().first() {
            Some(b'-') => (Outcome::Fail, term.get(1..)),
            Some(b'~') => (Outcome::Softfail, term.get(1..)),
            Some(b'?') => (Outcome::Neutral, term.get(1..)),
            Some(b'+') => (Outcome::Pass, term.get(1..)),
            _ => (Outcome::Pass, Some(term)),
        };
        let mechanism = Mechanism::parse(bare.unwrap_or_default())?;
        Ok(Self { outcome, mechanism, text: term.to_owned() })
    }
}

impl Mechanism {
    fn parse(text: &str) -> Parsed<Self> {
        let (name, rest) = text.split_at(text.find([':', '/']).unwrap_or(text.len()));
        let needed = || rest.strip_prefix(':').ok_or_else(|| "needs a colon and a value".to_owned());
        match name.to_ascii_lowercase().as_str() {
            "all" if rest.is_empty() => Ok(Self::All),
            "all" => Err("takes no value".to_owned()),
            "include" => MacroString::parse_domain(needed()?).map(Self::Include),
            "exists" => MacroString::parse_domain(needed()?).map(Self::Exists),
            "a" => target_and_cidr(rest).map(|(target, cidr)| Self::A(target, cidr)),
            "mx" => target_and_cidr(rest).map(|(target, cidr)| Self::Mx(target, cidr)),
            "ptr" if rest.is_empty() => Ok(Self::Ptr(None)),
            "ptr" => MacroString::parse_domain(needed()?).map(|target| Self::Ptr(Some(target))),
            "ip4" => {
                let (address, length) = network(needed()?, 32)?;
                let address: Ipv4Addr = address.parse().map_err(|_| "not an IPv4 address")?;
                Ipv4Net::new(address, length).map(Self::Ip4).map_err(|error| error.to_string())
            }
            "ip6" => {
                let (address, length) = network(needed()?, 128)?;
                let address: Ipv6Addr = address.parse().map_err(|_| "not an IPv6 address")?;
                Ipv6Net::new(address, length).map(Self::Ip6).map_err(|error| error.to_string())
            }
            _ => Err("not a mechanism".to_owned()),
        }
    }
}

fn network(text: &str, max: u8) -> Parsed<(&str, u8)> {
    match text.split_once('/') {
        Some((address, length)) => Ok((address, cidr_length(length, max)?)),
        None => Ok((text, max)),
    }
}

/// No leading zero, as in addresses (§5.6).
fn cidr_length(digits: &str, max: u8) -> Parsed<u8> {
    let number: Option<u8> = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    let exact = digits == "0" || !digits.starts_with('0');
    number.filter(|length| exact && *length <= max).ok_or_else(|| format!("a network has 0 to {max} bits"))
}

/// `[ ":" domain-spec ] [ dual-cidr-length ]`. Slashes may also stand in a domain-spec; lengths are what its end has.
fn target_and_cidr(rest: &str) -> Parsed<(Option<MacroString>, Cidr)> {
    let (rest, six) = cut_length(rest, "//");
    let (rest, four) = cut_length(rest, "/");
    let target = match rest.strip_prefix(':') {
        Some(target) => Some(MacroString::parse_domain(target)?),
        None if rest.is_empty() => None,
        None => return Err("not a network length".to_owned()),
    };
    let length = |digits: Option<&str>, max| digits.map_or(Ok(max), |digits| cidr_length(digits, max));
    Ok((target, Cidr { four: length(four, 32)?, six: length(six, 128)? }))
}

fn cut_length<'a>(text: &'a str, slashes: &str) -> (&'a str, Option<&'a str>) {
    match text.rsplit_once(slashes) {
        Some((before, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            (before, Some(digits))
        }
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        let record = Record::parse(b"V=spf1 a/24//64 mx:x.example/8 -ip4:192.0.2.0/24 ~all redirect=%{d}").unwrap();
        let cidr = |at: usize| match &record.directives[at].mechanism {
            Mechanism::A(_, cidr) | Mechanism::Mx(_, cidr) => *cidr,
            other => panic!("{other:?}"),
        };
        assert_eq!((cidr(0), cidr(1)), (Cidr { four: 24, six: 64 }, Cidr { four: 8, six: 128 }));
        let outcomes: Vec<_> = record.directives.iter().map(|directive| directive.outcome).collect();
        assert_eq!(outcomes, [Outcome::Pass, Outcome::Pass, Outcome::Fail, Outcome::Softfail]);
        for bad in ["a/24/64", "a/033", "all:x.example", "ip4:1.2.3", "ip6:::1/129", "ptr/8", "exp=a.b exp=a.b", "=a"] {
            assert!(Record::parse(format!("v=spf1 {bad}").as_bytes()).is_err(), "{bad}");
        }
        assert!(is_spf(b"v=SPF1") && !is_spf(b"v=spf10") && !is_spf(b"v=spf1\tall"));
        assert!(Record::parse(&[b"v=spf1", &b" a"[..].repeat(MAX_RECORD)[..]].concat()).is_err());
    }
}
