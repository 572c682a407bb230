//! RS3: clients that take their time.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use postern::log::EventLog;
use postern::metrics::Metrics;
use postern::pipeline::{Chains, Clerk, SessionId};
use postern::session::connection::Context;
use postern::session::machine::Gateway;
use postern::session::{Accepted, CommitError, Listener, Peer, Services, Snapshot, TlsMode, serve};
use postern_tests::{fixture, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::play;
use crate::{GREETED, RECIPIENT};

#[test]
fn rs3_deadlines_are_for_commands_messages_and_sessions() {
    play(&["timeout-of-a-command", "timeout-of-a-message", "timeout-in-data", "timeout-in-auth"]);
    let table = [
        // What came fast is no credit for later.
        ("fast, then slow", "C: DATA\nS: 354 *\nC*10000: abcdefghijklmnopqrstuvwxyz\n@ wait 2m\nC: x\n@ wait 61s\n"),
        ("between chunks", "C: BDAT 3\nC\"abc\"\nS: 250 *\n@ wait 2m\nC\"BDAT \"\n@ wait 61s\n"),
        ("in a chunk", "C: BDAT 100\nC\"abc\"\n@ wait 2m\nC\"d\"\n@ wait 61s\n"),
        ("in a chunk that is refused", "C: RSET\nS: 250 *\nC: BDAT 100\nC\"abc\"\n@ wait 2m\nC\"d\"\n@ wait 61s\n"),
    ];
    let dialogs = table.map(|(name, steps)| {
        (
            name.to_owned(),
            format!("# RS3: a slow client\n{GREETED}{RECIPIENT}{steps}S: 421 4.4.2 *\n@ close\n@ mails 0\n"),
        )
    });
    crate::play(dialogs);
    // For an hour without a mail, whatever is said; a mail gives another one.
    let idle = "C: NOOP\nS: 250 *\n@ wait 290s\n".repeat(12);
    let mail = format!("{RECIPIENT}C: DATA\nS: 354 *\nC: Subject: x\nC:\nC: x\nC: .\nS: 250 *\n");
    let session = format!(
        "# RS3: a slow client\n{GREETED}{idle}{mail}{idle}C: NOOP\nS: 250 *\n@ wait 2m\nS: 421 4.4.2 *\n@ close\n@ mails 1\n"
    );
    crate::play([("session".to_owned(), session)]);
}

struct Nobody;

impl Services for Nobody {
    fn commit(&self, _: Vec<Accepted>) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send + '_>> {
        Box::pin(std::future::ready(Err(CommitError::Failed)))
    }
}

/// A session over a pipe that holds so many octets, and the client's end.
fn session(mode: TlsMode, octets: usize) -> (DuplexStream, JoinHandle<()>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (log, _) = EventLog::new(metrics.clone());
    let snapshot = Snapshot {
        settings: Arc::new(fixture::settings(std::env::temp_dir())),
        directory: Arc::new(fixture::directory()),
        chains: Arc::new(Chains::default()),
    };
    let gateway = Arc::new(Gateway::new(snapshot, Clerk { log, metrics: metrics.clone() }, Box::new(|_| true)));
    let (_, stopping) = watch::channel(false);
    let listener = Arc::new(Listener { tls: mode, ..Listener::inbound("test") });
    let context = Context::new(gateway, listener, Arc::new(Nobody), Some(tls::acceptor()), stopping);
    let client = "192.0.2.1:40000".parse().unwrap();
    let peer = Peer {
        id: SessionId::next(),
        client,
        connecting: client,
        local: "203.0.113.25:25".parse().unwrap(),
        client_name: Arc::default(),
        concurrent: 1,
        tls: None,
    };
    let (ours, theirs) = tokio::io::duplex(octets);
    (ours, tokio::spawn(serve(theirs, context, peer, None)), metrics)
}

/// How long the session goes on.
async fn lasts(session: JoinHandle<()>) -> u64 {
    let began = Instant::now();
    session.await.unwrap();
    began.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn rs3_a_handshake_has_a_deadline() {
    let (mut client, session, metrics) = session(TlsMode::Implicit, 4096);
    // The beginning of a record that is as long as they get, an octet every ten seconds.
    let drip = tokio::spawn(async move {
        for octet in [22, 3, 1, 0x3f, 0xff].into_iter().chain(std::iter::repeat(1)) {
            if client.write_all(&[octet]).await.is_err() {
                return;
            }
            sleep(Duration::from_secs(10)).await;
        }
    });
    assert_eq!(lasts(session).await, 30);
    assert_eq!(metrics.tls_handshakes.with_label_values(&["timeout"]).get(), 1);
    assert_eq!(metrics.sessions_open.get(), 0);
    drip.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rs3_who_reads_no_reply_is_let_go() {
    let (mut client, session, metrics) = session(TlsMode::None, 64);
    let mut banner = [0; 10];
    client.read_exact(&mut banner).await.unwrap();
    client.write_all(b"EHLO client.example\r\n").await.unwrap();
    // There is no room for a 421 either.
    assert_eq!(lasts(session).await, 120);
    assert_eq!(metrics.sessions_open.get(), 0);
}

/// Nor who reads an octet now and then.
#[tokio::test(start_paused = true)]
async fn rs3_who_reads_replies_too_slowly_is_let_go() {
    let (mut client, session, _) = session(TlsMode::None, 64);
    let drip = tokio::spawn(async move {
        client.write_all(b"EHLO client.example\r\n").await.unwrap();
        let mut octet = [0];
        while client.read_exact(&mut octet).await.is_ok() {
            sleep(Duration::from_secs(5)).await;
        }
    });
    let took = lasts(session).await;
    assert!((120..=300).contains(&took), "{took} s");
    drip.abort();
}
