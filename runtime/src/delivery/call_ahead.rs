//! Call-ahead (X9): whether a mailbox exists is asked of the server behind the gateway, before mail for it is taken.
//!
//! Answers are kept for each tenant apart. One recipient is asked for once at a time, however many wait for the answer;
//! of one destination only so much is asked at once; and one that is down is left alone for a while. What it said before
//! of a mailbox that exists counts while it can't be asked, however long ago that was: then a mailbox that was there is
//! more likely still there than not, and mail that is taken waits in the queue.
//!
//! What refuses the mailbox and what refuses *us* is told apart: only the first may refuse mail for good. A refusal that
//! does not say which of the two it is counts where the destination takes another recipient of the domain.
//!
//! What deliveries hear of recipients is learned as well. That a mailbox exists outlasts a restart, where somebody keeps it;
//! that there is none does not: it is asked anew, for mailboxes are made while a gateway is down.

mod destination;
mod memory;
mod said;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::sync::Cache;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::destination::Destination;
pub use self::memory::Memory;
use self::said::Said;
use super::question::{NoReply, Question};
use super::{Delivery, DestinationKey, Outcome};
use crate::mail::Route;
use crate::metrics::Metrics;
use crate::smtp::{Host, Mailbox, Reply, ReversePath};

/// How long a destination that is down is not asked. Short: whoever waits for it comes back in minutes.
const DOWN_FOR: Duration = Duration::from_secs(30);
/// That a destination takes mail for somebody in a domain is believed for so long: it may begin to refuse whoever we are.
const OPEN_FOR: Duration = Duration::from_secs(600);
/// Recipients that are asked for at a time, in all; there are fewer sessions than that.
const MAX_ASKED: usize = 4096;
/// Destinations whose state is kept; they come from config.
const MAX_DESTINATIONS: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallAheadSettings {
    /// `<>` unless the destination refuses that.
    pub sender: ReversePath,
    /// For one question: its turn, connections, and all replies.
    pub timeout: Duration,
    /// How long it is known that a mailbox exists.
    pub keep_existing: Duration,
    /// How long it is known that there is none.
    pub keep_unknown: Duration,
    /// Answers that are kept, of all tenants.
    pub cache_entries: u64,
    /// Questions at once to one destination.
    pub concurrency: usize,
}

impl Default for CallAheadSettings {
    fn default() -> Self {
        Self {
            sender: ReversePath(None),
            // A plugin's call has 10 seconds, and must hear of it.
            timeout: Duration::from_secs(8),
            keep_existing: Duration::from_secs(24 * 3600),
            keep_unknown: Duration::from_secs(3600),
            cache_entries: 100_000,
            concurrency: 5,
        }
    }
}

/// What is known of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    Exists,
    /// The reply that refused it for good.
    Unknown(Reply),
    /// It can't be said now, and why.
    Unavailable(String),
}

