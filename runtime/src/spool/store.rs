//! The spool on a disk: [`SegmentSpool`], what it shares with its committer, and its settings.

use std::any::Any;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::commit::Committer;
use super::corrupt::Corrupt;
use super::disk::{Disk, RealDisk};
use super::index::Index;
use super::record::Draft;
use super::room::Room;
use super::stage::{self, Staged};
use super::trouble::Trouble;
use super::{Batch, Recovered, Spool, SpoolError, Stored, recover};
use crate::mail::MessageId;
use crate::metrics::Metrics;

/// Done messages that are waited for no longer than it takes to collect so many.
const MANY_FORGOTTEN: usize = 1024;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Must be there: what is missing may be a disk that was not mounted.
    pub directory: PathBuf,
    /// A segment that has reached this size is sealed and a new one begun.
    pub segment_octets: u64,
    /// Octets of the disk that new mail leaves free, for what delivery has to write.
    pub reserve: u64,
    /// A body up to this size stands in the segment, one above it that is a file stays a file.
    pub inline_octets: u64,
    /// How long a `forget` waits for a commit to ride on.
    pub forget_delay: Duration,
}

impl Settings {
    pub fn new(directory: PathBuf, max_message_octets: u64) -> Self {
        Self {
            directory,
            segment_octets: 64 << 20,
            reserve: max_message_octets.saturating_add(max_message_octets / 2),
            inline_octets: 256 << 10,
            forget_delay: Duration::from_millis(100),
        }
    }
}

/// Where things are in the spool's directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub lock: PathBuf,
    pub segments: PathBuf,
    pub bodies: PathBuf,
    pub incoming: PathBuf,
    pub corrupt: PathBuf,
}

impl Layout {
    fn new(settings: &Settings) -> Self {
        let join = |name| settings.directory.join(name);
        Self {
            lock: join("lock"),
            segments: join("segments"),
            bodies: join("bodies"),
            incoming: join("incoming"),
            corrupt: join("corrupt"),
        }
    }

    pub fn body(&self, id: MessageId, number: u64) -> PathBuf {
        self.bodies.join(format!("{id}.{number:016x}"))
    }
}

/// A batch that waits for the committer.
pub(super) struct Waiting {
    pub staged: Staged,
    /// `None` for what is forgotten: nobody waits for the answer.
    pub reply: Option<oneshot::Sender<Result<(), SpoolError>>>,
}

/// In the order of the calls.
#[derive(Default)]
pub(super) struct Queue {
    pub waiting: VecDeque<Waiting>,
    /// How many of them nobody waits for.
    pub forgotten: usize,
    pub closing: bool,
    /// Room is short: what is dead is to be removed, although nothing waits.
    pub untidy: bool,
}

/// Hears why the spool has failed.
type Observer = Box<dyn Fn(&str) + Send + Sync>;

/// What the tasks and the committer share.
pub(super) struct Shared {
    pub settings: Settings,
    pub layout: Layout,
    pub disk: Arc<dyn Disk>,
    pub metrics: Arc<Metrics>,
    pub corrupt: Corrupt,
    pub room: Room,
    index: Mutex<Index>,
    queue: Mutex<Queue>,
    pub wake: Condvar,
    /// The latch: why the spool takes nothing more.
    failure: OnceLock<String>,
    /// Who is told when it closes.
    observer: OnceLock<Observer>,
    next_body: AtomicU64,
}

impl Shared {
    pub fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn next_body(&self) -> u64 {
        self.next_body.fetch_add(1, Ordering::Relaxed)
    }

    pub fn check(&self) -> Result<(), SpoolError> {
        self.failure.get().map_or(Ok(()), |reason| Err(SpoolError::Failed(reason.clone())))
    }

    /// Closes the latch.
    pub fn fail(&self, reason: &str) {
        if self.failure.set(reason.to_owned()).is_ok() {
            self.metrics.spool_healthy.set(0);
            tracing::error!(reason, "the spool has failed and takes nothing more until a restart");
            self.observer.get().inspect(|tell| tell(reason));
        }
        self.wake.notify_all();
    }

