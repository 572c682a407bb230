//! The config, checked: every reference leads somewhere, every default is filled in, every path is complete.
//!
//! Values only. Each part is what one module needs; nothing here opens a socket or loads a plugin.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;

pub use super::value::quantity::ByteSize;
pub use super::value::secret::Secret;
pub use super::value::word::{Grant, ListenerTls};
use crate::dns::blocklist::BlockList;
pub use crate::host::table::Definition as Table;
use crate::mail::TlsPolicy;
use crate::pipeline::{Directions, OnFailure, Role, Scope};
use crate::scan::{Address, Kind};
use crate::signing::Keyring;
use crate::smtp::{Domain, Host, Mailbox};
use crate::tenancy::Directory;

#[derive(Debug, Clone)]
pub struct Settings {
    pub server: Server,
    /// Health and metrics; `None`: not served.
    pub http: Option<Http>,
    /// At least one; names and addresses differ.
    pub listeners: Vec<Listener>,
    pub spool: Spool,
    pub queue: Queue,
    pub delivery: Delivery,
    /// Names differ.
    pub smart_hosts: Vec<SmartHost>,
    /// Names differ.
    pub scanners: Vec<Scanner>,
    pub dns: Dns,
    pub call_ahead: CallAhead,
    pub identity: Identity,
    pub signing: Signing,
    pub authentication: Authentication,
    pub directory: Directory,
    pub resellers: Vec<Arc<str>>,
    /// Those that have a section of their own, by name.
    pub tables: HashMap<Arc<str>, Arc<Table>>,
    /// All that are declared, used or not. Names differ within a scope and from those of the scopes above it.
    pub plugins: Vec<Arc<Plugin>>,
    pub chains: Chains,
    pub installation: Installation,
    pub store: Store,
    pub log: Log,
}

impl Settings {
    /// Where the running gateway takes commands.
    pub fn control_socket(&self) -> PathBuf {
        self.spool.directory.join("control.sock")
    }
}

/// The gateway itself and what one client may do.
#[derive(Debug, Clone)]
pub struct Server {
    /// In greeting, EHLO reply, `Received` and our own EHLO (R44).
    pub host_name: Domain,
    /// After host name and `ESMTP` in the greeting (R45).
    pub banner: String,
    /// Who gets the mail to postmaster (R49, RFC 5321 §4.5.1).
    pub administrators: Vec<Mailbox>,
    pub max_connections: u32,
    pub max_connections_per_client: u32,
    /// New connections a second.
    pub max_connection_rate: u32,
    pub max_connection_rate_per_client: u32,
    /// TLS handshakes a second.
    pub max_handshake_rate_per_client: u32,
    /// Clients to which the rates per client do not apply, nor `overload_connections_per_client`.
    pub exempt_networks: Vec<IpNet>,
    pub max_message_size: ByteSize,
    pub max_header_size: ByteSize,
    pub max_header_fields: u32,
    pub max_recipients: u32,
    /// `Received` fields (R47).
    pub max_hops: u32,
    /// NOOP, VRFY, RSET … before a mail (R73).
    pub junk_commands: u32,
    /// 5xx replies to commands in a session, then 421.
    pub max_errors: u32,
    /// Local parts with `%`, `!` or a quoted `@` are taken (faults.md SP9).
    pub allow_routed_local_parts: bool,
    /// Waiting for the next command (RFC 5321 §4.5.3.2.7).
    pub command_timeout: Duration,
    /// How far a message may fall behind `min_data_rate`.
    pub data_timeout: Duration,
    /// A second.
    pub min_data_rate: ByteSize,
    /// For the client to take a reply.
    pub write_timeout: Duration,
    /// TLS handshake and PROXY header.
    pub handshake_timeout: Duration,
    /// From one mail of a session to the next.
    pub session_timeout: Duration,
    /// Percents of `max_connections` at which overload begins and ends, and what a session gets meanwhile.
    pub overload_above: u32,
    pub overload_below: u32,
    pub overload_timeout: Duration,
    pub overload_max_errors: u32,
    pub overload_connections_per_client: u32,
    /// How long a stop waits for open sessions and deliveries.
    pub drain_timeout: Duration,
    /// Where a day ends, for rules that run until the next one.
    pub time_zone: TimeZone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    pub address: SocketAddr,
}

