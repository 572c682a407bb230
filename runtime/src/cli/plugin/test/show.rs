//! How a rehearsal went: for people a transcript with each call of the plugin where it happened, else one object a line.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::terminal::printable;
use crate::mail::{SignatureKind, SignatureRequest};
use crate::pipeline::{Edit, Position, Usage};
use crate::rehearsal::escape::show;
use crate::rehearsal::recorder::{Hook, LogLine};
use crate::rehearsal::{Event, Fate, Report};

/// All calls together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    calls: usize,
    failures: usize,
    unmet: usize,
    cpu: Duration,
    wall: Duration,
    memory: u64,
    host_calls: u64,
}

impl Sum {
    fn of(report: &Report) -> Self {
        let mut sum = Self::default();
        for event in &report.events {
            match event {
                Event::Hook(hook) => {
                    let Usage { cpu, wall, memory, host_calls, .. } = hook.judged.usage;
                    sum.calls += 1;
                    sum.failures += usize::from(hook.judged.result.is_err());
                    sum.cpu += cpu;
                    sum.wall += wall;
                    sum.memory = sum.memory.max(memory);
                    sum.host_calls += host_calls;
                }
                Event::Unmet { .. } => sum.unmet += 1,
                _ => {}
            }
        }
        sum
    }

    /// The plugin has answered whenever it was asked, and what was expected came.
    pub fn is_well(&self) -> bool {
        self.failures == 0 && self.unmet == 0
    }
}

pub(super) fn as_text(report: &Report, out: &mut dyn Write) -> io::Result<Sum> {
    let inspection = &report.inspection;
    let stages: Vec<_> = inspection.stages.iter().map(|stage| stage.name()).collect();
    let how = if report.cached { "compiled earlier" } else { "compiled" };
    writeln!(
        out,
        "{} for {}: {}; {how}, loaded in {}",
        inspection.name,
        inspection.scope,
        stages.join(", "),
        time(report.loading)
    )?;
    report.log.iter().try_for_each(|line| write_log(out, line))?;
    writeln!(out)?;
    for event in &report.events {
        write_event(out, event)?;
    }
    let sum = Sum::of(report);
    writeln!(
        out,
        "\n{} call{}, {} failed; {}",
        sum.calls,
        plural(sum.calls),
        sum.failures,
        cost(sum.cpu, sum.wall, sum.memory, sum.host_calls)
    )?;
    if sum.unmet > 0 {
        writeln!(out, "{} expectation{} of the session did not hold", sum.unmet, plural(sum.unmet))?;
    }
    Ok(sum)
}

fn write_event(out: &mut dyn Write, event: &Event) -> io::Result<()> {
    match event {
        Event::Said(octets) => writeln!(out, "C: {}", said(octets)),
        Event::Heard(line) => writeln!(out, "S: {}", printable(line)),
        Event::Closed => writeln!(out, "   (the gateway closes)"),
        Event::Unsent => writeln!(out, "   (the message is not sent: the gateway has not asked for it)"),
        Event::Hook(hook) => write_hook(out, hook),
        Event::Accepted(fate) => write_fate(out, fate),
        Event::Unmet { line, expected, got } => {
            writeln!(out, "!  line {line}: expected {}, got {}", printable(expected), printable(got))
        }
    }
}

fn write_hook(out: &mut dyn Write, hook: &Hook) -> io::Result<()> {
    let of = hook.recipient.as_ref().map(|recipient| format!(" {}", printable(recipient))).unwrap_or_default();
    let Usage { cpu, wall, memory, host_calls, .. } = hook.judged.usage;
    let cost = cost(cpu, wall, memory, host_calls);
    writeln!(out, "   {}{of}: {}   [{cost}]", hook.stage, printable(&hook.said()))?;
    hook.log.iter().try_for_each(|line| write_log(out, line))?;
    match &hook.judged.result {
        Ok(answer) => {
            answer.edits.iter().try_for_each(|edit| writeln!(out, "      edit: {}", printable(&edited(edit))))?;
            answer.exemptions.iter().try_for_each(|exemption| {
                writeln!(out, "      exempts {} ({})", printable(&exemption.test), printable(&exemption.rule))
            })
        }
        Err(failure) => writeln!(out, "      {}", printable(&failure.to_string())),
    }
}

