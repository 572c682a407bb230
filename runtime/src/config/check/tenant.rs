//! Tenants, users and trusted networks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::table::Tables;
use super::{Checker, Declared};
use crate::config::source::Span;
use crate::config::value::At;
use crate::config::value::name::{HostPort, SenderPattern};
use crate::config::written::{self, Destination, DestinationTable};
use crate::mail::{Route, TlsPolicy};
use crate::smtp::{Domain, Host, Mailbox};
use crate::tenancy::{Directory, SendAs, Tenant, TrustedNetwork, User};

/// What may be referred to.
#[derive(Default)]
pub(super) struct Names {
    pub resellers: Declared,
    pub tenants: Declared,
    pub smart_hosts: Declared,
    pub tables: Tables,
    pub scanners: Declared,
    /// How long each of them may take.
    pub scan_times: HashMap<Arc<str>, Duration>,
    /// And anything else.
    pub open: bool,
}

impl Checker<'_> {
    pub(super) fn directory(
        &mut self,
        tenants: Vec<written::Tenant>,
        users: Vec<written::User>,
        networks: Vec<written::TrustedNetwork>,
        names: &Names,
        host_name: Option<&Domain>,
    ) -> Option<Directory> {
        self.shared_domains(&tenants);
        self.same_logins(&users);
        let domains: HashMap<_, _> = tenants
            .iter()
            .map(|tenant| (tenant.name.value.0.clone(), tenant.domains.iter().map(|at| at.value.clone()).collect()))
            .collect();
        let tenants = tenants.into_iter().map(|tenant| self.tenant(tenant, names, host_name)).collect();
        let users = users.into_iter().filter_map(|user| self.user(user, names, &domains)).collect();
        self.declared("trusted network", networks.iter().map(|network| &network.name));
        let networks = networks.into_iter().map(|network| self.trusted_network(network, names)).collect();
        if self.findings.has_errors() {
            return None;
        }
        match Directory::new(tenants, users, networks) {
            Ok(directory) => Some(directory),
            Err(error) => {
                self.findings.error(None, error.to_string());
                None
            }
        }
    }

    fn shared_domains(&mut self, tenants: &[written::Tenant]) {
        let mut owners: HashMap<&Domain, (&str, Span)> = HashMap::new();
        for tenant in tenants {
            for domain in &tenant.domains {
                if let Some((owner, first)) = owners.insert(&domain.value, (&tenant.name.value.0, domain.span)) {
                    self.findings
                        .push_error(Some(domain.span), format!("the domain `{}` belongs to one tenant", domain.value))
                        .also(first, &format!("it is `{owner}`'s here"));
                }
            }
        }
    }

    fn same_logins(&mut self, users: &[written::User]) {
        let mut seen = HashMap::new();
        for login in users.iter().map(|user| &user.login) {
            if let Some(first) = seen.insert(login.value.as_str(), login.span) {
                self.findings
                    .push_error(Some(login.span), "this login is there twice".to_owned())
                    .also(first, "first here");
            }
        }
    }

    fn tenant(&mut self, written: written::Tenant, names: &Names, host_name: Option<&Domain>) -> Tenant {
        if let Some(reseller) = &written.reseller {
            self.known("reseller", reseller, &names.resellers);
        }
        if written.destination.is_none() && !written.domains.is_empty() {
            self.findings
                .push_warning(
                    Some(written.name.span),
                    format!("`{}` has no destination: its domains accept no mail", written.name.value.0),
                )
                .help("add `destination = \"mail.example.com\"`");
        }
        let destination = written.destination.and_then(|destination| self.route(destination, names, host_name));
        let outbound = written.outbound.and_then(|destination| self.route(destination, names, host_name));
        Tenant {
            name: written.name.value.0,
            reseller: written.reseller.map(|at| at.value.0),
            domains: written.domains.into_iter().map(|at| at.value).collect(),
            destination,
            outbound,
            max_message_size: written.max_message_size.map(|at| at.value.0),
            max_recipients: written.max_recipients.and_then(|count| usize::try_from(count.0).ok()),
        }
    }

    /// `None` after a mistake.
    fn route(&mut self, written: Spanned<Destination>, names: &Names, host_name: Option<&Domain>) -> Option<Route> {
        let span: Span = written.span().into();
        let route = match written.into_inner() {
            Destination::Short(HostPort { host, port }) => {
                Route::Host { host, port: port.unwrap_or(25), tls: TlsPolicy::Opportunistic }
            }
            Destination::Table(table) => self.route_of_table(table, span, names)?,
        };
        if let Route::Host { host: Host::Domain(host), port: 25, .. } = &route
            && Some(host) == host_name
        {
            self.findings.error(Some(span), format!("`{host}` is this gateway: its mail would go round in circles"));
            return None;
        }
        Some(route)
    }

    fn route_of_table(&mut self, table: DestinationTable, span: Span, names: &Names) -> Option<Route> {
        let DestinationTable { mx, host, port, tls, smart_host, maildir } = table;
        if host.is_none() && (port.is_some() || tls.is_some()) {
            self.findings.error(Some(span), "`port` and `tls` go with `host` only".to_owned());
            return None;
        }
        match (mx, host, smart_host, maildir) {
            (Some(domain), None, None, None) => Some(Route::Mx(Some(domain.value))),
            (None, Some(host), None, None) => {
                let tls = tls.map_or(TlsPolicy::Opportunistic, |at| at.value);
                let port = port.map_or(if tls == TlsPolicy::Implicit { 465 } else { 25 }, |port| port.0);
                Some(Route::Host { host: host.value, port, tls })
            }
            (None, None, Some(name), None) => {
                self.known("smart host", &name, &names.smart_hosts).then_some(Route::SmartHost(name.value.0))
            }
            (None, None, None, Some(path)) => Some(Route::Maildir(self.path(&path))),
            _ => {
                self.findings.error(Some(span), "exactly one of `mx`, `host`, `smart_host` and `maildir`".to_owned());
                None
            }
        }
    }

    fn user(
        &mut self,
        written: written::User,
        names: &Names,
        domains: &HashMap<Arc<str>, Vec<Domain>>,
    ) -> Option<User> {
        let own = match &written.tenant {
            Some(tenant) if !self.known("tenant", tenant, &names.tenants) => return None,
            Some(tenant) => domains.get(&tenant.value.0),
            None => None,
        };
        let may_send_as = match written.send_as {
            Some(patterns) => self.send_as(patterns, own),
            None => self.own_address(&written.login)?,
        };
        Some(User {
            login: written.login.value.into(),
            password_hash: written.password_hash.value.0,
            tenant: written.tenant.map(|at| at.value.0),
            may_send_as,
        })
    }

    /// A user whose login is an address sends as that address.
    fn own_address(&mut self, login: &At<String>) -> Option<SendAs> {
        if let Ok(mailbox) = Mailbox::parse(&login.value) {
            return Some(SendAs::These { mailboxes: vec![mailbox], domains: Vec::new() });
        }
        self.findings
            .push_error(Some(login.span), "this login is no address, so it must say whose mail it sends".to_owned())
            .help("add `send_as = [\"someone@example.com\"]`, or \"@example.com\" for all of a domain");
        None
    }

    fn send_as(&mut self, patterns: Vec<At<SenderPattern>>, own: Option<&Vec<Domain>>) -> SendAs {
        let (mut mailboxes, mut domains) = (Vec::new(), Vec::new());
        let mut any = false;
        for pattern in patterns {
            let domain = match &pattern.value {
                SenderPattern::Any => None,
                SenderPattern::Domain(domain) => Some(domain),
                SenderPattern::Mailbox(mailbox) => mailbox.domain(),
            };
            if let (Some(domain), Some(own)) = (domain, own)
                && !own.contains(domain)
            {
                let message = format!("`{domain}` is not a domain of this user's tenant");
                self.findings.push_warning(Some(pattern.span), message);
            }
            match pattern.value {
                SenderPattern::Any => any = true,
                SenderPattern::Domain(domain) => domains.push(domain),
                SenderPattern::Mailbox(mailbox) => mailboxes.push(mailbox),
            }
        }
        if any { SendAs::Any } else { SendAs::These { mailboxes, domains } }
    }

    fn trusted_network(&mut self, written: written::TrustedNetwork, names: &Names) -> TrustedNetwork {
        if written.network.value.prefix_len() == 0 {
            self.findings.error(
                Some(written.network.span),
                "this trusts the whole Internet: the gateway would be an open relay".to_owned(),
            );
        }
        if let Some(tenant) = &written.tenant {
            self.known("tenant", tenant, &names.tenants);
        }
        TrustedNetwork {
            name: written.name.value.0,
            network: written.network.value,
            tenant: written.tenant.map(|at| at.value.0),
        }
    }
}
