use postern_sdk::testing::{Client, Edit, Gateway, Judged, Mail};

use super::*;

const CONFIG: &str = r#"{"domain": "Example.net", "selector": "arc"}"#;

fn gateway(config: &str) -> Gateway {
    let grants = ["signing", "authentication", "metrics"];
    grants.iter().fold(Gateway::new().config(config), |gateway, grant| gateway.grant(grant)).key("example.net", "arc")
}

fn mail() -> Mail {
    Mail::from("list@lists.example").to("ann@example.com").content("From: bob@example.org\nSubject: x\n\nhello\n")
}

fn chain(outcome: Outcome, sealer: Option<&str>) -> Arc {
    Arc { outcome, sets: 2, sealer: sealer.map(str::to_owned), reason: "because; of\r\nthis".to_owned() }
}

fn stranger() -> Client {
    Client::at("192.0.2.1")
}

/// The fields that `data` adds.
fn added(judged: &Judged) -> Vec<String> {
    let added = judged.edits.iter().map(|edit| match edit {
        Edit::AddHeader { name, value, at: Position::Top } => format!("{name}: {value}"),
        other => format!("{other:?}"),
    });
    added.collect()
}

#[test]
fn what_the_chain_was_worth_is_noted() {
    for (arc, expected) in [
        (None, "arc=none"),
        (Some(chain(Outcome::Pass, Some("lists.example"))), "arc=pass header.d=lists.example"),
        (Some(chain(Outcome::Fail, Some("a;\r\nX: b"))), "arc=fail reason=\"because; of??this\" header.d=\"a;??X: b\""),
        (Some(chain(Outcome::Temperror, None)), "arc=temperror reason=\"because; of??this\""),
    ] {
        let gateway = arc.into_iter().fold(gateway(CONFIG), Gateway::arc);
        let judged = gateway.data::<ArcSeal>(&stranger(), &mut mail());
        let expected = format!("Authentication-Results: mx.test; {expected}");
        assert_eq!((judged.verdict.clone(), added(&judged)), (Verdict::Next, vec![expected]));
    }
}

#[test]
fn results_that_are_there_stay_in_the_one_field() {
    let spf = "Authentication-Results: mx.test; spf=pass smtp.helo=mx.example\nFrom: bob@example.org\n\nhello\n";
    let mut mail = Mail::from("list@lists.example").to("ann@example.com").content(spf);
    let gateway = gateway(CONFIG).arc(chain(Outcome::Pass, Some("lists.example")));
    for _ in 0..2 {
        gateway.data::<ArcSeal>(&stranger(), &mut mail);
        let expected = "mx.test; spf=pass smtp.helo=mx.example; arc=pass header.d=lists.example";
        assert_eq!(mail.header("Authentication-Results"), [expected.as_bytes()]);
    }
}

#[test]
fn a_seal_is_asked_for_mail_that_comes_in() {
    let user = stranger().login("ann@example.com");
    for (config, client, asked) in [
        (CONFIG, &stranger(), true),
        (CONFIG, &user, false),
        (r#"{"domain": "example.net", "selector": "arc", "direction": "both"}"#, &user, true),
    ] {
        let judged = gateway(config).deliver::<ArcSeal>(client, &mut mail());
        let seal = Edit::Seal { domain: "example.net".to_owned(), selector: "arc".to_owned() };
        assert_eq!(judged.edits, if asked { vec![seal] } else { vec![] }, "{config}");
        assert_eq!(gateway(config).data::<ArcSeal>(client, &mut mail()).edits.len(), usize::from(asked));
    }
}

#[test]
fn without_the_key_or_an_answer_the_mail_passes_or_waits() {
    let config = |more: &str| format!(r#"{{"domain": "example.net", "selector": "gone"{more}}}"#);
    let judged = gateway(&config("")).deliver::<ArcSeal>(&stranger(), &mut mail());
    assert_eq!((judged.verdict, judged.edits), (Verdict::Next, vec![]));
    let judged = gateway(&config(r#", "missing": "defer""#)).deliver::<ArcSeal>(&stranger(), &mut mail());
    assert!(matches!(judged.verdict, Verdict::Defer(_)));
    let waits = gateway(&config(r#", "temperror": "defer""#)).arc(chain(Outcome::Temperror, None));
    let judged = waits.data::<ArcSeal>(&stranger(), &mut mail());
    assert!(matches!(judged.verdict, Verdict::Defer(_)) && judged.edits.is_empty());
}

#[test]
fn a_wrong_config_is_told() {
    for (config, problem) in [
        ("{}", "domain"),
        (r#"{"domain": "example.net"}"#, "selector"),
        (r#"{"domain": "a b", "selector": "s"}"#, "domain"),
        (r#"{"domain": "example.net", "selector": ""}"#, "selector"),
        (r#"{"domain": "example.net", "selector": "s", "missing": "drop"}"#, "missing"),
    ] {
        let error = gateway(config).load::<ArcSeal>().unwrap_err();
        assert!(error.contains(problem), "{config}: {error}");
    }
}
