//! What can be changed while the gateway runs, and how: all of it or nothing, one change at a time.
//!
//! A change is prepared beside what is in force: config read, plugins compiled, probed and tried out. Only when nothing
//! can fail any more is it put in force. A mail keeps the chains that it began with; connections notice nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::authentication::Authentication;
use super::connections::Limits;
use super::descriptor;
use super::mailboxes::Mailboxes;
use super::plugins::record::{Place, Version};
use super::plugins::{
    self, Also, Change, Effective, Loaded, PluginError, Rack, Record as Installed, Registry, Tolerated,
};
use super::setup;
use super::signing::Signer;
use super::supervisor::Supervisor;
use super::tls::Certificates;
use super::trial::Trials;
use super::verbs;
use crate::config::settings::{self, PluginSource};
use crate::config::{self, Settings};
use crate::delivery::Delivery;
use crate::host::{ContentDigest, Host};
use crate::log::Record;
use crate::pipeline::Scope;
use crate::queue::{Filter, Queue};
use crate::scan::Scanners;
use crate::session::Snapshot;
use crate::session::machine::Gateway;
use crate::tenancy::{Directory, Tenant};

/// What is in force, as far as it can be changed.
pub struct InForce {
    /// As the config has them.
    pub settings: Settings,
    pub installed: Installed,
    pub effective: Effective,
    pub rack: Rack,
}

/// What the gateway is made of, where a change must reach it.
pub struct Parts {
    pub gateway: Arc<Gateway>,
    pub queue: Arc<Queue>,
    pub delivery: Arc<Delivery>,
    pub mailboxes: Arc<Mailboxes>,
    pub scanners: Arc<Scanners>,
    pub authentication: Arc<Authentication>,
    pub host: Arc<Host>,
    /// Where arriving bodies wait.
    pub incoming: PathBuf,
    pub limits: Arc<ArcSwap<Limits>>,
    pub supervisor: Supervisor,
    pub certificates: Certificates,
    pub signer: Arc<Signer>,
    pub registry: Registry,
}

/// How the last reload went, for `postern status`.
#[derive(Debug, Clone)]
pub struct Reload {
    pub time: Timestamp,
    /// Why it was refused.
    pub refused: Option<String>,
}

pub struct Live {
    /// `None`: the config did not come from a file.
    config: Option<PathBuf>,
    pub(super) parts: Parts,
    /// What the gateway was started with, which a reload can't change all of.
    started: Settings,
    in_force: ArcSwap<InForce>,
    last_reload: ArcSwap<Option<Reload>>,
    pub(super) trials: Trials,
    turn: tokio::sync::Mutex<()>,
}

/// Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("this gateway runs without a config file")]
    NoConfig,
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    #[error("{0}")]
    Plugin(#[from] PluginError),
    #[error("{0}")]
    Delivery(#[from] crate::delivery::TlsSetupError),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It makes sense, but not as things are.
    #[error("{0}")]
    NotNow(String),
    #[error("there is no plugin {name} of {scope}{hint}")]
    NoPlugin { scope: Scope, name: Arc<str>, hint: String },
    #[error("a part of the change was interrupted")]
    Interrupted,
}

/// What a change works on.
struct Ground<'a> {
    host: &'a Arc<Host>,
    registry: &'a Registry,
    /// What is in force; at a start nothing is.
    rack: &'a Rack,
    /// Only what differs from it is looked at; `None`: all files are read again.
    unread: Option<&'a Effective>,
    also: Also<'a>,
    tolerated: Tolerated,
}

impl Ground<'_> {
    /// Lays the record over the config and loads what is not loaded yet.
    async fn prepare(&self, settings: &Settings, installed: &Installed) -> Result<(Effective, Loaded), Refusal> {
        let (settings, installed, registry) = (settings.clone(), installed.clone(), self.registry.clone());
        let tolerated = self.tolerated.clone();
        // What stands in for the config's file goes on doing so until a reload looks at the file.
        let stays: Option<HashSet<plugins::Key>> = self.unread.map(|before| {
            let changed = if let Also::One(key) = self.also { Some(key.clone()) } else { None };
            before.pinned.keys().cloned().chain(changed).collect()
        });
        let left = move |plugin: &settings::Plugin, digest: &str| match &stays {
            Some(stays) => stays.contains(&(plugin.scope.clone(), plugin.name.clone())),
            None => config_digest(plugin).as_deref() == Some(digest),
        };
        let lay_over = move || Effective::new(&settings, &installed, &registry, left, tolerated);
        let effective = tokio::task::spawn_blocking(lay_over).await.map_err(|_| Refusal::Interrupted)?;
        let effective = effective.map_err(PluginError::from)?;
        let loaded = self.rack.load(self.host, &effective, self.also, self.unread).await?;
        Ok((effective, loaded))
    }
}

