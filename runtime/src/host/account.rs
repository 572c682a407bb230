//! What plugins have cost: one account for each plugin in each scope, kept as long as the gateway runs, whatever version of
//! the plugin is loaded.
//!
//! A call adds to atomics here; the series of the same things are brought up to date when somebody reads them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::statistics::{Failures, raise};
use crate::metrics::Metrics;
use crate::pipeline::{Capability, Cause, Scope, Usage};

/// All accounts.
#[derive(Default)]
pub(super) struct Ledger {
    entries: Mutex<Entries>,
}

/// By scope and name of the plugin.
type Entries = BTreeMap<(Scope, Arc<str>), Arc<Entry>>;

/// One account, as it is added to. Times in nanoseconds.
#[derive(Default)]
pub(super) struct Entry {
    calls: AtomicU64,
    failures: Failures,
    cpu: AtomicU64,
    wall: AtomicU64,
    host_calls: [AtomicU64; Capability::COUNT],
    octets: AtomicU64,
    memory: AtomicU64,
    /// What the series have been told of it.
    exported: Mutex<Used>,
}

/// What was used since the gateway started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// That ran; those that breaker or quota kept from running are failures only.
    pub calls: u64,
    /// By cause; causes that there were.
    pub failures: BTreeMap<String, u64>,
    pub cpu_seconds: f64,
    /// From call to return, waiting included.
    pub wall_seconds: f64,
    /// Of all capabilities.
    pub host_calls: u64,
    /// Calls to the host by capability; capabilities that were called.
    pub capabilities: BTreeMap<String, u64>,
    /// Octets passed between host and guest, both ways.
    pub octets: u64,
    /// Octets of the largest linear memory that one instance had.
    pub memory_peak: u64,
}

/// One plugin in one scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// `platform`, `reseller:NAME` or `tenant:NAME`.
    pub scope: String,
    pub plugin: String,
    #[serde(flatten)]
    pub used: Used,
}

/// All plugins of one scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScopeAccount {
    pub scope: String,
    /// How many have an account.
    pub plugins: usize,
    /// Their sum; of the memory, the largest.
    #[serde(flatten)]
    pub used: Used,
}

/// Who has used what, since the gateway started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Accounts {
    /// By scope, the platform first, then by name.
    pub plugins: Vec<Account>,
    /// In the same order.
    pub scopes: Vec<ScopeAccount>,
}

impl Ledger {
    /// The account of that plugin in that scope, opened now or long ago.
    pub fn entry(&self, scope: &Scope, plugin: &Arc<str>) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of plugins that were refused when they were loaded.
        entries.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.is_used());
        entries.entry((scope.clone(), plugin.clone())).or_default().clone()
    }

    pub fn accounts(&self) -> Accounts {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut accounts = Accounts::default();
        for ((scope, plugin), entry) in entries.iter().filter(|(_, entry)| entry.is_used()) {
            let account = Account { scope: scope.to_string(), plugin: plugin.to_string(), used: entry.used() };
            match accounts.scopes.last_mut() {
                Some(sum) if sum.scope == account.scope => sum.add(&account.used),
                _ => accounts.scopes.push(ScopeAccount {
                    scope: account.scope.clone(),
                    plugins: 1,
                    used: account.used.clone(),
                }),
            }
            accounts.plugins.push(account);
        }
        accounts
    }

    /// Adds to the series what was used since the last time.
    pub fn export(&self, metrics: &Metrics) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for ((scope, plugin), entry) in entries.iter().filter(|(_, entry)| entry.is_used()) {
            let scope = metrics.scope_label(&scope.to_string());
            entry.export(metrics, plugin, &scope);
        }
    }
}

impl ScopeAccount {
    fn add(&mut self, other: &Used) {
        let sum = &mut self.used;
        self.plugins += 1;
        sum.calls += other.calls;
        sum.cpu_seconds += other.cpu_seconds;
        sum.wall_seconds += other.wall_seconds;
        sum.host_calls += other.host_calls;
        sum.octets += other.octets;
        sum.memory_peak = sum.memory_peak.max(other.memory_peak);
        for (sums, others) in [(&mut sum.failures, &other.failures), (&mut sum.capabilities, &other.capabilities)] {
            for (name, count) in others {
                *sums.entry(name.clone()).or_default() += count;
            }
        }
    }
}

impl Entry {
    pub fn charge(&self, usage: &Usage) {
        let add = |sum: &AtomicU64, value: u64| _ = sum.fetch_add(value, Ordering::Relaxed);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        add(&self.calls, 1);
        add(&self.cpu, nanos(usage.cpu));
        add(&self.wall, nanos(usage.wall));
        if usage.octets > 0 {
            add(&self.octets, usage.octets);
        }
        for (capability, calls) in usage.calls_of.iter() {
            if let Some(sum) = self.host_calls.get(capability as usize) {
                add(sum, u64::from(calls));
            }
        }
        raise(&self.memory, usage.memory);
    }

    pub fn fail(&self, cause: Cause) {
        self.failures.add(cause);
    }

    fn is_used(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0 || self.failures.iter().next().is_some()
    }

    fn used(&self) -> Used {
        let read = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        let called = Capability::ALL.into_iter().zip(&self.host_calls).map(|(capability, sum)| (capability, read(sum)));
        let called = called.filter(|(_, calls)| *calls > 0);
        let capabilities: BTreeMap<_, _> =
            called.map(|(capability, calls)| (capability.name().to_owned(), calls)).collect();
        Used {
            calls: read(&self.calls),
            failures: self.failures.iter().map(|(cause, count)| (cause.name().to_owned(), count)).collect(),
            cpu_seconds: Duration::from_nanos(read(&self.cpu)).as_secs_f64(),
            wall_seconds: Duration::from_nanos(read(&self.wall)).as_secs_f64(),
            host_calls: capabilities.values().sum(),
            capabilities,
            octets: read(&self.octets),
            memory_peak: read(&self.memory),
        }
    }

    fn export(&self, metrics: &Metrics, plugin: &str, scope: &str) {
        let mut told = self.exported.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.used();
        let labels = [plugin, scope];
        metrics.plugin_calls.with_label_values(&labels).inc_by(used.calls - told.calls);
        metrics.plugin_cpu_seconds.with_label_values(&labels).inc_by(used.cpu_seconds - told.cpu_seconds);
        metrics.plugin_octets.with_label_values(&labels).inc_by(used.octets - told.octets);
        // Where several scopes share the label `other`, the largest.
        let peak = metrics.plugin_memory_peak.with_label_values(&labels);
        peak.set(peak.get().max(i64::try_from(used.memory_peak).unwrap_or(i64::MAX)));
        for (series, now, then) in [
            (&metrics.plugin_host_calls, &used.capabilities, &told.capabilities),
            (&metrics.plugin_call_failures, &used.failures, &told.failures),
        ] {
            for (name, count) in now {
                let more = count - then.get(name).copied().unwrap_or(0);
                series.with_label_values(&[plugin, scope, name]).inc_by(more);
            }
        }
        *told = used;
    }
}
