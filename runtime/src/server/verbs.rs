//! What an operator does to plugins while the gateway runs, and what it then says of them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::live::{Live, Refusal};
use super::plugins::effective::{knows_scope, visible};
use super::plugins::record::{Earlier, Entry, Pin, Version, WrittenSettings};
use super::plugins::{Change, Key, PluginError};
use super::trial::Failing;
use crate::cli::control::plugin::Install;
use crate::config::settings::{ChainEntry, Chains, PluginSource};
use crate::config::value::FromText as _;
use crate::config::value::name::Name;
use crate::host::{ContentDigest, Inspection};
use crate::log::Record;
use crate::pipeline::Scope;

/// How often new versions are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// As the record keeps it; its number comes later.
pub(super) fn version(inspection: &Inspection, file: String, settings: Option<WrittenSettings>) -> Version {
    Version {
        number: 0,
        digest: inspection.digest.to_string().into(),
        size: inspection.size as u64,
        installed: Timestamp::now(),
        file,
        stages: inspection.stages.iter().map(|stage| stage.name().to_owned()).collect(),
        place: None,
        settings,
        withdrawn: None,
    }
}

impl Live {
    /// A component that was given to us: it is in force when this returns, or nothing has changed.
    pub async fn install(&self, request: Install, source: Vec<u8>) -> Result<String, Refusal> {
        let (scope, name) = self.plugin_name(&request.scope, &request.name)?;
        let _turn = self.turn().await;
        let result = self.put_in_force(request, source, (scope, name)).await;
        if result.is_err() {
            self.sweep().await;
        }
        result
    }

    async fn put_in_force(&self, request: Install, source: Vec<u8>, key: Key) -> Result<String, Refusal> {
        let in_force = self.in_force();
        let (scope, name) = (&key.0, &key.1);
        if !knows_scope(&in_force.settings, scope) {
            return Err(Refusal::Invalid(format!("there is no {scope} in the config")));
        }
        let declared = in_force.settings.plugins.iter().find(|plugin| plugin.scope == *scope && plugin.name == *name);
        if declared.is_some() && request.settings.is_some() {
            let message = format!("{name} of {scope} stands in the config, and so do its settings: change them there");
            return Err(Refusal::Invalid(message));
        }
        let digest = ContentDigest::of(&source);
        let size = source.len() as u64;
        let mut installed = in_force.installed.clone();
        let entry = installed.entry_mut(scope, name);
        let settings = match (declared, request.settings) {
            (Some(_), _) => None,
            (None, Some(text)) => Some(WrittenSettings { text, path: request.settings_path }),
            (None, None) => Some(entry.current().and_then(|current| current.settings.clone()).unwrap_or_default()),
        };
        let digest_text: Arc<str> = digest.to_string().into();
        let same = |current: &Version| current.digest == digest_text && current.settings == settings;
        let works = in_force.rack.at(&key).is_some_and(|mounted| mounted.broken.is_none());
        if works && entry.current().is_some_and(same) {
            return Ok(self.told(&key));
        }
        let registry = self.parts.registry.clone();
        let keep = tokio::task::spawn_blocking(move || registry.keep(digest, &source));
        keep.await.map_err(|_| Refusal::Interrupted)?.map_err(PluginError::from)?;
        let keep = usize::try_from(in_force.settings.installation.keep_versions).unwrap_or(usize::MAX);
        let new = Version {
            number: 0,
            digest: digest_text,
            size,
            installed: Timestamp::now(),
            file: request.file,
            stages: Vec::new(),
            place: None,
            settings,
            withdrawn: None,
        };
        let number = entry.add(new, keep);
        entry.current = Some(Pin { version: number, instead_of: None });
        if !request.enabled {
            entry.enabled = Some(false);
        }
        let changes = self.change_plugins(installed, Some(&key), true).await?;
        self.sweep().await;
        self.tell("installed", &key, "", &changes);
        Ok(self.told(&key))
    }

    /// Puts a plugin into the chain of a scope, or takes it out.
    pub async fn switch(&self, scope: &str, name: &str, enabled: bool) -> Result<String, Refusal> {
        let key = self.plugin_name(scope, name)?;
        let (scope, name) = (&key.0, &key.1);
        let _turn = self.turn().await;
        let in_force = self.in_force();
        let stands = |chain: &[ChainEntry]| chain.iter().any(|place| place.plugin.name == *name);
        let effective = &in_force.effective.settings;
        let is_broken = in_force.effective.broken.contains_key(&key);
        if visible(effective, scope, name).is_none() && !is_broken {
            return Err(self.no_plugin(&key));
        }
        if stands(chain(&effective.chains, scope)) == enabled {
            let state = if enabled { "stands in the chain of" } else { "stands no longer in the chain of" };
            return Ok(format!("{name} {state} {scope} already"));
        }
        let mut installed = in_force.installed.clone();
        let entry = installed.entry_mut(scope, name);
        // What config or installation say of it by themselves need not be said.
        let by_itself = stands(chain(&in_force.settings.chains, scope)) || entry.current.is_some();
        entry.enabled = (by_itself != enabled).then_some(enabled);
        if entry.is_idle() {
            installed.remove(scope, name);
        }
        let changes = self.change_plugins(installed, None, false).await?;
        self.tell(if enabled { "enabled" } else { "disabled" }, &key, "", &changes);
        let state = if enabled { "stands in the chain of" } else { "was taken out of the chain of" };
        Ok(format!("{name} {state} {scope}"))
    }

