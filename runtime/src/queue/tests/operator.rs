//! Verbs and their races; quarantine.

use super::*;
use crate::queue::{Filter, Standing, VerbError};

async fn waiting(bench: &Bench) -> MessageId {
    bench.hop.answer(|_| deferred());
    let id = bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(1).await;
    id
}

async fn only(bench: &Bench) -> super::super::Summary {
    let mut list = bench.queue.list(&Filter::default()).await.unwrap().messages;
    assert_eq!(list.len(), 1);
    list.remove(0)
}

#[tokio::test(start_paused = true)]
async fn held_mail_stays_over_a_restart_and_goes_when_released() {
    let bench = Bench::new();
    let id = waiting(&bench).await;
    assert_eq!(bench.queue.hold(&Filter::id(id), "ask first").await.unwrap().changed, [id]);
    bench.pass(DAY).await;
    assert_eq!(bench.hop.sent().len(), 1);
    let again = Bench::with(settings(), bench.spool.after_crash(), Arc::default(), Arc::default());
    again.pass(DAY).await;
    let summary = only(&again).await;
    assert_eq!((summary.state, summary.reason.as_deref()), (Standing::Held, Some("ask first")));
    assert_eq!(again.queue.release(&Filter::default()).await.unwrap().changed, [id]);
    again.pass(1).await;
    assert_eq!(again.hop.sent().len(), 1);
    assert!(again.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_list_says_why_mail_waits_also_after_a_restart() {
    let bench = Bench::new();
    let id = waiting(&bench).await;
    let said = bench.queue.show(id).await.unwrap().progress.recipients[0].last.clone().unwrap().text;
    assert_eq!(only(&bench).await.last_word.as_deref(), Some(said.as_str()));
    let detail = bench.queue.show(id).await.unwrap();
    assert_eq!(detail.expires.unwrap(), detail.summary.arrival + settings().expiry);
    let again = Bench::with(settings(), bench.spool.after_crash(), Arc::default(), Arc::default());
    assert_eq!(only(&again).await.last_word.as_deref(), Some(said.as_str()));
}

#[tokio::test(start_paused = true)]
async fn flush_tries_now_even_a_destination_that_is_down() {
    let bench = Bench::new();
    bench.hop.report(down);
    let id = bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(10).await;
    assert_eq!(only(&bench).await.destination_down.as_deref(), Some("451 4.4.1 no answer from any host"));
    assert_eq!(bench.queue.flush(&Filter::default()).await.unwrap().changed, [id]);
    bench.pass(1).await;
    assert_eq!(bench.hop.times("b@example.org"), [0, 10]);
}

#[tokio::test(start_paused = true)]
async fn mail_for_a_destination_that_is_down_is_listed_as_waiting_for_it() {
    let bench = Bench::new();
    bench.hop.report(down);
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(10).await;
    // Never tried itself.
    let second = bench.accept(mail(&bench.queue, "a@example.com", &["c@example.org"])).await;
    bench.pass(10).await;
    assert!(bench.hop.times("c@example.org").is_empty());
    let of = |state| Filter { state: Some(state), ..Filter::default() };
    let waiting = bench.queue.list(&of(Standing::Waiting)).await.unwrap().messages;
    assert_eq!((waiting.len(), waiting[1].id, waiting[1].state), (2, second, Standing::Waiting));
    let next = waiting[1].next_attempt.unwrap().duration_since(bench.queue.now());
    assert_eq!(next.as_secs(), 40);
    assert!(bench.queue.list(&of(Standing::Ready)).await.unwrap().messages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn g5_a_message_that_is_being_delivered_is_left_alone() {
    let bench = Bench::new();
    *bench.hop.delay.lock().unwrap() = Duration::from_secs(10);
    let id = bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(1).await;
    for outcome in [
        bench.queue.delete(&Filter::id(id)).await,
        bench.queue.hold(&Filter::id(id), "x").await,
        bench.queue.flush(&Filter::id(id)).await,
    ] {
        assert_eq!(outcome.unwrap().busy, [id]);
    }
    bench.pass(60).await;
    assert_eq!(bench.hop.sent().len(), 1);
    assert_eq!(bench.queue.delete(&Filter::id(id)).await.unwrap().missing, [id]);
}

#[tokio::test(start_paused = true)]
async fn g5_two_who_delete_and_flush_at_once_make_one_end() {
    let bench = Bench::new();
    let id = waiting(&bench).await;
    bench.hop.answer(|_| delivered());
    let filter = Filter::id(id);
    let (first, second, flushed) =
        tokio::join!(bench.queue.delete(&filter), bench.queue.delete(&filter), bench.queue.flush(&filter));
    let won = [first, second].into_iter().filter(|done| done.as_ref().is_ok_and(|d| !d.changed.is_empty())).count();
    let flushed = flushed.unwrap().changed.len();
    bench.pass(DAY).await;
    let delivered = bench.hop.sent().len() - 1;
    assert_eq!(won + delivered, 1, "flushed {flushed}");
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_verb_that_cannot_be_made_durable_changes_nothing() {
    let bench = Bench::new();
    let id = waiting(&bench).await;
    bench.spool.fail_next(vec![crate::spool::SpoolError::Full]);
    let refused = bench.queue.delete(&Filter::id(id)).await;
    assert_eq!(refused, Err(VerbError::Spool(crate::spool::SpoolError::Full)));
    assert_eq!(only(&bench).await.state, Standing::Waiting);
    bench.pass(HOUR).await;
    assert!(bench.hop.sent().len() > 1);
}

#[tokio::test(start_paused = true)]
async fn quarantine_is_listed_shown_released_and_ends() {
    let bench = Bench::new();
    let of = |reason: &str| {
        let mut mail = mail(&bench.queue, "a@example.com", &["b@example.org"]);
        mail.accepted.quarantine = Some(reason.to_owned());
        mail
    };
    let (kept, released) = (bench.accept(of("spam")).await, bench.accept(of("maybe")).await);
    bench.pass(DAY).await;
    assert!(bench.hop.sent().is_empty());
    let quarantine = Filter { state: Some(Standing::Quarantined), ..Filter::default() };
    assert_eq!(bench.queue.list(&quarantine).await.unwrap().messages.len(), 2);
    let detail = bench.queue.show(kept).await.unwrap();
    assert_eq!(detail.progress.quarantined.unwrap().reason, "spam");
    assert_eq!(detail.header, ["Message-ID: <1@example.com>", "Subject: hello"]);
    bench.queue.release(&Filter::id(released)).await.unwrap();
    bench.pass(1).await;
    assert_eq!(bench.hop.sent()[0].id, released);
    bench.pass(28 * DAY).await;
    assert_eq!(bench.spool.ids(), [kept]);
    bench.pass(2 * DAY).await;
    assert!(bench.spool.ids().is_empty());
    assert_eq!(bench.hop.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn released_mail_has_all_its_time_before_it() {
    let bench = Bench::new();
    bench.hop.answer(|to| if to == "b@example.org" { deferred() } else { delivered() });
    let mut old = mail(&bench.queue, "a@example.com", &["b@example.org"]);
    old.accepted.quarantine = Some("spam".to_owned());
    let id = bench.accept(old).await;
    bench.pass(20 * DAY).await;
    bench.queue.release(&Filter::id(id)).await.unwrap();
    bench.pass(DAY).await;
    let again = Bench::with(settings(), bench.spool.after_crash(), bench.hop.clone(), Arc::default());
    bench.running.abort();
    again.pass(3 * DAY).await;
    assert_eq!(again.spool.ids(), [id]);
    assert_eq!(again.hop.times("a@example.com"), [20 * DAY + 4 * HOUR], "the delay warning");
}

#[tokio::test(start_paused = true)]
async fn the_oldest_age_follows_the_next_mail_after_a_release() {
    let bench = Bench::new();
    let oldest = || bench.metrics.queue_oldest_seconds.get();
    let id = waiting(&bench).await;
    bench.pass(99).await;
    bench.queue.hold(&Filter::id(id), "x").await.unwrap();
    bench.pass(100).await;
    assert_eq!(oldest(), 0.0, "what is held does not count");
    bench.hop.answer(|to| if to == "b@example.org" { delivered() } else { deferred() });
    bench.queue.release(&Filter::id(id)).await.unwrap();
    bench.pass(1).await;
    assert!(bench.spool.ids().is_empty());
    bench.accept(mail(&bench.queue, "a@example.com", &["c@example.org"])).await;
    bench.pass(100).await;
    assert!((90.0..=100.0).contains(&oldest()), "{}", oldest());
}

#[tokio::test(start_paused = true)]
async fn a_message_shows_when_it_expires() {
    let bench = Bench::new();
    let id = waiting(&bench).await;
    let mut kept = mail(&bench.queue, "a@example.com", &["b@example.org"]);
    kept.accepted.quarantine = Some("spam".to_owned());
    let quarantined = bench.accept(kept).await;
    let days = async |id| {
        let detail = bench.queue.show(id).await.unwrap();
        detail.expires.map(|at| at.duration_since(detail.accepted.arrival).as_secs() / i64::try_from(DAY).unwrap())
    };
    assert_eq!((days(id).await, days(quarantined).await), (Some(5), Some(30)));
    bench.queue.hold(&Filter::id(id), "x").await.unwrap();
    assert_eq!(days(id).await, None);
    bench.pass(2 * DAY).await;
    bench.queue.release(&Filter::id(id)).await.unwrap();
    assert_eq!(days(id).await, Some(7), "its time begins anew");
}

#[tokio::test(start_paused = true)]
async fn quarantine_is_not_held() {
    let bench = Bench::new();
    let mut kept = mail(&bench.queue, "a@example.com", &["b@example.org"]);
    kept.accepted.quarantine = Some("spam".to_owned());
    let id = bench.accept(kept).await;
    assert_eq!(bench.queue.hold(&Filter::id(id), "x").await.unwrap().changed, []);
    assert_eq!(only(&bench).await.reason.as_deref(), Some("spam"));
}

#[tokio::test(start_paused = true)]
async fn filters_select() {
    let bench = Bench::new();
    bench.hop.answer(|_| deferred());
    let mut first = mail(&bench.queue, "a@example.com", &["b@example.org", "c@example.org"]);
    first.accepted.tenant = Some("acme".into());
    let first = bench.accept(first).await;
    bench.pass(100).await;
    let second = bench.accept(mail(&bench.queue, "", &["d@example.net"])).await;
    bench.pass(1).await;
    let some = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (Filter::default(), vec![first, second]),
        (Filter { limit: Some(1), ..Filter::default() }, vec![first]),
        (Filter::id(second), vec![second]),
        (Filter { ids: vec![second, second, first], ..Filter::default() }, vec![first, second]),
        (Filter { tenant: Some("acme".into()), ..Filter::default() }, vec![first]),
        (Filter { sender: some("<>"), ..Filter::default() }, vec![second]),
        (Filter { sender: some("@EXAMPLE.com"), ..Filter::default() }, vec![first]),
        (Filter { recipient: some("c@example.org"), ..Filter::default() }, vec![first]),
        (Filter { recipient: some("@example.net"), ..Filter::default() }, vec![second]),
        (Filter { recipient: some("x@example.org"), ..Filter::default() }, vec![]),
        (Filter { destination: some("mx:example.net"), ..Filter::default() }, vec![second]),
        (Filter { older_than: Some(60), ..Filter::default() }, vec![first]),
        (Filter { domain: some("EXAMPLE.org"), ..Filter::default() }, vec![first]),
        (Filter { domain: some("example.org"), recipient: some("d@example.net"), ..Filter::default() }, vec![]),
        (Filter { error: some("NOT NOW"), ..Filter::default() }, vec![first, second]),
        (Filter { error: some("no such user"), ..Filter::default() }, vec![]),
        (Filter { until: Some(first), ..Filter::default() }, vec![first]),
        (Filter { state: Some(Standing::Held), ..Filter::default() }, vec![]),
    ] {
        let found: Vec<_> = bench.queue.list(&filter).await.unwrap().messages.into_iter().map(|s| s.id).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    let gone = MessageId::next();
    assert_eq!(bench.queue.show(gone).await, Err(VerbError::NotFound(gone)));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_held_and_can_be_deleted() {
    let bench = Bench::new();
    let id = waiting(&bench).await;
    let disk = bench.spool.after_crash();
    disk.damage_meta(id);
    let again = Bench::with(settings(), disk, Arc::default(), Arc::default());
    again.pass(30 * DAY).await;
    assert!(again.hop.sent().is_empty());
    assert_eq!(only(&again).await.state, Standing::Held);
    assert_eq!(again.queue.delete(&Filter::id(id)).await.unwrap().changed, [id]);
    assert!(again.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_long_queue_is_listed_page_by_page_and_flushed_whole() {
    const MAILS: usize = 2500;
    let bench = Bench::new();
    bench.hop.answer(|_| deferred());
    let mut mails: Vec<_> = (0..MAILS).map(|_| mail(&bench.queue, "a@example.com", &["b@example.org"])).collect();
    mails[2000].accepted.tenant = Some("acme".into());
    let ids: Vec<_> = mails.iter().map(|mail| mail.id).collect();
    bench.queue.accept(mails).await.unwrap();
    bench.pass(1).await;
    let page = async |after, limit| {
        let filter = Filter { after, limit: Some(limit), ..Filter::default() };
        bench.queue.list(&filter).await.unwrap().messages.into_iter().map(|summary| summary.id).collect::<Vec<_>>()
    };
    let mut listed = Vec::new();
    loop {
        let next = page(listed.last().copied(), 900).await;
        listed.extend_from_slice(&next);
        if next.len() < 900 {
            break;
        }
    }
    assert_eq!(listed, ids);
    assert_eq!(page(Some(ids[9]), 3).await, ids[10..13]);
    let named = Filter { ids: ids[..9].to_vec(), after: Some(ids[4]), ..Filter::default() };
    assert_eq!(bench.queue.list(&named).await.unwrap().messages.len(), 4);
    let late = Filter { tenant: Some("acme".into()), limit: Some(1), ..Filter::default() };
    assert_eq!(bench.queue.list(&late).await.unwrap().messages[0].id, ids[2000]);
    bench.hop.answer(|_| delivered());
    assert_eq!(bench.queue.flush(&Filter::default()).await.unwrap().changed, ids);
    bench.pass(1).await;
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_verb_goes_step_by_step_and_not_after_what_comes_in_meanwhile() {
    let bench = Bench::new();
    bench.hop.answer(|_| deferred());
    let mails: Vec<_> = (0..700).map(|_| mail(&bench.queue, "a@example.com", &["b@example.org"])).collect();
    let ids: Vec<_> = mails.iter().map(|mail| mail.id).collect();
    bench.queue.accept(mails).await.unwrap();
    bench.pass(1).await;
    let until = bench.queue.latest();
    assert_eq!(until, ids.last().copied());
    let late = bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(1).await;
    let (mut deleted, mut after, mut steps) = (Vec::new(), None, 0);
    loop {
        let step = Filter { after, until, limit: Some(300), ..Filter::default() };
        let changed = bench.queue.delete(&step).await.unwrap();
        assert!(changed.changed.len() <= 300);
        deleted.extend(changed.changed);
        (after, steps) = (changed.next, steps + 1);
        if after.is_none() {
            break;
        }
    }
    assert_eq!((deleted, steps), (ids, 3));
    assert_eq!(only(&bench).await.id, late);
}

#[tokio::test(start_paused = true)]
async fn what_a_verb_is_not_for_is_named() {
    let bench = Bench::new();
    let id = waiting(&bench).await;
    assert_eq!(bench.queue.release(&Filter::id(id)).await.unwrap().unfit, [id]);
    bench.queue.hold(&Filter::id(id), "x").await.unwrap();
    assert_eq!(bench.queue.hold(&Filter::id(id), "x").await.unwrap().unfit, [id]);
    assert_eq!(bench.queue.flush(&Filter::id(id)).await.unwrap().unfit, [id]);
    bench.spool.damage(id);
    let changed = bench.queue.release(&Filter::id(id)).await.unwrap();
    assert_eq!((changed.unreadable, changed.changed), (vec![id], vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_overview_counts_as_the_list_does() {
    let bench = Bench::new();
    bench.hop.report(down);
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(10).await;
    bench.accept(mail(&bench.queue, "a@example.com", &["c@example.org"])).await;
    let held = bench.accept(mail(&bench.queue, "a@example.com", &["d@example.net"])).await;
    bench.pass(10).await;
    bench.queue.hold(&Filter::id(held), "x").await.unwrap();
    let overview = bench.queue.overview(1);
    let counts = overview.counts.map(|(_, count)| count);
    assert_eq!(counts, [0, 2, 0, 1, 0]);
    assert_eq!((overview.oldest.as_secs(), overview.down_total), (20, 2));
    let down = &overview.down[..];
    assert_eq!((down.len(), down[0].destination.as_str(), down[0].messages), (1, "mx:example.org", 2));
    assert_eq!((down[0].failures, down[0].reply.as_str()), (1, "451 4.4.1 no answer from any host"));
}

#[tokio::test(start_paused = true)]
async fn p3_a_damaged_message_is_held_with_the_reason() {
    let bench = Bench::new();
    let id = waiting(&bench).await;
    bench.spool.damage(id);
    bench.pass(30 * DAY).await;
    assert_eq!(bench.hop.sent().len(), 1);
    let summary = only(&bench).await;
    let reason = format!("message {id} is damaged on disk and was set aside");
    assert_eq!((summary.state, summary.reason), (Standing::Held, Some(reason)));
    assert_eq!(bench.events().iter().filter(|event| *event == "unreadable").count(), 1, "not retried");
    assert_eq!(bench.queue.delete(&Filter::id(id)).await.unwrap().changed, [id]);
    assert!(bench.spool.ids().is_empty());
}

/// Real threads: verbs and deliveries race for the same messages, and each message is delivered once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g5_verbs_that_race_with_deliveries_lose_and_repeat_nothing() {
    const MAILS: usize = 300;
    let mut bench = Bench::new();
    let meddle = async {
        for _ in 0..20 {
            for changed in [
                bench.queue.hold(&Filter::default(), "x").await,
                bench.queue.flush(&Filter::default()).await,
                bench.queue.release(&Filter::default()).await,
            ] {
                changed.unwrap();
            }
        }
    };
    let accept = async {
        for n in 0..MAILS {
            bench.accept(mail(&bench.queue, "a@example.com", &[&format!("b{n}@d{}.example", n % 7)])).await;
        }
    };
    tokio::join!(accept, meddle);
    bench.queue.release(&Filter::default()).await.unwrap();
    let wait = Duration::from_secs(30);
    let mut left = MAILS;
    while left > 0 {
        let (_, record) = bench.log.recv_timeout(wait).expect("all are delivered");
        left -= usize::from(record.event == "delivered");
    }
    // The last event comes a moment before the message leaves the list.
    bench.stop().await;
    let mut to: Vec<_> = bench.hop.sent().into_iter().flat_map(|sent| sent.to).collect();
    to.sort();
    to.dedup();
    assert_eq!((to.len(), bench.hop.sent().len()), (MAILS, MAILS));
    assert!(bench.queue.list(&Filter::default()).await.unwrap().messages.is_empty());
    assert!(bench.spool.ids().is_empty());
}
