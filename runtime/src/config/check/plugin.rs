//! Plugins and the chains they stand in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use toml::Spanned;

use super::Checker;
use super::tenant::Names;
use crate::config::builtin::{self, DEFAULT_CHAIN, Place};
use crate::config::settings::{ChainEntry, Chains, Limits, Plugin, PluginSource};
use crate::config::source::Span;
use crate::config::suggest::did_you_mean;
use crate::config::value::At;
use crate::config::value::name::Name;
use crate::config::value::quantity::Count;
use crate::config::value::word::{Grant, WrittenSource, WrittenTable};
use crate::config::written;
use crate::host::Limits as HostLimits;
use crate::pipeline::{Directions, OnFailure, Scope};

/// The declared plugins by scope and name.
#[derive(Default)]
pub(super) struct Plugins {
    by_scope: HashMap<(Scope, Arc<str>), Declaration>,
    /// In the order of the files.
    all: Vec<Arc<Plugin>>,
}

struct Declaration {
    /// `None` after a mistake in it.
    plugin: Option<Arc<Plugin>>,
    available: bool,
    /// `None`: a built-in plugin that is written nowhere.
    span: Option<Span>,
}

impl Plugins {
    pub(super) fn into_all(self) -> Vec<Arc<Plugin>> {
        self.all
    }

    fn at(&self, scope: &Scope, name: &str) -> Option<&Declaration> {
        self.by_scope.get(&(scope.clone(), name.into()))
    }
}

/// Those in the same place first, then those above it.
fn scopes(owner: &Scope, reseller: Option<&Arc<str>>) -> Vec<Scope> {
    let mut scopes = vec![owner.clone()];
    if let (Scope::Tenant(_), Some(reseller)) = (owner, reseller) {
        scopes.push(Scope::Reseller(reseller.clone()));
    }
    if *owner != Scope::Platform {
        scopes.push(Scope::Platform);
    }
    scopes
}

