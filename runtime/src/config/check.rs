//! From what is written to settings: defaults, references, files, contradictions. Second of two stages.
//!
//! Goes on after a mistake, so that one run shows them all. Reads the files that the config names (certificates,
//! passwords) and looks whether plugins and tables are there, but changes nothing.

mod identity;
mod installed;
mod listener;
mod plugin;
mod scanner;
mod server;
mod signing;
mod table;
mod tenant;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::problem::Findings;
use super::settings::{
    Authentication, CallAhead, Delivery, Dns, Installation, Log, Login, Queue, Secret, Server, Settings, SmartHost,
    Spool, Store,
};
use super::source::{Sources, Span};
use super::suggest::did_you_mean;
use super::value::At;
use super::value::name::Name;
use super::value::quantity::{ByteSize, Count};
use super::written::{self, Written};
use crate::host::table::within;
use crate::mail::TlsPolicy;
use crate::smtp::Domain;
pub use installed::{Identity, Installed, Known, declare};

/// How long a file's disk is waited for; and after one has hung, the next.
const PATIENCE: Duration = Duration::from_secs(2);
const LITTLE_PATIENCE: Duration = Duration::from_millis(100);

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The settings, when `findings` has no error afterwards.
pub fn check(written: Written, sources: &Sources, builtins: &[&str], findings: &mut Findings) -> Option<Settings> {
    let mut checker = Checker { sources, builtins, findings, patience: PATIENCE };
    let settings = checker.settings(written);
    if findings.has_errors() { None } else { settings }
}

struct Checker<'a> {
    sources: &'a Sources,
    builtins: &'a [&'a str],
    findings: &'a mut Findings,
    /// Of files that can't be looked at in time.
    patience: Duration,
}

/// Names that are declared, and where.
type Declared = HashMap<Arc<str>, Span>;

