//! The validation suite of the ARC working group (`make test-suites`), and what it does not have.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use serde::Deserialize;

use super::*;
use crate::dns::responder::{Answer, Responder, txt};

#[derive(Deserialize)]
struct Scenario {
    description: String,
    tests: BTreeMap<String, Case>,
    records: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Case {
    message: String,
    cv: String,
}

fn scenarios() -> Vec<Scenario> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/suites/arc.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; make test-suites", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn message(text: &str) -> Message {
    let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
    let (header, body) = match text.strip_prefix("\r\n") {
        Some(body) => ("", Some(body)),
        None => text.split_once("\r\n\r\n").map_or((text.trim_end(), None), |(header, body)| (header, Some(body))),
    };
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    let body = body.map_or_else(Body::absent, |body| Body::from_bytes(Bytes::copy_from_slice(body.as_bytes())));
    Message { header: Header::parse(&Bytes::from(header)), body }
}

async fn check(dns: &Responder, text: &str) -> ArcChain {
    validate(&dns.resolver(), &message(text), Duration::from_secs(20)).await
}

#[tokio::test]
#[ignore = "needs the suite: make test-suites"]
async fn arc_suite() {
    let (mut count, mut faults) = (0, Vec::new());
    for scenario in scenarios() {
        let dns = Responder::start().await;
        for (name, text) in &scenario.records {
            let strings: Vec<&str> =
                (0..text.len()).step_by(250).map(|at| &text[at..(at + 250).min(text.len())]).collect();
            dns.set(&name.to_ascii_lowercase(), RecordType::TXT, Answer::Records(vec![txt(&strings)]));
        }
        for (test, case) in &scenario.tests {
            let chain = check(&dns, &case.message).await;
            count += 1;
            // The suite has no word for a chain that says of itself that it is broken (§5.2 step 2).
            let expected = if case.cv.trim().is_empty() { "fail".to_owned() } else { case.cv.to_ascii_lowercase() };
            if chain.outcome.name() != expected {
                faults.push(format!("{}/{test}: {chain:?}, not {}", scenario.description, case.cv));
            }
        }
    }
    if count == 0 {
        eprintln!("the ARC suite is not there (POSTERN_ARC_SUITE): nothing was tested");
    }
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
    assert!(count == 0 || count == 171, "{count} of the suite's 171 cases");
}

fn set(instance: usize) -> String {
    let validation = if instance == 1 { "none" } else { "pass" };
    format!(
        "ARC-Seal: i={instance}; a=rsa-sha256; cv={validation}; d=a.example; s=s; t=1; b=YWJj\n\
         ARC-Message-Signature: i={instance}; a=rsa-sha256; c=relaxed/relaxed; d=a.example; s=s; h=From; bh=YWJj; b=YWJj\n\
         ARC-Authentication-Results: i={instance}; a.example; none\n"
    )
}

#[tokio::test]
async fn n9_chains_that_are_broken_or_too_long() {
    let dns = Responder::start().await;
    let chain = |count: usize| (1..=count).rev().map(set).collect::<String>();
    for (fields, outcome, reason) in [
        (String::new(), Outcome::None, "no ARC set"),
        (chain(51), Outcome::Fail, "without a proper i="),
        (chain(2).replace("i=1", "i=2"), Outcome::Fail, "there twice"),
        (chain(3).replace("i=2", "i=4"), Outcome::Fail, "not complete"),
        (chain(1).replace("cv=none", "cv=fail"), Outcome::Fail, "says cv=fail"),
        (chain(1).replace("t=1", "h=From"), Outcome::Fail, "has h="),
        (chain(1).replace("i=1; a.example", "a.example"), Outcome::Fail, "without a proper i="),
        (chain(50), Outcome::Fail, "no such key"),
    ] {
        let found = check(&dns, &format!("{fields}From: a@a.example\n\nhello\n")).await;
        assert_eq!(found.outcome, outcome, "{found:?}");
        assert!(found.reason.contains(reason), "{reason}: {found:?}");
    }
    assert_eq!(dns.queries("s._domainkey.a.example", RecordType::TXT), 1);
}

#[tokio::test]
async fn n1_keys_that_nobody_can_give_are_temporary() {
    let dns = Responder::start().await;
    dns.set("s._domainkey.a.example", RecordType::TXT, Answer::Code(ResponseCode::ServFail));
    let found = check(&dns, &format!("{}From: a@a.example\n\nhello\n", set(1))).await;
    assert_eq!((found.outcome, found.sets, found.sealer.as_deref()), (Outcome::Temperror, 1, Some("a.example")));
}

/// Each set by a key of its own: no name server is asked for them.
#[tokio::test]
async fn n9_keys_beyond_the_twentieth_break_the_chain() {
    let dns = Responder::start().await;
    let mail = |sealers: usize| {
        let set = |i: usize| {
            let cv = if i == 1 { "none" } else { "pass" };
            let domain = format!("d{}.example", i % sealers);
            format!(
                "ARC-Seal: i={i}; a=rsa-sha256; cv={cv}; d={domain}; s=s; b=YWJj\n\
                 ARC-Message-Signature: i={i}; a=rsa-sha256; d={domain}; s=s; h=From; bh=YWJj; b=YWJj\n\
                 ARC-Authentication-Results: i={i}; x.example; none\n"
            )
        };
        let sets: String = (1..=40).rev().map(set).collect();
        format!("{sets}From: a@b.example\n\nhello\n")
    };
    let asked = || (0..40).map(|n| dns.queries(&format!("s._domainkey.d{n}.example"), RecordType::TXT)).sum::<usize>();
    let chain = check(&dns, &mail(21)).await;
    assert_eq!((chain.outcome, chain.reason.as_str()), (Outcome::Fail, "the sets are by more than 20 keys"));
    assert_eq!(asked(), 0);
    let chain = check(&dns, &mail(20)).await;
    assert_eq!((chain.outcome, chain.reason.as_str(), asked() > 0), (Outcome::Fail, "there is no such key", true));
}
