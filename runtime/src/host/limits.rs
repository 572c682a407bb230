//! What one call of a plugin may use up, and the meter that counts it.

use std::time::Duration;

use tokio::time::Instant;
use wasmtime::{ResourceLimiter, UpdateDeadline};

use super::engine::TICK;
use crate::pipeline::{Capability, Cause, HostCalls, Usage};

/// Limits of one call, by their names in config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Time in the guest's own code. A rule takes microseconds; 50 ms is a regular expression over a whole mail.
    pub cpu: Duration,
    /// From call to return, waiting for DNS included. Below the 5 minutes that a client waits for a reply
    /// (RFC 5321 §4.5.3.2), with room for a whole chain.
    pub wall: Duration,
    /// Octets of linear memory, all memories together. A Rust plugin needs 1 to 2 MiB, a JavaScript engine 10.
    pub memory: u64,
    /// Elements of all tables together; a table element is a function pointer, and 20 000 are a very large program.
    pub tables: u32,
    /// Calls to the host. A rule makes 10 to 50; 1000 reads of 64 KiB are a mail of 64 MB; a mail of 1000 recipients,
    /// which is what the gateway takes by default, each looked up in a table and given a route, needs some more than 2000.
    pub host_calls: u64,
    /// Resource handles that live at a time. The host hands out two a call.
    pub handles: usize,
    /// Octets passed between host and guest, both ways: a mail of the default size limit once, and a body back.
    pub octets: u64,
    /// Octets that the host reads on the guest's behalf (search, digest, MIME): ten whole mails.
    pub scan: u64,
    /// Calls of this plugin in this scope that run at a time. An eighth of what the gateway runs: one that is stuck
    /// leaves room for the others. All plugins of a reseller or tenant have a quarter together.
    pub calls: usize,
    /// Octets and lines into the event log; the rest is cut and counted.
    pub log_octets: usize,
    pub log_lines: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_millis(50),
            wall: Duration::from_secs(10),
            memory: 16 << 20,
            tables: 20_000,
            host_calls: 4000,
            handles: 64,
            octets: 32 << 20,
            scan: 256 << 20,
            calls: 32,
            log_octets: 16 * 1024,
            log_lines: 64,
        }
    }
}

/// A limit that a guest ran into, as it travels through the guest's stack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(super) struct Breach {
    pub cause: Cause,
    pub detail: String,
}

impl Breach {
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }
}

/// Waits of a call that are not counted as CPU time, see [`Meter::waited`].
const FORGIVEN_WAITS: u32 = 64;

/// Counts what a call uses.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Limits,
    started: Instant,
    ticks: u32,
    forgiven: u32,
    after_wait: bool,
    host_calls: u64,
    calls_of: HostCalls,
    octets: u64,
    scanned: u64,
    /// Time that the host has worked for it on other threads.
    pub worked_apart: Duration,
    /// Of the instance: they outlast a call when the instance is used again.
    memory: u64,
    tables: u64,
    /// The guest asked for more memory than it may have, and was told no: what it traps of next is this.
    pub out_of_memory: bool,
    /// An edit was refused for want of this grant.
    pub denied: Option<String>,
}

