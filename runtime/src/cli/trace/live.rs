//! `postern trace --live`: follows the event log as it grows.
//!
//! It looks a few times a second whether there is more. When the file's name leads to another file, what is left of the
//! old one is read first; when the file has become shorter, it is read from its beginning.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::log::{Event, MAX_LINE, parse, text};
use super::search::Name;
use crate::cli::terminal::{json_line, printable};
use crate::server::story::{Told, line};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(200);
/// Octets read at a time.
const PIECE: u64 = 64 * 1024;
/// Messages that are followed at a time; the oldest are forgotten.
const MAX_FOLLOWED: usize = 10_000;

/// Writes events until the reader has gone or the process is ended.
pub(super) fn follow(path: &Path, what: Option<&str>, json: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut tail = Tail::open(path);
    let mut filter = Filter::new(what);
    loop {
        pass(&mut tail, &mut filter, json, out)?;
        std::thread::sleep(INTERVAL);
    }
}

/// All that has come since the last time.
fn pass(tail: &mut Tail, filter: &mut Filter, json: bool, out: &mut dyn Write) -> io::Result<()> {
    while let Some(lines) = tail.read()? {
        for event in lines.iter().filter_map(|line| parse(std::str::from_utf8(line).ok()?)) {
            if !filter.wants(&event) {
                continue;
            }
            match json {
                true => writeln!(out, "{}", json_line(&Value::Object(event)))?,
                false => writeln!(out, "{}", shown(&event))?,
            }
        }
        out.flush()?;
    }
    Ok(())
}

/// The time of day, then the line of the story.
fn shown(event: &Event) -> String {
    let time = text(event, "time").unwrap_or_default();
    let clock = time.split_once('T').map_or(time, |(_, clock)| clock);
    let clock: String = clock.chars().take("12:00:00.000".len()).collect();
    let told = Told {
        event: text(event, "event").unwrap_or("?"),
        session: text(event, "session"),
        id: text(event, "id"),
        fields: event,
    };
    // A stage has a line for each plugin; the time stands before the first.
    format!("{:<12}  {}", printable(&clock), line(&told).replace('\n', &format!("\n{:14}", "")))
}

/// Which events are shown: those that bear the word in one of their fields, and what happens to the messages that those
/// are about. A plugin's name shows what that plugin says, and no more.
struct Filter {
    what: Option<Name>,
    followed: BTreeSet<String>,
    /// The same in the order of their coming.
    order: VecDeque<String>,
}

/// The plugins that have said `next` at a stage.
fn next(event: &Event) -> impl Iterator<Item = &str> {
    let next = event.get("next").and_then(Value::as_array).into_iter().flatten();
    next.filter_map(|item| item.get("plugin")?.as_str())
}

const FIELDS: [&str; 3] = ["id", "session", "tenant"];

impl Filter {
    fn new(what: Option<&str>) -> Self {
        Self { what: what.map(Name::new), followed: BTreeSet::new(), order: VecDeque::new() }
    }

    fn wants(&mut self, event: &Event) -> bool {
        let Some(what) = &self.what else { return true };
        let id = text(event, "id");
        if id.is_some_and(|id| self.followed.contains(id)) {
            return true;
        }
        let is = |field: &&str| text(event, field).is_some_and(|value| value.eq_ignore_ascii_case(what.as_str()));
        let origin = text(event, "origin").is_some_and(|origin| self.followed.contains(origin));
        if origin || FIELDS.iter().any(&is) || what.names(event) {
            self.follow(id);
            return true;
        }
        is(&"plugin") || next(event).any(|plugin| plugin.eq_ignore_ascii_case(what.as_str()))
    }

    fn follow(&mut self, id: Option<&str>) {
        let Some(id) = id else { return };
        if self.followed.insert(id.to_owned()) {
            self.order.push_back(id.to_owned());
        }
        if self.order.len() > MAX_FOLLOWED
            && let Some(oldest) = self.order.pop_front()
        {
            self.followed.remove(&oldest);
        }
    }
}

