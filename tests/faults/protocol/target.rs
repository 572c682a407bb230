//! SP10: what a name server, or the recipient's own address, may make the gateway connect to.

use std::path::Path;

use postern_tests::dns::Dns;
use postern_tests::scene::{NO_DNS, OFFICE, Scene, head};

/// Of a user who may send anywhere.
async fn send(scene: &Scene, to: &str) {
    let reply = scene.send("198.51.100.7", "ann@example.com", &[to], "Subject: x\r\n\r\nx\r\n").await;
    assert!(reply.starts_with("250 "), "{to}: {reply}");
}

/// How the mail to that recipient ends, or why it waits.
async fn outcome(scene: &Scene, to: &str) -> String {
    send(scene, to).await;
    let is_it = |event: &serde_json::Value| {
        ["failed", "deferred", "delivered"].iter().any(|name| event["event"] == *name) && event["to"] == to
    };
    scene.until(|events| events.iter().any(is_it)).await;
    let events = scene.events();
    let event = events.iter().find(|event| is_it(event)).unwrap();
    format!("{} {}", event["event"].as_str().unwrap(), event["reply"].as_str().unwrap())
}

async fn scene(directory: &Path, dns: &Dns) -> Scene {
    Scene::set(&[head(&dns.setting()).as_str(), OFFICE].concat(), directory).await.unwrap()
}

/// At the port of exchanges, as in the world: what listens on this machine may trust it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp10_exchanges_that_are_ourselves_or_nobody() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let addresses = [
        ("loopback", "127.0.0.1"),
        ("another-loopback", "127.77.0.9"),
        ("loopback-six", "::1"),
        ("mapped", "::ffff:127.0.0.1"),
        ("nowhere", "0.0.0.0"),
        ("nowhere-six", "::"),
        ("mapped-nowhere", "::ffff:0.0.0.0"),
        ("this-network", "0.1.2.3"),
        ("everybody", "255.255.255.255"),
        ("group", "224.0.0.1"),
        ("group-six", "ff02::1"),
    ];
    for (name, address) in addresses {
        dns.mx(&format!("{name}.example"), 10, &format!("mx.{name}.example"))
            .address(&format!("mx.{name}.example"), address);
        // Without an MX record the domain is its own exchange; and under another name.
        dns.address(&format!("plain-{name}.example"), address);
        dns.mx(&format!("alias-{name}.example"), 10, &format!("alias.{name}.example"));
        dns.cname(&format!("alias.{name}.example"), &format!("mx.{name}.example"));
    }
    // By its name, and where a better one is ourselves: those after it are no better.
    dns.mx("named.example", 10, "mx.example.net").mx("named.example", 20, "mx.loopback.example");
    let scene = scene(directory.path(), &dns).await;
    for (name, _) in addresses {
        for form in ["", "plain-", "alias-"] {
            let said = outcome(&scene, &format!("u@{form}{name}.example")).await;
            assert!(said.starts_with("failed 554 5.4.6 "), "{form}{name}: {said}");
        }
    }
    let said = outcome(&scene, "u@named.example").await;
    assert!(said.starts_with("failed 554 5.4.6 "), "{said}");
    dns.mx("null.example", 0, ".");
    let said = outcome(&scene, "u@null.example").await;
    assert!(said.starts_with("failed 556 5.1.10 "), "{said}");
    scene.server.stop().await;
}

/// A recipient's address literal is chosen by who writes the mail, not by config.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp10_address_literals_do_not_lead_back() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&[head(NO_DNS).as_str(), OFFICE].concat(), directory.path()).await.unwrap();
    for literal in
        ["127.0.0.1", "127.9.9.9", "0.0.0.0", "224.0.0.1", "255.255.255.255", "IPv6:::1", "IPv6:::", "IPv6:ff02::1"]
    {
        let to = format!("u@[{literal}]");
        let said = outcome(&scene, &to).await;
        assert!(said.starts_with("failed 554 5.4.6 "), "{to}: {said}");
    }
    scene.server.stop().await;
}
