//! SPF records as text (RFC 7208): is our part in one, and where must it go (R26)?
//!
//! What is said here holds for the record as it stands. What its includes say in the end is evaluated elsewhere.

use std::fmt;

use ipnet::IpNet;

/// Octets of a record that is read at all; RFC 7208 §3.4 wants much less.
const MAX_RECORD: usize = 4096;
/// RFC 7208 §3.4: with more, the answer may not fit into a datagram.
const MAX_COMFORTABLE: usize = 450;
/// RFC 7208 §4.6.4.
const MAX_LOOK_UPS: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    /// As it stands there.
    text: String,
    kind: Kind,
    /// Lower case.
    name: String,
    /// Behind `:`, `=` or `/`; with a `/` in front where that comes first.
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With `+` or nothing.
    Pass,
    /// With `-`, `~` or `?`.
    Other,
    Modifier,
}

/// What is wrong with a record besides what it lacks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not protect, or evaluates to permerror.
    Grave(String),
    Odd(String),
}

/// RFC 7208 §4.5: the version, then a space or the end.
pub(super) fn is_record(octets: &[u8]) -> bool {
    let version = octets.get(..6).is_some_and(|version| version.eq_ignore_ascii_case(b"v=spf1"));
    version && matches!(octets.get(6), None | Some(b' '))
}

/// For a domain without a record. It does not refuse yet: nobody knows all servers that send for the domain.
pub(super) fn fresh(ours: &[String]) -> String {
    format!("v=spf1 {} ~all", ours.join(" "))
}

impl Record {
    /// The error says what is wrong, for people.
    pub(super) fn parse(octets: &[u8]) -> Result<Self, String> {
        if octets.len() > MAX_RECORD {
            return Err(format!("it has {} octets", octets.len()));
        }
        let text = std::str::from_utf8(octets).ok().filter(|text| text.bytes().all(|b| matches!(b, b' '..=b'~')));
        let text = text.ok_or("it has characters that are not printable ASCII")?;
        let terms = text.split(' ').skip(1).filter(|term| !term.is_empty()).map(Term::parse);
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// That mechanism lets mail pass, before `all` ends the search.
    pub(super) fn allows(&self, mechanism: &str) -> bool {
        let before = self.terms.iter().take_while(|term| term.name != "all");
        before.filter(|term| term.kind == Kind::Pass).any(|term| term.covers(mechanism))
    }

    pub(super) fn has_include(&self, domain: &str) -> bool {
        self.allows(&format!("include:{domain}"))
    }

    /// With ours put in at the right place, and nothing else changed.
    pub(super) fn with(&self, ours: &[String]) -> Self {
        let missing: Vec<&String> = ours.iter().filter(|mechanism| !self.allows(mechanism)).collect();
        let is_missing = |term: &Term| missing.iter().any(|mechanism| term.covers(mechanism));
        // One of ours that refuses, or stands where nobody reads it any more, goes.
        let mut terms: Vec<Term> = self.terms.iter().filter(|term| !is_missing(term)).cloned().collect();
        let end = terms.iter().position(|term| term.name == "all" || term.kind == Kind::Modifier);
        let end = end.unwrap_or(terms.len());
        let new = missing.iter().filter_map(|mechanism| Term::parse(mechanism).ok()).collect::<Vec<_>>();
        terms.splice(end..end, new);
        Self { terms }
    }

    /// Several records of one domain as one. `None`: only people can say what is meant.
    pub(super) fn join(records: &[Self]) -> Option<Self> {
        let mut terms: Vec<Term> = Vec::new();
        let mut last = None;
        for term in records.iter().flat_map(|record| &record.terms) {
            match term.name.as_str() {
                "all" => last = last.or(Some(term.clone())),
                "redirect" => return None,
                _ if terms.iter().any(|known| known.text.eq_ignore_ascii_case(&term.text)) => {}
                _ => terms.push(term.clone()),
            }
        }
        terms.extend(last);
        Some(Self { terms })
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let find = |name: &str| self.terms.iter().find(|term| term.name == name);
        match find("all") {
            Some(all) if all.kind == Kind::Pass => {
                faults.push(Fault::Grave("`+all` lets everybody send in this domain's name".to_owned()));
            }
            Some(all) if all.text.starts_with('?') => {
                faults.push(Fault::Odd("`?all` does not protect: `~all`, then `-all`".to_owned()));
            }
            Some(_) => {}
            None if find("redirect").is_none() => {
                faults.push(Fault::Odd("it has no `~all` or `-all` at its end, so it does not protect".to_owned()));
            }
            None => {}
        }
        let look_ups = self.terms.iter().filter(|term| term.looks_up()).count();
        if look_ups > MAX_LOOK_UPS {
            let text = format!("{look_ups} of its terms look up names, {MAX_LOOK_UPS} may: nobody can evaluate it");
            faults.push(Fault::Grave(text));
        }
        let octets = self.to_string().len();
        if octets > MAX_COMFORTABLE {
            faults.push(Fault::Odd(format!("it has {octets} octets, which do not fit into every answer")));
        }
        faults
    }
}

impl Term {
    /// RFC 7208 §4.6.1: a modifier has `=` before any `:` and `/`; a mechanism has a name that is known, else permerror.
    fn parse(text: &str) -> Result<Self, String> {
        let end = text.find([':', '/', '=']).unwrap_or(text.len());
        let (name, value) = text.split_at(end);
        let (kind, name) = match (name.strip_prefix('+'), name.strip_prefix(['-', '~', '?'])) {
            _ if value.starts_with('=') => (Kind::Modifier, name),
            (Some(name), _) => (Kind::Pass, name),
            (_, Some(name)) => (Kind::Other, name),
            (None, None) => (Kind::Pass, name),
        };
        let name = name.to_ascii_lowercase();
        let known = ["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"].contains(&name.as_str());
        if name.is_empty() || (kind != Kind::Modifier && !known) {
            return Err(format!("`{text}` is no mechanism of SPF"));
        }
        let value = value.strip_prefix([':', '=']).unwrap_or(value);
        if matches!(name.as_str(), "ip4" | "ip6") && network(value).is_none() {
            return Err(format!("`{text}` has no network"));
        }
        Ok(Self { text: text.to_owned(), kind, name, value: value.to_owned() })
    }

