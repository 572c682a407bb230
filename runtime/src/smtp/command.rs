//! Commands as the client says them (RFC 5321 §4.1), parsed in the server's role.

use super::address::{AddressError, ForwardPath, ReversePath};
use super::xtext;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Helo(String),
    Ehlo(String),
    Mail(ReversePath, MailParameters),
    Rcpt(ForwardPath, RcptParameters),
    Data,
    /// RFC 3030 §2.
    Bdat {
        size: u64,
        last: bool,
    },
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    /// RFC 3207.
    StartTls,
    /// RFC 4954; the initial response as given, base64 or `=`.
    Auth {
        mechanism: String,
        initial: Option<String>,
    },
    /// Postfix' XCLIENT: attributes as given, still xtext.
    XClient(Vec<(String, String)>),
    /// Known to the RFCs and not offered: EXPN, ETRN, TURN, SEND, SOML, SAML.
    NotImplemented(&'static str),
}

/// RFC 5321 §4.1.1.11: `keyword` and `keyword=value`, those that this gateway knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// RFC 1870. A number too large for 64 bits is the largest.
    pub size: Option<u64>,
    /// RFC 6152: `BODY=8BITMIME`.
    pub eight_bit: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461 §4.3.
    pub ret: Option<crate::smtp::dsn::Ret>,
    /// RFC 3461 §4.4, xtext as given.
    pub envid: Option<String>,
    /// Something in the command needs SMTPUTF8, a domain given as U-labels too (RFC 6531 §3.4).
    pub non_ascii: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// RFC 3461 §4.1.
    pub notify: Option<crate::smtp::dsn::Notify>,
    /// RFC 3461 §4.2, as given.
    pub orcpt: Option<String>,
    /// Something in the command needs SMTPUTF8.
    pub non_ascii: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("not UTF-8, or with control characters")]
    Octets,
    #[error("no such command")]
    Unknown,
    /// A line of a protocol that is not SMTP, or of a message: nothing that follows is meant for us.
    #[error("not SMTP")]
    NotSmtp,
    #[error("syntax: {0}")]
    Syntax(&'static str),
    #[error("reverse-path: {0}")]
    ReversePath(AddressError),
    #[error("forward-path: {0}")]
    ForwardPath(AddressError),
    #[error("parameter {0} is not known")]
    UnknownParameter(String),
    #[error("parameter {0} has a bad value")]
    BadParameter(String),
}

use CommandError::Syntax;

impl Command {
    /// `line` without its CRLF.
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        let text = std::str::from_utf8(line).map_err(|_| CommandError::Octets)?;
        if text.chars().any(|c| c.is_control() && c != '\t') {
            return Err(CommandError::Octets);
        }
        // RFC 5321 §4.1.1: trailing white space is tolerated.
        let text = text.trim_end_matches([' ', '\t']);
        let (verb, rest) = text.split_once(' ').map_or((text, None), |(verb, rest)| (verb, Some(rest)));
        let argument = rest.map(|rest| rest.trim_start_matches(' ')).filter(|rest| !rest.is_empty());
        match verb.to_ascii_uppercase().as_str() {
            "HELO" => helo(argument).map(Self::Helo),
            "EHLO" => helo(argument).map(Self::Ehlo),
            "MAIL" => mail(argument),
            "RCPT" => rcpt(argument),
            "DATA" => alone(argument, Self::Data),
            "BDAT" => bdat(argument),
            "RSET" => alone(argument, Self::Rset),
            // RFC 5321 §4.1.1.9: NOOP may carry a string, which is ignored.
            "NOOP" => Ok(Self::Noop),
            "VRFY" => argument.map(|_| Self::Vrfy).ok_or(Syntax("VRFY needs an argument")),
            "HELP" => Ok(Self::Help),
            "QUIT" => alone(argument, Self::Quit),
            "STARTTLS" => alone(argument, Self::StartTls),
            "AUTH" => auth(argument),
            "XCLIENT" => xclient(argument),
            "EXPN" => Ok(Self::NotImplemented("EXPN")),
            "ETRN" => Ok(Self::NotImplemented("ETRN")),
            "TURN" => Ok(Self::NotImplemented("TURN")),
            "SEND" => Ok(Self::NotImplemented("SEND")),
            "SOML" => Ok(Self::NotImplemented("SOML")),
            "SAML" => Ok(Self::NotImplemented("SAML")),
            "GET" | "POST" | "PUT" | "HEAD" | "OPTIONS" | "CONNECT" | "PATCH" | "DELETE" | "TRACE" => {
                Err(CommandError::NotSmtp)
            }
            // A header field where a command should be: the client believes that we said 354.
            word if word.len() > 1 && word.ends_with(':') => Err(CommandError::NotSmtp),
            _ => Err(CommandError::Unknown),
        }
    }
}

