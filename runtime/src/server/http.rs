//! `/metrics` and `/healthz`: read only, and nothing secret in it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Whether mail can be taken now; the text says why not.
pub type Readiness = Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>;

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    ready: Readiness,
}

/// Serves until it is dropped: whoever asks while mail is drained must hear that we live and are not ready.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, ready: Readiness) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz/live", get(|| async { "ok\n" }))
        .route("/healthz/ready", get(show_ready))
        .with_state(Shared { metrics, ready });
    axum::serve(listener, router).await
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