impl Checker<'_> {
    /// `None` where something without a default is missing; everything is looked at before that.
    fn settings(&mut self, written: Written) -> Option<Settings> {
        let host_name = self.required(written.server.host_name.as_ref(), "[server]", "host_name").cloned();
        let http = written.server.http.as_ref().map(|http| self.http(http));
        let server = self.server(written.server, host_name.clone());
        let listeners = self.listeners(written.listener, &written.tls);
        let spool = self.spool(&written.spool, server.as_ref());
        let smart_host_names = self.declared("smart host", written.smart_host.iter().map(|s| &s.name));
        let smart_hosts = written.smart_host.iter().filter_map(|smart_host| self.smart_host(smart_host)).collect();
        let scanner_names = self.declared("scanner", written.scanner.iter().map(|scanner| &scanner.name));
        let scanners: Vec<_> = written.scanner.iter().filter_map(|scanner| self.scanner(scanner)).collect();
        let names = tenant::Names {
            resellers: self.declared("reseller", written.reseller.iter().map(|r| &r.name)),
            tenants: self.declared("tenant", written.tenant.iter().map(|t| &t.name)),
            smart_hosts: smart_host_names,
            scanners: scanner_names,
            scan_times: scanners.iter().map(|scanner| (scanner.name.clone(), scanner.timeout)).collect(),
            tables: self.declared_tables(written.table),
            open: false,
        };
        let tables = names.tables.clone();
        let mut plugins = self.plugins(written.plugin, &names);
        let of_platform = written.chain.platform.iter().flatten();
        let of_resellers = written.reseller.iter().flat_map(|reseller| &reseller.chain);
        let of_tenants = written.tenant.iter().flat_map(|tenant| &tenant.chain);
        let default = written.chain.platform.is_none();
        self.undeclared(of_platform.chain(of_resellers).chain(of_tenants), default, &mut plugins);
        let chains = self.chains(&written.chain, &written.reseller, &written.tenant, &plugins);
        let resellers = written.reseller.iter().map(|reseller| reseller.name.value.0.clone()).collect();
        let directory =
            self.directory(written.tenant, written.user, written.trusted_network, &names, host_name.as_ref());
        let queue = self.queue(written.queue);
        let delivery = self.delivery(written.delivery);
        let dns = self.dns(written.dns);
        let call_ahead = self.call_ahead(written.call_ahead);
        let identity = self.identity(written.identity, written.blocklist, host_name.as_ref(), &delivery);
        let signing = self.signing(written.signing, spool.as_ref(), &queue);
        let authentication = self.authentication(written.authentication, host_name);
        let installation = self.installation(&written.plugins, spool.as_ref());
        let store = Store {
            entries: written.plugins.store_entries.map_or(500_000, |count| count.0),
            octets: self.size(written.plugins.store_octets, ByteSize::mib(64), ByteSize::kib(64)),
            total: self.size(written.plugins.store_total, ByteSize::mib(512), ByteSize::kib(64)),
        };
        let settings = Settings {
            server: server?,
            http,
            listeners,
            spool: spool?,
            queue,
            delivery,
            smart_hosts,
            scanners,
            dns,
            call_ahead,
            identity: identity?,
            signing: signing?,
            authentication: authentication?,
            directory: directory?,
            resellers,
            tables,
            plugins: plugins.into_all(),
            chains,
            installation: installation?,
            store,
            log: Log {
                file: written.log.file.map(|file| self.path(&file)),
                level: written.log.level.map_or(tracing::Level::INFO, |level| level.value),
            },
        };
        self.warn_of_logins(&settings);
        Some(settings)
    }

    fn spool(&mut self, written: &written::Spool, server: Option<&Server>) -> Option<Spool> {
        let directory = self.required_at(written.directory.as_ref(), "[spool]", "directory")?;
        // Room for what delivery has to write while a message of the largest size is still coming in.
        let reserve = server.map_or(0, |server| server.max_message_size.0.saturating_mul(3) / 2);
        Some(Spool {
            directory: self.path(directory),
            reserve: written.reserve.as_ref().map_or(ByteSize(reserve), |at| at.value),
            segment_size: self.size(written.segment_size.clone(), ByteSize::mib(64), ByteSize::mib(1)),
            body_threshold: written.body_threshold.as_ref().map_or(ByteSize::kib(256), |at| at.value),
        })
    }

    fn queue(&mut self, written: written::Queue) -> Queue {
        let expiry = self.positive(written.expiry, 5 * DAY);
        let warning = written.delay_warning.as_ref().map_or(4 * HOUR, |at| at.value);
        Queue {
            retry: self.retry(written.retry),
            expiry,
            delay_warning: (!warning.is_zero() && warning < expiry).then_some(warning),
            concurrency: written.concurrency.map_or(200, |count| count.0),
            concurrency_per_destination: written.concurrency_per_destination.map_or(20, |count| count.0),
            concurrency_per_tenant: written.concurrency_per_tenant.map_or(100, |count| count.0),
            quarantine_keep: self.positive(written.quarantine_keep, 30 * DAY),
            max_messages: written.max_messages.map_or(1_000_000, |count| count.0),
            cache: written.cache.map_or(ByteSize(64 << 20), |at| at.value),
        }
    }

    fn retry(&mut self, written: Option<Spanned<written::Retry>>) -> Vec<Duration> {
        let default = [5, 10, 20, 40, 60, 120, 240].map(|minutes| minutes * MINUTE).to_vec();
        let Some(retry) = written else { return default };
        let span: Span = retry.span().into();
        match retry.into_inner() {
            written::Retry::List(list) if list.is_empty() => {
                self.findings.error(Some(span), "without an interval nothing is tried again".to_owned());
                default
            }
            written::Retry::List(list) => list.into_iter().map(|at| self.positive(Some(at), MINUTE)).collect(),
            written::Retry::Growing { first, max } if first.value > max.value => {
                self.findings
                    .push_error(Some(first.span), "the first interval is longer than the longest".to_owned())
                    .also(max.span, "this one");
                default
            }
            written::Retry::Growing { first, max } => {
                let (first, max) = (self.positive(Some(first), MINUTE), max.value);
                let doubled = std::iter::successors(Some(first), |wait| (*wait < max).then(|| (2 * *wait).min(max)));
                doubled.collect()
            }
        }
    }

    fn delivery(&mut self, written: written::Delivery) -> Delivery {
        Delivery {
            connect_timeout: self.positive(written.connect_timeout, 30 * SECOND),
            greeting_timeout: self.positive(written.greeting_timeout, 5 * MINUTE),
            command_timeout: self.positive(written.command_timeout, 5 * MINUTE),
            data_timeout: self.positive(written.data_timeout, 2 * MINUTE),
            data_block_timeout: self.positive(written.data_block_timeout, 3 * MINUTE),
            data_end_timeout: self.positive(written.data_end_timeout, 10 * MINUTE),
            idle_timeout: self.positive(written.idle_timeout, 5 * SECOND),
            max_messages_per_connection: written.max_messages_per_connection.map_or(100, |count| count.0),
            tls: written.tls.map_or(TlsPolicy::Opportunistic, |at| at.value),
            source_addresses: written.source_addresses.into_iter().map(|at| at.value).collect(),
            authorities: written.authorities.map_or_else(Vec::new, |at| self.authorities(&at)),
            mx_port: written.mx_port.map_or(25, |port| port.0),
            allow_loopback_mx: false,
        }
    }

    fn smart_host(&mut self, written: &written::SmartHost) -> Option<SmartHost> {
        let tls = written.tls.as_ref().map_or(TlsPolicy::Verified, |at| at.value);
        let login = self.login(written)?;
        if login.is_some() && !matches!(tls, TlsPolicy::Verified | TlsPolicy::Implicit) {
            let span = written.tls.as_ref().map(|at| at.span);
            self.findings
                .push_error(span, "the password could be read on the way or go to a stranger".to_owned())
                .help("with a login `tls` is \"verified\" or \"implicit\"");
        }
        let port = written.port.map_or(if tls == TlsPolicy::Implicit { 465 } else { 587 }, |port| port.0);
        Some(SmartHost { name: written.name.value.0.clone(), host: written.host.value.clone(), port, tls, login })
    }

    /// `None` after a mistake.
    fn login(&mut self, written: &written::SmartHost) -> Option<Option<Login>> {
        let from_file = written.password_file.as_ref().map(|at| (at.span, Secret::from_file(&self.path(at))));
        let from_env = written.password_env.as_ref().map(|at| (at.span, Secret::from_environment(&at.value)));
        let (span, password) = match (&written.user, from_file, from_env) {
            (None, None, None) => return Some(None),
            (Some(_), Some(one), None) | (Some(_), None, Some(one)) => one,
            (_, Some((file, _)), Some((env, _))) => {
                self.findings.push_error(Some(file), "two passwords".to_owned()).also(env, "the other");
                return None;
            }
            (Some(user), None, None) => {
                self.findings
                    .push_error(Some(user.span), "a user without a password".to_owned())
                    .help("add `password_file` or `password_env`");
                return None;
            }
            (None, Some((span, _)), _) | (None, _, Some((span, _))) => {
                self.findings.push_error(Some(span), "a password without a user".to_owned()).help("add `user`");
                return None;
            }
        };
        match password {
            Ok(password) => {
                let user = written.user.as_ref().map(|at| at.value.clone()).unwrap_or_default();
                Some(Some(Login { user, password }))
            }
            Err(problem) => {
                self.findings.error(Some(span), problem);
                None
            }
        }
    }

    fn dns(&mut self, written: written::Dns) -> Dns {
        let servers: Vec<_> = written.servers.iter().map(|at| at.value.0).collect();
        let system = written.system.as_ref().map_or(servers.is_empty(), |at| *at.get_ref());
        if let (Some(flag), true, false) = (&written.system, system, servers.is_empty()) {
            self.findings.error(Some(flag.span().into()), "the system's DNS servers or these, not both".to_owned());
        }
        let internal_servers: Vec<_> = written.internal_servers.iter().map(|at| at.value.0).collect();
        if let (Some(first), true) =
            (written.internal_domains.iter().flatten().next(), written.internal_servers.is_empty())
        {
            let message = "internal domains, and no internal server that knows them".to_owned();
            self.findings.push_error(Some(first.span), message).help("add `internal_servers`");
        }
        Dns {
            servers,
            system,
            timeout: self.positive(written.timeout, 5 * SECOND),
            internal_servers,
            internal_domains: written.internal_domains.map(|list| list.into_iter().map(|at| at.value).collect()),
        }
    }

    fn call_ahead(&mut self, written: written::CallAhead) -> CallAhead {
        CallAhead {
            sender: written.sender.map(|at| at.value),
            timeout: self.positive(written.timeout, 8 * SECOND),
            keep_existing: self.positive(written.keep_existing, DAY),
            keep_unknown: self.positive(written.keep_unknown, HOUR),
            cache_entries: written.cache_entries.map_or(100_000, |count| count.0),
            concurrency_per_destination: written.concurrency_per_destination.map_or(5, |count| count.0),
        }
    }

    fn authentication(
        &mut self,
        written: written::Authentication,
        host_name: Option<Domain>,
    ) -> Option<Authentication> {
        for relay in &written.relays {
            if relay.value.prefix_len() == 0 {
                self.findings
                    .push_error(Some(relay.span), "everybody can't be a trusted relay".to_owned())
                    .help("name the networks of the servers whose `Received` fields are believed");
            }
        }
        let timeout = self.positive(written.timeout, 20 * SECOND);
        Some(Authentication {
            service_id: written.service_id.map(|at| at.value).or(host_name)?,
            relays: written.relays.into_iter().map(|at| at.value).collect(),
            timeout,
        })
    }

    /// Users who can't log in anywhere, and log-ins without users.
    fn warn_of_logins(&mut self, settings: &Settings) {
        let users = settings.directory.users().next().is_some();
        let auth = settings.listeners.iter().any(|listener| listener.auth);
        if users && !auth {
            self.findings.push_warning(None, "there are users, but no listener where they could log in".to_owned());
        }
        if auth && !users {
            self.findings.push_warning(None, "a listener asks for a login, but there is no [[user]]".to_owned());
        }
    }

    fn required<'w, T>(&mut self, written: Option<&'w At<T>>, section: &str, key: &str) -> Option<&'w T> {
        self.required_at(written, section, key).map(|at| &at.value)
    }

    fn required_at<'w, T>(&mut self, written: Option<&'w At<T>>, section: &str, key: &str) -> Option<&'w At<T>> {
        if written.is_none() {
            self.findings.error(None, format!("{section} has no `{key}`"));
        }
        written
    }

    /// A path as the program must open it.
    fn path(&self, at: &At<PathBuf>) -> PathBuf {
        self.sources.directory_at(at.span).join(&at.value)
    }

    /// A path to a file that must be there. One that can't be looked at in time, as its disk hangs, may be: what needs it
    /// says so when it reads it, and nothing else has to wait for it.
    fn file(&mut self, at: &At<PathBuf>) -> Option<PathBuf> {
        let path = self.path(at);
        let file = path.clone();
        let Some(metadata) = within(self.patience, move || std::fs::metadata(file)) else {
            self.patience = LITTLE_PATIENCE;
            let hangs = format!("{} can't be looked at in time: its disk may hang", path.display());
            self.findings.push_warning(Some(at.span), hangs);
            return Some(path);
        };
        match metadata {
            Ok(metadata) if metadata.is_file() => return Some(path),
            Ok(_) => self.findings.error(Some(at.span), format!("{} is not a file", path.display())),
            Err(error) => self.findings.error(Some(at.span), format!("can't read {}: {error}", path.display())),
        }
        None
    }

    fn installation(&mut self, written: &written::Plugins, spool: Option<&Spool>) -> Option<Installation> {
        let rollback_window = self.positive(written.rollback_window.clone(), 5 * MINUTE);
        let count = |written: Option<Count>, default| written.map_or(default, |count| count.0);
        let directory = match &written.directory {
            Some(directory) => self.path(directory),
            None => spool?.directory.join("plugins"),
        };
        Some(Installation {
            directory,
            keep_versions: count(written.keep_versions, 10),
            rollback_failures: count(written.rollback_failures, 5),
            rollback_window,
        })
    }

    fn positive(&mut self, written: Option<At<Duration>>, default: Duration) -> Duration {
        match written {
            Some(at) if at.value.is_zero() => {
                self.findings.error(Some(at.span), "this must be longer than nothing".to_owned());
                default
            }
            Some(at) => at.value,
            None => default,
        }
    }

    fn size(&mut self, written: Option<At<ByteSize>>, default: ByteSize, least: ByteSize) -> ByteSize {
        match written {
            Some(at) if at.value < least => {
                self.findings.error(Some(at.span), format!("this must be at least {least}"));
                default
            }
            Some(at) => at.value,
            None => default,
        }
    }

    /// Gathers names, each of which may be there once.
    fn declared<'w>(&mut self, what: &str, names: impl Iterator<Item = &'w At<Name>>) -> Declared {
        let mut declared = Declared::new();
        for name in names {
            if let Some(first) = declared.insert(name.value.0.clone(), name.span) {
                self.findings
                    .push_error(Some(name.span), format!("the {what} `{}` is there twice", name.value.0))
                    .also(first, "first here");
            }
        }
        declared
    }

    fn known(&mut self, what: &str, name: &At<Name>, declared: &Declared) -> bool {
        let known = declared.contains_key(&name.value.0);
        if !known {
            let finding = self.findings.push_error(Some(name.span), format!("there is no {what} `{}`", name.value.0));
            if let Some(help) = did_you_mean(&name.value.0, declared.keys().map(AsRef::as_ref)) {
                finding.help(help);
            }
        }
        known
    }
}
