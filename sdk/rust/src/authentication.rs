//! Who has sent a mail, by SPF, DKIM, DMARC and ARC. Grant `authentication`.
//!
//! Looked up at most once for each mail, when first asked for, over the mail as it was received: what plugins edit does
//! not count. From `mail_from` to `data`; later the field `Authentication-Results` says what was found: [`add_results`].

use std::fmt;
use std::net::IpAddr;

use crate::{EditError, Message, Position, ReadError, Session, sys};

const RESULTS: &str = "Authentication-Results";
/// Characters of one value in a field that is added.
const MAX_VALUE: usize = 255;

/// The words of RFC 8601 §2.7. Of them SPF gives no `policy`, DKIM no `softfail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    None,
    Pass,
    Fail,
    Softfail,
    Neutral,
    Policy,
    Temperror,
    Permerror,
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Softfail => "softfail",
            Self::Neutral => "neutral",
            Self::Policy => "policy",
            Self::Temperror => "temperror",
            Self::Permerror => "permerror",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who has handed the mail to us, or to the first of those relays that the gateway's config trusts to have noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub address: IpAddr,
    /// What it said at HELO.
    pub helo: Option<String>,
    /// It is not the client of this session.
    pub relayed: bool,
}

/// Whose name was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpfIdentity {
    Helo,
    MailFrom,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spf {
    pub outcome: Outcome,
    pub identity: SpfIdentity,
    /// Whose record was evaluated.
    pub domain: String,
    /// Why: for an error what is wrong; else the mechanism that decided, where it is known.
    pub reason: String,
    /// What the domain says to those that it fails (`exp=`). Foreign text of printable ASCII.
    pub explanation: Option<String>,
}

/// One DKIM signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub outcome: Outcome,
    /// `d=`
    pub domain: String,
    /// `s=`
    pub selector: String,
    /// `i=`, with its default.
    pub identity: String,
    /// `a=`
    pub algorithm: String,
    /// The first characters of `b=`, for `header.b` (RFC 6008).
    pub value: String,
    /// The domain only tests (`t=y`): a failure means nothing.
    pub testing: bool,
    pub reason: String,
}

/// What the owner of a domain asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmarcPolicy {
    None,
    Quarantine,
    Reject,
}

impl DmarcPolicy {
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dmarc {
    pub outcome: Outcome,
    /// The author's, of From.
    pub domain: String,
    /// Where the record was found; empty where there is none.
    pub policy_domain: String,
    /// What the owner asks to do with this mail where it fails: `p`, `sp` or `np`, lessened by `t=y`.
    pub policy: DmarcPolicy,
    pub spf_aligned: bool,
    pub dkim_aligned: bool,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arc {
    /// `none`, `pass` or `fail`; `temperror` where a key could not be had.
    pub outcome: Outcome,
    /// ARC sets in the mail.
    pub sets: u32,
    /// `d=` of the newest seal.
    pub sealer: Option<String>,
    pub reason: String,
}

/// By which name the gateway signs its results (RFC 8601 §2.5). Fields that came with this name were removed on entry.
pub fn service_id() -> String {
    sys::service_id()
}

/// [`ReadError::Stage`]: of mail of a trusted relay it is known at `data` only.
pub fn origin(session: &Session, message: &Message) -> Result<Origin, ReadError> {
    sys::origin(session.raw(), message.raw())
}

/// Of the name said at HELO. [`ReadError::Stage`] as [`origin`].
pub fn spf_helo(session: &Session, message: &Message) -> Result<Spf, ReadError> {
    sys::spf(session.raw(), message.raw(), SpfIdentity::Helo)
}

/// Of the reverse-path; of the null one, `postmaster@` the HELO name (RFC 7208 §2.4). [`ReadError::Stage`] as [`origin`].
pub fn spf_mail_from(session: &Session, message: &Message) -> Result<Spf, ReadError> {
    sys::spf(session.raw(), message.raw(), SpfIdentity::MailFrom)
}

/// The signatures, topmost first: the first ten are verified, the others are `policy`; those beyond the 32nd are left out.
/// Empty: there is none.
pub fn dkim(message: &Message) -> Result<Vec<Signature>, ReadError> {
    sys::dkim(message.raw())
}

pub fn dmarc(session: &Session, message: &Message) -> Result<Dmarc, ReadError> {
    sys::dmarc(session.raw(), message.raw())
}

pub fn arc(message: &Message) -> Result<Arc, ReadError> {
    sys::arc(message.raw())
}

/// What a policy does with a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nothing but to say what was found.
    None,
    /// A tag on the mail, for later stages and the log.
    Tag,
    Quarantine,
    /// Refuse for now.
    Defer,
    /// Refuse for good.
    Reject,
}

impl Action {
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tag => "tag",
            Self::Quarantine => "quarantine",
            Self::Defer => "defer",
            Self::Reject => "reject",
        }
    }
}

