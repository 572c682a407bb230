//! The latch: a spool that has failed takes nothing more until a restart, and everybody hears of it. And G13: what
//! `/healthz/ready` and `/healthz/live` say in each fault.

use std::fs;
use std::sync::atomic::Ordering;
use std::thread;

use postern_tests::ledger::{Conversation, body, in_spool, mail};

use postern_tests::program::MANY_OF_A_CLIENT;

use super::Bench;

const BOB: &[&str] = &["bob@example.com"];
const LATER: &[&str] = &["later@example.com"];

impl Bench {
    /// What probes and an operator see: the codes of ready and live, why it is not ready, and the exit code of `postern status`.
    fn vitals(&self) -> (u16, u16, String, Option<i32>) {
        let (ready, why) = self.place.get("/healthz/ready").unwrap();
        let (live, _) = self.place.get("/healthz/live").unwrap();
        (ready, live, why.trim().to_owned(), self.place.command(&["status"]).0)
    }

    fn assert_vitals(&self, ready: u16, why: &str, status: i32) {
        assert_eq!(self.vitals(), (ready, 200, why.to_owned(), Some(status)), "{}", self.place.said());
    }

    fn wait_until_not_ready(&self) {
        while self.place.get("/healthz/ready").unwrap().0 == 200 {
            thread::yield_now();
        }
    }
}

/// The segment is moved away under the gateway, as by a disk that was mounted over: the next commit finds out. D3 and D2 close
/// the same latch (machine/storage.rs).
#[test]
fn d5_a_segment_that_is_gone_closes_the_latch() {
    let bench = Bench::new("");
    let gateway = bench.place.start();
    assert!(bench.send("kept", LATER, 100).starts_with("250 "));
    bench.happened("deferred");
    let mut session = bench.client();
    let segment = bench.place.segments().remove(0);
    let away = bench.directory.path().join("away.segment");
    fs::rename(&segment, &away).unwrap();

    // Who is connected hears 451, at each try.
    for id in ["first", "second"] {
        let reply = session.send(&bench.ledger, id, BOB, &body(100)).unwrap();
        assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    }
    assert_the_failure_is_seen(&bench, &segment.display().to_string());

    // Delivery is paused, even when somebody asks for it, and nothing is made anew.
    bench.putting_off.store(false, Ordering::Relaxed);
    bench.place.command(&["queue", "flush", "--all"]);
    assert_eq!(bench.place.segments(), Vec::<std::path::PathBuf>::new());
    gateway.stop();
    assert_eq!((bench.copies("kept"), bench.place.segments().len()), (0, 0));

    // The disk is put right, and the gateway started.
    fs::rename(&away, &segment).unwrap();
    let gateway = bench.place.start();
    bench.assert_vitals(200, "ready", 0);
    assert!(bench.place.metric("postern_spool_healthy") > 0.0);
    assert!(bench.send("after", BOB, 100).starts_with("250 "));
    assert_eq!(bench.finish(gateway, 0).refused, 2, "what was answered 451 does not come back");
}

fn assert_the_failure_is_seen(bench: &Bench, path: &str) {
    bench.assert_vitals(503, "the spool has failed", 1);
    let banner = Conversation::open(bench.place.listen).err().unwrap().to_string();
    assert!(banner.starts_with("421 4.3.2 "), "{banner}");
    for series in ["postern_spool_healthy", "postern_ready"] {
        assert!(bench.place.metric(series) < 0.5, "{series}");
    }
    let (_, screen) = bench.place.command(&["status"]);
    assert!(screen.contains("NOT READY, the spool has failed") && screen.contains("FAILED, restart"), "{screen}");
    bench.happened("spool");
    let event = bench.place.events().into_iter().find(|event| event["event"] == "spool").unwrap();
    assert!(event["failure"].as_str().unwrap().contains(path), "{event}");
    let said = bench.place.said();
    let error = said.lines().find(|line| line.contains("the spool has failed and takes nothing more")).expect(&said);
    assert!(error.contains("ERROR") && error.contains(path), "{error}");
}

#[test]
fn d5_an_idle_gateway_notices_that_its_spool_is_gone() {
    let bench = Bench::new("");
    let gateway = bench.place.start();
    bench.assert_vitals(200, "ready", 0);
    let mut session = bench.client();
    let away = bench.directory.path().join("away");
    fs::rename(&bench.place.spool, &away).unwrap();
    bench.wait_until_not_ready();
    let (code, why) = bench.place.get("/healthz/ready").unwrap();
    assert_eq!((code, why.as_str()), (503, "the spool has failed\n"));
    assert_eq!(bench.place.get("/healthz/live").unwrap().0, 200);
    let reply = session.send(&bench.ledger, "m", BOB, &body(100)).unwrap();
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    assert!(!bench.place.spool.exists(), "it is not made anew, here on the root disk");
    // The control socket has gone with it: nobody is there for the command.
    assert_eq!(bench.place.command(&["status"]).0, Some(1));
    gateway.stop();
    let said = bench.place.said();
    assert!(!bench.place.spawn(&[]).wait().success() && !bench.place.spool.exists());
    let refused = &bench.place.said()[said.len()..];
    assert!(refused.contains("is not there: make it, or mount its disk"), "{refused}");
    fs::rename(&away, &bench.place.spool).unwrap();
    let gateway = bench.place.start();
    assert!(bench.send("after", BOB, 100).starts_with("250 "));
    assert_eq!(bench.finish(gateway, 0).refused, 1);
}

/// The lines of the table in docs/operating.md that need no broken disk; the others are in machine/storage.rs.
#[test]
fn g13_what_ready_and_live_say_in_each_fault() {
    let bench = Bench::new("");
    let gateway = bench.place.start();
    bench.assert_vitals(200, "ready", 0);
    // K: nobody is there to answer; after the start all is as before.
    gateway.kill();
    assert!(bench.place.get("/healthz/live").is_err());
    assert_eq!(bench.place.command(&["status"]).0, Some(1));
    let gateway = bench.place.start();
    bench.assert_vitals(200, "ready", 0);
    // D6: the second one ends, the first one is well.
    assert!(!bench.place.spawn(&[]).wait().success());
    bench.assert_vitals(200, "ready", 0);
    // P3: damage costs one message, and no readiness.
    assert!(bench.send("m", LATER, 100).starts_with("250 "));
    bench.happened("deferred");
    gateway.kill();
    super::disk::flip_a_bit_of(&bench.place.segments().remove(0), b"0123456789");
    let gateway = bench.place.start();
    bench.assert_vitals(200, "ready", 0);
    assert!(bench.place.metric("postern_spool_damaged_records_total") > 0.0);
    // K16: stopping, until the session that is in the middle of a mail has ended.
    let mut client = bench.client();
    client.begin(&bench.ledger, "last", BOB).unwrap();
    gateway.terminate();
    bench.wait_until_not_ready();
    bench.assert_vitals(503, "stopping", 1);
    let reply = client.say(&format!("{}.\r\n", mail("last", &body(100)))).unwrap();
    assert!(reply.starts_with(['2', '4']), "{reply}");
    postern_tests::ledger::note(&bench.ledger, "last", BOB, &reply);
    let mut gateway = gateway;
    assert!(gateway.wait().success());
    // D1: no room above the reserve.
    bench.place.configure(bench.next_hop, MANY_OF_A_CLIENT, "reserve = \"1000000 GiB\"");
    let gateway = bench.place.start();
    bench.assert_vitals(503, "the spool is full", 1);
    gateway.stop();
    let left = in_spool(&bench.place.spool);
    assert!(left.len() <= 1, "{left:?}");
}
