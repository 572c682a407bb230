//! A spool in memory that can die at any commit, and fail on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};

use crate::mail::MessageId;
use crate::spool::{Batch, Recovered, Spool, SpoolError, Stored};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Kill {
    /// The process dies with the batch not durable.
    Before,
    /// It dies with the batch durable, and nobody told.
    After,
}

#[derive(Default)]
struct Inner {
    messages: BTreeMap<MessageId, Stored>,
    /// Ends that ride on the next commit; a crash loses them.
    forgotten: BTreeSet<MessageId>,
    commits: usize,
    kill: Option<(usize, Kill)>,
    dead: bool,
    errors: Vec<SpoolError>,
    unhealthy: bool,
    damaged: BTreeSet<MessageId>,
}

#[derive(Default)]
pub(in crate::queue) struct MemorySpool(Mutex<Inner>);

impl MemorySpool {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Dies at the nth commit from now (0 is the next).
    pub(in crate::queue) fn kill_at(&self, nth: usize, kill: Kill) {
        let mut inner = self.inner();
        inner.kill = Some((inner.commits + nth, kill));
    }

    pub(in crate::queue) fn is_dead(&self) -> bool {
        self.inner().dead
    }

    /// The disk as the next process finds it.
    pub(in crate::queue) fn after_crash(&self) -> Self {
        let messages = self.inner().messages.clone();
        Self(Mutex::new(Inner { messages, ..Inner::default() }))
    }

    pub(in crate::queue) fn fail_next(&self, errors: Vec<SpoolError>) {
        self.inner().errors = errors;
    }

    pub(in crate::queue) fn set_healthy(&self, healthy: bool) {
        self.inner().unhealthy = !healthy;
    }

    pub(in crate::queue) fn commits(&self) -> usize {
        self.inner().commits
    }

    /// Messages that are there, those whose end waits for a commit not counted.
    pub(in crate::queue) fn ids(&self) -> Vec<MessageId> {
        let inner = self.inner();
        inner.messages.keys().filter(|id| !inner.forgotten.contains(id)).copied().collect()
    }

    pub(in crate::queue) fn damage_meta(&self, id: MessageId) {
        self.inner().messages.get_mut(&id).unwrap().meta = bytes::Bytes::from_static(b"{");
    }

    /// It is there, and can't be read any more.
    pub(in crate::queue) fn damage(&self, id: MessageId) {
        self.inner().damaged.insert(id);
    }

    pub(in crate::queue) fn recovered(&self) -> Vec<Recovered> {
        let of = |(id, stored): (&MessageId, &Stored)| Recovered {
            id: *id,
            meta: stored.meta.clone(),
            state: stored.state.clone(),
            size: stored.message.len(),
        };
        self.inner().messages.iter().map(of).collect()
    }

    /// `None`: the process is dead, nothing comes back.
    fn apply(&self, batch: Batch) -> Option<Result<(), SpoolError>> {
        let mut inner = self.inner();
        if let Some(error) = inner.errors.pop() {
            return Some(Err(error));
        }
        let nth = inner.commits;
        inner.commits += 1;
        let kill = inner.kill.filter(|(at, _)| *at == nth).map(|(_, kill)| kill);
        inner.dead |= kill.is_some();
        if inner.dead && kill != Some(Kill::After) {
            return None;
        }
        for entry in batch.store {
            let stored = Stored { meta: entry.meta, state: entry.state, message: entry.message };
            inner.messages.insert(entry.id, stored);
        }
        for (id, state) in batch.state {
            inner.messages.get_mut(&id).expect("state of a message that is there").state = Some(state);
        }
        let forgotten = std::mem::take(&mut inner.forgotten);
        for id in batch.done.into_iter().chain(forgotten) {
            inner.messages.remove(&id);
        }
        (!inner.dead).then_some(Ok(()))
    }
}

impl Spool for MemorySpool {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), SpoolError>> + Send + '_>> {
        Box::pin(async move {
            // As with a real one, others run meanwhile.
            tokio::task::yield_now().await;
            match self.apply(batch) {
                Some(result) => result,
                None => std::future::pending().await,
            }
        })
    }

    fn forget(&self, id: MessageId) {
        let mut inner = self.inner();
        if !inner.dead {
            inner.forgotten.insert(id);
        }
    }

    fn read(&self, id: MessageId) -> Pin<Box<dyn Future<Output = Result<Stored, SpoolError>> + Send + '_>> {
        let inner = self.inner();
        let found = match inner.messages.get(&id) {
            Some(_) if inner.damaged.contains(&id) => Err(SpoolError::Damaged(id)),
            found => found.cloned().ok_or(SpoolError::NotFound(id)),
        };
        Box::pin(async move { found })
    }

    fn is_healthy(&self) -> bool {
        let inner = self.inner();
        !inner.unhealthy && !inner.dead
    }

    fn has_room_for(&self, _: u64) -> bool {
        true
    }
}
