//! The event log: one JSON object a line for each step, with the id of the session and of the message.
//!
//! Text from outside goes in as JSON strings, so it can't break a line or forge a field. Fields have a length cap. A
//! sink that blocks never holds mail up: events beyond the buffer are dropped and counted.

use std::fmt::{self, Display, Write as _};
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::mail::MessageId;
use crate::metrics::Metrics;
use crate::pipeline::SessionId;

/// Octets of one field; what is longer is cut.
const MAX_FIELD: usize = 2048;
/// Octets of a record's fields, as a rule.
const USUAL_FIELDS: usize = 240;
/// Events that wait for the writer.
const BUFFER: usize = 16 * 1024;
/// How long events are gathered. A mail has about twenty: to wake the writer for each, and to look for each whether the
/// file was rotated, took a quarter of the gateway's CPU time.
const GATHER: Duration = Duration::from_millis(5);
/// Octets that are written at once.
const MAX_WRITE: usize = 256 * 1024;

/// One step of a story. Its fields are JSON from the start: a mail has some fifteen records, and one string each is what they
/// cost.
#[derive(Debug, Clone)]
pub struct Record {
    pub event: &'static str,
    pub session: Option<SessionId>,
    pub id: Option<MessageId>,
    fields: Fields,
}

impl Record {
    pub fn new(event: &'static str) -> Self {
        Self { event, session: None, id: None, fields: Fields::default() }
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
    pub fn text(mut self, name: &'static str, value: impl Display) -> Self {
        self.fields.text(name, value);
        self
    }

    #[must_use]
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        self.fields.number(name, value);
        self
    }

    /// Microseconds, under a name that ends in `_us`.
    #[must_use]
    pub fn micros(mut self, name: &'static str, value: Duration) -> Self {
        self.fields.micros(name, value);
        self
    }

    #[must_use]
    pub fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.fields.put(name, if value { "true" } else { "false" });
        self
    }

    /// Objects; nothing where there are none.
    #[must_use]
    pub fn list(mut self, name: &'static str, list: &List) -> Self {
        if !list.0.is_empty() {
            self.fields.put(name, format_args!("[{}]", list.0));
        }
        self
    }

    /// Its own fields, for those who read few events: a story, a test.
    pub fn fields(&self) -> Map<String, Value> {
        serde_json::from_str(&format!("{{{}}}", self.fields.inside())).unwrap_or_default()
    }

    /// As it stands in the log, without line end.
    pub fn to_json(&self, time: jiff::Timestamp) -> Value {
        let mut line = String::new();
        self.write(time, &mut line);
        serde_json::from_str(&line).unwrap_or_default()
    }

    /// One JSON object.
    fn write(&self, time: jiff::Timestamp, out: &mut String) {
        // Into memory: it can't fail.
        let _ = write!(out, "{{\"time\":\"{time:.6}\",\"event\":\"{}\"", self.event);
        if let Some(session) = self.session {
            let _ = write!(out, ",\"session\":\"{session}\"");
        }
        if let Some(id) = self.id {
            let _ = write!(out, ",\"id\":\"{id}\"");
        }
        out.push_str(&self.fields.0);
        out.push('}');
    }
}

/// Fields of a JSON object, each with a comma before it. Their names need no escape.
#[derive(Debug, Clone, Default)]
pub struct Fields(String);

impl Fields {
    /// Text, whatever it holds.
    pub fn text(&mut self, name: &'static str, value: impl Display) {
        self.name(name);
        self.0.push('"');
        let _ = write!(Escaped { out: &mut self.0, room: MAX_FIELD }, "{value}");
        self.0.push('"');
    }

    pub fn number(&mut self, name: &'static str, value: u64) {
        self.put(name, value);
    }

