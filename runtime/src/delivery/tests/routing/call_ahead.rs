//! Whether a mailbox exists, asked of servers that follow a script (X9).

use super::*;
use std::collections::HashMap;
use std::sync::Mutex;

use crate::delivery::{CallAhead, CallAheadSettings, Memory, Presence};

const FOUND: &str = "C: MAIL FROM:<>\nS: 250 ok\nC: RCPT TO:<to@them.example>\nS: 250 ok\n";
const NOT_FOUND: &str = "C: MAIL FROM:<>\nS: 250 ok\nC: RCPT TO:<*\nS: 550 5.1.1 nobody\n";

type Notes = Arc<Mutex<HashMap<String, Vec<u8>>>>;

struct Asker {
    call_ahead: Arc<CallAhead>,
    notes: Notes,
    metrics: Arc<Metrics>,
    route: Route,
}

impl Asker {
    async fn new(port: u16, settings: CallAheadSettings) -> Self {
        Self::of(port, settings, super::settings(1)).await
    }

    async fn of(port: u16, settings: CallAheadSettings, delivery: Settings) -> Self {
        Self::with(port, settings, delivery, Notes::default()).await
    }

    /// One that begins with what another has kept.
    async fn with(port: u16, settings: CallAheadSettings, delivery: Settings, notes: Notes) -> Self {
        let dns = Responder::start().await;
        let (delivery, metrics) = super::delivery(&dns, delivery);
        let (read, write) = (notes.clone(), notes.clone());
        let memory = Memory {
            read: Box::new(move |tenant, key| read.lock().unwrap().get(&format!("{tenant} {key}")).cloned()),
            write: Box::new(move |tenant, key, value| {
                let (key, mut kept) = (format!("{tenant} {key}"), write.lock().unwrap());
                match value {
                    Some((value, _)) => drop(kept.insert(key, value.to_owned())),
                    None => drop(kept.remove(&key)),
                }
            }),
        };
        let call_ahead = Arc::new(CallAhead::new(settings, Arc::new(delivery), memory, metrics.clone()));
        Self { call_ahead, notes, metrics, route: to("127.0.0.2", port) }
    }

    /// As a mail to these has ended.
    fn learn(&self, heard: &[(&str, Outcome)]) {
        let heard: Vec<_> = heard.iter().map(|(to, outcome)| (Mailbox::parse(to).unwrap(), outcome)).collect();
        let heard = heard.iter().map(|(mailbox, outcome)| (mailbox, *outcome));
        self.call_ahead.learn_from(&Arc::from("them"), &self.route, heard);
    }

    async fn ask_for(&self, tenant: &str, recipient: &str) -> String {
        let recipient = Mailbox::parse(recipient).unwrap();
        match self.call_ahead.presence(&Arc::from(tenant), &self.route, &recipient).await {
            Presence::Exists => "exists".to_owned(),
            Presence::Unknown(reply) => format!("unknown: {reply}"),
            Presence::Unavailable(cause) => format!("unavailable: {cause}"),
        }
    }

    async fn ask(&self) -> String {
        self.ask_for("them", "to@them.example").await
    }

    fn count(&self, result: &str, source: &str) -> u64 {
        self.metrics.call_aheads.with_label_values(&[result, source]).get()
    }
}

fn to(address: &str, port: u16) -> Route {
    Route::Host { host: Host::parse(address).unwrap(), port, tls: TlsPolicy::Never }
}

