//! K: the process dies at a moment that a client or a next hop can choose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use postern_tests::ledger::{Conversation, Ledger, Moment, body, mail};
use rand::RngExt as _;

use super::Bench;

const CLIENTS: usize = 8;
/// Kills under load; `POSTERN_CRASH_ROUNDS` says otherwise.
const ROUNDS: usize = 20;
const BOB: &[&str] = &["bob@example.com"];

#[test]
fn k1_killed_before_354() {
    let bench = Bench::new("");
    let steps = ["", "EHLO client.example\r\n", "MAIL FROM:<a@example.com>\r\n", "RCPT TO:<bob@example.com>\r\n"];
    for count in 1..=steps.len() {
        let gateway = bench.place.start();
        let mut client = Conversation::open(bench.place.listen).unwrap();
        for step in &steps[1..count] {
            assert!(client.say(step).unwrap().starts_with("250 "));
        }
        gateway.kill();
        assert!(client.say("DATA\r\n").is_err(), "the client sees that nobody is there");
    }
    let gateway = bench.place.start();
    assert!(bench.queue().is_empty());
    assert!(bench.send("good", BOB, 100).starts_with("250 "));
    bench.finish(gateway, 0);
    assert_eq!(bench.arrivals.lines().len(), 1);
}

#[test]
fn k2_killed_in_the_middle_of_the_content() {
    let bench = Bench::new("");
    let large = mail("half", &body(3 << 20));
    for (begin, content) in [("DATA\r\n", &large[..2000]), ("DATA\r\n", &large), ("BDAT 9000000\r\n", &large)] {
        let gateway = bench.place.start();
        let mut client = bench.client();
        for step in ["MAIL FROM:<a@example.com>\r\n", "RCPT TO:<bob@example.com>\r\n"] {
            assert!(client.say(step).unwrap().starts_with("250 "));
        }
        client.whisper(begin).unwrap();
        if begin == "DATA\r\n" {
            assert!(client.hear().unwrap().starts_with("354 "));
        }
        client.whisper(content).unwrap();
        let incoming = || std::fs::read_dir(bench.place.spool.join("incoming")).unwrap().count();
        while content.len() > 1 << 20 && incoming() == 0 {
            thread::yield_now();
        }
        gateway.kill();
        assert!(client.hear().is_err(), "no reply");
        let gateway = bench.place.start();
        assert_eq!((incoming(), bench.queue().len()), (0, 0), "{begin}");
        gateway.kill();
    }
    let gateway = bench.place.start();
    // As a client does that had no answer.
    assert!(bench.send("half", BOB, 3 << 20).starts_with("250 "));
    bench.finish(gateway, 0);
    assert_eq!(bench.copies("half"), 1);
}

/// K9 too: the next hop takes nothing before the next start, so nothing but the spool can have kept it.
#[test]
fn k8_killed_right_after_250() {
    let bench = Bench::new("");
    for (round, octets) in [100, 300_000, 3 << 20].into_iter().enumerate() {
        bench.deaf.store(true, Ordering::Relaxed);
        let gateway = bench.place.start();
        assert!(bench.send(&format!("m{round}"), BOB, octets).starts_with("250 "));
        gateway.kill();
    }
    bench.deaf.store(false, Ordering::Relaxed);
    let gateway = bench.place.start();
    assert_eq!(bench.finish(gateway, 0).acknowledged, 3);
}

#[test]
fn k10_killed_while_the_next_hop_has_no_whole_copy() {
    let bench = Bench::new("");
    let moments = [Moment::Connected, Moment::Sender, Moment::Recipient, Moment::Content];
    for (round, moment) in moments.into_iter().enumerate() {
        let mut gateway = bench.place.start();
        bench.kill_at(&gateway, moment, "");
        // More than fits between the two.
        bench.offer(&format!("m{round}"), BOB, 16 << 20);
        gateway.wait();
        assert_eq!(bench.copies(&format!("m{round}")), 0, "{moment:?}");
        let gateway = bench.place.start();
        bench.wait_for(&format!("m{round}"));
        gateway.stop();
    }
    let gateway = bench.place.start();
    assert_eq!(bench.finish(gateway, 0).extra, 0);
}

