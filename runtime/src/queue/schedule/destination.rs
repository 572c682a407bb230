//! One destination: whose messages are ready for it, how many go to it at a time, and whether it is down.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::super::clock::Millis;
use super::super::meta::LastWord;
use super::slot::Tenant;
use crate::mail::MessageId;

/// Deliveries at a time to a destination of which nothing is known yet; it doubles with each success.
const FIRST_ALLOWED: usize = 4;

/// A tenant's messages, in the order in which they became ready.
type Line = BTreeMap<u64, MessageId>;

#[derive(Debug, Default)]
pub struct Destination {
    lines: BTreeMap<Tenant, Line>,
    /// Lines of tenants that have as many deliveries under way as they may.
    parked: BTreeMap<Tenant, Line>,
    /// Who was served last.
    turn: Option<Tenant>,
    pub running: usize,
    allowed: Option<usize>,
    pub down: Option<Down>,
    /// Messages whose destination this is, ready or not.
    pub messages: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// Not tried before.
    pub until: Millis,
    pub failures: u32,
    pub tried: Millis,
    pub last: Arc<LastWord>,
}

impl Destination {
    /// A line that leads to no next hop: only its own limit counts.
    pub fn unlimited() -> Self {
        Self { allowed: Some(usize::MAX), ..Self::default() }
    }

    pub fn push(&mut self, tenant: &Tenant, sequence: u64, id: MessageId) {
        let lines = if self.parked.contains_key(tenant) { &mut self.parked } else { &mut self.lines };
        lines.entry(tenant.clone()).or_default().insert(sequence, id);
    }

    pub fn remove(&mut self, tenant: &Tenant, sequence: u64) {
        for lines in [&mut self.lines, &mut self.parked] {
            if let Some(line) = lines.get_mut(tenant) {
                line.remove(&sequence);
                if line.is_empty() {
                    lines.remove(tenant);
                }
            }
        }
    }

    /// The next message, tenants in turn. `has_room` says who may have one more; the others are parked, and named in
    /// `parked`.
    pub fn pop(&mut self, has_room: impl Fn(&Tenant) -> bool, parked: &mut Vec<Tenant>) -> Option<MessageId> {
        loop {
            let after = self.turn.as_ref().and_then(|turn| self.lines.range((Excluded(turn), Unbounded)).next());
            let tenant = after.or_else(|| self.lines.iter().next()).map(|(tenant, _)| tenant.clone())?;
            self.turn = Some(tenant.clone());
            if !has_room(&tenant) {
                if let Some(line) = self.lines.remove(&tenant) {
                    self.parked.insert(tenant.clone(), line);
                    parked.push(tenant);
                }
                continue;
            }
            let line = self.lines.get_mut(&tenant)?;
            let first = line.pop_first();
            if line.is_empty() {
                self.lines.remove(&tenant);
            }
            if let Some((_, id)) = first {
                return Some(id);
            }
        }
    }

    /// Messages that stand in its lines.
    pub fn ready(&self) -> usize {
        self.lines.values().chain(self.parked.values()).map(BTreeMap::len).sum()
    }

    /// The tenant has room again.
    pub fn unpark(&mut self, tenant: &Tenant) {
        if let Some(line) = self.parked.remove(tenant) {
            self.lines.entry(tenant.clone()).or_default().extend(line);
        }
    }

    pub fn is_blocked(&self, now: Millis) -> bool {
        self.down.as_ref().is_some_and(|down| down.until > now)
    }

    /// Something is ready for it, and it may be tried now.
    pub fn is_eligible(&self, now: Millis, most: usize) -> bool {
        !self.lines.is_empty() && !self.is_blocked(now) && self.running < self.allowed(most)
    }

    /// While it is down, one message tries it for all.
    fn allowed(&self, most: usize) -> usize {
        if self.down.is_some() { 1 } else { self.allowed.unwrap_or(FIRST_ALLOWED).min(most).max(1) }
    }

    /// It answered: it is up, and may get more at a time.
    pub fn answered(&mut self, most: usize) {
        let before = self.allowed(most);
        self.down = None;
        self.allowed = Some(before.saturating_mul(2).min(most));
    }

    /// It took part in a dialogue that came to no end: what more it gets at a time must be earned anew.
    pub fn strained(&mut self, most: usize) {
        let before = self.allowed(most);
        self.down = None;
        self.allowed = Some((before / 2).max(1));
    }

    /// It did not answer. Failures of attempts that ran side by side count once. `wait` says for how long, by failures.
    pub fn failed(&mut self, now: Millis, last: Arc<LastWord>, wait: impl Fn(u32) -> u64) -> Millis {
        let failures = self.down.as_ref().map_or(0, |down| down.failures);
        let until = match &self.down {
            Some(down) if down.until > now => down.until,
            _ => now.saturating_add(wait(failures + 1)),
        };
        let failures = if self.is_blocked(now) { failures } else { failures.saturating_add(1) };
        self.allowed = Some(1);
        self.down = Some(Down { until, failures, tried: now, last });
        until
    }

    /// Nothing to remember any more.
    pub fn is_idle(&self, now: Millis) -> bool {
        self.messages == 0 && self.running == 0 && !self.is_blocked(now)
    }
}
