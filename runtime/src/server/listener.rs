//! Accepts connections of one listener and starts a session for each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use super::connections::{Connections, Limits, Place, Refusal};
use crate::log::Record;
use crate::pipeline::SessionId;
use crate::session::connection::Context;
use crate::session::{Peer, TlsMode, proxy, serve};
use crate::smtp::Reply;

/// After accept() has failed, mostly for want of file descriptors: let some sessions end first.
const BACK_OFF: Duration = Duration::from_millis(100);
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
            Ok((stream, client)) => drop(sessions.spawn(admit(stream, client, gate.clone()))),
            Err(error) => {
                tracing::warn!(%error, listener = %gate.context.listener.name, "can't accept a connection");
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

async fn admit(mut stream: TcpStream, connecting: SocketAddr, gate: Gate) {
    let Ok(mut local) = stream.local_addr() else { return };
    // A reply is one small write; waiting for more to send costs the client a round trip.
    let _ = stream.set_nodelay(true);
    let listener = gate.context.listener.clone();
    let refused = &gate.context.gateway.clerk.metrics.connections_refused;
    let mut client = connecting;
    let ip = connecting.ip().to_canonical();
    if listener.proxy_protocol_from.iter().any(|network| network.contains(&ip)) {
        match tokio::time::timeout(PROXY_HEADER, proxy::read_header(&mut stream)).await {
            Ok(Ok(Some((said, to)))) => (client, local) = (said, to),
            Ok(Ok(None)) => {}
            failed => {
                refused.with_label_values(&["proxy"]).inc();
                let cause = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "PROXY header: none came in time".to_owned(),
                };
                let record = Record::new("refused").text("client", connecting).text("listener", &listener.name);
                gate.context.gateway.clerk.log.emit(record.text("cause", cause));
                return;
            }
        }
    }
    let (place, unavailable) = match gate.connections.enter(client.ip(), **gate.limits.load()) {
        Ok(place) => (Some(place), (gate.unavailable)()),
        Err(refusal) => {
            let cause = if refusal == Refusal::Client { "client-limit" } else { "total-limit" };
            refused.with_label_values(&[cause]).inc();
            if listener.tls == TlsMode::Implicit {
                // A handshake to say no would cost more than the session that is refused.
                return;
            }
            (None, Some(Reply::too_many_connections()))
        }
    };
    if place.is_some() && unavailable.is_some() {
        refused.with_label_values(&["unhealthy"]).inc();
    }
    let concurrent = place.as_ref().map_or(0, |place: &Place| place.concurrent);
    let peer = Peer {
        id: SessionId::next(),
        client: SocketAddr::new(client.ip().to_canonical(), client.port()),
        connecting,
        local,
        client_name: Arc::default(),
        concurrent,
        tls: None,
    };
    serve(stream, gate.context, peer, unavailable).await;
    drop(place);
}
