//! Hostile signatures (fault N6). The vectors of others are in `suite`.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use sha2::{Digest as _, Sha256};

use super::super::canonical::Form;
use super::*;
use crate::dns::responder::{Answer, Responder, txt};
use crate::mail::BodyWriter;

struct Signer {
    key: Ed25519KeyPair,
    dns: Responder,
}

impl Signer {
    async fn new() -> Self {
        let signer = Self { key: Ed25519KeyPair::generate().unwrap(), dns: Responder::start().await };
        signer.publish("");
        signer
    }

    fn publish(&self, more: &str) {
        let record = format!("v=DKIM1; k=ed25519; {more}p={}", STANDARD.encode(self.key.public_key()));
        self.dns.set("sel._domainkey.example.com", RecordType::TXT, Answer::Records(vec![txt(&[&record])]));
    }

    /// The mail with a signature of From and Subject above it; `partial`: with `l=`.
    fn sign(&self, mail: &str, form: Form, partial: bool) -> String {
        let Message { header, body } = message(mail);
        let hashed = body::hash(&body, &[Wanted { form, limit: None }]).unwrap().remove(0);
        let name = if form == Form::Relaxed { "relaxed" } else { "simple" };
        let length = if partial { format!(" l={};", hashed.len) } else { String::new() };
        let field = format!(
            "DKIM-Signature: v=1; a=ed25519-sha256; c={name}/{name}; d=example.com; s=sel;{length}\r\n\
             \th=from:subject; bh={}; b=\r\n",
            STANDARD.encode(hashed.sha256)
        );
        let names = ["from".to_owned(), "subject".to_owned()];
        let mut signed = Selection::new(&header).canonical(form, &names, None);
        form.add_own_field(field.as_bytes(), &mut signed);
        let signature = STANDARD.encode(self.key.sign(&Sha256::digest(signed)));
        format!("{}{signature}\r\n{mail}", field.trim_end())
    }

    async fn verify(&self, mail: &str) -> Vec<Signature> {
        verify(&self.dns.resolver(), &message(mail), Duration::from_secs(20), &[]).await
    }

    async fn outcome(&self, mail: &str) -> (Outcome, String) {
        let mut signatures = self.verify(mail).await;
        assert_eq!(signatures.len(), 1);
        signatures.pop().map(|signature| (signature.outcome, signature.reason)).unwrap()
    }
}

fn message(mail: &str) -> Message {
    let (header, body) = mail.split_once("\r\n\r\n").unwrap();
    Message {
        header: Header::parse(&Bytes::from(format!("{header}\r\n"))),
        body: Body::from_bytes(Bytes::copy_from_slice(body.as_bytes())),
    }
}

const MAIL: &str = "From: joe@example.com\r\nSubject: hi\r\nTo: x@example.org\r\n\r\nHello\r\nthere\r\n";

#[tokio::test]
async fn good_and_changed() {
    let signer = Signer::new().await;
    for form in [Form::Relaxed, Form::Simple] {
        let signed = signer.sign(MAIL, form, false);
        let [ref signature] = signer.verify(&signed).await[..] else { panic!() };
        assert_eq!((signature.outcome, signature.reason.as_str()), (Outcome::Pass, "good signature"));
        assert_eq!((signature.domain.as_str(), signature.selector.as_str()), ("example.com", "sel"));
        assert_eq!((signature.identity.as_str(), signature.value.len()), ("@example.com", 12));
        for (from, to, outcome) in [
            ("there", "where", (Outcome::Fail, "the body was changed".to_owned())),
            ("Subject: hi", "Subject: ho", (Outcome::Fail, "the signature does not match".to_owned())),
            ("From: joe", "From: jim", (Outcome::Fail, "the signature does not match".to_owned())),
            ("To: x", "To: y", (Outcome::Pass, "good signature".to_owned())),
        ] {
            assert_eq!(signer.outcome(&signed.replace(from, to)).await, outcome, "{form:?} {to}");
        }
    }
    assert!(signer.verify(MAIL).await.is_empty());
}

#[tokio::test]
async fn n6_what_is_added_to_a_body_makes_it_policy() {
    let signer = Signer::new().await;
    let signed = signer.sign(MAIL, Form::Relaxed, true);
    assert!(signed.contains("l="), "{signed}");
    assert_eq!(signer.outcome(&signed).await.0, Outcome::Pass, "it covers all of it");
    let (outcome, reason) = signer.outcome(&format!("{signed}and more\r\n")).await;
    assert_eq!(outcome, Outcome::Policy, "{reason}");
    assert!(reason.contains("octets of a body of"), "{reason}");
    let shorter = signed.replace("\r\nthere", "");
    assert_eq!(signer.outcome(&shorter).await.0, Outcome::Fail);
}

#[tokio::test]
async fn keys() {
    let signer = Signer::new().await;
    let signed = signer.sign(MAIL, Form::Relaxed, false);
    signer.publish("t=y:s; ");
    let [ref signature] = signer.verify(&signed).await[..] else { panic!() };
    assert_eq!((signature.outcome, signature.testing), (Outcome::Pass, true));
    for (answer, outcome) in [
        (Answer::Records(vec![txt(&["v=DKIM1; k=ed25519; p="])]), Outcome::Permerror),
        (Answer::Records(vec![txt(&["hello"])]), Outcome::Permerror),
        (Answer::Empty, Outcome::Permerror),
        (Answer::Code(ResponseCode::NXDomain), Outcome::Temperror),
        (Answer::Code(ResponseCode::ServFail), Outcome::Temperror),
        (Answer::Silent, Outcome::Temperror),
        (Answer::Truncated, Outcome::Temperror),
    ] {
        // An NXDOMAIN without the record that says so is none (RFC 2308 §2.1); hickory takes it for one all the same.
        let outcome = if matches!(answer, Answer::Code(ResponseCode::NXDomain)) { Outcome::Permerror } else { outcome };
        let shown = format!("{answer:?}");
        signer.dns.set("sel._domainkey.example.com", RecordType::TXT, answer);
        assert_eq!(signer.outcome(&signed).await.0, outcome, "{shown}");
    }
}

