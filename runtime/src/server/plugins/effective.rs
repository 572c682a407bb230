//! What is in force: the config, with what `postern plugin` has installed and switched laid over it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::builtins;
use super::record::{Entry, Record, Version};
use super::registry::Registry;
use crate::config::settings::{ChainEntry, Plugin, PluginSource, Settings};
use crate::config::value::FromText as _;
use crate::config::{self, ConfigError, Identity, Known};
use crate::pipeline::{Directions, OnFailure, Scope};

/// Names are unique within a scope.
pub type Key = (Scope, Arc<str>);

/// The record can't be laid over this config.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("the plugin {name} that is installed for {scope} can't be used with this config:\n{source}")]
    Settings { scope: Scope, name: Arc<str>, source: ConfigError },
    #[error(
        "{name}, installed for {scope}, is also the name of a plugin of the platform: rename that one, or `postern plugin remove {name} --scope {scope}`"
    )]
    Ambiguous { scope: Scope, name: Arc<str> },
    #[error(
        "{name} was switched on for {scope}, and there is no such plugin any more: `postern plugin remove {name} --scope {scope}`"
    )]
    Gone { scope: Scope, name: Arc<str> },
}

/// Chains and plugins as they are to be, and where they come from.
#[derive(Debug)]
pub struct Effective {
    pub settings: Settings,
    /// Those that are loaded from the registry.
    pub pinned: HashMap<Key, Version>,
    /// Those that can't be loaded though they should be, each with the reason and the stages that it had.
    pub broken: HashMap<Key, (String, Version)>,
    /// Of what was installed, what may be broken without being an error.
    pub tolerated: Tolerated,
}

/// Whether something that was installed and can't be loaded is an error. One plugin of one tenant must keep neither the
/// gateway from starting nor others from being changed.
#[derive(Debug, Clone)]
pub enum Tolerated {
    /// At a start: nobody could answer.
    All,
    /// What is broken already, and is not what is being changed.
    Only(HashSet<Key>),
}

impl Tolerated {
    pub fn has(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Only(keys) => keys.contains(key),
        }
    }
}

impl Effective {
    /// `left`: whether the config's own file of that plugin is still the one with that digest, which a version stands in
    /// for. Blocking: looks at files.
    pub fn new(
        settings: &Settings,
        record: &Record,
        registry: &Registry,
        left: impl Fn(&Plugin, &str) -> bool,
        tolerated: Tolerated,
    ) -> Result<Self, Problem> {
        let mut effective =
            Self { settings: settings.clone(), pinned: HashMap::new(), broken: HashMap::new(), tolerated };
        for entry in record.plugins.iter().filter(|entry| knows_scope(settings, &entry.scope)) {
            if let Err(problem) = effective.lay_over(entry, registry, &left) {
                let tolerant = effective.tolerated.has(&(entry.scope.clone(), entry.name.clone()));
                match entry.current().filter(|_| tolerant) {
                    Some(version) => effective.break_down(entry, version, &problem),
                    None if tolerant => tracing::error!("{problem}"),
                    None => return Err(problem),
                }
            }
        }
        Ok(effective)
    }

    /// Nothing that is written of the plugin differs from the other, nor the version that was installed.
    pub fn is_the_same(&self, key: &Key, plugin: &Plugin, other: &Self) -> bool {
        let version = |effective: &Self| effective.pinned.get(key).map(|version| version.number);
        let declared = self.settings.plugins.iter().find(|own| own.scope == key.0 && own.name == key.1);
        declared.is_some_and(|own| **own == *plugin) && version(self) == version(other)
    }

    fn lay_over(
        &mut self,
        entry: &Entry,
        registry: &Registry,
        left: &impl Fn(&Plugin, &str) -> bool,
    ) -> Result<(), Problem> {
        let key = (entry.scope.clone(), entry.name.clone());
        let declared = self.declared(&entry.scope, &entry.name);
        let holds = |instead_of: &Option<Arc<str>>| match (instead_of, &declared) {
            (Some(digest), Some(plugin)) => left(plugin, digest),
            _ => true,
        };
        let pin = entry.current.as_ref().filter(|pin| holds(&pin.instead_of));
        let version = pin.and_then(|pin| entry.version(pin.version));
        match (declared, version) {
            (Some(plugin), Some(version)) => {
                let source = PluginSource::File(registry.component(&version.digest));
                self.replace(&plugin, Plugin { source, ..Plugin::clone(&plugin) });
                self.pinned.insert(key, version.clone());
            }
            (None, Some(version)) => {
                self.install(entry, version, registry)?;
                self.pinned.insert(key, version.clone());
            }
            (_, None) => {}
        }
        match entry.enabled {
            Some(false) => self.chain(&entry.scope).retain(|place| place.plugin.name != entry.name),
            Some(true) => self.place(entry)?,
            None => {}
        }
        Ok(())
    }

    fn declared(&self, scope: &Scope, name: &str) -> Option<Arc<Plugin>> {
        self.settings.plugins.iter().find(|plugin| plugin.scope == *scope && *plugin.name == *name).cloned()
    }

