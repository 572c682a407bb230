//! What is kept with a message in the spool: how it was accepted, and how far it has come. JSON with a version, so
//! that a newer gateway reads what an older one wrote, and an older one refuses what it would misread.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::delivery::Diagnosis;
use crate::mail::{Envelope, Message, MessageId, Route};
use crate::pipeline::RecordedSession;
use crate::spool::Stored;

const VERSION: u8 = 1;
/// Octets of a reply that are kept for log, DSN and operator.
const MAX_TEXT: usize = 900;
/// Octets of it that a list shows.
const MAX_LAST_WORD: usize = 120;

/// Written once, when the message is accepted; and anew when the `deliver` chains have edited it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub envelope: Envelope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What a plugin chose; `None`: [`Prepare::destination`](super::Prepare::destination) says, at each attempt anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// `None` for what the gateway itself has written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<RecordedSession>,
    pub arrival: Timestamp,
    /// Why it is kept back from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
    /// Out of a tenant, not in to it.
    #[serde(default)]
    pub outbound: bool,
    /// The sender address is proven: a refusal at `deliver` may be reported to it (no backscatter).
    #[serde(default)]
    pub authenticated: bool,
    /// SPF says that who handed it in may not use the sender's address: it is somebody else's, who gets no report.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sender_forged: bool,
    #[serde(default)]
    pub kind: Kind,
    /// The `deliver` chains have been asked, and this is what they made of it.
    #[serde(default)]
    pub prepared: bool,
    /// The message that this one was split from or reports on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<MessageId>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Mail,
    /// A delivery status notification of our own.
    Dsn,
}

impl Accepted {
    pub fn new(envelope: Envelope, arrival: Timestamp) -> Self {
        Self {
            envelope,
            tenant: None,
            tags: Vec::new(),
            route: None,
            session: None,
            arrival,
            quarantine: None,
            outbound: false,
            authenticated: false,
            sender_forged: false,
            kind: Kind::Mail,
            prepared: false,
            origin: None,
        }
    }
}

/// Written after each step that something depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// In the order of the envelope's.
    pub recipients: Vec<RecipientState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    #[serde(default)]
    pub attempts: u32,
    /// The operator's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Quarantined>,
    /// The operator let it out of quarantine: plugins can't send it back there, nor refuse it.
    #[serde(default)]
    pub released: bool,
    /// When the operator let it go: it is as old as that, for retries and expiry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revived: Option<Timestamp>,
    #[serde(default)]
    pub delay_warned: bool,
    /// The `deliver` chains were asked and have edited nothing; where they have, it is the message that says so.
    #[serde(default)]
    pub prepared: bool,
    /// Milliseconds that running gateways have had it, see [`life`](super::life).
    #[serde(default)]
    pub observed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    pub reason: String,
    pub since: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientState {
    #[serde(default)]
    pub status: Status,
    #[serde(default)]
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastWord>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Pending,
    Delivered,
    /// Delivered to a next hop that reports from here on.
    Relayed,
    Failed,
    Expired,
}

/// What was last said of a recipient. One line: it is made of replies, which can't hold a control character.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWord {
    /// Who said it; `None` where no next hop was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// RFC 3463, `class.subject.detail`.
    pub status: String,
    /// Code, status and text.
    pub text: String,
    /// A next hop's words, not ours.
    #[serde(default)]
    pub remote: bool,
    pub at: Timestamp,
}

impl LastWord {
    pub fn new(diagnosis: &Diagnosis, at: Timestamp) -> Self {
        Self {
            host: diagnosis.host.as_deref().map(one_line),
            status: diagnosis.reply.status(),
            text: one_line(&diagnosis.reply.to_string()),
            remote: diagnosis.remote,
            at,
        }
    }
}

