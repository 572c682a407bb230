//! Call-ahead (X9): whether a mailbox exists is asked of the server behind the gateway, before mail for it is taken.
//!
//! Answers are kept for each tenant apart. One recipient is asked for once at a time, however many wait for the answer;
//! of one destination only so much is asked at once; and one that is down is left alone for a while. What it said before
//! of a mailbox that exists counts while it can't be asked, however long ago that was: then a mailbox that was there is
//! more likely still there than not, and mail that is taken waits in the queue.
//!
//! What refuses the mailbox and what refuses *us* is told apart: only the first may refuse mail for good.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::sync::Cache;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::question::{NoReply, Question};
use super::{Delivery, DestinationKey};
use crate::mail::Route;
use crate::metrics::Metrics;
use crate::smtp::{Enhanced, Mailbox, Reply, ReversePath};

/// How long a destination that is down is not asked. Short: whoever waits for it comes back in minutes.
const DOWN_FOR: Duration = Duration::from_secs(30);
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
    /// Those that are being asked for.
    asked: Mutex<HashMap<Key, watch::Receiver<Option<Presence>>>>,
    destinations: Mutex<HashMap<DestinationKey, Arc<Destination>>>,
    metrics: Arc<Metrics>,
}

struct Destination {
    turns: Semaphore,
    concurrency: usize,
    /// Until when it is not asked, and why.
    down: Mutex<Option<(Instant, String)>>,
    /// When it has last replied.
    answered: Mutex<Option<Instant>>,
}

impl InForce {
    fn new(settings: CallAheadSettings) -> Self {
        Self { cache: Cache::new(settings.cache_entries), settings }
    }
}

