//! What EHLO offers (RFC 5321 §4.1.1.1).

use super::settings::{Listener, Settings, TlsMode};
use crate::smtp::Reply;

/// The reply to EHLO. What is offered depends on the listener and on whether TLS is on already.
pub fn ehlo_reply(settings: &Settings, listener: &Listener, secured: bool, xclient: bool, client: &str) -> Reply {
    let mut lines = vec![
        format!("{} greets {client}", settings.host_name),
        "PIPELINING".to_owned(),
        format!("SIZE {}", settings.max_message_size),
        "8BITMIME".to_owned(),
        "SMTPUTF8".to_owned(),
        "CHUNKING".to_owned(),
        "DSN".to_owned(),
        "ENHANCEDSTATUSCODES".to_owned(),
        // RFC 9422.
        format!("LIMITS RCPTMAX={}", settings.max_recipients),
    ];
    // RFC 3207 §4.2: not offered again once TLS is on.
    if offers_starttls(listener, secured) {
        lines.push("STARTTLS".to_owned());
    }
    if offers_auth(listener, secured) {
        lines.push("AUTH PLAIN LOGIN".to_owned());
    }
    if xclient {
        lines.push("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT".to_owned());
    }
    Reply::multiline(250, lines)
}

pub fn offers_starttls(listener: &Listener, secured: bool) -> bool {
    !secured && matches!(listener.tls, TlsMode::StartTls | TlsMode::Required)
}

/// Only under TLS: a password never crosses the wire in the clear.
pub fn offers_auth(listener: &Listener, secured: bool) -> bool {
    secured && listener.auth
}
