//! What changes while the gateway runs: plugins, tables, certificates; and what is refused and changes nothing.

use std::collections::{HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use postern::cli::control::plugin::{Detail, Install};
use postern_tests::client::Client;
use postern_tests::scene::{Scene, asked};
use serde_json::Value;
use tokio::net::TcpStream;

/// It only keeps a broken gateway from hanging the test.
const PATIENCE: Duration = Duration::from_secs(60);
const SWAPS: usize = 100;
const CLIENTS: usize = 4;

const CONFIG: &str = r#"
[server]
host_name = "mx.example.net"
administrators = ["admin@example.com"]
[[listener]]
name = "mx"
address = "127.0.0.1:0"
role = "inbound"
[spool]
directory = "{directory}/spool"
[dns]
system = false
[plugins]
rollback_failures = 3
[[tenant]]
name = "example"
domains = ["example.com"]
destination = { host = "127.0.0.1", port = {sink}, tls = "never" }
[[tenant]]
name = "other"
domains = ["example.org"]
destination = { host = "127.0.0.1", port = {other}, tls = "never" }
"#;

/// Refuses what `SENDER` sends.
fn refusing(sender: &str) -> String {
    format!(
        "grants = [\"metrics\", \"tables\"]\n[[config.rules]]\nname = \"r\"\naction = \"reject\"\nsender = [\"{sender}\"]\n"
    )
}

/// The plugin access, as a file of its own for each `n`.
fn access(n: u8) -> Vec<u8> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins/access.wasm");
    let mut source = std::fs::read(built).expect("`make plugins` builds it");
    // A custom section: its length, the length of its name, name and content.
    source.extend_from_slice(&[0, 3, 1, b'n', n]);
    source
}

fn house(scope: &str, source: &[u8], settings: Option<&str>) -> Install {
    Install {
        name: "house".to_owned(),
        scope: scope.to_owned(),
        octets: source.len() as u64,
        file: "house.wasm".to_owned(),
        settings: settings.map(str::to_owned),
        settings_path: "/nowhere/house.toml".into(),
        enabled: true,
    }
}

/// Installs it for the tenant example.
async fn install(scene: &Scene, source: Vec<u8>, settings: Option<&str>) -> Result<String, String> {
    let request = house("tenant:example", &source, settings);
    scene.server.live().install(request, source).await.map_err(|refusal| refusal.to_string())
}

fn shown(scene: &Scene) -> Option<Detail> {
    scene.server.live().plugin("tenant:example", "house").ok()
}

pub async fn connected(scene: &Scene) -> Client {
    let stream = TcpStream::connect(scene.address()).await.unwrap();
    let mut client = Client::new(Box::new(stream), false, PATIENCE);
    client.line().await.unwrap();
    client.send(b"EHLO client.example\r\n").await;
    client.reply().await.unwrap();
    client
}

/// The reply to RCPT.
pub async fn try_recipient(client: &mut Client, from: &str, to: &str) -> String {
    client.send(format!("RSET\r\nMAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\n").as_bytes()).await;
    client.line().await.unwrap();
    client.line().await.unwrap();
    client.line().await.unwrap()
}

