//! The config as it is written: each value legal by itself, nothing filled in, nothing compared. First of two stages.

mod plugin;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use toml::Spanned;
use toml::de::DeTable;

pub use plugin::{Chain, ChainEntry, ChainEntryTable, Limits, Placement, Plugin, Plugins};

use super::problem::Findings;
use super::section;
use super::value::name::{DnsServer, HostPort, Name, SenderPattern, SpfMechanism};
use super::value::quantity::{ByteSize, Count, Percent, Port, Preference};
use super::value::secret::PasswordHash;
use super::value::word::{Banner, LineEndsWord, ListenerTls, TableFormat};
use super::value::{At, text_or_table};
use crate::dns::blocklist::Subjects;
use crate::mail::TlsPolicy;
use crate::pipeline::Role;
use crate::scan::{Address, Kind};
use crate::smtp::{Domain, Host, Mailbox};

/// No Debug here: what is written may hold a secret in a wrong place.
#[derive(Default)]
pub struct Written {
    pub server: Server,
    pub tls: Tls,
    pub spool: Spool,
    pub queue: Queue,
    pub delivery: Delivery,
    pub dns: Dns,
    pub call_ahead: CallAhead,
    pub identity: Identity,
    pub signing: Signing,
    pub authentication: Authentication,
    pub chain: Chain,
    pub plugins: Plugins,
    pub log: Log,
    pub listener: Vec<Listener>,
    pub smart_host: Vec<SmartHost>,
    pub scanner: Vec<Scanner>,
    pub reseller: Vec<Reseller>,
    pub tenant: Vec<Tenant>,
    pub user: Vec<User>,
    pub trusted_network: Vec<TrustedNetwork>,
    pub table: Vec<Table>,
    pub plugin: Vec<Plugin>,
    pub blocklist: Vec<Blocklist>,
}

impl Written {
    /// Reads every section and every element of a list by itself, so that one mistake doesn't hide the others.
    pub fn read(mut root: DeTable<'_>, findings: &mut Findings) -> Self {
        let written = Self {
            server: section::one(&mut root, "server", findings),
            tls: section::one(&mut root, "tls", findings),
            spool: section::one(&mut root, "spool", findings),
            queue: section::one(&mut root, "queue", findings),
            delivery: section::one(&mut root, "delivery", findings),
            dns: section::one(&mut root, "dns", findings),
            call_ahead: section::one(&mut root, "call_ahead", findings),
            identity: section::one(&mut root, "identity", findings),
            signing: section::one(&mut root, "signing", findings),
            authentication: section::one(&mut root, "authentication", findings),
            chain: section::one(&mut root, "chain", findings),
            plugins: section::one(&mut root, "plugins", findings),
            log: section::one(&mut root, "log", findings),
            listener: section::list(&mut root, "listener", findings),
            smart_host: section::list(&mut root, "smart_host", findings),
            scanner: section::list(&mut root, "scanner", findings),
            reseller: section::list(&mut root, "reseller", findings),
            tenant: section::list(&mut root, "tenant", findings),
            user: section::list(&mut root, "user", findings),
            trusted_network: section::list(&mut root, "trusted_network", findings),
            table: section::list(&mut root, "table", findings),
            plugin: section::list(&mut root, "plugin", findings),
            blocklist: section::list(&mut root, "blocklist", findings),
        };
        section::refuse_others(&root, findings);
        written
    }
}

/// `[server]`. Everything is optional here; [`super::check`] says what must be there.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    pub host_name: Option<At<Domain>>,
    pub banner: Option<At<Banner>>,
    pub administrators: Vec<At<Mailbox>>,
    pub max_connections: Option<Count>,
    pub max_connections_per_client: Option<Count>,
    pub max_connection_rate: Option<Count>,
    pub max_connection_rate_per_client: Option<Count>,
    pub max_handshake_rate_per_client: Option<Count>,
    pub exempt_networks: Option<Vec<At<IpNet>>>,
    pub max_message_size: Option<At<ByteSize>>,
    pub max_header_size: Option<At<ByteSize>>,
    pub max_header_fields: Option<Count>,
    pub max_recipients: Option<Count>,
    pub max_hops: Option<Count>,
    pub junk_commands: Option<Count>,
    pub max_errors: Option<Count>,
    pub allow_routed_local_parts: Option<bool>,
    pub command_timeout: Option<At<Duration>>,
    pub data_timeout: Option<At<Duration>>,
    pub min_data_rate: Option<At<ByteSize>>,
    pub write_timeout: Option<At<Duration>>,
    pub handshake_timeout: Option<At<Duration>>,
    pub session_timeout: Option<At<Duration>>,
    pub overload_above: Option<Spanned<Percent>>,
    pub overload_below: Option<Spanned<Percent>>,
    pub overload_timeout: Option<At<Duration>>,
    pub overload_max_errors: Option<Count>,
    pub overload_connections_per_client: Option<Count>,
    pub drain_timeout: Option<At<Duration>>,
    pub time_zone: Option<At<TimeZone>>,
    pub http: Option<Http>,
}

