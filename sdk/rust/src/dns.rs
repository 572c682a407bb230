//! Names and addresses, through the gateway's resolver and its cache. Grant `dns`.

use std::fmt;
use std::net::IpAddr;

use crate::sys;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordType {
    A,
    Aaaa,
    Mx,
    Txt,
    Ptr,
    Ns,
    Cname,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// A domain name; for `Ptr` an IP address or a name under in-addr.arpa or ip6.arpa.
    pub name: String,
    pub kind: RecordType,
}

impl Question {
    pub fn new(name: impl Into<String>, kind: RecordType) -> Self {
        Self { name: name.into(), kind }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub preference: u16,
    pub host: String,
}

/// The records of the type that was asked for, at least one: none is [`DnsError::NotFound`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Addresses(Vec<IpAddr>),
    Exchanges(Vec<Exchange>),
    Texts(Vec<Vec<u8>>),
    Names(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsError {
    /// NXDOMAIN, or no record of that type.
    NotFound,
    /// SERVFAIL, REFUSED, …: ask again later.
    Temporary,
    /// Not a name that can be asked.
    BadName,
    /// No answer in time: ask again later.
    TimedOut,
}

impl DnsError {
    /// Nobody could say: that may delay mail, and never refuse it.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Temporary | Self::TimedOut)
    }
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no such record",
            Self::Temporary => "DNS could not say",
            Self::TimedOut => "DNS gave no answer in time",
            Self::BadName => "not a name that can be asked",
        })
    }
}

impl std::error::Error for DnsError {}

pub fn resolve(name: &str, kind: RecordType) -> Result<Answer, DnsError> {
    sys::resolve(Question::new(name, kind))
}

/// In parallel; the answers in the order of the questions. At most 32.
pub fn resolve_many(questions: Vec<Question>) -> Vec<Result<Answer, DnsError>> {
    sys::resolve_many(questions)
}

/// The addresses of a name, IPv4 first. An error only where both look-ups have failed: temporary if one of them is.
pub fn addresses(name: &str) -> Result<Vec<IpAddr>, DnsError> {
    let answers = resolve_many(vec![Question::new(name, RecordType::A), Question::new(name, RecordType::Aaaa)]);
    let mut found = Vec::new();
    let mut error = DnsError::NotFound;
    for answer in answers {
        match answer {
            Ok(Answer::Addresses(addresses)) => found.extend(addresses),
            Err(failure) if failure.is_temporary() => error = failure,
            Err(DnsError::BadName) if error == DnsError::NotFound => error = DnsError::BadName,
            _ => {}
        }
    }
    if found.is_empty() { Err(error) } else { Ok(found) }
}
