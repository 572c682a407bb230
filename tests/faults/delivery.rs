//! Delivery side. O: next hops that refuse, hang, lie or drop.

mod manners;
mod many;

use postern::queue::Filter;
use postern_tests::next_hop::{Fault, NextHop};
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use serde_json::Value;

/// The gateway, and next hops with bad manners: mail to `c0.example` goes to the first, and so on.
struct Stage {
    scene: Scene,
    hops: Vec<NextHop>,
    _directory: tempfile::TempDir,
}

/// In the place of minutes.
const SHORT: &str = r#"
[queue]
retry = ["1h"]
[delivery]
greeting_timeout = "700ms"
command_timeout = "700ms"
data_timeout = "700ms"
data_block_timeout = "700ms"
data_end_timeout = "700ms"
idle_timeout = "60s"
"#;
const CLIENT: &str = "192.0.2.7";
/// Reports to it go to the sink of the scene.
const SENDER: &str = "smith@example.com";
const MAIL: &str = "Subject: x\r\n\r\nhello\r\n";

impl Stage {
    async fn set(count: usize, more: &str) -> Self {
        let mut hops = Vec::new();
        let mut config = format!("{}{more}", head(NO_DNS));
        for n in 0..count {
            let hop = NextHop::start().await.unwrap();
            let port = hop.address.port();
            config += &format!(
                "[[tenant]]\nname = \"c{n}\"\ndomains = [\"c{n}.example\"]\n\
                 destination = {{ host = \"127.0.0.1\", port = {port}, tls = \"never\" }}\n"
            );
            hops.push(hop);
        }
        let directory = tempfile::tempdir().unwrap();
        let scene = Scene::set(&config, directory.path()).await.unwrap();
        Self { scene, hops, _directory: directory }
    }

    /// Gives its id.
    async fn send(&self, to: &[&str], mail: &str) -> String {
        let reply = self.scene.send(CLIENT, SENDER, to, mail).await;
        assert!(reply.starts_with("250 "), "{to:?}: {reply}");
        reply.rsplit(' ').next().unwrap().to_owned()
    }

    /// What became of it at first, e.g. `deferred 451 4.3.0 later`.
    async fn outcome(&self, id: &str, to: &str) -> String {
        let is_it = |event: &Value| {
            let name = event["event"].as_str().unwrap_or("");
            event["id"] == id && event["to"] == to && ["delivered", "deferred", "failed"].contains(&name)
        };
        let come = self.scene.until(|events| events.iter().any(is_it));
        if tokio::time::timeout(PATIENCE, come).await.is_err() {
            panic!("nothing became of {id} to {to}\n{}", self.scene.story());
        }
        let events = self.scene.events();
        let event = events.iter().find(|event| is_it(event)).unwrap();
        format!("{} {}", event["event"].as_str().unwrap(), event["reply"].as_str().unwrap())
    }

