//! What is due when, and whose turn it is. In memory, without I/O; each operation takes O(log n) of the messages.
//!
//! A message *waits* for its time, or is *ready* and stands in its tenant's line at its destination. Destinations are
//! served in turn, within one its tenants in turn; each has a limit, so that no destination and no tenant takes
//! everything. A destination that is down blocks its lines as a whole: nothing else is touched, nothing is tried in
//! vain, and when it is back all that stood there goes.

mod destination;
mod eligible;
mod place;

mod slot;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use self::destination::Destination;
pub use self::destination::Down;
use self::eligible::{Eligible, FOR_PROVEN};
use self::slot::Phase;
pub use self::slot::{Lane, Rest, Slot, Standing, Tenant, quarantine_end};
use super::clock::Millis;
use super::life::interval;
use super::meta::LastWord;
use super::settings::Settings;
use crate::mail::MessageId;

/// Timers that fire in one pass; the lock is not held for more.
const MAX_FIRED: usize = 1024;
/// Lines that are no destination's; no [`DestinationKey`](crate::delivery::DestinationKey) has this form.
const PREPARE: &str = "prepare";
const OVERDUE: &str = "overdue";

/// Something to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    pub id: MessageId,
    pub lane: Lane,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    NotFound,
    /// It is being worked on; whoever does that wins.
    Busy,
}

#[derive(Debug)]
pub struct Schedule {
    settings: Arc<Settings>,
    /// In the order of their ids, so that a list can go on where it stopped. Boxed: nodes have room to spare.
    messages: BTreeMap<MessageId, Box<Slot>>,
    timers: BTreeSet<(Millis, MessageId)>,
    destinations: HashMap<Arc<str>, Destination>,
    /// When blocked destinations are tried again.
    blocks: BTreeSet<(Millis, Arc<str>)>,
    /// Destinations that have something ready and may be tried, and what is under way, by what is known of them.
    eligible: Eligible,
    /// Which destination was served last.
    turn: Option<Arc<str>>,
    tenants: HashMap<Tenant, Load>,
    /// Tenants that may have room again, and have lines parked.
    roomy: BTreeSet<Tenant>,
    running: usize,
    sequence: u64,
    counts: [usize; Standing::ALL.len()],
    /// By arrival, without those that are kept back.
    ages: BTreeSet<(Millis, MessageId)>,
    prepare: Arc<str>,
    overdue: Arc<str>,
}

/// What a tenant has under way.
#[derive(Debug, Default)]
struct Load {
    running: usize,
    /// Destinations where a line of this tenant is parked.
    parked: BTreeSet<Arc<str>>,
    /// Where a line was let go last.
    turn: Option<Arc<str>>,
}

impl Schedule {
    pub fn new(settings: Arc<Settings>) -> Self {
        let (prepare, overdue) = (Arc::from(PREPARE), Arc::from(OVERDUE));
        let special = [&prepare, &overdue].map(|key: &Arc<str>| (key.clone(), Destination::unlimited()));
        Self {
            settings,
            messages: BTreeMap::new(),
            timers: BTreeSet::new(),
            destinations: HashMap::from(special),
            blocks: BTreeSet::new(),
            eligible: Eligible::default(),
            turn: None,
            tenants: HashMap::new(),
            roomy: BTreeSet::new(),
            running: 0,
            sequence: 0,
            counts: [0; Standing::ALL.len()],
            ages: BTreeSet::new(),
            prepare,
            overdue,
        }
    }

    pub fn configure(&mut self, settings: Arc<Settings>, now: Millis) {
        self.settings = settings;
        let keys: Vec<_> = self.destinations.keys().cloned().collect();
        keys.iter().for_each(|key| self.refresh(key, now));
        let parked = self.tenants.iter().filter(|(_, load)| !load.parked.is_empty());
        self.roomy = parked.map(|(tenant, _)| tenant.clone()).collect();
    }

    /// A message that was not there before; nothing happens when it was.
    pub fn insert(&mut self, id: MessageId, mut slot: Slot, rest: Rest, now: Millis) {
        if self.messages.contains_key(&id) || rest == Rest::Gone {
            return;
        }
        // One copy of each name, however many messages carry it.
        slot.key = self.settle_in(&slot.key);
        let tenant = self.tenants.entry(slot.tenant.clone());
        slot.tenant = tenant.key().clone();
        tenant.or_default();
        self.count(slot.standing(), true);
        self.messages.insert(id, Box::new(slot));
        self.place(id, rest, now);
    }

