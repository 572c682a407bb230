//! Hostile zones (faults N1 to N5). What SPF means is tested by the suite of RFC 7208.

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::Instant;

use super::*;
use crate::dns::responder::{Answer, Responder, raw, txt};

fn record(dns: &Responder, name: &str, text: &str) {
    let strings: Vec<String> =
        text.as_bytes().chunks(255).map(|chunk| String::from_utf8(chunk.to_vec()).unwrap()).collect();
    let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
    dns.set(name, RecordType::TXT, Answer::Records(vec![txt(&strings)]));
}

async fn ask(dns: &Responder, domain: &str) -> Spf {
    let question = Question {
        identity: SpfIdentity::MailFrom,
        client: "192.0.2.1".parse().unwrap(),
        helo: "mx.example",
        local: "joe",
        domain,
        receiver: "gate.example.net",
    };
    check(&dns.resolver(), &question, Duration::from_secs(20)).await
}

#[tokio::test]
async fn a_result_says_why() {
    let dns = Responder::start().await;
    record(&dns, "a.example", "v=spf1 ip4:192.0.2.0/24 -all");
    record(&dns, "b.example", "v=spf1 include:a.example -all");
    record(&dns, "c.example", "v=spf1 -all exp=why.c.example");
    record(&dns, "why.c.example", "%{i} is none of %{d}\u{7f}'s");
    record(&dns, "d.example", "v=spf1 a:nothing.example");
    record(&dns, "e.example", "v=spf1 ip5:1.2.3.4");
    for (domain, outcome, reason) in [
        ("a.example", Outcome::Pass, "ip4:192.0.2.0/24 of a.example"),
        ("b.example", Outcome::Pass, "include:a.example of b.example"),
        ("c.example", Outcome::Fail, "-all of c.example"),
        ("d.example", Outcome::Neutral, "nothing in the record of d.example matches"),
        ("e.example", Outcome::Permerror, "the record of e.example is wrong: ip5:1.2.3.4: not a mechanism"),
        ("none.example", Outcome::None, "none.example has no SPF record"),
    ] {
        let spf = ask(&dns, domain).await;
        assert_eq!((spf.outcome, spf.reason.as_str()), (outcome, reason), "{domain}");
        // A control in it makes it no explanation at all.
        assert_eq!(spf.explanation, None, "{domain}");
    }
}

#[tokio::test]
async fn n1_what_nobody_can_say_is_temporary() {
    let dns = Responder::start().await;
    for (name, answer) in [
        ("servfail.example", Answer::Code(ResponseCode::ServFail)),
        ("refused.example", Answer::Code(ResponseCode::Refused)),
        ("silent.example", Answer::Silent),
        ("truncated.example", Answer::Truncated),
        ("rubbish.example", Answer::Rubbish),
        ("short.example", Answer::Records(vec![raw(RecordType::TXT, b"\xff")])),
    ] {
        dns.set(name, RecordType::TXT, answer);
        let spf = ask(&dns, name).await;
        assert_eq!(spf.outcome, Outcome::Temperror, "{name}: {spf:?}");
        assert!(spf.reason.starts_with(name), "{spf:?}");
    }
}

#[tokio::test]
async fn n1_a_check_ends_in_time() {
    let dns = Responder::start().await;
    let silent = |n: usize| format!("s{n}.example");
    let terms: Vec<String> = (0..10).map(|n| format!("exists:{}", silent(n))).collect();
    record(&dns, "slow.example", &format!("v=spf1 {} -all", terms.join(" ")));
    for n in 0..10 {
        dns.set(&silent(n), RecordType::A, Answer::Silent);
    }
    let question = Question {
        identity: SpfIdentity::Helo,
        client: "192.0.2.1".parse().unwrap(),
        helo: "slow.example",
        local: "postmaster",
        domain: "slow.example",
        receiver: "gate.example.net",
    };
    let start = Instant::now();
    let spf = check(&dns.resolver(), &question, Duration::from_millis(200)).await;
    assert_eq!(spf.outcome, Outcome::Temperror, "{spf:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn n3_a_record_of_64_kib_is_a_fault() {
    let dns = Responder::start().await;
    let long = format!("v=spf1 {}-all", "ip4:198.51.100.1 ".repeat(3500));
    let strings: Vec<&str> = (0..long.len()).step_by(255).map(|at| &long[at..(at + 255).min(long.len())]).collect();
    dns.set("long.example", RecordType::TXT, Answer::OverTcp(vec![txt(&strings)]));
    let spf = ask(&dns, "long.example").await;
    assert_eq!(spf.outcome, Outcome::Permerror);
    assert!(spf.reason.contains("longer than"), "{spf:?}");
}

#[tokio::test]
async fn n4_aliases_without_end_are_temporary() {
    let dns = Responder::start().await;
    dns.cname("loop.example", "loop2.example").cname("loop2.example", "loop.example");
    assert_eq!(ask(&dns, "loop.example").await.outcome, Outcome::Temperror);
}

#[tokio::test]
async fn n5_limits() {
    let dns = Responder::start().await;
    record(&dns, "loop.example", "v=spf1 redirect=loop.example");
    record(&dns, "bomb.example", "v=spf1 include:%{s}.bomb.example include:bomb.example -all");
    record(&dns, "joe@bomb.example.bomb.example", "v=spf1 include:bomb.example");
    record(&dns, "macro.example", &format!("v=spf1 exists:{}.example -all", "%{s}".repeat(4000)));
    let many: Vec<String> = (0..11).map(|n| format!("mx{n}.example")).collect();
    let exchanges: Vec<(u16, &str)> = many.iter().map(|host| (10, host.as_str())).collect();
    dns.mx("manymx.example", &exchanges);
    record(&dns, "mx.example", "v=spf1 mx:manymx.example");
    for (domain, outcome) in [
        ("loop.example", Outcome::Permerror),
        ("bomb.example", Outcome::Permerror),
        ("macro.example", Outcome::Fail),
        ("mx.example", Outcome::Permerror),
    ] {
        let spf = ask(&dns, domain).await;
        assert_eq!(spf.outcome, outcome, "{domain}: {spf:?}");
        assert!(spf.reason.len() <= 300 && spf.reason.is_ascii());
    }
}

#[tokio::test]
async fn an_explanation_is_printable() {
    let dns = Responder::start().await;
    record(&dns, "a.example", "v=spf1 -all exp=why.example");
    dns.set(
        "why.example",
        RecordType::TXT,
        Answer::Records(vec![RData::TXT(hickory_resolver::proto::rr::rdata::TXT::from_bytes(vec![
            b"for %{s} see http://a.example/%{S}",
        ]))]),
    );
    let spf = ask(&dns, "a.example").await;
    assert_eq!(spf.explanation.as_deref(), Some("for joe@a.example see http://a.example/joe%40a.example"));
    dns.set("why.example", RecordType::TXT, Answer::Records(vec![txt(&["one"]), txt(&["two"])]));
    assert_eq!(ask(&dns, "a.example").await.explanation, None);
}
