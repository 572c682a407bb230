//! The config, with its defaults.

use postern_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Scanners of kind `clamd`; all of them are asked, one after the other, until one finds something.
    pub scanners: Vec<String>,
    pub found: Found,
    pub unavailable: Unchecked,
    pub too_big: Unchecked,
    /// Of the header field that says what was found; empty: none.
    pub header: String,
    /// Before the subject of infected mail that is let through; empty: the subject stays.
    pub subject_prefix: String,
    /// For outbound mail, where it is another thing.
    pub outbound: Outbound,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    pub found: Option<Found>,
    pub unavailable: Option<Unchecked>,
    pub too_big: Option<Unchecked>,
}

/// With infected mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    Reject,
    Quarantine,
    Discard,
    /// Let through and marked.
    Tag,
}

/// With mail of which nobody knows whether it is infected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unchecked {
    Defer,
    Reject,
    Quarantine,
    /// Let through and marked.
    Continue,
}

/// What holds for a mail of one direction.
#[derive(Clone, Copy)]
pub struct Policy {
    pub found: Found,
    pub unavailable: Unchecked,
    pub too_big: Unchecked,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scanners: vec!["clamav".to_owned()],
            found: Found::Reject,
            unavailable: Unchecked::Defer,
            too_big: Unchecked::Continue,
            header: "X-Virus-Status".to_owned(),
            subject_prefix: String::new(),
            outbound: Outbound::default(),
        }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        if self.scanners.is_empty() {
            return Err("scanners: name at least one".to_owned());
        }
        if !self.header.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') || self.header.len() > 76 {
            return Err(format!("header: `{}` is no name of a header field", self.header.escape_debug()));
        }
        if self.subject_prefix.chars().any(|c| !matches!(c, ' '..='~')) || self.subject_prefix.len() > 64 {
            return Err("subject_prefix: at most 64 printable ASCII characters".to_owned());
        }
        Ok(())
    }

    pub fn policy(&self, direction: Direction) -> Policy {
        let own = Policy { found: self.found, unavailable: self.unavailable, too_big: self.too_big };
        match direction {
            Direction::Inbound => own,
            Direction::Outbound => Policy {
                found: self.outbound.found.unwrap_or(own.found),
                unavailable: self.outbound.unavailable.unwrap_or(own.unavailable),
                too_big: self.outbound.too_big.unwrap_or(own.too_big),
            },
        }
    }
}
