//! Conversations by a grammar: legal and illegal commands in any order, in pieces of any size, with verdicts, failures and
//! time-outs between them; beside them a model of what RFC 5321 makes of it. The machine may refuse what it likes, but
//! what it agrees to must be what the model knows: no recipient without a sender, no mail without its recipients, no
//! yes without a commit, nothing left of a transaction that is over.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;

use bytes::BytesMut;
use postern::pipeline::{Stage, TlsFacts};
use postern::session::Machine;
use postern::session::connection::{Accepted, CommitError};
use postern::session::machine::{Answer, Input, Output, Question, Waiting};

use super::{check_copies, check_replies, new_machine, verdict};

const SENDERS: [&str; 4] = ["", "smith@client.example", "ann@example.com", "jörg@client.example"];
const PARAMETERS: [&str; 8] = [
    "",
    "",
    " SIZE=100",
    " BODY=8BITMIME",
    " SIZE=99999999999999999999999999",
    " SMTPUTF8",
    " RET=HDRS ENVID=a+2Bb",
    " NO=SUCH",
];
const RECIPIENTS: [&str; 8] = [
    "jones@example.com",
    "brown@example.com",
    "jones@example.net",
    "jones@nowhere.example",
    "postmaster",
    "jones@nodest.example",
    "u%x@example.com",
    "\"a b\"@example.com",
];
/// Whose mail `postmaster` gets.
const ADMINISTRATOR: &str = "admin@example.com";
const LINES: [&str; 12] = [
    "NOOP",
    "VRFY jones",
    "HELP",
    "EXPN list",
    "MAIL FROM:smith",
    "RCPT TO:<jones@example.com",
    "DATA now",
    "BDAT x",
    "BDAT 5 FIRST",
    "STARTTLS now",
    "",
    "X\0Y \u{ff}",
];
const BODIES: [&[u8]; 8] = [
    b"",
    b"text\r\n",
    b".\r\n..\r\n.x\r\n",
    b"bare\nline\r\n",
    b"bare\rreturn\r\n",
    b"nul\0\r\n",
    b"no line end",
    b"\xff\xfe 8bit\r\n",
];

/// The octets as a row of small numbers, then zeros.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self, of: usize) -> usize {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(first) % of
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next(from.len())]
    }
}

/// What a reply is awaited to.
#[derive(Debug, Clone)]
enum Said {
    Banner,
    Hello,
    Mail(&'static str),
    Rcpt(&'static str),
    Data(Vec<u8>),
    /// The lines after DATA.
    Content(Vec<u8>),
    Chunk(Vec<u8>, bool),
    Reset,
    StartTls,
    Auth,
    Other,
}

/// What the gateway has agreed to.
#[derive(Debug, Default)]
struct Model {
    greeted: bool,
    secured: bool,
    logged_in: bool,
    transaction: Option<Transaction>,
}

#[derive(Debug, Default)]
struct Transaction {
    sender: &'static str,
    recipients: BTreeSet<String>,
    /// Answered 250, and nobody will get it.
    dropped: bool,
    chunks: Option<Vec<u8>>,
    heard: HashMap<&'static str, &'static str>,
    /// The verdict on the whole mail was to discard it.
    discarded: bool,
    committed: bool,
}

struct Conversation<'a> {
    choices: Choices<'a>,
    /// Said, and not yet given to the machine.
    wire: Vec<u8>,
    replies: Vec<u8>,
    awaited: VecDeque<Said>,
    model: Model,
    /// No reply may follow but the last.
    is_ending: bool,
}

/// A whole conversation.
pub fn conversation(octets: &[u8]) {
    let mut choices = Choices(octets);
    let listener = u8::try_from(choices.next(4)).unwrap_or(0);
    let machine = new_machine(std::env::temp_dir(), listener);
    let mut conversation = Conversation {
        choices,
        wire: Vec::new(),
        replies: Vec::new(),
        awaited: [Said::Banner].into(),
        model: Model::default(),
        is_ending: false,
    };
    conversation.run(machine, octets.len());
}

impl Conversation<'_> {
    fn run(&mut self, mut machine: Machine, length: usize) {
        let mut buffer = BytesMut::new();
        let mut input = Input::Start { unavailable: None };
        // An octet may stand for a body of some lines, read one octet at a time.
        for _ in 0..length * 100 + 1000 {
            let output = machine.step(input, &mut buffer);
            let replies = machine.take_replies();
            check_replies(&replies);
            self.replies.extend_from_slice(&replies);
            while let Some(code) = self.next_reply() {
                self.hear(code);
            }
            input = match output {
                Output::Close => return,
                Output::Read(waiting) => match self.read(waiting, &mut buffer) {
                    Some(input) => input,
                    None => return,
                },
                Output::StartTls => {
                    assert!(buffer.is_empty(), "what was said before TLS survives it");
                    let facts = TlsFacts { version: String::new(), cipher: String::new(), sni: None };
                    machine = machine.after_tls(facts);
                    self.model = Model { secured: true, ..Model::default() };
                    Input::Octets
                }
                Output::Ask(question) => Input::Answered(self.answer(question)),
            };
        }
        panic!("the session goes on for ever");
    }

