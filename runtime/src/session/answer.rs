//! The one table from what happened to what the client hears.
//!
//! | | next, accept | reject | defer | discard | quarantine | disconnect |
//! |---|---|---|---|---|---|---|
//! | connect, helo, mail-from | go on | held | held | held | held | close |
//! | rcpt | 250 | 5xx | 4xx | 250, dropped | 250, marked | close |
//! | data | 250 | 5xx | 4xx | 250, dropped | 250, kept back | close |

use super::connection::CommitError;
use super::reception::Unacceptable;
use crate::pipeline::Verdict;
use crate::smtp::{CommandError, Reply};

/// What follows from a verdict on a recipient or a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    Take,
    /// Say yes and drop it.
    Drop,
    /// Say yes and keep it back, for this reason.
    KeepBack(String),
    Refuse(Reply),
    Close(Reply),
}

impl From<Verdict> for Ruling {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Next | Verdict::Accept => Self::Take,
            Verdict::Discard => Self::Drop,
            Verdict::Quarantine(reason) => Self::KeepBack(reason),
            // RFC 5321 §3.8: 421 says that the connection is closed.
            Verdict::Defer(reply) if reply.code() == 421 => Self::Close(reply),
            Verdict::Reject(reply) | Verdict::Defer(reply) => Self::Refuse(reply),
            Verdict::Disconnect(reply) => Self::Close(reply),
        }
    }
}

/// A command that could not be understood (RFC 5321 §4.2.4).
pub fn to_command_error(error: &CommandError) -> Reply {
    match error {
        CommandError::Octets | CommandError::Unknown => Reply::command_unknown(),
        CommandError::NotSmtp => Reply::not_smtp(),
        CommandError::Syntax(text) => Reply::syntax(*text),
        CommandError::ReversePath(_) => Reply::bad_sender_syntax(),
        CommandError::ForwardPath(_) => Reply::bad_recipient_syntax(),
        CommandError::UnknownParameter(keyword) => Reply::parameter_unknown(keyword),
        CommandError::BadParameter(keyword) => Reply::syntax(format!("Bad value of parameter {keyword}")),
    }
}

/// A message that was read to its end and can't be taken.
pub fn to_unacceptable(fault: Unacceptable) -> Reply {
    match fault {
        Unacceptable::TooBig => Reply::message_too_big(),
        Unacceptable::HeaderTooBig => Reply::header_too_big(),
        Unacceptable::BareCr => Reply::bare_line_end_in_data("CR"),
        Unacceptable::BareLf => Reply::bare_line_end_in_data("LF"),
        Unacceptable::Nul => Reply::nul_in_data(),
    }
}

/// Our own trouble is never the client's fault: always 4xx.
pub fn to_commit_error(error: CommitError) -> Reply {
    match error {
        CommitError::Full => Reply::storage_full(),
        CommitError::Failed => Reply::local_error(),
    }
}
