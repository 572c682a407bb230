//! What is signed here is verified by `authentication`, whose author has not seen the signer. That opendkim and dkimpy do so, too,
//! is shown in `tests/peers`.

use std::sync::Arc;

use bytes::Bytes;
use hickory_resolver::proto::rr::RecordType;

use super::*;
use crate::authentication::{Settings, Verifier};
use crate::dns::responder::{Answer, Responder, txt};
use crate::mail::body::BodyFile;
use crate::mail::{Field, Header};
use crate::metrics::Metrics;

const NOW: u64 = 1_790_000_000;

struct World {
    keys: Keyring,
    verifier: Verifier,
}

impl World {
    async fn new() -> Self {
        let dns = Responder::start().await;
        let made = [("a.example", "r", Algorithm::Rsa), ("a.example", "e", Algorithm::Ed25519)];
        let more = [("b.example", "x.y", Algorithm::Rsa), ("c.example", "c", Algorithm::Rsa)];
        let mut keys = Keyring::default();
        for (domain, selector, algorithm) in made.into_iter().chain(more) {
            let (key, _) = Key::generate(algorithm).unwrap();
            let text = key.record().unwrap();
            let strings: Vec<&str> = text.as_bytes().chunks(255).map(|part| str::from_utf8(part).unwrap()).collect();
            let name = format!("{selector}._domainkey.{domain}");
            dns.set(&name, RecordType::TXT, Answer::Records(vec![txt(&strings)]));
            keys = keys.with(domain, selector, key);
        }
        let metrics = Arc::new(Metrics::new().unwrap());
        Self { keys, verifier: Verifier::new(dns.resolver(), Settings::default(), metrics) }
    }

    fn carry_out(&self, message: &mut Message, requests: &[SignatureRequest]) -> Vec<Done> {
        let done = carry_out(message, requests, &self.keys, &policy(), NOW).unwrap();
        done.into_iter().map(|(_, done)| done).collect()
    }

    /// Of all signatures, topmost first, and of the ARC chain: the word for each.
    async fn verify(&self, message: &Message) -> (Vec<&'static str>, &'static str) {
        let signatures = self.verifier.dkim(message, &[]).await;
        let words = signatures.iter().map(|signature| signature.outcome.name()).collect();
        (words, self.verifier.arc(message).await.outcome.name())
    }
}

fn policy() -> Policy {
    Policy { timestamp: true, validity: None, service_id: "mx.example.net".to_owned() }
}

fn request(kind: SignatureKind, domain: &str, selector: &str) -> SignatureRequest {
    SignatureRequest { kind, domain: Domain::parse(domain).unwrap(), selector: selector.into() }
}

fn sign(domain: &str, selector: &str) -> SignatureRequest {
    request(SignatureKind::Dkim, domain, selector)
}

fn seal(domain: &str, selector: &str) -> SignatureRequest {
    request(SignatureKind::Arc, domain, selector)
}

fn message(text: &[u8]) -> Message {
    let at = text.windows(4).position(|window| window == b"\r\n\r\n").map_or(text.len(), |at| at + 2);
    let (header, body) = text.split_at(at);
    let body =
        body.strip_prefix(b"\r\n").map_or_else(Body::absent, |body| Body::from_bytes(Bytes::copy_from_slice(body)));
    Message { header: Header::parse(&Bytes::copy_from_slice(header)), body }
}

fn octets(message: &Message) -> Vec<u8> {
    let mut octets = message.header.to_bytes().to_vec();
    if message.body.is_separated() {
        octets.extend_from_slice(b"\r\n");
    }
    octets.extend_from_slice(&message.body.read_at(0, usize::MAX).unwrap());
    octets
}

const MAIL: &[u8] = b"Received: from x by y; Thu, 1 Jan 2026 00:00:00 +0000\r\nFrom: Ann <ann@a.example>\r\n\
    To: bob@b.example,\r\n\tcarl@b.example\r\nSubject:  two \t words\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\
    Message-ID: <1@a.example>\r\nX-Other: x\r\n\r\nHello,\r\n\r\n  this is  it. \r\n\r\n\r\n";

