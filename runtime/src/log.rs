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
use std::time::Duration;

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value};

use crate::mail::MessageId;
use crate::metrics::Metrics;
use crate::pipeline::SessionId;

/// Octets of one field; what is longer is cut.
const MAX_FIELD: usize = 2048;
/// Events that wait for the writer.
const BUFFER: usize = 16 * 1024;
/// How long events are gathered. A mail has about twenty: to wake the writer for each, and to look for each whether the
/// file was rotated, took a quarter of the gateway's CPU time.
const GATHER: Duration = Duration::from_millis(5);
/// Octets that are written at once.
const MAX_WRITE: usize = 256 * 1024;

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
    pub fn micros(self, name: &'static str, value: Duration) -> Self {
        self.number(name, u64::try_from(value.as_micros()).unwrap_or(u64::MAX))
    }

    #[must_use]
    pub fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.fields.insert(name.to_owned(), Value::Bool(value));
        self
    }

    /// As it stands in the log, without line end.
    pub fn to_json(&self, time: jiff::Timestamp) -> Value {
        serde_json::to_value(Line { time, record: self }).unwrap_or_default()
    }
}

/// A record as one JSON object, without a copy of its fields.
struct Line<'a> {
    time: jiff::Timestamp,
    record: &'a Record,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Record { event, session, id, fields } = self.record;
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("time", &format_args!("{:.6}", self.time))?;
        object.serialize_entry("event", event)?;
        if let Some(session) = session {
            object.serialize_entry("session", &format_args!("{session}"))?;
        }
        if let Some(id) = id {
            object.serialize_entry("id", &format_args!("{id}"))?;
        }
        for (name, value) in fields {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}

/// Who reads the events as they come: a file, standard output, or the story of `localserve`.
pub trait Sink: Send + 'static {
    fn write(&mut self, time: jiff::Timestamp, record: &Record);

    /// No more events for now.
    fn flush(&mut self) {}
}

/// JSON lines into a writer, those that come together in one write.
pub struct JsonLines<W> {
    writer: W,
    lines: Vec<u8>,
    /// The last write failed, perhaps within a line.
    torn: bool,
}

impl<W> JsonLines<W> {
    pub fn new(writer: W) -> Self {
        Self { writer, lines: Vec::new(), torn: false }
    }
}

impl<W: Write + Send + 'static> Sink for JsonLines<W> {
    fn write(&mut self, time: jiff::Timestamp, record: &Record) {
        // Into memory, and of strings and numbers: it can't fail.
        let _ = serde_json::to_writer(&mut self.lines, &Line { time, record });
        self.lines.push(b'\n');
        if self.lines.len() >= MAX_WRITE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.torn {
            self.lines.insert(0, b'\n');
        }
        // A full disk for logs must not stop mail (these lines are lost, the next may fit again).
        self.torn = !self.lines.is_empty() && self.writer.write_all(&self.lines).is_err();
        self.lines.clear();
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
    while let Ok(first) = receiver.recv() {
        std::thread::sleep(GATHER);
        for (time, record) in std::iter::once(first).chain(receiver.try_iter().take(BUFFER)) {
            sinks.iter_mut().for_each(|sink| sink.write(time, &record));
        }
        sinks.iter_mut().for_each(|sink| sink.flush());
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

    /// Keeps what each write brought.
    #[derive(Clone, Default)]
    struct Writes(Arc<std::sync::Mutex<Vec<String>>>);

    impl Write for Writes {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(String::from_utf8(octets.to_vec()).unwrap());
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn events_that_come_together_are_written_at_once_and_in_order() {
        let (log, events) = EventLog::new(Arc::new(Metrics::new().unwrap()));
        for number in 0..100 {
            log.emit(Record::new("test").number("n", number));
        }
        drop(log);
        let writes = Writes::default();
        pump(&events, &mut [Box::new(JsonLines::new(writes.clone()))]);
        let writes = writes.0.lock().unwrap();
        let [text] = &writes[..] else { panic!("{} writes", writes.len()) };
        let numbers: Vec<Value> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].take()).collect();
        assert_eq!(numbers, (0..100).map(Value::from).collect::<Vec<_>>());
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