/// The end of a file that grows, is rotated, or is cut.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    at: u64,
    /// A line that has not ended yet.
    rest: Vec<u8>,
    /// The rest of a line that was too long is passed over.
    skipping: bool,
}

impl Tail {
    /// From the end of what is there now. A file that is not there yet is waited for.
    fn open(path: &Path) -> Self {
        let mut tail = Self { path: path.to_owned(), file: None, at: 0, rest: Vec::new(), skipping: false };
        tail.begin();
        tail.at = tail.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
        tail
    }

    fn begin(&mut self) {
        self.file = File::open(&self.path).ok();
        (self.at, self.skipping) = (0, false);
        self.rest.clear();
    }

    /// The next lines, without their ends; `None`: no more for now.
    fn read(&mut self) -> io::Result<Option<Vec<Vec<u8>>>> {
        // First this, then the look at the length: what is written in between is not lost.
        let is_rotated = self.is_rotated();
        if let Some(file) = &mut self.file {
            let length = file.metadata()?.len();
            if length < self.at {
                (self.at, self.skipping) = (0, false);
                self.rest.clear();
            }
            if length > self.at {
                file.seek(SeekFrom::Start(self.at))?;
                let mut piece = Vec::new();
                self.at += file.take(PIECE).read_to_end(&mut piece)? as u64;
                return Ok(Some(self.lines(&piece)));
            }
        }
        if is_rotated {
            self.begin();
            return Ok(self.file.is_some().then(Vec::new));
        }
        Ok(None)
    }

