//! From what config and operator say of plugins to the chains that are in force.
//!
//! [`Effective`] lays the [`record`] of what was installed over the config, [`Rack`] loads what has changed, and
//! [`Live`](super::live::Live) puts the outcome in force, whole.

pub mod effective;
pub mod rack;
pub mod record;
pub mod registry;

use std::sync::Arc;

pub use effective::{Effective, Key, Tolerated};
pub use rack::{Also, Change, Loaded, Mounted, Rack};
pub use record::Record;
pub use registry::{Registry, RegistryError};

use crate::config::settings;
use crate::host::table::{Definition, Kept, TableError};
use crate::host::{Limits, LoadError, PluginSettings, Tables};
use crate::pipeline::Scope;

mod builtin {
    include!(concat!(env!("OUT_DIR"), "/builtin.rs"));
}

/// Names of the plugins that are compiled in, for `builtin:NAME`.
pub fn builtins() -> Vec<&'static str> {
    builtin::PLUGINS.iter().map(|(name, _)| *name).collect()
}

/// The component of one of them.
fn builtin_source(name: &str) -> Option<&'static [u8]> {
    builtin::PLUGINS.iter().find(|(builtin, _)| *builtin == name).map(|(_, source)| *source)
}

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("plugin {name}: there is no builtin:{builtin}")]
    NoBuiltin { name: Arc<str>, builtin: Arc<str> },
    #[error("plugin {name}: table {table}: {source}")]
    Table { name: Arc<str>, table: String, source: TableError },
    #[error("plugin {name} of {scope}: {source}")]
    Load { name: Arc<str>, scope: Scope, source: LoadError },
    #[error(
        "plugin {name} of {scope}: its file has changed since it was installed, it has the digest {digest} now: install it again"
    )]
    Damaged { name: Arc<str>, scope: Scope, digest: Arc<str> },
    #[error("plugin {name}: what belongs to it could not be read to the end")]
    Interrupted { name: Arc<str> },
    #[error("{0}")]
    Record(#[from] effective::Problem),
    #[error("{0}")]
    Registry(#[from] RegistryError),
}

/// Opens each table of the plugin. Blocking. One that can't be used spoils all: the plugin would have to refuse mail for
/// want of it.
pub fn tables(
    plugin: &settings::Plugin,
    open: impl Fn(&Definition) -> Result<Arc<Kept>, TableError>,
) -> Result<Arc<Tables>, PluginError> {
    let opened = plugin.tables.iter().map(|(name, definition)| match open(definition) {
        Ok(table) => Ok((name.clone(), table)),
        Err(source) => Err(PluginError::Table { name: plugin.name.clone(), table: name.clone(), source }),
    });
    opened.collect::<Result<Vec<_>, _>>().map(|tables| Arc::new(Tables::new(tables)))
}

/// What the host needs to know of a declared plugin.
pub fn to_load(plugin: &settings::Plugin, source: Arc<[u8]>, tables: Arc<Tables>) -> PluginSettings {
    PluginSettings {
        name: plugin.name.clone(),
        scope: plugin.scope.clone(),
        source,
        config: plugin.config.clone(),
        grants: plugin.grants.iter().map(|grant| grant.0.to_string()).collect(),
        tables,
        scanners: plugin.scanners.clone(),
        limits: limits(&plugin.limits),
        reuse: plugin.reuse,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::builtin::GRANTS;

    /// Else a config that says nothing of grants would not load, or would grant more than is needed.
    #[test]
    fn built_in_plugins_are_granted_what_they_import() {
        for (name, source) in builtin::PLUGINS {
            let needed = crate::host::inspect(source).unwrap().needs_grants;
            let granted = GRANTS.iter().find(|(known, _)| known == name);
            assert_eq!(granted.map(|(_, grants)| grants.to_vec()).unwrap_or_default(), needed, "{name}");
        }
        assert!(GRANTS.is_sorted());
    }
}
