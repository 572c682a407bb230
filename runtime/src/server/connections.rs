//! How many connections there are, in all and of each client, and how fast new ones come (RS1, RS2, RS11, RS12).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::rate::{Rate, Rates};
use crate::session::overload::Overload;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub total: usize,
    pub per_client: u32,
    /// New ones a second.
    pub rate: u32,
    pub rate_per_client: u32,
    /// TLS handshakes a second.
    pub handshake_rate_per_client: u32,
    /// Clients to which the rates per client do not apply, nor `overload_per_client`.
    pub exempt: Vec<IpNet>,
    /// Instead of `per_client`, under overload: few who hold many places must not keep out many who want one.
    pub overload_per_client: u32,
    /// Overload begins with so many sessions …
    pub overload_begins: usize,
    /// … and is over with so few.
    pub overload_ends: usize,
}

impl Limits {
    fn exempts(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.exempt.iter().any(|network| network.contains(&client))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Total,
    TotalRate,
    Client,
    ClientRate,
}

impl Refusal {
    /// For the log and metrics.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Total => "total-limit",
            Self::TotalRate => "total-rate",
            Self::Client => "client-limit",
            Self::ClientRate => "client-rate",
        }
    }
}

pub struct Connections {
    open: Mutex<Open>,
    overload: Arc<Overload>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    clients: HashMap<IpAddr, u32>,
    rate: Rate,
    rates: Rates,
}

/// Counts as one connection until it is dropped.
pub struct Place {
    connections: Arc<Connections>,
    limits: Arc<Limits>,
    client: Option<IpAddr>,
    /// Open connections of this client, this one included.
    pub concurrent: u32,
}

impl Connections {
    pub fn new(overload: Arc<Overload>) -> Self {
        Self { open: Mutex::default(), overload }
    }

    /// For somebody who is not known yet.
    pub fn enter(self: &Arc<Self>, limits: Arc<Limits>) -> Result<Place, Refusal> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= limits.total {
            return Err(Refusal::Total);
        }
        if !open.rate.admits(limits.rate) {
            return Err(Refusal::TotalRate);
        }
        open.total += 1;
        if open.total >= limits.overload_begins {
            self.overload.set(true, open.total, limits.total);
        }
        Ok(Place { connections: self.clone(), limits, client: None, concurrent: 0 })
    }
}

impl Place {
    /// Now it is known.
    pub fn belongs_to(&mut self, client: IpAddr) -> Result<(), Refusal> {
        let mut guard = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = &mut *guard;
        let exempt = self.limits.exempts(client);
        if !exempt && !open.rates.admits(client, self.limits.rate_per_client) {
            return Err(Refusal::ClientRate);
        }
        let strained = !exempt && self.connections.overload.is_on();
        let most = self.limits.per_client.min(if strained { self.limits.overload_per_client } else { u32::MAX });
        let client = client_key(client);
        let concurrent = open.clients.get(&client).copied().unwrap_or(0) + 1;
        if concurrent > most {
            return Err(Refusal::Client);
        }
        open.clients.insert(client, concurrent);
        (self.client, self.concurrent) = (Some(client), concurrent);
        Ok(())
    }
}

/// One IPv6 customer has a /64 at least, so that counts as one client.
pub(super) fn client_key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        if open.total <= self.limits.overload_ends {
            self.connections.overload.set(false, open.total, self.limits.total);
        }
        let Some(client) = self.client else { return };
        if let Some(count) = open.clients.get_mut(&client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.clients.remove(&client);
            }
        }
    }
}

/// The TLS handshakes of each client (RS11): an attacker pays less for one than we do.
pub struct Handshakes {
    limits: Arc<ArcSwap<Limits>>,
    rates: Mutex<Rates>,
}

impl Handshakes {
    pub fn new(limits: Arc<ArcSwap<Limits>>) -> Self {
        Self { limits, rates: Mutex::default() }
    }

