//! The mail exchanges of a domain (RFC 5321 §5.1): as the public DNS names them, and for internal domains as the
//! internal one does, too (R57, "split DNS"). The gateway is then the domain's public MX, and the server behind it is named
//! inside only.
//!
//! Both are asked, and the best preference wins, whoever has named it. *There is none* said inside leaves the public ones
//! alone; *nobody could say*, said by either, delays the mail.

use super::target::{dns_failed, no_host};
use super::{Diagnosis, Outcome, Settings};
use crate::dns::{DnsError, Exchange, Resolver};
use crate::smtp::{Domain, Enhanced};

/// Who has named a host, and can say where it is. Of two equally good ones the internal goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    Internal,
    Public,
}

/// A host that takes mail for the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// Preference, then origin: the least is the best.
    pub(super) rank: (u16, Origin),
    pub(super) host: Domain,
}

/// Whom delivery asks where hosts are.
pub(super) struct Resolvers {
    pub(super) public: Resolver,
    /// Only for [`Settings::internal_domains`].
    pub(super) internal: Option<Resolver>,
}

impl Resolvers {
    pub(super) fn of(&self, origin: Origin) -> &Resolver {
        match (origin, &self.internal) {
            (Origin::Internal, Some(internal)) => internal,
            _ => &self.public,
        }
    }

    /// In no order; the domain itself when it has no MX record. The error: nobody takes its mail, or nobody could say.
    pub(super) async fn exchanges(&self, settings: &Settings, domain: &Domain) -> Result<Vec<Named>, Outcome> {
        let internal = self.internal.as_ref().filter(|_| settings.internal_domains.contains(domain));
        let (public, internal) = match internal {
            Some(internal) => tokio::join!(self.public.mx(domain), internal.mx(domain)),
            None => (self.public.mx(domain).await, Err(DnsError::NotFound)),
        };
        let internal = match internal {
            Ok(exchanges) => named(exchanges, Origin::Internal),
            Err(DnsError::NotFound | DnsError::BadName) => Vec::new(),
            Err(DnsError::Temporary(cause)) => {
                return Err(dns_failed(domain.as_str(), &format!("by the internal servers: {cause}")));
            }
        };
        let public = match public {
            Ok(exchanges) if internal.is_empty() && exchanges.iter().any(|exchange| exchange.host.is_none()) => {
                let text = format!("Domain {domain} accepts no mail (null MX)");
                return Err(Outcome::Failed(Diagnosis::own(556, Enhanced::new(1, 10), text)));
            }
            Ok(exchanges) => named(exchanges, Origin::Public),
            // RFC 5321 §5.1: an implicit MX.
            Err(DnsError::NotFound) if internal.is_empty() => {
                vec![Named { rank: (0, Origin::Public), host: domain.clone() }]
            }
            Err(DnsError::NotFound) => Vec::new(),
            Err(DnsError::Temporary(cause)) => return Err(dns_failed(domain.as_str(), &cause)),
            Err(DnsError::BadName) => return Err(no_host(domain.as_str())),
        };
        Ok(internal.into_iter().chain(public).collect())
    }
}

/// A null MX (RFC 7505) names nobody.
fn named(exchanges: Vec<Exchange>, origin: Origin) -> Vec<Named> {
    let hosts = exchanges.into_iter().filter_map(|exchange| Some((exchange.preference, exchange.host?)));
    hosts.map(|(preference, host)| Named { rank: (preference, origin), host }).collect()
}