impl CallAhead {
    pub fn new(settings: CallAheadSettings, delivery: Arc<Delivery>, metrics: Arc<Metrics>) -> Self {
        Self {
            delivery,
            in_force: ArcSwap::from_pointee(InForce::new(settings)),
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
        let key = (tenant.clone(), recipient.clone());
        let known = self.in_force.load().cache.get(&key).filter(|known| known.route == *route);
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
            let (call_ahead, recipient) = (&asked.call_ahead, &asked.key.1);
            let start = Instant::now();
            let presence = call_ahead.ask(&route, recipient).await;
            call_ahead.metrics.call_ahead_seconds.observe(start.elapsed().as_secs_f64());
            let presence = call_ahead.counted(presence, "destination");
            call_ahead.learn(&asked.key, route, &presence);
            // Before it is said: who comes from now on finds it in the cache.
            drop(asked);
            let _ = said.send(Some(presence));
        });
    }

    async fn ask(&self, route: &Route, recipient: &Mailbox) -> Presence {
        let in_force = self.in_force.load_full();
        let settings = &in_force.settings;
        let deadline = Instant::now() + settings.timeout;
        let destination = self.destination(DestinationKey::new(route, recipient.domain()), settings.concurrency);
        let Ok(Ok(_turn)) = timeout_at(deadline, destination.turns.acquire()).await else {
            return Presence::Unavailable("too many questions before this one".to_owned());
        };
        // After the wait: those who waited beside it don't try one after the other what is down.
        if let Some(cause) = destination.why_down() {
            return Presence::Unavailable(cause);
        }
        let question = Question { sender: &settings.sender, recipient };
        // One that has just answered another question is slow with this one (a tarpit, say), and not down.
        let no_reply =
            || Err(NoReply { cause: "no reply in time".to_owned(), down: !destination.has_answered_lately() });
        match timeout_at(deadline, self.delivery.ask(route, &question)).await.unwrap_or_else(|_| no_reply()) {
            Ok(reply) => {
                destination.set_down(None);
                *destination.lock_answered() = Some(Instant::now());
                presence_of(reply)
            }
            Err(NoReply { cause, down }) => {
                destination.set_down(down.then(|| (Instant::now() + DOWN_FOR, cause.clone())));
                Presence::Unavailable(cause)
            }
        }
    }

    fn learn(&self, key: &Key, route: Route, presence: &Presence) {
        let in_force = self.in_force.load();
        let keep = match presence {
            Presence::Exists => in_force.settings.keep_existing,
            Presence::Unknown(_) => in_force.settings.keep_unknown,
            Presence::Unavailable(_) => return,
        };
        let known = Known { presence: presence.clone(), route, until: Instant::now() + keep };
        in_force.cache.insert(key.clone(), known);
    }

    fn destination(&self, key: DestinationKey, concurrency: usize) -> Arc<Destination> {
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = destinations.get(&key).filter(|known| known.concurrency == concurrency) {
            return known.clone();
        }
        if destinations.len() >= MAX_DESTINATIONS {
            destinations.retain(|_, destination| Arc::strong_count(destination) > 1);
        }
        let destination = Arc::new(Destination {
            turns: Semaphore::new(concurrency.max(1)),
            concurrency,
            down: Mutex::default(),
            answered: Mutex::default(),
        });
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

impl Destination {
    fn why_down(&self) -> Option<String> {
        let down = self.lock_down();
        down.as_ref().filter(|(until, _)| *until > Instant::now()).map(|(_, cause)| cause.clone())
    }

    fn has_answered_lately(&self) -> bool {
        self.lock_answered().is_some_and(|answered| answered.elapsed() < DOWN_FOR)
    }

    fn lock_answered(&self) -> MutexGuard<'_, Option<Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_down(&self, down: Option<(Instant, String)>) {
        *self.lock_down() = down;
    }

    fn lock_down(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a reply to RCPT says of the mailbox.
fn presence_of(reply: Reply) -> Presence {
    match reply.class() {
        2 => Presence::Exists,
        5 if is_about_mailbox(&reply) => Presence::Unknown(reply),
        _ => Presence::Unavailable(reply.to_string()),
    }
}

/// There is no such mailbox, and not: we may not send to it, or not now.
fn is_about_mailbox(reply: &Reply) -> bool {
    match reply.enhanced() {
        // RFC 3463 §3.2: X.1.7 and X.1.8 are about the sender's address, the others about the recipient's.
        Some(Enhanced { subject: 1, detail }) => !matches!(detail, 7 | 8),
        // What Exchange Online says of a mailbox that its directory does not have; no answer from a host, which it means
        // in RFC 3463 §3.5, can't be what a host says of itself.
        Some(Enhanced { subject: 4, detail: 1 }) => reply.code() == 550,
        // RFC 3463 §3.1: X.0.z says no more than the code.
        Some(Enhanced { subject: 1.., .. }) => false,
        // RFC 5321 §4.2.3: mailbox unavailable, user not local, mailbox name not allowed.
        Some(Enhanced { subject: 0, .. }) | None => matches!(reply.code(), 550 | 551 | 553),
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

    #[test]
    fn x9_what_replies_say_of_a_mailbox() {
        for (code, status, expected) in [
            (250, Some((1, 5)), "exists"),
            (251, None, "exists"),
            (252, Some((5, 2)), "exists"),
            (550, Some((1, 1)), "unknown"),
            (550, Some((1, 10)), "unknown"),
            (553, Some((1, 3)), "unknown"),
            (550, Some((4, 1)), "unknown"),
            (550, Some((0, 0)), "unknown"),
            (550, None, "unknown"),
            (551, None, "unknown"),
            (553, None, "unknown"),
            // The sender, us, the state of the mailbox or of the server.
            (550, Some((1, 7)), "unavailable"),
            (550, Some((1, 8)), "unavailable"),
            (550, Some((7, 1)), "unavailable"),
            (554, Some((7, 1)), "unavailable"),
            (554, Some((4, 1)), "unavailable"),
            (552, Some((2, 2)), "unavailable"),
            (550, Some((2, 1)), "unavailable"),
            (554, Some((0, 0)), "unavailable"),
            (554, None, "unavailable"),
            (552, None, "unavailable"),
            (503, Some((5, 1)), "unavailable"),
            (450, Some((1, 1)), "unavailable"),
            (451, None, "unavailable"),
            (452, Some((5, 3)), "unavailable"),
        ] {
            let status = status.map(|(subject, detail)| Enhanced::new(subject, detail));
            assert_eq!(presence_of(Reply::new(code, status, "x")).label(), expected, "{code} {status:?}");
        }
    }
}
