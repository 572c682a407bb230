//! System calls of a process and all its threads, counted by ptrace: needs no privilege over one's own child.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::names;

/// Threads that work by the clock and not by the mail: what they do depends on how long the test takes. The event log is one of
/// them: it writes what has come within some milliseconds.
const BY_THE_CLOCK: [&str; 5] = ["event-log", "plugin-ticker", "state", "tables", "watchdog"];
/// Calls by which threads wait for something and wake each other. Who already waits depends on who runs when, and so does how many it
/// takes: on busy machines we have seen from 20 % fewer to 6 % more.
const WAKE_UPS: [&str; 6] = ["epoll_pwait", "epoll_wait", "futex", "sched_yield", WAKES, WOKEN];
const WAKES: &str = "write to an eventfd";
const WOKEN: &str = "read from an eventfd";
/// What is written to an eventfd and read from it; nothing else of ours is so short.
const EVENT_OCTETS: u64 = 8;
const SYNCS: [&str; 5] = ["fdatasync", "fsync", "msync", "sync_file_range", "syncfs"];

/// Between two counts. It means nothing to the gateway, and we see it before the gateway does.
const MARK: Signal = Signal::SIGURG;

/// Calls by thread and name.
#[derive(Debug, Default, Clone)]
pub struct Calls(BTreeMap<(String, String), u32>);

impl Calls {
    /// What the mail makes of it: all but wake-ups, and what is done by the clock.
    pub fn plain(&self) -> u32 {
        self.sum(|name| !WAKE_UPS.contains(&name))
    }

    pub fn wake_ups(&self) -> u32 {
        self.sum(|name| WAKE_UPS.contains(&name))
    }

    pub fn syncs(&self) -> u32 {
        self.sum(|name| SYNCS.contains(&name))
    }

    fn sum(&self, so: impl Fn(&str) -> bool) -> u32 {
        let counted = self.0.iter().filter(|((thread, name), _)| !is_by_the_clock(thread) && so(name));
        counted.map(|(_, count)| count).sum()
    }

    /// For each thread and call how many of them a mail costs, least to most of all counts.
    pub fn table(counts: &[Self], mails: u32) -> String {
        let keys: BTreeSet<_> = counts.iter().flat_map(|calls| calls.0.keys()).collect();
        let mut table = String::new();
        for key @ (thread, name) in keys {
            let each = counts.iter().map(|calls| calls.0.get(key).copied().unwrap_or(0));
            let (least, most) = each.fold((u32::MAX, 0), |(least, most), count| (least.min(count), most.max(count)));
            let [least, most] = [least, most].map(|count| f64::from(count) / f64::from(mails));
            let mark = match () {
                () if is_by_the_clock(thread) => " (by the clock: not counted)",
                () if WAKE_UPS.contains(&name.as_str()) => " (wake-up)",
                () => "",
            };
            let _ = writeln!(table, "  {least:7.2} to {most:7.2}  {thread:16} {name}{mark}");
        }
        table
    }
}

fn is_by_the_clock(thread: &str) -> bool {
    BY_THE_CLOCK.contains(&thread)
}

/// A process that is being traced.
pub struct Trace {
    process: Pid,
    counts: Receiver<Calls>,
    /// Only the thread that has begun can trace.
    tracer: JoinHandle<Result<(), String>>,
}

impl Trace {
    /// # Errors
    /// The system does not let us.
    pub fn begin(process: rustix::process::Pid) -> Result<Self, String> {
        if !CAN_READ {
            return Err("we don't know how to read them on this kind of system".to_owned());
        }
        let process = Pid::from_raw(process.as_raw_nonzero().get());
        let (sender, counts) = channel();
        let (begun, has_begun) = channel();
        let tracer = thread::spawn(move || {
            let tracer = Tracer::begin(process);
            let _ = begun.send(tracer.as_ref().map(drop).map_err(Clone::clone));
            tracer?.run(&sender)
        });
        has_begun.recv().map_err(|error| error.to_string())??;
        Ok(Self { process, counts, tracer })
    }

    /// What was counted since the last mark.
    pub fn mark(&self) -> Calls {
        nix::sys::signal::kill(self.process, MARK).unwrap();
        self.counts.recv().expect("a gateway that runs, and a tracer")
    }

