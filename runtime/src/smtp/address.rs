//! Addresses of the envelope (RFC 5321 §4.1.2, §4.1.3; RFC 6531 §3.3 for SMTPUTF8).
//!
//! One function for each ABNF production, on a cursor. What is accepted is exactly the grammar: no
//! comments, no white space, no obsolete forms but the source route, which is dropped (RFC 5321 App. C).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// RFC 5321 §4.5.3.1.1.
const MAX_LOCAL_PART: usize = 64;
/// RFC 5321 §4.5.3.1.2.
const MAX_DOMAIN: usize = 255;
/// RFC 5321 §4.5.3.1.3, the angle brackets included.
pub const MAX_PATH: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("address syntax: {0}")]
pub struct AddressError(&'static str);

/// A domain name in its A-label form, lower case, without a trailing dot: two names of one domain are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<str>);

/// What stands right of the `@`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    Domain(Domain),
    /// RFC 5321 §4.1.3.
    Literal(IpAddr),
}

/// What stands left of the `@`, unquoted. Only the final host may interpret it (RFC 5321 §2.3.11), so case is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalPart(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    pub local: LocalPart,
    pub host: Host,
}

/// `MAIL FROM:<…>`; `None` is the null reverse-path `<>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReversePath(pub Option<Mailbox>);

/// `RCPT TO:<…>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    Mailbox(Mailbox),
    /// `<Postmaster>` without a domain (RFC 5321 §4.1.1.3).
    Postmaster,
}

impl Domain {
    /// RFC 5321 §4.1.2 `Domain`; a U-label is converted (RFC 6531 §3.3), one trailing dot is dropped.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(AddressError("empty domain"));
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii_strict(text).map_err(|_| AddressError("domain is not valid IDNA"))?
        };
        if ascii.len() > MAX_DOMAIN {
            return Err(AddressError("domain longer than 255 octets"));
        }
        if !ascii.split('.').all(is_sub_domain) {
            return Err(AddressError("bad label in domain"));
        }
        Ok(Self(ascii.into_boxed_str()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// More than one label (R63, R70).
    pub fn is_fully_qualified(&self) -> bool {
        self.0.contains('.')
    }
}

/// RFC 5321 §4.1.2 `sub-domain`, and `_` inside it, which real hosts have.
fn is_sub_domain(label: &str) -> bool {
    let bytes = label.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl FromStr for Domain {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            Self::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

impl Host {
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Literal(_) => None,
        }
    }

    /// A domain or an address literal, nothing after it.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix('[') {
            Some(rest) => address_literal(rest.strip_suffix(']').ok_or(AddressError("unclosed address literal"))?),
            None => Domain::parse(text).map(Self::Domain),
        }
    }
}

/// RFC 5321 §4.1.3 `address-literal`, the brackets taken off. `General-address-literal` is refused: no tag is registered.
fn address_literal(text: &str) -> Result<Host, AddressError> {
    let bad = AddressError("bad address literal");
    let ip = match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            IpAddr::V6(text.get(5..).unwrap_or("").parse::<Ipv6Addr>().map_err(|_| bad)?)
        }
        _ => IpAddr::V4(text.parse::<Ipv4Addr>().map_err(|_| bad)?),
    };
    Ok(Host::Literal(ip))
}

impl LocalPart {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `user%other@us`, `other!user@us` and `"user@other"@us` are how a host was asked to relay in the
    /// days of source routing; behind a gateway, the next hop may still obey them.
    pub fn looks_routed(&self) -> bool {
        self.0.contains(['%', '!', '@'])
    }

    pub fn is_postmaster(&self) -> bool {
        self.0.eq_ignore_ascii_case("postmaster")
    }

    /// `Dot-string` or the content of a `Quoted-string`.
    fn parse(cursor: &mut Cursor<'_>) -> Result<Self, AddressError> {
        let text = if cursor.peek() == Some('"') { quoted_string(cursor)? } else { dot_string(cursor)? };
        if text.len() > MAX_LOCAL_PART {
            return Err(AddressError("local part longer than 64 octets"));
        }
        Ok(Self(text.into_boxed_str()))
    }
}