#[derive(Debug, Clone)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub role: Role,
    pub tls: ListenerTls,
    /// There whenever `tls` is not `None`.
    pub certificate: Option<Certificate>,
    /// AUTH is offered, under TLS only.
    pub auth: bool,
    /// Peers that must send a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Peers that may use XCLIENT.
    pub xclient_from: Vec<IpNet>,
    pub line_ends: LineEnds,
}

/// What happens to a bare CR or LF in data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineEnds {
    /// 550 5.5.2.
    Strict,
    /// Repaired for all clients.
    Normalize,
    /// Repaired for clients in these networks, refused for all others.
    NormalizeFrom(Vec<IpNet>),
}

/// A certificate chain with its key, both read and found to belong together.
#[derive(Clone)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub certified_key: Arc<rustls::sign::CertifiedKey>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    pub directory: PathBuf,
    /// Octets of the file system that stay free.
    pub reserve: ByteSize,
    pub segment_size: ByteSize,
    /// Bodies above it wait in a file, not in memory.
    pub body_threshold: ByteSize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The waits after the first, second … attempt; the last one again and again. Never empty.
    pub retry: Vec<Duration>,
    /// A mail that waits longer goes back to its sender.
    pub expiry: Duration,
    /// `None`: no DSN about a delay.
    pub delay_warning: Option<Duration>,
    /// Delivery attempts at once.
    pub concurrency: u32,
    pub concurrency_per_destination: u32,
    pub concurrency_per_tenant: u32,
    pub quarantine_keep: Duration,
    pub max_messages: u32,
    pub cache: ByteSize,
}

/// The SMTP client. The timeouts are those of RFC 5321 §4.5.3.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub connect_timeout: Duration,
    /// §4.5.3.2.1.
    pub greeting_timeout: Duration,
    /// EHLO, STARTTLS, AUTH, MAIL, RCPT (§4.5.3.2.2, §4.5.3.2.3).
    pub command_timeout: Duration,
    /// DATA's 354 (§4.5.3.2.4).
    pub data_timeout: Duration,
    /// One write of data (§4.5.3.2.5).
    pub data_block_timeout: Duration,
    /// The reply to the final dot (§4.5.3.2.6).
    pub data_end_timeout: Duration,
    /// How long an open connection waits for another message.
    pub idle_timeout: Duration,
    pub max_messages_per_connection: u32,
    /// For routes by MX.
    pub tls: TlsPolicy,
    /// Local addresses to connect from, in turn; empty: the system chooses.
    pub source_addresses: Vec<IpAddr>,
    /// Trusted besides those of the public web.
    pub authorities: Vec<rustls::pki_types::CertificateDer<'static>>,
    /// 25, but in tests.
    pub mx_port: u16,
    /// For tests, and in no config: else an exchange on a loopback address is taken for ourselves.
    pub allow_loopback_mx: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartHost {
    pub name: Arc<str>,
    pub host: Host,
    pub port: u16,
    /// With a login: `Verified` or `Implicit`.
    pub tls: TlsPolicy,
    pub login: Option<Login>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: Secret,
}

/// A daemon that is asked about mails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanner {
    pub name: Arc<str>,
    pub kind: Kind,
    pub address: Address,
    /// Of one scan, the wait for a connection included.
    pub timeout: Duration,
    /// Larger mails are not given to it.
    pub max_size: ByteSize,
    /// At a time.
    pub connections: u32,
    /// Of kind rspamd only.
    pub password: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<SocketAddr>,
    /// Use the system's servers (`/etc/resolv.conf`). False and no servers: there is no DNS.
    pub system: bool,
    pub timeout: Duration,
    /// Asked, too, for the exchanges of internal domains (R57); empty: there is no internal DNS.
    pub internal_servers: Vec<SocketAddr>,
    /// `None`: the tenants' domains.
    pub internal_domains: Option<Vec<Domain>>,
}

/// Questions to destinations whether a mailbox exists (X9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallAhead {
    /// `None`: the null reverse-path.
    pub sender: Option<Mailbox>,
    pub timeout: Duration,
    pub keep_existing: Duration,
    pub keep_unknown: Duration,
    pub cache_entries: u32,
    pub concurrency_per_destination: u32,
}

