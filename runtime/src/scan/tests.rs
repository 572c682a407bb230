//! Against daemons that do what a test has them do. Over real sockets, so in real time; those that hang are given little.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::*;
use crate::mail::{Body, BodyWriter, Header, Recipient};
use crate::smtp::{Mailbox, ReversePath};

/// For what must not happen: far more than any of these tests takes.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(150);
const MAX_SIZE: u64 = 8 << 20;

struct Daemon {
    port: u16,
    connections: Arc<AtomicUsize>,
    seen: Seen,
}

type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

impl Daemon {
    /// Each connection, with its number from 1, is `serve`'s.
    async fn start<F: Future<Output = ()> + Send>(
        serve: impl Fn(TcpStream, usize, Seen) -> F + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Seen::default());
        let (count, said) = (connections.clone(), seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let (serve, said) = (serve.clone(), said.clone());
                tokio::spawn(async move { serve(stream, number, said).await });
            }
        });
        Self { port, connections, seen }
    }

    /// clamd that says this to every mail, the number of the question before it where there is a `#`.
    async fn clamd(says: &'static str) -> Self {
        Self::start(move |mut stream, _, seen| async move {
            expect(&mut stream, b"zIDSESSION\0").await;
            for number in 1.. {
                let Some(mail) = stream_of(&mut stream).await else { return };
                seen.lock().unwrap().push(mail);
                stream.write_all(says.replace('#', &number.to_string()).as_bytes()).await.unwrap();
            }
        })
        .await
    }

    /// rspamd that gives this answer, and keeps the connection.
    async fn rspamd(says: impl Into<String>) -> Self {
        let says: Arc<str> = says.into().into();
        let serve = move |mut stream, _, seen: Seen| {
            let says = says.clone();
            async move {
                while let Some((head, body)) = request(&mut stream).await {
                    seen.lock().unwrap().extend([head.into_bytes(), body]);
                    stream.write_all(says.as_bytes()).await.unwrap();
                }
            }
        };
        Self::start(serve).await
    }

    fn settings(&self, kind: Kind, timeout: Duration) -> Settings {
        let host = "127.0.0.1".to_owned();
        let address = match kind {
            Kind::Clamd => Address::Tcp(host, self.port),
            Kind::Rspamd => Address::Http(host, self.port),
        };
        settings(kind, address, timeout)
    }

    fn scanner(&self, kind: Kind, timeout: Duration) -> Scanner {
        scanner(self.settings(kind, timeout))
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn seen(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().clone()
    }
}

fn settings(kind: Kind, address: Address, timeout: Duration) -> Settings {
    Settings {
        name: kind.name().into(),
        kind,
        address,
        timeout,
        max_size: MAX_SIZE,
        connections: 2,
        password: None,
        host_name: "mx.example.net".to_owned(),
    }
}

fn scanner(settings: Settings) -> Scanner {
    Scanner::new(settings, Arc::new(Metrics::new().unwrap()))
}

fn count(scanner: &Scanner, result: &str) -> u64 {
    scanner.metrics.scans.with_label_values(&[&*scanner.settings.name, result]).get()
}

async fn expect(stream: &mut TcpStream, octets: &[u8]) {
    let mut read = vec![0; octets.len()];
    if stream.read_exact(&mut read).await.is_ok() {
        assert_eq!(read, octets);
    }
}

/// One mail; `None` at the end of the connection.
async fn stream_of(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut command = [0; 10];
    stream.read_exact(&mut command).await.ok()?;
    assert_eq!(&command, b"zINSTREAM\0");
    let mut mail = Vec::new();
    loop {
        let len = stream.read_u32().await.ok()?;
        if len == 0 {
            return Some(mail);
        }
        let start = mail.len();
        mail.resize(start + len as usize, 0);
        stream.read_exact(&mut mail[start..]).await.ok()?;
    }
}

async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

fn message(body: &[u8]) -> Message {
    let header = Header::parse(&Bytes::from_static(b"Subject: a\r\n\tb\r\n"));
    Message { header, body: Body::from_bytes(Bytes::copy_from_slice(body)) }
}

fn told() -> Circumstances {
    let mut envelope = Envelope::new(ReversePath(Some(Mailbox::parse("a@b.example").unwrap())));
    envelope.recipients.push(Recipient::new(Mailbox::parse("c@example.com").unwrap()));
    let client = "192.0.2.7".parse().unwrap();
    Circumstances { client, client_name: None, helo: None, login: None, id: "m1".to_owned(), envelope }
}

