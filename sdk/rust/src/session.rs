//! The client and its connection, as a plugin sees them.

use std::fmt;
use std::net::IpAddr;

use crate::sys;

/// The client's connection. At `deliver` it is what was recorded of it with the mail.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    raw: &'a sys::Session,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The MX of tenants' domains.
    Inbound,
    /// Users and servers that must log in (RFC 6409).
    Submission,
    /// Servers and networks that the gateway's config trusts.
    Relay,
}

/// Whether mail is on its way into a tenant or out of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

/// What the client said at EHLO or HELO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helo {
    /// As the client gave it.
    pub name: String,
    /// EHLO, not HELO.
    pub extended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `TLSv1.3`.
    pub version: String,
    pub cipher: String,
    pub server_name: Option<String>,
}

/// The client's name by DNS, confirmed forward (iprev, RFC 8601 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientName {
    /// The address has this name, and the name has the address.
    Verified(String),
    /// The address has this name, which does not resolve back to it.
    Unconfirmed(String),
    /// The address has no name.
    None,
    /// DNS gave no answer.
    TemporaryFailure,
}

/// More than 16 keys, or more than 4 KiB in all: nothing was remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotesFull;

impl fmt::Display for NotesFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("more than 16 keys or 4 KiB to remember")
    }
}

impl std::error::Error for NotesFull {}

impl<'a> Session<'a> {
    pub(crate) fn new(raw: &'a sys::Session) -> Self {
        Self { raw }
    }

    pub(crate) fn raw(&self) -> &'a sys::Session {
        self.raw
    }

    /// The name of this session in the log.
    pub fn id(&self) -> String {
        self.raw.id()
    }

    pub fn client_address(&self) -> IpAddr {
        sys::client_address(self.raw)
    }

    pub fn client_port(&self) -> u16 {
        self.raw.client_port()
    }

    /// Looked up once a session, when first asked for.
    pub fn client_name(&self) -> ClientName {
        sys::client_name(self.raw)
    }

    /// Open connections of this client's address when this one was made, it included.
    pub fn concurrent_connections(&self) -> u32 {
        self.raw.concurrent_connections()
    }

    /// The name of the listener in the gateway's config.
    pub fn listener(&self) -> String {
        self.raw.listener()
    }

    pub fn role(&self) -> Role {
        sys::role(self.raw)
    }

    /// Outbound: the client has logged in, is trusted, or must log in.
    pub fn direction(&self) -> Direction {
        sys::direction(self.raw)
    }

    /// The client is in a network that may relay.
    pub fn trusted(&self) -> bool {
        self.raw.trusted()
    }

    pub fn helo(&self) -> Option<Helo> {
        sys::helo(self.raw)
    }

    pub fn tls(&self) -> Option<Tls> {
        sys::tls(self.raw)
    }

    /// The user, after AUTH.
    pub fn login(&self) -> Option<String> {
        self.raw.login()
    }

    /// Recipients that this client's address (IPv6: its /64) has named today and that were refused in the end because they
    /// don't exist (`5.1.1`); from all sessions and tenants. The day begins in the gateway's time zone.
    pub fn unknown_recipients(&self) -> u32 {
        self.raw.unknown_recipients()
    }

    /// Lifts the refusals of the test (plugin) of that name: said at `connect` and `helo` for this session, at `rcpt` for
    /// this recipient, else for this transaction. Only where the platform has marked the test as exemptable. The name of
    /// the rule is for the log.
    pub fn exempt(&self, test: &str, rule: &str) {
        self.raw.exempt(test, rule);
    }

    /// Remembers for this plugin alone: until the end of the session (at `connect` and `helo`) or of the transaction.
    pub fn remember(&self, key: &str, value: &[u8]) -> Result<(), NotesFull> {
        self.raw.remember(key, value).map_err(|_| NotesFull)
    }

    pub fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.raw.recall(key)
    }
}
