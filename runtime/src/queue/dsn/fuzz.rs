//! Fuzz body: a report on a message that anybody may have written, with words that anybody may have said.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a body panics when something does not hold"
)]

use super::*;
use crate::delivery::Diagnosis;
use crate::queue::meta::{LastWord, RecipientState, State};
use crate::smtp::{Command, Domain, Enhanced, Mailbox, Reply, ReplyReader};

/// The fields that a report may have besides its own header, in `message/delivery-status`.
const FIELDS: [&str; 11] = [
    "Original-Envelope-Id",
    "Reporting-MTA",
    "Arrival-Date",
    "Original-Recipient",
    "Final-Recipient",
    "Action",
    "Status",
    "Remote-MTA",
    "Diagnostic-Code",
    "Last-Attempt-Date",
    "Will-Retry-Until",
];

/// The report has three parts and no more, no line ends but CRLF, and no field that we did not write.
pub fn report_on_anything(octets: &[u8]) {
    let (length, rest) = octets.split_at(octets.len().min(1));
    let length = usize::from(length.first().copied().unwrap_or(0));
    let (said, original) = rest.split_at(rest.len().min(length));
    let kept = kept(said, original);
    let action = match length % 4 {
        0 => Action::Delayed,
        1 => Action::Delivered,
        2 => Action::Expired,
        _ => Action::Failed,
    };
    let settings = Settings::new(Domain::parse("mx.example.net").expect("a domain"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let steps = [Step { recipient: 0, action }];
    let report = report(&settings, &kept, &steps, MessageId::next(), Timestamp::UNIX_EPOCH);
    let message = runtime.block_on(report).expect("a sender who is told").message;
    check(&message);
}

/// What the gateway may have taken: its lines end in CRLF, and it has no NUL.
fn kept(said: &[u8], original: &[u8]) -> Kept {
    let lines =
        original.split(|&octet| octet == b'\n').map(|line| line.iter().filter(|octet| !b"\r\0".contains(octet)));
    let clean: Vec<u8> = lines.flat_map(|line| line.copied().chain(*b"\r\n")).collect();
    let end = clean.windows(4).position(|window| window == b"\r\n\r\n").map_or(clean.len(), |at| at + 2);
    let (header, body) = clean.split_at(end);
    let header = Header::parse(&Bytes::copy_from_slice(header));
    let body = Body::from_bytes(Bytes::copy_from_slice(body.strip_prefix(b"\r\n").unwrap_or(body)));
    let mut envelope = Envelope::new(ReversePath(Mailbox::parse("a@example.com").ok()));
    envelope.ret = original.len().is_multiple_of(2).then_some(Ret::Full);
    let mut recipient = Recipient::new(Mailbox::parse("b@example.org").expect("a mailbox"));
    // As a client has given them, and the parser of commands has taken them.
    if let Ok(Command::Rcpt(_, parameters)) = Command::parse(&[b"RCPT TO:<b@example.org> ORCPT=", said].concat()) {
        recipient.orcpt = parameters.orcpt;
    }
    if let Ok(Command::Mail(_, parameters)) = Command::parse(&[b"MAIL FROM:<a@example.com> ENVID=", said].concat()) {
        envelope.envid = parameters.envid;
    }
    envelope.recipients.push(recipient);
    let reply = ReplyReader::new().read(&mut &*said).ok().flatten().map(|said| said.reply);
    let remote = reply.is_some();
    let own = || Reply::new(451, Some(Enhanced::new(4, 1)), String::from_utf8_lossy(said));
    let host = remote.then(|| String::from_utf8_lossy(said).into_owned());
    let reply = reply.unwrap_or_else(own);
    let diagnosis = Diagnosis { host, reply, remote, of_recipient: remote, dsn_relayed: false };
    let last = Some(LastWord::new(&diagnosis, Timestamp::UNIX_EPOCH));
    let mut state = State::new(1);
    state.recipients = vec![RecipientState { last, ..RecipientState::default() }];
    let accepted = Accepted::new(envelope, Timestamp::UNIX_EPOCH);
    Kept { id: MessageId::next(), accepted, state, message: Message { header, body } }
}

fn check(report: &Message) {
    let header = report.header.to_bytes();
    let body = report.body.as_memory().expect("a report is in memory");
    for octets in [&header, body] {
        let clean = octets.windows(2).all(|pair| (pair[0] == b'\r') == (pair[1] == b'\n')) && !octets.contains(&0);
        assert!(clean && octets.ends_with(b"\r\n"), "{}", octets.escape_ascii());
    }
    let names: Vec<_> = report.header.fields().iter().map(|field| field.name().to_owned()).collect();
    assert!(names.len() <= 10, "{names:?}");
    let content_type = report.header.first("Content-Type").expect("a type").value();
    let content_type = String::from_utf8(content_type).expect("ASCII");
    let boundary = content_type.split('"').nth(1).expect("a boundary");
    let text = String::from_utf8_lossy(body);
    let parts: Vec<_> = text.split(&format!("--{boundary}")).collect();
    assert_eq!(parts.len(), 5, "{text}");
    let (_, fields) = parts.get(2).and_then(|part| part.split_once("\r\n\r\n")).expect("a part");
    for line in fields.split("\r\n").filter(|line| !line.is_empty() && !line.starts_with([' ', '\t'])) {
        let name = line.split(':').next().unwrap_or_default();
        assert!(FIELDS.contains(&name), "{line:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sp17_a_report_holds_what_we_wrote(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            super::report_on_anything(&octets);
        }

        #[test]
        fn sp17_a_reply_is_repeated_and_injects_nothing(text in "\\PC{0,80}", original in "(\\PC|[\r\n\t\u{0}]){0,200}") {
            let said = format!("550 5.1.1 {text}\r\n");
            let octets = [&[u8::try_from(said.len()).unwrap_or(255)], said.as_bytes(), original.as_bytes()].concat();
            super::report_on_anything(&octets);
        }
    }
}
