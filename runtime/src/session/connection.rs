//! Drives a machine over a stream: reads, writes, handshakes, deadlines; and has its questions answered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::authentication::password_is_right;
use super::clock::Clock;
use super::machine::{Answer, Gateway, Input, Machine, Output, Peer, Question, Waiting};
use super::reception::Reception;
use super::settings::{Listener, TlsMode};
use crate::log::Record;
use crate::mail::{Mail, MessageId};
use crate::pipeline::{RecordedSession, Stage, TlsFacts};
use crate::smtp::Reply;

/// Space for one read. Small while a session waits for commands: thousands of sessions may.
const COMMAND_READ: usize = 1024;
/// Space for the first read of a message, and the most: four times as much each time that it was filled.
const DATA_READ: usize = 16 * 1024;
const MAX_DATA_READ: usize = 64 * 1024;
/// Octets, and time, that a client who was told to go may still send before the connection is reset.
const MAX_DRAIN: u64 = 64 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// A mail that the chains have taken and the spool has not yet.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub mail: Mail,
    pub session: RecordedSession,
    pub outbound: bool,
    /// By login or by network: a DSN about it goes to somebody who exists.
    pub authenticated: bool,
    /// To be kept in quarantine, for this reason.
    pub kept_back: Option<String>,
    /// The copy under whose id the session has been logged, when this is another one of the same mail.
    pub origin: Option<MessageId>,
}

/// Why accepted mail was not made durable. Never the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitError {
    Full,
    Failed,
}

