//! Whether a mailbox exists, asked of servers that follow a script (X9).

use super::*;
use crate::delivery::{CallAhead, CallAheadSettings, Presence};

const FOUND: &str = "C: MAIL FROM:<>\nS: 250 ok\nC: RCPT TO:<to@them.example>\nS: 250 ok\n";
const NOT_FOUND: &str = "C: MAIL FROM:<>\nS: 250 ok\nC: RCPT TO:<*\nS: 550 5.1.1 nobody\n";

struct Asker {
    call_ahead: Arc<CallAhead>,
    metrics: Arc<Metrics>,
    route: Route,
}

impl Asker {
    async fn new(port: u16, settings: CallAheadSettings) -> Self {
        Self::of(port, settings, super::settings(1)).await
    }

    async fn of(port: u16, settings: CallAheadSettings, delivery: Settings) -> Self {
        let dns = Responder::start().await;
        let (delivery, metrics) = super::delivery(&dns, delivery);
        let call_ahead = Arc::new(CallAhead::new(settings, Arc::new(delivery), metrics.clone()));
        Self { call_ahead, metrics, route: to("127.0.0.2", port) }
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
        (format!("{GREET}C: MAIL*\nS: 250 ok\nC: RCPT*\nS: 550 who?\nhang"), "unknown: 550 who?"),
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
