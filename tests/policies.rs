//! The plugins access, sender-policy, dnsbl, forwarding and headers over TCP, with DNS in this process: R43, R58 to R64, X1.

use std::path::Path;

use postern_tests::client::Client;
use postern_tests::dns::Dns;
use postern_tests::scene::{OFFICE, PATIENCE, Scene, head};
use tokio::net::TcpStream;

/// Mail to `example.com` is a tenant's, clients in 198.51.100.0/24 may send anywhere. `more`: plugins and the chain.
async fn scene(directory: &Path, dns: &Dns, more: &str) -> Scene {
    Scene::set(&[head(&dns.setting()).as_str(), OFFICE, more].concat(), directory).await.unwrap()
}

/// A client at that address that has said EHLO.
async fn client(scene: &Scene, address: &str, name: &str) -> Client {
    let stream = TcpStream::connect(scene.address()).await.unwrap();
    let mut client = Client::new(Box::new(stream), false, PATIENCE);
    client.line().await.unwrap();
    client.send(format!("XCLIENT ADDR={address}\r\n").as_bytes()).await;
    client.line().await.unwrap();
    client.send(format!("EHLO {name}\r\n").as_bytes()).await;
    client.reply().await.unwrap();
    client
}

/// The reply to RCPT.
async fn recipient(scene: &Scene, address: &str, name: &str, from: &str, to: &str) -> String {
    let mut client = client(scene, address, name).await;
    client.send(format!("MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\n").as_bytes()).await;
    client.line().await.unwrap();
    client.line().await.unwrap()
}

async fn rcpt(scene: &Scene, address: &str, from: &str, to: &str) -> String {
    recipient(scene, address, "client.example", from, to).await
}

/// The reply to the end of the data.
async fn send(scene: &Scene, address: &str, from: &str, to: &str, mail: &str) -> String {
    let mut client = client(scene, address, "client.example").await;
    client.send(format!("MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\nDATA\r\n").as_bytes()).await;
    for _ in 0..2 {
        let line = client.line().await.unwrap();
        assert!(line.starts_with("250 "), "{line}");
    }
    client.line().await.unwrap();
    client.send(format!("{}.\r\n", mail.replace('\n', "\r\n")).as_bytes()).await;
    client.line().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r58_r59_r60_masks_with_holes_in_rules_and_tables() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let table = "203.0.113.9/255.100.10.1,reject holes\n192.0.2.9,ignore sink\n";
    std::fs::write(directory.path().join("listed.csv"), table).unwrap();
    let more = r#"
[[plugin]]
name = "access"
tables = { listed = "listed.csv" }
[plugin.config]
tables = { ip = "listed" }
rules = [{ name = "holes", action = "reject", ip = ["192.163.1.1/255.100.10.1"] }]
[chain]
platform = ["access"]
"#;
    let scene = scene(directory.path(), &dns, more).await;
    for (address, expected) in [
        ("192.163.1.1", "550 5.7.1 "),
        // The bits that the mask leaves free.
        ("192.32.4.1", "550 5.7.1 "),
        ("192.32.4.2", "250 "),
        ("203.27.5.1", "550 5.7.1 "),
        ("203.27.5.2", "250 "),
        ("192.0.2.9", "250 "),
    ] {
        let said = rcpt(&scene, address, "a@client.example", "b@example.com").await;
        assert!(said.starts_with(expected), "{address}: {said}");
    }
    let taken = send(&scene, "192.0.2.9", "a@client.example", "b@example.com", "Subject: x\n\nx\n").await;
    assert!(taken.starts_with("250 "), "{taken}");
    scene.until(|events| events.iter().any(|event| event["event"] == "discarded")).await;
    scene.server.stop().await;
}