impl fmt::Display for LocalPart {
    /// As a `Dot-string` where the grammar allows, else quoted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot_string = self.0.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
        if dot_string {
            return f.write_str(&self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

/// RFC 5322 §3.2.3 `atext`, and non-ASCII (RFC 6531 §3.3).
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

fn dot_string(cursor: &mut Cursor<'_>) -> Result<String, AddressError> {
    let text = cursor.take_while(|c| is_atext(c) || c == '.');
    if text.split('.').any(str::is_empty) {
        return Err(AddressError("empty atom in local part"));
    }
    Ok(text.to_owned())
}

/// RFC 5321 §4.1.2 `Quoted-string`: printable ASCII only, so no CR, LF, NUL or tab can hide in it.
fn quoted_string(cursor: &mut Cursor<'_>) -> Result<String, AddressError> {
    let mut content = String::new();
    cursor.expect('"')?;
    loop {
        match cursor.next() {
            Some('"') if content.is_empty() => return Err(AddressError("empty local part")),
            Some('"') => return Ok(content),
            Some('\\') => match cursor.next() {
                Some(c @ ' '..='~') => content.push(c),
                _ => return Err(AddressError("bad quoted pair")),
            },
            Some(c) if matches!(c, ' '..='~') || (!c.is_ascii() && !c.is_control()) => content.push(c),
            _ => return Err(AddressError("unclosed quoted string")),
        }
    }
}

impl Mailbox {
    /// `Local-part "@" ( Domain / address-literal )`, nothing before or after it.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let mut cursor = Cursor { rest: text };
        let mailbox = Self::parse_at(&mut cursor)?;
        if cursor.rest.is_empty() { Ok(mailbox) } else { Err(AddressError("text after address")) }
    }

    fn parse_at(cursor: &mut Cursor<'_>) -> Result<Self, AddressError> {
        let local = LocalPart::parse(cursor)?;
        cursor.expect('@')?;
        let host = Host::parse(cursor.take_while(|c| !matches!(c, '>' | ' ')))?;
        Ok(Self { local, host })
    }

    pub fn domain(&self) -> Option<&Domain> {
        self.host.domain()
    }

    /// Only ASCII: can be sent to a server without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local.0.is_ascii()
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.host)
    }
}

/// A path at the start of `text`; what follows it (the parameters) is returned with it.
fn path<'a, T>(
    text: &'a str,
    content: impl FnOnce(&mut Cursor<'a>) -> Result<T, AddressError>,
) -> Result<(T, &'a str), AddressError> {
    let mut cursor = Cursor { rest: text };
    cursor.expect('<')?;
    let value = content(&mut cursor)?;
    cursor.expect('>')?;
    if text.len() - cursor.rest.len() > MAX_PATH + MAX_LOCAL_PART {
        return Err(AddressError("path longer than 256 octets"));
    }
    Ok((value, cursor.rest))
}

/// RFC 5321 App. C: a source route MUST be accepted, SHOULD be ignored; the rest is judged.
fn skip_source_route(cursor: &mut Cursor<'_>) -> Result<(), AddressError> {
    if cursor.peek() != Some('@') {
        return Ok(());
    }
    let route = cursor.take_while(|c| !matches!(c, ':' | '>' | '"' | ' '));
    for at_domain in route.split(',') {
        let domain = at_domain.strip_prefix('@').ok_or(AddressError("bad source route"))?;
        Host::parse(domain)?;
    }
    cursor.expect(':')
}

impl ReversePath {
    pub const NULL: Self = Self(None);

    /// The path at the start of `text`, and what follows it.
    pub fn parse(text: &str) -> Result<(Self, &str), AddressError> {
        path(text, |cursor| {
            if cursor.peek() == Some('>') {
                return Ok(Self::NULL);
            }
            skip_source_route(cursor)?;
            Mailbox::parse_at(cursor).map(|mailbox| Self(Some(mailbox)))
        })
    }

    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }

    pub fn mailbox(&self) -> Option<&Mailbox> {
        self.0.as_ref()
    }
}

