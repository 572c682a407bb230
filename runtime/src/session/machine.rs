//! The protocol of one session, without I/O.
//!
//! [`Machine::step`] takes octets or the answer to its last question and gives what to do next: read, answer a question,
//! start TLS or close. Replies gather in [`Machine::take_replies`]; they are written when the machine wants to read, so
//! pipelined commands are answered together (RFC 2920). Every verb takes three steps: *check* sequence and syntax, let
//! the chains *judge*, *proceed*.

mod command;
mod greeting;
mod login;
mod mail;
mod message;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::sync::{OnceCell, Semaphore};

use super::authentication::{Credentials, Exchange};
use super::connection::{Accepted, CommitError};
use super::overload::Overload;
use super::reception::{Reception, Unacceptable};
use super::settings::{Listener, Settings, Snapshot};
use super::transaction::Transaction;
use crate::log::Record;
use crate::mail::{Mail, Message, Recipient};
use crate::pipeline::{
    Clerk, ClientName, Direction, Hearing, Helo, SessionFacts, SessionId, SessionStanding, Stage, TlsFacts,
    TransactionStanding, Verdict,
};
use crate::smtp::Reply;
use crate::smtp::data::LineEnds;
use crate::smtp::line::{Line, LineReader, MAX_AUTH, MAX_COMMAND, starts_with};
use crate::tenancy::User;

/// How long an answer waits that is meant to slow a session down.
const SLOW_DOWN: Duration = Duration::from_secs(1);

/// Passwords that are compared at one time: argon2 takes some 20 MiB for each.
const VERIFICATIONS: usize = 4;

/// What all sessions share.
pub struct Gateway {
    pub current: ArcSwap<Snapshot>,
    pub clerk: Clerk,
    /// The spool can take so many octets more.
    pub has_room: Box<dyn Fn(u64) -> bool + Send + Sync>,
    /// A client has written to a mailbox that does not exist (R72).
    pub unknown_recipient: UnknownRecipient,
    /// Passwords that may be compared now.
    pub verifications: Semaphore,
    /// Whether this client may begin a TLS handshake now (RS11).
    admits_handshake: AdmitsHandshake,
    pub overload: Arc<Overload>,
}

/// Counts a client's address.
pub type UnknownRecipient = Box<dyn Fn(IpAddr) + Send + Sync>;
pub type AdmitsHandshake = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

impl Gateway {
    pub fn new(snapshot: Snapshot, clerk: Clerk, has_room: Box<dyn Fn(u64) -> bool + Send + Sync>) -> Self {
        let verifications = Semaphore::new(VERIFICATIONS);
        let overload = Arc::new(Overload::new(clerk.clone()));
        Self {
            current: ArcSwap::from_pointee(snapshot),
            clerk,
            has_room,
            unknown_recipient: Box::new(|_| ()),
            verifications,
            admits_handshake: Box::new(|_| true),
            overload,
        }
    }

    #[must_use]
    pub fn with_unknown_recipients(mut self, count: UnknownRecipient) -> Self {
        self.unknown_recipient = count;
        self
    }

    #[must_use]
    pub fn with_handshakes(mut self, admits: AdmitsHandshake) -> Self {
        self.admits_handshake = admits;
        self
    }

