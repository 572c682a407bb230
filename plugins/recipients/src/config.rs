//! The config, with its defaults and checks.

use postern_sdk::prelude::*;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The table with the mailboxes there are.
    table: Option<String>,
    /// Without a table the destination is asked, with one it need not be.
    call_ahead: Option<bool>,
    on_unavailable: OnUnavailable,
    /// What stands between a mailbox's name and its subaddress (RFC 5233), mostly `+`.
    separator: Option<String>,
}

/// What becomes of mail for a mailbox of which nobody can say whether it exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnavailable {
    /// The client comes back: nothing is lost, and nothing is taken that would have to be returned.
    #[default]
    Defer,
    /// It waits in the queue; what the destination then refuses goes back to a sender that may be forged.
    Accept,
}

pub struct Settings {
    pub table: Option<String>,
    pub call_ahead: bool,
    pub on_unavailable: OnUnavailable,
    pub separator: Option<String>,
}

impl Config {
    pub fn check(self) -> Result<Settings, String> {
        let Self { table, call_ahead, on_unavailable, separator } = self;
        let call_ahead = call_ahead.unwrap_or(table.is_none());
        if table.is_none() && !call_ahead {
            return Err("call_ahead: without it, and without a table, nobody knows which mailboxes there are".into());
        }
        if separator.as_ref().is_some_and(|text| text.is_empty() || text.contains('@')) {
            return Err("separator: one character or more, and no @".into());
        }
        Ok(Settings { table, call_ahead, on_unavailable, separator })
    }
}
