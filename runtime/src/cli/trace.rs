//! `postern trace`: the story of a message, from the event log and its rotated files; which messages a Message-ID or an
//! address belongs to; and the log as it grows.

mod live;
mod log;
mod search;
mod story;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use self::log::log_files;
use self::search::{Name, listing, search};
use self::story::{MAX_EVENTS, story, write_story};
use super::terminal::json_line;
use super::{CliError, Context, FAILED, OK, Streams, Trace};
use crate::mail::MessageId;

/// Octets of what is looked for.
const MAX_WHAT: usize = 1000;

pub(super) fn run(trace: &Trace, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let what = trace.what.as_deref().map(str::trim);
    let subject = match (trace.live, what) {
        (true, _) => None,
        (false, what) => Some(subject(what.unwrap_or_default())?),
    };
    let file = context.event_log()?.ok_or_else(|| {
        let help = "there is no event log to read: set `file` in [log] (the events go to standard output)";
        CliError::Failed(help.to_owned())
    })?;
    match subject {
        None => {
            live::follow(&file, what.map(id_form).as_deref(), context.json, streams.out)?;
            Ok(OK)
        }
        Some(subject) => past(&file, subject, trace, context.json, streams),
    }
}

/// What a message is known by.
enum Subject {
    Id(MessageId),
    Name(Name),
}

fn subject(what: &str) -> Result<Subject, CliError> {
    if let Ok(id) = id_form(what).parse() {
        return Ok(Subject::Id(id));
    }
    let is_name = what.contains('@') || (what.starts_with('<') && what.ends_with('>') && what.len() > 2);
    if !is_name || what.len() > MAX_WHAT {
        let help = "is no message id (13 characters), no Message-ID and no address";
        return Err(CliError::Usage(format!("`{}` {help}", what.escape_debug())));
    }
    Ok(Subject::Name(Name::new(what)))
}

/// Ids are in capitals, people are not always.
fn id_form(what: &str) -> String {
    let upper = what.to_ascii_uppercase();
    if upper.parse::<MessageId>().is_ok() { upper } else { what.to_owned() }
}

fn past(file: &Path, subject: Subject, trace: &Trace, json: bool, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let files = log_files(file);
    if files.is_empty() {
        if let Err(error) = std::fs::metadata(file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(CliError::Failed(format!("can't read {}: {error}", file.display())));
        }
        return Err(CliError::Failed(format!("there is no log {}", file.display())));
    }
    let name = match subject {
        Subject::Id(id) => return tell(&files, id, json, streams),
        Subject::Name(name) => name,
    };
    let since = trace.since.and_then(|seconds| Timestamp::now().checked_sub(Duration::from_secs(seconds)).ok());
    let limit = usize::try_from(trace.limit).unwrap_or(usize::MAX);
    let (found, more) = search(&files, &name, since, limit).map_err(unreadable)?;
    match found.as_slice() {
        [] => Err(CliError::Failed(format!("the log knows no message of {}", name.as_str().escape_debug()))),
        [(id, _)] if !more => tell(&files, *id, json, streams),
        found => {
            if json {
                found.iter().try_for_each(|(id, f)| writeln!(streams.out, "{}", json_line(&f.to_json(*id))))?;
            } else {
                write!(streams.out, "{}", listing(found))?;
                let older = if more { "; older ones are left out, see --limit" } else { "" };
                writeln!(streams.out, "{} messages{older}; `postern trace ID` tells the story of one", found.len())?;
            }
            Ok(OK)
        }
    }
}

fn tell(files: &[PathBuf], id: MessageId, json: bool, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let story = story(files, id).map_err(unreadable)?;
    if story.is_empty() {
        return Err(CliError::Failed(format!("the log knows no message {id}")));
    }
    match json {
        true => {
            let lines = story.iter().map(|event| json_line(&Value::Object(event.clone())));
            lines.into_iter().try_for_each(|line| writeln!(streams.out, "{line}"))?;
        }
        false => write_story(streams.out, id, &story)?,
    }
    Ok(if story.len() < MAX_EVENTS { OK } else { FAILED })
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn unreadable(error: std::io::Error) -> CliError {
    CliError::Failed(format!("can't read the log: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cli::{Tool, WRONG, run as run_tool};

    /// A config with a log of two messages, asked by the command.
    fn ask(what: &str, json: bool) -> (u8, String) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let config = "[server]\nhost_name = \"mx.example.net\"\n[spool]\ndirectory = \".\"\n[log]\nfile = \"e.log\"\n\
            [[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\n";
        std::fs::write(at("postern.toml"), config).unwrap();
        let line = |id: u64, to: &str, message_id: &str| {
            let id = MessageId::from_u64(id);
            let time = "2026-03-01T12:00:00.000000Z";
            let message = serde_json::json!({
                "time": time, "event": "message", "id": id, "session": "s1", "message_id": message_id,
            });
            let queued =
                serde_json::json!({ "time": time, "event": "queued", "id": id, "from": "a@b.example", "to": to });
            format!("{message}\n{queued}\n")
        };
        let log = line(1, "bob@example.com", "<1@b.example>") + &line(2, "eve@example.com", "<2@b.example>");
        std::fs::write(at("e.log"), log).unwrap();
        let trace = Trace { what: Some(what.to_owned()), live: false, limit: 50, since: None };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
        let context = Context { config: &at("postern.toml"), json, builtins: &[] };
        let code = run_tool(&Tool::Trace(trace), &context, &mut streams);
        (code, String::from_utf8([out, err].concat()).unwrap())
    }

    #[test]
    fn one_message_is_told_and_more_are_listed() {
        for one in ["0000000000001", "<1@b.example>", "1@b.example", "Bob@example.com"] {
            let (code, out) = ask(one, false);
            assert!(code == OK && out.starts_with("Message 0000000000001, from 2026-03-01"), "{one}: {out}");
        }
        let (code, out) = ask("a@b.example", false);
        assert_eq!(code, OK);
        assert!(out.contains("0000000000002  a@b.example  eve@example.com  queued\n"), "{out}");
        assert!(out.ends_with("2 messages; `postern trace ID` tells the story of one\n"), "{out}");
        assert_eq!(ask("a@b.example", true).1.lines().count(), 2);
    }

    #[test]
    fn what_is_not_known_is_said() {
        for (what, code, says) in [
            ("nobody@example.com", FAILED, "the log knows no message of nobody@example.com"),
            ("0000000000009", FAILED, "the log knows no message 0000000000009"),
            ("\u{1b}[2J", WRONG, "`\\u{1b}[2J` is no message id"),
            ("<>", WRONG, "`<>` is no message id"),
        ] {
            let (got, out) = ask(what, false);
            assert!(got == code && out.contains(says), "{what:?}: {got} {out}");
        }
    }
}