/// RFC 8301: neither short keys nor SHA-1, however good the signature.
#[tokio::test]
async fn n6_weak_keys_fail_and_monstrous_ones_are_not_used() {
    let signer = Signer::new().await;
    let field = "DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=sel; h=From; bh=YWJj; b=YWJj\r\n";
    for (bits, outcome) in [(512, Outcome::Fail), (16 * 8192, Outcome::Permerror)] {
        let modulus = [&[0][..], &vec![0xc5; bits / 8]].concat();
        let integer =
            |octets: &[u8]| [&[2, 0x84][..], &u32::try_from(octets.len()).unwrap().to_be_bytes(), octets].concat();
        let inside = [integer(&modulus), integer(&[1, 0, 1])].concat();
        let der = [&[0x30, 0x84][..], &u32::try_from(inside.len()).unwrap().to_be_bytes(), &inside].concat();
        let record = format!("v=DKIM1; p={}", STANDARD.encode(der));
        let strings: Vec<&str> =
            (0..record.len()).step_by(250).map(|at| &record[at..(at + 250).min(record.len())]).collect();
        signer.dns.set("sel._domainkey.example.com", RecordType::TXT, Answer::OverTcp(vec![txt(&strings)]));
        let (found, reason) = signer.outcome(&format!("{field}{MAIL}")).await;
        assert_eq!(found, outcome, "{bits}: {reason}");
        assert!(reason.contains("bits"), "{reason}");
    }
    let sha1 = field.replace("rsa-sha256", "rsa-sha1");
    assert_eq!(signer.outcome(&format!("{sha1}{MAIL}")).await.0, Outcome::Fail);
}

#[tokio::test]
async fn n6_of_a_thousand_signatures_ten_are_verified() {
    let signer = Signer::new().await;
    let signed = signer.sign(MAIL, Form::Relaxed, false);
    let (field, _) = signed.split_once("From:").unwrap();
    let fields: String = (0..999).map(|n| field.replace("s=sel", &format!("s=sel{n}"))).collect();
    let mail = format!("{fields}{signed}");
    let signatures = signer.verify(&mail).await;
    assert_eq!(signatures.len(), MAX_TOLD);
    let of = |outcome| signatures.iter().filter(|signature| signature.outcome == outcome).count();
    assert_eq!((of(Outcome::Permerror), of(Outcome::Policy)), (MAX_VERIFIED, MAX_TOLD - MAX_VERIFIED));
    let asked = |n: usize| signer.dns.queries(&format!("sel{n}._domainkey.example.com"), RecordType::TXT);
    assert_eq!((0..999).map(asked).sum::<usize>(), MAX_VERIFIED);
}

#[tokio::test]
async fn n6_hostile_fields_are_neutral_and_bounded() {
    let signer = Signer::new().await;
    let long = format!("v=1; h={}From; d=example.com", "From:".repeat(50_000));
    for value in ["", ";;;", "v=1", "\u{1b}[2J", "v=1; v=1", &"x".repeat(1 << 20), &long] {
        let (outcome, reason) = signer.outcome(&format!("DKIM-Signature: {value}\r\n{MAIL}")).await;
        assert_eq!(outcome, Outcome::Neutral, "{reason}");
    }
    let rude = "DKIM-Signature: v=1; d=ex\u{1b}ample.com; s=a\tb; i=\u{fc}@x; b=(;\r\n";
    let [ref told] = signer.verify(&format!("{rude}{MAIL}")).await[..] else { panic!() };
    for text in [&told.domain, &told.selector, &told.identity, &told.value, &told.reason] {
        assert!(text.bytes().all(|b| matches!(b, b' '..=b'~')), "{text:?}");
    }
}

/// A From that is not signed for does not count, and one that is added below breaks what was signed.
#[tokio::test]
async fn n6_a_second_from() {
    let signer = Signer::new().await;
    let signed = signer.sign(MAIL, Form::Relaxed, false);
    let below = signed.replace("To: x", "From: evil@example.org\r\nTo: x");
    assert_eq!(signer.outcome(&below).await.0, Outcome::Fail);
}

#[tokio::test]
async fn n6_a_body_of_a_hundred_megabytes_stays_in_its_file() {
    let signer = Signer::new().await;
    let line = "0123456789 \t0123456789\r\n";
    // What is signed is small; the rest of the body is not covered, and still counted.
    let signed = signer.sign(MAIL, Form::Relaxed, true);
    let directory = tempfile::tempdir().unwrap();
    let mut message = message(&signed);
    let mut writer = BodyWriter::new(directory.path().to_owned(), 0);
    writer.push(message.body.as_memory().unwrap());
    for _ in 0..100 {
        writer.push(line.repeat((1 << 20) / line.len()).as_bytes());
        writer.flush().unwrap();
    }
    message.body = writer.finish().unwrap();
    assert!(message.body.as_file().is_some() && message.body.len() > 99 << 20);
    let [ref signature] = verify(&signer.dns.resolver(), &message, Duration::from_secs(20), &[]).await[..] else {
        panic!()
    };
    assert_eq!(signature.outcome, Outcome::Policy, "{}", signature.reason);
}
