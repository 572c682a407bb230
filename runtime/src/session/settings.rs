//! What config says about sessions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::pipeline::{Chains, Role};
use crate::smtp::Mailbox;
use crate::tenancy::Directory;

/// Limits and names that hold for all sessions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The gateway's own name, in banner, EHLO reply and `Received` (R44).
    pub host_name: String,
    /// Under which name the gateway writes `Authentication-Results`: nobody else may (RFC 8601 §5).
    pub service_id: String,
    /// Servers that pass on what others have sent: unknown recipients are not counted against them (R11, R72).
    pub relays: Vec<IpNet>,
    /// What stands after the name in the banner (R24, R45).
    pub banner: String,
    /// Who gets mail to postmaster and mailer-daemon (R49).
    pub administrators: Vec<Mailbox>,
    /// Octets (R48).
    pub max_message_size: u64,
    pub max_header_size: usize,
    pub max_header_fields: usize,
    /// A transaction (R46). RFC 5321 §4.5.3.1.8: at least 100.
    pub max_recipients: usize,
    /// `Received` fields (R47).
    pub max_hops: usize,
    /// NOOP, VRFY, ETRN, RSET in a session before a mail (R73).
    pub max_junk_commands: u32,
    /// Replies 4xx and 5xx to commands, before the session is ended.
    pub max_errors: u32,
    /// Local parts with `%`, `!` or a quoted `@` are taken, as they stand; a next hop may still obey them.
    pub allow_routed_local_parts: bool,
    /// Where bodies too big for memory are put while they arrive.
    pub incoming_directory: PathBuf,
    /// Octets of a body that stay in memory.
    pub body_memory: usize,
    pub timeouts: Timeouts,
    /// Instead of all that, when there are too many sessions.
    pub strain: Strain,
}

/// What a session gets under overload (RS4): at most this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strain {
    /// For each of the time-outs but that of the session.
    pub timeout: Duration,
    pub max_errors: u32,
}

/// RFC 5321 §4.5.3.2.7 asks for at least 5 minutes for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a whole command line, from the reply before it.
    pub command: Duration,
    /// How far a message may fall behind `min_rate`; so also the longest wait for its next octets.
    pub data: Duration,
    /// Octets a second that a message must come with. A slower client keeps others out (RS3).
    pub min_rate: u32,
    /// For the client to take our reply.
    pub write: Duration,
    pub tls_handshake: Duration,
    /// From the connection, or the mail before, until a mail has been taken. Whatever else a client does meanwhile, it is
    /// here for mail.
    pub session: Duration,
}

impl Timeouts {
    /// None of them, but for the session's, longer than this.
    #[must_use]
    pub fn shortened(self, longest: Duration) -> Self {
        let short = |time: Duration| time.min(longest);
        Self {
            command: short(self.command),
            data: short(self.data),
            write: short(self.write),
            tls_handshake: short(self.tls_handshake),
            ..self
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(300),
            data: Duration::from_secs(180),
            min_rate: 500,
            write: Duration::from_secs(120),
            tls_handshake: Duration::from_secs(30),
            session: Duration::from_secs(3600),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host_name: "localhost".to_owned(),
            service_id: "localhost".to_owned(),
            relays: Vec::new(),
            banner: "ESMTP".to_owned(),
            administrators: Vec::new(),
            max_message_size: 50 * 1024 * 1024,
            max_header_size: 256 * 1024,
            max_header_fields: 1000,
            max_recipients: 1000,
            max_hops: 50,
            max_junk_commands: 100,
            max_errors: 20,
            allow_routed_local_parts: false,
            incoming_directory: std::env::temp_dir(),
            body_memory: 256 * 1024,
            timeouts: Timeouts::default(),
            strain: Strain { timeout: Duration::from_secs(10), max_errors: 1 },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// STARTTLS is not offered.
    None,
    StartTls,
    /// Nothing but EHLO, NOOP, QUIT and STARTTLS before TLS.
    Required,
    /// TLS from the first octet (RFC 8314 §3).
    Implicit,
}

#[derive(Debug, Clone)]
pub struct Listener {
    pub name: Arc<str>,
    pub role: Role,
    pub tls: TlsMode,
    /// AUTH is offered, under TLS.
    pub auth: bool,
    /// Peers whose connections begin with a PROXY v2 header. It is then required.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Peers that may say XCLIENT.
    pub xclient_from: Vec<IpNet>,
    /// Clients whose bare line ends are repaired instead of refused.
    pub normalize_from: Vec<IpNet>,
}

impl Listener {
    /// For tests and the newcomer: plain, inbound.
    pub fn inbound(name: &str) -> Self {
        Self {
            name: name.into(),
            role: Role::Inbound,
            tls: TlsMode::None,
            auth: false,
            proxy_protocol_from: Vec::new(),
            xclient_from: Vec::new(),
            normalize_from: Vec::new(),
        }
    }
}

/// What can change in a running gateway. Published whole; a session takes the one in force at connect for itself, and
/// each mail the one in force at MAIL.
#[derive(Clone)]
pub struct Snapshot {
    pub settings: Arc<Settings>,
    pub directory: Arc<Directory>,
    pub chains: Arc<Chains>,
}
