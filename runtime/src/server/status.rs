//! A running gateway at a glance, for `postern status`: facts that others keep, gathered when someone asks.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use prometheus::core::Collector as _;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

use super::certificate;
use super::http::Readiness;
use super::live::Live;
use super::plugins::Rack;
use crate::cli::control::vitals::{
    Broken, Down, Listener, Messages, OpenBreaker, Plugins, Queue as QueueVitals, RefusedReload, Sessions, Spool,
    Vitals,
};
use crate::config::Settings;
use crate::config::settings::{self, ListenerTls};
use crate::pipeline::{Chain, Chains};
use crate::queue::Standing;

/// Destinations that are down and named.
const MAX_DOWN: usize = 10;
/// Open breakers that are named.
const MAX_OPEN: usize = 20;
/// Octets of an error's first line.
const MAX_ERROR: usize = 500;

/// What an answer is made of.
pub struct Facts {
    pub started: Timestamp,
    /// Where it listens, by the listeners' names.
    pub addresses: Vec<(Arc<str>, SocketAddr)>,
    pub http: Option<SocketAddr>,
    /// Of the spool, and the octets that new mail leaves free there.
    pub directory: PathBuf,
    pub reserve: u64,
    pub ready: Readiness,
    pub live: Arc<Live>,
}

impl Facts {
    pub fn vitals(&self) -> Vitals {
        let parts = &self.live.parts;
        let metrics = &parts.gateway.clerk.metrics;
        let in_force = self.live.in_force();
        let reload = self.live.last_reload();
        Vitals {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            host_name: in_force.settings.server.host_name.to_string(),
            config: self.live.config().map(Path::to_owned),
            started: self.started,
            now: Timestamp::now(),
            not_ready: (self.ready)().err().map(str::to_owned),
            reloaded: reload.as_ref().filter(|reload| reload.refused.is_none()).map(|reload| reload.time),
            refused: reload.and_then(|reload| Some(refused(reload.time, &reload.refused?))),
            listeners: listeners(&in_force.settings, &self.addresses),
            http: self.http,
            sessions: Sessions {
                open: level(&metrics.sessions_open),
                limit: parts.limits.load().total as u64,
                overload: parts.gateway.overload.is_on(),
            },
            queue: self.queue(),
            spool: self.spool(),
            plugins: Plugins {
                broken: broken(&self.live.in_force().rack),
                ..plugins(&parts.gateway.current.load().chains, &metrics.plugin_breaker_open)
            },
            broken_keys: level(&metrics.signing_keys_broken),
            messages: messages(&metrics.messages),
            events_dropped: metrics.log_dropped.get(),
        }
    }

    fn queue(&self) -> QueueVitals {
        let overview = self.live.parts.queue.overview(MAX_DOWN);
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
        let metrics = &self.live.parts.gateway.clerk.metrics;
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

/// By the first line of the error.
fn refused(at: Timestamp, error: &str) -> RefusedReload {
    let line = error.lines().next().unwrap_or_default();
    let end = (0..=MAX_ERROR).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
    RefusedReload { at, error: line.get(..end).unwrap_or(line).to_owned() }
}

/// Those that take mail: one that came with a reload waits for a restart. Certificates are those in force.
fn listeners(settings: &Settings, addresses: &[(Arc<str>, SocketAddr)]) -> Vec<Listener> {
    let expires = |listener: &settings::Listener| {
        let chain = &listener.certificate.as_ref()?.certified_key.cert;
        Some(certificate::Facts::read(chain.first()?)?.expires)
    };
    let listed = settings.listeners.iter().filter_map(|listener| {
        let (_, address) = addresses.iter().find(|(name, _)| *name == listener.name)?;
        Some(Listener {
            name: listener.name.to_string(),
            address: *address,
            role: listener.role.name().to_owned(),
            tls: tls(listener.tls).to_owned(),
            certificate_expires: expires(listener),
        })
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
    let mut names = BTreeSet::new();
    let mut filters = BTreeSet::new();
    for chain in all(chains) {
        for entry in &chain.entries {
            // One plugin may stand in many chains.
            filters.insert(Arc::as_ptr(&entry.filter).cast::<()>());
            names.insert(entry.name.to_string());
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
        // A series stays when its plugin has gone.
        names.contains(&plugin).then(|| OpenBreaker { plugin, scopes: label("scope").into_iter().collect() })
    });
    Plugins { count: filters.len() as u64, open: open.take(MAX_OPEN).collect(), broken: Vec::new() }
}

fn broken(rack: &Rack) -> Vec<Broken> {
    let broken = rack.all().filter_map(|((scope, plugin), mounted)| {
        let (plugin, scope) = (plugin.to_string(), scope.to_string());
        mounted.broken.clone().map(|reason| Broken { plugin, scope, reason })
    });
    let mut broken: Vec<_> = broken.collect();
    broken.sort_by(|one, other| (&one.scope, &one.plugin).cmp(&(&other.scope, &other.plugin)));
    broken.truncate(MAX_OPEN);
    broken
}

fn all(chains: &Chains) -> impl Iterator<Item = &Arc<Chain>> {
    std::iter::once(&chains.platform).chain(chains.resellers.values()).chain(chains.tenants.values())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_refusal_is_told_by_its_first_line() {
        let line = |error: &str| refused(Timestamp::UNIX_EPOCH, error).error;
        assert_eq!(line("error: unknown key `x`\n  --> postern.toml:1:1\n"), "error: unknown key `x`");
        assert_eq!(line(&"é".repeat(600)).len(), MAX_ERROR);
        assert_eq!(line(""), "");
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
        metrics.plugin_breaker_open.with_label_values(&["gone", "platform"]).set(1);
        assert_eq!(plugins(&Chains::default(), &metrics.plugin_breaker_open), Plugins::default());
    }
}
