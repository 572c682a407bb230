//! For the newcomer: each session's events as a few lines that a person can read.

use std::io::Write;

use jiff::Timestamp;
use serde_json::Value;

use crate::log::{Record, Sink};

/// Writes the story of `localserve` to a terminal.
pub struct Story<W>(pub W);

impl<W: Write + Send + 'static> Sink for Story<W> {
    fn write(&mut self, _: Timestamp, record: &Record) {
        // A closed terminal must not stop mail.
        let _ = writeln!(self.0, "{}", line(record));
    }
}

/// One event as a line.
pub fn line(record: &Record) -> String {
    let field = |name: &str| match record.fields.get(name) {
        Some(Value::String(text)) => printable(text),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let time = |name: &str| record.fields.get(name).and_then(Value::as_u64).map_or_else(String::new, micros);
    let who = record.session.map_or_else(|| "        ".to_owned(), |session| format!("{:<8}", session.to_string()));
    let what = match record.event {
        "connect" => format!("── connection from {} to listener {}", field("client"), field("listener")),
        "helo" => format!("   says it is {}", field("name")),
        "login" => format!("   logged in as {}", field("login")),
        "mail" => format!("   {} from <{}>", id(record), field("sender")),
        "plugin" => {
            let reply = Some(field("reply")).filter(|reply| !reply.is_empty());
            let failure = Some(field("failure")).filter(|failure| !failure.is_empty());
            let extra: String = reply.into_iter().chain(failure).map(|text| format!("  {text}")).collect();
            format!(
                "     {:<10} {:<18} {:<11} {:>9}{extra}",
                field("stage"),
                field("plugin"),
                field("verdict"),
                time("wall_us")
            )
        }
        "exemption" => format!("     rule {} of {} lifts {}", field("rule"), field("by"), field("test")),
        "exempted" => format!("     {:<10} {:<18} exempted", field("stage"), field("plugin")),
        "stage" => {
            format!("     {:<10} {:<18} {:<11} {:>9}", field("stage"), "= all", field("verdict"), time("took_us"))
        }
        "reply" => format!("   {:<8} ← {}", field("verb"), field("text")),
        "message" => format!("   message of {} octets", field("size")),
        "discarded" => "   dropped, as a plugin wished".to_owned(),
        "disconnect" => format!("── {}", field("end")),
        "plugin-log" => format!("     {} says: {}", field("plugin"), field("text")),
        "rcpt" => format!("   {} to <{}>: {}", id(record), field("recipient"), field("verdict")),
        "queued" => format!("   {} on disk, queued for {}", id(record), field("to")),
        "attempt" => {
            format!("   {} delivery by {}: {} in {}", id(record), field("route"), field("result"), time("took_us"))
        }
        "delivered" | "deferred" | "failed" | "expired" => {
            format!("   {} {} to {}: {}", id(record), record.event, field("to"), field("reply"))
        }
        other => {
            let fields: Vec<_> = record.fields.keys().map(|name| format!("{name}={}", field(name))).collect();
            format!("   {} {other}: {}", id(record), fields.join(" "))
        }
    };
    format!("{who} {what}")
}

fn id(record: &Record) -> String {
    record.id.map_or_else(String::new, |id| id.to_string())
}

fn micros(value: u64) -> String {
    if value < 10_000 { format!("{value} µs") } else { format!("{} ms", value / 1000) }
}

/// What a client says must not move the cursor of the person who reads.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_controls_the_terminal() {
        let line = line(&Record::new("helo").text("name", "a\u{1b}[2J\r\nb"));
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}
