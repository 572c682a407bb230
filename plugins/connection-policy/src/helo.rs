//! What a client has said at HELO.

use std::net::{Ipv4Addr, Ipv6Addr};

use postern_sdk::address::domain_name;

#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    /// Two labels or more, the last one no number; lower case.
    FullyQualified(String),
    /// RFC 5321 §4.1.3.
    Literal,
    Other,
}

impl Name {
    pub fn parse(said: &str) -> Self {
        if let Some(literal) = said.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return if is_address(literal) { Self::Literal } else { Self::Other };
        }
        match domain_name(said) {
            // A last label of digits alone is an address without its brackets.
            Ok(name) => match name.rsplit_once('.') {
                Some((_, last)) if !last.bytes().all(|byte| byte.is_ascii_digit()) => Self::FullyQualified(name),
                _ => Self::Other,
            },
            Err(_) => Self::Other,
        }
    }
}

fn is_address(literal: &str) -> bool {
    match literal.split_at_checked(5) {
        Some((tag, ip)) if tag.eq_ignore_ascii_case("IPv6:") => ip.parse::<Ipv6Addr>().is_ok(),
        _ => literal.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r70_names() {
        for (said, expected) in [
            ("mail.example.org", Name::FullyQualified("mail.example.org".into())),
            ("MAIL.Example.ORG", Name::FullyQualified("mail.example.org".into())),
            ("mail.example.org.", Name::FullyQualified("mail.example.org".into())),
            ("xn--bcher-kva.example", Name::FullyQualified("xn--bcher-kva.example".into())),
            ("[192.0.2.1]", Name::Literal),
            ("[IPv6:2001:db8::1]", Name::Literal),
            ("[ipv6:2001:db8::1]", Name::Literal),
            ("mail", Name::Other),
            ("localhost", Name::Other),
            ("192.0.2.1", Name::Other),
            ("[192.0.2]", Name::Other),
            ("[2001:db8::1]", Name::Other),
            ("[IPv6:192.0.2.1]", Name::Other),
            ("[mail.example.org]", Name::Other),
            ("[192.0.2.1", Name::Other),
            ("mail..example.org", Name::Other),
            ("-mail.example.org", Name::Other),
            ("mail .example.org", Name::Other),
            ("bücher.example", Name::Other),
            (".", Name::Other),
            ("", Name::Other),
        ] {
            assert_eq!(Name::parse(said), expected, "{said:?}");
        }
    }
}
