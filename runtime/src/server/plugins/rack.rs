//! The plugins that are loaded. What has not changed is not loaded anew: its warm instances, its breaker and what is
//! known of it stay. What was replaced last is kept, so that a roll-back takes no compiler.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;

use super::effective::{Effective, Key};
use super::record::Version;
use super::{PluginError, builtin_source};
use crate::config::settings::{self, ChainEntry, PluginSource};
use crate::host::table::{Definition, Kept, TableError};
use crate::host::{ContentDigest, Host, Library, Plugin, Tables, read_source};
use crate::pipeline::{
    Call, Cause, Chain, Chains, Entry, Event, Failure, Filter, Interest, Judged, Series, StageSet, Usage,
};

/// Everything by which two loaded plugins differ.
#[derive(Debug, Clone, PartialEq)]
struct Specification {
    digest: Arc<str>,
    config: serde_json::Value,
    grants: BTreeSet<settings::Grant>,
    limits: settings::Limits,
    reuse: bool,
    tables: BTreeMap<String, Arc<Definition>>,
    scanners: BTreeSet<Arc<str>>,
}

/// A plugin that is loaded, or stands where one should be.
pub struct Mounted {
    pub filter: Arc<dyn Filter>,
    /// `None`: it could not be loaded when the gateway started.
    pub plugin: Option<Arc<Plugin>>,
    /// Why it could not.
    pub broken: Option<String>,
    /// SHA-256 of its file, 64 hex digits.
    pub digest: Arc<str>,
    pub since: Timestamp,
    specification: Specification,
}

/// One that was not there before.
pub struct Change {
    pub key: Key,
    pub mounted: Arc<Mounted>,
    pub before: Option<Arc<Mounted>>,
    /// The octets of its file, if it was read.
    pub source: Option<Arc<[u8]>>,
}

/// What is mounted, and the octets of its file, if it was read.
type Fresh = (Arc<Mounted>, Option<Arc<[u8]>>);

/// By scope and name.
#[derive(Clone, Default)]
pub struct Rack {
    mounted: HashMap<Key, Arc<Mounted>>,
    replaced: HashMap<Key, Arc<Mounted>>,
}

/// A rack that can be put in force.
pub struct Loaded {
    pub rack: Rack,
    pub chains: Chains,
    pub changes: Vec<Change>,
}

