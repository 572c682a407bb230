//! The WebAssembly host: loads plugins, gives them what they may have, and takes nothing from them unchecked.
//!
//! A plugin becomes a [`Filter`](crate::pipeline::Filter); the pipeline knows no more of it, and the host knows nothing
//! of sessions and sockets.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, Linker};

use crate::pipeline::{Failure, Interest, Scope, Stage};

mod abi;
mod account;
pub mod archive;
mod breaker;
pub mod calendar;
pub mod capability;
pub mod component;
pub mod counter;
pub mod engine;
mod failure;
#[cfg(test)]
mod granted;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod hostile;
mod instance;
pub mod limits;
#[cfg(test)]
mod loading;
#[cfg(test)]
mod metered;
mod permit;
mod plugin;
mod pool;
mod state;
mod statistics;
mod stopwatch;
pub mod store;
pub mod table;
pub mod unknown;

pub use abi::VERSION;
pub use account::{Account, Accounts, ScopeAccount, Used};
pub use archive::Archive;
pub use breaker::{BreakerSettings, BreakerState};
pub use capability::Services;
pub use capability::absent::Absent;
pub use capability::authentication::{self, Authenticator, Subject};
pub use capability::call_ahead::{self, CallAhead};
pub use capability::dns::{self, NameService};
pub use capability::scan::{self, Scanners};
pub use capability::signing::{self, Keys};
pub use component::cache::CacheError;
pub use component::compile::{CompileError, Compiler, SUBCOMMAND, compile_child_main};
pub use component::inspect::{Findings, inspect};
pub use component::{ContentDigest, ContractError, SourceError, check_size, read_source};
pub use counter::Counters;
pub use engine::EngineSettings;
pub use limits::Limits;
pub use plugin::{Inspection, Plugin, Report};
pub use statistics::{Activity, Quantiles};
pub use store::{Store, StoreLimits};
pub use table::{Library, Table, Tables};

use account::Ledger;
use capability::Grants;
use capability::metrics::MetricNames;
use component::Contract;
use component::cache::{Cache, deserialize_trusted};
use instance::{Exports, Instance};
use state::{CallState, Environment};
use statistics::Statistics;

/// Sizes and places that are fixed when the gateway starts.
#[derive(Debug, Clone)]
pub struct Settings {
    pub engine: EngineSettings,
    /// Calls of all plugins that run at a time. Each may hold its memory limit: 256 of 16 MiB are 4 GiB at worst, and
    /// about 300 MiB in practice. The plugins of one reseller or tenant have a quarter of them at most.
    pub calls: usize,
    /// Look-ups of all plugins that are under way at a time: half of what the resolver asks at a time, so that the
    /// gateway's own questions have room. The plugins of one reseller or tenant have a quarter of them at most.
    pub look_ups: usize,
    /// Instances of plugins with `reuse` that are kept warm between calls, all together.
    pub warm: usize,
    /// How long a call waits for its turn. Short: the client waits too, and the queue grows behind it.
    pub wait: Duration,
    pub breaker: BreakerSettings,
    pub compiler: Compiler,
    /// Where compiled code is kept; `None`: nowhere. Must be private to our user (it is made so).
    pub cache: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            engine: EngineSettings::default(),
            calls: 256,
            look_ups: 512,
            warm: 128,
            wait: Duration::from_secs(5),
            breaker: BreakerSettings::default(),
            compiler: Compiler::InProcess,
            cache: None,
        }
    }
}

/// One plugin's entry in a chain, as far as the host is concerned.
#[derive(Debug, Clone)]
pub struct PluginSettings {
    /// 1 to 64 of a-z, 0-9, `-`, `_`, `.`
    pub name: Arc<str>,
    pub scope: Scope,
    /// The bytes of the `.wasm` file.
    pub source: Arc<[u8]>,
    /// The entry's table `config`.
    pub config: serde_json::Value,
    /// Interfaces (`dns`, `tables`, …), `recipients`, `route:mx`, `route:host`, `route:NAME`.
    pub grants: Vec<String>,
    /// The tables that it may look into, by the names that it knows them under.
    pub tables: Arc<Tables>,
    /// The scanners that it may ask, by their names in config.
    pub scanners: BTreeSet<Arc<str>>,
    pub limits: Limits,
    /// Keep instances warm between calls. The contract says that a plugin keeps nothing between calls; this trusts it.
    pub reuse: bool,
}

/// The host could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("the WebAssembly engine can't be started: {0}")]
    Engine(String),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("the thread that looks at the tables can't be started: {0}")]
    Tables(std::io::Error),
}

