//! What a plugin says of a session or a mail, and the replies in it (RFC 5321 §4.2, RFC 3463).

use std::fmt;

/// What each verdict does at each stage stands in the table of `wit/README.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No opinion: the next plugin is asked.
    Next,
    /// The rest of this scope's chain is skipped at this stage.
    Accept,
    /// A code from 500 to 599: `reject!("5.7.1", "…")`.
    Reject(Reply),
    /// A code from 400 to 499: `defer!("4.7.1", "…")`.
    Defer(Reply),
    /// The client hears 250, the mail is dropped, the log says so.
    Discard,
    /// The client hears 250, the mail is kept back. The reason is for the operator.
    Quarantine(String),
    /// 421 or 500 to 599, then the connection is closed: `disconnect!("4.7.0", "…")`.
    Disconnect(Reply),
}

impl Verdict {
    pub fn quarantine(reason: impl Into<String>) -> Self {
        Self::Quarantine(reason.into())
    }

    /// The word of the contract: `reject`, `defer`, …
    pub fn name(&self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Accept => "accept",
            Self::Reject(_) => "reject",
            Self::Defer(_) => "defer",
            Self::Discard => "discard",
            Self::Quarantine(_) => "quarantine",
            Self::Disconnect(_) => "disconnect",
        }
    }

    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Reject(reply) | Self::Defer(reply) | Self::Disconnect(reply) => Some(reply),
            _ => None,
        }
    }
}

/// For logs and assertions: `reject 550 5.7.1 no`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Quarantine(reason) => write!(f, " {reason}"),
            _ => self.reply().map_or(Ok(()), |reply| write!(f, " {reply}")),
        }
    }
}

/// The longest text of a reply, octets: with code and status one line of SMTP (RFC 5321 §4.5.3.1.5).
const MAX_TEXT: usize = 480;

/// One line to the client. It can't be malformed: code and status agree, and the text has no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: Code,
    text: String,
}

impl Reply {
    /// Control characters become `?`, and what is longer than 480 octets is cut.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        if text.contains(char::is_control) {
            text = text.replace(char::is_control, "?");
        }
        if text.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
        }
        Self { code, text }
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// The code of a reply and its enhanced status (RFC 3463), of one class: `550 5.7.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub(crate) reply: u16,
    pub(crate) subject: u16,
    pub(crate) detail: u16,
}

impl Code {
    /// `550 5.7.1`, or `5.7.1` alone, which is 550, as `4.x.y` is 451. `None` where it is neither, or the classes differ.
    pub const fn parse(text: &str) -> Option<Self> {
        let Some((first, rest)) = number(text.as_bytes()) else { return None };
        let (reply, class, rest) = match rest {
            [b' ', rest @ ..] => match number(rest) {
                Some((class, rest)) => (first, class, rest),
                None => return None,
            },
            _ => (if first == 5 { 550 } else { 451 }, first, rest),
        };
        let Some((subject, rest)) = dot_number(rest) else { return None };
        match dot_number(rest) {
            Some((detail, [])) if (class == 4 || class == 5) && reply / 100 == class => {
                Some(Self { reply, subject, detail })
            }
            _ => None,
        }
    }

    /// For the macro `reject!`, which calls it while compiling.
    #[doc(hidden)]
    #[expect(clippy::panic, reason = "an error at compile time")]
    pub const fn rejection(text: &str) -> Self {
        match Self::parse(text) {
            Some(code) if code.reply >= 500 => code,
            _ => panic!("reject! takes a status as \"5.7.1\" or \"550 5.7.1\""),
        }
    }

    /// For the macro `defer!`.
    #[doc(hidden)]
    #[expect(clippy::panic, reason = "an error at compile time")]
    pub const fn deferral(text: &str) -> Self {
        match Self::parse(text) {
            Some(code) if code.reply < 500 => code,
            _ => panic!("defer! takes a status as \"4.7.1\" or \"451 4.7.1\""),
        }
    }

