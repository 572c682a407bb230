//! The schedule alone: order, fairness, destinations that are down.

use jiff::Timestamp;
use tokio::time::Duration;

use super::super::clock::Clock;
use super::super::life::Life;
use super::super::meta::{Accepted, State};
use super::*;
use crate::mail::{Envelope, Recipient};
use crate::smtp::{Domain, Mailbox, ReversePath};

fn settings() -> Settings {
    Settings { jitter_percent: 0, ..Settings::new(Domain::parse("mx.example.net").unwrap()) }
}

fn slot(tenant: Option<&str>, key: &str) -> Slot {
    let clock = Clock::start();
    let mut envelope = Envelope::new(ReversePath(Some(Mailbox::parse("a@example.com").unwrap())));
    envelope.recipients.push(Recipient::new(Mailbox::parse("b@example.org").unwrap()));
    let mut accepted = Accepted::new(envelope, clock.wall());
    accepted.prepared = true;
    accepted.tenant = tenant.map(Into::into);
    Slot::new(&accepted, &State::new(1), 1, key.into(), &clock)
}

fn id(n: u64) -> MessageId {
    MessageId::from_u64(n)
}

fn word() -> Arc<LastWord> {
    let (status, text) = ("4.4.1".to_owned(), "down".to_owned());
    Arc::new(LastWord { host: None, status, text, remote: false, at: Timestamp::UNIX_EPOCH })
}

fn drain(schedule: &mut Schedule, now: Millis) -> Vec<u64> {
    std::iter::from_fn(|| schedule.next(now)).map(|work| work.id.as_u64()).collect()
}

#[test]
fn destinations_take_turns_and_tenants_within_them() {
    let mut schedule = Schedule::new(Arc::new(settings()));
    for (n, tenant, key) in
        [(1, "a", "x"), (2, "a", "x"), (3, "a", "x"), (4, "b", "x"), (5, "a", "y"), (6, "a", "y"), (7, "c", "z")]
    {
        schedule.insert(id(n), slot(Some(tenant), key), Rest::Ready, 0);
    }
    assert_eq!(drain(&mut schedule, 0), [1, 5, 7, 4, 6, 2, 3]);
}

#[test]
fn a_new_destination_starts_with_few_and_gets_more() {
    let mut schedule = Schedule::new(Arc::new(settings()));
    for n in 0..40 {
        schedule.insert(id(n), slot(None, "x"), Rest::Ready, 0);
    }
    let mut at_a_time = Vec::new();
    loop {
        let started = drain(&mut schedule, 0);
        if started.is_empty() {
            break;
        }
        at_a_time.push(started.len());
        started.iter().for_each(|n| schedule.finish(id(*n), Rest::Gone, 0, |_| {}));
        schedule.destination_answered(&"x".into(), 0);
    }
    assert_eq!(at_a_time, [4, 8, 16, 12]);
    assert!(schedule.messages.is_empty() && schedule.timers.is_empty() && schedule.ages.is_empty());
    assert_eq!(schedule.destinations.len(), 2, "only the two lines that are none");
    assert_eq!(schedule.counts(), [0; 5]);
}

#[test]
fn a_destination_that_is_down_is_probed_by_one_and_its_waits_grow() {
    let mut schedule = Schedule::new(Arc::new(settings()));
    let key: Arc<str> = "x".into();
    for n in 0..9 {
        schedule.insert(id(n), slot(None, "x"), Rest::Ready, 0);
    }
    let mut now = 0;
    for (expected, minutes) in [(4, 1), (1, 2), (1, 5), (1, 10)] {
        schedule.wake(now);
        let started = drain(&mut schedule, now);
        assert_eq!(started.len(), expected);
        for n in started {
            // Those that ran side by side tell the same failure.
            let until = schedule.destination_failed(&key, word(), now);
            assert_eq!(until, now + minutes * 60_000);
            schedule.finish(id(n), Rest::Ready, now, |_| {});
        }
        assert_eq!(schedule.next(now), None);
        now += minutes * 60_000;
    }
    schedule.unblock(&key, now);
    assert_eq!(schedule.down("x"), None);
    assert!(!drain(&mut schedule, now).is_empty());
}

