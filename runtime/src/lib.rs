//! Postern, a programmable mail gateway.
//!
//! Dependencies between the modules point one way (`tests/tidy.rs` enforces it):
//! `server, config → session, host, queue, delivery → pipeline, spool, authentication, dns, tenancy → mail → smtp`.

pub mod authentication;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod dns;
pub mod host;
pub mod log;
pub mod mail;
pub mod metrics;
pub mod pipeline;
pub mod queue;
pub mod rehearsal;
pub mod scan;
pub mod server;
pub mod session;
pub mod signing;
pub mod smtp;
pub mod spool;
pub mod tenancy;
