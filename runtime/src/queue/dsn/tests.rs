//! What a report says, read back with a parser that we did not write.

use mail_parser::{MessageParser, MimeHeaders};

use super::super::meta::{LastWord, RecipientState, State};
use super::*;
use crate::delivery::Diagnosis;
use crate::smtp::{Domain, Enhanced, Mailbox, Reply};

fn settings() -> Settings {
    Settings::new(Domain::parse("mx.example.net").unwrap())
}

fn word(reply: Reply, remote: bool) -> LastWord {
    let host = remote.then(|| "next.example.org".to_owned());
    LastWord::new(&Diagnosis { host, reply, remote, of_recipient: false, dsn_relayed: false }, Timestamp::UNIX_EPOCH)
}

fn kept(to: &[(&str, Option<LastWord>)]) -> Kept {
    let mut envelope = Envelope::new(ReversePath(Some(Mailbox::parse("a@example.com").unwrap())));
    let mut state = State::default();
    for (to, last) in to {
        envelope.recipients.push(Recipient::new(Mailbox::parse(to).unwrap()));
        state.recipients.push(RecipientState { last: last.clone(), ..RecipientState::default() });
    }
    let header = Header::parse(&Bytes::from_static(b"Message-ID: <1@example.com>\r\nSubject: caf\xe9\r\n"));
    let message = Message { header, body: Body::from_bytes(Bytes::from_static(b"secret body\r\n")) };
    Kept { id: MessageId::next(), accepted: Accepted::new(envelope, Timestamp::UNIX_EPOCH), state, message }
}

async fn made(kept: &Kept, actions: &[Action]) -> (NewMail, Vec<u8>) {
    let steps: Vec<Step> = actions.iter().enumerate().map(|(recipient, &action)| Step { recipient, action }).collect();
    let mail = report(&settings(), kept, &steps, MessageId::next(), Timestamp::UNIX_EPOCH).await.unwrap();
    let mut octets = mail.message.header.to_bytes().to_vec();
    octets.extend_from_slice(b"\r\n");
    octets.extend_from_slice(mail.message.body.as_memory().unwrap());
    (mail, octets)
}

fn part(octets: &[u8], index: usize) -> String {
    let message = MessageParser::default().parse(octets).unwrap();
    let raw = message.parts[index].contents();
    raw.escape_ascii().to_string().replace("\\r\\n", "\n")
}

#[tokio::test]
async fn a_failure_report_field_by_field() {
    let refused = Reply::new(550, Some(Enhanced::new(1, 1)), "no such user");
    let mut kept = kept(&[("b@example.org", Some(word(refused, true)))]);
    kept.accepted.envelope.envid = Some("QQ+2B314".to_owned());
    kept.accepted.envelope.recipients[0].orcpt = Some("rfc822;B+2Btag@example.org".to_owned());
    let (mail, octets) = made(&kept, &[Action::Failed]).await;

    let parsed = MessageParser::default().parse(&octets).unwrap();
    let kind = parsed.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    assert_eq!(parsed.from().unwrap().first().unwrap().address(), Some("MAILER-DAEMON@mx.example.net"));
    assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("a@example.com"));
    assert_eq!(parsed.header_raw("Auto-Submitted"), Some(" auto-replied\r\n"));
    assert_eq!(parsed.header_raw("In-Reply-To"), Some(" <1@example.com>\r\n"));
    assert_eq!(parsed.parts.len(), 4);
    let types: Vec<_> = parsed.parts[1..].iter().map(|p| p.content_type().unwrap().subtype().unwrap()).collect();
    assert_eq!(types, ["plain", "delivery-status", "rfc822-headers"]);
    assert_eq!(
        part(&octets, 2),
        "Original-Envelope-Id: QQ+314\nReporting-MTA: dns; mx.example.net\n\
         Arrival-Date: Thu, 1 Jan 1970 00:00:00 +0000\n\nOriginal-Recipient: rfc822; B+tag@example.org\n\
         Final-Recipient: rfc822; b@example.org\nAction: failed\nStatus: 5.1.1\n\
         Remote-MTA: dns; next.example.org\nDiagnostic-Code: smtp; 550 5.1.1 no such user\n\
         Last-Attempt-Date: Thu, 1 Jan 1970 00:00:00 +0000\n"
    );
    assert!(part(&octets, 1).contains("<b@example.org>\n    next.example.org said: 550 5.1.1 no such user"));
    assert!(!octets.windows(6).any(|w| w == b"secret"));

    let envelope = &mail.accepted.envelope;
    assert!(envelope.reverse_path.is_null());
    assert_eq!(envelope.recipients[0].mailbox.to_string(), "a@example.com");
    assert_eq!(envelope.body_type, BodyType::EightBitMime, "the header that is returned has an octet above 127");
    assert_eq!((mail.accepted.kind, mail.accepted.prepared), (Kind::Dsn, true));
}

