//! Why a conversation with a next hop did not go on, and what that means for the mail: the one table from cause to outcome.

use std::fmt;

use super::{Diagnosis, Outcome};
use crate::smtp::{Enhanced, Reply, ReplyError};

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Greeting,
    Hello,
    StartTls,
    Login,
    Reset,
    Mail,
    Rcpt,
    Data,
    /// The message is being sent.
    Content,
    /// The reply to the end of data.
    Dot,
    Quit,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "the greeting",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Login => "AUTH",
            Self::Reset => "RSET",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content => "sending the message",
            Self::Dot => "end of data",
            Self::Quit => "QUIT",
        })
    }
}

/// After any of these the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection.
    Connect(String),
    /// The connection came to a listener of our own.
    OwnHost,
    Lost(Stage, String),
    TimedOut(Stage),
    /// What came is no reply.
    Reply(Stage, ReplyError),
    /// A reply that has no meaning here, e.g. 354 to MAIL.
    Unexpected(Stage, Reply),
    /// Replies that no command has asked for: which reply answers what is not known any more.
    Desynchronised(Stage),
    /// The server refuses: to serve us at all, or with 421 to go on.
    Refused(Reply),
    /// TLS is a must, and the server does not do it, or not well enough.
    Tls(String),
    /// The login failed, or could not be tried.
    Login(String),
    /// Our own copy of the message can't be read.
    Unreadable(String),
    /// The message has octets that must never be sent (RFC 5321 §2.3.8).
    Unsendable(&'static str),
}

impl Failure {
    /// Where the conversation broke off, without a reply that says what became of the mail.
    pub(super) fn stage(&self) -> Option<Stage> {
        match self {
            Self::Lost(stage, _)
            | Self::TimedOut(stage)
            | Self::Reply(stage, _)
            | Self::Unexpected(stage, _)
            | Self::Desynchronised(stage) => Some(*stage),
            _ => None,
        }
    }

    pub(super) fn outcome(&self, host: &str) -> Outcome {
        let own = |code: u16, subject: u16, detail: u16, text: String| {
            Diagnosis::own(code, Enhanced::new(subject, detail), text)
        };
        let deferred =
            |subject: u16, detail: u16, text: String| Outcome::Deferred(own(451, subject, detail, text).at(host));
        match self {
            Self::Connect(cause) => Outcome::Deferred(own(451, 4, 1, format!("No connection to {host}: {cause}"))),
            Self::OwnHost => {
                Outcome::Failed(own(554, 4, 6, format!("Mail loops back to this host, which is {host} too")))
            }
            Self::Lost(stage, cause) => deferred(4, 2, format!("Connection with {host} lost at {stage}: {cause}")),
            Self::TimedOut(stage) => deferred(4, 2, format!("Timed out with {host} at {stage}")),
            Self::Reply(stage, error) => deferred(5, 0, format!("{host} broke the protocol at {stage}: {error}")),
            Self::Unexpected(stage, reply) => {
                deferred(5, 0, format!("{host} broke the protocol at {stage} with the reply: {reply}"))
            }
            Self::Desynchronised(stage) => {
                deferred(5, 0, format!("{host} broke the protocol at {stage}: it replied to nothing"))
            }
            Self::Refused(reply) => Outcome::refused(Diagnosis::of(host, reply.clone())),
            Self::Tls(cause) => deferred(7, 5, format!("No secure connection with {host}: {cause}")),
            Self::Login(cause) => deferred(7, 0, format!("No login at {host}: {cause}")),
            Self::Unreadable(cause) => Outcome::Deferred(own(451, 3, 0, format!("Message can't be read: {cause}"))),
            Self::Unsendable(what) => {
                Outcome::Failed(own(554, 6, 0, format!("Message has a {what}, which can't be sent")))
            }
        }
    }
}
