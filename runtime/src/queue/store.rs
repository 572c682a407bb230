//! The queue's dealings with the spool: nothing that others will rely on is true before it is durable there.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Duration;

use super::Queue;
use super::meta::{Accepted, Kept, MetaError, State, encode};
use super::run::Turn;
use super::schedule::Rest;
use crate::mail::{Message, MessageId};
use crate::spool::{Batch, Entry, SpoolError};

/// How long a commit that failed waits for its next try. Meanwhile the message is not touched.
const COMMIT_RETRY: Duration = Duration::from_secs(10);

/// A message for the queue to take charge of.
#[derive(Debug, Clone)]
pub struct NewMail {
    pub id: MessageId,
    pub accepted: Accepted,
    pub message: Message,
}

/// As the spool takes it. A batch can't be cloned, so one for each try is made of this.
pub(super) struct Encoded {
    id: MessageId,
    meta: Bytes,
    state: Bytes,
    message: Message,
}

impl NewMail {
    pub(super) fn encode(&self, state: &State) -> Result<Encoded, MetaError> {
        Ok(Encoded { id: self.id, meta: encode(&self.accepted)?, state: encode(state)?, message: self.message.clone() })
    }
}

impl Encoded {
    pub(super) fn entry(&self) -> Entry {
        Entry { id: self.id, meta: self.meta.clone(), state: Some(self.state.clone()), message: self.message.clone() }
    }
}

impl Queue {
    /// `None`: it could not be read, and its turn has been ended accordingly.
    pub(super) async fn load(self: &Arc<Self>, turn: Turn) -> Option<(Turn, Kept)> {
        let id = turn.id();
        if let Some(kept) = self.fresh.take(id) {
            return Some((turn, kept));
        }
        let error = match self.spool.read(id).await {
            Ok(stored) => match Kept::decode(id, stored) {
                Ok(kept) => return Some((turn, kept)),
                Err(error) => {
                    self.put_aside(turn, &error);
                    return None;
                }
            },
            Err(error) => error,
        };
        self.story.unreadable(id, &error);
        match error {
            SpoolError::NotFound(_) => turn.end(Rest::Gone, |_| {}),
            // Accepted mail does not vanish from the list: someone must see it, and delete it.
            SpoolError::Damaged(_) => turn.end(Rest::Held, |slot| slot.reason = Some(error.to_string().into())),
            _ => turn.end(Rest::Waiting(self.clock.now().saturating_add(60_000)), |_| {}),
        }
        None
    }

    /// What the queue can't make sense of is not tried and not lost: it is held until someone looks at it.
    pub(super) fn put_aside(&self, turn: Turn, error: &MetaError) {
        self.story.unreadable(turn.id(), error);
        let reason = format!("unreadable: {error}");
        turn.end(Rest::Held, |slot| slot.reason = Some(reason.into()));
    }

    /// Tries until it is durable; the message stays in its place in the schedule, so it can't be sent again from a
    /// state that is no longer true. Ends otherwise only with the process (then the spool is right and we are not).
    pub(super) async fn commit_persistently(&self, id: MessageId, batch: impl Fn() -> Batch + Send) {
        while let Err(error) = self.spool.commit(batch()).await {
            self.story.commit_failed(id, &error);
            tokio::time::sleep(COMMIT_RETRY).await;
        }
    }

    pub(super) async fn commit_state(&self, kept: &Kept) {
        match encode(&kept.state) {
            Ok(state) => {
                let batch = || Batch { state: vec![(kept.id, state.clone())], ..Batch::default() };
                self.commit_persistently(kept.id, batch).await;
            }
            Err(error) => self.story.unreadable(kept.id, &error),
        }
    }
}
