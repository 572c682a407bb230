//! What a client says and what it expects to hear, as text.
//!
//! ```text
//! # a comment
//! @ client 192.0.2.7                            above all else: from where the client connects
//! @ trusted                                     above all else: the client may relay, its mail is outbound
//! S: 220 *                                      one line of a reply; `*` stands for anything
//! C: EHLO client.example                        sent with CRLF; C lines in a row are said without waiting
//! S...: 250                                     a whole reply of one or more lines with this code
//! C"MAIL FROM:<>\r\n"                           octets as they are: see [`super::escape`]
//! C*3: NOOP    S*3: 250 *                       three times
//! @ eml                                         the message, with the dot that ends it
//! @ judged rcpt reject 550 *                    what the plugin said when it was last asked at that stage
//! @ close                                       the gateway closes the connection
//! ```
//! Replies that nothing is expected of are shown and not checked. The dialogues of `tests/` are written in the same
//! lines, with more of those that begin with `@`.

use std::net::IpAddr;

use super::escape::unescape;
use crate::pipeline::Stage;

/// Repetitions of one line, and steps of a whole script: a session has a few dozen.
const MAX_TIMES: usize = 10_000;
const MAX_STEPS: usize = 100_000;
/// Octets of all that is said: a few mails of the largest size.
const MAX_OCTETS: usize = 256 << 20;

/// One line of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Send(Vec<u8>),
    /// One line of a reply.
    Expect(String),
    /// All lines of a reply with this code.
    ExpectReply(String),
    /// `@ WORD REST`.
    Directive(String, String),
}

impl Line {
    /// What the line says, and how often. `None`: it is empty or a comment.
    pub fn parse(line: &str) -> Result<Option<(Self, usize)>, String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let once = |line| Ok(Some((line, 1)));
        if let Some(directive) = line.strip_prefix("@ ") {
            let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            return once(Self::Directive(word.to_owned(), rest.to_owned()));
        }
        if let Some(raw) = line.strip_prefix("C\"") {
            let raw = raw.strip_suffix('"').ok_or("no \" at the end")?;
            return once(Self::Send(unescape(raw)?));
        }
        if let Some(code) = line.strip_prefix("S...: ") {
            return once(Self::ExpectReply(code.to_owned()));
        }
        let (who, text) =
            line.split_once(": ").or(line.strip_suffix(':').map(|who| (who, ""))).ok_or("no such line")?;
        let (who, times) = match who.split_once('*') {
            Some((who, times)) => (who, times.parse().map_err(|_| format!("{times} is not a number"))?),
            None => (who, 1),
        };
        if times > MAX_TIMES {
            return Err(format!("more than {MAX_TIMES} times"));
        }
        let line = match who {
            "C" => Self::Send([text.as_bytes(), b"\r\n"].concat()),
            "S" => Self::Expect(text.to_owned()),
            _ => return Err("no such line".to_owned()),
        };
        Ok(Some((line, times)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Send(Vec<u8>),
    Expect(String),
    ExpectReply(String),
    /// The message, dot-stuffed, and the dot that ends it.
    Message,
    /// The last answer at that stage is as the pattern says.
    Judged(Stage, String),
    Close,
}

/// A whole session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub client: IpAddr,
    /// Its mail is outbound.
    pub trusted: bool,
    /// Each with the number of its line; 0 where no file says it.
    pub steps: Vec<(usize, Step)>,
}

impl Default for Script {
    /// Nothing is said, from an address of RFC 5737.
    fn default() -> Self {
        Self { client: IpAddr::from([192, 0, 2, 1]), trusted: false, steps: Vec::new() }
    }
}

impl Script {
    /// The error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut script = Self::default();
        let mut octets = 0_usize;
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            let failed = |error: String| format!("line {number}: {error}: {}", shortened(line));
            let Some((line, times)) = Line::parse(line).map_err(failed)? else { continue };
            let Some(step) = script.step(line).map_err(failed)? else { continue };
            if script.steps.len() + times > MAX_STEPS {
                return Err(failed(format!("more than {MAX_STEPS} lines are said and heard")));
            }
            if let Step::Send(line) = &step {
                octets = octets.saturating_add(line.len().saturating_mul(times));
            }
            if octets > MAX_OCTETS {
                return Err(failed(format!("more than {MAX_OCTETS} octets are said")));
            }
            script.steps.extend(std::iter::repeat_n((number, step), times));
        }
        Ok(script)
    }

    fn step(&mut self, line: Line) -> Result<Option<Step>, String> {
        let (word, rest) = match line {
            Line::Send(octets) => return Ok(Some(Step::Send(octets))),
            Line::Expect(pattern) => return Ok(Some(Step::Expect(pattern))),
            Line::ExpectReply(code) => return Ok(Some(Step::ExpectReply(code))),
            Line::Directive(word, rest) => (word, rest),
        };
        let first = self.steps.is_empty();
        match (word.as_str(), rest.as_str()) {
            ("client", ip) if first => self.client = ip.parse().map_err(|_| format!("{ip} is no IP address"))?,
            ("trusted", "") if first => self.trusted = true,
            ("client" | "trusted", _) => return Err("stands above all that is said".to_owned()),
            ("eml", "") => return Ok(Some(Step::Message)),
            ("close", "") => return Ok(Some(Step::Close)),
            ("judged", what) => {
                let (stage, pattern) = what.split_once(' ').ok_or("@ judged STAGE VERDICT")?;
                let known = Stage::ALL.into_iter().find(|known| known.name() == stage && *known != Stage::Event);
                let stage = known.ok_or_else(|| format!("`{stage}` is no stage that judges"))?;
                return Ok(Some(Step::Judged(stage, pattern.to_owned())));
            }
            _ => return Err("no such directive (client, trusted, eml, judged, close)".to_owned()),
        }
        Ok(None)
    }

    /// The message of a file is asked for.
    pub fn wants_message(&self) -> bool {
        self.steps.iter().any(|(_, step)| *step == Step::Message)
    }
}