fn write_log(out: &mut dyn Write, line: &LogLine) -> io::Result<()> {
    // A stack is several lines.
    let mut lines = line.text.lines();
    writeln!(out, "      {}: {}", line.level, printable(lines.next().unwrap_or_default()))?;
    lines.try_for_each(|more| writeln!(out, "         {}", printable(more)))
}

fn write_fate(out: &mut dyn Write, fate: &Fate) -> io::Result<()> {
    match fate {
        Fate::Sent(recipients) => {
            recipients.iter().try_for_each(|(to, route)| writeln!(out, "   goes {route}: {}", printable(to)))
        }
        other => writeln!(out, "   {}", printable(&fate_text(other))),
    }
}

fn fate_text(fate: &Fate) -> String {
    match fate {
        Fate::Quarantined(reason) => format!("kept in quarantine: {reason}"),
        Fate::Discarded => "discarded".to_owned(),
        Fate::Refused(reply) => format!("returned to its sender: {reply}"),
        Fate::Deferred(reply) => format!("tried again later: {reply}"),
        Fate::Sent(_) => "sent".to_owned(),
    }
}

/// One object a line: `loaded`, then `hook`, `said`, `heard`, `closed`, `unsent`, `accepted` and `unmet` as they come, then `sum`.
pub(super) fn as_json(report: &Report, out: &mut dyn Write) -> io::Result<Sum> {
    let inspection = &report.inspection;
    let stages: Vec<_> = inspection.stages.iter().map(|stage| stage.name()).collect();
    let loaded = json!({
        "event": "loaded",
        "plugin": &*inspection.name,
        "scope": inspection.scope.to_string(),
        "digest": inspection.digest.to_string(),
        "size": inspection.size,
        "stages": stages,
        "imports": inspection.imports,
        "cached": report.cached,
        "loading_us": micros(report.loading),
        "log": report.log.iter().map(log_json).collect::<Vec<_>>(),
    });
    writeln!(out, "{loaded}")?;
    for event in &report.events {
        writeln!(out, "{}", event_json(event))?;
    }
    let sum = Sum::of(report);
    let Sum { calls, failures, unmet, cpu, wall, memory, host_calls } = &sum;
    let (cpu_us, wall_us) = (micros(*cpu), micros(*wall));
    let shown = json!({
        "event": "sum", "ok": sum.is_well(), "calls": calls, "failures": failures, "unmet": unmet,
        "cpu_us": cpu_us, "wall_us": wall_us, "memory": memory, "host_calls": host_calls,
    });
    writeln!(out, "{shown}")?;
    Ok(sum)
}

fn event_json(event: &Event) -> Value {
    match event {
        Event::Said(octets) => json!({ "event": "said", "text": said(octets) }),
        Event::Heard(line) => json!({ "event": "heard", "text": line }),
        Event::Closed => json!({ "event": "closed" }),
        Event::Unsent => json!({ "event": "unsent" }),
        Event::Hook(hook) => hook_json(hook),
        Event::Accepted(Fate::Sent(recipients)) => {
            let routes = recipients.iter().map(|(to, route)| json!({ "to": to, "route": route }));
            json!({ "event": "accepted", "fate": "sent", "routes": routes.collect::<Vec<_>>() })
        }
        Event::Accepted(fate) => json!({ "event": "accepted", "fate": fate_text(fate) }),
        Event::Unmet { line, expected, got } => {
            json!({ "event": "unmet", "line": line, "expected": expected, "got": got })
        }
    }
}

