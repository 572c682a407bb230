//! A next hop with bad manners: at the steps that a test names it does something else than it should, then it behaves again.
//!
//! Recipients `refuse@…` hear 550, `later@…` 451, as long as they are not forgiven; what is taken is written down.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::sink::Taken;

/// What it does in the place of the reply to a step.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Says these octets, and goes on.
    Says(Vec<u8>),
    /// Says these octets, and closes.
    Leaves(Vec<u8>),
    /// Reads on, and says nothing more.
    Hangs,
    /// Says nothing more (in the place of the reply to DATA: after it), and reads nothing: the window closes.
    Stalls,
    /// As before, but reads an octet every ten milliseconds.
    Sips,
    /// Says a line without end, an octet every ten milliseconds.
    Drips,
    /// Ends the connection with RST.
    Resets,
    /// Replies as it should, and closes.
    Closes,
    /// Replies as it should, but only after so long.
    Waits(Duration),
}

#[derive(Default)]
struct Script {
    /// For how many times still.
    faults: HashMap<String, (usize, Fault)>,
    extensions: Vec<String>,
    forgiving: bool,
}

#[derive(Default)]
struct Book {
    script: Mutex<Script>,
    taken: Mutex<Vec<Taken>>,
    commands: Mutex<Vec<String>>,
    connections: AtomicUsize,
    under_way: AtomicUsize,
    starts: Mutex<Vec<(usize, usize)>>,
}

/// Ends with the test's runtime.
#[derive(Clone)]
pub struct NextHop {
    pub address: SocketAddr,
    book: Arc<Book>,
}

impl NextHop {
    /// # Errors
    /// No port is free.
    pub async fn start() -> io::Result<Self> {
        Self::start_at("127.0.0.1:0").await
    }

    /// # Errors
    /// The address is not free.
    pub async fn start_at(address: &str) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address.parse().map_err(io::Error::other)?)?;
        Self::listen(socket.listen(1024)?)
    }

    fn listen(listener: TcpListener) -> io::Result<Self> {
        let hop = Self { address: listener.local_addr()?, book: Arc::default() };
        hop.offer(&["PIPELINING", "8BITMIME", "SMTPUTF8"]);
        let book = hop.book.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                book.connections.fetch_add(1, Ordering::Relaxed);
                let talk = Talk { stream, input: Vec::new(), book: book.clone(), mail: Taken::default(), begun: false };
                tokio::spawn(talk.converse());
            }
        });
        Ok(hop)
    }

    /// What it offers in its reply to EHLO.
    pub fn offer(&self, extensions: &[&str]) -> &Self {
        self.script().extensions = extensions.iter().map(|&extension| extension.to_owned()).collect();
        self
    }

    /// At the next so many of these steps: `connect`, a verb, or `.` for the end of data.
    pub fn fails(&self, step: &str, times: usize, fault: Fault) -> &Self {
        self.script().faults.insert(step.to_owned(), (times, fault));
        self
    }

    /// From now on it behaves.
    pub fn recover(&self) {
        let mut script = self.script();
        script.faults.clear();
        script.forgiving = true;
    }

    pub fn taken(&self) -> Vec<Taken> {
        lock(&self.book.taken).clone()
    }

    /// Without their line ends, of all connections.
    pub fn commands(&self) -> Vec<String> {
        lock(&self.book.commands).clone()
    }

    pub fn connections(&self) -> usize {
        self.book.connections.load(Ordering::Relaxed)
    }

    /// For each MAIL in turn: how many mails were under way then, it included, and how many had been taken.
    pub fn starts(&self) -> Vec<(usize, usize)> {
        lock(&self.book.starts).clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.book.script()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }

    fn fault(&self, step: &str) -> Option<Fault> {
        let mut script = self.script();
        let (times, fault) = script.faults.get_mut(step).filter(|(times, _)| *times > 0)?;
        *times = times.saturating_sub(1);
        Some(fault.clone())
    }
}

struct Talk {
    stream: TcpStream,
    input: Vec<u8>,
    book: Arc<Book>,
    mail: Taken,
    /// Between MAIL and the end of its data.
    begun: bool,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.end();
    }
}

impl Talk {
    async fn converse(mut self) -> io::Result<()> {
        self.reply("connect", "220 hop.example ESMTP").await?;
        loop {
            let line = self.line().await?;
            let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
            lock(&self.book.commands).push(line.clone());
            let usual = self.usual(&verb, &line);
            let is_usual = self.reply(&verb, &usual).await?;
            match verb.as_str() {
                "QUIT" => return Ok(()),
                "MAIL" if is_usual => self.begin(path(&line)),
                "RCPT" if is_usual && usual.starts_with("250") => self.mail.recipients.push(path(&line)),
                "DATA" if is_usual && usual.starts_with("354") => self.receive().await?,
                _ => {}
            }
        }
    }

