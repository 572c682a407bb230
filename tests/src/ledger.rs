//! Whether mail was lost, sent though refused, or multiplied: the invariants I1, I2 and I3 (tests/faults/README.md).
//!
//! A client writes down each answer that it got (the [`Ledger`]), a next hop each copy that it took (the [`Arrivals`]), both
//! in files of their own that are synced before they go on: neither depends on who dies. What is in neither must be in the
//! spool ([`in_spool`]). [`settle`] says what does not add up.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use postern::metrics::Metrics;
use postern::spool::{SegmentSpool, Settings, Spool as _};

use crate::program::PATIENCE;

/// For the banner; a client that does not get it tries again.
const GREETING: Duration = Duration::from_secs(2);

/// Lines that are on the disk before anybody goes on; waiters hear of each.
pub struct Book<T> {
    file: Mutex<File>,
    lines: Mutex<Vec<T>>,
    changed: Condvar,
}

/// The last answer about one recipient of one mail. A mail that got none is not in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub id: String,
    pub recipient: String,
    pub code: u16,
}

/// One copy for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub id: String,
    pub recipient: String,
    /// Of all octets, as they came.
    pub digest: u64,
    pub message_id: String,
    /// Ours, from the first Received field.
    pub spool_id: String,
    /// The body is what the client sent.
    pub whole: bool,
    /// A delivery report about the mail, and not the mail.
    pub is_report: bool,
}

pub type Ledger = Book<Answer>;
pub type Arrivals = Book<Arrival>;

impl<T: Clone + std::fmt::Debug> Book<T> {
    /// # Errors
    /// The file can't be made.
    pub fn create(path: &Path) -> io::Result<Arc<Self>> {
        let file = Mutex::new(File::options().create_new(true).append(true).open(path)?);
        Ok(Arc::new(Self { file, lines: Mutex::default(), changed: Condvar::new() }))
    }

    /// # Panics
    /// It can't be made durable.
    pub fn write(&self, line: T) {
        let text = format!("{line:?}\n");
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).expect("a book on a sound disk");
        }
        self.held().push(line);
        self.changed.notify_all();
    }

    pub fn lines(&self) -> Vec<T> {
        self.held().clone()
    }

    /// # Panics
    /// It never becomes so.
    pub fn wait_until(&self, what: &str, so: impl Fn(&[T]) -> bool) {
        let lines = self.held();
        let (lines, timeout) = self
            .changed
            .wait_timeout_while(lines, PATIENCE, |lines| !so(lines))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "{what}: still not so after {PATIENCE:?}: {} lines", lines.len());
    }

    fn held(&self) -> MutexGuard<'_, Vec<T>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(octets: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    octets.hash(&mut hasher);
    hasher.finish()
}

/// A mail as it is sent, without the last dot. The body has no line that begins with one.
pub fn mail(id: &str, body: &str) -> String {
    let digest = digest(body.as_bytes());
    format!("X-Ledger: {id}\r\nX-Digest: {digest}\r\nMessage-ID: <{id}@client.example>\r\nSubject: x\r\n\r\n{body}")
}

/// A body of about so many octets.
pub fn body(octets: usize) -> String {
    "0123456789 and so on, a line of text\r\n".repeat(octets / 38 + 1)
}

/// A client's connection, in plain steps.
pub struct Conversation {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Conversation {
    /// After the banner; `Err` with what was said instead of it.
    ///
    /// # Errors
    /// Nobody listens, or the banner is no 220.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // A listener that dies in the middle of a handshake can leave the client with a connection to nobody.
        stream.set_read_timeout(Some(GREETING))?;
        let mut conversation = Self { lines: BufReader::new(stream.try_clone()?), stream };
        let banner = conversation.hear()?;
        conversation.stream.set_read_timeout(Some(PATIENCE))?;
        if banner.starts_with("220 ") { Ok(conversation) } else { Err(io::Error::other(banner)) }
    }

