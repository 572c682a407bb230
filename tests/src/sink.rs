//! A next hop that writes down what it takes.
//!
//! Recipients choose their fate: `refuse@…` hears 550, `later@…` 451; everybody else is taken. One that is secured speaks TLS
//! from the first octet, with the certificate of [`tls`](crate::tls), and takes mail of who has logged in.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::client::Stream;
use crate::tls::acceptor;

/// A message as it came over the wire, dot-stuffing undone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    pub sender: String,
    pub recipients: Vec<String>,
    pub octets: Vec<u8>,
}

#[derive(Default)]
struct Book {
    taken: Mutex<Vec<Taken>>,
    changed: Notify,
}

#[derive(Clone)]
pub struct Sink {
    pub address: SocketAddr,
    book: Arc<Book>,
}

impl Sink {
    pub async fn start() -> io::Result<Self> {
        Self::listen(None).await
    }

    /// `login`: `\0user\0password` in base64 (RFC 4616).
    pub async fn secured(login: &'static str) -> io::Result<Self> {
        Self::listen(Some(login)).await
    }

    async fn listen(login: Option<&'static str>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let sink = Self { address: listener.local_addr()?, book: Arc::default() };
        let book = sink.book.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let book = book.clone();
                tokio::spawn(async move {
                    match login {
                        None => converse(Box::new(stream), &book, None).await,
                        Some(_) => converse(Box::new(acceptor().accept(stream).await?), &book, login).await,
                    }
                });
            }
        });
        Ok(sink)
    }

    /// The messages, as soon as there are so many.
    pub async fn wait_for(&self, count: usize) -> Vec<Taken> {
        loop {
            let changed = self.book.changed.notified();
            let taken = self.taken();
            if taken.len() >= count {
                return taken;
            }
            changed.await;
        }
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.book.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `login`: without it nothing is taken.
async fn converse(stream: Box<dyn Stream>, book: &Book, login: Option<&str>) -> io::Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut may_send = login.is_none();
    let mut lines = BufReader::new(reader);
    let mut mail = Taken { sender: String::new(), recipients: Vec::new(), octets: Vec::new() };
    writer.write_all(b"220 sink.example ESMTP\r\n").await?;
    loop {
        let Some(line) = line(&mut lines).await? else { return Ok(()) };
        let text = String::from_utf8(line).unwrap_or_default();
        let reply: &[u8] = match text.get(..4).unwrap_or("").to_ascii_uppercase().as_str() {
            "EHLO" if may_send => b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
            "EHLO" => b"250-sink.example\r\n250 AUTH PLAIN\r\n",
            "AUTH" if login == text.trim_end().strip_prefix("AUTH PLAIN ") => {
                may_send = true;
                b"235 welcome\r\n"
            }
            "AUTH" => b"535 5.7.8 no\r\n",
            "MAIL" if !may_send => b"530 5.7.0 who are you?\r\n",
            "MAIL" => {
                mail = Taken { sender: path(&text), recipients: Vec::new(), octets: Vec::new() };
                b"250 ok\r\n"
            }
            "RCPT" if text.contains("<refuse@") => b"550 5.1.1 nobody of that name\r\n",
            "RCPT" if text.contains("<later@") => b"451 4.2.0 come back\r\n",
            "RCPT" => {
                mail.recipients.push(path(&text));
                b"250 ok\r\n"
            }
            "DATA" if mail.recipients.is_empty() => b"554 nobody\r\n",
            "DATA" => {
                writer.write_all(b"354 go on\r\n").await?;
                mail.octets = data(&mut lines).await?;
                book.taken.lock().unwrap_or_else(PoisonError::into_inner).push(mail.clone());
                book.changed.notify_waiters();
                b"250 taken\r\n"
            }
            "QUIT" => return writer.write_all(b"221 bye\r\n").await,
            _ => b"250 ok\r\n",
        };
        writer.write_all(reply).await?;
    }
}

fn path(command: &str) -> String {
    let inside = command.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or_else(String::new, |(path, _)| path.to_owned())
}

/// With its line end; `None` at the end of the connection.
async fn line(lines: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = lines.take(1 << 20).read_until(b'\n', &mut line).await?;
    Ok((read > 0).then_some(line))
}

async fn data(lines: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    loop {
        let line = line(lines).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match line.as_slice() {
            b".\r\n" => return Ok(octets),
            [b'.', rest @ ..] => octets.extend_from_slice(rest),
            line => octets.extend_from_slice(line),
        }
    }
}
