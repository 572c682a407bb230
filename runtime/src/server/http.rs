//! `/metrics` and `/healthz`: read only, and nothing secret in it.
//!
//! Whoever asks gets one answer a connection, and has little time and room to ask: a client that is slow, or many of them, must
//! hold nothing that a load balancer's next question needs. Bodies of requests are not read.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::connections::client_key;
use crate::metrics::Metrics;

/// A monitor or two and a balancer, each with some questions at a time; beyond it connections are closed at once. No address
/// has all of it.
const MAX_CONNECTIONS: usize = 64;
const MAX_PER_CLIENT: usize = 16;
/// Octets of a request's head. Ours is a line and some fields.
const MAX_HEAD: usize = 16 * 1024;
/// From the connection to the end of the request's head.
const HEAD: Duration = Duration::from_secs(10);
/// From the connection to its end. Many tenants make a page of some hundred KiB.
const EXCHANGE: Duration = Duration::from_secs(30);
/// After accept() has failed, mostly for want of file descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Whether mail can be taken now; the text says why not.
pub type Readiness = Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>;

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    ready: Readiness,
}

/// Serves until it is dropped: whoever asks while mail is drained must hear that we live and are not ready.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, ready: Readiness) {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz/live", get(|| async { "ok\n" }))
        .route("/healthz/ready", get(show_ready))
        .with_state(Shared { metrics, ready });
    let mut open = Open::default();
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = exchanges.join_next(), if !exchanges.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    if let Some(place) = open.enter(client.ip()) {
                        exchanges.spawn(exchange(stream, client, place, router.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept an HTTP connection");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }
}

/// Counts as one connection of its client until it is dropped.
type Place = Arc<()>;

/// The connections of each client.
#[derive(Default)]
struct Open(HashMap<IpAddr, Place>);

impl Open {
    /// `None`: there are as many as there may be.
    fn enter(&mut self, client: IpAddr) -> Option<Place> {
        // Each is held once here.
        let of = |place: &Place| Arc::strong_count(place) - 1;
        self.0.retain(|_, place| of(place) > 0);
        let place = self.0.entry(client_key(client)).or_default().clone();
        let others = of(&place) - 1;
        let total: usize = self.0.values().map(of).sum();
        (others < MAX_PER_CLIENT && total <= MAX_CONNECTIONS).then_some(place)
    }
}

/// One request and its answer. What goes wrong is the client's.
async fn exchange(stream: TcpStream, client: SocketAddr, _place: Place, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(EXCHANGE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, %client, "HTTP"),
        Err(_) => tracing::debug!(%client, "HTTP: the client took too long"),
    }
}

async fn show_metrics(State(shared): State<Shared>) -> impl IntoResponse {
    // Asked now, so that an idle gateway notices a disk that others fill.
    shared.metrics.ready.set(i64::from((shared.ready)().is_ok()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render())
}

async fn show_ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match (shared.ready)() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_and_given_back() {
        let mut open = Open::default();
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        let mut places: Vec<_> = (0..MAX_PER_CLIENT).map(|_| open.enter(one).unwrap()).collect();
        assert!(open.enter(one).is_none());
        assert!(open.enter(other).is_some());
        places.pop();
        places.push(open.enter(one).unwrap());
        let clients = (3..).map(|n| IpAddr::from([192, 0, 2, n]));
        places.extend(clients.take(MAX_CONNECTIONS - MAX_PER_CLIENT).map(|client| open.enter(client).unwrap()));
        assert!(open.enter(other).is_none(), "in all there are as many as there may be");
        places.clear();
        assert!(open.enter(one).is_some());
        assert_eq!(open.0.len(), 1);
    }
}
