//! What a list answers: an address in 127.0.0.0/8 that says why something is listed (RFC 5782 §2.1).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use postern_sdk::dns::{Answer, DnsError};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Return codes: `127.0.0.2`, `127.0.0.[4-7]`, `127.0.0.[2,4-7]`, `127.0.*.2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodePattern([Vec<RangeInclusive<u8>>; 4]);

/// Which codes count, and how much where it is not the list's own weight. None: all of them do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Codes(Vec<(CodePattern, Option<i32>)>);

/// What became of one look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Listed {
        weight: i32,
        code: Ipv4Addr,
    },
    NotListed,
    /// An answer that is none: an address that no list gives, or "your query was refused".
    Error,
    /// Nobody answered.
    Timeout,
}

/// Not a pattern; says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCode(&'static str);

impl fmt::Display for InvalidCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Codes {
    /// Reads an answer. `weight`: of the list. Of several codes the one that weighs most decides.
    pub fn read(&self, weight: i32, answer: &Result<Answer, DnsError>) -> Outcome {
        let addresses = match answer {
            Ok(Answer::Addresses(addresses)) => addresses,
            Err(DnsError::NotFound) => return Outcome::NotListed,
            Err(DnsError::TimedOut) => return Outcome::Timeout,
            Ok(_) | Err(DnsError::BadName | DnsError::Temporary) => return Outcome::Error,
        };
        let mut heaviest = Outcome::NotListed;
        for address in addresses {
            let IpAddr::V4(code) = address else { return Outcome::Error };
            if !code.is_loopback() || is_refusal(*code) {
                // Who answers so knows nothing of the list, so the other codes mean nothing either.
                return Outcome::Error;
            }
            match (self.weight_of(*code, weight), heaviest) {
                // URIBL and others say by it that the query was refused; where the list means something, it is in `codes`.
                (None, _) if *code == Ipv4Addr::LOCALHOST => return Outcome::Error,
                (None, _) => {}
                (Some(found), Outcome::Listed { weight, .. }) if found.abs() <= weight.abs() => {}
                (Some(weight), _) => heaviest = Outcome::Listed { weight, code: *code },
            }
        }
        heaviest
    }

    /// Those that codes have of their own.
    pub fn weights(&self) -> impl Iterator<Item = i32> {
        self.0.iter().filter_map(|(_, weight)| *weight)
    }

    fn weight_of(&self, code: Ipv4Addr, weight: i32) -> Option<i32> {
        if self.0.is_empty() {
            return (code != Ipv4Addr::LOCALHOST).then_some(weight);
        }
        let matching = self.0.iter().filter(|(pattern, _)| pattern.holds(code));
        matching.map(|(_, own)| own.unwrap_or(weight)).max_by_key(|weight| weight.abs())
    }
}

/// Spamhaus: 127.255.255.252 a wrong zone name, .254 a public resolver, .255 too many queries.
fn is_refusal(code: Ipv4Addr) -> bool {
    matches!(code.octets(), [127, 255, 255, _])
}

impl CodePattern {
    fn holds(&self, code: Ipv4Addr) -> bool {
        self.0.iter().zip(code.octets()).all(|(ranges, octet)| ranges.iter().any(|range| range.contains(&octet)))
    }
}

impl FromStr for CodePattern {
    type Err = InvalidCode;
    fn from_str(text: &str) -> Result<Self, InvalidCode> {
        let octets = text.split('.').map(octet).collect::<Result<Vec<_>, _>>()?;
        let octets: [_; 4] = octets.try_into().map_err(|_| InvalidCode("a code has four numbers"))?;
        match octets.first().map(Vec::as_slice) {
            Some([range]) if (*range.start(), *range.end()) == (127, 127) => Ok(Self(octets)),
            _ => Err(InvalidCode("codes begin with 127")),
        }
    }
}

/// `2`, `*`, `[4-7]`, `[2,4-7]`.
fn octet(text: &str) -> Result<Vec<RangeInclusive<u8>>, InvalidCode> {
    let number =
        |text: &str| text.trim().parse::<u8>().map_err(|_| InvalidCode("a part is 0 to 255, [4-7], [2,4-7] or *"));
    if text == "*" {
        return Ok(vec![0..=u8::MAX]);
    }
    let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        let number = number(text)?;
        return Ok(vec![number..=number]);
    };
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first <= last { Ok(first..=last) } else { Err(InvalidCode("a range begins with the smaller number")) }
    };
    inside.split(',').map(range).collect()
}

impl<'de> Deserialize<'de> for CodePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| D::Error::custom(format_args!("{text:?}: {error}")))
    }
}

impl<'de> Deserialize<'de> for Codes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CodesVisitor)
    }
}

struct CodesVisitor;