fn alone(argument: Option<&str>, command: Command) -> Result<Command, CommandError> {
    if argument.is_some() { Err(Syntax("no argument allowed")) } else { Ok(command) }
}

/// RFC 5321 §4.1.1.1. A name that is no domain is taken, and left to policy (R70): RFC 5321 §4.1.4.
fn helo(argument: Option<&str>) -> Result<String, CommandError> {
    let name = argument.ok_or(Syntax("host name expected"))?;
    if name.len() > 255 || name.contains([' ', '\t']) {
        return Err(Syntax("host name expected"));
    }
    Ok(name.to_owned())
}

/// RFC 5321 §4.1.1.2, §4.1.1.3: what stands after `FROM:` or `TO:`. A space after the colon is not legal, and common.
fn after_keyword<'a>(argument: Option<&'a str>, keyword: &str) -> Option<&'a str> {
    let argument = argument?;
    let (word, rest) = (argument.get(..keyword.len())?, argument.get(keyword.len()..)?);
    word.eq_ignore_ascii_case(keyword).then(|| rest.trim_start_matches(' '))
}

fn mail(argument: Option<&str>) -> Result<Command, CommandError> {
    let path = after_keyword(argument, "FROM:").ok_or(Syntax("MAIL FROM:<address> expected"))?;
    let mut parameters = MailParameters { non_ascii: !path.is_ascii(), ..MailParameters::default() };
    let (path, rest) = ReversePath::parse(path).map_err(CommandError::ReversePath)?;
    let mut seen = Vec::new();
    for (keyword, value) in esmtp_params(rest)? {
        once(&mut seen, &keyword)?;
        let bad = || CommandError::BadParameter(keyword.clone());
        match (keyword.as_str(), value) {
            ("SIZE", Some(value)) => parameters.size = Some(size_value(value).ok_or_else(bad)?),
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("7BIT") => parameters.eight_bit = false,
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("8BITMIME") => parameters.eight_bit = true,
            ("SMTPUTF8", None) => parameters.smtputf8 = true,
            ("RET", Some(value)) => parameters.ret = Some(crate::smtp::dsn::Ret::parse(value).ok_or_else(bad)?),
            ("ENVID", Some(value)) => {
                // RFC 3461 §4.4: at most 100 characters.
                parameters.envid = Some(legal(xtext::decode(value), value, 100).ok_or_else(bad)?);
            }
            // RFC 4954 §5: who is meant is not believed, and not passed on.
            ("AUTH", Some(_)) => {}
            ("SIZE" | "BODY" | "SMTPUTF8" | "RET" | "ENVID" | "AUTH", _) => return Err(bad()),
            _ => return Err(CommandError::UnknownParameter(keyword)),
        }
    }
    Ok(Command::Mail(path, parameters))
}

fn rcpt(argument: Option<&str>) -> Result<Command, CommandError> {
    let path = after_keyword(argument, "TO:").ok_or(Syntax("RCPT TO:<address> expected"))?;
    let mut parameters = RcptParameters { non_ascii: !path.is_ascii(), ..RcptParameters::default() };
    let (path, rest) = ForwardPath::parse(path).map_err(CommandError::ForwardPath)?;
    let mut seen = Vec::new();
    for (keyword, value) in esmtp_params(rest)? {
        once(&mut seen, &keyword)?;
        let bad = || CommandError::BadParameter(keyword.clone());
        match (keyword.as_str(), value) {
            ("NOTIFY", Some(value)) => {
                parameters.notify = Some(crate::smtp::dsn::Notify::parse(value).ok_or_else(bad)?);
            }
            ("ORCPT", Some(value)) => {
                // RFC 3461 §4.2: at most 500 characters.
                parameters.orcpt = Some(legal(xtext::decode_orcpt(value), value, 500).ok_or_else(bad)?);
            }
            ("NOTIFY" | "ORCPT", _) => return Err(bad()),
            _ => return Err(CommandError::UnknownParameter(keyword)),
        }
    }
    Ok(Command::Rcpt(path, parameters))
}

/// RFC 5321 §4.1.2 `Mail-parameters`: each with one space before it; the keyword in upper case.
fn esmtp_params(rest: &str) -> Result<Vec<(String, Option<&str>)>, CommandError> {
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    let rest = rest.strip_prefix(' ').ok_or(Syntax("space expected after the address"))?;
    rest.split(' ').filter(|word| !word.is_empty()).map(esmtp_param).collect()
}

fn esmtp_param(word: &str) -> Result<(String, Option<&str>), CommandError> {
    let (keyword, value) = word.split_once('=').map_or((word, None), |(keyword, value)| (keyword, Some(value)));
    let legal = keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
        && keyword.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && value.is_none_or(|value| !value.is_empty() && !value.contains('='))
        && keyword.len() <= 32;
    // An ORCPT or ENVID may hold what looks like "="; xtext encodes it, so a second one is an error.
    if legal { Ok((keyword.to_ascii_uppercase(), value)) } else { Err(Syntax("bad parameter")) }
}

