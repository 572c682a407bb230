//! Mail through the gateway, over TCP, from senders of whom DNS says this or that: SPF, DKIM, DMARC, trusted relays (R11),
//! forged results (N8), a forwarder's seal.

use std::time::Duration;

use postern::signing::{Algorithm, Selector, keyring};
use postern::smtp::Domain;
use postern_tests::client::Client;
use postern_tests::dns::Dns;
use postern_tests::scene::{DEFAULT_CHAIN, Scene, asked};
use tokio::net::TcpStream;

/// It only keeps a broken gateway from hanging the test.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = r#"
[server]
host_name = "mx.example.net"
administrators = ["admin@example.com"]
[[listener]]
name = "mx"
address = "127.0.0.1:0"
role = "inbound"
xclient_from = ["127.0.0.1"]
[spool]
directory = "{directory}/spool"
[dns]
servers = ["{dns}"]
timeout = "500ms"
[authentication]
relays = ["198.51.100.0/24"]
[[tenant]]
name = "example"
domains = ["example.com"]
destination = { host = "127.0.0.1", port = {sink}, tls = "never" }
[[plugin]]
name = "access"
source = "builtin:access"
grants = ["metrics", "tables"]
[plugin.config]
rules = [{ name = "friend", action = "allow", sender = ["friend@a.example"] }]
exempt = { sender = ["spf"] }
[[plugin]]
name = "spf"
source = "builtin:spf"
grants = ["authentication", "metrics"]
[[plugin]]
name = "dkim"
source = "builtin:dkim"
grants = ["authentication", "metrics"]
[[plugin]]
name = "dmarc"
source = "builtin:dmarc"
grants = ["authentication", "metrics"]
[chain]
platform = ["access", { plugin = "spf", exemptable = true }, "dkim", { plugin = "dmarc", exemptable = true }]
"#;

struct Stage {
    /// Goes with the stage, and with it what is in it.
    _directory: tempfile::TempDir,
    scene: Scene,
}

/// Where a mail that is sent comes from.
const GOOD: &str = "192.0.2.1";
const BAD: &str = "192.0.2.66";
const RELAY: &str = "198.51.100.9";

impl Stage {
    async fn set() -> Self {
        Self::set_with(CONFIG).await
    }

    async fn set_with(config: &str) -> Self {
        let dns = Dns::start().await.unwrap();
        dns.txt("a.example", "v=spf1 ip4:192.0.2.0/28 -all").txt("_dmarc.a.example", "v=DMARC1; p=none");
        dns.txt("_dmarc.strict.example", "v=DMARC1; p=reject").fails("silent.example").fails("_dmarc.silent.example");
        dns.silent("_dmarc.mute.example");
        dns.ptr(GOOD, "mx.a.example").address("mx.a.example", GOOD).ptr(RELAY, "relay.example");
        Self::set_in(tempfile::tempdir().unwrap(), &dns, config).await
    }

    async fn set_in(directory: tempfile::TempDir, dns: &Dns, config: &str) -> Self {
        let config = config.replace("{dns}", &dns.address.to_string());
        let scene = Scene::set(&config, directory.path()).await.unwrap();
        Self { _directory: directory, scene }
    }

    /// The reply that ends it: the first that refuses, else the one to the mail.
    async fn send(&self, client: &str, sender: &str, mail: &str) -> String {
        let stream = TcpStream::connect(self.scene.address()).await.unwrap();
        let mut connection = Client::new(Box::new(stream), false, PATIENCE);
        connection.line().await.unwrap();
        connection.send(format!("XCLIENT ADDR={client}\r\n").as_bytes()).await;
        connection.line().await.unwrap();
        connection.send(b"EHLO mx.a.example\r\n").await;
        connection.reply().await.unwrap();
        let mut last = String::new();
        let mail = format!("{mail}.\r\n");
        for step in [&format!("MAIL FROM:<{sender}>\r\n"), "RCPT TO:<b@example.com>\r\n", "DATA\r\n", &mail] {
            connection.send(step.as_bytes()).await;
            last = connection.line().await.unwrap();
            if last.starts_with(['4', '5']) {
                break;
            }
        }
        connection.hang_up();
        last
    }

    /// What the next hop has taken, the last of so many, unfolded.
    async fn delivered(&self, count: usize) -> String {
        self.taken(count).await.replace("\r\n ", " ").replace("\r\n\t", " ")
    }

    /// As it came.
    async fn taken(&self, count: usize) -> String {
        let taken = tokio::time::timeout(PATIENCE, self.scene.sink("sink").unwrap().wait_for(count)).await.unwrap();
        String::from_utf8(taken.into_iter().last().unwrap().octets).unwrap()
    }
}

