//! Replies: a code, an enhanced status code (RFC 3463) and text (RFC 5321 §4.2).
//!
//! A `Reply` can only be built from text that is safe to send: CR, LF, other controls and NUL never
//! get in, so no reply can be split in two by what a client, a plugin or a next hop said.

use std::fmt;

/// RFC 5321 §4.5.3.1.5: a reply line has at most 512 octets, CRLF and codes included.
const MAX_LINE_TEXT: usize = 480;
/// More lines than any sensible reply has; what a plugin or next hop says beyond them is cut.
const MAX_LINES: usize = 32;

/// The subject and detail of an enhanced status code. Its class is the first digit of the reply code
/// (RFC 2034 §4), so the two can't disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Enhanced {
    pub subject: u16,
    pub detail: u16,
}

impl Enhanced {
    pub const fn new(subject: u16, detail: u16) -> Self {
        Self { subject, detail }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<Enhanced>,
    lines: Vec<String>,
}

/// Why a reply that came from outside (a plugin, a config file) can't be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReply {
    #[error("reply code {0} is not one of 200–599")]
    Code(u32),
    #[error("reply code {code} does not belong to the class {class}xx that this verdict needs")]
    Class { code: u16, class: u16 },
    #[error("enhanced status code has a number above 999")]
    Enhanced,
    #[error("reply text has a control character")]
    Control,
    #[error("reply text is longer than {0} octets")]
    TooLong(usize),
}

impl Reply {
    /// A reply of our own, whose text is known to be clean; anything that is not is replaced by `?`.
    pub fn new(code: u16, enhanced: Option<Enhanced>, text: impl Into<String>) -> Self {
        debug_assert!((200..600).contains(&code));
        let lines = text.into().split('\n').map(clean_line).take(MAX_LINES).collect();
        Self { code, enhanced, lines }
    }

