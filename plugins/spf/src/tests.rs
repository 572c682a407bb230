use postern_sdk::testing::{Client, Edit, Gateway, Mail};

use super::*;

fn spf(outcome: Outcome, identity: SpfIdentity) -> Spf {
    let (domain, reason) = ("example.org".to_owned(), "-all of example.org".to_owned());
    Spf { outcome, identity, domain, reason, explanation: None }
}

fn gateway(outcome: Outcome) -> Gateway {
    Gateway::new().spf(spf(outcome, SpfIdentity::MailFrom))
}

fn client() -> Client {
    Client::at("192.0.2.1").ehlo("mx.example.org")
}

fn mail() -> Mail {
    Mail::from("joe@example.org").to("you@example.com").content("From: joe@example.org\n\nhello\n")
}

fn mail_from(gateway: &Gateway) -> String {
    gateway.mail_from::<SpfPolicy>(&client(), &mut Mail::from("joe@example.org")).verdict.to_string()
}

#[test]
fn each_outcome_has_its_policy() {
    let failed = "reject 550 5.7.23 SPF fail: 192.0.2.1 may not send for example.org (-all of example.org)";
    let unclear = "defer 451 4.7.24 SPF of example.org can't be checked now: -all of example.org";
    let broken = "reject 550 5.7.24 SPF of example.org can't be evaluated: -all of example.org";
    let soft = "reject 550 5.7.23 SPF softfail: 192.0.2.1 may not send for example.org (-all of example.org)";
    for (outcome, config, verdict) in [
        (Outcome::Pass, "{}", "next"),
        (Outcome::Fail, "{}", failed),
        (Outcome::Fail, r#"{"fail": "quarantine"}"#, "quarantine SPF: fail (-all of example.org)"),
        (Outcome::Fail, r#"{"fail": "tag"}"#, "next"),
        (Outcome::Fail, r#"{"fail": "none"}"#, "next"),
        (Outcome::Softfail, "{}", "next"),
        (Outcome::Softfail, r#"{"softfail": "reject"}"#, soft),
        (Outcome::Neutral, "{}", "next"),
        (Outcome::None, "{}", "next"),
        (Outcome::Permerror, "{}", "next"),
        (Outcome::Permerror, r#"{"permerror": "reject"}"#, broken),
        (Outcome::Temperror, "{}", "next"),
        (Outcome::Temperror, r#"{"temperror": "defer"}"#, unclear),
    ] {
        assert_eq!(mail_from(&gateway(outcome).config(config)), verdict, "{outcome} {config}");
    }
}

#[test]
fn what_nobody_can_say_refuses_nothing() {
    for action in ["reject", "quarantine"] {
        let config = format!(r#"{{"temperror": "{action}"}}"#);
        assert!(Gateway::new().config(config).load::<SpfPolicy>().is_err(), "{action}");
    }
    assert!(Gateway::new().config(r#"{"fial": "reject"}"#).load::<SpfPolicy>().is_err());
}

#[test]
fn outbound_mail_is_not_judged() {
    let gateway = gateway(Outcome::Fail);
    for client in [client().trusted(), client().login("al")] {
        let mut mail = mail();
        assert_eq!(gateway.mail_from::<SpfPolicy>(&client, &mut mail).verdict, Verdict::Next);
        let judged = gateway.data::<SpfPolicy>(&client, &mut mail);
        assert_eq!((judged.verdict, judged.edits), (Verdict::Next, vec![]));
    }
}

#[test]
fn the_domain_explains_itself() {
    let explanation = Some("see http://example.org/why".to_owned());
    let gateway = Gateway::new().spf(Spf { explanation, ..spf(Outcome::Fail, SpfIdentity::MailFrom) });
    assert!(mail_from(&gateway).ends_with("; example.org explains: see http://example.org/why"));
}

#[test]
fn the_name_at_helo_has_a_policy_of_its_own() {
    let gateway = |config: &str| gateway(Outcome::Pass).spf(spf(Outcome::Fail, SpfIdentity::Helo)).config(config);
    assert_eq!(mail_from(&gateway("{}")), "next");
    assert!(mail_from(&gateway(r#"{"helo_fail": "reject"}"#)).starts_with("reject 550 5.7.23"));
    let mut mail = mail();
    let judged = gateway("{}").data::<SpfPolicy>(&client(), &mut mail);
    assert_eq!(judged.verdict, Verdict::Next);
    assert_eq!(mail.tags, ["spf:fail"]);
}

/// R11: who stands before a relay is known when its `Received` field is there.
#[test]
fn r11_mail_of_a_relay_is_judged_at_data() {
    let address = "203.0.113.5".parse().unwrap();
    let origin = Origin { address, helo: Some("far.example".to_owned()), relayed: true };
    let gateway = gateway(Outcome::Fail).origin(origin);
    let (client, mut mail) = (client(), mail());
    assert_eq!(gateway.mail_from::<SpfPolicy>(&client, &mut mail).verdict, Verdict::Next);
    let judged = gateway.data::<SpfPolicy>(&client, &mut mail);
    let expected = "reject 550 5.7.23 SPF fail: 203.0.113.5 may not send for example.org (-all of example.org)";
    assert_eq!(judged.verdict.to_string(), expected);
    assert!(String::from_utf8(mail.header("Received-SPF")[0].clone()).unwrap().contains("client-ip=203.0.113.5; "));
    assert_eq!(gateway.metric("rejected"), 1);
}

/// At `data` nobody is refused for what was judged at `mail-from` and may have been lifted.
#[test]
fn what_was_judged_is_not_judged_again() {
    let gateway = gateway(Outcome::Fail);
    let (client, mut mail) = (client(), mail());
    assert_ne!(gateway.mail_from::<SpfPolicy>(&client, &mut mail).verdict, Verdict::Next);
    assert_eq!(gateway.data::<SpfPolicy>(&client, &mut mail).verdict, Verdict::Next);
}

#[test]
fn results_are_written_into_the_header() {
    let mut mail = mail();
    let judged = gateway(Outcome::Softfail).data::<SpfPolicy>(&client(), &mut mail);
    let service = gateway(Outcome::Pass).data::<SpfPolicy>(&client(), &mut mail.clone());
    assert!(matches!(service.edits[0], Edit::ReplaceHeader { nth: 0, .. }), "one field: {:?}", service.edits);
    let of = |name: &str| String::from_utf8(mail.header(name)[0].clone()).unwrap();
    let (id, results) =
        of("Authentication-Results").split_once("; ").map(|(id, r)| (id.to_owned(), r.to_owned())).unwrap();
    let expected = r#"spf=softfail reason="-all of example.org" smtp.mailfrom=joe@example.org; iprev=permerror reason="it has no name" policy.iprev=192.0.2.1"#;
    assert_eq!(results, expected);
    let expected = format!(
        "softfail ({id}: -all of example.org) client-ip=192.0.2.1; envelope-from=joe@example.org; \
         helo=mx.example.org; receiver={id}; identity=mailfrom"
    );
    assert_eq!(of("Received-SPF"), expected);
    assert_eq!((judged.verdict, mail.tags.as_slice()), (Verdict::Next, &["spf:softfail".to_owned()][..]));
}

#[test]
fn received_spf_can_be_left_out_and_nothing_can_be_injected() {
    let mut mail = Mail::from_null_sender().to("you@example.com").content("From: joe@example.org\n\nhello\n");
    let rude = Client::at("192.0.2.1").ehlo("a\"b; (c)");
    let spf = Spf { reason: "x) \\ (y".to_owned(), ..spf(Outcome::Pass, SpfIdentity::MailFrom) };
    Gateway::new().spf(spf).data::<SpfPolicy>(&rude, &mut mail);
    let text = String::from_utf8(mail.header("Received-SPF")[0].clone()).unwrap();
    assert!(text.contains(r#"helo="a\"b; (c)"; receiver="#), "{text}");
    assert!(text.contains("x     y) client-ip=") && text.ends_with("identity=helo"), "{text}");
    let gateway = gateway(Outcome::Pass).config(r#"{"received_spf": false}"#);
    let judged = gateway.data::<SpfPolicy>(&client(), &mut mail);
    assert_eq!(judged.edits.len(), 1);
}

/// RFC 8601 §2.7.3: each of its four words, once however often the mail is looked at.
#[test]
fn the_name_of_the_client_is_among_the_results() {
    let name = || "mx.example.org".to_owned();
    for (address, found, expected) in [
        ("192.0.2.1", ClientName::Verified(name()), "iprev=pass policy.iprev=192.0.2.1"),
        (
            "192.0.2.1",
            ClientName::Unconfirmed(name()),
            r#"iprev=fail reason="mx.example.org does not lead back to it" policy.iprev=192.0.2.1"#,
        ),
        ("192.0.2.1", ClientName::None, r#"iprev=permerror reason="it has no name" policy.iprev=192.0.2.1"#),
        (
            "192.0.2.1",
            ClientName::TemporaryFailure,
            r#"iprev=temperror reason="its name can't be looked up now" policy.iprev=192.0.2.1"#,
        ),
        ("2001:db8::1", ClientName::Verified(name()), r#"iprev=pass policy.iprev="2001:db8::1""#),
        ("::ffff:192.0.2.1", ClientName::Verified(name()), "iprev=pass policy.iprev=192.0.2.1"),
    ] {
        let (client, mut mail) = (Client::at(address).name(found), mail());
        for _ in 0..2 {
            gateway(Outcome::Pass).data::<SpfPolicy>(&client, &mut mail);
        }
        let fields = mail.header("Authentication-Results");
        let text = String::from_utf8(fields[0].clone()).unwrap();
        assert_eq!((fields.len(), text.matches("; iprev=").count()), (1, 1), "{text}");
        assert!(text.ends_with(&format!("; {expected}")), "{text}");
    }
}

/// The relay's name is not that of who stood before it, and nobody is named where nobody is known.
#[test]
fn r11_the_name_of_a_relay_is_no_result() {
    let address = "203.0.113.5".parse().unwrap();
    let relayed = gateway(Outcome::Pass).origin(Origin { address, helo: None, relayed: true });
    for gateway in [relayed, gateway(Outcome::Pass).config(r#"{"iprev": false}"#)] {
        let (client, mut mail) = (client().name(ClientName::Verified("relay.example".to_owned())), mail());
        gateway.data::<SpfPolicy>(&client, &mut mail);
        let text = String::from_utf8(mail.header("Authentication-Results")[0].clone()).unwrap();
        assert!(text.contains("spf=pass") && !text.contains("iprev"), "{text}");
    }
}
