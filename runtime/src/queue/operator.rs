//! The operator's verbs. Each claims a message before it acts, and an attempt does the same: one of them wins, so
//! nothing is delivered that was deleted, nor twice because it was asked for twice (G5).

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::Queue;
use super::filter::{Changed, Detail, Filter, Page, Summary};
use super::life::Life;
use super::meta::{Kept, MetaError, State, encode};
use super::schedule::{Refused, Rest, Schedule};
use crate::mail::{Message, MessageId};
use crate::spool::{Batch, SpoolError};

/// Messages of one verb that become durable together, and that are flushed or summed up under one lock.
const CHUNK: usize = 256;
/// Messages that are looked through under one lock.
const SCAN: usize = 1024;
/// How long a selection with a limit is looked for before what was found is answered: rare ones in a long queue of mails
/// whose envelopes must be read from the disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// Header fields that are shown.
const MAX_FIELDS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerbError {
    #[error("no message {0} in the queue")]
    NotFound(MessageId),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("message {0}: {1}")]
    Meta(MessageId, MetaError),
    #[error("the verb was interrupted")]
    Interrupted,
}

/// A message, and whether it matches; `None`: only the envelope in the spool can say.
type Candidate = (MessageId, Option<bool>);

/// What a verb does to one message that it has claimed.
#[derive(Debug, Clone)]
enum Verb {
    Hold(String),
    Release,
    Delete,
}

