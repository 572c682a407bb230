//! `postern queue …`: asks the running gateway, and shows what it says.

use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::control::{Client, Detail, MAX_IDS, MAX_PAGE, Request, Response, Summary};
use super::terminal::{printable, table};
use super::{CliError, Context, OK, Queue, Streams};
use crate::config::ByteSize;
use crate::mail::MessageId;

pub(super) fn run(queue: &Queue, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let socket = context.settings()?.control_socket();
    run_at(&socket, queue, context.json, streams.out)
}

fn run_at(socket: &Path, queue: &Queue, json: bool, out: &mut dyn Write) -> Result<u8, CliError> {
    let mut client = Client::connect(socket)?;
    let now = Timestamp::now();
    match queue {
        Queue::List { selection } => {
            let question = |after| Request::List { selection: selection.clone(), after, limit: MAX_PAGE };
            list(&mut client, question, json, now, out)?;
        }
        Queue::Show(one) => {
            let message = show(&mut client, one.id)?;
            if json { line(out, &json!(message))? } else { write_detail(out, &message, now)? }
        }
        Queue::Delete { one, dry_run: true } => {
            let message = show(&mut client, one.id)?;
            match json {
                true => line(out, &json!({ "would_delete": message.summary }))?,
                false => write!(out, "Would delete:\n{}", summaries(&[message.summary], now))?,
            }
        }
        Queue::Delete { one, .. } => done(&mut client, &Request::Delete { id: one.id }, json, out)?,
        Queue::Hold(one) => done(&mut client, &Request::Hold { id: one.id }, json, out)?,
        Queue::Release(one) => done(&mut client, &Request::Release { id: one.id }, json, out)?,
        Queue::Flush { ids, .. } if ids.len() > MAX_IDS => {
            return Err(CliError::Failed(format!("more than {MAX_IDS} ids at once")));
        }
        Queue::Flush { ids, selection } => {
            let request = Request::Flush { ids: ids.clone(), selection: selection.clone() };
            done(&mut client, &request, json, out)?;
        }
    }
    Ok(OK)
}

/// Page by page, so that a queue of any length needs little memory here and there.
fn list(
    client: &mut Client,
    question: impl Fn(Option<MessageId>) -> Request,
    json: bool,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let mut after = None;
    let mut total = 0;
    loop {
        let (messages, more) = match client.ask(&question(after))? {
            Response::Messages { messages, more } => (messages, more),
            other => return Err(other.unexpected().into()),
        };
        after = messages.last().map(|message| message.id);
        total += messages.len();
        match json {
            true => messages.iter().try_for_each(|message| line(out, &json!(message)))?,
            false if !messages.is_empty() => write!(out, "{}", summaries(&messages, now))?,
            false => {}
        }
        if !more || after.is_none() {
            break;
        }
    }
    if !json {
        writeln!(out, "{total} message{}", if total == 1 { "" } else { "s" })?;
    }
    Ok(())
}

fn show(client: &mut Client, id: MessageId) -> Result<Detail, CliError> {
    match client.ask(&Request::Show { id })? {
        Response::Message { message } => Ok(*message),
        other => Err(other.unexpected().into()),
    }
}

fn done(client: &mut Client, request: &Request, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    match client.ask(request)? {
        Response::Done { count, message } if json => {
            line(out, &json!({ "ok": true, "count": count, "message": message }))?;
        }
        Response::Done { message, .. } => writeln!(out, "{}", printable(&message))?,
        other => return Err(other.unexpected().into()),
    }
    Ok(())
}

fn line(out: &mut dyn Write, value: &serde_json::Value) -> io::Result<()> {
    writeln!(out, "{value}")
}

/// A line for each message, and below it why it waits.
pub fn summaries(messages: &[Summary], now: Timestamp) -> String {
    let mut rows = vec![["ID", "STATE", "AGE", "SIZE", "TRIES", "NEXT", "FROM", "TO"].map(str::to_owned).to_vec()];
    rows.extend(messages.iter().map(|message| {
        vec![
            message.id.to_string(),
            message.state.name().to_owned(),
            span(now, message.arrived),
            size(message.size),
            message.attempts.to_string(),
            message.next_attempt.map_or("-".to_owned(), |next| span(next, now)),
            sender(message),
            recipients(message),
        ]
    }));
    let mut out = String::new();
    let reasons = std::iter::once(None).chain(messages.iter().map(|message| message.reason.as_deref()));
    for (row, reason) in table(&rows).lines().zip(reasons) {
        out.push_str(row);
        out.push('\n');
        if let Some(reason) = reason {
            out.push_str("    ");
            out.push_str(&printable(reason));
            out.push('\n');
        }
    }
    out
}

