//! What DNS has to say of the gateway and its tenants (R26 to R33): what `postern` prints is published on a name server in this
//! process, and then mail of the running gateway is what others take for genuine.

use std::path::Path;
use std::process::Command;

use postern_tests::dns::Dns;
use postern_tests::scene::{OFFICE, Scene, head};
use serde_json::Value;

/// A user of the tenant, our own address as others see it, and a stranger's.
const USER: &str = "198.51.100.7";
const EGRESS: &str = "192.0.2.25";
const STRANGER: &str = "203.0.113.66";

const CONFIG: &str = r#"
outbound = { host = "127.0.0.1", port = {other}, tls = "never" }
[identity]
mx = ["mx.example.net", { host = "mx2.example.net", preference = 30 }]
egress_addresses = ["192.0.2.25"]
dmarc_reports = "dmarc@example.net"
blocklist_interval = "6h"
[[blocklist]]
name = "addresses"
zone = "bl.example"
[[blocklist]]
name = "domains"
zone = "dbl.example"
lists = "domains"
[signing]
directory = "keys"
[chain]
platform = ["spf", "dkim", "dmarc", "dkim-sign"]
"#;

struct Stage {
    directory: tempfile::TempDir,
    dns: Dns,
    scene: Scene,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Stage {
    /// A gateway whose own records are right, and a tenant that has published nothing yet.
    async fn set() -> Self {
        let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
        dns.address("mx.example.net", EGRESS).ptr(EGRESS, "mx.example.net").address("mx2.example.net", "192.0.2.26");
        dns.ns("example.com", "ns1.isp.example").ns("example.com", "ns2.isp.example");
        std::fs::create_dir(directory.path().join("keys")).unwrap();
        let config = format!("{}{CONFIG}{OFFICE}", head(&dns.setting()));
        let scene = Scene::set(&config, directory.path()).await.unwrap();
        Self { directory, dns, scene }
    }

    /// `postern …`, with the config that the gateway runs with.
    async fn postern(&self, arguments: &str) -> Said {
        let mut command = Command::new(crate::postern_binary());
        command.arg("--config").arg(self.at("postern.toml")).args(arguments.split(' '));
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Said { code: output.status.code().unwrap(), out, err }
    }

    async fn well(&self, arguments: &str) -> String {
        let said = self.postern(arguments).await;
        assert_eq!(said.code, 0, "{arguments}: {}{}", said.out, said.err);
        said.out
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.directory.path()).join(name)
    }

    /// What a finding of `postern dns check` says of a record of the domain.
    async fn status(&self, record: &str) -> String {
        let said = self.postern("--json dns check example.com").await;
        let answer: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.err));
        let findings = answer["domains"][0]["findings"].as_array().unwrap();
        let of_record = findings.iter().filter(|finding| finding["record"] == record);
        of_record.map(|finding| finding["status"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    /// The results that the gateway writes into mail that comes from there.
    async fn judged(&self, client: &str, mail: &str, count: usize) -> String {
        let reply = self.scene.send(client, "ann@example.com", &["bob@example.com"], mail).await;
        assert!(reply.starts_with("250 "), "{reply}");
        let taken = self.scene.taken("sink", count).await.pop().unwrap();
        let text = String::from_utf8(taken.octets).unwrap().replace("\r\n ", " ").replace("\r\n\t", " ");
        text.lines().find(|line| line.starts_with("Authentication-Results: ")).unwrap_or_default().to_owned()
    }

    /// What leaves when a user of the tenant writes to somebody outside, the nth.
    async fn outbound(&self, count: usize) -> String {
        let mail = "From: <ann@example.com>\r\nSubject: x\r\n\r\nhello\r\n";
        let reply = self.scene.send(USER, "ann@example.com", &["bob@far.example"], mail).await;
        assert!(reply.starts_with("250 "), "{reply}");
        String::from_utf8(self.scene.taken("other", count).await.pop().unwrap().octets).unwrap()
    }
}

/// How many there were.
fn publish<'a>(dns: &Dns, lines: impl Iterator<Item = &'a str>) -> usize {
    let mut count = 0;
    for line in lines {
        dns.publish(line);
        count += 1;
    }
    count
}

