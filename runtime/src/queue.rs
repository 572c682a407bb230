//! What is due when: schedule, retry, expiry, DSN, hold, quarantine.
//!
//! The queue stands between three seams: the [`Spool`] that remembers, the [`Prepare`] that asks the `deliver` chains and
//! knows the tenants' destinations, and the [`NextHop`] that delivers. In memory it holds what the schedule needs; the
//! mail itself, its envelope and its state are read from the spool when it is due. No outcome counts before it is
//! durable, so the process may die at any point (RFC 5321 §4.2.5, §6.1): a delivery may then be repeated, never lost.

mod clock;
mod deliver;
mod dsn;
mod filter;
mod fresh;
mod life;
mod meta;
mod operator;
mod overview;
mod prepare;
mod run;
mod schedule;
mod settings;
mod settle;
mod store;
mod story;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::Notify;

use self::clock::Clock;
#[cfg(any(test, fuzzing))]
pub use self::dsn::fuzz;
pub use self::filter::{Changed, Detail, Filter, Page, Summary};
use self::fresh::Fresh;
use self::life::Life;
use self::meta::Kept;
pub use self::meta::{Accepted, Kind, LastWord, MetaError, Quarantined, RecipientState, State, Status};
pub use self::operator::VerbError;
pub use self::overview::{DownDestination, Overview};
pub use self::prepare::{Prepare, Prepared};
pub use self::schedule::Standing;
use self::schedule::{Rest, Schedule, Slot, quarantine_end};
pub use self::settings::Settings;
pub use self::store::NewMail;
pub use self::story::Observer;
use self::story::Story;
use crate::delivery::NextHop;
use crate::log::EventLog;
use crate::mail::MessageId;
use crate::metrics::Metrics;
use crate::spool::{Batch, Recovered, Spool, SpoolError};

/// Messages of one recovery that are filed under one lock, so that mail is accepted meanwhile.
const RECOVERY_CHUNK: usize = 1000;

/// The queue; one for the gateway.
pub struct Queue {
    settings: ArcSwap<Settings>,
    spool: Arc<dyn Spool>,
    next_hop: Arc<dyn NextHop>,
    prepare: Arc<dyn Prepare>,
    story: Story,
    clock: Clock,
    schedule: Mutex<Schedule>,
    fresh: Fresh,
    /// Something may have become due.
    changed: Notify,
}

impl Queue {
    pub fn new(
        settings: Settings,
        spool: Arc<dyn Spool>,
        next_hop: Arc<dyn NextHop>,
        prepare: Arc<dyn Prepare>,
        log: EventLog,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let settings = Arc::new(settings);
        Arc::new(Self {
            schedule: Mutex::new(Schedule::new(settings.clone())),
            fresh: Fresh::default(),
            settings: ArcSwap::new(settings),
            spool,
            next_hop,
            prepare,
            story: Story::new(log, metrics),
            clock: Clock::start(),
            changed: Notify::new(),
        })
    }

    /// Who hears what becomes of mails, for the `event` hook. The first call counts.
    pub fn observe(&self, observer: Observer) {
        let _ = self.story.observer.set(observer);
    }

    /// New settings, from now on: what waits already keeps its time.
    pub fn configure(&self, settings: Settings) {
        let settings = Arc::new(settings);
        self.settings.store(settings.clone());
        self.schedule().configure(settings, self.clock.now());
        self.changed.notify_one();
    }

    /// New mail may come. Reports of our own always may.
    pub fn has_room(&self) -> bool {
        let messages = self.schedule().len();
        messages < self.settings().max_messages
    }

    /// Takes charge of mails: all of them durable when this returns `Ok`, and none otherwise. Those of one batch may be
    /// one content with several fates, e.g. with recipients split off for quarantine.
    ///
    /// Once called it goes on to its end even if the caller is dropped: a message that is durable is scheduled.
    pub async fn accept(self: &Arc<Self>, mails: Vec<NewMail>) -> Result<(), SpoolError> {
        let queue = self.clone();
        let taken = tokio::spawn(async move { queue.take(mails).await });
        taken.await.unwrap_or_else(|error| Err(SpoolError::Failed(error.to_string())))
    }

    async fn take(&self, mails: Vec<NewMail>) -> Result<(), SpoolError> {
        let states: Vec<State> = mails.iter().map(|mail| self.first_state(&mail.accepted)).collect();
        let mut batch = Batch::default();
        for (mail, state) in mails.iter().zip(&states) {
            // Can only be a path of a route that is not UTF-8.
            let encoded = mail.encode(state).map_err(|error| SpoolError::Failed(error.to_string()))?;
            batch.store.push(encoded.entry());
        }
        self.spool.commit(batch).await?;
        for (mail, state) in mails.into_iter().zip(states) {
            self.story.queued(&mail);
            self.schedule_new(mail, state);
        }
        Ok(())
    }

