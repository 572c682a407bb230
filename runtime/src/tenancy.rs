//! Resellers, tenants, their domains and destinations; users and trusted networks. Values only: config makes them.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::mail::Route;
use crate::smtp::{Domain, Mailbox};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub name: Arc<str>,
    pub reseller: Option<Arc<str>>,
    pub domains: Vec<Domain>,
    /// Where inbound mail goes. A domain without a destination never accepts mail (R6).
    pub destination: Option<Route>,
    /// Where outbound mail goes; `None`: by MX.
    pub outbound: Option<Route>,
    /// Octets; `None`: the gateway's.
    pub max_message_size: Option<u64>,
    pub max_recipients: Option<usize>,
}

/// A user who may log in (R40). Debug doesn't show the hash.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub login: Arc<str>,
    /// PHC string, argon2.
    pub password_hash: Box<str>,
    pub tenant: Option<Arc<str>>,
    /// Whose addresses the user may send from (R42).
    pub may_send_as: SendAs,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("login", &self.login)
            .field("tenant", &self.tenant)
            .field("may_send_as", &self.may_send_as)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendAs {
    Any,
    /// Addresses, and whole domains.
    These {
        mailboxes: Vec<Mailbox>,
        domains: Vec<Domain>,
    },
}

impl SendAs {
    pub fn allows(&self, sender: &Mailbox) -> bool {
        match self {
            Self::Any => true,
            Self::These { mailboxes, domains } => {
                let same =
                    |m: &Mailbox| m.host == sender.host && m.local.as_str().eq_ignore_ascii_case(sender.local.as_str());
                mailboxes.iter().any(same) || sender.domain().is_some_and(|domain| domains.contains(domain))
            }
        }
    }
}

/// A rule of the list of clients that may relay (R55).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedNetwork {
    pub name: Arc<str>,
    pub network: IpNet,
    pub tenant: Option<Arc<str>>,
}

/// Everything that says whose mail it is. Published whole.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    domains: HashMap<Domain, Arc<Tenant>>,
    tenants: HashMap<Arc<str>, Arc<Tenant>>,
    users: HashMap<Arc<str>, Arc<User>>,
    trusted: Vec<TrustedNetwork>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    #[error("domain {0} belongs to both {1} and {2}")]
    SharedDomain(Domain, Arc<str>, Arc<str>),
    #[error("tenant {0} is there twice")]
    SameTenant(Arc<str>),
    #[error("user {0} is there twice")]
    SameUser(Arc<str>),
}

impl Directory {
    pub fn new(tenants: Vec<Tenant>, users: Vec<User>, trusted: Vec<TrustedNetwork>) -> Result<Self, DirectoryError> {
        let mut directory = Self { trusted, ..Self::default() };
        for tenant in tenants.into_iter().map(Arc::new) {
            for domain in &tenant.domains {
                if let Some(other) = directory.domains.insert(domain.clone(), tenant.clone()) {
                    return Err(DirectoryError::SharedDomain(domain.clone(), other.name.clone(), tenant.name.clone()));
                }
            }
            if let Some(other) = directory.tenants.insert(tenant.name.clone(), tenant) {
                return Err(DirectoryError::SameTenant(other.name.clone()));
            }
        }
        for user in users.into_iter().map(Arc::new) {
            if let Some(other) = directory.users.insert(user.login.clone(), user) {
                return Err(DirectoryError::SameUser(other.login.clone()));
            }
        }
        Ok(directory)
    }

    pub fn tenant_of(&self, domain: &Domain) -> Option<&Arc<Tenant>> {
        self.domains.get(domain)
    }

    pub fn tenant(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenants.get(name)
    }

    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.values()
    }

    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    pub fn user(&self, login: &str) -> Option<&Arc<User>> {
        self.users.get(login)
    }

    /// The most specific rule that holds the address. An IPv4 address mapped into IPv6 is judged as IPv4.
    pub fn trusted(&self, client: IpAddr) -> Option<&TrustedNetwork> {
        let client = client.to_canonical();
        self.trusted.iter().filter(|rule| rule.network.contains(&client)).max_by_key(|rule| rule.network.prefix_len())
    }
}
