//! Signatures from end to end: keys on disk, plugins that ask, mail at the next hop. That others can verify them is shown in
//! the runtime's own tests and in `tests/peers`.

use std::fs;
use std::path::Path;

use postern::queue::Filter;
use postern::signing::{Algorithm, Selector, keyring};
use postern::smtp::Domain;
use postern_tests::client::Client;
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use tokio::net::TcpStream;

/// Two tenants, told apart by XCLIENT; everything goes to one next hop.
const CONFIG: &str = r#"
outbound = { host = "127.0.0.1", port = {sink}, tls = "never" }
[signing]
directory = "keys"
[[tenant]]
name = "other"
domains = ["example.org"]
destination = { host = "127.0.0.1", port = {sink}, tls = "never" }
[[trusted_network]]
name = "office"
network = "192.0.2.0/24"
tenant = "example"
[[plugin]]
name = "dkim-sign"
[[plugin]]
name = "arc-seal"
config = { domain = "example.net", selector = "seal" }
[chain]
platform = ["arc-seal", "dkim-sign"]
"#;

/// A user of the first tenant.
const OFFICE: &str = "192.0.2.7";
const STRANGER: &str = "198.51.100.7";

fn make_key(directory: &Path, domain: &str, selector: &str, algorithm: Algorithm) {
    let (domain, selector) = (Domain::parse(domain).unwrap(), Selector::parse(selector).unwrap());
    keyring::create(&directory.join("keys"), &domain, &selector, algorithm).unwrap();
}

async fn scene(directory: &Path) -> Scene {
    make_key(directory, "example.com", "s1", Algorithm::Rsa);
    make_key(directory, "example.com", "s2", Algorithm::Ed25519);
    make_key(directory, "example.org", "s3", Algorithm::Ed25519);
    make_key(directory, "example.net", "seal", Algorithm::Ed25519);
    Scene::set(&(head(NO_DNS) + CONFIG), directory).await.unwrap()
}

async fn send(scene: &Scene, client: &str, author: &str, to: &str) {
    let stream = TcpStream::connect(scene.address()).await.unwrap();
    let mut session = Client::new(Box::new(stream), false, PATIENCE);
    let message = format!("From: <{author}>\r\nSubject: x\r\n\r\nhello  \r\n \r\n");
    session.reply().await.unwrap();
    for (command, code) in [
        ("EHLO client.example\r\n".to_owned(), "250"),
        (format!("XCLIENT ADDR={client}\r\n"), "220"),
        ("EHLO client.example\r\n".to_owned(), "250"),
        ("MAIL FROM:<bounces@example.com>\r\n".to_owned(), "250"),
        (format!("RCPT TO:<{to}>\r\n"), "250"),
        ("DATA\r\n".to_owned(), "354"),
        (message + ".\r\n", "250"),
    ] {
        session.send(command.as_bytes()).await;
        let reply = session.reply().await.unwrap();
        assert!(reply.iter().all(|line| line.starts_with(code)), "{command}: {reply:?}");
    }
    session.hang_up();
}

/// The nth mail at the next hop.
async fn taken(scene: &Scene, n: usize) -> String {
    let taken = tokio::time::timeout(PATIENCE, scene.sink("sink").unwrap().wait_for(n)).await;
    let taken = taken.unwrap_or_else(|_| panic!("never came\n{}", scene.story()));
    String::from_utf8(taken[n - 1].octets.clone()).unwrap()
}

/// Of each DKIM signature, topmost first: selector and domain.
fn signers(mail: &str) -> Vec<String> {
    let header = mail.split("\r\n\r\n").next().unwrap().replace("\r\n\t", " ").replace("\r\n ", " ");
    let fields = header.lines().filter_map(|line| line.strip_prefix("DKIM-Signature:"));
    let signer = |field: &str| {
        let tag = |name: &str| {
            let tags = field.split(';').filter_map(|tag| tag.trim().split_once('='));
            tags.filter(|(tag, _)| *tag == name).map(|(_, value)| value.to_owned()).next().unwrap()
        };
        format!("{}@{}", tag("s"), tag("d"))
    };
    fields.map(signer).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r27_outbound_mail_is_signed_for_its_author_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path()).await;
    let both = ["s2@example.com", "s1@example.com"];
    for (n, (client, author, expected)) in [
        (OFFICE, "ann@example.com", &both[..]),
        (OFFICE, "news@lists.example.com", &both),
        // Another tenant's name in From, a domain without a key, and somebody from outside.
        (OFFICE, "ann@example.org", &[]),
        (OFFICE, "ann@elsewhere.example", &[]),
        (STRANGER, "ann@example.com", &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let to = if client == OFFICE { "bob@outside.example" } else { "ann@example.com" };
        send(&scene, client, author, to).await;
        let mail = taken(&scene, n + 1).await;
        assert_eq!(signers(&mail), expected, "{author} from {client}: {mail}");
        assert!(mail.ends_with("Subject: x\r\n\r\nhello  \r\n \r\n"), "{mail}");
        // What comes in is sealed, what goes out is not.
        let seals = mail.matches("ARC-Seal: i=1; a=ed25519-sha256; cv=none; d=example.net;").count();
        assert_eq!(seals, usize::from(client == STRANGER), "{mail}");
        assert_eq!(mail.contains("ARC-Authentication-Results: i=1; mx.example.net;"), client == STRANGER, "{mail}");
    }
    let made = |event: &serde_json::Value| event["event"] == "signature" && event["result"] == "made";
    scene.until(|events| events.iter().filter(|event| made(event)).count() == 5).await;
    scene.server.stop().await;
}

