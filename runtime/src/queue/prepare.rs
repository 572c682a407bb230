//! Before the first attempt: one message for each destination, and the `deliver` chains asked once for each. Where they
//! send recipients different ways, these become messages of their own.
//!
//! What they made of it is durable before anything is sent, so every attempt sends the same octets. Where they made
//! nothing of it, the message is on disk as it is, and that they were asked is noted with the first outcome.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use super::Queue;
use super::meta::{Accepted, Kept, Quarantined, RecipientState, State};
use super::run::Turn;
use super::schedule::{Rest, quarantine_end};
use super::settle::Circumstances;
use super::store::{Encoded, NewMail};
use crate::delivery::{DestinationKey, Diagnosis, Outcome};
use crate::mail::{Mail, MessageId, Recipient, Route};
use crate::pipeline::Verdict;
use crate::smtp::{Host, Mailbox, Reply};
use crate::spool::Batch;

/// What the queue asks of those who know the plugins and the tenants.
pub trait Prepare: Send + Sync {
    /// Runs the `deliver` chains: once for each message and destination; again only after a `defer`, or when the process
    /// died before the answer was durable: an answer that edits nothing becomes durable with the first outcome.
    fn prepare<'a>(&'a self, mail: Mail, accepted: &'a Accepted)
    -> Pin<Box<dyn Future<Output = Prepared> + Send + 'a>>;

    /// Where a recipient's mail goes when no plugin has chosen a route; `None`: by MX. Asked at each attempt, so a
    /// changed destination takes effect at once. For a DSN (`accepted.kind`) the recipient's domain alone decides.
    fn destination(&self, accepted: &Accepted, recipient: &Recipient) -> Option<Route>;
}

#[derive(Debug, Clone)]
pub struct Prepared {
    pub verdict: Verdict,
    /// With the edits. Its message, envelope, tags and routes are kept; the message must not be `None`.
    pub mail: Mail,
    /// Some plugin was asked.
    pub judged: bool,
    /// Something of the mail is not as it was, so it must be kept. False saves storing the message a second time.
    pub edited: bool,
}

/// Recipients of a message that go the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub route: Route,
    /// What a plugin chose, see [`Accepted::route`].
    pub chosen: Option<Route>,
    /// Indices into the envelope.
    pub recipients: Vec<usize>,
}

impl Group {
    pub(super) fn key(&self) -> Arc<str> {
        Arc::from(DestinationKey::new(&self.route, None).0)
    }
}

/// Groups in the order of their first recipients.
pub(super) fn groups(prepare: &dyn Prepare, accepted: &Accepted, recipients: &[usize]) -> Vec<Group> {
    groups_with(prepare, accepted, recipients, &[])
}

/// With the routes that some recipients have of their own.
fn groups_with(
    prepare: &dyn Prepare,
    accepted: &Accepted,
    recipients: &[usize],
    own: &[(Mailbox, Route)],
) -> Vec<Group> {
    let own: HashMap<&Mailbox, &Route> = own.iter().map(|(mailbox, route)| (mailbox, route)).collect();
    let mut known = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for &index in recipients {
        let Some(recipient) = accepted.envelope.recipients.get(index) else { continue };
        let chosen = own.get(&recipient.mailbox).copied().or(accepted.route.as_ref());
        let route = route_of(prepare, accepted, recipient, chosen);
        // What is chosen stays and a destination may change, so two that are equal today are not the same.
        let at = *known.entry((chosen, route.clone())).or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.recipients.push(index),
            None => groups.push(Group { route, chosen: chosen.cloned(), recipients: vec![index] }),
        }
    }
    groups
}

fn route_of(prepare: &dyn Prepare, accepted: &Accepted, recipient: &Recipient, chosen: Option<&Route>) -> Route {
    match chosen.cloned().or_else(|| prepare.destination(accepted, recipient)) {
        None | Some(Route::Mx(None)) => match &recipient.mailbox.host {
            Host::Domain(domain) => Route::Mx(Some(domain.clone())),
            Host::Literal(address) => Route::Literal(*address),
        },
        Some(route) => route,
    }
}