/// A keyword given twice is an error: which of the two would count?
fn once(seen: &mut Vec<String>, keyword: &str) -> Result<(), CommandError> {
    if seen.iter().any(|s| s == keyword) {
        return Err(CommandError::BadParameter(keyword.to_owned()));
    }
    seen.push(keyword.to_owned());
    Ok(())
}

/// RFC 1870 §4: digits. More of them than fit in 64 bits are more octets than anybody takes.
fn size_value(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// A value as given, when it can be decoded and is no longer than that.
fn legal(decoded: Option<String>, value: &str, max: usize) -> Option<String> {
    decoded.filter(|_| value.len() <= max).map(|_| value.to_owned())
}

fn bdat(argument: Option<&str>) -> Result<Command, CommandError> {
    let mut words = argument.unwrap_or("").split(' ').filter(|word| !word.is_empty());
    let size = words.next().and_then(size_value).ok_or(Syntax("BDAT size expected"))?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(Syntax("LAST expected")),
    };
    if words.next().is_some() { Err(Syntax("no argument allowed")) } else { Ok(Command::Bdat { size, last }) }
}

fn auth(argument: Option<&str>) -> Result<Command, CommandError> {
    let mut words = argument.ok_or(Syntax("AUTH mechanism expected"))?.split(' ');
    let mechanism = words.next().unwrap_or("").to_ascii_uppercase();
    let initial = words.next().map(str::to_owned);
    if words.next().is_some() {
        return Err(Syntax("no argument allowed"));
    }
    Ok(Command::Auth { mechanism, initial })
}

fn xclient(argument: Option<&str>) -> Result<Command, CommandError> {
    let words = argument.ok_or(Syntax("XCLIENT attributes expected"))?.split(' ').filter(|word| !word.is_empty());
    let attributes = words.map(|word| {
        let (name, value) = word.split_once('=').ok_or(Syntax("XCLIENT attribute=value expected"))?;
        Ok((name.to_ascii_uppercase(), value.to_owned()))
    });
    attributes.collect::<Result<_, _>>().map(Command::XClient)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line.as_bytes())
    }

    #[test]
    fn verbs_are_case_insensitive() {
        assert_eq!(parse("data"), Ok(Command::Data));
        assert_eq!(parse("QuIt  "), Ok(Command::Quit));
        assert_eq!(parse("noop whatever"), Ok(Command::Noop));
        assert_eq!(parse("BDAT 12 last"), Ok(Command::Bdat { size: 12, last: true }));
    }

    #[test]
    fn mail_parameters() {
        let Ok(Command::Mail(path, p)) = parse(
            "MAIL FROM:<a@example.com> SIZE=99999999999999999999999999 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb",
        ) else {
            panic!("refused")
        };
        assert_eq!(path.to_string(), "a@example.com");
        assert_eq!((p.size, p.eight_bit, p.smtputf8), (Some(u64::MAX), true, true));
        assert_eq!(p.envid.as_deref(), Some("a+2Bb"));
    }

    #[test]
    fn bad_parameters() {
        for line in [
            "MAIL FROM:<a@x.org> SIZE=-1",
            "MAIL FROM:<a@x.org> SIZE",
            "MAIL FROM:<a@x.org> BODY=9BIT",
            "MAIL FROM:<a@x.org> SIZE=1 SIZE=2",
            "MAIL FROM:<a@x.org>SIZE=1",
            "MAIL FROM:<a@x.org> ENVID=a+00b",
            "MAIL FROM:<a@x.org> ENVID=+0D+0A",
            "RCPT TO:<a@x.org> NOTIFY=NEVER,FAILURE",
            "RCPT TO:<a@x.org> NOTIFY=",
            "RCPT TO:<a@x.org> ORCPT=rfc822;a+00",
            "RCPT TO:<a@x.org> ORCPT=a@x.org",
            "RCPT TO:<a@x.org> FOO=1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_not_smtp() {
        for line in ["POST / HTTP/1.1", "GET / HTTP/1.0", "Subject: hi", "Received: from x"] {
            assert_eq!(parse(line), Err(CommandError::NotSmtp), "{line}");
        }
        assert_eq!(Command::parse(b"EHLO a\0b"), Err(CommandError::Octets));
        assert_eq!(Command::parse(b"EHLO \xff"), Err(CommandError::Octets));
        assert_eq!(parse(""), Err(CommandError::Unknown));
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            drop(Command::parse(&line));
        }

        #[test]
        fn nearly_commands_do_not_panic(line in "(MAIL FROM:|RCPT TO:|BDAT |AUTH |EHLO )[ -~é]{0,40}") {
            drop(Command::parse(line.as_bytes()));
        }
    }
}
