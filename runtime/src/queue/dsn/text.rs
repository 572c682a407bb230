//! The part for people: what happened, to whom, who said so, and whether anything is to be done.

use std::fmt::Write as _;

use super::super::meta::Kept;
use super::super::settings::Settings;
use super::super::settle::Step;
use super::Action;

/// Recipients that are named; the machine-readable part has them all.
const MAX_NAMED: usize = 50;

pub(super) fn subject(steps: &[Step]) -> &'static str {
    let has = |wanted: &[Action]| steps.iter().any(|step| wanted.contains(&step.action));
    if has(&[Action::Failed, Action::Expired]) {
        "Undelivered mail: your message could not be delivered"
    } else if has(&[Action::Delayed]) {
        "Delayed mail: your message is still being tried"
    } else {
        "Delivery report: your message was delivered"
    }
}

pub(super) fn explain(settings: &Settings, kept: &Kept, steps: &[Step]) -> String {
    let mut text = format!("This is the mail system at {}.\r\n", settings.host);
    for (actions, heading) in [
        (&[Action::Failed][..], "Your message could not be delivered to:"),
        (&[Action::Expired][..], "Your message was tried for too long without success, and was given up, for:"),
        (
            &[Action::Delayed][..],
            "Your message has not been delivered yet. It is tried further; you need not send it again. It waits for:",
        ),
        (&[Action::Delivered][..], "Your message was delivered to:"),
        (
            &[Action::Relayed][..],
            "Your message was passed to a mail system that sends no delivery reports, so no more is known of it, for:",
        ),
    ] {
        let concerned: Vec<&Step> = steps.iter().filter(|step| actions.contains(&step.action)).collect();
        if !concerned.is_empty() {
            let _ = write!(text, "\r\n{heading}\r\n");
            concerned.iter().take(MAX_NAMED).for_each(|step| name(&mut text, kept, step));
            if concerned.len() > MAX_NAMED {
                let _ = write!(text, "\r\n  and {} others\r\n", concerned.len() - MAX_NAMED);
            }
        }
    }
    text
}

fn name(text: &mut String, kept: &Kept, step: &Step) {
    let Some(recipient) = kept.accepted.envelope.recipients.get(step.recipient) else { return };
    let _ = write!(text, "\r\n  <{}>\r\n", recipient.mailbox);
    let last = kept.state.recipients.get(step.recipient).and_then(|state| state.last.as_ref());
    let is_success = matches!(step.action, Action::Delivered | Action::Relayed);
    if let Some(last) = last.filter(|_| !is_success) {
        let who = last.host.as_deref().filter(|_| last.remote);
        let said = who.map_or_else(|| last.text.clone(), |host| format!("{host} said: {}", last.text));
        wrap(text, &said);
    }
}

/// Lines of at most 76 columns, indented; words of any length stay whole up to the limit of RFC 5322 §2.1.1.
fn wrap(text: &mut String, said: &str) {
    const INDENT: &str = "    ";
    let mut column = 0;
    for word in said.split(' ').filter(|word| !word.is_empty()) {
        let width = word.chars().count();
        if column == 0 || column + 1 + width > 72 {
            let start = if column == 0 { "" } else { "\r\n" };
            let _ = write!(text, "{start}{INDENT}{word}");
            column = width;
        } else {
            let _ = write!(text, " {word}");
            column += 1 + width;
        }
    }
    text.push_str("\r\n");
}