    fn first_state(&self, accepted: &Accepted) -> State {
        let mut state = State::new(accepted.envelope.recipients.len());
        let since = self.clock.wall();
        state.quarantined = accepted.quarantine.clone().map(|reason| Quarantined { reason, since });
        state
    }

    /// What the spool has found at the start. Blocking for some microseconds a message; mail may be accepted meanwhile.
    pub fn recover(&self, messages: Vec<Recovered>) {
        let total = messages.len() as u64;
        let mut unreadable = 0;
        let mut messages = messages.into_iter();
        loop {
            let chunk: Vec<_> = messages.by_ref().take(RECOVERY_CHUNK).map(|message| self.revive(&message)).collect();
            if chunk.is_empty() {
                break;
            }
            let now = self.clock.now();
            let mut schedule = self.schedule();
            for (id, slot, rest, readable) in chunk {
                unreadable += u64::from(!readable);
                schedule.insert(id, slot, rest, now);
            }
        }
        self.story.recovered(total, unreadable);
        self.changed.notify_one();
    }

    fn revive(&self, message: &Recovered) -> (MessageId, Slot, Rest, bool) {
        message.id.seen();
        match meta::decode_both(&message.meta, message.state.as_deref()) {
            Ok((accepted, state)) => {
                let key = self.key_of(&accepted, &state);
                let slot = Slot::new(&accepted, &state, message.size, key, &self.clock);
                (message.id, slot, self.rest_of(&state), true)
            }
            Err(error) => {
                self.story.unreadable(message.id, &error);
                let nobody = crate::mail::Envelope::new(crate::smtp::ReversePath::NULL);
                let accepted = Accepted::new(nobody, self.clock.wall());
                let state = State { held: Some(format!("unreadable: {error}")), ..State::default() };
                let slot = Slot::new(&accepted, &state, message.size, Arc::from("unreadable"), &self.clock);
                (message.id, slot, Rest::Held, false)
            }
        }
    }

    /// Where a message goes that no turn is at work on.
    fn rest_of(&self, state: &State) -> Rest {
        let settings = self.settings();
        if state.held.is_some() {
            return Rest::Held;
        }
        if let Some(quarantined) = &state.quarantined {
            return Rest::Quarantined(quarantine_end(quarantined.since, settings.quarantine_keep, &self.clock));
        }
        let Some(next) = state.next_attempt else { return Rest::Ready };
        // Never longer than the longest interval: the clock may have been set back (D7).
        let longest = settings.retry.iter().chain(&settings.destination_retry).max().copied().unwrap_or_default();
        let wait = u64::try_from(self.clock.offset(next)).unwrap_or(0).saturating_sub(self.clock.now());
        match wait.min(clock::millis(longest)) {
            0 => Rest::Ready,
            wait => Rest::Waiting(self.clock.now().saturating_add(wait)),
        }
    }

    /// The destination of the first recipient that is left.
    fn key_of(&self, accepted: &Accepted, state: &State) -> Arc<str> {
        let first: Vec<usize> = state.pending().into_iter().take(1).collect();
        let groups = prepare::groups(&*self.prepare, accepted, &first);
        groups.first().map_or_else(|| Arc::from("none"), prepare::Group::key)
    }

    fn slot(&self, mail: &NewMail, state: &State, key: Arc<str>) -> Slot {
        Slot::new(&mail.accepted, state, mail.message.len(), key, &self.clock)
    }

    /// A mail that has just become durable. Its life begins now, whatever the wall clock said when it came (D7).
    fn schedule_new(&self, mail: NewMail, state: State) {
        let mut slot = self.slot(&mail, &state, self.key_of(&mail.accepted, &state));
        slot.life = Life::begin(self.clock.now());
        let (id, rest) = (mail.id, self.rest_of(&state));
        if rest == Rest::Ready {
            self.keep_fresh(mail, state);
        }
        self.insert(id, slot, rest);
    }

    /// As it is on disk.
    fn keep_fresh(&self, mail: NewMail, state: State) {
        let NewMail { id, accepted, message } = mail;
        self.fresh.keep(Kept { id, accepted, state, message }, self.settings().cache);
    }

    fn insert(&self, id: MessageId, slot: Slot, rest: Rest) {
        self.schedule().insert(id, slot, rest, self.clock.now());
        self.changed.notify_one();
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// The date and time by the queue's clock, for [`Accepted::arrival`].
    pub fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// Never held across an await.
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
