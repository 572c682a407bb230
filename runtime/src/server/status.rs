//! A running gateway at a glance, for `postern status`: facts that others keep, gathered when someone asks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use prometheus::core::Collector as _;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

use super::certificate;
use super::connections::Limits;
use super::http::Readiness;
use crate::cli::control::vitals::{
    Down, Listener, Messages, OpenBreaker, Plugins, Queue as QueueVitals, RefusedReload, Sessions, Spool, Vitals,
};
use crate::config::Settings;
use crate::config::settings::{self, ListenerTls};
use crate::pipeline::{Chain, Chains, Scope};
use crate::queue::{Queue, Standing};
use crate::session::machine::Gateway;

/// Destinations that are down and named.
const MAX_DOWN: usize = 10;
/// Open breakers that are named.
const MAX_OPEN: usize = 20;
/// Octets of an error's first line.
const MAX_ERROR: usize = 500;

/// What an answer is made of.
pub struct Facts {
    pub started: Timestamp,
    pub host_name: String,
    /// `None`: it runs without a file.
    pub config: Option<PathBuf>,
    /// Of [`listeners`]; stored anew when certificates change.
    pub listeners: ArcSwap<Vec<Listener>>,
    pub http: Option<SocketAddr>,
    pub gateway: Arc<Gateway>,
    pub queue: Arc<Queue>,
    pub limits: Arc<ArcSwap<Limits>>,
    /// Of the spool, and the octets that new mail leaves free there.
    pub directory: PathBuf,
    pub reserve: u64,
    pub ready: Readiness,
    pub reloads: Arc<Reloads>,
}

/// How the reloads went. Whoever reloads says so.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<Outcomes>);

#[derive(Debug, Clone, Default)]
struct Outcomes {
    /// The last one that put a config into force.
    done: Option<Timestamp>,
    /// The last one, when it was refused.
    refused: Option<RefusedReload>,
}

impl Reloads {
    /// An error is kept by its first line.
    pub fn note<T>(&self, outcome: &Result<T, String>) {
        let at = Timestamp::now();
        let mut outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(_) => *outcomes = Outcomes { done: Some(at), refused: None },
            Err(error) => {
                let line = error.lines().next().unwrap_or_default();
                let end = (0..=MAX_ERROR).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
                let error = line.get(..end).unwrap_or(line).to_owned();
                outcomes.refused = Some(RefusedReload { at, error });
            }
        }
    }

    fn outcomes(&self) -> Outcomes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Facts {
    pub fn vitals(&self) -> Vitals {
        let metrics = &self.gateway.clerk.metrics;
        let Outcomes { done, refused } = self.reloads.outcomes();
        let not_ready = (self.ready)().err();
        Vitals {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            host_name: self.host_name.clone(),
            config: self.config.clone(),
            started: self.started,
            now: Timestamp::now(),
            not_ready: not_ready.map(str::to_owned),
            reloaded: done,
            refused,
            listeners: self.listeners.load().to_vec(),
            http: self.http,
            sessions: Sessions { open: level(&metrics.sessions_open), limit: self.limits.load().total as u64 },
            queue: self.queue(),
            spool: self.spool(),
            plugins: plugins(&self.gateway.current.load().chains, &metrics.plugin_breaker_open),
            messages: messages(&metrics.messages),
            events_dropped: metrics.log_dropped.get(),
        }
    }

    fn queue(&self) -> QueueVitals {
        let overview = self.queue.overview(MAX_DOWN);
        let count = |standing| {
            overview.counts.iter().filter(|(other, _)| *other == standing).map(|(_, count)| *count as u64).sum()
        };
        QueueVitals {
            ready: count(Standing::Ready),
            waiting: count(Standing::Waiting),
            delivering: count(Standing::Delivering),
            held: count(Standing::Held),
            quarantined: count(Standing::Quarantined),
            oldest: overview.oldest.as_secs(),
            down_total: overview.down_total as u64,
            down: overview
                .down
                .into_iter()
                .map(|down| Down {
                    destination: down.destination,
                    messages: down.messages as u64,
                    failures: down.failures,
                    next_attempt: down.next_attempt,
                    reply: down.reply,
                })
                .collect(),
        }
    }

    fn spool(&self) -> Spool {
        let metrics = &self.gateway.clerk.metrics;
        let free = rustix::fs::statvfs(&self.directory).ok();
        Spool {
            directory: self.directory.clone(),
            healthy: level(&metrics.spool_healthy) > 0,
            octets: level(&metrics.spool_octets),
            free: free.map(|free| free.f_bavail.saturating_mul(free.f_frsize)),
            reserve: self.reserve,
            damaged: metrics.spool_damaged.get(),
        }
    }
}

fn level(gauge: &IntGauge) -> u64 {
    u64::try_from(gauge.get()).unwrap_or(0)
}