#[tokio::test]
async fn r27_signatures_by_both_algorithms_are_verified_by_others() {
    let world = World::new().await;
    let mut mail = message(MAIL);
    let requests = [sign("a.example", "r"), sign("a.example", "e"), sign("b.example", "x.y"), sign("a.example", "r")];
    assert_eq!(world.carry_out(&mut mail, &requests), [Done::Signed; 3]);
    assert_eq!(world.verify(&mail).await, (vec!["pass"; 3], "none"));
    let text = String::from_utf8(octets(&mail)).unwrap();
    assert!(text.split("\r\n").all(|line| line.len() <= 78), "{text}");
    assert!(text.ends_with(std::str::from_utf8(MAIL).unwrap()), "all else stays as it is");
}

#[tokio::test]
async fn bodies_and_headers_of_all_kinds() {
    let world = World::new().await;
    for (header, body) in [
        ("From: a@a.example\r\n", &b"\r\n"[..]),
        ("From: a@a.example\r\n", b""),
        ("From: a@a.example\r\n", b"\r\n \r\n\t\r\n"),
        ("From: a@a.example\r\n", b"\r\ntext\r\n \t\r\n\r\n  \r\n"),
        ("From: a@a.example\r\n", b"\r\nno end"),
        ("From: a@a.example\r\n", b"\r\nno end but white space \t"),
        ("From: \u{e4}\u{f6}@a.example\r\nSubject: \u{80}\u{ff}  x\r\n", b"\r\n\xff\xfe\r\n"),
        ("From:b@a.example\r\nfrom: a@a.example\r\n", b"\r\n.\r\n..\r\n"),
        ("From: a@a.example\r\nSubject:\r\nsubject: \r\n y\r\n", b"\r\nx\r\n"),
        ("FROM : a@a.example\r\n", b"\r\nx\r\n"),
        ("Subject: nobody wrote this\r\n", b"\r\nx\r\n"),
    ] {
        let text: Vec<u8> =
            header.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).chain(body.iter().copied()).collect();
        let mut mail = message(&text);
        world.carry_out(&mut mail, &[sign("a.example", "r"), sign("a.example", "e"), seal("b.example", "x.y")]);
        let (dkim, arc) = world.verify(&mail).await;
        assert_eq!((dkim, arc), (vec!["pass"; 2], "pass"), "{}", text.escape_ascii());
    }
}

#[tokio::test]
async fn what_is_changed_afterwards_is_noticed() {
    let world = World::new().await;
    let mut mail = message(MAIL);
    world.carry_out(&mut mail, &[sign("a.example", "r")]);
    let add = |name: &str, value: &str| {
        let mut copy = mail.clone();
        copy.header.prepend(Field::new(name, value).unwrap());
        copy
    };
    for (name, harmless) in [
        ("From", false),
        ("Subject", false),
        ("Reply-To", false),
        ("Cc", false),
        ("Content-Type", false),
        // A mailing list's, and a relay's.
        ("List-Id", true),
        ("Received", true),
        ("Sender", true),
    ] {
        let (dkim, _) = world.verify(&add(name, "x@evil.example")).await;
        assert_eq!(dkim == ["pass"], harmless, "{name}: {dkim:?}");
    }
    let mut longer = mail.clone();
    longer.body = Body::from_bytes(Bytes::from_static(b"Hello,\r\n\r\n this is it.\r\nNot at all.\r\n"));
    assert_ne!(world.verify(&longer).await.0, ["pass"]);
}

#[tokio::test]
async fn a_chain_of_seals_is_verified_by_others() {
    let world = World::new().await;
    let mut mail = message(MAIL);
    world.carry_out(&mut mail, &[seal("a.example", "r"), sign("a.example", "r")]);
    let first = mail.header.first("ARC-Authentication-Results").unwrap().value();
    assert_eq!(first, b"i=1; mx.example.net; none");
    for (domain, selector) in [("b.example", "x.y"), ("c.example", "c"), ("a.example", "r")] {
        let found = "mx.example.net; dkim=pass header.d=a.example; arc=pass (1)";
        mail.header.prepend(Field::new("Authentication-Results", found).unwrap());
        mail.header.prepend(Field::new("Received", "from one by another").unwrap());
        assert_eq!(world.carry_out(&mut mail, &[seal(domain, selector)]), [Done::Sealed]);
        assert_eq!(world.verify(&mail).await, (vec!["pass"], "pass"), "{domain}");
        mail.header.remove_all("Authentication-Results");
    }
    let newest = mail.header.first("ARC-Authentication-Results").unwrap().value();
    assert_eq!(newest, b"i=4; mx.example.net; dkim=pass header.d=a.example; arc=pass (1)");
    assert_eq!(mail.header.named("ARC-Seal").count(), 4);
    let twice = [seal("a.example", "r"), seal("b.example", "x.y")];
    let mut fresh = message(MAIL);
    assert_eq!(world.carry_out(&mut fresh, &twice), [Done::Sealed, Done::Left(Unsealed::Sealed)]);
    mail.header.replace("ARC-Seal", 2, None);
    assert_ne!(world.verify(&mail).await.1, "pass");
}

