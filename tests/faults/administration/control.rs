//! G3, G5, G12: what comes over the control socket.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use postern_tests::scene::{PATIENCE, Scene};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{MAIL, config, mail_goes_on};

fn socket(directory: &Path) -> std::path::PathBuf {
    directory.join("spool/control.sock")
}

/// All that comes back; nothing where the connection is reset.
async fn ask(directory: &Path, octets: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket(directory)).await.unwrap();
    let _ = stream.write_all(octets).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
    String::from_utf8(answer).unwrap()
}

async fn request(directory: &Path, request: &Value) -> Value {
    let answer = ask(directory, format!("{request}\n").as_bytes()).await;
    serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_names_and_ids_are_no_paths() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let outside = directory.path().join("outside");
    std::fs::write(&outside, "untouched").unwrap();
    for name in [
        "../../outside",
        "%2e%2e%2foutside",
        "..%2foutside",
        "/etc/passwd",
        "a\0b",
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "a\n",
    ] {
        let show = request(directory.path(), &json!({ "request": "show", "id": name })).await;
        assert_eq!(show["kind"], "invalid", "{name}: {show}");
        let change = json!({ "request": "change", "verb": "delete", "ids": [name] });
        assert_eq!(request(directory.path(), &change).await["kind"], "invalid", "{name}");
        for verb in ["plugin-show", "plugin-rollback", "plugin-remove"] {
            let answer =
                request(directory.path(), &json!({ "request": verb, "scope": "platform", "name": name })).await;
            assert_eq!(answer["response"], "error", "{verb} {name}: {answer}");
            let scope = format!("tenant:{name}");
            let answer = request(directory.path(), &json!({ "request": verb, "scope": scope, "name": "x" })).await;
            assert_eq!(answer["response"], "error", "{verb} {scope}: {answer}");
        }
    }
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "untouched");
    mail_goes_on(&scene, 0).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_of_two_who_delete_or_release_the_same_mail_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    // The next hop says 451 to this one: it waits.
    let reply = scene.send("192.0.2.9", "smith@client.example", &["later@example.com"], MAIL).await;
    let id = reply.rsplit(' ').next().unwrap().to_owned();
    scene.happened("deferred", |event| event["id"] == id.as_str()).await;
    let verb = |verb: &str| json!({ "request": "change", "verb": verb, "ids": [id] });
    let (hold, delete) = (verb("hold"), verb("delete"));
    let changed = |answer: &Value| answer["changed"]["changed"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(changed(&request(directory.path(), &hold).await), 1);
    let one = || request(directory.path(), &delete);
    let answers: [Value; 4] = tokio::join!(one(), one(), one(), one()).into();
    assert_eq!(answers.iter().map(changed).sum::<u64>(), 1, "{answers:?}");
    scene.queue(0).await.unwrap();
    let show = request(directory.path(), &json!({ "request": "show", "id": id })).await;
    assert_eq!(show["kind"], "not-found", "{show}");
    mail_goes_on(&scene, 0).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g12_garbage_ends_its_own_connection_only() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let mode = std::fs::metadata(socket(directory.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let deep = [vec![b'['; 60_000], b"\n".to_vec()].concat();
    let long = vec![b'x'; 1 << 20];
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\n",
        b"\xff\xfe\0\n",
        b"{}\n",
        b"null\n",
        b"{\"request\":\"status\",\"request\":\"reload\"}\n",
        b"{\"request\":\"list\",\"limit\":1e400}\n",
        b"{\"request\":\"list\",\"limit\":9007199254740993}\n",
        b"{\"request\":\"list\",\"limit\":-1}\n",
        b"{\"request\":\"change\",\"verb\":\"delete\"}\n",
        b"{\"request\":\"status\"",
        &deep,
        &long,
    ] {
        let answer = ask(directory.path(), garbage).await;
        assert!(answer.is_empty() || answer.contains("\"kind\":\"invalid\""), "{answer}");
    }
    assert_eq!(request(directory.path(), &json!({ "request": "status" })).await["response"], "status");
    mail_goes_on(&scene, 0).await;
    scene.server.stop().await;
}

#[tokio::test]
async fn g12_who_says_nothing_holds_the_socket_for_a_minute_at_most() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(UnixStream::connect(socket(directory.path())).await.unwrap());
    }
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let status = json!({ "request": "status" });
    let answer = tokio::time::timeout(Duration::from_secs(1000), async {
        let mut stream = UnixStream::connect(socket(directory.path())).await.unwrap();
        stream.write_all(format!("{status}\n").as_bytes()).await.unwrap();
        let mut answer = [0; 20];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    });
    assert!(answer.await.unwrap().starts_with(b"{\"response\":\"status\""));
    // Sixteen at a time, of whom nobody says anything: after the first 16, the next, then we.
    assert!(begun.elapsed() <= Duration::from_secs(185), "{:?}", begun.elapsed());
    tokio::time::resume();
    drop(idle);
    mail_goes_on(&scene, 0).await;
    scene.server.stop().await;
}
