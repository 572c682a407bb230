//! `postern trace ID`: the story of one message, from the event log and its rotated files.
//!
//! A message's own events carry its id; what its session did before (greeting, TLS, log-in) carries only the session's.
//! Session ids begin anew with each run of the gateway, so of the sessions with that id only the one is told that
//! holds an event of the message.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::terminal::printable;
use super::{CliError, Context, FAILED, OK, Streams};
use crate::mail::MessageId;

/// Octets of a line; longer ones are not ours.
const MAX_LINE: u64 = 1 << 20;
/// Events of one story.
const MAX_EVENTS: usize = 10_000;
/// Rotated files: `FILE.1` is the newest of them.
const MAX_FILES: usize = 1000;
/// The event with which a session begins.
const BEGINS_SESSION: &str = "connect";
/// The event with which a run of the gateway begins: all session ids are free again.
const BEGINS_RUN: &str = "start";

pub(super) fn run(id: MessageId, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let settings = context.settings()?;
    let file = settings.log.file.ok_or_else(|| {
        CliError::Failed(
            "there is no event log to read: set `file` in [log] (the events go to standard output)".to_owned(),
        )
    })?;
    let files = log_files(&file);
    if files.is_empty() {
        return Err(CliError::Failed(format!("there is no log {}", file.display())));
    }
    let story = story(&files, id).map_err(|error| CliError::Failed(format!("can't read the log: {error}")))?;
    if story.is_empty() {
        return Err(CliError::Failed(format!("the log knows no message {id}")));
    }
    match context.json {
        true => story.iter().try_for_each(|event| writeln!(streams.out, "{}", Value::Object(event.clone())))?,
        false => write_story(streams.out, id, &story)?,
    }
    Ok(if story.len() < MAX_EVENTS { OK } else { FAILED })
}

/// Those that are there, oldest first.
fn log_files(file: &Path) -> Vec<PathBuf> {
    let numbered = |n: usize| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    let mut files: Vec<_> = (1..MAX_FILES).map(numbered).take_while(|path| path.is_file()).collect();
    files.reverse();
    files.extend(file.is_file().then(|| file.to_owned()));
    files
}

type Event = Map<String, Value>;

/// At most [`MAX_EVENTS`], in the order of the log.
fn story(files: &[PathBuf], id: MessageId) -> io::Result<Vec<Event>> {
    let id = id.to_string();
    let mut sessions = HashSet::new();
    each_event(files, &[&id], |_, event| {
        if text(&event, "id") == Some(&id) {
            sessions.extend(text(&event, "session").map(str::to_owned));
        }
    })?;
    let mut teller = Teller::new(&id, sessions);
    let mut words = vec![id.as_str(), "\"start\""];
    let quoted: Vec<String> = teller.sessions.iter().map(|session| format!("\"{session}\"")).collect();
    words.extend(quoted.iter().map(String::as_str));
    each_event(files, &words, |number, event| teller.hear(number, event))?;
    Ok(teller.finish())
}

/// Calls `then` with each event of the files, numbered, whose line holds one of the words.
fn each_event(files: &[PathBuf], words: &[&str], mut then: impl FnMut(usize, Event)) -> io::Result<()> {
    let mut number = 0;
    let mut line = Vec::new();
    for path in files {
        let mut reader = BufReader::new(File::open(path)?);
        loop {
            line.clear();
            if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            number += 1;
            // Most lines are about other mails: no need to parse those. What is no JSON is no event.
            let Ok(text) = std::str::from_utf8(&line) else { continue };
            if words.iter().any(|word| text.contains(word))
                && let Ok(event) = serde_json::from_str(text)
            {
                then(number, event);
            }
        }
    }
    Ok(())
}

fn text<'e>(event: &'e Event, field: &str) -> Option<&'e str> {
    event.get(field).and_then(Value::as_str)
}

/// Gathers the events of the message and of the sessions that it came with.
struct Teller<'a> {
    id: &'a str,
    sessions: HashSet<String>,
    /// For each session the events since it began, and whether one of them is the message's.
    open: HashMap<String, (Vec<(usize, Event)>, bool)>,
    told: Vec<(usize, Event)>,
}

impl<'a> Teller<'a> {
    fn new(id: &'a str, sessions: HashSet<String>) -> Self {
        Self { id, sessions, open: HashMap::new(), told: Vec::new() }
    }

    fn hear(&mut self, number: usize, event: Event) {
        let kind = text(&event, "event");
        if kind == Some(BEGINS_RUN) {
            self.close_all();
            return;
        }
        let ours = text(&event, "id") == Some(self.id);
        let session = text(&event, "session").filter(|session| self.sessions.contains(*session)).map(str::to_owned);
        let Some(session) = session else {
            if ours {
                self.told.push((number, event));
            }
            return;
        };
        // Another mail of the same session.
        if !ours && event.contains_key("id") {
            return;
        }
        if kind == Some(BEGINS_SESSION) {
            self.close(&session);
        }
        let (events, concerns) = self.open.entry(session).or_default();
        *concerns |= ours;
        if events.len() < MAX_EVENTS {
            events.push((number, event));
        }
    }