impl Queue {
    pub(super) async fn prepare_message(self: &Arc<Self>, turn: Turn, kept: Kept) {
        let groups = groups(&*self.prepare, &kept.accepted, &kept.state.pending());
        match groups.as_slice() {
            [] => self.discard(turn, kept, "no recipient is left").await,
            [group] => self.ask_chains(turn, kept, group).await,
            _ => self.split(turn, kept, &groups).await,
        }
    }

    /// Makes a message of its own for each group: all of them durable at once, in place of the original. The first keeps
    /// its name; where there is but one group, that is the message itself.
    pub(super) async fn split(self: &Arc<Self>, turn: Turn, kept: Kept, groups: &[Group]) {
        let observed = turn.observed();
        let mut parts: Vec<(NewMail, State)> = Vec::with_capacity(groups.len());
        for (n, group) in groups.iter().enumerate() {
            let id = if n == 0 { kept.id } else { MessageId::next() };
            let mut accepted = kept.accepted.clone();
            let mut state = State { recipients: Vec::new(), observed, ..kept.state.clone() };
            accepted.route.clone_from(&group.chosen);
            accepted.envelope.recipients.clear();
            for &index in &group.recipients {
                accepted.envelope.recipients.extend(kept.accepted.envelope.recipients.get(index).cloned());
                state.recipients.extend(kept.state.recipients.get(index).cloned());
            }
            if n > 0 {
                accepted.origin = Some(kept.id);
            }
            parts.push((NewMail { id, accepted, message: kept.message.clone() }, state));
        }
        let encoded: Result<Vec<_>, _> = parts.iter().map(|(mail, state)| mail.encode(state)).collect();
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return self.put_aside(turn, &error),
        };
        let batch = || Batch { store: encoded.iter().map(Encoded::entry).collect(), ..Batch::default() };
        self.commit_persistently(kept.id, batch).await;
        let mut ends = parts.into_iter().zip(groups);
        let first = ends.next();
        for ((mail, state), group) in ends {
            self.story.split(kept.id, &mail, &group.route);
            let mut slot = self.slot(&mail, &state, group.key());
            slot.life = turn.life();
            let id = mail.id;
            self.keep_fresh(mail, state);
            self.insert(id, slot, Rest::Ready);
        }
        if let Some(((mail, state), group)) = first {
            let fresh = self.slot(&mail, &state, group.key());
            self.keep_fresh(mail, state);
            turn.end(Rest::Ready, |slot| {
                // Its life and attempts go on; all of this may have been edited.
                slot.sender = fresh.sender;
                slot.recipient = fresh.recipient;
                slot.recipients = fresh.recipients;
                slot.size = fresh.size;
                slot.warned = fresh.warned;
                slot.key = fresh.key;
                slot.prepared |= fresh.prepared;
            });
        }
    }

    async fn ask_chains(self: &Arc<Self>, turn: Turn, kept: Kept, group: &Group) {
        let mut envelope = kept.accepted.envelope.clone();
        let mut index = 0..;
        envelope.recipients.retain(|_| index.next().is_some_and(|at| group.recipients.contains(&at)));
        let mail = Mail {
            id: kept.id,
            tenant: kept.accepted.tenant.clone(),
            envelope,
            message: Some(kept.message.clone()),
            tags: kept.accepted.tags.clone(),
            route: kept.accepted.route.clone(),
            recipient_routes: Vec::new(),
            signatures: Vec::new(),
            evidence: Default::default(),
        };
        let prepared = self.prepare.prepare(mail, &kept.accepted).await;
        self.story.prepared(kept.id, &prepared);
        match prepared.verdict {
            Verdict::Next | Verdict::Accept => self.keep_prepared(turn, kept, prepared, group).await,
            // Who released it has decided: the plugins' edits count, their doubts do not.
            Verdict::Quarantine(_) | Verdict::Reject(_) if kept.state.released => {
                self.keep_prepared(turn, kept, prepared, group).await;
            }
            Verdict::Quarantine(reason) => self.quarantine(turn, kept, reason).await,
            Verdict::Discard => self.discard(turn, kept, "a plugin discarded it").await,
            Verdict::Reject(reply) if kept.accepted.authenticated => {
                self.refuse_all(turn, kept, Outcome::Failed, reply).await;
            }
            // A report would go to someone who may never have sent this.
            Verdict::Reject(reply) => self.quarantine(turn, kept, reply.to_string()).await,
            Verdict::Defer(reply) => self.refuse_all(turn, kept, Outcome::Deferred, reply).await,
            // There is nobody to disconnect: an error of the plugin.
            Verdict::Disconnect(_) => {
                self.refuse_all(turn, kept, Outcome::Deferred, Reply::local_error()).await;
            }
        }
    }

    async fn refuse_all(self: &Arc<Self>, turn: Turn, kept: Kept, outcome: fn(Diagnosis) -> Outcome, reply: Reply) {
        let diagnosis = Diagnosis { host: None, reply, remote: false, of_recipient: false, dsn_relayed: false };
        let outcomes = kept.state.pending().into_iter().map(|at| (at, outcome(diagnosis.clone()))).collect();
        self.settle(turn, kept, outcomes, Circumstances::default()).await;
    }

    async fn keep_prepared(self: &Arc<Self>, turn: Turn, kept: Kept, prepared: Prepared, group: &Group) {
        if !prepared.edited {
            self.fresh.keep(kept, self.settings().cache);
            turn.end(Rest::Ready, |slot| {
                slot.prepared = true;
                slot.key = group.key();
            });
            return;
        }
        let mail = prepared.mail;
        let accepted = Accepted {
            envelope: mail.envelope,
            tags: mail.tags,
            route: mail.route,
            prepared: true,
            ..kept.accepted.clone()
        };
        let recipients = accepted.envelope.recipients.iter().map(|recipient| recipient_state(&kept, recipient));
        let state = State { recipients: recipients.collect(), observed: turn.observed(), ..kept.state.clone() };
        let groups = groups_with(&*self.prepare, &accepted, &state.pending(), &mail.recipient_routes);
        if groups.is_empty() {
            return self.discard(turn, kept, "a plugin removed all recipients").await;
        }
        let message = mail.message.unwrap_or_else(|| kept.message.clone());
        self.split(turn, Kept { id: kept.id, accepted, state, message }, &groups).await;
    }

    /// Keeps it back: not tried, not reported, removed in the end.
    async fn quarantine(self: &Arc<Self>, turn: Turn, mut kept: Kept, reason: String) {
        let settings = self.settings();
        let since = self.clock.wall();
        kept.state.quarantined = Some(Quarantined { reason: reason.clone(), since });
        kept.state.observed = turn.observed();
        self.commit_state(&kept).await;
        self.story.quarantined(&kept.accepted, kept.id, &reason);
        turn.end(Rest::Quarantined(quarantine_end(since, settings.quarantine_keep, &self.clock)), |slot| {
            slot.reason = Some(reason.into());
        });
    }

    /// Drops it, on a plugin's word.
    pub(super) async fn discard(self: &Arc<Self>, turn: Turn, kept: Kept, cause: &str) {
        self.commit_persistently(kept.id, || Batch { done: vec![kept.id], ..Batch::default() }).await;
        self.story.discarded(&kept.accepted, kept.id, cause);
        turn.end(Rest::Gone, |_| {});
    }
}

/// What is known of a recipient, after edits of the envelope.
fn recipient_state(kept: &Kept, recipient: &Recipient) -> RecipientState {
    let before = kept.accepted.envelope.recipients.iter().position(|r| r.mailbox == recipient.mailbox);
    before.and_then(|at| kept.state.recipients.get(at)).cloned().unwrap_or_default()
}
