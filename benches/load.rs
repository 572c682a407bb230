//! An SMTP client that sends mail over many sessions at once and times each reply; `benches/README.md` says what for.
//!
//! No pipelining: the time of a reply is then the server's alone, from the write of a command to the last octet of its
//! reply. Prints one JSON object: what was taken, what was refused, and the times by command in microseconds.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// What went wrong is shown this often; all of it is counted.
const SHOWN: usize = 5;
/// Octets of a line of a body, its end too.
const LINE: usize = 64;
const MAX_REPLY: usize = 64 * 1024;
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Before a session that broke is opened again, so that a server that is down is not flooded.
const PAUSE: Duration = Duration::from_millis(20);

/// Send mail and time the replies.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// The server.
    address: SocketAddr,
    /// How many mails. Without it: until standard input ends.
    #[arg(long)]
    mails: Option<u64>,
    /// How many sessions at once.
    #[arg(long, default_value_t = 20)]
    sessions: usize,
    /// Octets of each mail's body; rounded up to whole lines.
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Mails a second over all sessions. Without it: as fast as the server takes them.
    #[arg(long)]
    rate: Option<f64>,
    /// No mail is begun later than so many seconds after the start.
    #[arg(long)]
    seconds: Option<f64>,
    /// After so many mails a session ends and the next one begins.
    #[arg(long)]
    mails_per_session: Option<u64>,
    #[arg(long, default_value = "sender@example.org")]
    from: String,
    /// With `{}` in it each mail has another recipient, by turns: there stands a number below `recipients`.
    #[arg(long, default_value = "user@example.com")]
    to: String,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    recipients: u64,
}

/// What all sessions share.
struct Run {
    options: Options,
    body: Vec<u8>,
    begun: Instant,
    /// Mails that some session has begun.
    next: AtomicU64,
    stopped: AtomicBool,
}

/// What a session saw; those of all sessions are added up in the end.
#[derive(Debug, Default)]
struct Seen {
    taken: u64,
    refused: u64,
    broken: u64,
    /// The first words of it.
    trouble: Vec<String>,
    /// Microseconds, by command; `message` is the reply to the final dot, `late` is how long after its time a mail was
    /// begun where there is a rate.
    times: BTreeMap<&'static str, Vec<u32>>,
}

/// Why a mail was not taken.
#[derive(Debug)]
enum Failure {
    /// The server said no; the session can go on.
    Refused(String),
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let body = body(options.size);
    let run = Arc::new(Run {
        body,
        begun: Instant::now(),
        next: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        options,
    });
    if run.options.mails.is_none() {
        stop_with_standard_input(run.clone());
    }
    let total = Arc::new(Mutex::new(Seen::default()));
    let sessions: Vec<_> = (0..run.options.sessions).map(|_| tokio::spawn(work(run.clone(), total.clone()))).collect();
    for session in sessions {
        // One that panicked has said so.
        let _ = session.await;
    }
    let mut total = std::mem::take(&mut *total.lock().unwrap_or_else(PoisonError::into_inner));
    println!("{}", report(&mut total, run.begun.elapsed()));
    ExitCode::SUCCESS
}

/// A thread of its own, for a read of standard input can't be given up.
fn stop_with_standard_input(run: Arc<Run>) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        run.stopped.store(true, Ordering::Relaxed);
    });
}

/// Whole lines of [`LINE`] octets, none of which begins with a dot; and the end of data.
fn body(size: usize) -> Vec<u8> {
    let line = format!("{:x<width$}\r\n", "postern ", width = LINE - 2);
    let mut body = line.repeat(size.div_ceil(LINE)).into_bytes();
    body.extend_from_slice(b".\r\n");
    body
}

/// One session after the other, until there is no mail left to send.
async fn work(run: Arc<Run>, total: Arc<Mutex<Seen>>) {
    let mut seen = Seen::default();
    while let Some(first) = next_mail(&run) {
        if let Err(error) = session(&run, &mut seen, first).await {
            seen.broken += 1;
            seen.note(&error.to_string());
            sleep(PAUSE).await;
        }
    }
    total.lock().unwrap_or_else(PoisonError::into_inner).add(seen);
}

