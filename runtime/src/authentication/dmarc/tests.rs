//! Against a name server in this process; faults N7 and the rules of RFC 9989.

use bytes::Bytes;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;

use super::*;
use crate::dns::responder::{Answer, Responder, txt};
use crate::mail::evidence::SpfIdentity;

fn record(dns: &Responder, name: &str, text: &str) {
    dns.set(name, RecordType::TXT, Answer::Records(vec![txt(&[text])]));
}

fn spf(outcome: Outcome, domain: &str) -> Spf {
    let (domain, reason) = (domain.to_owned(), "said so".to_owned());
    Spf { outcome, identity: SpfIdentity::MailFrom, domain, reason, explanation: None }
}

fn signature(outcome: Outcome, domain: &str) -> Signature {
    Signature {
        outcome,
        domain: domain.to_owned(),
        selector: "s".to_owned(),
        identity: format!("@{domain}"),
        algorithm: "rsa-sha256".to_owned(),
        value: "abc".to_owned(),
        testing: false,
        reason: "said so".to_owned(),
    }
}

async fn ask(dns: &Responder, from: &str, spf: Spf, signatures: &[Signature]) -> Dmarc {
    let header = Header::parse(&Bytes::from(format!("From: {from}\r\n")));
    let claims =
        Claims { spf: spf.domain.clone(), dkim: signatures.iter().map(|signature| signature.domain.clone()).collect() };
    let inquiry = inquire(&dns.resolver(), &header, claims, Duration::from_secs(20)).await;
    // Only what it depends on: the rest can't matter.
    let spf = Some(&spf).filter(|spf| inquiry.depends_on_spf(&spf.domain));
    let depends = |signature: &&Signature| inquiry.depends_on_dkim(&signature.domain);
    let signatures: Vec<Signature> = signatures.iter().filter(depends).cloned().collect();
    inquiry.conclude(spf, &signatures).await
}

async fn without_any(dns: &Responder, from: &str) -> Dmarc {
    ask(dns, from, spf(Outcome::None, ""), &[]).await
}

#[tokio::test]
async fn alignment() {
    let dns = Responder::start().await;
    record(&dns, "_dmarc.example.com", "v=DMARC1; p=reject");
    record(&dns, "_dmarc.strict.example", "v=DMARC1; p=reject; adkim=s; aspf=s");
    let pass = Outcome::Pass;
    for (from, spf_of, dkim_of, outcome) in [
        ("a@example.com", (pass, "example.com"), (Outcome::None, ""), pass),
        ("a@example.com", (pass, "bounce.Example.COM"), (Outcome::None, ""), pass),
        ("a@mail.example.com", (Outcome::None, ""), (pass, "other.example.com"), pass),
        ("a@example.com", (pass, "example.org"), (pass, "notexample.com"), Outcome::Fail),
        ("a@example.com", (Outcome::Softfail, "example.com"), (Outcome::Policy, "example.com"), Outcome::Fail),
        ("a@example.com", (Outcome::Fail, "example.com"), (Outcome::Temperror, "example.com"), Outcome::Temperror),
        ("a@example.com", (Outcome::Temperror, "example.com"), (Outcome::None, ""), Outcome::Temperror),
        ("a@example.com", (Outcome::Temperror, "example.com"), (pass, "example.com"), pass),
        ("a@example.com", (Outcome::Temperror, "example.org"), (Outcome::None, ""), Outcome::Fail),
        ("a@strict.example", (pass, "x.strict.example"), (pass, "y.strict.example"), Outcome::Fail),
        ("a@strict.example", (pass, "strict.example"), (Outcome::None, ""), pass),
        ("a@none.example", (pass, "example.org"), (Outcome::None, ""), Outcome::None),
    ] {
        let found = ask(&dns, from, spf(spf_of.0, spf_of.1), &[signature(dkim_of.0, dkim_of.1)]).await;
        assert_eq!(found.outcome, outcome, "{from} {spf_of:?} {dkim_of:?}: {found:?}");
    }
}

#[tokio::test]
async fn policies_by_name() {
    let dns = Responder::start().await;
    record(&dns, "_dmarc.example.com", "v=DMARC1; p=reject; sp=quarantine; np=none; pct=0");
    record(&dns, "_dmarc.test.example", "v=DMARC1; p=reject; sp=quarantine; t=y");
    record(&dns, "_dmarc.reports.example", "v=DMARC1; rua=mailto:a@reports.example");
    record(&dns, "_dmarc.useless.example", "v=DMARC1; p=sometimes");
    dns.mx("there.example.com", &[(10, "mx.example.com")]);
    for (from, outcome, policy) in [
        ("a@example.com", Outcome::Fail, Policy::Reject),
        ("a@there.example.com", Outcome::Fail, Policy::Quarantine),
        ("a@absent.example.com", Outcome::Fail, Policy::None),
        ("a@test.example", Outcome::Fail, Policy::Quarantine),
        ("a@sub.test.example", Outcome::Fail, Policy::None),
        ("a@reports.example", Outcome::Fail, Policy::None),
        ("a@useless.example", Outcome::None, Policy::None),
    ] {
        let found = without_any(&dns, from).await;
        assert_eq!((found.outcome, found.policy), (outcome, policy), "{from}: {found:?}");
    }
}

