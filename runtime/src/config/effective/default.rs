//! Every key of the config with what it is when nobody writes it, from the settings in force. One function a section, in
//! the order of the manual.

use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use super::Filled;
use crate::config::settings::{
    self, Certificate, ChainEntry, LineEnds, Listener, ListenerTls, MailExchange, Plugin, PluginSource, Scanner,
    Settings, SmartHost,
};
use crate::config::value::quantity::ByteSize;
use crate::dns::blocklist::{BlockList, Subjects};
use crate::host::Limits as HostLimits;
use crate::host::table::{Column, Format};
use crate::mail::Route;
use crate::pipeline::{Directions, OnFailure};
use crate::smtp::Host;

/// Without a default, or required.
fn none(name: &'static str) -> Filled {
    Filled::Default(name, None)
}

fn value(name: &'static str, value: impl Into<Value>) -> Filled {
    Filled::Default(name, Some(value.into()))
}

fn list(name: &'static str) -> Filled {
    value(name, Vec::<Value>::new())
}

fn duration(name: &'static str, of: Duration) -> Filled {
    value(name, duration_text(of))
}

fn size(name: &'static str, of: ByteSize) -> Filled {
    value(name, of.to_string())
}

pub(super) fn server(settings: &Settings) -> Vec<Filled> {
    let server = &settings.server;
    vec![
        none("host_name"),
        value("banner", server.banner.as_str()),
        list("administrators"),
        value("max_connections", server.max_connections),
        value("max_connections_per_client", server.max_connections_per_client),
        value("max_connection_rate", server.max_connection_rate),
        value("max_connection_rate_per_client", server.max_connection_rate_per_client),
        value("max_handshake_rate_per_client", server.max_handshake_rate_per_client),
        value("exempt_networks", server.exempt_networks.iter().map(ToString::to_string).collect::<Vec<_>>()),
        size("max_message_size", server.max_message_size),
        size("max_header_size", server.max_header_size),
        value("max_header_fields", server.max_header_fields),
        value("max_recipients", server.max_recipients),
        value("max_hops", server.max_hops),
        value("junk_commands", server.junk_commands),
        value("max_errors", server.max_errors),
        value("allow_routed_local_parts", server.allow_routed_local_parts),
        duration("command_timeout", server.command_timeout),
        duration("data_timeout", server.data_timeout),
        size("min_data_rate", server.min_data_rate),
        duration("write_timeout", server.write_timeout),
        duration("handshake_timeout", server.handshake_timeout),
        duration("session_timeout", server.session_timeout),
        value("overload_above", server.overload_above),
        value("overload_below", server.overload_below),
        duration("overload_timeout", server.overload_timeout),
        value("overload_max_errors", server.overload_max_errors),
        value("overload_connections_per_client", server.overload_connections_per_client),
        duration("drain_timeout", server.drain_timeout),
        // The system's may have no name.
        Filled::Default("time_zone", server.time_zone.iana_name().map(Value::from)),
    ]
}

pub(super) fn http(settings: &Settings) -> Vec<Filled> {
    vec![Filled::Default("address", settings.http.map(|http| http.address.to_string().into()))]
}

pub(super) fn tls() -> Vec<Filled> {
    vec![none("certificate"), none("key")]
}

pub(super) fn spool(settings: &Settings) -> Vec<Filled> {
    let spool = &settings.spool;
    vec![
        none("directory"),
        size("reserve", spool.reserve),
        size("segment_size", spool.segment_size),
        size("body_threshold", spool.body_threshold),
    ]
}

pub(super) fn queue(settings: &Settings) -> Vec<Filled> {
    let queue = &settings.queue;
    let retry: Vec<Value> = queue.retry.iter().map(|wait| duration_text(*wait).into()).collect();
    vec![
        value("retry", retry),
        duration("expiry", queue.expiry),
        duration("delay_warning", queue.delay_warning.unwrap_or_default()),
        value("concurrency", queue.concurrency),
        value("concurrency_per_destination", queue.concurrency_per_destination),
        value("concurrency_per_tenant", queue.concurrency_per_tenant),
        duration("quarantine_keep", queue.quarantine_keep),
        value("max_messages", queue.max_messages),
        size("cache", queue.cache),
    ]
}

pub(super) fn delivery(settings: &Settings) -> Vec<Filled> {
    let delivery = &settings.delivery;
    vec![
        duration("connect_timeout", delivery.connect_timeout),
        duration("greeting_timeout", delivery.greeting_timeout),
        duration("command_timeout", delivery.command_timeout),
        duration("data_timeout", delivery.data_timeout),
        duration("data_block_timeout", delivery.data_block_timeout),
        duration("data_end_timeout", delivery.data_end_timeout),
        duration("idle_timeout", delivery.idle_timeout),
        value("max_messages_per_connection", delivery.max_messages_per_connection),
        value("tls", delivery.tls.to_string()),
        list("source_addresses"),
        none("authorities"),
        value("mx_port", i64::from(delivery.mx_port)),
    ]
}