impl Queue {
    /// The oldest first; a filter with a limit gets one page.
    pub async fn list(&self, filter: &Filter) -> Result<Page, VerbError> {
        let Selected { ids, next } = self.select(filter).await?;
        let mut messages = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let schedule = self.schedule();
            messages.extend(chunk.iter().filter_map(|id| self.summary(&schedule, *id)));
        }
        Ok(Page { messages, next })
    }

    /// The latest message in the queue.
    pub fn latest(&self) -> Option<MessageId> {
        self.schedule().latest()
    }

    pub async fn show(&self, id: MessageId) -> Result<Detail, VerbError> {
        let summary = self.summary(&self.schedule(), id).ok_or(VerbError::NotFound(id))?;
        let kept = self.read(id).await?;
        let header = shown_header(&kept.message);
        let expires = self.expires(&kept);
        Ok(Detail { summary, expires, accepted: kept.accepted, progress: kept.state, header })
    }

    /// By the clock; [`Life`] may grant more.
    fn expires(&self, kept: &Kept) -> Option<Timestamp> {
        let settings = self.settings();
        let (since, keep) = match &kept.state {
            state if state.held.is_some() => return None,
            State { quarantined: Some(quarantined), .. } => (quarantined.since, settings.quarantine_keep),
            state => (state.revived.unwrap_or(kept.accepted.arrival), settings.expiry),
        };
        since.checked_add(keep).ok()
    }

    /// Tries at once what waits, whatever its time, and whether or not its destination is down. Asks for routes anew.
    pub async fn flush(&self, filter: &Filter) -> Result<Changed, VerbError> {
        let selected = self.select(filter).await?;
        let mut changed = selected.begin(filter);
        for chunk in selected.ids.chunks(CHUNK) {
            self.flush_chunk(chunk, &mut changed);
            self.changed.notify_one();
            tokio::task::yield_now().await;
        }
        Ok(changed)
    }

    fn flush_chunk(&self, ids: &[MessageId], changed: &mut Changed) {
        let now = self.clock.now();
        let mut schedule = self.schedule();
        for &id in ids {
            match schedule.claim(id, now) {
                Ok(rest @ (Rest::Waiting(_) | Rest::Ready)) => {
                    if let Some(key) = schedule.slot(id).map(|slot| slot.key.clone()) {
                        schedule.unblock(&key, now);
                    }
                    schedule.finish(id, Rest::Ready, now, |_| {});
                    if rest != Rest::Ready {
                        self.story.flushed(id);
                    }
                    changed.changed.push(id);
                }
                Ok(rest) => {
                    schedule.finish(id, rest, now, |_| {});
                    changed.unfit.push(id);
                }
                Err(Refused::Busy) => changed.busy.push(id),
                Err(Refused::NotFound) => changed.missing.push(id),
            }
        }
    }

    /// Not tried until it is released.
    pub async fn hold(self: &Arc<Self>, filter: &Filter, reason: &str) -> Result<Changed, VerbError> {
        self.change(filter, Verb::Hold(reason.to_owned())).await
    }

    /// Lets go what is held or in quarantine, as if it had just been accepted; other messages are left alone.
    pub async fn release(self: &Arc<Self>, filter: &Filter) -> Result<Changed, VerbError> {
        self.change(filter, Verb::Release).await
    }

    /// Removes messages, without a word to anyone.
    pub async fn delete(self: &Arc<Self>, filter: &Filter) -> Result<Changed, VerbError> {
        self.change(filter, Verb::Delete).await
    }

    /// Goes on to its end even when the caller is dropped: a claim must be given back.
    async fn change(self: &Arc<Self>, filter: &Filter, verb: Verb) -> Result<Changed, VerbError> {
        let selected = self.select(filter).await?;
        let mut changed = selected.begin(filter);
        let queue = self.clone();
        let work = tokio::spawn(async move {
            for chunk in selected.ids.chunks(CHUNK) {
                queue.change_chunk(chunk, &verb, &mut changed).await?;
            }
            Ok(changed)
        });
        work.await.unwrap_or(Err(VerbError::Interrupted))
    }

    async fn change_chunk(&self, ids: &[MessageId], verb: &Verb, changed: &mut Changed) -> Result<(), VerbError> {
        let claimed = self.claim(ids, verb, changed);
        let mut batch = Batch::default();
        let mut ready = Vec::with_capacity(claimed.len());
        for (id, before) in claimed {
            match self.plan(id, verb, &mut batch).await {
                Ok(after) => ready.push((id, before, after)),
                Err(error) => {
                    self.story.unreadable(id, &error);
                    self.give_back(id, before);
                    changed.unreadable.push(id);
                }
            }
        }
        if let Err(error) = self.spool.commit(batch).await {
            ready.into_iter().for_each(|(id, before, _)| self.give_back(id, before));
            return Err(error.into());
        }
        for (id, _, after) in ready {
            self.conclude(id, verb, after);
            changed.changed.push(id);
        }
        self.changed.notify_one();
        Ok(())
    }

    fn claim(&self, ids: &[MessageId], verb: &Verb, changed: &mut Changed) -> Vec<(MessageId, Rest)> {
        let now = self.clock.now();
        let mut schedule = self.schedule();
        let mut claimed = Vec::with_capacity(ids.len());
        for &id in ids {
            match schedule.claim(id, now) {
                Ok(rest) if verb.concerns(rest) => {
                    // What is in memory of it will not be true any more.
                    self.fresh.take(id);
                    claimed.push((id, rest));
                }
                Ok(rest) => {
                    schedule.finish(id, rest, now, |_| {});
                    changed.unfit.push(id);
                }
                Err(Refused::Busy) => changed.busy.push(id),
                Err(Refused::NotFound) => changed.missing.push(id),
            }
        }
        claimed
    }

    /// Adds the change to the batch; says where the message goes then.
    async fn plan(&self, id: MessageId, verb: &Verb, batch: &mut Batch) -> Result<Rest, VerbError> {
        if matches!(verb, Verb::Delete) {
            batch.done.push(id);
            return Ok(Rest::Gone);
        }
        let Kept { mut state, .. } = self.read(id).await?;
        let rest = match verb {
            Verb::Hold(reason) => {
                let observed = self.schedule().slot(id).map(|slot| slot.life.observed(self.clock.now()));
                state.observed = observed.unwrap_or(state.observed);
                state.held = Some(reason.clone());
                Rest::Held
            }
            Verb::Release | Verb::Delete => {
                state.released = state.released || state.quarantined.is_some();
                state.revived = Some(self.clock.wall());
                state.held = None;
                state.quarantined = None;
                state.next_attempt = None;
                (state.attempts, state.observed) = (0, 0);
                Rest::Ready
            }
        };
        batch.state.push((id, encode(&state).map_err(|error| VerbError::Meta(id, error))?));
        Ok(rest)
    }

    fn give_back(&self, id: MessageId, rest: Rest) {
        self.schedule().finish(id, rest, self.clock.now(), |_| {});
    }

    fn conclude(&self, id: MessageId, verb: &Verb, rest: Rest) {
        match verb {
            Verb::Hold(reason) => self.story.held(id, reason),
            Verb::Release => self.story.released(id),
            Verb::Delete => self.story.deleted(id, "operator"),
        }
        let now = self.clock.now();
        self.schedule().finish(id, rest, now, |slot| match verb {
            Verb::Hold(reason) => slot.reason = Some(reason.as_str().into()),
            Verb::Release | Verb::Delete => {
                slot.reason = None;
                slot.last_word = None;
                slot.attempts = 0;
                slot.life = Life::begin(now);
            }
        });
    }

    /// Ids of what matches, the oldest first. It looks at some, lets others have the lock, and goes on behind those.
    async fn select(&self, filter: &Filter) -> Result<Selected, VerbError> {
        let wanted: BTreeSet<MessageId> = filter.ids.iter().copied().collect();
        let limit = filter.limit.unwrap_or(usize::MAX);
        let began = Instant::now();
        let is_late = || filter.limit.is_some() && began.elapsed() >= PATIENCE;
        let mut ids = Vec::new();
        let mut after = filter.after;
        while let Some((last, candidates)) = self.candidates(filter, &wanted, after) {
            for (id, known) in candidates {
                let matches = match known {
                    Some(known) => known,
                    None => self.read(id).await.is_ok_and(|kept| filter.matches_envelope(&kept.accepted)),
                };
                ids.extend(matches.then_some(id));
                if ids.len() >= limit || (known.is_none() && is_late()) {
                    return Ok(Selected { ids, next: Some(id) });
                }
            }
            after = Some(last);
            if is_late() {
                return Ok(Selected { ids, next: after });
            }
            tokio::task::yield_now().await;
        }
        Ok(Selected { ids, next: None })
    }

    /// The last of the next [`SCAN`] messages, and those among them that may match.
    fn candidates(
        &self,
        filter: &Filter,
        wanted: &BTreeSet<MessageId>,
        after: Option<MessageId>,
    ) -> Option<(MessageId, Vec<Candidate>)> {
        let now = self.clock.now();
        let schedule = self.schedule();
        let in_time = |id: &MessageId| filter.until.is_none_or(|until| *id <= until);
        let next: Vec<MessageId> = if wanted.is_empty() {
            schedule.ids_after(after).take(SCAN).take_while(in_time).collect()
        } else {
            wanted
                .range((after.map_or(Unbounded, Excluded), Unbounded))
                .take(SCAN)
                .copied()
                .take_while(in_time)
                .collect()
        };
        let last = *next.last()?;
        let candidates = next.into_iter().filter_map(|id| {
            let slot = schedule.slot(id).filter(|slot| filter.matches(slot, schedule.kept_by(slot), now))?;
            Some((id, filter.matches_recipient(slot)))
        });
        Some((last, candidates.collect()))
    }

    async fn read(&self, id: MessageId) -> Result<Kept, VerbError> {
        let stored = self.spool.read(id).await.map_err(|error| match error {
            SpoolError::NotFound(id) => VerbError::NotFound(id),
            error => VerbError::Spool(error),
        })?;
        Kept::decode(id, stored).map_err(|error| VerbError::Meta(id, error))
    }

    fn summary(&self, schedule: &Schedule, id: MessageId) -> Option<Summary> {
        let slot = schedule.slot(id)?;
        Some(Summary::new(id, slot, schedule.kept_by(slot), &self.clock))
    }
}

impl Verb {
    fn concerns(&self, rest: Rest) -> bool {
        match self {
            // What is in quarantine is held already.
            Self::Hold(_) => matches!(rest, Rest::Waiting(_) | Rest::Ready),
            Self::Release => matches!(rest, Rest::Held | Rest::Quarantined(_)),
            Self::Delete => true,
        }
    }
}

/// What a filter has found.
struct Selected {
    /// Sorted.
    ids: Vec<MessageId>,
    next: Option<MessageId>,
}

impl Selected {
    fn begin(&self, filter: &Filter) -> Changed {
        let missing = filter.ids.iter().copied().filter(|id| self.ids.binary_search(id).is_err());
        Changed { missing: missing.collect(), next: self.next, ..Changed::default() }
    }
}

fn shown_header(message: &Message) -> Vec<String> {
    let show = |field: &crate::mail::Field| {
        let value = field.value();
        format!("{}: {}", field.name(), value.get(..value.len().min(1000)).unwrap_or_default().escape_ascii())
    };
    message.header.fields().iter().take(MAX_FIELDS).map(show).collect()
}