/// What DNS shall say of the gateway: its tenants' records are told and checked from it (R15, R26, R28, R31, R33).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Best first; at least one.
    pub mx: Vec<MailExchange>,
    /// Addresses that mail comes from, as others see them; empty: those that DNS has for the host name.
    pub egress: Vec<IpAddr>,
    /// SPF mechanisms that let our mail pass; at least one.
    pub spf: Vec<String>,
    /// Who gets aggregate reports of DMARC.
    pub dmarc_reports: Option<Mailbox>,
    /// Names differ.
    pub blocklists: Vec<Arc<BlockList>>,
    /// How often the running gateway asks them; `None`: never.
    pub blocklist_interval: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailExchange {
    pub preference: u16,
    pub host: Domain,
}

/// DKIM and ARC.
#[derive(Debug, Clone)]
pub struct Signing {
    /// Holds the keys, if it is there.
    pub directory: PathBuf,
    pub keys: Arc<Keyring>,
    /// Signatures say when they were made.
    pub timestamp: bool,
    /// After which DKIM signatures expire; `None`: never.
    pub validity: Option<Duration>,
}

/// How it is found out who has sent a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// Under which name results are written (RFC 8601 §2.5).
    pub service_id: Domain,
    /// Clients whose mail is judged by who stood before them (R11).
    pub relays: Vec<IpNet>,
    /// For the look-ups of one method.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    pub name: Arc<str>,
    /// Who owns it.
    pub scope: Scope,
    /// The scopes below may put it into their chains.
    pub available: bool,
    pub source: PluginSource,
    /// An object; `{}` where there is none.
    pub config: serde_json::Value,
    pub grants: BTreeSet<Grant>,
    pub tables: BTreeMap<String, Arc<Table>>,
    /// Those that it may ask.
    pub scanners: BTreeSet<Arc<str>>,
    pub limits: Limits,
    /// Instances serve more than one call; for the built-in ones unless written otherwise.
    pub reuse: bool,
    /// Where its place in a chain says nothing else.
    pub on_failure: OnFailure,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginSource {
    Builtin(Arc<str>),
    File(PathBuf),
}

/// What `postern plugin install` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Holds the components and the record of what is installed.
    pub directory: PathBuf,
    /// Of one plugin.
    pub keep_versions: u32,
    /// A new version that fails so often, and at least once in twenty calls, is taken back …
    pub rollback_failures: u32,
    /// … when it does so within this time.
    pub rollback_window: Duration,
}

/// What plugins may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store {
    /// Of one plugin in one scope.
    pub entries: u32,
    pub octets: ByteSize,
    /// Of all of them.
    pub total: ByteSize,
}

/// What one call may use; `None`: the host's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu: Option<Duration>,
    pub wall: Option<Duration>,
    pub memory: Option<ByteSize>,
    /// Elements of WebAssembly tables.
    pub table_elements: Option<u32>,
    pub host_calls: Option<u32>,
    /// Resource handles at a time.
    pub handles: Option<u32>,
    /// Passed between host and plugin.
    pub octets: Option<ByteSize>,
    /// Read by the host for the plugin: search, digest, MIME.
    pub scan: Option<ByteSize>,
    /// Calls at once.
    pub concurrency: Option<u32>,
}

/// What stands in each chain, in order.
#[derive(Debug, Clone, Default)]
pub struct Chains {
    pub platform: Vec<ChainEntry>,
    /// Only those that have a chain.
    pub resellers: HashMap<Arc<str>, Vec<ChainEntry>>,
    pub tenants: HashMap<Arc<str>, Vec<ChainEntry>>,
}

#[derive(Debug, Clone)]
pub struct ChainEntry {
    /// The plugin's name is the test's name.
    pub plugin: Arc<Plugin>,
    pub directions: Directions,
    pub on_failure: OnFailure,
    /// Only ever true in the platform's chain.
    pub exemptable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Of the events; `None`: standard output.
    pub file: Option<PathBuf>,
    /// Of the diagnostics on standard error.
    pub level: tracing::Level,
}
