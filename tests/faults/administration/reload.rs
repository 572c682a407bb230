//! G9, G10: config and certificates that change while mail flows.

use std::path::Path;

use postern_tests::scene::{NO_DNS, Scene, head};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::{config, mail_goes_on};
use crate::live::{connected, try_recipient};

fn refused(scene: &Scene) -> u64 {
    scene.metrics.reloads.with_label_values(&["refused"]).get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_config_that_is_wrong_changes_nothing_and_ends_no_connection() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config(""), directory.path()).await.unwrap();
    let path = directory.path().join("postern.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    let mut client = connected(&scene).await;
    let tenant = "[[tenant]]\nname = \"new\"\ndomains = [\"new.example\"]\n";
    let faults = [
        ("syntax", format!("{good}[[tenant\n"), "postern.toml:"),
        ("half written", good[..good.len() / 2].to_owned(), "postern.toml:"),
        ("empty", String::new(), "host_name"),
        ("unknown key", format!("{good}{tenant}colour = \"red\"\n"), "unknown key `colour`"),
        ("no certificate", format!("{good}{tenant}[tls]\ncertificate = \"no.pem\"\nkey = \"no.key\"\n"), "no.pem"),
        ("no plugin", format!("{good}{tenant}[[plugin]]\nname = \"p\"\nsource = \"no.wasm\"\n"), "no.wasm"),
        (
            "a domain twice",
            format!("{good}{tenant}[[tenant]]\nname = \"n\"\ndomains = [\"example.com\"]\n"),
            "example.com",
        ),
        ("no UTF-8", String::from("\u{0}\u{1}"), "postern.toml:"),
    ];
    let count = faults.len() as u64;
    for (what, text, says) in faults {
        std::fs::write(&path, text).unwrap();
        let refusal = scene.server.live().reload().await.expect_err(what);
        assert!(refusal.contains(says), "{what}: {refusal}");
        // The same connection goes on, by the old config: nothing of the new one is in force.
        let reply = try_recipient(&mut client, "smith@client.example", "jones@example.com").await;
        assert!(reply.starts_with("250"), "{what}: {reply}");
        let reply = try_recipient(&mut client, "smith@client.example", "jones@new.example").await;
        assert!(reply.starts_with("550 5.7.1"), "{what}: {reply}");
    }
    assert_eq!(refused(&scene), count);
    std::fs::remove_file(&path).unwrap();
    scene.server.live().reload().await.expect_err("no file");
    // A port in use is no mistake of the file: listeners change at a restart only, and the reload says so.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(&path, good.replacen("127.0.0.1:0", &taken.to_string(), 1)).unwrap();
    let told = scene.server.live().reload().await.unwrap();
    assert!(told.contains("restart"), "{told}");
    let reply = try_recipient(&mut client, "smith@client.example", "jones@example.com").await;
    assert!(reply.starts_with("250"), "{reply}");
    mail_goes_on(&scene, 0).await;
    scene.server.stop().await;
}

/// A certificate for mx.example.net that ends in that year, and its key.
pub(super) fn write_certificate(directory: &Path, year: i32) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["mx.example.net".to_owned()]).unwrap();
    parameters.not_before = date_time_ymd(2000, 1, 1);
    parameters.not_after = date_time_ymd(year, 1, 1);
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(directory.join("mx.pem"), certificate.pem()).unwrap();
    std::fs::write(directory.join("mx.key"), key.serialize_pem()).unwrap();
    certificate.der().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_a_certificate_that_can_not_be_used_leaves_the_old_one_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let first = write_certificate(directory.path(), 4000);
    let listener = head(NO_DNS).replace("role = \"inbound\"\n", "role = \"inbound\"\ntls = \"starttls\"\n");
    let tls = "[tls]\ncertificate = \"mx.pem\"\nkey = \"mx.key\"\n";
    let scene = Scene::set(&format!("{listener}{tls}"), directory.path()).await.unwrap();
    let expires = || scene.metrics.certificate_expiry.with_label_values(&["mx"]).get();
    // 4000-01-01
    assert_eq!(expires(), 64_060_588_800);
    let files = ["mx.pem", "mx.key"].map(|name| (name, std::fs::read(at(name)).unwrap()));
    let restore = || files.iter().for_each(|(name, octets)| std::fs::write(at(name), octets).unwrap());
    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let faults: [Damage<'_>; 5] = [
        ("expired", Box::new(|| drop(write_certificate(directory.path(), 2001)))),
        (
            "of another key",
            Box::new(|| {
                std::fs::write(at("mx.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
            }),
        ),
        ("no certificate", Box::new(|| std::fs::write(at("mx.pem"), "hello\n").unwrap())),
        (
            "cut off",
            Box::new(|| {
                std::fs::write(at("mx.pem"), &files[0].1[..200]).unwrap();
            }),
        ),
        ("gone", Box::new(|| std::fs::remove_file(at("mx.key")).unwrap())),
    ];
    for (number, (what, damage)) in faults.iter().enumerate() {
        damage();
        let refusal = scene.server.live().reload().await.expect_err(what);
        assert!(refusal.contains("mx.pem") || refusal.contains("mx.key"), "{what}: {refusal}");
        assert_eq!((expires(), refused(&scene)), (64_060_588_800, number as u64 + 1), "{what}");
        assert_eq!(shown(&scene, &first).await, first, "{what}");
        restore();
    }
    let second = write_certificate(directory.path(), 3000);
    scene.server.live().reload().await.unwrap();
    // 3000-01-01
    assert_eq!((shown(&scene, &second).await, expires()), (second, 32_503_680_000));
    scene.server.stop().await;
}

/// What STARTTLS shows to a client that trusts `root`.
async fn shown(scene: &Scene, root: &[u8]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(scene.address()).await.unwrap();
    let mut heard = Vec::new();
    for (command, last) in [("", "220 "), ("EHLO client.example\r\n", "\r\n250 "), ("STARTTLS\r\n", "220 ")] {
        stream.write_all(command.as_bytes()).await.unwrap();
        heard.clear();
        let is_whole = |heard: &[u8]| heard.ends_with(b"\r\n") && str::from_utf8(heard).unwrap().contains(last);
        while !is_whole(&heard) {
            assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "{command}");
        }
    }
    crate::live::handshake(stream, root).await
}
