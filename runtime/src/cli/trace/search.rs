//! Which messages a Message-ID or an address belongs to, from the event log.
//!
//! One pass over the files, in the memory of as many messages as are shown. A message is known by the first event that
//! names it; those that were split off from one that is known are found with it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::log::{Event, each_line, parse, text};
use crate::cli::terminal::{printable, table};
use crate::mail::MessageId;

/// Characters of an address or state in the list.
const MAX_CELL: usize = 60;
/// The fields that hold addresses.
const ADDRESSES: [&str; 4] = ["sender", "recipient", "from", "to"];

/// A Message-ID or an address, without angle brackets. Which of them it is can't be told from its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    text: String,
    /// As it stands in a line of the log, in lower case.
    written: String,
}

impl Name {
    pub(super) fn new(text: &str) -> Self {
        let text = bare(text).to_owned();
        let quoted = Value::from(text.as_str()).to_string();
        let written = quoted.trim_start_matches('"').trim_end_matches('"').to_ascii_lowercase();
        Self { text, written }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    fn is_in(&self, line: &str) -> bool {
        line.to_ascii_lowercase().contains(&self.written)
    }

    pub(super) fn names(&self, event: &Event) -> bool {
        let fields = ADDRESSES.iter().chain(&["message_id"]).filter_map(|field| text(event, field));
        fields.map(bare).any(|value| value.eq_ignore_ascii_case(&self.text))
    }
}

fn bare(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text)
}

/// A message in the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) time: String,
    pub(super) from: String,
    /// The first recipient that was named.
    pub(super) to: String,
    pub(super) state: String,
}

/// The newest `limit` messages, newest first; and whether there were more.
pub(super) fn search(
    files: &[PathBuf],
    name: &Name,
    since: Option<Timestamp>,
    limit: usize,
) -> io::Result<(Vec<(MessageId, Found)>, bool)> {
    let mut search = Search { name, since, limit, found: BTreeMap::new(), more: false, early: BTreeMap::new() };
    let files: Vec<PathBuf> =
        files.iter().filter(|path| since.is_none_or(|since| is_younger(path, since))).cloned().collect();
    each_line(&files, |_, line| search.hear(line))?;
    Ok((search.found.into_iter().rev().collect(), search.more))
}

/// Something may have been written to it since then; a clock that was set back a little does not hide it.
fn is_younger(path: &PathBuf, since: Timestamp) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let modified = modified.and_then(|time| Timestamp::try_from(time).ok());
    let slack = Duration::from_secs(3600);
    modified.is_none_or(|modified| modified.checked_add(slack).is_ok_and(|modified| modified >= since))
}

struct Search<'a> {
    name: &'a Name,
    since: Option<Timestamp>,
    limit: usize,
    /// The latest ones; ids grow with time.
    found: BTreeMap<MessageId, Found>,
    more: bool,
    /// What was last said of messages that are not known yet: their sender stands before what names them.
    early: BTreeMap<MessageId, Found>,
}

/// Messages whose first events are remembered until one names them: those that are being received at a time.
const MAX_EARLY: usize = 4096;

impl Search<'_> {
    fn hear(&mut self, line: &str) {
        let Some(id) = id_in(line) else { return };
        let is_named = self.name.is_in(line);
        let splits = line.contains("\"origin\"");
        let begins = line.contains("\"event\":\"mail\"");
        if !(is_named || splits || begins || self.found.contains_key(&id) || self.early.contains_key(&id)) {
            return;
        }
        let Some(event) = parse(line).filter(|event| text(event, "id").is_some_and(|own| own == id.to_string())) else {
            return;
        };
        let is_late =
            |since: Timestamp| text(&event, "time").and_then(|t| t.parse().ok()).is_some_and(|t: Timestamp| t < since);
        if self.since.is_some_and(is_late) {
            return;
        }
        let origin = text(&event, "origin").and_then(|origin| origin.parse().ok());
        let whole = origin.and_then(|origin: MessageId| self.found.get(&origin)).map(|whole| whole.from.clone());
        if whole.is_some() || (is_named && self.name.names(&event)) {
            self.find(id);
        }
        // A part has the sender of the whole.
        if let (Some(from), Some(found)) = (whole, self.found.get_mut(&id))
            && found.from.is_empty()
        {
            found.from = from;
        }
        if let Some(found) = self.found.get_mut(&id) {
            found.note(&event);
        } else if begins || self.early.contains_key(&id) {
            self.early.entry(id).or_default().note(&event);
            // A message that has been queued without being named is another one's.
            if self.early.len() > MAX_EARLY || text(&event, "event") == Some("queued") {
                let gone = if self.early.len() > MAX_EARLY { self.early.keys().next().copied() } else { Some(id) };
                gone.and_then(|gone| self.early.remove(&gone));
            }
        }
    }

    fn find(&mut self, id: MessageId) {
        if self.found.contains_key(&id) {
            return;
        }
        let early = self.early.remove(&id).unwrap_or_default();
        if self.found.len() >= self.limit {
            self.more = true;
            // Older than all that are shown.
            if self.found.keys().next().is_some_and(|first| id < *first) {
                return;
            }
            self.found.pop_first();
        }
        self.found.insert(id, early);
    }
}

/// Without parsing: in a text of the log the quotes would be escaped.
fn id_in(line: &str) -> Option<MessageId> {
    let (_, after) = line.split_once("\"id\":\"")?;
    after.split_once('"')?.0.parse().ok()
}