    /// The error for whoever waits; closes the latch when the trouble is of that kind.
    pub fn failed(&self, trouble: Trouble) -> SpoolError {
        match &trouble {
            Trouble::Full => self.room.is_full(),
            Trouble::Passing { .. } => {}
            Trouble::Fatal(reason) => self.fail(reason),
        }
        trouble.into()
    }
}

/// The durable spool: append-only segments behind one committer thread. See `runtime/docs/spool.md`.
pub struct SegmentSpool {
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// Held as long as the spool is open.
    _lock: Box<dyn Any + Send + Sync>,
}

impl SegmentSpool {
    /// Takes the directory for this process, recovers what is in it and starts the committer. Blocking.
    pub fn open(settings: Settings, metrics: Arc<Metrics>) -> Result<(Arc<Self>, Vec<Recovered>), SpoolError> {
        Self::open_on(Arc::new(RealDisk), settings, metrics)
    }

    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Self>, Vec<Recovered>), SpoolError> {
        let layout = Layout::new(&settings);
        let lock = prepare(&*disk, &settings, &layout)?;
        let corrupt = Corrupt::open(&*disk, &layout.corrupt)?;
        let recovery = recover::recover(&*disk, &layout, &corrupt, &metrics)?;
        let shared = Arc::new(Shared {
            room: Room::new(settings.reserve),
            settings,
            layout,
            disk,
            metrics,
            corrupt,
            index: Mutex::new(recovery.index),
            queue: Mutex::default(),
            wake: Condvar::new(),
            failure: OnceLock::new(),
            observer: OnceLock::new(),
            next_body: AtomicU64::new(recovery.next_body),
        });
        // The first segment is made now: a disk that can't be written to is found out here, not by the first mail.
        let committer = Committer::new(shared.clone(), recovery.next_segment)?;
        shared.metrics.spool_healthy.set(1);
        let thread = std::thread::Builder::new().name("spool".to_owned()).spawn(move || committer.run());
        let thread = thread.map_err(|error| SpoolError::Open {
            action: "start the committer of",
            path: shared.settings.directory.clone(),
            source_text: error.to_string(),
        })?;
        Ok((Arc::new(Self { shared, committer: Mutex::new(Some(thread)), _lock: lock }), recovery.recovered))
    }

    /// For bodies on their way in: on the same file system, so they are linked and not copied. Wiped at each start.
    pub fn incoming_directory(&self) -> &std::path::Path {
        &self.shared.layout.incoming
    }

    /// Tells the first observer, and no other, why the latch has closed: when it does, or now when it has.
    pub fn observe(&self, observer: impl Fn(&str) + Send + Sync + 'static) {
        if self.shared.observer.set(Box::new(observer)).is_ok() {
            self.shared.failure.get().zip(self.shared.observer.get()).inspect(|(reason, tell)| tell(reason));
        }
    }

    /// Waits for a turn of the committer, whatever comes of it: a spool that has failed has turns too.
    pub async fn turn(self: Arc<Self>) {
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.closing {
                return;
            }
            queue.waiting.push_back(Waiting { staged: Staged::of(Vec::new()), reply: Some(reply) });
        }
        self.shared.wake.notify_one();
        // Unanswered when the committer is gone; then there is nobody to wait for.
        let _ = answer.await;
    }

    /// Writes what waits, seals the segment and ends the committer. Blocking. The spool takes nothing after it.
    pub fn shutdown(&self) {
        self.shared.queue().closing = true;
        self.shared.wake.notify_all();
        let thread = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the spool's committer panicked");
        }
    }

    #[cfg(test)]
    pub(super) fn shared_index(&self) -> MutexGuard<'_, Index> {
        self.shared.index()
    }

    #[cfg(test)]
    pub(super) fn shared_metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    async fn commit_batch(&self, batch: Batch) -> Result<(), SpoolError> {
        self.shared.check()?;
        let staged = if stage::blocks(&batch) {
            let shared = self.shared.clone();
            off_thread(move || stage::stage(&shared, &batch)).await?
        } else {
            stage::stage(&self.shared, &batch)?
        };
        if staged.drafts.is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.closing {
                return self.shared.check().and(Err(closed()));
            }
            queue.waiting.push_back(Waiting { staged, reply: Some(reply) });
        }
        self.shared.wake.notify_one();
        // The committer answers all, or is gone.
        answer.await.unwrap_or_else(|_| self.shared.check().and(Err(closed())))
    }
}

