//! What is known of a session when a plugin is asked.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::OnceCell;

use crate::smtp::{Domain, Host};

/// Names a session in the log; unique within a run of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

impl SessionId {
    pub fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{:x}", self.0)
    }
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Role {
    /// The MX of tenants' domains.
    Inbound,
    /// Users and tenants' servers that authenticate (RFC 6409).
    Submission,
    /// Tenants' servers and networks that config trusts.
    Relay,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Submission => "submission",
            Self::Relay => "relay",
        }
    }
}

/// The client's name by DNS, confirmed forward (iprev, RFC 8601 §3).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ClientName {
    /// The address has this name, and the name has the address.
    Verified(Domain),
    /// The address has this name, which does not resolve back to it.
    Unconfirmed(Domain),
    /// The address has no name.
    None,
    /// DNS gave no answer.
    TemporaryFailure,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Helo {
    /// As given.
    pub name: String,
    /// `None` when it is neither a domain nor an address literal.
    pub host: Option<Host>,
    /// EHLO, not HELO.
    pub extended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TlsFacts {
    /// `TLSv1.3`.
    pub version: String,
    /// `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    pub sni: Option<String>,
}

/// Everything but the mail itself. A new value is made when EHLO, STARTTLS or AUTH change it.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    pub id: SessionId,
    /// After PROXY or XCLIENT from a listed peer.
    pub client: SocketAddr,
    pub local: SocketAddr,
    pub listener: Arc<str>,
    pub role: Role,
    /// Looked up when first asked for, once a session.
    pub client_name: Arc<OnceCell<ClientName>>,
    /// Open connections of this client's address when this one was made, it included (R66).
    pub concurrent: u32,
    pub helo: Option<Helo>,
    pub tls: Option<TlsFacts>,
    /// The user, after AUTH.
    pub login: Option<Arc<str>>,
    /// The client is in a network that may relay (R55).
    pub trusted: bool,
}

impl SessionFacts {
    /// Mail of a client that may relay, or that must log in to do so, is on its way out of a tenant.
    pub fn is_outbound(&self) -> bool {
        self.login.is_some() || self.trusted || self.role == Role::Submission
    }
}

/// The session as it is kept with a mail, for `deliver`, which runs when the client is long gone.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RecordedSession {
    pub client: SocketAddr,
    pub local: SocketAddr,
    pub listener: Arc<str>,
    pub role: Role,
    pub client_name: Option<ClientName>,
    pub helo: Option<Helo>,
    pub tls: Option<TlsFacts>,
    pub login: Option<Arc<str>>,
    pub trusted: bool,
}

impl From<&SessionFacts> for RecordedSession {
    fn from(facts: &SessionFacts) -> Self {
        Self {
            client: facts.client,
            local: facts.local,
            listener: facts.listener.clone(),
            role: facts.role,
            client_name: facts.client_name.get().cloned(),
            helo: facts.helo.clone(),
            tls: facts.tls.clone(),
            login: facts.login.clone(),
            trusted: facts.trusted,
        }
    }
}

impl From<RecordedSession> for SessionFacts {
    fn from(recorded: RecordedSession) -> Self {
        Self {
            id: SessionId::next(),
            client: recorded.client,
            local: recorded.local,
            listener: recorded.listener,
            role: recorded.role,
            client_name: Arc::new(OnceCell::new_with(recorded.client_name)),
            concurrent: 0,
            helo: recorded.helo,
            tls: recorded.tls,
            login: recorded.login,
            trusted: recorded.trusted,
        }
    }
}