/// `[server.http]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub address: At<SocketAddr>,
}

/// `[[listener]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub name: At<Name>,
    pub address: At<SocketAddr>,
    pub role: At<Role>,
    pub tls: Option<At<ListenerTls>>,
    pub auth: Option<Spanned<bool>>,
    #[serde(default)]
    pub proxy_protocol_from: Vec<At<IpNet>>,
    #[serde(default)]
    pub xclient_from: Vec<At<IpNet>>,
    pub line_ends: Option<At<LineEndsWord>>,
    #[serde(default)]
    pub normalize_from: Vec<At<IpNet>>,
    pub certificate: Option<At<PathBuf>>,
    pub key: Option<At<PathBuf>>,
}

/// `[tls]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub certificate: Option<At<PathBuf>>,
    pub key: Option<At<PathBuf>>,
}

/// `[spool]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    pub directory: Option<At<PathBuf>>,
    pub reserve: Option<At<ByteSize>>,
    pub segment_size: Option<At<ByteSize>>,
    pub body_threshold: Option<At<ByteSize>>,
}

/// `[queue]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    pub retry: Option<Spanned<Retry>>,
    pub expiry: Option<At<Duration>>,
    pub delay_warning: Option<At<Duration>>,
    pub concurrency: Option<Count>,
    pub concurrency_per_destination: Option<Count>,
    pub concurrency_per_tenant: Option<Count>,
    pub quarantine_keep: Option<At<Duration>>,
    pub max_messages: Option<Count>,
    pub cache: Option<At<ByteSize>>,
}

pub enum Retry {
    List(Vec<At<Duration>>),
    Growing { first: At<Duration>, max: At<Duration> },
}

impl<'de> Deserialize<'de> for Retry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Growing {
            first: At<Duration>,
            max: At<Duration>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Retry;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of durations or { first = \"5m\", max = \"4h\" }")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Retry, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Retry::List)
            }

            fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<Retry, M::Error> {
                let Growing { first, max } = Growing::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Retry::Growing { first, max })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `[delivery]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    pub connect_timeout: Option<At<Duration>>,
    pub greeting_timeout: Option<At<Duration>>,
    pub command_timeout: Option<At<Duration>>,
    pub data_timeout: Option<At<Duration>>,
    pub data_block_timeout: Option<At<Duration>>,
    pub data_end_timeout: Option<At<Duration>>,
    pub idle_timeout: Option<At<Duration>>,
    pub max_messages_per_connection: Option<Count>,
    pub tls: Option<At<TlsPolicy>>,
    pub source_addresses: Vec<At<IpAddr>>,
    pub authorities: Option<At<PathBuf>>,
    pub mx_port: Option<Port>,
}

/// `[[smart_host]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmartHost {
    pub name: At<Name>,
    pub host: At<Host>,
    pub port: Option<Port>,
    pub tls: Option<At<TlsPolicy>>,
    pub user: Option<At<String>>,
    pub password_file: Option<At<PathBuf>>,
    pub password_env: Option<At<String>>,
}

/// `[[scanner]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scanner {
    pub name: At<Name>,
    pub kind: At<Kind>,
    pub address: At<Address>,
    pub timeout: Option<At<Duration>>,
    pub max_size: Option<At<ByteSize>>,
    pub connections: Option<Count>,
    pub password_file: Option<At<PathBuf>>,
    pub password_env: Option<At<String>>,
}