#[tokio::test]
async fn x9_what_the_destination_says() {
    for (script, expected) in [
        (format!("{GREET}{FOUND}hang"), "exists"),
        (format!("{GREET}{NOT_FOUND}hang"), "unknown: 550 5.1.1 nobody"),
        (format!("{GREET}C: MAIL*\nS: 250 ok\nC: RCPT*\nS: 550 5.2.1 closed\nhang"), "unavailable: 550 5.2.1 closed"),
        // It refuses us, or has other troubles.
        (format!("{GREET}C: MAIL*\nS: 250 ok\nC: RCPT*\nS: 550 5.7.1 listed\nhang"), "unavailable: 550 5.7.1 listed"),
        (format!("{GREET}C: MAIL*\nS: 250 ok\nC: RCPT*\nS: 451 4.7.1 later\nhang"), "unavailable: 451 4.7.1 later"),
        (format!("{GREET}C: MAIL*\nS: 550 5.1.1 no null sender\nend"), "unavailable: 550 5.1.1 no null sender"),
        ("S: 554 5.1.1 no\nend".to_owned(), "unavailable: 554 5.1.1 no"),
        ("S: 220 mx\nC: EHLO*\nS: 451 no\nend".to_owned(), "unavailable: 451 no"),
        (
            format!("{GREET}C: MAIL*\nS: 250 ok\nC: RCPT*\nS: 354 go\nend"),
            "unavailable: 451 4.5.0 127.0.0.2 broke the protocol at RCPT with the reply: 354 go",
        ),
        (
            format!("{GREET}C: MAIL*\nclose"),
            "unavailable: 451 4.4.2 Connection with 127.0.0.2 lost at MAIL: closed by the server",
        ),
    ] {
        let servers = Servers::start(&[("127.0.0.2", &[&script])]).await;
        let asker = Asker::new(servers.port, CallAheadSettings::default()).await;
        assert_eq!(asker.ask().await, expected, "{script}");
        drop(asker);
        servers.finish().await;
    }
}

#[tokio::test]
async fn x9_another_sender() {
    let script = format!("{GREET}C: MAIL FROM:<probe@us.example>\nS: 250 ok\nC: RCPT*\nS: 250 ok\nhang");
    let servers = Servers::start(&[("127.0.0.2", &[&script])]).await;
    let sender = ReversePath(Some(Mailbox::parse("probe@us.example").unwrap()));
    let asker = Asker::new(servers.port, CallAheadSettings { sender, ..CallAheadSettings::default() }).await;
    assert_eq!(asker.ask().await, "exists");
    drop(asker);
    servers.finish().await;
}

#[tokio::test]
async fn x9_asked_once_at_a_time_and_kept_for_each_tenant() {
    // The second tenant's question goes over the same connection, which is the destination's.
    let script = format!("{GREET}{FOUND}C: RSET\nS: 250 ok\n{FOUND}hang");
    let servers = Servers::start(&[("127.0.0.2", &[&script])]).await;
    let asker = Asker::new(servers.port, CallAheadSettings::default()).await;
    let (one, two, three) = tokio::join!(asker.ask(), asker.ask(), asker.ask());
    assert_eq!([one, two, three], ["exists", "exists", "exists"]);
    assert_eq!((asker.ask().await.as_str(), asker.count("exists", "cache")), ("exists", 1));
    assert_eq!(asker.count("exists", "destination"), 1);
    assert_eq!(asker.ask_for("others", "to@them.example").await, "exists");
    assert_eq!(asker.count("exists", "destination"), 2);
    drop(asker);
    servers.finish().await;
}

#[tokio::test]
async fn x9_what_was_known_counts_while_the_destination_is_down() {
    let (found, not_found) = (format!("{GREET}{FOUND}hang"), format!("{GREET}{NOT_FOUND}C: QUIT\nhang"));
    let servers = Servers::start(&[("127.0.0.2", &[&found, &not_found])]).await;
    let idle_time = Duration::ZERO;
    let delivery = Settings { idle_time, ..settings(1) };
    let asker = Asker::of(servers.port, CallAheadSettings::default(), delivery).await;
    assert_eq!(asker.ask().await, "exists");
    assert_eq!(asker.ask_for("them", "no@them.example").await, "unknown: 550 5.1.1 nobody");
    // Both are over, and nobody listens any more.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(25 * 3600)).await;
    tokio::time::resume();
    assert_eq!((asker.ask().await.as_str(), asker.count("exists", "expired")), ("exists", 1));
    let refused = "unavailable: 451 4.4.1 No connection to 127.0.0.2";
    assert!(asker.ask_for("them", "no@them.example").await.starts_with(refused));
    // It is left alone for a while.
    let tried = asker.metrics.next_hop_connections.with_label_values(&["failed"]).get();
    assert!(asker.ask_for("them", "new@them.example").await.starts_with(refused));
    assert_eq!(asker.metrics.next_hop_connections.with_label_values(&["failed"]).get(), tried);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert!(asker.ask_for("them", "new@them.example").await.starts_with(refused));
    assert_eq!(asker.metrics.next_hop_connections.with_label_values(&["failed"]).get(), tried + 1);
    drop(asker);
}