    /// `None`: all is said and answered.
    fn read(&mut self, waiting: Waiting, buffer: &mut BytesMut) -> Option<Input> {
        assert!(!self.is_ending, "the session goes on after its last reply");
        if self.wire.is_empty() {
            let is_answered = self.awaited.is_empty();
            let is_content = matches!(self.awaited.front(), Some(Said::Content(_) | Said::Chunk(..)));
            assert!(is_answered || is_content, "no reply to {:?}", self.awaited);
            assert!(is_answered || waiting == Waiting::Data, "a message was read to its end without a reply");
            if self.choices.0.is_empty() {
                return None;
            }
            match self.choices.next(64) {
                0 => return Some(Input::TimedOut),
                1 => return Some(Input::ShutDown),
                _ => self.say(),
            }
        }
        let piece = match self.choices.next(4) {
            0 => 1,
            1 => self.choices.next(40) + 1,
            _ => self.wire.len(),
        };
        let piece = piece.min(self.wire.len());
        buffer.extend_from_slice(&self.wire[..piece]);
        self.wire.drain(..piece);
        Some(Input::Octets)
    }

    /// The next commands, mostly one; RFC 2920 allows to send several at once, and some send more than it allows.
    fn say(&mut self) {
        let group = if self.choices.next(4) == 0 { self.choices.next(6) + 1 } else { 1 };
        for _ in 0..group {
            self.say_one();
            if matches!(self.awaited.back(), Some(Said::Data(_) | Said::StartTls | Said::Auth)) {
                // What follows depends on the reply.
                return;
            }
        }
    }

    fn say_one(&mut self) {
        let kind = self.choices.next(16);
        let line = match kind {
            0 => self.line(Said::Hello, "EHLO client.example".to_owned()),
            1 => self.line(Said::Hello, "HELO client.example".to_owned()),
            2..4 => {
                let (sender, parameters) = (self.choices.pick(&SENDERS), self.choices.pick(&PARAMETERS));
                self.line(Said::Mail(sender), format!("MAIL FROM:<{sender}>{parameters}"))
            }
            4..7 => {
                let recipient = self.choices.pick(&RECIPIENTS);
                self.line(Said::Rcpt(recipient), format!("RCPT TO:<{recipient}>"))
            }
            7..9 => {
                let content = self.content();
                self.line(Said::Data(content), "DATA".to_owned())
            }
            9..12 => {
                let (content, last) = (self.content(), self.choices.next(2) == 0);
                let text = format!("BDAT {}{}", content.len(), if last { " LAST" } else { "" });
                let mut octets = self.line(Said::Chunk(content.clone(), last), text);
                octets.extend_from_slice(&content);
                octets
            }
            12 => self.line(Said::Reset, "RSET".to_owned()),
            13 => self.line(Said::StartTls, "STARTTLS".to_owned()),
            14 => self.line(Said::Auth, "AUTH PLAIN AGFubgBzZWNyZXQ=".to_owned()),
            _ => {
                let text = self.choices.pick(&LINES);
                // What it stood for is unknown, so it is a chunk that was refused.
                let said = if text.starts_with("BDAT") { Said::Chunk(Vec::new(), false) } else { Said::Other };
                self.line(said, text.to_owned())
            }
        };
        self.wire.extend_from_slice(&line);
    }

