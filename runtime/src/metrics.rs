//! The names of all series. No label ever holds what a client, an address or a domain said: values come from
//! closed sets or from config. Tenants and scopes are as many as are sold, so their labels are capped.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    CounterVec, Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Tenants, and scopes of plugins, beyond this many count as `other`.
const MAX_LABELS: usize = 1000;
const OTHER: &str = "other";

/// Seconds, from what a warm plugin call takes to what a slow next hop does.
const SECONDS: &[f64] = &[0.000_01, 0.000_1, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0];

/// Brings series up to date that are kept elsewhere.
type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The values of a label that is capped.
#[derive(Default)]
struct Labels(Mutex<HashSet<Arc<str>>>);

impl Labels {
    /// Whether it is one of the first; else it counts as `other`.
    fn admits(&self, value: &str) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(value) || known.len() < MAX_LABELS && known.insert(Arc::from(value))
    }
}

macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $field:ident: $kind:ident = $name:literal $([$($label:literal),+])? ;)*) => {
        /// One value for the whole gateway; handed to whoever counts.
        pub struct Metrics {
            $( $(#[doc = $help])+ pub $field: $kind, )*
            registry: Registry,
            tenants: Labels,
            scopes: Labels,
            before_render: Mutex<Vec<Refresh>>,
        }

        impl Metrics {
            pub fn new() -> Result<Self, prometheus::Error> {
                let registry = Registry::new();
                $( let $field = <$kind as Series>::create($name, concat!($($help),+).trim(), &[$($($label),+)?])?;
                   registry.register(Box::new($field.clone()))?; )*
                let (tenants, scopes) = (Labels::default(), Labels::default());
                let metrics = Self { $($field,)* registry, tenants, scopes, before_render: Mutex::default() };
                metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
                metrics.start_time.set(jiff::Timestamp::now().as_second());
                metrics.begin_at_zero();
                Ok(metrics)
            }
        }
    };
}

metrics! {
    /// Build information; the value is always 1.
    build_info: IntGaugeVec = "postern_build_info" ["version"];
    /// When the gateway was started, in seconds since 1970.
    start_time: IntGauge = "postern_start_time_seconds";
    /// 1 while mail is taken: the spool is well and has room, and nobody has told the gateway to stop.
    ready: IntGauge = "postern_ready";
    /// Sessions that were opened, by listener role.
    sessions: IntCounterVec = "postern_sessions_total" ["role"];
    /// Sessions that are open now.
    sessions_open: IntGauge = "postern_sessions_open";
    /// Sessions that may be open: max_connections, or what the limit on open files leaves for them.
    sessions_limit: IntGauge = "postern_sessions_limit";
    /// 1 while there are so many sessions that they get less time and fewer errors.
    overload: IntGauge = "postern_overload";
    /// Times that a connection could not be accepted, mostly for want of file descriptors.
    accept_failures: IntCounter = "postern_accept_failures_total";
    /// Worker threads that have been at one task for more than a second.
    workers_blocked: IntGauge = "postern_workers_blocked";
    /// Times that a worker thread was blocked so.
    worker_stalls: IntCounter = "postern_worker_stalls_total";
    /// How late a task was woken whose time had come.
    heartbeat_lateness: Histogram = "postern_heartbeat_lateness_seconds";
    /// Connections refused before a session, by cause (client-limit, total-limit, client-rate, total-rate, unhealthy, proxy).
    connections_refused: IntCounterVec = "postern_connections_refused_total" ["cause"];
    /// Replies sent to clients, by verb and class (2xx …).
    replies: IntCounterVec = "postern_replies_total" ["verb", "class"];
    /// TLS handshakes with clients, by result (ok, failed, timeout, refused).
    tls_handshakes: IntCounterVec = "postern_tls_handshakes_total" ["result"];
    /// AUTH attempts, by result (ok, failed, cancelled).
    authentications: IntCounterVec = "postern_authentications_total" ["result"];
    /// Results of sender authentication, by method (spf, spf-helo, dkim, dmarc, arc) and result (the words of RFC 8601).
    authentication: IntCounterVec = "postern_authentication_total" ["method", "result"];
    /// Time to find out who has sent a mail, DNS included, by method.
    authentication_seconds: HistogramVec = "postern_authentication_duration_seconds" ["method"];
    /// Messages whose data ended, by verdict (accept, reject, defer, discard, quarantine, disconnect).
    messages: IntCounterVec = "postern_messages_total" ["verdict"];
    /// Octets of accepted messages.
    message_octets: IntCounter = "postern_message_octets_total";
    /// Accepted messages by tenant; those beyond the cap count as `other`.
    tenant_messages: IntCounterVec = "postern_tenant_messages_total" ["tenant"];
    /// Time from question to combined verdict of all chains, by stage.
    stage_seconds: HistogramVec = "postern_stage_duration_seconds" ["stage"];
    /// Time of one plugin call, by plugin and stage.
    plugin_seconds: HistogramVec = "postern_plugin_duration_seconds" ["plugin", "stage"];
    /// Verdicts of plugins, by plugin, stage and verdict.
    plugin_verdicts: IntCounterVec = "postern_plugin_verdicts_total" ["plugin", "stage", "verdict"];
    /// Plugin calls that failed, by plugin, scope and cause; scopes beyond the cap count as `other`, here and below.
    plugin_call_failures: IntCounterVec = "postern_plugin_failures_total" ["plugin", "scope", "cause"];
    /// Plugin calls that ran, by plugin and scope.
    plugin_calls: IntCounterVec = "postern_plugin_calls_total" ["plugin", "scope"];
    /// CPU time of plugins, the host's work on their behalf included, by plugin and scope.
    plugin_cpu_seconds: CounterVec = "postern_plugin_cpu_seconds_total" ["plugin", "scope"];
    /// Calls of plugins to the host, by plugin, scope and capability.
    plugin_host_calls: IntCounterVec = "postern_plugin_host_calls_total" ["plugin", "scope", "capability"];
    /// Octets passed between plugins and host, both ways, by plugin and scope.
    plugin_octets: IntCounterVec = "postern_plugin_octets_total" ["plugin", "scope"];
    /// Largest linear memory of one instance so far, by plugin and scope.
    plugin_memory_peak: IntGaugeVec = "postern_plugin_memory_peak_octets" ["plugin", "scope"];
    /// 1 while a plugin's circuit breaker is open, by plugin and scope.
    plugin_breaker_open: IntGaugeVec = "postern_plugin_breaker_open" ["plugin", "scope"];
    /// Changes of plugins in the running gateway, by action (installed, enabled, disabled, rolled-back, rolled-back-by-itself, removed).
    plugin_changes: IntCounterVec = "postern_plugin_changes_total" ["action"];
    /// Plugins that were installed and can't be loaded; where they stand, their failure policy answers.
    plugins_broken: IntGauge = "postern_plugins_broken";
    /// Reloads of the config, by result (ok, refused).
    reloads: IntCounterVec = "postern_reloads_total" ["result"];
    /// Counters that plugins keep of their own.
    plugin_custom: IntCounterVec = "postern_plugin_custom_total" ["plugin", "name"];
    /// Entries of a table, by table: its name in the config, or its path.
    table_entries: IntGaugeVec = "postern_table_entries" ["table"];
    /// Octets of memory of a table.
    table_octets: IntGaugeVec = "postern_table_octets" ["table"];
    /// When a table was loaded last, in seconds since 1970.
    table_loaded: IntGaugeVec = "postern_table_loaded_timestamp_seconds" ["table"];
    /// 1 while a table's file can't be used; the one before stays in force.
    table_failing: IntGaugeVec = "postern_table_failing" ["table"];
    /// Files of a table that were found not to be usable.
    table_failures: IntCounterVec = "postern_table_failures_total" ["table"];
    /// Counts and values of a plugin that were refused, because it has as many as it may have; what: counters, store.
    plugin_full: IntCounterVec = "postern_plugin_full_total" ["plugin", "scope", "what"];
    /// Counts and blocks that plugins have.
    counter_keys: IntGauge = "postern_counted_keys";
    /// Entries that plugins have in the store.
    store_entries: IntGauge = "postern_store_entries";
    /// Octets of keys and values in the store.
    store_octets: IntGauge = "postern_store_octets";
    /// Octets of the file that keeps counters and store over a restart.
    state_octets: IntGauge = "postern_state_octets";
    /// Times that this file could not be used, by what was tried or found (read, write, damaged).
    state_failures: IntCounterVec = "postern_state_failures_total" ["failure"];
    /// Signatures that mail was to have, by kind (dkim, arc) and result (made; left: ARC has no more to say of this mail; failed: the mail waits).
    signatures: IntCounterVec = "postern_signatures_total" ["kind", "result"];
    /// Keys for signatures that are on disk and can't be used; mail that is to be signed with one waits.
    signing_keys_broken: IntGauge = "postern_signing_keys_broken";
    /// Batches written to the spool with one sync each, by result (ok, failed).
    spool_commits: IntCounterVec = "postern_spool_commits_total" ["result"];
    /// Changes in one spool sync.
    spool_commit_batches: Histogram = "postern_spool_commit_batches";
    /// Time of one spool sync.
    spool_sync_seconds: Histogram = "postern_spool_sync_duration_seconds";
    /// Octets of the spool's segments and body files.
    spool_octets: IntGauge = "postern_spool_octets";
    /// Octets that new mail may still take: what is free on the spool's disk, without the reserve.
    spool_room: IntGauge = "postern_spool_room_octets";
    /// 1 while the spool takes mail, 0 after it has failed.
    spool_healthy: IntGauge = "postern_spool_healthy";
    /// Records that recovery or a read found damaged and set aside.
    spool_damaged: IntCounter = "postern_spool_damaged_records_total";
    /// Messages in the queue, by state (ready, waiting, delivering, held, quarantined).
    queue_messages: IntGaugeVec = "postern_queue_messages" ["state"];
    /// Age of the oldest message that waits for delivery.
    queue_oldest_seconds: Gauge = "postern_queue_oldest_age_seconds";
    /// Recipients whose delivery was tried, by result (delivered, deferred, failed, expired).
    deliveries: IntCounterVec = "postern_deliveries_total" ["result"];
    /// Time of one delivery transaction, by result (ok, deferred, failed).
    delivery_seconds: HistogramVec = "postern_delivery_duration_seconds" ["result"];
    /// Connections opened to next hops, by result (ok, failed).
    next_hop_connections: IntCounterVec = "postern_next_hop_connections_total" ["result"];
    /// Answers to whether a mailbox exists, by result (exists, unknown, unavailable) and source (destination, cache, expired, limit).
    call_aheads: IntCounterVec = "postern_call_aheads_total" ["result", "source"];
    /// Time of one question to a destination whether a mailbox exists.
    call_ahead_seconds: Histogram = "postern_call_ahead_duration_seconds";
    /// Delivery status notifications made, by action (failed, delayed, delivered, relayed).
    dsns: IntCounterVec = "postern_dsn_total" ["action"];
    /// DNS queries, by type and result (ok, not-found, temporary, bad-name).
    dns_queries: IntCounterVec = "postern_dns_queries_total" ["type", "result"];
    /// Time of one DNS query, cache hits included.
    dns_seconds: Histogram = "postern_dns_duration_seconds";
    /// Addresses and domains of ours by what a block list said of them when it was asked last, by list and result (listed,
    /// not-listed, error, timed-out).
    blocklist_entries: IntGaugeVec = "postern_blocklist_entries" ["list", "result"];
    /// Scans of mails, by scanner and result (clean, infected, ham, spam, too-big, unavailable).
    scans: IntCounterVec = "postern_scan_total" ["scanner", "result"];
    /// Time of one scan, the wait for a connection included, by scanner.
    scan_seconds: HistogramVec = "postern_scan_seconds" ["scanner"];
    /// Events for the `event` hook that were not told, because too many waited.
    events_untold: IntCounter = "postern_events_untold_total";
    /// Events that were not written because the log could not keep up.
    log_dropped: IntCounter = "postern_log_dropped_total";
}

impl Metrics {
    /// A series that comes into being with its first failure has no rise from 0 to 1 that an alert could see.
    fn begin_at_zero(&self) {
        let known: [(&IntCounterVec, &[&str]); 10] = [
            (&self.state_failures, &["read", "write", "damaged"]),
            (
                &self.connections_refused,
                &["client-limit", "total-limit", "client-rate", "total-rate", "unhealthy", "proxy"],
            ),
            (&self.tls_handshakes, &["ok", "failed", "timeout", "refused"]),
            (&self.authentications, &["ok", "failed", "cancelled"]),
            (&self.messages, &["accept", "reject", "defer", "discard", "quarantine", "disconnect"]),
            (&self.deliveries, &["delivered", "deferred", "failed", "expired"]),
            (&self.next_hop_connections, &["ok", "failed"]),
            (&self.spool_commits, &["ok", "failed"]),
            (&self.reloads, &["ok", "refused"]),
            (
                &self.plugin_changes,
                &["installed", "enabled", "disabled", "rolled-back", "rolled-back-by-itself", "removed"],
            ),
        ];
        for (series, labels) in known {
            labels.iter().for_each(|label| drop(series.with_label_values(&[*label])));
        }
        for (kind, result) in
            [("dkim", "made"), ("dkim", "failed"), ("arc", "made"), ("arc", "left"), ("arc", "failed")]
        {
            drop(self.signatures.with_label_values(&[kind, result]));
        }
    }

    /// Counts an accepted message for its tenant, within the cap.
    pub fn count_tenant(&self, tenant: Option<&Arc<str>>) {
        let Some(tenant) = tenant else { return };
        let label = if self.tenants.admits(tenant) { tenant } else { OTHER };
        self.tenant_messages.with_label_values(&[label]).inc();
    }

    /// The scope of a plugin (`platform`, `reseller:NAME`, `tenant:NAME`) as a label, within the cap.
    pub fn scope_label(&self, scope: &str) -> String {
        if self.scopes.admits(scope) { scope } else { OTHER }.to_owned()
    }

    /// Has series that are kept elsewhere brought up to date whenever they are read.
    pub fn before_render(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        self.before_render.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(refresh));
    }

    /// The text exposition format of Prometheus, version 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        self.before_render.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|refresh| refresh(self));
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "metrics can't be encoded");
        }
        out
    }
}

