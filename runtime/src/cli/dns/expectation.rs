//! What DNS should say: of a tenant's domain, and of the gateway itself. From config alone.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Settings;
use crate::config::settings::MailExchange;
use crate::mail::Route;
use crate::smtp::{Domain, Host, Mailbox};

#[derive(Debug, Clone)]
pub(super) struct Expectation {
    pub(super) domain: Domain,
    /// Of the tenant; `None`: nobody has the domain.
    pub(super) tenant: Option<Tenant>,
    /// Best first; at least one.
    pub(super) mx: Vec<MailExchange>,
    /// Mechanisms; at least one.
    pub(super) spf: Vec<String>,
    pub(super) dmarc_reports: Option<Mailbox>,
    pub(super) keys: Vec<Key>,
}

#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) name: Arc<str>,
    pub(super) destination: Option<Route>,
}

/// A key that signs for the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) selector: String,
    /// The TXT record that tells it.
    pub(super) record: String,
}

/// Of the gateway, for all tenants.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    pub(super) host_name: Domain,
    pub(super) mx: Vec<MailExchange>,
    /// Empty: the addresses that the host name has.
    pub(super) egress: Vec<IpAddr>,
}

/// A service that keeps mailboxes and looks at MX records itself (R18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    Google,
    Microsoft365,
}

impl Expectation {
    pub(super) fn of(domain: &Domain, settings: &Settings, keys: Vec<Key>) -> Self {
        let identity = &settings.identity;
        let tenant = settings.directory.tenant_of(domain);
        Self {
            domain: domain.clone(),
            tenant: tenant.map(|tenant| Tenant { name: tenant.name.clone(), destination: tenant.destination.clone() }),
            mx: identity.mx.clone(),
            spf: identity.spf.clone(),
            dmarc_reports: identity.dmarc_reports.clone(),
            keys,
        }
    }

    /// The name of the TXT record of a key (RFC 6376 §3.6.2.1).
    pub(super) fn key_name(&self, key: &Key) -> String {
        format!("{}._domainkey.{}", key.selector, self.domain)
    }

    /// Where its mailboxes are.
    pub(super) fn provider(&self) -> Option<Provider> {
        match self.tenant.as_ref()?.destination.as_ref()? {
            Route::Host { host: Host::Domain(host), .. } | Route::Mx(Some(host)) => Provider::of(host),
            _ => None,
        }
    }

    pub(super) fn is_ours(&self, host: &Domain) -> bool {
        self.mx.iter().any(|exchange| exchange.host == *host)
    }

    /// The host to which the gateway hands the domain's mail over.
    pub(super) fn is_destination(&self, host: &Domain) -> bool {
        let destination = self.tenant.as_ref().and_then(|tenant| tenant.destination.as_ref());
        matches!(destination, Some(Route::Host { host: Host::Domain(own), .. }) if own == host)
    }
}

impl Gateway {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            host_name: settings.server.host_name.clone(),
            mx: settings.identity.mx.clone(),
            egress: settings.identity.egress.clone(),
        }
    }
}

impl Provider {
    /// By the name of one of its servers.
    pub(super) fn of(host: &Domain) -> Option<Self> {
        let is_in =
            |zone: &str| host.as_str().strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if is_in("mail.protection.outlook.com") || is_in("mx.microsoft") {
            return Some(Self::Microsoft365);
        }
        (is_in("google.com") || is_in("googlemail.com")).then_some(Self::Google)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Google => "Google Workspace",
            Self::Microsoft365 => "Microsoft 365",
        }
    }

    /// What its customers have in SPF while it sends for them.
    pub(super) const fn spf(self) -> &'static str {
        match self {
            Self::Google => "_spf.google.com",
            Self::Microsoft365 => "spf.protection.outlook.com",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r18_providers_are_known_by_their_servers() {
        for (host, provider) in [
            ("company-com.mail.protection.outlook.com", Some(Provider::Microsoft365)),
            ("company-com.o-v1.mx.microsoft", Some(Provider::Microsoft365)),
            ("aspmx.l.google.com", Some(Provider::Google)),
            ("smtp.google.com", Some(Provider::Google)),
            ("alt1.aspmx.l.googlemail.com", Some(Provider::Google)),
            ("mail.company.com", None),
            ("notgoogle.com", None),
            ("google.com.evil.example", None),
        ] {
            assert_eq!(Provider::of(&Domain::parse(host).unwrap()), provider, "{host}");
        }
    }
}
