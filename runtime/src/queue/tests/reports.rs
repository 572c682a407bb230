//! Who is told what, and when: DSNs as they arrive.

use super::*;
use crate::mail::{Notify, Ret, Route};

fn notify(success: bool, failure: bool, delay: bool) -> Option<Notify> {
    Some(Notify { success, failure, delay })
}

/// The reports that arrived at the sender, as text.
fn reports(bench: &Bench) -> Vec<String> {
    let to_sender = bench.hop.sent().into_iter().filter(|sent| sent.to == ["a@example.com"]);
    to_sender.map(|sent| String::from_utf8(sent.octets).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn one_report_names_all_that_failed_together() {
    let bench = Bench::new();
    bench.hop.answer(|to| if to.starts_with("bad") { failed() } else { delivered() });
    let to = ["bad1@example.org", "good@example.org", "bad2@example.org"];
    bench.accept(mail(&bench.queue, "a@example.com", &to)).await;
    bench.pass(1).await;
    let reports = reports(&bench);
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].matches("Action: failed\r\n").count(), 2);
    assert!(!reports[0].contains("good@example.org"));
    let report = bench.hop.sent().pop().unwrap();
    assert_eq!(report.from, "", "a report has the null reverse-path");
}

#[tokio::test(start_paused = true)]
async fn success_is_reported_where_asked_and_as_what_it_was() {
    for (route, outcome, expected) in [
        (None, delivered as fn() -> _, Some("relayed")),
        (None, relayed_with_dsn, None),
        (Some(Route::Maildir("unused".into())), delivered, Some("delivered")),
    ] {
        let bench = Bench::new();
        bench.hop.answer(move |to| if to == "b@example.org" { outcome() } else { delivered() });
        if let Some(route) = route {
            bench.plan.send("b@example.org", route);
        }
        let mut mail = mail(&bench.queue, "a@example.com", &["b@example.org", "c@example.org"]);
        mail.accepted.envelope.recipients[0].notify = notify(true, false, false);
        bench.accept(mail).await;
        bench.pass(1).await;
        let actions: Vec<_> = reports(&bench)
            .iter()
            .flat_map(|text| {
                text.lines().filter_map(|l| l.strip_prefix("Action: ")).map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(actions, expected.into_iter().collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn never_means_never_and_failure_without_delay_means_one() {
    for (given, expected) in [
        (notify(false, false, false), 0),
        (notify(true, false, false), 0),
        (notify(false, true, false), 1),
        (notify(false, false, true), 1),
        (notify(false, true, true), 2),
        (None, 2),
    ] {
        let bench = Bench::new();
        bench.hop.answer(|to| if to == "b@example.org" { deferred() } else { delivered() });
        let mut mail = mail(&bench.queue, "a@example.com", &["b@example.org"]);
        mail.accepted.envelope.recipients[0].notify = given;
        bench.accept(mail).await;
        bench.pass(6 * DAY).await;
        assert_eq!(reports(&bench).len(), expected, "{given:?}");
        assert!(bench.spool.ids().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn ret_full_returns_the_message_when_it_failed_and_is_small() {
    for (ret, max_returned, is_whole) in [
        (Some(Ret::Full), 1000, true),
        (Some(Ret::Full), 10, false),
        (Some(Ret::Headers), 1000, false),
        (None, 1000, false),
    ] {
        let settings = Settings { max_returned, ..settings() };
        let bench = Bench::with(settings, MemorySpool::default(), Arc::default(), Arc::default());
        bench.hop.answer(|to| if to == "b@example.org" { failed() } else { delivered() });
        let mut mail = mail(&bench.queue, "a@example.com", &["b@example.org"]);
        mail.accepted.envelope.ret = ret;
        bench.accept(mail).await;
        bench.pass(1).await;
        let report = reports(&bench).remove(0);
        assert_eq!(report.contains("Content-Type: message/rfc822\r\n"), is_whole, "{ret:?} {max_returned}");
        assert_eq!(report.contains("\r\n\r\ntext\r\n"), is_whole);
        assert_eq!(report.contains("Content-Type: text/rfc822-headers\r\n"), !is_whole);
        assert!(report.contains("Subject: hello\r\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_listens_hears_what_became_of_a_mail() {
    let bench = Bench::new();
    let (sender, heard) = std::sync::mpsc::channel();
    bench.queue.observe(Arc::new(move |tenant, outbound, event| {
        let _ = sender.send((tenant.cloned(), outbound, event.kind.name(), event.recipient));
    }));
    bench.hop.answer(|to| if to == "b@example.org" { failed() } else { delivered() });
    let mut mail = mail(&bench.queue, "a@example.com", &["b@example.org"]);
    mail.accepted.tenant = Some("acme".into());
    mail.accepted.outbound = true;
    bench.accept(mail).await;
    bench.pass(1).await;
    let acme: Option<Arc<str>> = Some("acme".into());
    assert_eq!(
        heard.try_iter().collect::<Vec<_>>(),
        [(acme.clone(), true, "accepted", String::new()), (acme, true, "bounced", "b@example.org".to_owned()),]
    );
}