    /// All that is waiting is tried again, and is delivered; the queue is empty then.
    async fn drain(&self) {
        let all = async {
            loop {
                self.scene.server.queue().flush(&Filter::default()).await.unwrap();
                let left = self.scene.server.queue().list(&Filter::default()).await.unwrap();
                if left.messages.is_empty() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            panic!("the queue does not get empty\n{}", self.scene.story());
        }
    }

    async fn reports(&self, count: usize) -> Vec<String> {
        let taken = self.scene.taken("sink", count).await;
        taken.into_iter().map(|mail| String::from_utf8(mail.octets).unwrap()).collect()
    }
}

fn says(reply: &str) -> Fault {
    Fault::Says(format!("{reply}\r\n").into_bytes())
}

/// The steps at which a next hop can refuse, and what is asked again when EHLO is.
const STEPS: [&str; 6] = ["connect", "EHLO", "MAIL", "RCPT", "DATA", "."];

/// Each case is a mail to a next hop of its own, all at the same time: a step, what it does there, and what then becomes of
/// the mail. What was deferred is tried again and delivered; what was delivered, once.
async fn play(cases: Vec<(&'static str, Fault, String)>, mail: &str) -> Stage {
    // A long one may take a while until it has been written down.
    let limits =
        if mail == MAIL { SHORT.to_owned() } else { SHORT.replace("end_timeout = \"700ms\"", "end_timeout = \"1m\"") };
    let stage = Stage::set(cases.len(), &limits).await;
    let mut sent = Vec::new();
    for (n, (step, fault, _)) in cases.iter().enumerate() {
        stage.hops[n].fails(step, 1, fault.clone());
        if *step == "EHLO" {
            stage.hops[n].fails("HELO", 1, fault.clone());
        }
        let to = format!("jones@c{n}.example");
        sent.push((stage.send(&[&to], mail).await, to));
    }
    let mut failed = 0;
    for ((step, fault, expected), (id, to)) in cases.iter().zip(&sent) {
        let outcome = stage.outcome(id, to).await;
        let as_expected = expected.strip_suffix('*').map_or(outcome == *expected, |start| outcome.starts_with(start));
        assert!(as_expected, "{step} {fault:?}: {outcome}, not {expected}");
        failed += usize::from(outcome.starts_with("failed"));
    }
    stage.drain().await;
    let reports = stage.reports(failed).await;
    assert_eq!(reports.len(), failed, "a report for each that failed, and for no other");
    for (n, (step, fault, expected)) in cases.iter().enumerate() {
        let taken = stage.hops[n].taken().len();
        // I3: a copy for each time that the reply to the dot was lost, and none beyond.
        let is_unanswered = ["deferred 451 4.4.", "deferred 451 4.5.0"].iter().any(|own| expected.starts_with(own));
        let copies = if expected.starts_with("failed") { 0 } else { 1 + usize::from(*step == "." && is_unanswered) };
        assert_eq!(taken, copies, "{step} {fault:?}");
    }
    stage
}

fn at_each_step(fault: &Fault, expected: &str) -> Vec<(&'static str, Fault, String)> {
    STEPS.into_iter().map(|step| (step, fault.clone(), expected.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o1_what_is_refused_for_a_time_is_tried_again() {
    let mut cases = Vec::new();
    for reply in ["451 4.3.0 later", "450 4.7.1 not yet"] {
        cases.extend(at_each_step(&says(reply), &format!("deferred {reply}")));
    }
    let closing = Fault::Leaves(b"421 4.3.2 closing\r\n".to_vec());
    cases.extend(at_each_step(&closing, "deferred 421 4.3.2 closing"));
    let stage = play(cases, MAIL).await;
    let waits: Vec<_> = stage.scene.events().into_iter().filter(|event| event["event"] == "deferred").collect();
    assert!(waits.iter().all(|event| event["remote"] == true && event["next"].is_string()), "{waits:?}");
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_what_is_refused_for_good_is_reported_once() {
    let mut cases = at_each_step(&says("550 5.7.1 no"), "failed 550 5.7.1 no");
    cases.extend(at_each_step(&says("554 go away"), "failed 554 go away"));
    // RFC 5321 §4.5.3.1.10: old servers say so when they mean 452.
    cases.push(("RCPT", says("552 5.2.2 full"), "deferred 452 4.2.2 full".to_owned()));
    cases.push(("RCPT", says("552 too many recipients"), "deferred 452 too many recipients".to_owned()));
    let stage = play(cases, MAIL).await;
    for report in stage.reports(12).await {
        assert!(report.contains("Action: failed") && report.contains("Status: 5."), "{report}");
        assert!(report.contains("Diagnostic-Code: smtp; 55"), "{report}");
    }
    // Nobody is told of what had no sender; the log says that it is gone.
    stage.hops[0].fails("RCPT", 1, says("550 5.1.1 unknown"));
    let reply = stage.scene.send(CLIENT, "", &["jones@c0.example"], MAIL).await;
    assert!(reply.starts_with("250 "), "{reply}");
    stage.scene.happened("failed", |event| event["dropped"] == true).await;
    stage.scene.queue(0).await.unwrap();
    assert_eq!(stage.reports(12).await.len(), 12);
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_silence_at_each_step_is_waited_for_so_long_and_no_longer() {
    let mut cases = at_each_step(&Fault::Hangs, "deferred 451 4.4.2 Timed out with 127.0.0.1 at *");
    cases.extend(at_each_step(&Fault::Drips, "deferred 451 4.4.2 Timed out with 127.0.0.1 at *"));
    let stage = play(cases, MAIL).await;
    // Both of those that had the whole mail may have taken it.
    assert_eq!(stage.scene.metrics.deliveries_unanswered.get(), 2);
    stage.scene.server.stop().await;
}

/// RFC 5321 §4.5.3.2, where config says nothing.
#[test]
fn o3_the_default_limits_are_those_of_the_standard() {
    let limits = postern::delivery::Timeouts::default();
    let minutes = [limits.greeting, limits.mail, limits.rcpt, limits.data, limits.block, limits.dot];
    assert_eq!(minutes.map(|limit| limit.as_secs() / 60), [5, 5, 5, 2, 3, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o4_a_connection_that_is_dropped_loses_nothing_and_doubles_only_after_the_dot() {
    let gone = Fault::Leaves(Vec::new());
    let mut cases = at_each_step(&gone, "deferred 451 4.4.2 Connection with 127.0.0.1 lost at *");
    cases.extend(at_each_step(&Fault::Leaves(b"250-no".to_vec()), "deferred 451 4.4.2 Connection with *"));
    // After the reply to the dot it has the mail, whatever happens then.
    cases.push((".", Fault::Closes, "delivered 250 2.0.0 taken".to_owned()));
    let stage = play(cases, MAIL).await;
    assert_eq!(stage.scene.metrics.deliveries_unanswered.get(), 2);
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o5_a_next_hop_that_resets_or_stops_reading_is_left_in_time() {
    let long = format!("Subject: x\r\n\r\n{}", "0123456789abcdef\r\n".repeat(400_000));
    let timed_out = "deferred 451 4.4.2 Timed out with 127.0.0.1 at sending the message".to_owned();
    let mut cases = vec![("DATA", Fault::Stalls, timed_out.clone()), ("DATA", Fault::Sips, timed_out)];
    // At first it may look as if there had been no connection.
    cases.extend(at_each_step(&Fault::Resets, "deferred 451 4.4.*"));
    let stage = play(cases, &long).await;
    // It is the mail that was sent, and it was sent whole.
    for hop in &stage.hops {
        let octets = hop.taken().pop().unwrap().octets;
        assert!(octets.ends_with(&long.as_bytes()[long.len() - 7_200_000..]), "{}", octets.len());
    }
    stage.scene.server.stop().await;
}