/// One result in the field `Authentication-Results` (RFC 8601 §2.2 `resinfo`): `spf=pass smtp.mailfrom=example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultInfo(String);

impl ResultInfo {
    /// The method is a word of ours: `spf`, `dkim`, `dmarc`, `arc`, `iprev` (RFC 8601 §2.7).
    pub fn new(method: &str, outcome: Outcome) -> Self {
        Self(format!("{method}={outcome}"))
    }

    pub fn reason(mut self, text: &str) -> Self {
        if !text.is_empty() {
            self.0.push_str(" reason=");
            self.0.push_str(&quoted(text));
        }
        self
    }

    /// A property as `smtp.mailfrom`, and its value, which may be foreign text; none where it is empty.
    pub fn property(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            self.0.push_str(&format!(" {name}={}", value_text(value)));
        }
        self
    }
}

impl fmt::Display for ResultInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value in a list of a trace field: as it is where it is a token or an address, else quoted. Printable ASCII, and at most
/// 255 characters of it.
pub fn value_text(value: &str) -> String {
    // RFC 2045 §5.1 `token`, and what an address has besides.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~@".contains(&b);
    if !value.is_empty() && value.len() <= MAX_VALUE && value.bytes().all(plain) {
        value.to_owned()
    } else {
        quoted(value)
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars().take(MAX_VALUE) {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

/// At `data`: writes what was found into the one field `Authentication-Results` that the gateway has in this mail; those of
/// plugins before stay in it. A result that it has already is not said again.
pub fn add_results(message: &Message, results: &[ResultInfo]) -> Result<(), EditError> {
    let id = service_id();
    let fields = message.header(RESULTS).map_err(|_| EditError::Stage)?;
    // Whatever came in under this name was removed on entry, so it is ours.
    let own = (0..).zip(&fields).find(|(_, value)| {
        value.get(..id.len()).is_some_and(|start| start.eq_ignore_ascii_case(id.as_bytes()))
            && value.get(id.len()) == Some(&b';')
    });
    let so_far = own.and_then(|(nth, value)| Some((nth, std::str::from_utf8(value).ok()?)));
    let mut value = so_far.map_or(id, |(_, value)| value.to_owned());
    for ResultInfo(text) in results {
        if !format!("{value};").contains(&format!("; {text};")) {
            value.push_str("; ");
            value.push_str(text);
        }
    }
    match so_far {
        Some((_, before)) if before == value => Ok(()),
        Some((nth, _)) => message.replace_header(RESULTS, nth, Some(&value)),
        None => message.add_header(RESULTS, &value, Position::Top),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_safe_whatever_is_in_them() {
        let info = ResultInfo::new("spf", Outcome::Fail)
            .reason("no \"way\" \\ out\r\nX: y")
            .property("smtp.mailfrom", "a;b=c d@example.com")
            .property("smtp.helo", "mx.example.com")
            .property("header.i", "");
        let expected = "spf=fail reason=\"no \\\"way\\\" \\\\ out??X: y\" \
                        smtp.mailfrom=\"a;b=c d@example.com\" smtp.helo=mx.example.com";
        assert_eq!(info.to_string(), expected);
        assert_eq!(value_text("joe+x@example.com"), "joe+x@example.com");
        assert_eq!((value_text("j\u{f6}(x)"), value_text("")), ("\"j?(x)\"".to_owned(), "\"\"".to_owned()));
        assert!(value_text(&"x".repeat(5000)).len() < 300);
    }
}
