//! SP17: all octets, in each place from which text comes into replies, trace fields and the log.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_tests::client::Client;
use postern_tests::dns::Dns;
use postern_tests::scene::{PATIENCE, Scene, head};
use postern_tests::sink::Taken;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::dialogs::play_row;

/// A session that has read the banner, with the client's name and address as told by XCLIENT.
async fn connect(scene: &Scene, xclient: &str) -> Client {
    let mut client = Client::new(Box::new(TcpStream::connect(scene.address()).await.unwrap()), false, PATIENCE);
    client.line().await.unwrap();
    client.send(format!("XCLIENT {xclient}\r\n").as_bytes()).await;
    client.line().await.unwrap();
    client
}

/// Says these lines, and the first reply that refuses, or the last.
async fn say(client: &mut Client, lines: &[&[u8]]) -> String {
    let mut last = String::new();
    for line in lines {
        client.send(&[line, &b"\r\n"[..]].concat()).await;
        // `Client` refuses replies with control characters.
        last = client.reply().await.unwrap().pop().unwrap();
        if last.starts_with(['4', '5']) {
            break;
        }
    }
    last
}

/// Only fields that are ours or the client's, each of one grammar.
fn check_header(taken: &Taken, whats: &[String]) -> String {
    let text = String::from_utf8(taken.octets.clone()).unwrap();
    // Which of them it is stands in its subject.
    let number = text.split("Subject: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
    let what: &str = &whats[number.parse::<usize>().unwrap()];
    assert!(text.chars().all(|c| c == '\r' || c == '\n' || !c.is_control()), "{what}: {text:?}");
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "x\r\n", "{what}");
    let unfolded = header.replace("\r\n ", " ").replace("\r\n\t", " ");
    assert!(!unfolded.contains("\r\n\r\n") && !unfolded.replace("\r\n", "").contains(['\r', '\n']), "{what}");
    for line in unfolded.split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{what}: {line}"));
        match name {
            "Received" => check_received(value, what),
            "Authentication-Results" => check_results(value, what),
            "Received-SPF" => check_spf(value, what),
            "Subject" => assert_eq!(value, number, "{what}"),
            _ => panic!("{what}: {line}"),
        }
    }
    unfolded
}

/// `from NAME (NAME [IP]) by HOST with ESMTP id ID for <…>; DATE`: no more words, comments and semicolons than these.
fn check_received(value: &str, what: &str) {
    let (start, date) = value.split_once("; ").unwrap_or_else(|| panic!("{what}: {value}"));
    assert!(date.ends_with("+0000"), "{what}: {value}");
    let words: Vec<_> = start.split(' ').filter(|word| !word.is_empty()).collect();
    let at = |word: &str| words.iter().position(|w| *w == word);
    assert_eq!((at("from"), words[0]), (Some(0), "from"), "{what}: {value}");
    let by = at("by").unwrap();
    assert!(by == 3 || by == 4, "{what}: {value}");
    assert_eq!(words[by..by + 5].iter().map(|word| word.len().min(2)).max(), Some(2));
    assert_eq!(
        words[by + 1..by + 5].join(" ").split(" id").next(),
        Some("mx.example.net with ESMTP"),
        "{what}: {value}"
    );
    assert_eq!(
        (value.matches('(').count(), value.matches(')').count(), value.matches(';').count()),
        (1, 1, 1),
        "{what}"
    );
}

/// RFC 8601 §2.2: our name, then results of methods that were asked for, and none besides.
fn check_results(value: &str, what: &str) {
    let parts = split(value);
    assert_eq!(parts[0].trim(), "mx.example.net", "{what}: {value}");
    let methods: BTreeSet<_> =
        parts[1..].iter().map(|part| part.trim().split('=').next().unwrap_or_default()).collect();
    assert!(methods.iter().all(|method| ["spf", "iprev"].contains(method)), "{what}: {value}");
}

/// RFC 7208 §9.1: the result, a comment, and pairs, each key once.
fn check_spf(value: &str, what: &str) {
    let (result, pairs) = value.split_once(") ").unwrap_or_else(|| panic!("{what}: {value}"));
    assert!(["none (", "fail (", "pass ("].iter().any(|start| result.starts_with(start)), "{what}: {value}");
    let keys: Vec<_> = split(pairs).iter().map(|pair| pair.trim().split('=').next().unwrap_or_default()).collect();
    let known = ["client-ip", "envelope-from", "helo", "receiver", "identity", "mechanism"];
    assert!(keys.iter().all(|key| known.contains(key)), "{what}: {value}");
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{what}: {value}");
}

