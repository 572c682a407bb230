//! DKIM verification (RFC 6376, with RFC 8301 and RFC 8463).
//!
//! A signature that does not cover the whole body (`l=` shorter than it, §8.2) verifies as `policy` at best: what was
//! added is nobody's. `rsa-sha1` and RSA keys under 1024 bits fail.

mod signature;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::body::{self, Hashed, Wanted};
use super::canonical::without_signature;
use super::key::{self, Key, KeyFault};
use super::{Outcome, printable};
use crate::dns::Resolver;
use crate::mail::evidence::Signature;
use crate::mail::{Body, Field, Header, Message};
pub(super) use signature::{Fault, Parsed, Selection, parse_algorithm};

/// Signatures that are verified, topmost first: each may cost a look-up, a hash of the body and a public key operation.
pub const MAX_VERIFIED: usize = 10;
/// Signatures that are told of; those beyond are left out.
pub const MAX_TOLD: usize = 32;
/// From this many octets on, hashing is no work for a thread that serves connections.
const BLOCKING_FROM: u64 = 64 * 1024;
/// Characters of `b=` that tell signatures apart (RFC 6008 §4).
const VALUE_PREFIX: usize = 12;

/// All of the mail as it was received; those that are known already, by their place in the mail, are not verified again.
pub async fn verify(
    resolver: &Resolver,
    message: &Message,
    time: Duration,
    known: &[(usize, Signature)],
) -> Vec<Signature> {
    let fields = message.header.named("DKIM-Signature").take(MAX_TOLD).enumerate();
    let unknown = fields.filter(|(place, _)| known.iter().all(|(at, _)| at != place)).collect();
    let mut all = verify_fields(resolver, message, unknown, time).await;
    all.extend_from_slice(known);
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, signature)| signature).collect()
}

/// Of the signatures that [`verify`] would verify those of these domains, each with its place in the mail.
pub async fn verify_some(
    resolver: &Resolver,
    message: &Message,
    time: Duration,
    domains: impl Fn(&str) -> bool,
) -> Vec<(usize, Signature)> {
    let first = message.header.named("DKIM-Signature").take(MAX_VERIFIED).enumerate();
    let fields = first.filter(|(_, field)| domains(&unverified(field).domain)).collect();
    verify_fields(resolver, message, fields, time).await
}

/// Whose signatures there are, in their order, before one is verified. Empty: nobody can say.
pub fn claimed_domains(message: &Message) -> Vec<String> {
    message.header.named("DKIM-Signature").take(MAX_VERIFIED).map(|field| unverified(field).domain).collect()
}

/// Each field comes and goes with its place among the signatures of the mail.
async fn verify_fields(
    resolver: &Resolver,
    message: &Message,
    fields: Vec<(usize, &Field)>,
    time: Duration,
) -> Vec<(usize, Signature)> {
    let places = fields.iter().map(|(place, _)| *place);
    let mut told: Vec<Signature> = fields.iter().map(|(_, field)| unverified(field)).collect();
    let mut candidates = Vec::new();
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    for (at, ((place, field), signature)) in fields.iter().zip(&mut told).enumerate() {
        if *place >= MAX_VERIFIED {
            conclude(signature, Outcome::Policy, format!("only the first {MAX_VERIFIED} signatures are verified"));
            continue;
        }
        match Parsed::parse(&field.value(), now) {
            Ok(parsed) => candidates.push(Candidate { at, parsed, raw: field.raw().clone() }),
            Err(Fault(outcome, reason)) => conclude(signature, outcome, reason),
        }
    }
    let keyed = with_keys(resolver, candidates, &mut told, time).await;
    if keyed.is_empty() {
        return places.zip(told).collect();
    }
    let (header, body) = (message.header.clone(), message.body.clone());
    let verified = off_thread(message, move || verify_keyed(&header, &body, keyed)).await;
    for (at, outcome, reason, testing) in verified {
        if let Some(signature) = told.get_mut(at) {
            signature.testing = testing;
            conclude(signature, outcome, reason);
        }
    }
    places.zip(told).collect()
}

