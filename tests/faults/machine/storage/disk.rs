//! The disk is full, broken, slow or read-only; the clock jumps; the spool is large.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use postern::mail::MessageId;
use postern::metrics::Metrics;
use postern::spool::{Batch, Entry, SegmentSpool, Settings, Spool as _};
use postern_tests::ledger::{Conversation, body};
use tokio::time::Instant;

use super::{BOB, Bench, PAUSE, Tracer, Volume, unpacked};

const MESSAGES: u64 = 1_000_000;

/// In a spool directory of the machine's own disk.
fn bench(directory: &tempfile::TempDir) -> Bench {
    let spool = directory.path().join("spool");
    fs::create_dir(&spool).unwrap();
    Bench::new(directory.path(), &spool)
}

impl Bench {
    /// Codes of ready and live, why it is not ready, and the exit code of `postern status`.
    fn assert_vitals(&self, ready: u16, why: &str, status: i32) {
        let (code, text) = self.place.get("/healthz/ready").unwrap();
        let (live, _) = self.place.get("/healthz/live").unwrap();
        assert_eq!((code, text.trim(), live), (ready, why, 200), "{}", self.place.said());
        assert_eq!(self.place.command(&["status"]).0, Some(status));
    }

    fn wait_until_ready(&self) {
        while !self.is_ready() {
            thread::sleep(PAUSE);
        }
    }
}

/// D3, and the others that mean the same: one failed call, and the latch is closed although the next one would succeed.
#[test]
fn d3_a_failed_call_closes_the_latch() {
    for what in ["fdatasync:error=EIO", "pwritev:error=EIO", "pwritev:error=EROFS", "pwritev:error=EDQUOT"] {
        let directory = tempfile::tempdir().unwrap();
        let bench = bench(&directory);
        let gateway = bench.place.start();
        bench.deaf.store(true, Ordering::Relaxed);
        assert!(bench.send("before", BOB, 100).unwrap().starts_with("250 "));
        let mut session = Conversation::greeted(bench.place.listen).unwrap();
        {
            let _tracer = Tracer::inject(&gateway, what);
            let reply = session.send(&bench.ledger, "failed", BOB, &body(100)).unwrap();
            assert!(reply.starts_with("451 4.3.0 "), "{what}: {reply}");
        }
        // The disk would work again.
        let reply = session.send(&bench.ledger, "later", BOB, &body(100)).unwrap();
        assert!(reply.starts_with("451 4.3.0 "), "{what}: {reply}");
        bench.assert_vitals(503, "the spool has failed", 1);
        let banner = bench.send("new", BOB, 100).unwrap_err();
        assert!(banner.starts_with("421 4.3.2 "), "{what}: {banner}");
        bench.deaf.store(false, Ordering::Relaxed);
        bench.place.command(&["queue", "flush", "--all"]);
        let gateway_cpu = || fs::read_to_string(format!("/proc/{}/stat", gateway.pid().as_raw_nonzero())).unwrap();
        let ticks = |stat: String| -> u64 {
            let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let before = ticks(gateway_cpu());
        thread::sleep(Duration::from_secs(2));
        assert!(ticks(gateway_cpu()) - before < 50, "{what}: it does not spin");
        assert_eq!(bench.arrivals.lines(), [], "{what}: delivery is paused");
        gateway.stop();
        assert_eq!(bench.finish(0, what).refused, 2);
    }
}

/// Whatever call says that there is no room: the mail is answered 452, the rest goes on, and it ends by itself.
#[test]
fn d1_no_space_at_a_call() {
    for what in ["pwritev:error=ENOSPC", "fdatasync:error=ENOSPC"] {
        let directory = tempfile::tempdir().unwrap();
        let bench = bench(&directory);
        let gateway = bench.place.start();
        {
            let _tracer = Tracer::inject(&gateway, &format!("{what}:when=1"));
            let reply = bench.send("full", BOB, 100).unwrap();
            assert!(reply.starts_with("452 4.3.1 "), "{what}: {reply}");
        }
        bench.wait_until_ready();
        bench.assert_vitals(200, "ready", 0);
        assert!(bench.send("after", BOB, 100).unwrap().starts_with("250 "));
        gateway.stop();
        assert_eq!(bench.finish(0, what).refused, 1);
    }
}

#[test]
fn d1_a_full_disk_is_refused_at_mail_and_recovers_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let volume = Volume::in_memory(directory.path(), "size=16m");
    let bench = Bench::new(directory.path(), &volume.spool());
    bench.deaf.store(true, Ordering::Relaxed);
    let gateway = bench.place.start();
    let mut sent = 0;
    let refusal = loop {
        match bench.send(&format!("m{sent}"), BOB, 200_000) {
            Ok(reply) if reply.starts_with("250 ") => sent += 1,
            other => break other,
        }
    };
    println!("{sent} mails until {refusal:?}");
    let (Ok(refusal) | Err(refusal)) = refusal;
    assert!(refusal.starts_with("452 4.3.1 ") && sent > 10, "{sent}: {refusal}");
    bench.assert_vitals(503, "the spool is full", 1);
    // Deliveries and what they write down go on, and make room.
    bench.deaf.store(false, Ordering::Relaxed);
    bench.place.command(&["queue", "flush", "--all"]);
    bench.wait_until_ready();
    assert!(bench.send("after", BOB, 200_000).unwrap().starts_with("250 "));
    while !bench.has_all_come() {
        thread::sleep(PAUSE);
    }
    gateway.stop();
    assert_eq!(bench.finish(0, "tmpfs").acknowledged, sent + 1);
}

