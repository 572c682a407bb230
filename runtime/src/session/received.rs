//! The trace field that every hop adds (RFC 5321 §4.4).

use jiff::Timestamp;

use crate::mail::{Envelope, Field, MessageId, date};
use crate::pipeline::{ClientName, SessionFacts};

/// `Received: from HELO (NAME [IP]) by HOST with PROTOCOL id ID for <RCPT>; DATE`.
pub fn received(facts: &SessionFacts, envelope: &Envelope, id: MessageId, host_name: &str, now: Timestamp) -> Field {
    let helo = facts.helo.as_ref().map_or("unknown", |helo| helo.name.as_str());
    let name = match facts.client_name.get() {
        Some(ClientName::Verified(name)) => format!("{name} "),
        _ => String::new(),
    };
    let ip = match facts.client.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => format!("[{ip}]"),
        std::net::IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    };
    // Only when there is one: a list would show blind copies to all (RFC 5321 §7.6).
    let recipient = match envelope.recipients.as_slice() {
        [only] => format!(" for <{}>", only.mailbox),
        _ => String::new(),
    };
    let value = format!(
        "from {} ({name}{ip}) by {host_name} with {} id {id}{recipient}; {}",
        clean(helo),
        protocol(facts, envelope),
        date(now),
    );
    trace_field("Received", &value)
}

/// RFC 3848, RFC 6531 §4.3.
fn protocol(facts: &SessionFacts, envelope: &Envelope) -> String {
    let extended = facts.helo.as_ref().is_some_and(|helo| helo.extended);
    if !extended {
        return "SMTP".to_owned();
    }
    let base = if envelope.smtputf8 { "UTF8SMTP" } else { "ESMTP" };
    let tls = if facts.tls.is_some() { "S" } else { "" };
    let login = if facts.login.is_some() { "A" } else { "" };
    format!("{base}{tls}{login}")
}

/// A field whose value we wrote ourselves; one that is not legal after all becomes an empty one, never a panic.
pub fn trace_field(name: &str, value: &str) -> Field {
    Field::new(name, value).unwrap_or_else(|_| Field::from_raw(bytes::Bytes::from(format!("{name}: \r\n"))))
}

/// What a client calls itself can hold anything printable; in a header it must not look like syntax.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_:[]".contains(c) { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_carry_syntax() {
        assert_eq!(clean("a.b (x); for <y@z>\tü"), "a.b??x???for??y?z???");
        assert_eq!(clean("[IPv6:2001:db8::1]"), "[IPv6:2001:db8::1]");
    }
}