    pub(super) fn admits_handshake(&self, client: SocketAddr) -> bool {
        let admitted = (self.admits_handshake)(client.ip());
        if !admitted {
            self.clerk.metrics.tls_handshakes.with_label_values(&["refused"]).inc();
        }
        admitted
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    pub id: SessionId,
    /// After PROXY and XCLIENT.
    pub client: SocketAddr,
    /// The address that really connected; what may be said in somebody's name depends on it alone.
    pub connecting: SocketAddr,
    pub local: SocketAddr,
    pub client_name: Arc<OnceCell<ClientName>>,
    pub concurrent: u32,
    pub tls: Option<TlsFacts>,
}

pub enum Input {
    /// The connection is there (and TLS, on an implicit one). `unavailable`: why no session can be had now.
    Start {
        unavailable: Option<Reply>,
    },
    /// There may be new octets in the buffer.
    Octets,
    Answered(Answer),
    TimedOut,
    /// The gateway stops: whoever is between commands is told.
    ShutDown,
}

pub enum Output {
    /// Write the replies, then get more octets.
    Read(Waiting),
    Ask(Question),
    /// Write the replies, then do the handshake and go on with [`Machine::after_tls`].
    StartTls,
    /// Write the replies and close.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// For a command line.
    Command,
    /// For octets of a message.
    Data,
}

/// What only somebody with I/O can answer.
pub enum Question {
    Hear(Stage, Option<Recipient>, Box<Hearing>),
    Verify {
        hash: Option<Box<str>>,
        credentials: Credentials,
    },
    Flush(Box<Reception>),
    Finish(Box<Reception>),
    Commit(Vec<Accepted>),
    /// Nothing, but only after this time. The replies wait too.
    Wait(Duration),
}

pub enum Answer {
    Heard(Box<Hearing>, Verdict),
    Verified(bool),
    Flushed(Box<Reception>, io::Result<()>),
    Finished(Result<io::Result<Message>, Unacceptable>),
    Committed(Result<(), CommitError>),
    Waited,
}

enum State {
    Command,
    Auth(Exchange),
    Data,
    /// Octets of a BDAT chunk that are still to come. `refused`: they are thrown away, and this was said.
    Chunk {
        remaining: u64,
        size: u64,
        last: bool,
        refused: Option<Reply>,
    },
    Asked(Pending),
    Closed,
}

/// What goes on when the question is answered.
enum Pending {
    Connect,
    Helo,
    /// The HELO of XCLIENT: it is judged, and the answer is the banner.
    HeloOfXClient,
    Mail,
    Rcpt(Recipient, Box<Fallback>),
    Flush(Box<State>),
    Finish,
    Data,
    Commit,
    Verify(Arc<User>),
    VerifyNobody,
    Wait,
}

/// How the transaction was before a recipient, in case it is refused.
struct Fallback {
    mail: Arc<Mail>,
    /// What the tenant's chain has heard and said, when the recipient would have fixed the tenant.
    standing: Option<TransactionStanding>,
}

/// What a handler wants next.
enum Next {
    GoOn,
    Ask(Question, Pending),
    StartTls,
    Close,
}

pub struct Machine {
    gateway: Arc<Gateway>,
    listener: Arc<Listener>,
    settings: Arc<Settings>,
    peer: Peer,
    line_ends: LineEnds,
    greeted: Option<Helo>,
    user: Option<Arc<User>>,
    standing: SessionStanding,
    transaction: Option<Transaction>,
    lines: LineReader,
    errors: u32,
    junk: u32,
    /// Mails that were answered 250.
    taken: u32,
    state: State,
    replies: Vec<u8>,
    /// The command that is being answered, for the log and metrics.
    verb: &'static str,
}

impl Machine {
    pub fn new(gateway: Arc<Gateway>, listener: Arc<Listener>, peer: Peer) -> Self {
        let settings = gateway.current.load().settings.clone();
        let client = peer.client.ip().to_canonical();
        let normalize = listener.normalize_from.iter().any(|network| network.contains(&client));
        Self {
            line_ends: if normalize { LineEnds::Normalize } else { LineEnds::Strict },
            gateway,
            listener,
            settings,
            peer,
            greeted: None,
            user: None,
            standing: SessionStanding::default(),
            transaction: None,
            lines: LineReader::default(),
            errors: 0,
            junk: 0,
            taken: 0,
            state: State::Asked(Pending::Connect),
            replies: Vec::new(),
            verb: "connect",
        }
    }

