//! Events as lines that a person can read: the story that `localserve` tells a newcomer, and `postern trace --live`.

use std::io::Write;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::cli::terminal::printable;
use crate::log::{Record, Sink};

/// Writes the story of `localserve` to a terminal.
pub struct Story<W>(pub W);

impl<W: Write + Send + 'static> Sink for Story<W> {
    fn write(&mut self, _: Timestamp, record: &Record) {
        // A closed terminal must not stop mail.
        let (session, id) = (record.session.map(|s| s.to_string()), record.id.map(|id| id.to_string()));
        let (session, id) = (session.as_deref(), id.as_deref());
        let _ = writeln!(self.0, "{}", line(&Told { event: record.event, session, id, fields: &record.fields() }));
    }
}

/// An event, from the gateway itself or from its log.
pub struct Told<'a> {
    pub event: &'a str,
    pub session: Option<&'a str>,
    pub id: Option<&'a str>,
    pub fields: &'a Map<String, Value>,
}

/// One event as a line, without its time; a stage as one more for each plugin that has said `next`.
pub fn line(told: &Told<'_>) -> String {
    let field = |name: &str| match told.fields.get(name) {
        Some(Value::String(text)) => printable(text),
        Some(value) => printable(&value.to_string()),
        None => String::new(),
    };
    let time = |name: &str| told.fields.get(name).and_then(Value::as_u64).map_or_else(String::new, micros);
    let id = printable(told.id.unwrap_or_default());
    let who = format!("{:<8}", printable(told.session.unwrap_or_default()));
    let what = match told.event {
        "connect" => format!("── connection from {} to listener {}", field("client"), field("listener")),
        "helo" => format!("   says it is {}", field("name")),
        "login" => format!("   logged in as {}", field("login")),
        "mail" => format!("   {} from <{}>", id, field("sender")),
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
            let all = [field("stage"), "= all".to_owned(), field("verdict"), time("took_us")];
            return nexts(told.fields)
                .chain([all])
                .map(|[stage, plugin, verdict, took]| {
                    format!("{who}      {stage:<10} {plugin:<18} {verdict:<11} {took:>9}")
                })
                .collect::<Vec<_>>()
                .join("\n");
        }
        "reply" => format!("   {:<8} ← {}", field("verb"), field("text")),
        "message" => format!("   message of {} octets", field("size")),
        "discarded" => "   dropped, as a plugin wished".to_owned(),
        "disconnect" => format!("── {}", field("end")),
        "plugin-log" => format!("     {} says: {}", field("plugin"), field("text")),
        "rcpt" => format!("   {} to <{}>: {}", id, field("recipient"), field("verdict")),
        "queued" => format!("   {} on disk, queued for {}", id, field("to")),
        "attempt" => {
            format!("   {} delivery by {}: {} in {}", id, field("route"), field("result"), time("took_us"))
        }
        "delivered" | "deferred" | "failed" | "expired" => {
            format!("   {} {} to {}: {}", id, told.event, field("to"), field("reply"))
        }
        other => {
            let told = told.fields.keys().filter(|name| !matches!(name.as_str(), "time" | "event" | "session" | "id"));
            let fields: Vec<_> = told.map(|name| format!("{}={}", printable(name), field(name))).collect();
            format!("   {id} {}: {}", printable(other), fields.join(" "))
        }
    };
    format!("{who} {what}")
}

/// The plugins that have said `next` at a stage.
fn nexts(stage: &Map<String, Value>) -> impl Iterator<Item = [String; 4]> {
    let nexts = stage.get("next").and_then(Value::as_array).into_iter().flatten();
    nexts.map(|next| {
        let field = |name: &str| printable(next.get(name).and_then(Value::as_str).unwrap_or_default());
        let took = next.get("wall_us").and_then(Value::as_u64).map_or_else(String::new, micros);
        [field("stage"), field("plugin"), "next".to_owned(), took]
    })
}

fn micros(value: u64) -> String {
    if value < 10_000 { format!("{value} µs") } else { format!("{} ms", value / 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_controls_the_terminal() {
        let mut fields = Record::new("helo").text("name", "a\u{1b}[2J\r\nb").fields();
        fields.insert("\u{9b}".to_owned(), Value::from("x"));
        for event in ["helo", "\u{1b}c"] {
            let told = Told { event, session: Some("s\u{7f}"), id: Some("\n"), fields: &fields };
            let line = line(&told);
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
}
