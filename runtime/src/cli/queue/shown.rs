//! Messages of the queue on a terminal.

use std::io::{self, Write};

use jiff::Timestamp;

use crate::cli::control::{Detail, Summary};
use crate::cli::terminal::{plural, printable, size, span, table};

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
        writeln!(out, ", tried {} time{}", recipient.attempts, plural(recipient.attempts.into()))?;
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

/// Messages as a test's gateway has them.
#[cfg(test)]
pub(super) mod sample {
    use super::*;
    use crate::cli::control::{RecipientDetail, State};
    use crate::mail::MessageId;

    pub fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    pub fn summary(n: u64) -> Summary {
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

    pub fn detail() -> Detail {
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
}

#[cfg(test)]
mod tests {
    use super::sample::{detail, now, summary};
    use super::*;

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
}
