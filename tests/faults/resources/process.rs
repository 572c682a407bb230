//! RS1, RS5, RS14: what the process itself uses, and what it does when it has too little.

use std::time::Duration;

use postern_tests::client::Client;
use postern_tests::scene::PATIENCE;
use postern_tests::sink::Sink;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::program::Program;
use super::{greeted, metric};

const MIB: u64 = 1 << 20;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs1_sessions_leave_descriptors_for_spool_and_delivery() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let server = "max_connections = 1000\nmax_connections_per_client = 1000";
    let program = Program::start(directory.path(), server, sink.address.port(), Some(64));
    let possible = metric(program.http, "postern_sessions_limit").await;
    assert_eq!(possible, 12.0);
    let (mut first, said) = greeted("127.0.0.1", program.address).await;
    assert!(said.starts_with("220 "), "{said}");
    let mut open = Vec::new();
    for _ in 1..12 {
        let (client, said) = greeted("127.0.0.1", program.address).await;
        assert!(said.starts_with("220 "), "{said}");
        open.push(client);
    }
    let before = program.cpu();
    for _ in 0..500 {
        let (mut client, said) = greeted("127.0.0.1", program.address).await;
        assert_eq!(said, "421 4.3.2 mx.example.net too busy, try again later");
        client.closed().await.unwrap();
    }
    let cost = program.cpu() - before;
    assert!(cost < Duration::from_secs(2), "500 refusals took {cost:?}");
    assert!(send(&mut first).await.starts_with("250 "), "an established session is unharmed");
    sink.wait_for(1).await;
    drop(open);
    loop {
        let (mut client, said) = greeted("127.0.0.1", program.address).await;
        if said.starts_with("220 ") {
            assert!(send(&mut client).await.starts_with("250 "));
            break;
        }
    }
    sink.wait_for(2).await;
    assert_eq!(metric(program.http, "postern_accept_failures_total").await, 0.0);
    drop(first);
    program.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs1_without_descriptors_accepting_waits_and_does_not_spin() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let program = Program::start(directory.path(), "", sink.address.port(), None);
    let (mut first, _) = greeted("127.0.0.1", program.address).await;
    let limit = program.limit_open_files(program.open_files() as u64);
    let began = Instant::now();
    let before = program.cpu();
    // The kernel takes it, the gateway can't.
    let waiting = TcpStream::connect(program.address).await.unwrap();
    for _ in 0..20 {
        first.send(b"NOOP\r\n").await;
        assert!(first.line().await.unwrap().starts_with("250 "), "an established session is unharmed");
    }
    // The twenty replies were slowed down: two seconds have passed.
    let (took, cost) = (began.elapsed(), program.cpu() - before);
    assert!(cost < took / 2, "{cost:?} of the processor in {took:?}");
    program.limit_open_files(limit);
    let mut second = Client::new(Box::new(waiting), false, PATIENCE);
    let said = second.line().await.unwrap();
    assert!(said.starts_with("220 "), "{said}");
    assert!(send(&mut second).await.starts_with("250 "));
    assert!(send(&mut first).await.starts_with("250 "));
    sink.wait_for(2).await;
    let failures = metric(program.http, "postern_accept_failures_total").await;
    let tries = began.elapsed().as_secs_f64() / 0.1 + 2.0;
    assert!((1.0..=tries).contains(&failures), "{failures} failures, at most {tries}");
    drop((first, second));
    program.stop();
}

/// Sends pieces as they are made and gives the lines that came back after `skip` of them.
async fn pour(program: &Program, pieces: impl Iterator<Item = Vec<u8>>, envelope: &str) -> String {
    let mut stream = BufReader::new(TcpStream::connect(program.address).await.unwrap());
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs5_headers_without_end_take_bounded_memory() {
    // Twelve million octets each; `make test-faults` has the hundred and the thousand.
    headers_take_bounded_memory(12_000_000).await;
}

/// A field of so many octets, so many octets of small fields, and of folded lines.
pub(super) async fn headers_take_bounded_memory(octets: usize) {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let program = Program::start(directory.path(), "", sink.address.port(), None);
    let (mut client, _) = greeted("127.0.0.1", program.address).await;
    assert!(send(&mut client).await.starts_with("250 "));
    let base = program.memory();
    let refused = "552 5.3.4 Message header too large\r\n";
    for (what, begin, piece) in [
        ("one field", "X: ", vec![b'x'; 60_000]),
        ("many fields", "", b"X: y\r\n".repeat(10_000)),
        ("folded lines", "X: y\r\n", b" y\r\n".repeat(15_000)),
    ] {
        let count = octets / piece.len();
        let end = b"\r\n\r\nbody\r\n.\r\n".to_vec();
        let pieces = std::iter::once(begin.into()).chain(std::iter::repeat_n(piece, count)).chain([end]);
        assert_eq!(pour(&program, pieces, ENVELOPE).await, refused, "{what}");
    }
    let peak = program.memory_peak();
    assert!(peak < base + 16 * MIB, "{} MiB before, {} MiB at most", base / MIB, peak / MIB);
    assert!(send(&mut client).await.starts_with("250 "));
    sink.wait_for(2).await;
    drop(client);
    program.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs14_chunks_of_an_octet_take_bounded_memory() {
    chunks_take_bounded_memory(10_000).await;
}

pub(super) async fn chunks_take_bounded_memory(count: usize) {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let program = Program::start(directory.path(), "", sink.address.port(), None);
    let (mut client, _) = greeted("127.0.0.1", program.address).await;
    assert!(send(&mut client).await.starts_with("250 "));
    let base = program.memory();
    let stream = TcpStream::connect(program.address).await.unwrap();
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
