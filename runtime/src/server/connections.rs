//! How many connections there are, in all and of each client.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub total: usize,
    pub per_client: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Total,
    Client,
}

#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    clients: HashMap<IpAddr, u32>,
}

/// Counts as one connection until it is dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    client: IpAddr,
    /// Open connections of this client, this one included.
    pub concurrent: u32,
}

impl Connections {
    pub fn enter(self: &Arc<Self>, client: IpAddr, limits: Limits) -> Result<Place, Refusal> {
        let client = client_key(client);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= limits.total {
            return Err(Refusal::Total);
        }
        let concurrent = open.clients.get(&client).copied().unwrap_or(0) + 1;
        if concurrent > limits.per_client {
            return Err(Refusal::Client);
        }
        open.total += 1;
        open.clients.insert(client, concurrent);
        Ok(Place { connections: self.clone(), client, concurrent })
    }
}

/// One IPv6 customer has a /64 at least, so that counts as one client.
fn client_key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.clients.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_places_are_given_back() {
        let connections = Arc::new(Connections::default());
        let limits = Limits { total: 3, per_client: 2 };
        let (a, b): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let first = connections.enter(a, limits).unwrap();
        let second = connections.enter("2001:db8::ffff".parse().unwrap(), limits).unwrap();
        assert_eq!((first.concurrent, second.concurrent), (1, 2));
        assert_eq!(connections.enter(a, limits).unwrap_err(), Refusal::Client);
        let third = connections.enter(b, limits).unwrap();
        assert_eq!(connections.enter("192.0.2.2".parse().unwrap(), limits).unwrap_err(), Refusal::Total);
        drop((first, second, third));
        assert_eq!(connections.open.lock().unwrap().clients.len(), 0);
        assert_eq!(connections.enter(a, limits).unwrap().concurrent, 1);
    }
}