#[test]
fn o9_destinations_that_hang_do_not_take_all_places() {
    for (tenants, expected) in [(10, 175), (1, 100)] {
        let mut schedule = Schedule::new(Arc::new(settings()));
        let live: Arc<str> = "live".into();
        let of_live = || slot(Some("t0"), "live");
        schedule.insert(id(0), of_live(), Rest::Ready, 0);
        assert_eq!(drain(&mut schedule, 0), [0]);
        schedule.destination_answered(&live, 0);
        schedule.finish(id(0), Rest::Gone, 0, |_| {});
        for n in 1..10_001 {
            let tenant = format!("t{}", n % tenants);
            schedule.insert(id(n), slot(Some(&tenant), &format!("dead{n}")), Rest::Ready, 0);
        }
        // Nobody knows yet that these hang, but who has answered before goes first.
        let mut started = drain(&mut schedule, 0);
        assert_eq!(started.len(), expected);
        schedule.insert(id(20_000), of_live(), Rest::Ready, 0);
        assert_eq!(drain(&mut schedule, 0), [20_000]);
        schedule.finish(id(20_000), Rest::Gone, 0, |_| {});
        while !started.is_empty() {
            for n in started {
                schedule.destination_failed(&format!("dead{n}").into(), word(), 0);
                schedule.finish(id(n), Rest::Ready, 0, |_| {});
            }
            started = drain(&mut schedule, 0);
        }
        // From then on they have a quarter, and a destination that is new goes before them.
        schedule.wake(60_000);
        assert_eq!(drain(&mut schedule, 60_000).len(), 50);
        schedule.insert(id(30_000), slot(Some("t0"), "new"), Rest::Ready, 60_000);
        assert_eq!(drain(&mut schedule, 60_000), [30_000]);
    }
}

#[test]
fn o5_a_destination_that_hangs_in_the_middle_gets_less_at_a_time() {
    let mut schedule = Schedule::new(Arc::new(settings()));
    let key: Arc<str> = "x".into();
    for n in 0..40 {
        schedule.insert(id(n), slot(None, "x"), Rest::Ready, 0);
    }
    for (answers, expected) in [(true, 4), (true, 8), (false, 16), (false, 8), (false, 4)] {
        let started = drain(&mut schedule, 0);
        assert_eq!(started.len(), expected);
        started.iter().for_each(|n| schedule.finish(id(*n), Rest::Ready, 0, |_| {}));
        if answers {
            schedule.destination_answered(&key, 0);
        } else {
            schedule.destination_strained(&key, 0);
        }
    }
}

#[test]
fn what_is_held_removed_or_claimed_is_not_started() {
    let mut schedule = Schedule::new(Arc::new(settings()));
    for n in 0..5 {
        schedule.insert(id(n), slot(None, "x"), Rest::Ready, 0);
    }
    schedule.insert(id(5), slot(None, "x"), Rest::Waiting(100), 0);
    schedule.insert(id(6), slot(None, "x"), Rest::Quarantined(1_000_000), 0);
    assert_eq!(schedule.claim(id(0), 0), Ok(Rest::Ready));
    assert_eq!(schedule.claim(id(0), 0), Err(Refused::Busy));
    assert_eq!(schedule.claim(id(9), 0), Err(Refused::NotFound));
    assert_eq!(schedule.claim(id(1), 0), Ok(Rest::Ready));
    schedule.finish(id(1), Rest::Held, 0, |_| {});
    assert_eq!(schedule.claim(id(2), 0), Ok(Rest::Ready));
    schedule.finish(id(2), Rest::Gone, 0, |_| {});
    assert_eq!(schedule.claim(id(5), 0), Ok(Rest::Waiting(100)));
    schedule.finish(id(5), Rest::Waiting(200), 0, |_| {});
    assert_eq!(drain(&mut schedule, 0), [3, 4]);
    assert_eq!(schedule.counts(), [0, 1, 3, 1, 1]);
    schedule.wake(150);
    assert_eq!(drain(&mut schedule, 150), [] as [u64; 0]);
    schedule.wake(200);
    assert_eq!(drain(&mut schedule, 200), [5]);
}

