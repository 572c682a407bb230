//! Signatures by keys that only the gateway sees: DKIM (RFC 6376, RFC 8463) and ARC sets (RFC 8617).
//!
//! They are made over a mail as it leaves, when nobody changes it any more. Nothing here verifies what others have signed,
//! and nothing decides which mail is signed: that is what plugins ask for.
//!
//! Signed is always `c=relaxed/relaxed`, the whole body (no `l=`), SHA-256. The canonical form is the one that verification
//! has: `docs/decisions/0011-own-signer.md` says why not a library's.

mod arc;
mod authres;
mod dkim;
pub mod key;
pub mod keyring;
mod tags;

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

pub use arc::Unsealed;
pub use key::{Algorithm, Key, KeyError};
pub use keyring::{Keyring, KeyringError, Selector};

use crate::authentication::body::{self, Wanted};
use crate::authentication::canonical::Form;
use crate::mail::{Body, Message, SignatureKind, SignatureRequest};
use crate::smtp::Domain;

/// What signatures say besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    #[error("there is no key {} of {} any more", .0.selector, .0.domain)]
    NoKey(SignatureRequest),
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

/// Where the record of a key is published (RFC 6376 §3.6.2.1), without a dot at its end.
pub fn record_name(domain: &Domain, selector: &Selector) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// A key with the names that signatures know it by.
struct Named<'a> {
    domain: &'a Domain,
    selector: &'a Selector,
    key: &'a Key,
}

/// Carries out all requests on a message, or none: first the DKIM signatures, which a seal then covers. What was done; a
/// request that repeats another is carried out once. Blocking: it reads the body. `now`: seconds since 1970.
pub fn carry_out(
    message: &mut Message,
    requests: &[SignatureRequest],
    keys: &Keyring,
    policy: &Policy,
    now: u64,
) -> Result<Vec<(SignatureRequest, Done)>, SigningError> {
    let found = find(requests, keys)?;
    let body_hash = body_hash(&message.body)?;
    let mut header = message.header.clone();
    let mut done: Vec<(SignatureRequest, Done)> = Vec::with_capacity(found.len());
    for Found { request, selector, key } in found {
        let by = Named { domain: &request.domain, selector: &selector, key: &key };
        let what = match request.kind {
            SignatureKind::Dkim => {
                header.prepend(dkim::signature(&header, &body_hash, &by, policy, now)?);
                Done::Signed
            }
            SignatureKind::Arc if done.iter().any(|(_, what)| *what == Done::Sealed) => Done::Left(Unsealed::Sealed),
            SignatureKind::Arc => match arc::set(&header, &body_hash, &by, policy, now)? {
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

/// A request with its key.
struct Found<'r> {
    request: &'r SignatureRequest,
    selector: Selector,
    key: Arc<Key>,
}

/// Each request once, in the order in which they are carried out.
fn find<'r>(requests: &'r [SignatureRequest], keys: &Keyring) -> Result<Vec<Found<'r>>, SigningError> {
    let mut found: Vec<Found<'r>> = Vec::with_capacity(requests.len());
    for request in requests {
        if found.iter().any(|known| known.request == request) {
            continue;
        }
        let selector = Selector::parse(&request.selector).ok();
        let key = selector.and_then(|selector| Some((keys.key(&request.domain, &selector)?.clone(), selector)));
        let (key, selector) = key.ok_or_else(|| SigningError::NoKey(request.clone()))?;
        found.push(Found { request, selector, key });
    }
    found.sort_by_key(|found| found.request.kind == SignatureKind::Arc);
    Ok(found)
}

/// `bh=`, once for all signatures.
fn body_hash(body: &Body) -> io::Result<String> {
    let hashed = body::hash(body, &[Wanted { form: Form::Relaxed, limit: None }])?;
    Ok(hashed.first().map(|hashed| BASE64.encode(&hashed.sha256)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
