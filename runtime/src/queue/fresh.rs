//! Mails that came a moment ago, as they are on disk: their first attempt need not read them back.
//!
//! The spool stays what is true. A mail is here only while it stands ready and nothing has changed it since it was
//! committed; whoever takes it up takes it out, and an operator's verb removes it. When there are too many the oldest go,
//! so that mail to a destination that is down does not keep out mail that moves.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::meta::Kept;
use crate::mail::MessageId;

/// Octets that a mail, a recipient and a header field take besides their text, at the least.
const MAIL: u64 = 2048;
const RECIPIENT: u64 = 512;
const FIELD: u64 = 64;

#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    mails: BTreeMap<MessageId, Kept>,
    octets: u64,
}

impl Fresh {
    /// Keeps it, within `limit` octets for all. A mail whose body is in a file is read from there as well as from here.
    pub(super) fn keep(&self, kept: Kept, limit: u64) {
        let octets = weight(&kept);
        if kept.message.body.as_memory().is_none() || octets > limit {
            return;
        }
        let mut shelf = self.shelf();
        shelf.remove(kept.id);
        shelf.octets += octets;
        shelf.mails.insert(kept.id, kept);
        while shelf.octets > limit {
            let Some((&oldest, _)) = shelf.mails.first_key_value() else { break };
            shelf.remove(oldest);
        }
    }

    /// What is kept of it; it is gone from here then.
    pub(super) fn take(&self, id: MessageId) -> Option<Kept> {
        self.shelf().remove(id)
    }

    /// Never held across an await.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn remove(&mut self, id: MessageId) -> Option<Kept> {
        let kept = self.mails.remove(&id)?;
        self.octets = self.octets.saturating_sub(weight(&kept));
        Some(kept)
    }
}

/// Octets of memory, roughly.
fn weight(kept: &Kept) -> u64 {
    let Kept { accepted, message, .. } = kept;
    let (recipients, fields) = (accepted.envelope.recipients.len() as u64, message.header.fields().len() as u64);
    MAIL + message.len() + RECIPIENT * recipients + FIELD * fields
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;
    use crate::mail::{Body, Envelope, Header, Message};
    use crate::queue::{Accepted, State};
    use crate::smtp::ReversePath;

    fn kept(id: u64, octets: usize) -> Kept {
        Kept {
            id: MessageId::from_u64(id),
            accepted: Accepted::new(Envelope::new(ReversePath::NULL), Timestamp::UNIX_EPOCH),
            state: State::default(),
            message: Message {
                header: Header::parse(&Bytes::new()),
                body: Body::from_bytes(vec![b'x'; octets].into()),
            },
        }
    }

    #[test]
    fn the_oldest_make_room() {
        let fresh = Fresh::default();
        let limit = 2 * weight(&kept(1, 1000));
        for id in [2, 1, 3] {
            fresh.keep(kept(id, 1000), limit);
        }
        assert!(fresh.take(MessageId::from_u64(1)).is_none());
        assert!(fresh.take(MessageId::from_u64(2)).is_some());
        assert!(fresh.take(MessageId::from_u64(2)).is_none(), "taken once");
        fresh.keep(kept(4, 1000), limit);
        fresh.keep(kept(4, 900), limit);
        assert_eq!(fresh.shelf().octets, weight(&kept(3, 1000)) + weight(&kept(4, 900)));
        fresh.keep(kept(5, 100_000), limit);
        assert!(fresh.take(MessageId::from_u64(5)).is_none(), "more than all may take");
        assert_eq!(fresh.shelf().mails.len(), 2, "and nobody had to go for it");
    }

    #[test]
    fn without_memory_nothing_is_kept() {
        let fresh = Fresh::default();
        fresh.keep(kept(1, 0), 0);
        assert!(fresh.take(MessageId::from_u64(1)).is_none());
    }
}