/// At semicolons outside of comments and quotes.
fn split(value: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut depth, mut quoted, mut escaped) = (Vec::new(), 0, 0, false, false);
    for (at, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            ';' if !quoted && depth == 0 => {
                parts.push(&value[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    assert!(!quoted && depth == 0, "{value}");
    parts.push(&value[begin..]);
    parts
}

/// One event is one line, whatever is in it.
fn check_log(scene: &Scene) {
    for event in scene.events() {
        let line = event.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

async fn scene(directory: &std::path::Path, dns: &Dns, config: &str) -> Scene {
    let scene = Scene::set(&(head(&dns.setting()) + config), directory).await;
    scene.unwrap()
}

const SPF: &str =
    "[[plugin]]\nname = \"spf\"\nconfig = { fail = \"tag\", helo_fail = \"tag\" }\n[chain]\nplatform = [\"spf\"]\n";

/// In the name at EHLO, and quoted in the sender's local part: both are quoted in the results of SPF.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp17_octets_in_ehlo_and_in_the_sender() {
    play_row("SP17", 1);
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    dns.txt("client.example", "v=spf1 -all");
    let scene = scene(directory.path(), &dns, SPF).await;
    let mut places: Vec<Vec<u8>> = (0..=255_u8).map(|octet| vec![octet]).collect();
    places.extend(
        ["\u{85}", "\u{2028}", "\u{fc}", "\u{202e}", "\\\"", ";dkim=pass(", ")\\", "\r\nX: y"]
            .map(|text| text.as_bytes().to_vec()),
    );
    let mut whats = Vec::new();
    for place in &places {
        let with = |before: &str, after: &str| [before.as_bytes(), place, after.as_bytes()].concat();
        let what = place.escape_ascii().to_string();
        let mut client = connect(&scene, "ADDR=192.0.2.1").await;
        let greeted = say(&mut client, &[&with("EHLO a", "b.client.example")]).await;
        if place.contains(&b'\n') {
            // More than one line, of which one is no command, or comes too early.
            assert!(greeted.starts_with('5'), "{what}: {greeted}");
            client.hang_up();
            continue;
        }
        let escaped = match place.as_slice() {
            b"\"" | b"\\" => [b"\\", place.as_slice()].concat(),
            _ => place.clone(),
        };
        let sender = [b"MAIL FROM:<\"a", escaped.as_slice(), b"b\"@client.example>"].concat();
        let with_name = greeted.starts_with("250 ");
        if !with_name {
            say(&mut client, &[b"EHLO plain.client.example"]).await;
        }
        let begun = say(&mut client, &[&sender]).await;
        if !begun.starts_with("250 ") && !with_name {
            client.hang_up();
            continue;
        }
        if !begun.starts_with("250 ") {
            say(&mut client, &[b"RSET", b"MAIL FROM:<ab@client.example>"]).await;
        }
        let mail = format!("Subject: {}\r\n\r\nx\r\n.", whats.len());
        let end = say(&mut client, &[b"RCPT TO:<b@example.com>", b"DATA", mail.as_bytes()]).await;
        client.hang_up();
        assert!(end.starts_with("250 "), "{what}: {end}");
        whats.push(what);
    }
    assert!(whats.len() >= 94, "{}", whats.len());
    for mail in scene.taken("sink", whats.len()).await {
        let header = check_header(&mail, &whats);
        assert!(header.contains("Authentication-Results: ") && header.contains("Received-SPF: "), "{header}");
    }
    check_log(&scene);
    scene.server.stop().await;
}

/// In the name that the client's address has in DNS, and in the name, HELO and login that a front end tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp17_octets_in_the_clients_name() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let spf = SPF.replace("helo_fail = \"tag\"", "iprev = true");
    let scene = scene(directory.path(), &dns, &spf).await;
    let mut whats = Vec::new();
    for octet in 0..=255_u8 {
        let address = format!("192.0.2.{octet}");
        let label = [b'a', octet, b'b'];
        dns.ptr_octets(&address, &[&label, b"client", b"example"]);
        let told = format!("ADDR=192.0.3.{octet} NAME=a+{octet:02X}b.client.example");
        let helo = format!("ADDR=192.0.3.{octet} HELO=a+{octet:02X}b.client.example LOGIN=a+{octet:02X}b");
        for xclient in [format!("ADDR={address}"), told, helo] {
            let what = format!("{octet} {xclient}");
            let mut client = connect(&scene, &xclient).await;
            let with_helo = xclient.contains("HELO=");
            if !with_helo || !octet.is_ascii_graphic() {
                say(&mut client, &[b"EHLO mail.client.example"]).await;
            }
            let mail = format!("Subject: {}\r\n\r\nx\r\n.", whats.len());
            let lines: [&[u8]; 4] = [b"MAIL FROM:<>", b"RCPT TO:<b@example.com>", b"DATA", mail.as_bytes()];
            let end = say(&mut client, &lines).await;
            client.hang_up();
            assert!(end.starts_with("250 "), "{what}: {end}");
            whats.push(what);
        }
    }
    for mail in scene.taken("sink", whats.len()).await {
        check_header(&mail, &whats);
    }
    check_log(&scene);
    scene.server.stop().await;
}

/// In what a domain says to those whom its record fails (RFC 7208 §6.2), which goes into a reply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp17_octets_in_an_explanation() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let spf = "[[plugin]]\nname = \"spf\"\n[chain]\nplatform = [\"spf\"]\n";
    let scene = scene(directory.path(), &dns, spf).await;
    for octet in 0..=255_u8 {
        let domain = format!("d{octet}.example");
        dns.txt(&domain, &format!("v=spf1 -all exp=exp.{domain}"));
        dns.txt_octets(&format!("exp.{domain}"), &[&[b'a', octet, b'b'][..], b"\r\n250 ok"].concat());
        let mut client = connect(&scene, "ADDR=192.0.2.1").await;
        let mail = format!("MAIL FROM:<x@{domain}>");
        let end = say(&mut client, &[b"EHLO mail.client.example", mail.as_bytes(), b"RCPT TO:<b@example.com>"]).await;
        assert!(end.starts_with("550 5.7.23 "), "{octet}: {end}");
        // Nothing else was said.
        assert_eq!(say(&mut client, &[b"VRFY x"]).await.get(..4), Some("252 "), "{octet}");
        client.hang_up();
    }
    check_log(&scene);
    scene.server.stop().await;
}

/// In the name of a user: nobody has it, and the session goes on.
#[test]
fn sp17_octets_in_the_name_of_a_user() {
    let mut text = format!("# SP17: AUTH\n@ offer implicit\n@ auth\n@ set max_errors 1000\n{}", crate::GREETED);
    for octet in 0..=255_u8 {
        let credentials = STANDARD.encode([&b"\0ann"[..], &[octet], b"x\0secret"].concat());
        text += &format!("C: AUTH PLAIN {credentials}\nS: 5*\n");
    }
    crate::play([("octets in a login".to_owned(), text + "C: NOOP\nS: 250 *\n")]);
}

/// In the name that a ClientHello asks for (RFC 6066 §3): no session comes of it, and others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp17_octets_in_sni() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let directory = tempfile::tempdir().unwrap();
    let config = super::tls::implicit(directory.path());
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    let hello = super::tls::client_hello(directory.path(), "axb.example.net");
    let at = hello.windows(3).position(|window| window == b"axb").unwrap() + 1;
    for octet in 0..=255_u8 {
        let mut hello = hello.clone();
        hello[at] = octet;
        let mut stream = TcpStream::connect(scene.address()).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        // A server hello or an alert, never anything in the clear.
        let mut first = [0; 3];
        stream.read_exact(&mut first).await.unwrap();
        assert!(matches!(first, [21 | 22, 3, _]), "{octet}: {first:?}");
    }
    scene.until(|events| events.iter().filter(|event| event["event"] == "disconnect").count() == 256).await;
    assert!(scene.events().iter().all(|event| event["event"] != "mail"));
    check_log(&scene);
    let is_end = |event: &Value| event["event"] == "disconnect";
    assert!(
        scene.events().iter().filter(|event| is_end(event)).all(|event| event["end"].as_str().unwrap().len() < 300)
    );
    scene.server.stop().await;
}
