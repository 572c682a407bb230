//! Plugins that were installed into a running gateway: their settings come with them and not from the config's files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::tenant::Names;
use super::{Checker, Declared};
use crate::config::problem::{ConfigError, Findings};
use crate::config::section;
use crate::config::settings::{Plugin, Settings};
use crate::config::source::{Sources, Span};
use crate::config::written::{self, Placement};
use crate::pipeline::{Directions, Scope};

/// Which plugin it is; its settings do not say.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    pub name: &'a str,
    pub scope: &'a Scope,
    /// Where the component lies.
    pub component: &'a Path,
}

/// An installed plugin and its place in its own scope's chain.
#[derive(Debug, Clone)]
pub struct Installed {
    pub plugin: Plugin,
    pub directions: Directions,
    pub exemptable: bool,
}

/// What settings may name.
#[derive(Clone, Copy)]
pub enum Known<'a> {
    /// The resellers, tenants, smart hosts, scanners and tables of a config.
    Config(&'a Settings),
    /// There is no config: whatever it names may be.
    Anything,
}

/// Keys that identity and installation say.
const NOT_HERE: [&str; 4] = ["name", "source", "scope", "available"];

/// Reads the settings of an installed plugin: TOML with the keys of `[[plugin]]` but those of its identity, and `direction`
/// and `exemptable`. `path`: the file they came from, for errors and relative paths.
pub fn declare(
    text: &str,
    path: &Path,
    identity: Identity<'_>,
    known: Known<'_>,
    builtins: &[&str],
) -> Result<Installed, ConfigError> {
    let sources = Sources::from_text(path, text);
    let mut findings = Findings::default();
    let mut root = sources.parse(&mut findings);
    for key in root.keys().filter(|key| NOT_HERE.contains(&key.get_ref().as_ref())) {
        let message = format!("`{}` is said when the plugin is installed, not in its settings", key.get_ref());
        findings.error(Some(key.span().into()), message);
    }
    let placement = placement(&mut root, &mut findings);
    let written = if findings.has_errors() { None } else { read(root, identity, &mut findings) };
    let installed = written.and_then(|written| {
        let mut checker = Checker { sources: &sources, builtins, findings: &mut findings, patience: super::PATIENCE };
        let plugin = checker.plugin(written, identity.scope, &names(known))?;
        let directions = placement.direction.as_ref().map_or(Directions::Both, |at| at.value);
        let exemptable = placement.exemptable.is_some_and(|flag| checker.platform_only(&flag, identity.scope));
        Some(Installed { plugin, directions, exemptable })
    });
    let failed = findings.has_errors();
    match installed.filter(|_| !failed) {
        Some(installed) => Ok(installed),
        None => Err(ConfigError { problems: findings.into_problems(&sources) }),
    }
}

fn read(mut root: DeTable<'_>, identity: Identity<'_>, findings: &mut Findings) -> Option<written::Plugin> {
    let mut say = |key: &'static str, value: String| {
        let value = DeValue::String(Cow::Owned(value));
        root.insert(Spanned::new(0..0, Cow::Borrowed(key)), Spanned::new(0..0, value));
    };
    say("name", identity.name.to_owned());
    say("scope", identity.scope.to_string());
    say("source", identity.component.display().to_string());
    section::read(Spanned::new(0..0, DeValue::Table(root)), "the settings", findings)
}

/// The keys of a chain's entry, taken out of those of the plugin.
fn placement(root: &mut DeTable<'_>, findings: &mut Findings) -> Placement {
    let mut table = DeTable::new();
    for key in ["direction", "exemptable"] {
        if let Some((key, value)) = root.remove_entry(key) {
            table.insert(key, value);
        }
    }
    section::read(Spanned::new(0..0, DeValue::Table(table)), "the settings", findings).unwrap_or_default()
}

fn names(known: Known<'_>) -> Names {
    let Known::Config(settings) = known else { return Names { open: true, ..Names::default() } };
    let nowhere = Span { start: 0, end: 0 };
    let declared = |names: &mut dyn Iterator<Item = Arc<str>>| -> Declared {
        names.map(|name| (name, nowhere)).collect::<HashMap<_, _>>()
    };
    Names {
        resellers: declared(&mut settings.resellers.iter().cloned()),
        tenants: declared(&mut settings.directory.tenants().map(|tenant| tenant.name.clone())),
        smart_hosts: declared(&mut settings.smart_hosts.iter().map(|host| host.name.clone())),
        scanners: declared(&mut settings.scanners.iter().map(|scanner| scanner.name.clone())),
        scan_times: settings.scanners.iter().map(|scanner| (scanner.name.clone(), scanner.timeout)).collect(),
        tables: settings.tables.clone(),
        open: false,
    }
}
