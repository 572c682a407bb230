//! The durable store of accepted messages.
//!
//! It keeps octets under a message id and knows nothing of recipients, retries or tenants: what `meta` and `state`
//! mean is the queue's business. What [`Spool::commit`] has acknowledged survives a crash and a power cut.
//!
//! [`SegmentSpool`] is the one on disk; its format, promises and tests are in `runtime/docs/spool.md`.

mod commit;
mod compact;
mod corrupt;
mod disk;
mod index;
mod read;
mod record;
mod recover;
mod room;
mod segment;
#[cfg(test)]
mod simulated;
mod stage;
mod store;
#[cfg(test)]
mod tests;
mod trouble;
mod writer;

use std::pin::Pin;

use bytes::Bytes;

pub use segment::recover_segment;
pub use store::{SegmentSpool, Settings};

use crate::mail::{Message, MessageId};

/// The seam between those who need durability and the segment log; a test may put its own behind it.
pub trait Spool: Send + Sync {
    /// All of the batch becomes durable, or none of it. Resolves only after the sync.
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), SpoolError>> + Send + '_>>;

    /// Like a commit of this one `done`, but not waited for: it rides on the next sync. When the process dies before
    /// that, the message comes back: a delivery may be repeated (RFC 5321 §4.1.1.4), never lost.
    fn forget(&self, id: MessageId);

    fn read(&self, id: MessageId) -> Pin<Box<dyn Future<Output = Result<Stored, SpoolError>> + Send + '_>>;

    /// False once the latch has closed: something failed that a retry can't mend.
    fn is_healthy(&self) -> bool;

    /// Octets that may still be written before new mail must be refused with 452 4.3.1.
    fn has_room_for(&self, octets: u64) -> bool;
}

/// A change to the spool, applied whole.
#[derive(Debug, Default)]
pub struct Batch {
    /// A message under an id that is there already replaces it, and its state is dropped.
    pub store: Vec<Entry>,
    pub state: Vec<(MessageId, Bytes)>,
    pub done: Vec<MessageId>,
}

#[derive(Debug)]
pub struct Entry {
    pub id: MessageId,
    pub meta: Bytes,
    /// Set with the entry, as if by a `state` right after it.
    pub state: Option<Bytes>,
    pub message: Message,
}

#[derive(Debug, Clone)]
pub struct Stored {
    pub meta: Bytes,
    pub state: Option<Bytes>,
    pub message: Message,
}

/// What recovery has found, without its content.
#[derive(Debug, Clone)]
pub struct Recovered {
    pub id: MessageId,
    pub meta: Bytes,
    pub state: Option<Bytes>,
    /// Header and body, octets.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    #[error("no space left for the spool")]
    Full,
    #[error("no message {0} in the spool")]
    NotFound(MessageId),
    #[error("message {0} is damaged on disk and was set aside")]
    Damaged(MessageId),
    #[error("the spool has failed and takes nothing more until it is restarted: {0}")]
    Failed(String),
    #[error("{0} is in use by another postern")]
    Locked(std::path::PathBuf),
    #[error("{action} {path}: {source_text}")]
    Open { action: &'static str, path: std::path::PathBuf, source_text: String },
}