fn from(author: &str) -> String {
    format!("From: {author}\r\nSubject: x\r\n\r\nhello\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spf_and_dmarc_refuse_and_results_are_written_once() {
    let stage = Stage::set().await;
    let refused = stage.send(BAD, "joe@a.example", &from("joe@a.example")).await;
    assert_eq!(refused, "550 5.7.23 SPF fail: 192.0.2.66 may not send for a.example (-all of a.example)");
    // R61: a white-listed sender is spared the test, and DMARC is none of it.
    assert!(stage.send(BAD, "friend@a.example", &from("friend@a.example")).await.starts_with("250"));
    let mail = stage.delivered(1).await;
    assert!(mail.contains("mx.example.net; dkim=none; dmarc=fail") && !mail.contains("spf="), "{mail}");
    // N8: what claims to be ours goes, what others say stays.
    let forged = "Authentication-Results: MX.example.NET\r\n\t(really); dmarc=pass\r\n\
                  Authentication-Results: elsewhere.example; none\r\n";
    assert!(stage.send(GOOD, "joe@a.example", &format!("{forged}{}", from("joe@a.example"))).await.starts_with("250"));
    let mail = stage.delivered(2).await;
    let results: Vec<_> = mail.lines().filter(|line| line.starts_with("Authentication-Results: ")).collect();
    let [ours, "Authentication-Results: elsewhere.example; none"] = results[..] else { panic!("{mail}") };
    let expected = "Authentication-Results: mx.example.net; \
                    spf=pass reason=\"ip4:192.0.2.0/28 of a.example\" smtp.mailfrom=joe@a.example; \
                    iprev=pass policy.iprev=192.0.2.1; dkim=none; dmarc=pass header.from=a.example policy.published=none";
    assert_eq!(ours, expected);
    assert!(mail.contains("Received-SPF: pass (mx.example.net: ip4:192.0.2.0/28 of a.example) client-ip=192.0.2.1;"));
    // The owner of the author's domain asks to reject it.
    let refused = stage.send(GOOD, "joe@a.example", &from("boss@strict.example")).await;
    let expected = "550 5.7.1 Refused as strict.example wants it (DMARC): not by strict.example: \
                    SPF passed for a.example, it is not signed";
    assert_eq!(refused, expected);
    let two = format!("From: joe@a.example\r\n{}", from("boss@strict.example"));
    let refused = stage.send(GOOD, "joe@a.example", &two).await;
    assert_eq!(refused, "550 5.7.1 Nobody can say who wrote this mail: the mail has 2 From fields");
    // N1: nobody can say, so nobody is refused for good, and nothing is taken that its owner may disown: neither where a name
    // server fails, nor where it never answers.
    for (sender, author) in [("joe@silent.example", "joe@silent.example"), ("joe@a.example", "boss@mute.example")] {
        let waits = stage.send(GOOD, sender, &from(author)).await;
        assert!(waits.starts_with("451 4.7.1"), "{author}: {waits}");
    }
    // A display name with a comma names nobody.
    let comma = from("joe@a.example").replace("From: ", "From: Doe, ");
    assert!(stage.send(GOOD, "joe@a.example", &comma).await.starts_with("250"), "{comma}");
    stage.delivered(3).await;
    stage.scene.server.stop().await;
}

/// As a new operator has it: no plugin and no chain is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_chain_protects_a_domain() {
    let (head, _) = CONFIG.split_once("[[plugin]]").unwrap();
    let stage = Stage::set_with(&format!("{head}{DEFAULT_CHAIN}\n")).await;
    let mail = from("joe@a.example");
    for (client, sender, mail, expected) in [
        (GOOD, "joe@a.example", mail.as_str(), "250 "),
        (GOOD, "joe@host", mail.as_str(), "550 5.1.7 "),
        (BAD, "joe@a.example", mail.as_str(), "550 5.7.23 "),
        (GOOD, "joe@a.example", from("boss@strict.example").as_str(), "550 5.7.1 "),
        (GOOD, "joe@a.example", "Subject: x\r\n\r\nhello\r\n", "550 5.7.1 "),
        (BAD, "joe@silent.example", from("joe@silent.example").as_str(), "451 4.7.1 "),
    ] {
        let reply = stage.send(client, sender, mail).await;
        assert!(reply.starts_with(expected), "{client} {sender} {mail:?}: {reply}");
    }
    let taken = stage.delivered(1).await;
    assert!(taken.contains("Authentication-Results: mx.example.net; spf=pass"), "{taken}");
    assert!(taken.contains("dkim=none") && taken.contains("dmarc=pass"), "{taken}");
    let asked = asked(&stage.scene.events());
    for plugin in ["connection-policy", "sender-policy", "spf", "dkim", "dmarc", "recipients"] {
        assert!(asked.iter().any(|event| event["plugin"] == plugin), "{plugin} was not asked");
    }
    for plugin in ["access", "routing"] {
        assert!(asked.iter().all(|event| event["plugin"] != plugin), "{plugin} has no rules, and was asked");
    }
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_mail_of_a_trusted_relay_is_judged_by_who_stood_before_it() {
    let stage = Stage::set().await;
    let by_relay = |client: &str| format!("Received: from far.example (far.example [{client}]) by relay.example\r\n");
    let forged = by_relay(GOOD);
    let mail = from("joe@a.example");
    let refused = stage.send(RELAY, "joe@a.example", &format!("{}{forged}{mail}", by_relay(BAD))).await;
    assert_eq!(refused, "550 5.7.23 SPF fail: 192.0.2.66 may not send for a.example (-all of a.example)");
    // Through two of them.
    let twice = format!("{}{}", by_relay("198.51.100.7"), by_relay(GOOD));
    assert!(stage.send(RELAY, "joe@a.example", &format!("{twice}{mail}")).await.starts_with("250"));
    let taken = stage.delivered(1).await;
    // The relay's name says nothing of who stood before it.
    assert!(taken.contains("client-ip=192.0.2.1;") && !taken.contains("iprev"), "{taken}");
    // It does not say from whom: nobody is judged in its place.
    let silent = "Received: by relay.example\r\n";
    assert!(stage.send(RELAY, "joe@a.example", &format!("{silent}{forged}{mail}")).await.starts_with("250"));
    let delivered = stage.delivered(2).await;
    assert!(delivered.contains("spf=temperror") && !delivered.contains("Received-SPF"), "{delivered}");
    // Some host behind the relay, and what stands below anybody may have written.
    let inside = format!("{}{forged}", by_relay("10.0.0.5"));
    assert!(stage.send(RELAY, "joe@a.example", &format!("{inside}{mail}")).await.starts_with("250"));
    let delivered = stage.delivered(3).await;
    assert!(delivered.contains("10.0.0.5, an internal address") && !delivered.contains("spf=pass"), "{delivered}");
    // Somebody else's `Received` is not believed.
    let refused = stage.send(BAD, "joe@a.example", &format!("{forged}{mail}")).await;
    assert!(refused.starts_with("550 5.7.23"), "{refused}");
    stage.scene.server.stop().await;
}

/// A forwarder that seals, and a receiver that trusts it: what it has found counts, not that it has handled the mail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_seal_counts_for_what_the_sealer_has_found() {
    let (head, _) = CONFIG.split_once("[[plugin]]").unwrap();
    let forwarder = r#"
[signing]
directory = "keys"
[[plugin]]
name = "dmarc"
config = { reject = "none" }
[[plugin]]
name = "arc-seal"
config = { domain = "example.net", selector = "seal" }
[chain]
platform = ["spf", "dmarc", "arc-seal"]
"#;
    let receiver = r#"
[[plugin]]
name = "dmarc"
config = { trusted_sealers = ["example.net"] }
[chain]
platform = ["dmarc"]
"#;
    let dns = Dns::start().await.unwrap();
    dns.txt("_dmarc.strict.example", "v=DMARC1; p=reject").txt("strict.example", "v=spf1 ip4:192.0.2.1 -all");
    dns.txt("a.example", "v=spf1 ip4:192.0.2.0/28 -all");
    let directory = tempfile::tempdir().unwrap();
    let (domain, selector) = (Domain::parse("example.net").unwrap(), Selector::parse("seal").unwrap());
    let keys = directory.path().join("keys");
    let (key, _) = keyring::create(&keys, &domain, &selector, Algorithm::Ed25519).unwrap();
    dns.txt("seal._domainkey.example.net", &key.record().unwrap());
    let forwarder = Stage::set_in(directory, &dns, &format!("{head}{forwarder}")).await;
    let receiver = head.replace("mx.example.net", "mx.receiver.example") + receiver;
    let receiver = Stage::set_in(tempfile::tempdir().unwrap(), &dns, &receiver).await;
    let mail = from("boss@strict.example");
    for (n, (sender, expected)) in
        [("boss@strict.example", "250 "), ("joe@a.example", "550 5.7.1 Refused as strict.example wants it")]
            .into_iter()
            .enumerate()
    {
        assert!(forwarder.send(GOOD, sender, &mail).await.starts_with("250 "));
        let sealed = forwarder.taken(n + 1).await;
        assert!(sealed.contains("ARC-Seal: i=1;"), "{sealed}");
        let reply = receiver.send(BAD, "list@lists.example", &sealed).await;
        assert!(reply.starts_with(expected), "{sender}: {reply}\n{sealed}");
        // Whoever changes it is no part of it.
        let changed = sealed.replace("hello", "hallo");
        let reply = receiver.send(BAD, "list@lists.example", &changed).await;
        assert!(reply.starts_with("550 5.7.1 "), "{sender}: {reply}");
    }
    let taken = receiver.delivered(1).await;
    assert!(
        taken.contains("believed for its ARC seal\"") && taken.contains("; arc=pass header.d=example.net"),
        "{taken}"
    );
    forwarder.scene.server.stop().await;
    receiver.scene.server.stop().await;
}
