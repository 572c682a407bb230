//! The test suite of RFC 7208, and what pyspf makes of records of ours (`make test-suites`), against a name server in this
//! process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, TXT};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use serde::Deserialize;

use super::*;
use crate::dns::responder::{Answer, Responder};

#[derive(Deserialize)]
struct Scenario {
    description: String,
    tests: BTreeMap<String, Case>,
    records: Vec<(String, String, serde_json::Value)>,
}

#[derive(Deserialize)]
struct Case {
    helo: String,
    host: IpAddr,
    mailfrom: String,
    result: Vec<String>,
    explanation: Option<String>,
}

#[derive(Deserialize)]
struct Pyspf {
    records: Vec<(String, String, serde_json::Value)>,
    /// Domain, client, result.
    questions: Vec<(String, IpAddr, String)>,
}

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/suites").join(name);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; make test-suites", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Any octets between the dots.
fn name(text: &str) -> Name {
    let mut name = match text.trim_end_matches('.') {
        "" => Name::root(),
        text => Name::from_labels(text.split('.').map(str::as_bytes)).unwrap(),
    };
    name.set_fqdn(true);
    name
}

fn data(kind: &str, value: &serde_json::Value) -> (RecordType, RData) {
    let text = || value.as_str().unwrap();
    match kind {
        "A" => (RecordType::A, RData::A(A(text().parse().unwrap()))),
        "AAAA" => (RecordType::AAAA, RData::AAAA(AAAA(text().parse().unwrap()))),
        "PTR" => (RecordType::PTR, RData::PTR(PTR(name(text())))),
        "CNAME" => (RecordType::CNAME, RData::CNAME(CNAME(name(text())))),
        "MX" => {
            let preference = value[0].as_u64().unwrap().try_into().unwrap();
            (RecordType::MX, RData::MX(MX::new(preference, name(value[1].as_str().unwrap()))))
        }
        "TXT" => {
            let strings: Vec<Vec<u8>> = value.as_array().unwrap().iter().map(latin1).collect();
            // No string at all is malformed on the wire, and would make the others unreadable (N10): an empty one then.
            let strings = if strings.is_empty() { vec![Vec::new()] } else { strings };
            (RecordType::TXT, RData::TXT(TXT::from_bytes(strings.iter().map(Vec::as_slice).collect())))
        }
        other => panic!("{other}"),
    }
}

fn latin1(value: &serde_json::Value) -> Vec<u8> {
    value.as_str().unwrap().chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

async fn serve(records: &[(String, String, serde_json::Value)]) -> Responder {
    let mut zone: BTreeMap<(String, RecordType), Vec<RData>> = BTreeMap::new();
    let mut silent = Vec::new();
    let dns = Responder::start().await;
    for (owner, kind, value) in records {
        // No question can be asked of a label that is too long.
        if owner.split('.').any(|label| label.len() > 63) {
            continue;
        }
        let owner = name(owner).to_ascii().trim_end_matches('.').to_ascii_lowercase();
        if kind == "TIMEOUT" {
            silent.push(owner);
            continue;
        }
        let (kind, data) = data(kind, value);
        zone.entry((owner, kind)).or_default().push(data);
    }
    for owner in silent {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::MX, RecordType::TXT, RecordType::PTR] {
            dns.set(&owner, kind, Answer::Silent);
        }
    }
    for ((owner, kind), records) in zone {
        dns.set(&owner, kind, Answer::Records(records));
    }
    dns
}

#[tokio::test]
#[ignore = "needs the suite: make test-suites"]
async fn spf_suite_of_rfc_7208() {
    let (mut count, mut faults) = (0, Vec::new());
    for scenario in read::<Vec<Scenario>>("spf.json") {
        let dns = serve(&scenario.records).await;
        let resolver = dns.resolver();
        for (test, case) in &scenario.tests {
            let (local, domain) = case.mailfrom.rsplit_once('@').unwrap_or(("", &case.helo));
            let question = Question {
                identity: SpfIdentity::MailFrom,
                client: case.host,
                helo: &case.helo,
                local: if local.is_empty() { "postmaster" } else { local },
                domain,
                receiver: "gate.example.net",
            };
            let spf = check(&resolver, &question, Duration::from_secs(20)).await;
            count += 1;
            let explained = case
                .explanation
                .as_deref()
                .is_none_or(|expected| spf.explanation.as_deref() == (expected != "DEFAULT").then_some(expected));
            if !case.result.iter().any(|result| result == spf.outcome.name()) || !explained {
                faults.push(format!(
                    "{}/{test}: {spf:?}, not {:?} {:?}",
                    scenario.description, case.result, case.explanation
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(count, 203);
}

#[tokio::test]
#[ignore = "needs the suite: make test-suites"]
async fn spf_suite_as_pyspf_has_it() {
    let Pyspf { records, questions } = read("pyspf.json");
    let dns = serve(&records).await;
    let resolver = dns.resolver();
    assert!(questions.len() > 50);
    for (domain, client, result) in questions {
        let (identity, helo, receiver) = (SpfIdentity::MailFrom, "mx.example.net", "gate.example.net");
        let question = Question { identity, client, helo, local: "joe", domain: &domain, receiver };
        let spf = check(&resolver, &question, Duration::from_secs(20)).await;
        assert_eq!(spf.outcome.name(), result, "{domain} {client}: {spf:?}");
    }
}
