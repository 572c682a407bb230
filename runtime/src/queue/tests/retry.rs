//! Attempts over time: intervals, expiry, delay warning, recording, stop.

use super::*;
use crate::delivery::Report;
use crate::spool::SpoolError;

#[tokio::test(start_paused = true)]
async fn delivered_at_once_and_gone() {
    let bench = Bench::new();
    let id = bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(1).await;
    let sent = bench.hop.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].id, sent[0].at, sent[0].route.as_str()), (id, 0, "mx:example.org"));
    assert!(bench.spool.ids().is_empty());
    assert_eq!(bench.spool.commits(), 1, "one sync from acceptance to delivery");
    assert_eq!(bench.events(), ["recovered", "queued", "attempt", "delivered"]);
    assert_eq!(bench.metrics.deliveries.with_label_values(&["delivered"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn o1_intervals_grow_until_the_mail_expires() {
    let bench = Bench::new();
    bench.hop.answer(|to| if to == "b@example.org" { deferred() } else { delivered() });
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(6 * DAY).await;
    let times: Vec<u64> = bench.hop.times("b@example.org").into_iter().map(|at| at / MINUTE).collect();
    // The one at 4 h decides on the delay warning, the last one on the expiry.
    assert_eq!(times[..8], [0, 5, 15, 35, 75, 135, 240, 480]);
    assert_eq!(times.last(), Some(&(5 * 24 * 60)));
    let reports: Vec<u64> = bench.hop.times("a@example.com").into_iter().map(|at| at / MINUTE).collect();
    assert_eq!(reports, [240, 5 * 24 * 60]);
    assert!(bench.spool.ids().is_empty());
    assert_eq!(bench.metrics.deliveries.with_label_values(&["expired"]).get(), 1);
    assert_eq!(bench.metrics.dsns.with_label_values(&["delayed"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn o2_a_refusal_is_reported_and_not_tried_again() {
    let bench = Bench::new();
    bench.hop.answer(|to| if to == "b@example.org" { failed() } else { delivered() });
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(DAY).await;
    assert_eq!(bench.hop.times("b@example.org"), [0]);
    assert_eq!(bench.hop.times("a@example.com"), [0]);
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn o7_only_the_recipients_that_are_left_are_tried_again() {
    let bench = Bench::new();
    let mut tries = 0;
    bench.hop.report(move |job| {
        tries += 1;
        let answer = |to: String| match to.as_str() {
            "fails@example.org" => failed(),
            "waits@example.org" if tries == 1 => deferred(),
            _ => delivered(),
        };
        let outcomes = job.envelope.recipients.iter().map(|r| answer(r.mailbox.to_string())).collect();
        Report { outcomes, destination_down: false }
    });
    let to = ["ok@example.org", "fails@example.org", "waits@example.org"];
    bench.accept(mail(&bench.queue, "a@example.com", &to)).await;
    bench.pass(HOUR).await;
    let sent: Vec<(u64, Vec<String>)> = bench.hop.sent().into_iter().map(|sent| (sent.at, sent.to)).collect();
    let all: Vec<String> = to.iter().map(|&to| to.to_owned()).collect();
    assert_eq!(sent, [(0, all), (0, vec!["a@example.com".into()]), (300, vec!["waits@example.org".into()])]);
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_null_sender_never_bounces() {
    let bench = Bench::new();
    bench.hop.answer(|_| failed());
    bench.accept(mail(&bench.queue, "", &["b@example.org"])).await;
    bench.pass(DAY).await;
    assert_eq!(bench.hop.sent().len(), 1);
    assert!(bench.spool.ids().is_empty());
    let dropped = bench.log.try_iter().find(|(_, record)| record.event == "failed").unwrap().1;
    assert_eq!(dropped.fields()["dropped"], true);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_fails_is_not_reported() {
    let bench = Bench::new();
    bench.hop.answer(|_| failed());
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(DAY).await;
    let to: Vec<_> = bench.hop.sent().into_iter().flat_map(|sent| sent.to).collect();
    assert_eq!(to, ["b@example.org", "a@example.com"]);
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn d1_an_outcome_that_cannot_be_recorded_is_not_tried_again_but_recorded_later() {
    let bench = Bench::new();
    bench.hop.answer(|to| if to == "b@example.org" { failed() } else { delivered() });
    let mail = mail(&bench.queue, "a@example.com", &["b@example.org"]);
    bench.accept(mail).await;
    bench.spool.fail_next(vec![SpoolError::Full; 3]);
    bench.pass(9).await;
    assert_eq!(bench.spool.ids().len(), 1);
    bench.pass(HOUR).await;
    assert_eq!(bench.hop.times("b@example.org"), [0]);
    assert_eq!(bench.hop.times("a@example.com"), [30]);
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn mail_that_the_spool_refuses_is_not_delivered() {
    let bench = Bench::new();
    bench.spool.fail_next(vec![SpoolError::Full]);
    let refused = bench.queue.accept(vec![mail(&bench.queue, "a@example.com", &["b@example.org"])]).await;
    assert_eq!(refused, Err(SpoolError::Full));
    bench.pass(DAY).await;
    assert!(bench.hop.sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn k9_mail_whose_client_went_away_during_the_commit_is_delivered() {
    let bench = Bench::new();
    let mails = vec![mail(&bench.queue, "a@example.com", &["b@example.org"])];
    let mut accepting = Box::pin(bench.queue.accept(mails));
    // Polled once, so the commit is under way, then dropped.
    let polled = std::future::poll_fn(|context| std::task::Poll::Ready(accepting.as_mut().poll(context))).await;
    assert!(polled.is_pending());
    drop(accepting);
    bench.pass(1).await;
    assert_eq!(bench.hop.times("b@example.org"), [0]);
}

#[tokio::test(start_paused = true)]
async fn d3_an_unhealthy_spool_pauses_delivery() {
    let bench = Bench::new();
    bench.spool.set_healthy(false);
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(HOUR).await;
    assert!(bench.hop.sent().is_empty());
    bench.spool.set_healthy(true);
    bench.pass(60).await;
    assert_eq!(bench.hop.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn i9_a_panic_in_the_next_hop_costs_one_retry() {
    let bench = Bench::new();
    let mut tries = 0;
    bench.hop.report(move |job| {
        tries += 1;
        assert!(tries > 1, "the panic that this test is about");
        Report { outcomes: job.envelope.recipients.iter().map(|_| delivered()).collect(), destination_down: false }
    });
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.hop.times("b@example.org"), [300]);
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn o6_a_recipient_of_whom_nothing_was_said_is_not_delivered() {
    let bench = Bench::new();
    let mut tries = 0;
    bench.hop.report(move |job| {
        tries += 1;
        let said = if tries == 1 { 1 } else { job.envelope.recipients.len() };
        Report { outcomes: vec![delivered(); said], destination_down: false }
    });
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org", "c@example.org"])).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.hop.times("b@example.org"), [0]);
    assert_eq!(bench.hop.times("c@example.org"), [0, 300]);
}

#[tokio::test(start_paused = true)]
async fn k16_a_stop_lets_attempts_finish_and_starts_none() {
    let mut bench = Bench::new();
    *bench.hop.delay.lock().unwrap() = Duration::from_secs(20);
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(1).await;
    let late = mail(&bench.queue, "a@example.com", &["c@example.org"]);
    let late_id = late.id;
    let stopping = async {
        let _ = bench.stop.take().unwrap().send(());
        bench.pass(1).await;
        bench.queue.accept(vec![late]).await.unwrap();
        bench.pass(40).await;
    };
    stopping.await;
    assert!(bench.running.is_finished());
    assert_eq!(bench.hop.times("b@example.org"), [0]);
    assert_eq!(bench.hop.times("c@example.org"), [] as [u64; 0]);
    assert_eq!(bench.spool.ids(), [late_id]);
}

#[tokio::test(start_paused = true)]
async fn k16_a_stop_does_not_wait_longer_than_its_deadline() {
    let mut bench = Bench::new();
    *bench.hop.delay.lock().unwrap() = Duration::from_secs(DAY);
    let id = bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(1).await;
    let before = tokio::time::Instant::now();
    bench.stop().await;
    assert_eq!(before.elapsed().as_secs(), 30);
    assert_eq!(bench.spool.ids(), [id]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_destination_counts_from_the_next_attempt() {
    let bench = Bench::new();
    bench.hop.answer(|_| deferred());
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(1).await;
    bench.plan.send("b@example.org", crate::mail::Route::SmartHost("out".into()));
    bench.pass(600).await;
    let routes: Vec<String> = bench.hop.sent().into_iter().map(|sent| sent.route).collect();
    assert_eq!(routes, ["mx:example.org", "smart-host:out"]);
}