/// Each test is a plugin of that name that refuses every client with this HELO name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r61_whitelist_matrix() {
    // (client, sender, recipient), and what is skipped of dnsbl, spf, antivirus, dkim and dmarc; `f`: forgeable.
    const MATRIX: [(&str, &str, &str, &str); 6] = [
        ("192.0.2.1", "x@client.example", "b@example.com", "+++++"),
        ("192.0.2.200", "x@client.example", "b@example.com", "++-++"),
        ("203.0.113.1", "white@client.example", "b@example.com", "-+f--"),
        ("203.0.113.1", "x@client.example", "white@example.com", "-+f--"),
        ("203.0.113.1", "x@friend.example", "b@example.com", "-+f++"),
        ("203.0.113.1", "x@client.example", "b@example.com", "-----"),
    ];
    let dns = Dns::start().await.unwrap();
    for (at, test) in ["dnsbl", "spf", "antivirus", "dkim", "dmarc"].into_iter().enumerate() {
        for allowed in [false, true].into_iter().take(if test == "antivirus" { 2 } else { 1 }) {
            let directory = tempfile::tempdir().unwrap();
            let more = format!(
                r#"
[[plugin]]
name = "{test}"
source = "builtin:connection-policy"
[[plugin]]
name = "access"
[plugin.config]
forgeable_skips_antivirus = {allowed}
rules = [
    {{ name = "one", action = "allow", ip = ["192.0.2.1"] }},
    {{ name = "net", action = "allow", ip = ["192.0.2.128/255.255.255.128"] }},
    {{ name = "sender", action = "allow", sender = ["white@client.example"] }},
    {{ name = "recipient", action = "allow", recipient = ["white@example.com"] }},
    {{ name = "domain", action = "allow", domain = ["friend.example"] }},
]
[chain]
platform = ["access", {{ plugin = "{test}", exemptable = true }}]
"#
            );
            let scene = scene(directory.path(), &dns, &more).await;
            for (address, from, to, row) in MATRIX {
                let cell = row.as_bytes()[at];
                let expected = if cell == b'+' || cell == b'f' && allowed { "250 " } else { "550 5.7.0 " };
                let said = recipient(&scene, address, "notqualified", from, to).await;
                assert!(said.starts_with(expected), "{test} {address} {from} {to} {allowed}: {said}");
            }
            scene.server.stop().await;
        }
    }
}

