//! Clients for a gateway that has much to bear; and rows whose size alone differs between `make test` and `make test-faults`.

use std::net::{IpAddr, SocketAddr};

use postern_tests::client::Client;
use postern_tests::program::Place;
use postern_tests::scene::PATIENCE;
use postern_tests::sink::Sink;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

const MIB: u64 = 1 << 20;

/// From an address of this machine's own: all of 127.0.0.0/8 is.
pub(super) async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// With what was said first.
pub(super) async fn greeted(from: &str, to: SocketAddr) -> (Client, String) {
    let mut client = Client::new(Box::new(connect(from, to).await), false, PATIENCE);
    let said = client.line().await.unwrap();
    (client, said)
}

/// As soon as there is a place.
pub(super) async fn admitted(from: &str, to: SocketAddr) -> Client {
    loop {
        let (client, said) = greeted(from, to).await;
        if said.starts_with("220 ") {
            return client;
        }
        assert!(said.starts_with("421 "), "{said}");
    }
}

/// The value of a series at the gateway's `[server.http]`.
pub(super) async fn metric(http: SocketAddr, series: &str) -> f64 {
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let line = answer.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{answer}")).trim().parse().unwrap()
}

/// The replies up to that to the end of the data.
pub(super) async fn send(client: &mut Client) -> String {
    client.send(b"EHLO client.example\r\n").await;
    client.reply().await.unwrap();
    let mut said = String::new();
    for step in
        ["MAIL FROM:<a@client.example>\r\n", "RCPT TO:<b@example.com>\r\n", "DATA\r\n", "Subject: x\r\n\r\nx\r\n.\r\n"]
    {
        client.send(step.as_bytes()).await;
        said = client.line().await.unwrap();
    }
    said
}

/// Sends pieces as they are made and gives the lines that came back after `skip` of them.
async fn pour(listen: SocketAddr, pieces: impl Iterator<Item = Vec<u8>>, envelope: &str) -> String {
    let mut stream = BufReader::new(TcpStream::connect(listen).await.unwrap());
    let mut line = String::new();
    for step in ["", "HELO client.example\r\n"].into_iter().chain(envelope.split_inclusive("\r\n")) {
        stream.write_all(step.as_bytes()).await.unwrap();
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.starts_with(['2', '3']), "{step}: {line}");
    }
    for piece in pieces {
        if stream.write_all(&piece).await.is_err() {
            break;
        }
    }
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    // The session goes on, or it is closed.
    if line.starts_with("552 ") {
        stream.write_all(b"NOOP\r\n").await.unwrap();
        let mut next = String::new();
        stream.read_line(&mut next).await.unwrap();
        assert!(next.starts_with("250 "), "{next}");
    }
    line
}

const ENVELOPE: &str = "MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n";

/// A field of so many octets, so many octets of small fields, and of folded lines.
pub(super) async fn headers_take_bounded_memory(octets: usize) {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let place = Place::new(directory.path(), sink.address.port(), "", "");
    let program = place.start();
    let (mut client, _) = greeted("127.0.0.1", place.listen).await;
    assert!(send(&mut client).await.starts_with("250 "));
    let base = program.memory();
    for (what, begin, piece) in [
        ("one field", "X: ", vec![b'x'; 60_000]),
        ("many fields", "", b"X: y\r\n".repeat(10_000)),
        ("folded lines", "X: y\r\n", b" y\r\n".repeat(15_000)),
    ] {
        let count = octets / piece.len();
        let end = b"\r\n\r\nbody\r\n.\r\n".to_vec();
        let pieces = std::iter::once(begin.into()).chain(std::iter::repeat_n(piece, count)).chain([end]);
        // The header's limit, or beyond 50 MiB the message's.
        let said = pour(place.listen, pieces, ENVELOPE).await;
        assert!(said.starts_with("552 5.3.4 Message "), "{what}: {said}");
    }
    let peak = program.memory_peak();
    assert!(peak < base + 16 * MIB, "{} MiB before, {} MiB at most", base / MIB, peak / MIB);
    assert!(send(&mut client).await.starts_with("250 "));
    sink.wait_for(2).await;
    drop(client);
    program.stop();
}

pub(super) async fn chunks_take_bounded_memory(count: usize) {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let place = Place::new(directory.path(), sink.address.port(), "", "");
    let program = place.start();
    let (mut client, _) = greeted("127.0.0.1", place.listen).await;
    assert!(send(&mut client).await.starts_with("250 "));
    let base = program.memory();
    let stream = TcpStream::connect(place.listen).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let envelope = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\nBDAT 14\r\nSubject: x\r\n\r\n";
    for (step, replies) in [(&b""[..], 1), (b"EHLO client.example\r\n", 0), (envelope, 3)] {
        writer.write_all(step).await.unwrap();
        let mut line = String::new();
        let mut got = 0;
        while got < replies || (replies == 0 && !line.starts_with("250 ")) {
            line.clear();
            reader.read_line(&mut line).await.unwrap();
            assert!(line.starts_with('2'), "{line}");
            got += 1;
        }
    }
    let replies = tokio::spawn(async move {
        let mut replies = Vec::new();
        let mut taken = 0;
        while taken < count + 1 {
            replies.clear();
            assert!(reader.read_until(b'\n', &mut replies).await.unwrap() > 0, "closed after {taken} chunks");
            assert!(replies.starts_with(b"250 "), "{}", replies.escape_ascii());
            taken += 1;
        }
        reader
    });
    for _ in 0..count / 100 {
        writer.write_all(&b"BDAT 1\r\ny".repeat(100)).await.unwrap();
    }
    writer.write_all(b"BDAT 2 LAST\r\n\r\n").await.unwrap();
    let mut reader = replies.await.unwrap();
    let peak = program.memory_peak();
    assert!(peak < base + 16 * MIB + count as u64, "{} MiB before, {} MiB at most", base / MIB, peak / MIB);
    writer.write_all(b"QUIT\r\n").await.unwrap();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).await.unwrap();
    let taken = sink.wait_for(2).await;
    let body = [b"\r\n\r\n", &vec![b'y'; count][..], b"\r\n"].concat();
    assert!(taken.iter().any(|mail| mail.octets.ends_with(&body)), "whole");
    drop(client);
    program.stop();
}
