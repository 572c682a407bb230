//! Signatures by keys that only the gateway sees: DKIM (RFC 6376, RFC 8463) and ARC sets (RFC 8617).
//!
//! They are made over a mail as it leaves, when nobody changes it any more. Nothing here verifies what others have signed,
//! and nothing decides which mail is signed: that is what plugins ask for.
//!
//! Signed is always `c=relaxed/relaxed`, the whole body (no `l=`), SHA-256. The canonical form is made here and not by
//! `mail-auth`, which has none for a body in pieces that is right for every body, and would hash one body for each
//! signature; tests let it verify what comes out.

mod arc;
mod authres;
mod canonical;
mod dkim;
pub mod key;
pub mod keyring;
mod tags;
pub mod zone;

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

pub use arc::Unsealed;
pub use key::{Algorithm, Key, KeyError};
pub use keyring::{Keyring, KeyringError, Selector};

use crate::mail::{Body, Message};
use crate::smtp::Domain;

/// Octets of a body in memory at once.
const PIECE: usize = 64 * 1024;

/// What is asked of the gateway: a signature in that domain's name, by that key of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Request {
    pub kind: Kind,
    pub domain: String,
    pub selector: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// A DKIM signature.
    Sign,
    /// An ARC set.
    Seal,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sign => "dkim",
            Self::Seal => "arc",
        }
    }
}

/// What signatures say besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `t=`.
    pub timestamp: bool,
    /// `x=` of a DKIM signature, seconds after it was made.
    pub validity: Option<u64>,
    /// By which name the gateway signs its `Authentication-Results` (RFC 8601 §2.5).
    pub service_id: String,
}

/// Nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    #[error("there is no key {selector} of {domain} any more")]
    NoKey { domain: String, selector: String },
    #[error("the body can't be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("{0}")]
    Key(#[from] KeyError),
}

/// What became of a request that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    Signed,
    Sealed,
    /// RFC 8617 leaves no seal to be made.
    Left(Unsealed),
}

/// A key with the names that signatures know it by.
struct Named<'a> {
    domain: &'a Domain,
    selector: &'a Selector,
    key: &'a Key,
}

/// Carries out all requests on a message, or none: first the DKIM signatures, which a seal then covers. What was done, in
/// the order of the requests; one that repeats another is carried out once. Blocking: it reads the body. `now`: seconds
/// since 1970.
pub fn carry_out(
    message: &mut Message,
    requests: &[Request],
    keys: &Keyring,
    policy: &Policy,
    now: u64,
) -> Result<Vec<(Request, Done)>, SigningError> {
    let mut wanted: Vec<&Request> = Vec::new();
    for request in requests {
        if !wanted.contains(&request) {
            wanted.push(request);
        }
    }
    wanted.sort_by_key(|request| request.kind == Kind::Seal);
    let keys: Vec<(&Request, Found)> =
        wanted.into_iter().map(|request| find(keys, request).map(|key| (request, key))).collect::<Result<_, _>>()?;
    let body_hash = body_hash(&message.body)?;
    let mut header = message.header.clone();
    let mut done = Vec::with_capacity(keys.len());
    for (request, found) in keys {
        let named = found.named();
        let what = match request.kind {
            Kind::Sign => {
                header.prepend(dkim::signature(&header, &body_hash, &named, policy, now)?);
                Done::Signed
            }
            Kind::Seal => match arc::set(&header, &body_hash, &named, policy, now)? {
                Ok(set) => {
                    set.into_iter().for_each(|field| header.prepend(field));
                    Done::Sealed
                }
                Err(why) => Done::Left(why),
            },
        };
        done.push((request.clone(), what));
    }
    message.header = header;
    Ok(done)
}

struct Found {
    domain: Domain,
    selector: Selector,
    key: Arc<Key>,
}

impl Found {
    fn named(&self) -> Named<'_> {
        Named { domain: &self.domain, selector: &self.selector, key: &self.key }
    }
}

fn find(keys: &Keyring, request: &Request) -> Result<Found, SigningError> {
    let found = Domain::parse(&request.domain).ok().zip(Selector::parse(&request.selector).ok());
    let found = found.and_then(|(domain, selector)| {
        let key = keys.key(&domain, &selector)?.clone();
        Some(Found { domain, selector, key })
    });
    let Request { domain, selector, .. } = request;
    found.ok_or_else(|| SigningError::NoKey { domain: domain.clone(), selector: selector.clone() })
}

/// `bh=`, once for all signatures.
fn body_hash(body: &Body) -> io::Result<String> {
    let mut hash = canonical::BodyHash::default();
    let mut at = 0;
    while at < body.len() {
        let piece = body.read_at(at, PIECE)?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.push(&piece);
        at += piece.len() as u64;
    }
    Ok(BASE64.encode(hash.finish()))
}

#[cfg(test)]
mod tests;
