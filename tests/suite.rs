//! All tests in one binary: linking costs more than running.

mod authentication;
mod connections;
mod day;
mod dialogs;
mod faults;
mod fuzz;
mod identity;
mod kept;
mod live;
mod mailboxes;
mod mime;
mod monitoring;
mod packaging;
mod policies;
mod routing;
mod scan;
mod scenarios;
mod signing;
mod supervisor;
mod syntax;
mod tidy;
mod verdicts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use postern::mail::{Body, Header, Message, MessageId};
use postern::metrics::Metrics;
use postern::spool::{Batch, Entry, SegmentSpool, Settings, Spool as _};
use postern_tests::{Dialog, Way, runner::run_all};

/// Runs dialogues that a test has put together, in memory and octet by octet; over TCP the files do.
fn play(texts: impl IntoIterator<Item = (String, String)>) -> usize {
    let dialogs: Vec<_> = texts.into_iter().map(|(name, text)| Dialog::parse(&name, &text).unwrap()).collect();
    for way in [Way::Memory, Way::Octets] {
        if let Err(report) = run_all(&dialogs, way) {
            panic!("\n{report}");
        }
    }
    dialogs.len()
}

/// A session up to the reply to EHLO.
const GREETED: &str = "S: 220 *\nC: EHLO client.example\nS...: 250\n";
/// A transaction up to the reply to RCPT.
const RECIPIENT: &str = "C: MAIL FROM:<smith@client.example>\nS: 250 *\nC: RCPT TO:<jones@example.com>\nS: 250 *\n";

/// The program itself, as `cargo build --package postern` has left it beside this test.
fn postern_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let binary = test.ancestors().nth(2).unwrap().join("postern");
    assert!(binary.is_file(), "{} is not there: `make test` builds it first", binary.display());
    binary
}

/// A number that `make` gives, e.g. for longer runs.
fn from_environment(name: &str) -> Option<usize> {
    #[expect(clippy::disallowed_methods, reason = "how long a test runs is not config")]
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// The octets of a spool's segment with a few messages in it.
fn segment(directory: &Path) -> Vec<u8> {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (spool, _) = SegmentSpool::open(Settings::new(directory.to_owned(), 1 << 20), metrics).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for body in ["one", "two", "three"] {
        let message = Message { header: Header::default(), body: Body::from_bytes(Bytes::from(body.repeat(100))) };
        let entry = Entry { id: MessageId::next(), meta: Bytes::from_static(b"{}"), state: None, message };
        runtime.block_on(spool.commit(Batch { store: vec![entry], ..Batch::default() })).unwrap();
    }
    spool.shutdown();
    let segments = std::fs::read_dir(directory.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    segments.map(|path| std::fs::read(path).unwrap()).max_by_key(Vec::len).unwrap()
}