/// What is broken may stay so, unless it is what is being changed.
fn broken_already(before: &InForce, changed: Option<&plugins::Key>) -> Tolerated {
    let mounted = before.rack.all().filter(|(_, mounted)| mounted.broken.is_some()).map(|(key, _)| key);
    // One that was taken out of its chain is not mounted.
    let broken = mounted.chain(before.effective.broken.keys()).filter(|key| Some(*key) != changed);
    Tolerated::Only(broken.cloned().collect())
}

/// Of the file that the config names.
fn config_digest(plugin: &settings::Plugin) -> Option<String> {
    let PluginSource::File(path) = &plugin.source else { return None };
    crate::host::read_source(path).ok().map(|source| ContentDigest::of(&source).to_string())
}

/// What a start has loaded.
pub struct Started {
    pub in_force: InForce,
    pub registry: Registry,
    pub chains: crate::pipeline::Chains,
}

/// Loads what is to be in force when the gateway starts. What was installed and can't be loaded keeps nobody waiting:
/// its place in the chain fails until it is mended.
pub async fn start(host: &Arc<Host>, settings: &Settings) -> Result<Started, Refusal> {
    let directory = settings.installation.directory.clone();
    let open = tokio::task::spawn_blocking(move || Registry::open(directory));
    let (registry, found) = open.await.map_err(|_| Refusal::Interrupted)?.map_err(PluginError::from)?;
    let mut installed = found.clone();
    let rack = Rack::default();
    let (registry_of, tolerated) = (&registry, Tolerated::All);
    let ground = Ground { host, registry: registry_of, rack: &rack, unread: None, also: Also::Nothing, tolerated };
    let (effective, loaded) = ground.prepare(settings, &installed).await?;
    let noted = note_versions(&mut installed, &effective, &loaded.changes, settings.installation.keep_versions);
    if installed != found {
        keep(&registry, &installed, noted).await?;
    }
    let in_force = InForce { settings: settings.clone(), installed, effective, rack: loaded.rack };
    Ok(Started { in_force, registry, chains: loaded.chains })
}

/// Loads all plugins, those that are installed and those that stand in no chain included, and keeps nothing of it: for
/// `postern check --deep`.
pub async fn try_out(host: &Arc<Host>, settings: &Settings) -> Result<(), Refusal> {
    let directory = settings.installation.directory.clone();
    let look = tokio::task::spawn_blocking(move || Registry::look(directory));
    let (registry, installed) = look.await.map_err(|_| Refusal::Interrupted)?.map_err(PluginError::from)?;
    let (rack, tolerated) = (Rack::default(), Tolerated::Only(HashSet::new()));
    let ground = Ground { host, registry: &registry, rack: &rack, unread: None, also: Also::All, tolerated };
    ground.prepare(settings, &installed).await.map(drop)
}

/// The chains as a start would make them, and nothing is kept of it: for `postern route explain`.
pub async fn look(host: &Arc<Host>, settings: &Settings) -> Result<crate::pipeline::Chains, Refusal> {
    let directory = settings.installation.directory.clone();
    let look = tokio::task::spawn_blocking(move || Registry::look(directory));
    let (registry, installed) = look.await.map_err(|_| Refusal::Interrupted)?.map_err(PluginError::from)?;
    let (rack, tolerated) = (Rack::default(), Tolerated::All);
    let ground = Ground { host, registry: &registry, rack: &rack, unread: None, also: Also::Nothing, tolerated };
    Ok(ground.prepare(settings, &installed).await?.1.chains)
}

/// Components that the record is going to speak of.
type Sources = Vec<(ContentDigest, Arc<[u8]>)>;

