//! What is asked and answered about plugins.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::host::Activity;

/// A component to be put in force; its octets follow the request's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    pub name: String,
    /// `platform`, `reseller:NAME`, `tenant:NAME`.
    pub scope: String,
    /// How many octets follow.
    pub octets: u64,
    /// What the file is called.
    pub file: String,
    /// TOML; `None`: those of the version in force.
    pub settings: Option<String>,
    /// The file that they stand in, as an absolute path.
    pub settings_path: PathBuf,
    /// False: it is checked and kept, and stands in no chain until it is switched on.
    pub enabled: bool,
}

/// One plugin, and what it is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    /// Its owner's.
    pub scope: String,
    /// The scopes in whose chains it stands.
    pub chains: Vec<String>,
    /// `builtin:NAME`, `config` or `installed`.
    pub source: String,
    /// Of those that were installed or replaced.
    pub version: Option<u64>,
    /// SHA-256 of its file; `None`: it is not loaded.
    pub digest: Option<String>,
    pub since: Option<Timestamp>,
    pub stages: Vec<String>,
    pub grants: Vec<String>,
    /// Those that it may ask.
    #[serde(default)]
    pub scanners: Vec<String>,
    /// Seconds that are left of its first minutes, in which it is taken back when it fails too often.
    pub on_trial: Option<u64>,
    /// Why it is not loaded though it should be.
    pub broken: Option<String>,
    /// Of the version that is loaded.
    pub activity: Option<Activity>,
}

/// Everything about one plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    #[serde(flatten)]
    pub state: State,
    /// Octets of its file.
    pub size: Option<u64>,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    pub config: serde_json::Value,
    /// The names of its tables.
    pub tables: Vec<String>,
    /// In the chain of its own scope; `None`: it does not stand there.
    pub direction: Option<String>,
    pub exemptable: bool,
    pub on_failure: String,
    pub reuse: bool,
    /// Newest first.
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub number: u64,
    pub digest: String,
    pub size: u64,
    pub installed: Timestamp,
    pub file: String,
    pub in_force: bool,
    /// TOML, as it came with it; `None`: they stand in the config.
    pub settings: Option<String>,
    /// Why it is never gone back to.
    pub withdrawn: Option<String>,
}
