//! The failure model, row by row; `faults/README.md` says what each row is, and this file that its table is true.

mod administration;
mod delivery;
mod end_of_data;
mod names;
mod plugins;
mod protocol;
mod resources;
mod storage;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rows of each letter; those of other servers' bugs (T) have names.
const ROWS: [(&str, usize); 9] =
    [("K", 18), ("P", 3), ("D", 8), ("RS", 14), ("SP", 17), ("N", 10), ("O", 11), ("W", 15), ("G", 13)];
const BUGS: [&str; 16] = [
    "T-STATE-1",
    "T-SMUG-INS",
    "T-PLUG-ATOMIC",
    "T-BDAT-STATE",
    "T-BDAT-MANY",
    "T-LINE",
    "T-UTF8-STATE",
    "T-PLUG-REPLY",
    "T-DSN-PARAM",
    "T-FROM-LINES",
    "T-PREBANNER-FLOOD",
    "T-INCLUDE",
    "T-DNS-SHORT",
    "T-CALL-AHEAD",
    "T-TICKETS",
    "T-STARTTLS",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A row of the table: what stands under Tests and under State.
struct Row {
    tests: Vec<String>,
    state: String,
}

fn table() -> HashMap<String, Row> {
    let text = fs::read_to_string(root().join("tests/faults/README.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Row "));
    let mut table = HashMap::new();
    for line in rows {
        // `\|` is a bar within a cell.
        let line = line.replace("\\|", " ");
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, _, tests, state] = cells[..] else { panic!("not four cells: {line}") };
        // Names of files stand between the same marks and have a dot.
        let tests = tests.split('`').skip(1).step_by(2).filter(|name| !name.contains('.')).map(str::to_owned).collect();
        let row_is_new = table.insert(row.to_owned(), Row { tests, state: state.to_owned() }).is_none();
        assert!(row_is_new, "{row} stands there twice");
    }
    table
}

/// The functions that are tests, by name, of all Rust files below; true: under `tests/faults`.
fn tests() -> HashMap<String, bool> {
    let mut found = HashMap::new();
    let mut folders: Vec<_> = ["tests", "runtime/src", "plugins", "sdk/rust"].map(|folder| root().join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let is_ours = path.starts_with(root().join("tests/faults"));
                let text = fs::read_to_string(&path).unwrap();
                found.extend(tests_of(&text).map(|name| (name, is_ours)));
            }
        }
    }
    found
}

fn tests_of(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split("#[test]").chain(text.split("#[tokio::test")).filter_map(|part| part.split_once("fn "));
    parts.filter_map(|(attributes, rest)| {
        // Between the attribute and its function there are other attributes at most.
        let is_next = !attributes.contains(['{', ';']);
        let name = rest.split(['(', '<']).next()?;
        is_next.then(|| name.to_owned())
    })
}

/// `k7_…` and `t_state_1_…` name a row.
fn row_of(test: &str) -> Option<String> {
    let bug = |row: &&&str| test.starts_with(&format!("{}_", row.to_ascii_lowercase().replace('-', "_")));
    if let Some(row) = BUGS.iter().find(bug) {
        return Some((*row).to_owned());
    }
    let (row, _) = test.split_once('_')?;
    let letters = row.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = row[letters.len()..].parse().unwrap_or(0);
    let row_is_there =
        |(name, rows): &(&str, usize)| name.to_ascii_lowercase() == letters && (1..=*rows).contains(&number);
    ROWS.iter().any(row_is_there).then(|| row.to_ascii_uppercase())
}

#[test]
fn the_table_is_complete() {
    let table = table();
    let numbered = ROWS.iter().flat_map(|(letter, rows)| (1..=*rows).map(move |row| format!("{letter}{row}")));
    let rows: HashSet<_> = numbered.chain(BUGS.map(str::to_owned)).collect();
    for row in &rows {
        let Row { tests, state } = table.get(row).unwrap_or_else(|| panic!("{row} is missing"));
        let (word, reason) = state.split_once(':').unwrap_or((state, ""));
        assert!(["holds", "in part", "not here"].contains(&word), "{row}: {state}");
        assert!(word == "holds" || reason.len() > 10, "{row}: {word}, but why?");
        assert_eq!(tests.is_empty(), word == "not here", "{row}: {word}, with tests {tests:?}");
    }
    assert!(table.keys().all(|row| rows.contains(row)), "rows that the model does not have");
}

#[test]
fn every_test_is_in_the_table_and_the_other_way_round() {
    let (table, tests) = (table(), tests());
    for (row, Row { tests: named, .. }) in &table {
        for name in named {
            assert!(tests.contains_key(name), "{row}: there is no test {name}");
        }
    }
    let named: HashSet<_> = table.values().flat_map(|row| &row.tests).collect();
    for (name, _) in tests.iter().filter(|(_, is_ours)| **is_ours) {
        let is_told = named.contains(name) || row_of(name).is_none();
        assert!(is_told, "{name} is not in the table of tests/faults/README.md");
        assert!(row_of(name).is_some() || !named.contains(name), "{name} is named after no row");
    }
}