#[test]
fn a_message_that_moves_is_forgotten_where_it_was() {
    let mut schedule = Schedule::new(Arc::new(settings()));
    schedule.insert(id(1), slot(None, "x"), Rest::Ready, 0);
    assert_eq!(drain(&mut schedule, 0), [1]);
    schedule.finish(id(1), Rest::Ready, 0, |slot| slot.key = "y".into());
    assert!(!schedule.destinations.contains_key("x"));
    assert_eq!(drain(&mut schedule, 0), [1]);
    assert_eq!(schedule.running, 1);
    schedule.finish(id(1), Rest::Gone, 0, |_| {});
    assert_eq!((schedule.running, schedule.destinations.len()), (0, 2));
}

#[test]
fn quarantine_ends_after_its_time_but_not_at_the_start() {
    let keep = Duration::from_secs(30 * 24 * 3600);
    let day = 24 * 3_600_000;
    let clock = Clock::start();
    for (ago, expected) in [(0, 30 * day), (10, 20 * day), (40, day), (-4000, 30 * day)] {
        let since = clock.wall() - jiff::SignedDuration::from_hours(24 * ago);
        let end = quarantine_end(since, keep, &clock);
        assert!(end.abs_diff(expected) < 1000, "{ago}: {end}");
    }
}

#[test]
fn d8_what_memory_holds_of_a_message_stays_small() {
    assert!(size_of::<Slot>() <= 240, "{}", size_of::<Slot>());
}

#[test]
fn a_parked_line_is_not_left_behind_when_another_destination_is_down() {
    let settings = Settings { max_per_tenant: 1, ..settings() };
    let mut schedule = Schedule::new(Arc::new(settings));
    for (n, key) in [(1, "x"), (2, "x"), (3, "y"), (4, "z")] {
        schedule.insert(id(n), slot(Some("a"), key), Rest::Ready, 0);
    }
    assert_eq!(drain(&mut schedule, 0), [1]);
    schedule.destination_failed(&"x".into(), word(), 0);
    schedule.destination_failed(&"y".into(), word(), 0);
    schedule.finish(id(1), Rest::Ready, 0, |_| {});
    assert_eq!(drain(&mut schedule, 0), [4]);
}

/// What a run of the queue may do, in any order.
#[derive(Debug, Clone)]
enum Move {
    Insert(u8, u8, bool),
    Start,
    Finish(usize, u8),
    Claim(usize, u8),
    Answered(u8),
    Failed(u8),
    Unblock(u8),
    Pass(u64),
}

fn moves() -> impl proptest::strategy::Strategy<Value = Vec<Move>> {
    use proptest::prelude::*;
    let one = prop_oneof![
        4 => (0..3u8, 0..4u8, any::<bool>()).prop_map(|(tenant, key, prepared)| Move::Insert(tenant, key, prepared)),
        4 => Just(Move::Start),
        4 => (0..8usize, 0..5u8).prop_map(|(at, rest)| Move::Finish(at, rest)),
        1 => (0..20usize, 0..5u8).prop_map(|(at, rest)| Move::Claim(at, rest)),
        1 => (0..4u8).prop_map(Move::Answered),
        2 => (0..4u8).prop_map(Move::Failed),
        1 => (0..4u8).prop_map(Move::Unblock),
        2 => (1..600_000u64).prop_map(Move::Pass),
    ];
    proptest::collection::vec(one, 1..120)
}

struct Model {
    schedule: Schedule,
    now: Millis,
    running: Vec<MessageId>,
    all: Vec<MessageId>,
}

impl Model {
    fn rest(&self, which: u8) -> Rest {
        [Rest::Gone, Rest::Ready, Rest::Waiting(self.now + 300_000), Rest::Held, Rest::Quarantined(self.now + 9)]
            [usize::from(which)]
    }