impl Rack {
    pub fn at(&self, key: &Key) -> Option<&Arc<Mounted>> {
        self.mounted.get(key)
    }

    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Mounted>)> {
        self.mounted.iter()
    }

    /// What is to be loaded, with what of this rack can stay. `unread`: what this rack was loaded for, when only what
    /// differs from that is to be looked at: files that have changed since wait for a reload. All or nothing.
    pub async fn load(
        &self,
        host: &Host,
        effective: &Effective,
        also: Also<'_>,
        unread: Option<&Effective>,
    ) -> Result<Loaded, PluginError> {
        let mut next = Self::default();
        let mut changes = Vec::new();
        for plugin in in_use(&effective.settings, also) {
            let key = (plugin.scope.clone(), plugin.name.clone());
            if let hash_map::Entry::Vacant(place) = next.mounted.entry(key.clone()) {
                let same = unread.filter(|before| before.is_the_same(&key, &plugin, effective));
                let (mounted, source) = match same.and_then(|_| self.mounted.get(&key)) {
                    Some(mounted) => (mounted.clone(), None),
                    None => match self.mount(host, effective, &key, &plugin).await {
                        Err(error) if effective.tolerated.has(&key) => self.broken(effective, &key, error)?,
                        mounted => mounted?,
                    },
                };
                let before = self.mounted.get(&key);
                if before.is_none_or(|before| !Arc::ptr_eq(before, &mounted)) {
                    let (mounted, before) = (mounted.clone(), before.cloned());
                    changes.push(Change { key, mounted, before, source });
                }
                place.insert(mounted);
            }
        }
        next.replaced = self.replaced.clone();
        next.replaced.extend(changes.iter().filter_map(|change| Some((change.key.clone(), change.before.clone()?))));
        let chains = next.chains(&effective.settings.chains);
        Ok(Loaded { rack: next, chains, changes })
    }

    async fn mount(
        &self,
        host: &Host,
        effective: &Effective,
        key: &Key,
        plugin: &Arc<settings::Plugin>,
    ) -> Result<Fresh, PluginError> {
        if let Some((reason, version)) = effective.broken.get(key) {
            return Ok((self.absent(key, reason, version), None));
        }
        let pinned = effective.pinned.get(key);
        let known = pinned.map(|version| version.digest.clone());
        let (digest, source) = match known.filter(|digest| self.has(key, plugin, digest)) {
            Some(digest) => (digest, None),
            None => {
                let source = read(plugin).await?;
                let digest: Arc<str> = ContentDigest::of(&source).to_string().into();
                if pinned.is_some_and(|version| version.digest != digest) {
                    return Err(PluginError::Damaged {
                        name: plugin.name.clone(),
                        scope: plugin.scope.clone(),
                        digest,
                    });
                }
                (digest, Some(source))
            }
        };
        // Also where the plugin is loaded already: whoever reloads wants to know of a table that can't be read.
        let tables = load_tables(host, plugin, effective.tolerated.has(key)).await?;
        let specification = Specification::new(plugin, digest);
        if let Some(same) = self.same(key, &specification) {
            return Ok((same, source));
        }
        let source = match source {
            Some(source) => source,
            None => read(plugin).await?,
        };
        let loaded = load_one(host, plugin, source.clone(), tables).await?;
        Ok((Arc::new(Mounted::new(loaded, specification)), Some(source)))
    }

    /// What was installed and can't be loaded does not keep the others from being asked; what the config names is an error,
    /// as any other of the config's.
    fn broken(&self, effective: &Effective, key: &Key, error: PluginError) -> Result<Fresh, PluginError> {
        let Some(version) = effective.pinned.get(key) else { return Err(error) };
        tracing::error!("{error}; the failure policy of its place speaks until another version is there");
        Ok((self.absent(key, &error.to_string(), version), None))
    }

    fn absent(&self, key: &Key, reason: &str, version: &Version) -> Arc<Mounted> {
        let already = self.mounted.get(key).filter(|there| there.broken.is_some() && there.digest == version.digest);
        already.cloned().unwrap_or_else(|| Arc::new(Mounted::broken(reason, &version.digest, version.stages())))
    }

    /// The same plugin, loaded already: in force, or replaced last.
    fn same(&self, key: &Key, specification: &Specification) -> Option<Arc<Mounted>> {
        let candidates = [self.mounted.get(key), self.replaced.get(key)];
        candidates.into_iter().flatten().find(|mounted| mounted.specification == *specification).cloned()
    }

    fn has(&self, key: &Key, plugin: &settings::Plugin, digest: &Arc<str>) -> bool {
        self.same(key, &Specification::new(plugin, digest.clone())).is_some()
    }

    fn chains(&self, chains: &settings::Chains) -> Chains {
        let chain = |entries: &Vec<ChainEntry>| {
            let entries = entries.iter().filter_map(|entry| {
                let key = (entry.plugin.scope.clone(), entry.plugin.name.clone());
                Some(Entry {
                    name: entry.plugin.name.clone(),
                    filter: self.mounted.get(&key)?.filter.clone(),
                    directions: entry.directions,
                    on_failure: entry.on_failure,
                    exemptable: entry.exemptable,
                    series: Series::default(),
                })
            });
            Arc::new(Chain { entries: entries.collect() })
        };
        let scoped = |chains: &HashMap<Arc<str>, Vec<ChainEntry>>| {
            chains.iter().map(|(name, entries)| (name.clone(), chain(entries))).collect()
        };
        Chains {
            platform: chain(&chains.platform),
            resellers: scoped(&chains.resellers),
            tenants: scoped(&chains.tenants),
        }
    }
}

impl Mounted {
    fn new(plugin: Arc<Plugin>, specification: Specification) -> Self {
        Self {
            filter: plugin.clone(),
            plugin: Some(plugin),
            broken: None,
            digest: specification.digest.clone(),
            since: Timestamp::now(),
            specification,
        }
    }

    fn broken(reason: &str, digest: &Arc<str>, stages: StageSet) -> Self {
        let specification = Specification {
            digest: digest.clone(),
            config: serde_json::Value::Null,
            grants: BTreeSet::new(),
            limits: settings::Limits::default(),
            reuse: false,
            tables: BTreeMap::new(),
            scanners: BTreeSet::new(),
        };
        Self {
            filter: Arc::new(Absent { stages, reason: reason.to_owned() }),
            plugin: None,
            broken: Some(reason.to_owned()),
            digest: digest.clone(),
            since: Timestamp::now(),
            specification,
        }
    }
}

