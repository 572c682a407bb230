//! What delivery has to be told. Values only: config makes them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::mail::TlsPolicy;
use crate::smtp::{Domain, Host};

#[derive(Debug, Clone)]
pub struct Settings {
    /// For EHLO, and in the names of Maildir files.
    pub host_name: String,
    /// Those that `Route::SmartHost` names (R53).
    pub smart_hosts: HashMap<Arc<str>, SmartHost>,
    pub mx_port: u16,
    /// For hosts that MX records name. They are not authenticated without DANE or MTA-STS, so more than
    /// [`TlsPolicy::Required`] says little.
    pub mx_tls: TlsPolicy,
    /// For tests: else an exchange on a loopback address is taken for ourselves.
    pub allow_loopback_mx: bool,
    /// Our names and addresses: mail is never delivered to them at `mx_port`, for it would come back (RFC 5321 §5.1).
    /// Only what config sends to a loopback address may: another server may listen there.
    pub own_hosts: Vec<Host>,
    /// Where we listen: nothing is ever delivered there, by whatever route and under whatever name. The unspecified
    /// address stands for all that the machine has.
    pub own_listeners: Vec<SocketAddr>,
    /// Where connections come from: at random one of the destination's family. A family without one is not used, for
    /// what comes from unlisted addresses fails the sender's SPF (R15). Empty: the system chooses.
    pub source_addresses: Vec<IpAddr>,
    pub timeouts: Timeouts,
    /// How long a connection waits for a next mail.
    pub idle_time: Duration,
    pub max_idle_connections: usize,
    pub max_mails_per_connection: u32,
    /// Exchanges of one domain that are tried, and addresses tried in one delivery.
    pub max_mx: usize,
    /// Addresses of one host that are tried, so that one with many dead ones does not shadow the next host.
    pub max_addresses: usize,
    /// Recipients in one transaction. RFC 5321 §4.5.3.1.8: a server takes at least 100.
    pub max_recipients: usize,
    /// Domains whose exchanges the internal resolver is asked for, too (R57).
    pub internal_domains: HashSet<Domain>,
    /// Certificate authorities trusted besides those of the web, e.g. a customer's own.
    pub extra_roots: Vec<CertificateDer<'static>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host_name: "localhost".to_owned(),
            smart_hosts: HashMap::new(),
            mx_port: 25,
            mx_tls: TlsPolicy::Opportunistic,
            allow_loopback_mx: false,
            own_hosts: Vec::new(),
            own_listeners: Vec::new(),
            source_addresses: Vec::new(),
            timeouts: Timeouts::default(),
            idle_time: Duration::from_secs(5),
            max_idle_connections: 256,
            max_mails_per_connection: 100,
            max_mx: 10,
            max_addresses: 4,
            max_recipients: 100,
            internal_domains: HashSet::new(),
            extra_roots: Vec::new(),
        }
    }
}

/// A server that takes all mail routed to it (R52).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartHost {
    pub host: Host,
    pub port: u16,
    /// With a login it is at least [`TlsPolicy::Verified`], whatever stands here: a password is shown only to a server
    /// that has proved its name.
    pub tls: TlsPolicy,
    pub login: Option<Login>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How long each step may take as a whole (RFC 5321 §4.5.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// §4.5.3.2.1.
    pub greeting: Duration,
    /// EHLO, HELO, STARTTLS, AUTH, RSET.
    pub hello: Duration,
    pub handshake: Duration,
    /// §4.5.3.2.2.
    pub mail: Duration,
    /// §4.5.3.2.3, for one reply.
    pub rcpt: Duration,
    /// §4.5.3.2.4.
    pub data: Duration,
    /// §4.5.3.2.5, for 64 KiB.
    pub block: Duration,
    /// §4.5.3.2.6.
    pub dot: Duration,
    pub quit: Duration,
    /// All commands of one transaction together, and the hosts of one delivery: after it no further one is begun. The
    /// step-by-step limits alone would let a server that always answers at the last moment keep a delivery for days.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            connect: Duration::from_secs(30),
            greeting: minutes(5),
            hello: minutes(5),
            handshake: Duration::from_secs(30),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            block: minutes(3),
            dot: minutes(10),
            quit: Duration::from_secs(2),
            total: minutes(30),
        }
    }
}

impl Settings {
    /// Whether a connection from `local` to `peer` has come to a listener of ours. That an address is the machine's own
    /// shows only then: both ends have it (or it is a loopback address, of which there are many).
    pub(super) fn is_own_end(&self, local: IpAddr, peer: SocketAddr) -> bool {
        let ip = peer.ip().to_canonical();
        let here = ip == local.to_canonical() || ip.is_loopback();
        self.own_listeners.iter().filter(|listener| listener.port() == peer.port()).any(|listener| {
            let everywhere = listener.ip().is_unspecified() && (listener.is_ipv6() || ip.is_ipv4());
            listener.ip().to_canonical() == ip || (here && everywhere)
        })
    }
}
