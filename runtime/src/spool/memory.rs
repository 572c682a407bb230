//! A spool without a disk, for tests of those who use one.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Batch, Spool, SpoolError, Stored};
use crate::mail::{Body, Message, MessageId};

/// Keeps messages as long as it lives. Bodies in files are read into memory.
#[derive(Debug, Default)]
pub struct MemorySpool {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    messages: BTreeMap<MessageId, Stored>,
    trouble: Option<SpoolError>,
}

impl MemorySpool {
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every commit is answered so; `None`: all is well again. `Failed` closes the latch, `Full` leaves no room.
    pub fn set_trouble(&self, trouble: Option<SpoolError>) {
        self.inner().trouble = trouble;
    }

    pub fn ids(&self) -> Vec<MessageId> {
        self.inner().messages.keys().copied().collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit_now(&self, batch: Batch) -> Result<(), SpoolError> {
        let mut inner = self.inner();
        if let Some(trouble) = &inner.trouble {
            return Err(trouble.clone());
        }
        let mut stored = Vec::with_capacity(batch.store.len());
        for entry in batch.store {
            let message = Message { body: in_memory(&entry.message.body)?, ..entry.message };
            stored.push((entry.id, Stored { meta: entry.meta, state: entry.state, message }));
        }
        inner.messages.extend(stored);
        for (id, state) in batch.state {
            if let Some(stored) = inner.messages.get_mut(&id) {
                stored.state = Some(state);
            }
        }
        for id in batch.done {
            inner.messages.remove(&id);
        }
        Ok(())
    }
}

fn in_memory(body: &Body) -> Result<Body, SpoolError> {
    if !body.is_separated() {
        return Ok(Body::absent());
    }
    let octets: Bytes = body.read_at(0, usize::MAX).map_err(|error| SpoolError::Failed(error.to_string()))?;
    Ok(Body::from_bytes(octets))
}

impl Spool for MemorySpool {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), SpoolError>> + Send + '_>> {
        Box::pin(async move { self.commit_now(batch) })
    }

    fn forget(&self, id: MessageId) {
        self.inner().messages.remove(&id);
    }

    fn read(&self, id: MessageId) -> Pin<Box<dyn Future<Output = Result<Stored, SpoolError>> + Send + '_>> {
        Box::pin(async move { self.inner().messages.get(&id).cloned().ok_or(SpoolError::NotFound(id)) })
    }

    fn is_healthy(&self) -> bool {
        !matches!(self.inner().trouble, Some(SpoolError::Failed(_)))
    }

    fn has_room_for(&self, _octets: u64) -> bool {
        self.inner().trouble.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Header;
    use crate::spool::Entry;

    #[tokio::test]
    async fn keeps_the_rules_of_a_spool() {
        let spool = MemorySpool::new();
        let id = MessageId::from_u64(1);
        let entry = |meta| {
            let message = Message { header: Header::default(), body: Body::from_bytes(Bytes::from_static(b"body")) };
            Entry { id, meta: Bytes::from_static(meta), state: None, message }
        };
        let store = |meta| Batch { store: vec![entry(meta)], ..Batch::default() };
        spool.commit(store(b"first")).await.unwrap();
        spool.commit(Batch { state: vec![(id, Bytes::from_static(b"tried"))], ..Batch::default() }).await.unwrap();
        assert_eq!(spool.read(id).await.unwrap().state.as_deref(), Some(&b"tried"[..]));
        spool.commit(store(b"second")).await.unwrap();
        let stored = spool.read(id).await.unwrap();
        assert_eq!((&stored.meta[..], stored.state), (&b"second"[..], None), "stored anew, without its state");

        spool.set_trouble(Some(SpoolError::Full));
        assert_eq!(spool.commit(store(b"third")).await, Err(SpoolError::Full));
        assert!(spool.is_healthy() && !spool.has_room_for(1));
        assert_eq!(spool.ids(), [id]);
        spool.forget(id);
        assert_eq!(spool.read(id).await.unwrap_err(), SpoolError::NotFound(id));
    }
}
