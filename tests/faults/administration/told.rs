//! G6, G7, G8, G11: what the gateway tells of itself: metrics, log and status, whatever it has heard.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use postern_tests::client::Client;
use postern_tests::guest::Guest;
use postern_tests::program::{Gateway, free_address};
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use serde_json::Value;

use super::reload::write_certificate;
use super::{HTTP, config, mail_goes_on};
use crate::live::{connected, secured};

/// Names and labels of all series.
fn series(scene: &Scene) -> HashSet<String> {
    let text = String::from_utf8(scene.metrics.render()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_nothing_that_a_client_says_becomes_a_label() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let mut client = connected(&scene).await;
    let mut before = HashSet::new();
    for number in 0..500 {
        let name = format!("canary{number}");
        let commands = format!(
            "EHLO {name}.example\r\nMAIL FROM:<{name}@{name}.example>\r\nRCPT TO:<{name}@{name}.example>\r\n\
            RCPT TO:<{name}@example.com>\r\nDATA\r\n"
        );
        for command in commands.split_inclusive("\r\n") {
            client.send(command.as_bytes()).await;
            client.reply().await.unwrap();
        }
        client.send(format!("From: {name}@{name}.example\r\nX-{name}: x\r\n\r\nx\r\n.\r\n").as_bytes()).await;
        assert!(client.line().await.unwrap().starts_with("250 2.0.0"));
        if number == 20 {
            scene.taken("sink", 21).await;
            before = series(&scene);
        }
    }
    scene.taken("sink", 500).await;
    let new: Vec<_> = series(&scene).difference(&before).cloned().collect();
    // Deliveries may have found a time that none had taken before; a client's words are in none.
    assert!(new.iter().all(|name| !name.contains("canary")), "{new:?}");
    assert!(new.len() < 10, "{new:?}");
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_plugin_has_few_names_for_its_own_counters() {
    let directory = tempfile::tempdir().unwrap();
    // A hundred names, from `a00` on; at each call the same.
    let guest =
        Guest::new().import("metrics", "add", "add", "i32 i32 i64").item(r#"(data (i32.const 3000) "a00")"#).at(
            "rcpt",
            "(loop $next
                (i32.store8 (i32.const 3001) (i32.add (i32.const 48) (i32.div_u (local.get $i) (i32.const 10))))
                (i32.store8 (i32.const 3002) (i32.add (i32.const 48) (i32.rem_u (local.get $i) (i32.const 10))))
                (call $add (i32.const 3000) (i32.const 3) (i64.const 1))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $next (i32.lt_u (local.get $i) (i32.const 100))))",
        );
    std::fs::write(directory.path().join("g.wasm"), guest.build()).unwrap();
    let plugin = "[[plugin]]\nname = \"g\"\nsource = \"g.wasm\"\ngrants = [\"metrics\"]\n[chain]\nplatform = [\"g\"]\n";
    let scene = Scene::set(&config(plugin), directory.path()).await.unwrap();
    mail_goes_on(&scene, 0).await;
    let own = series(&scene).into_iter().filter(|name| name.starts_with("postern_plugin_custom_total")).count();
    assert_eq!(own, 33, "32 and `other`");
    scene.server.stop().await;
}