/// As `addresses` says where they listen, with the port that the system chose for port 0.
pub fn listeners(settings: &Settings, addresses: &[(Arc<str>, SocketAddr)]) -> Vec<Listener> {
    let address = |listener: &settings::Listener| {
        let bound = addresses.iter().find(|(name, _)| *name == listener.name);
        bound.map_or(listener.address, |(_, address)| *address)
    };
    let expires = |listener: &settings::Listener| {
        let chain = &listener.certificate.as_ref()?.certified_key.cert;
        Some(certificate::Facts::read(chain.first()?)?.expires)
    };
    let listed = settings.listeners.iter().map(|listener| Listener {
        name: listener.name.to_string(),
        address: address(listener),
        role: listener.role.name().to_owned(),
        tls: tls(listener.tls).to_owned(),
        certificate_expires: expires(listener),
    });
    listed.collect()
}

const fn tls(tls: ListenerTls) -> &'static str {
    match tls {
        ListenerTls::None => "none",
        ListenerTls::StartTls => "starttls",
        ListenerTls::Required => "required",
        ListenerTls::Implicit => "implicit",
    }
}

/// By the answer that the client got; the label's values are those of the verdicts.
fn messages(counted: &IntCounterVec) -> Messages {
    let of = |verdict: &str| counted.with_label_values(&[verdict]).get();
    let (quarantined, discarded, deferred) = (of("quarantine"), of("discard"), of("defer"));
    Messages {
        accepted: of("accept") + quarantined + discarded,
        quarantined,
        discarded,
        refused: of("reject") + of("disconnect") + deferred,
        deferred,
    }
}

fn plugins(chains: &Chains, breakers: &IntGaugeVec) -> Plugins {
    let mut scopes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut filters = BTreeSet::new();
    for (scope, chain) in all(chains) {
        for entry in &chain.entries {
            // One plugin may stand in many chains.
            filters.insert(Arc::as_ptr(&entry.filter).cast::<()>());
            scopes.entry(entry.name.to_string()).or_default().insert(scope.to_string());
        }
    }
    let families = breakers.collect();
    let open =
        families.iter().flat_map(|family| family.get_metric()).filter(|metric| metric.get_gauge().get_value() > 0.0);
    let open = open.filter_map(|metric| {
        let label = |name: &str| {
            let found = metric.get_label().iter().find(|label| label.name() == name);
            found.map(|label| label.value().to_owned())
        };
        let plugin = label("plugin")?;
        // Those of one name in several scopes share a series, unless it says whose it is.
        let whose = label("scope").map(|scope| BTreeSet::from([scope])).or_else(|| scopes.get(&plugin).cloned());
        // A series stays when its plugin has gone.
        Some(OpenBreaker { plugin, scopes: whose?.into_iter().collect() })
    });
    Plugins { count: filters.len() as u64, open: open.take(MAX_OPEN).collect() }
}

fn all(chains: &Chains) -> impl Iterator<Item = (Scope, &Arc<Chain>)> {
    let resellers = chains.resellers.iter().map(|(name, chain)| (Scope::Reseller(name.clone()), chain));
    let tenants = chains.tenants.iter().map(|(name, chain)| (Scope::Tenant(name.clone()), chain));
    std::iter::once((Scope::Platform, &chains.platform)).chain(resellers).chain(tenants)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_refused_reload_is_known_until_one_succeeds() {
        let reloads = Reloads::default();
        reloads.note(&Ok(()));
        let done = reloads.outcomes().done;
        reloads.note::<()>(&Err("error: unknown key `x`\n  --> postern.toml:1:1\n".to_owned()));
        let outcomes = reloads.outcomes();
        assert_eq!(outcomes.done, done);
        assert_eq!(outcomes.refused.unwrap().error, "error: unknown key `x`");
        reloads.note::<()>(&Err("é".repeat(600)));
        assert_eq!(reloads.outcomes().refused.unwrap().error.len(), MAX_ERROR);
        reloads.note(&Ok(()));
        assert_eq!(reloads.outcomes().refused, None);
    }

    #[test]
    fn messages_are_counted_by_answer() {
        let metrics = Metrics::new().unwrap();
        for (verdict, times) in [("accept", 5), ("quarantine", 2), ("discard", 1), ("reject", 4), ("defer", 3)] {
            metrics.messages.with_label_values(&[verdict]).inc_by(times);
        }
        let expected = Messages { accepted: 8, quarantined: 2, discarded: 1, refused: 7, deferred: 3 };
        assert_eq!(messages(&metrics.messages), expected);
    }

    #[test]
    fn the_breaker_of_a_plugin_that_has_gone_is_not_shown() {
        let metrics = Metrics::new().unwrap();
        metrics.plugin_breaker_open.with_label_values(&["gone"]).set(1);
        assert_eq!(plugins(&Chains::default(), &metrics.plugin_breaker_open), Plugins::default());
    }
}
