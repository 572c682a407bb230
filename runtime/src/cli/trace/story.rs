//! The story of one message: its own events, and those of the session that it came with.
//!
//! A message's own events carry its id; what its session did before (greeting, TLS, log-in) carries only the session's.
//! Session ids begin anew with each run of the gateway, so of the sessions with that id only the one is told that
//! holds an event of the message.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::Value;

use super::log::{Event, each_event, text};
use crate::cli::terminal::printable;
use crate::mail::MessageId;

/// Events of one story.
pub(super) const MAX_EVENTS: usize = 10_000;
/// The event with which a session begins.
const BEGINS_SESSION: &str = "connect";
/// The event with which a run of the gateway begins: all session ids are free again.
const BEGINS_RUN: &str = "start";

/// At most [`MAX_EVENTS`], in the order of the log.
pub(super) fn story(files: &[PathBuf], id: MessageId) -> io::Result<Vec<Event>> {
    let id = id.to_string();
    let mut sessions = HashSet::new();
    each_event(
        files,
        |line| line.contains(&id),
        |_, event| {
            if text(&event, "id") == Some(&id) {
                sessions.extend(text(&event, "session").map(str::to_owned));
            }
        },
    )?;
    let mut teller = Teller::new(&id, sessions);
    let mut words = vec![id.clone(), "\"start\"".to_owned()];
    words.extend(teller.sessions.iter().map(|session| format!("\"{session}\"")));
    let concerns = |line: &str| words.iter().any(|word| line.contains(word));
    each_event(files, concerns, |number, event| teller.hear(number, event))?;
    Ok(teller.finish())
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
pub(super) fn write_story(out: &mut dyn Write, id: MessageId, story: &[Event]) -> io::Result<()> {
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

/// Bare words as they are, plugins with the microseconds that they took, all else as JSON.
fn shown(value: &Value) -> String {
    let asked = |item: &Value| Some(format!("{}:{}", printable(item.get("plugin")?.as_str()?), item.get("wall_us")?));
    if let Some(asked) = value.as_array().and_then(|items| items.iter().map(asked).collect::<Option<Vec<_>>>()) {
        return asked.join(",");
    }
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
    use std::path::Path;

    use super::*;
    use crate::cli::trace::log::log_files;
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