/// Of whose mail: the head's tenant is example.com's, `other` is example.net's, `third` is example.org's, `open` is
/// open.example's. DMARC is the platform's test, SPF each tenant's, of whom one has none and lifts DMARC for everybody.
const TENANTS: &str = r#"
chain = ["example-access", { plugin = "example-spf", direction = "inbound" }]
[[tenant]]
name = "other"
domains = ["example.net"]
destination = { host = "127.0.0.1", port = {sink}, tls = "never" }
chain = ["spf", "other-dmarc"]
[[tenant]]
name = "third"
domains = ["example.org"]
destination = { host = "127.0.0.1", port = {sink}, tls = "never" }
chain = ["spf"]
[[tenant]]
name = "open"
domains = ["open.example"]
destination = { host = "127.0.0.1", port = {sink}, tls = "never" }
chain = ["open-access"]
[[plugin]]
name = "access"
config = { rules = [{ name = "partner", action = "allow", ip = ["192.0.2.77"] }] }
[[plugin]]
name = "dmarc"
config = { quarantine = "tag" }
[[plugin]]
name = "example-access"
source = "builtin:access"
scope = "tenant:example"
config = { rules = [{ name = "boss", action = "allow", sender = ["boss@good.example"] }], exempt = { sender = ["dmarc"] } }
[[plugin]]
name = "open-access"
source = "builtin:access"
scope = "tenant:open"
config = { rules = [{ name = "all", action = "allow", ip = ["0.0.0.0/0", "::/0"] }], exempt = { network = ["dmarc"] } }
[[plugin]]
name = "example-spf"
source = "builtin:spf"
scope = "tenant:example"
config = { fail = "tag" }
[[plugin]]
name = "other-dmarc"
source = "builtin:dmarc"
scope = "tenant:other"
config = { quarantine = "reject" }
[chain]
platform = ["access", { plugin = "dmarc", direction = "inbound", exemptable = true }]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r61_each_tenant_has_a_matrix_and_policies_of_its_own() {
    const GOOD: &str = "192.0.2.1";
    const WHITE: &str = "192.0.2.77";
    const BAD: &str = "203.0.113.1";
    const TAKEN: &str = "250 ";
    const SPF: &str = "550 5.7.23 ";
    const DMARC: &str = "550 5.7.1 Refused as ";
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    dns.txt("good.example", "v=spf1 ip4:192.0.2.0/24 -all").txt("strict.example", "v=spf1 ip4:192.0.2.1 -all");
    dns.txt("_dmarc.strict.example", "v=DMARC1; p=reject").txt("_dmarc.soft.example", "v=DMARC1; p=quarantine");
    let config = [head(&dns.setting()).as_str(), TENANTS].concat();
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    let recipients = ["a@example.com", "b@example.net", "c@example.org", "d@open.example"];
    let mut count = 0;
    for (client, sender, author, expected) in [
        // Nothing to say against it.
        (GOOD, "x@good.example", "x@good.example", [TAKEN, TAKEN, TAKEN, TAKEN]),
        // The domain disowns it. SPF stands in no chain of the platform's, so that one tenant may only tag such mail.
        (BAD, "x@good.example", "x@good.example", [TAKEN, SPF, SPF, TAKEN]),
        // One tenant's own row spares its white sender what the table of R61 would not; another sender is not spared.
        (GOOD, "boss@good.example", "boss@strict.example", [TAKEN, DMARC, DMARC, TAKEN]),
        (GOOD, "x@good.example", "boss@strict.example", [DMARC, DMARC, DMARC, TAKEN]),
        // The platform's white client is spared the platform's tests, for every tenant, and none of a tenant's own.
        (WHITE, "x@good.example", "boss@strict.example", [TAKEN, DMARC, TAKEN, TAKEN]),
        (WHITE, "x@strict.example", "x@strict.example", [TAKEN, SPF, SPF, TAKEN]),
        // One tenant refuses what the platform only tags.
        (GOOD, "x@good.example", "x@soft.example", [TAKEN, DMARC, TAKEN, TAKEN]),
    ] {
        let mail = format!("From: {author}\r\n\r\nx\r\n");
        for (to, expected) in recipients.into_iter().zip(expected) {
            let said = scene.send(client, sender, &[to], &mail).await;
            assert!(said.starts_with(expected), "{client} {sender} {author} {to}: {said}");
            count += usize::from(expected == TAKEN);
        }
    }
    // So that no tenant's policy touches another's mail, a transaction has the recipients of one.
    let said = scene.send(GOOD, "x@good.example", &recipients, "").await;
    assert!(said.starts_with("452 4.5.3 "), "{said}");
    scene.queue(0).await.unwrap();
    assert_eq!(scene.sink("sink").unwrap().taken().len(), count);
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r62_rules_on_the_address_win_over_all_others() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let more = r#"
[[plugin]]
name = "access"
[plugin.config]
rules = [
    { name = "white", action = "allow", ip = ["192.0.2.1"] },
    { name = "black", action = "reject", ip = ["192.0.2.0/24"] },
    { name = "pest", action = "reject", sender = ["pest@client.example"] },
    { name = "friend", action = "allow", sender = ["friend@client.example"] },
    { name = "closed", action = "reject", recipient = ["closed@example.com"] },
]
[chain]
platform = ["access"]
"#;
    let scene = scene(directory.path(), &dns, more).await;
    for (address, from, to, expected) in [
        ("192.0.2.1", "pest@client.example", "b@example.com", "250 "),
        ("192.0.2.1", "a@client.example", "closed@example.com", "250 "),
        ("192.0.2.2", "friend@client.example", "b@example.com", "550 5.7.1 Mail from your address"),
        ("203.0.113.1", "pest@client.example", "b@example.com", "550 5.7.1 Mail from this sender"),
        ("203.0.113.1", "a@client.example", "closed@example.com", "550 5.7.1 Mail to this recipient"),
        ("203.0.113.1", "friend@client.example", "b@example.com", "250 "),
    ] {
        let said = rcpt(&scene, address, from, to).await;
        assert!(said.starts_with(expected), "{address} {from} {to}: {said}");
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r63_the_sender_has_a_fully_qualified_domain() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let scene = scene(directory.path(), &dns, "[chain]\nplatform = [\"sender-policy\"]").await;
    for (from, expected) in
        [("root@localhost", "550 5.1.7 "), ("a@client.example", "250 "), ("a@[192.0.2.1]", "250 "), ("", "250 ")]
    {
        let said = rcpt(&scene, "192.0.2.1", from, "b@example.com").await;
        assert!(said.starts_with(expected), "{from}: {said}");
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r64_a_sender_whose_domain_is_not_in_dns() {
    let dns = Dns::start().await.unwrap();
    dns.mx("mx.client.example", 10, "mail.client.example").address("six.client.example", "2001:db8::1");
    dns.mx("null.client.example", 0, ".").txt("txt.client.example", "x").fails("down.client.example");
    for (always, inbound) in [(false, "not-local"), (true, "always")] {
        let directory = tempfile::tempdir().unwrap();
        let more = format!(
            "[[plugin]]\nname = \"sender-policy\"\nconfig = {{ require_in_dns = \"{inbound}\" }}\n\
             [chain]\nplatform = [\"sender-policy\"]"
        );
        let scene = scene(directory.path(), &dns, &more).await;
        for (domain, expected) in [
            ("mx.client.example", "250 "),
            ("six.client.example", "250 "),
            ("txt.client.example", "550 5.1.8 "),
            ("nowhere.client.example", "550 5.1.8 "),
            ("null.client.example", "550 5.7.27 "),
            ("down.client.example", "451 4.4.3 "),
        ] {
            let from = format!("a@{domain}");
            let out = rcpt(&scene, "198.51.100.1", &from, "b@elsewhere.example").await;
            assert!(out.starts_with(expected), "out {from}: {out}");
            let said = rcpt(&scene, "192.0.2.1", &from, "b@example.com").await;
            assert!(said.starts_with(if always { expected } else { "250 " }), "in {from}: {said}");
        }
        scene.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dnsbl_listed_clients_are_refused_unless_they_are_white() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    for listed in ["1.2.0.192", "9.2.0.192"] {
        let name = format!("{listed}.zen.example");
        dns.address(&name, "127.0.0.2").txt(&name, "ask the list");
    }
    dns.address("2.2.0.192.zen.example", "127.255.255.254").address("3.2.0.192.zen.example", "198.51.100.1");
    dns.address("4.2.0.192.zen.example", "127.0.0.99").fails("5.2.0.192.zen.example");
    dns.address("1.100.51.198.zen.example", "127.0.0.2").address("bad.example.dbl.example", "127.0.1.2");
    let more = r#"
[[plugin]]
name = "dnsbl"
[plugin.config]
lists = [
    { name = "zen", zone = "zen.example", codes = ["127.0.0.[2-4]"] },
    { name = "dbl", zone = "dbl.example", by = ["sender"] },
]
[[plugin]]
name = "access"
config = { rules = [{ name = "friend", action = "allow", ip = ["192.0.2.9"] }] }
[chain]
platform = ["access", { plugin = "dnsbl", exemptable = true }]
"#;
    let scene = scene(directory.path(), &dns, more).await;
    for (address, from, expected) in [
        ("192.0.2.1", "a@client.example", "554 5.7.1 192.0.2.1 is listed by zen: ask the list"),
        ("192.0.2.9", "a@client.example", "250 "),
        // Refused, an answer of somebody else, another code, no answer.
        ("192.0.2.2", "a@client.example", "250 "),
        ("192.0.2.3", "a@client.example", "250 "),
        ("192.0.2.4", "a@client.example", "250 "),
        ("192.0.2.5", "a@client.example", "250 "),
        ("192.0.2.6", "a@client.example", "250 "),
        ("192.0.2.6", "a@bad.example", "554 5.7.1 bad.example is listed by dbl"),
        ("198.51.100.1", "a@client.example", "250 "),
    ] {
        let said = rcpt(&scene, address, from, "b@example.com").await;
        assert!(said.starts_with(expected), "{address} {from}: {said}");
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r43_what_clients_forward_automatically_is_refused() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let scene = scene(directory.path(), &dns, "[chain]\nplatform = [\"forwarding\"]").await;
    for (address, header, expected) in [
        ("198.51.100.1", "X-MS-Exchange-Inbox-Rules-Loop: a@client.example", "550 5.7.1 "),
        ("198.51.100.1", "Auto-Submitted: auto-forwarded", "550 5.7.1 "),
        ("198.51.100.1", "Auto-Submitted: auto-replied", "250 "),
        ("198.51.100.1", "Subject: Fwd: by hand", "250 "),
        ("192.0.2.1", "Auto-Submitted: auto-forwarded", "250 "),
    ] {
        let said = send(&scene, address, "a@client.example", "b@example.com", &format!("{header}\n\nx\n")).await;
        assert!(said.starts_with(expected), "{address} {header}: {said}");
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_subject_fields_and_footer() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let more = r#"
[[plugin]]
name = "headers"
[plugin.config]
rules = [
    { name = "external", direction = "inbound", subject = "[EXTERNAL]", remove = ["X-Old"], add = [{ name = "X-Gate", value = "in" }] },
    { name = "imprint", direction = "outbound", footer = { text = "Company Ltd" } },
]
[chain]
platform = ["headers"]
"#;
    let scene = scene(directory.path(), &dns, more).await;
    let mail = "X-Old: 1\nSubject: hello\n\nhi\n";
    for address in ["192.0.2.1", "198.51.100.1"] {
        let said = send(&scene, address, "a@client.example", "b@example.com", mail).await;
        assert!(said.starts_with("250 "), "{said}");
    }
    let taken = scene.sink("sink").unwrap().wait_for(2).await;
    let mails: Vec<_> = taken.iter().map(|taken| String::from_utf8(taken.octets.clone()).unwrap()).collect();
    let find = |what: &str| mails.iter().find(|mail| mail.contains(what)).unwrap_or_else(|| panic!("{mails:?}"));
    let inbound = find("Subject: [EXTERNAL] hello\r\n");
    assert!(inbound.contains("X-Gate: in\r\n") && !inbound.contains("X-Old") && inbound.ends_with("\r\n\r\nhi\r\n"));
    let outbound = find("Subject: hello\r\n");
    assert!(outbound.contains("X-Old: 1\r\n") && outbound.ends_with("\r\n\r\nhi\r\nCompany Ltd\r\n"), "{outbound}");
    scene.server.stop().await;
}
