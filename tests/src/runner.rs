//! Runs a dialogue against `postern::session::serve`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern::log::{EventLog, Record};
use postern::metrics::Metrics;
use postern::pipeline::{Clerk, SessionId};
use postern::session::connection::Context;
use postern::session::machine::Gateway;
use postern::session::{Peer, Snapshot, TlsMode, serve};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::client::{Client, Stream};
use crate::filter::{Asked, chains};
use crate::mail::{Captured, check};
use crate::script::{Dialog, Step, matches};
use crate::{fixture, tls};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In memory, the clock paused, each group of lines one write.
    Memory,
    /// The same, each octet one write.
    Octets,
    /// Over a loopback connection, in real time.
    Tcp,
}

/// Octets that may be on their way in memory.
const PIPE: usize = 64 * 1024;

/// # Errors
/// Where the dialogue took another turn: file, line, expected and got, and all that was said.
pub fn run(dialog: &Dialog, way: Way) -> Result<(), String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(way != Way::Tcp);
    let runtime = builder.build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut stage = Stage::set(dialog, way).await?;
        let result = stage.play(dialog).await;
        result.map_err(|(line, text)| {
            let mut report = format!("{}:{line} ({way:?}): {text}\n", dialog.name);
            for line in &stage.client.transcript {
                let _ = writeln!(report, "    {line}");
            }
            report
        })
    })
}

/// The gateway, the client and what both leave behind.
struct Stage {
    client: Client,
    mails: Arc<Captured>,
    asked: Asked,
    unknown: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    events: Receiver<(jiff::Timestamp, Record)>,
    logged: Vec<&'static str>,
    server: Server,
    last_reply: Vec<String>,
    _incoming: tempfile::TempDir,
}

/// The server's end waits until the client has said what it says unasked.
enum Server {
    Waiting(Box<dyn FnOnce() -> JoinHandle<()>>),
    Runs(JoinHandle<()>),
    Joined,
}

type Failed = (usize, String);

