//! RS2, RS4, RS12, RS13: too many connections, too fast, and a runtime that does not get on.

use postern_tests::client::Client;
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::load::{self, admitted, greeted, metric};
use super::{HTTP, scene, send};

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
    let mut next = admitted("127.0.0.1", at).await;
    assert!(load::send(&mut next).await.starts_with("250 "));
    scene.server.stop().await;
}

/// The banner for a client of which a balancer says that it is there.
async fn introduced(scene: &Scene, client: [u8; 4]) -> (Client, String) {
    let mut stream = TcpStream::connect(scene.address()).await.unwrap();
    let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &client, &[203, 0, 113, 25, 156, 64, 0, 25]].concat();
    stream.write_all(&header).await.unwrap();
    let mut client = Client::new(Box::new(stream), false, PATIENCE);
    let said = client.line().await.unwrap();
    (client, said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs2_clients_behind_a_balancer_count_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let server = "max_connections = 4\nmax_connections_per_client = 2\n";
    let config = head(NO_DNS).replacen("[server]", &format!("[server]\n{server}"), 1);
    let config = config.replacen("xclient_from", "proxy_protocol_from", 1);
    let scene = Scene::set(&format!("{config}{HTTP}"), directory.path()).await.unwrap();
    let mut open = Vec::new();
    for (client, expected) in [(1, "220 "), (1, "220 "), (1, "421 4.7.0 "), (2, "220 "), (3, "220 ")] {
        let (client, said) = introduced(&scene, [192, 0, 2, client]).await;
        assert!(said.starts_with(expected), "{said}");
        open.push(client);
    }
    // In all there are no more, whoever it is: that is said without a header.
    let (_, said) = greeted("127.0.0.1", scene.address()).await;
    assert!(said.starts_with("421 4.3.2 "), "{said}");
    scene.happened("refused", |event| event["client"].as_str().unwrap().starts_with("192.0.2.1:")).await;
    drop(open);
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs2_a_balancer_that_says_nothing_holds_a_place() {
    let directory = tempfile::tempdir().unwrap();
    let config = head(NO_DNS).replacen("[server]", "[server]\nmax_connections = 2\n", 1);
    let config = config.replacen("xclient_from", "proxy_protocol_from", 1);
    let scene = Scene::set(&format!("{config}{HTTP}"), directory.path()).await.unwrap();
    let silent =
        [TcpStream::connect(scene.address()).await.unwrap(), TcpStream::connect(scene.address()).await.unwrap()];
    let (_, said) = greeted("127.0.0.1", scene.address()).await;
    assert!(said.starts_with("421 4.3.2 "), "{said}");
    drop(silent);
    let proxied = "postern_connections_refused_total{cause=\"proxy\"}";
    while metric(scene.server.http().unwrap(), proxied).await < 2.0 {
        tokio::task::yield_now().await;
    }
    assert!(introduced(&scene, [192, 0, 2, 1]).await.1.starts_with("220 "));
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
