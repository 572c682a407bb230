//! What is written of plugins and chains.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Deserializer;
use toml::Spanned;

use crate::config::value::name::Name;
use crate::config::value::quantity::{ByteSize, Count};
use crate::config::value::word::{Grant, WrittenSource, WrittenTable};
use crate::config::value::{At, text_or_table};
use crate::pipeline::{Directions, OnFailure, Scope};

/// `[[plugin]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    pub name: At<Name>,
    pub source: Option<At<WrittenSource>>,
    pub scope: Option<At<Scope>>,
    #[serde(default)]
    pub available: bool,
    pub config: Option<Spanned<toml::Table>>,
    pub grants: Option<Vec<At<Grant>>>,
    /// Names are free, so the files of a table are looked up by the name that the plugin uses.
    #[serde(default)]
    pub tables: std::collections::BTreeMap<String, At<WrittenTable>>,
    #[serde(default)]
    pub scanners: Vec<At<Name>>,
    #[serde(default)]
    pub limits: Limits,
    pub reuse: Option<bool>,
    pub on_failure: Option<At<OnFailure>>,
}

/// What may stand in the settings of an installed plugin besides the keys of `[[plugin]]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    pub direction: Option<At<Directions>>,
    pub exemptable: Option<Spanned<bool>>,
}

/// `[plugins]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plugins {
    pub directory: Option<At<PathBuf>>,
    pub keep_versions: Option<Count>,
    pub rollback_failures: Option<Count>,
    pub rollback_window: Option<At<Duration>>,
    pub store_entries: Option<Count>,
    pub store_octets: Option<At<ByteSize>>,
    pub store_total: Option<At<ByteSize>>,
}

/// `limits` of a plugin.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub cpu: Option<At<Duration>>,
    pub wall: Option<At<Duration>>,
    pub memory: Option<At<ByteSize>>,
    pub table_elements: Option<Count>,
    pub host_calls: Option<Count>,
    pub handles: Option<Count>,
    pub octets: Option<At<ByteSize>>,
    pub scan: Option<At<ByteSize>>,
    pub concurrency: Option<Count>,
}

/// `[chain]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Chain {
    pub platform: Option<Vec<Spanned<ChainEntry>>>,
}

/// `"plugin"`, or a table.
pub enum ChainEntry {
    Short(String),
    Table(ChainEntryTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainEntryTable {
    pub plugin: At<Name>,
    pub direction: Option<At<Directions>>,
    pub exemptable: Option<Spanned<bool>>,
    pub on_failure: Option<At<OnFailure>>,
}

impl<'de> Deserialize<'de> for ChainEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let what = "the name of a plugin, or a table with `plugin`";
        text_or_table(deserializer, what, |text| Ok(Self::Short(text.to_owned())), Self::Table)
    }
}
