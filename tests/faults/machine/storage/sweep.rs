//! The real program dies, or its call fails, at the Nth call of each kind, for every N until all is through: start, two
//! transactions, two deliveries, a report and a stop. Afterwards the ledger, the next hop and the spool must agree.

use std::fs;
use std::sync::atomic::Ordering;
use std::thread;

use super::{BOB, Bench, PAUSE};

/// The calls by which something becomes durable or somebody is told, each a list as strace writes it.
const CALLS: [&str; 7] =
    ["pwritev", "fdatasync", "fsync", "link,linkat", "unlink,unlinkat", "sendto", "rename,renameat,renameat2"];
/// More than any of the calls is made in one run.
const MAX_CALLS: usize = 200;

/// One run in which `what` happens at the Nth call of each thread. False: there was no Nth call.
fn run(call: &str, what: &str, n: usize) -> bool {
    let context = format!("{call}:{what}:when={n}");
    let kills = what.starts_with("signal=");
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join("spool");
    fs::create_dir(&spool).unwrap();
    let bench = Bench::new(directory.path(), &spool);
    let trace = directory.path().join("trace").display().to_string();
    let (calls, inject) = (format!("trace={call}"), format!("inject={context}"));
    let strace = super::tool("strace").get_program().to_str().unwrap().to_owned();
    let wrapper = [&strace, "-D", "-f", "-o", &trace, "-e", &calls, "-e", &inject];
    let mut gateway = bench.place.spawn(&wrapper);
    let pid = gateway.pid().as_raw_nonzero();
    if bench.place.wait_until_up(&mut gateway).is_ok() {
        let _ = bench.send("small", BOB, 100);
        let _ = bench.send("large", &["bob@example.com", "refuse@example.com"], 400_000);
        let is_through = || {
            let reported = bench.arrivals.lines().iter().any(|arrival| arrival.is_report);
            bench.has_all_come() && (reported || !bench.acknowledged().contains("large"))
        };
        while gateway.ended().is_none() && !is_through() && bench.is_ready() {
            thread::sleep(PAUSE);
            bench.place.command(&["queue", "flush", "--all"]);
        }
        if call == "sendto" && !kills {
            // The runtime hears of signals over a socket pair, where a call that fails loses the signal: no fault of a network.
            (gateway.killer())();
        } else {
            gateway.terminate();
        }
        gateway.wait();
    }
    // The gateway has ended; its last line in the trace says how, or comes soon.
    let touched = loop {
        let trace = fs::read_to_string(&trace).unwrap_or_default();
        let its_end = |line: &&str| line.split_whitespace().next() == Some(&pid.to_string()) && line.contains("+++");
        if let Some(end) = trace.lines().find(its_end) {
            break if kills { end.contains("SIGKILL") } else { trace.contains("(INJECTED)") };
        }
        thread::sleep(PAUSE);
    };
    bench.finish(1, &context);
    assert!(!bench.place.said().contains("panicked"), "{context}: {}", bench.place.said());
    touched
}

fn sweep(call: &str, what: &str) -> usize {
    let touched = (1..MAX_CALLS).take_while(|n| run(call, what, *n)).count();
    println!("{call}:{what}: {touched} runs until one was through untouched");
    touched
}

/// K3 to K9, K11 to K13, K15 and K17: between any two of them.
#[test]
fn k4_killed_at_the_nth_call() {
    let runs: usize = CALLS.iter().map(|call| sweep(call, "signal=KILL")).sum();
    assert!(runs > 20, "{runs}");
}

/// One spool, whose start dies at the first, second, third … call of each kind, twenty times and more, until it is up.
#[test]
fn k17_killed_during_recovery_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join("spool");
    fs::create_dir(&spool).unwrap();
    let bench = Bench::new(directory.path(), &spool);
    bench.deaf.store(true, Ordering::Relaxed);
    let gateway = bench.place.start();
    for n in 0..20 {
        let reply = bench.send(&format!("m{n}"), BOB, if n % 4 == 0 { 400_000 } else { 5000 }).unwrap();
        assert!(reply.starts_with("250 "), "{reply}");
    }
    gateway.kill();
    let mut deaths = 0;
    for _ in 0..3 {
        for call in CALLS {
            for n in 1..MAX_CALLS {
                let (calls, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={n}"));
                let strace = super::tool("strace").get_program().to_str().unwrap().to_owned();
                let wrapper = [&strace, "-D", "-f", "-o", "/dev/null", "-e", &calls, "-e", &inject];
                match bench.place.start_under(&wrapper) {
                    Err(_) => deaths += 1,
                    Ok(gateway) => {
                        gateway.kill();
                        break;
                    }
                }
            }
        }
    }
    assert!(deaths >= 20, "{deaths}");
    let count = |part: &str| fs::read_dir(spool.join(part)).unwrap().count();
    println!("{deaths} deaths: {} segments, {} bodies", count("segments"), count("bodies"));
    assert!(count("segments") < 10 && count("bodies") <= 5 && count("incoming") == 0 && count("corrupt") == 0);
    assert_eq!(bench.finish(0, "recovery").acknowledged, 20);
}

/// D1 and D3.
#[test]
fn d3_the_nth_call_fails() {
    let mut runs = 0;
    for call in CALLS {
        let errors: &[&str] = if call == "sendto" { &["ECONNRESET"] } else { &["EIO", "ENOSPC"] };
        runs += errors.iter().map(|error| sweep(call, &format!("error={error}"))).sum::<usize>();
    }
    assert!(runs > 20, "{runs}");
}