pub(super) fn dns(settings: &Settings) -> Vec<Filled> {
    vec![
        list("servers"),
        value("system", settings.dns.system),
        duration("timeout", settings.dns.timeout),
        list("internal_servers"),
        none("internal_domains"),
    ]
}

pub(super) fn call_ahead(settings: &Settings) -> Vec<Filled> {
    let call_ahead = &settings.call_ahead;
    vec![
        none("sender"),
        duration("timeout", call_ahead.timeout),
        duration("keep_existing", call_ahead.keep_existing),
        duration("keep_unknown", call_ahead.keep_unknown),
        value("cache_entries", call_ahead.cache_entries),
        value("concurrency_per_destination", call_ahead.concurrency_per_destination),
    ]
}

pub(super) fn identity(settings: &Settings) -> Vec<Filled> {
    let identity = &settings.identity;
    let exchange = |exchange: &MailExchange| {
        let mut table = Table::new();
        table.insert("host".to_owned(), exchange.host.to_string().into());
        table.insert("preference".to_owned(), i64::from(exchange.preference).into());
        Value::Table(table)
    };
    let texts = |list: Vec<String>| list.into_iter().map(Value::from).collect::<Vec<_>>();
    vec![
        Filled::Resolved("mx", Some(Value::Array(identity.mx.iter().map(exchange).collect()))),
        value("egress_addresses", texts(identity.egress.iter().map(ToString::to_string).collect())),
        value("spf", texts(identity.spf.clone())),
        none("dmarc_reports"),
        duration("blocklist_interval", identity.blocklist_interval.unwrap_or_default()),
    ]
}

pub(super) fn blocklist(list: Option<&BlockList>) -> Vec<Filled> {
    let lists = match list.map(|list| list.subjects) {
        Some(Subjects::Domains) => "domains",
        Some(Subjects::Addresses) | None => "addresses",
    };
    vec![none("name"), none("zone"), value("lists", lists), self::list("codes")]
}

pub(super) fn signing(settings: &Settings) -> Vec<Filled> {
    let signing = &settings.signing;
    vec![
        value("directory", absolute(&signing.directory)),
        value("timestamp", signing.timestamp),
        Filled::Default("validity", signing.validity.map(|validity| duration_text(validity).into())),
    ]
}

pub(super) fn authentication(settings: &Settings) -> Vec<Filled> {
    let authentication = &settings.authentication;
    vec![
        value("service_id", authentication.service_id.to_string()),
        list("relays"),
        duration("timeout", authentication.timeout),
    ]
}

pub(super) fn log(settings: &Settings) -> Vec<Filled> {
    vec![none("file"), value("level", settings.log.level.as_str().to_ascii_lowercase())]
}

pub(super) fn plugins(settings: &Settings) -> Vec<Filled> {
    let installation = &settings.installation;
    vec![
        value("directory", absolute(&installation.directory)),
        value("keep_versions", installation.keep_versions),
        value("rollback_failures", installation.rollback_failures),
        duration("rollback_window", installation.rollback_window),
        value("store_entries", settings.store.entries),
        size("store_octets", settings.store.octets),
        size("store_total", settings.store.total),
    ]
}

pub(super) fn chain(settings: &Settings) -> Vec<Filled> {
    vec![Filled::Resolved("platform", Some(entries(&settings.chains.platform, true)))]
}

pub(super) fn listener(listener: Option<&Listener>) -> Vec<Filled> {
    let tls = listener.map_or(ListenerTls::None, |listener| listener.tls);
    let file = |of: fn(&Certificate) -> &Path| {
        let certificate = listener.and_then(|listener| listener.certificate.as_ref());
        certificate.map(|certificate| Value::from(absolute(of(certificate))))
    };
    let (line_ends, from) = match listener.map(|listener| &listener.line_ends) {
        Some(LineEnds::Normalize) => ("normalize", Vec::new()),
        Some(LineEnds::NormalizeFrom(from)) => ("strict", from.clone()),
        Some(LineEnds::Strict) | None => ("strict", Vec::new()),
    };
    let from: Vec<Value> = from.iter().map(|network| network.to_string().into()).collect();
    vec![
        none("name"),
        none("address"),
        none("role"),
        value("tls", tls_word(tls)),
        value("auth", listener.is_some_and(|listener| listener.auth)),
        Filled::Default("certificate", file(|certificate| &certificate.certificate)),
        Filled::Default("key", file(|certificate| &certificate.key)),
        list("proxy_protocol_from"),
        list("xclient_from"),
        value("line_ends", line_ends),
        value("normalize_from", from),
    ]
}