#[tokio::test]
async fn x9_another_destination_has_other_mailboxes() {
    let (found, not_found) = (format!("{GREET}{FOUND}hang"), format!("{GREET}{NOT_FOUND}hang"));
    let servers = Servers::start(&[("127.0.0.2", &[&found]), ("127.0.0.3", &[&not_found])]).await;
    let mut asker = Asker::new(servers.port, CallAheadSettings::default()).await;
    assert_eq!(asker.ask().await, "exists");
    asker.route = to("127.0.0.3", servers.port);
    assert_eq!(asker.ask().await, "unknown: 550 5.1.1 nobody");
    asker.route = Route::Maildir("/nonexistent".into());
    assert_eq!(asker.ask().await, "exists", "it takes whatever comes");
    drop(asker);
    servers.finish().await;
}

#[tokio::test]
async fn x9_only_so_many_questions_at_once() {
    // With two at once, there would be two connections.
    let script = format!("{GREET}{}", "C: MAIL*\nS: 250 ok\nC: RCPT*\nS: 250 ok\nC: RSET\nS: 250 ok\n".repeat(3));
    let script = script.trim_end_matches("C: RSET\nS: 250 ok\n").to_owned() + "\nhang";
    let servers = Servers::start(&[("127.0.0.2", &[&script])]).await;
    let asker = Asker::new(servers.port, CallAheadSettings { concurrency: 1, ..CallAheadSettings::default() }).await;
    let ask = |recipient| asker.ask_for("them", recipient);
    let all = tokio::join!(ask("a@them.example"), ask("b@them.example"), ask("c@them.example"));
    assert_eq!(all, ("exists".to_owned(), "exists".to_owned(), "exists".to_owned()));
    drop(asker);
    servers.finish().await;
}

#[tokio::test]
async fn x9_a_destination_that_hangs_is_waited_for_so_long_and_no_longer() {
    let servers = Servers::start(&[("127.0.0.2", &[&format!("{GREET}hang")])]).await;
    let timeout = Duration::from_millis(200);
    let asker = Asker::new(servers.port, CallAheadSettings { timeout, ..CallAheadSettings::default() }).await;
    assert_eq!(asker.ask().await, "unavailable: no reply in time");
    drop(asker);
    servers.finish().await;
}

#[tokio::test]
async fn x9_a_reload_forgets_nothing() {
    let script = format!("{GREET}{FOUND}hang");
    let servers = Servers::start(&[("127.0.0.2", &[&script])]).await;
    let asker = Asker::new(servers.port, CallAheadSettings::default()).await;
    assert_eq!(asker.ask().await, "exists");
    let keep_existing = Duration::from_secs(60);
    asker.call_ahead.configure(CallAheadSettings { keep_existing, ..CallAheadSettings::default() });
    assert_eq!((asker.ask().await.as_str(), asker.count("exists", "cache")), ("exists", 1));
    drop(asker);
    servers.finish().await;
}

/// A refusal without a reason: of the mailbox where somebody else is taken, of us where nobody is.
#[tokio::test]
async fn x9_who_refuses_everybody_says_nothing_of_a_mailbox() {
    let refused = "C: MAIL*\nS: 250 ok\nC: RCPT TO:<t*\nS: 550 relay not permitted\n";
    let postmaster =
        |reply: &str| format!("{GREET}C: MAIL*\nS: 250 ok\nC: RCPT TO:<postmaster@them.example>\nS: {reply}\nhang");
    for (reply, expected) in [
        ("250 ok", "unknown: 550 relay not permitted"),
        ("550 5.1.1 nobody, not even he", "unknown: 550 relay not permitted"),
        ("550 relay not permitted", "unavailable: 550 relay not permitted; nor does it take mail for postmaster there"),
        ("451 later", "unavailable: 550 relay not permitted; nor does it take mail for postmaster there"),
    ] {
        let servers = Servers::start(&[("127.0.0.2", &[&format!("{GREET}{refused}hang"), &postmaster(reply)])]).await;
        let delivery = Settings { idle_time: Duration::ZERO, ..settings(1) };
        let asker = Asker::of(servers.port, CallAheadSettings::default(), delivery).await;
        assert_eq!(asker.ask().await, expected, "{reply}");
        drop(asker);
        servers.finish().await;
    }
    // Where somebody was taken before, postmaster is not asked.
    let script = format!("{GREET}C: MAIL*\nS: 250 ok\nC: RCPT TO:<anna*\nS: 250 ok\nC: RSET\nS: 250 ok\n{refused}hang");
    let servers = Servers::start(&[("127.0.0.2", &[&script])]).await;
    let asker = Asker::new(servers.port, CallAheadSettings::default()).await;
    assert_eq!(asker.ask_for("them", "anna@them.example").await, "exists");
    assert_eq!(asker.ask().await, "unknown: 550 relay not permitted");
    drop(asker);
    servers.finish().await;
}

