//! Against a name server in this process; faults N1 to N4 and N10.

use hickory_resolver::proto::op::ResponseCode;

use super::responder::{Answer, Responder, raw, txt};
use super::*;

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

async fn is_temporary(resolver: &Resolver, name: &str) -> bool {
    matches!(resolver.ipv4(name).await, Err(DnsError::Temporary(_)))
}

#[tokio::test]
async fn addresses_of_both_families() {
    let dns = Responder::start().await;
    dns.a("both.example", &["192.0.2.1", "192.0.2.2"]).aaaa("both.example", &["2001:db8::1"]);
    dns.aaaa("six.example", &["2001:db8::2"]);
    dns.a("half.example", &["192.0.2.3"]).set("half.example", RecordType::AAAA, Answer::Code(ResponseCode::ServFail));
    dns.set("broken.example", RecordType::AAAA, Answer::Code(ResponseCode::ServFail));
    let resolver = dns.resolver();
    assert_eq!(resolver.addresses("both.example.").await.unwrap().len(), 3);
    assert_eq!(resolver.addresses("SIX.example").await, Ok(vec!["2001:db8::2".parse().unwrap()]));
    assert_eq!(resolver.addresses("half.example").await, Ok(vec!["192.0.2.3".parse().unwrap()]));
    assert_eq!(resolver.addresses("none.example").await, Err(DnsError::NotFound));
    assert!(matches!(resolver.addresses("broken.example").await, Err(DnsError::Temporary(_))));
}

#[tokio::test]
async fn what_is_not_a_name_is_not_asked() {
    let dns = Responder::start().await;
    let resolver = dns.resolver();
    let long = format!("{}.example", "a".repeat(64));
    let longer = vec!["a".repeat(60); 5].join(".");
    for name in ["", ".", "a..example", "a.example..", "a b.example", "a\\.example", "192.0.2.1", "::1", &long, &longer]
    {
        assert_eq!(resolver.addresses(name).await, Err(DnsError::BadName), "{name}");
    }
    dns.a("xn--bcher-kva.example", &["192.0.2.9"]);
    assert!(resolver.ipv4("bücher.example").await.is_ok());
}

#[tokio::test]
async fn exchanges_are_sorted_and_a_null_mx_is_seen() {
    let dns = Responder::start().await;
    dns.mx("a.example", &[(20, "mx2.example"), (10, "MX1.example"), (30, "*.example")]);
    dns.mx("null.example", &[(0, ".")]);
    dns.mx("odd.example", &[(0, "."), (5, "mx.example")]);
    let resolver = dns.resolver();
    let hosts = |exchanges: Vec<Exchange>| -> Vec<String> {
        exchanges.into_iter().map(|e| e.host.map_or_else(|| ".".to_owned(), |host| host.to_string())).collect()
    };
    assert_eq!(hosts(resolver.mx(&domain("a.example")).await.unwrap()), ["mx1.example", "mx2.example"]);
    assert_eq!(hosts(resolver.mx(&domain("null.example")).await.unwrap()), ["."]);
    assert_eq!(hosts(resolver.mx(&domain("odd.example")).await.unwrap()), ["mx.example"]);
    assert_eq!(resolver.mx(&domain("none.example")).await, Err(DnsError::NotFound));
}

#[tokio::test]
async fn other_kinds() {
    let dns = Responder::start().await;
    dns.set("t.example", RecordType::TXT, Answer::Records(vec![txt(&["v=spf1 ", "-all"]), txt(&["other"])]));
    dns.cname("www.example", "web.example").a("web.example", &["192.0.2.7"]);
    let resolver = dns.resolver();
    assert_eq!(resolver.txt("t.example").await.unwrap(), [b"v=spf1 -all".to_vec(), b"other".to_vec()]);
    assert_eq!(resolver.cname("www.example").await, Ok(domain("web.example")));
    assert_eq!(resolver.ipv4("www.example").await.unwrap().len(), 1);
    assert_eq!(resolver.ns("www.example").await, Err(DnsError::NotFound));
}