#[test]
fn d2_no_inodes_and_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let volume = Volume::make(directory.path(), 64 << 20, &["mkfs.ext4", "-q", "-N", "64"]);
    let bench = Bench::new(directory.path(), &volume.spool());
    let gateway = bench.place.start();
    assert!(bench.send("before", BOB, 100).unwrap().starts_with("250 "));
    let fill = volume.mount.join("fill");
    fs::create_dir(&fill).unwrap();
    let made = (0..).take_while(|n| fs::write(fill.join(n.to_string()), "").is_ok()).count();
    while bench.is_ready() {
        thread::sleep(PAUSE);
    }
    bench.assert_vitals(503, "the spool is full", 1);
    let refused = bench.send("refused", BOB, 100).unwrap_err();
    assert!(refused.starts_with("452 4.3.1 "), "{made} files, {refused}");
    // One that has only what is left after the gateway's own start.
    fs::remove_dir_all(&fill).unwrap();
    bench.wait_until_ready();
    assert!(bench.send("after", BOB, 100).unwrap().starts_with("250 "));
    gateway.stop();
    volume.mount_with("remount,ro");
    assert!(!bench.place.spawn(&[]).wait().success());
    let said = bench.place.said();
    assert!(said.contains("Read-only file system"), "{said}");
    volume.mount_with("remount,rw");
    assert_eq!(bench.finish(0, "inodes").refused, 1);
}

#[test]
fn d4_a_sync_that_takes_long() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(&directory);
    let gateway = bench.place.start();
    let tracer = Tracer::inject(&gateway, "fdatasync:delay_enter=30000000:when=1");
    let began = Instant::now();
    thread::scope(|scope| {
        let slow = scope.spawn(|| bench.send("slow", BOB, 100));
        // Others are answered meanwhile, up to what waits for the same disk.
        let mut answered = 0;
        while !slow.is_finished() {
            let asked = Instant::now();
            let mut client = Conversation::greeted(bench.place.listen).unwrap();
            for step in ["MAIL FROM:<a@example.com>\r\n", "RCPT TO:<bob@example.com>\r\n", "DATA\r\n"] {
                assert!(client.say(step).unwrap().starts_with(['2', '3']));
            }
            bench.assert_vitals(200, "ready", 0);
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
            answered += 1;
            thread::sleep(Duration::from_millis(500));
        }
        println!("a sync of {:?}, {answered} others answered meanwhile", began.elapsed());
        let reply = slow.join().unwrap().unwrap();
        assert!(reply.starts_with("250 ") && answered > 10, "{reply}");
    });
    assert!(began.elapsed() > Duration::from_secs(29));
    drop(tracer);
    gateway.stop();
    bench.finish(0, "slow");
}