    /// There is another file under the name.
    fn is_rotated(&self) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let named = std::fs::metadata(&self.path).map(identity).ok();
        let ours = self.file.as_ref().and_then(|file| file.metadata().map(identity).ok());
        named.is_some() && named != ours
    }

    fn lines(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for part in piece.split_inclusive(|octet| *octet == b'\n') {
            let (content, ends) = part.strip_suffix(b"\n").map_or((part, false), |content| (content, true));
            if !self.skipping {
                self.rest.extend_from_slice(content);
            }
            if self.rest.len() as u64 > MAX_LINE {
                self.rest.clear();
                self.skipping = true;
            }
            if ends && !std::mem::take(&mut self.skipping) {
                lines.push(std::mem::take(&mut self.rest));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const ID: &str = "0000000000001";

    fn event(kind: &str, fields: &[(&str, &str)]) -> String {
        let mut json = serde_json::json!({ "time": "2026-03-01T12:00:01.234567Z", "event": kind });
        for (name, value) in fields {
            json[*name] = Value::from(*value);
        }
        format!("{json}\n")
    }

    struct Bench {
        directory: tempfile::TempDir,
        tail: Tail,
        filter: Filter,
    }

    impl Bench {
        fn new(what: Option<&str>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("events.log");
            std::fs::write(&path, event("start", &[])).unwrap();
            Self { tail: Tail::open(&path), filter: Filter::new(what), directory }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("events.log")
        }

        fn write(&self, text: &[u8]) {
            File::options().create(true).append(true).open(self.path()).unwrap().write_all(text).unwrap();
        }

        fn shown(&mut self, json: bool) -> String {
            let mut out = Vec::new();
            pass(&mut self.tail, &mut self.filter, json, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        }

        fn kinds(&mut self) -> Vec<String> {
            let out = self.shown(true);
            out.lines().map(|line| parse(line).unwrap()["event"].as_str().unwrap().to_owned()).collect()
        }
    }

    #[test]
    fn it_begins_at_the_end_and_survives_rotation_and_truncation() {
        let mut bench = Bench::new(None);
        assert!(bench.kinds().is_empty(), "what was there is not shown");
        bench.write(event("one", &[]).as_bytes());
        assert_eq!(bench.kinds(), ["one"]);
        bench.write(b"{\"event\":\"ha");
        assert!(bench.kinds().is_empty());
        bench.write(b"lf\"}\n");
        assert_eq!(bench.kinds(), ["half"]);
        bench.write(event("last", &[]).as_bytes());
        std::fs::rename(bench.path(), bench.directory.path().join("events.log.1")).unwrap();
        assert_eq!(bench.kinds(), ["last"], "no new file yet");
        bench.write(event("new", &[]).as_bytes());
        assert_eq!(bench.kinds(), ["new"]);
        std::fs::write(bench.path(), event("c", &[])).unwrap();
        assert_eq!(bench.kinds(), ["c"]);
        std::fs::remove_file(bench.path()).unwrap();
        assert!(bench.kinds().is_empty());
        bench.write(event("again", &[]).as_bytes());
        assert_eq!(bench.kinds(), ["again"]);
    }

    #[test]
    fn rubbish_is_passed_over_and_never_gathered() {
        let mut bench = Bench::new(None);
        bench.write(b"\xff\xfe\n[1]\n{\"event\"\n\n");
        bench.write(&vec![b'x'; 3 << 20]);
        assert!(bench.kinds().is_empty());
        assert!(bench.tail.rest.len() as u64 <= MAX_LINE + PIECE);
        bench.write(format!("\n{}", event("good", &[])).as_bytes());
        assert_eq!(bench.kinds(), ["good"]);
    }

    #[test]
    fn a_line_can_be_read_and_moves_no_cursor() {
        let mut bench = Bench::new(None);
        bench.write(event("helo", &[("session", "s1"), ("name", "\u{1b}[2J\u{9b}x")]).as_bytes());
        assert_eq!(bench.shown(false), "12:00:01.234  s1          says it is \\u{1b}[2J\\u{9b}x\n");
        bench.write(event("helo", &[("name", "\u{9b}x")]).as_bytes());
        assert!(bench.shown(true).contains("\\u009bx"));
    }

    #[test]
    fn the_lines_of_a_stage_stand_below_each_other() {
        let stage = r#"{"time":"2026-03-01T12:00:01.234567Z","event":"stage","next":[{"plugin":"spf","wall_us":7}]}"#;
        let Value::Object(stage) = serde_json::from_str(stage).unwrap() else { panic!("no object") };
        let shown = shown(&stage);
        let (first, second) = shown.split_once('\n').unwrap();
        assert_eq!(first.find("spf"), second.find("= all"), "{shown}");
    }

    #[test]
    fn a_filter_follows_the_message() {
        let lines = [
            event("connect", &[("session", "s1")]),
            event("mail", &[("session", "s1"), ("id", ID), ("sender", "ann@example.org")]),
            event("plugin", &[("session", "s1"), ("id", ID), ("plugin", "rules")]),
            format!(r#"{{"event":"stage","session":"s1","id":"{ID}","next":[{{"plugin":"spf","wall_us":7}}]}}"#) + "\n",
            event("message", &[("id", ID), ("message_id", "<a@b>")]),
            event("queued", &[("id", ID), ("to", "bob@example.com"), ("tenant", "company")]),
            event("split", &[("id", "0000000000002"), ("origin", ID)]),
            event("delivered", &[("id", ID)]),
            event("delivered", &[("id", "0000000000003")]),
        ]
        .concat();
        let all = ["connect", "mail", "plugin", "stage", "message", "queued", "split", "delivered"];
        for (what, expected) in [
            ("s1", &all[..]),
            (ID, &all[1..]),
            ("Ann@Example.org", &all[1..]),
            ("rules", &["plugin"]),
            ("SPF", &["stage"]),
            ("a@b", &all[4..]),
            ("<a@b>", &all[4..]),
            ("company", &all[5..]),
            ("nobody", &[]),
        ] {
            let mut bench = Bench::new(Some(what));
            bench.write(lines.as_bytes());
            assert_eq!(bench.kinds(), expected, "{what}");
        }
    }
}
