//! SP2 to SP4: what is said in the clear before TLS, by a client and by a next hop.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use postern_tests::hop::{Hop, Reply, taking};
use postern_tests::scene::{NO_DNS, Scene, head};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::dialogs::play_row;

#[test]
fn sp2_what_comes_with_starttls_is_not_executed() {
    play_row("SP2", 2);
}

/// A destination for each of these, each with a domain of its own.
async fn scene(directory: &Path, hops: &[(String, &Hop, &str)]) -> Scene {
    let mut config = head(NO_DNS);
    for (name, hop, tls) in hops {
        config += &format!(
            "[[tenant]]\nname = \"{name}\"\ndomains = [\"{name}.example\"]\n\
             destination = {{ host = \"127.0.0.1\", port = {}, tls = \"{tls}\" }}\n",
            hop.address.port()
        );
    }
    Scene::set(&config, directory).await.unwrap()
}

async fn send(scene: &Scene, name: &str) {
    let reply = scene.send("", "a@client.example", &[&format!("b@{name}.example")], "Subject: x\r\n\r\nx\r\n").await;
    assert!(reply.starts_with("250 "), "{reply}");
}

fn says(line: &str, starttls: &'static str) -> Reply {
    match line.get(..8).unwrap_or(line) {
        "STARTTLS" => Some(starttls.as_bytes().to_vec()),
        _ if line.starts_with("EHLO") => Some(b"250-hop.example\r\n250 STARTTLS\r\n".to_vec()),
        _ => taking(line),
    }
}

fn mentions(heard: &[Vec<u8>], word: &str) -> bool {
    heard.iter().any(|octets| octets.windows(word.len()).any(|window| window == word.as_bytes()))
}

/// CVE-2021-38371 and its like: octets in the clear behind the reply to STARTTLS are nobody's reply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp3_what_a_next_hop_says_before_the_handshake_ends_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let injected = ["220 go\r\n250-AUTH PLAIN\r\n", "220 go\r\n250 x\r\n", "220 go\r\n2", "220 go\r\n220 go\r\n"];
    let mut hops = Vec::new();
    for starttls in injected {
        hops.push(Hop::start(move |line| says(line, starttls)).await.unwrap());
    }
    let policies = ["opportunistic", "required", "verified"];
    let cases: Vec<_> = (0..hops.len()).flat_map(|hop| policies.map(|tls| (hop, tls))).collect();
    let named: Vec<_> = cases.iter().map(|(hop, tls)| (format!("{tls}-{hop}"), &hops[*hop], *tls)).collect();
    let scene = scene(directory.path(), &named).await;
    for (name, hop, _) in &named {
        send(&scene, name).await;
        let to = format!("b@{name}.example");
        let desynchronised = |event: &serde_json::Value| {
            event["to"] == to.as_str() && event["reply"].as_str().unwrap().starts_with("451 4.5.0 ")
        };
        scene.happened("deferred", desynchronised).await;
        assert!(!mentions(&hop.heard(), "MAIL"), "{name}");
    }
    scene.server.stop().await;
}

/// Where TLS is required no mail goes in the clear, whatever the next hop says; where it is not, it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp4_without_tls_mail_waits_where_the_policy_asks_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let replies = ["454 4.7.0 later\r\n", "354 go\r\n", "502 what\r\n", "250 ok\r\n"];
    let mut hops = Vec::new();
    for starttls in replies {
        hops.push(Hop::start(move |line| says(line, starttls)).await.unwrap());
    }
    // Not offered; and no EHLO at all.
    hops.push(Hop::start(taking).await.unwrap());
    let plain = |line: &str| if line.starts_with("EHLO") { Some(b"502 what\r\n".to_vec()) } else { taking(line) };
    hops.push(Hop::start(plain).await.unwrap());
    let cases: Vec<_> = ["required", "verified", "opportunistic"]
        .into_iter()
        .flat_map(|tls| hops.iter().enumerate().map(move |(n, hop)| (format!("{tls}-{n}"), hop, tls)))
        // A server that answers 354 takes what follows for data.
        .filter(|(name, ..)| name != "opportunistic-1")
        .collect();
    let scene = scene(directory.path(), &cases).await;
    for (name, hop, tls) in &cases {
        send(&scene, name).await;
        let to = format!("b@{name}.example");
        let is_it = |event: &serde_json::Value, reply: &str| {
            event["to"] == to.as_str() && event["reply"].as_str().unwrap().starts_with(reply)
        };
        if *tls == "opportunistic" {
            scene.happened("delivered", |event| is_it(event, "250 ")).await;
        } else {
            scene.happened("deferred", |event| is_it(event, "451 4.7.5 ")).await;
            assert!(!mentions(&hop.heard(), "MAIL"), "{name}");
        }
    }
    scene.server.stop().await;
}

/// The config of a gateway whose listener speaks TLS from the first octet, with a certificate of its own.
pub fn implicit(directory: &Path) -> String {
    let certified = rcgen::generate_simple_self_signed(["mx.example.net".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), certified.cert.pem()).unwrap();
    let key = directory.join("key.pem");
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    head(NO_DNS).replace("role = \"inbound\"", "role = \"inbound\"\ntls = \"implicit\"")
        + "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n"
}

/// A client that trusts that certificate.
fn trusting(directory: &Path, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("cert.pem")).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The first octets of a client that asks for this name.
pub fn client_hello(directory: &Path, name: &'static str) -> Vec<u8> {
    let config = Arc::new(trusting(directory, &rustls::version::TLS13));
    let mut connection = ClientConnection::new(config, name.try_into().unwrap()).unwrap();
    let mut octets = Vec::new();
    connection.write_tls(&mut octets).unwrap();
    octets
}

/// What one listener has given a client to come back with sooner is worth nothing at another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_tickets_of_one_listener_are_worth_nothing_at_another() {
    let directory = tempfile::tempdir().unwrap();
    let config = implicit(directory.path())
        + "[[listener]]\nname = \"second\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\ntls = \"implicit\"\n";
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    let (first, second) = (scene.server.addresses()[0].1, scene.server.addresses()[1].1);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let connector = TlsConnector::from(Arc::new(trusting(directory.path(), version)));
        for (address, kind) in [
            (first, HandshakeKind::Full),
            (first, HandshakeKind::Resumed),
            (second, HandshakeKind::Full),
            (second, HandshakeKind::Resumed),
            (first, HandshakeKind::Full),
        ] {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = connector.connect("mx.example.net".try_into().unwrap(), stream).await.unwrap();
            // The tickets of TLS 1.3 come before the banner.
            let mut banner = [0; 4];
            stream.read_exact(&mut banner).await.unwrap();
            assert_eq!(&banner, b"220 ");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{version:?} {address}");
        }
    }
    scene.server.stop().await;
}
