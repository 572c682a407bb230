//! From what went wrong in a guest to the cause that the failure policy, the log and the metrics know.

use wasmtime::{Trap, WasmBacktrace};

use super::limits::{Breach, Meter};
use super::state::CallState;
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

/// A trap is told with what the guest said before, as the SDK does of a panic, and with the names of its functions.
pub(super) fn of_guest(error: &wasmtime::Error, state: &CallState, phase: Phase) -> Failure {
    let (cause, mut what) = cause(error, &state.meter, phase);
    if let (Some(said), Some(_)) = (&state.last_error, error.downcast_ref::<Trap>()) {
        // The message of a panic stands on a line of its own.
        let words: Vec<_> = said.split(char::is_control).filter(|words| !words.is_empty()).collect();
        what = format!("{}; {what}", words.join(" "));
    }
    failure(
        cause,
        match error.downcast_ref::<WasmBacktrace>() {
            Some(backtrace) => format!("{what}, in {}", frames(&backtrace.to_string())),
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

/// The guest's functions, innermost first, by the names that the compiler left in the module. Where a library panics, from
/// whoever called it on: what the standard library does then is always the same, and would be all there is room for.
fn frames(backtrace: &str) -> String {
    // Each frame's line has number, offset, module and name; other lines are about it.
    let name = |line: &str| {
        let (_, name) = line.split_once(" - ")?;
        let name = name.trim();
        Some(without_hashes(name.split_once('!').map_or(name, |(_, function)| function)))
    };
    let names: Vec<_> = backtrace.lines().filter_map(name).collect();
    let own = names.iter().position(|name| !is_library(name)).unwrap_or(0);
    names.iter().skip(own).take(MAX_FRAMES).map(String::as_str).collect::<Vec<_>>().join(" < ")
}

/// Rust's names end in `::h` and 16 hexadecimal digits, or have them in brackets behind the name of a crate
/// (`std[315f3afdf4596e61]::…`). They tell a person nothing.
fn without_hashes(name: &str) -> String {
    let is_hash = |text: &str| matches!(text.len(), 1..=16) && text.bytes().all(|octet| octet.is_ascii_hexdigit());
    let legacy = |(_, hash): &(&str, &str)| hash.len() == 16 && is_hash(hash);
    let name = name.rsplit_once("::h").filter(legacy).map_or(name, |(name, _)| name);
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        // `[f64]` is a type: it stands behind no name.
        let behind_name = out.ends_with(|last: char| last.is_ascii_alphanumeric() || last == '_');
        rest = match after.split_once(']') {
            Some((hash, after)) if behind_name && is_hash(hash) => after,
            _ => {
                out.push('[');
                after
            }
        };
    }
    out + rest
}

fn is_library(name: &str) -> bool {
    let name = name.trim_start_matches('<');
    ["std::", "core::", "alloc::", "__rust", "rust_", "panic_abort::", "abort"].iter().any(|of| name.starts_with(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_by_name() {
        for (backtrace, expected) in [
            ("error while executing at wasm backtrace:\n    0:   0x2d - guest!on-rcpt", "on-rcpt"),
            ("title\n    0:   0x2d - a.wasm!a::b::h0123456789abcdef\n    1:   0x4 - a.wasm!c", "a::b < c"),
            ("title\n    0:   0x2d - a.wasm!<a::B as c::D>::e::h0123456789abcdef", "<a::B as c::D>::e"),
            ("title\n    0:   0x2d - a.wasm!a::hidden\n note: more with an environment variable", "a::hidden"),
            ("title\n    0:   0x2d - <unknown>!<wasm function 7>", "<wasm function 7>"),
            (
                "title\n 0: 0x1 - a!__rustc::__rust_abort\n 1: 0x1 - a!std::panicking::panic_with_hook\n 2: 0x1 - a!<core::x>::y\n 3: 0x1 - a!a::rule",
                "a::rule",
            ),
            ("title\n 0: 0x1 - a!core::panicking::panic", "core::panicking::panic"),
            (
                "title\n 0: 0x1 - a.wasm!std[315f3afdf4596e61]::panicking::panic_with_hook\n 1: 0x1 - a.wasm!<alloc[cf]::raw_vec::RawVecInner<_>>::reserve\n 2: 0x1 - a.wasm!<a[358f6150c248db6c]::B as c[1]::D<[f64]>>::e",
                "<a::B as c::D<[f64]>>::e",
            ),
        ] {
            assert_eq!(frames(backtrace), expected, "{backtrace}");
        }
    }
}
