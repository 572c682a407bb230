//! The machine-readable part (RFC 3464 §2): fields of the message, then of each recipient.

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use jiff::{SignedDuration, Timestamp};

use super::super::meta::{Kept, LastWord, RecipientState};
use super::super::settings::Settings;
use super::super::settle::Step;
use super::Action;
use crate::mail::{Field, Recipient, date};
use crate::smtp::xtext;

/// Octets of a field's value; a word longer than a line could not be folded.
const MAX_WORD: usize = 900;

pub(super) fn delivery_status(settings: &Settings, kept: &Kept, steps: &[Step]) -> Bytes {
    let mut group = Group { out: BytesMut::new(), international: kept.accepted.envelope.smtputf8 };
    // RFC 3464 §2.2.1: only if the sender gave one.
    if let Some(envid) = kept.accepted.envelope.envid.as_deref().and_then(xtext::decode) {
        group.add("Original-Envelope-Id", &envid);
    }
    group.add("Reporting-MTA", &format!("dns; {}", settings.host));
    group.add("Arrival-Date", &date(kept.accepted.arrival));
    for step in steps {
        let recipient = kept.accepted.envelope.recipients.get(step.recipient);
        let state = kept.state.recipients.get(step.recipient);
        if let (Some(recipient), Some(state)) = (recipient, state) {
            group.out.extend_from_slice(b"\r\n");
            of_recipient(&mut group, recipient, state, step.action);
            if step.action == Action::Delayed {
                group.add("Will-Retry-Until", &date(end_of_retries(kept, settings)));
            }
        }
    }
    group.out.freeze()
}

fn of_recipient(group: &mut Group, recipient: &Recipient, state: &RecipientState, action: Action) {
    if let Some(original) = recipient.orcpt.as_deref().and_then(xtext::decode_orcpt) {
        group.add("Original-Recipient", &original);
    }
    group.add("Final-Recipient", &final_recipient(recipient, group.international));
    group.add("Action", action.name());
    group.add("Status", &status(action, state.last.as_ref()));
    let Some(last) = &state.last else { return };
    if let Some(host) = last.host.as_deref().filter(|_| last.remote) {
        group.add("Remote-MTA", &format!("dns; {}", mta_name(host)));
    }
    // RFC 3464 §2.3.6: what is not the reply of a mail server must not be labelled as one.
    let kind = if last.remote { "smtp" } else { "x-postern" };
    group.add("Diagnostic-Code", &format!("{kind}; {}", last.text));
    group.add("Last-Attempt-Date", &date(last.at));
}

/// RFC 3464 §2.1.2: the type `dns` has domains, and addresses in brackets.
fn mta_name(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => format!("[{ip}]"),
        Ok(IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
        Err(_) => host.to_owned(),
    }
}

/// RFC 6533 §3 for what is not ASCII.
fn final_recipient(recipient: &Recipient, international: bool) -> String {
    let mailbox = recipient.mailbox.to_string();
    if mailbox.is_ascii() {
        return format!("rfc822; {mailbox}");
    }
    if international {
        return format!("utf-8; {mailbox}");
    }
    let escape = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) };
    format!("utf-8; {}", mailbox.chars().map(escape).collect::<String>())
}

/// RFC 3463, with the class that the action has: an expired mail's last reply was a 4xx, yet it failed.
pub(super) fn status(action: Action, last: Option<&LastWord>) -> String {
    let class = match action {
        Action::Expired => return "5.4.7".to_owned(),
        Action::Failed => '5',
        Action::Deferred | Action::Delayed => '4',
        Action::Delivered | Action::Relayed | Action::HandedOver => '2',
    };
    let said = last.and_then(|last| last.status.split_once('.')).map_or("0.0", |(_, detail)| detail);
    format!("{class}.{said}")
}

fn end_of_retries(kept: &Kept, settings: &Settings) -> Timestamp {
    let expiry = SignedDuration::try_from(settings.expiry).unwrap_or(SignedDuration::ZERO);
    kept.state.revived.unwrap_or(kept.accepted.arrival).checked_add(expiry).unwrap_or(Timestamp::MAX)
}

struct Group {
    out: BytesMut,
    /// Values may hold UTF-8 (RFC 6533 §3).
    international: bool,
}

impl Group {
    /// A field that can't be written is left out: no report fails for what a next hop said.
    fn add(&mut self, name: &str, value: &str) {
        let allowed = |c: char| if c.is_ascii() || self.international { c } else { '?' };
        let mut clean = String::with_capacity(value.len());
        let mut column = 0;
        for c in value.chars().map(allowed) {
            column = if c == ' ' { 0 } else { column + c.len_utf8() };
            if column > MAX_WORD {
                clean.push(' ');
                column = c.len_utf8();
            }
            clean.push(c);
        }
        if let Ok(field) = Field::new(name, &clean) {
            self.out.extend_from_slice(field.raw());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_hop_without_a_name_is_an_address_literal() {
        for (host, expected) in [
            ("next.example.org", "next.example.org"),
            ("192.0.2.1", "[192.0.2.1]"),
            ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ] {
            assert_eq!(mta_name(host), expected);
        }
    }
}
