//! The bookkeeping of the schedule: where each message stands, and what that means for lines, timers and counts.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::super::clock::{Millis, millis};
use super::Schedule;
use super::slot::{Lane, Phase, Rest, Standing, Tenant};
use crate::mail::MessageId;

impl Schedule {
    pub(super) fn place(&mut self, id: MessageId, rest: Rest, now: Millis) {
        match rest {
            Rest::Waiting(at) => {
                self.lift(id, now);
                self.set_phase(id, Phase::Waiting(at));
                self.arm(id, Some(at));
            }
            Rest::Ready => {
                let prepared = self.messages.get(&id).is_some_and(|slot| slot.prepared);
                self.queue_up(id, if prepared { Lane::Deliver } else { Lane::Prepare }, now);
            }
            Rest::Held => {
                self.lift(id, now);
                self.set_phase(id, Phase::Held);
            }
            Rest::Quarantined(at) => {
                self.lift(id, now);
                self.set_phase(id, Phase::Quarantined(at));
                self.arm(id, Some(at));
            }
            Rest::Gone => self.remove(id, now),
        }
    }

    /// Into the line it belongs to.
    pub(super) fn queue_up(&mut self, id: MessageId, lane: Lane, now: Millis) {
        self.lift(id, now);
        let recheck = self.recheck();
        let Some(slot) = self.messages.get(&id) else { return };
        let deadline = slot.deadline(now, self.settings.delay_warning, self.settings.expiry, recheck);
        let (key, tenant) = (self.line_key(&slot.key, lane), slot.tenant.clone());
        self.sequence += 1;
        self.destinations.entry(key.clone()).or_default().push(&tenant, self.sequence, id);
        self.set_phase(id, Phase::Ready { lane, sequence: self.sequence });
        self.arm(id, (lane == Lane::Deliver).then_some(deadline));
        self.refresh(&key, now);
    }

    /// Out of line and timers.
    pub(super) fn lift(&mut self, id: MessageId, now: Millis) {
        self.arm(id, None);
        let Some(slot) = self.messages.get(&id) else { return };
        if let Phase::Ready { lane, sequence } = slot.phase {
            let (key, tenant) = (self.line_key(&slot.key, lane), slot.tenant.clone());
            if let Some(destination) = self.destinations.get_mut(&key) {
                destination.remove(&tenant, sequence);
            }
            self.set_phase(id, Phase::Nowhere);
            self.refresh(&key, now);
        }
    }

    pub(super) fn remove(&mut self, id: MessageId, now: Millis) {
        self.lift(id, now);
        self.set_phase(id, Phase::Held);
        let Some(slot) = self.messages.remove(&id) else { return };
        self.count(slot.standing(), false);
        if let Some(destination) = self.destinations.get_mut(&slot.key) {
            destination.messages -= 1;
        }
        self.refresh(&slot.key, now);
    }

    pub(super) fn arm(&mut self, id: MessageId, timer: Option<Millis>) {
        let Some(slot) = self.messages.get_mut(&id) else { return };
        if let Some(at) = std::mem::replace(&mut slot.timer, timer) {
            self.timers.remove(&(at, id));
        }
        if let Some(at) = timer {
            self.timers.insert((at, id));
        }
    }

    pub(super) fn set_phase(&mut self, id: MessageId, phase: Phase) {
        let Some(slot) = self.messages.get_mut(&id) else { return };
        let before = slot.standing();
        slot.phase = phase;
        let after = slot.standing();
        let born = slot.born();
        let kept_back = matches!(after, Standing::Held | Standing::Quarantined);
        self.count(before, false);
        self.count(after, true);
        if kept_back {
            self.ages.remove(&(born, id));
        } else {
            self.ages.insert((born, id));
        }
    }

