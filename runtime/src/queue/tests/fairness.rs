//! Destinations and tenants do not hinder each other.

use super::*;
use crate::delivery::Report;
use crate::queue::tests::scripted::{Script as Hop, delivered as taken};

fn up(job: &crate::delivery::Job) -> Report {
    Report { outcomes: job.envelope.recipients.iter().map(|_| taken()).collect(), destination_down: false }
}

#[tokio::test(start_paused = true)]
async fn o9_a_dead_destination_is_known_once_for_all_its_messages() {
    let bench = Bench::new();
    bench.hop.report(|job| if job.route.to_string() == "mx:dead.example" { down(job) } else { up(job) });
    for n in 0..100 {
        bench.accept(mail(&bench.queue, "a@example.com", &[&format!("{n}@dead.example")])).await;
    }
    bench.accept(mail(&bench.queue, "a@example.com", &["b@live.example"])).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.hop.times("b@live.example"), [0]);
    let probes: Vec<u64> =
        bench.hop.sent().into_iter().filter(|sent| sent.route == "mx:dead.example").map(|sent| sent.at / 60).collect();
    // Up to four at once at first, then one for all: after 1, 2, 5, 10, 20 minutes …
    let start = probes.iter().filter(|at| **at == 0).count();
    assert!(start <= 4, "{probes:?}");
    assert_eq!(probes[start..], [1, 3, 8, 18, 38]);
    // When it is back everything goes, without waiting for each message's own time.
    bench.hop.report(up);
    bench.pass(HOUR).await;
    assert!(bench.spool.ids().is_empty());
    let after: Vec<u64> = bench.hop.sent().into_iter().filter(|s| !s.accepted.is_empty()).map(|s| s.at).collect();
    assert_eq!(after.len(), 101);
    assert!(after[1..].iter().all(|at| at / 60 == 78), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn o9_mail_behind_a_dead_destination_expires_in_time() {
    let bench = Bench::new();
    bench.hop.report(|job| if job.route.to_string() == "mx:dead.example" { down(job) } else { up(job) });
    for n in 0..20 {
        bench.accept(mail(&bench.queue, "a@example.com", &[&format!("{n}@dead.example")])).await;
    }
    bench.pass(4 * HOUR + MINUTE).await;
    assert_eq!(bench.hop.times("a@example.com").len(), 20, "delay warnings");
    bench.pass(5 * DAY).await;
    assert!(bench.spool.ids().is_empty());
    assert_eq!(bench.hop.times("a@example.com").len(), 40);
    assert!(bench.hop.times("a@example.com").iter().all(|at| *at <= 5 * DAY + 2 * HOUR));
}

#[tokio::test(start_paused = true)]
async fn a_destination_gets_as_many_at_a_time_as_it_may() {
    let settings = Settings { max_per_destination: 3, ..settings() };
    let bench = Bench::with(settings, MemorySpool::default(), Arc::new(Hop::default()), Arc::new(Plan::default()));
    *bench.hop.delay.lock().unwrap() = Duration::from_secs(10);
    for n in 0..9 {
        bench.accept(mail(&bench.queue, "a@example.com", &[&format!("{n}@slow.example")])).await;
    }
    bench.accept(mail(&bench.queue, "a@example.com", &["b@other.example"])).await;
    bench.pass(HOUR).await;
    let starts: Vec<u64> = bench.hop.sent().iter().map(|sent| sent.at).collect();
    let at = |time: u64| starts.iter().filter(|at| **at == time).count();
    assert_eq!((at(0), at(10), at(20)), (4, 3, 3));
}

#[tokio::test(start_paused = true)]
async fn i7_a_tenant_with_much_mail_does_not_hold_up_another() {
    let settings = Settings { max_deliveries: 4, max_per_tenant: 3, ..settings() };
    let bench = Bench::with(settings, MemorySpool::default(), Arc::new(Hop::default()), Arc::new(Plan::default()));
    *bench.hop.delay.lock().unwrap() = Duration::from_secs(10);
    let of = |tenant: &str, to: &str| {
        let mut mail = mail(&bench.queue, "a@example.com", &[to]);
        mail.accepted.tenant = Some(tenant.into());
        mail
    };
    for n in 0..30 {
        bench.accept(of("big", &format!("x@d{n}.example"))).await;
    }
    bench.accept(of("small", "one@same.example")).await;
    bench.accept(of("small", "two@d7.example")).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.hop.times("one@same.example"), [0]);
    assert!(bench.hop.times("two@d7.example")[0] <= 10);
    assert!(bench.spool.ids().is_empty(), "parked lines go on");
}