    fn usual(&self, verb: &str, line: &str) -> String {
        let script = self.book.script();
        let usual = match verb {
            "EHLO" => {
                let keywords = script.extensions.iter().map(|keyword| format!("250-{keyword}\r\n")).collect::<String>();
                return format!("250-hop.example\r\n{keywords}250 HELP");
            }
            "RCPT" if !self.begun => "503 5.5.1 of whom?",
            "RCPT" if line.contains("<refuse@") && !script.forgiving => "550 5.1.1 nobody of that name",
            "RCPT" if line.contains("<later@") && !script.forgiving => "451 4.2.0 come back",
            "DATA" if self.mail.recipients.is_empty() => "554 5.5.1 nobody",
            "DATA" => "354 go on",
            "QUIT" => "221 2.0.0 bye",
            _ => "250 2.0.0 ok",
        };
        usual.to_owned()
    }

    async fn receive(&mut self) -> io::Result<()> {
        self.mail.octets = self.content().await?;
        let refuses = match self.book.script().faults.get(".") {
            Some((1.., Fault::Says(octets) | Fault::Leaves(octets))) => {
                octets.starts_with(b"4") || octets.starts_with(b"5")
            }
            _ => false,
        };
        if !refuses {
            lock(&self.book.taken).push(self.mail.clone());
        }
        self.reply(".", "250 2.0.0 taken").await?;
        self.end();
        Ok(())
    }

    fn begin(&mut self, sender: String) {
        self.end();
        self.begun = true;
        self.mail.sender = sender;
        let under_way = self.book.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        let done = lock(&self.book.taken).len();
        lock(&self.book.starts).push((under_way, done));
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.begun) {
            self.book.under_way.fetch_sub(1, Ordering::SeqCst);
        }
        self.mail = Taken::default();
    }

    /// True when the reply was the usual one.
    async fn reply(&mut self, step: &str, usual: &str) -> io::Result<bool> {
        let usual = format!("{usual}\r\n");
        match self.book.fault(step) {
            None => self.stream.write_all(usual.as_bytes()).await.map(|()| true),
            Some(Fault::Says(octets)) => self.stream.write_all(&octets).await.map(|()| false),
            Some(Fault::Leaves(octets)) => {
                self.stream.write_all(&octets).await?;
                self.leave().await
            }
            Some(Fault::Closes) => {
                self.stream.write_all(usual.as_bytes()).await?;
                self.leave().await
            }
            Some(Fault::Waits(time)) => {
                tokio::time::sleep(time).await;
                self.stream.write_all(usual.as_bytes()).await.map(|()| true)
            }
            Some(Fault::Resets) => {
                self.stream.set_zero_linger()?;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Some(Fault::Hangs) => loop {
                self.fill().await?;
                self.input.clear();
            },
            Some(Fault::Stalls) => {
                if step == "DATA" {
                    self.stream.write_all(usual.as_bytes()).await?;
                }
                // Until the client has gone, as far as that can be seen without reading.
                std::future::pending().await
            }
            Some(Fault::Sips) => {
                if step == "DATA" {
                    self.stream.write_all(usual.as_bytes()).await?;
                }
                loop {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    self.stream.read_u8().await?;
                }
            }
            Some(Fault::Drips) => {
                self.stream.write_all(b"250-").await?;
                loop {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    self.stream.write_all(b"a").await?;
                }
            }
        }
    }

    /// Closes, and reads what still comes: else the system would send RST, and what was said last could be lost.
    async fn leave(&mut self) -> io::Result<bool> {
        self.stream.shutdown().await?;
        loop {
            self.fill().await?;
            self.input.clear();
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let read = self.stream.read_buf(&mut self.input).await?;
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    async fn line(&mut self) -> io::Result<String> {
        let line = self.octets_of_line().await?;
        Ok(line[..line.len() - 2].escape_ascii().to_string())
    }

    /// As it came, dot-stuffing undone.
    async fn content(&mut self) -> io::Result<Vec<u8>> {
        let mut seen = 0;
        let end = loop {
            if self.input.starts_with(b".\r\n") {
                break 0;
            }
            if let Some(at) = self.input[seen..].windows(5).position(|octets| octets == b"\r\n.\r\n") {
                break seen + at + 2;
            }
            seen = self.input.len().saturating_sub(4);
            self.fill().await?;
        };
        let content: Vec<u8> = self.input.drain(..end + 3).take(end).collect();
        let lines = content.split_inclusive(|octet| *octet == b'\n');
        Ok(lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect())
    }

    async fn octets_of_line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                return Ok(self.input.drain(..end + 2).collect());
            }
            self.fill().await?;
        }
    }
}

fn path(command: &str) -> String {
    let inside = command.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or_else(String::new, |(path, _)| path.to_owned())
}
