//! At most so many of something in a second, of each client and in all; as many at once, after a quiet second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::connections::client_key;

const SECOND: Duration = Duration::from_secs(1);
/// Clients that are remembered without a look for those that could be forgotten.
const FEW: usize = 1024;

/// The generic cell rate algorithm: one instant says all. It is when the next would be due, if all came evenly.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate(Option<Instant>);

impl Rate {
    /// Counts one more, unless that is too many.
    pub fn admits(&mut self, per_second: u32) -> bool {
        let now = Instant::now();
        let due = self.0.map_or(now, |due| due.max(now)) + SECOND / per_second.max(1);
        let admitted = due <= now + SECOND;
        if admitted {
            self.0 = Some(due);
        }
        admitted
    }

    fn is_over(&self, now: Instant) -> bool {
        self.0.is_none_or(|due| due <= now)
    }
}

/// Of each client. Those of the last second are remembered, so a bound on all clients together bounds it.
#[derive(Debug, Default)]
pub struct Rates {
    clients: HashMap<IpAddr, Rate>,
    /// So many are too many to go on without a look.
    sweep_at: usize,
}

impl Rates {
    pub fn admits(&mut self, client: IpAddr, per_second: u32) -> bool {
        if self.clients.len() >= self.sweep_at.max(FEW) {
            let now = Instant::now();
            self.clients.retain(|_, rate| !rate.is_over(now));
            self.clients.shrink_to(FEW);
            self.sweep_at = 2 * self.clients.len();
        }
        self.clients.entry(client_key(client)).or_default().admits(per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_a_second_and_as_many_at_once() {
        let mut rate = Rate::default();
        let at_once = |rate: &mut Rate| (0..100).filter(|_| rate.admits(10)).count();
        assert_eq!(at_once(&mut rate), 10);
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(at_once(&mut rate), 2);
        tokio::time::advance(3600 * SECOND).await;
        assert_eq!(at_once(&mut rate), 10, "an hour of rest gives no more than a second");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_do_not_count_for_each_other_and_are_forgotten() {
        let mut rates = Rates::default();
        let client = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        for second in 0..100 {
            for number in 0..1000 {
                assert!(rates.admits(client(second * 1000 + number), 1));
                assert!(!rates.admits(client(second * 1000 + number), 1));
            }
            tokio::time::advance(SECOND).await;
        }
        assert!(rates.clients.len() <= 2 * FEW, "{} clients", rates.clients.len());
        assert!(rates.clients.capacity() <= 8 * FEW);
    }
}