    /// Microseconds, under a name that ends in `_us`.
    pub fn micros(&mut self, name: &'static str, value: Duration) {
        self.number(name, u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }

    /// What is JSON as it stands.
    fn put(&mut self, name: &'static str, json: impl Display) {
        self.name(name);
        let _ = write!(self.0, "{json}");
    }

    fn name(&mut self, name: &'static str) {
        if self.0.is_empty() {
            self.0.reserve(USUAL_FIELDS);
        }
        self.0.push_str(",\"");
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    /// Without the braces.
    fn inside(&self) -> &str {
        self.0.strip_prefix(',').unwrap_or_default()
    }
}

/// JSON objects, for one field of a record.
#[derive(Debug, Default)]
pub struct List(String);

impl List {
    pub fn push(&mut self, item: &Fields) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push('{');
        self.0.push_str(item.inside());
        self.0.push('}');
    }
}

/// Writes the inside of a JSON string (RFC 8259 §7), of so many octets at most: what is longer is cut.
struct Escaped<'a> {
    out: &'a mut String,
    room: usize,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = (0..=text.len().min(self.room)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let text = text.get(..end).unwrap_or_default();
        // What comes after a cut is cut too.
        self.room = if end < text.len() { 0 } else { self.room - end };
        let special = |b: u8| b < 0x20 || b == b'"' || b == b'\\';
        if !text.bytes().any(special) {
            self.out.push_str(text);
            return Ok(());
        }
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                c if c < ' ' => write!(self.out, "\\u{:04x}", u32::from(c))?,
                c => self.out.push(c),
            }
        }
        Ok(())
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
    metrics: Arc<Metrics>,
    lines: String,
    /// How many those are.
    waiting: u64,
    /// The last write failed, perhaps within a line.
    torn: bool,
}

impl<W> JsonLines<W> {
    pub fn new(writer: W, metrics: Arc<Metrics>) -> Self {
        Self { writer, metrics, lines: String::new(), waiting: 0, torn: false }
    }
}

impl<W: Write + Send + 'static> Sink for JsonLines<W> {
    fn write(&mut self, time: jiff::Timestamp, record: &Record) {
        record.write(time, &mut self.lines);
        self.lines.push('\n');
        self.waiting += 1;
        if self.lines.len() >= MAX_WRITE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.torn {
            self.lines.insert(0, '\n');
        }
        // A full disk for logs must not stop mail (these lines are lost and counted, the next may fit again).
        self.torn = self.waiting > 0 && self.writer.write_all(self.lines.as_bytes()).is_err();
        if self.torn {
            self.metrics.log_dropped.inc_by(self.waiting);
        }
        self.waiting = 0;
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
        let metrics = Arc::new(Metrics::new().unwrap());
        let (log, events) = EventLog::new(metrics.clone());
        for number in 0..100 {
            log.emit(Record::new("test").number("n", number));
        }
        drop(log);
        let writes = Writes::default();
        pump(&events, &mut [Box::new(JsonLines::new(writes.clone(), metrics))]);
        let writes = writes.0.lock().unwrap();
        let [text] = &writes[..] else { panic!("{} writes", writes.len()) };
        let numbers: Vec<Value> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].take()).collect();
        assert_eq!(numbers, (0..100).map(Value::from).collect::<Vec<_>>());
    }

    #[test]
    fn g8_events_that_nobody_takes_are_counted_and_hold_nobody_up() {
        let metrics = Arc::new(Metrics::new().unwrap());
        // Its reader does nothing, as one whose disk hangs.
        let (log, _events) = EventLog::new(metrics.clone());
        for _ in 0..BUFFER + 10 {
            log.emit(Record::new("test"));
        }
        assert_eq!(metrics.log_dropped.get(), 10);
    }

    /// Each second write fails half way.
    struct Full(Vec<u8>, usize);

    impl Write for Full {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(2) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn g8_lines_that_a_full_disk_loses_are_counted() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let mut sink = JsonLines::new(Full(Vec::new(), 0), metrics.clone());
        for _ in 0..3 {
            for _ in 0..5 {
                sink.write(jiff::Timestamp::UNIX_EPOCH, &Record::new("test"));
            }
            sink.flush();
        }
        assert_eq!(metrics.log_dropped.get(), 5);
        let written = String::from_utf8(sink.writer.0).unwrap();
        assert_eq!(written.lines().filter(|line| line.ends_with('}')).count(), 10, "{written}");
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
