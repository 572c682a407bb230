//! Mailboxes, and patterns of them as config files write them.

use std::fmt;
use std::str::FromStr;

/// A mailbox. The domain is in lower case and A-labels; an address literal stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Unquoted. Only the final host may interpret it, so its case is kept.
    pub local_part: String,
    pub domain: String,
}

/// Not an address, domain or pattern; says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidAddress(&'static str);

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidAddress {}

impl Address {
    /// As lists compare them: without regard to ASCII case.
    pub fn matches(&self, other: &Self) -> bool {
        self.domain.eq_ignore_ascii_case(&other.domain) && self.local_part.eq_ignore_ascii_case(&other.local_part)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local_part, self.domain)
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    /// For config files: no quoted local part.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (local_part, domain) = text.rsplit_once('@').ok_or(InvalidAddress("an address has an @"))?;
        if local_part.is_empty()
            || local_part.len() > 64
            || local_part.contains(|c: char| c.is_control() || " <>\"".contains(c))
        {
            return Err(InvalidAddress("the part before the @ is empty, too long or has characters that need quotes"));
        }
        let domain =
            if domain.starts_with('[') && domain.ends_with(']') { domain.to_owned() } else { domain_name(domain)? };
        Ok(Self { local_part: local_part.to_owned(), domain })
    }
}

/// A domain name in ASCII letters (A-labels), lower case, without the trailing dot it may be written with.
pub fn domain_name(text: &str) -> Result<String, InvalidAddress> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
        let bytes = label.as_bytes();
        bytes.len() <= 63
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(InvalidAddress("not a domain name in ASCII letters"))
    }
}

/// What a rule names: `bob@example.com`, `example.com` (that domain alone), or `.example.com` (each domain below it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    Address(Address),
    Domain(String),
    /// Kept with its leading dot.
    Below(String),
}

impl Pattern {
    pub fn matches(&self, address: &Address) -> bool {
        match self {
            Self::Address(pattern) => pattern.matches(address),
            Self::Domain(domain) => address.domain.eq_ignore_ascii_case(domain),
            Self::Below(parent) => address
                .domain
                .len()
                .checked_sub(parent.len())
                .and_then(|start| address.domain.get(start..))
                .is_some_and(|end| end.eq_ignore_ascii_case(parent)),
        }
    }
}

impl FromStr for Pattern {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            return text.parse().map(Self::Address);
        }
        match text.strip_prefix('.') {
            Some(parent) => domain_name(parent).map(|parent| Self::Below(format!(".{parent}"))),
            None => domain_name(text).map(Self::Domain),
        }
    }
}

from_text!(Address, Pattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let bob: Address = "Bob@mail.example.com".parse().unwrap();
        for (pattern, expected) in [
            ("bob@mail.example.com", true),
            ("bob@MAIL.example.com.", true),
            ("bob@example.com", false),
            ("mail.example.com", true),
            ("example.com", false),
            (".example.com", true),
            (".mail.example.com", false),
            (".com", true),
            (".ample.com", false),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(&bob), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern() {
        for text in
            ["", ".", "@", "a@", "@example.com", "a b@example.com", "ex ample.com", "-a.com", "a..b", "bücher.example"]
        {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }
}
