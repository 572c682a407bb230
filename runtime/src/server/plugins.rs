//! Loads the plugins that config names and makes the chains of them.

use std::collections::{HashMap, hash_map};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::settings::{self, ChainEntry, PluginSource};
use crate::host::table::{Format, Source, TableError};
use crate::host::{Host, Limits, LoadError, Plugin, PluginSettings, Tables};
use crate::pipeline::{Chain, Chains, Entry, Scope};

mod builtin {
    include!(concat!(env!("OUT_DIR"), "/builtin.rs"));
}

/// Names of the plugins that are compiled in, for `builtin:NAME`.
pub fn builtins() -> Vec<&'static str> {
    builtin::PLUGINS.iter().map(|(name, _)| *name).collect()
}

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("plugin {name}: {}: {source}", path.display())]
    Read { name: Arc<str>, path: PathBuf, source: std::io::Error },
    #[error("plugin {name}: there is no builtin:{builtin}")]
    NoBuiltin { name: Arc<str>, builtin: Arc<str> },
    #[error("plugin {name}: {source}")]
    Load { name: Arc<str>, source: LoadError },
    #[error("plugin {name}: table {table}: {source}")]
    Table { name: Arc<str>, table: String, source: TableError },
}

/// The chains of all scopes, with every plugin that stands in one loaded. All or nothing.
pub async fn load(host: &Host, settings: &settings::Settings) -> Result<Chains, PluginError> {
    let chains = &settings.chains;
    let mut loaded: HashMap<(Scope, Arc<str>), Arc<Plugin>> = HashMap::new();
    for plugin in in_use(chains) {
        if let hash_map::Entry::Vacant(place) = loaded.entry(key(&plugin)) {
            place.insert(load_one(host, &plugin).await?);
        }
    }
    let chain = |entries: &Vec<ChainEntry>| {
        let entries = entries.iter().filter_map(|entry| {
            let filter = loaded.get(&key(&entry.plugin))?.clone();
            Some(Entry {
                name: entry.plugin.name.clone(),
                filter,
                directions: entry.directions,
                on_failure: entry.on_failure,
                exemptable: entry.exemptable,
            })
        });
        Arc::new(Chain { entries: entries.collect() })
    };
    let scoped = |chains: &HashMap<Arc<str>, Vec<ChainEntry>>| {
        chains.iter().map(|(name, entries)| (name.clone(), chain(entries))).collect()
    };
    Ok(Chains {
        platform: chain(&chains.platform),
        resellers: scoped(&chains.resellers),
        tenants: scoped(&chains.tenants),
    })
}

/// Those that stand in some chain; what is only declared is not loaded.
fn in_use(chains: &settings::Chains) -> Vec<Arc<settings::Plugin>> {
    let scoped = chains.resellers.values().chain(chains.tenants.values()).flatten();
    scoped.chain(&chains.platform).map(|entry| entry.plugin.clone()).collect()
}

/// Names are unique within a scope.
fn key(plugin: &settings::Plugin) -> (Scope, Arc<str>) {
    (plugin.scope.clone(), plugin.name.clone())
}

async fn load_one(host: &Host, plugin: &settings::Plugin) -> Result<Arc<Plugin>, PluginError> {
    let name = plugin.name.clone();
    let source = match &plugin.source {
        PluginSource::Builtin(builtin) => {
            let found = builtin::PLUGINS.iter().find(|(name, _)| *name == &**builtin);
            let missing = || PluginError::NoBuiltin { name: name.clone(), builtin: builtin.clone() };
            Arc::from(found.ok_or_else(missing)?.1)
        }
        PluginSource::File(path) => {
            let read = tokio::fs::read(path).await;
            let failed = |source| PluginError::Read { name: name.clone(), path: path.clone(), source };
            Arc::from(read.map_err(failed)?)
        }
    };
    let settings = PluginSettings {
        name: name.clone(),
        scope: plugin.scope.clone(),
        source,
        config: plugin.config.clone(),
        grants: plugin.grants.iter().map(|grant| grant.0.to_string()).collect(),
        tables: tables(plugin)?,
        limits: limits(&plugin.limits),
        reuse: plugin.reuse,
    };
    host.load(settings).await.map_err(|source| PluginError::Load { name, source })
}

/// A file named `*.csv` is a map, any other a list. One that can't be used is an error at once: a gateway that runs keeps
/// the tables that it has.
fn tables(plugin: &settings::Plugin) -> Result<Arc<Tables>, PluginError> {
    let sources = plugin.tables.iter().map(|(name, path)| {
        let csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        let format = if csv { Format::Csv } else { Format::Lines };
        (name.clone(), Source::File { path: path.clone(), format })
    });
    let tables = Tables::load(sources);
    if let Some((table, source)) = tables.failures().next() {
        let (name, table, source) = (plugin.name.clone(), table.to_owned(), source.clone());
        return Err(PluginError::Table { name, table, source });
    }
    Ok(Arc::new(tables))
}

/// What config leaves out is the host's default.
fn limits(written: &settings::Limits) -> Limits {
    let default = Limits::default();
    Limits {
        cpu: written.cpu.unwrap_or(default.cpu),
        wall: written.wall.unwrap_or(default.wall),
        memory: written.memory.map_or(default.memory, |size| size.0),
        tables: written.table_elements.unwrap_or(default.tables),
        host_calls: written.host_calls.map_or(default.host_calls, u64::from),
        handles: written.handles.map_or(default.handles, count),
        octets: written.octets.map_or(default.octets, |size| size.0),
        scan: written.scan.map_or(default.scan, |size| size.0),
        calls: written.concurrency.map_or(default.calls, count),
        ..default
    }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
