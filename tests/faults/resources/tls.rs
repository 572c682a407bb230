//! RS11: handshakes, records, tickets and certificates.

use std::path::Path;
use std::sync::Arc;

use postern_tests::client::Client;
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::load::{connect, metric};
use super::{HTTP, scene, send};

/// Two listeners, `mx` with STARTTLS and two with TLS from the first octet, and what a client needs to trust them.
async fn tls_scene(directory: &Path, server: &str) -> (Scene, Arc<ClientConfig>) {
    let signed = rcgen::generate_simple_self_signed(["mx.example.net".to_owned()]).unwrap();
    std::fs::write(directory.join("mx.pem"), signed.cert.pem()).unwrap();
    std::fs::write(directory.join("mx.key"), signed.signing_key.serialize_pem()).unwrap();
    let listeners: String = ["one", "two"]
        .map(|name| {
            format!(
                "[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\ntls = \"implicit\"\n"
            )
        })
        .concat();
    let more = format!("[tls]\ncertificate = \"mx.pem\"\nkey = \"mx.key\"\n{listeners}{HTTP}");
    let scene = scene(directory, server, &more).await;
    let mut roots = RootCertStore::empty();
    roots.add(signed.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (scene, Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// A session of one listener, up to the banner, which comes after the tickets.
async fn secured(scene: &Scene, listener: usize, config: &Arc<ClientConfig>) -> (Client, HandshakeKind) {
    let stream = TcpStream::connect(scene.server.addresses()[listener].1).await.unwrap();
    let name = ServerName::try_from("mx.example.net").unwrap();
    let mut stream = TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
    let mut octet = [0];
    stream.read_exact(&mut octet).await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let mut client = Client::new(Box::new(stream), false, PATIENCE);
    assert!(client.line().await.unwrap().starts_with("20 "));
    (client, kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs11_handshakes_of_one_client_have_a_rate() {
    let directory = tempfile::tempdir().unwrap();
    let server = "exempt_networks = []\nmax_connection_rate_per_client = 1000\nmax_connections_per_client = 1000\n\
                  max_handshake_rate_per_client = 2\n";
    let (scene, config) = tls_scene(directory.path(), server).await;
    let began = Instant::now();
    let (mut begun, mut refused) = (0, 0);
    while refused < 20 {
        let mut client = scene.client("").await;
        client.send(b"STARTTLS\r\n").await;
        let said = client.line().await.unwrap();
        match said.starts_with("220 ") {
            true => begun += 1,
            false => refused += 1,
        }
        if !said.starts_with("220 ") {
            assert_eq!(said, "421 4.7.0 Too many TLS handshakes from your address");
            client.closed().await.unwrap();
        }
    }
    assert!(begun <= 3 + 2 * (1 + began.elapsed().as_secs()), "{begun} in {:?}", began.elapsed());
    // Without TLS there is mail, and another client has TLS, too.
    assert!(send(&scene).await.starts_with("250 "));
    let stream = connect("127.0.0.2", scene.server.addresses()[1].1).await;
    let name = ServerName::try_from("mx.example.net").unwrap();
    TlsConnector::from(config).connect(name, stream).await.unwrap();
    let series = "postern_tls_handshakes_total{result=\"refused\"}";
    assert_eq!(metric(scene.server.http().unwrap(), series).await, 20.0);
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs11_a_ticket_of_one_listener_is_worth_nothing_at_another() {
    let directory = tempfile::tempdir().unwrap();
    let (scene, config) = tls_scene(directory.path(), "").await;
    for (listener, expected) in [(1, HandshakeKind::Full), (1, HandshakeKind::Resumed), (2, HandshakeKind::Full)] {
        let (_client, kind) = secured(&scene, listener, &config).await;
        assert_eq!(kind, expected, "listener {listener}");
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs11_odd_records_and_hellos() {
    let directory = tempfile::tempdir().unwrap();
    let (scene, config) = tls_scene(directory.path(), "").await;
    // Records of a few octets: slow, and yet a session.
    let mut tiny = ClientConfig::clone(&config);
    tiny.max_fragment_size = Some(32);
    let (mut client, _) = secured(&scene, 1, &Arc::new(tiny)).await;
    for (command, expected) in [
        ("EHLO client.example\r\n", "250"),
        ("MAIL FROM:<a@client.example>\r\n", "250"),
        ("RCPT TO:<b@example.com>\r\n", "250"),
        ("DATA\r\n", "354"),
        (&*format!("Subject: x\r\n\r\n{}.\r\n", "0123456789\r\n".repeat(1000)), "250"),
    ] {
        client.send(command.as_bytes()).await;
        let reply = client.reply().await.unwrap();
        assert!(reply[0].starts_with(expected), "{reply:?}");
    }
    scene.taken("sink", 1).await;

    // A ClientHello whose server name has 64 KiB; records that are none; a hello that claims 16 MiB.
    let name = vec![b'a'; 65_000];
    let be = |number: usize, octets: usize| number.to_be_bytes()[8 - octets..].to_vec();
    let sni = [be(0, 2), be(name.len() + 5, 2), be(name.len() + 3, 2), vec![0], be(name.len(), 2), name].concat();
    let body = [vec![3, 3], vec![7; 32], vec![0], be(2, 2), vec![0x13, 1], vec![1, 0], be(sni.len(), 2), sni].concat();
    let hello = [vec![1], be(body.len(), 3), body].concat();
    let records = |hello: &[u8]| -> Vec<u8> {
        hello.chunks(16_000).flat_map(|piece| [vec![22, 3, 1], be(piece.len(), 2), piece.to_vec()].concat()).collect()
    };
    let endless = [vec![1, 0xff, 0xff, 0xff], vec![0; 200_000]].concat();
    for (what, octets) in [
        ("a long name", records(&hello)),
        ("no end", records(&endless)),
        ("no records", b"EHLO client.example\r\n".repeat(1000)),
        ("empty records", [22, 3, 1, 0, 0].repeat(10_000)),
        ("an alert", vec![21, 3, 1, 0, 2, 2, 40]),
        ("a change of ciphers", [20, 3, 1, 0, 1, 1].repeat(10_000)),
    ] {
        let mut stream = TcpStream::connect(scene.server.addresses()[1].1).await.unwrap();
        // It may close while we write.
        let _ = stream.write_all(&octets).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect(what);
        assert!(!answer.windows(4).any(|octets| octets == b"220 "), "{what}");
    }
    secured(&scene, 1, &config).await;
    scene.server.stop().await;
}

/// An authority, and what it signs for this name: the certificate and its key.
fn signed(name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, Vec<CertificateDer<'static>>, KeyPair) {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = root.self_signed(&root_key).unwrap();
    let mut own = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut own);
    let certificate = own.signed_by(&key, &Issuer::from_params(&root, &root_key)).unwrap();
    (authority.pem(), vec![certificate.der().clone(), authority.der().clone()], key)
}

fn presenting(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = provider.key_provider.load_private_key(PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    // Whether they belong together is for the client to find out.
    let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_cert_resolver(Arc::new(certified))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs11_bad_certificate_chains_of_a_next_hop() {
    let good = signed("127.0.0.1", |_| {});
    let name = signed("elsewhere.example", |_| {});
    let expired = signed("127.0.0.1", |own| own.not_after = date_time_ymd(2020, 1, 1));
    let mut long = signed("127.0.0.1", |_| {});
    let authority = long.1[1].clone();
    long.1.extend(std::iter::repeat_n(authority, 300));
    let mut garbage = signed("127.0.0.1", |_| {});
    garbage.1.push(CertificateDer::from(vec![0x30; 5000]));
    let (_, chain, key) = signed("127.0.0.1", |_| {});
    let stranger = (good.0.clone(), chain, key);
    let stolen = (good.0.clone(), good.1.clone(), KeyPair::generate().unwrap());
    for (what, (authority, chain, key), taken) in [
        ("good", good, true),
        ("another name", name, false),
        ("expired", expired, false),
        ("a chain of 300", long, false),
        ("an intermediate that is none", garbage, true),
        ("a stranger's", stranger, false),
        ("without its key", stolen, false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("roots.pem"), authority).unwrap();
        let hop = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = head(NO_DNS).replace("{sink}", &hop.local_addr().unwrap().port().to_string());
        let config = config.replace("tls = \"never\"", "tls = \"implicit\"");
        let config =
            config.replace("[dns]\nsystem = false", "[dns]\nsystem = false\n[delivery]\nauthorities = \"roots.pem\"");
        let scene = Scene::set(&config, directory.path()).await.unwrap();
        assert!(send(&scene).await.starts_with("250 "));
        let acceptor = presenting(chain, &key);
        let (stream, _) = hop.accept().await.unwrap();
        // It is complete when the client has found nothing wrong with the certificate.
        let done = acceptor.accept(stream).await.map(drop);
        assert_eq!(done.is_ok(), taken, "{what}: {done:?}");
        scene.happened("deferred", |_| true).await;
        scene.server.stop().await;
    }
}