    pub fn admits(&self, client: IpAddr) -> bool {
        let limits = self.limits.load();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        limits.exempts(client) || rates.admits(client, limits.handshake_rate_per_client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::EventLog;
    use crate::metrics::Metrics;
    use crate::pipeline::Clerk;

    const LIMITS: Limits = Limits {
        total: 10,
        per_client: 2,
        rate: 1000,
        rate_per_client: 1000,
        handshake_rate_per_client: 2,
        exempt: Vec::new(),
        overload_per_client: 1,
        overload_begins: 8,
        overload_ends: 6,
    };

    fn connections() -> Arc<Connections> {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (log, _) = EventLog::new(metrics.clone());
        Arc::new(Connections::new(Arc::new(Overload::new(Clerk { log, metrics }))))
    }

    fn enter(connections: &Arc<Connections>, client: &str, limits: &Limits) -> Result<Place, Refusal> {
        let mut place = connections.enter(Arc::new(limits.clone()))?;
        place.belongs_to(client.parse().unwrap())?;
        Ok(place)
    }

    #[test]
    fn limits_hold_and_places_are_given_back() {
        let connections = connections();
        let limits = Limits { total: 3, ..LIMITS };
        let first = enter(&connections, "2001:db8::1", &limits).unwrap();
        let second = enter(&connections, "2001:db8::ffff", &limits).unwrap();
        assert_eq!((first.concurrent, second.concurrent), (1, 2));
        assert_eq!(enter(&connections, "2001:db8::2", &limits).err(), Some(Refusal::Client));
        let third = enter(&connections, "192.0.2.1", &limits).unwrap();
        assert_eq!(enter(&connections, "192.0.2.2", &limits).err(), Some(Refusal::Total));
        drop((first, second, third));
        assert_eq!(connections.open.lock().unwrap().clients.len(), 0);
        assert_eq!(enter(&connections, "2001:db8::1", &limits).unwrap().concurrent, 1);
    }

    #[test]
    fn new_connections_have_a_rate() {
        let connections = connections();
        let limits = Limits { rate: 5, rate_per_client: 1, exempt: vec!["10.0.0.0/8".parse().unwrap()], ..LIMITS };
        let came = |client| enter(&connections, client, &limits).err();
        assert_eq!(came("192.0.2.1"), None);
        assert_eq!(came("192.0.2.1"), Some(Refusal::ClientRate));
        assert_eq!(came("192.0.2.2"), None);
        assert_eq!(came("10.0.0.1"), None);
        assert_eq!(came("10.0.0.1"), None);
        assert_eq!(came("10.0.0.1"), Some(Refusal::TotalRate));
        assert_eq!(connections.open.lock().unwrap().total, 0);
    }

    #[test]
    fn rs4_overload_ends_below_where_it_began() {
        let connections = connections();
        let mut places: Vec<_> = (0..7).map(|n| enter(&connections, &format!("192.0.2.{n}"), &LIMITS)).collect();
        assert!(!connections.overload.is_on());
        places.push(enter(&connections, "192.0.2.200", &LIMITS));
        assert!(connections.overload.is_on());
        assert_eq!(enter(&connections, "192.0.2.1", &LIMITS).err(), Some(Refusal::Client), "a second one");
        places.pop();
        assert!(connections.overload.is_on(), "with seven it goes on");
        places.pop();
        assert!(!connections.overload.is_on());
    }

    #[tokio::test(start_paused = true)]
    async fn rs11_handshakes_have_a_rate() {
        let exempt = vec!["10.0.0.0/8".parse().unwrap()];
        let handshakes = Handshakes::new(Arc::new(ArcSwap::from_pointee(Limits { exempt, ..LIMITS })));
        let admitted = |client: &str| (0..5).filter(|_| handshakes.admits(client.parse().unwrap())).count();
        assert_eq!((admitted("192.0.2.1"), admitted("192.0.2.2"), admitted("10.0.0.1")), (2, 2, 5));
    }
}