/// A plugin was not loaded; whatever was loaded before stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("`{0}` is no name for a plugin: 1 to 64 characters of a-z, 0-9, -, _, .")]
    Name(String),
    #[error(
        "there is no grant `{0}`: metrics, clock, dns, tables, counters, store, authentication, signing, scan, call-ahead, recipients, route:mx, route:host, route:NAME"
    )]
    UnknownGrant(String),
    #[error("limit {name} = {value} is above the gateway's own, {max}")]
    Limit { name: &'static str, value: u64, max: u64 },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Contract(#[from] ContractError),
    #[error("it does not fit the contract {VERSION}, build it with the SDK of this release: {0}")]
    Link(String),
    #[error("it fails already when it is loaded ({0})")]
    Start(Failure),
    #[error("it refuses its config: {0}")]
    Refused(String),
    #[error("it does not fit the engine: {0}")]
    Fit(String),
}

/// Loads plugins. One for the whole gateway; all plugins share its engine and its limits.
pub struct Host {
    engine: Engine,
    linker: Linker<CallState>,
    settings: Settings,
    services: Services,
    cache: Option<Arc<Cache>>,
    permits: permit::Permits,
    look_ups: permit::Permits,
    room: pool::Room,
    /// By plugin name; those come from config.
    metric_names: Mutex<HashMap<Arc<str>, MetricNames>>,
    library: Arc<Library>,
    /// What plugins have used, whatever version was loaded.
    ledger: Arc<Ledger>,
    /// One compiler at a time: a reload of many plugins must not take the machine.
    compiling: Semaphore,
}

/// Slots beyond those of calls and warm instances: loads that are being checked.
const LOADS: usize = 4;
/// What a plugin may say when it refuses its config.
const MAX_REFUSAL: usize = 2000;

impl Host {
    pub fn new(settings: Settings, services: Services) -> Result<Self, HostError> {
        let failed = |error: wasmtime::Error| HostError::Engine(format!("{error:#}"));
        let instances = settings.calls.saturating_add(settings.warm).saturating_add(LOADS);
        let engine = engine::start(&settings.engine, u32::try_from(instances).unwrap_or(u32::MAX)).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        abi::Capabilities::add_to_linker::<_, HasSelf<CallState>>(&mut linker, |state| state).map_err(failed)?;
        let ledger = Arc::new(Ledger::default());
        let kept = Arc::downgrade(&ledger);
        services.metrics.before_render(move |metrics| {
            if let Some(ledger) = kept.upgrade() {
                ledger.export(metrics);
            }
        });
        let library = Arc::new(Library::new(services.metrics.clone()));
        library.watch().map_err(HostError::Tables)?;
        Ok(Self {
            engine,
            linker,
            library,
            ledger,
            cache: settings.cache.clone().map(Cache::open).transpose()?.map(Arc::new),
            permits: permit::Permits::new(settings.calls),
            look_ups: permit::Permits::new(settings.look_ups),
            room: pool::Room::new(settings.warm),
            metric_names: Mutex::default(),
            compiling: Semaphore::new(1),
            settings,
            services,
        })
    }

    /// Checks, compiles, probes and tries out. Nothing of a plugin that fails any step is kept.
    pub async fn load(&self, settings: PluginSettings) -> Result<Arc<Plugin>, LoadError> {
        let environment = self.environment(&settings)?;
        self.check_limits(&settings.limits)?;
        let digest = ContentDigest::of(&settings.source);
        let component = self.component(&settings.source, digest).await?;
        let contract = Contract::read(&self.engine, &component)?;
        contract.check_grants(&environment.grants)?;
        let pre = match self.linker.instantiate_pre(&component) {
            Ok(pre) => pre,
            Err(error) => return Err(LoadError::Link(misfit(settings.source, format!("{error:#}")).await)),
        };
        let exports = Exports::find(&component);
        if let Some(stage) = exports.missing(contract.stages) {
            return Err(LoadError::Link(format!("on-{stage} is exported without its function")));
        }
        let metrics = &self.services.metrics;
        let scope = metrics.scope_label(&environment.scope);
        let gauge = metrics.plugin_breaker_open.with_label_values(&[&*settings.name, &scope]);
        let account = self.ledger.entry(&settings.scope, &settings.name);
        let mut plugin = Plugin {
            engine: self.engine.clone(),
            environment: Arc::new(environment),
            pre,
            exports,
            quota: self.permits.quota(&settings.scope, settings.limits.calls),
            wait: self.settings.wait,
            inspection: Inspection {
                name: settings.name,
                scope: settings.scope,
                digest,
                version: digest.to_string().chars().take(12).collect::<String>().into(),
                size: settings.source.len(),
                stages: contract.stages,
                interest: Interest::both(contract.stages),
                checks_config: contract.on_load,
                imports: contract.imports.into_iter().collect(),
            },
            limits: settings.limits,
            breaker: breaker::Breaker::new(self.settings.breaker.clone(), gauge),
            pool: settings.reuse.then(|| pool::Pool::new(self.room.clone())),
            statistics: Statistics::new(account),
        };
        let skipped = try_out(&plugin).await?;
        plugin.inspection.interest = plugin.inspection.interest.without(skipped);
        Ok(Arc::new(plugin))
    }