/// Runs it, elsewhere where it may take long. A panic in it is nobody's result.
pub(super) async fn off_thread<T, F>(message: &Message, work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Default + Send + 'static,
{
    if message.len() < BLOCKING_FROM && message.body.as_file().is_none() {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

struct Candidate {
    at: usize,
    parsed: Parsed,
    raw: bytes::Bytes,
}

/// What can be told of it, verified or not.
fn unverified(field: &Field) -> Signature {
    let value = field.value();
    let tags = super::tag::TagList::parse(&value).ok();
    let tag = |name: &str, max| {
        tags.as_ref().and_then(|tags| tags.find(name)).map(|value| printable(value, max)).unwrap_or_default()
    };
    let domain = tag("d", 255).to_ascii_lowercase();
    let identity = match tag("i", 320) {
        none if none.is_empty() && !domain.is_empty() => format!("@{domain}"),
        identity => identity,
    };
    let value: String = tag("b", 64).chars().filter(|c| *c != ' ' && *c != '?').take(VALUE_PREFIX).collect();
    Signature {
        outcome: Outcome::Temperror,
        domain,
        selector: tag("s", 255),
        identity,
        algorithm: tag("a", 32),
        value,
        testing: false,
        // Stays only where the task that verifies has died.
        reason: "it could not be verified".to_owned(),
    }
}

fn conclude(signature: &mut Signature, outcome: Outcome, reason: impl AsRef<str>) {
    (signature.outcome, signature.reason) = (outcome, printable(reason.as_ref(), 200));
}

/// Those whose keys are there. All keys are looked up at once.
async fn with_keys(
    resolver: &Resolver,
    candidates: Vec<Candidate>,
    told: &mut [Signature],
    time: Duration,
) -> Vec<(Candidate, Key)> {
    let mut tasks = tokio::task::JoinSet::new();
    let candidates: Vec<Arc<Candidate>> = candidates.into_iter().map(Arc::new).collect();
    for candidate in &candidates {
        let (resolver, candidate) = (resolver.clone(), candidate.clone());
        tasks.spawn(async move {
            let Parsed { selector, domain, algorithm, .. } = &candidate.parsed;
            let key = timeout(time, key::look_up(&resolver, selector, domain, *algorithm)).await;
            let late = || Err(KeyFault::Temporary(format!("the key: no answer within {} s", time.as_secs())));
            (candidate.at, key.unwrap_or_else(|_| late()))
        });
    }
    let mut keys: Vec<(usize, Result<Key, KeyFault>)> = tasks.join_all().await;
    keys.sort_by_key(|(at, _)| *at);
    let mut keyed = Vec::new();
    for (candidate, (at, key)) in candidates.into_iter().zip(keys) {
        let Some(signature) = told.get_mut(at) else { continue };
        match key {
            Ok(key) => keyed.extend(Arc::into_inner(candidate).map(|candidate| (candidate, key))),
            Err(KeyFault::Temporary(reason)) => conclude(signature, Outcome::Temperror, reason),
            Err(KeyFault::Useless(reason)) => conclude(signature, Outcome::Permerror, reason),
            Err(KeyFault::Weak(reason)) => conclude(signature, Outcome::Fail, reason),
        }
    }
    keyed
}

/// Each with its place, outcome, reason, and whether its domain only tests.
type Verified = (usize, Outcome, String, bool);

/// Blocking: reads the body, and computes.
fn verify_keyed(header: &Header, body: &Body, keyed: Vec<(Candidate, Key)>) -> Vec<Verified> {
    let wanted: Vec<Wanted> =
        keyed.iter().map(|(c, _)| Wanted { form: c.parsed.body_form, limit: c.parsed.length }).collect();
    let hashes = match body::hash(body, &wanted) {
        Ok(hashes) => hashes.into_iter().map(Some).collect(),
        Err(error) => {
            tracing::error!(%error, "a body can't be read to verify its signatures");
            vec![None; keyed.len()]
        }
    };
    let selection = Selection::new(header);
    let verify = |((candidate, key), hashed): ((Candidate, Key), Option<Hashed>)| {
        let (outcome, reason) = match hashed {
            Some(hashed) => verify_one(&selection, &candidate, &key, &hashed),
            None => (Outcome::Temperror, "the mail can't be read just now".to_owned()),
        };
        (candidate.at, outcome, reason, key.testing)
    };
    keyed.into_iter().zip(hashes).map(verify).collect()
}

fn verify_one(selection: &Selection<'_>, candidate: &Candidate, key: &Key, hashed: &Hashed) -> (Outcome, String) {
    let fail = |reason: &str| (Outcome::Fail, reason.to_owned());
    let parsed = &candidate.parsed;
    if key.strict && parsed.identity_domain != parsed.domain {
        return (Outcome::Permerror, "the key is not for subdomains (t=s)".to_owned());
    }
    // §3.7: the body first.
    if hashed.sha256 != parsed.body_hash {
        return fail("the body was changed");
    }
    if parsed.length.is_some_and(|length| length > hashed.len) {
        return fail("the body is shorter than what was signed");
    }
    let mut signed = selection.canonical(parsed.header_form, &parsed.signed, Some(&candidate.raw));
    parsed.header_form.add_own_field(&without_signature(&candidate.raw), &mut signed);
    if !key.verifies(&signed, &parsed.value) {
        return fail("the signature does not match");
    }
    match parsed.length {
        Some(length) if length < hashed.len => {
            (Outcome::Policy, format!("it covers only {length} octets of a body of {}", hashed.len))
        }
        _ => (Outcome::Pass, "good signature".to_owned()),
    }
}

#[cfg(any(test, fuzzing))]
pub(super) fn read_anything(value: &[u8]) {
    if let Ok(parsed) = Parsed::parse(value, 0) {
        assert!(parsed.signed.iter().any(|name| name.eq_ignore_ascii_case("From")));
    }
}

#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;
