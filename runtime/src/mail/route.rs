//! Where a mail goes next: a tenant's destination, or what a plugin chose at `deliver`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::smtp::{Domain, Host};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// By the MX records of this domain (RFC 5321 §5.1); `None`: of the recipient's domain.
    Mx(Option<Domain>),
    /// This host or address, as given: no MX look-up (R13).
    Host { host: Host, port: u16, tls: TlsPolicy },
    /// The address that a recipient has named instead of a domain (RFC 5321 §4.1.3): whoever wrote the mail has chosen it,
    /// not config.
    Literal(IpAddr),
    /// A smart host that config names, with its port, TLS policy and login.
    SmartHost(Arc<str>),
    /// A Maildir on this machine, for development and tests.
    Maildir(PathBuf),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsPolicy {
    /// Never; for a next hop on the same machine or network.
    Never,
    /// STARTTLS when offered, any certificate (RFC 3207, RFC 7435).
    #[default]
    Opportunistic,
    /// STARTTLS or the mail waits; any certificate.
    Required,
    /// STARTTLS with a certificate that is valid for the host's name, or the mail waits.
    Verified,
    /// TLS from the first octet (RFC 8314), with a valid certificate.
    Implicit,
}

impl fmt::Display for TlsPolicy {
    /// As in the config.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::Opportunistic => "opportunistic",
            Self::Required => "required",
            Self::Verified => "verified",
            Self::Implicit => "implicit",
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mx(None) => f.write_str("mx"),
            Self::Mx(Some(domain)) => write!(f, "mx:{domain}"),
            Self::Host { host, port, .. } => write!(f, "host:{host}:{port}"),
            Self::Literal(address) => write!(f, "literal:{address}"),
            Self::SmartHost(name) => write!(f, "smart-host:{name}"),
            Self::Maildir(path) => write!(f, "maildir:{}", path.display()),
        }
    }
}
