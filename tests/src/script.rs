//! The text of a dialogue. Its lines `C` and `S` are those of `postern plugin test`: [`postern::rehearsal::script`].
//!
//! ```text
//! # RFC 5321 §4.1.1.4: what it shows            the first line cites what the dialogue is there for
//! @ set max_recipients 2                        setup: see [`crate::setup`]; and `@ only whole`, `@ only memory`
//! S: 220 *                                      `*` stands for anything
//! C: EHLO client.example                        sent with CRLF; C lines in a row are one write (pipelining)
//! S...: 250                                     a whole reply of one or more lines with this code
//! C"MAIL FROM:<>\r\n"                           octets as they are: see [`postern::rehearsal::escape`]
//! C*3: NOOP    S*3: 250 *                       three times
//! @ tls                                         the handshake, now
//! @ wait 5m      @ took 1s                      virtual time: let it pass; so much has passed since the last write
//! @ offers SIZE *   @ lacks AUTH *              a line of the last whole reply
//! @ close        @ hangup                       the server closes; the client does
//! @ commit full  @ stop                         from here on; the gateway begins to stop
//! @ mails 1      @ logged exempted              what came out
//! @ asked filter1 rcpt 2                        how often a filter was asked
//! @ unknown 2                                   recipients that were counted as unknown (R72)
//! @ mail 1 sender <a@b.c> BODY=8BITMIME         also: recipient, recipients N, has "…", lacks "…", body "…", tenant N,
//!                                               outbound, inbound, authenticated, quarantined REASON, free
//! ```
//! `@ only whole`: splitting changes what it means (illegal pipelining). `@ only memory`: not over TCP; implied by
//! `@ wait` and `@ took`.

use std::time::Duration;

use postern::pipeline::Stage;
use postern::rehearsal::script::Line;
pub use postern::rehearsal::script::matches;
use postern::session::CommitError;

use crate::filter::parse_stage;
use crate::setup::{Setup, parse_commit, parse_duration};

#[derive(Debug, Clone)]
pub struct Dialog {
    /// For messages.
    pub name: String,
    pub setup: Setup,
    pub only_whole: bool,
    pub only_memory: bool,
    /// Each with the number of its line.
    pub steps: Vec<(usize, Step)>,
}

#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// One line.
    Expect(String),
    /// All lines of a reply with this code.
    ExpectReply(String),
    Offers(String),
    Lacks(String),
    Tls,
    Close,
    Hangup,
    Wait(Duration),
    Took(Duration),
    Commit(Option<CommitError>),
    Stop,
    Mails(usize),
    /// From 1; what is said of it, and of what.
    Mail(usize, String, String),
    Logged(String),
    Asked(String, Stage, usize),
    Unknown(usize),
}

impl Dialog {
    /// # Errors
    /// File, line and what is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut dialog = Self {
            name: name.to_owned(),
            setup: Setup::default(),
            only_whole: false,
            only_memory: false,
            steps: Vec::new(),
        };
        if !text.lines().next().is_some_and(is_citation) {
            return Err(format!("{name}:1: the first line says what the dialogue is there for: # RFC 5321 §4.1: …"));
        }
        for (number, line) in text.lines().enumerate() {
            dialog.line(number + 1, line).map_err(|error| format!("{name}:{}: {error}: {line}", number + 1))?;
        }
        Ok(dialog)
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        let Some((line, times)) = Line::parse(line)? else { return Ok(()) };
        let step = match line {
            Line::Send(octets) => Step::Send(octets),
            Line::Expect(pattern) => Step::Expect(pattern),
            Line::ExpectReply(code) => Step::ExpectReply(code),
            Line::Directive(word, rest) => return self.directive(number, &word, &rest),
        };
        self.steps.extend(std::iter::repeat_n((number, step), times));
        Ok(())
    }

    fn directive(&mut self, number: usize, word: &str, rest: &str) -> Result<(), String> {
        if self.steps.is_empty() && self.setup.take(word, rest)? {
            return Ok(());
        }
        let count = |text: &str| text.parse::<usize>().map_err(|_| format!("{text} is not a number"));
        let step = match (word, rest) {
            ("only", "whole") => {
                self.only_whole = true;
                return Ok(());
            }
            ("only", "memory") => {
                self.only_memory = true;
                return Ok(());
            }
            ("tls", "") => Step::Tls,
            ("close", "") => Step::Close,
            ("hangup", "") => Step::Hangup,
            ("stop", "") => Step::Stop,
            ("offers", pattern) => Step::Offers(pattern.to_owned()),
            ("lacks", pattern) => Step::Lacks(pattern.to_owned()),
            ("wait", time) => Step::Wait(parse_duration(time)?),
            ("took", time) => Step::Took(parse_duration(time)?),
            ("commit", how) => Step::Commit(parse_commit(how)?),
            ("mails", number) => Step::Mails(count(number)?),
            ("unknown", number) => Step::Unknown(count(number)?),
            ("logged", event) => Step::Logged(event.to_owned()),
            ("asked", what) => match what.split(' ').collect::<Vec<_>>().as_slice() {
                [name, stage, times] => Step::Asked((*name).to_owned(), parse_stage(stage)?, count(times)?),
                _ => return Err("asked NAME STAGE N".to_owned()),
            },
            ("mail", what) => {
                let (number, what) = what.split_once(' ').ok_or("mail N WHAT …")?;
                let (what, value) = what.split_once(' ').unwrap_or((what, ""));
                Step::Mail(count(number)?, what.to_owned(), value.to_owned())
            }
            _ => return Err("no such directive, or not here".to_owned()),
        };
        self.only_memory |= matches!(step, Step::Wait(_) | Step::Took(_));
        self.steps.push((number, step));
        Ok(())
    }
}

/// `# ` and the name of an RFC section, requirement, fault or page, then a colon and what it is about.
fn is_citation(line: &str) -> bool {
    let Some((source, about)) = line.strip_prefix("# ").and_then(|line| line.split_once(": ")) else { return false };
    let known = ["RFC ", "R", "X", "SP", "RS", "K", "W", "D", "T-", "N", "design.md ", "CVE-"];
    !about.is_empty() && known.iter().any(|start| source.starts_with(start))
}
