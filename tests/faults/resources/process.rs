//! RS1, RS5, RS14: what the process itself uses, and what it does when it has too little.

use std::time::Duration;

use postern_tests::client::Client;
use postern_tests::program::Place;
use postern_tests::scene::PATIENCE;
use postern_tests::sink::Sink;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::load::{admitted, chunks_take_bounded_memory, greeted, headers_take_bounded_memory, metric, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs1_sessions_leave_descriptors_for_spool_and_delivery() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let server = "max_connections = 1000\nmax_connections_per_client = 1000";
    let place = Place::new(directory.path(), sink.address.port(), server, "");
    let program = place.start_under(&["sh", "-c", "ulimit -n 64 && exec \"$0\" \"$@\""]).unwrap();
    let possible = metric(place.http, "postern_sessions_limit").await;
    assert_eq!(possible, 12.0);
    let (mut first, said) = greeted("127.0.0.1", place.listen).await;
    assert!(said.starts_with("220 "), "{said}");
    let mut open = Vec::new();
    for _ in 1..12 {
        let (client, said) = greeted("127.0.0.1", place.listen).await;
        assert!(said.starts_with("220 "), "{said}");
        open.push(client);
    }
    let before = program.cpu();
    for _ in 0..500 {
        let (mut client, said) = greeted("127.0.0.1", place.listen).await;
        assert_eq!(said, "421 4.3.2 mx.example.net too busy, try again later");
        client.closed().await.unwrap();
    }
    let cost = program.cpu() - before;
    assert!(cost < Duration::from_secs(2), "500 refusals took {cost:?}");
    assert!(send(&mut first).await.starts_with("250 "), "an established session is unharmed");
    sink.wait_for(1).await;
    drop(open);
    let mut next = admitted("127.0.0.1", place.listen).await;
    assert!(send(&mut next).await.starts_with("250 "));
    sink.wait_for(2).await;
    assert_eq!(metric(place.http, "postern_accept_failures_total").await, 0.0);
    drop((first, next));
    program.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs1_without_descriptors_accepting_waits_and_does_not_spin() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start().await.unwrap());
    let place = Place::new(directory.path(), sink.address.port(), "", "");
    let program = place.start();
    let (mut first, _) = greeted("127.0.0.1", place.listen).await;
    let (mut files, limit) = (0, program.limit_open_files(1 << 10));
    // The connections by which the start was seen may not be closed yet; when they are, there would be one left for a client.
    while files != program.open_files() {
        files = program.open_files();
        program.limit_open_files(files as u64);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let began = Instant::now();
    let before = program.cpu();
    // The kernel takes it, the gateway can't.
    let waiting = TcpStream::connect(place.listen).await.unwrap();
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
    let failures = metric(place.http, "postern_accept_failures_total").await;
    let tries = began.elapsed().as_secs_f64() / 0.1 + 2.0;
    assert!((1.0..=tries).contains(&failures), "{failures} failures, at most {tries}");
    drop((first, second));
    program.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs5_headers_without_end_take_bounded_memory() {
    // Twelve million octets each; `make test-faults` has the hundred and the thousand.
    headers_take_bounded_memory(12_000_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs14_chunks_of_an_octet_take_bounded_memory() {
    chunks_take_bounded_memory(10_000).await;
}
