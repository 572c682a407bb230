//! Kills the real process at random moments under load: what was acknowledged is delivered, nothing twice without cause.
//!
//! faults.md K1–K13 and the invariants I1 and I3. A client writes down each id that was answered 250 (the ledger), a next
//! hop each id that it has taken (the sink). After the last kill the gateway is started once more and left alone; then
//! the ledger must be in the sink. `POSTERN_CRASH_ROUNDS` sets the number of kills.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rand::RngExt as _;

const CLIENTS: usize = 8;
const ROUNDS: usize = 20;
/// Far more than any of the waits below needs; it only keeps a broken gateway from hanging the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// For the banner; a client that does not get it tries again.
const GREETING: Duration = Duration::from_secs(2);

/// Counts copies of each id; waiters hear of every change.
#[derive(Default)]
struct Book {
    copies: Mutex<HashMap<String, u32>>,
    changed: Condvar,
}

impl Book {
    fn write(&self, id: &str) {
        *self.copies.lock().unwrap().entry(id.to_owned()).or_default() += 1;
        self.changed.notify_all();
    }

    fn wait_until(&self, what: &str, done: impl Fn(&HashMap<String, u32>) -> bool) {
        let copies = self.copies.lock().unwrap();
        let (copies, timeout) = self.changed.wait_timeout_while(copies, PATIENCE, |copies| !done(copies)).unwrap();
        assert!(!timeout.timed_out(), "{what}: still not so after {PATIENCE:?}, with {} ids", copies.len());
    }
}

/// A next hop that remembers the ids of what it took.
fn sink(book: Arc<Book>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, book) = (stream.unwrap(), book.clone());
            thread::spawn(move || {
                // A gateway that was killed leaves broken connections.
                let _ = take_mail(&stream, &book);
            });
        }
    });
    address
}

fn take_mail(mut stream: &TcpStream, book: &Book) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    stream.write_all(b"220 sink ESMTP\r\n")?;
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or("").to_ascii_uppercase();
        match verb.as_str() {
            "DATA" => {
                stream.write_all(b"354 go on\r\n")?;
                let mut id = String::new();
                loop {
                    line.clear();
                    if lines.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                    if let Some(value) = line.strip_prefix("X-Ledger: ") {
                        id = value.trim().to_owned();
                    }
                    if line == ".\r\n" {
                        break;
                    }
                }
                book.write(&id);
                stream.write_all(b"250 taken\r\n")?;
            }
            "EHLO" => stream.write_all(b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n")?,
            "QUIT" => return stream.write_all(b"221 bye\r\n"),
            _ => stream.write_all(b"250 ok\r\n")?,
        }
    }
}

/// Sends mails one after the other until told to stop; an id is in the ledger only after its 250.
fn send_mails(address: SocketAddr, ledger: &Book, next: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if send_on_one_connection(address, ledger, next, stop).is_err() {
            thread::yield_now();
        }
    }
}

fn send_on_one_connection(
    address: SocketAddr,
    ledger: &Book,
    next: &AtomicU64,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    // A listener that dies in the middle of a handshake can leave the client with a connection to nobody.
    stream.set_read_timeout(Some(GREETING))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    expect(&mut lines, "220")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"EHLO client.example\r\n")?;
    expect(&mut lines, "250")?;
    while !stop.load(Ordering::Relaxed) {
        let id = next.fetch_add(1, Ordering::Relaxed);
        // Some bodies are large enough to go through a file of their own.
        let body = "0123456789 and so on, a line of text\r\n".repeat(if id.is_multiple_of(16) { 20_000 } else { 20 });
        stream.write_all(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")?;
        for code in ["250", "250", "354"] {
            expect(&mut lines, code)?;
        }
        write!(stream, "X-Ledger: {id}\r\nSubject: x\r\n\r\n{body}.\r\n")?;
        expect(&mut lines, "250")?;
        ledger.write(&id.to_string());
    }
    stream.write_all(b"QUIT\r\n")
}

fn expect(lines: &mut impl std::io::BufRead, code: &str) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        let got = lines.read_line(&mut line)?;
        if got == 0 || !line.starts_with(code) {
            return Err(std::io::Error::other(line));
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
}

/// A port that the system does not give to clients: one of those, connecting again and again while nobody listens, would
/// in the end be given that very port and be connected to itself.
pub(crate) fn free_address() -> SocketAddr {
    let ports = std::iter::repeat_with(|| rand::rng().random_range(10_000..30_000));
    let mut free = ports.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    free.next().unwrap().local_addr().unwrap()
}

fn config(directory: &Path, listen: SocketAddr, sink: SocketAddr) -> String {
    format!(
        r#"
        [server]
        host_name = "mx.example.com"
        [[listener]]
        name = "mx"
        address = "{listen}"
        role = "inbound"
        tls = "none"
        [spool]
        directory = "{}"
        [log]
        file = "{}"
        [chain]
        platform = []
        [[tenant]]
        name = "example"
        domains = ["example.com"]
        destination = {{ host = "127.0.0.1", port = {}, tls = "never" }}
        "#,
        directory.join("spool").display(),
        directory.join("events.jsonl").display(),
        sink.port(),
    )
}

/// The gateway as a user starts it. Killed when dropped, so that a failed test leaves nothing behind.
pub(crate) struct Gateway(Child);

impl Gateway {
    pub(crate) fn start(config: &Path, listen: SocketAddr) -> Self {
        let child = Command::new(crate::postern_binary())
            .arg("--config")
            .arg(config)
            .arg("serve")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut gateway = Self(child);
        while TcpStream::connect(listen).is_err() {
            assert!(gateway.0.try_wait().unwrap().is_none(), "the gateway has ended by itself");
            thread::yield_now();
        }
        gateway
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM; the process must end by itself, with success.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success(), "SIGTERM must end it with exit code 0");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let rounds = crate::from_environment("POSTERN_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let directory = tempfile::tempdir().unwrap();
    let (ledger, taken) = (Arc::new(Book::default()), Arc::new(Book::default()));
    let (listen, path) = (free_address(), directory.path().join("postern.toml"));
    std::fs::create_dir(directory.path().join("spool")).unwrap();
    std::fs::write(&path, config(directory.path(), listen, sink(taken.clone()))).unwrap();

    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (ledger, next, stop) = (ledger.clone(), next.clone(), stop.clone());
            thread::spawn(move || send_mails(listen, &ledger, &next, &stop))
        })
        .collect();
    let mut random = rand::rng();
    for _ in 0..rounds {
        let gateway = Gateway::start(&path, listen);
        let enough = ledger.copies.lock().unwrap().len() + random.random_range(1..300);
        ledger.wait_until("acknowledged mails before the kill", |copies| copies.len() >= enough);
        gateway.kill();
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());

    let gateway = Gateway::start(&path, listen);
    let acknowledged: HashSet<String> = ledger.copies.lock().unwrap().keys().cloned().collect();
    taken.wait_until("every acknowledged mail is delivered", |copies| {
        acknowledged.iter().all(|id| copies.contains_key(id))
    });
    gateway.stop();
    let copies = taken.copies.lock().unwrap();
    let most = copies.values().max().copied().unwrap_or(0);
    // A copy more for each kill between the sink's 250 and our durable record (RFC 5321 §4.1.1.4), and no other.
    assert!(usize::try_from(most).unwrap() <= rounds + 1, "one mail came {most} times in {rounds} kills");
    println!("{} mails acknowledged, {} delivered, in {rounds} kills", acknowledged.len(), copies.len());
}