#[test]
fn k11_killed_after_our_dot_before_its_reply() {
    let bench = Bench::new("");
    let mut gateway = bench.place.start();
    bench.kill_at(&gateway, Moment::Dot, "");
    bench.offer("m", BOB, 100);
    gateway.wait();
    let gateway = bench.place.start();
    bench.arrivals.wait_until("the second copy", |arrivals| arrivals.len() == 2);
    assert_eq!(bench.finish(gateway, 1).extra, 1);
}

#[test]
fn k12_killed_after_its_reply_before_our_record() {
    let bench = Bench::new("");
    for round in 0..4 {
        let mut gateway = bench.place.start();
        bench.kill_at(&gateway, Moment::Answered, "");
        bench.offer(&format!("m{round}"), BOB, 100);
        gateway.wait();
        let gateway = bench.place.start();
        bench.wait_until_empty();
        gateway.stop();
    }
    let gateway = bench.place.start();
    let account = bench.finish(gateway, 1);
    println!("{} of 4 came twice", account.extra);
}

#[test]
fn k13_killed_after_our_record() {
    let bench = Bench::new("");
    let gateway = bench.place.start();
    for round in 0..5 {
        let id = format!("m{round}");
        assert!(bench.send(&id, BOB, 200_000).starts_with("250 "));
        bench.wait_for(&id);
    }
    bench.wait_until_empty();
    // What is forgotten rides on the commit that answers this one.
    bench.deaf.store(true, Ordering::Relaxed);
    assert!(bench.send("last", BOB, 100).starts_with("250 "));
    gateway.kill();
    bench.deaf.store(false, Ordering::Relaxed);
    let gateway = bench.place.start();
    assert_eq!(bench.finish(gateway, 0).extra, 0);
    // Freed by the next start at the latest.
    bench.place.start().stop();
    let octets: u64 = bench.place.segments().iter().map(|segment| segment.metadata().unwrap().len()).sum();
    assert!(octets < 10_000, "{octets} octets are kept of nothing");
}

#[test]
fn k14_killed_when_some_recipients_are_done() {
    let bench = Bench::new("");
    let gateway = bench.place.start();
    assert!(bench.send("m", &["bob@example.com", "later@example.com"], 100).starts_with("250 "));
    bench.happened("deferred");
    gateway.kill();
    assert_eq!(bench.copies("m"), 1);
    bench.putting_off.store(false, Ordering::Relaxed);
    let gateway = bench.place.start();
    bench.place.command(&["queue", "flush", "--all"]);
    bench.arrivals.wait_until("the other one", |arrivals| arrivals.len() == 2);
    assert_eq!(bench.finish(gateway, 0).extra, 0);
}

#[test]
fn k15_killed_while_a_report_is_made_or_sent() {
    let bench = Bench::new("");
    let traps = [
        // Right after the reply that is to be reported.
        (Moment::Recipient, "<refuse@"),
        (Moment::Sender, "FROM:<>"),
        (Moment::Dot, "multipart/report"),
        (Moment::Answered, "multipart/report"),
    ];
    for (round, (moment, within)) in traps.into_iter().enumerate() {
        let id = format!("m{round}");
        let mut gateway = bench.place.start();
        bench.kill_at(&gateway, moment, within);
        bench.offer(&id, &["refuse@example.com"], 100);
        gateway.wait();
        let gateway = bench.place.start();
        let is_report = |arrival: &postern_tests::ledger::Arrival| arrival.is_report && arrival.id == id;
        bench.arrivals.wait_until("a report", |arrivals| arrivals.iter().any(is_report));
        bench.wait_until_empty();
        gateway.stop();
        let reports = bench.arrivals.lines().into_iter().filter(is_report).count();
        let most = if moment == Moment::Dot || moment == Moment::Answered { 2 } else { 1 };
        assert!((1..=most).contains(&reports), "{moment:?}: {reports} reports");
    }
    let gateway = bench.place.start();
    bench.finish(gateway, 0);
}

