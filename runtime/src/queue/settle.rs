//! What follows from the outcomes of an attempt: new state, retry, expiry, DSN.
//!
//! One batch for each step: the state of the original, or its end, together with the DSN that reports on it. So a crash
//! leaves both or neither, and a DSN is made exactly once.

use std::sync::Arc;

use super::Queue;
use super::clock::{Millis, millis};
use super::dsn::{self, Action};
use super::life::{Tries, interval};
use super::meta::{Kept, LastWord, State, Status, encode};
use super::run::Turn;
use super::schedule::Rest;
use super::store::NewMail;
use crate::delivery::{Diagnosis, Outcome};
use crate::mail::{MessageId, Notify};
use crate::smtp::{Enhanced, Reply};
use crate::spool::Batch;

/// What else is known of an attempt.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Circumstances {
    /// It goes no further than this: a Maildir.
    pub is_final: bool,
    /// The destination is down: tried again when it is, not before this.
    pub down_until: Option<Millis>,
    /// Nothing was sent for this message; its destination was tried with others this often, last at that time.
    pub instead: Option<Tries>,
}

/// What happened to one recipient; the words are in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub recipient: usize,
    pub action: Action,
}

impl Queue {
    /// Records the outcomes, makes them durable, and ends the turn.
    pub(super) async fn settle(
        self: &Arc<Self>,
        turn: Turn,
        mut kept: Kept,
        outcomes: Vec<(usize, Outcome)>,
        circumstances: Circumstances,
    ) {
        let mut steps = self.apply(&mut kept, outcomes, circumstances);
        self.apply_time(&turn, &mut kept, &mut steps, circumstances);
        if circumstances.instead.is_some() && steps.is_empty() {
            // Looked at too early: nothing has changed that would be worth a sync.
            return turn.end(Rest::Ready, |_| {});
        }
        let rest = self.next_rest(&turn, &mut kept, circumstances);
        kept.state.observed = turn.observed();
        let report = self.report(&kept, &steps).await;
        self.record(&kept, &steps, report.as_ref()).await;
        self.story.settled(&kept, &steps, report.as_ref());
        if let Some(report) = report {
            let state = State::new(report.accepted.envelope.recipients.len());
            self.schedule_new(report, state);
        }
        turn.end(rest, |slot| {
            slot.attempts = kept.state.attempts;
            slot.last_word = kept.state.last_word();
            slot.warned = kept.state.delay_warned || kept.accepted.envelope.reverse_path.is_null();
        });
    }

    fn apply(&self, kept: &mut Kept, outcomes: Vec<(usize, Outcome)>, circumstances: Circumstances) -> Vec<Step> {
        let now = self.clock.wall();
        if circumstances.instead.is_none() {
            kept.state.attempts = kept.state.attempts.saturating_add(1);
        }
        let mut steps = Vec::with_capacity(outcomes.len());
        for (recipient, outcome) in outcomes {
            let Some(state) = kept.state.recipients.get_mut(recipient) else { continue };
            let (status, action, diagnosis) = match outcome {
                Outcome::Delivered(d) if d.dsn_relayed => (Status::Relayed, Action::HandedOver, d),
                Outcome::Delivered(d) if circumstances.is_final => (Status::Delivered, Action::Delivered, d),
                Outcome::Delivered(d) => (Status::Delivered, Action::Relayed, d),
                Outcome::Deferred(d) => (Status::Pending, Action::Deferred, d),
                Outcome::Failed(d) => (Status::Failed, Action::Failed, d),
            };
            state.status = status;
            state.last = Some(LastWord::new(&diagnosis, now));
            if circumstances.instead.is_none() {
                state.attempts = state.attempts.saturating_add(1);
            }
            steps.push(Step { recipient, action });
        }
        steps
    }

    /// Expiry and delay warning, for those that still wait.
    fn apply_time(&self, turn: &Turn, kept: &mut Kept, steps: &mut Vec<Step>, circumstances: Circumstances) {
        let settings = self.settings();
        let now = self.clock.now();
        let life = turn.life();
        let own = Tries { count: kept.state.attempts, last: Some(now) };
        let tries = circumstances.instead.unwrap_or(own);
        let pending = kept.state.pending();
        if life.is_expired(now, settings.expiry, tries) {
            steps.retain(|step| step.action != Action::Deferred);
            for recipient in pending {
                if let Some(state) = kept.state.recipients.get_mut(recipient) {
                    state.status = Status::Expired;
                    steps.push(Step { recipient, action: Action::Expired });
                }
            }
            return;
        }
        let due = settings.delay_warning.is_some_and(|age| life.age(now) >= millis(age));
        let silent = kept.state.delay_warned || kept.accepted.envelope.reverse_path.is_null();
        if due && !silent && !pending.is_empty() {
            kept.state.delay_warned = true;
            steps.extend(pending.into_iter().map(|recipient| Step { recipient, action: Action::Delayed }));
        }
    }

