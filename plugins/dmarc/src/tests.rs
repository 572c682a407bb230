use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

fn dmarc(outcome: Outcome, policy: Published) -> Dmarc {
    Dmarc {
        outcome,
        domain: "mail.example.org".to_owned(),
        policy_domain: "example.org".to_owned(),
        policy,
        spf_aligned: false,
        dkim_aligned: false,
        reason: "not by mail.example.org".to_owned(),
    }
}

fn mail() -> Mail {
    Mail::from("joe@example.org").to("you@example.com").content("From: joe@mail.example.org\n\nhello\n")
}

fn data(gateway: &Gateway, mut mail: Mail) -> (String, Mail) {
    let verdict = gateway.data::<DmarcPolicy>(&Client::at("192.0.2.1"), &mut mail).verdict;
    (verdict.to_string(), mail)
}

#[test]
fn the_published_policy_is_the_default_and_config_may_say_otherwise() {
    let refused = "reject 550 5.7.1 Refused as example.org wants it (DMARC): not by mail.example.org";
    let kept = "quarantine DMARC: fail (not by mail.example.org)";
    let nobody = "reject 550 5.7.1 Nobody can say who wrote this mail: not by mail.example.org";
    let later = "defer 451 4.7.1 The author's domain can't be checked now (not by mail.example.org)";
    for (outcome, policy, config, verdict) in [
        (Outcome::Pass, Published::Reject, "{}", "next"),
        (Outcome::Fail, Published::Reject, "{}", refused),
        (Outcome::Fail, Published::Quarantine, "{}", kept),
        (Outcome::Fail, Published::None, "{}", "next"),
        (Outcome::Fail, Published::Reject, r#"{"reject": "quarantine"}"#, kept),
        (Outcome::Fail, Published::Reject, r#"{"reject": "tag"}"#, "next"),
        (Outcome::Fail, Published::Quarantine, r#"{"quarantine": "reject"}"#, refused),
        (Outcome::Fail, Published::None, r#"{"none": "quarantine"}"#, kept),
        (Outcome::None, Published::None, "{}", "next"),
        (
            Outcome::None,
            Published::None,
            r#"{"unpublished": "reject"}"#,
            "reject 550 5.7.1 mail.example.org has no DMARC record, which is needed here",
        ),
        (Outcome::Permerror, Published::None, "{}", nobody),
        (Outcome::Permerror, Published::None, r#"{"permerror": "none"}"#, "next"),
        (Outcome::Temperror, Published::Reject, "{}", later),
        (Outcome::Temperror, Published::Reject, r#"{"temperror": "none"}"#, "next"),
    ] {
        let gateway = Gateway::new().dmarc(dmarc(outcome, policy)).config(config);
        assert_eq!(data(&gateway, mail()).0, verdict, "{outcome} {policy:?} {config}");
    }
    assert!(Gateway::new().config(r#"{"temperror": "quarantine"}"#).load::<DmarcPolicy>().is_err());
}

#[test]
fn outbound_mail_is_not_judged() {
    let mut mail = mail();
    let gateway = Gateway::new().dmarc(dmarc(Outcome::Fail, Published::Reject));
    let judged = gateway.data::<DmarcPolicy>(&Client::at("192.0.2.1").trusted(), &mut mail);
    assert_eq!((judged.verdict, judged.edits), (Verdict::Next, vec![]));
}

#[test]
fn a_trusted_sealer_is_believed() {
    let arc = |outcome| Arc { outcome, sets: 2, sealer: Some("lists.example".to_owned()), reason: "broken".to_owned() };
    let config = r#"{"trusted_sealers": ["Lists.example"]}"#;
    let sealed = || {
        let content = "ARC-Seal: i=1\nFrom: joe@mail.example.org\n\nhello\n";
        Mail::from("joe@example.org").to("you@example.com").content(content)
    };
    let gateway = |outcome| Gateway::new().dmarc(dmarc(Outcome::Fail, Published::Reject)).arc(arc(outcome));
    let (verdict, mail) = data(&gateway(Outcome::Pass).config(config), sealed());
    assert_eq!((verdict.as_str(), mail.tags.as_slice()), ("next", &["dmarc:fail".to_owned()][..]));
    let text = String::from_utf8(mail.header("Authentication-Results")[0].clone()).unwrap();
    assert!(
        text.contains("believed for its ARC seal") && text.ends_with("; arc=pass header.d=lists.example"),
        "{text}"
    );
    for gateway in [gateway(Outcome::Fail).config(config), gateway(Outcome::Pass)] {
        assert!(data(&gateway, sealed()).0.starts_with("reject 550 5.7.1"));
    }
}

#[test]
fn results_join_those_of_plugins_before() {
    let gateway = Gateway::new().dmarc(dmarc(Outcome::Fail, Published::None));
    let (_, mail) = data(&gateway, mail());
    let (_, mail) = data(&gateway, mail);
    let fields = mail.header("Authentication-Results");
    let text = String::from_utf8(fields[0].clone()).unwrap();
    let (_, results) = text.split_once("; ").unwrap();
    let expected = r#"dmarc=fail reason="not by mail.example.org" header.from=mail.example.org policy.published=none"#;
    assert_eq!((fields.len(), results), (1, expected));
}
