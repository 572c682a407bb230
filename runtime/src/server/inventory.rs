//! What there is of plugins, and what each is doing.

use std::sync::Arc;

use super::live::{InForce, Live, Refusal};
use super::plugins::Key;
use super::plugins::effective::knows_scope;
use super::plugins::record::Entry;
use super::verbs::{chain, places};
use crate::cli::control::plugin::{Detail, State, Version};
use crate::config::settings::{ChainEntry, Plugin, PluginSource};
use crate::host::Accounts;
use crate::pipeline::OnFailure;

impl Live {
    /// All plugins of a scope, or of all; by scope and name.
    pub fn plugins(&self, scope: Option<&str>) -> Result<Vec<State>, Refusal> {
        let scope = scope.map(|scope| self.scope(scope)).transpose()?;
        let in_force = self.in_force();
        if let Some(scope) = scope.as_ref().filter(|scope| !knows_scope(&in_force.settings, scope)) {
            return Err(Refusal::Invalid(format!("there is no {scope} in the config")));
        }
        // Its own, and those of others that stand in its chain.
        let concerns = |state: &State| {
            let scope = scope.as_ref().map(ToString::to_string);
            scope.is_none_or(|scope| state.scope == scope || state.chains.contains(&scope))
        };
        Ok(known(&in_force).iter().map(|key| self.state(&in_force, key)).filter(concerns).collect())
    }

    pub fn plugin(&self, scope: &str, name: &str) -> Result<Detail, Refusal> {
        let key = self.plugin_name(scope, name)?;
        let in_force = self.in_force();
        if !known(&in_force).contains(&key) {
            return Err(self.no_plugin(&key));
        }
        let declared = declared(&in_force, &key);
        let inspection = in_force.rack.at(&key).and_then(|mounted| mounted.plugin.as_ref()).map(|p| p.inspect());
        let entry = in_force.installed.entry(&key.0, &key.1);
        Ok(Detail {
            state: self.state(&in_force, &key),
            size: inspection.map(|inspection| inspection.size as u64),
            imports: inspection.map(|inspection| inspection.imports.clone()).unwrap_or_default(),
            config: declared.map(|plugin| plugin.config.clone()).unwrap_or_default(),
            tables: declared.map(|plugin| plugin.tables.keys().cloned().collect()).unwrap_or_default(),
            direction: own_place(&in_force, &key).map(|place| place.directions.name().to_owned()),
            exemptable: own_place(&in_force, &key).is_some_and(|place| place.exemptable),
            on_failure: on_failure(&in_force, &key).name().to_owned(),
            reuse: declared.is_some_and(|plugin| plugin.reuse),
            versions: entry
                .map(|entry| versions(entry, in_force.rack.at(&key).map(|m| &*m.digest)))
                .unwrap_or_default(),
        })
    }

    /// What the plugins of a scope have used since the gateway started, or those of all.
    pub fn usage(&self, scope: Option<&str>) -> Result<Accounts, Refusal> {
        let scope = scope.map(|scope| self.scope(scope)).transpose()?.map(|scope| scope.to_string());
        let mut usage = self.parts.host.usage();
        if let Some(scope) = scope {
            usage.plugins.retain(|account| account.scope == scope);
            usage.scopes.retain(|account| account.scope == scope);
        }
        Ok(usage)
    }

    fn state(&self, in_force: &InForce, key: &Key) -> State {
        let (scope, name) = key;
        let mounted = in_force.rack.at(key);
        let declared = declared(in_force, key);
        let entry = in_force.installed.entry(scope, name);
        let stages =
            mounted.map(|mounted| mounted.filter.interest().stages().iter().map(|stage| stage.name().to_owned()));
        let pinned = in_force.effective.pinned.get(key);
        State {
            name: name.to_string(),
            scope: scope.to_string(),
            chains: places(&in_force.effective.settings.chains, scope, name).iter().map(ToString::to_string).collect(),
            source: match declared.map(|plugin| &plugin.source) {
                _ if pinned.is_some() || entry.is_some_and(|entry| entry.current.is_some()) => "installed".to_owned(),
                Some(PluginSource::Builtin(builtin)) => format!("builtin:{builtin}"),
                _ => "config".to_owned(),
            },
            version: pinned.map(|version| version.number),
            digest: mounted.map(|mounted| mounted.digest.to_string()),
            since: mounted.map(|mounted| mounted.since),
            stages: stages.map(Iterator::collect).unwrap_or_default(),
            grants: declared.map(|p| p.grants.iter().map(|grant| grant.0.to_string()).collect()).unwrap_or_default(),
            scanners: declared.map(|p| p.scanners.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            on_trial: self.trials.left(key).map(|left| left.as_secs().max(1)),
            broken: mounted.and_then(|mounted| mounted.broken.clone()),
            activity: mounted.and_then(|mounted| mounted.plugin.as_ref()).map(|plugin| plugin.report().activity),
        }
    }
}

/// Those that are declared or installed, and those that should be loaded and are not.
fn known(in_force: &InForce) -> Vec<Key> {
    let declared = in_force.effective.settings.plugins.iter().map(|plugin| (plugin.scope.clone(), plugin.name.clone()));
    let mut keys: Vec<_> = declared.chain(in_force.effective.broken.keys().cloned()).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn declared<'f>(in_force: &'f InForce, (scope, name): &Key) -> Option<&'f Arc<Plugin>> {
    in_force.effective.settings.plugins.iter().find(|plugin| plugin.scope == *scope && plugin.name == *name)
}

fn own_place<'f>(in_force: &'f InForce, key: &Key) -> Option<&'f ChainEntry> {
    chain(&in_force.effective.settings.chains, &key.0).iter().find(|place| place.plugin.name == key.1)
}

/// Of its place in its own scope's chain.
fn on_failure(in_force: &InForce, key: &Key) -> OnFailure {
    let declared = || declared(in_force, key).map(|plugin| plugin.on_failure);
    own_place(in_force, key).map(|place| place.on_failure).or_else(declared).unwrap_or_default()
}

fn versions(entry: &Entry, digest: Option<&str>) -> Vec<Version> {
    let current = entry.current.as_ref().map(|pin| pin.version);
    let versions = entry.versions.iter().rev().map(|version| Version {
        number: version.number,
        digest: version.digest.to_string(),
        size: version.size,
        installed: version.installed,
        file: version.file.clone(),
        in_force: match current {
            Some(number) => version.number == number,
            None => digest == Some(&*version.digest),
        },
        settings: version.settings.as_ref().map(|settings| settings.text.clone()),
        withdrawn: version.withdrawn.as_ref().map(|withdrawal| withdrawal.reason.clone()),
    });
    versions.collect()
}