#[tokio::test]
async fn n7_the_tree_walk_takes_eight_queries_at_most() {
    let dns = Responder::start().await;
    record(&dns, "_dmarc.c.d.e.f.example.com", "v=DMARC1; p=reject");
    let long = "z.y.x.w.v.a.b.c.d.e.f.example.com";
    let found = without_any(&dns, &format!("a@{long}")).await;
    assert_eq!(found.policy_domain, "c.d.e.f.example.com");
    let asked = |name: &str| dns.queries(&format!("_dmarc.{name}"), RecordType::TXT);
    let mut name = long;
    let mut queries = asked(name);
    while let Some((_, rest)) = name.split_once('.') {
        queries += asked(rest);
        name = rest;
    }
    assert_eq!((queries, asked("com"), asked("a.b.c.d.e.f.example.com"), asked("b.c.d.e.f.example.com")), (8, 1, 0, 1));
}

#[tokio::test]
async fn n7_public_suffixes_and_two_records() {
    let dns = Responder::start().await;
    record(&dns, "_dmarc.bank", "v=DMARC1; p=quarantine; psd=y");
    record(&dns, "_dmarc.own.bank", "v=DMARC1; p=reject");
    record(&dns, "_dmarc.example.com", "v=DMARC1; p=reject");
    record(&dns, "_dmarc.unit.example.com", "v=DMARC1; p=none; psd=n");
    dns.set(
        "_dmarc.two.example",
        RecordType::TXT,
        Answer::Records(vec![txt(&["v=DMARC1; p=reject"]), txt(&["v=DMARC1; p=none"])]),
    );
    let pass = |domain: &str| spf(Outcome::Pass, domain);
    for (from, spf, outcome, policy_domain) in [
        // Two customers of one public suffix are not each other.
        ("a@a.bank", pass("b.bank"), Outcome::Fail, "bank"),
        ("a@x.a.bank", pass("y.a.bank"), Outcome::Pass, "bank"),
        ("a@x.own.bank", pass("own.bank"), Outcome::Pass, "own.bank"),
        ("a@x.unit.example.com", pass("y.unit.example.com"), Outcome::Pass, "unit.example.com"),
        ("a@unit.example.com", pass("example.com"), Outcome::Fail, "unit.example.com"),
        ("a@two.example", pass("other.example"), Outcome::None, ""),
    ] {
        let found = ask(&dns, from, spf, &[]).await;
        assert_eq!((found.outcome, found.policy_domain.as_str()), (outcome, policy_domain), "{from}: {found:?}");
    }
}

#[tokio::test]
async fn n7_several_authors_and_none() {
    let dns = Responder::start().await;
    record(&dns, "_dmarc.strict.example", "v=DMARC1; p=reject");
    record(&dns, "_dmarc.mild.example", "v=DMARC1; p=none");
    let spf_of = |domain: &str| spf(Outcome::Pass, domain);
    let found = ask(&dns, "a@mild.example, b@strict.example", spf_of("mild.example"), &[]).await;
    assert_eq!((found.outcome, found.policy, found.domain.as_str()), (Outcome::Fail, Policy::Reject, "strict.example"));
    let signed = [signature(Outcome::Pass, "strict.example")];
    let found = ask(&dns, "a@mild.example, b@strict.example", spf_of("mild.example"), &signed).await;
    assert_eq!(found.outcome, Outcome::Pass);
    for from in ["a@strict.example\r\nFrom: b@mild.example", "undisclosed:;", ""] {
        let found = ask(&dns, from, spf_of("mild.example"), &[]).await;
        assert_eq!((found.outcome, found.domain.as_str()), (Outcome::Permerror, ""), "{from}");
    }
}

#[tokio::test]
async fn n1_what_nobody_can_say_is_temporary() {
    let dns = Responder::start().await;
    dns.set("_dmarc.servfail.example", RecordType::TXT, Answer::Code(ResponseCode::ServFail));
    record(&dns, "_dmarc.np.example", "v=DMARC1; p=reject; np=none");
    dns.set("x.np.example", RecordType::A, Answer::Code(ResponseCode::Refused));
    for from in ["a@servfail.example", "a@x.servfail.example", "a@x.np.example"] {
        let found = ask(&dns, from, spf(Outcome::Pass, "example.org"), &[]).await;
        assert_eq!((found.outcome, found.policy), (Outcome::Temperror, Policy::None), "{from}: {found:?}");
    }
}

