//! What is installed and switched, as a value: which versions of a plugin there are, and which one counts.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::pipeline::{Scope, Stage, StageSet};

/// The only one so far; a record of another one is not touched.
const FORMAT: u32 = 1;

/// Everything that `postern plugin` has changed. Replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    pub plugins: Vec<Entry>,
}

impl Default for Record {
    fn default() -> Self {
        Self { format: FORMAT, plugins: Vec::new() }
    }
}

/// One plugin, as far as it differs from what the config says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: Arc<str>,
    /// Its owner's. Where a plugin of another scope is only switched on or off: that of the chain.
    #[serde(with = "scope_text")]
    pub scope: Scope,
    /// Whether it stands in the chain of its scope; `None`: as the config says, and one that was installed does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Oldest first.
    #[serde(default)]
    pub versions: Vec<Version>,
    /// `None`: the one that the config names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Pin>,
}

/// A component that was in force, with the settings that came with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// From 1, never given twice.
    pub number: u64,
    /// SHA-256 of the file, 64 hex digits.
    pub digest: Arc<str>,
    /// Octets.
    pub size: u64,
    pub installed: Timestamp,
    /// What the file was called.
    pub file: String,
    pub stages: Vec<String>,
    /// How it stood in the chain of its scope: what counts when it can't be loaded at a start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// `None`: they stand in the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<WrittenSettings>,
    /// Never gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Withdrawal>,
}

/// In the words of the config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub direction: String,
    pub on_failure: String,
    #[serde(default)]
    pub exemptable: bool,
}

/// The settings of an installed plugin, as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenSettings {
    /// TOML.
    pub text: String,
    /// Where it was read from: for errors, and for the relative paths in it.
    pub path: std::path::PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    pub time: Timestamp,
    pub reason: String,
}

/// The version that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pub version: u64,
    /// It counts only while the file that the config names has this digest: a changed file is a new word of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<Arc<str>>,
}

/// What a plugin can go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earlier {
    Version(u64),
    /// The one that the config names, which is built in or has never been replaced.
    Config,
    None,
}

impl Record {
    /// From the octets of the file.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        match record.format {
            FORMAT => Ok(record),
            other => Err(format!("it has format {other}, this gateway knows {FORMAT}: is it of a newer one?")),
        }
    }

    pub fn entry(&self, scope: &Scope, name: &str) -> Option<&Entry> {
        self.plugins.iter().find(|entry| entry.scope == *scope && *entry.name == *name)
    }

    /// Made when there is none.
    pub fn entry_mut(&mut self, scope: &Scope, name: &str) -> &mut Entry {
        let found = self.plugins.iter().position(|entry| entry.scope == *scope && *entry.name == *name);
        let at = found.unwrap_or_else(|| {
            let (name, scope) = (name.into(), scope.clone());
            self.plugins.push(Entry { name, scope, enabled: None, versions: Vec::new(), current: None });
            self.plugins.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "it was found there or has just been put there")]
        &mut self.plugins[at]
    }

    pub fn remove(&mut self, scope: &Scope, name: &str) {
        self.plugins.retain(|entry| entry.scope != *scope || *entry.name != *name);
    }

    /// Digests of all components that the record speaks of.
    pub fn digests(&self) -> impl Iterator<Item = &Arc<str>> {
        self.plugins.iter().flat_map(|entry| &entry.versions).map(|version| &version.digest)
    }
}