    pub(super) fn count(&mut self, standing: Standing, more: bool) {
        let at = Standing::ALL.iter().position(|s| *s == standing);
        if let Some(count) = at.and_then(|at| self.counts.get_mut(at)) {
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    pub(super) fn occupy(&mut self, key: &Arc<str>, id: MessageId, lane: Lane, now: Millis) {
        if let Some(destination) = self.destinations.get_mut(key) {
            destination.running += 1;
        }
        if lane == Lane::Deliver {
            self.running += 1;
            let tenant = self.messages.get(&id).and_then(|slot| slot.tenant.clone());
            self.tenants.entry(tenant).or_default().running += 1;
        }
        self.refresh(key, now);
    }

    pub(super) fn vacate(&mut self, key: &Arc<str>, tenant: &Tenant, lane: Lane, now: Millis) {
        if let Some(destination) = self.destinations.get_mut(key) {
            destination.running = destination.running.saturating_sub(1);
        }
        self.refresh(key, now);
        if lane != Lane::Deliver {
            return;
        }
        self.running = self.running.saturating_sub(1);
        let Some(load) = self.tenants.get_mut(tenant) else { return };
        load.running = load.running.saturating_sub(1);
        if self.unpark_next(tenant, now) {
            // That line's destination may have no room for it; then another one's has.
            self.roomy.insert(tenant.clone());
        }
    }

    /// Lets go the next of a tenant's parked lines, destinations in turn. False when there is none.
    pub(super) fn unpark_next(&mut self, tenant: &Tenant, now: Millis) -> bool {
        let Some(load) = self.tenants.get_mut(tenant) else { return false };
        let after = load.turn.as_ref().and_then(|turn| load.parked.range((Excluded(turn.clone()), Unbounded)).next());
        let Some(key) = after.or_else(|| load.parked.first()).cloned() else { return false };
        load.parked.remove(&key);
        load.turn = Some(key.clone());
        if let Some(destination) = self.destinations.get_mut(&key) {
            destination.unpark(tenant);
        }
        self.refresh(&key, now);
        true
    }

    pub(super) fn move_to(&mut self, id: MessageId, from: &Arc<str>, to: &Arc<str>, now: Millis) {
        let to = self.settle_in(to);
        if let Some(slot) = self.messages.get_mut(&id) {
            slot.key = to;
        }
        if let Some(destination) = self.destinations.get_mut(from) {
            destination.messages -= 1;
        }
        self.refresh(from, now);
    }

    /// One more message for that destination; gives the shared copy of its name.
    pub(super) fn settle_in(&mut self, key: &Arc<str>) -> Arc<str> {
        let known = self.destinations.get_key_value(key).map(|(known, _)| known.clone());
        let key = known.unwrap_or_else(|| key.clone());
        self.destinations.entry(key.clone()).or_default().messages += 1;
        key
    }

    /// Brings `eligible` up to date with one destination, and forgets it when there is nothing to know.
    pub(super) fn refresh(&mut self, key: &Arc<str>, now: Millis) {
        let special = self.is_special(key);
        let most = if special { self.settings.max_preparing } else { self.settings.max_per_destination };
        let Some(destination) = self.destinations.get(key) else { return };
        let running = if special { 0 } else { destination.running };
        self.eligible.file(key, special, destination.down.is_some(), running, destination.is_eligible(now, most));
        if !special && destination.is_idle(now) {
            self.destinations.remove(key);
        }
    }

    pub(super) fn line_key(&self, home: &Arc<str>, lane: Lane) -> Arc<str> {
        match lane {
            Lane::Prepare => self.prepare.clone(),
            Lane::Deliver => home.clone(),
            Lane::Overdue => self.overdue.clone(),
        }
    }

    pub(super) fn is_special(&self, key: &Arc<str>) -> bool {
        *key == self.prepare || *key == self.overdue
    }

    /// How long until a deadline that could not be acted on is looked at again.
    pub(super) fn recheck(&self) -> u64 {
        self.settings.retry.first().copied().map_or(60_000, millis).max(1)
    }
}
