//! A next hop that says what a test wants it to say, and writes down every octet that it is sent.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

#[derive(Default)]
struct Book {
    /// The octets of each connection.
    heard: Mutex<Vec<Vec<u8>>>,
    changed: Notify,
}

impl Book {
    fn write(&self, connection: usize, octets: &[u8]) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = heard.len().max(connection + 1);
        heard.resize(connections, Vec::new());
        heard[connection].extend_from_slice(octets);
        drop(heard);
        self.changed.notify_waiters();
    }
}

/// Ends with the test's runtime.
#[derive(Clone)]
pub struct Hop {
    pub address: SocketAddr,
    book: Arc<Book>,
}

/// What is said to a line; `None`: nothing, and the connection is closed.
pub type Reply = Option<Vec<u8>>;

impl Hop {
    /// `reply` is asked for each line, without its line end: an empty one stands for the connection itself, a dot for the
    /// end of data. After a reply that begins with `354` comes data, up to CRLF.CRLF.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let hop = Self { address: listener.local_addr()?, book: Arc::default() };
        let (book, reply) = (hop.book.clone(), Arc::new(reply));
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (book, reply) = (book.clone(), reply.clone());
                book.write(connection, b"");
                tokio::spawn(async move {
                    let mut ear = Ear { stream, input: Vec::new(), book, connection };
                    converse(&mut ear, &*reply).await
                });
            }
        });
        Ok(hop)
    }

    /// The octets of each connection so far.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.book.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, once it is so.
    pub async fn wait_until(&self, so: impl Fn(&[Vec<u8>]) -> bool) -> Vec<Vec<u8>> {
        loop {
            let changed = self.book.changed.notified();
            let heard = self.heard();
            if so(&heard) {
                return heard;
            }
            changed.await;
        }
    }
}

/// What a server says that takes everything.
pub fn taking(line: &str) -> Reply {
    let said: &[u8] = match line.get(..4).unwrap_or(line).to_ascii_uppercase().as_str() {
        "" => b"220 hop.example ESMTP\r\n",
        "EHLO" => b"250-hop.example\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
        "DATA" => b"354 go on\r\n",
        "QUIT" => b"221 bye\r\n",
        _ => b"250 2.0.0 ok\r\n",
    };
    Some(said.to_vec())
}

struct Ear {
    stream: TcpStream,
    input: Vec<u8>,
    book: Arc<Book>,
    connection: usize,
}

impl Ear {
    /// The octets up to the end that is looked for; those after it stay.
    async fn until(&mut self, end: fn(&[u8]) -> Option<usize>) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = end(&self.input) {
                return Ok(self.input.drain(..end).collect());
            }
            let before = self.input.len();
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.book.write(self.connection, &self.input[before..]);
        }
    }
}

async fn converse(ear: &mut Ear, reply: &(impl Fn(&str) -> Reply + Sync)) -> io::Result<()> {
    let mut line = String::new();
    loop {
        let Some(said) = reply(&line) else { return Ok(()) };
        ear.stream.write_all(&said).await?;
        line = if said.starts_with(b"354") {
            ear.until(end_of_data).await?;
            ".".to_owned()
        } else {
            let octets = ear.until(|input| input.iter().position(|&b| b == b'\n').map(|at| at + 1)).await?;
            octets.trim_ascii_end().escape_ascii().to_string()
        };
    }
}

fn end_of_data(input: &[u8]) -> Option<usize> {
    if input.starts_with(b".\r\n") {
        return Some(3);
    }
    input.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 5)
}
