//! Resources and slow peers, where it takes root, time or Debian packages.
//!
//! `POSTERN_OVERLOAD_SECONDS` (300) is how long the gateway gets twice what it can serve, `POSTERN_STORM_SECONDS` (10) how
//! long a storm of connections lasts. What was seen is printed: `--nocapture`.

#[path = "../resources/load.rs"]
#[allow(dead_code, reason = "the tests beside it use the rest")]
mod load;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_tests::client::Client;
use postern_tests::program::Place;
use postern_tests::scene::{NO_DNS, Scene, head};
use postern_tests::sink::Sink;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::from_environment;
use load::{chunks_take_bounded_memory, connect, greeted, headers_take_bounded_memory, metric, send};

const MIB: u64 = 1 << 20;
/// A client that has waited for so long for one reply has given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Addresses of this machine's own, one for each number.
fn address(number: u64) -> IpAddr {
    let [_, a, b, c] = u32::try_from(number % 60_000 + 0x1_0001).unwrap().to_be_bytes();
    Ipv4Addr::new(127, a, b, c).into()
}

/// As many open files as this process and its children may have.
fn raise_open_files(wanted: u64) -> u64 {
    let both = Some(wanted);
    if setrlimit(Resource::Nofile, Rlimit { current: both, maximum: both }).is_err() {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    }
    getrlimit(Resource::Nofile).current.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs2_thousands_of_idle_connections() {
    let files = raise_open_files(30_000);
    // The gateway keeps two for each.
    let count = ((files - 1000) / 2).min(10_000);
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let server = format!(
        "max_connections = {}\noverload_above = 100\nmax_connection_rate = 1000000\ncommand_timeout = \"40s\"",
        count + 100
    );
    let place = Place::new(directory.path(), sink.address.port(), &server, "");
    let program = place.start();
    let (mut client, _) = greeted("127.0.0.1", place.listen).await;
    assert!(send(&mut client).await.starts_with("250 "));
    drop(client);
    let (base, began) = (program.memory(), Instant::now());
    let mut idle = Vec::new();
    for number in 0..count {
        let (client, said) = greeted(&address(number / 50).to_string(), place.listen).await;
        assert!(said.starts_with("220 "), "{number}: {said}");
        idle.push(client);
    }
    let opened = began.elapsed();
    let (_, said) = greeted(&address(0).to_string(), place.listen).await;
    assert!(said.starts_with("421 4.7.0 "), "{said}");
    let memory = program.memory();
    let each = (memory - base) / count;
    let began = Instant::now();
    let (mut client, _) = greeted("127.200.0.1", place.listen).await;
    assert!(send(&mut client).await.starts_with("250 "));
    let served = began.elapsed();
    println!(
        "{count} idle connections opened in {opened:?}: {} MiB before, {} MiB then, {each} octets each; a mail of somebody \
         else took {served:?}",
        base / MIB,
        memory / MIB
    );
    assert!(each < 32 * 1024, "{each} octets for each");
    assert!(served < Duration::from_secs(1), "{served:?}");
    drop(client);
    for client in &mut idle {
        let said = client.line().await.unwrap();
        assert!(said.starts_with("421 4.4.2 "), "{said}");
        client.closed().await.unwrap();
    }
    while metric(place.http, "postern_sessions_open").await > 0.0 {
        tokio::task::yield_now().await;
    }
    sink.wait_for(2).await;
    program.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs5_headers_of_a_gigabyte() {
    headers_take_bounded_memory(100_000_000).await;
    // So much too long that it is not read to its end.
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let place = Place::new(directory.path(), sink.address.port(), "", "");
    let program = place.start();
    let base = program.memory();
    let mut stream = BufReader::new(TcpStream::connect(place.listen).await.unwrap());
    for step in
        ["", "HELO client.example\r\n", "MAIL FROM:<a@client.example>\r\n", "RCPT TO:<b@example.com>\r\n", "DATA\r\n"]
    {
        assert!(say(&mut stream, step.as_bytes()).await.unwrap().starts_with(['2', '3']));
    }
    let (piece, mut sent) = (b"X: y\r\n".repeat(10_000), 0);
    while sent < 1_000_000_000 && stream.write_all(&piece).await.is_ok() {
        sent += piece.len();
    }
    let peak = program.memory_peak();
    println!("closed after {} MiB; {} MiB before, {} MiB at most", sent as u64 / MIB, base / MIB, peak / MIB);
    assert!(sent < 200 << 20, "{sent} octets were taken");
    assert!(peak < base + 16 * MIB);
    let (mut client, _) = greeted("127.0.0.1", place.listen).await;
    assert!(send(&mut client).await.starts_with("250 "));
    drop(client);
    program.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs14_a_million_chunks() {
    chunks_take_bounded_memory(1_000_000).await;
}

/// Sends it and gives the last line of the reply.
async fn say(stream: &mut BufReader<TcpStream>, octets: &[u8]) -> io::Result<String> {
    stream.write_all(octets).await?;
    let mut line = String::new();
    while line.as_bytes().get(3) != Some(&b' ') {
        line.clear();
        match timeout(PATIENCE, stream.read_line(&mut line)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(_)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(line)
}

/// Needs openssl. TLS 1.3 has no renegotiation (RFC 8446 §4.1.2); of TLS 1.2 rustls has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs11_renegotiation() {
    let directory = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["mx.example.net".to_owned()]).unwrap();
    std::fs::write(directory.path().join("mx.pem"), signed.cert.pem()).unwrap();
    std::fs::write(directory.path().join("mx.key"), signed.signing_key.serialize_pem()).unwrap();
    let config = head(NO_DNS).replacen("role = \"inbound\"", "role = \"inbound\"\ntls = \"implicit\"", 1);
    // What refuses it is an alert, which openssl looks at when something is said.
    let config = config.replacen("[server]", "[server]\ncommand_timeout = \"2s\"", 1);
    let config = format!("{config}[tls]\ncertificate = \"mx.pem\"\nkey = \"mx.key\"\n");
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    let mut client = tokio::process::Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &scene.address().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut stdin, mut out) = (client.stdin.take().unwrap(), BufReader::new(client.stdout.take().unwrap()).lines());
    while !out.next_line().await.unwrap().expect("a banner").starts_with("220 ") {}
    // A line that begins so is a command to openssl. It gives up when its handshake is refused.
    stdin.write_all(b"R\n").await.unwrap();
    let ended = timeout(PATIENCE, client.wait()).await.expect("an end").unwrap();
    assert!(!ended.success(), "{ended}");
    let mut told = String::new();
    client.stderr.take().unwrap().read_to_string(&mut told).await.unwrap();
    assert!(told.contains("RENEGOTIATING") && told.contains("no renegotiation"), "{told}");
    scene.happened("disconnect", |_| true).await;
    scene.server.stop().await;
}

/// What became of one try to bring a mail.
enum Outcome {
    Taken(Duration),
    /// Instead of the banner.
    Refused,
    /// It was let in, and its mail was not taken; what was said.
    Unlucky(String),
    /// The connection was not had, or lost.
    Lost,
}

/// A connection of its own for one mail.
async fn bring(from: IpAddr, to: SocketAddr, id: u64) -> Outcome {
    let began = Instant::now();
    match try_to_bring(from, to, id).await {
        Ok((true, said)) if said.starts_with("250 ") => Outcome::Taken(began.elapsed()),
        Ok((false, said)) if said.starts_with("421 ") => Outcome::Refused,
        Ok((_, said)) => Outcome::Unlucky(said),
        Err(_) => Outcome::Lost,
    }
}

/// Whether it was let in, and what was said last.
async fn try_to_bring(from: IpAddr, to: SocketAddr, id: u64) -> io::Result<(bool, String)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let connected = timeout(PATIENCE, socket.connect(to)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let mut stream = BufReader::new(connected);
    let said = say(&mut stream, b"").await?;
    if !said.starts_with("220 ") {
        return Ok((false, said));
    }
    let body = "0123456789 and so on, a line of text\r\n".repeat(50);
    for step in [
        "EHLO client.example\r\n".to_owned(),
        "MAIL FROM:<a@client.example>\r\n".to_owned(),
        "RCPT TO:<b@example.com>\r\n".to_owned(),
        "DATA\r\n".to_owned(),
    ] {
        let said = say(&mut stream, step.as_bytes()).await?;
        if !said.starts_with(['2', '3']) {
            return Ok((true, said));
        }
    }
    let said = say(&mut stream, format!("X-Ledger: {id}\r\nSubject: x\r\n\r\n{body}.\r\n").as_bytes()).await?;
    let _ = stream.write_all(b"QUIT\r\n").await;
    Ok((true, said))
}

#[derive(Default)]
struct Tally {
    ledger: Mutex<HashSet<u64>>,
    times: Mutex<Vec<Duration>>,
    next: AtomicU64,
    refused: AtomicU64,
    unlucky: Mutex<Vec<String>>,
    lost: AtomicU64,
}

impl Tally {
    async fn try_one(&self, to: SocketAddr) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        match bring(address(id), to, id).await {
            Outcome::Taken(time) => {
                self.ledger.lock().unwrap().insert(id);
                self.times.lock().unwrap().push(time);
            }
            Outcome::Refused => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
            Outcome::Unlucky(said) => self.unlucky.lock().unwrap().push(said),
            Outcome::Lost => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn taken(&self) -> usize {
        self.ledger.lock().unwrap().len()
    }

    /// Of a hundred, so many took at most that; and a new count begins.
    fn percentile(&self, percent: usize) -> Duration {
        let mut times = std::mem::take(&mut *self.times.lock().unwrap());
        times.sort_unstable();
        times.get(times.len() * percent / 100).copied().unwrap_or_default()
    }
}

/// Mails a second that are taken when so many clients bring one after the other.
async fn capacity(tally: &Arc<Tally>, to: SocketAddr, time: Duration) -> f64 {
    let (before, began) = (tally.taken(), Instant::now());
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        let tally = tally.clone();
        clients.spawn(async move {
            while began.elapsed() < time {
                tally.try_one(to).await;
            }
        });
    }
    clients.join_all().await;
    (tally.taken() - before) as f64 / began.elapsed().as_secs_f64()
}

/// A next hop that keeps nothing but ids: how often it has taken each.
#[derive(Default)]
struct Hop(Mutex<HashMap<u64, u32>>);

impl Hop {
    async fn start() -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hop = Arc::new(Self::default());
        let taking = hop.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let hop = taking.clone();
                tokio::spawn(async move { hop.take(BufReader::new(stream)).await });
            }
        });
        (hop, port)
    }

    fn has(&self, ledger: &HashSet<u64>) -> bool {
        let taken = self.0.lock().unwrap();
        ledger.iter().all(|id| taken.contains_key(id))
    }

    async fn take(&self, mut stream: BufReader<TcpStream>) -> io::Result<()> {
        stream.write_all(b"220 hop.example ESMTP\r\n").await?;
        let (mut line, mut id, mut in_data) = (String::new(), None, false);
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let reply: &[u8] = match line.trim_end() {
                "." if in_data => {
                    in_data = false;
                    *self.0.lock().unwrap().entry(id.take().expect("an id")).or_default() += 1;
                    b"250 taken\r\n"
                }
                field if in_data => {
                    id = field.strip_prefix("X-Ledger: ").map_or(id, |number| number.parse().ok());
                    continue;
                }
                "DATA" => {
                    in_data = true;
                    b"354 go on\r\n"
                }
                hello if hello.starts_with("EHLO") => b"250-hop.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
                _ => b"250 ok\r\n",
            };
            stream.write_all(reply).await?;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs4_twice_the_rate_that_can_be_served() {
    let seconds = from_environment("POSTERN_OVERLOAD_SECONDS", 300);
    raise_open_files(30_000);
    let (directory, (hop, port)) = (tempfile::tempdir().unwrap(), Hop::start().await);
    // The rate of new connections would turn them away before there are many.
    let server = "max_connections = 200\nmax_connection_rate = 1000000";
    let place = Place::new(directory.path(), port, server, "");
    let program = place.start();
    let (tally, to) = (Arc::new(Tally::default()), place.listen);
    let rate = capacity(&tally, to, Duration::from_secs(seconds.clamp(2, 10))).await;
    let (base, calm) = (program.memory(), tally.percentile(99));
    let before = tally.taken();

    // Twice as many come, whether or not those before are done.
    let began = Instant::now();
    let mut ticks = interval(Duration::from_secs_f64(1.0 / (2.0 * rate)));
    let (mut clients, mut most_open, mut next_look) = (JoinSet::new(), 0.0_f64, began);
    while began.elapsed() < Duration::from_secs(seconds) {
        ticks.tick().await;
        let tally = tally.clone();
        clients.spawn(async move { tally.try_one(to).await });
        while clients.try_join_next().is_some() {}
        if Instant::now() > next_look {
            next_look += Duration::from_secs(1);
            most_open = most_open.max(metric(place.http, "postern_sessions_open").await);
        }
    }
    let waiting = clients.len();
    let (served, offered) = (tally.taken() - before, tally.next.load(Ordering::Relaxed));
    let strained = tally.percentile(99);
    let peak = program.memory_peak();
    let ended = Instant::now();

    // Back to normal: no overload, and a mail takes what it took.
    let in_queue = tally.taken().saturating_sub(hop.0.lock().unwrap().len());
    let recovered = loop {
        let calm_again = metric(place.http, "postern_overload").await == 0.0;
        let one = bring(address(1), to, u64::MAX).await;
        if calm_again && matches!(one, Outcome::Taken(time) if time < calm.max(Duration::from_millis(100))) {
            break ended.elapsed();
        }
        assert!(ended.elapsed() < PATIENCE, "it does not recover");
        sleep(Duration::from_millis(20)).await;
    };
    clients.join_all().await;
    println!(
        "{rate:.0} mails a second can be served; for {seconds} s twice as many came: {offered} in all, {served} taken \
         ({:.0} a second, p99 {strained:?}; before {calm:?}), {} refused with 421, {} else, {} lost; at most {most_open} \
         sessions, {waiting} clients still there at the end; {} MiB before, {} MiB at most; back to normal after \
         {recovered:?}, with {in_queue} mails in the queue",
        served as f64 / seconds as f64,
        tally.refused.load(Ordering::Relaxed),
        tally.unlucky.lock().unwrap().len(),
        tally.lost.load(Ordering::Relaxed),
        base / MIB,
        peak / MIB
    );
    let drained = Instant::now();
    let ledger = tally.ledger.lock().unwrap().clone();
    while !hop.has(&ledger) {
        assert!(drained.elapsed() < Duration::from_secs(1800), "some of those taken do not come");
        sleep(Duration::from_millis(500)).await;
    }
    let twice = hop.0.lock().unwrap().values().filter(|copies| **copies > 1).count();
    println!("{} acknowledged, all delivered after {:?} more, {twice} twice", ledger.len(), drained.elapsed());
    assert_eq!(twice, 0);
    let unlucky = tally.unlucky.lock().unwrap();
    assert!(unlucky.iter().all(|said| said.starts_with('4')), "{:?}", unlucky.first());
    assert!(tally.refused.load(Ordering::Relaxed) > 0, "it was no overload");
    assert!(recovered < Duration::from_secs(5), "{recovered:?}");
    // 200 sessions of at most 256 KiB, and 1 KiB for each mail in the queue.
    let bound = base + 200 * MIB / 4 + served as u64 * 1024;
    assert!(peak < bound + bound / 4, "{} MiB, more than {} MiB", peak / MIB, bound / MIB);
    program.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs4_clients_that_hold_connections() {
    const HOLDERS: u64 = 16;
    raise_open_files(30_000);
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let server = "max_connections = 200\noverload_timeout = \"2s\"\nexempt_networks = []";
    let place = Place::new(directory.path(), sink.address.port(), server, "");
    let program = place.start();
    let to = place.listen;
    // Each wants fifty, four times as many as there are in all, and takes another one whenever one is ended.
    let mut holders = JoinSet::new();
    for number in 0..HOLDERS * 50 {
        let from = address(50_000 + number / 50);
        holders.spawn(async move {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(SocketAddr::new(from, 0)).unwrap();
                if let Ok(mut client) = socket.connect(to).await {
                    while matches!(client.read(&mut [0; 512]).await, Ok(1..)) {}
                }
                sleep(Duration::from_millis(500)).await;
            }
        });
    }
    while metric(place.http, "postern_overload").await == 0.0 {
        tokio::task::yield_now().await;
    }
    // When those who came before have had their time.
    sleep(Duration::from_secs(4)).await;
    let tally = Tally::default();
    for _ in 0..200 {
        tally.try_one(to).await;
        sleep(Duration::from_millis(20)).await;
    }
    println!(
        "{} of 200 good clients were served, in {:?} (p99), {} refused; {} sessions are open",
        tally.taken(),
        tally.percentile(99),
        tally.refused.load(Ordering::Relaxed),
        metric(place.http, "postern_sessions_open").await
    );
    assert!(tally.taken() >= 180, "{} of 200", tally.taken());
    assert_eq!(metric(place.http, "postern_overload").await, 1.0, "it was overload all the time");
    holders.shutdown().await;
    sink.wait_for(tally.taken()).await;
    program.stop();
}

/// Mails over a session that is there already: what each takes.
async fn mails(client: &mut Client, time: Duration) -> Vec<Duration> {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let one = Instant::now();
        assert!(send(client).await.starts_with("250 "));
        times.push(one.elapsed());
        sleep(Duration::from_millis(5)).await;
    }
    times.sort_unstable();
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs12_a_storm_of_connections() {
    const RATE: u32 = 5000;
    let time = Duration::from_secs(from_environment("POSTERN_STORM_SECONDS", 10));
    raise_open_files(30_000);
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let place = Place::new(directory.path(), sink.address.port(), "", "");
    let program = place.start();
    let (mut established, _) = greeted("127.0.0.1", place.listen).await;
    let calm = mails(&mut established, time / 2).await;
    let (files, base) = (program.open_files(), program.memory());
    let to = place.listen;
    let storm = tokio::spawn(async move {
        let (began, mut number, mut said) = (Instant::now(), 0_u64, (0_u64, 0_u64));
        let mut clients = JoinSet::new();
        while began.elapsed() < time {
            // As many as are due by now.
            while number < (began.elapsed().as_secs_f64() * f64::from(RATE)) as u64 {
                number += 1;
                clients.spawn(async move {
                    let mut stream = BufReader::new(connect(&address(number).to_string(), to).await);
                    say(&mut stream, b"").await
                });
            }
            while let Some(Ok(reply)) = clients.try_join_next() {
                match reply.unwrap_or_default().get(..3) {
                    Some("220") => said.0 += 1,
                    Some("421") => said.1 += 1,
                    _ => {}
                }
            }
            sleep(Duration::from_millis(1)).await;
        }
        clients.shutdown().await;
        (number, said)
    });
    let strained = mails(&mut established, time).await;
    let (offered, (greeted_too, refused)) = storm.await.unwrap();
    let of = |times: &[Duration], percent: usize| times[times.len() * percent / 100];
    println!(
        "{offered} connections in {time:?}: {greeted_too} had a session, {refused} were refused; a mail of an established session \
         took {:?} (p99 {:?}), before {:?} (p99 {:?}); {} MiB before, {} MiB at most",
        of(&strained, 50),
        of(&strained, 99),
        of(&calm, 50),
        of(&calm, 99),
        base / MIB,
        program.memory_peak() / MIB
    );
    assert!(refused > 0);
    assert!(greeted_too <= 1000 * (time.as_secs() + 2));
    // The clients use the same processors.
    let most = (2 * of(&calm, 99)).max(Duration::from_millis(100));
    assert!(of(&strained, 99) <= most, "{:?}, before {:?}", of(&strained, 99), of(&calm, 99));
    let began = Instant::now();
    while program.open_files() > files + 5 {
        assert!(began.elapsed() < PATIENCE, "{} files are open, before {files}", program.open_files());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(program.memory_peak() < base + 64 * MIB);
    drop(established);
    program.stop();
}
