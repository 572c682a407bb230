//! Words from a fixed set.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::FromText;
use super::name::Name;
use crate::config::suggest::did_you_mean;
use crate::dns::blocklist::Subjects;
use crate::mail::TlsPolicy;
use crate::pipeline::{Directions, OnFailure, Role, Scope};
use crate::scan::Kind;

/// TLS with clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerTls {
    None,
    /// STARTTLS is offered (RFC 3207).
    StartTls,
    /// No mail before STARTTLS.
    Required,
    /// TLS from the first octet (RFC 8314 §3.3).
    Implicit,
}

/// How a table is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    Lines,
    Csv,
    Toml,
}

/// What happens to a bare CR or LF in data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEndsWord {
    Strict,
    Normalize,
}

macro_rules! words {
    ($($type:ty, $what:literal: $($word:literal => $value:expr),+;)*) => {$(
        impl FromText for $type {
            const WHAT: &'static str = concat!("one of", $(" \"", $word, "\""),+);

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(not_a_word(text, $what, &[$($word),+])),
                }
            }
        }
    )*};
}

words! {
    Role, "role": "inbound" => Self::Inbound, "submission" => Self::Submission, "relay" => Self::Relay;
    ListenerTls, "TLS setting of a listener": "none" => Self::None, "starttls" => Self::StartTls, "required" => Self::Required,
        "implicit" => Self::Implicit;
    TableFormat, "format of a table": "lines" => Self::Lines, "csv" => Self::Csv, "toml" => Self::Toml;
    LineEndsWord, "treatment of line ends": "strict" => Self::Strict, "normalize" => Self::Normalize;
    TlsPolicy, "TLS policy": "never" => Self::Never, "opportunistic" => Self::Opportunistic, "required" => Self::Required,
        "verified" => Self::Verified, "implicit" => Self::Implicit;
    Subjects, "kind of block list": "addresses" => Self::Addresses, "domains" => Self::Domains;
    OnFailure, "failure policy": "defer" => Self::Defer, "continue" => Self::Continue, "reject" => Self::Reject,
        "quarantine" => Self::Quarantine, "disconnect" => Self::Disconnect;
    Directions, "direction": "inbound" => Self::Inbound, "outbound" => Self::Outbound, "both" => Self::Both;
    Kind, "kind of scanner": "clamd" => Self::Clamd, "rspamd" => Self::Rspamd;
    tracing::Level, "level": "error" => Self::ERROR, "warn" => Self::WARN, "info" => Self::INFO, "debug" => Self::DEBUG,
        "trace" => Self::TRACE;
}

fn not_a_word(text: &str, what: &str, words: &[&str]) -> String {
    let all = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let help = did_you_mean(text, words.iter().copied()).unwrap_or_else(|| format!("write one of {all}"));
    format!("`{}` is not a {what}\n{help}", text.escape_debug())
}

impl FromText for TimeZone {
    const WHAT: &'static str = "a time zone like \"Europe/Paris\"";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::get(text).map_err(|_| {
            let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
            let help = did_you_mean(text, known.iter().map(String::as_str));
            let help = help.unwrap_or_else(|| "write a name as \"Europe/Paris\" or \"UTC\"".to_owned());
            format!("there is no time zone `{}`\n{help}", text.escape_debug())
        })
    }
}

impl FromText for Scope {
    const WHAT: &'static str = "a scope like \"platform\" or \"tenant:NAME\"";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "platform" => Ok(Self::Platform),
            Some(("reseller", name)) => Name::from_text(name).map(|name| Self::Reseller(name.0)),
            Some(("tenant", name)) => Name::from_text(name).map(|name| Self::Tenant(name.0)),
            _ => Err(format!(
                "`{}` is not a scope\nwrite \"platform\", \"reseller:NAME\" or \"tenant:NAME\"",
                text.escape_debug()
            )),
        }
    }
}

/// Where a plugin's component comes from, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrittenSource {
    Builtin(Arc<str>),
    File(PathBuf),
}

impl FromText for WrittenSource {
    const WHAT: &'static str = "\"builtin:NAME\" or the path of a component";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.strip_prefix("builtin:") {
            Some(name) => Name::from_text(name).map(|name| Self::Builtin(name.0)),
            None => PathBuf::from_text(text).map(Self::File),
        }
    }
}

/// A table of a plugin, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrittenTable {
    /// One that has a section of its own.
    Named(Name),
    File(PathBuf),
}

impl FromText for WrittenTable {
    const WHAT: &'static str = "the path of a table, or \"table:NAME\"";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.strip_prefix("table:") {
            Some(name) => Name::from_text(name).map(Self::Named),
            None => PathBuf::from_text(text).map(Self::File),
        }
    }
}

/// What a plugin may use beyond what all may.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grant(pub Arc<str>);

/// Those that are no `route:NAME`.
const GRANTS: [&str; 13] = [
    "authentication",
    "call-ahead",
    "clock",
    "counters",
    "dns",
    "metrics",
    "recipients",
    "route:host",
    "route:mx",
    "scan",
    "signing",
    "store",
    "tables",
];

impl Grant {
    /// The smart host that it is about.
    pub fn smart_host(&self) -> Option<&str> {
        self.0.strip_prefix("route:").filter(|name| !matches!(*name, "mx" | "host"))
    }
}

impl FromText for Grant {
    const WHAT: &'static str = "a grant";

    fn from_text(text: &str) -> Result<Self, String> {
        if GRANTS.contains(&text) || text.strip_prefix("route:").is_some_and(|name| Name::from_text(name).is_ok()) {
            return Ok(Self(text.into()));
        }
        if matches!(text, "session" | "message" | "config" | "log") {
            return Err(format!("`{text}` is always granted\nleave it out"));
        }
        Err(not_a_word(text, "grant", &GRANTS))
    }
}

/// Text of the greeting (RFC 5321 §4.2 `textstring`), without the host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banner(pub String);

impl FromText for Banner {
    const WHAT: &'static str = "a text";

    fn from_text(text: &str) -> Result<Self, String> {
        if text.len() > 200 || !text.bytes().all(|b| matches!(b, b' '..=b'~')) {
            return Err("a banner has at most 200 printable ASCII characters".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}
