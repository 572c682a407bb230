//! What was counted when the record was written, and what has changed since.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

use crate::work::WORKS;

/// More than these parts of the recorded figure are a change: above it, below it.
const BOUNDS: (f64, f64) = (0.05, 0.05);
/// Of wake-ups, see [`trace`](crate::trace).
const BOUNDS_OF_WAKE_UPS: (f64, f64) = (0.15, 0.3);

pub const HOW_TO_RENEW: &str =
    "Where it is worth that: POSTERN_COST=record make test TEST_FLAGS=cost, and commit tests/cost/record.toml.";

const HEAD: &str = "\
# What a mail costs the debug build, with the default chain, on x86_64 (see main.rs): system calls; those by which threads wait and wake
# each other; syncs; allocations. `make test` fails when one has grown by more than 5 % (wake-ups: 15 %), and tells when one has shrunk
# by 5 % (30 %). Written on a machine that is not busy.
# Written by: POSTERN_COST=record make test TEST_FLAGS=cost
";

/// Of one work, for each mail.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    /// `None`: they can't be counted here.
    pub system_calls: Option<f64>,
    /// System calls, too, and none of those.
    pub wake_ups: Option<f64>,
    pub syncs: f64,
    pub allocations: f64,
}

impl Figures {
    /// Each with its bounds.
    fn named(&self) -> [(&'static str, Option<f64>, (f64, f64)); 4] {
        [
            ("system_calls", self.system_calls, BOUNDS),
            ("wake_ups", self.wake_ups, BOUNDS_OF_WAKE_UPS),
            ("syncs", Some(self.syncs), BOUNDS),
            ("allocations", Some(self.allocations), BOUNDS),
        ]
    }
}

pub struct Record(Table);

/// What is more than its bound away from the record, a line each.
#[derive(Default)]
pub struct Verdict {
    pub grown: String,
    pub shrunk: String,
}

/// The record is to be written anew.
pub fn is_wanted() -> bool {
    #[expect(clippy::disallowed_methods, reason = "whether a test records is not config")]
    let wish = std::env::var("POSTERN_COST");
    wish.is_ok_and(|wish| wish == "record")
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cost/record.toml")
}

impl Record {
    pub fn read() -> Self {
        Self(fs::read_to_string(path()).unwrap().parse().unwrap())
    }

    pub fn write(figures: &[Figures]) {
        let mut text = HEAD.to_owned();
        for (work, figures) in WORKS.iter().zip(figures) {
            let _ = writeln!(text, "\n[\"{}\"]", work.name);
            for (name, figure, _) in figures.named() {
                let figure = figure.unwrap_or_else(|| panic!("{name} can't be counted here: record elsewhere"));
                let _ = writeln!(text, "{name} = {figure:.2}");
            }
        }
        fs::write(path(), text).unwrap();
    }

    pub fn judge(&self, figures: &[Figures]) -> Verdict {
        let mut verdict = Verdict::default();
        for (work, figures) in WORKS.iter().zip(figures) {
            for (name, now, (above, below)) in figures.named() {
                let recorded = self.0.get(work.name).and_then(|figures| figures.get(name)?.as_float());
                let recorded = recorded.unwrap_or_else(|| panic!("{} of {} is not recorded", name, work.name));
                let Some(now) = now else { continue };
                let line = format!("{}: {now:.2} {name} a mail, {recorded:.2} are recorded\n", work.name);
                if now > recorded * (1.0 + above) {
                    verdict.grown += &line;
                } else if now < recorded * (1.0 - below) {
                    verdict.shrunk += &line;
                }
            }
        }
        verdict
    }
}

#[test]
fn the_judge_knows_the_bounds() {
    let at = |part: f64| {
        let of = |figure: f64| Some(figure * part);
        let figures = Figures { system_calls: of(50.0), wake_ups: of(30.0), syncs: part, allocations: 700.0 * part };
        [figures; WORKS.len()]
    };
    let keys = "system_calls = 50.0\nwake_ups = 30.0\nsyncs = 1.0\nallocations = 700.0\n";
    let record = Record(WORKS.map(|work| format!("[\"{}\"]\n{keys}", work.name)).concat().parse().unwrap());
    let lines = |figures: &[Figures]| {
        let verdict = record.judge(figures);
        (verdict.grown.lines().count(), verdict.shrunk.lines().count())
    };
    for (part, wanted) in
        [(0.69, (0, 12)), (0.94, (0, 9)), (0.96, (0, 0)), (1.04, (0, 0)), (1.06, (9, 0)), (1.16, (12, 0))]
    {
        assert_eq!(lines(&at(part)), wanted, "{part}");
    }
    let untraced = at(1.06).map(|figures| Figures { system_calls: None, wake_ups: None, ..figures });
    assert_eq!(lines(&untraced), (6, 0));
}
