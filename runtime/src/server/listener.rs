//! Accepts connections of one listener and starts a session for each.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::net::{SendFlags, send};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::connections::{Connections, Limits, Place, Refusal};
use super::rate::Rate;
use crate::log::Record;
use crate::pipeline::SessionId;
use crate::session::connection::Context;
use crate::session::{Peer, TlsMode, proxy, serve};
use crate::smtp::Reply;

/// After accept() has failed, mostly for want of file descriptors: let some sessions end first.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often the log tells of what may happen again and again.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Refused connections a second that are named in the event log; all are counted.
const TOLD_REFUSALS: u32 = 10;
/// A balancer sends its header at once.
const PROXY_HEADER: Duration = Duration::from_secs(10);
/// Backlog of connections that the kernel holds for us.
const BACKLOG: u32 = 1024;

/// What the accept loop needs to know besides the session's own context.
#[derive(Clone)]
pub struct Gate {
    pub context: Context,
    pub connections: Arc<Connections>,
    /// Changes with a reload.
    pub limits: Arc<ArcSwap<Limits>>,
    /// Why nobody can be served now; `None`: all is well.
    pub unavailable: Arc<dyn Fn() -> Option<Reply> + Send + Sync>,
}

/// Binds with address reuse, so that a restart does not wait for old connections.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Runs until the context says stop, then until the sessions have ended or `drain` is over.
pub async fn run(listener: TcpListener, gate: Gate, drain: Duration) {
    let mut sessions = JoinSet::new();
    let mut stopping = gate.context.stopping.clone();
    let mut trouble = Trouble::default();
    let refusals = Arc::new(Refusals { gate: gate.clone(), told: Mutex::default() });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => break,
            Some(ended) = sessions.join_next() => {
                tell_panic(ended);
                continue;
            }
        };
        match accepted {
            Ok((stream, client)) => {
                trouble.is_over(&gate);
                take_in(stream, client, &refusals, &mut sessions);
            }
            // It went before we came: nothing of ours is short.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                trouble.tell(&error, &gate);
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(drain, async {
        while let Some(ended) = sessions.join_next().await {
            tell_panic(ended);
        }
    });
    if ended.await.is_err() {
        tracing::warn!(open = sessions.len(), "sessions are cut off after the drain time");
        sessions.shutdown().await;
    }
}

/// A session that was cut off is no news.
fn tell_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a session has panicked; this is a fault of the gateway");
    }
}

/// accept() fails.
#[derive(Default)]
struct Trouble {
    told: Option<Instant>,
}

impl Trouble {
    fn tell(&mut self, error: &io::Error, gate: &Gate) {
        gate.context.gateway.clerk.metrics.accept_failures.inc();
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!(%error, listener = %gate.context.listener.name, "can't accept connections");
            self.told = Some(Instant::now());
        }
    }

    fn is_over(&mut self, gate: &Gate) {
        // Not for each that comes through between two that do not.
        if self.told.take_if(|told| told.elapsed() >= TELL_EVERY).is_some() {
            tracing::info!(listener = %gate.context.listener.name, "connections are accepted again");
        }
    }
}

/// Says no, in as little as one write: a flood of those who are refused must not cost what it is meant to save.
struct Refusals {
    gate: Gate,
    told: Mutex<Rate>,
}

impl Refusals {
    fn refuse(&self, stream: &TcpStream, client: SocketAddr, refusal: Refusal) {
        let Context { gateway, listener, .. } = &self.gate.context;
        self.tell(client, refusal.cause(), refusal.cause());
        if listener.tls == TlsMode::Implicit {
            // A handshake to say no would cost more than the session that is refused.
            return;
        }
        let reply = match refusal {
            Refusal::Client | Refusal::ClientRate => Reply::too_many_connections(),
            Refusal::Total | Refusal::TotalRate => Reply::too_busy(&gateway.current.load().settings.host_name),
        };
        let mut octets = Vec::new();
        reply.write(&mut octets);
        // A new connection has room for that. The client may be gone already.
        let _ = send(stream, &octets, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    fn tell(&self, client: SocketAddr, label: &str, cause: &str) {
        let Context { gateway, listener, .. } = &self.gate.context;
        gateway.clerk.metrics.connections_refused.with_label_values(&[label]).inc();
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).admits(TOLD_REFUSALS) {
            let record = Record::new("refused").text("client", client).text("listener", &listener.name);
            gateway.clerk.log.emit(record.text("cause", cause));
        }
    }
}

fn take_in(stream: TcpStream, connecting: SocketAddr, refusals: &Arc<Refusals>, sessions: &mut JoinSet<()>) {
    let gate = &refusals.gate;
    let mut place = match gate.connections.enter(gate.limits.load_full()) {
        Ok(place) => place,
        Err(refusal) => return refusals.refuse(&stream, connecting, refusal),
    };
    let Ok(local) = stream.local_addr() else { return };
    // A reply is one small write; waiting for more to send costs the client a round trip.
    let _ = stream.set_nodelay(true);
    let ip = connecting.ip().to_canonical();
    if gate.context.listener.proxy_protocol_from.iter().any(|network| network.contains(&ip)) {
        sessions.spawn(introduce(stream, connecting, local, place, refusals.clone()));
        return;
    }
    match place.belongs_to(ip) {
        Ok(()) => drop(sessions.spawn(start(stream, connecting, connecting, local, place, gate.clone()))),
        Err(refusal) => {
            // It is free before anybody hears that it is.
            drop(place);
            refusals.refuse(&stream, connecting, refusal);
        }
    }
}

/// A balancer says whose connection it is.
async fn introduce(
    mut stream: TcpStream,
    connecting: SocketAddr,
    to: SocketAddr,
    mut place: Place,
    refusals: Arc<Refusals>,
) {
    let (client, local) = match tokio::time::timeout(PROXY_HEADER, proxy::read_header(&mut stream)).await {
        Ok(Ok(said)) => said.unwrap_or((connecting, to)),
        failed => {
            let cause = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => "PROXY header: none came in time".to_owned(),
            };
            drop(place);
            return refusals.tell(connecting, "proxy", &cause);
        }
    };
    match place.belongs_to(client.ip()) {
        Ok(()) => start(stream, connecting, client, local, place, refusals.gate.clone()).await,
        Err(refusal) => {
            drop(place);
            refusals.refuse(&stream, client, refusal);
        }
    }
}

async fn start(
    stream: TcpStream,
    connecting: SocketAddr,
    client: SocketAddr,
    local: SocketAddr,
    place: Place,
    gate: Gate,
) {
    let unavailable = (gate.unavailable)();
    if unavailable.is_some() {
        gate.context.gateway.clerk.metrics.connections_refused.with_label_values(&["unhealthy"]).inc();
    }
    let peer = Peer {
        id: SessionId::next(),
        client: SocketAddr::new(client.ip().to_canonical(), client.port()),
        connecting,
        local,
        client_name: Arc::default(),
        concurrent: place.concurrent,
        tls: None,
    };
    serve(stream, gate.context, peer, unavailable).await;
    drop(place);
}