const fn tls_word(tls: ListenerTls) -> &'static str {
    match tls {
        ListenerTls::None => "none",
        ListenerTls::StartTls => "starttls",
        ListenerTls::Required => "required",
        ListenerTls::Implicit => "implicit",
    }
}

pub(super) fn smart_host(host: Option<&SmartHost>) -> Vec<Filled> {
    vec![
        none("name"),
        none("host"),
        Filled::Default("port", host.map(|host| i64::from(host.port).into())),
        Filled::Default("tls", host.map(|host| host.tls.to_string().into())),
        none("user"),
        none("password_file"),
        none("password_env"),
    ]
}

pub(super) fn scanner(scanner: Option<&Scanner>) -> Vec<Filled> {
    let filled = |name, of: fn(&Scanner) -> Value| Filled::Default(name, scanner.map(of));
    vec![
        none("name"),
        none("kind"),
        none("address"),
        filled("timeout", |scanner| duration_text(scanner.timeout).into()),
        filled("max_size", |scanner| scanner.max_size.to_string().into()),
        filled("connections", |scanner| i64::from(scanner.connections).into()),
        none("password_file"),
        none("password_env"),
    ]
}

pub(super) fn reseller(settings: &Settings, name: &str) -> Vec<Filled> {
    let chain = settings.chains.resellers.get(name).map_or(&[][..], Vec::as_slice);
    vec![none("name"), Filled::Resolved("chain", Some(entries(chain, false)))]
}

pub(super) fn tenant(settings: &Settings, name: &str) -> Vec<Filled> {
    let tenant = settings.directory.tenant(name);
    let chain = settings.chains.tenants.get(name).map_or(&[][..], Vec::as_slice);
    let destination = |route: Option<&Route>| route.map(route_value);
    vec![
        none("name"),
        none("reseller"),
        none("domains"),
        Filled::Resolved("destination", destination(tenant.and_then(|tenant| tenant.destination.as_ref()))),
        Filled::Resolved("outbound", destination(tenant.and_then(|tenant| tenant.outbound.as_ref()))),
        size("max_message_size", settings.server.max_message_size),
        value("max_recipients", settings.server.max_recipients),
        Filled::Resolved("chain", Some(entries(chain, false))),
    ]
}

pub(super) fn user(settings: &Settings, login: &str) -> Vec<Filled> {
    let known = settings.directory.user(login).is_some();
    // Only a login that is an address may leave it out.
    let own = known.then(|| Value::from(vec![Value::from(login)]));
    vec![none("login"), none("password_hash"), none("tenant"), Filled::Default("send_as", own)]
}

pub(super) fn trusted_network() -> Vec<Filled> {
    vec![none("name"), none("network"), none("tenant")]
}

pub(super) fn table(table: Option<&settings::Table>) -> Vec<Filled> {
    let (format, columns) = match table.map(|table| &table.format) {
        Some(Format::Csv { key, value }) => ("csv", [Some(column(key)), Some(column(value))]),
        Some(Format::Toml) => ("toml", [None, None]),
        Some(Format::Lines) | None => ("lines", [None, None]),
    };
    let [key, second] = columns;
    let bounds = table.map(|table| table.bounds.clone()).unwrap_or_default();
    vec![
        none("name"),
        none("file"),
        value("format", format),
        Filled::Default("key_column", key),
        Filled::Default("value_column", second),
        size("max_size", ByteSize(bounds.octets)),
        value("max_entries", i64::try_from(bounds.entries).unwrap_or(i64::MAX)),
    ]
}

fn column(column: &Column) -> Value {
    match column {
        Column::Number(number) => i64::try_from(*number).unwrap_or(i64::MAX).into(),
        Column::Name(name) => name.as_ref().into(),
    }
}

pub(super) fn plugin(plugin: Option<&Plugin>) -> Vec<Filled> {
    let builtin = plugin.is_some_and(|plugin| matches!(plugin.source, PluginSource::Builtin(_)));
    vec![
        none("name"),
        Filled::Default(
            "source",
            plugin.and_then(|plugin| match &plugin.source {
                PluginSource::Builtin(name) => Some(Value::from(format!("builtin:{name}"))),
                PluginSource::File(_) => None,
            }),
        ),
        value("scope", "platform"),
        value("available", false),
        value("config", Table::new()),
        Filled::Default("grants", Some(grants(plugin))),
        value("tables", Table::new()),
        list("scanners"),
        Filled::Resolved("limits", Some(Value::Table(limits(plugin)))),
        value("reuse", plugin.map_or(builtin, |plugin| plugin.reuse)),
        value("on_failure", failure(OnFailure::default())),
    ]
}