impl Meter {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            started: Instant::now(),
            ticks: 0,
            forgiven: 0,
            after_wait: false,
            host_calls: 0,
            calls_of: HostCalls::default(),
            octets: 0,
            scanned: 0,
            worked_apart: Duration::ZERO,
            memory: 0,
            tables: 0,
            out_of_memory: false,
            denied: None,
        }
    }

    /// A new call in the same instance.
    pub fn restart(&mut self) {
        *self = Self { memory: self.memory, tables: self.tables, ..Self::new(self.limits.clone()) };
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How long a look-up that begins now may take: a third of the wall limit, and half of what is left of it at most.
    /// A tenth is the guest's own, so that it can say what follows from having no answer.
    pub fn patience(&self) -> Duration {
        let wall = self.limits.wall;
        let left = (wall - wall / 10).saturating_sub(self.started.elapsed());
        (wall / 3).min(left / 2)
    }

    /// How long a scan or a call-ahead that begins now may take: all that is left but the guest's tenth. There are few
    /// scanners and destinations, each has a time limit of its own, and takes seconds.
    pub fn long_patience(&self) -> Duration {
        let wall = self.limits.wall;
        (wall - wall / 10).saturating_sub(self.started.elapsed())
    }

    /// The guest was found running when a tick had passed.
    pub fn tick(&mut self) -> Result<UpdateDeadline, Breach> {
        if std::mem::take(&mut self.after_wait) && self.forgiven < FORGIVEN_WAITS {
            self.forgiven += 1;
        } else {
            self.ticks += 1;
        }
        // The first tick falls anywhere into the interval before it.
        let budget = self.limits.cpu.as_millis().div_ceil(TICK.as_millis()) + 1;
        if u128::from(self.ticks) > budget {
            let millis = self.limits.cpu.as_millis();
            return Err(Breach::new(Cause::Cpu, format!("more than {millis} ms in its own code")));
        }
        // Others on this thread take their turn: a guest holds it for one tick at most.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    }

    /// The guest has waited that long in the host. The tick that passed meanwhile is found when it goes on, and was
    /// not its own. Only so many a call are forgiven, else short waits would hide long computing.
    pub fn waited(&mut self, time: Duration) {
        self.after_wait |= time >= TICK;
    }

    /// Each function of the host begins with this.
    pub fn host_call(&mut self, capability: Capability) -> Result<(), Breach> {
        self.host_calls += 1;
        self.calls_of.add(capability);
        if self.host_calls > self.limits.host_calls {
            return Err(Breach::new(
                Cause::HostCalls,
                format!("more than {} calls to the host", self.limits.host_calls),
            ));
        }
        Ok(())
    }

    /// Octets that pass between host and guest.
    pub fn pass(&mut self, octets: usize) -> Result<(), Breach> {
        self.octets = self.octets.saturating_add(u64::try_from(octets).unwrap_or(u64::MAX));
        if self.octets > self.limits.octets {
            return Err(Breach::new(Cause::HostCalls, format!("more than {} octets passed", self.limits.octets)));
        }
        Ok(())
    }

    /// Octets that the host is about to read for the guest.
    pub fn scan(&mut self, octets: u64) -> Result<(), Breach> {
        self.scanned = self.scanned.saturating_add(octets);
        if self.scanned > self.limits.scan {
            return Err(Breach::new(Cause::HostCalls, format!("more than {} octets searched", self.limits.scan)));
        }
        Ok(())
    }

    /// `running`: how long the call was seen to run on its own thread. The ticks are for the limit alone: most calls are
    /// shorter than one.
    pub fn usage(&self, running: Duration, wall: Duration) -> Usage {
        Usage {
            cpu: running + self.worked_apart,
            wall,
            memory: self.memory,
            host_calls: self.host_calls,
            calls_of: self.calls_of,
            octets: self.octets,
        }
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let more = u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX);
        let total = self.memory.saturating_add(more);
        if total > self.limits.memory {
            self.out_of_memory = true;
            return Ok(false);
        }
        self.memory = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let more = u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX);
        let total = self.tables.saturating_add(more);
        if total > u64::from(self.limits.tables) {
            self.out_of_memory = true;
            return Ok(false);
        }
        self.tables = total;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_holds_to_within_two_ticks() {
        let mut meter = Meter::new(Limits { cpu: TICK * 4, ..Limits::default() });
        let ticks = (1..100).find(|_| meter.tick().is_err());
        assert_eq!(ticks, Some(6));
    }

    #[test]
    fn waiting_is_forgiven_but_not_for_ever() {
        let mut meter = Meter::new(Limits { cpu: TICK * 4, ..Limits::default() });
        let waits = (1..1000).find(|_| {
            meter.waited(TICK);
            meter.tick().is_err()
        });
        assert_eq!(waits, Some(FORGIVEN_WAITS as i32 + 6));
    }

    #[tokio::test(start_paused = true)]
    async fn look_ups_never_use_up_the_wall_limit() {
        let mut meter = Meter::new(Limits { wall: Duration::from_secs(9), ..Limits::default() });
        assert_eq!((meter.patience(), meter.long_patience()), (Duration::from_secs(3), Duration::from_millis(8100)));
        for _ in 0..100 {
            tokio::time::advance(meter.patience()).await;
        }
        assert!(meter.started.elapsed() < Duration::from_millis(8200), "{:?}", meter.started.elapsed());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!((meter.patience(), meter.long_patience()), (Duration::ZERO, Duration::ZERO));
        meter.restart();
        assert_eq!(meter.patience(), Duration::from_secs(3));
    }

    #[test]
    fn a_new_call_starts_from_nought_but_keeps_its_memory() {
        let mut meter = Meter::new(Limits { memory: 100, host_calls: 1, ..Limits::default() });
        assert!(meter.memory_growing(0, 60, None).unwrap());
        meter.host_call(Capability::Log).unwrap();
        meter.restart();
        meter.host_call(Capability::Dns).unwrap();
        assert_eq!(meter.host_call(Capability::Dns).unwrap_err().cause, Cause::HostCalls);
        assert_eq!(
            meter.usage(Duration::ZERO, Duration::ZERO).calls_of.iter().collect::<Vec<_>>(),
            [(Capability::Dns, 2)]
        );
        assert!(!meter.memory_growing(60, 101, None).unwrap());
        assert!(meter.out_of_memory);
    }
}