    /// After EHLO.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn greeted(address: SocketAddr) -> io::Result<Self> {
        let mut conversation = Self::open(address)?;
        conversation.say("EHLO client.example\r\n")?;
        Ok(conversation)
    }

    /// The last line of the reply.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn say(&mut self, text: &str) -> io::Result<String> {
        self.whisper(text)?;
        self.hear()
    }

    /// Without waiting for a reply.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn whisper(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    /// The last line of a reply.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn hear(&mut self) -> io::Result<String> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    }

    /// Up to the reply to DATA, 354; what was refused stands in the ledger.
    ///
    /// # Errors
    /// The other end is gone, or has refused.
    pub fn begin(&mut self, ledger: &Ledger, id: &str, recipients: &[&str]) -> io::Result<()> {
        let paths = recipients.iter().map(|to| format!("RCPT TO:<{to}>\r\n"));
        let steps = std::iter::once("MAIL FROM:<a@example.com>\r\n".to_owned()).chain(paths);
        for step in steps.chain(["DATA\r\n".to_owned()]) {
            let reply = self.say(&step)?;
            if !reply.starts_with(['2', '3']) {
                note(ledger, id, recipients, &reply);
                return Err(io::Error::other(reply));
            }
        }
        Ok(())
    }

    /// A whole mail; its answers stand in the ledger.
    ///
    /// # Errors
    /// The other end is gone before it has answered, or has refused before DATA.
    pub fn send(&mut self, ledger: &Ledger, id: &str, recipients: &[&str], body: &str) -> io::Result<String> {
        self.begin(ledger, id, recipients)?;
        let reply = self.say(&format!("{}.\r\n", mail(id, body)))?;
        note(ledger, id, recipients, &reply);
        Ok(reply)
    }
}

/// Writes an answer down for each recipient.
pub fn note(ledger: &Ledger, id: &str, recipients: &[&str], reply: &str) {
    let Some(code) = reply.get(..3).and_then(|code| code.parse().ok()) else { return };
    for recipient in recipients {
        ledger.write(Answer { id: id.to_owned(), recipient: (*recipient).to_owned(), code });
    }
}

/// Where a conversation with the next hop stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Connected,
    Sender,
    Recipient,
    /// The first line of content is there.
    Content,
    /// The last dot is there; it is taken down, and not answered yet.
    Dot,
    /// 250 was sent.
    Answered,
}

/// What the next hop does then.
pub enum Act {
    Go,
    /// In place of 250; after [`Moment::Dot`] it has taken nothing.
    Say(&'static str),
}

/// Asked at each moment, with the last line that came; in it the test kills whom it likes.
pub type Script = dyn Fn(Moment, &str) -> Act + Send + Sync;

/// A next hop that writes down what it takes, until the test ends.
///
/// # Errors
/// There is no port.
pub fn next_hop(arrivals: Arc<Arrivals>, script: Arc<Script>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (arrivals, script) = (arrivals.clone(), script.clone());
            thread::spawn(move || {
                // A gateway that was killed leaves broken connections.
                let _ = take_mail(&stream, &arrivals, &*script);
            });
        }
    });
    Ok(address)
}

fn take_mail(mut stream: &TcpStream, arrivals: &Arrivals, script: &Script) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    let answer = |moment, line: &str| match script(moment, line) {
        Act::Go => None,
        Act::Say(reply) => Some(reply),
    };
    stream.write_all(answer(Moment::Connected, "").unwrap_or("220 sink ESMTP\r\n").as_bytes())?;
    let (mut line, mut recipients) = (String::new(), Vec::new());
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply = match line.get(..4).unwrap_or("").to_ascii_uppercase().as_str() {
            "EHLO" => "250-sink\r\n250 8BITMIME\r\n",
            "MAIL" => {
                recipients.clear();
                answer(Moment::Sender, &line).unwrap_or("250 ok\r\n")
            }
            "RCPT" => match answer(Moment::Recipient, &line) {
                Some(refused) => refused,
                None => {
                    recipients.push(path(&line));
                    "250 ok\r\n"
                }
            },
            "DATA" if recipients.is_empty() => "554 nobody\r\n",
            "DATA" => {
                stream.write_all(b"354 go on\r\n")?;
                let octets = content(&mut lines, |line| {
                    script(Moment::Content, line);
                })?;
                match answer(Moment::Dot, &octets) {
                    Some(refused) => refused,
                    None => {
                        recipients.drain(..).for_each(|to| arrivals.write(arrival(&octets, to)));
                        stream.write_all(b"250 taken\r\n")?;
                        script(Moment::Answered, &octets);
                        continue;
                    }
                }
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n"),
            _ => "250 ok\r\n",
        };
        stream.write_all(reply.as_bytes())?;
    }
}

fn path(command: &str) -> String {
    let inside = command.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or_else(String::new, |(path, _)| path.to_owned())
}