    /// Goes back to the version before.
    pub async fn roll_back(&self, scope: &str, name: &str) -> Result<String, Refusal> {
        let key = self.plugin_name(scope, name)?;
        let _turn = self.turn().await;
        self.go_back(&key, "rolled back by the operator", "rolled-back").await
    }

    async fn go_back(&self, key: &Key, reason: &str, action: &'static str) -> Result<String, Refusal> {
        let (scope, name) = (&key.0, &key.1);
        let in_force = self.in_force();
        let declared = in_force.settings.plugins.iter().find(|plugin| plugin.scope == *scope && plugin.name == *name);
        let mut installed = in_force.installed.clone();
        let effective = in_force.rack.at(key).map(|mounted| mounted.digest.clone());
        let Some(entry) = installed.entry(scope, name) else {
            return Err(match declared {
                Some(_) => Refusal::NotNow(format!("{name} of {scope} has no earlier version")),
                None => self.no_plugin(key),
            });
        };
        let earlier = entry.earlier(declared.is_some(), effective.as_deref());
        let entry = installed.entry_mut(scope, name);
        let left = withdraw(entry, effective.as_deref(), reason);
        match earlier {
            Earlier::None => {
                return Err(Refusal::NotNow(format!("{name} of {scope} has no earlier version to go back to")));
            }
            Earlier::Config => entry.current = None,
            Earlier::Version(number) => {
                let is_file = declared.is_some_and(|plugin| matches!(plugin.source, PluginSource::File(_)));
                let instead_of = match &entry.current {
                    Some(pin) => pin.instead_of.clone(),
                    None => effective.filter(|_| is_file),
                };
                entry.current = Some(Pin { version: number, instead_of });
            }
        }
        let changes = self.change_plugins(installed, Some(key), false).await?;
        self.tell(action, key, reason, &changes);
        let left = left.map_or_else(String::new, |number| format!("; version {number} is withdrawn"));
        Ok(format!("{}{left}", self.told(key)))
    }

    /// Forgets all versions and switches of a plugin: what the config says of it counts again, if it says anything.
    pub async fn remove(&self, scope: &str, name: &str) -> Result<String, Refusal> {
        let key = self.plugin_name(scope, name)?;
        let (scope, name) = (&key.0, &key.1);
        let _turn = self.turn().await;
        let in_force = self.in_force();
        if in_force.installed.entry(scope, name).is_none() {
            let declared = in_force.settings.plugins.iter().any(|p| p.scope == *scope && p.name == *name);
            let message = format!("{name} of {scope} stands in the config: take it out there, or disable it");
            return Err(if declared { Refusal::NotNow(message) } else { self.no_plugin(&key) });
        }
        let mut installed = in_force.installed.clone();
        installed.remove(scope, name);
        let changes = self.change_plugins(installed, None, false).await?;
        self.sweep().await;
        self.tell("removed", &key, "", &changes);
        let in_force = self.in_force();
        let stands = chain(&in_force.settings.chains, scope).iter().any(|place| place.plugin.name == *name);
        Ok(match (in_force.settings.plugins.iter().any(|p| p.scope == *scope && p.name == *name), stands) {
            (_, true) => format!(
                "what was installed and switched of {name} is forgotten; it stands in the chain of {scope} as the config says"
            ),
            (true, false) => format!(
                "what was installed and switched of {name} is forgotten; the config puts it in no chain of {scope}"
            ),
            (false, false) => format!("{name} of {scope} is removed"),
        })
    }