/// Everything about one message, for people.
pub fn write_detail(out: &mut dyn Write, message: &Detail, now: Timestamp) -> io::Result<()> {
    let summary = &message.summary;
    let time = |time: Timestamp| format!("{time:.0}");
    let mut rows = vec![
        ("Message", summary.id.to_string()),
        ("State", summary.state.name().to_owned()),
        ("Arrived", format!("{} ({} ago)", time(summary.arrived), span(now, summary.arrived))),
        ("From", sender(summary)),
        ("Size", size(summary.size)),
    ];
    let optional = [
        ("Reason", summary.reason.clone()),
        ("Tenant", summary.tenant.clone()),
        ("Client", message.client.clone()),
        ("Helo", message.helo.clone()),
        ("Login", message.login.clone()),
        ("Tags", (!message.tags.is_empty()).then(|| message.tags.join(" "))),
        ("Next attempt", summary.next_attempt.map(time)),
        ("Expires", message.expires.map(time)),
    ];
    rows.extend(optional.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))));
    let cells: Vec<_> = rows.iter().map(|(name, value)| vec![format!("{name}:"), printable(value)]).collect();
    write!(out, "{}\nRecipients:\n", table(&cells))?;
    for recipient in &message.per_recipient {
        write!(out, "  {}: {}", printable(&recipient.address), printable(&recipient.state))?;
        if let Some(route) = &recipient.route {
            write!(out, ", by {}", printable(route))?;
        }
        writeln!(out, ", tried {} time{}", recipient.attempts, if recipient.attempts == 1 { "" } else { "s" })?;
        if let Some(reply) = &recipient.reply {
            writeln!(out, "    {}", printable(reply))?;
        }
    }
    writeln!(out, "\nHeader:")?;
    message.header.lines().try_for_each(|field| writeln!(out, "  {}", printable(field)))
}

fn sender(message: &Summary) -> String {
    if message.sender.is_empty() { "<>".to_owned() } else { printable(&message.sender) }
}

fn recipients(message: &Summary) -> String {
    match message.recipients {
        0 | 1 => printable(&message.recipient),
        more => format!("{} and {} more", printable(&message.recipient), more - 1),
    }
}

/// The two largest units: `3d 4h`, `5m 12s`.
fn span(later: Timestamp, earlier: Timestamp) -> String {
    let seconds = later.as_second().saturating_sub(earlier.as_second()).max(0);
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let shown: Vec<String> = parts
        .iter()
        .skip_while(|(n, _)| *n == 0)
        .take(2)
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n}{unit}"))
        .collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// Three digits at most, as people say it.
