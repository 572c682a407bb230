//! One attempt: a message, its destination, one outcome for each recipient.

use std::sync::Arc;

use tokio::time::Instant;

use super::Queue;
use super::life::Tries;
use super::meta::{Kept, LastWord};
use super::prepare::{Group, groups};
use super::run::Turn;
use super::schedule::Rest;
use super::settle::{Circumstances, nothing_said};
use crate::delivery::{Diagnosis, Job, Outcome, Report};
use crate::mail::Route;
use crate::spool::Batch;

impl Queue {
    pub(super) async fn deliver_message(self: &Arc<Self>, turn: Turn, kept: Kept) {
        // Routes are asked for anew: a destination that was changed takes effect now.
        let groups = groups(&*self.prepare, &kept.accepted, &kept.state.pending());
        match groups.as_slice() {
            // Everything had been recorded, only its end was not.
            [] => self.finish_recorded(turn, &kept).await,
            [group] if group.key() != *turn.key() => turn.end(Rest::Ready, |slot| slot.key = group.key()),
            [group] => self.attempt(turn, kept, group).await,
            _ => self.split(turn, kept, &groups).await,
        }
    }

    async fn attempt(self: &Arc<Self>, turn: Turn, kept: Kept, group: &Group) {
        let mut envelope = kept.accepted.envelope.clone();
        let mut index = 0..;
        envelope.recipients.retain(|_| index.next().is_some_and(|at| group.recipients.contains(&at)));
        let job = Job { id: kept.id, route: group.route.clone(), envelope, message: kept.message.clone() };
        let start = Instant::now();
        let report = self.next_hop.deliver(job).await;
        let result = result_of(&report);
        self.story.attempt(kept.id, &group.route, report.destination_down, result, start.elapsed());
        let down_until = self.learn(turn.key(), &report);
        let is_final = matches!(group.route, Route::Maildir(_));
        let mut said = report.outcomes.into_iter();
        // A next hop that says nothing of a recipient has not taken the mail for it.
        let mut next = || said.next().unwrap_or_else(|| Outcome::Deferred(nothing_said()));
        let outcomes = group.recipients.iter().map(|&at| (at, next())).collect();
        self.settle(turn, kept, outcomes, Circumstances { is_final, down_until, instead: None }).await;
    }

    /// What the attempt says of the destination.
    fn learn(&self, key: &Arc<str>, report: &Report) -> Option<u64> {
        let now = self.clock.now();
        let mut schedule = self.schedule();
        if !report.destination_down {
            if has_hung(report) {
                schedule.destination_strained(key, now);
            } else {
                schedule.destination_answered(key, now);
            }
            return None;
        }
        let diagnosis = report.outcomes.first().map_or_else(nothing_said, |outcome| diagnosis(outcome).clone());
        let last = LastWord::new(&diagnosis, self.clock.wall());
        Some(schedule.destination_failed(key, Arc::new(last), now))
    }

    /// A message whose time came while its destination can't be tried.
    pub(super) async fn overdue_message(self: &Arc<Self>, turn: Turn, mut kept: Kept) {
        if kept.state.quarantined.is_some() {
            self.commit_persistently(kept.id, || Batch { done: vec![kept.id], ..Batch::default() }).await;
            self.story.deleted(kept.id, "quarantine-end");
            return turn.end(Rest::Gone, |_| {});
        }
        let down = self.schedule().down(turn.key()).cloned();
        let Some(down) = down else { return turn.end(Rest::Ready, |_| {}) };
        for at in kept.state.pending() {
            if let Some(state) = kept.state.recipients.get_mut(at) {
                state.last = Some((*down.last).clone());
            }
        }
        let count = kept.state.attempts.saturating_add(down.failures);
        let instead = Some(Tries { count, last: Some(down.tried) });
        let down_until = Some(down.until);
        self.settle(turn, kept, Vec::new(), Circumstances { is_final: false, down_until, instead }).await;
    }

    async fn finish_recorded(self: &Arc<Self>, turn: Turn, kept: &Kept) {
        self.commit_persistently(kept.id, || Batch { done: vec![kept.id], ..Batch::default() }).await;
        turn.end(Rest::Gone, |_| {});
    }
}

/// The next hop took MAIL and then said nothing more of any recipient.
fn has_hung(report: &Report) -> bool {
    let is_ours = |outcome: &Outcome| matches!(outcome, Outcome::Deferred(diagnosis) if !diagnosis.remote);
    report.outcomes.iter().any(is_ours) && report.outcomes.iter().all(|outcome| !diagnosis(outcome).remote)
}

pub(super) fn diagnosis(outcome: &Outcome) -> &Diagnosis {
    let (Outcome::Delivered(diagnosis) | Outcome::Deferred(diagnosis) | Outcome::Failed(diagnosis)) = outcome;
    diagnosis
}

/// The label of the metric: what was worst.
fn result_of(report: &Report) -> &'static str {
    let has = |wanted: fn(&Outcome) -> bool| report.outcomes.iter().any(wanted);
    if has(|outcome| matches!(outcome, Outcome::Deferred(_))) {
        "deferred"
    } else if has(|outcome| matches!(outcome, Outcome::Failed(_))) {
        "failed"
    } else {
        "ok"
    }
}