    /// The tables of all plugins.
    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// What plugins have used since the host was made, those that are no longer loaded too.
    pub fn usage(&self) -> Accounts {
        self.ledger.accounts()
    }

    fn environment(&self, settings: &PluginSettings) -> Result<Environment, LoadError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if settings.name.is_empty() || settings.name.len() > 64 || !settings.name.bytes().all(legal) {
            return Err(LoadError::Name(settings.name.to_string()));
        }
        let config = match &settings.config {
            serde_json::Value::Null => "{}".to_owned(),
            config => config.to_string(),
        };
        Ok(Environment {
            name: settings.name.clone(),
            scope: settings.scope.to_string(),
            owner: settings.scope.clone(),
            config,
            grants: Grants::new(settings.grants.iter().cloned()).map_err(LoadError::UnknownGrant)?,
            tables: settings.tables.clone(),
            scanners: settings.scanners.clone(),
            services: self.services.clone(),
            look_ups: self.look_ups.quota(&settings.scope, dns::MAX_LOOK_UPS),
            metric_names: self.metric_names(&settings.name),
        })
    }

    fn metric_names(&self, plugin: &Arc<str>) -> MetricNames {
        let mut names = self.metric_names.lock().unwrap_or_else(PoisonError::into_inner);
        names.entry(plugin.clone()).or_default().clone()
    }

    /// The pool's slots have a size: a limit above it would be none.
    fn check_limits(&self, limits: &Limits) -> Result<(), LoadError> {
        let engine = &self.settings.engine;
        for (name, value, max) in [
            ("memory", limits.memory, engine.max_memory),
            ("tables", u64::from(limits.tables), u64::from(engine.max_table_elements)),
        ] {
            if value > max {
                return Err(LoadError::Limit { name, value, max });
            }
        }
        Ok(())
    }

    /// From the cache, or compiled anew.
    async fn component(&self, source: &Arc<[u8]>, digest: ContentDigest) -> Result<Component, LoadError> {
        component::check(source)?;
        if let Some(component) = self.cached(digest).await {
            return Ok(component);
        }
        let _turn = self.compiling.acquire().await;
        let code = self.settings.compiler.compile(source.clone()).await?;
        let (engine, cache) = (self.engine.clone(), self.cache.clone());
        let ready = tokio::task::spawn_blocking(move || {
            // Refuses what has more memories, tables or instances than a slot.
            let component = deserialize_trusted(&engine, &code).map_err(|error| format!("{error:#}"))?;
            if let Some(Err(error)) = cache.map(|cache| cache.store(&engine, &digest, &code)) {
                // The next start compiles once more.
                tracing::warn!(%error, "compiled code can't be kept");
            }
            Ok(component)
        });
        ready.await.unwrap_or_else(|error| Err(error.to_string())).map_err(LoadError::Fit)
    }

    /// Its compiled code is kept from an earlier time: it won't be compiled again, unless the code turns out damaged.
    pub async fn has_code_of(&self, source: &Arc<[u8]>) -> bool {
        let Some(cache) = self.cache.clone() else { return false };
        let (engine, source) = (self.engine.clone(), source.clone());
        let has = tokio::task::spawn_blocking(move || cache.has(&engine, &ContentDigest::of(&source)));
        has.await.unwrap_or(false)
    }

    async fn cached(&self, digest: ContentDigest) -> Option<Component> {
        let cache = self.cache.clone()?;
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || cache.load(&engine, &digest)).await.ok().flatten()
    }
}

/// Why it can't be linked: by the names of the contract where they tell it, else as the engine has it.
async fn misfit(source: Arc<[u8]>, error: String) -> String {
    let found = tokio::task::spawn_blocking(move || inspect(&source)).await;
    match found {
        Ok(Ok(Findings { differences, .. })) if !differences.is_empty() => differences.join("; "),
        _ => error,
    }
}

/// In a scratch store, before any mail: it can be instantiated, has the functions it claims, and agrees to its config. Gives
/// where it need not be asked.
async fn try_out(plugin: &Plugin) -> Result<Interest, LoadError> {
    // Reading a long config, or compiling its expressions, is more than judging one mail takes; and to name each stage that it
    // skips takes a call of its own.
    let limits = Limits {
        cpu: plugin.limits.cpu.max(Duration::from_secs(1)),
        host_calls: plugin.limits.host_calls.saturating_add(2 * Stage::ALL.len() as u64),
        ..plugin.limits.clone()
    };
    let mut instance = Instance::new(&plugin.engine, plugin.environment.clone(), &limits);
    let answer = plugin.limited(instance.check(&plugin.pre, &plugin.exports)).await;
    instance.store.data_mut().finish_log();
    answer.map_err(LoadError::Start)?.map_err(|refusal| {
        LoadError::Refused(refusal.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REFUSAL).collect())
    })?;
    Ok(instance.store.data().skipped)
}
