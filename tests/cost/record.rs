//! What was counted when the record was written, and what has changed since.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

use crate::work::WORKS;

/// More than this part of the recorded figure is a change.
const BOUND: f64 = 0.05;

pub const HOW_TO_RENEW: &str =
    "Where it is worth that: POSTERN_COST=record make test TEST_FLAGS=cost, and commit tests/cost/record.toml.";

const HEAD: &str = "\
# What a mail costs the debug build, with the default chain, on x86_64: system calls (without those of threads that work by the
# clock), syncs, allocations. `make test` fails when one has grown by more than 5 %, and tells when one has shrunk by as much.
# Written by: POSTERN_COST=record make test TEST_FLAGS=cost
";

/// Of one work, for each mail.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    /// `None`: they can't be counted here.
    pub system_calls: Option<f64>,
    pub syncs: f64,
    pub allocations: f64,
}

impl Figures {
    fn named(&self) -> [(&'static str, Option<f64>); 3] {
        [("system_calls", self.system_calls), ("syncs", Some(self.syncs)), ("allocations", Some(self.allocations))]
    }
}

pub struct Record(Table);

/// What is more than [`BOUND`] away from the record, a line each.
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
            for (name, figure) in figures.named() {
                let figure = figure.unwrap_or_else(|| panic!("{name} can't be counted here: record elsewhere"));
                let _ = writeln!(text, "{name} = {figure:.2}");
            }
        }
        fs::write(path(), text).unwrap();
    }

    pub fn judge(&self, figures: &[Figures]) -> Verdict {
        let mut verdict = Verdict::default();
        for (work, figures) in WORKS.iter().zip(figures) {
            for (name, now) in figures.named() {
                let recorded = self.0.get(work.name).and_then(|figures| figures.get(name)?.as_float());
                let recorded = recorded.unwrap_or_else(|| panic!("{} of {} is not recorded", name, work.name));
                let Some(now) = now else { continue };
                let line = format!("{}: {now:.2} {name} a mail, {recorded:.2} are recorded\n", work.name);
                if now > recorded * (1.0 + BOUND) {
                    verdict.grown += &line;
                } else if now < recorded * (1.0 - BOUND) {
                    verdict.shrunk += &line;
                }
            }
        }
        verdict
    }
}

#[test]
fn the_judge_sees_five_percent() {
    let at = |part: f64| {
        let of = |figure: f64| figure * part;
        [Figures { system_calls: Some(of(50.0)), syncs: of(1.0), allocations: of(700.0) }; WORKS.len()]
    };
    let tables =
        WORKS.map(|work| format!("[\"{}\"]\nsystem_calls = 50.0\nsyncs = 1.0\nallocations = 700.0\n", work.name));
    let record = Record(tables.concat().parse().unwrap());
    for (part, grown, shrunk) in [(0.94, 0, 9), (0.96, 0, 0), (1.04, 0, 0), (1.06, 9, 0)] {
        let verdict = record.judge(&at(part));
        assert_eq!((verdict.grown.lines().count(), verdict.shrunk.lines().count()), (grown, shrunk), "{part}");
    }
    let uncounted = at(1.06).map(|figures| Figures { system_calls: None, ..figures });
    assert_eq!(record.judge(&uncounted).grown.lines().count(), 6);
}