fn diagnosis(code: u16, status: (u16, u16), remote: bool) -> Diagnosis {
    let reply = Reply::new(code, Some(Enhanced::new(status.0, status.1)), "x");
    Diagnosis { host: None, reply, remote, of_recipient: false, dsn_relayed: false }
}

#[tokio::test]
async fn x9_deliveries_teach_who_exists() {
    let servers = Servers::start(&[("127.0.0.2", &[&format!("{GREET}{FOUND}hang")])]).await;
    let asker = Asker::new(servers.port, CallAheadSettings::default()).await;
    let delivered = || Outcome::Delivered(diagnosis(250, (0, 0), true));
    let of = |code, status, remote, of_recipient| Diagnosis { of_recipient, ..diagnosis(code, status, remote) };
    let failed = |code, status, remote| Outcome::Failed(of(code, status, remote, remote));
    asker.learn(&[("before@them.example", delivered())]);
    assert!(asker.notes.lock().unwrap().is_empty(), "nobody has asked for anything yet");
    assert_eq!(asker.ask().await, "exists");
    asker.learn(&[
        ("anna@them.example", delivered()),
        ("gone@them.example", failed(550, (1, 1), true)),
        ("full@them.example", failed(552, (2, 2), true)),
        ("ours@them.example", failed(550, (1, 1), false)),
        ("later@them.example", Outcome::Deferred(diagnosis(450, (1, 1), true))),
    ]);
    // A reply to MAIL or the data: it may be about the sender.
    asker.learn(&[("alone@them.example", Outcome::Failed(of(550, (1, 0), true, false)))]);
    let dead = "unavailable: ";
    drop(servers);
    for (local, expected) in [
        ("anna", "exists"),
        ("gone", "unknown: 550 5.1.1 x"),
        ("alone", dead),
        ("full", dead),
        ("ours", dead),
        ("later", dead),
    ] {
        let said = asker.ask_for("them", &format!("{local}@them.example")).await;
        assert!(said.starts_with(expected), "{local}: {said}");
    }
    assert_eq!(asker.count("exists", "cache"), 1);
}

#[tokio::test]
async fn x9_who_exists_is_known_after_a_restart() {
    let (found, not_found) = (format!("{GREET}{FOUND}hang"), format!("{GREET}{NOT_FOUND}hang"));
    let servers = Servers::start(&[("127.0.0.2", &[&found, &not_found])]).await;
    let delivery = Settings { idle_time: Duration::ZERO, ..settings(1) };
    let asker = Asker::of(servers.port, CallAheadSettings::default(), delivery).await;
    assert_eq!(asker.ask().await, "exists");
    assert!(asker.ask_for("them", "gone@them.example").await.starts_with("unknown"));
    let (notes, port) = (asker.notes.clone(), servers.port);
    drop((asker, servers));
    let mut asker = Asker::with(port, CallAheadSettings::default(), settings(1), notes.clone()).await;
    assert_eq!((asker.ask().await.as_str(), asker.count("exists", "cache")), ("exists", 1));
    assert!(asker.ask_for("them", "gone@them.example").await.starts_with("unavailable"), "asked anew");
    assert!(asker.ask_for("others", "to@them.example").await.starts_with("unavailable"), "another tenant's");
    asker.route = to("127.0.0.3", port);
    assert!(asker.ask().await.starts_with("unavailable"), "another destination's");
    asker.route = to("127.0.0.2", port);
    let refused = Diagnosis { of_recipient: true, ..diagnosis(550, (1, 1), true) };
    asker.learn(&[("to@them.example", Outcome::Failed(refused))]);
    assert!(notes.lock().unwrap().is_empty());
    // Rubbish is nothing.
    notes.lock().unwrap().insert("them to@them.example".to_owned(), b"rubbish".to_vec());
    let asker = Asker::with(port, CallAheadSettings::default(), settings(1), notes).await;
    assert!(asker.ask().await.starts_with("unavailable"));
}
