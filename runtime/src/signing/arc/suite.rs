//! The signing suite of the ARC working group (`make test-suites`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hickory_resolver::proto::rr::RecordType;
use num_bigint::BigUint;
use serde::Deserialize;

use super::*;
use crate::authentication::{Settings, Verifier};
use crate::dns::responder::{Answer, Responder, txt};
use crate::mail::{Body, Message};
use crate::metrics::Metrics;
use crate::signing::{Key, Selector, body_hash};
use crate::smtp::Domain;

#[derive(Deserialize)]
struct Scenario {
    tests: BTreeMap<String, Case>,
    records: BTreeMap<String, String>,
    domain: String,
    selector: String,
    modulus: String,
    exponent: String,
}

#[derive(Deserialize)]
struct Case {
    message: String,
    time: u64,
    signed: Vec<String>,
    service_id: String,
    seal: String,
    signature: String,
    results: String,
}

/// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 §8.2.1) by a key of 1024 bits.
fn key(scenario: &Scenario) -> Key {
    let number = |text: &str| BigUint::parse_bytes(text.as_bytes(), 16).unwrap();
    let (modulus, exponent) = (number(&scenario.modulus), number(&scenario.exponent));
    Key::weak(move |data| {
        let head = [0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20];
        let padded = [&[0, 1][..], &[0xff; 128 - 3 - 19 - 32], &[0], &head, digest(&SHA256, data).as_ref()].concat();
        let octets = BigUint::from_bytes_be(&padded).modpow(&exponent, &modulus).to_bytes_be();
        [vec![0; 128 - octets.len()], octets].concat()
    })
}

fn message(text: &str) -> Message {
    let text = text.replace('\n', "\r\n");
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    let body = Body::from_bytes(Bytes::copy_from_slice(body.as_bytes()));
    Message { header: Header::parse(&Bytes::from(format!("{header}\r\n"))), body }
}

/// Unfolded, with single spaces.
fn plain(value: &[u8]) -> String {
    std::str::from_utf8(value).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Is `b=` what the key makes of `before` and the field without it?
fn is_signed(field: &Field, mut before: Vec<u8>, key: &Key) -> bool {
    let text = std::str::from_utf8(field.raw()).unwrap().trim_end();
    let (mut bare, mut value) = (Vec::new(), String::new());
    for tag in text.split(';') {
        match tag.split_once("b=").filter(|(space, _)| space.trim().is_empty()) {
            Some((space, signature)) => {
                value = signature.split_whitespace().collect();
                bare.push(format!("{space}b="));
            }
            None => bare.push(tag.to_owned()),
        }
    }
    Form::Relaxed.add_own_field(bare.join(";").as_bytes(), &mut before);
    value == BASE64.encode(key.sign(&before).unwrap())
}

/// Seals with the suite's key, names, time and list of fields. Compared with the set expected: whether there is one; a, c, cv, d, h,
/// i, s, t and `bh=` of both fields; the results, unfolded. `b=` can't be equal, as our tags stand in another order: of both
/// sets, ours and the suite's, it must be what the key makes of the octets that RFC 8617 §5.1 names, and the verifier must
/// find the chain whole, or broken where the seal says so.
#[tokio::test]
#[ignore = "needs the suite: make test-suites"]
async fn arc_signing_suite() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/suites/arc-signing.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; make test-suites", path.display()));
    let scenarios: Vec<Scenario> = serde_json::from_slice(&text).unwrap();
    let mut count = 0;
    for scenario in &scenarios {
        let dns = Responder::start().await;
        for (name, text) in &scenario.records {
            dns.set(name, RecordType::TXT, Answer::Records(vec![txt(&[text.as_str()])]));
        }
        let verifier = Verifier::new(dns.resolver(), Settings::default(), Arc::new(Metrics::new().unwrap()));
        for (name, case) in &scenario.tests {
            check(name, case, scenario, &verifier).await;
            count += 1;
        }
    }
    if count == 0 {
        eprintln!("the ARC suite is not there (POSTERN_ARC_SUITE): nothing was tested");
    }
    assert!(count == 0 || count == 17, "{count} of the suite's 17 cases");
}

async fn check(name: &str, case: &Case, scenario: &Scenario, verifier: &Verifier) {
    let key = key(scenario);
    let (domain, selector) = (Domain::parse(&scenario.domain).unwrap(), Selector::parse(&scenario.selector).unwrap());
    let by = Named { domain: &domain, selector: &selector, key: &key };
    let policy = Policy { timestamp: true, validity: None, service_id: case.service_id.clone() };
    let mail = message(&case.message);
    let mut covered = Vec::new();
    for name in &case.signed {
        mail.header.named(name).for_each(|field| Form::Relaxed.add_field(field.raw(), &mut covered));
    }
    let names = case.signed.iter().map(String::as_str).collect();
    let hash = body_hash(&mail.body).unwrap();
    let ours = set_over((names, covered.clone()), &mail.header, &hash, &by, &policy, case.time).unwrap();
    if case.seal.trim().is_empty() {
        assert_eq!(ours.err(), Some(Unsealed::Failed), "{name}");
        return;
    }
    let ours = ours.unwrap();
    // The suite shows its signature folded; its seal is over one whose `b=` is in one piece.
    let in_one_piece = |tag: &str| match tag.split_once("b=").filter(|(space, _)| space.trim().is_empty()) {
        Some((space, value)) => format!("{space}b={}", value.split_whitespace().collect::<String>()),
        None => tag.to_owned(),
    };
    let signature = case.signature.split(';').map(in_one_piece).collect::<Vec<_>>().join(";");
    let theirs = [(RESULTS, &case.results), (SIGNATURE, &signature), (SEAL, &case.seal)]
        .map(|(field, value)| Field::from_raw(format!("{field}: {}\r\n", value.trim().replace('\n', "\r\n ")).into()));
    assert_eq!(plain(&ours[0].value()), plain(&theirs[0].value()), "{name}");
    for (place, tags) in [(1, &["i", "a", "c", "d", "s", "t", "h", "bh"][..]), (2, &["i", "a", "cv", "d", "s", "t"])] {
        for wanted in tags {
            let (our, their) = (tag(&ours[place], wanted), tag(&theirs[place], wanted));
            let bare = |value: Option<String>| value.map(|value| value.split_whitespace().collect::<String>());
            assert!(
                our.is_some() && bare(our.clone()) == bare(their.clone()),
                "{name}: {wanted}={our:?}, not {their:?}"
            );
        }
    }
    let failed = says_failed(&theirs[2]);
    for (whose, set) in [("ours", ours), ("the suite's", theirs)] {
        assert!(is_signed(&set[1], covered.clone(), &key), "{name}: signature, {whose}");
        let mut sealed = Vec::new();
        if !failed {
            let chain = Chain::read(&mail.header);
            chain.sets.iter().flatten().for_each(|field| Form::Relaxed.add_field(field.raw(), &mut sealed));
        }
        set[..2].iter().for_each(|field| Form::Relaxed.add_field(field.raw(), &mut sealed));
        assert!(is_signed(&set[2], sealed, &key), "{name}: seal, {whose}");
        let mut mail = mail.clone();
        set.into_iter().for_each(|field| mail.header.prepend(field));
        let chain = verifier.arc(&mail).await;
        assert_eq!(chain.outcome.name(), if failed { "fail" } else { "pass" }, "{name}, {whose}: {chain:?}");
    }
}
