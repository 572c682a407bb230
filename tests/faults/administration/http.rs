//! G1, G2, G4: what comes of requests over HTTP: three pages that can be read, and nothing else.

use std::time::Duration;

use postern_tests::scene::{PATIENCE, Scene};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::{HTTP, config, mail_goes_on};

const ROUTES: [&str; 3] = ["/metrics", "/healthz/live", "/healthz/ready"];

/// From this address of ours.
async fn connect(scene: &Scene, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(scene.server.http().expect("an HTTP listener")).await.unwrap()
}

/// All that the gateway says before it closes. A reset, because it did not read all, is an end as well.
async fn said(stream: &mut TcpStream) -> String {
    let mut octets = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut octets)).await.expect("an end");
    String::from_utf8(octets).unwrap()
}

async fn ask(scene: &Scene, request: &[u8]) -> String {
    let mut stream = connect(scene, "127.0.0.1").await;
    let _ = stream.write_all(request).await;
    said(&mut stream).await
}

/// 0: no answer at all.
fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok()).unwrap_or(0)
}

async fn scene(directory: &std::path::Path) -> Scene {
    Scene::set(&config(HTTP), directory).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_there_are_three_pages_to_read_and_no_way_to_change_anything() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path()).await;
    let asked = async |method: &str, path: &str, fields: &str| {
        ask(&scene, format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes()).await
    };
    for path in ROUTES {
        for fields in ["", "Authorization: Bearer x\r\n", "authorization: \r\nAuthorization: Basic Og==\r\n"] {
            assert_eq!(status(&asked("GET", path, fields).await), 200, "{path} {fields}");
        }
        let head = asked("HEAD", path, "").await;
        assert!(status(&head) == 200 && head.ends_with("\r\n\r\n"), "{head}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get", "BREW"] {
            let answer = asked(method, path, "Content-Length: 0\r\n").await;
            assert_eq!(status(&answer), 405, "{method} {path}: {answer}");
        }
        for field in ["X-HTTP-Method-Override: DELETE\r\n", "X-Original-URL: /admin\r\n", "X-Rewrite-URL: /admin\r\n"] {
            assert_eq!(status(&asked("GET", path, field).await), 200, "{field}");
        }
    }
    for path in [
        "/",
        "//",
        "/admin",
        "//admin",
        "/%61dmin",
        "/metrics/",
        "//metrics",
        "/metrics//",
        "/METRICS",
        "/%6detrics",
        "/metrics%00",
        "/metrics;x",
        "/..;/metrics",
        "/./metrics",
        "/x/../metrics",
        "/%2e%2e/metrics",
        "/healthz",
        "/healthz/",
        "/healthz/live/",
        "/healthz/live/../../etc/passwd",
        "/etc/passwd",
        "/control.sock",
    ] {
        for method in ["GET", "POST", "HEAD", "OPTIONS"] {
            let answer = asked(method, path, "").await;
            assert_eq!(status(&answer), 404, "{method} {path}: {answer}");
        }
    }
    mail_goes_on(&scene, 0).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_one_connection_has_one_answer_whatever_is_smuggled_into_it() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path()).await;
    let second = "GET /healthz/ready HTTP/1.1\r\nHost: x\r\n\r\n";
    for request in [
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n{second}"),
        format!(
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}"
        ),
        format!("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n{second}"),
        format!("POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{second}"),
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\n Folded: x\r\n\r\n{second}"),
        format!("GET /metrics HTTP/1.1\nHost: x\n\n{second}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}".to_owned(),
        "EHLO client.example\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
    ] {
        let answer = ask(&scene, request.as_bytes()).await;
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{request}: {answer}");
        assert!([0, 200, 400, 405, 431].contains(&status(&answer)), "{request}: {answer}");
    }
    mail_goes_on(&scene, 0).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_no_other_site_is_let_in_and_there_is_nothing_to_forge() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path()).await;
    for path in ROUTES {
        for method in ["GET", "OPTIONS", "POST"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\
                Sec-Fetch-Site: cross-site\r\nAccess-Control-Request-Method: POST\r\nContent-Length: 0\r\n\r\n"
            );
            let answer = ask(&scene, request.as_bytes()).await.to_ascii_lowercase();
            assert_eq!(status(&answer.to_ascii_uppercase()), if method == "GET" { 200 } else { 405 });
            for field in ["access-control", "set-cookie", "location:"] {
                assert!(!answer.contains(field), "{answer}");
            }
        }
    }
    scene.server.stop().await;
}

#[tokio::test]
async fn g4_a_slow_client_holds_no_connection_and_many_hold_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path()).await;
    let mut slow = Vec::new();
    for _ in 0..16 {
        let mut stream = connect(&scene, "127.0.0.1").await;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").await.unwrap();
        slow.push(stream);
    }
    // That address has all that one may have; others notice nothing.
    assert_eq!(ask(&scene, b"GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n").await, "");
    let mut other = connect(&scene, "127.0.0.2").await;
    other.write_all(b"GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(status(&said(&mut other).await), 200);
    // From here on time runs by itself: an octet every few seconds does not buy more of it.
    tokio::time::pause();
    let begun = Instant::now();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        for stream in &mut slow {
            let _ = stream.write_all(b"x").await;
        }
    }
    for mut stream in slow {
        assert!([0, 408].contains(&status(&said(&mut stream).await)));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(status(&ask(&scene, b"GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n").await), 200);
    tokio::time::resume();
    mail_goes_on(&scene, 0).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_large_requests_are_refused_before_they_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path()).await;
    let deep = "[".repeat(100_000);
    let of_json = format!("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{deep}", deep.len());
    for (what, request, expected) in [
        (
            "a body of 1 TB",
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\nx".to_owned(),
            405,
        ),
        (
            "a body without end",
            "POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n".to_owned(),
            405,
        ),
        ("deep JSON", of_json, 405),
        ("a field of 100 KB", format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000)), 431),
        ("a path of 100 KB", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000)), 414),
        ("200 fields", format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200)), 431),
    ] {
        let answer = ask(&scene, request.as_bytes()).await;
        // What was not read may come back as a reset, which takes the answer along.
        assert!([0, 431, expected].contains(&status(&answer)), "{what}: {answer}");
    }
    mail_goes_on(&scene, 0).await;
    scene.server.stop().await;
}