    fn close(&mut self, session: &str) {
        if let Some((events, true)) = self.open.remove(session) {
            self.told.extend(events);
        }
    }

    fn close_all(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.told.extend(open.into_values().filter(|(_, concerns)| *concerns).flat_map(|(events, _)| events));
    }

    fn finish(mut self) -> Vec<Event> {
        self.close_all();
        self.told.sort_by_key(|(number, _)| *number);
        self.told.into_iter().take(MAX_EVENTS).map(|(_, event)| event).collect()
    }
}

/// A line for each event: the time since the first, the event, then its fields.
fn write_story(out: &mut dyn Write, id: MessageId, story: &[Event]) -> io::Result<()> {
    let began = story.first().and_then(|event| text(event, "time")).unwrap_or("?");
    writeln!(out, "Message {id}, from {}", printable(began))?;
    let width =
        story.iter().filter_map(|event| text(event, "event")).map(|kind| kind.chars().count()).max().unwrap_or(0);
    for event in story {
        let kind = printable(text(event, "event").unwrap_or("?"));
        let fields: Vec<String> = event
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "time" | "event" | "session" | "id"))
            .map(|(name, value)| format!("{}={}", printable(name), shown(value)))
            .collect();
        let line =
            format!("{:>12}  {kind:width$}  {}", since(began, text(event, "time").unwrap_or("?")), fields.join(" "));
        writeln!(out, "{}", line.trim_end())?;
    }
    if story.len() >= MAX_EVENTS {
        writeln!(out, "… and more: only the first {MAX_EVENTS} events are shown")?;
    }
    Ok(())
}

/// Bare words as they are, all else as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => printable(text),
        other => printable(&other.to_string()),
    }
}

/// `+0.012 s`; the time itself when it is not one that can be read.
fn since(began: &str, time: &str) -> String {
    match (began.parse::<jiff::Timestamp>(), time.parse::<jiff::Timestamp>()) {
        (Ok(began), Ok(time)) => {
            let millis = time.as_millisecond().saturating_sub(began.as_millisecond()).max(0);
            format!("+{}.{:03} s", millis / 1000, millis % 1000)
        }
        _ => printable(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Record;

    const ID: MessageId = MessageId::from_u64(0x0123_4567_89ab);

    fn log(events: &[(&str, Option<&str>, Option<MessageId>)]) -> String {
        let line = |(second, (event, session, id)): (usize, &(&str, Option<&str>, Option<MessageId>))| {
            let time = jiff::Timestamp::from_second(1_770_000_000 + i64::try_from(second).unwrap()).unwrap();
            let mut json = Record::new("x").text("reply", "250 2.0.0 \u{1b}[31mok").to_json(time);
            json["event"] = Value::from(*event);
            if let Some(session) = session {
                json["session"] = Value::from(*session);
            }
            if let Some(id) = id {
                json["id"] = Value::from(id.to_string());
            }
            format!("{json}\n")
        };
        events.iter().enumerate().map(line).collect()
    }

    /// Two runs of the gateway, the first one rotated away; both have sessions s1 and s2.
    fn write_logs(directory: &Path) -> PathBuf {
        let other = Some(MessageId::from_u64(99));
        let path = directory.join("events.log");
        let older = log(&[
            ("start", None, None),
            ("connect", Some("s1"), None),
            ("mail", Some("s1"), other),
            ("disconnect", Some("s1"), None),
        ]);
        let newer = log(&[
            ("start", None, None),
            ("connect", Some("s2"), None),
            ("connect", Some("s1"), None),
            ("helo", Some("s1"), None),
            ("mail", Some("s1"), other),
            ("accepted", Some("s1"), Some(ID)),
            ("disconnect", Some("s1"), None),
        ]);
        std::fs::write(directory.join("events.log.1"), format!("{older}{newer}half a line")).unwrap();
        let newest = log(&[
            ("delivered", None, Some(ID)),
            ("delivered", None, other),
            ("start", None, None),
            ("connect", Some("s1"), None),
        ]);
        std::fs::write(&path, [b"\xff\xfe no text\n", newest.as_bytes()].concat()).unwrap();
        path
    }

    #[test]
    fn a_story_has_its_session_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let files = log_files(&write_logs(directory.path()));
        assert_eq!(files.len(), 2);
        let story = story(&files, ID).unwrap();
        let kinds: Vec<_> = story.iter().filter_map(|event| text(event, "event")).collect();
        assert_eq!(kinds, ["connect", "helo", "accepted", "disconnect", "delivered"]);
        assert!(super::story(&files, MessageId::from_u64(5)).unwrap().is_empty());
    }

    #[test]
    fn a_story_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let files = log_files(&write_logs(directory.path()));
        let mut out = Vec::new();
        write_story(&mut out, ID, &story(&files, ID).unwrap()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.starts_with(&format!("Message {ID}, from 2026-02-02T")), "{text}");
        assert!(text.contains("    +3.000 s  accepted    reply=\"250 2.0.0 "), "{text}");
    }
}