fn records(out: &str) -> impl Iterator<Item = &str> {
    out.lines().filter(|line| !line.starts_with(';') && line.contains(" IN "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r26_the_spf_record_to_publish_lets_our_mail_pass_and_no_other() {
    let stage = Stage::set().await;
    assert_eq!(stage.status("SPF").await, "missing");
    let out = stage.well("dns records example.com").await;
    let line = records(&out).find(|line| line.contains("v=spf1")).unwrap();
    stage.dns.publish(line);
    assert_eq!(stage.status("SPF").await, "ok");
    let mail = "From: <ann@elsewhere.example>\r\n\r\nhello\r\n";
    let ours = stage.judged(EGRESS, mail, 1).await;
    assert!(ours.contains("spf=pass") && ours.contains("smtp.mailfrom=ann@example.com"), "{ours}");
    let forged = stage.judged(STRANGER, mail, 2).await;
    assert!(forged.contains("spf=softfail"), "{forged}");
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r27_keys_that_are_generated_and_published_sign_mail_that_verifies() {
    let stage = Stage::set().await;
    for (selector, algorithm) in [("s1", "rsa"), ("s2", "ed25519")] {
        let out = stage.well(&format!("dkim generate example.com --selector {selector} --algorithm {algorithm}")).await;
        let line = records(&out).next().unwrap();
        assert!(line.starts_with(&format!("{selector}._domainkey.example.com.")), "{line}");
        assert_eq!(stage.well(&format!("dkim show example.com {selector}")).await.trim_end(), line);
    }
    assert_eq!(stage.status("DKIM").await, "missing missing");
    publish(&stage.dns, stage.well("dkim show example.com").await.lines());
    assert_eq!(stage.status("DKIM").await, "ok ok");
    stage.scene.server.live().reload().await.unwrap();
    let signed = stage.outbound(1).await;
    assert_eq!(signed.matches("DKIM-Signature:").count(), 2, "{signed}");
    // It comes back, by way of a stranger who may change nothing of it.
    let verified = stage.judged(STRANGER, &signed, 1).await;
    assert_eq!(verified.matches("dkim=pass").count(), 2, "{verified}");
    let changed = stage.judged(STRANGER, &signed.replace("hello", "hullo"), 2).await;
    assert!(changed.contains("dkim=fail") && !changed.contains("dkim=pass"), "{changed}");
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r27_a_key_that_can_not_be_used_is_named_by_check_and_stops_no_command() {
    let stage = Stage::set().await;
    stage.well("dkim generate example.com --selector s1 --algorithm ed25519").await;
    stage.well("check").await;
    std::fs::write(stage.at("keys/example.com/s1.pem"), "rubbish").unwrap();
    let said = stage.postern("check").await;
    assert!(said.code == 2 && said.err.contains("error: signing key "), "{}{}", said.out, said.err);
    assert!(said.err.contains("example.com/s1.pem: it holds no private key"), "{}", said.err);
    assert!(stage.well("dkim list").await.starts_with("DOMAIN"));
    // A restart with it is one that takes mail; what it would have signed waits.
    stage.scene.restart(stage.directory.path()).await.unwrap().server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r28_the_dmarc_record_to_publish_is_what_mail_is_judged_by() {
    let stage = Stage::set().await;
    // The second of them allows reports about the domain to be sent to us.
    assert_eq!(stage.status("DMARC").await, "missing missing");
    let out = stage.well("dns records example.com").await;
    for line in records(&out).filter(|line| line.contains("v=DMARC1") || line.contains("v=spf1")) {
        stage.dns.publish(line);
    }
    assert_eq!(stage.status("DMARC").await, "ok ok");
    let mail = "From: <ann@example.com>\r\n\r\nhello\r\n";
    let ours = stage.judged(EGRESS, mail, 1).await;
    assert!(ours.contains("dmarc=pass header.from=example.com policy.published=none"), "{ours}");
    // A domain begins by watching: nobody's mail is refused yet.
    let forged = stage.judged(STRANGER, mail, 2).await;
    assert!(forged.contains("dmarc=fail") && forged.contains("policy.published=none"), "{forged}");
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_an_entry_that_dns_or_the_disk_has_is_never_overwritten() {
    let stage = Stage::set().await;
    // Somebody else signs with it.
    stage.dns.txt("s1._domainkey.example.com", "v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A");
    let refused = stage.postern("dkim generate example.com --selector s1").await;
    assert!(refused.code == 1 && refused.err.contains("choose another --selector"), "{}", refused.err);
    assert!(!stage.at("keys/example.com").exists());
    stage.well("dkim generate example.com --selector s2 --algorithm ed25519").await;
    let key = std::fs::read(stage.at("keys/example.com/s2.pem")).unwrap();
    let refused = stage.postern("dkim generate example.com --selector s2 --algorithm ed25519").await;
    assert!(refused.code == 1 && refused.err.contains("a key is never written over"), "{}", refused.err);
    assert_eq!(std::fs::read(stage.at("keys/example.com/s2.pem")).unwrap(), key);
    // One of another key has come where ours belongs: no record is proposed in its place, and no letter asks for it.
    stage.dns.txt("s2._domainkey.example.com", "v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A");
    assert_eq!(stage.status("DKIM").await, "wrong");
    let proposed = stage.postern("dns records example.com").await;
    assert!(proposed.code == 1 && !records(&proposed.out).any(|line| line.contains("_domainkey")), "{}", proposed.out);
    let letter = stage.postern("dns letter example.com").await;
    assert!(letter.code == 1 && letter.out.is_empty(), "{}", letter.out);
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r31_all_that_is_published_as_printed_is_found_as_expected() {
    let stage = Stage::set().await;
    stage.well("dkim generate example.com --selector s1").await;
    let before = stage.postern("dns check").await;
    assert_eq!((before.code, before.out.matches("  missing ").count()), (1, 5), "{}", before.out);
    // The last of them is for our own zone.
    let out = stage.well("dns records example.com").await;
    assert_eq!(publish(&stage.dns, records(&out)), 6, "{out}");
    let found = stage.postern("dns check").await;
    assert_eq!(found.code, 0, "{}", found.out);
    assert!(!found.out.contains("missing") && found.out.contains("30 mx2.example.net"), "{}", found.out);
    assert_eq!(stage.status("MX").await, "ok");
    stage.scene.server.live().reload().await.unwrap();
    let signed = stage.outbound(1).await;
    let judged = stage.judged(EGRESS, &signed, 1).await;
    for result in ["spf=pass", "dkim=pass", "dmarc=pass"] {
        assert!(judged.contains(result), "{result}: {judged}");
    }
    // Somebody takes the MX record away, and DNS falls silent about the rest.
    stage.dns.fails("_dmarc.example.com").mx("example.com", 5, "mail.elsewhere.example");
    assert_eq!((stage.status("MX").await.as_str(), stage.status("DMARC").await.as_str()), ("wrong", "unknown ok"));
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_who_does_what_the_letter_asks_has_all_in_place() {
    for language in ["en", "fr"] {
        let stage = Stage::set().await;
        stage.well("dkim generate example.com --selector s1 --algorithm ed25519").await;
        let letter = stage.well(&format!("dns letter example.com --lang {language}")).await;
        let asked = letter.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| line.contains(" IN "));
        assert_eq!(publish(&stage.dns, asked), 5, "{letter}");
        // What allows reports to be sent to us is for our own zone, and not in a customer's letter.
        stage.dns.txt("example.com._report._dmarc.example.net", "v=DMARC1");
        let found = stage.postern("dns check example.com").await;
        assert_eq!(found.code, 0, "{}", found.out);
        assert_eq!(stage.well(&format!("dns letter example.com --lang {language}")).await, "");
        stage.scene.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_which_lists_have_our_addresses_and_domains() {
    let stage = Stage::set().await;
    // Without its test entry a list is out of service, and says nothing about anybody.
    let said = stage.postern("dns blocklists").await;
    assert!(said.code == 3 && said.out.ends_with("listed 0, not listed 1, 1 error, timed out 0\n"), "{}", said.out);
    stage.dns.address("2.0.0.127.bl.example", "127.0.0.2");
    let said = stage.postern("dns blocklists").await;
    assert_eq!((said.code, said.out.as_str()), (0, "listed 0, not listed 2, 0 errors, timed out 0\n"), "{}", said.err);
    stage.dns.address("25.2.0.192.bl.example", "127.0.0.4").txt("25.2.0.192.bl.example", "spam was seen");
    stage.dns.fails("example.com.dbl.example");
    let said = stage.postern("dns blocklists").await;
    assert!(
        said.code == 1 && said.out.contains("listed    192.0.2.25 on addresses  127.0.0.4  spam was seen"),
        "{}",
        said.out
    );
    assert!(said.out.ends_with("listed 1, not listed 0, 1 error, timed out 0\n"), "{}", said.out);
    stage.scene.server.stop().await;
}