fn grants(plugin: Option<&Plugin>) -> Value {
    let grants = plugin.map(|plugin| plugin.grants.iter().map(|grant| Value::from(grant.0.to_string())).collect());
    Value::Array(grants.unwrap_or_default())
}

/// The host's, where nothing is written.
fn limits(plugin: Option<&Plugin>) -> Table {
    let written = plugin.map(|plugin| plugin.limits.clone()).unwrap_or_default();
    let host = HostLimits::default();
    let octets = |written: Option<ByteSize>, host: u64| Value::from(written.unwrap_or(ByteSize(host)).to_string());
    let count = |written: Option<u32>, host: u64| {
        Value::from(written.map_or_else(|| i64::try_from(host).unwrap_or(i64::MAX), i64::from))
    };
    let time = |written: Option<Duration>, host| Value::from(duration_text(written.unwrap_or(host)));
    let limits = [
        ("cpu", time(written.cpu, host.cpu)),
        ("wall", time(written.wall, host.wall)),
        ("memory", octets(written.memory, host.memory)),
        ("octets", octets(written.octets, host.octets)),
        ("scan", octets(written.scan, host.scan)),
        ("host_calls", count(written.host_calls, host.host_calls)),
        ("handles", count(written.handles, host.handles as u64)),
        ("table_elements", count(written.table_elements, host.tables.into())),
        ("concurrency", count(written.concurrency, host.calls as u64)),
    ];
    limits.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// `exemptable` may stand in the platform's chain only.
fn entries(chain: &[ChainEntry], platform: bool) -> Value {
    let entry = |entry: &ChainEntry| {
        let direction = match entry.directions {
            Directions::Inbound => "inbound",
            Directions::Outbound => "outbound",
            Directions::Both => "both",
        };
        let mut table = Table::new();
        table.insert("plugin".to_owned(), entry.plugin.name.as_ref().into());
        table.insert("direction".to_owned(), direction.into());
        table.insert("on_failure".to_owned(), failure(entry.on_failure).into());
        if platform {
            table.insert("exemptable".to_owned(), entry.exemptable.into());
        }
        Value::Table(table)
    };
    Value::Array(chain.iter().map(entry).collect())
}

const fn failure(policy: OnFailure) -> &'static str {
    match policy {
        OnFailure::Defer => "defer",
        OnFailure::Continue => "continue",
        OnFailure::Reject => "reject",
        OnFailure::Quarantine => "quarantine",
        OnFailure::Disconnect => "disconnect",
    }
}

/// A destination as a table, with all that belongs to it.
fn route_value(route: &Route) -> Value {
    let mut table = Table::new();
    let mut set = |name: &str, value: Value| drop(table.insert(name.to_owned(), value));
    match route {
        // No destination of a config is by the recipient's domain: that is what it is without one.
        Route::Mx(domain) => set("mx", domain.as_ref().map(ToString::to_string).unwrap_or_default().into()),
        Route::Host { host, port, tls } => {
            set("host", host_text(host).into());
            set("port", i64::from(*port).into());
            set("tls", tls.to_string().into());
        }
        // Of recipients only.
        Route::Literal(address) => set("host", address.to_string().into()),
        Route::SmartHost(name) => set("smart_host", name.as_ref().into()),
        Route::Maildir(path) => set("maildir", absolute(path).into()),
    }
    Value::Table(table)
}

fn host_text(host: &Host) -> String {
    match host {
        Host::Domain(domain) => domain.to_string(),
        Host::Literal(address) => address.to_string(),
    }
}

/// What is not UTF-8 can't have been written in the config.
pub(super) fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// As the config is read: `1h 30m`.
fn duration_text(duration: Duration) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let mut left = duration.as_millis();
    let mut parts = Vec::new();
    for (unit, millis) in units {
        if left >= millis {
            parts.push(format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::FromText as _;

    #[test]
    fn durations_read_back() {
        for (millis, text) in
            [(0, "0s"), (250, "250ms"), (5_400_000, "1h 30m"), (432_000_000, "5d"), (61_001, "1m 1s 1ms")]
        {
            let duration = Duration::from_millis(millis);
            assert_eq!(duration_text(duration), text);
            assert_eq!(Duration::from_text(text), Ok(duration));
        }
    }
}
