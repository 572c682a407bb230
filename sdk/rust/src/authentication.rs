//! Who has sent a mail, by SPF, DKIM, DMARC and ARC. Grant `authentication`.
//!
//! Looked up at most once for each mail, when first asked for, over the mail as it was received: what plugins edit does
//! not count. From `mail_from` to `data`; later the field `Authentication-Results` says what was found.

use std::fmt;
use std::net::IpAddr;

use crate::{Message, ReadError, Session, sys};

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

/// The signatures, topmost first: the first ten are verified, the others are `policy`. Empty: there is none.
pub fn dkim(message: &Message) -> Result<Vec<Signature>, ReadError> {
    sys::dkim(message.raw())
}

pub fn dmarc(session: &Session, message: &Message) -> Result<Dmarc, ReadError> {
    sys::dmarc(session.raw(), message.raw())
}

pub fn arc(message: &Message) -> Result<Arc, ReadError> {
    sys::arc(message.raw())
}
