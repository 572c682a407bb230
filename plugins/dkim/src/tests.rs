use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

fn signature(outcome: Outcome, domain: &str) -> Signature {
    Signature {
        outcome,
        domain: domain.to_owned(),
        selector: "sel".to_owned(),
        identity: format!("@{domain}"),
        algorithm: "rsa-sha256".to_owned(),
        value: "AbC/+=".to_owned(),
        testing: false,
        reason: "said so".to_owned(),
    }
}

fn gateway(outcomes: &[Outcome]) -> Gateway {
    let numbered = outcomes.iter().zip(1..);
    numbered.fold(Gateway::new(), |gateway, (outcome, n)| gateway.dkim(signature(*outcome, &format!("d{n}.example"))))
}

fn mail() -> Mail {
    Mail::from("joe@example.org").to("you@example.com").content("From: joe@example.org\n\nhello\n")
}

fn data(gateway: &Gateway) -> (String, Mail) {
    let mut mail = mail();
    let verdict = gateway.data::<DkimPolicy>(&Client::at("192.0.2.1"), &mut mail).verdict;
    (verdict.to_string(), mail)
}

const ALL: &str = r#"{"none": "reject", "fail": "reject", "policy": "reject", "neutral": "quarantine",
                      "permerror": "reject", "temperror": "defer"}"#;

#[test]
fn each_outcome_has_its_policy() {
    use Outcome::*;
    for (outcomes, verdict) in [
        (&[Pass][..], "next"),
        (&[Fail, Pass], "next"),
        (&[], "reject 550 5.7.20 No passing DKIM signature (the mail is not signed)"),
        (&[Fail], "reject 550 5.7.20 No passing DKIM signature (d1.example: said so)"),
        (&[Fail, Policy], "reject 550 5.7.21 No acceptable DKIM signature (d2.example: said so)"),
        (&[Neutral], "quarantine DKIM: neutral (d1.example: said so)"),
        (&[Neutral, Permerror], "reject 550 5.7.20 No passing DKIM signature (d2.example: said so)"),
        (&[Fail, Temperror], "defer 451 4.7.20 The signature can't be verified now (d2.example: said so)"),
    ] {
        assert_eq!(data(&gateway(outcomes).config(ALL)).0, verdict, "{outcomes:?}");
        assert_eq!(data(&gateway(outcomes)).0, "next", "{outcomes:?}: by default nothing is refused");
    }
    assert_eq!(data(&gateway(&[Fail])).1.tags, ["dkim:fail"]);
    assert!(gateway(&[]).config(r#"{"temperror": "reject"}"#).load::<DkimPolicy>().is_err());
}

#[test]
fn what_a_testing_domain_fails_is_not_held_against_it() {
    let testing = Signature { testing: true, ..signature(Outcome::Fail, "example.org") };
    let gateway = Gateway::new().dkim(testing).config(r#"{"fail": "reject"}"#);
    let (verdict, mail) = data(&gateway);
    assert_eq!((verdict.as_str(), mail.tags.len()), ("next", 0));
}

#[test]
fn outbound_mail_is_not_judged() {
    let mut mail = mail();
    let judged = gateway(&[]).config(ALL).data::<DkimPolicy>(&Client::at("192.0.2.1").login("al"), &mut mail);
    assert_eq!((judged.verdict, judged.edits), (Verdict::Next, vec![]));
}

#[test]
fn results_are_written_and_counted() {
    let (_, mail) = data(&gateway(&[Outcome::Pass, Outcome::Fail]));
    let fields = mail.header("Authentication-Results");
    let text = String::from_utf8(fields[0].clone()).unwrap();
    let (_, results) = text.split_once("; ").unwrap();
    let of = |n: u8| format!("header.d=d{n}.example header.i=@d{n}.example header.s=sel header.a=rsa-sha256");
    let first = format!(r#"dkim=pass {} header.b="AbC/+=""#, of(1));
    let second = format!(r#"dkim=fail reason="said so" {} header.b="AbC/+=""#, of(2));
    assert_eq!((fields.len(), results), (1, format!("{first}; {second}").as_str()));
    let (_, unsigned) = data(&gateway(&[]));
    assert!(unsigned.header("Authentication-Results")[0].ends_with(b"; dkim=none"));
    let many = gateway(&[Outcome::Policy; 32]);
    let (_, mail) = data(&many);
    let text = String::from_utf8(mail.header("Authentication-Results")[0].clone()).unwrap();
    assert_eq!((text.matches("dkim=").count(), many.metric("tagged")), (MAX_RESULTS, 1));
}