    /// RFC 3207 §4.2: what was said before the handshake is forgotten, but for what connection and misbehaviour tell.
    pub fn after_tls(self, tls: TlsFacts) -> Self {
        let mut standing = self.standing;
        standing.forget_helo();
        let peer = Peer { tls: Some(tls), ..self.peer };
        let fresh = Self::new(self.gateway, self.listener, peer);
        Self { standing, errors: self.errors, junk: self.junk, state: State::Command, ..fresh }
    }

    /// A message is on its way, be it between two chunks.
    pub fn is_receiving(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.reception.is_some())
    }

    /// Mails that this session has brought.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    pub fn step(&mut self, input: Input, buffer: &mut BytesMut) -> Output {
        let mut next = match input {
            Input::Start { unavailable: Some(reply) } => {
                self.say(&reply);
                Next::Close
            }
            Input::Start { unavailable: None } => self.begin(),
            Input::Octets => Next::GoOn,
            Input::Answered(answer) => self.answered(answer, buffer),
            Input::TimedOut => {
                self.say(&Reply::timed_out(&self.settings.host_name));
                Next::Close
            }
            Input::ShutDown => {
                self.say(&Reply::shutting_down(&self.settings.host_name));
                Next::Close
            }
        };
        loop {
            match next {
                Next::GoOn => {}
                Next::Ask(question, pending) => {
                    self.state = State::Asked(pending);
                    return Output::Ask(question);
                }
                Next::StartTls => return Output::StartTls,
                Next::Close => {
                    self.state = State::Closed;
                    return Output::Close;
                }
            }
            let lenient = self.line_ends == LineEnds::Normalize;
            next = match &self.state {
                State::Command => match self.lines.next(buffer, max_line(buffer), lenient) {
                    Line::Incomplete => return Output::Read(Waiting::Command),
                    line => self.command_line(line, buffer),
                },
                State::Auth(_) => match self.lines.next(buffer, MAX_AUTH, lenient) {
                    Line::Incomplete => return Output::Read(Waiting::Command),
                    line => self.auth_line(line),
                },
                State::Data | State::Chunk { remaining: 1.., .. } if buffer.is_empty() => {
                    return Output::Read(Waiting::Data);
                }
                State::Data => self.read_data(buffer),
                State::Chunk { .. } => self.read_chunk(buffer),
                // An answer that does not fit the question can only be our own mistake.
                State::Asked(_) | State::Closed => return Output::Close,
            };
        }
    }

    fn answered(&mut self, answer: Answer, buffer: &BytesMut) -> Next {
        let State::Asked(pending) = std::mem::replace(&mut self.state, State::Command) else { return Next::Close };
        match (pending, answer) {
            (Pending::Connect, Answer::Heard(hearing, verdict)) => {
                self.take_back(*hearing);
                self.proceed_connect(verdict, buffer)
            }
            (Pending::Helo, Answer::Heard(hearing, verdict)) => {
                self.take_back(*hearing);
                self.proceed_helo(verdict)
            }
            (Pending::HeloOfXClient, Answer::Heard(hearing, verdict)) => {
                self.take_back(*hearing);
                self.proceed_banner(verdict)
            }
            (Pending::Mail, Answer::Heard(hearing, verdict)) => {
                self.take_back(*hearing);
                self.proceed_mail(verdict)
            }
            (Pending::Rcpt(recipient, fallback), Answer::Heard(hearing, verdict)) => {
                self.take_back(*hearing);
                self.proceed_rcpt(recipient, fallback, verdict)
            }
            (Pending::Flush(state), Answer::Flushed(reception, result)) => {
                self.state = *state;
                self.proceed_flush(*reception, result)
            }
            (Pending::Finish, Answer::Finished(result)) => self.proceed_finish(result),
            (Pending::Data, Answer::Heard(hearing, verdict)) => {
                self.take_back(*hearing);
                self.proceed_data(verdict)
            }
            (Pending::Commit, Answer::Committed(result)) => self.proceed_commit(result),
            (Pending::Verify(user), Answer::Verified(right)) => self.proceed_verify(right.then_some(user)),
            (Pending::VerifyNobody, Answer::Verified(_)) => self.proceed_verify(None),
            (Pending::Wait, Answer::Waited) => Next::GoOn,
            _ => Next::Close,
        }
    }

    /// Puts a reply into the buffer, into the log and on the counters.
    fn say(&mut self, reply: &Reply) {
        reply.write(&mut self.replies);
        let class = match reply.class() {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.gateway.clerk.metrics.replies.with_label_values(&[self.verb, class]).inc();
        let record = self.record("reply").text("verb", self.verb).number("code", reply.code().into());
        self.gateway.clerk.log.emit(record.text("text", reply));
    }

    /// A reply to something that was wrong. Many of them slow the session down, more of them end it.
    fn complain(&mut self, reply: Reply) -> Next {
        self.say(&reply);
        self.errors += 1;
        // A session that is slowed down keeps its place meanwhile: not when places are scarce.
        let (max, slow) = match self.gateway.overload.is_on() {
            true => (self.settings.max_errors.min(self.settings.strain.max_errors), false),
            false => (self.settings.max_errors, self.errors > self.settings.max_errors / 2),
        };
        if self.errors > max {
            self.say(&Reply::too_many_errors());
            return Next::Close;
        }
        if slow {
            return Next::Ask(Question::Wait(SLOW_DOWN), Pending::Wait);
        }
        Next::GoOn
    }

    fn record(&self, event: &'static str) -> Record {
        let record = Record::new(event).session(self.peer.id);
        match &self.transaction {
            Some(transaction) => record.id(transaction.mail.id),
            None => record,
        }
    }

    fn facts(&self) -> Arc<SessionFacts> {
        // One snapshot from MAIL to the reply.
        let directory = match &self.transaction {
            Some(transaction) => transaction.snapshot.directory.clone(),
            None => self.gateway.current.load().directory.clone(),
        };
        Arc::new(SessionFacts {
            id: self.peer.id,
            client: self.peer.client,
            local: self.peer.local,
            listener: self.listener.name.clone(),
            role: self.listener.role,
            client_name: self.peer.client_name.clone(),
            concurrent: self.peer.concurrent,
            helo: self.greeted.clone(),
            tls: self.peer.tls.clone(),
            login: self.user.as_ref().map(|user| user.login.clone()),
            trusted: directory.trusted(self.peer.client.ip()).is_some(),
        })
    }

    /// Hands out what a hearing needs; [`take_back`](Self::take_back) puts it in its place again.
    fn hearing(&mut self) -> Box<Hearing> {
        let facts = self.facts();
        let session = std::mem::take(&mut self.standing);
        let current = self.gateway.current.load();
        let direction = if facts.is_outbound() { Direction::Outbound } else { Direction::Inbound };
        let mut hearing = Hearing {
            chains: current.chains.clone(),
            session,
            transaction: TransactionStanding::default(),
            facts,
            mail: None,
            direction,
            tenant: None,
            reseller: None,
        };
        if let Some(transaction) = &mut self.transaction {
            hearing.chains = transaction.snapshot.chains.clone();
            hearing.transaction = std::mem::take(&mut transaction.standing);
            hearing.direction = transaction.direction;
            hearing.mail = Some(transaction.mail.clone());
            hearing.tenant = transaction.tenant.as_ref().map(|tenant| tenant.name.clone());
            hearing.reseller = transaction.tenant.as_ref().and_then(|tenant| tenant.reseller.clone());
        }
        Box::new(hearing)
    }

    fn take_back(&mut self, hearing: Hearing) {
        self.standing = hearing.session;
        if let (Some(transaction), Some(mail)) = (&mut self.transaction, hearing.mail) {
            transaction.standing = hearing.transaction;
            transaction.mail = mail;
        }
    }
}

/// RFC 4954 §4: a line with an initial response may be longer than other commands.
fn max_line(buffer: &BytesMut) -> usize {
    if starts_with(buffer, b"AUTH ") { MAX_AUTH } else { MAX_COMMAND }
}
