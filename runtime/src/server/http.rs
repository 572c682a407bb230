//! `/metrics` and `/healthz`: read only, and nothing secret in it.
//!
//! Whoever asks gets one answer a connection, and has little time and room to ask: a client that is slow, or many of them, must
//! hold nothing that a load balancer's next question needs. Bodies of requests are not read.

use std::net::SocketAddr;
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

use super::connections::{Connections, Limits};
use crate::metrics::Metrics;

/// A monitor or two and a balancer, each with some questions at a time; beyond it connections are closed at once. No address
/// has all of it.
const LIMITS: Limits = Limits { total: 64, per_client: 16 };
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
    let open = Arc::new(Connections::default());
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = exchanges.join_next(), if !exchanges.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => drop(exchanges.spawn(exchange(stream, client, open.clone(), router.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "can't accept an HTTP connection");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }
}

/// One request and its answer. What goes wrong is the client's.
async fn exchange(stream: TcpStream, client: SocketAddr, open: Arc<Connections>, router: Router) {
    let Ok(_place) = open.enter(client.ip(), LIMITS) else { return };
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
