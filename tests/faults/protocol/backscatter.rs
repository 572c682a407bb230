//! SP11 and SP12: mail in a circle, and reports to those who have sent nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use postern_tests::dns::Dns;
use postern_tests::hop::{Hop, taking};
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::dialogs::play_row;

#[test]
fn sp11_the_hop_limit() {
    play_row("SP11", 1);
}

/// Passes connections on, to where is known only later.
async fn passage() -> (SocketAddr, Arc<Mutex<Option<SocketAddr>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(None)));
    let target = to.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let to = target.lock().unwrap().unwrap();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (address, to)
}

/// Each of them gives the domain's mail to the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp11_a_ring_of_two_gateways_stops_within_the_limit() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (middle, to) = passage().await;
    let config = |name: &str, port: u16| {
        head(NO_DNS)
            .replace("mx.example.net", name)
            .replace("{sink}", &port.to_string())
            .replace("[server]", "[server]\nmax_hops = 6")
    };
    let first = Scene::set(&config("one.example.net", middle.port()), directories[0].path()).await.unwrap();
    let address = first.address();
    let second = Scene::set(&config("two.example.net", address.port()), directories[1].path()).await.unwrap();
    *to.lock().unwrap() = Some(second.address());
    // The report comes back into the ring, and must not make another.
    let reply = first.send("", "ann@example.com", &["bob@example.com"], "Subject: x\r\n\r\nx\r\n").await;
    assert!(reply.starts_with("250 "), "{reply}");
    let both = || [first.events(), second.events()].concat();
    let dropped = |event: &Value| event["event"] == "failed" && event["dropped"] == true;
    let ends = async {
        while !both().iter().any(dropped) {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(PATIENCE, ends).await.expect("an end");
    first.queue(0).await.unwrap();
    second.queue(0).await.unwrap();
    // The log is written a little later.
    let delivered = |event: &&Value| event["event"] == "delivered";
    let told = async {
        while both().iter().filter(delivered).count() < 6 + 7 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("thirteen deliveries");
    let events = both();
    let count = |so: &dyn Fn(&Value) -> bool| events.iter().filter(|event| so(event)).count();
    // Each hop writes a trace field, and with more than six of them there is no next: the client and six hops have handed on
    // the mail, seven hops the report.
    let looped =
        |event: &Value| event["event"] == "failed" && event["reply"].as_str().unwrap().starts_with("554 5.4.6 ");
    assert_eq!(count(&looped), 2, "{}", first.story());
    assert_eq!(count(&|event| event["event"] == "dsn"), 1);
    assert_eq!(events.iter().filter(delivered).count(), 6 + 7, "{}", first.story());
    assert_eq!(events.iter().find(|event| dropped(event)).unwrap()["to"], "ann@example.com");
    for scene in [first, second] {
        scene.server.stop().await;
    }
}

/// The next hop refuses after the end of data, when the client has heard 250: somebody is to be told, if it was he who
/// wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp12_reports_go_to_nobody_who_has_not_sent_the_mail() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    for (name, policy) in [("fine", "+all"), ("neutral", "?all"), ("doubtful", "~all"), ("forged", "-all")] {
        let domain = format!("{name}.example");
        dns.txt(&domain, &format!("v=spf1 {policy}")).mx(&domain, 10, "back.example");
    }
    dns.mx("unpublished.example", 10, "back.example").address("back.example", "127.0.0.1");
    let refusing =
        Hop::start(|line| if line == "." { Some(b"550 5.7.1 no\r\n".to_vec()) } else { taking(line) }).await.unwrap();
    let config = head(&dns.setting())
        .replace("127.0.0.1:0", "127.0.0.3:0")
        .replace("port = {sink}", &format!("port = {}", refusing.address.port()))
        + "[delivery]\nmx_port = {sink}\n[[plugin]]\nname = \"spf\"\nconfig = { fail = \"tag\" }\n\
           [chain]\nplatform = [\"spf\"]\n";
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    // The header goes back, up to its cap; the body does not.
    let header: String = (0..500).map(|n| format!("X-{n}: {}\r\n", "y".repeat(300))).collect();
    let mail = format!("From: x@fine.example\r\n{header}\r\n{}", "a line of the body\r\n".repeat(20_000));
    let mut reports = 0;
    for (sender, is_told) in [
        ("ann@fine.example", true),
        ("ann@neutral.example", true),
        ("ann@doubtful.example", true),
        ("ann@unpublished.example", true),
        ("ann@forged.example", false),
        ("", false),
    ] {
        let reply = scene.send("192.0.2.7", sender, &["bob@example.com"], &mail).await;
        assert!(reply.starts_with("250 "), "{sender}: {reply}");
        scene.queue(0).await.unwrap();
        reports += usize::from(is_told);
        let failed = |events: &[Value]| {
            let end = events.iter().rfind(|event| event["event"] == "failed");
            end.is_some_and(|event| event["dropped"] == !is_told)
        };
        tokio::time::timeout(PATIENCE, scene.until(failed)).await.expect("an end of the mail");
        let taken = scene.taken("sink", reports).await;
        assert_eq!(taken.len(), reports, "{sender}");
        let report = taken.last().unwrap();
        if is_told {
            assert_eq!((report.sender.as_str(), report.recipients.as_slice()), ("", &[sender.to_owned()][..]));
        }
        assert!(report.octets.len() < 70_000, "{} octets", report.octets.len());
        assert!(!report.octets.windows(18).any(|window| window == b"a line of the body"));
    }
    // What was asked for does not change it.
    let mut client = scene.client("192.0.2.7").await;
    for (line, code) in [
        ("MAIL FROM:<ann@forged.example> RET=FULL", "250 "),
        ("RCPT TO:<bob@example.com> NOTIFY=SUCCESS,FAILURE,DELAY", "250 "),
        ("DATA", "354 "),
        ("Subject: x\r\n\r\nx\r\n.", "250 "),
    ] {
        client.send(format!("{line}\r\n").as_bytes()).await;
        assert!(client.line().await.unwrap().starts_with(code), "{line}");
    }
    scene.queue(0).await.unwrap();
    assert_eq!(scene.sink("sink").unwrap().taken().len(), reports);
    scene.server.stop().await;
}