impl Stage {
    async fn set(dialog: &Dialog, way: Way) -> Result<Self, String> {
        let incoming = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut settings = fixture::settings(incoming.path().to_owned());
        dialog.setup.apply(&mut settings)?;
        let asked = Asked::default();
        let metrics = Arc::new(Metrics::new().map_err(|error| error.to_string())?);
        let (log, events) = EventLog::new(metrics.clone());
        let has_room = dialog.setup.has_room;
        let snapshot = Snapshot {
            settings: Arc::new(settings),
            directory: Arc::new(fixture::directory()),
            chains: Arc::new(chains(&dialog.setup.filters, &asked)),
        };
        let unknown = Arc::new(AtomicUsize::new(0));
        let count = unknown.clone();
        let gateway = Gateway::new(snapshot, Clerk { log, metrics }, Box::new(move |_| has_room))
            .with_unknown_recipients(Box::new(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            }));
        let mails = Arc::new(Captured::default());
        mails.fail(dialog.setup.commit);
        let (stop, stopping) = watch::channel(false);
        let acceptor = (dialog.setup.tls != TlsMode::None).then(tls::acceptor);
        let listener = Arc::new(dialog.setup.listener());
        let context = Context::new(Arc::new(gateway), listener, mails.clone(), acceptor, stopping);
        let (ours, theirs) = connect(way).await.map_err(|error| error.to_string())?;
        let peer = peer(dialog.setup.client_address());
        let unavailable = dialog.setup.unavailable.clone();
        let start = move || {
            tokio::spawn(async move {
                match theirs {
                    Far::Memory(stream) => serve(stream, context, peer, unavailable).await,
                    Far::Tcp(listener) => {
                        let (stream, _) = listener.accept().await.expect("a connection that is there already");
                        serve(stream, context, peer, unavailable).await;
                    }
                }
            })
        };
        // A server that does not answer makes a test fail, not hang: the paused clock jumps there at once.
        let patience = if way == Way::Tcp { Duration::from_secs(20) } else { Duration::from_secs(48 * 3600) };
        Ok(Self {
            client: Client::new(ours, way == Way::Octets, patience),
            mails,
            asked,
            unknown,
            stop,
            events,
            logged: Vec::new(),
            server: Server::Waiting(Box::new(start)),
            last_reply: Vec::new(),
            _incoming: incoming,
        })
    }

    async fn play(&mut self, dialog: &Dialog) -> Result<(), Failed> {
        let mut steps = dialog.steps.iter().peekable();
        if dialog.setup.tls == TlsMode::Implicit {
            self.start();
            self.client.handshake().await.map_err(|error| (1, error))?;
        }
        let mut last = 1;
        while let Some((line, step)) = steps.next() {
            last = *line;
            if let Step::Send(first) = step {
                let mut group = first.clone();
                while let Some((_, Step::Send(more))) = steps.peek() {
                    group.extend_from_slice(more);
                    steps.next();
                }
                self.send(&group).await;
            } else {
                self.start();
                self.step(step).await.map_err(|error| (*line, error))?;
            }
        }
        self.start();
        self.client.finish().await.map_err(|error| (last, error))?;
        self.join().await.map_err(|error| (last, error))
    }

    /// What comes before anything was expected is there before the server looks.
    async fn send(&mut self, octets: &[u8]) {
        if let (Server::Waiting(_), Some((first, rest))) = (&self.server, octets.split_first()) {
            if self.client.splits() {
                self.client.send(&[*first]).await;
                self.start();
                self.client.send(rest).await;
            } else {
                self.client.send(octets).await;
                self.start();
            }
        } else {
            self.client.send(octets).await;
        }
    }

    fn start(&mut self) {
        self.server = match std::mem::replace(&mut self.server, Server::Joined) {
            Server::Waiting(start) => Server::Runs(start()),
            other => other,
        };
    }

    /// The session ends when the connection does, and without a panic.
    async fn join(&mut self) -> Result<(), String> {
        let Server::Runs(server) = std::mem::replace(&mut self.server, Server::Joined) else { return Ok(()) };
        match timeout(Duration::from_secs(20), server).await {
            Err(_) => Err("the session goes on without a client".to_owned()),
            Ok(Err(error)) => Err(format!("the session: {error}")),
            Ok(Ok(())) => Ok(()),
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Send(octets) => self.client.send(octets).await,
            Step::Expect(pattern) => {
                let line = self.client.line().await.map_err(|error| differs(pattern, error))?;
                return matches(pattern, &line).then_some(()).ok_or_else(|| differs(pattern, line));
            }
            Step::ExpectReply(code) => {
                self.last_reply = self.client.reply().await.map_err(|error| differs(code, error))?;
                let right = self.last_reply.iter().all(|line| line.get(..3) == Some(code.as_str()));
                return right.then_some(()).ok_or_else(|| differs(code, self.last_reply.join(" / ")));
            }
            Step::Offers(pattern) => {
                return self.offers(pattern).then_some(()).ok_or_else(|| differs(pattern, self.last_reply.join(" / ")));
            }
            Step::Lacks(pattern) => {
                return (!self.offers(pattern)).then_some(()).ok_or_else(|| format!("{pattern} is offered"));
            }
            Step::Tls => return self.client.handshake().await,
            Step::Close => {
                self.client.closed().await?;
                return self.join().await;
            }
            Step::Hangup => {
                self.client.hang_up();
                return self.join().await;
            }
            Step::Wait(time) => sleep(*time).await,
            Step::Took(time) => {
                let took = self.client.last_write.elapsed();
                // The paused clock moves in whole milliseconds.
                let right = took >= *time && took < *time + Duration::from_millis(50);
                return right.then_some(()).ok_or_else(|| differs(&format!("{time:?}"), format!("{took:?}")));
            }
            Step::Commit(failure) => self.mails.fail(*failure),
            Step::Stop => drop(self.stop.send(true)),
            _ => return self.outcome(step),
        }
        Ok(())
    }

    fn outcome(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Mails(wanted) => {
                let got = self.mails.mails().len();
                (got == *wanted).then_some(()).ok_or_else(|| differs(&wanted.to_string(), got.to_string()))
            }
            Step::Mail(number, what, value) => {
                let mails = self.mails.mails();
                let mail = mails.get(number.wrapping_sub(1)).ok_or_else(|| format!("there is no mail {number}"))?;
                check(mail, what, value).map_err(|got| differs(&format!("{what} {value}"), got))
            }
            Step::Logged(event) => {
                self.logged.extend(self.events.try_iter().map(|(_, record)| record.event));
                let there = self.logged.iter().any(|logged| logged == event);
                there.then_some(()).ok_or_else(|| differs(event, self.logged.join(", ")))
            }
            Step::Asked(name, stage, wanted) => {
                let asked = self.asked.lock().expect("no panic");
                let got = asked.get(&(name.clone(), *stage)).copied().unwrap_or(0);
                (got == *wanted).then_some(()).ok_or_else(|| differs(&wanted.to_string(), got.to_string()))
            }
            Step::Unknown(wanted) => {
                let got = self.unknown.load(Ordering::Relaxed);
                (got == *wanted).then_some(()).ok_or_else(|| differs(&wanted.to_string(), got.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn offers(&self, pattern: &str) -> bool {
        self.last_reply.iter().filter_map(|line| line.get(4..)).any(|line| matches(pattern, line))
    }
}

fn differs(expected: &str, got: impl std::fmt::Display) -> String {
    format!("expected {expected:?}, got \"{got}\"")
}

/// The server's end comes into being when the server starts, as on a real listener.
enum Far {
    Memory(tokio::io::DuplexStream),
    Tcp(TcpListener),
}

async fn connect(way: Way) -> std::io::Result<(Box<dyn Stream>, Far)> {
    if way != Way::Tcp {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        return Ok((Box::new(ours), Far::Memory(theirs)));
    }
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let ours = TcpStream::connect(listener.local_addr()?).await?;
    ours.set_nodelay(true)?;
    Ok((Box::new(ours), Far::Tcp(listener)))
}

fn peer(client: SocketAddr) -> Peer {
    Peer {
        id: SessionId::next(),
        client,
        connecting: client,
        local: SocketAddr::from(([203, 0, 113, 25], 25)),
        client_name: Arc::default(),
        concurrent: 1,
        tls: None,
    }
}

/// Runs many dialogues at once. `Err`: the reports of all that failed.
pub fn run_all(dialogs: &[Dialog], way: Way) -> Result<usize, String> {
    let ways = |dialog: &&Dialog| match way {
        Way::Memory => true,
        Way::Octets => !dialog.only_whole,
        Way::Tcp => !dialog.only_memory,
    };
    let chosen: Vec<_> = dialogs.iter().filter(ways).collect();
    let next = Mutex::new(chosen.iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(dialog) = next.lock().expect("no panic").next() else { return };
                    if let Err(report) = run(dialog, way) {
                        failures.lock().expect("no panic").push(report);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic");
    if failures.is_empty() { Ok(chosen.len()) } else { Err(failures.join("\n")) }
}
