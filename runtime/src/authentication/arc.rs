//! ARC validation (RFC 8617 §5.2): is the chain of those who have handled the mail whole, and was the mail not changed since?
//!
//! What is malformed breaks the chain: there is no `permerror` here, and a chain that is broken once stays so.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::timeout;

use super::body::{self, Wanted};
use super::canonical::{Form, without_signature};
use super::dkim::{Fault, Parsed, Selection, off_thread, parse_algorithm};
use super::key::{self, Algorithm, Key, KeyFault};
use super::tag::{TagList, base64};
use super::{Outcome, printable};
use crate::dns::Resolver;
use crate::mail::evidence::ArcChain;
use crate::mail::{Body, Field, Header, Message};
use crate::smtp::Domain;

/// RFC 8617 §4.2.1.
const MAX_SETS: usize = 50;
/// Keys looked up for one mail. Nobody's mail goes through so many hands: each would be a question to somebody's name servers.
const MAX_KEYS: usize = 20;

const RESULTS: &str = "ARC-Authentication-Results";
const SIGNATURE: &str = "ARC-Message-Signature";
const SEAL: &str = "ARC-Seal";

/// Within that time; the mail as it was received.
pub(super) async fn validate(resolver: &Resolver, message: &Message, time: Duration) -> ArcChain {
    let sets = match sets(&message.header) {
        Ok(sets) if sets.is_empty() => return concluded(&sets, Outcome::None, "the mail has no ARC set"),
        Ok(sets) => sets,
        Err(reason) => return concluded(&[], Outcome::Fail, &reason),
    };
    // §5.2 steps 2 and 3.
    for set in &sets {
        let expected = if set.instance == 1 { "none" } else { "pass" };
        if set.validation != expected {
            let reason = format!("seal {} says cv={}", set.instance, set.validation);
            return concluded(&sets, Outcome::Fail, &reason);
        }
    }
    let keys = match timeout(time, keys(resolver, &sets)).await {
        Ok(Ok(keys)) => keys,
        Ok(Err(KeyFault::Temporary(reason))) => return concluded(&sets, Outcome::Temperror, &reason),
        Ok(Err(KeyFault::Useless(reason) | KeyFault::Weak(reason))) => {
            return concluded(&sets, Outcome::Fail, &reason);
        }
        Err(_) => {
            let reason = format!("the keys: no answer within {} s", time.as_secs());
            return concluded(&sets, Outcome::Temperror, &reason);
        }
    };
    let (header, body, checked) = (message.header.clone(), message.body.clone(), sets.clone());
    let verified = off_thread(message, move || Some(verify(&header, &body, &checked, &keys))).await;
    match verified {
        Some(Ok(())) => concluded(&sets, Outcome::Pass, "the chain is whole"),
        Some(Err(Fault(outcome, reason))) => concluded(&sets, outcome, &reason),
        None => concluded(&sets, Outcome::Temperror, "it could not be validated"),
    }
}

fn concluded(sets: &[Set], outcome: Outcome, reason: &str) -> ArcChain {
    ArcChain {
        outcome,
        sets: u32::try_from(sets.len()).unwrap_or(u32::MAX),
        sealer: sets.last().map(|set| set.sealer.domain.clone()),
        reason: printable(reason, 200),
    }
}

/// Whose key, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Signer {
    algorithm: Algorithm,
    domain: String,
    selector: String,
}

/// One ARC set (§4.2).
#[derive(Debug, Clone)]
struct Set {
    instance: usize,
    results: Field,
    signature: Field,
    signed: Parsed,
    seal: Field,
    sealer: Signer,
    /// `b=` of the seal.
    value: Vec<u8>,
    /// `cv=`, lower case.
    validation: String,
}

/// The oldest first, none missing. The error says what is wrong with them.
fn sets(header: &Header) -> Result<Vec<Set>, String> {
    let results = by_instance(header, RESULTS)?;
    let mut signatures = by_instance(header, SIGNATURE)?;
    let mut seals = by_instance(header, SEAL)?;
    let count = results.len();
    if signatures.len() != count || seals.len() != count {
        return Err("an ARC set is not complete".to_owned());
    }
    let mut sets = Vec::new();
    let mut results = results;
    for instance in 1..=count {
        let missing = || format!("ARC set {instance} is not complete");
        let results = results.remove(&instance).ok_or_else(missing)?;
        let signature = signatures.remove(&instance).ok_or_else(missing)?;
        let seal = seals.remove(&instance).ok_or_else(missing)?;
        sets.push(Set::parse(instance, results, signature, seal).map_err(|Fault(_, reason)| reason)?);
    }
    Ok(sets)
}

/// §4.2.1. Two of one name and number, or a number that there can't be, break the chain.
fn by_instance(header: &Header, name: &str) -> Result<HashMap<usize, Field>, String> {
    let mut fields = HashMap::new();
    for field in header.named(name) {
        let value = field.value();
        let text = value.split(|&b| b == b';').find(|tag| tag.trim_ascii().starts_with(b"i")).unwrap_or_default();
        let digits = text.trim_ascii().strip_prefix(b"i").map(<[u8]>::trim_ascii_start);
        let digits = digits.and_then(|rest| rest.strip_prefix(b"=")).map(<[u8]>::trim_ascii);
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let instance = digits.parse().ok().filter(|number| plain && (1..=MAX_SETS).contains(number));
        let instance = instance.ok_or_else(|| format!("{name} without a proper i="))?;
        if fields.insert(instance, field.clone()).is_some() {
            return Err(format!("{name} {instance} is there twice"));
        }
    }
    Ok(fields)
}