/// The config of the real program.
fn program(directory: &Path, listen: SocketAddr, more: &str, log: &str) -> std::path::PathBuf {
    std::fs::create_dir(directory.join("spool")).unwrap();
    let text = format!(
        "[server]\nhost_name = \"mx.example.com\"\nadministrators = [\"admin@example.com\"]\n{more}\
        [[listener]]\nname = \"mx\"\naddress = \"{listen}\"\nrole = \"inbound\"\n\
        [spool]\ndirectory = \"spool\"\n[log]\nfile = \"{log}\"\n[dns]\nsystem = false\n[chain]\nplatform = []\n\
        [[tenant]]\nname = \"example\"\ndomains = [\"example.com\"]\ndestination = {{ maildir = \"mails\" }}\n"
    );
    let path = directory.join("postern.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Says each of these and hears a reply to each; the last one.
fn say(listen: SocketAddr, lines: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    let mut last = Vec::new();
    for line in std::iter::once(&b""[..]).chain(lines.iter().copied()) {
        stream.write_all(line).unwrap();
        loop {
            last.clear();
            if replies.read_until(b'\n', &mut last).unwrap() == 0 {
                return String::new();
            }
            if last.get(3) != Some(&b'-') {
                break;
            }
        }
    }
    String::from_utf8(last).unwrap()
}

const GOOD: [&[u8]; 5] = [
    b"EHLO client.example\r\n",
    b"MAIL FROM:<smith@client.example>\r\n",
    b"RCPT TO:<jones@example.com>\r\n",
    b"DATA\r\n",
    b"Subject: x\r\n\r\nx\r\n.\r\n",
];

#[test]
fn g7_one_event_is_one_line_whatever_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let listen = free_address();
    let config = program(directory.path(), listen, "", "events.log");
    let gateway = Gateway::start(&config, listen);
    let long = [b"NOOP ".as_slice(), &vec![b'x'; 480], b"\r\n"].concat();
    for evil in [
        &b"EHLO a\x1b[2J\"}{\"event\":\"forged\"\r\n"[..],
        b"EHLO \"\\\"\r\n",
        b"EHLO a\x00b\r\n",
        b"EHLO \xff\xfe\xc3\r\n",
        b"HELO {\"event\":\"forged\"}\r\n",
        b"MAIL FROM:<\"a\\\"},{\\\"event\\\":\\\"forged\"@client.example>\r\n",
        b"\x1b]0;title\x07 \x9b31m\r\n",
        "EHLO \u{2028}\u{202e}\u{85}\r\n".as_bytes(),
        &long,
    ] {
        say(listen, &[evil]);
        say(listen, &[GOOD[0], evil]);
    }
    let evil_mail = [
        GOOD[0],
        b"MAIL FROM:<\"a\\\"},{\\\"event\\\":\\\"forged\"@client.example>\r\n",
        GOOD[2],
        GOOD[3],
        b"Message-ID: <\"},{\"event\":\"forged\"\x1b[0m@x>\r\nSubject: \xff\x1b[2J\r\n\r\nx\r\n.\r\n",
    ];
    assert!(say(listen, &evil_mail).starts_with("250 2.0.0"));
    assert!(say(listen, &GOOD).starts_with("250 2.0.0"));
    gateway.stop();
    let log = std::fs::read(directory.path().join("events.log")).unwrap();
    let log = String::from_utf8(log).expect("UTF-8");
    assert!(log.ends_with('\n') && log.lines().count() > 40, "{} lines", log.lines().count());
    for line in log.split_terminator('\n') {
        assert!(!line.chars().any(|c| c.is_control() && !('\u{80}'..='\u{9f}').contains(&c)), "{line:?}");
        assert!(line.len() < 16 * 1024);
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["event"].is_string() && event["event"] != "forged", "{line}");
    }
}

#[test]
fn g8_a_full_disk_for_the_log_stops_no_mail_and_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (listen, http) = (free_address(), free_address());
    let section = format!("[server.http]\naddress = \"{http}\"\n");
    let config = program(directory.path(), listen, &section, "/dev/full");
    let gateway = Gateway::start(&config, listen);
    for _ in 0..20 {
        assert!(say(listen, &GOOD).starts_with("250 2.0.0"));
    }
    let lost = || -> u64 {
        let mut stream = TcpStream::connect(http).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("postern_log_dropped_total ")).unwrap();
        line.parse().unwrap()
    };
    // Twenty mails are some hundred events; they are written a little later.
    let begun = tokio::time::Instant::now();
    while lost() < 100 {
        assert!(begun.elapsed() < PATIENCE, "{} events lost", lost());
        std::thread::yield_now();
    }
    gateway.stop();
}

