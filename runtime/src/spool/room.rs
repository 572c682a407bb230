//! How much may still be written, so that a disk is found full at MAIL and not by the committer.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long what the file system said is used.
const FRESH: Duration = Duration::from_secs(1);

pub(super) struct Room {
    reserve: u64,
    /// When it was asked, and what was free then less what was written since.
    known: Mutex<Option<(Instant, u64)>>,
}

impl Room {
    pub fn new(reserve: u64) -> Self {
        Self { reserve, known: Mutex::default() }
    }

    pub fn has(&self, octets: u64, ask: impl FnOnce() -> io::Result<u64>) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let free = match *known {
            Some((asked, free)) if asked.elapsed() < FRESH => free,
            _ => {
                // What can't be known is not promised.
                let free = ask().unwrap_or(0);
                *known = Some((Instant::now(), free));
                free
            }
        };
        free.saturating_sub(self.reserve) >= octets && free > self.reserve
    }

    pub fn wrote(&self, octets: u64) {
        if let Some((_, free)) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            *free = free.saturating_sub(octets);
        }
    }

    /// When it was last asked, no more than so many octets were left for new mail.
    pub fn is_short(&self, octets: u64) -> bool {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_some_and(|(_, free)| free.saturating_sub(self.reserve) <= octets)
    }

    /// A write has failed for want of space.
    pub fn is_full(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn new_mail_leaves_the_reserve_free() {
        let room = Room::new(100);
        assert!(room.has(50, || Ok(150)));
        assert!(!room.has(51, || Ok(1000)), "asked again within a second");
        room.wrote(20);
        assert!(room.has(30, || Ok(0)) && !room.has(31, || Ok(0)));
        tokio::time::advance(FRESH).await;
        assert!(!room.has(0, || Err(io::ErrorKind::NotFound.into())));
        tokio::time::advance(FRESH).await;
        assert!(room.has(900, || Ok(1000)));
        assert!(room.is_short(900) && !room.is_short(899));
        room.is_full();
        assert!(room.is_short(0));
        assert!(!room.has(0, || Ok(1000)));
    }
}