impl Presence {
    const fn label(&self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Unknown(_) => "unknown",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// A tenant, and a recipient of it: what one tenant's server says is never another's answer.
type Key = (Arc<str>, Mailbox);

#[derive(Clone)]
struct Known {
    presence: Presence,
    /// Who has said it. Another destination has other mailboxes.
    route: Route,
    until: Instant,
}

/// Whether the destination takes mail for any recipient of a tenant's domain.
#[derive(Clone)]
struct Openness {
    is_open: bool,
    route: Route,
    until: Instant,
}

/// What a reload changes.
struct InForce {
    settings: CallAheadSettings,
    /// By how often and how lately a key was asked for: a flood of mailboxes that nobody asks for twice drives none out
    /// that get mail.
    cache: Cache<Key, Known>,
}

pub struct CallAhead {
    delivery: Arc<Delivery>,
    in_force: ArcSwap<InForce>,
    /// By tenant and domain.
    openness: Cache<(Arc<str>, Host), Openness>,
    memory: Memory,
    /// Nobody has asked yet: where call-ahead is not used, deliveries teach it nothing.
    is_used: AtomicBool,
    /// Those that are being asked for.
    asked: Mutex<HashMap<Key, watch::Receiver<Option<Presence>>>>,
    destinations: Mutex<HashMap<DestinationKey, Arc<Destination>>>,
    metrics: Arc<Metrics>,
}

impl InForce {
    fn new(settings: CallAheadSettings) -> Self {
        Self { cache: Cache::new(settings.cache_entries), settings }
    }
}

impl CallAhead {
    pub fn new(settings: CallAheadSettings, delivery: Arc<Delivery>, memory: Memory, metrics: Arc<Metrics>) -> Self {
        Self {
            delivery,
            in_force: ArcSwap::from_pointee(InForce::new(settings)),
            openness: Cache::new(MAX_DESTINATIONS as u64),
            memory,
            is_used: AtomicBool::new(false),
            asked: Mutex::default(),
            destinations: Mutex::default(),
            metrics,
        }
    }

    /// The next question goes by these. Answers are forgotten only where another number of them is to be kept.
    pub fn configure(&self, settings: CallAheadSettings) {
        let before = self.in_force.load();
        if before.settings == settings {
            return;
        }
        let same_size = before.settings.cache_entries == settings.cache_entries;
        let cache = if same_size { before.cache.clone() } else { Cache::new(settings.cache_entries) };
        self.in_force.store(Arc::new(InForce { settings, cache }));
    }

    /// Of a recipient of that tenant, whose mail goes by that route. Within the time that config allows; what is asked
    /// when the caller goes away is still asked to its end, and remembered.
    pub async fn presence(self: &Arc<Self>, tenant: &Arc<str>, route: &Route, recipient: &Mailbox) -> Presence {
        // It takes whatever comes.
        if matches!(route, Route::Maildir(_)) {
            return Presence::Exists;
        }
        self.is_used.store(true, Ordering::Relaxed);
        let key = (tenant.clone(), recipient.clone());
        let known = self.known(&key, route);
        if let Some(known) = known.as_ref().filter(|known| known.until > Instant::now()) {
            return self.counted(known.presence.clone(), "cache");
        }
        match self.ask_once(key, route).await {
            Presence::Unavailable(_) if known.is_some_and(|known| known.presence == Presence::Exists) => {
                self.counted(Presence::Exists, "expired")
            }
            presence => presence,
        }
    }

    /// What deliveries of one mail have heard of recipients of that tenant.
    pub fn learn_from<'a>(
        &self,
        tenant: &Arc<str>,
        route: &Route,
        heard: impl Iterator<Item = (&'a Mailbox, &'a Outcome)>,
    ) {
        if !self.is_used.load(Ordering::Relaxed) {
            return;
        }
        for (recipient, outcome) in heard {
            let presence = match outcome {
                Outcome::Delivered(diagnosis) if diagnosis.remote => Presence::Exists,
                // A reply to MAIL or the data may speak of the sender in the same words.
                Outcome::Failed(diagnosis) if diagnosis.remote && diagnosis.of_recipient => {
                    match Said::of(diagnosis.reply.clone()) {
                        Said::Unknown(reply) => Presence::Unknown(reply),
                        _ => continue,
                    }
                }
                _ => continue,
            };
            let key = (tenant.clone(), recipient.clone());
            let known = self.in_force.load().cache.get(&key).filter(|known| known.route == *route);
            // Of mail that comes again and again it is enough to hear now and then.
            let half = self.in_force.load().settings.keep_existing / 2;
            let is_fresh = |known: Known| known.presence == presence && known.until > Instant::now() + half;
            if !known.is_some_and(is_fresh) {
                self.learn(&key, route.clone(), &presence);
            }
        }
    }

    /// In the cache, or from before the last restart.
    fn known(&self, key: &Key, route: &Route) -> Option<Known> {
        let in_force = self.in_force.load();
        let known = in_force.cache.get(key).or_else(|| {
            let (route, until) = self.memory.recall(key)?;
            let known = Known { presence: Presence::Exists, route, until };
            // What was learned meanwhile is newer.
            Some(in_force.cache.entry(key.clone()).or_insert(known).into_value())
        });
        known.filter(|known| known.route == *route)
    }

    fn counted(&self, presence: Presence, source: &str) -> Presence {
        self.metrics.call_aheads.with_label_values(&[presence.label(), source]).inc();
        presence
    }

    async fn ask_once(self: &Arc<Self>, key: Key, route: &Route) -> Presence {
        let mut answer = {
            let mut asked = self.lock_asked();
            match asked.get(&key) {
                Some(answer) => answer.clone(),
                None if asked.len() >= MAX_ASKED => {
                    drop(asked);
                    return self.counted(Presence::Unavailable("too many questions at a time".to_owned()), "limit");
                }
                None => {
                    let (said, answer) = watch::channel(None);
                    asked.insert(key.clone(), answer.clone());
                    drop(asked);
                    self.begin(key, route.clone(), said);
                    answer
                }
            }
        };
        let said = answer.wait_for(Option::is_some).await.map(|said| said.clone());
        said.ok().flatten().unwrap_or_else(|| Presence::Unavailable("the question was interrupted".to_owned()))
    }

    /// On its own: a client that hangs up, or a plugin that waits no longer, does not end what others wait for.
    fn begin(self: &Arc<Self>, key: Key, route: Route, said: watch::Sender<Option<Presence>>) {
        let asked = Asked { call_ahead: self.clone(), key };
        tokio::spawn(async move {
            let call_ahead = &asked.call_ahead;
            let start = Instant::now();
            let presence = call_ahead.ask(&asked.key, &route).await;
            call_ahead.metrics.call_ahead_seconds.observe(start.elapsed().as_secs_f64());
            let presence = call_ahead.counted(presence, "destination");
            if presence == Presence::Exists {
                call_ahead.note_open(&asked.key, route.clone());
            }
            call_ahead.learn(&asked.key, route, &presence);
            // Before it is said: who comes from now on finds it in the cache.
            drop(asked);
            let _ = said.send(Some(presence));
        });
    }

    async fn ask(&self, key: &Key, route: &Route) -> Presence {
        let in_force = self.in_force.load_full();
        let deadline = Instant::now() + in_force.settings.timeout;
        match self.ask_for(&in_force.settings, route, &key.1, deadline).await {
            Said::Exists => Presence::Exists,
            Said::Unknown(reply) => Presence::Unknown(reply),
            Said::Unavailable(cause) => Presence::Unavailable(cause),
            Said::Refused(reply) => match self.is_open(&in_force.settings, key, route, deadline).await {
                true => Presence::Unknown(reply),
                false => Presence::Unavailable(format!("{reply}; nor does it take mail for postmaster there")),
            },
        }
    }

    /// The destination takes mail for somebody in that domain, so that what it refuses is a mailbox: it has said so before,
    /// or it does for `postmaster`, who is everywhere (RFC 5321 §4.5.1).
    async fn is_open(&self, settings: &CallAheadSettings, key: &Key, route: &Route, deadline: Instant) -> bool {
        let (tenant, recipient) = key;
        let domain = (tenant.clone(), recipient.host.clone());
        let known = self.openness.get(&domain).filter(|known| known.route == *route && known.until > Instant::now());
        if let Some(known) = known {
            return known.is_open;
        }
        let Ok(postmaster) = Mailbox::parse(&format!("postmaster@{}", recipient.host)) else { return false };
        let (is_open, keep) = match self.ask_for(settings, route, &postmaster, deadline).await {
            // One that has a reason for this mailbox has looked at the mailbox.
            Said::Exists | Said::Unknown(_) => (true, OPEN_FOR),
            Said::Refused(_) => (false, DOWN_FOR),
            Said::Unavailable(_) => return false,
        };
        self.openness.insert(domain, Openness { is_open, route: route.clone(), until: Instant::now() + keep });
        is_open
    }

    async fn ask_for(
        &self,
        settings: &CallAheadSettings,
        route: &Route,
        recipient: &Mailbox,
        deadline: Instant,
    ) -> Said {
        let destination = self.destination(DestinationKey::new(route, recipient.domain()), settings.concurrency);
        let Some(_turn) = destination.turn(deadline).await else {
            return Said::Unavailable("too many questions before this one".to_owned());
        };
        // After the wait: those who waited beside it don't try one after the other what is down.
        if let Some(cause) = destination.why_down() {
            return Said::Unavailable(cause);
        }
        let question = Question { sender: &settings.sender, recipient };
        // One that has just answered another question is slow with this one (a tarpit, say), and not down.
        let no_reply =
            || Err(NoReply { cause: "no reply in time".to_owned(), down: !destination.has_answered_lately() });
        match timeout_at(deadline, self.delivery.ask(route, &question)).await.unwrap_or_else(|_| no_reply()) {
            Ok(reply) => {
                destination.note_answer();
                Said::of(reply)
            }
            Err(NoReply { cause, down }) => {
                destination.set_down(down.then(|| (Instant::now() + DOWN_FOR, cause.clone())));
                Said::Unavailable(cause)
            }
        }
    }

    /// It has taken somebody, when it was asked as it will be asked again: what a delivery hears was said to another sender.
    fn note_open(&self, (tenant, recipient): &Key, route: Route) {
        let domain = (tenant.clone(), recipient.host.clone());
        self.openness.insert(domain, Openness { is_open: true, route, until: Instant::now() + OPEN_FOR });
    }

    fn learn(&self, key: &Key, route: Route, presence: &Presence) {
        let in_force = self.in_force.load();
        let settings = &in_force.settings;
        let keep = match presence {
            Presence::Exists => settings.keep_existing,
            Presence::Unknown(_) => settings.keep_unknown,
            Presence::Unavailable(_) => return,
        };
        let until = Instant::now() + keep;
        if *presence == Presence::Exists {
            self.memory.keep(key, &route, keep);
        } else {
            self.memory.forget(key);
        }
        in_force.cache.insert(key.clone(), Known { presence: presence.clone(), route, until });
    }

    fn destination(&self, key: DestinationKey, concurrency: usize) -> Arc<Destination> {
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = destinations.get(&key).filter(|known| known.concurrency() == concurrency) {
            return known.clone();
        }
        if destinations.len() >= MAX_DESTINATIONS {
            destinations.retain(|_, destination| Arc::strong_count(destination) > 1);
        }
        let destination = Arc::new(Destination::new(concurrency));
        destinations.insert(key, destination.clone());
        destination
    }

    fn lock_asked(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Presence>>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question under way; dropped, it is none any more, however it ended.
struct Asked {
    call_ahead: Arc<CallAhead>,
    key: Key,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.call_ahead.lock_asked().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x9_a_flood_of_mailboxes_drives_none_out_that_get_mail() {
        let InForce { cache, .. } =
            InForce::new(CallAheadSettings { cache_entries: 50, ..CallAheadSettings::default() });
        let route = Route::Mx(None);
        let known = Known { presence: Presence::Exists, route, until: Instant::now() };
        let key = |local: &str| (Arc::from("t"), Mailbox::parse(&format!("{local}@example.com")).unwrap());
        for n in 0..2000 {
            for real in ["anna", "bob"] {
                if cache.get(&key(real)).is_none() {
                    cache.insert(key(real), known.clone());
                }
            }
            cache.insert(key(&n.to_string()), known.clone());
            cache.run_pending_tasks();
        }
        assert!(cache.entry_count() <= 50, "{}", cache.entry_count());
        assert!(cache.contains_key(&key("anna")) && cache.contains_key(&key("bob")));
    }
}
