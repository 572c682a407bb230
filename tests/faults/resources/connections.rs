//! RS2, RS4, RS11, RS12, RS13: too many connections, too fast, and a runtime that does not get on.

use std::sync::Arc;

use postern_tests::client::Client;
use postern_tests::scene::{PATIENCE, Scene};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::load::{connect, greeted, metric};
use super::scene;

const HTTP: &str = "[server.http]\naddress = \"127.0.0.1:0\"\n";
const MAIL: &str = "Subject: x\r\n\r\nx\r\n";

async fn send(scene: &Scene) -> String {
    scene.send("", "a@client.example", &["b@example.com"], MAIL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs2_one_client_and_all_have_so_many_connections() {
    let directory = tempfile::tempdir().unwrap();
    let server = "max_connections = 8\nmax_connections_per_client = 3\n";
    let scene = scene(directory.path(), server, HTTP).await;
    let at = scene.address();
    let mut open = Vec::new();
    for (from, expected) in [
        ("127.0.0.1", "220 "),
        ("127.0.0.1", "220 "),
        ("127.0.0.1", "220 "),
        ("127.0.0.1", "421 4.7.0 "),
        ("127.0.0.1", "421 4.7.0 "),
        ("127.0.0.2", "220 "),
        ("127.0.0.2", "220 "),
        ("127.0.0.2", "220 "),
        ("127.0.0.3", "220 "),
        ("127.0.0.3", "220 "),
        ("127.0.0.4", "421 4.3.2 "),
    ] {
        let (mut client, said) = greeted(from, at).await;
        assert!(said.starts_with(expected), "{from}: {said}");
        if said.starts_with('4') {
            client.closed().await.unwrap();
        } else {
            open.push(client);
        }
    }
    let http = scene.server.http().unwrap();
    for (cause, count) in [("client-limit", 2.0), ("total-limit", 1.0)] {
        let series = format!("postern_connections_refused_total{{cause=\"{cause}\"}}");
        assert_eq!(metric(http, &series).await, count, "{cause}");
    }
    scene.happened("refused", |event| event["cause"] == "total-limit").await;
    // Those that are open are as before; a place that becomes free is given away.
    open[0].send(b"NOOP\r\n").await;
    assert!(open[0].line().await.unwrap().starts_with("250 "));
    drop(open);
    scene.until(|events| events.iter().filter(|event| event["event"] == "disconnect").count() == 8).await;
    assert!(send(&scene).await.starts_with("250 "));
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs4_under_overload_idle_sessions_make_room() {
    let directory = tempfile::tempdir().unwrap();
    let server = "max_connections = 10\noverload_timeout = \"300ms\"\n";
    let scene = scene(directory.path(), server, HTTP).await;
    let http = scene.server.http().unwrap();
    let mut idle = Vec::new();
    for _ in 0..7 {
        idle.push(greeted("127.0.0.1", scene.address()).await.0);
    }
    assert_eq!(metric(http, "postern_overload").await, 0.0);
    idle.push(greeted("127.0.0.1", scene.address()).await.0);
    scene.happened("overload", |event| event["on"] == true && event["open"] == 8 && event["limit"] == 10).await;
    scene.happened("overload", |event| event["on"] == false && event["open"] == 6).await;
    let mut ended = 0;
    for client in &mut idle {
        client.send(b"NOOP\r\n").await;
        let said = client.line().await.unwrap();
        assert!(said.starts_with("421 4.4.2 ") || said.starts_with("250 "), "{said}");
        ended += usize::from(said.starts_with("421"));
    }
    // The rest has its time back as soon as six are left; some were as late as those that ended.
    assert!(ended >= 2, "{ended} have ended");
    assert_eq!(metric(http, "postern_overload").await, 0.0);
    assert!(send(&scene).await.starts_with("250 "));
    scene.taken("sink", 1).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs4_under_overload_good_clients_are_served_and_bad_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    // So that one session is too many already.
    let scene = scene(directory.path(), "max_connections = 10\noverload_above = 10\n", HTTP).await;
    let http = scene.server.http().unwrap();
    let mut bad = scene.client("").await;
    assert_eq!(metric(http, "postern_overload").await, 1.0);
    for number in 1..=20 {
        assert!(send(&scene).await.starts_with("250 "), "mail {number}");
    }
    bad.send(b"FOO\r\n").await;
    assert!(bad.line().await.unwrap().starts_with("500 "));
    bad.send(b"FOO\r\n").await;
    assert!(bad.line().await.unwrap().starts_with("500 "));
    assert!(bad.line().await.unwrap().starts_with("421 4.7.0 "));
    bad.closed().await.unwrap();
    scene.taken("sink", 20).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs12_new_connections_have_a_rate() {
    for (key, expected) in [("max_connection_rate_per_client", "421 4.7.0 "), ("max_connection_rate", "421 4.3.2 ")] {
        let directory = tempfile::tempdir().unwrap();
        let server = format!("{key} = 4\nexempt_networks = []\nmax_connections_per_client = 1000\n");
        let scene = scene(directory.path(), &server, HTTP).await;
        let (mut established, _) = greeted("127.0.0.2", scene.address()).await;
        let began = Instant::now();
        let mut taken = 0;
        let mut refused = 0;
        while refused < 100 {
            let (_, said) = greeted("127.0.0.1", scene.address()).await;
            match said.starts_with("220 ") {
                true => taken += 1,
                false => refused += 1,
            }
            assert!(said.starts_with("220 ") || said.starts_with(expected), "{said}");
        }
        let most = 5 + 4 * (1 + began.elapsed().as_secs());
        assert!(taken <= most, "{taken} in {:?}", began.elapsed());
        established.send(b"NOOP\r\n").await;
        assert!(established.line().await.unwrap().starts_with("250 "));
        // The log names some of them, the metric counts all.
        let http = scene.server.http().unwrap();
        let cause = if key.ends_with("client") { "client-rate" } else { "total-rate" };
        let series = format!("postern_connections_refused_total{{cause=\"{cause}\"}}");
        assert_eq!(metric(http, &series).await, 100.0);
        let named = scene.events().iter().filter(|event| event["event"] == "refused").count() as u64;
        assert!(named <= 10 * (2 + began.elapsed().as_secs()), "{named} are named");
        scene.server.stop().await;
    }
}

/// Two listeners, `mx` with STARTTLS and two with TLS from the first octet, and what a client needs to trust them.
async fn tls_scene(directory: &std::path::Path, server: &str) -> (Scene, Arc<ClientConfig>) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn rs13_a_worker_that_is_blocked_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path(), "", HTTP).await;
    let http = scene.server.http().unwrap();
    // The gateway runs on this runtime's workers.
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let blocking = tokio::spawn(async move { wait.recv() });
    while metric(http, "postern_workers_blocked").await < 1.0 {
        assert!(send(&scene).await.starts_with("250 "), "the others go on");
    }
    drop(go_on);
    assert!(blocking.await.unwrap().is_err());
    while metric(http, "postern_workers_blocked").await > 0.0 {
        tokio::task::yield_now().await;
    }
    assert!(metric(http, "postern_worker_stalls_total").await >= 1.0);
    assert!(metric(http, "postern_heartbeat_lateness_seconds_count").await > 1.0);
    scene.server.stop().await;
}