    fn line(&mut self, said: Said, text: String) -> Vec<u8> {
        self.awaited.push_back(said);
        (text + "\r\n").into_bytes()
    }

    fn content(&mut self) -> Vec<u8> {
        let mut content = if self.choices.next(4) == 0 { Vec::new() } else { b"X-Number: 1\r\n\r\n".to_vec() };
        for _ in 0..self.choices.next(3) {
            content.extend_from_slice(self.choices.pick(&BODIES));
        }
        content
    }

    fn next_reply(&mut self) -> Option<u16> {
        let mut end = 0;
        for line in self.replies.split_inclusive(|&b| b == b'\n') {
            end += line.len();
            if line.get(3) == Some(&b' ') && line.ends_with(b"\r\n") {
                let code = std::str::from_utf8(&line[..3]).ok().and_then(|code| code.parse().ok());
                self.replies.drain(..end);
                return Some(code.expect("replies were checked"));
            }
        }
        None
    }

    /// A reply; the model agrees or panics.
    fn hear(&mut self, code: u16) {
        assert!(!self.is_ending, "a reply after the last one");
        let Some(said) = self.awaited.pop_front() else {
            assert_eq!(code, 421, "a reply to nothing");
            self.is_ending = true;
            return;
        };
        let is_yes = (200..400).contains(&code);
        match said {
            Said::Banner | Said::Other => {}
            Said::Hello if is_yes => {
                self.model.greeted = true;
                self.model.transaction = None;
            }
            Said::Reset if is_yes => self.model.transaction = None,
            Said::Mail(sender) if is_yes => {
                assert!(self.model.greeted, "MAIL before EHLO");
                assert!(self.model.transaction.is_none(), "MAIL within a transaction");
                self.model.transaction = Some(Transaction { sender, ..Transaction::default() });
            }
            Said::Rcpt(recipient) if is_yes => self.take(recipient),
            Said::Data(content) if is_yes => {
                let transaction = self.model.transaction.as_ref().expect("DATA without MAIL");
                assert!(transaction.dropped || !transaction.recipients.is_empty(), "DATA without recipients");
                assert!(transaction.chunks.is_none(), "DATA after BDAT");
                self.wire = stuffed(&content);
                self.awaited.push_front(Said::Content(content));
            }
            Said::Content(_) => self.end(code),
            Said::Chunk(content, false) if is_yes => {
                let transaction = self.model.transaction.as_mut().expect("BDAT without MAIL");
                assert!(transaction.dropped || !transaction.recipients.is_empty(), "BDAT without recipients");
                transaction.chunks.get_or_insert_default().extend_from_slice(&content);
            }
            // RFC 3030 §2: a refused chunk ends the transaction.
            Said::Chunk(_, false) => self.model.transaction = None,
            Said::Chunk(_, true) => self.end(code),
            Said::StartTls if is_yes => assert!(!self.model.secured && self.model.transaction.is_none(), "STARTTLS"),
            Said::Auth if is_yes => {
                let Model { greeted, secured, logged_in, transaction } = &self.model;
                assert!(*greeted && *secured && !logged_in && transaction.is_none(), "AUTH: {:?}", self.model);
                self.model.logged_in = true;
            }
            _ => {}
        }
    }

    fn take(&mut self, recipient: &'static str) {
        let transaction = self.model.transaction.as_mut().expect("RCPT without MAIL");
        assert!(transaction.chunks.is_none(), "RCPT after BDAT");
        if recipient == "postmaster" {
            transaction.recipients.insert(ADMINISTRATOR.to_owned());
            return;
        }
        match transaction.heard.get(recipient) {
            Some(&"discard") => transaction.dropped = true,
            Some(&("next" | "accept" | "quarantine")) => drop(transaction.recipients.insert(recipient.to_owned())),
            heard => panic!("{recipient} is taken, though the verdict was {heard:?}"),
        }
    }

