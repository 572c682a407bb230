//! From exchange to exchange: which are tried, and what one says that the next may not.

use std::collections::HashSet;

use super::*;
use crate::delivery::target::Search;

#[tokio::test]
async fn each_of_many_equal_exchanges_gets_its_turn() {
    let dns = Responder::start().await;
    let names: Vec<String> = (0..20).map(|n| format!("n{n}.example")).collect();
    dns.mx("them.example", &names.iter().map(|name| (10, name.as_str())).collect::<Vec<_>>());
    for name in &names {
        dns.a(name, &["127.0.0.2"]);
    }
    let (settings, resolver) = (settings(1), dns.resolver());
    let domain = Domain::parse("them.example").unwrap();
    let mut seen = HashSet::new();
    // Each search shows half of them: that one is never seen has a chance of 20 in 2^100.
    for _ in 0..100 {
        let mut search = Search::by_mx(&settings, &resolver, &domain).await.unwrap();
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
