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
/// Mails whose body is in a file: each keeps it open.
const MAX_FILES: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    mails: BTreeMap<MessageId, Kept>,
    octets: u64,
    /// How many have their body in a file.
    files: usize,
}

impl Fresh {
    /// Keeps it, within `limit` octets for all.
    pub(super) fn keep(&self, kept: Kept, limit: u64) {
        let octets = weight(&kept);
        if octets > limit {
            return;
        }
        let mut shelf = self.shelf();
        shelf.remove(kept.id);
        shelf.octets += octets;
        shelf.files += usize::from(is_in_file(&kept));
        shelf.mails.insert(kept.id, kept);
        while shelf.octets > limit || shelf.files > MAX_FILES {
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
        self.files = self.files.saturating_sub(usize::from(is_in_file(&kept)));
        Some(kept)
    }
}

fn is_in_file(kept: &Kept) -> bool {
    kept.message.body.as_file().is_some()
}

/// Octets of memory, roughly.
fn weight(kept: &Kept) -> u64 {
    let Kept { accepted, message, .. } = kept;
    let (recipients, fields) = (accepted.envelope.recipients.len() as u64, message.header.fields().len() as u64);
    let body = message.body.as_memory().map_or(0, |body| body.len() as u64);
    MAIL + message.header.len() + body + RECIPIENT * recipients + FIELD * fields
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
    fn few_files_are_kept_open() {
        let (fresh, directory) = (Fresh::default(), tempfile::tempdir().unwrap());
        let body = || {
            let mut writer = crate::mail::BodyWriter::new(directory.path().to_owned(), 0);
            writer.push(b"x");
            writer.flush().unwrap();
            writer.finish().unwrap()
        };
        let count = MAX_FILES as u64 + 2;
        for id in 1..=count {
            let message = Message { body: body(), ..kept(id, 0).message };
            fresh.keep(Kept { message, ..kept(id, 0) }, u64::MAX);
        }
        let left = (1..=count).filter(|&id| fresh.take(MessageId::from_u64(id)).is_some());
        assert_eq!(left.collect::<Vec<_>>(), (3..=count).collect::<Vec<_>>());
        let shelf = fresh.shelf();
        assert_eq!((shelf.octets, shelf.files), (0, 0));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_memory_nothing_is_kept() {
        let fresh = Fresh::default();
        fresh.keep(kept(1, 0), 0);
        assert!(fresh.take(MessageId::from_u64(1)).is_none());
    }
}