/// The clock is a file's: it jumps while the gateway runs, and between two starts.
#[test]
fn d7_the_clock_jumps() {
    let libraries = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|machine| unpacked().join("usr/lib").join(machine).join("faketime/libfaketimeMT.so.1"));
    let library = libraries.iter().find(|path| path.is_file()).expect("libfaketime: tests/faults/machine/install");
    for jump in ["+1d", "-1d", "+1826d", "-1826d"] {
        let directory = tempfile::tempdir().unwrap();
        let bench = bench(&directory);
        let clock = directory.path().join("clock");
        fs::write(&clock, "+0d").unwrap();
        let (library, file) = (library.display(), clock.display());
        let words = [
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={file}"),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        let wrapper: Vec<_> = std::iter::once("env").chain(words.iter().map(String::as_str)).collect();
        bench.deaf.store(true, Ordering::Relaxed);
        let gateway = bench.place.start_under(&wrapper).unwrap();
        for n in 0..20 {
            assert!(bench.send(&format!("m{n}"), BOB, 100).unwrap().starts_with("250 "));
        }
        fs::write(&clock, jump).unwrap();
        assert!(bench.send("after", BOB, 100).unwrap().starts_with("250 "));
        let attempts = || bench.place.events().iter().filter(|event| event["event"] == "attempt").count();
        let before = attempts();
        thread::sleep(Duration::from_secs(3));
        let storm = attempts() - before;
        gateway.stop();
        let gateway = bench.place.start_under(&wrapper).unwrap();
        thread::sleep(Duration::from_secs(1));
        let times: Vec<jiff::Timestamp> =
            bench.place.events().iter().map(|event| event["time"].as_str().unwrap().parse().unwrap()).collect();
        let least = times.iter().min().unwrap().as_second();
        let apart = times.iter().max().unwrap().as_second() - least;
        assert!(apart > 23 * 3600, "{jump}: the gateway's clock has moved by {apart} s only");
        let expired = bench.place.events().iter().filter(|event| event["event"] == "expired").count();
        assert_eq!(expired, 0, "{jump}");
        assert!(storm < 100, "{jump}: {storm} attempts in three seconds");
        println!("{jump}: {storm} attempts in 3 s, none expired");
        gateway.stop();
        assert_eq!(bench.finish(0, jump).acknowledged, 21);
    }
}

#[test]
fn d5_the_spool_is_unmounted_under_it() {
    let directory = tempfile::tempdir().unwrap();
    let volume = Volume::make(directory.path(), 64 << 20, &["mkfs.ext4", "-q"]);
    let bench = Bench::new(directory.path(), &volume.spool());
    bench.deaf.store(true, Ordering::Relaxed);
    let gateway = bench.place.start();
    assert!(bench.send("before", BOB, 100).unwrap().starts_with("250 "));
    super::run(std::process::Command::new("umount").arg("-l").arg(&volume.mount));
    fs::create_dir(volume.spool()).unwrap();
    let root_disk = volume.spool().metadata().unwrap().dev();
    let reply = bench.send("refused", BOB, 100).unwrap_or_else(|refusal| refusal);
    assert!(reply.starts_with("451 4.3.0 ") || reply.starts_with("421 4.3.2 "), "{reply}");
    let (code, why) = bench.place.get("/healthz/ready").unwrap();
    assert_eq!((code, why.as_str()), (503, "the spool has failed\n"));
    gateway.stop();
    assert_eq!(fs::read_dir(volume.spool()).unwrap().count(), 0, "nothing is made on disk {root_disk}");
    fs::remove_dir(volume.spool()).unwrap();
    volume.mount_with("loop");
    bench.finish(0, "unmounted");
}

#[test]
fn d8_a_million_messages_at_the_start() {
    let messages = super::from_environment("POSTERN_MESSAGES", MESSAGES);
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(&directory);
    bench.deaf.store(true, Ordering::Relaxed);
    let gateway = bench.place.start();
    assert!(bench.send("model", BOB, 500).unwrap().starts_with("250 "));
    gateway.stop();
    copy_model(&bench.place.spool, messages);
    let began = Instant::now();
    let gateway = bench.place.start();
    let up = began.elapsed();
    // The port is open before the queue is whole; a client that gets no banner in time tries again.
    let reply = loop {
        match bench.send("new", BOB, 100) {
            Ok(reply) => break reply,
            Err(none) => assert!(began.elapsed() < Duration::from_secs(120), "{none}"),
        }
    };
    assert!(reply.starts_with("250 "), "{reply}");
    let accepted = began.elapsed();
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid().as_raw_nonzero())).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
    println!("{messages} messages: up after {up:?}, a mail accepted after {accepted:?}, {memory} at most");
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap();
    assert!(kib * 1024 < (200 << 20) + messages * 3000, "{memory}");
    let queued = bench.place.get("/metrics").unwrap().1;
    let queued: f64 = queued
        .lines()
        .filter(|line| line.starts_with("postern_queue_messages{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a number of messages")]
    let expected = (messages + 2) as f64;
    assert!((queued - expected).abs() < 0.5, "each is scheduled once: {queued} of {expected}");
    gateway.kill();
}

/// Stores copies of the one message that is in the spool.
fn copy_model(spool: &std::path::Path, messages: u64) {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (spool, recovered) = SegmentSpool::open(Settings::new(spool.to_owned(), 1 << 20), metrics).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let model = spool.read(recovered[0].id).await.unwrap();
        for _ in 0..messages / 1000 {
            let entry = |_| Entry {
                id: MessageId::next(),
                meta: model.meta.clone(),
                state: model.state.clone(),
                message: model.message.clone(),
            };
            spool.commit(Batch { store: (0..1000).map(entry).collect(), ..Batch::default() }).await.unwrap();
        }
    });
    spool.shutdown();
}
