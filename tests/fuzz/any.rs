//! One fuzz target that becomes any: `POSTERN_FUZZ` names the body. Linked once, because that takes longer than all else.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postern_tests::fuzz::{TARGETS, Target};

/// Of parsers that only their own module may call.
const INNER: [Target; 2] =
    [("report", postern::queue::fuzz::report_on_anything), ("record", postern::authentication::fuzz::read_anything)];

static BODY: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("POSTERN_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().chain(&INNER).find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("POSTERN_FUZZ: there is no body {wanted:?}")).1
});

fuzz_target!(|octets: &[u8]| BODY(octets));