impl Found {
    fn note(&mut self, event: &Event) {
        let set = |value: &mut String, field: &str| {
            if value.is_empty() {
                text(event, field).unwrap_or_default().clone_into(value);
            }
        };
        set(&mut self.time, "time");
        set(&mut self.from, "sender");
        set(&mut self.from, "from");
        set(&mut self.to, "recipient");
        set(&mut self.to, "to");
        let kind = text(event, "event").unwrap_or_default();
        let code = event.get("code").and_then(Value::as_u64).unwrap_or(0);
        match kind {
            // What the client heard; later words are about what the gateway has taken.
            "reply" if code >= 400 => self.state = format!("refused: {}", text(event, "text").unwrap_or_default()),
            "deferred" | "failed" | "expired" => {
                self.state = format!("{kind}: {}", text(event, "reply").unwrap_or_default());
            }
            "quarantined" | "held" => self.state = format!("{kind}: {}", text(event, "reason").unwrap_or_default()),
            "queued" | "delivered" | "discarded" | "released" | "deleted" | "delayed" | "unreadable" => {
                kind.clone_into(&mut self.state);
            }
            _ => {}
        }
    }

    pub(super) fn to_json(&self, id: MessageId) -> Value {
        serde_json::json!({ "id": id, "time": self.time, "from": self.from, "to": self.to, "state": self.state })
    }
}

/// A line for each message.
pub(super) fn listing(found: &[(MessageId, Found)]) -> String {
    let mut rows = vec![["TIME", "ID", "FROM", "TO", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|(id, found)| {
        let Found { time, from, to, state } = found;
        let time = time.split('.').next().unwrap_or(time).replace('T', " ");
        let sender = if from.is_empty() { "<>" } else { from };
        vec![printable(&time), id.to_string(), cell(sender), cell(to), cell(state)]
    }));
    table(&rows)
}

fn cell(text: &str) -> String {
    let mut shown: String = printable(text).chars().take(MAX_CELL + 1).collect();
    if shown.chars().count() > MAX_CELL {
        shown.pop();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> MessageId {
        MessageId::from_u64(n)
    }

    fn event(second: u64, id: MessageId, kind: &str, fields: &[(&str, &str)]) -> String {
        let mut json = serde_json::json!({
            "time": format!("2026-03-01T12:00:{second:02}.000000Z"), "event": kind, "id": id, "session": "s1",
        });
        for (name, value) in fields {
            json[*name] = Value::from(*value);
        }
        format!("{json}\n")
    }

    /// Message 1 to bob, split into 1 and 2; message 3 to bob refused; message 4 of others.
    fn log() -> String {
        let mut lines = [
            event(1, id(1), "mail", &[("sender", "ann@example.org")]),
            event(2, id(1), "rcpt", &[("recipient", "Bob@Example.com"), ("verdict", "next")]),
            event(3, id(1), "message", &[("message_id", "<a\"b@example.org>")]),
            event(4, id(1), "queued", &[("from", "ann@example.org"), ("to", "bob@example.com")]),
            event(4, id(2), "split", &[("origin", &id(1).to_string())]),
            event(5, id(1), "delivered", &[("to", "bob@example.com"), ("reply", "250 ok")]),
            event(5, id(2), "deferred", &[("to", "eve@example.net"), ("reply", "451 \u{1b}[2J later")]),
            event(6, id(3), "mail", &[("sender", "x@example.org")]),
            event(7, id(3), "rcpt", &[("recipient", "bob@example.com"), ("verdict", "reject")]),
            event(8, id(4), "mail", &[("sender", "other@example.org")]),
            event(9, id(4), "plugin-log", &[("text", "\"id\":\"0000000000001\" bob@example.com")]),
        ]
        .concat();
        let mut refused = serde_json::json!({ "time": "2026-03-01T12:00:07Z", "event": "reply", "id": id(3) });
        refused["code"] = Value::from(550);
        refused["text"] = Value::from("550 5.1.1 who?");
        lines.push_str(&format!("{refused}\nhalf {{ a line bob@example.com \"id\":\"0000000000001\"\n"));
        lines
    }

    fn find(name: &str, since: Option<&str>, limit: usize) -> (Vec<u64>, bool, String) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("events.log");
        std::fs::write(&file, [b"\xff\xfe\n", log().as_bytes()].concat()).unwrap();
        let since = since.map(|time| time.parse().unwrap());
        let (found, more) = search(&[file], &Name::new(name), since, limit).unwrap();
        (found.iter().map(|(id, _)| id.as_u64()).collect(), more, listing(&found))
    }

    #[test]
    fn messages_are_found_by_what_people_know() {
        for (name, expected) in [
            ("bob@example.com", vec![3, 2, 1]),
            ("BOB@EXAMPLE.COM", vec![3, 2, 1]),
            ("<a\"b@example.org>", vec![2, 1]),
            ("a\"b@example.org", vec![2, 1]),
            ("ann@example.org", vec![2, 1]),
            ("eve@example.net", vec![2]),
            ("example.com", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(find(name, None, 50).0, expected, "{name}");
        }
    }

    #[test]
    fn the_newest_are_kept_and_the_older_are_known_to_be_there() {
        let (found, more, _) = find("bob@example.com", None, 1);
        assert_eq!((found, more), (vec![3], true));
        assert_eq!(find("bob@example.com", Some("2026-03-01T12:00:06Z"), 50).0, [3]);
    }

    #[test]
    fn a_list_says_how_it_ended_and_moves_no_cursor() {
        let (_, _, text) = find("bob@example.com", None, 50);
        let expected = "\
TIME                 ID             FROM             TO               STATE
2026-03-01 12:00:06  0000000000003  x@example.org    bob@example.com  refused: 550 5.1.1 who?
2026-03-01 12:00:04  0000000000002  ann@example.org  eve@example.net  deferred: 451 \\u{1b}[2J later
2026-03-01 12:00:01  0000000000001  ann@example.org  Bob@Example.com  delivered
";
        assert_eq!(text, expected);
    }
}