/// `[dns]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    pub servers: Vec<At<DnsServer>>,
    pub system: Option<Spanned<bool>>,
    pub timeout: Option<At<Duration>>,
    pub internal_servers: Vec<At<DnsServer>>,
    pub internal_domains: Option<Vec<At<Domain>>>,
}

/// `[call_ahead]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallAhead {
    pub sender: Option<At<Mailbox>>,
    pub timeout: Option<At<Duration>>,
    pub keep_existing: Option<At<Duration>>,
    pub keep_unknown: Option<At<Duration>>,
    pub cache_entries: Option<Count>,
    pub concurrency_per_destination: Option<Count>,
}

/// `[identity]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    pub mx: Vec<Spanned<Exchange>>,
    pub egress_addresses: Vec<At<IpAddr>>,
    pub spf: Vec<At<SpfMechanism>>,
    pub dmarc_reports: Option<At<Mailbox>>,
    pub blocklist_interval: Option<At<Duration>>,
}

/// A host, or a table with its preference.
pub enum Exchange {
    Short(Domain),
    Table(ExchangeTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeTable {
    pub host: At<Domain>,
    pub preference: Option<Preference>,
}

impl<'de> Deserialize<'de> for Exchange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use super::value::FromText as _;
        let what = "a host name, or a table with `host` and `preference`";
        text_or_table(deserializer, what, |text| Domain::from_text(text).map(Self::Short), Self::Table)
    }
}

/// `[[blocklist]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocklist {
    pub name: At<Name>,
    pub zone: At<Domain>,
    pub lists: Option<At<Subjects>>,
    #[serde(default)]
    pub codes: Vec<At<IpNet>>,
}

/// `[signing]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Signing {
    pub directory: Option<At<PathBuf>>,
    pub timestamp: Option<bool>,
    pub validity: Option<At<Duration>>,
}

/// `[authentication]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authentication {
    pub service_id: Option<At<Domain>>,
    pub relays: Vec<At<IpNet>>,
    pub timeout: Option<At<Duration>>,
}

/// `[log]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub file: Option<At<PathBuf>>,
    pub level: Option<At<tracing::Level>>,
}

/// `[[reseller]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reseller {
    pub name: At<Name>,
    #[serde(default)]
    pub chain: Vec<Spanned<ChainEntry>>,
}

/// `[[tenant]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    pub name: At<Name>,
    pub reseller: Option<At<Name>>,
    pub domains: Vec<At<Domain>>,
    pub destination: Option<Spanned<Destination>>,
    pub outbound: Option<Spanned<Destination>>,
    pub max_message_size: Option<At<ByteSize>>,
    pub max_recipients: Option<Count>,
    #[serde(default)]
    pub chain: Vec<Spanned<ChainEntry>>,
}

/// `"host"`, `"host:port"` or a table with exactly one of `mx`, `host`, `smart_host`, `maildir`.
pub enum Destination {
    Short(HostPort),
    Table(DestinationTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationTable {
    pub mx: Option<At<Domain>>,
    pub host: Option<At<Host>>,
    pub port: Option<Port>,
    pub tls: Option<At<TlsPolicy>>,
    pub smart_host: Option<At<Name>>,
    pub maildir: Option<At<PathBuf>>,
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use super::value::FromText as _;
        let what = "a host, or a table with `mx`, `host`, `smart_host` or `maildir`";
        text_or_table(deserializer, what, |text| HostPort::from_text(text).map(Self::Short), Self::Table)
    }
}

/// `[[user]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub login: At<String>,
    pub password_hash: At<PasswordHash>,
    pub tenant: Option<At<Name>>,
    pub send_as: Option<Vec<At<SenderPattern>>>,
}

/// `[[trusted_network]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedNetwork {
    pub name: At<Name>,
    pub network: At<IpNet>,
    pub tenant: Option<At<Name>>,
}

/// `[[table]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub name: At<Name>,
    pub file: At<PathBuf>,
    pub format: Option<At<TableFormat>>,
    /// A number or a name.
    pub key_column: Option<Spanned<toml::Value>>,
    pub value_column: Option<Spanned<toml::Value>>,
    pub max_size: Option<At<ByteSize>>,
    pub max_entries: Option<Count>,
}