    /// Fires what is due.
    pub fn wake(&mut self, now: Millis) {
        while let Some((_, key)) = self.blocks.first().filter(|(at, _)| *at <= now).cloned() {
            self.blocks.pop_first();
            self.refresh(&key, now);
        }
        for _ in 0..MAX_FIRED {
            let Some(&(_, id)) = self.timers.first().filter(|(at, _)| *at <= now) else { return };
            self.fire(id, now);
        }
    }

    fn fire(&mut self, id: MessageId, now: Millis) {
        let Some(slot) = self.messages.get(&id) else { return };
        let blocked = self.destinations.get(&slot.key).is_some_and(|d| d.is_blocked(now));
        match slot.phase {
            Phase::Ready { lane: Lane::Deliver, .. } if blocked => self.queue_up(id, Lane::Overdue, now),
            Phase::Quarantined(_) => self.queue_up(id, Lane::Overdue, now),
            Phase::Ready { .. } => {
                let recheck = self.recheck();
                self.arm(id, Some(now.saturating_add(recheck)));
            }
            _ => self.place(id, Rest::Ready, now),
        }
    }

    /// The next thing to do now, if anything may be.
    pub fn next(&mut self, now: Millis) -> Option<Work> {
        loop {
            let Some(key) = self.next_key() else {
                if self.running < self.settings.max_deliveries && self.unpark_one(now) {
                    continue;
                }
                return None;
            };
            self.turn = Some(key.clone());
            let id = self.pop(&key);
            self.refresh(&key, now);
            let Some(id) = id else { continue };
            let Some(lane) = self.messages.get(&id).and_then(|slot| match slot.phase {
                Phase::Ready { lane, .. } => Some(lane),
                _ => None,
            }) else {
                continue;
            };
            self.arm(id, None);
            self.set_phase(id, Phase::Running(lane));
            self.occupy(&key, id, lane, now);
            return Some(Work { id, lane });
        }
    }

    fn next_key(&self) -> Option<Arc<str>> {
        if self.running >= self.settings.max_deliveries {
            return [&self.prepare, &self.overdue].into_iter().find(|key| self.eligible.has(key)).cloned();
        }
        self.eligible.next(self.turn.as_ref(), self.settings.max_deliveries)
    }

    /// Lets go a parked line of a tenant that has room. False when there is none.
    fn unpark_one(&mut self, now: Millis) -> bool {
        let most = self.settings.max_per_tenant.max(1);
        while let Some(tenant) = self.roomy.first().cloned() {
            let has_room = self.tenants.get(&tenant).is_some_and(|load| load.running < most);
            if has_room && self.unpark_next(&tenant, now) {
                return true;
            }
            self.roomy.remove(&tenant);
        }
        false
    }

    fn pop(&mut self, key: &Arc<str>) -> Option<MessageId> {
        let most = match self.settings.max_per_tenant.max(1) {
            _ if self.is_special(key) => usize::MAX,
            // A tenant's mail to many that are dead must not keep up its own to those that live.
            most if self.eligible.is_proven(key) => most + most / FOR_PROVEN,
            most => most,
        };
        let mut parked = Vec::new();
        let tenants = &self.tenants;
        let has_room = |tenant: &Tenant| tenants.get(tenant).is_none_or(|load| load.running < most);
        let id = self.destinations.get_mut(key).and_then(|d| d.pop(has_room, &mut parked));
        for tenant in parked {
            self.tenants.entry(tenant).or_default().parked.insert(key.clone());
        }
        id
    }