impl Set {
    fn parse(instance: usize, results: Field, signature: Field, seal: Field) -> Result<Self, Fault> {
        let value = signature.value();
        let tags = TagList::parse(&value).map_err(|what| Fault::syntax(format!("{SIGNATURE}: {what}")))?;
        // Deviates: RFC 8617 §4.1.2 has DKIM's default (simple); those who seal without `c=` mean relaxed, and so does the
        // working group's suite (`ams_fields_c_na`). It also has names in `h=` that are empty, and none at all.
        let signed = Parsed::from_tags(&tags, (Form::Relaxed, Form::Relaxed))?;
        // §4.1.2: a seal is made after it.
        if signed.signed.iter().any(|name| name.eq_ignore_ascii_case(SEAL)) {
            return Err(Fault::syntax("an ARC signature signs seals"));
        }
        let value = seal.value();
        let tags = TagList::parse(&value).map_err(|what| Fault::syntax(format!("{SEAL}: {what}")))?;
        // §4.1.3: it has none, and one that has is no seal.
        if tags.find("h").is_some() {
            return Err(Fault::syntax("a seal has h="));
        }
        let needed = |name: &str| {
            let value = tags.find(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| Fault::syntax(format!("a seal has no {name}=")))
        };
        let domain = Domain::parse(needed("d")?).map_err(|_| Fault::syntax("d= of a seal is no domain"))?;
        let sealer = Signer {
            algorithm: parse_algorithm(needed("a")?)?,
            domain: domain.as_str().to_owned(),
            selector: needed("s")?.to_owned(),
        };
        let value = base64(needed("b")?).ok_or_else(|| Fault::syntax("b= of a seal is not Base64"))?;
        let validation = needed("cv")?.to_ascii_lowercase();
        Ok(Self { instance, results, signature, signed, seal, sealer, value, validation })
    }

    fn signer(&self) -> Signer {
        let Parsed { algorithm, domain, selector, .. } = &self.signed;
        Signer { algorithm: *algorithm, domain: domain.clone(), selector: selector.clone() }
    }
}

/// All at once: those of the seals, and of the newest signature.
async fn keys(resolver: &Resolver, sets: &[Set]) -> Result<HashMap<Signer, Key>, KeyFault> {
    let mut tasks = tokio::task::JoinSet::new();
    let mut wanted: HashSet<Signer> = sets.iter().map(|set| set.sealer.clone()).collect();
    wanted.extend(sets.last().map(Set::signer));
    if wanted.len() > MAX_KEYS {
        return Err(KeyFault::Useless(format!("the sets are by more than {MAX_KEYS} keys")));
    }
    for signer in wanted {
        let resolver = resolver.clone();
        tasks.spawn(async move {
            let key = key::look_up(&resolver, &signer.selector, &signer.domain, signer.algorithm).await;
            (signer, key)
        });
    }
    let mut keys = HashMap::new();
    let mut fault = None;
    while let Some(found) = tasks.join_next().await {
        match found {
            Ok((signer, Ok(key))) => drop(keys.insert(signer, key)),
            // What is of no use is final, whatever else could not be had.
            Ok((_, Err(KeyFault::Temporary(reason)))) => fault = fault.or(Some(KeyFault::Temporary(reason))),
            Ok((_, Err(useless))) => return Err(useless),
            Err(_) => fault = fault.or(Some(KeyFault::Temporary("a look-up has died".to_owned()))),
        }
    }
    fault.map_or(Ok(keys), Err)
}

/// §5.2 steps 4 and 6. Blocking: reads the body, and computes.
fn verify(header: &Header, body: &Body, sets: &[Set], keys: &HashMap<Signer, Key>) -> Result<(), Fault> {
    let fail = |reason: String| Fault(Outcome::Fail, reason);
    let Some(newest) = sets.last() else { return Ok(()) };
    let parsed = &newest.signed;
    let wanted = [Wanted { form: parsed.body_form, limit: parsed.length }];
    let hashed = body::hash(body, &wanted).ok().and_then(|mut hashes| hashes.pop());
    let hashed = hashed.ok_or_else(|| Fault(Outcome::Temperror, "the mail can't be read just now".to_owned()))?;
    // RFC 6376 §8.2: what is not covered, anybody may have added.
    if hashed.sha256 != parsed.body_hash || parsed.length.is_some_and(|length| length != hashed.len) {
        return Err(fail("the body was changed after the newest set".to_owned()));
    }
    let own = newest.signature.raw();
    let mut signed = Selection::new(header).canonical(parsed.header_form, &parsed.signed, Some(own));
    parsed.header_form.add_own_field(&without_signature(own), &mut signed);
    if !keys.get(&newest.signer()).is_some_and(|key| key.verifies(&signed, &parsed.value)) {
        return Err(fail("the newest signature does not match".to_owned()));
    }
    let mut sealed = Vec::new();
    for set in sets {
        Form::Relaxed.add_field(set.results.raw(), &mut sealed);
        Form::Relaxed.add_field(set.signature.raw(), &mut sealed);
        let before = sealed.len();
        Form::Relaxed.add_own_field(&without_signature(set.seal.raw()), &mut sealed);
        if !keys.get(&set.sealer).is_some_and(|key| key.verifies(&sealed, &set.value)) {
            return Err(fail(format!("seal {} does not match", set.instance)));
        }
        sealed.truncate(before);
        Form::Relaxed.add_field(set.seal.raw(), &mut sealed);
    }
    Ok(())
}

#[cfg(any(test, fuzzing))]
pub(super) fn read_anything(header: &Header) {
    if let Ok(sets) = sets(header) {
        assert!(sets.len() <= MAX_SETS);
    }
}

#[cfg(test)]
mod tests;
