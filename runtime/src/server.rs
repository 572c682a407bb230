//! Listeners, limits, graceful stop; the only place that spawns tasks.

pub mod connections;
pub mod http;
pub mod listener;
pub mod story;
pub mod tls;
