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
fn a_trusted_sealer_is_believed_in_what_it_has_found() {
    let arc = |outcome, sets| {
        let (sealer, reason) = (Some("lists.example".to_owned()), "broken".to_owned());
        Arc { outcome, sets, sealer, reason }
    };
    let config = r#"{"trusted_sealers": ["Lists.example"]}"#;
    let sealed = |results: &str| {
        let fields = format!("ARC-Seal: i=1\nARC-Authentication-Results: {results}\n");
        let content = format!("{fields}From: joe@mail.example.org\n\nhello\n");
        Mail::from("joe@example.org").to("you@example.com").content(content)
    };
    let gateway = |outcome, sets| Gateway::new().dmarc(dmarc(Outcome::Fail, Published::Reject)).arc(arc(outcome, sets));
    let good = "i=1; lists.example; dmarc=pass header.from=mail.example.org";
    let (verdict, mail) = data(&gateway(Outcome::Pass, 1).config(config), sealed(good));
    assert_eq!((verdict.as_str(), mail.tags.as_slice()), ("next", &["dmarc:fail".to_owned()][..]));
    let text = String::from_utf8(mail.header("Authentication-Results")[0].clone()).unwrap();
    assert!(
        text.contains("believed for its ARC seal") && text.ends_with("; arc=pass header.d=lists.example"),
        "{text}"
    );
    for (gateway, results) in [
        (gateway(Outcome::Fail, 1).config(config), good),
        (gateway(Outcome::Pass, 1), good),
        // It has handled the mail, and found that nobody stood behind it; or what stands there is another's word.
        (gateway(Outcome::Pass, 1).config(config), "i=1; lists.example; dmarc=fail header.from=mail.example.org"),
        (gateway(Outcome::Pass, 1).config(config), "i=1; lists.example; arc=none"),
        (gateway(Outcome::Pass, 1).config(config), "i=1; lists.example; dkim=pass header.d=lists.example"),
        (gateway(Outcome::Pass, 2).config(config), good),
    ] {
        assert!(data(&gateway, sealed(results)).0.starts_with("reject 550 5.7.1"), "{results}");
    }
}

/// Fifty seals are not verified for nothing.
#[test]
fn arc_is_validated_only_where_it_may_change_something() {
    let arc = Arc { outcome: Outcome::Pass, sets: 1, sealer: Some("lists.example".to_owned()), reason: String::new() };
    let trusting = r#"{"trusted_sealers": ["lists.example"]}"#;
    for (outcome, config, asked) in
        [(Outcome::Pass, trusting, false), (Outcome::Fail, "{}", false), (Outcome::Fail, trusting, true)]
    {
        let gateway = Gateway::new().dmarc(dmarc(outcome, Published::None)).arc(arc.clone()).config(config);
        let content = "ARC-Seal: i=1\nFrom: joe@mail.example.org\n\nhello\n";
        let (_, mail) = data(&gateway, Mail::from("joe@example.org").to("you@example.com").content(content));
        let text = String::from_utf8(mail.header("Authentication-Results")[0].clone()).unwrap();
        assert_eq!(text.contains("; arc="), asked, "{outcome} {config}: {text}");
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
