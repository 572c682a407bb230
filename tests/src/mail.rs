//! What is said of the mails that came out of a dialogue.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};

use postern::mail::{BodyType, Envelope, Message, Notify, Recipient, Ret};
use postern::session::{Accepted, CommitError, Services};

use crate::escape::{show, unescape};

/// Takes mail as the queue would, and keeps it.
#[derive(Default)]
pub(crate) struct Captured {
    mails: Mutex<Vec<Accepted>>,
    failure: Mutex<Option<CommitError>>,
}

impl Captured {
    pub(crate) fn mails(&self) -> MutexGuard<'_, Vec<Accepted>> {
        self.mails.lock().expect("no panic")
    }

    pub(crate) fn fail(&self, failure: Option<CommitError>) {
        *self.failure.lock().expect("no panic") = failure;
    }
}

impl Services for Captured {
    fn commit(&self, copies: Vec<Accepted>) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send + '_>> {
        let failure = *self.failure.lock().expect("no panic");
        let result = failure.map_or(Ok(()), Err);
        if result.is_ok() {
            self.mails().extend(copies);
        }
        Box::pin(async move { result })
    }
}

/// `what` is the word after `@ mail N`, `value` the rest of the line.
pub(crate) fn check(accepted: &Accepted, what: &str, value: &str) -> Result<(), String> {
    let envelope = &accepted.mail.envelope;
    let message = accepted.mail.message.as_ref().ok_or("there is no message")?;
    let recipients: Vec<_> = envelope.recipients.iter().map(recipient).collect();
    match what {
        "sender" => same(value, &sender(envelope)),
        "recipient" if recipients.iter().any(|r| r == value) => Ok(()),
        "recipient" => Err(recipients.join(", ")),
        "recipients" => same(value, &recipients.len().to_string()),
        "tenant" => same(value, accepted.mail.tenant.as_deref().unwrap_or("none")),
        "outbound" => accepted.outbound.then_some(()).ok_or("inbound".to_owned()),
        "inbound" => (!accepted.outbound).then_some(()).ok_or("outbound".to_owned()),
        "authenticated" => accepted.authenticated.then_some(()).ok_or("not authenticated".to_owned()),
        "quarantined" => same(value, accepted.kept_back.as_deref().unwrap_or("(not quarantined)")),
        "free" => accepted.kept_back.clone().map_or(Ok(()), |reason| Err(format!("quarantined: {reason}"))),
        "has" | "lacks" => {
            let (wanted, whole) = (quoted(value)?, unfolded(message)?);
            let has = whole.windows(wanted.len()).any(|window| window == wanted);
            if has == (what == "has") { Ok(()) } else { Err(show(&whole)) }
        }
        "body" => {
            let body = body(message)?;
            if body == quoted(value)? { Ok(()) } else { Err(show(&body)) }
        }
        _ => Err(format!("nothing is known of a mail's {what}")),
    }
}

fn same(wanted: &str, got: &str) -> Result<(), String> {
    if wanted == got { Ok(()) } else { Err(got.to_owned()) }
}

fn quoted(value: &str) -> Result<Vec<u8>, String> {
    let inside = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).ok_or("no quotes")?;
    unescape(inside)
}

/// As in the command: `<a@example.com> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x`.
fn sender(envelope: &Envelope) -> String {
    let mut text = format!("<{}>", envelope.reverse_path);
    if envelope.body_type == BodyType::EightBitMime {
        text.push_str(" BODY=8BITMIME");
    }
    if envelope.smtputf8 {
        text.push_str(" SMTPUTF8");
    }
    match envelope.ret {
        Some(Ret::Full) => text.push_str(" RET=FULL"),
        Some(Ret::Headers) => text.push_str(" RET=HDRS"),
        None => {}
    }
    envelope.envid.iter().for_each(|envid| text.push_str(&format!(" ENVID={envid}")));
    text
}

/// As in the command: `<a@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x`.
fn recipient(recipient: &Recipient) -> String {
    let mut text = format!("<{}>", recipient.mailbox);
    if let Some(Notify { success, failure, delay }) = recipient.notify {
        let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
        let words: Vec<_> = words.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
        let words = if words.is_empty() { "NEVER".to_owned() } else { words.join(",") };
        text.push_str(&format!(" NOTIFY={words}"));
    }
    recipient.orcpt.iter().for_each(|orcpt| text.push_str(&format!(" ORCPT={orcpt}")));
    text
}

fn body(message: &Message) -> Result<Vec<u8>, String> {
    let len = usize::try_from(message.body.len()).map_err(|error| error.to_string())?;
    Ok(message.body.read_at(0, len).map_err(|error| error.to_string())?.to_vec())
}

/// Header and body, the header's folding undone.
fn unfolded(message: &Message) -> Result<Vec<u8>, String> {
    let mut whole = Vec::new();
    let header = message.header.to_bytes();
    for (at, &octet) in header.iter().enumerate() {
        let next = |n| header.get(at + n);
        let cr = octet == b'\r' && next(1) == Some(&b'\n') && matches!(next(2), Some(b' ' | b'\t'));
        let lf = octet == b'\n' && matches!(next(1), Some(b' ' | b'\t'));
        if !cr && !lf {
            whole.push(octet);
        }
    }
    if message.body.is_separated() {
        whole.extend_from_slice(b"\r\n");
    }
    whole.extend(body(message)?);
    Ok(whole)
}