/// Up to the last dot. `begun` hears the first line.
fn content(lines: &mut BufReader<TcpStream>, begun: impl Fn(&str)) -> io::Result<String> {
    let mut octets = String::new();
    loop {
        let at = octets.len();
        if lines.read_line(&mut octets)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if at == 0 {
            begun(&octets);
        }
        if octets.get(at..) == Some(".\r\n") {
            octets.truncate(at);
            return Ok(octets);
        }
    }
}

fn arrival(octets: &str, recipient: String) -> Arrival {
    let (header, body) = octets.split_once("\r\n\r\n").unwrap_or((octets, ""));
    let field = |of: &str, name: &str| {
        let value = of.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        value.trim().to_owned()
    };
    let is_report = header.contains("multipart/report");
    let words = header.split_whitespace().skip_while(|word| *word != "id").nth(1);
    let spool_id = words.unwrap_or_default().trim_end_matches(';').to_owned();
    Arrival {
        // A report holds the header of the mail that it is about.
        id: field(if is_report { body } else { header }, "X-Ledger:"),
        recipient,
        digest: digest(octets.as_bytes()),
        message_id: field(header, "Message-ID:"),
        spool_id,
        whole: is_report || field(header, "X-Digest:") == digest(body.as_bytes()).to_string(),
        is_report,
    }
}

/// The ids of the mails in a spool that no gateway uses.
///
/// # Panics
/// It can't be read.
pub fn in_spool(directory: &Path) -> HashSet<String> {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let (spool, recovered) =
        SegmentSpool::open(Settings::new(directory.to_owned(), 1 << 20), metrics).expect("a spool");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let ids = recovered.iter().map(|found| {
        let stored = runtime.block_on(spool.read(found.id)).expect("a whole mail");
        let header = String::from_utf8(stored.message.header.to_bytes().to_vec()).expect("a header of ours");
        header.lines().find_map(|line| line.strip_prefix("X-Ledger:")).unwrap_or_default().trim().to_owned()
    });
    let ids = ids.collect();
    spool.shutdown();
    ids
}

/// What adds up.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub acknowledged: usize,
    pub refused: usize,
    /// Copies beyond the first of each.
    pub extra: usize,
}

/// `spool`: ids that are in it still. `deaths`: how often a link or a process died while the next hop took mail.
///
/// # Errors
/// What does not add up, in words.
pub fn settle(
    ledger: &[Answer],
    arrivals: &[Arrival],
    spool: &HashSet<String>,
    deaths: usize,
) -> Result<Account, Vec<String>> {
    let mut copies: BTreeMap<(&str, &str), Vec<&Arrival>> = BTreeMap::new();
    for arrival in arrivals.iter().filter(|arrival| !arrival.is_report) {
        copies.entry((&arrival.id, &arrival.recipient)).or_default().push(arrival);
    }
    let reported: HashSet<_> = arrivals.iter().filter(|a| a.is_report).map(|a| a.id.as_str()).collect();
    let answers: HashMap<_, _> = ledger.iter().map(|a| ((a.id.as_str(), a.recipient.as_str()), a.code)).collect();
    let (mut account, mut wrong) = (Account::default(), Vec::new());
    for (&(id, recipient), code) in &answers {
        let (arrived, kept) = (copies.contains_key(&(id, recipient)), spool.contains(id));
        if (200..300).contains(code) {
            account.acknowledged += 1;
            if !arrived && !kept && !reported.contains(id) {
                wrong.push(format!("I1: {id} for {recipient} was answered {code} and is lost"));
            }
        } else {
            account.refused += 1;
            if arrived || kept {
                wrong.push(format!("I2: {id} for {recipient} was answered {code} and is there: arrived {arrived}"));
            }
        }
    }
    for ((id, recipient), copies) in &copies {
        account.extra += copies.len() - 1;
        if copies.len() > deaths + 1 {
            wrong.push(format!("I3: {id} for {recipient} came {} times in {deaths} deaths", copies.len()));
        }
        if copies.iter().any(|copy| *copy != copies[0]) || copies[0].spool_id.is_empty() {
            wrong.push(format!("I3: the copies of {id} for {recipient} differ: {copies:?}"));
        }
        if !copies[0].whole {
            wrong.push(format!("{id} for {recipient} is not what was sent"));
        }
    }
    if wrong.is_empty() { Ok(account) } else { Err(wrong) }
}