/// The number of the mail to send now; `None`: that was all.
fn next_mail(run: &Run) -> Option<u64> {
    let is_late = run.options.seconds.is_some_and(|seconds| run.begun.elapsed().as_secs_f64() > seconds);
    if is_late || run.stopped.load(Ordering::Relaxed) {
        return None;
    }
    let number = run.next.fetch_add(1, Ordering::Relaxed);
    run.options.mails.is_none_or(|mails| number < mails).then_some(number)
}

/// Mail `first` and those after it. An error: the connection broke, and with it the mail that was on its way.
async fn session(run: &Run, seen: &mut Seen, first: u64) -> io::Result<()> {
    let mut client = Client::connect(run.options.address, seen).await?;
    let mut number = first;
    let mut sent = 0;
    loop {
        wait_for_turn(run, seen, number).await;
        match client.mail(run, seen, number).await {
            Ok(()) => seen.taken += 1,
            Err(Failure::Broken(error)) => return Err(error),
            Err(Failure::Refused(reply)) => {
                seen.refused += 1;
                seen.note(&reply);
                client.command("RSET", b"RSET\r\n", seen).await?;
            }
        }
        sent += 1;
        if run.options.mails_per_session.is_some_and(|most| sent >= most) {
            break;
        }
        match next_mail(run) {
            Some(next) => number = next,
            None => break,
        }
    }
    client.command("QUIT", b"QUIT\r\n", seen).await.map(|_| ())
}

/// Mails begin in even steps. Their times are fixed from the start, so a slow reply delays no other session's mail.
async fn wait_for_turn(run: &Run, seen: &mut Seen, number: u64) {
    let Some(rate) = run.options.rate else { return };
    #[expect(clippy::cast_precision_loss, reason = "numbers of mails are far below 2^52")]
    let due = run.begun + Duration::from_secs_f64(number as f64 / rate);
    sleep_until(due).await;
    seen.time("late", due);
}

impl Seen {
    fn time(&mut self, command: &'static str, since: Instant) {
        let micros = u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.times.entry(command).or_default().push(micros);
    }

    fn note(&mut self, trouble: &str) {
        if self.trouble.len() < SHOWN {
            self.trouble.push(trouble.to_owned());
        }
    }

    fn add(&mut self, other: Self) {
        self.taken += other.taken;
        self.refused += other.refused;
        self.broken += other.broken;
        other.trouble.iter().for_each(|trouble| self.note(trouble));
        for (command, times) in other.times {
            self.times.entry(command).or_default().extend(times);
        }
    }
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr, seen: &mut Seen) -> io::Result<Self> {
        let since = Instant::now();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, buffer: Vec::with_capacity(1024) };
        let banner = client.reply().await?;
        seen.time("connect", since);
        if !banner.starts_with("220") {
            return Err(io::Error::other(banner));
        }
        client.command("EHLO", b"EHLO client.example.org\r\n", seen).await?;
        Ok(client)
    }

    async fn mail(&mut self, run: &Run, seen: &mut Seen, number: u64) -> Result<(), Failure> {
        let from = &run.options.from;
        let to = recipient(&run.options, number);
        self.expect("MAIL", format!("MAIL FROM:<{from}>\r\n").as_bytes(), "250", seen).await?;
        self.expect("RCPT", format!("RCPT TO:<{to}>\r\n").as_bytes(), "250", seen).await?;
        self.expect("DATA", b"DATA\r\n", "354", seen).await?;
        let mut message = format!(
            "From: <{from}>\r\nTo: <{to}>\r\nDate: Mon, 2 Feb 2026 10:00:00 +0000\r\n\
             Message-ID: <{number}@client.example.org>\r\nSubject: load {number}\r\n\r\n"
        )
        .into_bytes();
        message.extend_from_slice(&run.body);
        self.expect("message", &message, "250", seen).await
    }

    async fn expect(&mut self, name: &'static str, octets: &[u8], code: &str, seen: &mut Seen) -> Result<(), Failure> {
        let reply = self.command(name, octets, seen).await?;
        if reply.starts_with(code) { Ok(()) } else { Err(Failure::Refused(format!("{name}: {reply}"))) }
    }

    async fn command(&mut self, name: &'static str, octets: &[u8], seen: &mut Seen) -> io::Result<String> {
        let since = Instant::now();
        self.stream.write_all(octets).await?;
        let reply = self.reply().await?;
        seen.time(name, since);
        Ok(reply)
    }

    /// The whole reply, of one line or many.
    async fn reply(&mut self) -> io::Result<String> {
        self.buffer.clear();
        while !is_whole_reply(&self.buffer) {
            let read = timeout(REPLY_TIMEOUT, self.stream.read_buf(&mut self.buffer)).await;
            if read.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.buffer.len() > MAX_REPLY {
                return Err(io::Error::other("an endless reply"));
            }
        }
        Ok(self.buffer.trim_ascii_end().escape_ascii().to_string())
    }
}