impl<'de> Visitor<'de> for CodesVisitor {
    type Value = Codes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of return codes, or a table of return codes with their weights")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Codes, A::Error> {
        let mut codes = Vec::new();
        while let Some(pattern) = list.next_element()? {
            codes.push((pattern, None));
        }
        Ok(Codes(codes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Codes, A::Error> {
        let mut codes = Vec::new();
        while let Some((pattern, weight)) = table.next_entry()? {
            codes.push((pattern, Some(weight)));
        }
        Ok(Codes(codes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, code, expected) in [
            ("127.0.0.2", "127.0.0.2", true),
            ("127.0.0.2", "127.0.0.3", false),
            ("127.0.0.[4-7]", "127.0.0.4", true),
            ("127.0.0.[4-7]", "127.0.0.7", true),
            ("127.0.0.[4-7]", "127.0.0.8", false),
            ("127.0.0.[2,4-7,10]", "127.0.0.10", true),
            ("127.0.0.[2,4-7,10]", "127.0.0.3", false),
            ("127.0.*.2", "127.0.99.2", true),
            ("127.*.*.*", "127.9.8.7", true),
        ] {
            assert_eq!(
                pattern.parse::<CodePattern>().unwrap().holds(code.parse().unwrap()),
                expected,
                "{pattern} {code}"
            );
        }
    }

    #[test]
    fn what_is_no_pattern() {
        for text in [
            "",
            "127",
            "127.0.0",
            "127.0.0.2.3",
            "128.0.0.2",
            "*.0.0.2",
            "[127].0.0.256",
            "127.0.0.[7-4]",
            "127.0.0.[",
            "127.0.0.[]",
            "127.0.0.[4-]",
            "127.0.0.a",
            "192.0.2.1",
            "::1",
        ] {
            assert!(text.parse::<CodePattern>().is_err(), "{text:?}");
        }
    }

    fn read(codes: &str, answers: &[&str]) -> Outcome {
        let codes: Codes = serde_json::from_str(codes).unwrap();
        codes.read(3, &Ok(Answer::Addresses(answers.iter().map(|one| one.parse().unwrap()).collect())))
    }

    #[test]
    fn dnsbl_answers() {
        let listed = |weight, code: &str| Outcome::Listed { weight, code: code.parse().unwrap() };
        let weighted = r#"{"127.0.0.2": 5, "127.0.0.[2-4]": 1, "127.0.1.*": -9}"#;
        for (codes, answers, expected) in [
            ("[]", &["127.0.0.2"][..], listed(3, "127.0.0.2")),
            ("[]", &["127.9.9.9"], listed(3, "127.9.9.9")),
            (r#"["127.0.0.2"]"#, &["127.0.0.2"], listed(3, "127.0.0.2")),
            (r#"["127.0.0.2"]"#, &["127.0.0.3"], Outcome::NotListed),
            (r#"["127.0.0.2"]"#, &["127.0.0.3", "127.0.0.2"], listed(3, "127.0.0.2")),
            (weighted, &["127.0.0.3", "127.0.0.2"], listed(5, "127.0.0.2")),
            (weighted, &["127.0.0.3"], listed(1, "127.0.0.3")),
            (weighted, &["127.0.0.2", "127.0.1.1"], listed(-9, "127.0.1.1")),
            // No list gives these: a resolver that answers everything, a provider that refuses.
            ("[]", &["192.0.2.1"], Outcome::Error),
            ("[]", &["127.0.0.2", "192.0.2.1"], Outcome::Error),
            (r#"["127.0.0.2"]"#, &["127.0.0.2", "127.255.255.254"], Outcome::Error),
            ("[]", &["127.255.255.252"], Outcome::Error),
            ("[]", &["127.255.255.255"], Outcome::Error),
            ("[]", &["127.0.0.1"], Outcome::Error),
            (r#"["127.0.0.2"]"#, &["127.0.0.1"], Outcome::Error),
            (r#"{"127.0.0.1": -2}"#, &["127.0.0.1"], listed(-2, "127.0.0.1")),
            ("[]", &["::1"], Outcome::Error),
        ] {
            assert_eq!(read(codes, answers), expected, "{codes} {answers:?}");
        }
        let codes = Codes::default();
        assert_eq!(codes.read(1, &Err(DnsError::NotFound)), Outcome::NotListed);
        assert_eq!(codes.read(1, &Err(DnsError::TimedOut)), Outcome::Timeout);
        assert_eq!(codes.read(1, &Err(DnsError::Temporary)), Outcome::Error);
        assert_eq!(codes.read(1, &Err(DnsError::BadName)), Outcome::Error);
        assert_eq!(codes.read(1, &Ok(Answer::Names(vec!["a".into()]))), Outcome::Error);
    }
}