impl fmt::Display for ReversePath {
    /// Without the angle brackets; empty for the null reverse-path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |mailbox| mailbox.fmt(f))
    }
}

impl ForwardPath {
    /// The path at the start of `text`, and what follows it.
    pub fn parse(text: &str) -> Result<(Self, &str), AddressError> {
        path(text, |cursor| {
            skip_source_route(cursor)?;
            if let Some(word) = cursor.rest.get(..10)
                && word.eq_ignore_ascii_case("postmaster")
                && cursor.rest.as_bytes().get(10) == Some(&b'>')
            {
                cursor.rest = cursor.rest.get(10..).unwrap_or("");
                return Ok(Self::Postmaster);
            }
            Mailbox::parse_at(cursor).map(Self::Mailbox)
        })
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mailbox(mailbox) => mailbox.fmt(f),
            Self::Postmaster => f.write_str("postmaster"),
        }
    }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn expect(&mut self, wanted: char) -> Result<(), AddressError> {
        if self.next() == Some(wanted) {
            return Ok(());
        }
        Err(AddressError(match wanted {
            '<' => "missing <",
            '>' => "missing >",
            '@' => "missing @",
            _ => "bad source route",
        }))
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !accept(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                <$type>::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Domain, Host, Mailbox);

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(text: &str) -> Result<String, AddressError> {
        ForwardPath::parse(text).map(|(path, rest)| format!("{path}|{rest}"))
    }

    #[test]
    fn legal_paths() {
        for (path, expected) in [
            ("<a@example.com>", "a@example.com|"),
            ("<a@EXAMPLE.com.> SIZE=1", "a@example.com| SIZE=1"),
            ("<@x.org,@y.org:a@example.com>", "a@example.com|"),
            ("<\"a b\"@example.com>", "\"a b\"@example.com|"),
            ("<\"ab\"@example.com>", "ab@example.com|"),
            ("<\"a\\\"b\"@example.com>", "\"a\\\"b\"@example.com|"),
            ("<a@[192.0.2.1]>", "a@[192.0.2.1]|"),
            ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]|"),
            ("<PostMaster>", "postmaster|"),
            ("<ü@bücher.example>", "ü@xn--bcher-kva.example|"),
        ] {
            assert_eq!(forward(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn illegal_paths() {
        for path in [
            "a@example.com",
            "<a@example.com",
            "<a@>",
            "<@example.com>",
            "<a>",
            "<>",
            "<a b@example.com>",
            "<a@example.com(comment)>",
            "<a@exa mple.com>",
            "<a@example..com>",
            "<.a@example.com>",
            "<a.@example.com>",
            "<a@b@example.com>",
            "<a@-example.com>",
            "<a@[1.2.3]>",
            "<a@[IPv6:1.2.3.4]>",
            "<\"\"@example.com>",
            "<\"a\r\n\"@example.com>",
            "<a@example.com\0.evil>",
            "< a@example.com>",
            "<a@example.com >",
            "<\"a\"b@x.org>",
        ] {
            assert!(forward(path).is_err(), "{path:?}");
        }
        let long = format!("<{}@example.com>", "a".repeat(65));
        assert!(forward(&long).is_err());
    }

    #[test]
    fn null_reverse_path() {
        assert_eq!(ReversePath::parse("<> BODY=8BITMIME").unwrap(), (ReversePath::NULL, " BODY=8BITMIME"));
    }

    #[test]
    fn routed_local_parts() {
        for path in ["<u%evil@x.org>", "<evil!u@x.org>", "<\"u@evil\"@x.org>"] {
            let (ForwardPath::Mailbox(mailbox), _) = ForwardPath::parse(path).unwrap() else { panic!("{path}") };
            assert!(mailbox.local.looks_routed(), "{path}");
        }
    }
}