#[tokio::test]
async fn iprev() {
    let dns = Responder::start().await;
    dns.ptr("192.0.2.1", &["liar.example", "mail.example"]).a("mail.example", &["192.0.2.1"]);
    dns.ptr("192.0.2.2", &["liar.example"]);
    dns.ptr("192.0.2.3", &["broken.example"]).set(
        "broken.example",
        RecordType::A,
        Answer::Code(ResponseCode::ServFail),
    );
    dns.set("5.2.0.192.in-addr.arpa", RecordType::PTR, Answer::Code(ResponseCode::Refused));
    let many: Vec<String> = (0..50).map(|n| format!("n{n}.example")).collect();
    dns.ptr("192.0.2.6", &many.iter().map(String::as_str).collect::<Vec<_>>());
    dns.a("n49.example", &["192.0.2.6"]);
    let resolver = dns.resolver();
    for (address, expected) in [
        ("192.0.2.1", Iprev::Verified(domain("mail.example"))),
        ("::ffff:192.0.2.1", Iprev::Verified(domain("mail.example"))),
        ("192.0.2.2", Iprev::Unconfirmed(domain("liar.example"))),
        ("192.0.2.3", Iprev::TemporaryFailure),
        ("192.0.2.4", Iprev::None),
        ("192.0.2.5", Iprev::TemporaryFailure),
        // The name that would confirm it is beyond the tenth.
        ("192.0.2.6", Iprev::Unconfirmed(domain("n0.example"))),
    ] {
        assert_eq!(resolver.client_name(address.parse().unwrap()).await, expected, "{address}");
    }
}

#[tokio::test]
async fn n1_whatever_is_no_clear_answer_is_temporary() {
    let dns = Responder::start().await;
    for (name, answer) in [
        ("servfail.example", Answer::Code(ResponseCode::ServFail)),
        ("refused.example", Answer::Code(ResponseCode::Refused)),
        ("formerr.example", Answer::Code(ResponseCode::FormErr)),
        ("notimp.example", Answer::Code(ResponseCode::NotImp)),
        ("silent.example", Answer::Silent),
        ("lame.example", Answer::Referral),
        ("truncated.example", Answer::Truncated),
        ("wrong-id.example", Answer::WrongId),
        ("wrong-question.example", Answer::WrongQuestion),
        ("rubbish.example", Answer::Rubbish),
    ] {
        dns.set(name, RecordType::A, answer);
        let start = Instant::now();
        let answer = dns.resolver().ipv4(name).await;
        assert!(matches!(answer, Err(DnsError::Temporary(_))), "{name}: {answer:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{name}");
    }
    dns.set("empty.example", RecordType::A, Answer::Empty);
    assert_eq!(dns.resolver().ipv4("empty.example").await, Err(DnsError::NotFound));
}

#[tokio::test]
async fn n1_questions_beyond_the_permits_wait_no_longer_than_a_look_up_may_take() {
    let dns = Responder::start().await;
    dns.set("dead.example", RecordType::A, Answer::Silent);
    let resolver =
        Resolver::new(Settings { max_concurrent: 1, ..dns.settings() }, Arc::new(Metrics::new().unwrap())).unwrap();
    let (first, second) = tokio::join!(resolver.ipv4("dead.example"), resolver.ipv4("other.example"));
    assert!(matches!(first, Err(DnsError::Temporary(_))));
    // It has waited for its turn, and no longer than a look-up may take.
    assert!(matches!(second, Err(DnsError::Temporary(_) | DnsError::NotFound)));
    assert_eq!(resolver.ipv4("another.example").await, Err(DnsError::NotFound));
}