/// What is signed is what is stored, so that every attempt sends it, and a restart changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r27_the_signature_is_kept_with_the_mail() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path()).await;
    send(&scene, OFFICE, "ann@example.com", "later@outside.example").await;
    scene.until(|events| events.iter().any(|event| event["event"] == "deferred")).await;
    let stored = async |scene: &Scene| {
        let listed = scene.server.queue().list(&Filter::default()).await.unwrap();
        let detail = scene.server.queue().show(listed.messages[0].id).await.unwrap();
        detail.header.into_iter().filter(|field| field.starts_with("DKIM-Signature")).collect::<Vec<_>>()
    };
    let before = stored(&scene).await;
    assert_eq!(before.len(), 2);
    // Even without the keys: they were needed once.
    fs::remove_dir_all(directory.path().join("keys")).unwrap();
    let scene = scene.restart(directory.path()).await.unwrap();
    scene.server.queue().flush(&Filter::default()).await.unwrap();
    scene.until(|events| events.iter().any(|event| event["event"] == "deferred")).await;
    assert_eq!(stored(&scene).await, before);
    scene.server.stop().await;
}

/// It costs its own domain's mail, which waits, and nobody else's; and while the gateway runs not even that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r27_keys_come_and_go_with_a_reload_and_a_broken_one_stops_only_its_own_mail() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path()).await;
    let at = |name: &str| directory.path().join("keys/example.com").join(name);
    make_key(directory.path(), "example.com", "s4", Algorithm::Ed25519);
    fs::remove_file(at("s1.pem")).unwrap();
    fs::write(at("s2.pem"), "rubbish").unwrap();
    let told = scene.server.live().reload().await.unwrap();
    assert!(told.starts_with("the config is in force") && told.contains("s2.pem: it holds no private key"), "{told}");
    send(&scene, OFFICE, "ann@example.com", "bob@outside.example").await;
    assert_eq!(signers(&taken(&scene, 1).await), ["s4@example.com", "s2@example.com"], "as it was");
    // A start knows of no other s2.
    let scene = scene.restart(directory.path()).await.unwrap();
    send(&scene, OFFICE, "ann@example.com", "bob@outside.example").await;
    scene.until(|events| events.iter().any(|event| event.to_string().contains("451 4.3.5"))).await;
    send(&scene, STRANGER, "eve@elsewhere.example", "ann@example.com").await;
    assert!(taken(&scene, 2).await.contains("ARC-Seal: i=1;"));
    scene.queue(1).await.unwrap();
    // Who looks at the key lets the mail go.
    fs::remove_file(at("s2.pem")).unwrap();
    scene.server.live().reload().await.unwrap();
    scene.server.queue().flush(&Filter::default()).await.unwrap();
    assert_eq!(signers(&taken(&scene, 3).await), ["s4@example.com"]);
    let live = scene.server.live();
    // A key that config names and that is not there is told, not found out by a mail without a signature. It may come with
    // the config that names it.
    let path = directory.path().join("postern.toml");
    let config = fs::read_to_string(&path).unwrap();
    let named = "name = \"dkim-sign\"\nconfig = { selectors = { \"example.com\" = [\"s5\"] } }\n";
    fs::write(&path, config.replace("name = \"dkim-sign\"\n", named)).unwrap();
    for _ in 0..2 {
        let refused = live.reload().await.unwrap_err();
        assert!(refused.contains("there is no key \"s5\"; there are: s4"), "{refused}");
    }
    make_key(directory.path(), "example.com", "s5", Algorithm::Ed25519);
    live.reload().await.unwrap();
    send(&scene, OFFICE, "ann@example.com", "bob@outside.example").await;
    assert_eq!(signers(&taken(&scene, 4).await), ["s5@example.com"]);
    scene.server.stop().await;
}