    /// A plugin of which the config says nothing, at the end of its scope's chain.
    fn install(&mut self, entry: &Entry, version: &Version, registry: &Registry) -> Result<(), Problem> {
        let (scope, name) = (entry.scope.clone(), entry.name.clone());
        if scope != Scope::Platform && self.declared(&Scope::Platform, &name).is_some() {
            return Err(Problem::Ambiguous { scope, name });
        }
        let component = registry.component(&version.digest);
        let written = version.settings.clone().unwrap_or_default();
        let identity = Identity { name: &name, scope: &scope, component: &component };
        let declare =
            config::declare(&written.text, &written.path, identity, Known::Config(&self.settings), &builtins());
        let installed =
            declare.map_err(|source| Problem::Settings { scope: scope.clone(), name: name.clone(), source })?;
        let plugin = Arc::new(installed.plugin);
        self.settings.plugins.push(plugin.clone());
        self.chain(&scope).push(ChainEntry {
            on_failure: plugin.on_failure,
            plugin,
            directions: installed.directions,
            exemptable: installed.exemptable,
        });
        Ok(())
    }

    /// Nothing is known of it but where it stood: it is there, and fails whenever it is asked.
    fn break_down(&mut self, entry: &Entry, version: &Version, problem: &Problem) {
        let key = (entry.scope.clone(), entry.name.clone());
        tracing::error!("{problem}");
        let plugin = Arc::new(Plugin {
            name: entry.name.clone(),
            scope: entry.scope.clone(),
            available: false,
            source: PluginSource::Builtin(Arc::default()),
            config: serde_json::Value::Null,
            grants: std::collections::BTreeSet::new(),
            tables: std::collections::BTreeMap::new(),
            scanners: std::collections::BTreeSet::new(),
            limits: config::settings::Limits::default(),
            reuse: false,
            on_failure: OnFailure::Defer,
        });
        let place = version.place.as_ref();
        let place = ChainEntry {
            directions: place.and_then(|p| Directions::from_text(&p.direction).ok()).unwrap_or_default(),
            on_failure: place.and_then(|p| OnFailure::from_text(&p.on_failure).ok()).unwrap_or_default(),
            exemptable: place.is_some_and(|place| place.exemptable),
            plugin,
        };
        if entry.enabled != Some(false) {
            self.chain(&entry.scope).push(place);
        }
        self.broken.insert(key, (problem.to_string(), version.clone()));
    }

    /// Puts it at the end of the chain, unless it stands there.
    fn place(&mut self, entry: &Entry) -> Result<(), Problem> {
        if self.chain(&entry.scope).iter().any(|place| place.plugin.name == entry.name) {
            return Ok(());
        }
        let gone = || Problem::Gone { scope: entry.scope.clone(), name: entry.name.clone() };
        let plugin = visible(&self.settings, &entry.scope, &entry.name).ok_or_else(gone)?;
        let (directions, on_failure) = (Directions::Both, plugin.on_failure);
        self.chain(&entry.scope).push(ChainEntry { plugin, directions, on_failure, exemptable: false });
        Ok(())
    }

    fn replace(&mut self, old: &Arc<Plugin>, new: Plugin) {
        let new = Arc::new(new);
        let chains = &mut self.settings.chains;
        let scoped = chains.resellers.values_mut().chain(chains.tenants.values_mut());
        let places = scoped.chain(std::iter::once(&mut chains.platform)).flatten();
        let places = places.map(|place| &mut place.plugin).chain(&mut self.settings.plugins);
        places.filter(|plugin| Arc::ptr_eq(plugin, old)).for_each(|plugin| *plugin = new.clone());
    }

    fn chain(&mut self, scope: &Scope) -> &mut Vec<ChainEntry> {
        let chains = &mut self.settings.chains;
        match scope {
            Scope::Platform => &mut chains.platform,
            Scope::Reseller(name) => chains.resellers.entry(name.clone()).or_default(),
            Scope::Tenant(name) => chains.tenants.entry(name.clone()).or_default(),
        }
    }
}

/// What is installed for a reseller or tenant that is not in the config waits for it to come back.
pub fn knows_scope(settings: &Settings, scope: &Scope) -> bool {
    match scope {
        Scope::Platform => true,
        Scope::Reseller(name) => settings.resellers.contains(name),
        Scope::Tenant(name) => settings.directory.tenant(name).is_some(),
    }
}

/// A plugin that may stand in a chain of that scope: its own, or an available one of a scope above.
pub fn visible(settings: &Settings, scope: &Scope, name: &str) -> Option<Arc<Plugin>> {
    let reseller = match scope {
        Scope::Tenant(tenant) => settings.directory.tenant(tenant).and_then(|tenant| tenant.reseller.clone()),
        _ => None,
    };
    let above = reseller.map(Scope::Reseller).into_iter().chain([Scope::Platform]);
    let find = |owner: &Scope| settings.plugins.iter().find(|p| p.scope == *owner && *p.name == *name);
    find(scope).or_else(|| above.into_iter().find_map(|owner| find(&owner).filter(|plugin| plugin.available))).cloned()
}
