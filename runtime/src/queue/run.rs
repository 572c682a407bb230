//! The loop that starts what is due, and the turn of one message.

use std::pin::pin;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::Queue;
use super::clock::{Millis, millis};
use super::life::Life;
use super::schedule::{Lane, Rest, Slot, Work};
use crate::mail::MessageId;

/// How often an unhealthy spool is looked at, and the gauges are brought up to date when nothing happens.
const PULSE: Duration = Duration::from_secs(10);
/// Work that is started in one pass, so that what has ended is looked at in between.
const MAX_STARTED: usize = 256;

impl Queue {
    /// Works until `shutdown` resolves; then starts nothing more and waits for what is under way, for as long as the
    /// settings say. What is not finished by then is in the spool, and is tried again by the next run.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()> + Send) {
        let mut tasks = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let wake = self.start_due(&mut tasks);
            tokio::select! {
                () = &mut shutdown => break,
                () = self.changed.notified() => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                () = sleep_until(wake) => {}
            }
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = timeout(self.settings().shutdown_deadline, all).await;
    }

    /// Starts what may start now; gives the time at which to look again at the latest.
    fn start_due(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Instant {
        let now = self.clock.now();
        let pulse = now.saturating_add(millis(PULSE));
        if !self.spool.is_healthy() {
            return self.clock.instant(pulse);
        }
        let mut schedule = self.schedule();
        schedule.wake(now);
        let mut started = 0;
        while started < MAX_STARTED
            && let Some(work) = schedule.next(now)
        {
            started += 1;
            tasks.spawn(self.clone().work(work));
        }
        self.story.gauges(schedule.counts(), schedule.oldest(now));
        let wake = if started == MAX_STARTED { now } else { schedule.next_wake().unwrap_or(pulse).min(pulse) };
        self.clock.instant(wake)
    }

    async fn work(self: Arc<Self>, work: Work) {
        let Some(turn) = Turn::new(self.clone(), work.id) else { return };
        let Some((turn, mut kept)) = self.load(turn).await else { return };
        match work.lane {
            Lane::Prepare => self.prepare_message(turn, kept).await,
            Lane::Deliver => {
                kept.state.prepared = true;
                self.deliver_message(turn, kept).await;
            }
            Lane::Overdue => self.overdue_message(turn, kept).await,
        }
    }
}

/// The right to work on a message. Who drops it without an end (a panic, a stop) puts the message back.
pub(super) struct Turn {
    queue: Arc<Queue>,
    id: MessageId,
    key: Arc<str>,
    life: Life,
    ended: bool,
}

impl Turn {
    pub(super) fn new(queue: Arc<Queue>, id: MessageId) -> Option<Self> {
        let (key, life) = queue.schedule().slot(id).map(|slot| (slot.key.clone(), slot.life))?;
        Some(Self { queue, id, key, life, ended: false })
    }

    pub(super) fn id(&self) -> MessageId {
        self.id
    }

    /// Of its destination.
    pub(super) fn key(&self) -> &Arc<str> {
        &self.key
    }

    pub(super) fn life(&self) -> Life {
        self.life
    }

    /// For [`State::observed`](super::meta::State::observed).
    pub(super) fn observed(&self) -> u64 {
        self.life.observed(self.queue.clock.now())
    }

    pub(super) fn end(mut self, rest: Rest, update: impl FnOnce(&mut Slot)) {
        self.ended = true;
        self.queue.schedule().finish(self.id, rest, self.queue.clock.now(), update);
        self.queue.changed.notify_one();
    }

    fn put_back_at(&self) -> Millis {
        let first = self.queue.settings().retry.first().copied().unwrap_or(PULSE);
        self.queue.clock.now().saturating_add(millis(first))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.ended {
            let rest = Rest::Waiting(self.put_back_at());
            self.queue.schedule().finish(self.id, rest, self.queue.clock.now(), |_| {});
            self.queue.changed.notify_one();
        }
    }
}
