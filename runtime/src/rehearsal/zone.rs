//! DNS from a file: what a plugin's look-ups find when nobody must be asked.
//!
//! ```toml
//! ["example.org"]
//! mx = ["10 mail.example.org"]         # also a, aaaa, txt, ns, cname, ptr: a text, or a list of them
//! ["192.0.2.1"]
//! ptr = "mail.example.org"
//! ["slow.example"]
//! fails = "temporary"                  # or "not-found": whatever is asked of that name
//! ```
//! What is not in it is not found.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

use crate::host::NameService;
use crate::host::dns::{Answer, DnsError, Lookup, Question, RecordType};
use crate::pipeline::ClientName;
use crate::server::names::address_of;
use crate::smtp::Domain;

/// Names that follow one another by CNAME, as a resolver has it.
const MAX_ALIASES: usize = 8;
/// Names of one address that are looked up to confirm one.
const MAX_CLIENT_NAMES: usize = 10;

#[derive(Debug, Default, Clone)]
pub struct Zone {
    names: HashMap<String, Records>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Records {
    a: Texts,
    aaaa: Texts,
    mx: Texts,
    txt: Texts,
    ptr: Texts,
    ns: Texts,
    cname: Texts,
    fails: Option<Fails>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fails {
    Temporary,
    NotFound,
}

/// A text, or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Default for Texts {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Texts {
    fn list(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl Zone {
    /// The error says what is wrong, and of which name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written: HashMap<String, Records> = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut names = HashMap::with_capacity(written.len());
        for (name, records) in written {
            records.check().map_err(|problem| format!("{}: {problem}", name.escape_debug()))?;
            names.insert(key(&name), records);
        }
        Ok(Self { names })
    }

    fn answer(&self, question: &Question) -> Result<Answer, DnsError> {
        let mut name = key(&question.name);
        for _ in 0..MAX_ALIASES {
            let records = self.names.get(&name).ok_or(DnsError::NotFound)?;
            match records.fails {
                Some(Fails::Temporary) => return Err(DnsError::Temporary),
                Some(Fails::NotFound) => return Err(DnsError::NotFound),
                None => {}
            }
            let answer = records.of(question.kind);
            match records.cname.list().first() {
                Some(alias) if question.kind != RecordType::Cname && answer.is_empty() => name = key(alias),
                _ if answer.is_empty() => return Err(DnsError::NotFound),
                _ => return Ok(answer),
            }
        }
        Err(DnsError::Temporary)
    }

    fn ask(&self, name: String, kind: RecordType) -> Result<Answer, DnsError> {
        self.answer(&Question { name, kind })
    }

    /// RFC 8601 §3.
    fn confirmed_name(&self, client: IpAddr) -> ClientName {
        let names = match self.ask(client.to_string(), RecordType::Ptr) {
            Ok(Answer::Names(names)) => names,
            Err(DnsError::Temporary) => return ClientName::TemporaryFailure,
            _ => return ClientName::None,
        };
        let kind = if client.is_ipv4() { RecordType::A } else { RecordType::Aaaa };
        let domains = || names.iter().take(MAX_CLIENT_NAMES).filter_map(|name| Domain::parse(name).ok());
        for domain in domains() {
            match self.ask(domain.to_string(), kind) {
                Ok(Answer::Addresses(addresses)) if addresses.contains(&client) => return ClientName::Verified(domain),
                Err(DnsError::Temporary) => return ClientName::TemporaryFailure,
                _ => {}
            }
        }
        domains().next().map_or(ClientName::None, ClientName::Unconfirmed)
    }
}

impl Records {
    fn check(&self) -> Result<(), String> {
        parsed::<Ipv4Addr>("a", &self.a)?;
        parsed::<Ipv6Addr>("aaaa", &self.aaaa)?;
        let bad = |text: &&String| exchange(text).is_none();
        match self.mx.list().iter().find(bad) {
            Some(text) => Err(format!("mx: `{}` is not \"PREFERENCE HOST\"", text.escape_debug())),
            None => Ok(()),
        }
    }

    fn of(&self, kind: RecordType) -> Answer {
        let addresses = |texts: &Texts| texts.list().iter().filter_map(|text| text.parse().ok()).collect();
        match kind {
            RecordType::A => Answer::Addresses(addresses(&self.a)),
            RecordType::Aaaa => Answer::Addresses(addresses(&self.aaaa)),
            RecordType::Mx => Answer::Exchanges(self.mx.list().iter().filter_map(|text| exchange(text)).collect()),
            RecordType::Txt => Answer::Texts(self.txt.list().iter().map(|text| text.clone().into_bytes()).collect()),
            RecordType::Ptr => Answer::Names(self.ptr.list().to_vec()),
            RecordType::Ns => Answer::Names(self.ns.list().to_vec()),
            RecordType::Cname => Answer::Names(self.cname.list().to_vec()),
        }
    }
}

fn parsed<T: FromStr>(what: &str, texts: &Texts) -> Result<(), String> {
    match texts.list().iter().find(|text| text.parse::<T>().is_err()) {
        Some(text) => Err(format!("{what}: `{}` is no such address", text.escape_debug())),
        None => Ok(()),
    }
}

fn exchange(text: &str) -> Option<(u16, String)> {
    let (preference, host) = text.trim().split_once(' ')?;
    Some((preference.parse().ok()?, host.trim().to_owned()))
}

/// Names without regard to case and the dot at the end; an address and its name for PTR are one.
fn key(name: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    address_of(&name).map_or(name, |address| address.to_string())
}

impl NameService for Zone {
    fn resolve(&self, question: Question) -> Lookup<'_, Result<Answer, DnsError>> {
        Box::pin(std::future::ready(self.answer(&question)))
    }

    fn client_name(&self, client: IpAddr) -> Lookup<'_, ClientName> {
        Box::pin(std::future::ready(self.confirmed_name(client)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: &str = r#"
        ["example.org"]
        mx = ["10 mail.example.org", "20 other.example.org"]
        txt = "v=spf1 -all"
        ["Mail.example.org."]
        a = ["192.0.2.1", "192.0.2.2"]
        aaaa = "2001:db8::1"
        ["www.example.org"]
        cname = "mail.example.org"
        ["loop.example"]
        cname = "loop.example"
        ["slow.example"]
        fails = "temporary"
        ["gone.example"]
        fails = "not-found"
        ["192.0.2.1"]
        ptr = "mail.example.org"
        ["192.0.2.9"]
        ptr = ["mail.example.org"]
        ["192.0.2.8"]
        fails = "temporary"
    "#;

    #[test]
    fn records_are_found_and_what_is_not_there_is_not() {
        let zone = Zone::parse(ZONE).unwrap();
        let addresses = |list: &[&str]| Ok(Answer::Addresses(list.iter().map(|text| text.parse().unwrap()).collect()));
        let names = |list: &[&str]| Ok(Answer::Names(list.iter().map(|&name| name.to_owned()).collect()));
        let exchanges = vec![(10, "mail.example.org".to_owned()), (20, "other.example.org".to_owned())];
        for (name, kind, expected) in [
            ("EXAMPLE.org.", RecordType::Mx, Ok(Answer::Exchanges(exchanges))),
            ("example.org", RecordType::A, Err(DnsError::NotFound)),
            ("example.org", RecordType::Txt, Ok(Answer::Texts(vec![b"v=spf1 -all".to_vec()]))),
            ("mail.example.org", RecordType::A, addresses(&["192.0.2.1", "192.0.2.2"])),
            ("www.example.org", RecordType::Aaaa, addresses(&["2001:db8::1"])),
            ("www.example.org", RecordType::Cname, names(&["mail.example.org"])),
            ("loop.example", RecordType::A, Err(DnsError::Temporary)),
            ("slow.example", RecordType::Mx, Err(DnsError::Temporary)),
            ("gone.example", RecordType::Mx, Err(DnsError::NotFound)),
            ("nobody.example", RecordType::A, Err(DnsError::NotFound)),
            ("1.2.0.192.in-addr.arpa", RecordType::Ptr, names(&["mail.example.org"])),
        ] {
            assert_eq!(zone.ask(name.to_owned(), kind), expected, "{name} {kind:?}");
        }
    }

    #[test]
    fn a_clients_name_is_confirmed_forward() {
        let zone = Zone::parse(ZONE).unwrap();
        let name = || Domain::parse("mail.example.org").unwrap();
        for (client, expected) in [
            ("192.0.2.1", ClientName::Verified(name())),
            ("192.0.2.9", ClientName::Unconfirmed(name())),
            ("192.0.2.7", ClientName::None),
            ("192.0.2.8", ClientName::TemporaryFailure),
        ] {
            assert_eq!(zone.confirmed_name(client.parse().unwrap()), expected, "{client}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("[\"a.example\"]\na = \"2001:db8::1\"", "a.example: a: `2001:db8::1` is no such address"),
            ("[\"a.example\"]\nmx = \"mail.example\"", "a.example: mx: `mail.example` is not \"PREFERENCE HOST\""),
            ("[\"a.example\"]\nspf = \"x\"", "unknown field `spf`"),
            ("[\"a.example\"]\nfails = \"often\"", "unknown variant `often`"),
            ("a", "expected"),
        ] {
            let error = Zone::parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
