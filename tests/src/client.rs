//! The client's end of a connection.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use crate::escape::show;
use crate::tls::connector;

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub struct Client {
    /// `None` once the client has hung up.
    stream: Option<Box<dyn Stream>>,
    received: BytesMut,
    /// Each octet is a write of its own.
    octet_by_octet: bool,
    patience: Duration,
    pub last_write: Instant,
    pub transcript: Vec<String>,
}

impl Client {
    pub fn new(stream: Box<dyn Stream>, octet_by_octet: bool, patience: Duration) -> Self {
        Self {
            stream: Some(stream),
            received: BytesMut::new(),
            octet_by_octet,
            patience,
            last_write: Instant::now(),
            transcript: Vec::new(),
        }
    }

    pub fn splits(&self) -> bool {
        self.octet_by_octet
    }

    /// A server that has closed meanwhile is no error here: what it said is still to be read.
    pub async fn send(&mut self, octets: &[u8]) {
        for line in octets.split_inclusive(|&b| b == b'\n') {
            self.transcript.push(format!("C: {}", show(line)));
        }
        self.last_write = Instant::now();
        let Some(stream) = &mut self.stream else { return };
        let size = if self.octet_by_octet { 1 } else { octets.len().max(1) };
        for piece in octets.chunks(size) {
            let written = async {
                stream.write_all(piece).await?;
                stream.flush().await
            };
            if timeout(self.patience, written).await.is_ok_and(|written| written.is_ok()) {
                // Lets the server take this piece before the next one comes.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            } else {
                self.transcript.push("   (not taken: closed)".to_owned());
                return;
            }
        }
    }

    /// One line without its CRLF.
    pub async fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(lf) = self.received.iter().position(|&b| b == b'\n') {
                let line = self.received.split_to(lf + 1);
                self.transcript.push(format!("S: {}", show(&line)));
                let text = line.strip_suffix(b"\r\n").ok_or("a reply line without CRLF")?;
                let text = std::str::from_utf8(text).map_err(|_| "a reply that is not UTF-8")?;
                if text.chars().any(char::is_control) {
                    return Err("a reply with a control character".to_owned());
                }
                return Ok(text.to_owned());
            }
            if self.more().await? == 0 {
                let rest = std::mem::take(&mut self.received);
                return Err(format!("closed by the server{}", if rest.is_empty() { "" } else { " within a line" }));
            }
        }
    }

    /// All the lines of one reply.
    pub async fn reply(&mut self) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            let more = line.as_bytes().get(3) == Some(&b'-');
            lines.push(line);
            if !more {
                return Ok(lines);
            }
        }
    }

    /// Waits until the server closes; what it still says is an error.
    pub async fn closed(&mut self) -> Result<(), String> {
        while self.received.is_empty() {
            if self.more().await? == 0 {
                return Ok(());
            }
        }
        Err(format!("the server says more: {}", show(&self.received)))
    }

    /// Says that nothing more will come and reads what there still is.
    pub async fn finish(&mut self) -> Result<(), String> {
        if let Some(stream) = &mut self.stream {
            let _ = timeout(self.patience, stream.shutdown()).await;
            self.closed().await?;
        }
        self.hang_up();
        Ok(())
    }

    pub fn hang_up(&mut self) {
        self.transcript.push("   (client closes)".to_owned());
        self.stream = None;
    }

    pub async fn handshake(&mut self) -> Result<(), String> {
        if !self.received.is_empty() {
            return Err(format!("said before the handshake: {}", show(&self.received)));
        }
        let Some(stream) = self.stream.take() else { return Err("no connection".to_owned()) };
        let (connector, name) = connector();
        let done = timeout(self.patience, connector.connect(name, stream)).await;
        let secured: tokio_rustls::client::TlsStream<_> =
            done.map_err(|_| "the handshake takes too long")?.map_err(|error| format!("handshake: {error}"))?;
        self.transcript.push("   (TLS)".to_owned());
        self.stream = Some(Box::new(secured));
        Ok(())
    }

    /// A server that is gone has closed, however it went.
    async fn more(&mut self) -> Result<usize, String> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        match timeout(self.patience, stream.read_buf(&mut self.received)).await {
            Err(_) => Err("no answer".to_owned()),
            Ok(Ok(octets)) => Ok(octets),
            Ok(Err(error)) if is_close(&error) => Ok(0),
            Ok(Err(error)) => Err(error.to_string()),
        }
    }
}

fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