    /// Watches new versions, for ever.
    pub async fn watch_trials(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let limit = u64::from(self.in_force().settings.installation.rollback_failures);
            for failing in self.trials.failing(limit) {
                self.take_back(&failing).await;
            }
        }
    }

    async fn take_back(&self, failing: &Failing) {
        let Failing { key, plugin, calls, failures } = failing;
        let _turn = self.turn().await;
        // Somebody may have been faster.
        let in_force = self.in_force();
        let mounted = in_force.rack.at(key).and_then(|mounted| mounted.plugin.as_ref());
        if mounted.is_none_or(|mounted| !Arc::ptr_eq(mounted, plugin)) {
            return;
        }
        let reason = format!("{failures} of its first {calls} calls failed");
        match self.go_back(key, &reason, "rolled-back-by-itself").await {
            Ok(message) => tracing::error!(plugin = %key.1, scope = %key.0, "{reason}: {message}"),
            Err(refusal) => {
                // Tried again for as long as it is on trial; what is in the way may go.
                self.trials.pause(key);
                tracing::error!(plugin = %key.1, scope = %key.0, "{reason}, and it can't be taken back: {refusal}");
            }
        }
    }

    pub(super) fn scope(&self, text: &str) -> Result<Scope, Refusal> {
        Scope::from_text(text).map_err(in_one_line)
    }

    pub(super) fn plugin_name(&self, scope: &str, name: &str) -> Result<Key, Refusal> {
        Ok((self.scope(scope)?, Name::from_text(name).map_err(in_one_line)?.0))
    }

    /// With where a plugin of that name is, if there is one.
    pub(super) fn no_plugin(&self, (scope, name): &Key) -> Refusal {
        let in_force = self.in_force();
        let elsewhere = in_force.effective.settings.plugins.iter().find(|plugin| plugin.name == *name);
        let hint = match elsewhere {
            Some(plugin) if plugin.available => String::new(),
            Some(plugin) => format!("; there is one of {}", plugin.scope),
            None => String::new(),
        };
        Refusal::NoPlugin { scope: scope.clone(), name: name.clone(), hint }
    }

    /// What is in force now, for the operator.
    fn told(&self, key: &Key) -> String {
        let in_force = self.in_force();
        let (scope, name) = key;
        let version = match in_force.installed.entry(scope, name).and_then(Entry::current) {
            Some(version) => format!("version {} ", version.number),
            None => "the config's version ".to_owned(),
        };
        let Some(mounted) = in_force.rack.at(key) else {
            return format!("{version}of {name} ({scope}) is kept, and stands in no chain");
        };
        let digest = mounted.digest.get(..12).unwrap_or_default().to_owned();
        let stages: Vec<_> = mounted.filter.interest().stages().iter().map(|stage| stage.name()).collect();
        let placed = !places(&in_force.effective.settings.chains, scope, name).is_empty();
        let rest = if placed { "" } else { ", and stands in no chain: `postern plugin enable` puts it there" };
        let state = if placed { "in force" } else { "kept" };
        format!("{version}of {name} ({scope}), {digest}, is {state}; stages: {}{rest}", stages.join(", "))
    }

    fn tell(&self, action: &'static str, (scope, name): &Key, reason: &str, changes: &[Change]) {
        let clerk = &self.parts.gateway.clerk;
        clerk.metrics.plugin_changes.with_label_values(&[action]).inc();
        let mut record = Record::new("plugin-changed").text("action", action).text("plugin", name).text("scope", scope);
        let change = changes.iter().find(|change| change.key.0 == *scope && change.key.1 == *name);
        if let Some(change) = change {
            record = record.text("digest", &change.mounted.digest);
            if let Some(before) = &change.before {
                record = record.text("before", &before.digest);
            }
        }
        clerk.log.emit(if reason.is_empty() { record } else { record.text("reason", reason) });
    }
}

fn in_one_line(text: String) -> Refusal {
    Refusal::Invalid(text.lines().collect::<Vec<_>>().join(": "))
}

/// Of one scope.
pub(super) fn chain<'s>(chains: &'s Chains, scope: &Scope) -> &'s [ChainEntry] {
    match scope {
        Scope::Platform => &chains.platform,
        Scope::Reseller(name) => chains.resellers.get(name).map_or(&[], Vec::as_slice),
        Scope::Tenant(name) => chains.tenants.get(name).map_or(&[], Vec::as_slice),
    }
}

/// The scopes in whose chains a plugin stands.
pub(super) fn places(chains: &Chains, scope: &Scope, name: &str) -> Vec<Scope> {
    let resellers = chains.resellers.iter().map(|(name, chain)| (Scope::Reseller(name.clone()), chain));
    let tenants = chains.tenants.iter().map(|(name, chain)| (Scope::Tenant(name.clone()), chain));
    let all = std::iter::once((Scope::Platform, &chains.platform)).chain(resellers).chain(tenants);
    let stands = |chain: &[ChainEntry]| chain.iter().any(|p| p.plugin.scope == *scope && *p.plugin.name == *name);
    let mut places: Vec<_> = all.filter(|(_, chain)| stands(chain)).map(|(place, _)| place).collect();
    places.sort();
    places
}

/// Marks the version in force; its number.
fn withdraw(entry: &mut Entry, digest: Option<&str>, reason: &str) -> Option<u64> {
    let in_force = |version: &&Version| Some(&*version.digest) == digest;
    let number = match &entry.current {
        Some(pin) => Some(pin.version),
        None => entry.versions.iter().rev().find(in_force).map(|version| version.number),
    }?;
    entry.withdraw(number, reason);
    Some(number)
}