#[test]
fn k16_terminated_under_load() {
    let bench = Bench::new("");
    let mut gateway = bench.place.start();
    let mut idle = bench.client();
    let load = Load::start(&bench);
    bench.ledger.wait_until("load", |answers| answers.len() > 200);
    gateway.terminate();
    let said = idle.hear().unwrap();
    assert!(said.starts_with("421 4.3.2 "), "{said}");
    assert!(gateway.wait().success());
    load.stop();
    // Those that were not delivered in time are in the spool; none came twice.
    let spool = postern_tests::ledger::in_spool(&bench.place.spool);
    assert_eq!(bench.settle(&spool, 0).extra, 0);
    let gateway = bench.place.start();
    assert_eq!(bench.finish(gateway, 0).extra, 0);
}

#[test]
fn k18_a_spool_of_another_format_is_refused() {
    let bench = Bench::new("");
    bench.deaf.store(true, Ordering::Relaxed);
    let gateway = bench.place.start();
    assert!(bench.send("m", BOB, 100).starts_with("250 "));
    gateway.stop();
    let segment = bench.place.segments().remove(0);
    let ours = std::fs::read(&segment).unwrap();
    let mut newer = ours.clone();
    newer[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let crc = crc32(&newer[..32]);
    newer[32..36].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(crc32(&ours[..32]).to_le_bytes(), ours[32..36], "the sum that the format has");
    std::fs::write(&segment, &newer).unwrap();
    assert!(!bench.place.spawn(&[]).wait().success());
    let said = bench.place.said();
    assert!(said.contains("version 2"), "{said}");
    assert_eq!(std::fs::read(&segment).unwrap(), newer, "what it does not know it leaves as it is");
    // The version that wrote it has it still.
    std::fs::write(&segment, &ours).unwrap();
    bench.deaf.store(false, Ordering::Relaxed);
    let gateway = bench.place.start();
    bench.finish(gateway, 0);
}

/// CRC-32 (IEEE), bit by bit.
fn crc32(octets: &[u8]) -> u32 {
    !octets.iter().fold(!0, |crc, octet| {
        (0..8).fold(crc ^ u32::from(*octet), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// Clients that send one mail after the other, over deaths of the gateway, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(bench: &Bench) -> Self {
        let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let clients = (0..CLIENTS).map(|_| {
            let (ledger, next, stop, address) = (bench.ledger.clone(), next.clone(), stop.clone(), bench.place.listen);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let connection = Conversation::greeted(address);
                    if connection.and_then(|client| send_mails(client, &ledger, &next, &stop)).is_err() {
                        thread::yield_now();
                    }
                }
            })
        });
        Self { clients: clients.collect(), stop }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

fn send_mails(mut client: Conversation, ledger: &Ledger, next: &AtomicU64, stop: &AtomicBool) -> std::io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let id = next.fetch_add(1, Ordering::Relaxed);
        // Some bodies are large enough to go through a file of their own.
        let octets = if id.is_multiple_of(16) { 800_000 } else { 800 };
        let reply = client.send(ledger, &id.to_string(), BOB, &body(octets))?;
        if !reply.starts_with("250 ") {
            return Err(std::io::Error::other(reply));
        }
    }
    Ok(())
}

#[test]
fn k8_killed_at_random_moments_under_load() {
    let rounds = crate::from_environment("POSTERN_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let bench = Bench::new("");
    let load = Load::start(&bench);
    let mut random = rand::rng();
    for _ in 0..rounds {
        let gateway = bench.place.start();
        let enough = bench.ledger.lines().len() + random.random_range(1..200);
        bench.ledger.wait_until("answers before the kill", |answers| answers.len() >= enough);
        gateway.kill();
    }
    load.stop();
    let gateway = bench.place.start();
    let account = bench.finish(gateway, rounds);
    println!("{account:?} in {rounds} kills");
}