/// Files that the config names are versions too: one that fails can be gone back from.
fn note_versions(installed: &mut Installed, effective: &Effective, changes: &[Change], keep: u32) -> Sources {
    let mut sources = Vec::new();
    for change in changes {
        let (scope, name) = &change.key;
        let from_config = effective.settings.plugins.iter().any(|plugin| {
            let is_file = matches!(plugin.source, PluginSource::File(_));
            plugin.scope == *scope && plugin.name == *name && is_file && !effective.pinned.contains_key(&change.key)
        });
        let (true, Some(source), Some(plugin)) = (from_config, &change.source, &change.mounted.plugin) else {
            continue;
        };
        let entry = installed.entry_mut(scope, name);
        // It held while the file was another one.
        entry.current = None;
        if entry.versions.last().is_none_or(|last| last.digest != change.mounted.digest) {
            let file = "the config's".to_owned();
            let version = verbs::version(plugin.inspect(), file, None);
            entry.add(version, usize::try_from(keep).unwrap_or(usize::MAX));
        }
        sources.push((plugin.inspect().digest, source.clone()));
    }
    sources
}

/// Only loading a component tells at which stages it is asked; and where it stands, when it can't be loaded one day.
fn note_places(installed: &mut Installed, effective: &Effective, rack: &Rack) {
    for entry in &mut installed.plugins {
        let (Some(pin), Some(mounted)) = (&entry.current, rack.at(&(entry.scope.clone(), entry.name.clone()))) else {
            continue;
        };
        let places = verbs::chain(&effective.settings.chains, &entry.scope);
        let place = places.iter().find(|place| place.plugin.name == entry.name).map(|place| Place {
            direction: place.directions.name().to_owned(),
            on_failure: place.on_failure.name().to_owned(),
            exemptable: place.exemptable,
        });
        let loaded = |version: &&mut Version| {
            version.number == pin.version && version.digest == mounted.digest && mounted.broken.is_none()
        };
        for version in entry.versions.iter_mut().filter(loaded) {
            if let Some(plugin) = &mounted.plugin {
                version.stages = plugin.inspect().stages.iter().map(|stage| stage.name().to_owned()).collect();
            }
            version.place = place.clone().or(version.place.take());
        }
    }
}

/// Durable when it returns; the record last, so that it never speaks of a component that is not there.
async fn keep(registry: &Registry, installed: &Installed, sources: Sources) -> Result<(), Refusal> {
    let (registry, installed) = (registry.clone(), installed.clone());
    let write = tokio::task::spawn_blocking(move || {
        for (digest, source) in sources {
            registry.keep(digest, &source)?;
        }
        registry.save(&installed)
    });
    write.await.map_err(|_| Refusal::Interrupted)?.map_err(|error| PluginError::from(error).into())
}