    /// For the macro `disconnect!`: 421, or 554 where the status is of class 5.
    #[doc(hidden)]
    #[expect(clippy::panic, reason = "an error at compile time")]
    pub const fn disconnection(text: &str) -> Self {
        match Self::parse(text) {
            Some(code) if code.reply >= 500 => code,
            Some(Self { reply: 421 | 451, subject, detail }) => Self { reply: 421, subject, detail },
            _ => panic!("disconnect! takes a status as \"4.7.0\", \"421 4.7.0\" or \"554 5.7.0\""),
        }
    }

    /// The three digits that SMTP knows.
    pub const fn reply(self) -> u16 {
        self.reply
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}.{}", self.reply, self.reply / 100, self.subject, self.detail)
    }
}

/// One to three digits (RFC 3463 §2), and what follows them.
const fn number(text: &[u8]) -> Option<(u16, &[u8])> {
    let mut value = 0;
    let mut digits = 0;
    let mut rest = text;
    while let [digit @ b'0'..=b'9', after @ ..] = rest
        && digits < 3
    {
        value = value * 10 + (*digit - b'0') as u16;
        digits += 1;
        rest = after;
    }
    if digits == 0 { None } else { Some((value, rest)) }
}

const fn dot_number(text: &[u8]) -> Option<(u16, &[u8])> {
    match text {
        [b'.', rest @ ..] => number(rest),
        _ => None,
    }
}

/// `reject!("5.7.1", "{ip} may not send here")`: refuses for good. A wrong status does not compile.
#[macro_export]
macro_rules! reject {
    ($status:expr, $($text:tt)+) => {
        $crate::Verdict::Reject($crate::Reply::new(const { $crate::Code::rejection($status) }, ::std::format!($($text)+)))
    };
}

/// `defer!("4.7.1", "Try again in a minute")`: refuses for now. A wrong status does not compile.
#[macro_export]
macro_rules! defer {
    ($status:expr, $($text:tt)+) => {
        $crate::Verdict::Defer($crate::Reply::new(const { $crate::Code::deferral($status) }, ::std::format!($($text)+)))
    };
}

/// `disconnect!("4.7.0", "Too many connections")`: says so and closes. A wrong status does not compile.
#[macro_export]
macro_rules! disconnect {
    ($status:expr, $($text:tt)+) => {
        $crate::Verdict::Disconnect($crate::Reply::new(
            const { $crate::Code::disconnection($status) },
            ::std::format!($($text)+),
        ))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for (text, expected) in [
            ("5.7.1", Some("550 5.7.1")),
            ("4.4.3", Some("451 4.4.3")),
            ("554 5.6.0", Some("554 5.6.0")),
            ("550 5.7.25", Some("550 5.7.25")),
            ("550 4.7.1", None),
            ("2.0.0", None),
            ("250 2.0.0", None),
            ("5.7", None),
            ("5.7.", None),
            ("5.7.1 ", None),
            ("5.7.1000", None),
            ("550  5.7.1", None),
            ("550", None),
            ("", None),
        ] {
            assert_eq!(Code::parse(text).map(|code| code.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn verdicts_read_as_what_the_client_hears() {
        let name = "x";
        for (verdict, expected) in [
            (reject!("5.7.1", "no {name}"), "reject 550 5.7.1 no x"),
            (defer!("450 4.7.1", "wait"), "defer 450 4.7.1 wait"),
            (disconnect!("4.7.0", "bye"), "disconnect 421 4.7.0 bye"),
            (disconnect!("554 5.7.0", "bye"), "disconnect 554 5.7.0 bye"),
            (Verdict::quarantine("odd"), "quarantine odd"),
            (Verdict::Next, "next"),
        ] {
            assert_eq!(verdict.to_string(), expected);
        }
    }

    #[test]
    fn text_is_one_short_line() {
        let code = Code::parse("5.7.1").unwrap();
        assert_eq!(Reply::new(code, "a\r\n250 b").text(), "a??250 b");
        let long = Reply::new(code, "é".repeat(300));
        assert_eq!(long.text().len(), 480);
    }
}