fn shortened(line: &str) -> String {
    super::escape::show(line.get(..200).unwrap_or(line).as_bytes())
}

/// Whether the text is what the pattern says; `*` stands for anything.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').map_or((None, rest), |(middle, last)| (Some(middle), last));
    // Each part as early as it can be: so what is left for the others is as much as can be.
    for part in middle.into_iter().flat_map(|middle| middle.split('*')) {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("250 ok", "250 ok", true),
            ("250 ok", "250 ok!", false),
            ("250 *", "250 ", true),
            ("250 *", "250-x", false),
            ("*", "", true),
            ("5*no*", "550 no.", true),
            ("5*no*", "550 yes", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*aa", "aa", false),
            ("**x", "x", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_script_is_read_line_by_line() {
        let text = "# x\n@ client 2001:db8::1\n@ trusted\n\nS: 220 *\nC: EHLO a\nS...: 250\nC*2: NOOP\nC\"\\x41\"\nC:\n\
            @ eml\n@ judged mail-from reject 5*\n@ close\n";
        let script = Script::parse(text).unwrap();
        assert_eq!(script.client, "2001:db8::1".parse::<IpAddr>().unwrap());
        assert!(script.trusted && script.wants_message());
        let send = |text: &str| Step::Send(text.as_bytes().to_vec());
        let expected = [
            (5, Step::Expect("220 *".to_owned())),
            (6, send("EHLO a\r\n")),
            (7, Step::ExpectReply("250".to_owned())),
            (8, send("NOOP\r\n")),
            (8, send("NOOP\r\n")),
            (9, send("A")),
            (10, send("\r\n")),
            (11, Step::Message),
            (12, Step::Judged(Stage::MailFrom, "reject 5*".to_owned())),
            (13, Step::Close),
        ];
        assert_eq!(script.steps, expected);
    }

    #[test]
    fn what_is_no_line_is_named() {
        for (text, expected) in [
            ("C: x\n\nX: y", "line 3: no such line: X: y"),
            ("C: x\n@ client 192.0.2.1", "line 2: stands above all that is said"),
            ("@ client x", "x is no IP address"),
            ("@ judged event next", "`event` is no stage that judges"),
            ("@ wait 5m", "no such directive"),
            ("C*99999999: x", "more than 10000 times"),
            ("C\"x", "no \" at the end"),
            ("C\"\\(x*999999999)\"", "more than 67108864 octets"),
        ] {
            let error = Script::parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let many = "C*10000: x\n".repeat(11);
        assert!(Script::parse(&many).unwrap_err().contains("line 11: more than 100000 lines"));
        let long = format!("C: x\nC*10000: {}\n", "x".repeat(30_000));
        assert!(Script::parse(&long).unwrap_err().contains("line 2: more than 268435456 octets are said"));
    }
}
