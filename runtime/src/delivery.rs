//! To the next hop: SMTP client, MX selection, TLS policy, connection pool; and Maildir.

mod call_ahead;
mod channel;
mod connection;
mod content;
mod dispatch;
mod exchange;
mod extension;
mod failure;
mod maildir;
mod pool;
mod prospect;
mod question;
#[cfg(test)]
mod script;
mod settings;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod transaction;
mod way;

use std::pin::Pin;

use crate::mail::{Envelope, Message, MessageId, Route, TlsPolicy};
use crate::smtp::{Domain, Enhanced, Reply};

pub use call_ahead::{CallAhead, CallAheadSettings, Memory, Presence};
pub use dispatch::Delivery;
pub use prospect::{Hop, Prospect};
pub use settings::{Login, Settings, SmartHost, Timeouts};
pub use tls::TlsSetupError;

/// The seam between the queue and whatever takes mail.
pub trait NextHop: Send + Sync {
    /// Tries once. One outcome for each recipient of the job's envelope, in its order.
    fn deliver<'a>(&'a self, job: Job) -> Pin<Box<dyn Future<Output = Report> + Send + 'a>>;
}

/// One message for one destination.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: MessageId,
    /// Never a question any more: `Mx(None)` has been given its domain by the queue.
    pub route: Route,
    /// With only the recipients that are to be tried.
    pub envelope: Envelope,
    pub message: Message,
}

#[derive(Debug, Clone)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
    /// No host of the destination got as far as MAIL: what else waits for it need not be tried now.
    pub destination_down: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered(Diagnosis),
    /// Try again later.
    Deferred(Diagnosis),
    /// Never.
    Failed(Diagnosis),
}

/// Who said what, for log and DSN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The next hop's name, `None` when none was reached.
    pub host: Option<String>,
    /// The next hop's reply, or ours when `host` said nothing.
    pub reply: Reply,
    /// The reply came from the next hop.
    pub remote: bool,
    /// It is the reply to RCPT, and so about this recipient; others are about the mail or the sender.
    pub of_recipient: bool,
    /// For a delivered one: the next hop does DSN, so it reports from here on (RFC 3461 §5.2.2).
    pub dsn_relayed: bool,
}

impl Diagnosis {
    /// Of our own.
    fn own(code: u16, status: Enhanced, text: impl Into<String>) -> Self {
        Self {
            host: None,
            reply: Reply::new(code, Some(status), text),
            remote: false,
            of_recipient: false,
            dsn_relayed: false,
        }
    }

    /// What the host has replied.
    fn of(host: &str, reply: Reply) -> Self {
        Self { host: Some(host.to_owned()), reply, remote: true, of_recipient: false, dsn_relayed: false }
    }

    #[must_use]
    fn at(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }
}

impl Outcome {
    /// From a reply that refuses. RFC 5321 §4.2.1: 5yz must not be tried again, all else may.
    fn refused(diagnosis: Diagnosis) -> Self {
        if diagnosis.reply.is_permanent() { Self::Failed(diagnosis) } else { Self::Deferred(diagnosis) }
    }

    pub fn diagnosis(&self) -> &Diagnosis {
        match self {
            Self::Delivered(diagnosis) | Self::Deferred(diagnosis) | Self::Failed(diagnosis) => diagnosis,
        }
    }
}

/// The name under which mails for one destination are gathered, e.g. for limits and back-off.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationKey(pub Box<str>);

impl DestinationKey {
    /// `domain` is the recipient's; it matters only for `Mx(None)`.
    pub fn new(route: &Route, domain: Option<&Domain>) -> Self {
        match (route, domain) {
            (Route::Mx(None), Some(domain)) => Self(format!("mx:{domain}").into()),
            // A policy that the host does not meet must not hold up the mail of those who ask for less, or for another.
            (Route::Host { tls, .. }, _) if *tls != TlsPolicy::default() => Self(format!("{route}:{tls}").into()),
            _ => Self(route.to_string().into()),
        }
    }
}
