//! Connections of one scanner: so many at a time, each used by one scan, kept between scans.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::address::Address;
use super::content::Content;
use crate::mail::Message;

/// Scanners are near: one that has not taken the connection by then is not well.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Daemons close idle connections after some half a minute: one that is younger is likely to be open.
const IDLE_TIME: Duration = Duration::from_secs(15);

/// Why a connection gave no result. All but [`Lost`](Self::Lost) end the scan.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The connection ended before any of an answer was there: on one that has waited idle, that is its daemon's good right.
    #[error("it closes the connection: {0}")]
    Lost(String),
    #[error("{0}")]
    Failed(String),
    /// The daemon itself says so.
    #[error("the mail is too big for it")]
    TooBig,
}

impl Fault {
    pub(super) fn of(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }
}

/// A connection to one kind of scanner.
pub(super) trait Connection: Sized + Send {
    /// What it is told besides the mail.
    type Told: Sync;
    type Said: Send;

    fn open(address: &Address) -> impl Future<Output = Result<Self, Fault>> + Send;
    fn scan(&mut self, told: &Self::Told, mail: Content) -> impl Future<Output = Result<Self::Said, Fault>> + Send;
}

pub(super) struct Pool<C> {
    turns: Semaphore,
    /// Youngest last. Never more than there are turns; what is left here when no mail comes any more was closed by its
    /// daemon long ago, and costs a file descriptor each.
    idle: Mutex<Vec<(C, Instant)>>,
}

impl<C: Connection> Pool<C> {
    pub(super) fn new(connections: usize) -> Self {
        Self { turns: Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS)), idle: Mutex::default() }
    }

    /// On a connection that is there, or a new one. What goes wrong on one that was there is tried once more on a new one,
    /// where it is only that it was closed meanwhile. A connection is kept after a result, and after nothing else: what
    /// comes late must not be taken for the answer to the next question.
    pub(super) async fn scan(&self, address: &Address, told: &C::Told, message: &Message) -> Result<C::Said, Fault> {
        // Never closed.
        let _turn = self.turns.acquire().await.map_err(|_| Fault::of("no scans any more"))?;
        if let Some(mut idle) = self.take() {
            match idle.scan(told, Content::new(message)).await {
                Err(Fault::Lost(_)) => {}
                Ok(said) => return Ok(self.keep(idle, said)),
                Err(fault) => return Err(fault),
            }
        }
        let late = |_| Fault::of("it does not take the connection in time");
        let mut fresh = timeout(CONNECT_TIMEOUT, C::open(address)).await.map_err(late)??;
        let said = fresh.scan(told, Content::new(message)).await?;
        Ok(self.keep(fresh, said))
    }

    fn keep(&self, connection: C, said: C::Said) -> C::Said {
        self.lock().push((connection, Instant::now()));
        said
    }

    fn take(&self) -> Option<C> {
        let mut idle = self.lock();
        idle.retain(|(_, since)| since.elapsed() < IDLE_TIME);
        idle.pop().map(|(connection, _)| connection)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(C, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