async fn virus(scanner: &Scanner) -> Result<Option<String>, ScanError> {
    scanner.virus(&message(b"x\r\n")).await
}

async fn assess(scanner: &Scanner) -> Result<Assessment, ScanError> {
    scanner.assess(&message(b"x\r\n"), &told()).await
}

fn reason<T: fmt::Debug>(result: Result<T, ScanError>) -> String {
    match result {
        Err(ScanError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn clamd_is_given_the_whole_mail_and_its_connections_are_used_again() {
    let daemon = Daemon::clamd("#: stream: Some.Virus FOUND\0").await;
    let scanner = daemon.scanner(Kind::Clamd, LONG);
    let directory = tempfile::tempdir().unwrap();
    let mut writer = BodyWriter::new(directory.path().to_owned(), 0);
    writer.push(&[b'x'; 200_000]);
    writer.flush().unwrap();
    let header = message(b"").header;
    for message in [message(b"x\r\n"), Message { header, body: writer.finish().unwrap() }] {
        assert_eq!(scanner.virus(&message).await, Ok(Some("Some.Virus".to_owned())));
    }
    assert_eq!(daemon.connections(), 1);
    let long = [b"Subject: a\r\n\tb\r\n\r\n", &[b'x'; 200_000][..]].concat();
    assert_eq!(daemon.seen(), [b"Subject: a\r\n\tb\r\n\r\nx\r\n".to_vec(), long]);
    assert_eq!((count(&scanner, "infected"), count(&scanner, "clean")), (2, 0));
    assert_eq!(scanner.metrics.scan_seconds.with_label_values(&["clamd"]).get_sample_count(), 2);
}

#[tokio::test]
async fn clamd_at_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("clamd.ctl");
    let missing = scanner(settings(Kind::Clamd, Address::Unix(path.clone()), LONG));
    assert!(reason(virus(&missing).await).contains("clamd.ctl: it can't be reached: No such file"));
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 11]).await.unwrap();
        stream_of(&mut stream).await.unwrap();
        stream.write_all(b"1: stream: OK\0").await.unwrap();
    });
    let scanner = scanner(settings(Kind::Clamd, Address::Unix(path), LONG));
    assert_eq!(virus(&scanner).await, Ok(None));
    assert_eq!(count(&scanner, "clean"), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced_once() {
    let once = |mut stream: TcpStream, _, _: Seen| async move {
        expect(&mut stream, b"zIDSESSION\0").await;
        stream_of(&mut stream).await.unwrap();
        stream.write_all(b"1: stream: OK\0").await.unwrap();
    };
    let daemon = Daemon::start(once).await;
    let scanner = daemon.scanner(Kind::Clamd, LONG);
    for expected in 1..=3 {
        assert_eq!(virus(&scanner).await, Ok(None));
        assert_eq!(daemon.connections(), expected);
    }
    // It closes every one at once: two are tried, then no more.
    let daemon = Daemon::start(|stream, number, _| async move {
        let mut stream = stream;
        expect(&mut stream, b"zIDSESSION\0").await;
        if number == 1 {
            stream_of(&mut stream).await.unwrap();
            stream.write_all(b"1: stream: OK\0").await.unwrap();
        }
    })
    .await;
    let scanner = daemon.scanner(Kind::Clamd, LONG);
    assert_eq!(virus(&scanner).await, Ok(None));
    assert!(reason(virus(&scanner).await).contains("it closes the connection"));
    assert_eq!(daemon.connections(), 2);
    assert_eq!((count(&scanner, "clean"), count(&scanner, "unavailable")), (1, 1));
}

#[tokio::test]
async fn what_is_said_on_an_idle_connection_is_no_answer() {
    let daemon = Daemon::start(|mut stream: TcpStream, _, _| async move {
        expect(&mut stream, b"zIDSESSION\0").await;
        stream_of(&mut stream).await.unwrap();
        stream.write_all(b"1: stream: OK\0").await.unwrap();
        stream.write_all(b"COMMAND READ TIMED OUT\0").await.unwrap();
    })
    .await;
    let scanner = daemon.scanner(Kind::Clamd, LONG);
    let mut clean = 0;
    for _ in 0..3 {
        match virus(&scanner).await {
            Ok(None) => clean += 1,
            // Both came at once.
            other => assert!(reason(other).contains("more than it was asked")),
        }
    }
    assert_eq!((count(&scanner, "clean"), daemon.connections()), (clean, 3));
    let daemon = Daemon::start(|mut stream: TcpStream, _, _| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(ham().as_bytes()).await.unwrap();
        stream.write_all(b"HTTP/1.1 408 Too slow\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let scanner = daemon.scanner(Kind::Rspamd, LONG);
    for expected in 1..=3 {
        assert_eq!(assess(&scanner).await.unwrap().action, "no action");
        assert_eq!(daemon.connections(), expected);
    }
}

#[tokio::test]
async fn a_clamd_that_lies_is_not_believed() {
    for (says, expected) in [
        ("2: stream: OK\0", "makes no sense"),
        ("stream: OK\0", "makes no sense"),
        ("#: stream: OK\0#: stream: OK\0", "more than it was asked"),
        ("OK\0", "makes no sense"),
        ("HTTP/1.1 200 OK\r\n\r\n\0", "makes no sense"),
        ("#: stream: Can't open\x1b[2J file ERROR\0", "makes no sense"),
        ("#: stream: Can't allocate memory ERROR\0", "it says: 1: stream: Can't allocate memory"),
    ] {
        let daemon = Daemon::clamd(says).await;
        let scanner = daemon.scanner(Kind::Clamd, LONG);
        let why = reason(virus(&scanner).await);
        assert!(why.contains(expected), "{says:?}: {why}");
        // It is not used again after that.
        virus(&scanner).await.unwrap_err();
        assert_eq!((daemon.connections(), count(&scanner, "unavailable")), (2, 2), "{says:?}");
    }
    // Before it has the mail.
    let daemon = Daemon::start(|mut stream: TcpStream, _, _| async move {
        expect(&mut stream, b"zIDSESSION\0").await;
        stream.write_all(b"1: stream: OK\0").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let big = message(&vec![b'x'; 7 << 20]);
    assert!(reason(daemon.scanner(Kind::Clamd, LONG).virus(&big).await).contains("before it has the mail"));
}

#[tokio::test]
async fn what_scanners_say_without_end_is_not_kept() {
    let endless = |mut stream: TcpStream, _, _: Seen| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        // A gigabyte: they hang up long before.
        let mut sent = 0;
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        while sent < 1 << 30 && stream.write_all(&[b' '; 65_536]).await.is_ok() {
            sent += 65_536;
        }
        assert!(sent < 64 << 20, "{sent}");
    };
    let daemon = Daemon::start(endless).await;
    let why = reason(virus(&daemon.scanner(Kind::Clamd, LONG)).await);
    assert!(why.contains("does not end"), "{why}");
    let why = reason(assess(&daemon.scanner(Kind::Rspamd, LONG)).await);
    assert!(why.contains("does not end"), "{why}");
    let header = |mut stream: TcpStream, _, _: Seen| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"X-Field: value\r\n").await.is_ok() {}
    };
    let daemon = Daemon::start(header).await;
    reason(assess(&daemon.scanner(Kind::Rspamd, LONG)).await);
}

#[tokio::test]
async fn who_hangs_is_left_in_time() {
    let big = message(&vec![b'x'; 7 << 20]);
    // Takes the connection and nothing else; takes the mail and says nothing; says half of something.
    let deaf = Daemon::start(|stream, _, _| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let dumb = Daemon::start(|mut stream: TcpStream, _, _| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let half = Daemon::start(|mut stream: TcpStream, _, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"score\"").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for daemon in [deaf, dumb, half] {
        let start = Instant::now();
        let clamd = daemon.scanner(Kind::Clamd, SHORT);
        let rspamd = daemon.scanner(Kind::Rspamd, SHORT);
        for mail in [&big, &message(b"x")] {
            reason(clamd.virus(mail).await);
            reason(rspamd.assess(mail, &told()).await);
        }
        assert!(start.elapsed() < LONG / 4, "{:?}", start.elapsed());
        assert_eq!((count(&clamd, "unavailable"), count(&rspamd, "unavailable")), (2, 2));
    }
}

#[tokio::test]
async fn what_is_too_big_is_not_sent() {
    let daemon = Daemon::clamd("INSTREAM size limit exceeded. ERROR\0").await;
    let scanner = daemon.scanner(Kind::Clamd, LONG);
    let size = usize::try_from(MAX_SIZE).unwrap();
    assert_eq!(scanner.virus(&message(&vec![b'x'; size])).await, Err(ScanError::TooBig(MAX_SIZE)));
    assert_eq!(daemon.connections(), 0);
    // clamd has a limit of its own.
    assert_eq!(virus(&scanner).await, Err(ScanError::TooBig(MAX_SIZE)));
    assert_eq!(count(&scanner, "too-big"), 2);
    // It says so in the middle, and takes no more.
    let daemon = Daemon::start(|mut stream: TcpStream, _, _| async move {
        let _ = stream.read_exact(&mut [0; 100_000]).await;
        let _ = stream.write_all(b"1: INSTREAM size limit exceeded. ERROR\0").await;
        std::future::pending::<()>().await;
    })
    .await;
    let big = message(&vec![b'x'; 7 << 20]);
    assert_eq!(daemon.scanner(Kind::Clamd, LONG).virus(&big).await, Err(ScanError::TooBig(MAX_SIZE)));
}

#[tokio::test]
async fn only_so_many_at_a_time_and_the_others_wait_in_vain() {
    let daemon = Daemon::start(|mut stream: TcpStream, _, _| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let scanner = Arc::new(daemon.scanner(Kind::Clamd, SHORT));
    let mut scans = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let scanner = scanner.clone();
        scans.spawn(async move { virus(&scanner).await });
    }
    while let Some(scan) = scans.join_next().await {
        assert!(reason(scan.unwrap()).contains("in time"));
    }
    assert_eq!(daemon.connections(), 2);
}

#[tokio::test]
async fn a_scan_that_is_given_up_ends_its_connection() {
    let (ended, end) = tokio::sync::oneshot::channel();
    let ended = Arc::new(Mutex::new(Some(ended)));
    let daemon = Daemon::start(move |mut stream: TcpStream, _, _| {
        let ended = ended.clone();
        async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
            let _ = ended.lock().unwrap().take().unwrap().send(());
        }
    })
    .await;
    let scanner = daemon.scanner(Kind::Rspamd, LONG);
    tokio::time::timeout(SHORT, assess(&scanner)).await.unwrap_err();
    tokio::time::timeout(LONG, end).await.unwrap().unwrap();
}

const NO_SPAM: &str = "{\"score\":0.5,\"required_score\":15,\"action\":\"no action\"}";

fn ham() -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{NO_SPAM}", NO_SPAM.len())
}

/// In pieces.
fn spam() -> String {
    let said = "{\"score\":15.5,\"required_score\":15.0,\"action\":\"reject\"}";
    let (one, other) = said.split_at(20);
    let (a, b) = (one.len(), other.len());
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{a:x}\r\n{one}\r\n{b:x}\r\n{other}\r\n0\r\n\r\n")
}

#[tokio::test]
async fn rspamd_is_told_of_the_mail_and_its_connections_are_used_again() {
    let daemon = Daemon::rspamd(ham()).await;
    let scanner = daemon.scanner(Kind::Rspamd, LONG);
    for _ in 0..3 {
        let said = assess(&scanner).await.unwrap();
        assert_eq!((said.score, said.required, said.action.as_str()), (0.5, 15.0, "no action"));
    }
    assert_eq!((daemon.connections(), count(&scanner, "ham")), (1, 3));
    let seen = daemon.seen();
    let head = String::from_utf8(seen[0].clone()).unwrap();
    let mut lines: Vec<_> = head.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "POST /checkv2 HTTP/1.1");
    lines.sort_unstable();
    let expected = [
        "content-length: 21".to_owned(),
        "deliver-to: c@example.com".to_owned(),
        "from: a@b.example".to_owned(),
        format!("host: 127.0.0.1:{}", daemon.port),
        "ip: 192.0.2.7".to_owned(),
        "mta-name: mx.example.net".to_owned(),
        "queue-id: m1".to_owned(),
        "rcpt: c@example.com".to_owned(),
    ];
    assert_eq!(lines, expected);
    assert_eq!(seen[1], b"Subject: a\r\n\tb\r\n\r\nx\r\n");
    let daemon = Daemon::rspamd(spam()).await;
    let scanner = daemon.scanner(Kind::Rspamd, LONG);
    assert_eq!(assess(&scanner).await.unwrap().action, "reject");
    assert_eq!((count(&scanner, "ham"), count(&scanner, "spam")), (0, 1));
}

#[tokio::test]
async fn a_request_that_meets_a_closed_connection_is_made_once_more() {
    // Closes without a word, after an answer that promised to stay.
    let daemon = Daemon::start(|mut stream: TcpStream, _, _| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(ham().as_bytes()).await.unwrap();
    })
    .await;
    let scanner = daemon.scanner(Kind::Rspamd, LONG);
    for expected in 1..=3 {
        assess(&scanner).await.unwrap();
        assert_eq!(daemon.connections(), expected);
    }
    // Says so.
    let daemon = Daemon::start(|mut stream: TcpStream, _, _| async move {
        request(&mut stream).await.unwrap();
        let said = ham().replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        stream.write_all(said.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let scanner = daemon.scanner(Kind::Rspamd, LONG);
    for expected in 1..=2 {
        assess(&scanner).await.unwrap();
        assert_eq!(daemon.connections(), expected);
    }
    // Takes the second request of a connection, and closes.
    let daemon = Daemon::start(|mut stream: TcpStream, _, _| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(ham().as_bytes()).await.unwrap();
        request(&mut stream).await;
    })
    .await;
    let scanner = daemon.scanner(Kind::Rspamd, LONG);
    for expected in 1..=3 {
        assess(&scanner).await.unwrap();
        assert_eq!(daemon.connections(), expected);
    }
}

#[tokio::test]
async fn an_rspamd_that_lies_is_not_believed() {
    for (says, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "makes no sense"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", "makes no sense"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "makes no sense"),
        ("HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\n\x1b[2J oops", "it answers 500: ?[2J oops"),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "it answers 403"),
        ("1: stream: OK\0\r\n\r\n", "makes no sense"),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "makes no sense"),
    ] {
        let daemon = Daemon::rspamd(says).await;
        let why = reason(assess(&daemon.scanner(Kind::Rspamd, LONG)).await);
        assert!(why.contains(expected), "{says:?}: {why}");
    }
    // Less than it says.
    let daemon = Daemon::start(|mut stream: TcpStream, _, _| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(&ham().as_bytes()[..ham().len() - 2]).await.unwrap();
    })
    .await;
    assert!(reason(assess(&daemon.scanner(Kind::Rspamd, LONG)).await).contains("cut off"));
}