#[tokio::test]
async fn status_and_action_agree() {
    let code = |code, detail| Some(word(Reply::new(code, Some(Enhanced::new(4, detail)), "x"), true));
    let bare = Some(word(Reply::new(554, None, "no"), false));
    for (last, action, name, status) in [
        (code(450, 2), Action::Expired, "failed", "5.4.7"),
        (code(450, 2), Action::Delayed, "delayed", "4.4.2"),
        (code(450, 2), Action::Failed, "failed", "5.4.2"),
        (code(250, 0), Action::Relayed, "relayed", "2.4.0"),
        (code(250, 0), Action::Delivered, "delivered", "2.4.0"),
        (bare, Action::Failed, "failed", "5.0.0"),
        (None, Action::Expired, "failed", "5.4.7"),
    ] {
        let kept = kept(&[("b@example.org", last)]);
        let text = part(&made(&kept, &[action]).await.1, 2);
        assert!(text.contains(&format!("\nAction: {name}\nStatus: {status}\n")), "{action:?}: {text}");
        assert_eq!(text.contains("Will-Retry-Until: Tue, 6 Jan 1970"), action == Action::Delayed, "{text}");
    }
}

#[tokio::test]
async fn what_a_next_hop_says_adds_no_field_and_no_part() {
    let said = format!("x\r\nAction: delivered\r\n--b--\r\n{} \u{fc}", "y".repeat(3000));
    let kept = kept(&[("b@example.org", Some(word(Reply::new(550, None, said), true)))]);
    let (_, octets) = made(&kept, &[Action::Failed]).await;
    assert!(octets.split(|&b| b == b'\n').all(|line| line.len() <= 999));
    let status = part(&octets, 2);
    assert_eq!(status.lines().filter(|line| line.starts_with("Action:")).count(), 1);
    assert!(status.is_ascii());
    assert_eq!(MessageParser::default().parse(&octets).unwrap().parts.len(), 4);
}

#[tokio::test]
async fn hostile_parameters_and_headers_are_left_out() {
    let mut kept = kept(&[("b@example.org", None)]);
    kept.accepted.envelope.envid = Some("a+0D+0AAction:+20delivered".to_owned());
    kept.accepted.envelope.recipients[0].orcpt = Some("rfc822;a+00b".to_owned());
    kept.message.header = Header::parse(&Bytes::from_static(b"Message-ID: <a b\xff>\r\n"));
    let (_, octets) = made(&kept, &[Action::Failed]).await;
    let status = part(&octets, 2);
    assert!(status.starts_with("Reporting-MTA:"), "{status}");
    assert!(!status.contains("Original-Recipient"));
    assert!(MessageParser::default().parse(&octets).unwrap().header_raw("In-Reply-To").is_none());
}

#[tokio::test]
async fn addresses_that_are_not_ascii_take_the_forms_of_rfc_6533() {
    let mut kept = kept(&[("b\u{fc}@example.org", None)]);
    for (smtputf8, kind, recipient) in [
        (true, "message/global-delivery-status", "Final-Recipient: utf-8; b\u{fc}@example.org\r\n"),
        (false, "message/delivery-status", "Final-Recipient: utf-8; b\\x{FC}@example.org\r\n"),
    ] {
        kept.accepted.envelope.smtputf8 = smtputf8;
        let (mail, octets) = made(&kept, &[Action::Failed]).await;
        let has = |text: &str| octets.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(has(kind) && has(recipient), "{smtputf8}");
        assert_eq!(mail.accepted.envelope.smtputf8, smtputf8);
    }
}

#[tokio::test]
async fn ret_full_comes_from_a_file_too() {
    use std::io::Write as _;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"..from a file\r\n").unwrap();
    let mut kept = kept(&[("b@example.org", None)]);
    kept.accepted.envelope.ret = Some(Ret::Full);
    kept.message.body = Body::from_file(std::sync::Arc::new(crate::mail::body::BodyFile::new(file, 2, 13)));
    let (_, octets) = made(&kept, &[Action::Failed]).await;
    assert!(octets.windows(15).any(|w| w == b"\r\n\r\nfrom a file"));
    assert!(octets.windows(28).any(|w| w == b"Content-Type: message/rfc822"));
}

#[tokio::test]
async fn many_recipients_are_all_in_the_status_and_some_in_the_text() {
    let names: Vec<String> = (0..200).map(|n| format!("r{n}@example.org")).collect();
    let to: Vec<_> = names.iter().map(|name| (name.as_str(), None)).collect();
    let (_, octets) = made(&kept(&to), &[Action::Failed; 200]).await;
    assert_eq!(part(&octets, 2).matches("Final-Recipient").count(), 200);
    assert!(part(&octets, 1).contains("and 150 others"));
}