    /// Whether all that the mechanism of ours names is named here too.
    fn covers(&self, mechanism: &str) -> bool {
        let Ok(ours) = Self::parse(mechanism) else { return false };
        if self.name != ours.name || self.kind == Kind::Modifier {
            return false;
        }
        match self.name.as_str() {
            "ip4" | "ip6" => {
                network(&self.value).zip(network(&ours.value)).is_some_and(|(net, part)| net.contains(&part))
            }
            // `a:host/24` is more than `a:host`.
            "a" | "mx" => {
                let host = self.value.split('/').next().unwrap_or_default();
                same_name(host, &ours.value)
            }
            _ => same_name(&self.value, &ours.value),
        }
    }

    fn looks_up(&self) -> bool {
        matches!(self.name.as_str(), "include" | "a" | "mx" | "ptr" | "exists" | "redirect")
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("v=spf1")?;
        self.terms.iter().try_for_each(|term| write!(f, " {}", term.text))
    }
}

fn same_name(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Vec<String> {
        vec!["include:spf.example.net".to_owned(), "ip4:192.0.2.25".to_owned()]
    }

    fn record(text: &str) -> Record {
        assert!(is_record(text.as_bytes()), "{text}");
        Record::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn which_texts_are_records() {
        for (text, expected) in [
            ("v=spf1 -all", true),
            ("V=SPF1", true),
            ("v=spf1", true),
            ("v=spf10 -all", false),
            ("v=spf1\t-all", false),
            (" v=spf1 -all", false),
            ("v=spf", false),
            ("google-site-verification=x", false),
        ] {
            assert_eq!(is_record(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn r26_our_part_goes_before_all_and_nothing_else_changes() {
        for (before, after) in [
            ("v=spf1 -all", "v=spf1 include:spf.example.net ip4:192.0.2.25 -all"),
            ("v=spf1 mx A ~all", "v=spf1 mx A include:spf.example.net ip4:192.0.2.25 ~all"),
            ("v=spf1 mx", "v=spf1 mx include:spf.example.net ip4:192.0.2.25"),
            ("v=spf1", "v=spf1 include:spf.example.net ip4:192.0.2.25"),
            ("v=spf1 redirect=_spf.x.example", "v=spf1 include:spf.example.net ip4:192.0.2.25 redirect=_spf.x.example"),
            (
                "v=spf1 mx exp=why.x.example -all",
                "v=spf1 mx include:spf.example.net ip4:192.0.2.25 exp=why.x.example -all",
            ),
            // What is there already stays where it is.
            ("v=spf1 ip4:192.0.2.0/24 -all", "v=spf1 ip4:192.0.2.0/24 include:spf.example.net -all"),
            (
                "v=spf1 +INCLUDE:SPF.example.net. ip4:192.0.2.25/32 ?all",
                "v=spf1 +INCLUDE:SPF.example.net. ip4:192.0.2.25/32 ?all",
            ),
            // Ours behind `all`, or refused: moved.
            ("v=spf1 -all include:spf.example.net", "v=spf1 include:spf.example.net ip4:192.0.2.25 -all"),
            ("v=spf1 -ip4:192.0.2.25 mx -all", "v=spf1 mx include:spf.example.net ip4:192.0.2.25 -all"),
        ] {
            let merged = record(before).with(&ours());
            assert_eq!(merged.to_string(), after, "{before}");
            assert!(ours().iter().all(|mechanism| merged.allows(mechanism)), "{before}");
            assert_eq!(merged.with(&ours()), merged, "once is enough: {before}");
        }
        assert_eq!(fresh(&ours()), "v=spf1 include:spf.example.net ip4:192.0.2.25 ~all");
    }

    #[test]
    fn what_lets_us_pass() {
        for (text, mechanism, expected) in [
            ("v=spf1 a:mx.example.net -all", "a:mx.example.net", true),
            ("v=spf1 a:mx.example.net/24 -all", "a:mx.example.net", true),
            ("v=spf1 a -all", "a:mx.example.net", false),
            ("v=spf1 mx:mx.example.net -all", "a:mx.example.net", false),
            ("v=spf1 -a:mx.example.net -all", "a:mx.example.net", false),
            ("v=spf1 ip6:2001:db8::/32 -all", "ip6:2001:db8::25", true),
            ("v=spf1 ip4:192.0.2.25 -all", "ip4:192.0.2.0/24", false),
            ("v=spf1 all include:spf.example.net", "include:spf.example.net", false),
            ("v=spf1 include:notspf.example.net -all", "include:spf.example.net", false),
        ] {
            assert_eq!(record(text).allows(mechanism), expected, "{text}: {mechanism}");
        }
    }

    #[test]
    fn several_records_become_one() {
        let two = [record("v=spf1 mx include:a.example -all"), record("v=spf1 MX include:b.example ~all")];
        assert_eq!(Record::join(&two).unwrap().to_string(), "v=spf1 mx include:a.example include:b.example -all");
        assert_eq!(Record::join(&[record("v=spf1 mx -all"), record("v=spf1 redirect=x.example")]), None);
    }

    #[test]
    fn faults_of_a_record() {
        let many = format!("v=spf1 {} -all", ["include:x.example"; 11].join(" "));
        let long = format!("v=spf1 {} -all", ["ip4:192.0.2.111"; 40].join(" "));
        for (text, grave, says) in [
            ("v=spf1 mx +all", true, "everybody"),
            ("v=spf1 mx all", true, "everybody"),
            ("v=spf1 mx ?all", false, "does not protect"),
            ("v=spf1 mx", false, "at its end"),
            (&many, true, "11 of its terms"),
            (&long, false, "octets"),
        ] {
            let faults = record(text).faults();
            let [fault] = faults.as_slice() else { panic!("{text}: {faults:?}") };
            let (Fault::Grave(said) | Fault::Odd(said)) = fault;
            assert_eq!((matches!(fault, Fault::Grave(_)), said.contains(says)), (grave, true), "{text}: {said}");
        }
        assert_eq!(record("v=spf1 mx redirect=x.example").faults(), []);
    }

    #[test]
    fn hostile_records_are_errors() {
        let big = [b"v=spf1 ", &[b'a'; 65_000][..]].concat();
        for octets in [
            &big[..],
            b"v=spf1 \x1b[31m",
            b"v=spf1 \xff",
            b"v=spf1 ipv4:192.0.2.1",
            b"v=spf1 ip4:x",
            b"v=spf1 -",
            b"v=spf1 =x",
        ] {
            assert!(Record::parse(octets).is_err());
        }
    }
}
