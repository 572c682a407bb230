//! What one step costs, without sockets: the data reader, commands, a whole session, calls of plugins, DKIM signatures, commits to
//! the spool, and the queue with a million mails in it.
//!
//! `cargo bench --package postern-benches --bench micro`. Compare only numbers of one run: machines are noisy.

#![expect(clippy::expect_used, reason = "a bench that cannot even begin has nothing better to do")]

mod data;
mod plugin;
mod queue;
mod session;
mod signing;
mod spool;

use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use criterion::{criterion_group, criterion_main};
use postern::log::{EventLog, pump};
use postern::mail::{Body, Header, Message};
use postern::metrics::Metrics;
use postern::pipeline::Clerk;

fn message(octets: usize) -> Vec<u8> {
    let mut message = b"From: a@example.org\r\nTo: b@example.com\r\nSubject: bench\r\n\r\n".to_vec();
    while message.len() < octets {
        message.extend_from_slice(b"The quick brown fox jumps over the lazy dog, and then some more of it.\r\n");
    }
    message
}

fn parsed(octets: usize) -> Message {
    let text = message(octets);
    let at = text.windows(4).position(|window| window == b"\r\n\r\n").expect("an empty line") + 2;
    let body = Body::from_bytes(Bytes::copy_from_slice(text.get(at + 2..).unwrap_or_default()));
    Message { header: Header::parse(&Bytes::copy_from_slice(text.get(..at).unwrap_or_default())), body }
}

/// Events are taken, as a gateway does it, and thrown away.
fn clerk() -> Clerk {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let (log, events) = EventLog::new(metrics.clone());
    thread::spawn(move || pump(&events, &mut []));
    Clerk { log, metrics }
}

criterion_group!(
    benches,
    data::reader,
    data::commands,
    session::whole,
    plugin::stages,
    plugin::chain,
    signing::sign,
    signing::verify,
    spool::commit,
    queue::turn,
);
criterion_main!(benches);
