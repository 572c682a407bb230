//! The queue at a glance: how much there is of what, and which destinations keep it.

use jiff::Timestamp;
use tokio::time::Duration;

use super::Queue;
use super::schedule::{Schedule, Standing};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// As listed: what is ready counts as waiting while its destination is down. All standings, in their order.
    pub counts: [(Standing, usize); Standing::ALL.len()],
    /// Age of the oldest message that is to be delivered.
    pub oldest: Duration,
    /// Those with the most messages first, as many as were asked for.
    pub down: Vec<DownDestination>,
    /// Of all that are down and have messages.
    pub down_total: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownDestination {
    /// E.g. `mx:example.com`.
    pub destination: String,
    pub messages: usize,
    /// In a row.
    pub failures: u32,
    pub next_attempt: Timestamp,
    /// What was said last.
    pub reply: String,
}

impl Queue {
    /// `most`: destinations that are named.
    pub fn overview(&self, most: usize) -> Overview {
        let now = self.clock.now();
        let schedule = self.schedule();
        let mut counts = schedule.counts();
        let mut down: Vec<_> = schedule.downs().collect();
        let kept: usize = down.iter().map(|(_, destination, _)| destination.ready()).sum();
        for (standing, count) in Standing::ALL.iter().zip(&mut counts) {
            match standing {
                Standing::Ready => *count = count.saturating_sub(kept),
                Standing::Waiting => *count = count.saturating_add(kept),
                _ => {}
            }
        }
        let down_total = down.len();
        down.sort_by(|(a, one, _), (b, other, _)| other.messages.cmp(&one.messages).then_with(|| a.cmp(b)));
        let down = down.into_iter().take(most).map(|(key, destination, down)| DownDestination {
            destination: key.to_string(),
            messages: destination.messages,
            failures: down.failures,
            next_attempt: self.clock.at(down.until.max(now)),
            reply: down.last.text.clone(),
        });
        let down = down.collect();
        let oldest = Duration::from_millis(Schedule::oldest(&schedule, now));
        let counts = std::array::from_fn(|n| {
            let standing = Standing::ALL.get(n).copied().unwrap_or(Standing::Ready);
            (standing, counts.get(n).copied().unwrap_or(0))
        });
        Overview { counts, oldest, down, down_total }
    }
}