    fn next_rest(&self, turn: &Turn, kept: &mut Kept, circumstances: Circumstances) -> Rest {
        kept.state.next_attempt = None;
        if kept.state.pending().is_empty() {
            return Rest::Gone;
        }
        if let Some(until) = circumstances.down_until {
            kept.state.next_attempt = Some(self.clock.at(until));
            return Rest::Ready;
        }
        let settings = self.settings();
        let now = self.clock.now();
        let wait = interval(&settings.retry, kept.state.attempts, settings.jitter_percent);
        let mut at = now.saturating_add(wait);
        // Not past the time at which there is something to say to the sender: the attempt made then decides.
        let life = turn.life();
        let warning = settings.delay_warning.filter(|_| !kept.state.delay_warned).map(|age| life.reaches(age));
        for deadline in warning.into_iter().chain([life.reaches(settings.expiry)]).filter(|at| *at > now) {
            at = at.min(deadline);
        }
        kept.state.next_attempt = Some(self.clock.at(at));
        Rest::Waiting(at)
    }

    /// The DSN, if someone is to be told.
    async fn report(&self, kept: &Kept, steps: &[Step]) -> Option<NewMail> {
        let accepted = &kept.accepted;
        // SP12: a report to somebody who has not sent this is backscatter.
        if accepted.envelope.reverse_path.is_null() || (accepted.sender_forged && !accepted.authenticated) {
            return None;
        }
        let wanted = steps.iter().filter(|step| {
            let recipient = kept.accepted.envelope.recipients.get(step.recipient);
            recipient.is_some_and(|recipient| is_wanted(recipient.notify, step.action, kept.accepted.authenticated))
        });
        let wanted: Vec<Step> = wanted.copied().collect();
        if wanted.is_empty() {
            return None;
        }
        dsn::report(&self.settings(), kept, &wanted, MessageId::next(), self.clock.wall()).await
    }

    async fn record(&self, kept: &Kept, steps: &[Step], report: Option<&NewMail>) {
        let report = report.and_then(|mail| mail.encode(&State::new(mail.accepted.envelope.recipients.len())).ok());
        let is_done = kept.state.pending().is_empty();
        let sent = |step: &Step| matches!(step.action, Action::Delivered | Action::Relayed | Action::HandedOver);
        if is_done && report.is_none() && !steps.is_empty() && steps.iter().all(sent) {
            // The next hop has it: that this is written a little later costs at most a repeated delivery.
            self.spool.forget(kept.id);
            return;
        }
        let state = match encode(&kept.state) {
            Ok(state) => state,
            Err(error) => return self.story.unreadable(kept.id, &error),
        };
        let batch = || Batch {
            store: report.iter().map(|report| report.entry()).collect(),
            state: if is_done { Vec::new() } else { vec![(kept.id, state.clone())] },
            done: if is_done { vec![kept.id] } else { Vec::new() },
        };
        self.commit_persistently(kept.id, batch).await;
    }
}

/// RFC 3461 §4.1. For a parameter that was not given failures are reported, and delays may be: they are where the sender
/// is proven, so that nobody is told of the delay of what he never sent.
fn is_wanted(notify: Option<Notify>, action: Action, authenticated: bool) -> bool {
    let notify = notify.unwrap_or(Notify { success: false, failure: true, delay: authenticated });
    match action {
        Action::Failed | Action::Expired => notify.failure,
        Action::Delayed => notify.delay,
        Action::Delivered | Action::Relayed => notify.success,
        // RFC 3461 §5.2.2: the next hop reports.
        Action::HandedOver | Action::Deferred => false,
    }
}

/// What is said of a recipient when no next hop has said anything.
pub(super) fn nothing_said() -> Diagnosis {
    let reply = Reply::new(451, Some(Enhanced::new(4, 1)), "No answer from the next hop");
    Diagnosis { host: None, reply, remote: false, of_recipient: false, dsn_relayed: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify_matrix() {
        let given = |success, failure, delay| Some(Notify { success, failure, delay });
        let never = given(false, false, false);
        for (notify, action, expected) in [
            (None, Action::Failed, true),
            (None, Action::Expired, true),
            (None, Action::Delayed, true),
            (None, Action::Relayed, false),
            (None, Action::Delivered, false),
            (never, Action::Failed, false),
            (never, Action::Expired, false),
            (never, Action::Delayed, false),
            (never, Action::Delivered, false),
            (given(true, false, false), Action::Delivered, true),
            (given(true, false, false), Action::Relayed, true),
            (given(true, false, false), Action::HandedOver, false),
            (given(true, false, false), Action::Failed, false),
            (given(false, true, false), Action::Failed, true),
            (given(false, true, false), Action::Expired, true),
            (given(false, true, false), Action::Delayed, false),
            (given(false, false, true), Action::Delayed, true),
            (given(true, true, true), Action::Deferred, false),
        ] {
            assert_eq!(is_wanted(notify, action, true), expected, "{notify:?} {action:?}");
        }
        assert!(is_wanted(None, Action::Failed, false));
        assert!(!is_wanted(None, Action::Delayed, false));
        assert!(is_wanted(given(false, false, true), Action::Delayed, false));
    }
}
