//! From config to the settings of each module: one function for each.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::connections::Limits;
use super::descriptor::Shares;
use crate::config::settings::{self, LineEnds, ListenerTls};
use crate::config::{ByteSize, Settings};
use crate::metrics::Metrics;
use crate::smtp::{Domain, Host, ReversePath};
use crate::{authentication, delivery, dns, host, queue, scan, session, spool};

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn octets(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

pub fn session(settings: &Settings, incoming_directory: PathBuf) -> session::Settings {
    let server = &settings.server;
    session::Settings {
        host_name: server.host_name.to_string(),
        service_id: settings.authentication.service_id.to_string(),
        relays: settings.authentication.relays.clone(),
        banner: format!("ESMTP {}", server.banner).trim_end().to_owned(),
        administrators: server.administrators.clone(),
        max_message_size: server.max_message_size.0,
        max_header_size: octets(server.max_header_size),
        max_header_fields: count(server.max_header_fields),
        max_recipients: count(server.max_recipients),
        max_hops: count(server.max_hops),
        max_junk_commands: server.junk_commands,
        max_errors: server.max_errors,
        allow_routed_local_parts: server.allow_routed_local_parts,
        incoming_directory,
        body_memory: octets(settings.spool.body_threshold),
        timeouts: session::Timeouts {
            command: server.command_timeout,
            data: server.data_timeout,
            min_rate: u32::try_from(server.min_data_rate.0).unwrap_or(u32::MAX),
            write: server.write_timeout,
            tls_handshake: server.handshake_timeout,
            session: server.session_timeout,
        },
        strain: session::Strain { timeout: server.overload_timeout, max_errors: server.overload_max_errors },
    }
}

pub fn listener(listener: &settings::Listener) -> session::Listener {
    session::Listener {
        name: listener.name.clone(),
        role: listener.role,
        tls: match listener.tls {
            ListenerTls::None => session::TlsMode::None,
            ListenerTls::StartTls => session::TlsMode::StartTls,
            ListenerTls::Required => session::TlsMode::Required,
            ListenerTls::Implicit => session::TlsMode::Implicit,
        },
        auth: listener.auth,
        proxy_protocol_from: listener.proxy_protocol_from.clone(),
        xclient_from: listener.xclient_from.clone(),
        normalize_from: match &listener.line_ends {
            LineEnds::Strict => Vec::new(),
            LineEnds::Normalize => everybody(),
            LineEnds::NormalizeFrom(networks) => networks.clone(),
        },
    }
}

fn everybody() -> Vec<IpNet> {
    [IpAddr::from([0; 4]), IpAddr::from([0; 16])].into_iter().filter_map(|ip| IpNet::new(ip, 0).ok()).collect()
}

/// Tells the metrics, too, what holds from now on.
pub fn connections(settings: &Settings, metrics: &Metrics) -> Limits {
    let server = &settings.server;
    let total = count(Shares::of(settings).sessions);
    metrics.sessions_limit.set(i64::try_from(total).unwrap_or(i64::MAX));
    let percent = |percent: u32| total.saturating_mul(count(percent)) / 100;
    Limits {
        total,
        per_client: server.max_connections_per_client,
        rate: server.max_connection_rate,
        rate_per_client: server.max_connection_rate_per_client,
        handshake_rate_per_client: server.max_handshake_rate_per_client,
        exempt: server.exempt_networks.clone(),
        overload_per_client: server.overload_connections_per_client,
        overload_begins: percent(server.overload_above).max(1),
        overload_ends: percent(server.overload_below),
    }
}

pub fn spool(settings: &Settings) -> spool::Settings {
    spool::Settings {
        segment_octets: settings.spool.segment_size.0,
        reserve: settings.spool.reserve.0,
        inline_octets: settings.spool.body_threshold.0,
        ..spool::Settings::new(settings.spool.directory.clone(), settings.server.max_message_size.0)
    }
}

pub fn dns(settings: &Settings) -> dns::Settings {
    dns::Settings {
        servers: settings.dns.servers.clone(),
        system: settings.dns.system,
        timeout: settings.dns.timeout,
        ..dns::Settings::default()
    }
}

pub fn authentication(settings: &Settings) -> authentication::Settings {
    let written = &settings.authentication;
    authentication::Settings {
        host_name: settings.server.host_name.to_string(),
        service_id: written.service_id.as_str().into(),
        relays: written.relays.clone(),
        dns_time: written.timeout,
    }
}

/// `None`: there is no internal DNS (R57).
pub fn internal_dns(settings: &Settings) -> Option<dns::Settings> {
    let servers = settings.dns.internal_servers.clone();
    (!servers.is_empty()).then(|| dns::Settings { servers, system: false, ..dns(settings) })
}

/// Those for which the internal DNS is asked.
fn internal_domains(settings: &Settings) -> HashSet<Domain> {
    match &settings.dns.internal_domains {
        Some(domains) => domains.iter().cloned().collect(),
        None => settings.directory.tenants().flat_map(|tenant| tenant.domains.clone()).collect(),
    }
}

pub fn call_ahead(settings: &Settings) -> delivery::CallAheadSettings {
    let written = &settings.call_ahead;
    delivery::CallAheadSettings {
        sender: ReversePath(written.sender.clone()),
        timeout: written.timeout,
        keep_existing: written.keep_existing,
        keep_unknown: written.keep_unknown,
        cache_entries: written.cache_entries.into(),
        concurrency: count(written.concurrency_per_destination),
    }
}

pub fn queue(settings: &Settings) -> queue::Settings {
    let written = &settings.queue;
    queue::Settings {
        retry: written.retry.clone(),
        expiry: written.expiry,
        delay_warning: written.delay_warning,
        quarantine_keep: written.quarantine_keep,
        max_deliveries: count(Shares::of(settings).deliveries),
        max_per_destination: count(written.concurrency_per_destination),
        max_per_tenant: count(written.concurrency_per_tenant),
        max_messages: count(written.max_messages),
        cache: written.cache.0,
        shutdown_deadline: settings.server.drain_timeout,
        ..queue::Settings::new(settings.server.host_name.clone())
    }
}

pub fn delivery(settings: &Settings) -> delivery::Settings {
    let written = &settings.delivery;
    let smart_hosts = settings.smart_hosts.iter().map(|host| (host.name.clone(), smart_host(host)));
    let timeouts = delivery::Timeouts {
        connect: written.connect_timeout,
        greeting: written.greeting_timeout,
        hello: written.command_timeout,
        mail: written.command_timeout,
        rcpt: written.command_timeout,
        data: written.data_timeout,
        block: written.data_block_timeout,
        dot: written.data_end_timeout,
        ..delivery::Timeouts::default()
    };
    delivery::Settings {
        host_name: settings.server.host_name.to_string(),
        smart_hosts: smart_hosts.collect::<HashMap<_, _>>(),
        mx_port: written.mx_port,
        allow_loopback_mx: written.allow_loopback_mx,
        extra_roots: written.authorities.clone(),
        mx_tls: written.tls,
        own_hosts: own_hosts(settings),
        internal_domains: internal_domains(settings),
        own_listeners: settings.listeners.iter().map(|listener| listener.address).collect(),
        source_addresses: written.source_addresses.clone(),
        timeouts,
        idle_time: written.idle_timeout,
        max_mails_per_connection: written.max_messages_per_connection,
        ..delivery::Settings::default()
    }
}

/// Our name, and the addresses known from config: those that we connect from, and those that we listen on unless that
/// is all of the machine's, which delivery recognises when it is connected.
fn own_hosts(settings: &Settings) -> Vec<Host> {
    let addresses = settings.listeners.iter().map(|listener| listener.address.ip());
    let addresses = addresses.chain(settings.delivery.source_addresses.iter().copied());
    let literals = addresses.filter(|ip| !ip.is_unspecified()).map(Host::Literal);
    std::iter::once(Host::Domain(settings.server.host_name.clone())).chain(literals).collect()
}

fn smart_host(host: &settings::SmartHost) -> delivery::SmartHost {
    let login = host
        .login
        .as_ref()
        .map(|login| delivery::Login { user: login.user.clone(), password: login.password.reveal().to_owned() });
    delivery::SmartHost { host: host.host.clone(), port: host.port, tls: host.tls, login }
}

pub fn scanners(settings: &Settings) -> Vec<scan::Settings> {
    let scanner = |scanner: &settings::Scanner| scan::Settings {
        name: scanner.name.clone(),
        kind: scanner.kind,
        address: scanner.address.clone(),
        timeout: scanner.timeout,
        max_size: scanner.max_size.0,
        connections: count(scanner.connections),
        password: scanner.password.as_ref().map(|password| password.reveal().to_owned()),
        host_name: settings.server.host_name.to_string(),
    };
    settings.scanners.iter().map(scanner).collect()
}

/// Compiled code is kept beside the spool: private to us, and gone when it is gone.
pub fn host(settings: &Settings, compiler: host::Compiler) -> host::Settings {
    host::Settings { compiler, cache: Some(settings.spool.directory.join("code")), ..host::Settings::default() }
}

pub fn store(settings: &Settings) -> host::StoreLimits {
    let written = settings.store;
    host::StoreLimits { entries: count(written.entries), octets: octets(written.octets), total: octets(written.total) }
}

/// For the session's own type of shared snapshot.
pub fn snapshot(
    settings: &Settings,
    incoming_directory: PathBuf,
    chains: crate::pipeline::Chains,
) -> session::Snapshot {
    session::Snapshot {
        settings: Arc::new(session(settings, incoming_directory)),
        directory: Arc::new(settings.directory.clone()),
        chains: Arc::new(chains),
    }
}
