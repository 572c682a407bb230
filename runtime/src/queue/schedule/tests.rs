use jiff::Timestamp;
use tokio::time::Duration;

use super::super::clock::Clock;
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