#[tokio::test]
async fn a_broken_chain_is_sealed_once_as_broken() {
    let world = World::new().await;
    let mut mail = message(MAIL);
    world.carry_out(&mut mail, &[seal("a.example", "r")]);
    mail.header.prepend(Field::new("Authentication-Results", "mx.example.net; arc=fail").unwrap());
    assert_eq!(world.carry_out(&mut mail, &[seal("b.example", "x.y")]), [Done::Sealed]);
    let seal_of = |mail: &Message| String::from_utf8(mail.header.first("ARC-Seal").unwrap().value()).unwrap();
    assert!(seal_of(&mail).starts_with("i=2; a=rsa-sha256; cv=fail;"), "{}", seal_of(&mail));
    assert_ne!(world.verify(&mail).await.1, "pass");
    let before = octets(&mail);
    assert_eq!(world.carry_out(&mut mail, &[seal("c.example", "c")]), [Done::Left(Unsealed::Failed)]);
    assert_eq!(octets(&mail), before);
}

#[tokio::test]
async fn without_the_key_nothing_is_signed() {
    let world = World::new().await;
    let mut mail = message(MAIL);
    for missing in
        [sign("a.example", "gone"), seal("gone.example", "r"), sign("a.example", "../r"), sign("b.example", "r")]
    {
        let requests = [sign("a.example", "r"), missing];
        let error = carry_out(&mut mail, &requests, &world.keys, &policy(), NOW).unwrap_err();
        assert!(matches!(error, SigningError::NoKey(_)), "{error}");
        assert_eq!(octets(&mail), MAIL);
    }
}

#[tokio::test]
async fn times_are_as_config_says() {
    let world = World::new().await;
    for (timestamp, validity, expected) in [
        (true, None, " t=1790000000; h="),
        (true, Some(3600), " t=1790000000; x=1790003600; h="),
        (false, Some(3600), " s=e; x=1790003600; h="),
        (false, None, " s=e; h="),
    ] {
        let mut mail = message(MAIL);
        let policy = Policy { timestamp, validity, ..policy() };
        carry_out(&mut mail, &[sign("a.example", "e")], &world.keys, &policy, NOW).unwrap();
        let field = mail.header.first("DKIM-Signature").unwrap().value();
        let text = String::from_utf8(field).unwrap().replace('\t', " ");
        assert!(text.contains(expected) && !text.contains("l="), "{expected}: {text}");
    }
}

/// Faults.md N6: 100 MB lie in a file, and are read piece by piece.
#[tokio::test]
async fn a_big_body_in_a_file_is_hashed_in_pieces() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("body");
    let line = b"all work and no play  \r\n";
    let octets = line.repeat(100_000);
    std::fs::write(&path, &octets).unwrap();
    let file = BodyFile::kept(std::fs::File::open(&path).unwrap(), octets.len() as u64, path.clone());
    let mut mail = message(MAIL);
    let mut small = mail.clone();
    mail.body = Body::from_file(Arc::new(file));
    small.body = Body::from_bytes(octets.into());
    world.carry_out(&mut mail, &[sign("a.example", "e")]);
    world.carry_out(&mut small, &[sign("a.example", "e")]);
    assert_eq!(mail.header, small.header);
    assert_eq!(world.verify(&mail).await.0, ["pass"]);
    // Cut off behind our back.
    std::fs::write(&path, b"short").unwrap();
    let error = carry_out(&mut mail, &[sign("a.example", "e")], &world.keys, &policy(), NOW).unwrap_err();
    assert!(matches!(error, SigningError::Unreadable(_)), "{error}");
}