impl Entry {
    pub fn version(&self, number: u64) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }

    pub fn current(&self) -> Option<&Version> {
        self.current.as_ref().and_then(|pin| self.version(pin.version))
    }

    /// Adds a version; at most `keep` stay, the oldest that nothing needs go.
    pub fn add(&mut self, version: Version, keep: usize) -> u64 {
        let number = self.versions.iter().map(|version| version.number).max().unwrap_or(0) + 1;
        self.versions.push(Version { number, ..version });
        // The current one, the one before it and the new one are needed.
        while self.versions.len() > keep.max(3) {
            let current = self.current.as_ref().map(|pin| pin.version);
            let Some(oldest) = self.versions.iter().position(|version| Some(version.number) != current) else { break };
            self.versions.remove(oldest);
        }
        number
    }

    /// The version that a roll-back leads to. `in_config`: the config declares the plugin; `effective`: the digest in force.
    pub fn earlier(&self, in_config: bool, effective: Option<&str>) -> Earlier {
        let current = self.current.as_ref().map(|pin| pin.version);
        let before = |version: &&Version| {
            version.withdrawn.is_none()
                && current.is_none_or(|current| version.number < current)
                && (current.is_some() || effective != Some(&*version.digest))
        };
        // A pin that stands in for the config's own file was set because that one was left.
        let config_is_good = self.current.as_ref().is_some_and(|pin| pin.instead_of.is_none());
        match self.versions.iter().rev().find(before) {
            Some(version) => Earlier::Version(version.number),
            None if in_config && config_is_good => Earlier::Config,
            None => Earlier::None,
        }
    }

    pub fn withdraw(&mut self, number: u64, reason: &str) {
        if let Some(version) = self.versions.iter_mut().find(|version| version.number == number) {
            version.withdrawn = Some(Withdrawal { time: Timestamp::now(), reason: reason.to_owned() });
        }
    }

    /// Nothing of it differs from the config, and nothing can be gone back to.
    pub fn is_idle(&self) -> bool {
        self.enabled.is_none() && self.versions.is_empty() && self.current.is_none()
    }
}

impl Version {
    pub fn stages(&self) -> StageSet {
        let known = |name: &String| Stage::ALL.into_iter().find(|stage| stage.name() == name);
        self.stages.iter().filter_map(known).collect()
    }
}

/// `platform`, `reseller:NAME`, `tenant:NAME`.
pub mod scope_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use super::Scope;
    use crate::config::value::FromText as _;

    pub fn serialize<S: Serializer>(scope: &Scope, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(scope)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scope, D::Error> {
        let text = String::deserialize(deserializer)?;
        Scope::from_text(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(versions: &[&str], current: Option<u64>) -> Entry {
        let mut entry = Entry {
            name: "x".into(),
            scope: Scope::Platform,
            enabled: None,
            versions: Vec::new(),
            current: current.map(|version| Pin { version, instead_of: None }),
        };
        for digest in versions {
            entry.versions.push(Version {
                number: entry.versions.len() as u64 + 1,
                digest: (*digest).into(),
                size: 1,
                installed: Timestamp::UNIX_EPOCH,
                file: String::new(),
                stages: Vec::new(),
                place: None,
                settings: None,
                withdrawn: None,
            });
        }
        entry
    }

    #[test]
    fn a_roll_back_leads_to_the_last_good_version() {
        use Earlier::{Config, None as Nothing, Version as To};
        for (versions, current, withdrawn, in_config, effective, expected) in [
            (&["a"][..], Some(1), &[][..], false, "a", Nothing),
            (&["a"], Some(1), &[], true, "a", Config),
            (&["a", "b"], Some(2), &[], false, "b", To(1)),
            (&["a", "b", "c"], Some(3), &[2], false, "c", To(1)),
            (&["a", "b", "c"], Some(2), &[3], false, "b", To(1)),
            (&["a", "b"], Some(2), &[1], true, "b", Config),
            // Files of the config: no version is pinned, and the newest is in force.
            (&["a", "b"], None, &[], true, "b", To(1)),
            (&["a"], None, &[], true, "a", Nothing),
            (&[], None, &[], true, "a", Nothing),
        ] {
            let mut entry = entry(versions, current);
            withdrawn.iter().for_each(|number| entry.withdraw(*number, "test"));
            let earlier = entry.earlier(in_config, Some(effective));
            assert_eq!(earlier, expected, "{versions:?} {current:?} {withdrawn:?} {in_config}");
        }
    }

    /// The config's file has failed, and the one before it stands in for it: there is no way back to the one that failed.
    #[test]
    fn the_file_that_was_left_is_not_gone_back_to() {
        let mut entry = entry(&["a", "b"], Some(1));
        entry.withdraw(2, "it failed");
        entry.current.as_mut().unwrap().instead_of = Some("b".into());
        assert_eq!(entry.earlier(true, Some("a")), Earlier::None);
    }

    #[test]
    fn old_versions_go_and_the_current_one_stays() {
        let mut entry = entry(&["a"], Some(1));
        for n in 0..10 {
            let number = entry.add(Version { digest: n.to_string().into(), ..entry.versions[0].clone() }, 4);
            assert_eq!(number, n + 2);
        }
        let numbers: Vec<_> = entry.versions.iter().map(|version| version.number).collect();
        assert_eq!(numbers, [1, 9, 10, 11]);
        assert_eq!(entry.current().map(|version| &*version.digest), Some("a"));
    }
}