/// Of mail `number`.
fn recipient(options: &Options, number: u64) -> String {
    options.to.replace("{}", &(number % options.recipients).to_string())
}

/// RFC 5321 §4.2.1: the last line has no hyphen after its code.
fn is_whole_reply(octets: &[u8]) -> bool {
    let Some(lines) = octets.strip_suffix(b"\r\n") else { return false };
    let last = lines.rsplit(|&octet| octet == b'\n').next().unwrap_or_default();
    last.get(3) != Some(&b'-')
}

fn report(seen: &mut Seen, elapsed: Duration) -> Value {
    let times: BTreeMap<_, _> = seen.times.iter_mut().map(|(command, times)| (*command, summary(times))).collect();
    json!({
        "seconds": elapsed.as_secs_f64(),
        "taken": seen.taken,
        "refused": seen.refused,
        "broken": seen.broken,
        "trouble": seen.trouble,
        "times_us": times,
    })
}

fn summary(times: &mut [u32]) -> Value {
    times.sort_unstable();
    json!({
        "count": times.len(),
        "p50": percentile(times, 500),
        "p99": percentile(times, 990),
        "p999": percentile(times, 999),
        "max": times.last(),
    })
}

/// The least value that `thousandths` of all do not exceed; of a sorted list.
fn percentile(sorted: &[u32], thousandths: usize) -> Option<u32> {
    let rank = (sorted.len() * thousandths).div_ceil(1000);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Vec<u32> = (1..=100).collect();
        for (times, thousandths, expected) in [
            (&hundred[..], 500, Some(50)),
            (&hundred, 990, Some(99)),
            (&hundred, 999, Some(100)),
            (&[7], 500, Some(7)),
            (&[], 990, None),
        ] {
            assert_eq!(percentile(times, thousandths), expected, "{} {thousandths}", times.len());
        }
    }

    #[test]
    fn recipients_take_turns() {
        for (to, recipients, expected) in [
            ("user@example.com", "1", ["user@example.com"; 3]),
            ("u@t{}.example.com", "2", ["u@t0.example.com", "u@t1.example.com", "u@t0.example.com"]),
        ] {
            let arguments = ["load", "127.0.0.1:25", "--to", to, "--recipients", recipients];
            let options = Options::try_parse_from(arguments).unwrap();
            assert_eq!([0, 1, 2].map(|number| recipient(&options, number)), expected, "{to}");
        }
    }

    #[test]
    fn a_reply_ends_with_the_line_that_has_no_hyphen() {
        for (octets, whole) in [
            ("250 OK\r\n", true),
            ("250-one\r\n250 two\r\n", true),
            ("250-one\r\n", false),
            ("250-one\r\n250 tw", false),
            ("250", false),
            ("", false),
        ] {
            assert_eq!(is_whole_reply(octets.as_bytes()), whole, "{octets:?}");
        }
    }

    #[test]
    fn a_body_is_whole_lines_and_ends_once() {
        for (size, expected) in [(1, LINE), (4096, 4096), (4097, 4096 + LINE)] {
            let body = String::from_utf8(body(size)).unwrap();
            let lines = body.strip_suffix(".\r\n").unwrap();
            assert_eq!(lines.len(), expected);
            assert!(lines.split_inclusive('\n').all(|line| line.len() == LINE && line.ends_with("x\r\n")));
        }
    }
}
