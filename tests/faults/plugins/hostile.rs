//! W1 to W5, W7, W11, W14: a tenant's plugin misbehaves; that tenant's client hears the failure policy, nobody else anything.

use postern_tests::guest::{DISCONNECT, Guest, REJECT, VERDICT, reply_verdict};
use postern_tests::scene::Scene;

use super::{LOOP, MAIL, all_is_well, config, failures, install, install_octets, until};

/// What misbehaves, how it is written, and the cause that log and metrics name.
type Case = (&'static str, Guest, &'static str, &'static str);

/// A gateway in which each of these is tried: the mail is deferred, the cause is told, and as soon as the plugin is removed
/// all is as before.
async fn each_is_deferred(cases: Vec<Case>) {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let mut expected = [0, 0];
    for (what, guest, settings, cause) in cases {
        install(&scene, "example", &guest, settings).await.unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
        let before = failures(&scene, "tenant:example", "guest", cause);
        let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.com"], MAIL).await;
        assert_eq!(reply, "451 4.3.0 Local error in processing, try again later", "{what}\n{}", scene.story());
        assert_eq!(failures(&scene, "tenant:example", "guest", cause), before + 1, "{what}\n{}", scene.story());
        // Another tenant's mail meets none of it, while the plugin stands in the chain.
        let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.org"], MAIL).await;
        assert!(reply.starts_with("250 2.0.0"), "{what}: {reply}");
        expected[1] += 1;
        scene.server.live().remove("tenant:example", "guest").await.unwrap();
    }
    all_is_well(&scene, &mut expected).await;
    scene.queue(0).await.unwrap();
    scene.server.stop().await;
}

/// These can't even be installed, and nothing has changed.
async fn each_is_refused(cases: Vec<(&'static str, Guest, &'static str)>) {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    for (what, guest, says) in cases {
        let refusal = install(&scene, "example", &guest, "").await.unwrap_err();
        assert!(refusal.contains(says), "{what}: {refusal}");
    }
    all_is_well(&scene, &mut [0, 0]).await;
    scene.server.stop().await;
}

const CPU: &str = "limits = { cpu = \"10ms\" }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_a_loop_wherever_it_is_defers_its_own_tenants_mail_only() {
    let allocator = Guest::new().item(&format!("(func $allocated {LOOP})"));
    let post = format!(r#"(func (export "cabi_post_postern:plugin/on-rcpt@0.1.0#judge") (param i32) {LOOP})"#);
    each_is_deferred(vec![
        ("at helo", Guest::new().at("helo", LOOP), CPU, "cpu"),
        ("at rcpt", Guest::new().at("rcpt", LOOP), CPU, "cpu"),
        ("at data", Guest::new().at("data", LOOP), CPU, "cpu"),
        ("allocator", allocator.at("rcpt", ""), CPU, "cpu"),
        ("after its return", Guest::new().item(&post).at("rcpt", ""), CPU, "cpu"),
    ])
    .await;
    let start = Guest::new().item(&format!("(func $start {LOOP}) (start $start)")).at("rcpt", "");
    each_is_refused(vec![
        ("start function", start, "cpu"),
        ("on-load", Guest::new().at("load", LOOP).at("rcpt", ""), "cpu"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w2_a_hog_gets_no_more_memory_than_its_limit() {
    let hog = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    let table = "(loop $more (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable";
    let deep = Guest::new().item("(func $deep (call $deep))").at("data", "(call $deep)");
    each_is_deferred(vec![
        ("memory", Guest::new().at("data", hog), "", "memory"),
        ("a table", Guest::new().item("(table $t 1 funcref)").at("data", table), "", "memory"),
        ("recursion", deep, "", "stack"),
    ])
    .await;
    let memories = Guest::new().item("(memory 1) (memory 1) (memory 1)").at("data", "");
    each_is_refused(vec![
        ("many memories", memories, "memor"),
        ("a large table", Guest::new().item("(table 50000 funcref)").at("data", ""), "memory"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w3_a_trap_is_a_deferral() {
    let at_rcpt = |body: &str| Guest::new().at("rcpt", body);
    each_is_deferred(vec![
        ("unreachable", at_rcpt("unreachable"), "", "trap"),
        ("division", at_rcpt("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), "", "trap"),
        ("out of bounds", at_rcpt("(drop (i32.load (i32.const -4)))"), "", "trap"),
        ("no number", at_rcpt("(drop (i32.trunc_f32_s (f32.const nan)))"), "", "trap"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w3_a_plugin_that_keeps_failing_is_left_alone_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    install(&scene, "example", &Guest::new().at("rcpt", "unreachable"), "").await.unwrap();
    let open = scene.metrics.plugin_breaker_open.with_label_values(&["guest", "tenant:example"]);
    assert_eq!(open.get(), 0);
    for _ in 0..10 {
        let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.com"], MAIL).await;
        assert!(reply.starts_with("451 4.3.0"), "{reply}");
    }
    assert_eq!((open.get(), failures(&scene, "tenant:example", "guest", "trap")), (1, 10));
    // It is tried again by itself: here that fails, and it is left alone for longer.
    let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.com"], MAIL).await;
    assert!(reply.starts_with("451 4.3.0"), "an open breaker is no consent: {reply}");
    assert_eq!(open.get(), 1);
    let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.org"], MAIL).await;
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    // The mended version begins anew.
    install(&scene, "example", &Guest::new().at("rcpt", ""), "").await.unwrap();
    all_is_well(&scene, &mut [0, 1]).await;
    scene.server.stop().await;
}

const LOG: (&str, &str, &str, &str) = ("log", "write", "log", "i32 i32 i32");

fn logging(body: &str) -> Guest {
    let (interface, name, alias, params) = LOG;
    Guest::new().import(interface, name, alias, params).at("data", body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w4_floods_of_host_calls_end_and_leave_few_lines() {
    let many = "(loop $more (call $log (i32.const 1) (i32.const 0) (i32.const 1)) (br $more))";
    let large = "(loop $more (call $log (i32.const 1) (i32.const 0) (i32.const 262144)) (br $more))";
    let port = Guest::new().import("session", "[method]session.client-port", "port", "i32) (result i32");
    let ask = "(loop $more (drop (call $port (local.get $session))) (br $more))";
    each_is_deferred(vec![
        ("many log lines", logging(many), "", "host-calls"),
        ("large log lines", logging(large), "", "host-calls"),
        ("questions", port.at("rcpt", ask), "", "host-calls"),
    ])
    .await;
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    install(&scene, "example", &logging(many), "").await.unwrap();
    scene.send("192.0.2.9", "smith@client.example", &["jones@example.com"], MAIL).await;
    scene.happened("plugin", |event| event["failure"] == "host-calls").await;
    let lines = scene.events().iter().filter(|event| event["event"] == "plugin-log").count();
    assert!((1..=64).contains(&lines), "{lines} lines of 4000");
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w5_a_malformed_return_never_reaches_the_client() {
    let raw = |octets: &str| Guest::new().item(&format!(r#"(data (i32.const {VERDICT}) "{octets}")"#)).at("rcpt", "");
    let says = |code: u16, text: &[u8]| Guest::new().item(&reply_verdict(REJECT, code, text)).at("rcpt", "");
    let disconnect = Guest::new().item(&reply_verdict(DISCONNECT, 450, b"x")).at("rcpt", "");
    let length = "\\02\\00\\00\\00\\26\\02\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\ff\\ff\\ff\\ff";
    let beyond = "\\02\\00\\00\\00\\26\\02\\00\\00\\00\\00\\00\\00\\f0\\ff\\03\\00\\00\\01\\00\\00";
    each_is_deferred(vec![
        ("case out of range", raw("\\07"), "", "malformed"),
        ("case far out of range", raw("\\ff"), "", "malformed"),
        ("text of 4 GiB", raw(length), "", "malformed"),
        ("text beyond the memory", raw(beyond), "", "malformed"),
        ("invalid UTF-8", says(550, b"\xff\xfe"), "", "malformed"),
        ("lone surrogate", says(550, b"\xed\xa0\x80"), "", "malformed"),
        ("code 000", says(0, b"x"), "", "malformed"),
        ("code 250", says(250, b"x"), "", "malformed"),
        ("code 450 for a rejection", says(450, b"x"), "", "malformed"),
        ("code 999", says(999, b"x"), "", "malformed"),
        ("CRLF", says(550, b"x\r\n250 ok"), "", "malformed"),
        ("NUL", says(550, b"x\0"), "", "malformed"),
        ("too long", says(550, &[b'a'; 481]), "", "malformed"),
        ("disconnect with 450", disconnect, "", "malformed"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w11_whatever_takes_too_long_ends_at_the_wall() {
    // A platform's plugin may have more than the default of CPU time; here the wall alone stops it.
    let plugin = "[[plugin]]\nname = \"guest\"\nsource = \"guest.wasm\"\nscope = \"tenant:example\"\n\
        limits = { cpu = \"60s\", wall = \"100ms\" }\n";
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("guest.wasm"), Guest::new().at("rcpt", LOOP).build()).unwrap();
    let chained = config(plugin).replace("name = \"example\"\n", "name = \"example\"\nchain = [\"guest\"]\n");
    let scene = Scene::set(&chained, directory.path()).await.unwrap();
    let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.com"], MAIL).await;
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    assert_eq!(failures(&scene, "tenant:example", "guest", "wall"), 1);
    let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.org"], MAIL).await;
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    scene.server.stop().await;
    // Neither WASI nor any other way to sleep, to a precise clock or to random numbers is there to be imported.
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    for import in [
        "(import \"wasi_snapshot_preview1\" \"poll_oneoff\" (func (param i32 i32 i32 i32) (result i32)))",
        "(import \"wasi:clocks/monotonic-clock@0.2.0\" \"now\" (func (result i64)))",
        "(import \"wasi:random/random@0.2.0\" \"get-random-u64\" (func (result i64)))",
    ] {
        let guest = Guest::new().world("", import).at("rcpt", "");
        assert!(install(&scene, "example", &guest, "").await.is_err(), "{import}");
    }
    all_is_well(&scene, &mut [0, 0]).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w7_one_that_goes_away_in_the_middle_of_a_call_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let slow = "limits = { cpu = \"50ms\", concurrency = 1 }\n";
    install(&scene, "example", &Guest::new().at("rcpt", LOOP), slow).await.unwrap();
    for _ in 0..5 {
        let mut client = scene.client("192.0.2.9").await;
        client.send(b"MAIL FROM:<smith@client.example>\r\nRCPT TO:<jones@example.com>\r\n").await;
        client.hang_up();
    }
    let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.org"], MAIL).await;
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    install(&scene, "example", &Guest::new().at("rcpt", ""), "").await.unwrap();
    all_is_well(&scene, &mut [0, 1]).await;
    let sessions = async || scene.metrics.sessions_open.get() == 0;
    until("the end of all sessions", &scene, sessions).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w8_what_is_no_plugin_is_refused_and_the_old_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let old = Guest::new().item(&reply_verdict(REJECT, 550, b"the old one")).at("rcpt", "");
    install(&scene, "example", &old, "").await.unwrap();
    let trapping = Guest::new().item("(func $start unreachable) (start $start)").at("rcpt", "").build();
    let foreign = Guest::new().world("", "(import \"env\" \"open\" (func))").at("rcpt", "").build();
    for (what, octets, says) in [
        ("no WebAssembly", b"#!/bin/sh\n".to_vec(), "not WebAssembly"),
        ("nothing", Vec::new(), "not WebAssembly"),
        ("machine code", b"\x7fELF\x02\x01\x01\0".to_vec(), "precompiled code"),
        ("traps at its start", trapping.to_vec(), "trap"),
        ("imports what there is not", foreign.to_vec(), "env"),
        ("200 MB", vec![0; 200 << 20], "more than a plugin may have"),
    ] {
        let refusal = install_octets(&scene, "example", octets, "").await.unwrap_err();
        assert!(refusal.contains(says), "{what}: {refusal}");
        let reply = scene.send("192.0.2.9", "smith@client.example", &["jones@example.com"], MAIL).await;
        assert_eq!(reply, "550 5.7.1 the old one", "{what}");
    }
    scene.server.stop().await;
}