fn hook_json(hook: &Hook) -> Value {
    let Usage { cpu, wall, memory, host_calls, calls_of, .. } = hook.judged.usage;
    let calls_of: serde_json::Map<_, _> =
        calls_of.iter().map(|(capability, calls)| (capability.name().to_owned(), json!(calls))).collect();
    let mut object = json!({
        "event": "hook",
        "stage": hook.stage.name(),
        "recipient": hook.recipient,
        "said": hook.said(),
        "log": hook.log.iter().map(log_json).collect::<Vec<_>>(),
        "cpu_us": micros(cpu),
        "wall_us": micros(wall),
        "memory": memory,
        "host_calls": host_calls,
        "calls_of": calls_of,
    });
    let Some(fields) = object.as_object_mut() else { return object };
    match &hook.judged.result {
        Ok(answer) => {
            let exemptions = answer.exemptions.iter().map(|one| json!({ "test": one.test, "rule": one.rule }));
            fields.insert("verdict".to_owned(), json!(answer.verdict.name()));
            fields.insert("reply".to_owned(), json!(answer.verdict.reply().map(ToString::to_string)));
            fields.insert("edits".to_owned(), answer.edits.iter().map(edited).collect());
            fields.insert("exemptions".to_owned(), exemptions.collect());
        }
        Err(failure) => {
            let failure = json!({ "cause": failure.cause.name(), "detail": failure.detail });
            fields.insert("failure".to_owned(), failure);
        }
    }
    object
}

fn log_json(line: &LogLine) -> Value {
    json!({ "level": line.level, "text": line.text })
}

/// What the plugin asked to be changed.
fn edited(edit: &Edit) -> String {
    match edit {
        Edit::AddField { field, position } => {
            let place = if *position == Position::Top { "top" } else { "bottom" };
            format!("adds at the {place} {}", show(field.raw().trim_ascii_end()))
        }
        Edit::ReplaceField { name, nth, with: Some(field) } => {
            format!("replaces {name} {nth} by {}", show(field.raw().trim_ascii_end()))
        }
        Edit::ReplaceField { name, nth, with: None } => format!("removes {name} {nth}"),
        Edit::ReplaceBody(body) => format!("replaces the body by {} octets", body.len()),
        Edit::SetReversePath(path) => format!("sets the sender to <{path}>"),
        Edit::AddRecipient(recipient) => format!("adds the recipient {}", recipient.mailbox),
        Edit::RemoveRecipient(mailbox) => format!("removes the recipient {mailbox}"),
        Edit::SetRoute(route) => format!("sets the route {route}"),
        Edit::SetRecipientRoute(mailbox, route) => format!("sets the route {route} for {mailbox}"),
        Edit::AddTag(tag) => format!("adds the tag {tag}"),
        Edit::Sign(SignatureRequest { kind, domain, selector }) => match kind {
            SignatureKind::Dkim => format!("asks for a DKIM signature of {domain} with {selector}"),
            SignatureKind::Arc => format!("asks for an ARC seal of {domain} with {selector}"),
        },
    }
}

/// A line of the client without its end; what else it has of control characters is escaped.
fn said(octets: &[u8]) -> String {
    let line = octets.strip_suffix(b"\r\n").unwrap_or(octets);
    match std::str::from_utf8(line) {
        Ok(text) if text.len() <= 300 => printable(text),
        _ => show(line),
    }
}

fn cost(cpu: Duration, wall: Duration, memory: u64, host_calls: u64) -> String {
    let calls = format!("{host_calls} host call{}", if host_calls == 1 { "" } else { "s" });
    format!("cpu {}, wall {}, {} KiB, {calls}", time(cpu), time(wall), memory >> 10)
}

fn time(time: Duration) -> String {
    match time.as_micros() {
        micros @ ..1000 => format!("{micros} µs"),
        _ if time < Duration::from_secs(10) => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}