/// Bounded, and without controls, whoever built the value.
fn one_line(text: &str) -> String {
    let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let text = text.get(..end).unwrap_or(text);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl State {
    pub fn new(recipients: usize) -> Self {
        Self { recipients: vec![RecipientState::default(); recipients], ..Self::default() }
    }

    /// What was last said of one of those that are still to be tried; the memory holds it of every message that waits.
    pub fn last_word(&self) -> Option<Box<str>> {
        let mut pending = self.recipients.iter().filter(|recipient| recipient.status == Status::Pending);
        let text = pending.find_map(|recipient| recipient.last.as_ref())?.text.as_str();
        let end = (0..=MAX_LAST_WORD).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        Some(text.get(..end).unwrap_or(text).into())
    }

    /// Indices of those that are still to be tried.
    pub fn pending(&self) -> Vec<usize> {
        let pending = |(n, r): (usize, &RecipientState)| (r.status == Status::Pending).then_some(n);
        self.recipients.iter().enumerate().filter_map(pending).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    #[error("written by a newer postern (version {0})")]
    Version(u8),
    #[error("can't be read: {0}")]
    Syntax(String),
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u8,
    m: T,
}

pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, MetaError> {
    let versioned = Versioned { v: VERSION, m: value };
    serde_json::to_vec(&versioned).map(Bytes::from).map_err(|error| MetaError::Syntax(error.to_string()))
}

fn decode<T: DeserializeOwned>(octets: &[u8]) -> Result<T, MetaError> {
    #[derive(Deserialize)]
    struct VersionOnly {
        v: u8,
    }
    let newer = || serde_json::from_slice::<VersionOnly>(octets).ok().map(|only| only.v).filter(|v| *v != VERSION);
    match serde_json::from_slice::<Versioned<T>>(octets) {
        Ok(versioned) if versioned.v == VERSION => Ok(versioned.m),
        Ok(versioned) => Err(MetaError::Version(versioned.v)),
        Err(error) => Err(newer().map_or_else(|| MetaError::Syntax(error.to_string()), MetaError::Version)),
    }
}

/// Both parts, with one state for each recipient whatever was stored.
pub fn decode_both(meta: &[u8], state: Option<&[u8]>) -> Result<(Accepted, State), MetaError> {
    let accepted: Accepted = decode(meta)?;
    let count = accepted.envelope.recipients.len();
    let mut state = state.map_or_else(|| Ok(State::new(count)), decode)?;
    state.recipients.resize_with(count, RecipientState::default);
    Ok((accepted, state))
}

/// A message as it was read back from the spool.
#[derive(Debug, Clone)]
pub struct Kept {
    pub id: MessageId,
    pub accepted: Accepted,
    pub state: State,
    pub message: Message,
}

impl Kept {
    pub fn decode(id: MessageId, stored: Stored) -> Result<Self, MetaError> {
        let (accepted, state) = decode_both(&stored.meta, stored.state.as_deref())?;
        Ok(Self { id, accepted, state, message: stored.message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Recipient;
    use crate::smtp::{Enhanced, Mailbox, Reply, ReversePath};

    fn accepted() -> Accepted {
        let mut envelope = Envelope::new(ReversePath(Some(Mailbox::parse("a@example.com").unwrap())));
        envelope.recipients.push(Recipient::new(Mailbox::parse("\"b c\"@example.org").unwrap()));
        Accepted { tenant: Some("acme".into()), ..Accepted::new(envelope, Timestamp::UNIX_EPOCH) }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut state = State::new(1);
        let reply = Reply::new(550, Some(Enhanced::new(1, 1)), "who?");
        let diagnosis =
            Diagnosis { host: Some("mx".to_owned()), reply, remote: true, of_recipient: false, dsn_relayed: false };
        state.recipients[0].last = Some(LastWord::new(&diagnosis, Timestamp::UNIX_EPOCH));
        let meta = encode(&accepted()).unwrap();
        assert_eq!(decode_both(&meta, Some(&encode(&state).unwrap())), Ok((accepted(), state)));
        assert!(meta.len() < 400, "{}", meta.len());
        assert!(encode(&State::new(1)).unwrap().len() < 150);
    }

    #[test]
    fn a_newer_version_and_noise_are_refused() {
        assert_eq!(decode_both(br#"{"v":2,"m":{"all":"new"}}"#, None), Err(MetaError::Version(2)));
        let meta = String::from_utf8(encode(&accepted()).unwrap().to_vec()).unwrap().replace("\"v\":1", "\"v\":7");
        assert_eq!(decode_both(meta.as_bytes(), None), Err(MetaError::Version(7)));
        assert!(matches!(decode_both(b"\0\0", None), Err(MetaError::Syntax(_))));
    }

    #[test]
    fn a_state_with_too_few_recipients_is_completed() {
        let (_, state) = decode_both(&encode(&accepted()).unwrap(), Some(&encode(&State::new(0)).unwrap())).unwrap();
        assert_eq!(state.pending(), [0]);
    }
}
