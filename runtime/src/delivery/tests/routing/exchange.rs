//! From exchange to exchange: which are tried, and what one says that the next may not.

use std::collections::HashSet;

use super::*;
use crate::delivery::exchange::Resolvers;
use crate::delivery::target::Search;

#[tokio::test]
async fn each_of_many_equal_exchanges_gets_its_turn() {
    let dns = Responder::start().await;
    let names: Vec<String> = (0..20).map(|n| format!("n{n}.example")).collect();
    dns.mx("them.example", &names.iter().map(|name| (10, name.as_str())).collect::<Vec<_>>());
    for name in &names {
        dns.a(name, &["127.0.0.2"]);
    }
    let (settings, resolvers) = (settings(1), Resolvers { public: dns.resolver(), internal: None });
    let domain = Domain::parse("them.example").unwrap();
    let mut seen = HashSet::new();
    // Each search shows half of them: that one is never seen has a chance of 20 in 2^100.
    for _ in 0..100 {
        let mut search = Search::by_mx(&settings, &resolvers, &domain).await.unwrap();
        let targets = search.next().await.unwrap();
        assert_eq!(targets.len(), 10);
        seen.extend(targets.into_iter().map(|target| target.host));
    }
    assert_eq!(seen.len(), 20);
}

#[tokio::test]
async fn an_exchange_with_many_dead_addresses_does_not_shadow_the_next() {
    let taking = taking();
    let servers = Servers::start(&[("127.0.0.2", &[&taking])]).await;
    let dns = Responder::start().await;
    dns.mx("them.example", &[(10, "dead.example"), (20, "backup.example")]).a("backup.example", &["127.0.0.2"]);
    let dead: Vec<String> = (2..12).map(|n| format!("127.0.1.{n}")).collect();
    dns.a("dead.example", &dead.iter().map(String::as_str).collect::<Vec<_>>());
    let (delivery, metrics) = delivery(&dns, settings(servers.port));
    assert_eq!(summary(&delivery.deliver(mx("them.example")).await), "delivered 250 2.0.0 remote");
    assert_eq!(metrics.next_hop_connections.with_label_values(&["failed"]).get(), 4);
    drop(delivery);
    servers.finish().await;
}

/// Two recipients, of whom one needs SMTPUTF8.
fn half_utf8() -> Job {
    let route = Route::Mx(Some(Domain::parse("them.example").unwrap()));
    let mut job = job(route, &["to@them.example", "tö@them.example"]);
    job.envelope.smtputf8 = true;
    job
}

#[tokio::test]
async fn what_one_exchange_lacks_the_next_may_have() {
    let plain = "S: 220 mx\nC: EHLO*\nS: 250-mx\nS: 250 PIPELINING\n";
    let able = "S: 220 mx\nC: EHLO*\nS: 250-mx\nS: 250-PIPELINING\nS: 250-8BITMIME\nS: 250 SMTPUTF8\n";
    let small = "S: 220 mx\nC: EHLO*\nS: 250-mx\nS: 250 SIZE 5\nhang".to_owned();
    let both = "C: MAIL*\nC: RCPT*\nC: RCPT*\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\n.\nS: 250 taken\n";
    let taken = "delivered 250 2.0.0 remote";
    let lacks = "failed 553 5.6.7 own";
    let busy = "S: 421 busy\nend".to_owned();
    let refused = format!("{plain}C: MAIL*\nC: RCPT*\nC: DATA\nS: 421 busy\nend");
    let (half, able_to_one) = (format!("{plain}{MAIL}hang"), format!("{able}{MAIL}hang"));
    let able_to_both = format!("{able}{both}hang");
    for (name, first, second, expected) in [
        ("all lack", &small, &able_to_both, format!("{taken}, {taken}")),
        ("one lacks", &half, &able_to_one, format!("{taken}, {taken}")),
        // The attempt ends before MAIL is replied to: nothing of it stays.
        ("one lacks, then no reply", &refused, &able_to_both, format!("{taken}, {taken}")),
        ("nobody has it", &half, &small, format!("{taken}, failed 552 5.3.4 own")),
        ("the same lack", &small, &small, "failed 552 5.3.4 own, failed 552 5.3.4 own".to_owned()),
        // Who may have it is not there now.
        ("busy", &half, &busy, format!("{taken}, deferred 421 4.0.0 remote")),
        ("busy first", &busy, &half, format!("{taken}, deferred 421 4.0.0 remote")),
    ] {
        let servers = Servers::start(&[("127.0.0.2", &[first]), ("127.0.0.3", &[second])]).await;
        let dns = Responder::start().await;
        dns.mx("them.example", &[(10, "a.example"), (20, "b.example")]);
        dns.a("a.example", &["127.0.0.2"]).a("b.example", &["127.0.0.3"]);
        let (delivery, _) = delivery(&dns, settings(servers.port));
        assert_eq!(summary(&delivery.deliver(half_utf8()).await), expected, "{name}");
        drop(delivery);
        servers.finish().await;
    }
    // With one exchange only, it is as it was: no other address of it is asked either.
    let servers = Servers::start(&[("127.0.0.2", &[&half])]).await;
    let dns = Responder::start().await;
    dns.a("them.example", &["127.0.0.2", "127.0.0.3"]);
    let (delivery, metrics) = delivery(&dns, settings(servers.port));
    assert_eq!(summary(&delivery.deliver(half_utf8()).await), format!("{taken}, {lacks}"));
    assert_eq!(metrics.next_hop_connections.with_label_values(&["ok"]).get(), 1);
    drop(delivery);
    servers.finish().await;
}
