//! Octets to and from a next hop: replies with a deadline each, and a strict order of asking and answering.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout};

use super::failure::{Failure, Stage};
use crate::smtp::{ReplyReader, ServerReply};

/// A TCP connection, TLS over one, or a pipe in memory.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(super) type Wire = Box<dyn Io>;

pub(super) struct Channel {
    wire: Wire,
    input: BytesMut,
    reader: ReplyReader,
    deadline: Option<Instant>,
}

/// What lies there unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pending {
    Nothing,
    Octets,
    /// The server has closed.
    End,
}

impl Channel {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire, input: BytesMut::new(), reader: ReplyReader::new(), deadline: None }
    }

    /// Whatever the limits of the single steps are, they end then: all but the reply to the final dot, for a mail of which
    /// nobody knows whether it was taken is sent twice.
    pub(super) fn end_by(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn limit(&self, stage: Stage, limit: Duration) -> Duration {
        match self.deadline {
            Some(deadline) if stage != Stage::Dot => limit.min(deadline.saturating_duration_since(Instant::now())),
            _ => limit,
        }
    }

    /// The next reply; `limit` is for all of it, however slowly it comes. After 421 the server closes
    /// (RFC 5321 §3.8), so it is a failure wherever it comes.
    pub(super) async fn reply(&mut self, stage: Stage, limit: Duration) -> Result<ServerReply, Failure> {
        let limit = self.limit(stage, limit);
        let reply = timeout(limit, self.read_reply(stage)).await.map_err(|_| Failure::TimedOut(stage))??;
        if reply.reply.code() == 421 { Err(Failure::Refused(reply.reply)) } else { Ok(reply) }
    }

    async fn read_reply(&mut self, stage: Stage) -> Result<ServerReply, Failure> {
        loop {
            let mut rest: &[u8] = &self.input;
            let reply = self.reader.read(&mut rest).map_err(|error| Failure::Reply(stage, error))?;
            let used = self.input.len() - rest.len();
            self.input.advance(used);
            if let Some(reply) = reply {
                return Ok(reply);
            }
            self.input.reserve(4096);
            let read = self.wire.read_buf(&mut self.input).await.map_err(|error| lost(stage, &error))?;
            if read == 0 {
                return Err(Failure::Lost(stage, "closed by the server".to_owned()));
            }
        }
    }

    /// Commands, which is the client's turn: what the server has said before, it has said out of turn.
    pub(super) async fn send(&mut self, commands: &[u8], stage: Stage, limit: Duration) -> Result<(), Failure> {
        if !self.input.is_empty() {
            return Err(Failure::Desynchronised(stage));
        }
        self.write(commands, stage, limit).await
    }

    /// Octets, and out with them.
    pub(super) async fn write(&mut self, octets: &[u8], stage: Stage, limit: Duration) -> Result<(), Failure> {
        let limit = self.limit(stage, limit);
        let write = async {
            self.wire.write_all(octets).await?;
            self.wire.flush().await
        };
        match timeout(limit, write).await {
            Ok(written) => written.map_err(|error| lost(stage, &error)),
            Err(_) => Err(Failure::TimedOut(stage)),
        }
    }

    /// Looks without waiting.
    pub(super) async fn pending(&mut self) -> Pending {
        if !self.input.is_empty() {
            return Pending::Octets;
        }
        // The runtime learns of what has arrived only when it gets its turn.
        tokio::task::yield_now().await;
        let mut buffer = [0; 1024];
        let mut buffer = ReadBuf::new(&mut buffer);
        let read = poll_fn(|cx| match Pin::new(&mut self.wire).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Some(true)),
            Poll::Ready(Err(_)) => Poll::Ready(Some(false)),
            Poll::Pending => Poll::Ready(None),
        });
        match read.await {
            None => Pending::Nothing,
            Some(true) if !buffer.filled().is_empty() => {
                self.input.extend_from_slice(buffer.filled());
                Pending::Octets
            }
            Some(_) => Pending::End,
        }
    }

    /// For TLS. What came in the clear behind the reply to STARTTLS was put there by somebody else (SP3), and must not
    /// be read as if it had come over TLS.
    pub(super) fn into_wire(self) -> Result<Wire, Failure> {
        if self.input.is_empty() && self.reader.is_at_start() {
            Ok(self.wire)
        } else {
            Err(Failure::Desynchronised(Stage::StartTls))
        }
    }
}

fn lost(stage: Stage, error: &io::Error) -> Failure {
    Failure::Lost(stage, error.to_string())
}
