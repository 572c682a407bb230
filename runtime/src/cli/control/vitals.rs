//! What `postern status` asks for and shows.

use std::net::SocketAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A running gateway at a glance. Counts are since its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    pub version: String,
    pub pid: u32,
    pub host_name: String,
    /// `None`: it runs without a file.
    pub config: Option<PathBuf>,
    pub started: Timestamp,
    /// The gateway's clock when it answered.
    pub now: Timestamp,
    /// Why it takes no mail just now; `None`: it does.
    pub not_ready: Option<String>,
    /// When the last reload put a config in force; `None`: there was none, or it was refused.
    pub reloaded: Option<Timestamp>,
    /// The last reload, when that was refused.
    pub refused: Option<RefusedReload>,
    pub listeners: Vec<Listener>,
    pub http: Option<SocketAddr>,
    pub sessions: Sessions,
    pub queue: Queue,
    pub spool: Spool,
    pub plugins: Plugins,
    /// Keys for signatures that are on disk and can't be used.
    #[serde(default)]
    pub broken_keys: u64,
    pub messages: Messages,
    /// Events that the log could not take.
    pub events_dropped: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedReload {
    pub at: Timestamp,
    /// The first line of the error.
    pub error: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub name: String,
    pub address: SocketAddr,
    /// As in the config, like the TLS setting.
    pub role: String,
    pub tls: String,
    /// When its certificate ends; `None`: it has none, or one that can't be read.
    pub certificate_expires: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    pub open: u64,
    pub limit: u64,
    /// There are so many that they get less time and fewer errors.
    #[serde(default)]
    pub overload: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    pub ready: u64,
    pub waiting: u64,
    pub delivering: u64,
    pub held: u64,
    pub quarantined: u64,
    /// Seconds: the age of the oldest message that is to be delivered.
    pub oldest: u64,
    /// Destinations that are down and have messages, those with the most first; at most ten.
    pub down: Vec<Down>,
    /// All of those.
    pub down_total: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    pub destination: String,
    pub messages: u64,
    /// In a row.
    pub failures: u32,
    pub next_attempt: Timestamp,
    /// What was said last.
    pub reply: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spool {
    pub directory: PathBuf,
    pub healthy: bool,
    /// Of segments and bodies.
    pub octets: u64,
    /// Of the file system, for us; `None`: it does not say.
    pub free: Option<u64>,
    /// Of those, what new mail leaves free.
    pub reserve: u64,
    /// Records that were found damaged and set aside.
    pub damaged: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugins {
    /// In use: those that stand in a chain.
    pub count: u64,
    /// Those that are not asked, because they failed too often; at most twenty.
    pub open: Vec<OpenBreaker>,
    /// Those that were installed and can't be loaded: where they stand, mail meets their failure policy. At most twenty.
    #[serde(default)]
    pub broken: Vec<Broken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    pub plugin: String,
    pub scope: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenBreaker {
    pub plugin: String,
    /// Whose it is, e.g. `tenant:company`.
    pub scopes: Vec<String>,
}

/// Messages whose data ended, by what they were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// 250: accepted, put into quarantine or dropped as a plugin wished.
    pub accepted: u64,
    /// Of those, kept in quarantine.
    pub quarantined: u64,
    /// Of those, dropped.
    pub discarded: u64,
    /// 5xx, or 4xx, or the connection was closed.
    pub refused: u64,
    /// Of those, with 4xx.
    pub deferred: u64,
}