impl Spool for SegmentSpool {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), SpoolError>> + Send + '_>> {
        Box::pin(self.commit_batch(batch))
    }

    fn forget(&self, id: MessageId) {
        let mut queue = self.shared.queue();
        if queue.closing || self.shared.check().is_err() {
            return;
        }
        queue.waiting.push_back(Waiting { staged: Staged::of(vec![Draft::done(id)]), reply: None });
        queue.forgotten += 1;
        let wake = queue.forgotten == 1 || queue.forgotten == MANY_FORGOTTEN;
        drop(queue);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    fn read(&self, id: MessageId) -> Pin<Box<dyn Future<Output = Result<Stored, SpoolError>> + Send + '_>> {
        let shared = self.shared.clone();
        Box::pin(off_thread(move || {
            shared.check()?;
            shared.read(id)
        }))
    }

    fn is_healthy(&self) -> bool {
        self.shared.check().is_ok()
    }

    fn has_room_for(&self, octets: u64) -> bool {
        let ask = || {
            // An idle spool notices here that its disk is gone, and not only when the next mail is to be written.
            if !self.shared.disk.has_directory(&self.shared.layout.segments) {
                self.shared.fail(&format!("{} is gone", self.shared.layout.segments.display()));
            }
            let free = self.shared.disk.free_octets(&self.shared.settings.directory)?;
            let room = free.saturating_sub(self.shared.settings.reserve);
            self.shared.metrics.spool_room.set(i64::try_from(room).unwrap_or(i64::MAX));
            Ok(free)
        };
        let has_room = self.is_healthy() && self.shared.room.has(octets, ask);
        if !has_room {
            self.shared.queue().untidy = true;
            self.shared.wake.notify_one();
        }
        has_room && self.is_healthy()
    }
}

impl Drop for SegmentSpool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Queue {
    pub fn has_many_forgotten(&self) -> bool {
        self.forgotten >= MANY_FORGOTTEN
    }

    /// Somebody waits for an answer.
    pub fn is_urgent(&self) -> bool {
        self.waiting.len() > self.forgotten
    }

    pub fn pop(&mut self) -> Option<Waiting> {
        let next = self.waiting.pop_front()?;
        if next.reply.is_none() {
            self.forgotten -= 1;
        }
        Some(next)
    }

    /// Before all others: it was there before them.
    pub fn put_back(&mut self, forgotten: Vec<Waiting>) {
        self.forgotten += forgotten.len();
        forgotten.into_iter().rev().for_each(|waiting| self.waiting.push_front(waiting));
    }
}

pub(super) fn closed() -> SpoolError {
    SpoolError::Failed("the spool is closed".to_owned())
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, SpoolError> {
    // It fails only when the runtime ends, or the work panics.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(SpoolError::Failed(error.to_string())))
}

/// Locks the directory, makes what is missing in it and removes bodies that never became mail.
fn prepare(disk: &dyn Disk, settings: &Settings, layout: &Layout) -> Result<Box<dyn Any + Send + Sync>, SpoolError> {
    let open = |action, path: &PathBuf| {
        let path = path.clone();
        move |error: std::io::Error| SpoolError::Open { action, path, source_text: error.to_string() }
    };
    let lock = disk.lock(&layout.lock).map_err(open("lock", &layout.lock))?;
    let lock = lock.ok_or_else(|| SpoolError::Locked(settings.directory.clone()))?;
    for directory in [&layout.segments, &layout.bodies, &layout.incoming, &layout.corrupt] {
        disk.make_directory(directory).map_err(open("make", directory))?;
    }
    disk.sync_directory(&settings.directory).map_err(open("sync", &settings.directory))?;
    for (name, _) in disk.list(&layout.incoming).map_err(open("list", &layout.incoming))? {
        let path = layout.incoming.join(name);
        disk.remove(&path).map_err(open("remove", &path))?;
    }
    Ok(lock)
}