impl Live {
    pub fn new(config: Option<PathBuf>, parts: Parts, in_force: InForce) -> Self {
        let live = Self {
            config,
            parts,
            started: in_force.settings.clone(),
            in_force: ArcSwap::from_pointee(in_force),
            last_reload: ArcSwap::from_pointee(None),
            trials: Trials::default(),
            turn: tokio::sync::Mutex::default(),
        };
        live.count_broken(&live.in_force().rack);
        live
    }

    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    fn ground<'a>(
        &'a self,
        before: &'a InForce,
        unread: Option<&'a Effective>,
        also: Also<'a>,
        tolerated: Tolerated,
    ) -> Ground<'a> {
        let Parts { host, registry, .. } = &self.parts;
        Ground { host, registry, rack: &before.rack, unread, also, tolerated }
    }

    pub(super) fn certificates(&self) -> &Certificates {
        &self.parts.certificates
    }

    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    pub fn last_reload(&self) -> Option<Reload> {
        Option::clone(&self.last_reload.load())
    }

    /// One change after the other.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// What a SIGHUP or `postern reload` does: all of the config anew, or nothing.
    pub async fn reload(&self) -> Result<String, String> {
        let _turn = self.turn().await;
        let _told = self.parts.supervisor.reloading();
        let result = self.read_config_and_change().await.map_err(|refusal| refusal.to_string());
        let refused = result.as_ref().err().cloned();
        if refused.is_some() {
            self.parts.signer.announce(&self.in_force().settings);
        }
        let (log, metrics) = (&self.parts.gateway.clerk.log, &self.parts.gateway.clerk.metrics);
        metrics.reloads.with_label_values(&[if refused.is_some() { "refused" } else { "ok" }]).inc();
        log.emit(match &refused {
            Some(why) => Record::new("reload-refused").text("reason", why),
            None => Record::new("reloaded"),
        });
        self.last_reload.store(Arc::new(Some(Reload { time: Timestamp::now(), refused })));
        result
    }

    async fn read_config_and_change(&self) -> Result<String, Refusal> {
        let path = self.config.clone().ok_or(Refusal::NoConfig)?;
        let load = tokio::task::spawn_blocking(move || config::load(&path, &plugins::builtins()));
        let loaded_config = load.await.map_err(|_| Refusal::Interrupted)??;
        let faults: Vec<String> = loaded_config.faults().map(ToString::to_string).collect();
        let settings = loaded_config.settings;
        let before = self.in_force();
        let mut installed = before.installed.clone();
        let tolerated = broken_already(&before, None);
        self.parts.signer.announce(&settings);
        let (effective, loaded) =
            self.ground(&before, None, Also::Nothing, tolerated).prepare(&settings, &installed).await?;
        let noted = note_versions(&mut installed, &effective, &loaded.changes, settings.installation.keep_versions);
        let delivery = self.parts.delivery.prepare(setup::delivery(&settings))?;
        if installed != before.installed {
            keep(&self.parts.registry, &installed, noted).await?;
        }
        // From here on nothing fails.
        self.parts.delivery.replace(delivery);
        self.parts.mailboxes.configure(&settings);
        self.parts.scanners.replace(setup::scanners(&settings));
        wake(&loaded.changes);
        descriptor::raise_limit(&settings);
        self.parts.queue.configure(setup::queue(&settings));
        self.parts.authentication.configure(setup::authentication(&settings));
        self.parts.limits.store(Arc::new(setup::connections(&settings, &self.parts.gateway.clerk.metrics)));
        self.parts.certificates.replace(&settings);
        self.parts.signer.replace(&settings, &self.parts.gateway.clerk.metrics);
        let new = Arc::new(setup::snapshot(&settings, self.parts.incoming.clone(), loaded.chains.clone()));
        let old = self.parts.gateway.current.swap(new.clone());
        let message = describe(&self.started, &settings, &loaded.changes);
        let message = faults.iter().fold(message, |message, fault| {
            tracing::error!("{fault}");
            format!("{message}\n{}", fault.trim_end())
        });
        // Another table or setting in the config is no other version: the one before would have them, too.
        let is_version =
            |change: &Change| change.before.as_ref().is_some_and(|before| before.digest != change.mounted.digest);
        self.trials.begin(&loaded.changes, settings.installation.rollback_window, is_version);
        rest(&before.rack, &loaded.rack);
        self.settle(InForce { settings, installed, effective, rack: loaded.rack });
        self.try_moved(&old.directory, &new.directory).await;
        Ok(message)
    }

    /// Puts other plugins in force and leaves all else. `also`: tried, though it stands in no chain. `watched`: they are new,
    /// and go back by themselves when they fail.
    pub(super) async fn change_plugins(
        &self,
        mut installed: Installed,
        also: Option<&plugins::Key>,
        watched: bool,
    ) -> Result<Vec<Change>, Refusal> {
        let before = self.in_force();
        let tolerated = broken_already(&before, also);
        let ground = self.ground(&before, Some(&before.effective), also.map_or(Also::Nothing, Also::One), tolerated);
        let (effective, loaded) = ground.prepare(&before.settings, &installed).await?;
        note_places(&mut installed, &effective, &loaded.rack);
        keep(&self.parts.registry, &installed, Vec::new()).await?;
        wake(&loaded.changes);
        let current = self.parts.gateway.current.load_full();
        let chains = Arc::new(loaded.chains);
        self.parts.gateway.current.store(Arc::new(Snapshot { chains, ..Snapshot::clone(&current) }));
        let settings = before.settings.clone();
        match watched {
            true => self.trials.begin(&loaded.changes, settings.installation.rollback_window, |_| true),
            false => loaded.changes.iter().for_each(|change| self.trials.forget(&change.key)),
        }
        rest(&before.rack, &loaded.rack);
        self.settle(InForce { settings, installed, effective, rack: loaded.rack });
        Ok(loaded.changes)
    }

    /// Components that nothing speaks of any more go.
    pub(super) async fn sweep(&self) {
        let (registry, in_force) = (self.parts.registry.clone(), self.in_force());
        let _ = tokio::task::spawn_blocking(move || registry.sweep(&in_force.installed)).await;
    }

    fn settle(&self, in_force: InForce) {
        self.count_broken(&in_force.rack);
        self.in_force.store(Arc::new(in_force));
    }

    fn count_broken(&self, rack: &Rack) {
        let broken = rack.all().filter(|(_, mounted)| mounted.broken.is_some()).count();
        let metrics = &self.parts.gateway.clerk.metrics;
        metrics.plugins_broken.set(i64::try_from(broken).unwrap_or(i64::MAX));
    }

    /// A changed destination takes effect at once, also for what waits because the old one is down (R14).
    async fn try_moved(&self, old: &Directory, new: &Directory) {
        for tenant in moved(old, new) {
            let waiting = Filter { tenant: Some(tenant.clone()), ..Filter::default() };
            if let Err(error) = self.parts.queue.flush(&waiting).await {
                tracing::error!(%error, %tenant, "mail for a new destination waits for its next attempt");
            }
        }
    }
}

