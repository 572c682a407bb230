//! W6, W9: what a plugin may write into a mail, and that it does so as a whole or not at all.

use postern_tests::guest::Guest;
use postern_tests::scene::Scene;

use super::{LOOP, config, install};

const ADD: (&str, &str, &str, &str) = ("message", "[method]message.add-header", "add", "i32 i32 i32 i32 i32 i32 i32");
const REPLACE: (&str, &str, &str, &str) =
    ("message", "[method]message.replace-header", "replace", "i32 i32 i32 i32 i32 i32 i32 i32");
const BODY: (&str, &str, &str, &str) = ("message", "[method]message.replace-body", "body", "i32 i32 i32 i32");
const MAIL: &str = "From: smith@client.example\r\nSubject: x\r\n\r\nthe body\r\n";

fn importing(guest: Guest, (interface, name, alias, params): (&str, &str, &str, &str)) -> Guest {
    guest.import(interface, name, alias, params)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("\\{octet:02x}")).collect()
}

/// Asks for this field, its name and value at 3000, the answer at 4096; goes on whatever it hears.
fn adding(name: &[u8], value: &[u8]) -> Guest {
    let (names, values) = (name.len(), value.len());
    let call = format!(
        "(call $add (local.get $message) (i32.const 70000) (i32.const {names}) (i32.const {}) (i32.const {values})
            (i32.const 0) (i32.const 4096))",
        70000 + names
    );
    let data = format!(r#"(data (i32.const 70000) "{}{}")"#, hex(name), hex(value));
    importing(Guest::new(), ADD).item(&data).at("data", &call)
}

/// What arrives of the mail after that plugin; none: it is deferred.
async fn arrives(scene: &Scene, guest: &Guest, settings: &str, count: &mut usize) -> Option<String> {
    install(scene, "example", guest, settings).await.unwrap();
    let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.com"], MAIL).await;
    scene.server.live().remove("tenant:example", "guest").await.unwrap();
    if reply.starts_with("451 4.3.0") {
        return None;
    }
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    *count += 1;
    let taken = scene.taken("sink", *count).await.pop().unwrap();
    Some(String::from_utf8(taken.octets).unwrap())
}

/// Lines without `Received`, which is another one each time.
fn own(mail: &str) -> String {
    let at = mail.find("From: ").unwrap();
    let (before, rest) = mail.split_at(at);
    let added: Vec<_> =
        before.split("\r\n").filter(|line| !line.starts_with("Received:") && !line.starts_with([' ', '\t'])).collect();
    format!("{}{rest}", added.join("\r\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w6_no_plugin_injects_a_header_field() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let mut count = 0;
    let good = arrives(&scene, &adding(b"X-Good", b"yes"), "", &mut count).await.unwrap();
    assert!(own(&good).contains("X-Good: yes\r\n"), "{good}");
    let plain = own(&good).replace("X-Good: yes\r\n", "");
    let large = vec![b'a'; 100 * 1024];
    for (what, name, value) in [
        ("a colon", &b"X:Y"[..], &b"1"[..]),
        ("a space", b"X Y", b"1"),
        ("no name", b"", b"1"),
        ("CRLF in the name", b"X\r\nBcc", b"1"),
        ("no ASCII in the name", "Xé".as_bytes(), b"1"),
        ("CRLF in the value", b"X", b"1\r\nBcc: evil@example.org"),
        ("an empty line in the value", b"X", b"1\r\n\r\nanother body"),
        ("bare LF in the value", b"X", b"1\nBcc: evil@example.org"),
        ("bare CR in the value", b"X", b"1\rBcc: evil@example.org"),
        ("NUL in the value", b"X", b"1\0"),
        ("100 KiB without a space", b"X", &large),
    ] {
        if let Some(mail) = arrives(&scene, &adding(name, value), "", &mut count).await {
            assert_eq!(own(&mail), plain, "{what}");
        }
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w6_received_stays_and_bodies_are_normalized() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let mut count = 0;
    // The first `Received`, whose value is to be none.
    let remove = |name: &str| {
        let call = format!(
            "(call $replace (local.get $message) (i32.const 3000) (i32.const {}) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4096))",
            name.len()
        );
        importing(Guest::new(), REPLACE).item(&format!(r#"(data (i32.const 3000) "{name}")"#)).at("data", &call)
    };
    let subject = arrives(&scene, &remove("Subject"), "", &mut count).await.unwrap();
    assert!(!subject.contains("Subject:") && subject.contains("Received:"), "{subject}");
    let received = arrives(&scene, &remove("Received"), "", &mut count).await.unwrap();
    assert!(received.contains("Received: from"), "{received}");
    if let Some(from) = arrives(&scene, &remove("From"), "", &mut count).await {
        assert!(from.contains("\r\nFrom: smith@client.example\r\n"), "{from}");
    }
    let body = |text: &[u8]| {
        let call =
            format!("(call $body (local.get $message) (i32.const 3000) (i32.const {}) (i32.const 4096))", text.len());
        importing(Guest::new(), BODY).item(&format!(r#"(data (i32.const 3000) "{}")"#, hex(text))).at("data", &call)
    };
    let good = arrives(&scene, &body(b"another\r\n"), "", &mut count).await.unwrap();
    assert!(good.ends_with("\r\n\r\nanother\r\n"), "{good}");
    // Whatever the edit became: no line ends in anything but CRLF, so nothing in it ends the mail at the next hop.
    for text in [&b"a\nb\n"[..], b"a\rb\r\n", b"x\n.\nMAIL FROM:<evil@example.org>\n", b"no end"] {
        let mail = arrives(&scene, &body(text), "", &mut count).await.unwrap();
        assert!(!mail.replace("\r\n", "").contains(['\r', '\n']), "{mail:?}");
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w9_edits_come_all_together_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let mut count = 0;
    let add = "(call $add (local.get $message) (i32.const 3000) (i32.const 3) (i32.const 3003) (i32.const 1) (i32.const 0) (i32.const 4096))";
    let body = "(call $body (local.get $message) (i32.const 3010) (i32.const 9) (i32.const 4096))";
    let editing = |after: &str| {
        importing(importing(Guest::new(), ADD), BODY)
            .item(r#"(data (i32.const 3000) "X-A1") (data (i32.const 3010) "another\0d\0a")"#)
            .at("data", &format!("{add} {body} {after}"))
    };
    let goes_on = "on_failure = \"continue\"\nlimits = { cpu = \"10ms\" }\n";
    let whole = arrives(&scene, &editing(""), goes_on, &mut count).await.unwrap();
    assert!(whole.contains("X-A: 1\r\n") && whole.ends_with("\r\n\r\nanother\r\n"), "{whole}");
    for after in ["unreachable", LOOP, "(i32.store8 (i32.const 1024) (i32.const 99))"] {
        let mail = arrives(&scene, &editing(after), goes_on, &mut count).await.unwrap();
        assert!(!mail.contains("X-A") && mail.ends_with("\r\n\r\nthe body\r\n"), "{after}: {mail}");
    }
    scene.server.stop().await;
}