    /// When there may be something to do next.
    pub fn next_wake(&self) -> Option<Millis> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let block = self.blocks.first().map(|(at, _)| *at);
        timer.into_iter().chain(block).min()
    }

    /// Ends the work on a message. `update` brings what is known of it up to date.
    pub fn finish(&mut self, id: MessageId, rest: Rest, now: Millis, update: impl FnOnce(&mut Slot)) {
        let Some(slot) = self.messages.get_mut(&id) else { return };
        let (phase, key, tenant, born) = (slot.phase, slot.key.clone(), slot.tenant.clone(), slot.born());
        update(slot);
        // Filed anew by `place`, under the life that it has now.
        self.ages.remove(&(born, id));
        let new_key = std::mem::replace(&mut slot.key, key.clone());
        if let Phase::Running(lane) = phase {
            self.vacate(&self.line_key(&key, lane), &tenant, lane, now);
        }
        if new_key != key {
            self.move_to(id, &key, &new_key, now);
        }
        self.place(id, rest, now);
    }

    /// Takes a message out of the schedule's hands, for an operator's verb. Give it back with [`finish`](Self::finish).
    pub fn claim(&mut self, id: MessageId, now: Millis) -> Result<Rest, Refused> {
        let rest = match self.messages.get(&id).ok_or(Refused::NotFound)?.phase {
            Phase::Running(_) | Phase::Claimed => return Err(Refused::Busy),
            Phase::Waiting(at) => Rest::Waiting(at),
            Phase::Ready { .. } | Phase::Nowhere => Rest::Ready,
            Phase::Held => Rest::Held,
            Phase::Quarantined(at) => Rest::Quarantined(at),
        };
        self.lift(id, now);
        self.set_phase(id, Phase::Claimed);
        Ok(rest)
    }

    /// The message's destination took part in an SMTP dialogue.
    pub fn destination_answered(&mut self, key: &Arc<str>, now: Millis) {
        let most = self.settings.max_per_destination;
        if let Some(destination) = self.destinations.get_mut(key) {
            destination.answered(most);
            self.eligible.proven(key);
        }
        self.refresh(key, now);
    }

    /// It began to, and then hung or broke off: it gets less at a time, and none of what is set aside for the proven.
    pub fn destination_strained(&mut self, key: &Arc<str>, now: Millis) {
        let most = self.settings.max_per_destination;
        if let Some(destination) = self.destinations.get_mut(key) {
            destination.strained(most);
        }
        self.eligible.disproven(key);
        self.refresh(key, now);
    }

    /// The message's destination is down; gives the time until which it is not tried.
    pub fn destination_failed(&mut self, key: &Arc<str>, last: Arc<LastWord>, now: Millis) -> Millis {
        let settings = self.settings.clone();
        let wait = |failures| interval(&settings.destination_retry, failures, settings.jitter_percent);
        let Some(destination) = self.destinations.get_mut(key) else { return now };
        let until = destination.failed(now, last, wait);
        self.eligible.disproven(key);
        self.blocks.insert((until, key.clone()));
        self.refresh(key, now);
        until
    }

    /// Forgets that a destination is down.
    pub fn unblock(&mut self, key: &Arc<str>, now: Millis) {
        if let Some(destination) = self.destinations.get_mut(key) {
            destination.down = None;
        }
        self.refresh(key, now);
    }

    pub fn down(&self, key: &str) -> Option<&Down> {
        self.destinations.get(key).and_then(|d| d.down.as_ref())
    }

    /// Why a message that is ready is not tried: its destination is down.
    pub fn kept_by(&self, slot: &Slot) -> Option<&Down> {
        self.down(&slot.key).filter(|_| matches!(slot.phase, Phase::Ready { lane: Lane::Deliver, .. }))
    }

    pub fn slot(&self, id: MessageId) -> Option<&Slot> {
        self.messages.get(&id).map(Box::as_ref)
    }

    /// Ids later than this one, the oldest first.
    pub fn ids_after(&self, after: Option<MessageId>) -> impl Iterator<Item = MessageId> {
        self.messages.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(id, _)| *id)
    }

    pub fn latest(&self) -> Option<MessageId> {
        self.messages.last_key_value().map(|(id, _)| *id)
    }

    /// Destinations that are down and have messages.
    pub fn downs(&self) -> impl Iterator<Item = (&Arc<str>, &Destination, &Down)> {
        let with_mail = self.destinations.iter().filter(|(_, destination)| destination.messages > 0);
        with_mail.filter_map(|(key, destination)| Some((key, destination, destination.down.as_ref()?)))
    }

    /// Messages by standing, in the order of [`Standing::ALL`].
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn counts(&self) -> [usize; Standing::ALL.len()] {
        self.counts
    }

    /// Age of the oldest message that is to be delivered.
    pub fn oldest(&self, now: Millis) -> u64 {
        self.ages.first().and_then(|(_, id)| self.messages.get(id)).map_or(0, |slot| slot.life.age(now))
    }
}

#[cfg(test)]
mod tests;
