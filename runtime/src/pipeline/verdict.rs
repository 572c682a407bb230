//! What a plugin says of a mail, and which of two verdicts wins.

use crate::smtp::Reply;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No opinion: ask the next plugin.
    Next,
    /// Enough: skip the rest of this scope's chain at this stage.
    Accept,
    /// 5xx.
    Reject(Reply),
    /// 4xx.
    Defer(Reply),
    /// Say 250 and drop it, logged.
    Discard,
    /// Say 250 and keep it back, for this reason.
    Quarantine(String),
    /// 421 or 554, and close.
    Disconnect(Reply),
}

impl Verdict {
    /// Of all verdicts at a stage the strongest wins, so that a tenant can be stricter than the platform, never laxer.
    pub fn strength(&self) -> u8 {
        match self {
            Self::Next | Self::Accept => 0,
            Self::Quarantine(_) => 1,
            Self::Discard => 2,
            Self::Defer(_) => 3,
            Self::Reject(_) => 4,
            Self::Disconnect(_) => 5,
        }
    }

    /// The client is told no: reject, defer or disconnect.
    pub fn is_refusal(&self) -> bool {
        self.strength() >= 3
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Accept => "accept",
            Self::Reject(_) => "reject",
            Self::Defer(_) => "defer",
            Self::Discard => "discard",
            Self::Quarantine(_) => "quarantine",
            Self::Disconnect(_) => "disconnect",
        }
    }

    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Reject(reply) | Self::Defer(reply) | Self::Disconnect(reply) => Some(reply),
            _ => None,
        }
    }
}