    fn make(&mut self, step: Move) {
        let key = |n: u8| Arc::from(format!("d{n}"));
        match step {
            Move::Insert(tenant, key, prepared) => {
                let new = id(self.all.len() as u64);
                let mut slot = slot(Some(&format!("t{tenant}")), &format!("d{key}"));
                slot.prepared = prepared;
                self.schedule.insert(new, slot, Rest::Ready, self.now);
                self.all.push(new);
            }
            Move::Start => self.running.extend(self.schedule.next(self.now).map(|work| work.id)),
            Move::Finish(at, rest) if at < self.running.len() => {
                let (id, rest) = (self.running.swap_remove(at), self.rest(rest));
                self.schedule.finish(id, rest, self.now, |slot| slot.prepared = true);
            }
            Move::Claim(at, rest) if at < self.all.len() => {
                if self.schedule.claim(self.all[at], self.now).is_ok() {
                    let rest = self.rest(rest);
                    let life = Life::begin(self.now);
                    self.schedule.finish(self.all[at], rest, self.now, |slot| slot.life = life);
                }
            }
            Move::Answered(n) => self.schedule.destination_answered(&key(n), self.now),
            Move::Failed(n) => drop(self.schedule.destination_failed(&key(n), word(), self.now)),
            Move::Unblock(n) => self.schedule.unblock(&key(n), self.now),
            Move::Pass(time) => {
                self.now += time;
                self.schedule.wake(self.now);
            }
            Move::Finish(..) | Move::Claim(..) => {}
        }
    }

    fn check(&self) {
        let schedule = &self.schedule;
        assert_eq!(schedule.counts().iter().sum::<usize>(), schedule.messages.len());
        assert!(schedule.running <= schedule.settings.max_deliveries);
        let most = schedule.settings.max_per_tenant;
        assert!(schedule.tenants.values().all(|load| load.running <= most + most / FOR_PROVEN));
        let homes: usize = schedule.destinations.values().map(|d| d.messages).sum();
        assert_eq!(homes, schedule.messages.len());
        let [ready, waiting, delivering, ..] = schedule.counts();
        assert_eq!(schedule.ages.len(), ready + waiting + delivering);
    }

    /// Everything that is let go leaves, in bounded time: nothing is stuck in a line.
    fn empty(mut self) {
        for id in std::mem::take(&mut self.running) {
            self.schedule.finish(id, Rest::Ready, self.now, |_| {});
        }
        for id in self.all.clone() {
            // What stands in a line is left there: it must find its way out by itself.
            let kept_back = |slot: &Slot| matches!(slot.standing(), Standing::Held | Standing::Quarantined);
            if self.schedule.slot(id).is_some_and(kept_back) && self.schedule.claim(id, self.now).is_ok() {
                self.schedule.finish(id, Rest::Ready, self.now, |_| {});
            }
        }
        for _ in 0..400 {
            self.schedule.wake(self.now);
            while let Some(work) = self.schedule.next(self.now) {
                let rest = if work.lane == Lane::Deliver { Rest::Gone } else { Rest::Ready };
                self.schedule.finish(work.id, rest, self.now, |slot| slot.prepared = true);
            }
            self.now = self.schedule.next_wake().unwrap_or(self.now).max(self.now + 1);
        }
        assert!(self.schedule.messages.is_empty(), "{:?}", self.schedule);
        assert_eq!(self.schedule.running, 0);
        assert!(self.schedule.timers.is_empty() && self.schedule.ages.is_empty());
    }
}

proptest::proptest! {
    #[test]
    fn whatever_happens_nothing_is_stuck_or_counted_wrong(moves in moves()) {
        let settings = Settings { max_deliveries: 3, max_per_tenant: 2, max_per_destination: 2, max_preparing: 2, ..settings() };
        let schedule = Schedule::new(Arc::new(settings));
        let mut model = Model { schedule, now: 0, running: Vec::new(), all: Vec::new() };
        for step in moves {
            model.make(step);
            model.check();
        }
        model.empty();
    }
}