    /// The process goes on without us.
    pub fn end(self) {
        drop(self.counts);
        nix::sys::signal::kill(self.process, MARK).unwrap();
        self.tracer.join().unwrap().unwrap();
    }
}

struct Tracer {
    process: Pid,
    /// Their names.
    threads: BTreeMap<Pid, String>,
    calls: Calls,
}

impl Tracer {
    /// Takes hold of all its threads.
    fn begin(process: Pid) -> Result<Self, String> {
        let mut tracer = Self { process, threads: BTreeMap::new(), calls: Calls::default() };
        // Until a look finds no thread that we did not have: while we look, others may begin.
        while tracer.seize_those_found()? {}
        Ok(tracer)
    }

    /// True: there were some.
    fn seize_those_found(&mut self) -> Result<bool, String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process)).map_err(|error| error.to_string())?;
        let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
        let new: Vec<_> = ids.filter(|id| !self.threads.contains_key(id)).collect();
        for &thread in &new {
            let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
            match ptrace::seize(thread, options) {
                // Begun by one that we have, or gone.
                Err(Errno::EPERM) if !self.threads.is_empty() => {}
                Err(Errno::ESRCH) => continue,
                seized => {
                    seized.and_then(|()| ptrace::interrupt(thread)).map_err(|error| format!("ptrace: {error}"))?;
                }
            }
            self.meet(thread);
        }
        Ok(!new.is_empty())
    }

    fn meet(&mut self, thread: Pid) {
        let name = fs::read_to_string(format!("/proc/{}/task/{thread}/comm", self.process)).unwrap_or_default();
        self.threads.insert(thread, name.trim_end().to_owned());
    }

    /// Until nobody wants to know any more. With this thread the trace ends.
    fn run(mut self, counts: &Sender<Calls>) -> Result<(), String> {
        loop {
            let status = waitpid(None, Some(WaitPidFlag::__WALL)).map_err(|error| format!("waitpid: {error}"))?;
            let (thread, signal) = match status {
                WaitStatus::PtraceSyscall(thread) => {
                    self.count(thread);
                    (thread, None)
                }
                WaitStatus::Stopped(_, MARK) if counts.send(std::mem::take(&mut self.calls)).is_err() => return Ok(()),
                WaitStatus::Stopped(thread, MARK) | WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..) if thread == self.process => {
                    return Err(format!("the gateway has ended: {status:?}"));
                }
                WaitStatus::Exited(thread, _) => {
                    self.threads.remove(&thread);
                    continue;
                }
                _ => continue,
            };
            match ptrace::syscall(thread, signal) {
                // It was killed meanwhile; we shall hear of it.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(format!("ptrace: {error}")),
            }
        }
    }

    fn count(&mut self, thread: Pid) {
        let Some((number, octets)) = entered(thread) else { return };
        if !self.threads.contains_key(&thread) {
            self.meet(thread);
        }
        let name = match names::name(number) {
            Some("write") if octets == EVENT_OCTETS => WAKES.to_owned(),
            Some("read") if octets == EVENT_OCTETS => WOKEN.to_owned(),
            name => name.map_or_else(|| number.to_string(), str::to_owned),
        };
        *self.calls.0.entry((self.threads[&thread].clone(), name)).or_default() += 1;
    }
}

/// Whether [`entered`] can tell.
const CAN_READ: bool =
    cfg!(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")));

/// The number of the system call that the thread is about to make, and its third argument: the length, where it reads or writes.
/// `None` when it has made it.
#[cfg(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn entered(thread: Pid) -> Option<(i64, u64)> {
    /// `op` of a stop at the beginning of a system call (`linux/ptrace.h`).
    const ENTRY: u8 = 1;
    ptrace::syscall_info(thread).ok().filter(|info| info.op == ENTRY)?;
    let registers = ptrace::getregs(thread).ok()?;
    #[cfg(target_arch = "x86_64")]
    let (number, third) = (registers.orig_rax, registers.rdx);
    #[cfg(target_arch = "aarch64")]
    let (number, third) = (registers.regs[8], registers.regs[2]);
    Some((i64::try_from(number).ok()?, third))
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn entered(_: Pid) -> Option<(i64, u64)> {
    None
}
