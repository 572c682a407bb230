//! A destination that is asked: how much at a time, and whether it is worth trying.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::DOWN_FOR;

pub(super) struct Destination {
    turns: Semaphore,
    concurrency: usize,
    /// Until when it is not asked, and why.
    down: Mutex<Option<(Instant, String)>>,
    /// When it has last replied.
    answered: Mutex<Option<Instant>>,
}

impl Destination {
    pub(super) fn new(concurrency: usize) -> Self {
        let turns = Semaphore::new(concurrency.max(1));
        Self { turns, concurrency, down: Mutex::default(), answered: Mutex::default() }
    }

    /// Questions at once.
    pub(super) fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// `None`: not until then.
    pub(super) async fn turn(&self, deadline: Instant) -> Option<SemaphorePermit<'_>> {
        timeout_at(deadline, self.turns.acquire()).await.ok()?.ok()
    }

    pub(super) fn why_down(&self) -> Option<String> {
        let down = locked(&self.down);
        down.as_ref().filter(|(until, _)| *until > Instant::now()).map(|(_, cause)| cause.clone())
    }

    pub(super) fn set_down(&self, down: Option<(Instant, String)>) {
        *locked(&self.down) = down;
    }

    pub(super) fn note_answer(&self) {
        self.set_down(None);
        *locked(&self.answered) = Some(Instant::now());
    }

    pub(super) fn has_answered_lately(&self) -> bool {
        locked(&self.answered).is_some_and(|answered| answered.elapsed() < DOWN_FOR)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
