//! The event log: one JSON object a line for each step, with the id of the session and of the message.
//!
//! Text from outside goes in as JSON strings, so it can't break a line or forge a field. Fields have a length cap. A
//! sink that blocks never holds mail up: events beyond the buffer are dropped and counted.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::{Map, Value};

use crate::mail::MessageId;
use crate::metrics::Metrics;
use crate::pipeline::SessionId;

/// Octets of one field; what is longer is cut.
const MAX_FIELD: usize = 2048;
/// Events that wait for the writer.
const BUFFER: usize = 16 * 1024;

/// One step of a story.
#[derive(Debug, Clone)]
pub struct Record {
    pub event: &'static str,
    pub session: Option<SessionId>,
    pub id: Option<MessageId>,
    pub fields: Map<String, Value>,
}

impl Record {
    pub fn new(event: &'static str) -> Self {
        Self { event, session: None, id: None, fields: Map::new() }
    }

    #[must_use]
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// Text, whatever it holds.
    #[must_use]
    pub fn text(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        let mut text = value.to_string();
        if text.len() > MAX_FIELD {
            let end = (0..=MAX_FIELD).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
        }
        self.fields.insert(name.to_owned(), Value::String(text));
        self
    }

    #[must_use]
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        self.fields.insert(name.to_owned(), Value::from(value));
        self
    }

    /// Microseconds, under a name that ends in `_us`.
    #[must_use]
    pub fn micros(self, name: &'static str, value: std::time::Duration) -> Self {
        self.number(name, u64::try_from(value.as_micros()).unwrap_or(u64::MAX))
    }

    #[must_use]
    pub fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.fields.insert(name.to_owned(), Value::Bool(value));
        self
    }

    /// As it stands in the log, without line end.
    pub fn to_json(&self, time: jiff::Timestamp) -> Value {
        let mut object = Map::new();
        object.insert("time".to_owned(), Value::String(format!("{time:.6}")));
        object.insert("event".to_owned(), Value::String(self.event.to_owned()));
        if let Some(session) = self.session {
            object.insert("session".to_owned(), Value::String(session.to_string()));
        }
        if let Some(id) = self.id {
            object.insert("id".to_owned(), Value::String(id.to_string()));
        }
        object.extend(self.fields.clone());
        Value::Object(object)
    }
}

/// Who reads the events as they come: a file, standard output, or the story of `localserve`.
pub trait Sink: Send + 'static {
    fn write(&mut self, time: jiff::Timestamp, record: &Record);
}

/// JSON lines into a writer.
pub struct JsonLines<W>(pub W);

impl<W: Write + Send + 'static> Sink for JsonLines<W> {
    fn write(&mut self, time: jiff::Timestamp, record: &Record) {
        let mut line = record.to_json(time).to_string();
        line.push('\n');
        // A full disk for logs must not stop mail (the line is lost, the next may fit again).
        let _ = self.0.write_all(line.as_bytes());
    }
}

/// A log file that may be rotated under us: when its name leads to another file, or to none, that one is written to.
pub struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn is_rotated(&self) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        self.file.metadata().map(identity).ok() != std::fs::metadata(&self.path).map(identity).ok()
    }
}

impl Write for LogFile {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.is_rotated() {
            // Where it can't be opened, the old one is better than none.
            if let Ok(new) = Self::open(&self.path) {
                *self = new;
            }
        }
        self.file.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Cheap to clone; all clones write to the same sinks, in the order of the calls.
#[derive(Clone)]
pub struct EventLog {
    sender: SyncSender<(jiff::Timestamp, Record)>,
    metrics: Arc<Metrics>,
}

impl EventLog {
    /// The events come out of the receiver; [`pump`] writes them, on a thread of its own.
    pub fn new(metrics: Arc<Metrics>) -> (Self, Receiver<(jiff::Timestamp, Record)>) {
        let (sender, receiver) = sync_channel(BUFFER);
        (Self { sender, metrics }, receiver)
    }

    pub fn emit(&self, record: Record) {
        if self.sender.try_send((jiff::Timestamp::now(), record)).is_err() {
            self.metrics.log_dropped.inc();
        }
    }
}

/// Writes events until the last `EventLog` is gone.
pub fn pump(receiver: &Receiver<(jiff::Timestamp, Record)>, sinks: &mut [Box<dyn Sink>]) {
    while let Ok((time, record)) = receiver.recv() {
        for sink in &mut *sinks {
            sink.write(time, &record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_log_goes_on_under_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
        let mut log = LogFile::open(&at("log")).unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::rename(at("log"), at("log.1")).unwrap();
        log.write_all(b"two\n").unwrap();
        log.write_all(b"three\n").unwrap();
        assert_eq!((read("log.1").as_str(), read("log").as_str()), ("one\n", "two\nthree\n"));
        std::fs::remove_file(at("log")).unwrap();
        std::fs::create_dir(at("log")).unwrap();
        log.write_all(b"four\n").unwrap();
    }

    #[test]
    fn what_a_client_says_stays_one_line() {
        let record =
            Record::new("helo").text("name", "a\r\n{\"event\":\"x\"}\u{1b}[0m\0").text("long", "é".repeat(5000));
        let mut out = Vec::new();
        let line = record.to_json(jiff::Timestamp::UNIX_EPOCH).to_string();
        out.extend_from_slice(line.as_bytes());
        assert!(!line.contains(['\n', '\r', '\u{1b}', '\0']), "{line}");
        assert!(line.len() < 3000);
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["event"], "helo");
    }
}
