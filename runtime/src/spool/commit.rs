//! The committer: one thread that writes. It gathers all that waits into one write and one sync, and only then answers.
//!
//! Between groups it removes what is dead and copies live records out of segments that are mostly dead, in slices, so
//! that no commit waits for long.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::compact::Compaction;
use super::index::Unused;
use super::record::RecordHeader;
use super::segment::Name;
use super::stage::Staged;
use super::store::{Shared, Waiting, closed};
use super::trouble::Trouble;
use super::writer::OpenSegment;

/// Octets after which a group takes no further batch: enough to keep a disk busy, little enough for its latency.
const GROUP_OCTETS: u64 = 8 << 20;
/// Octets for which an open segment is sealed before its time, when room is short.
const WORTH_FREEING: u64 = 64 << 10;
/// How long what can wait is left alone after the disk was full.
const FULL_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Committer {
    shared: Arc<Shared>,
    open: Option<OpenSegment>,
    next_segment: u64,
    compaction: Option<Compaction>,
    /// The disk was full at the last try.
    full: bool,
    /// Since when what can wait has waited.
    waited_since: Option<Instant>,
}

/// What one turn has to do.
enum Work {
    Group(Vec<Waiting>),
    Tidy,
    End,
}

impl Committer {
    /// Makes the first segment.
    pub fn new(shared: Arc<Shared>, next_segment: u64) -> Result<Self, super::SpoolError> {
        let mut committer =
            Self { shared, open: None, next_segment, compaction: None, full: false, waited_since: None };
        committer.make_segment()?;
        Ok(committer)
    }

    pub fn run(mut self) {
        // However this thread ends, nobody waits for it in vain.
        let _end = End(self.shared.clone());
        self.tidy();
        loop {
            match self.next_work() {
                Work::Group(group) => self.commit(group),
                Work::Tidy => {}
                Work::End => break,
            }
            if self.shared.check().is_ok() {
                self.tidy();
            }
        }
        self.finish();
    }

