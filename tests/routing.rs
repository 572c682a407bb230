//! Where mail goes, over TCP: by MX (R51), through a smart host (R52), or through several by rules (R53, R54).

use std::path::Path;
use std::process::Command;

use postern_tests::dns::Dns;
use postern_tests::fixture::HOST_NAME;
use postern_tests::scene::{NO_DNS, OFFICE, Scene, head};
use postern_tests::sink::Sink;
use postern_tests::tls;
use serde_json::Value;

/// A user of the tenant.
const USER: &str = "198.51.100.7";
const MAIL: &str = "From: ann@example.com\r\nSubject: x\r\n\r\nhello\r\n";

async fn send(scene: &Scene, to: &str) {
    let reply = scene.send(USER, "ann@example.com", &[to], MAIL).await;
    assert!(reply.starts_with("250 "), "{to}: {reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r51_mail_is_delivered_directly_by_mx() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    // Nobody listens at the best of them.
    dns.mx("far.example", 20, "second.far.example").mx("far.example", 10, "first.far.example");
    dns.address("first.far.example", "127.0.0.9").address("second.far.example", "127.0.0.1");
    // RFC 5321 §5.1: without an MX record the domain is its own; RFC 7505: a null MX takes no mail.
    dns.address("plain.example", "127.0.0.1").mx("nomail.example", 0, ".").fails("silent.example");
    // Ours is another address than that of the next hop, or that would be taken for ourselves.
    let config = head(&dns.setting()).replace("127.0.0.1:0", "127.0.0.3:0");
    let config = format!("{config}{OFFICE}[delivery]\nmx_port = {{sink}}\n");
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    send(&scene, "bob@far.example").await;
    assert_eq!(scene.taken("sink", 1).await[0].recipients, ["bob@far.example"]);
    scene.happened("delivered", |event| event.to_string().contains("second.far.example")).await;
    send(&scene, "bob@plain.example").await;
    assert_eq!(scene.taken("sink", 2).await[1].recipients, ["bob@plain.example"]);
    send(&scene, "bob@nomail.example").await;
    scene.happened("failed", |event| event.to_string().contains("556 5.1.10")).await;
    send(&scene, "bob@gone.example").await;
    scene.happened("failed", |event| event.to_string().contains("5.1.2")).await;
    // Nobody could say where to: it waits.
    send(&scene, "bob@silent.example").await;
    scene.happened("deferred", |event| event["to"] == "bob@silent.example").await;
    scene.server.stop().await;
}

/// `\0us\0secret`.
const LOGIN: &str = "AHVzAHNlY3JldA==";

fn smart_host(name: &str, host: &str, port: u16, more: &str) -> String {
    format!("[[smart_host]]\nname = \"{name}\"\nhost = \"{host}\"\nport = {port}\n{more}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r52_all_mail_goes_through_one_smart_host_by_tls_and_with_a_login() {
    let (isp, dns) = (Sink::secured(LOGIN).await.unwrap(), Dns::start().await.unwrap());
    dns.address(HOST_NAME, "127.0.0.1");
    let password = "user = \"us\"\npassword_file = \"password\"";
    let implicit = format!("tls = \"implicit\"\n{password}");
    for (host, said, expected) in [
        (smart_host("isp", HOST_NAME, isp.address.port(), &implicit), "secret", "delivered"),
        (smart_host("isp", HOST_NAME, isp.address.port(), &implicit), "guess", "deferred"),
        // The certificate is not for this name.
        (smart_host("isp", "127.0.0.1", isp.address.port(), &implicit), "secret", "deferred"),
        // No TLS there: neither the password nor the mail goes that way.
        (
            "[[smart_host]]\nname = \"isp\"\nhost = \"127.0.0.1\"\nport = {other}\n".to_owned() + password,
            "secret",
            "deferred",
        ),
        (
            "[[smart_host]]\nname = \"isp\"\nhost = \"127.0.0.1\"\nport = {other}\ntls = \"required\"".to_owned(),
            "",
            "deferred",
        ),
        // Without TLS only where config says so.
        (
            "[[smart_host]]\nname = \"isp\"\nhost = \"127.0.0.1\"\nport = {other}\ntls = \"never\"".to_owned(),
            "",
            "delivered",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("isp.pem"), tls::certificate()).unwrap();
        std::fs::write(directory.path().join("password"), said).unwrap();
        let tenant = head(&dns.setting()) + "outbound = { smart_host = \"isp\" }\n";
        let config = format!("{tenant}{OFFICE}[delivery]\nauthorities = \"isp.pem\"\n{host}\n");
        let before = isp.taken().len();
        let scene = Scene::set(&config, directory.path()).await.unwrap();
        send(&scene, "bob@far.example").await;
        scene.happened(expected, |event| event["to"] == "bob@far.example").await;
        let plain = scene.sink("other").unwrap().taken().len();
        let through = isp.taken().len() - before + plain;
        assert_eq!(through, usize::from(expected == "delivered"), "{host}: {}", scene.story());
        scene.server.stop().await;
    }
}

const RULES: &str = r#"
[[smart_host]]
name = "bulk"
host = "127.0.0.1"
port = {other}
tls = "never"
[[smart_host]]
name = "main"
host = "127.0.0.1"
port = {sink}
tls = "never"
[[plugin]]
name = "routing"
grants = ["metrics", "tables", "route:bulk", "route:main"]
[[plugin.config.rules]]
name = "an address that is written to"
recipient = ["boss@far.example"]
to = "smart-host:main"
[[plugin.config.rules]]
name = "a domain that is written to"
recipient = ["far.example", ".below.example"]
to = "smart-host:bulk"
[[plugin.config.rules]]
name = "an address that writes"
sender = ["news@example.com"]
to = "smart-host:bulk"
[[plugin.config.rules]]
name = "a domain that writes"
sender = ["example.com"]
to = "smart-host:main"
[chain]
platform = ["routing"]
"#;

/// What `postern route explain` says of it, by the config that the gateway runs with.
async fn explained(directory: &Path, from: &str, to: &str) -> Value {
    let mut command = Command::new(crate::postern_binary());
    command.arg("--config").arg(directory.join("postern.toml")).args(["--json", "route", "explain", "--client", USER]);
    command.args(["--from", from, "--to", to]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r53_r54_the_first_rule_that_matches_sender_or_recipient_decides() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&format!("{}{OFFICE}{RULES}", head(NO_DNS)), directory.path()).await.unwrap();
    let (mut main, mut bulk) = (0, 0);
    for (from, to, host, rule) in [
        ("news@example.com", "boss@far.example", "main", "an address that is written to"),
        ("ann@example.com", "bob@far.example", "bulk", "a domain that is written to"),
        ("ann@example.com", "bob@deep.below.example", "bulk", "a domain that is written to"),
        ("news@example.com", "bob@below.example", "bulk", "an address that writes"),
        ("ann@example.com", "bob@below.example", "main", "a domain that writes"),
    ] {
        let reply = scene.send(USER, from, &[to], MAIL).await;
        assert!(reply.starts_with("250 "), "{reply}");
        let (sink, count) = if host == "main" { ("sink", &mut main) } else { ("other", &mut bulk) };
        *count += 1;
        let taken = scene.taken(sink, *count).await.pop().unwrap();
        assert_eq!((taken.sender.as_str(), taken.recipients), (from, vec![to.to_owned()]), "{rule}");
        let said = explained(directory.path(), from, to).await;
        assert_eq!(said["recipients"][0]["route"], format!("smart-host:{host}"), "{said}");
        assert!(said["plugins"][0]["log"].to_string().contains(rule), "{said}");
    }
    // Recipients that go different ways are mails of their own.
    let all = ["boss@far.example", "bob@far.example", "eve@far.example"];
    assert!(scene.send(USER, "ann@example.com", &all, MAIL).await.starts_with("250 "));
    assert_eq!(scene.taken("sink", main + 1).await[main].recipients, all[..1]);
    assert_eq!(scene.taken("other", bulk + 1).await[bulk].recipients, all[1..]);
    scene.queue(0).await.unwrap();
    scene.server.stop().await;
}