/// Before a change is put in force: what comes back from rest may keep instances warm again.
fn wake(changes: &[Change]) {
    changes.iter().filter_map(|change| change.mounted.plugin.as_ref()).for_each(|plugin| plugin.rest(false));
}

/// After it: what was replaced gives its room to others.
fn rest(before: &Rack, after: &Rack) {
    for (key, old) in before.all() {
        let stays = after.at(key).is_some_and(|new| Arc::ptr_eq(new, old));
        if let (false, Some(plugin)) = (stays, &old.plugin) {
            plugin.rest(true);
        }
    }
}

/// Tenants whose mail goes somewhere else than before.
fn moved(old: &Directory, new: &Directory) -> Vec<Arc<str>> {
    let routes = |tenant: &Arc<Tenant>| (tenant.destination.clone(), tenant.outbound.clone());
    let has_moved = |tenant: &&Arc<Tenant>| old.tenant(&tenant.name).is_some_and(|old| routes(old) != routes(tenant));
    new.tenants().filter(has_moved).map(|tenant| tenant.name.clone()).collect()
}

/// What the operator wants to know after a reload.
fn describe(started: &Settings, new: &Settings, changes: &[Change]) -> String {
    let mut told = vec!["the config is in force".to_owned()];
    let names: Vec<_> = changes.iter().map(|change| format!("{} ({})", change.key.1, change.key.0)).collect();
    if !names.is_empty() {
        told.push(format!("plugins loaded: {}", names.join(", ")));
    }
    let waits = needs_restart(started, new);
    if !waits.is_empty() {
        told.push(format!("only a restart puts in force what differs in {}", waits.join(", ")));
    }
    told.join("; ")
}

/// What is different and can't be changed while the gateway runs.
fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let listeners = |settings: &Settings| -> Vec<_> { settings.listeners.iter().map(fixed_of_listener).collect() };
    let differences = [
        ("[[listener]]", listeners(old) != listeners(new)),
        ("[server.http]", old.http != new.http),
        ("[server] drain_timeout", old.server.drain_timeout != new.server.drain_timeout),
        ("[spool]", old.spool != new.spool),
        ("[dns]", old.dns != new.dns),
        ("[plugins] directory", old.installation.directory != new.installation.directory),
        ("[plugins] store_entries, store_octets, store_total", old.store != new.store),
        ("[server] time_zone", old.server.time_zone != new.server.time_zone),
        ("[log]", old.log != new.log),
    ];
    differences.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

/// All but the certificate.
fn fixed_of_listener(listener: &settings::Listener) -> impl PartialEq + use<> {
    let settings::Listener { name, address, role, tls, certificate, auth, .. } = listener;
    let networks = (listener.proxy_protocol_from.clone(), listener.xclient_from.clone());
    (name.clone(), *address, *role, *tls, certificate.is_some(), *auth, networks, listener.line_ends.clone())
}