/// RFC 9989 §4.10.2: no walk where all are the same domain, or alignment is strict, or nothing could be related.
#[tokio::test]
async fn names_above_the_authors_own_record_are_asked_only_where_that_decides() {
    let dns = Responder::start().await;
    record(&dns, "_dmarc.mail.example.com", "v=DMARC1; p=reject");
    record(&dns, "_dmarc.strict.example.com", "v=DMARC1; p=reject; aspf=s; adkim=s");
    let asked = || dns.queries("_dmarc.example.com", RecordType::TXT) + dns.queries("_dmarc.com", RecordType::TXT);
    for (from, spf_of, dkim_of, outcome) in [
        ("a@mail.example.com", "mail.example.com", "mail.example.com", Outcome::Pass),
        ("a@mail.example.com", "", "mail.example.com", Outcome::Pass),
        ("a@mail.example.com", "stranger.example", "", Outcome::Fail),
        ("a@strict.example.com", "x.strict.example.com", "example.com", Outcome::Fail),
    ] {
        let found = ask(&dns, from, spf(Outcome::Pass, spf_of), &[signature(Outcome::Pass, dkim_of)]).await;
        assert_eq!((found.outcome, asked()), (outcome, 0), "{from} {spf_of} {dkim_of}: {found:?}");
    }
    let found = ask(&dns, "a@mail.example.com", spf(Outcome::Pass, "other.example.com"), &[]).await;
    assert_eq!((found.outcome, asked()), (Outcome::Fail, 2));
}

/// The author's own record says what its owner asks for; a failure above it matters to those names alone that could be of
/// the same organization.
#[tokio::test]
async fn n1_a_failure_above_the_authors_own_record() {
    for answer in [Answer::Code(ResponseCode::ServFail), Answer::Silent] {
        let dns = Responder::start().await;
        record(&dns, "_dmarc.mail.example.com", "v=DMARC1; p=reject");
        record(&dns, "_dmarc.n.example.com", "v=DMARC1; p=reject; psd=n");
        dns.set("_dmarc.example.com", RecordType::TXT, answer.clone());
        let (pass, none, temporary) = (Outcome::Pass, Outcome::None, Outcome::Temperror);
        for (from, spf_of, dkim_of, outcome) in [
            // Decided by the very domain.
            ("a@mail.example.com", (pass, "mail.example.com"), (none, ""), pass),
            ("a@mail.example.com", (pass, "other.example.com"), (pass, "mail.example.com"), pass),
            ("a@mail.example.com", (temporary, "other.example.com"), (pass, "mail.example.com"), pass),
            // Not of `example.com`, whatever that has.
            ("a@mail.example.com", (pass, "stranger.com"), (none, ""), Outcome::Fail),
            ("a@mail.example.com", (temporary, "stranger.com"), (temporary, "stranger.com"), Outcome::Fail),
            // It may be of the same organization.
            ("a@mail.example.com", (pass, "other.example.com"), (none, ""), temporary),
            // It has said that it is an organization of its own.
            ("a@n.example.com", (pass, "x.n.example.com"), (none, ""), pass),
            ("a@n.example.com", (pass, "other.example.com"), (none, ""), Outcome::Fail),
            // Without a record of its own there is no policy.
            ("a@sub.example.com", (pass, "sub.example.com"), (none, ""), temporary),
        ] {
            let found = ask(&dns, from, spf(spf_of.0, spf_of.1), &[signature(dkim_of.0, dkim_of.1)]).await;
            assert_eq!(found.outcome, outcome, "{answer:?} {from} {spf_of:?} {dkim_of:?}: {found:?}");
        }
    }
}

/// The policy is not needed where the mail passes.
#[tokio::test]
async fn n1_whether_the_author_exists_matters_only_where_the_mail_fails() {
    let dns = Responder::start().await;
    record(&dns, "_dmarc.np.example", "v=DMARC1; p=reject; np=none");
    dns.set("x.np.example", RecordType::A, Answer::Code(ResponseCode::ServFail));
    assert_eq!(ask(&dns, "a@x.np.example", spf(Outcome::Pass, "x.np.example"), &[]).await.outcome, Outcome::Pass);
    assert_eq!(ask(&dns, "a@x.np.example", spf(Outcome::Fail, ""), &[]).await.outcome, Outcome::Temperror);
}