    /// The reply to a whole message.
    fn end(&mut self, code: u16) {
        let Some(transaction) = self.model.transaction.take() else {
            assert!(code >= 400, "a message is taken without a transaction");
            return;
        };
        let is_dropped = transaction.discarded || transaction.recipients.is_empty();
        match code {
            250 => assert!(transaction.committed || is_dropped, "250 and no commit: {transaction:?}"),
            _ => assert!(!transaction.committed, "{code} to a message that is committed"),
        }
    }

    fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Hear(stage, recipient, hearing) => {
                let verdict = verdict(u8::try_from(self.choices.next(24)).unwrap_or(0));
                let name = verdict.name();
                match (stage, self.awaited.front(), &mut self.model.transaction) {
                    (Stage::Rcpt, Some(Said::Rcpt(said)), Some(transaction)) => {
                        assert_eq!(recipient.expect("a recipient").mailbox.to_string(), *said);
                        transaction.heard.insert(said, name);
                    }
                    (Stage::Data, Some(Said::Content(_) | Said::Chunk(_, true)), Some(transaction)) => {
                        transaction.discarded = name == "discard";
                    }
                    (Stage::Connect, Some(Said::Banner), _)
                    | (Stage::Helo, Some(Said::Hello), _)
                    | (Stage::MailFrom, Some(Said::Mail(_)), None) => {}
                    (stage, said, _) => panic!("{stage:?} is judged after {said:?}"),
                }
                Answer::Heard(hearing, verdict)
            }
            Question::Verify { .. } => Answer::Verified(self.choices.next(2) == 0),
            Question::Flush(mut reception) => {
                let fails = self.choices.next(4) == 0;
                let result = if fails { Err(io::ErrorKind::StorageFull.into()) } else { reception.flush() };
                Answer::Flushed(reception, result)
            }
            Question::Finish(reception) => Answer::Finished(reception.finish()),
            Question::Commit(copies) => Answer::Committed(self.commit(&copies)),
            Question::Wait(_) => Answer::Waited,
        }
    }

    fn commit(&mut self, copies: &[Accepted]) -> Result<(), CommitError> {
        check_copies(copies);
        let transaction = self.model.transaction.as_mut().expect("a commit without a transaction");
        let mut content = transaction.chunks.take().unwrap_or_default();
        match self.awaited.front() {
            Some(Said::Content(lines)) => content.extend_from_slice(lines),
            Some(Said::Chunk(chunk, true)) => content.extend_from_slice(chunk),
            said => panic!("a commit after {said:?}"),
        }
        let recipients: Vec<_> = copies.iter().flat_map(|copy| &copy.mail.envelope.recipients).collect();
        let names: BTreeSet<_> = recipients.iter().map(|recipient| recipient.mailbox.to_string()).collect();
        assert_eq!(names, transaction.recipients, "not those that were taken");
        assert_eq!(names.len(), recipients.len(), "somebody gets it twice");
        for copy in copies {
            assert_eq!(copy.mail.envelope.reverse_path.to_string(), transaction.sender);
            let message = copy.mail.message.as_ref().expect("a message");
            let body = message.body.read_at(0, usize::MAX).expect("a body that can be read");
            let octets = [&message.header.to_bytes()[..], b"\r\n", &body].concat();
            // Without a header of its own it is put right; what has one comes through as it is.
            let is_whole = !content.starts_with(b"X-Number:") || is_end(&octets, &content);
            assert!(is_whole, "{:?} became {:?}", content.escape_ascii(), octets.escape_ascii());
        }
        match self.choices.next(4) {
            0 => Err(CommitError::Full),
            1 => Err(CommitError::Failed),
            _ => {
                transaction.committed = true;
                Ok(())
            }
        }
    }
}

/// DATA ends every message with a line end; BDAT leaves it as it is.
fn is_end(octets: &[u8], content: &[u8]) -> bool {
    octets.ends_with(content) || octets.ends_with(&[content, b"\r\n"].concat())
}

/// As a client sends it after 354. A stray line end at the end would hide the terminator, so there is always a true one.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 5);
    let mut at_start = true;
    for &octet in content {
        if at_start && octet == b'.' {
            wire.push(b'.');
        }
        wire.push(octet);
        at_start = wire.ends_with(b"\r\n");
    }
    if !at_start && !wire.is_empty() {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}
