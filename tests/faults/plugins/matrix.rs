//! W13: what each failure policy does of each fault at each stage; the table of `runtime/docs/plugins.md`.

use postern::mail::MessageId;
use postern::queue::{Filter, Standing};
use postern_tests::client::Client;
use postern_tests::guest::Guest;
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use tokio::net::TcpStream;

use super::{LOOP, MAIL, failures, until};
use crate::play;
use crate::verdicts::{Outcome, STAGES, dialog};

/// Name of plugin and cause, limits, what the guest does. The client's address says which one does it, and where.
const FAULTS: [(&str, &str, &str); 7] = [
    ("trap", "", "unreachable"),
    ("stack", "", "(call $deep)"),
    ("cpu", "cpu = \"10ms\"", LOOP),
    ("wall", "cpu = \"60s\", wall = \"100ms\"", LOOP),
    ("memory", "", "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable"),
    ("host-calls", "", "(loop $more (drop (call $port (local.get $session))) (br $more))"),
    ("malformed", "", "(i32.store8 (i32.const 1024) (i32.const 99))"),
];
const JUDGING: [&str; 6] = ["connect", "helo", "mail-from", "rcpt", "data", "deliver"];

/// What becomes of the mail.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Refused(&'static str),
    /// Refused, and the connection is closed at once.
    Closed(&'static str),
    Delivered,
    /// Quarantined, for that reason or the policy's own.
    KeptBack(Option<&'static str>),
    /// Taken; it stays in the queue, to be tried again.
    Waits,
}

fn fate(policy: &str, stage: &str) -> Fate {
    match (policy, stage) {
        ("continue", _) => Fate::Delivered,
        ("quarantine", _) => Fate::KeptBack(None),
        ("defer" | "disconnect", "deliver") => Fate::Waits,
        // Its sender has the 250 and may be forged: it is told nothing (SP12).
        ("reject", "deliver") => Fate::KeptBack(Some("554 5.3.0 Transaction failed: policy could not be checked")),
        ("defer", _) => Fate::Refused("451 4.3.0 "),
        ("reject", _) => Fate::Refused("554 5.3.0 "),
        ("disconnect", _) => Fate::Closed("421 4.3.0 "),
        _ => panic!("{policy}"),
    }
}

/// Fails so where the client is 10.9.`fault`.`stage`; says `next` else.
fn guest(fault: usize, body: &str) -> Guest {
    let address =
        |offset, octet| format!("(i32.eq (i32.load8_u offset={offset} (i32.const 4096)) (i32.const {octet}))");
    let guest = Guest::new()
        .import("session", "[method]session.client-address", "address", "i32 i32")
        .import("session", "[method]session.client-port", "port", "i32) (result i32")
        .item("(func $deep (call $deep))");
    JUDGING.iter().enumerate().fold(guest, |guest, (stage, name)| {
        // `ipv4` has its octets behind the case, at an even address.
        let body = format!(
            "(call $address (local.get $session) (i32.const 4096))
            (if (i32.and {} {}) (then {body}))",
            address(4, fault),
            address(5, stage)
        );
        guest.at(name, &body)
    })
}

async fn scene(policy: &str, directory: &std::path::Path) -> Scene {
    let mut config = head(NO_DNS);
    for (number, (name, limits, body)) in FAULTS.iter().enumerate() {
        std::fs::write(directory.join(format!("{name}.wasm")), guest(number, body).build()).unwrap();
        config += &format!("[[plugin]]\nname = \"{name}\"\nsource = \"{name}.wasm\"\nlimits = {{ {limits} }}\n");
    }
    let entry = |(name, _, _): &(&str, &str, &str)| format!("{{ plugin = \"{name}\", on_failure = \"{policy}\" }}");
    let entries: Vec<_> = FAULTS.iter().map(entry).collect();
    config += &format!("[chain]\nplatform = [{}]\n", entries.join(", "));
    Scene::set(&config, directory).await.unwrap()
}

/// The reply that refuses or the last, and at which step it came: 0 to 5 as [`JUDGING`], where end of data is 4.
async fn attempt(scene: &Scene, address: &str) -> (String, usize, bool) {
    let stream = TcpStream::connect(scene.address()).await.unwrap();
    let mut client = Client::new(Box::new(stream), false, PATIENCE);
    client.line().await.unwrap();
    let steps = [
        (0, format!("XCLIENT ADDR={address}\r\n")),
        (1, "EHLO client.example\r\n".to_owned()),
        (2, "MAIL FROM:<smith@client.example>\r\n".to_owned()),
        (3, "RCPT TO:<jones@example.com>\r\n".to_owned()),
        (3, "DATA\r\n".to_owned()),
        (4, format!("{MAIL}.\r\n")),
    ];
    let mut last = (String::new(), 0);
    for (stage, octets) in steps {
        client.send(octets.as_bytes()).await;
        last = (client.reply().await.unwrap().remove(0), stage);
        if last.0.starts_with(['4', '5']) {
            break;
        }
    }
    let closed = last.0.starts_with("421") && client.closed().await.is_ok();
    (last.0, last.1, closed)
}

/// Where in the queue the mail of that reply is; none: not there any more.
async fn standing(scene: &Scene, reply: &str) -> Option<(Standing, Option<String>)> {
    let id: MessageId = reply.rsplit(' ').next().unwrap().parse().unwrap();
    let page = scene.server.queue().list(&Filter::id(id)).await.unwrap();
    page.messages.into_iter().next().map(|summary| (summary.state, summary.reason))
}

/// One cell. True: the mail is delivered.
async fn cell(scene: &Scene, policy: &str, fault: usize, stage: usize) -> bool {
    let (cause, at) = (FAULTS[fault].0, JUDGING[stage]);
    let what = format!("{policy} {cause} {at}");
    let (reply, step, closed) = attempt(scene, &format!("10.9.{fault}.{stage}")).await;
    let expected = fate(policy, at);
    match expected {
        Fate::Refused(text) => {
            // What is said before RCPT is said of each recipient.
            assert!(reply.starts_with(text) && step == stage.max(3) && !closed, "{what}: {reply} at {step}");
        }
        Fate::Closed(text) => assert!(reply.starts_with(text) && step == stage && closed, "{what}: {reply} at {step}"),
        _ => assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{what}: {reply}"),
    }
    match expected {
        Fate::KeptBack(reason) => {
            let reason = Some(reason.map_or_else(|| format!("plugin failed: {cause}"), str::to_owned));
            until(&what, scene, async || {
                standing(scene, &reply).await == Some((Standing::Quarantined, reason.clone()))
            })
            .await;
        }
        Fate::Waits => {
            let waits = async || matches!(standing(scene, &reply).await, Some((Standing::Waiting, _)));
            until(&what, scene, waits).await;
        }
        Fate::Delivered => until(&what, scene, async || standing(scene, &reply).await.is_none()).await,
        Fate::Refused(_) | Fate::Closed(_) => {}
    }
    expected == Fate::Delivered
}

async fn policy(policy: &'static str) {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(policy, directory.path()).await;
    let mut delivered = 0;
    for (fault, (cause, _, _)) in FAULTS.iter().enumerate() {
        for stage in 0..JUDGING.len() {
            delivered += usize::from(cell(&scene, policy, fault, stage).await);
            assert_eq!(failures(&scene, "platform", cause, cause), stage as u64 + 1, "{policy} {cause}");
        }
        // The next mail is fine.
        let reply = scene.send("198.51.100.9", "smith@client.example", &["jones@example.com"], MAIL).await;
        assert!(reply.starts_with("250 2.0.0"), "{policy} after {cause}: {reply}");
        delivered += 1;
    }
    let taken = scene.taken("sink", delivered).await;
    assert_eq!(taken.len(), delivered, "{policy}: a mail that was not to be delivered was");
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w13_each_failure_policy_at_each_stage_of_each_fault() {
    tokio::join!(policy("defer"), policy("continue"), policy("reject"), policy("quarantine"), policy("disconnect"));
}

/// The causes that no guest brings about at will are the policy's as well: no permit, an open breaker, our own trouble.
#[test]
fn w13_each_failure_policy_of_each_cause_in_the_machine() {
    let policies = |cause: &'static str| {
        [
            ("defer", Outcome::Refused("451 4.3.0 *")),
            ("continue", Outcome::Taken),
            ("reject", Outcome::Refused("554 5.3.0 *")),
            ("quarantine", Outcome::KeptBack(cause)),
            ("disconnect", Outcome::Closed("421 4.3.0 *")),
        ]
    };
    let mut dialogs = Vec::new();
    for (cause, reason) in [
        ("denied", "plugin failed: denied"),
        ("busy", "plugin failed: busy"),
        ("breaker", "plugin failed: breaker"),
        ("host", "plugin failed: host"),
    ] {
        for stage in STAGES {
            for (policy, outcome) in policies(reason) {
                let setup = format!("@ filter on_failure={policy} {stage} fail {cause}\n");
                dialogs.push((format!("failure {cause} {stage} {policy}"), dialog(&setup, stage, outcome)));
            }
            let default = format!("@ filter {stage} fail {cause}\n");
            let outcome = Outcome::Refused("451 4.3.0 *");
            dialogs.push((format!("failure {cause} {stage} default"), dialog(&default, stage, outcome)));
        }
    }
    assert_eq!(play(dialogs), 120);
}
