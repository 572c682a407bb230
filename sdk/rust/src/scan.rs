//! Scanners that the gateway's config names. Grant `scan`; only those that the plugin's entry names. At `data`, of the
//! mail as it was received. The answer of a scanner is asked for once for each mail.

use std::fmt;

use crate::{Message, Session, sys};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanError {
    /// No content before `data`.
    Stage,
    /// No scanner of that name is granted, or it is of the other kind.
    NoScanner,
    /// Larger than what the scanner is given; octets that it is given at most.
    TooBig(u64),
    /// It did not answer, or not in time, or something that makes no sense.
    Unavailable(String),
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage => f.write_str("the message has no content at this stage"),
            Self::NoScanner => f.write_str("no scanner of that name and kind is granted to this plugin"),
            Self::TooBig(most) => write!(f, "larger than the {most} octets that the scanner is given"),
            Self::Unavailable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ScanError {}

#[derive(Debug, Clone, PartialEq)]
pub struct Symbol {
    pub name: String,
    pub score: f64,
}

/// What rspamd says.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    pub score: f64,
    /// From which score on it takes a mail for spam.
    pub required: f64,
    /// `no action`, `greylist`, `add header`, `rewrite subject`, `soft reject`, `reject`, …
    pub action: String,
    /// At most 256, those with the largest score first.
    pub symbols: Vec<Symbol>,
    /// What it would write as subject.
    pub subject: Option<String>,
    /// What it would say to the client.
    pub text: Option<String>,
}

/// The name of what was found, or none. A scanner of kind `clamd`.
pub fn virus(message: &Message, scanner: &str) -> Result<Option<String>, ScanError> {
    sys::virus(message.raw(), scanner)
}

/// A scanner of kind `rspamd`; it is told of the client and the whole envelope.
pub fn assess(session: &Session, message: &Message, scanner: &str) -> Result<Assessment, ScanError> {
    sys::assess(session.raw(), message.raw(), scanner)
}
