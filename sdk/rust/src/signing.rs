//! Signatures by keys that the gateway keeps and no plugin sees. Grant `signing`. At `deliver`: what is asked for is
//! carried out last, after all chains, over the mail as it leaves.

use std::fmt;

use crate::{Message, sys};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningError {
    /// Not at this stage.
    Stage,
    /// There is no such key.
    NoKey,
    /// The domain is none of this scope's, or another tenant's than the mail's.
    Denied,
    /// More than 8 requests.
    Full,
}

impl fmt::Display for SigningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stage => "signatures can be asked for at deliver only",
            Self::NoKey => "the gateway has no such key",
            Self::Denied => "the domain is none of this scope's",
            Self::Full => "more than 8 signatures",
        })
    }
}

impl std::error::Error for SigningError {}

/// The selectors of the domain's keys; empty where it has none, or is none of this scope's.
pub fn selectors(domain: &str) -> Vec<String> {
    sys::signing_selectors(domain)
}

/// A DKIM signature with that key (RFC 6376). Asked for twice, it is made once.
pub fn sign(message: &Message, domain: &str, selector: &str) -> Result<(), SigningError> {
    sys::sign(message.raw(), domain, selector)
}

/// An ARC set (RFC 8617); what it says was found is the newest `Authentication-Results` of the gateway's own. One a mail.
pub fn seal(message: &Message, domain: &str, selector: &str) -> Result<(), SigningError> {
    sys::seal(message.raw(), domain, selector)
}
