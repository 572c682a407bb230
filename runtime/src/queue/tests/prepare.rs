//! The `deliver` chains: asked once, recorded, and what each verdict does.

use super::*;
use crate::mail::{Field, Route};
use crate::pipeline::Verdict;
use crate::queue::{Filter, Prepared, Standing};
use crate::smtp::{Enhanced, Reply};

fn edited(mut mail: crate::mail::Mail, number: usize) -> Prepared {
    let field = Field::new("X-Number", &number.to_string()).unwrap();
    mail.message.as_mut().unwrap().header.prepend(field);
    Prepared { verdict: Verdict::Next, mail, judged: true, edited: true }
}

#[tokio::test(start_paused = true)]
async fn every_attempt_sends_the_same_octets_also_after_a_restart() {
    let bench = Bench::new();
    let mut number = 0;
    bench.plan.judge(move |mail| {
        number += 1;
        edited(mail, number)
    });
    bench.hop.answer(|_| deferred());
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(HOUR).await;
    bench.running.abort();
    let again = Bench::with(settings(), bench.spool.after_crash(), bench.hop.clone(), bench.plan.clone());
    again.hop.answer(|_| delivered());
    again.pass(2 * HOUR).await;
    let sent = again.hop.sent();
    assert_eq!(sent.len(), 5);
    assert!(sent[0].octets.starts_with(b"X-Number: 1\r\nMessage-ID:"));
    assert!(sent.iter().all(|s| s.octets == sent[0].octets));
    assert_eq!(again.plan.asked().len(), 1);
    assert!(again.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_destination_is_a_message_of_its_own_and_asked_once() {
    let bench = Bench::new();
    bench.plan.judge(|mail| edited(mail, 1));
    bench.plan.send("c@example.org", Route::SmartHost("out".into()));
    let to = ["b@example.org", "c@example.org", "d@example.net", "e@example.org", "f@[192.0.2.1]"];
    let id = bench.accept(mail(&bench.queue, "a@example.com", &to)).await;
    bench.pass(1).await;
    let mut sent: Vec<_> = bench.hop.sent().into_iter().map(|sent| (sent.route, sent.to.join(" "), sent.id)).collect();
    sent.sort();
    let shown: Vec<_> = sent.iter().map(|(route, to, _)| (route.as_str(), to.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("literal:192.0.2.1", "f@[192.0.2.1]"),
            ("mx:example.net", "d@example.net"),
            ("mx:example.org", "b@example.org e@example.org"),
            ("smart-host:out", "c@example.org"),
        ]
    );
    assert_eq!(sent[2].2, id, "the first group keeps the name");
    assert_eq!(bench.plan.asked().len(), 4);
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn edits_of_the_envelope_count() {
    let bench = Bench::new();
    bench.plan.judge(|mut mail| {
        mail.envelope.recipients.push(Recipient::new(Mailbox::parse("added@example.net").unwrap()));
        mail.envelope.reverse_path = ReversePath(Some(Mailbox::parse("srs@example.com").unwrap()));
        mail.tags.push("seen".to_owned());
        Prepared { verdict: Verdict::Accept, mail, judged: true, edited: true }
    });
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(1).await;
    let mut sent: Vec<_> = bench.hop.sent().into_iter().map(|sent| (sent.from, sent.to.join(" "))).collect();
    sent.sort();
    let from = "srs@example.com".to_owned();
    assert_eq!(sent, [(from.clone(), "added@example.net".to_owned()), (from, "b@example.org".to_owned())]);
    assert_eq!(bench.plan.asked().len(), 1, "a recipient that a plugin added is not judged again");
}

#[tokio::test(start_paused = true)]
async fn a_route_that_a_plugin_chose_stays() {
    let bench = Bench::new();
    bench.plan.judge(|mut mail| {
        mail.route = Some(Route::SmartHost("chosen".into()));
        Prepared { verdict: Verdict::Next, mail, judged: true, edited: true }
    });
    bench.hop.answer(|_| deferred());
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(HOUR).await;
    assert!(bench.hop.sent().len() > 3);
    assert!(bench.hop.sent().iter().all(|sent| sent.route == "smart-host:chosen"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_edits_costs_no_sync_and_is_known_after_a_restart() {
    let bench = Bench::new();
    bench.plan.verdict(Verdict::Next);
    bench.hop.answer(|_| deferred());
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(1).await;
    assert_eq!(bench.hop.sent().len(), 1);
    assert_eq!(bench.spool.commits(), 2, "that it was taken, and that it was deferred");
    bench.running.abort();
    let again = Bench::with(settings(), bench.spool.after_crash(), bench.hop.clone(), bench.plan.clone());
    again.hop.answer(|_| delivered());
    again.pass(HOUR).await;
    assert_eq!(again.hop.sent().len(), 2);
    assert_eq!(again.plan.asked().len(), 1);
}

const ROUTED: [&str; 3] = ["b@example.org", "c@example.org", "d@example.org"];

/// Two of three recipients of one domain go elsewhere, each another way.
fn two_ways(mut mail: crate::mail::Mail) -> Prepared {
    let own = |to: &str, name: &str| (Mailbox::parse(to).unwrap(), Route::SmartHost(name.into()));
    mail.recipient_routes = vec![own("d@example.org", "two"), own("b@example.org", "one")];
    edited(mail, 1)
}

fn ways(hop: &Script) -> Vec<(String, String)> {
    let mut ways: Vec<_> = hop.sent().into_iter().map(|sent| (sent.to.join(" "), sent.route)).collect();
    ways.sort();
    ways
}

#[tokio::test(start_paused = true)]
async fn r54_recipients_with_routes_of_their_own_become_messages_of_their_own() {
    let bench = Bench::new();
    bench.plan.judge(two_ways);
    bench.plan.send("c@example.org", Route::SmartHost("tenant".into()));
    for to in ["b@example.org", "d@example.org"] {
        bench.plan.send(to, Route::SmartHost("tenant".into()));
    }
    bench.hop.answer(|_| deferred());
    let id = bench.accept(mail(&bench.queue, "a@example.com", &ROUTED)).await;
    bench.pass(1).await;
    let expected = |name: [&str; 3]| {
        let way = |(to, name): (&str, &str)| (to.to_owned(), format!("smart-host:{name}"));
        ROUTED.into_iter().zip(name).map(way).collect::<Vec<_>>()
    };
    assert_eq!(ways(&bench.hop), expected(["one", "tenant", "two"]));
    assert_eq!(bench.plan.asked(), [ROUTED.map(str::to_owned)], "one question for all three");
    let list = bench.queue.list(&Filter::default()).await.unwrap().messages;
    assert_eq!(list.len(), 3);
    assert!(list.iter().any(|summary| summary.id == id && summary.recipient == "b@example.org"));
    for summary in list {
        let accepted = bench.queue.show(summary.id).await.unwrap().accepted;
        assert_eq!((summary.recipients, accepted.prepared), (1, true));
        let chosen = (summary.recipient != "c@example.org").then(|| summary.destination.clone());
        assert_eq!(accepted.route.map(|route| route.to_string()), chosen, "only what a plugin chose is recorded");
    }

    // The next run knows the ways without asking, and only the destination that nobody chose may have changed.
    bench.running.abort();
    let hop = Arc::new(Script::default());
    let again = Bench::with(settings(), bench.spool.after_crash(), hop, bench.plan.clone());
    again.plan.send("c@example.org", Route::SmartHost("moved".into()));
    again.plan.send("b@example.org", Route::SmartHost("moved".into()));
    again.pass(HOUR).await;
    assert_eq!(ways(&again.hop), expected(["one", "moved", "two"]));
    assert!(again.hop.sent().iter().all(|sent| sent.octets.starts_with(b"X-Number: 1\r\nMessage-ID:")));
    assert_eq!(again.plan.asked().len(), 1);
    assert!(again.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn i2_the_ways_of_a_message_are_durable_in_one_commit() {
    for (kill, asked) in [(Kill::Before, 2), (Kill::After, 1)] {
        let bench = Bench::new();
        bench.plan.judge(two_ways);
        // The first commit takes charge, the second is the split; nothing is sent before it is durable.
        bench.spool.kill_at(1, kill);
        bench.accept(mail(&bench.queue, "a@example.com", &ROUTED)).await;
        bench.pass(HOUR).await;
        assert!(bench.hop.sent().is_empty() && bench.spool.is_dead());
        assert_eq!(bench.spool.after_crash().ids().len(), if kill == Kill::After { 3 } else { 1 });
        let again = Bench::with(settings(), bench.spool.after_crash(), bench.hop.clone(), bench.plan.clone());
        again.pass(HOUR).await;
        let routes: Vec<_> = ways(&again.hop).into_iter().map(|(_, route)| route).collect();
        assert_eq!(routes, ["smart-host:one", "mx:example.org", "smart-host:two"], "{kill:?}");
        assert_eq!(again.plan.asked().len(), asked, "{kill:?}");
        assert!(again.spool.ids().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn recipients_with_the_same_route_stay_together() {
    let bench = Bench::new();
    bench.plan.judge(|mut mail| {
        let own = |to: &str, name: &str| (Mailbox::parse(to).unwrap(), Route::SmartHost(name.into()));
        mail.route = Some(Route::SmartHost("one".into()));
        mail.recipient_routes =
            vec![own("b@example.org", "two"), own("c@example.org", "one"), own("x@example.org", "no")];
        edited(mail, 1)
    });
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org", "c@example.org", "d@example.org"])).await;
    bench.pass(1).await;
    let expected = [("b@example.org", "smart-host:two"), ("c@example.org d@example.org", "smart-host:one")];
    assert_eq!(ways(&bench.hop), expected.map(|(to, route)| (to.to_owned(), route.to_owned())));
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn verdicts() {
    let reply = Reply::new(550, Some(Enhanced::new(7, 1)), "not wanted");
    let wait = Reply::new(451, Some(Enhanced::new(7, 1)), "later");
    for (verdict, authenticated, delivered_to, kept) in [
        (Verdict::Next, false, vec!["b@example.org"], None),
        (Verdict::Accept, false, vec!["b@example.org"], None),
        (Verdict::Reject(reply.clone()), true, vec!["a@example.com"], None),
        (Verdict::Reject(reply.clone()), false, vec![], Some(Standing::Quarantined)),
        (Verdict::Defer(wait.clone()), false, vec![], Some(Standing::Waiting)),
        (Verdict::Discard, false, vec![], None),
        (Verdict::Quarantine("virus".to_owned()), true, vec![], Some(Standing::Quarantined)),
        (Verdict::Disconnect(wait.clone()), false, vec![], Some(Standing::Waiting)),
    ] {
        let bench = Bench::new();
        bench.plan.verdict(verdict.clone());
        let mut mail = mail(&bench.queue, "a@example.com", &["b@example.org"]);
        mail.accepted.authenticated = authenticated;
        bench.accept(mail).await;
        bench.pass(10).await;
        let to: Vec<_> = bench.hop.sent().into_iter().flat_map(|sent| sent.to).collect();
        assert_eq!(to, delivered_to, "{verdict:?} {authenticated}");
        let list = bench.queue.list(&Filter::default()).await.unwrap().messages;
        assert_eq!(list.first().map(|summary| summary.state), kept, "{verdict:?} {authenticated}");
        assert_eq!(bench.spool.ids().len(), list.len(), "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deferred_message_is_asked_about_again_and_expires() {
    let bench = Bench::new();
    bench.plan.verdict(Verdict::Defer(Reply::local_error()));
    bench.accept(mail(&bench.queue, "a@example.com", &["b@example.org"])).await;
    bench.pass(6 * DAY).await;
    assert!(bench.plan.asked().len() > 10);
    assert_eq!(bench.hop.times("a@example.com").last(), Some(&(5 * DAY)));
    assert!(bench.spool.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn released_mail_is_not_sent_back_to_quarantine() {
    for verdict in [Verdict::Quarantine("virus".to_owned()), Verdict::Reject(Reply::relay_denied())] {
        let bench = Bench::new();
        bench.plan.verdict(verdict);
        let mut mail = mail(&bench.queue, "a@example.com", &["b@example.org"]);
        mail.accepted.authenticated = false;
        let id = bench.accept(mail).await;
        bench.pass(HOUR).await;
        bench.queue.release(&Filter::id(id)).await.unwrap();
        bench.pass(1).await;
        assert_eq!(bench.hop.times("b@example.org"), [HOUR]);
        assert!(bench.spool.ids().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn one_content_with_two_fates() {
    let bench = Bench::new();
    let mut kept = mail(&bench.queue, "a@example.com", &["c@example.org"]);
    kept.accepted.quarantine = Some("spam for this one".to_owned());
    let kept_id = kept.id;
    let goes = mail(&bench.queue, "a@example.com", &["b@example.org"]);
    bench.queue.accept(vec![goes, kept]).await.unwrap();
    bench.pass(1).await;
    assert_eq!(bench.spool.commits(), 1);
    assert_eq!(bench.hop.times("b@example.org"), [0]);
    assert_eq!(bench.spool.ids(), [kept_id]);
}
