//! The process dies at each commit in turn, before and after it is durable: I1, I2, I3.

use std::collections::BTreeMap;

use super::*;
use crate::delivery::Report;
use crate::mail::{Field, Route};
use crate::pipeline::Verdict;
use crate::queue::Prepared;

const TO: [&str; 5] = ["ok@one.example", "bad@one.example", "late@one.example", "ok@two.example", "bad@two.example"];

/// `late` waits until its third attempt; `bad` fails.
fn script() -> Arc<Script> {
    let script = Script::default();
    let mut tries: BTreeMap<String, u32> = BTreeMap::new();
    script.report(move |job| {
        let mut answer = |to: String| {
            let tries = tries.entry(to.clone()).or_default();
            *tries += 1;
            match to.split('@').next() {
                Some("bad") => failed(),
                Some("late") if *tries < 3 => deferred(),
                _ => delivered(),
            }
        };
        let outcomes = job.envelope.recipients.iter().map(|r| answer(r.mailbox.to_string())).collect();
        Report { outcomes, destination_down: false }
    });
    Arc::new(script)
}

/// Each question gets another number, so that a second preparation would show in the octets.
fn plan() -> Arc<Plan> {
    let plan = Plan::default();
    let mut number = 0;
    plan.judge(move |mut mail| {
        number += 1;
        mail.message.as_mut().unwrap().header.prepend(Field::new("X-Number", &number.to_string()).unwrap());
        Prepared { verdict: Verdict::Next, mail, judged: true, edited: true }
    });
    plan.send("ok@two.example", Route::SmartHost("two".into()));
    plan.send("bad@two.example", Route::SmartHost("two".into()));
    Arc::new(plan)
}

/// One life up to the nth commit, then one without a fault. False when the fault came too late to happen.
async fn die_at(nth: usize, kill: Kill) -> bool {
    let (hop, plan) = (script(), plan());
    let first = Bench::with(settings(), MemorySpool::default(), hop.clone(), plan.clone());
    first.spool.kill_at(nth, kill);
    let mails = vec![mail(&first.queue, "a@example.com", &TO)];
    let answered = tokio::time::timeout(Duration::from_secs(1), first.queue.accept(mails)).await;
    first.pass(2 * HOUR).await;
    let died = first.spool.is_dead();
    let disk = first.spool.after_crash();
    first.running.abort();

    let second = Bench::with(settings(), disk, hop.clone(), plan);
    second.pass(DAY).await;
    // What was forgotten rides on the next sync; a third life has nothing left to send but what was not yet synced.
    assert!(second.spool.ids().is_empty(), "{nth} {kill:?}: all is done in the end");
    check(&hop, answered.is_ok(), &format!("commit {nth}, {kill:?}"));
    died
}

fn check(hop: &Script, acknowledged: bool, case: &str) {
    let sent = hop.sent();
    let copies = |to: &str| sent.iter().filter(|sent| sent.accepted.iter().any(|t| t == to)).collect::<Vec<_>>();
    // Without an answer it may go either way, but then wholly.
    let expected = acknowledged || !sent.is_empty();
    for to in TO {
        let copies = copies(to);
        let is_bad = to.starts_with("bad");
        assert_eq!(!copies.is_empty(), expected && !is_bad, "{case}: I1 {to}");
        assert!(copies.len() <= 2, "{case}: I3 {to} {}", copies.len());
        assert!(
            copies.iter().all(|copy| copy.octets == copies[0].octets && copy.id == copies[0].id),
            "{case}: I3 {to}"
        );
        let mut reports: Vec<_> = sent
            .iter()
            .filter(|sent| sent.to == ["a@example.com"])
            .filter(|sent| sent.octets.escape_ascii().to_string().contains(&format!("rfc822; {to}")))
            .map(|sent| sent.id)
            .collect();
        reports.dedup();
        assert_eq!(reports.len(), usize::from(expected && is_bad), "{case}: K15 {to}");
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_every_commit_nothing_is_lost_and_nothing_is_sent_twice_without_need() {
    for kill in [Kill::Before, Kill::After] {
        let mut nth = 0;
        while die_at(nth, kill).await {
            nth += 1;
        }
        assert!(nth >= 6, "only {nth} commits");
    }
}

#[tokio::test(start_paused = true)]
async fn d7_a_recovered_message_keeps_its_time_within_reason() {
    let bench = Bench::new();
    bench.hop.answer(|_| deferred());
    let id = bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(HOUR).await;
    // The next run's clock starts at the real time, an hour earlier than this one's has become.
    let disk = bench.spool.after_crash();
    let hop = Arc::new(Script::default());
    let again = Bench::with(settings(), disk, hop, Arc::default());
    assert_eq!(again.spool.ids(), [id]);
    again.pass(4 * HOUR + MINUTE).await;
    assert_eq!(again.hop.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn d7_mail_of_long_ago_is_tried_for_a_while_before_it_expires() {
    let bench = Bench::new();
    bench.hop.answer(|to| if to == "b@example.org" { deferred() } else { delivered() });
    let mut old = mail(&bench.queue, "a@example.com", &["b@example.org"]);
    old.accepted.arrival = bench.queue.now() - jiff::SignedDuration::from_hours(5 * 365 * 24);
    old.accepted.envelope.recipients[0].notify =
        Some(crate::mail::Notify { success: false, failure: true, delay: false });
    bench.accept(old).await;
    bench.pass(6 * HOUR).await;
    bench.running.abort();
    assert_eq!(bench.hop.times("a@example.com"), [] as [u64; 0], "in its first run its date does not count at all");
    let again = Bench::with(settings(), bench.spool.after_crash(), bench.hop.clone(), Arc::default());
    again.pass(6 * HOUR).await;
    assert_eq!(again.hop.times("a@example.com"), [] as [u64; 0]);
    again.pass(DAY).await;
    assert_eq!(again.hop.times("a@example.com").len(), 1);
}
