//! What a mail costs, counted and not timed: system calls, syncs and allocations for each mail of three fixed works. Fails when one
//! of them has grown by more than 5 % over `record.toml`, and tells when it has shrunk by as much.
//!
//! `POSTERN_COST=record make test TEST_FLAGS=cost` writes the record anew; `make test TEST_FLAGS='cost -- --nocapture'` prints all
//! that was counted.
//!
//! A binary of its own, because its allocator counts. Everything runs on one processor and the gateway has one worker thread; one mail
//! is under way at a time, from the client's first octet until the log says that it is delivered. So the figures scatter by less than
//! 1 %, on a busy machine as well; wake-ups do not, and have a wider bound. Memory that C code takes for itself is not seen.

mod gateway;
mod names;
mod peer;
mod record;
mod trace;
mod work;

use std::alloc::System;
use std::fmt::Write as _;
use std::io::Write as _;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use self::gateway::{InProcess, Stage};
use self::record::{Figures, Record};
use self::trace::{Calls, Trace};
use self::work::{Client, WORKS, Work};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counted together: what is done at times only, such as a new connection to the next hop, is spread over them.
const MAILS: u32 = 25;
/// Before the first count: connections to the next hop, answers of DNS, pools and buffers are there then.
const WARM_UP: u32 = 15;
/// The median of so many counts is the figure.
const COUNTS: usize = 3;

#[test]
fn cost_of_a_mail() {
    stay_on_one_processor();
    let stage = Stage::set();
    let mut figures = [Figures::default(); WORKS.len()];
    let mut report = String::new();
    let gateway = InProcess::start(&stage);
    for (work, figures) in WORKS.iter().zip(&mut figures) {
        let scatter = allocations_and_syncs(&stage, &gateway, work, figures);
        let _ = writeln!(report, "{}: allocations {scatter:?}, syncs {:.2}", work.name, figures.syncs);
    }
    gateway.stop();
    match system_calls(&stage, &mut figures) {
        Ok(broken_down) => report += &broken_down,
        Err(denied) => tell(&format!("system calls are not counted here: {denied}\n")),
    }
    print!("{report}");
    if record::is_wanted() {
        return Record::write(&figures);
    }
    let verdict = Record::read().judge(&figures);
    tell(&verdict.shrunk);
    assert!(verdict.grown.is_empty(), "\n{}\n{report}{}", verdict.grown, record::HOW_TO_RENEW);
}

/// All threads that are started from here on, and the gateway's: who is woken runs when who has woken it waits.
fn stay_on_one_processor() {
    let allowed = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).unwrap();
}

/// Where the test runner does not keep it to itself.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A figure for each mail, of all counts.
type Scatter = [f64; COUNTS];

fn median(mut scatter: Scatter) -> f64 {
    scatter.sort_by(f64::total_cmp);
    scatter[COUNTS / 2]
}

fn allocations_and_syncs(stage: &Stage, gateway: &InProcess, work: &'static Work, figures: &mut Figures) -> Scatter {
    let mut client = Client::new(stage, work);
    client.send(WARM_UP);
    let (mut allocations, mut syncs) = (Scatter::default(), Scatter::default());
    for (allocations, syncs) in allocations.iter_mut().zip(&mut syncs) {
        let before = (allocated(), gateway.syncs());
        client.send(MAILS);
        *allocations = (allocated() - before.0) as f64 / f64::from(MAILS);
        *syncs = (gateway.syncs() - before.1) as f64 / f64::from(MAILS);
    }
    figures.allocations = median(allocations);
    figures.syncs = median(syncs);
    allocations
}

/// Calls of the allocator for memory, by this process: all of them are the gateway's, because client and next hop make none.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// What there is to say of each work.
///
/// # Errors
/// Why it can't be traced.
fn system_calls(stage: &Stage, figures: &mut [Figures]) -> Result<String, String> {
    let gateway = stage.start_program();
    let trace = Trace::begin(gateway.pid())?;
    let mut report = String::new();
    for (work, figures) in WORKS.iter().zip(figures) {
        let mut client = Client::new(stage, work);
        client.send(WARM_UP);
        trace.mark();
        let counts: [Calls; COUNTS] = std::array::from_fn(|_| {
            client.send(MAILS);
            trace.mark()
        });
        let scatter = |sum: fn(&Calls) -> u32| counts.each_ref().map(|calls| f64::from(sum(calls)) / f64::from(MAILS));
        let (system_calls, wake_ups) = (scatter(Calls::plain), scatter(Calls::wake_ups));
        (figures.system_calls, figures.wake_ups) = (Some(median(system_calls)), Some(median(wake_ups)));
        // All of them, not only those that the spool knows of.
        figures.syncs = median(scatter(Calls::syncs));
        let syncs = figures.syncs;
        let _ =
            writeln!(report, "{}: system calls {system_calls:?}, wake-ups {wake_ups:?}, syncs {syncs:.2}", work.name);
        report += &Calls::table(&counts, MAILS);
    }
    trace.end();
    gateway.kill();
    Ok(report)
}