impl Checker<'_> {
    pub(super) fn plugins(&mut self, written: Vec<written::Plugin>, names: &Names) -> Plugins {
        let mut plugins = Plugins::default();
        for plugin in written {
            let scope = plugin.scope.as_ref().map_or(Scope::Platform, |at| at.value.clone());
            let key = (scope, plugin.name.value.0.clone());
            let declaration = Declaration {
                available: plugin.available,
                span: Some(plugin.name.span),
                plugin: self.plugin(plugin, &key.0, names).map(Arc::new),
            };
            let span = declaration.span;
            plugins.all.extend(declaration.plugin.clone());
            if let Some(first) = plugins.by_scope.insert(key.clone(), declaration) {
                let problem = format!("the plugin `{}` is there twice in {}", key.1, key.0);
                self.findings.push_error(span, problem).also(first.span, "first here");
            }
        }
        plugins
    }

    /// A built-in plugin that some chain names need not be declared: it is the platform's, without settings, and there for
    /// all scopes.
    pub(super) fn undeclared<'w>(
        &mut self,
        chains: impl Iterator<Item = &'w Spanned<written::ChainEntry>>,
        default: bool,
        plugins: &mut Plugins,
    ) {
        let named = chains.map(|entry| match entry.get_ref() {
            written::ChainEntry::Short(name) => name.as_str(),
            written::ChainEntry::Table(table) => &*table.plugin.value.0,
        });
        let of_default = DEFAULT_CHAIN.iter().map(|place| place.plugin).filter(|_| default);
        let declared: Vec<(Scope, Arc<str>)> = plugins.by_scope.keys().cloned().collect();
        let is_declared = |name: &str| declared.iter().any(|(_, known)| **known == *name);
        let wanted = named.filter(|name| !is_declared(name)).chain(of_default);
        for name in wanted {
            if plugins.at(&Scope::Platform, name).is_some() || !self.builtins.contains(&name) {
                continue;
            }
            let name: Arc<str> = name.into();
            let source = PluginSource::Builtin(name.clone());
            let plugin = Arc::new(Plugin {
                name: name.clone(),
                scope: Scope::Platform,
                available: true,
                grants: builtin::grants(&name).iter().map(|grant| Grant((*grant).into())).collect(),
                source,
                config: Value::Object(Map::new()),
                tables: BTreeMap::new(),
                scanners: BTreeSet::new(),
                limits: Limits::default(),
                reuse: true,
                on_failure: OnFailure::Defer,
            });
            plugins.all.push(plugin.clone());
            let declaration = Declaration { plugin: Some(plugin), available: true, span: None };
            plugins.by_scope.insert((Scope::Platform, name), declaration);
        }
        self.ambiguous(plugins);
    }

    /// A reseller's or tenant's plugin that bears the name of one of the platform's: exemptions and log would not say which.
    fn ambiguous(&mut self, plugins: &Plugins) {
        for ((scope, name), declaration) in &plugins.by_scope {
            if let (true, Some(platform)) = (*scope != Scope::Platform, plugins.at(&Scope::Platform, name)) {
                let problem = format!("`{name}` is the name of a plugin of the platform");
                self.findings.push_error(declaration.span, problem).also(platform.span, "this one");
            }
        }
    }

    pub(super) fn plugin(&mut self, written: written::Plugin, scope: &Scope, names: &Names) -> Option<Plugin> {
        self.known_scope(written.scope.as_ref(), names);
        let source = self.source(written.source, &written.name);
        let grants = written.grants.unwrap_or_else(|| default_grants(source.as_ref(), written.name.span));
        self.grants(&grants, &written.tables, names);
        let tables = self.tables(written.tables, names);
        let scanners = self.scanners(&written.scanners, &grants, names);
        let limits = self.limits(written.limits);
        let config = match written.config {
            Some(config) => self.json(config),
            None => Some(Value::Object(Map::new())),
        };
        let source = source?;
        Some(Plugin {
            name: written.name.value.0,
            scope: scope.clone(),
            available: written.available,
            reuse: written.reuse.unwrap_or(matches!(source, PluginSource::Builtin(_))),
            source,
            config: config?,
            grants: grants.into_iter().map(|at| at.value).collect(),
            tables,
            limits: Limits { wall: limits.wall.or_else(|| time_to_scan(&scanners, names)), ..limits },
            scanners,
            on_failure: written.on_failure.map_or(OnFailure::Defer, |at| at.value),
        })
    }

    fn limits(&mut self, written: written::Limits) -> Limits {
        let count = |written: Option<Count>| written.map(|count| count.0);
        Limits {
            cpu: written.cpu.map(|at| self.positive(Some(at), super::SECOND)),
            wall: written.wall.map(|at| self.positive(Some(at), super::SECOND)),
            memory: written.memory.map(|at| at.value),
            table_elements: count(written.table_elements),
            host_calls: count(written.host_calls),
            handles: count(written.handles),
            octets: written.octets.map(|at| at.value),
            scan: written.scan.map(|at| at.value),
            concurrency: count(written.concurrency),
        }
    }

    fn known_scope(&mut self, written: Option<&At<Scope>>, names: &Names) {
        let Some(at) = written.filter(|_| !names.open) else { return };
        let name = |name: &Arc<str>| At { value: Name(name.clone()), span: at.span };
        match &at.value {
            Scope::Platform => true,
            Scope::Reseller(reseller) => self.known("reseller", &name(reseller), &names.resellers),
            Scope::Tenant(tenant) => self.known("tenant", &name(tenant), &names.tenants),
        };
    }

    /// A plugin with the name of a built-in one need not say that it is that.
    fn source(&mut self, written: Option<At<WrittenSource>>, name: &At<Name>) -> Option<PluginSource> {
        let Some(written) = written else {
            if self.builtins.contains(&&*name.value.0) {
                return Some(PluginSource::Builtin(name.value.0.clone()));
            }
            self.findings
                .push_error(Some(name.span), format!("the plugin `{}` has no `source`", name.value.0))
                .help("`source` is a file, or `builtin:NAME`; only built-in plugins under their own names need none");
            return None;
        };
        match written.value {
            WrittenSource::Builtin(name) if self.builtins.contains(&&*name) => Some(PluginSource::Builtin(name)),
            WrittenSource::Builtin(name) => {
                let help = did_you_mean(&name, self.builtins.iter().copied())
                    .unwrap_or_else(|| format!("the built-in ones are {}", self.builtins.join(", ")));
                self.findings
                    .push_error(Some(written.span), format!("there is no built-in plugin `{name}`"))
                    .help(help);
                None
            }
            WrittenSource::File(path) => self.file(&At { value: path, span: written.span }).map(PluginSource::File),
        }
    }

    fn grants(&mut self, grants: &[At<Grant>], tables: &BTreeMap<String, At<WrittenTable>>, names: &Names) {
        for grant in grants {
            if let Some(name) = grant.value.smart_host().filter(|_| !names.open) {
                let name = At { value: Name(name.into()), span: grant.span };
                self.known("smart host", &name, &names.smart_hosts);
            }
        }
        if let (Some(table), false) = (tables.values().next(), grants.iter().any(|grant| &*grant.value.0 == "tables")) {
            self.findings
                .push_error(Some(table.span), "this plugin has tables, but may not use them".to_owned())
                .help("add \"tables\" to its `grants`");
        }
    }

    fn scanners(&mut self, written: &[At<Name>], grants: &[At<Grant>], names: &Names) -> BTreeSet<Arc<str>> {
        if let (Some(first), false) = (written.first(), grants.iter().any(|grant| &*grant.value.0 == "scan")) {
            self.findings
                .push_error(Some(first.span), "this plugin has scanners, but may not use them".to_owned())
                .help("add \"scan\" to its `grants`");
        }
        for name in written.iter().filter(|_| !names.open) {
            self.known("scanner", name, &names.scanners);
        }
        written.iter().map(|name| name.value.0.clone()).collect()
    }

    fn json(&mut self, config: Spanned<toml::Table>) -> Option<Value> {
        let span = config.span();
        let json = json_of(toml::Value::Table(config.into_inner()));
        if json.is_none() {
            self.findings.error(Some(span.into()), "JSON knows neither `nan` nor `inf`".to_owned());
        }
        json
    }

    pub(super) fn chains(
        &mut self,
        platform: &written::Chain,
        resellers: &[written::Reseller],
        tenants: &[written::Tenant],
        plugins: &Plugins,
    ) -> Chains {
        let platform = match &platform.platform {
            Some(written) => self.chain(written, &Scope::Platform, None, plugins),
            None => self.default_chain(plugins),
        };
        let mut chains = Chains { platform, ..Chains::default() };
        for reseller in resellers.iter().filter(|reseller| !reseller.chain.is_empty()) {
            let name = reseller.name.value.0.clone();
            let chain = self.chain(&reseller.chain, &Scope::Reseller(name.clone()), None, plugins);
            chains.resellers.insert(name, chain);
        }
        for tenant in tenants.iter().filter(|tenant| !tenant.chain.is_empty()) {
            let name = tenant.name.value.0.clone();
            let reseller = tenant.reseller.as_ref().map(|at| &at.value.0);
            let chain = self.chain(&tenant.chain, &Scope::Tenant(name.clone()), reseller, plugins);
            chains.tenants.insert(name, chain);
        }
        chains
    }

    /// Of those of its plugins that there are.
    fn default_chain(&self, plugins: &Plugins) -> Vec<ChainEntry> {
        let entry = |place: &Place| {
            let plugin = plugins.at(&Scope::Platform, place.plugin)?.plugin.clone()?;
            let (directions, exemptable) = (place.directions, place.exemptable);
            Some(ChainEntry { directions, on_failure: plugin.on_failure, plugin, exemptable })
        };
        DEFAULT_CHAIN.iter().filter_map(entry).collect()
    }

    fn chain(
        &mut self,
        written: &[Spanned<written::ChainEntry>],
        owner: &Scope,
        reseller: Option<&Arc<str>>,
        plugins: &Plugins,
    ) -> Vec<ChainEntry> {
        let scopes = scopes(owner, reseller);
        let mut seen: HashMap<&str, Span> = HashMap::new();
        let mut chain = Vec::new();
        for entry in written {
            let span: Span = entry.span().into();
            let (name, span, table) = match entry.get_ref() {
                written::ChainEntry::Short(name) => (name.as_str(), span, None),
                written::ChainEntry::Table(table) => (&*table.plugin.value.0, table.plugin.span, Some(table)),
            };
            if let Some(first) = seen.insert(name, span) {
                self.findings
                    .push_error(Some(span), format!("`{}` stands in this chain twice", name.escape_debug()))
                    .also(first, "first here");
            }
            let exemptable = self.exemptable(table, owner);
            let Some(declaration) = self.find(name, span, &scopes, plugins) else { continue };
            let Some(plugin) = declaration.plugin.clone() else { continue };
            self.has_scanners(&plugin, span);
            let written_failure = table.and_then(|table| table.on_failure.as_ref());
            chain.push(ChainEntry {
                directions: table.and_then(|t| t.direction.as_ref()).map_or(Directions::Both, |at| at.value),
                on_failure: written_failure.map_or(plugin.on_failure, |at| at.value),
                plugin,
                exemptable,
            });
        }
        chain
    }

    /// One that may ask scanners and names none could only ever defer mail.
    fn has_scanners(&mut self, plugin: &Plugin, span: Span) {
        if plugin.scanners.is_empty() && plugin.grants.iter().any(|grant| &*grant.0 == "scan") {
            let help =
                format!("[[plugin]] name = \"{}\", scanners = [\"…\"], with a [[scanner]] of that name", plugin.name);
            self.findings
                .push_error(Some(span), format!("the plugin `{}` has no scanner to ask", plugin.name))
                .help(help);
        }
    }

    fn exemptable(&mut self, table: Option<&written::ChainEntryTable>, owner: &Scope) -> bool {
        table.and_then(|table| table.exemptable.as_ref()).is_some_and(|flag| self.platform_only(flag, owner))
    }

    /// The value of `exemptable`.
    pub(super) fn platform_only(&mut self, flag: &Spanned<bool>, owner: &Scope) -> bool {
        if *owner != Scope::Platform {
            self.findings
                .push_error(Some(flag.span().into()), "only the platform's tests can be exemptable".to_owned())
                .help("whoever owns a chain can change it instead");
        }
        *flag.get_ref()
    }

    fn find<'p>(&mut self, name: &str, span: Span, scopes: &[Scope], plugins: &'p Plugins) -> Option<&'p Declaration> {
        let found = scopes.iter().find_map(|scope| plugins.at(scope, name).map(|declaration| (scope, declaration)));
        let shown = name.escape_debug();
        match found {
            Some((scope, declaration)) if Some(scope) != scopes.first() && !declaration.available => {
                let problem = format!("the plugin `{shown}` of {scope} is not available here");
                self.findings
                    .push_error(Some(span), problem)
                    .also(declaration.span, "declared here")
                    .help("`available = true` there lets the scopes below use it");
                None
            }
            Some((_, declaration)) => Some(declaration),
            None => {
                let known =
                    plugins.by_scope.keys().filter(|(scope, _)| scopes.contains(scope)).map(|(_, name)| &**name);
                let help = did_you_mean(name, known.chain(self.builtins.iter().copied()))
                    .unwrap_or_else(|| "declare it with [[plugin]]".to_owned());
                self.findings.push_error(Some(span), format!("there is no plugin `{shown}`")).help(help);
                None
            }
        }
    }
}

/// What a built-in plugin needs; others are granted nothing that is not written.
fn default_grants(source: Option<&PluginSource>, span: Span) -> Vec<At<Grant>> {
    let Some(PluginSource::Builtin(name)) = source else { return Vec::new() };
    builtin::grants(name).iter().map(|grant| At { value: Grant((*grant).into()), span }).collect()
}

/// The `wall` of a plugin that waits for scanners and whose entry says none: what it has anyway, and time for each of them,
/// one after the other. The host keeps a tenth of it for the plugin.
fn time_to_scan(scanners: &BTreeSet<Arc<str>>, names: &Names) -> Option<Duration> {
    let scans: Duration = scanners.iter().filter_map(|name| names.scan_times.get(name)).sum();
    (!scans.is_zero()).then(|| HostLimits::default().wall + scans * 10 / 9)
}

/// `None` for a number that JSON does not have.
fn json_of(value: toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::Number(serde_json::Number::from_f64(number)?),
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(list) => Value::Array(list.into_iter().map(json_of).collect::<Option<_>>()?),
        toml::Value::Table(table) => Value::Object(
            table.into_iter().map(|(key, value)| json_of(value).map(|value| (key, value))).collect::<Option<_>>()?,
        ),
    })
}
