//! Vectors of dkimpy, and mails that dkimpy and opendkim have signed (`make test-suites`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use hickory_resolver::proto::rr::RecordType;
use serde::Deserialize;

use super::*;
use crate::dns::responder::{Answer, Responder, txt};

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Latin-1.
    mail: String,
    keys: BTreeMap<String, String>,
    /// `None`: whatever it is, it is no pass.
    outcomes: Option<Vec<String>>,
}

fn cases() -> Vec<Case> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/suites/dkim.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; make test-suites", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn message(mail: &str) -> Message {
    let octets: Vec<u8> = mail.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let end = octets.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 2;
    let (header, body) = octets.split_at(end);
    Message {
        header: Header::parse(&Bytes::copy_from_slice(header)),
        body: Body::from_bytes(Bytes::copy_from_slice(&body[2..])),
    }
}

#[tokio::test]
#[ignore = "needs the suite: make test-suites"]
async fn dkim_suite() {
    let (mut count, mut dkimpy, mut opendkim, mut faults) = (0, 0, 0, Vec::new());
    for case in cases() {
        let dns = Responder::start().await;
        for (name, text) in &case.keys {
            let strings: Vec<&str> =
                (0..text.len()).step_by(250).map(|at| &text[at..(at + 250).min(text.len())]).collect();
            dns.set(name, RecordType::TXT, Answer::Records(vec![txt(&strings)]));
        }
        let signatures = verify(&dns.resolver(), &message(&case.mail), Duration::from_secs(20), &[]).await;
        let outcomes: Vec<&str> = signatures.iter().map(|signature| signature.outcome.name()).collect();
        let right = match &case.outcomes {
            Some(expected) => outcomes == *expected,
            None => !outcomes.contains(&"pass"),
        };
        count += 1;
        dkimpy += usize::from(case.name.starts_with("dkimpy "));
        opendkim += usize::from(case.name.starts_with("opendkim "));
        if !right {
            faults.push(format!("{}: {signatures:?}, not {:?}", case.name, case.outcomes));
        }
    }
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
    if opendkim == 0 {
        eprintln!("no opendkim was there when the suite was made: no mail signed by it was tested");
    }
    let vectors = count - dkimpy - opendkim;
    assert!(vectors >= 9 && dkimpy >= 128, "only {vectors} vectors, {dkimpy} mails of dkimpy");
    assert!(opendkim == 0 || opendkim >= 32, "only {opendkim} mails of opendkim");
}
