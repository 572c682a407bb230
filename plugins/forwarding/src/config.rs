//! The config, with its defaults.

use postern_sdk::prelude::*;

use crate::sign::Kind;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub action: Action,
    pub tag: String,
    /// By what a forwarded mail is known.
    pub signs: Vec<Kind>,
    /// The domains of those who send through here. Without them `author` and `delivered` mean nothing.
    pub own_domains: Vec<Pattern>,
    pub allow: Allow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Reject,
    Quarantine,
    Tag,
}

/// Who may forward, and where to.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// The sender of the envelope.
    pub sender: Vec<Pattern>,
    /// The mailbox that forwards: the login, or what the mail says.
    pub forwarder: Vec<Pattern>,
    /// All recipients are among them.
    pub recipient: Vec<Pattern>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            action: Action::Reject,
            tag: "auto-forwarded".into(),
            signs: Kind::ALL.into(),
            own_domains: Vec::new(),
            allow: Allow::default(),
        }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.:".contains(&byte);
        if self.tag.is_empty() || self.tag.len() > 64 || !self.tag.bytes().all(legal) {
            return Err("tag: 1 to 64 characters of a-z, 0-9, -, _, . and :".into());
        }
        if self.signs.is_empty() {
            return Err("signs: must not be empty".into());
        }
        Ok(())
    }
}