trait Series: Sized {
    fn create(name: &str, help: &str, labels: &[&str]) -> Result<Self, prometheus::Error>;
}

macro_rules! series {
    ($($kind:ident: |$name:ident, $help:ident, $labels:ident| $new:expr;)*) => {
        $(impl Series for $kind {
            fn create($name: &str, $help: &str, $labels: &[&str]) -> Result<Self, prometheus::Error> {
                let _ = $labels;
                $new
            }
        })*
    };
}

series! {
    IntCounter: |name, help, labels| IntCounter::new(name, help);
    IntGauge: |name, help, labels| IntGauge::new(name, help);
    Gauge: |name, help, labels| Gauge::new(name, help);
    CounterVec: |name, help, labels| CounterVec::new(Opts::new(name, help), labels);
    IntCounterVec: |name, help, labels| IntCounterVec::new(Opts::new(name, help), labels);
    IntGaugeVec: |name, help, labels| IntGaugeVec::new(Opts::new(name, help), labels);
    Histogram: |name, help, labels| Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets(name)));
    HistogramVec: |name, help, labels| HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets(name)), labels);
}

fn buckets(name: &str) -> Vec<f64> {
    if name.ends_with("_seconds") { SECONDS.to_vec() } else { vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_the_prefix_and_help() {
        let metrics = Metrics::new().unwrap();
        metrics.replies.with_label_values(&["mail", "2xx"]).inc();
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains("postern_replies_total{class=\"2xx\",verb=\"mail\"} 1"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("postern_"), "{line}");
        }
    }

    #[test]
    fn tenants_beyond_the_cap_are_other() {
        let metrics = Metrics::new().unwrap();
        for n in 0..MAX_LABELS + 5 {
            metrics.count_tenant(Some(&Arc::from(n.to_string())));
        }
        assert_eq!(metrics.tenant_messages.with_label_values(&["other"]).get(), 5);
    }

    #[test]
    fn scopes_beyond_the_cap_are_other() {
        let metrics = Metrics::new().unwrap();
        let labels: Vec<_> = (0..MAX_LABELS + 5).map(|n| metrics.scope_label(&format!("tenant:{n}"))).collect();
        assert_eq!(labels.iter().filter(|label| *label == "other").count(), 5);
        assert_eq!(metrics.scope_label("tenant:7"), "tenant:7");
    }
}