#[tokio::test]
async fn answers_are_remembered_and_failures_hardly() {
    let dns = Responder::start().await;
    dns.a("a.example", &["192.0.2.1"]).set("b.example", RecordType::A, Answer::Code(ResponseCode::ServFail));
    let resolver = dns.resolver();
    for _ in 0..3 {
        assert!(resolver.ipv4("a.example").await.is_ok());
        assert_eq!(resolver.ipv4("none.example").await, Err(DnsError::NotFound));
    }
    assert_eq!(dns.queries("a.example", RecordType::A), 1);
    assert_eq!(dns.queries("none.example", RecordType::A), 1);
    assert!(is_temporary(&resolver, "b.example").await);
    dns.a("b.example", &["192.0.2.2"]);
    tokio::time::pause();
    tokio::time::advance(FAILURE_TTL).await;
    tokio::time::resume();
    assert!(resolver.ipv4("b.example").await.is_ok());
    let counted = resolver.0.metrics.dns_queries.with_label_values(&["a", "temporary"]).get();
    assert_eq!(counted, 1);
}

#[tokio::test]
async fn n3_big_texts_come_over_tcp() {
    let dns = Responder::start().await;
    let big: Vec<String> = vec!["x".repeat(250); 200];
    let strings: Vec<&str> = big.iter().map(String::as_str).collect();
    dns.set("big.example", RecordType::TXT, Answer::OverTcp(vec![txt(&strings)]));
    assert_eq!(dns.resolver().txt("big.example").await.unwrap()[0].len(), 50_000);
}

#[tokio::test]
async fn n4_aliases_without_end_are_temporary() {
    let dns = Responder::start().await;
    dns.cname("a.example", "b.example").cname("b.example", "a.example");
    for n in 0..100 {
        dns.cname(&format!("c{n}.example"), &format!("c{}.example", n + 1));
    }
    dns.a("c100.example", &["192.0.2.1"]);
    dns.cname("short.example", "nothing.example").set("nothing.example", RecordType::TXT, Answer::Empty);
    let resolver = dns.resolver();
    assert!(is_temporary(&resolver, "a.example").await);
    assert!(is_temporary(&resolver, "c0.example").await);
    assert_eq!(resolver.ipv4("c97.example").await.map(|a| a.len()), Ok(1));
    assert_eq!(resolver.ipv4("short.example").await, Err(DnsError::NotFound));
}

#[tokio::test]
async fn n10_short_rdata_is_temporary() {
    let dns = Responder::start().await;
    for (n, octets) in [&b""[..], b"\0", b"\0\x0a", b"\0\x0a\x03", b"\0\x0a\x03ab", b"\xff\xff\xff"].iter().enumerate()
    {
        for kind in [RecordType::A, RecordType::MX, RecordType::TXT, RecordType::CNAME] {
            dns.set(&format!("n{n}.example"), kind, Answer::Records(vec![raw(kind, octets)]));
        }
        let resolver = dns.resolver();
        let name = format!("n{n}.example");
        assert!(is_temporary(&resolver, &name).await, "A {octets:?}");
        let mx = resolver.mx(&domain(&name)).await;
        assert!(matches!(mx, Err(DnsError::Temporary(_))), "MX {octets:?}: {mx:?}");
        // Zero strings, or a string longer than its record.
        let txt = resolver.txt(&name).await;
        assert!(!matches!(txt, Err(DnsError::NotFound)), "TXT {octets:?}: {txt:?}");
        let cname = resolver.cname(&name).await;
        assert!(!matches!(cname, Err(DnsError::NotFound)) || octets == b"\0", "CNAME {octets:?}: {cname:?}");
    }
}

#[tokio::test]
async fn without_servers_everything_is_temporary() {
    let settings = Settings { system: false, ..Settings::default() };
    let resolver = Resolver::new(settings, Arc::new(Metrics::new().unwrap())).unwrap();
    assert!(is_temporary(&resolver, "example.com").await);
    assert_eq!(resolver.client_name("192.0.2.1".parse().unwrap()).await, Iprev::TemporaryFailure);
}