fn size(octets: u64) -> String {
    match octets {
        0..1024 => ByteSize(octets).to_string(),
        1024..0x10_0000 => format!("{} KiB", octets >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", octets >> 20),
        _ => format!("{} GiB", octets >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::One;
    use crate::cli::control::{ErrorKind, RecipientDetail, Selection, State, bind, serve};

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn summary(n: u64) -> Summary {
        Summary {
            id: MessageId::from_u64(n),
            state: State::Waiting,
            arrived: "2026-02-28T09:30:00Z".parse().unwrap(),
            tenant: Some("company".to_owned()),
            sender: if n == 1 { String::new() } else { "a\u{1b}[2J@example.org".to_owned() },
            recipient: "b@company.com".to_owned(),
            recipients: if n == 1 { 1 } else { 3 },
            size: 25 << 20,
            attempts: 3,
            next_attempt: Some("2026-03-01T12:05:12Z".parse().unwrap()),
            reason: (n == 2).then(|| "451 4.7.1\r\ngreylisted".to_owned()),
        }
    }

    fn detail() -> Detail {
        let recipient = |address: &str, reply: Option<&str>| RecipientDetail {
            address: address.to_owned(),
            state: "waiting".to_owned(),
            route: Some("host:mail.company.com:25".to_owned()),
            attempts: 1,
            reply: reply.map(str::to_owned),
        };
        Detail {
            summary: summary(2),
            expires: Some("2026-03-05T09:30:00Z".parse().unwrap()),
            client: Some("192.0.2.9:4711".to_owned()),
            helo: None,
            login: None,
            tags: vec!["spam".to_owned()],
            per_recipient: vec![recipient("a@company.com", Some("451 4.3.0 later")), recipient("b@company.com", None)],
            header: "From: a\r\nSubject: \u{1b}]0;x\u{7}\r\n".to_owned(),
        }
    }

    #[test]
    fn a_list_is_a_table() {
        let text = summaries(&[summary(1), summary(2)], now());
        let expected = "\
ID             STATE    AGE    SIZE    TRIES  NEXT    FROM                    TO
0000000000001  waiting  1d 2h  25 MiB  3      5m 12s  <>                      b@company.com
0000000000002  waiting  1d 2h  25 MiB  3      5m 12s  a\\u{1b}[2J@example.org  b@company.com and 2 more
    451 4.7.1\\r\\ngreylisted
";
        assert_eq!(text, expected);
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn one_message_in_full() {
        let mut out = Vec::new();
        write_detail(&mut out, &detail(), now()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains(['\u{1b}', '\r', '\u{7}']), "{text}");
        for line in [
            "Arrived:       2026-02-28T09:30:00Z (1d 2h ago)",
            "Tags:          spam",
            "  a@company.com: waiting, by host:mail.company.com:25, tried 1 time",
            "    451 4.3.0 later",
            "  From: a",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn spans_and_sizes() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (3600 + 5, "1h"), (90_061, "1d 1h"), (-5, "0s")] {
            assert_eq!(span(at(seconds + 10), at(10)), text, "{seconds}");
        }
        for (octets, text) in [(5, "5 B"), (2048, "2 KiB"), (1 << 20, "1 MiB"), (5 << 30, "5 GiB")] {
            assert_eq!(size(octets), text);
        }
    }

    /// A gateway with 501 messages, asked by the command.
    async fn ask(queue: Queue, json: bool) -> (Result<u8, CliError>, String) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = bind(&socket).unwrap();
        let gateway = serve(listener, async |request| match request {
            Request::List { selection, .. } if selection.from.as_deref() == Some("<>") => {
                Response::Messages { messages: vec![summary(1)], more: false }
            }
            Request::Flush { selection, .. } if selection.age == Some(5400) => {
                Response::Done { count: 7, message: "7 messages".to_owned() }
            }
            Request::List { after, limit, .. } => {
                let first = after.map_or(1, |id| id.as_u64() + 1);
                let last = 501.min(first + u64::from(limit) - 1);
                Response::Messages { messages: (first..=last).map(summary).collect(), more: last < 501 }
            }
            Request::Show { id } if id.as_u64() == 2 => Response::Message { message: Box::new(detail()) },
            Request::Delete { .. } => Response::error(ErrorKind::Conflict, "it is being delivered"),
            _ => Response::error(ErrorKind::NotFound, "no such message"),
        });
        let command = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            let result = run_at(&socket, &queue, json, &mut out);
            (result, String::from_utf8(out).unwrap())
        });
        tokio::select! {
            () = gateway => unreachable!("it serves for ever"),
            result = command => result.unwrap(),
        }
    }

    #[tokio::test]
    async fn a_long_queue_comes_in_pages() {
        let (code, out) = ask(Queue::List { selection: Selection::default() }, true).await;
        assert_eq!(code.unwrap(), OK);
        assert_eq!(out.lines().count(), 501);
        let last: Summary = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        assert_eq!(last, summary(501));
        let (_, out) = ask(Queue::List { selection: Selection::default() }, false).await;
        assert!(out.ends_with("501 messages\n"));
    }

    #[tokio::test]
    async fn a_selection_reaches_the_gateway() {
        let selection = Selection { from: Some("<>".to_owned()), ..Selection::default() };
        let (_, out) = ask(Queue::List { selection }, false).await;
        assert!(out.ends_with("\n1 message\n"), "{out}");
        let selection = Selection { age: Some(5400), ..Selection::default() };
        let (_, out) = ask(Queue::Flush { ids: Vec::new(), selection }, false).await;
        assert_eq!(out, "7 messages\n");
    }

    #[tokio::test]
    async fn a_dry_run_deletes_nothing() {
        let id = MessageId::from_u64(2);
        let (code, out) = ask(Queue::Delete { one: One { id }, dry_run: true }, false).await;
        assert_eq!(code.unwrap(), OK);
        assert!(out.starts_with("Would delete:\n"), "{out}");
        let (result, _) = ask(Queue::Delete { one: One { id }, dry_run: false }, false).await;
        assert_eq!(result.unwrap_err().to_string(), "it is being delivered");
        let (_, out) = ask(Queue::Show(One { id }), true).await;
        assert_eq!(serde_json::from_str::<Detail>(&out).unwrap(), detail());
    }
}