async fn send_mail(client: &mut Client) -> Result<(), String> {
    client.send(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n").await;
    for code in ["250", "250", "354"] {
        let got = client.line().await?;
        got.starts_with(code).then_some(()).ok_or(got)?;
    }
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n").await;
    let got = client.line().await?;
    got.starts_with("250").then_some(()).ok_or(got)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_swapped_100_times_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(CONFIG, directory.path()).await.unwrap();
    let settings = refusing("nobody@client.example");
    install(&scene, access(0), Some(&settings)).await.unwrap();
    let (done, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = connected(&scene).await;
        let (done, sent) = (done.clone(), sent.clone());
        clients.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                send_mail(&mut client).await?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, String>(())
        });
    }
    for n in 0..SWAPS {
        // Each third one goes back.
        if n % 3 == 2 {
            scene.server.live().roll_back("tenant:example", "house").await.unwrap();
        } else {
            install(&scene, access(u8::try_from(n % 4).unwrap()), None).await.unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    while let Some(result) = clients.join_next().await {
        result.unwrap().expect("no error reply");
    }
    let sent = sent.load(Ordering::Relaxed);
    let taken = tokio::time::timeout(PATIENCE, scene.sink("sink").unwrap().wait_for(sent)).await.unwrap();
    assert_eq!(taken.len(), sent, "nothing is lost, nothing comes twice");
    scene.until(|events| count(events, "queued") >= sent).await;
    let events = scene.events();
    let mut seen = HashSet::new();
    for (id, versions) in versions_by_mail(&events) {
        assert_eq!(versions.len(), 1, "{id} was judged by {versions:?}");
        seen.extend(versions);
    }
    assert!(seen.len() > 1, "mail has met one version only");
    let failures = events.iter().filter(|event| event.get("failure").is_some()).count();
    assert_eq!(failures, 0);
    scene.server.stop().await;
}

fn count(events: &[Value], name: &str) -> usize {
    events.iter().filter(|event| event["event"] == name).count()
}

/// The versions of the plugin house that each mail has met.
fn versions_by_mail(events: &[Value]) -> HashMap<String, HashSet<String>> {
    let mut versions: HashMap<String, HashSet<String>> = HashMap::new();
    for event in asked(events).iter().filter(|event| event["plugin"] == "house") {
        if let (Some(id), Some(version)) = (event["id"].as_str(), event["version"].as_str()) {
            versions.entry(id.to_owned()).or_default().insert(version.to_owned());
        }
    }
    versions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_plugin_acts_on_that_tenants_mail_until_it_is_rolled_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut scene = Scene::set(CONFIG, directory.path()).await.unwrap();
    install(&scene, access(1), Some(&refusing("nobody@client.example"))).await.unwrap();
    install(&scene, access(1), Some(&refusing("smith@client.example"))).await.unwrap();
    let mut client = connected(&scene).await;
    let smith = "smith@client.example";
    assert!(try_recipient(&mut client, smith, "b@example.com").await.starts_with("550 5.7.1"));
    assert!(try_recipient(&mut client, smith, "b@example.org").await.starts_with("250"), "the other tenant's");
    // It is there after a restart, and so is the way back.
    scene = scene.restart(directory.path()).await.unwrap();
    let mut client = connected(&scene).await;
    assert!(try_recipient(&mut client, smith, "b@example.com").await.starts_with("550 5.7.1"));
    let live = scene.server.live();
    let told = live.roll_back("tenant:example", "house").await.unwrap();
    assert!(told.starts_with("version 1 of house (tenant:example)"), "{told}");
    assert!(told.ends_with("version 2 is withdrawn"), "{told}");
    assert!(try_recipient(&mut client, smith, "b@example.com").await.starts_with("250"), "in the same connection");
    let none = live.roll_back("tenant:example", "house").await.unwrap_err().to_string();
    assert_eq!(none, "house of tenant:example has no earlier version to go back to");
    // Off and on.
    install(&scene, access(1), Some(&refusing(smith))).await.unwrap();
    live.switch("tenant:example", "house", false).await.unwrap();
    assert!(try_recipient(&mut client, smith, "b@example.com").await.starts_with("250"));
    live.switch("tenant:example", "house", true).await.unwrap();
    assert!(try_recipient(&mut client, smith, "b@example.com").await.starts_with("550"));
    live.remove("tenant:example", "house").await.unwrap();
    assert!(try_recipient(&mut client, smith, "b@example.com").await.starts_with("250"));
    assert_eq!(shown(&scene), None);
    assert_eq!(components(directory.path()), 0);
    scene.server.stop().await;
}

/// Components that are kept.
fn components(directory: &Path) -> usize {
    std::fs::read_dir(directory.join("spool/plugins/versions")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_fails_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(CONFIG, directory.path()).await.unwrap();
    let good = refusing("smith@client.example");
    install(&scene, access(1), Some(&good)).await.unwrap();
    // Reading its config and whose it is are two calls to the host, and all that it may: it loads, and then fails at each mail.
    let failing = good.replace("[[config.rules]]", "limits = { host_calls = 2 }\n[[config.rules]]");
    install(&scene, access(2), Some(&failing)).await.unwrap();
    assert!(shown(&scene).unwrap().state.on_trial.is_some());
    let mut client = connected(&scene).await;
    let mut deferred = 0;
    let back = |events: &[Value]| events.iter().any(|event| event["action"] == "rolled-back-by-itself");
    while !back(&scene.events()) {
        deferred +=
            usize::from(try_recipient(&mut client, "a@client.example", "b@example.com").await.starts_with("451"));
    }
    assert!(deferred >= 1, "a failure is never consent");
    let detail = shown(&scene).unwrap();
    assert_eq!(detail.state.version, Some(1));
    let withdrawn = detail.versions[0].withdrawn.clone().unwrap();
    assert!(withdrawn.contains("calls failed"), "{withdrawn}");
    assert_eq!(detail.state.on_trial, None, "what it went back to is not on trial");
    assert!(try_recipient(&mut client, "smith@client.example", "b@example.com").await.starts_with("550 5.7.1"));
    assert!(try_recipient(&mut client, "a@client.example", "b@example.com").await.starts_with("250"));
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(CONFIG, directory.path()).await.unwrap();
    let good = refusing("smith@client.example");
    install(&scene, access(1), Some(&good)).await.unwrap();
    let before = shown(&scene).unwrap();
    let with = |line: &str| format!("{line}\n{good}");
    let future = || {
        let text: Vec<u8> = access(1);
        let mut patched = text.clone();
        for at in 0..text.len() - 7 {
            if &text[at..at + 6] == b"@0.1.0" {
                patched[at..at + 6].copy_from_slice(b"@9.9.9");
            }
        }
        patched
    };
    let cut = access(1)[..5000].to_vec();
    for (what, source, settings, expected) in [
        ("no WebAssembly", b"#!/bin/sh\nrm -rf /\n".to_vec(), None, "not WebAssembly"),
        ("nothing", Vec::new(), None, "not WebAssembly"),
        ("machine code", b"\x7fELF\x02\x01\x01\0 and so on".to_vec(), None, "precompiled code"),
        ("cut off", cut, None, "damaged, or cut off"),
        ("of the future", future(), None, "this gateway knows 0.1.0"),
        (
            "not granted",
            access(3),
            Some(good.replace("grants = [\"metrics\", \"tables\"]", "")),
            "add \"metrics\", \"tables\" to `grants`",
        ),
        ("refuses its config", access(3), Some(good.replace("reject", "dance")), "it refuses its config"),
        ("unknown key", access(3), Some(with("colour = \"red\"")), "unknown key `colour`"),
        ("no TOML", access(3), Some("grants = [".to_owned()), "house.toml:1"),
        ("not its to say", access(3), Some(with("scope = \"platform\"")), "not in its settings"),
        ("not its to have", access(3), Some(with("exemptable = true")), "only the platform's tests"),
        ("above the limits", access(3), Some(with("limits = { memory = \"1 TiB\" }")), "above the gateway's own"),
    ] {
        let refusal = install(&scene, source, settings.as_deref()).await.unwrap_err();
        assert!(refusal.contains(expected), "{what}: {refusal}");
        assert_eq!(shown(&scene).unwrap(), Detail { state: before.state.clone(), ..before.clone() }, "{what}");
        assert_eq!(components(directory.path()), 1, "{what}");
    }
    let live = scene.server.live();
    for (scope, name, expected) in [
        ("tenant:nobody", "house", "there is no plugin house of tenant:nobody; there is one of tenant:example"),
        ("tenant:example", "hut", "there is no plugin hut of tenant:example"),
        ("galaxy", "house", "is not a scope"),
        ("tenant:example", "../house", "`../house`"),
    ] {
        for refusal in [
            live.roll_back(scope, name).await.unwrap_err(),
            live.switch(scope, name, false).await.unwrap_err(),
            live.remove(scope, name).await.unwrap_err(),
        ] {
            assert!(refusal.to_string().contains(expected), "{refusal}");
        }
    }
    let mut client = connected(&scene).await;
    assert!(try_recipient(&mut client, "smith@client.example", "b@example.com").await.starts_with("550 5.7.1"));
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_installs_at_once_come_one_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(CONFIG, directory.path()).await.unwrap();
    let settings = refusing("smith@client.example");
    let (one, two) =
        tokio::join!(install(&scene, access(1), Some(&settings)), install(&scene, access(2), Some(&settings)),);
    one.unwrap();
    two.unwrap();
    let versions = shown(&scene).unwrap().versions;
    assert_eq!(versions.iter().map(|version| version.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(components(directory.path()), 2);
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_that_is_cut_off_has_not_happened() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(CONFIG, directory.path()).await.unwrap();
    let socket = directory.path().join("spool/control.sock");
    let source = access(1);
    let request = |octets: u64| {
        let install = Install { octets, ..house("tenant:example", &source, Some(&refusing("x@client.example"))) };
        format!("{}\n", serde_json::json!({ "request": "plugin-install", "install": install }))
    };
    let told = tokio::task::block_in_place(|| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request(source.len() as u64).as_bytes()).unwrap();
        stream.write_all(&source[..source.len() / 2]).unwrap();
        drop(stream);
        // More than a plugin may have is refused before any of it is read.
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request(200 << 20).as_bytes()).unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        told
    });
    assert!(told.contains("more than a plugin may have"), "{told}");
    assert_eq!(shown(&scene), None);
    assert_eq!(components(directory.path()), 0);
    install(&scene, source, Some(&refusing("x@client.example"))).await.unwrap();
    scene.server.stop().await;
}

/// The platform's plugin `lists`, from a file with a table, both named in the config.
const FROM_A_FILE: &str = r#"
[[plugin]]
name = "lists"
source = "lists.wasm"
grants = ["metrics", "tables"]
tables = { blocked = "blocked.csv" }
config = { tables = { sender = "blocked" } }
[chain]
platform = ["lists"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_plugins_and_tables_along_and_a_bad_one_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("lists.wasm"), access(1)).unwrap();
    std::fs::write(at("blocked.csv"), "smith@client.example,reject r\n").unwrap();
    let scene = Scene::set(&format!("{CONFIG}{FROM_A_FILE}"), directory.path()).await.unwrap();
    let live = scene.server.live();
    let mut client = connected(&scene).await;
    let [smith, jones] = ["smith@client.example", "jones@client.example"];
    assert!(try_recipient(&mut client, smith, "b@example.com").await.starts_with("550"));
    assert!(try_recipient(&mut client, jones, "b@example.com").await.starts_with("250"));
    let loaded = |live: &postern::server::live::Live| live.plugin("platform", "lists").unwrap().state.since;
    let first = loaded(live);
    live.reload().await.unwrap();
    assert_eq!(loaded(live), first, "what has not changed is not loaded anew");

    std::fs::write(at("blocked.csv"), "jones@client.example,reject r\n").unwrap();
    live.reload().await.unwrap();
    assert!(try_recipient(&mut client, jones, "b@example.com").await.starts_with("550"), "the new table");
    assert!(try_recipient(&mut client, smith, "b@example.com").await.starts_with("250"));

    assert_eq!(live.plugin("platform", "lists").unwrap().state.on_trial, None, "another table is no other version");

    let config = std::fs::read_to_string(at("postern.toml")).unwrap();
    for (file, content) in [
        ("postern.toml", config[..config.len() / 2].to_owned()),
        ("postern.toml", config.replace("host_name", "hostname")),
        ("postern.toml", config.replace("blocked.csv", "gone.txt")),
        ("blocked.csv", "10.0.0.0/99,reject r\n".to_owned()),
        ("lists.wasm", "no component".to_owned()),
    ] {
        let good = std::fs::read(at(file)).unwrap();
        std::fs::write(at(file), &content).unwrap();
        let refusal = live.reload().await.unwrap_err();
        assert!(!refusal.is_empty());
        assert!(try_recipient(&mut client, jones, "b@example.com").await.starts_with("550"), "the old set goes on");
        std::fs::write(at(file), good).unwrap();
    }
    scene.until(|events| count(events, "reload-refused") >= 5).await;

    // What is done to another plugin looks at no file of the config's.
    let good = std::fs::read(at("lists.wasm")).unwrap();
    std::fs::write(at("lists.wasm"), "half a compon").unwrap();
    install(&scene, access(9), Some(&refusing("nobody@client.example"))).await.unwrap();
    std::fs::write(at("lists.wasm"), good).unwrap();

    // A file that was replaced is a version, and can be gone back from until the next one comes.
    std::fs::write(at("lists.wasm"), access(2)).unwrap();
    live.reload().await.unwrap();
    let state = live.plugin("platform", "lists").unwrap().state;
    assert!(state.on_trial.is_some());
    let second = state.digest;
    live.roll_back("platform", "lists").await.unwrap();
    assert_ne!(live.plugin("platform", "lists").unwrap().state.digest, second);
    let nothing = live.roll_back("platform", "lists").await.unwrap_err().to_string();
    assert!(nothing.contains("no earlier version"), "the withdrawn file of the config is none: {nothing}");
    live.reload().await.unwrap();
    assert_ne!(live.plugin("platform", "lists").unwrap().state.digest, second, "the withdrawn file does not come back");
    std::fs::write(at("lists.wasm"), access(3)).unwrap();
    live.reload().await.unwrap();
    let third = live.plugin("platform", "lists").unwrap();
    assert_eq!((third.state.source.as_str(), third.versions.len()), ("config", 3));
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_loaded_at_a_start_defers_its_own_tenants_mail_only() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(CONFIG, directory.path()).await.unwrap();
    install(&scene, access(1), Some(&refusing("smith@client.example"))).await.unwrap();
    let digest = shown(&scene).unwrap().state.digest.unwrap();
    let component = directory.path().join(format!("spool/plugins/versions/{digest}.wasm"));
    std::fs::write(&component, access(7)).unwrap();
    let scene = scene.restart(directory.path()).await.unwrap();
    let state = shown(&scene).unwrap().state;
    assert!(state.broken.unwrap().contains("install it again"));
    let mut client = connected(&scene).await;
    assert!(try_recipient(&mut client, "a@client.example", "b@example.com").await.starts_with("451 4.3.0"));
    assert!(try_recipient(&mut client, "a@client.example", "b@example.org").await.starts_with("250"));
    // It keeps nobody else from being changed, nor the config from being read again.
    let live = scene.server.live();
    let other = access(5);
    let request = house("tenant:other", &other, Some(&refusing("jones@client.example")));
    live.install(request, other).await.unwrap();
    live.reload().await.unwrap();
    assert!(shown(&scene).unwrap().state.broken.is_some());
    assert!(try_recipient(&mut client, "jones@client.example", "b@example.org").await.starts_with("550"));
    live.switch("tenant:example", "house", false).await.unwrap();
    assert!(try_recipient(&mut client, "a@client.example", "b@example.com").await.starts_with("250"));
    let refusal = live.switch("tenant:example", "house", true).await.unwrap_err().to_string();
    assert!(refusal.contains("install it again"), "{refusal}");
    // The same file again mends it, settings and all.
    let told = install(&scene, access(1), None).await.unwrap();
    assert!(told.contains("stands in no chain"), "{told}");
    live.switch("tenant:example", "house", true).await.unwrap();
    assert!(shown(&scene).unwrap().state.broken.is_none());
    assert!(try_recipient(&mut client, "a@client.example", "b@example.com").await.starts_with("250"));
    assert!(try_recipient(&mut client, "smith@client.example", "b@example.com").await.starts_with("550"));
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_fit_no_more_keep_nobody_else_from_being_changed() {
    let directory = tempfile::tempdir().unwrap();
    let isp = "[[smart_host]]\nname = \"isp\"\nhost = \"192.0.2.9\"\n";
    let scene = Scene::set(&format!("{CONFIG}{isp}"), directory.path()).await.unwrap();
    let settings = refusing("smith@client.example").replace("\"tables\"", "\"tables\", \"route:isp\"");
    install(&scene, access(1), Some(&format!("on_failure = \"reject\"\n{settings}"))).await.unwrap();
    // While nobody looks, the smart host goes.
    let path = directory.path().join("postern.toml");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace(isp, "")).unwrap();
    let scene = scene.restart(directory.path()).await.unwrap();
    let mut client = connected(&scene).await;
    let reply = try_recipient(&mut client, "a@client.example", "b@example.com").await;
    assert!(reply.starts_with('5'), "its own failure policy: {reply}");
    let live = scene.server.live();
    live.switch("tenant:example", "house", false).await.unwrap();
    assert!(try_recipient(&mut client, "a@client.example", "b@example.com").await.starts_with("250"));
    let other = access(2);
    live.install(house("tenant:other", &other, Some(&refusing("x@client.example"))), other).await.unwrap();
    live.reload().await.unwrap();
    live.switch("tenant:example", "house", true).await.unwrap();
    let reason = shown(&scene).unwrap().state.broken.unwrap();
    assert!(reason.contains("there is no smart host `isp`"), "{reason}");
    install(&scene, access(1), Some(&refusing("smith@client.example"))).await.unwrap();
    assert!(try_recipient(&mut client, "smith@client.example", "b@example.com").await.starts_with("550"));
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_renews_the_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let renew = || {
        let signed = rcgen::generate_simple_self_signed(["mx.example.net".to_owned()]).unwrap();
        std::fs::write(at("mx.pem"), signed.cert.pem()).unwrap();
        std::fs::write(at("mx.key"), signed.signing_key.serialize_pem()).unwrap();
        signed.cert.der().to_vec()
    };
    let first = renew();
    let tls = "[tls]\ncertificate = \"mx.pem\"\nkey = \"mx.key\"\n";
    let config = CONFIG.replace("role = \"inbound\"", "role = \"inbound\"\ntls = \"implicit\"");
    let scene = Scene::set(&format!("{config}{tls}"), directory.path()).await.unwrap();
    assert_eq!(certificate(&scene, &first).await, first);
    let second = renew();
    assert_eq!(certificate(&scene, &first).await, first, "not before it is told");
    scene.server.live().reload().await.unwrap();
    assert_eq!(certificate(&scene, &second).await, second);
    scene.server.stop().await;
}

/// What the listener shows to a client that trusts `root`.
async fn certificate(scene: &Scene, root: &[u8]) -> Vec<u8> {
    handshake(TcpStream::connect(scene.address()).await.unwrap(), root).await
}

/// The certificate that the other end shows to a client that trusts `root`.
pub(crate) async fn handshake(stream: TcpStream, root: &[u8]) -> Vec<u8> {
    secured(stream, root).await.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// A client of mx.example.net that trusts `root`.
pub(crate) async fn secured(stream: TcpStream, root: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("mx.example.net").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}
