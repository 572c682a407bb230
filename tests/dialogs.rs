//! Every dialogue of `tests/dialogs`, in each of the three ways. `DIALOG=starttls cargo test …` runs those whose name
//! has this in it.

use std::path::Path;

use postern_tests::runner::run_all;
use postern_tests::{Dialog, Way};

fn dialogs() -> Vec<Dialog> {
    #[expect(clippy::disallowed_methods, reason = "a choice of tests is not config")]
    let chosen = std::env::var("DIALOG").unwrap_or_default();
    let all = with_first_lines().into_iter().map(|(_, dialog)| dialog);
    let dialogs: Vec<_> = all.filter(|dialog| dialog.name.contains(&chosen)).collect();
    assert!(!dialogs.is_empty(), "no dialogue has {chosen:?} in its name");
    dialogs
}

/// All of them, each with the line that says what it is there for.
fn with_first_lines() -> Vec<(String, Dialog)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("dialogs");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        (text.lines().next().unwrap_or_default().to_owned(), Dialog::parse(name, &text).unwrap())
    };
    files.iter().map(read).collect()
}

fn all(way: Way) {
    match run_all(&dialogs(), way) {
        Ok(count) => println!("{count} dialogues, {way:?}"),
        Err(report) => panic!("\n{report}"),
    }
}

#[test]
fn in_memory() {
    all(Way::Memory);
}

#[test]
fn octet_by_octet() {
    all(Way::Octets);
}

#[test]
fn over_tcp() {
    all(Way::Tcp);
}

/// The dialogues whose first line cites this row of the failure model, in each of the three ways.
pub fn play_row(row: &str, number: usize) {
    let cites = |dialog: &&(String, Dialog)| {
        let source = dialog.0.trim_start_matches("# ").split(": ").next().unwrap();
        source.split(", ").any(|cited| cited == row)
    };
    let dialogs: Vec<_> = with_first_lines().iter().filter(cites).map(|(_, dialog)| dialog.clone()).collect();
    assert!(dialogs.len() >= number, "{row} is cited by {} dialogues only", dialogs.len());
    for way in [Way::Memory, Way::Octets, Way::Tcp] {
        if let Err(report) = run_all(&dialogs, way) {
            panic!("\n{report}");
        }
    }
}
