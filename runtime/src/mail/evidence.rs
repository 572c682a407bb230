//! What is found out about a mail beyond its octets: each thing at most once, by whoever asks first, over the mail as it
//! was received. Values only; who finds out is not here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::OnceCell;

use super::Message;
use crate::smtp::ReversePath;

/// Shared by all copies of a mail, from MAIL to its reply. What is kept in the spool has none.
#[derive(Debug, Default)]
pub struct Evidence {
    /// As the client sent it: no trace field of ours, no edit. Set at the end of the data.
    pub received: OnceLock<Message>,
    /// As the client gave it.
    pub reverse_path: OnceLock<ReversePath>,
    /// The error says why nobody knows.
    pub origin: OnceCell<Result<Origin, String>>,
    pub spf_helo: OnceCell<Spf>,
    pub spf_mail_from: OnceCell<Spf>,
    pub dkim: OnceCell<Arc<[Signature]>>,
    /// What DMARC has verified of them, each with its place in the mail.
    pub dkim_aligning: OnceCell<Vec<(usize, Signature)>>,
    pub dmarc: OnceCell<Dmarc>,
    pub arc: OnceCell<ArcChain>,
    scans: Mutex<HashMap<Arc<str>, Arc<OnceCell<Scanned>>>>,
}

impl Evidence {
    /// What the scanner of that name has said. Names come from config, so there are few.
    pub fn scan(&self, scanner: &Arc<str>) -> Arc<OnceCell<Scanned>> {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        scans.entry(scanner.clone()).or_default().clone()
    }
}

/// The words of RFC 8601 §2.7. Of them SPF gives no `policy`, DKIM no `softfail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthOutcome {
    None,
    Pass,
    Fail,
    Softfail,
    Neutral,
    Policy,
    Temperror,
    Permerror,
}

impl AuthOutcome {
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

/// Who has handed the mail to us, or to the first of those relays that config trusts to have noted it (R11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub address: IpAddr,
    /// What it said at HELO.
    pub helo: Option<String>,
    /// It is not the client of this session.
    pub relayed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpfIdentity {
    Helo,
    MailFrom,
}

/// RFC 7208.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spf {
    pub outcome: AuthOutcome,
    pub identity: SpfIdentity,
    /// Whose record was evaluated.
    pub domain: String,
    /// Why, in words: for an error what is wrong; else the mechanism that decided, where it is known. Printable.
    pub reason: String,
    /// What the domain says to those that it fails (`exp=`); printable ASCII.
    pub explanation: Option<String>,
}

/// One DKIM signature (RFC 6376).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub outcome: AuthOutcome,
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

/// RFC 9989.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dmarc {
    pub outcome: AuthOutcome,
    /// The author's, of From.
    pub domain: String,
    /// Where the record was found; empty where there is none.
    pub policy_domain: String,
    /// What the owner asks to do with this mail where it fails: `p`, `sp` or `np`, lessened by `t=y`.
    pub policy: DmarcPolicy,
    /// It was found to stand behind the author. Where the author's very domain does by one of both, what else might is not
    /// looked for.
    pub spf_aligned: bool,
    pub dkim_aligned: bool,
    pub reason: String,
}

/// RFC 8617.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArcChain {
    /// `none`, `pass` or `fail`; `temperror` where a key could not be had.
    pub outcome: AuthOutcome,
    /// ARC sets in the mail.
    pub sets: u32,
    /// `d=` of the newest seal.
    pub sealer: Option<String>,
    pub reason: String,
}

/// What a scanner has said.
#[derive(Debug, Clone, PartialEq)]
pub enum Scanned {
    /// The name of what was found, or none.
    Virus(Option<String>),
    Assessment(Arc<Assessment>),
    /// Octets that the scanner is given at most.
    TooBig(u64),
    /// It did not answer, or not in time, or something that makes no sense.
    Unavailable(String),
}

/// What rspamd says of a mail.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    pub score: f64,
    /// From which score on it takes a mail for spam.
    pub required: f64,
    pub action: String,
    /// At most 256, those with the largest score first.
    pub symbols: Vec<(String, f64)>,
    /// What it would write as subject.
    pub subject: Option<String>,
    /// What it would say to the client.
    pub text: Option<String>,
}
