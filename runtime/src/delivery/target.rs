//! Which hosts a mail may be handed to, best first (RFC 5321 §5.1).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use rand::seq::SliceRandom;

use super::exchange::{Named, Origin, Resolvers};
use super::{Diagnosis, Outcome, Settings};
use crate::dns::DnsError;
use crate::smtp::{Domain, Enhanced, Host};

/// One address of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The host's name, or its address where it has no name.
    pub(super) host: String,
    pub(super) address: SocketAddr,
}

/// Finds targets as they are needed: hosts that are not tried are not looked up.
pub(super) struct Search<'a> {
    settings: &'a Settings,
    resolvers: &'a Resolvers,
    groups: VecDeque<Group>,
    port: u16,
    /// The hosts were named by DNS, that is by anybody, not by config.
    by_mx: bool,
    /// Of the group that was given last; of hosts that config names it means nothing.
    rank: (u16, Origin),
    looped: bool,
    temporary: Option<String>,
}

/// Hosts of equal preference, whom the same resolver has named.
struct Group {
    hosts: Vec<Host>,
    rank: (u16, Origin),
}

impl Group {
    /// Whose address config knows, or the public DNS.
    fn of(host: Host) -> Self {
        Self { hosts: vec![host], rank: (0, Origin::Public) }
    }
}

impl<'a> Search<'a> {
    /// The exchanges of the domain, or the domain itself when it has no MX record.
    pub(super) async fn by_mx(
        settings: &'a Settings,
        resolvers: &'a Resolvers,
        domain: &Domain,
    ) -> Result<Self, Outcome> {
        let exchanges = resolvers.exchanges(settings, domain).await?;
        let mut search = Self::new(settings, resolvers, settings.mx_port, true);
        search.group(exchanges);
        Ok(search)
    }

    /// The host as given (R13). A name that is an address in digits is that address.
    pub(super) fn by_host(settings: &'a Settings, resolvers: &'a Resolvers, host: &Host, port: u16) -> Self {
        let host = match host.domain().and_then(|name| name.as_str().parse().ok()) {
            Some(address) => Host::Literal(address),
            None => host.clone(),
        };
        let mut search = Self::new(settings, resolvers, port, false);
        let own = match &host {
            Host::Literal(address) => search.is_own_address(*address),
            Host::Domain(_) => search.is_own_port() && search.is_own(&host),
        };
        if own {
            search.looped = true;
        } else {
            search.groups.push_back(Group::of(host));
        }
        search
    }

    /// A recipient's address literal (RFC 5321 §4.1.3).
    pub(super) fn by_literal(settings: &'a Settings, resolvers: &'a Resolvers, address: IpAddr) -> Self {
        let mut search = Self::new(settings, resolvers, settings.mx_port, true);
        search.groups.push_back(Group::of(Host::Literal(address)));
        search
    }

    fn new(settings: &'a Settings, resolvers: &'a Resolvers, port: u16, by_mx: bool) -> Self {
        Self {
            settings,
            resolvers,
            groups: VecDeque::new(),
            port,
            by_mx,
            rank: (0, Origin::Public),
            looped: false,
            temporary: None,
        }
    }

    /// RFC 5321 §5.1: those of equal preference in random order; from our own preference on, none.
    fn group(&mut self, exchanges: Vec<Named>) {
        let own = exchanges.iter().filter(|named| self.is_own(&Host::Domain(named.host.clone())));
        let end = own.map(|named| named.rank).min();
        self.looped = end.is_some();
        let mut better: Vec<Named> =
            exchanges.into_iter().filter(|named| end.is_none_or(|end| named.rank < end)).collect();
        // Before the cut: else the same ones of many equals would be left out each time.
        better.shuffle(&mut rand::rng());
        better.sort_by_key(|named| named.rank);
        better.truncate(self.settings.max_mx);
        for equals in better.chunk_by(|one, other| one.rank == other.rank) {
            let Some(&Named { rank, .. }) = equals.first() else { continue };
            let hosts = equals.iter().map(|named| Host::Domain(named.host.clone())).collect();
            self.groups.push_back(Group { hosts, rank });
        }
    }

    fn is_own(&self, host: &Host) -> bool {
        self.settings.own_hosts.iter().any(|own| match (own, host) {
            (Host::Literal(own), Host::Literal(host)) => own.to_canonical() == host.to_canonical(),
            (own, host) => own == host,
        })
    }

    /// A port at which our own name can only be ourselves.
    fn is_own_port(&self) -> bool {
        self.port == self.settings.mx_port
            || self.settings.own_listeners.iter().any(|listener| listener.port() == self.port)
    }

