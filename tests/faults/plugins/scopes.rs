//! W10, W12, W15: what a plugin leaves behind, and who finds it.

use postern_tests::guest::{Guest, REJECT, VERDICT, reply_verdict};
use postern_tests::scene::Scene;

use super::{MAIL, all_is_well, config, failures, install};

/// At `rcpt`, refuses where it finds anything of an earlier mail in its memory, its table or its global; then leaves
/// something in all three.
fn canary() -> Guest {
    let mark = "0x5ca1ab1edeadbeef";
    let found = "(i32.store8 (i32.const 1024) (i32.const 2)) (i32.store16 (i32.const 1028) (i32.const 550))";
    let scan = format!(
        "(drop (memory.grow (i32.const 60)))
        (if (i64.ne (global.get $mark) (i64.const 0)) (then {found}))
        (if (i32.eqz (ref.is_null (table.get $t (i32.const 7)))) (then {found}))
        (local.set $i (i32.const 8192))
        (loop $next
            (if (i64.eq (i64.load (local.get $i)) (i64.const {mark})) (then {found}))
            (i64.store (local.get $i) (i64.const {mark}))
            (local.set $i (i32.add (local.get $i) (i32.const 8)))
            (br_if $next (i32.lt_u (local.get $i) (i32.mul (memory.size) (i32.const 65536)))))
        (global.set $mark (i64.const {mark}))
        (table.set $t (i32.const 7) (ref.func $leaf))"
    );
    Guest::new()
        .item("(table $t 16 funcref) (func $leaf) (elem declare func $leaf) (global $mark (mut i64) (i64.const 0))")
        .item(&reply_verdict(0, 0, b""))
        .at("rcpt", &scan)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w10_no_instance_finds_what_another_has_left() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    for tenant in ["example", "other"] {
        install(&scene, tenant, &canary(), "").await.unwrap();
    }
    let send = async |to: &str| scene.send("192.0.2.9", "smith@client.example", &[to], MAIL).await;
    for _ in 0..8 {
        for to in ["jones@example.com", "jones@example.org"] {
            let reply = send(to).await;
            assert!(reply.starts_with("250 2.0.0"), "{to}: {reply}\n{}", scene.story());
        }
    }
    // It would be found: with `reuse`, which trusts the plugin, an instance finds its own; another scope's does not.
    install(&scene, "example", &canary(), "reuse = true\n").await.unwrap();
    install(&scene, "other", &canary(), "reuse = true\n").await.unwrap();
    for to in ["jones@example.com", "jones@example.org"] {
        let reply = send(to).await;
        assert!(reply.starts_with("250 2.0.0"), "{to}: {reply}");
    }
    for to in ["jones@example.com", "jones@example.org"] {
        let reply = send(to).await;
        assert!(reply.starts_with("550"), "{to}: {reply}");
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w12_what_was_said_of_one_mail_is_not_said_of_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    // It accepts at `rcpt` and rejects at `data`: the one does not keep the other from counting.
    let fickle = Guest::new()
        .item(&format!(r#"(data (i32.const {VERDICT}) "\01")"#))
        .item(&reply_verdict(REJECT, 550, b"changed my mind").replace(&VERDICT.to_string(), "1200"))
        .at("rcpt", "")
        .at("data", "(memory.copy (i32.const 1024) (i32.const 1200) (i32.const 20))");
    install(&scene, "example", &fickle, "").await.unwrap();
    let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.com"], MAIL).await;
    assert_eq!(reply, "550 5.7.1 changed my mind");
    // What it has noted of a mail is not there at the next one of the same session.
    let notes = Guest::new()
        .import("session", "[method]session.remember", "remember", "i32 i32 i32 i32 i32 i32")
        .import("session", "[method]session.recall", "recall", "i32 i32 i32 i32")
        .item(r#"(data (i32.const 3000) "key")"#)
        .at(
            "rcpt",
            "(call $recall (local.get $session) (i32.const 3000) (i32.const 3) (i32.const 4096))
            (if (i32.load8_u (i32.const 4096)) (then unreachable))
            (call $remember (local.get $session) (i32.const 3000) (i32.const 3) (i32.const 3001) (i32.const 2) (i32.const 4096))",
        )
        .at(
            "data",
            "(call $recall (local.get $session) (i32.const 3000) (i32.const 3) (i32.const 4096))
            (if (i32.eqz (i32.load8_u (i32.const 4096))) (then unreachable))",
        );
    install(&scene, "example", &notes, "").await.unwrap();
    let mut client = scene.client("192.0.2.9").await;
    for _ in 0..3 {
        for step in ["MAIL FROM:<smith@client.example>", "RCPT TO:<jones@example.com>", "DATA", &format!("{MAIL}.")] {
            client.send(format!("{step}\r\n").as_bytes()).await;
            let reply = client.line().await.unwrap();
            assert!(reply.starts_with(['2', '3']), "{step}: {reply}\n{}", scene.story());
        }
    }
    scene.taken("sink", 3).await;
    scene.server.stop().await;
}

/// At `rcpt`, writes eight values of which each is another key; says 452 where there is no room for one.
fn hoarder() -> Guest {
    Guest::new()
        .import("store", "write", "write", "i32 i32 i32 i32 i32 i32")
        .item(r#"(data (i32.const 3000) "key0") (data (i32.const 3010) "value")"#)
        .item(&reply_verdict(REJECT, 552, b"no room").replace(&VERDICT.to_string(), "1200"))
        .at(
            "rcpt",
            "(loop $next
                (i32.store8 (i32.const 3003) (i32.add (i32.const 48) (local.get $i)))
                (call $write (i32.const 3000) (i32.const 4) (i32.const 3010) (i32.const 5) (i32.const 60) (i32.const 4096))
                (if (i32.load8_u (i32.const 4096))
                    (then (memory.copy (i32.const 1024) (i32.const 1200) (i32.const 20))))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $next (i32.lt_u (local.get $i) (i32.const 8))))",
        )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w15_a_full_store_is_an_answer_and_nobody_elses_trouble() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config("[plugins]\nstore_entries = 4\n"), directory.path()).await.unwrap();
    let grants = "grants = [\"store\"]\n";
    install(&scene, "example", &hoarder(), grants).await.unwrap();
    let mut senders = tokio::task::JoinSet::new();
    let address = scene.address();
    // They write the same keys at the same time.
    for _ in 0..8 {
        senders.spawn(async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut client =
                postern_tests::client::Client::new(Box::new(stream), false, postern_tests::scene::PATIENCE);
            client.line().await.unwrap();
            client.send(b"EHLO client.example\r\n").await;
            client.reply().await.unwrap();
            crate::live::try_recipient(&mut client, "smith@client.example", "jones@example.com").await
        });
    }
    for reply in senders.join_all().await {
        assert_eq!(reply, "552 5.7.1 no room");
    }
    let full = scene.metrics.plugin_full.with_label_values(&["guest", "tenant:example", "store"]).get();
    assert_eq!(full, 8 * 4, "four of eight fit, each time");
    assert_eq!(failures(&scene, "tenant:example", "guest", "trap"), 0);
    // What another tenant keeps has room of its own: five are one too many for it as well, but its first four fit.
    let modest = Guest::new()
        .import("store", "write", "write", "i32 i32 i32 i32 i32 i32")
        .item(r#"(data (i32.const 3000) "key")"#)
        .at(
            "rcpt",
            "(call $write (i32.const 3000) (i32.const 3) (i32.const 3000) (i32.const 3) (i32.const 60) (i32.const 4096))
            (if (i32.load8_u (i32.const 4096)) (then unreachable))",
        );
    install(&scene, "other", &modest, grants).await.unwrap();
    let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.org"], MAIL).await;
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    scene.server.live().remove("tenant:example", "guest").await.unwrap();
    all_is_well(&scene, &mut [0, 1]).await;
    scene.server.stop().await;
}