#[tokio::test]
async fn each_scanner_answers_its_own_question_only() {
    let daemon = Daemon::clamd("#: stream: OK\0").await;
    assert_eq!(assess(&daemon.scanner(Kind::Clamd, LONG)).await, Err(ScanError::OtherKind));
    assert_eq!(virus(&daemon.scanner(Kind::Rspamd, LONG)).await, Err(ScanError::OtherKind));
}

#[tokio::test]
async fn pings() {
    let clamd = Daemon::start(|mut stream: TcpStream, _, _| async move {
        expect(&mut stream, b"zPING\0").await;
        stream.write_all(b"PONG\0").await.unwrap();
    })
    .await;
    assert_eq!(clamd.scanner(Kind::Clamd, LONG).ping().await, Ok(()));
    assert!(clamd.scanner(Kind::Rspamd, LONG).ping().await.is_err());
    let rspamd = Daemon::rspamd("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npong\r\n").await;
    assert_eq!(rspamd.scanner(Kind::Rspamd, LONG).ping().await, Ok(()));
    assert!(String::from_utf8(rspamd.seen()[0].clone()).unwrap().starts_with("GET /ping HTTP/1.1\r\n"));
    let other = Daemon::rspamd(ham()).await;
    assert!(other.scanner(Kind::Rspamd, LONG).ping().await.unwrap_err().contains("as rspamd does"));
}

#[tokio::test]
async fn a_scanner_that_has_not_changed_keeps_its_connections() {
    let daemon = Daemon::clamd("#: stream: OK\0").await;
    let settings = daemon.settings(Kind::Clamd, LONG);
    let scanners = Scanners::new(vec![settings.clone()], Arc::new(Metrics::new().unwrap()));
    let scan = async || virus(&scanners.named("clamd").unwrap()).await.unwrap();
    scan().await;
    scanners.replace(vec![settings.clone()]);
    scan().await;
    assert_eq!(daemon.connections(), 1);
    scanners.replace(vec![Settings { connections: 1, ..settings }]);
    scan().await;
    assert_eq!(daemon.connections(), 2);
    scanners.replace(Vec::new());
    assert!(scanners.named("clamd").is_none());
}