    /// What can be known before there is a connection; the rest is for [`Settings::is_own_end`].
    fn is_own_address(&self, address: IpAddr) -> bool {
        let by_config = !self.by_mx && (self.port != self.settings.mx_port || address.to_canonical().is_loopback());
        let target = SocketAddr::new(address.to_canonical(), self.port);
        (!by_config && self.is_own(&Host::Literal(address)))
            || self
                .settings
                .own_listeners
                .iter()
                .any(|own| SocketAddr::new(own.ip().to_canonical(), own.port()) == target)
    }

    /// The next hosts of equal preference that have an address; `None`: there are no more.
    pub(super) async fn next(&mut self) -> Option<Vec<Target>> {
        while let Some(group) = self.groups.pop_front() {
            let mut targets = Vec::new();
            for host in group.hosts {
                let mut left = self.settings.max_addresses.max(1);
                for address in self.addresses(&host, group.rank.1).await {
                    if self.is_own_address(address) {
                        // This host is us under another name: RFC 5321 §5.1 as above.
                        self.looped = true;
                        self.groups.clear();
                        return None;
                    }
                    if self.is_usable(address) {
                        if left == 0 {
                            continue;
                        }
                        left -= 1;
                        let host = host.domain().map_or_else(|| address.to_string(), ToString::to_string);
                        targets.push(Target { host, address: SocketAddr::new(address, self.port) });
                    } else {
                        self.looped = true;
                    }
                }
            }
            if !targets.is_empty() {
                self.rank = group.rank;
                return Some(targets);
            }
        }
        None
    }

    /// Preference and origin of the exchanges that were given last; `None`: config has named them.
    pub(super) fn rank(&self) -> Option<(u16, Origin)> {
        self.by_mx.then_some(self.rank)
    }

    /// Both families by turns, so that neither can be dead and shadow the other.
    async fn addresses(&mut self, host: &Host, origin: Origin) -> Vec<IpAddr> {
        let name = match host {
            Host::Literal(address) => return vec![address.to_canonical()],
            Host::Domain(name) => name,
        };
        match self.resolvers.of(origin).addresses(name.as_str()).await {
            Ok(addresses) => {
                let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv4);
                let mut turns: Vec<(usize, IpAddr)> = six.into_iter().enumerate().collect();
                turns.extend(four.into_iter().enumerate());
                turns.sort_by_key(|(turn, _)| *turn);
                turns.into_iter().map(|(_, address)| address.to_canonical()).collect()
            }
            Err(DnsError::Temporary(cause)) => {
                self.temporary = Some(cause);
                Vec::new()
            }
            Err(DnsError::NotFound | DnsError::BadName) => Vec::new(),
        }
    }

    /// SP10: anybody can point an MX at this machine, and what listens here may trust the machine itself.
    fn is_usable(&self, address: IpAddr) -> bool {
        let never = address.is_unspecified()
            || address.is_multicast()
            || matches!(address, IpAddr::V4(four) if four.is_broadcast() || four.octets().first() == Some(&0));
        !never && (!self.by_mx || self.settings.allow_loopback_mx || !address.is_loopback())
    }

    /// DNS could not be asked about some host.
    pub(super) fn temporary(&self, name: &str) -> Option<Outcome> {
        self.temporary.as_ref().map(|cause| dns_failed(name, cause))
    }

    /// What it means that there was no host at all.
    pub(super) fn verdict(&self, name: &str) -> Outcome {
        if let Some(outcome) = self.temporary(name) {
            return outcome;
        }
        if self.looped {
            let text = format!("Mail for {name} loops back to this host");
            return Outcome::Failed(Diagnosis::own(554, Enhanced::new(4, 6), text));
        }
        if self.by_mx { no_host(name) } else { missing_host(name) }
    }
}

pub(super) fn dns_failed(name: &str, cause: &str) -> Outcome {
    Outcome::Deferred(Diagnosis::own(451, Enhanced::new(4, 3), format!("Look-up of {name}: {cause}")))
}

/// Config names it: whoever wrote that can mend it, so no mail is lost over it (RFC 3463 §3.4, X.3.5).
fn missing_host(name: &str) -> Outcome {
    let text = format!("Host {name}, to which config sends this mail, has no address");
    Outcome::Deferred(Diagnosis::own(451, Enhanced::new(3, 5), text))
}

pub(super) fn no_host(name: &str) -> Outcome {
    Outcome::Failed(Diagnosis::own(550, Enhanced::new(1, 2), format!("{name} has no host that takes mail")))
}