impl Specification {
    fn new(plugin: &settings::Plugin, digest: Arc<str>) -> Self {
        Self {
            digest,
            config: plugin.config.clone(),
            grants: plugin.grants.clone(),
            limits: plugin.limits.clone(),
            reuse: plugin.reuse,
            tables: plugin.tables.clone(),
            scanners: plugin.scanners.clone(),
        }
    }
}

/// Plugins that are loaded though they may stand in no chain.
#[derive(Debug, Clone, Copy)]
pub enum Also<'a> {
    Nothing,
    One(&'a Key),
    All,
}

/// Those that stand in some chain; what is only declared is not loaded.
fn in_use(settings: &settings::Settings, also: Also<'_>) -> Vec<Arc<settings::Plugin>> {
    let chains = &settings.chains;
    let scoped = chains.resellers.values().chain(chains.tenants.values()).flatten();
    let placed = scoped.chain(&chains.platform).map(|entry| entry.plugin.clone());
    let also = settings.plugins.iter().filter(|plugin| match also {
        Also::Nothing => false,
        Also::One((scope, name)) => plugin.scope == *scope && plugin.name == *name,
        Also::All => true,
    });
    placed.chain(also.cloned()).collect()
}

async fn read(plugin: &settings::Plugin) -> Result<Arc<[u8]>, PluginError> {
    let name = plugin.name.clone();
    match &plugin.source {
        PluginSource::Builtin(builtin) => {
            let missing = || PluginError::NoBuiltin { name: name.clone(), builtin: builtin.clone() };
            builtin_source(builtin).map(Arc::from).ok_or_else(missing)
        }
        PluginSource::File(path) => {
            let path = path.clone();
            let read = tokio::task::spawn_blocking(move || read_source(&path)).await;
            let read = read.map_err(|_| PluginError::Interrupted { name: name.clone() })?;
            read.map(Arc::from).map_err(|source| PluginError::Load {
                name,
                scope: plugin.scope.clone(),
                source: source.into(),
            })
        }
    }
}

async fn load_one(
    host: &Host,
    plugin: &Arc<settings::Plugin>,
    source: Arc<[u8]>,
    tables: Arc<Tables>,
) -> Result<Arc<Plugin>, PluginError> {
    let name = plugin.name.clone();
    let settings = super::to_load(plugin, source, tables);
    host.load(settings).await.map_err(|source| PluginError::Load { name, scope: plugin.scope.clone(), source })
}

/// `tolerant`: a table that can't be read is there and unavailable, so that its plugin can say what that means. At a start
/// it may be one that was broken while the gateway ran: then mail was judged by the old one, and has to wait now.
async fn load_tables(host: &Host, plugin: &Arc<settings::Plugin>, tolerant: bool) -> Result<Arc<Tables>, PluginError> {
    if plugin.tables.is_empty() {
        return Ok(Arc::default());
    }
    let (name, plugin, library) = (plugin.name.clone(), plugin.clone(), host.library().clone());
    let open = move |definition: &Definition| open(&library, definition, tolerant);
    let read = tokio::task::spawn_blocking(move || super::tables(&plugin, open)).await;
    read.unwrap_or(Err(PluginError::Interrupted { name }))
}

fn open(library: &Library, definition: &Definition, tolerant: bool) -> Result<Arc<Kept>, TableError> {
    if tolerant { Ok(library.open_anyhow(definition)) } else { library.open(definition) }
}

/// Stands where a plugin should: it never answers, so its place's failure policy speaks.
struct Absent {
    stages: StageSet,
    reason: String,
}

impl Absent {
    fn failure(&self) -> Failure {
        Failure { cause: Cause::Host, detail: format!("it was not loaded: {}", self.reason) }
    }
}

impl Filter for Absent {
    fn interest(&self) -> Interest {
        Interest::both(self.stages)
    }

    fn judge<'a>(&'a self, _: Call) -> Pin<Box<dyn Future<Output = Judged> + Send + 'a>> {
        Box::pin(async { Judged { result: Err(self.failure()), usage: Usage::default() } })
    }

    fn tell<'a>(&'a self, _: Event) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        Box::pin(async { Err(self.failure()) })
    }
}
