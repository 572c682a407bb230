//! Delivery status notifications: RFC 3461 (what is reported), RFC 3462 (`multipart/report`), RFC 3464
//! (`message/delivery-status`), RFC 6533 (addresses that are not ASCII).
//!
//! Written by hand, part by part: the form is fixed, and what is returned of the original must stay byte-exact. All text
//! from outside goes through [`Field::new`] or [`text`], neither of which lets a line end in.

mod fields;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod text;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use super::meta::{Accepted, Kept, Kind};
use super::settings::Settings;
use super::settle::Step;
use super::store::NewMail;
use crate::mail::{Body, BodyType, Envelope, Field, Header, Message, MessageId, Recipient, Ret, date};
use crate::smtp::ReversePath;

/// Octets of a header that are returned; fields beyond are left out.
const MAX_HEADER: usize = 64 * 1024;

/// What became of a recipient in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Tried again later; not reported.
    Deferred,
    /// Tried again later, and the sender is told.
    Delayed,
    Failed,
    /// Tried for too long.
    Expired,
    Delivered,
    /// Taken by a next hop that sends no DSNs.
    Relayed,
    /// Taken by a next hop that does.
    HandedOver,
}

impl Action {
    /// RFC 3464 §2.3.3.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Failed | Self::Expired => "failed",
            Self::Deferred | Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed | Self::HandedOver => "relayed",
        }
    }

    const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Expired)
    }
}

/// The notification on these steps, addressed to the sender; `None` where there is no sender to tell.
pub(super) async fn report(
    settings: &Settings,
    kept: &Kept,
    steps: &[Step],
    id: MessageId,
    now: Timestamp,
) -> Option<NewMail> {
    let sender = kept.accepted.envelope.reverse_path.mailbox()?.clone();
    let returned = Returned::of(kept, steps, settings.max_returned).await;
    // RFC 6533 §3: those who sent with SMTPUTF8 can read the international forms, and nobody else has such addresses.
    let international = kept.accepted.envelope.smtputf8;
    let mut envelope = Envelope::new(ReversePath::NULL);
    envelope.smtputf8 = international || !sender.is_ascii();
    envelope.recipients.push(Recipient::new(sender));
    let message = compose(settings, kept, steps, &returned, id, now);
    if message.body.as_memory().is_some_and(|body| !body.is_ascii()) {
        envelope.body_type = BodyType::EightBitMime;
    }
    let accepted = Accepted {
        tenant: kept.accepted.tenant.clone(),
        // A report on what went out comes in, and the reverse.
        outbound: !kept.accepted.outbound,
        authenticated: true,
        kind: Kind::Dsn,
        prepared: true,
        origin: Some(kept.id),
        ..Accepted::new(envelope, now)
    };
    Some(NewMail { id, accepted, message })
}

/// What of the original goes back.
struct Returned {
    octets: Bytes,
    /// Header and body, not only the header.
    whole: bool,
}

impl Returned {
    /// RFC 3461 §4.3: RET=FULL asks for the whole message, in reports of failure only. A big one is not sent back.
    async fn of(kept: &Kept, steps: &[Step], max: u64) -> Self {
        let asked = kept.accepted.envelope.ret == Some(Ret::Full) && steps.iter().any(|step| step.action.is_failure());
        if asked
            && kept.message.len() <= max
            && let Some(body) = read(&kept.message.body).await
        {
            let mut octets = BytesMut::from(&kept.message.header.to_bytes()[..]);
            octets.extend_from_slice(b"\r\n");
            octets.extend_from_slice(&body);
            return Self { octets: octets.freeze(), whole: true };
        }
        let mut octets = BytesMut::new();
        for field in kept.message.header.fields() {
            if octets.len() + field.raw().len() > MAX_HEADER {
                break;
            }
            octets.extend_from_slice(field.raw());
        }
        Self { octets: octets.freeze(), whole: false }
    }

    fn content_type(&self, international: bool) -> &'static str {
        match (self.whole, international) {
            (true, false) => "message/rfc822",
            (true, true) => "message/global",
            (false, false) => "text/rfc822-headers",
            (false, true) => "message/global-headers",
        }
    }
}

/// `None` when it can't be read: then the report goes without it.
async fn read(body: &Body) -> Option<Bytes> {
    let len = usize::try_from(body.len()).ok()?;
    if let Some(octets) = body.as_memory() {
        return Some(octets.clone());
    }
    let body = body.clone();
    tokio::task::spawn_blocking(move || body.read_at(0, len)).await.ok()?.ok()
}

fn compose(
    settings: &Settings,
    kept: &Kept,
    steps: &[Step],
    returned: &Returned,
    id: MessageId,
    now: Timestamp,
) -> Message {
    let international = kept.accepted.envelope.smtputf8;
    // Nobody who wrote the original can have guessed it.
    let boundary = format!("{id}.{:016x}", rand::random::<u64>());
    let status_type = if international { "message/global-delivery-status" } else { "message/delivery-status" };
    let parts: [(String, Bytes); 3] = [
        ("text/plain; charset=utf-8".to_owned(), text::explain(settings, kept, steps).into()),
        (status_type.to_owned(), fields::delivery_status(settings, kept, steps)),
        (returned.content_type(international).to_owned(), returned.octets.clone()),
    ];
    let mut body = BytesMut::new();
    for (content_type, content) in parts {
        let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
        let head =
            format!("--{boundary}\r\nContent-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&content);
        // The line end before a boundary belongs to the boundary (RFC 2046 §5.1.1).
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Message { header: header(settings, kept, steps, &boundary, id, now), body: Body::from_bytes(body.freeze()) }
}

fn header(settings: &Settings, kept: &Kept, steps: &[Step], boundary: &str, id: MessageId, now: Timestamp) -> Header {
    let host = &settings.host;
    let mut header = Header::default();
    let mut add = |name: &str, value: &str| {
        if let Ok(field) = Field::new(name, value) {
            header.append(field);
        }
    };
    add("Date", &date(now));
    add("From", &format!("Mail Delivery System <MAILER-DAEMON@{host}>"));
    add("To", &format!("<{}>", kept.accepted.envelope.reverse_path));
    add("Subject", text::subject(steps));
    add("Message-ID", &format!("<{id}@{host}>"));
    // RFC 3834 §3.1.5, §5.
    if let Some(original) = original_message_id(&kept.message.header) {
        add("In-Reply-To", &original);
        add("References", &original);
    }
    add("Auto-Submitted", "auto-replied");
    add("MIME-Version", "1.0");
    // RFC 3462 §3.
    add("Content-Type", &format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\""));
    header
}

/// The original's Message-ID, if it is clean enough to be repeated.
fn original_message_id(header: &Header) -> Option<String> {
    let value = String::from_utf8(header.first("Message-ID")?.value()).ok()?;
    let inner = value.strip_prefix('<')?.strip_suffix('>')?;
    let is_clean = inner.len() <= 250 && inner.bytes().all(|b| matches!(b, 33..=126) && !matches!(b, b'<' | b'>'));
    is_clean.then_some(value)
}

#[cfg(test)]
mod tests;