const CANARY: &str = "c4nary-5ecret";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_no_secret_is_told_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let root = write_certificate(directory.path(), 4000);
    let password = directory.path().join("isp.password");
    std::fs::write(&password, format!("{CANARY}-host\n")).unwrap();
    let only_us = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&password, only_us).unwrap();
    let salt = "$argon2id$v=19$m=8,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$";
    let hash = format!("{salt}Y2FuYXJ5LWhhc2gtMDEyMzQ1Njc4OWFiY2RlZmdoaWo");
    let listener =
        head(NO_DNS).replace("role = \"inbound\"\n", "role = \"submission\"\ntls = \"implicit\"\nauth = true\n");
    let rest = format!(
        "{HTTP}[tls]\ncertificate = \"mx.pem\"\nkey = \"mx.key\"\n\
        [[smart_host]]\nname = \"isp\"\nhost = \"192.0.2.9\"\nuser = \"us\"\npassword_file = \"isp.password\"\n\
        [[user]]\nlogin = \"ann\"\ntenant = \"example\"\nsend_as = [\"@example.com\"]\npassword_hash = \"{hash}\"\n"
    );
    let listener = listener.replace("xclient_from = [\"127.0.0.1\"]\n", "");
    let scene = Scene::set(&format!("{listener}{rest}"), directory.path()).await.unwrap();
    let key = std::fs::read_to_string(directory.path().join("mx.key")).unwrap();
    let secrets = [CANARY, "Y2FuYXJ5LWhhc2g", key.lines().nth(1).unwrap(), "AGFubgBjNG5hcnkt", "YzRuYXJ5LTVlY3JldA"];
    // Logins that fail, in each form: the words are in base64, in the clear, or misplaced.
    for attempt in [
        &["AUTH PLAIN AGFubgBjNG5hcnktNWVjcmV0"][..],
        &["AUTH LOGIN", "YW5u", "YzRuYXJ5LTVlY3JldA=="],
        &["AUTH PLAIN c4nary-5ecret"],
        &["AUTH c4nary-5ecret"],
        &["AUTH LOGIN", "YW5u", "c4nary-5ecret\u{7f}"],
    ] {
        let stream = tokio::net::TcpStream::connect(scene.address()).await.unwrap();
        let mut client = Client::new(Box::new(secured(stream, &root).await), false, PATIENCE);
        client.line().await.unwrap();
        client.send(b"EHLO client.example\r\n").await;
        client.reply().await.unwrap();
        for line in attempt {
            client.send(format!("{line}\r\n").as_bytes()).await;
            let reply = client.line().await.unwrap();
            assert!(!reply.contains(CANARY), "{reply}");
        }
        client.hang_up();
    }
    scene.until(|events| events.iter().filter(|event| event["event"] == "disconnect").count() == 5).await;
    let mut told = vec![("log", scene.story()), ("metrics", String::from_utf8(scene.metrics.render()).unwrap())];
    let control = directory.path().join("spool/control.sock");
    for verb in ["status", "plugin-list", "reload"] {
        let socket = control.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
            stream.write_all(format!("{{\"request\":\"{verb}\"}}\n").as_bytes()).unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).unwrap();
            answer
        });
        told.push((verb, answer.await.unwrap()));
    }
    let path = directory.path().join("postern.toml");
    for arguments in [&["config", "show"][..], &["config", "show", "--effective"], &["check"], &["status"]] {
        let mut command = std::process::Command::new(crate::postern_binary());
        let output = command.arg("--config").arg(&path).args(arguments).output().unwrap();
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty(), "{arguments:?}");
        told.push((arguments[0], String::from_utf8([output.stdout, output.stderr].concat()).unwrap()));
    }
    // An error that quotes the config: a hash that is none, and a password where none may stand.
    let good = std::fs::read_to_string(&path).unwrap();
    for wrong in [
        good.replace("password_file = \"isp.password\"", &format!("password = \"{CANARY}\"")),
        good.replace(&hash, CANARY),
    ] {
        std::fs::write(&path, wrong).unwrap();
        told.push(("error", scene.server.live().reload().await.unwrap_err()));
    }
    for (where_, text) in &told {
        for secret in &secrets {
            assert!(!text.contains(secret), "{where_} tells {secret}: {text}");
        }
    }
    scene.server.stop().await;
}