/// Takes over the responsibility for mail (RFC 5321 §4.2.5): the queue, or a test's own.
pub trait Services: Send + Sync {
    /// All of the copies are durable when it resolves to `Ok`, or none is kept.
    fn commit(&self, copies: Vec<Accepted>) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send + '_>>;
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What a connection needs besides its stream.
#[derive(Clone)]
pub struct Context {
    pub gateway: Arc<Gateway>,
    pub listener: Arc<Listener>,
    pub services: Arc<dyn Services>,
    /// `None`: no certificate is configured.
    pub tls: Option<TlsAcceptor>,
    /// Turns true when the gateway stops.
    pub stopping: watch::Receiver<bool>,
}

impl Context {
    pub fn new(
        gateway: Arc<Gateway>,
        listener: Arc<Listener>,
        services: Arc<dyn Services>,
        tls: Option<TlsAcceptor>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { gateway, listener, services, tls, stopping }
    }
}

/// One session, from the first octet to the close. `unavailable`: what to say instead of a banner.
pub async fn serve(stream: impl Stream + 'static, context: Context, peer: Peer, unavailable: Option<Reply>) {
    let metrics = context.gateway.clerk.metrics.clone();
    metrics.sessions.with_label_values(&[context.listener.role.name()]).inc();
    let _open = Open::new(metrics.sessions_open.clone());
    let id = peer.id;
    let end = match run(Box::new(stream), &context, peer, unavailable).await {
        Ok(()) => "closed".to_owned(),
        Err(error) => error.to_string(),
    };
    context.gateway.clerk.log.emit(Record::new("disconnect").session(id).text("end", end));
}

/// Counts as an open session until it is dropped, also when the session is cut off.
struct Open(IntGauge);

impl Open {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn run(stream: Box<dyn Stream>, context: &Context, mut peer: Peer, unavailable: Option<Reply>) -> io::Result<()> {
    let mut clock = Clock::new(context);
    let mut stream = stream;
    if context.listener.tls == TlsMode::Implicit {
        if !context.gateway.admits_handshake(peer.client) {
            return Err(io::Error::other("too many TLS handshakes from this address"));
        }
        (stream, peer.tls) = handshake(stream, context, clock.now_in_force().tls_handshake).await?;
    }
    let mut machine = Machine::new(context.gateway.clone(), context.listener.clone(), peer);
    let mut buffer = BytesMut::new();
    let mut space = COMMAND_READ;
    let mut input = Input::Start { unavailable };
    loop {
        input = match machine.step(input, &mut buffer) {
            Output::Read(waiting) => {
                let replies = machine.take_replies();
                if waiting == Waiting::Command && buffer.is_empty() && buffer.capacity() > 2 * COMMAND_READ {
                    // The space that a message needed is not kept for an idle session.
                    buffer = BytesMut::new();
                }
                write(&mut stream, &replies, clock.now_in_force().write).await?;
                clock.start(waiting, !replies.is_empty(), &machine);
                space = if waiting == Waiting::Data { space.max(DATA_READ) } else { COMMAND_READ };
                let before = buffer.len();
                buffer.reserve(space);
                match read(&mut stream, &mut buffer, waiting, &mut clock, context).await? {
                    Some(input) => {
                        if waiting == Waiting::Data && buffer.len() - before >= space {
                            space = (4 * space).min(MAX_DATA_READ);
                        }
                        input
                    }
                    None => return Ok(()),
                }
            }
            Output::Ask(question) => {
                let connecting = matches!(question, Question::Hear(Stage::Connect, ..));
                let answer = answer(question, context).await;
                if connecting {
                    peek(&mut stream, &mut buffer).await?;
                }
                Input::Answered(answer)
            }
            Output::StartTls => {
                write(&mut stream, &machine.take_replies(), clock.now_in_force().write).await?;
                let (secured, facts) = handshake(stream, context, clock.now_in_force().tls_handshake).await?;
                stream = secured;
                let Some(facts) = facts else { return Ok(()) };
                machine = machine.after_tls(facts);
                clock.answered();
                Input::Octets
            }
            Output::Close => {
                let limit = clock.now_in_force().write;
                write(&mut stream, &machine.take_replies(), limit).await?;
                // The client may be gone already.
                let _ = timeout(limit, stream.shutdown()).await;
                if !buffer.is_empty() {
                    let _ = timeout(LINGER, drain(&mut stream)).await;
                }
                return Ok(());
            }
        };
    }
}

/// Fills the space of the buffer, or some of it. `None`: the client has closed.
async fn read(
    stream: &mut Box<dyn Stream>,
    buffer: &mut BytesMut,
    waiting: Waiting,
    clock: &mut Clock,
    context: &Context,
) -> io::Result<Option<Input>> {
    let mut stopping = context.stopping.clone();
    let stopped = async {
        if waiting == Waiting::Data || stopping.wait_for(|stopping| *stopping).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(stopped);
    let began = Instant::now();
    loop {
        let deadline = clock.deadline(waiting, began);
        tokio::select! {
            read = timeout_at(deadline, stream.read_buf(buffer)) => return match read {
                Err(_) => Ok(Some(Input::TimedOut)),
                Ok(Ok(0)) => Ok(None),
                Ok(Ok(octets)) => {
                    clock.came(octets, began);
                    Ok(Some(Input::Octets))
                }
                Ok(Err(error)) => Err(error),
            },
            () = &mut stopped => return Ok(Some(Input::ShutDown)),
            () = clock.overload_changed() => {}
        }
    }
}

/// What the client has sent already, without waiting for it.
async fn peek(stream: &mut Box<dyn Stream>, buffer: &mut BytesMut) -> io::Result<()> {
    buffer.reserve(COMMAND_READ);
    tokio::select! {
        biased;
        read = stream.read_buf(buffer) => read.map(|_| ()),
        () = std::future::ready(()) => Ok(()),
    }
}

/// Takes what a client still sends that was told to go. Closing a socket with unread octets resets the connection, and
/// the reset can overtake our reply.
async fn drain(stream: &mut Box<dyn Stream>) -> io::Result<()> {
    let mut unread = (&mut *stream).take(MAX_DRAIN);
    tokio::io::copy(&mut unread, &mut tokio::io::sink()).await.map(|_| ())
}

async fn write(stream: &mut Box<dyn Stream>, octets: &[u8], limit: Duration) -> io::Result<()> {
    if octets.is_empty() {
        return Ok(());
    }
    let writing = async {
        stream.write_all(octets).await?;
        stream.flush().await
    };
    timeout(limit, writing).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn handshake(
    stream: Box<dyn Stream>,
    context: &Context,
    limit: Duration,
) -> io::Result<(Box<dyn Stream>, Option<TlsFacts>)> {
    let handshakes = &context.gateway.clerk.metrics.tls_handshakes;
    let Some(acceptor) = &context.tls else { return Err(io::Error::other("no certificate is configured")) };
    let Ok(result) = timeout(limit, acceptor.accept(stream)).await else {
        handshakes.with_label_values(&["timeout"]).inc();
        return Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake took too long"));
    };
    handshakes.with_label_values(&[if result.is_ok() { "ok" } else { "failed" }]).inc();
    let stream = result?;
    let (_, tls) = stream.get_ref();
    let facts = TlsFacts {
        version: tls.protocol_version().map_or_else(String::new, |version| format!("{version:?}")),
        cipher: tls.negotiated_cipher_suite().map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        sni: tls.server_name().map(str::to_owned),
    };
    Ok((Box::new(stream), Some(facts)))
}

async fn answer(question: Question, context: &Context) -> Answer {
    let clerk = &context.gateway.clerk;
    match question {
        Question::Hear(stage, recipient, mut hearing) => {
            let verdict = match (stage, recipient) {
                (Stage::Rcpt, Some(recipient)) => hearing.rcpt(clerk, &recipient).await,
                (Stage::Data, _) => hearing.data(clerk).await,
                _ => hearing.early(clerk, stage).await,
            };
            Answer::Heard(hearing, verdict)
        }
        Question::Verify { hash, credentials } => {
            let _permit = context.gateway.verifications.acquire().await;
            let check = move || password_is_right(hash.as_deref(), &credentials.password);
            Answer::Verified(tokio::task::spawn_blocking(check).await.unwrap_or(false))
        }
        Question::Flush(reception) => flush(reception).await,
        Question::Finish(reception) if reception.is_in_memory() => Answer::Finished(reception.finish()),
        Question::Finish(reception) => {
            let finished = tokio::task::spawn_blocking(move || reception.finish()).await;
            Answer::Finished(finished.unwrap_or_else(|error| Ok(Err(io::Error::other(error)))))
        }
        Question::Commit(copies) => Answer::Committed(context.services.commit(copies).await),
        Question::Wait(time) => {
            tokio::time::sleep(time).await;
            Answer::Waited
        }
    }
}

async fn flush(mut reception: Box<Reception>) -> Answer {
    let written = tokio::task::spawn_blocking(move || {
        let result = reception.flush();
        (reception, result)
    });
    match written.await {
        Ok((reception, result)) => Answer::Flushed(reception, result),
        // The reception is lost with the task; the machine closes on an answer that doesn't fit.
        Err(_) => Answer::Waited,
    }
}