    fn next_work(&mut self) -> Work {
        let shared = self.shared.clone();
        let mut queue = shared.queue();
        loop {
            let hurry = queue.closing || (queue.has_many_forgotten() && !self.full) || self.shared.check().is_err();
            if queue.is_urgent() || (hurry && !queue.waiting.is_empty()) {
                break;
            }
            if queue.closing {
                return Work::End;
            }
            if std::mem::take(&mut queue.untidy) || (self.compaction.is_some() && !self.full) {
                return Work::Tidy;
            }
            if queue.waiting.is_empty() {
                queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // From the first on: whoever is refused for want of room wakes this thread, and may do so all the time.
            let pause = if self.full { FULL_PAUSE } else { shared.settings.forget_delay };
            let left = pause.saturating_sub(self.waited_since.get_or_insert_with(Instant::now).elapsed());
            if left.is_zero() {
                break;
            }
            queue = shared.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.waited_since = None;
        let mut octets = 0;
        let mut group = Vec::new();
        while octets < GROUP_OCTETS
            && let Some(next) = queue.pop()
        {
            octets += next.staged.octets();
            group.push(next);
        }
        Work::Group(group)
    }

    fn commit(&mut self, group: Vec<Waiting>) {
        let (turns, group): (Vec<_>, Vec<_>) = group.into_iter().partition(|waiting| waiting.staged.drafts.is_empty());
        // Whoever only asked for a turn has had it.
        turns.into_iter().filter_map(|turn| turn.reply).for_each(|reply| drop(reply.send(Ok(()))));
        if group.is_empty() {
            return;
        }
        let (mut staged, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|w| (w.staged, w.reply)).unzip();
        let result = self.shared.check().and_then(|()| {
            self.write(&mut staged).map_err(|trouble| {
                self.full = trouble == Trouble::Full;
                self.shared.failed(trouble)
            })
        });
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.shared.metrics.spool_commits.with_label_values(&[outcome]).inc();
        self.full &= result.is_err();
        let mut forgotten = Vec::new();
        for (staged, reply) in staged.into_iter().zip(replies) {
            match (&result, reply) {
                (Ok(()), reply) => {
                    staged.committed();
                    // Whoever has gone meanwhile has not seen a reply; the message may stay.
                    reply.map(|reply| reply.send(Ok(())));
                }
                (Err(error), Some(reply)) => {
                    // Before the answer: what was staged removes its files.
                    drop(staged);
                    let _ = reply.send(Err(error.clone()));
                }
                (Err(_), None) => forgotten.push(Waiting { staged, reply: None }),
            }
        }
        // They are still to be done, unless there is no next time.
        let mut queue = self.shared.queue();
        if !queue.closing && self.shared.check().is_ok() {
            queue.put_back(forgotten);
        }
    }

    /// Makes a group durable and applies it.
    pub(super) fn write(&mut self, staged: &mut [Staged]) -> Result<(), Trouble> {
        if staged.is_empty() {
            return Ok(());
        }
        if self.open.is_none() {
            self.make_segment()?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let (number, before) = (open.name.number, open.size());
        let count = staged.len();
        let start = Instant::now();
        let has_room = !self.full && !self.shared.room.is_short(self.shared.settings.segment_octets);
        let written = open.append(staged.iter_mut().map(|staged| staged.drafts.as_mut_slice()), has_room);
        let placed = match written {
            Ok(placed) => placed,
            Err(rejected) => {
                if !rejected.usable {
                    self.open = None;
                    self.shared.index().seal(number);
                }
                return Err(rejected.trouble);
            }
        };
        self.shared.metrics.spool_sync_seconds.observe(start.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a number of batches")]
        self.shared.metrics.spool_commit_batches.observe(count as f64);
        let records: Vec<_> = placed.into_iter().map(|(offset, draft)| (offset, &draft.header)).collect();
        let len = open.len();
        self.shared.room.wrote(open.size() - before);
        self.apply(number, len, &records);
        Ok(())
    }

    fn apply(&self, segment: u64, len: u64, records: &[(u64, &RecordHeader)]) {
        let mut unused = Vec::new();
        {
            let mut index = self.shared.index();
            unused.extend(records.iter().filter_map(|(offset, header)| index.apply(segment, *offset, header)));
            index.grow(segment, len);
            self.shared.metrics.spool_octets.set(i64::try_from(index.octets()).unwrap_or(i64::MAX));
        }
        for Unused { id, body_file } in unused {
            // Its record is durably done. What is left over is removed at the next start.
            let _ = self.shared.disk.remove(&self.shared.layout.body(id, body_file));
        }
    }

    fn make_segment(&mut self) -> Result<(), Trouble> {
        let name = Name::new(self.next_segment);
        self.next_segment = self.next_segment.saturating_add(1);
        let open = OpenSegment::create(
            &*self.shared.disk,
            &self.shared.layout.segments,
            name,
            self.shared.settings.segment_octets,
        )?;
        let mut index = self.shared.index();
        index.add_segment(name);
        index.grow(name.number, open.len());
        self.open = Some(open);
        Ok(())
    }

    /// What is due between two groups. Trouble here is answered to the next who commits, if it is fatal.
    fn tidy(&mut self) {
        if self.open.as_ref().is_some_and(|open| self.is_due(open)) {
            self.seal();
        }
        self.remove_dead();
        if !self.full {
            self.compact();
        }
    }

    /// The segment is to be sealed: it is large enough, or what is dead in it keeps new mail out. On a small disk it would
    /// never get large enough, and the gateway would stay full with an empty queue.
    fn is_due(&self, open: &OpenSegment) -> bool {
        let full = self.shared.settings.segment_octets;
        open.len() >= full
            || (open.len() >= WORTH_FREEING
                && self.shared.room.is_short(full)
                && self.shared.index().is_mostly_dead(open.name.number))
    }

    fn compact(&mut self) {
        if self.compaction.is_none() {
            self.compaction = Compaction::choose(&self.shared);
        }
        let Some(mut compaction) = self.compaction.take() else { return };
        let mut slice = compaction.next_slice(&self.shared);
        match self.write(&mut slice) {
            Ok(()) if compaction.is_finished() => {
                self.remove_dead();
                compaction.finish(&self.shared);
                self.compaction = Compaction::choose(&self.shared);
            }
            Ok(()) => self.compaction = Some(compaction),
            Err(trouble) => {
                // It is chosen anew when there is room.
                self.full = trouble == Trouble::Full;
                self.shared.failed(trouble);
            }
        }
    }

    fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        let number = open.name.number;
        let sealed = open.seal();
        let mut index = self.shared.index();
        index.seal(number);
        match sealed {
            Ok(octets) => index.grow(number, octets),
            Err(trouble) => {
                drop(index);
                self.shared.failed(trouble);
            }
        }
    }

    /// A segment counts as gone when its removal is durable: only then may those go that hide what is in it.
    fn remove_dead(&self) {
        let dead = self.shared.index().dead_segments();
        if dead.is_empty() {
            return;
        }
        let directory = &self.shared.layout.segments;
        let disk = &self.shared.disk;
        let mut removed = Ok(());
        for name in &dead {
            removed = removed.and_then(|()| disk.remove(&directory.join(name.file_name())));
        }
        let removed = removed.and_then(|()| disk.sync_directory(directory));
        let mut index = self.shared.index();
        for name in &dead {
            match &removed {
                Ok(()) => index.remove_segment(name.number),
                Err(_) => index.keep(name.number),
            }
        }
        if let Err(error) = removed {
            tracing::warn!(%error, "segments of the spool can't be removed before the next start");
        }
    }

    fn finish(mut self) {
        match self.open.take() {
            Some(open) if open.is_empty() => {
                // Nothing is in it; the next start would remove it as well.
                let _ = self.shared.disk.remove(open.path());
            }
            open if self.shared.check().is_ok() => {
                self.open = open;
                self.seal();
            }
            _ => {}
        }
    }
}

/// Closes the queue when the committer ends, in whatever way.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the committer panicked");
        }
        let mut queue = self.0.queue();
        queue.closing = true;
        while let Some(waiting) = queue.pop() {
            waiting.reply.map(|reply| reply.send(self.0.check().and(Err(closed()))));
        }
    }
}
