//! Mail of the queue in requests and answers: which is meant, what is shown of it, what was done with it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::value::FromText as _;
use crate::mail::MessageId;
use crate::smtp::Domain;

/// Octets of a text to look for.
pub const MAX_ERROR_TEXT: usize = 200;

/// Which messages, as options of the commands and in a request; what is not given does not narrow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Only those in this state.
    #[arg(long, value_enum)]
    pub state: Option<State>,
    /// Only those of this tenant.
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Only those from this address, from `@domain`, or from `<>`, the null reverse-path.
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<String>,
    /// Only those to this address or to `@domain`, even if that recipient is done.
    #[arg(long, value_name = "ADDRESS")]
    pub to: Option<String>,
    /// Only those with a recipient in this domain.
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    pub domain: Option<String>,
    /// Only those that go there, e.g. `mx:example.com`.
    #[arg(long)]
    pub destination: Option<String>,
    /// Only those that have been here for at least this long, e.g. `90s` or `1h 30m`.
    // In a request: seconds.
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub age: Option<u64>,
    /// Only those whose reason or last reply holds this text, in any case.
    #[arg(long, value_name = "TEXT", value_parser = error_text)]
    pub error: Option<String>,
}

impl Selection {
    /// It narrows nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// As the command line and the config say a duration.
pub fn seconds(text: &str) -> Result<u64, String> {
    Duration::from_text(text).map(|duration| duration.as_secs())
}

/// As addresses have it, with or without `@`.
fn domain(text: &str) -> Result<String, String> {
    Domain::parse(text.strip_prefix('@').unwrap_or(text)).map(|domain| domain.to_string()).map_err(|e| e.to_string())
}

fn error_text(text: &str) -> Result<String, String> {
    match text.len() {
        1..=MAX_ERROR_TEXT => Ok(text.to_owned()),
        _ => Err(format!("write 1 to {MAX_ERROR_TEXT} octets")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Try now.
    Flush,
    Hold,
    Release,
    Delete,
}

/// Where the next step of a verb goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    pub after: MessageId,
    /// The latest message when the first step was taken: the verb does not run after what comes in meanwhile.
    pub until: MessageId,
}

/// What a step of a verb has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Messages that were changed.
    pub changed: u64,
    /// Those that were not, by cause.
    pub busy: u64,
    pub missing: u64,
    pub unfit: u64,
    pub unreadable: u64,
    /// The first of those that were not.
    pub left: Vec<Left>,
    /// `None`: done.
    pub next: Option<Cursor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    pub id: MessageId,
    pub cause: Cause,
}

/// Why a message was left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It is being delivered at that moment.
    Busy,
    /// It is not in the queue.
    Missing,
    /// It is in a state that the verb is not for.
    Unfit,
    /// The spool can't read it.
    Unreadable,
}

/// As in the metric `postern_queue_messages`, but that one calls `ready` what waits for a destination that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Ready,
    Waiting,
    Delivering,
    Held,
    Quarantined,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Delivering => "delivering",
            Self::Held => "held",
            Self::Quarantined => "quarantined",
        }
    }
}

/// One message of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub id: MessageId,
    pub state: State,
    pub arrived: Timestamp,
    pub tenant: Option<String>,
    /// Empty for the null reverse-path.
    pub sender: String,
    /// The first one.
    pub recipient: String,
    /// All of its envelope, those that are done included.
    pub recipients: u32,
    /// Octets.
    pub size: u64,
    /// Of the message since it was accepted or released; one attempt may concern several recipients.
    pub attempts: u32,
    pub next_attempt: Option<Timestamp>,
    /// Why it waits, is held or quarantined.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    #[serde(flatten)]
    pub summary: Summary,
    /// When it is given up, or removed from the quarantine; `None` while it is held.
    pub expires: Option<Timestamp>,
    pub client: Option<String>,
    pub helo: Option<String>,
    pub login: Option<String>,
    pub tags: Vec<String>,
    pub per_recipient: Vec<RecipientDetail>,
    /// The beginning of the header; octets that are no UTF-8 replaced.
    pub header: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientDetail {
    pub address: String,
    /// `waiting`, `delivered`, `failed` …
    pub state: String,
    pub route: Option<String>,
    pub attempts: u32,
    /// What the next hop said last.
    pub reply: Option<String>,
}
