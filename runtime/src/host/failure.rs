//! From what went wrong in a guest to the cause that the failure policy, the log and the metrics know.

use wasmtime::{Trap, WasmBacktrace};

use super::limits::{Breach, Meter};
use crate::pipeline::{Cause, Failure};

/// Octets of the detail in the log.
const MAX_DETAIL: usize = 1024;
/// Lines of the guest's stack that are told.
const MAX_FRAMES: usize = 8;

/// Where it went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Instantiate,
    Call,
}

pub(super) fn failure(cause: Cause, detail: impl Into<String>) -> Failure {
    let mut detail = detail.into();
    if detail.len() > MAX_DETAIL {
        let end = (0..=MAX_DETAIL).rev().find(|&at| detail.is_char_boundary(at)).unwrap_or(0);
        detail.truncate(end);
    }
    Failure { cause, detail }
}

pub(super) fn of_guest(error: &wasmtime::Error, meter: &Meter, phase: Phase) -> Failure {
    let (cause, what) = cause(error, meter, phase);
    failure(
        cause,
        match error.downcast_ref::<WasmBacktrace>() {
            Some(backtrace) => format!("{what}, in {}", frames(backtrace)),
            None => what,
        },
    )
}

fn cause(error: &wasmtime::Error, meter: &Meter, phase: Phase) -> (Cause, String) {
    if let Some(breach) = error.downcast_ref::<Breach>() {
        return (breach.cause, breach.detail.clone());
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return of_trap(*trap, meter);
    }
    let what = error.root_cause().to_string();
    if meter.out_of_memory && phase == Phase::Instantiate {
        return (Cause::Memory, too_much_memory(meter));
    }
    match phase {
        Phase::Instantiate => (Cause::Host, what),
        // The two limits that wasmtime keeps for us, known by their text only (tests hold it to that).
        Phase::Call if ["too much data", "handle limit"].iter().any(|limit| what.contains(limit)) => {
            (Cause::HostCalls, what)
        }
        // What is neither a trap of the guest's nor a limit of ours is a value that is not what its type says.
        Phase::Call => (Cause::Malformed, what),
    }
}

fn of_trap(trap: Trap, meter: &Meter) -> (Cause, String) {
    let cause = match trap {
        Trap::StackOverflow => Cause::Stack,
        Trap::InvalidChar
        | Trap::StringOutOfBounds
        | Trap::ListOutOfBounds
        | Trap::InvalidDiscriminant
        | Trap::UnalignedPointer
        | Trap::CannotEnterComponent
        | Trap::CannotLeaveComponent => Cause::Malformed,
        // A guest that got no memory, or was refused, and does not know what to do about it, traps.
        _ if meter.out_of_memory => return (Cause::Memory, format!("{}: {trap}", too_much_memory(meter))),
        _ => match &meter.denied {
            Some(grant) => return (Cause::Denied, format!("needs the grant {grant}: {trap}")),
            None => Cause::Trap,
        },
    };
    (cause, trap.to_string())
}

fn too_much_memory(meter: &Meter) -> String {
    let limits = meter.limits();
    format!("wanted more than {} octets of memory or {} table elements", limits.memory, limits.tables)
}

/// The guest's functions, innermost first, each as the compiler's names tell it.
fn frames(backtrace: &WasmBacktrace) -> String {
    let text = backtrace.to_string();
    // Each line has number, offset and name.
    let name = |line: &str| line.split_once(" - ").map_or(line.trim(), |(_, name)| name.trim()).to_owned();
    let frames = text.lines().skip(1).take(MAX_FRAMES).map(name);
    frames.collect::<Vec<_>>().join(" < ")
}