    /// A reply given from outside, checked: nothing is repaired silently.
    pub fn checked(code: u32, enhanced: Option<Enhanced>, text: &str) -> Result<Self, InvalidReply> {
        let code = u16::try_from(code).ok().filter(|code| (200..600).contains(code)).ok_or(InvalidReply::Code(code))?;
        if enhanced.is_some_and(|e| e.subject > 999 || e.detail > 999) {
            return Err(InvalidReply::Enhanced);
        }
        if text.len() > MAX_LINE_TEXT {
            return Err(InvalidReply::TooLong(MAX_LINE_TEXT));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidReply::Control);
        }
        Ok(Self { code, enhanced, lines: vec![text.to_owned()] })
    }

    /// A reply of several lines, e.g. to EHLO.
    pub fn multiline(code: u16, lines: impl IntoIterator<Item = String>) -> Self {
        let lines = lines.into_iter().map(|line| clean_line(&line)).take(MAX_LINES).collect();
        Self { code, enhanced: None, lines }
    }

    pub fn code(&self) -> u16 {
        self.code
    }

    /// The first digit: 2, 3, 4 or 5.
    pub fn class(&self) -> u16 {
        self.code / 100
    }

    pub fn enhanced(&self) -> Option<Enhanced> {
        self.enhanced
    }

    /// `class.subject.detail`, e.g. `5.7.1`; `class.0.0` where the reply has none (RFC 3463 §3.1).
    pub fn status(&self) -> String {
        let Enhanced { subject, detail } = self.enhanced.unwrap_or(Enhanced::new(0, 0));
        format!("{}.{subject}.{detail}", self.class())
    }

    pub fn is_positive(&self) -> bool {
        self.class() < 4
    }

    pub fn is_permanent(&self) -> bool {
        self.class() == 5
    }

    /// The text, line by line, without codes.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// The text on one line, for logs and DSNs.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// Appends the octets for the wire. The enhanced code stands on each line (RFC 2034 §4).
    pub fn write(&self, out: &mut Vec<u8>) {
        let last = self.lines.len().saturating_sub(1);
        for (n, line) in self.lines.iter().enumerate() {
            let separator = if n == last { ' ' } else { '-' };
            out.extend_from_slice(format!("{}{separator}", self.code).as_bytes());
            if let Some(e) = self.enhanced {
                out.extend_from_slice(format!("{}.{}.{} ", self.class(), e.subject, e.detail).as_bytes());
            }
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn clean_line(line: &str) -> String {
    let mut clean: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if clean.len() > MAX_LINE_TEXT {
        let end = (0..=MAX_LINE_TEXT).rev().find(|&at| clean.is_char_boundary(at)).unwrap_or(0);
        clean.truncate(end);
    }
    clean
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if self.enhanced.is_some() {
            write!(f, "{} ", self.status())?;
        }
        f.write_str(&self.text())
    }
}

/// The replies the gateway gives of its own accord: one constructor for each cause.
impl Reply {
    fn own(code: u16, subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self::new(code, Some(Enhanced::new(subject, detail)), text)
    }
    pub fn ok() -> Self {
        Self::own(250, 0, 0, "Ok")
    }
    pub fn sender_ok() -> Self {
        Self::own(250, 1, 0, "Sender ok")
    }
    pub fn recipient_ok() -> Self {
        Self::own(250, 1, 5, "Recipient ok")
    }
    pub fn start_mail_input() -> Self {
        Self::new(354, None, "End data with <CR><LF>.<CR><LF>")
    }
    pub fn chunk_ok(octets: u64) -> Self {
        Self::own(250, 0, 0, format!("{octets} octets received"))
    }
    pub fn queued(id: impl fmt::Display) -> Self {
        Self::own(250, 0, 0, format!("Ok: queued as {id}"))
    }
    pub fn closing(host: &str) -> Self {
        Self::own(221, 0, 0, format!("{host} closing connection"))
    }
    pub fn cannot_verify() -> Self {
        Self::own(252, 1, 5, "Cannot VRFY user, but will accept message and attempt delivery")
    }
    pub fn ready_for_tls() -> Self {
        Self::own(220, 0, 0, "Ready to start TLS")
    }
    pub fn authenticated() -> Self {
        Self::own(235, 7, 0, "Authentication successful")
    }
    pub fn challenge(base64: &str) -> Self {
        Self::new(334, None, base64)
    }
    pub fn command_too_long() -> Self {
        Self::own(500, 5, 2, "Line too long")
    }
    pub fn command_unknown() -> Self {
        Self::own(500, 5, 2, "Command not recognized")
    }
    pub fn bare_line_end_in_command() -> Self {
        Self::own(500, 5, 2, "Line must end in <CR><LF>")
    }
    pub fn syntax(text: impl Into<String>) -> Self {
        Self::own(501, 5, 4, text)
    }
    pub fn bad_sender_syntax() -> Self {
        Self::own(501, 1, 7, "Bad sender address syntax")
    }
    pub fn bad_recipient_syntax() -> Self {
        Self::own(501, 1, 3, "Bad recipient address syntax")
    }
    pub fn not_implemented() -> Self {
        Self::own(502, 5, 1, "Command not implemented")
    }
    pub fn bad_sequence(text: impl Into<String>) -> Self {
        Self::own(503, 5, 1, text)
    }
    pub fn no_valid_recipients() -> Self {
        Self::own(554, 5, 1, "No valid recipients")
    }
    pub fn parameter_unknown(keyword: &str) -> Self {
        Self::own(555, 5, 4, format!("Parameter {keyword} not recognized"))
    }
    pub fn tls_required() -> Self {
        Self::own(530, 7, 0, "Must issue a STARTTLS command first")
    }
    pub fn authentication_required() -> Self {
        Self::own(530, 7, 0, "Authentication required")
    }
    pub fn encryption_required_for_authentication() -> Self {
        Self::own(538, 7, 11, "Encryption required for requested authentication mechanism")
    }
    pub fn mechanism_unknown() -> Self {
        Self::own(504, 5, 4, "Unrecognized authentication mechanism")
    }
    pub fn authentication_failed() -> Self {
        Self::own(535, 7, 8, "Authentication credentials invalid")
    }
    pub fn authentication_cancelled() -> Self {
        Self::own(501, 5, 2, "Authentication cancelled")
    }
    pub fn authentication_line_too_long() -> Self {
        Self::own(500, 5, 6, "Authentication exchange line is too long")
    }
    pub fn relay_denied() -> Self {
        Self::own(550, 7, 1, "Relay access denied")
    }
    pub fn sender_not_owned() -> Self {
        Self::own(553, 7, 1, "Sender address not owned by this login")
    }
    pub fn too_many_recipients() -> Self {
        Self::own(452, 5, 3, "Too many recipients")
    }
    pub fn other_tenant() -> Self {
        Self::own(452, 5, 3, "Recipient belongs to another customer; send it in a transaction of its own")
    }
    pub fn message_too_big() -> Self {
        Self::own(552, 3, 4, "Message size exceeds fixed maximum message size")
    }
    pub fn header_too_big() -> Self {
        Self::own(552, 3, 4, "Message header too large")
    }
    pub fn bare_line_end_in_data(what: &str) -> Self {
        Self::own(550, 5, 2, format!("Message has a bare <{what}>, see RFC 5321 section 2.3.8"))
    }
    pub fn nul_in_data() -> Self {
        Self::own(554, 6, 1, "Message has a NUL octet")
    }
    pub fn too_many_hops() -> Self {
        Self::own(554, 4, 6, "Too many hops")
    }
    pub fn early_talker() -> Self {
        Self::own(554, 5, 0, "Data sent before it was your turn")
    }
    pub fn too_many_errors() -> Self {
        Self::own(421, 7, 0, "Too many errors")
    }
    pub fn too_many_junk_commands() -> Self {
        Self::own(421, 7, 0, "Too many commands without mail")
    }
    /// Of one client.
    pub fn too_many_connections() -> Self {
        Self::own(421, 7, 0, "Too many connections from your address")
    }
    /// Of one client.
    pub fn too_many_handshakes() -> Self {
        Self::own(421, 7, 0, "Too many TLS handshakes from your address")
    }
    /// Of all clients.
    pub fn too_busy(host: &str) -> Self {
        Self::own(421, 3, 2, format!("{host} too busy, try again later"))
    }
    pub fn shutting_down(host: &str) -> Self {
        Self::own(421, 3, 2, format!("{host} service not available, closing transmission channel"))
    }
    pub fn timed_out(host: &str) -> Self {
        Self::own(421, 4, 2, format!("{host} timeout exceeded"))
    }
    pub fn not_smtp() -> Self {
        Self::own(421, 7, 0, "This is an SMTP server")
    }
    pub fn local_error() -> Self {
        Self::own(451, 3, 0, "Local error in processing, try again later")
    }
    pub fn storage_full() -> Self {
        Self::own(452, 3, 1, "Insufficient system storage")
    }
    pub fn non_ascii_without_smtputf8() -> Self {
        Self::own(553, 6, 7, "Non-ASCII address needs the SMTPUTF8 parameter")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_line_carries_code_and_status() {
        let reply = Reply::new(550, Some(Enhanced::new(7, 1)), "no\nreally");
        assert_eq!(wire(&reply), "550-5.7.1 no\r\n550 5.7.1 really\r\n");
    }

    #[test]
    fn text_from_outside_cannot_inject_a_line() {
        assert_eq!(Reply::checked(550, None, "a\r\n250 ok"), Err(InvalidReply::Control));
        assert_eq!(Reply::checked(999, None, "a"), Err(InvalidReply::Code(999)));
        assert_eq!(wire(&Reply::new(451, None, "a\rb")), "451 a?b\r\n");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let reply = Reply::new(451, None, "é".repeat(600));
        assert!(wire(&reply).len() <= 512);
    }
}
