//! Whether the runtime's worker threads get on (RS13). Whatever blocks one of them (a disk, a lock, a long computation)
//! holds up all sessions that it would serve.
//!
//! A task measures how late it is woken: what a session would have waited, too. When nobody works any more it can't say
//! so; a thread outside of the runtime then does. The same thread sees workers that have been at one task for too long:
//! a worker that parks, or turns to other tasks, counts that.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// How often a worker is looked at, and the task wakes.
const PERIOD: Duration = Duration::from_millis(250);
/// A worker that has been at one task for so long is blocked.
const BLOCKED: Duration = Duration::from_secs(1);

/// Watches until it is dropped.
pub struct Watchdog {
    _until_dropped: Sender<()>,
}

impl Watchdog {
    /// Watches the runtime that this is called in.
    pub fn start(metrics: &Arc<Metrics>) -> std::io::Result<Self> {
        Self::watch(metrics, BLOCKED)
    }

    fn watch(metrics: &Arc<Metrics>, blocked: Duration) -> std::io::Result<Self> {
        let period = PERIOD.min(blocked / 4);
        let (sender, receiver) = channel();
        let mut workers = Workers::new(Handle::current().metrics(), blocked);
        let counted = metrics.clone();
        let watch = move || {
            while receiver.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                workers.look(&counted);
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch)?;
        tokio::spawn(beat(Arc::downgrade(metrics), period));
        Ok(Self { _until_dropped: sender })
    }
}

/// Ends with the gateway.
async fn beat(metrics: Weak<Metrics>, period: Duration) {
    loop {
        let due = Instant::now() + period;
        tokio::time::sleep_until(due).await;
        let Some(metrics) = metrics.upgrade() else { return };
        metrics.heartbeat_lateness.observe(due.elapsed().as_secs_f64());
    }
}

struct Workers {
    runtime: RuntimeMetrics,
    blocked: Duration,
    seen: Vec<Worker>,
}

/// How it was seen last, and since when it has been so.
struct Worker {
    parks: u64,
    busy: Duration,
    since: Instant,
    told: bool,
}

impl Workers {
    fn new(runtime: RuntimeMetrics, blocked: Duration) -> Self {
        let since = Instant::now();
        let unseen = |_| Worker { parks: 0, busy: Duration::ZERO, since, told: false };
        Self { seen: (0..runtime.num_workers()).map(unseen).collect(), runtime, blocked }
    }

    fn look(&mut self, metrics: &Metrics) {
        let now = Instant::now();
        let mut blocked = 0;
        for (number, worker) in self.seen.iter_mut().enumerate() {
            let (parks, busy) =
                (self.runtime.worker_park_unpark_count(number), self.runtime.worker_total_busy_duration(number));
            // An odd count: it has nothing to do.
            if parks % 2 == 1 || (parks, busy) != (worker.parks, worker.busy) {
                if worker.told {
                    let seconds = now.duration_since(worker.since).as_secs_f64();
                    tracing::warn!(worker = number, seconds, "a worker thread gets on again");
                }
                *worker = Worker { parks, busy, since: now, told: false };
                continue;
            }
            if now.duration_since(worker.since) < self.blocked {
                continue;
            }
            blocked += 1;
            if !worker.told {
                worker.told = true;
                metrics.worker_stalls.inc();
                tracing::error!(worker = number, "a worker thread is blocked by one task; sessions wait for it");
            }
        }
        metrics.workers_blocked.set(blocked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(so: impl Fn() -> bool) {
        while !so() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn rs13_a_blocked_worker_is_seen_and_an_idle_or_busy_one_is_none() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let watchdog = {
            let _guard = runtime.enter();
            Watchdog::watch(&metrics, Duration::from_millis(200)).unwrap()
        };
        // One is never idle, but gets on; the other waits for the heartbeat.
        let busy = runtime.spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        until(|| metrics.heartbeat_lateness.get_sample_count() > 8);
        assert_eq!((metrics.workers_blocked.get(), metrics.worker_stalls.get()), (0, 0));
        busy.abort();

        let (go_on, wait) = channel::<()>();
        let blocking = runtime.spawn(async move { wait.recv() });
        until(|| metrics.workers_blocked.get() == 1);
        assert_eq!(metrics.worker_stalls.get(), 1);
        drop(go_on);
        until(|| metrics.workers_blocked.get() == 0);
        assert!(runtime.block_on(blocking).unwrap().is_err());
        drop(watchdog);
    }
}
