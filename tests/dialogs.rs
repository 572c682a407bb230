//! Every dialogue of `tests/dialogs`, in each of the three ways. `DIALOG=starttls cargo test …` runs those whose name
//! has this in it.

use std::path::Path;

use postern_tests::runner::run_all;
use postern_tests::{Dialog, Way};

fn dialogs() -> Vec<Dialog> {
    #[expect(clippy::disallowed_methods, reason = "a choice of tests is not config")]
    let chosen = std::env::var("DIALOG").unwrap_or_default();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("dialogs");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let named = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let dialogs: Vec<_> = files
        .iter()
        .filter(|path| named(path).contains(&chosen))
        .map(|path| Dialog::parse(&named(path), &std::fs::read_to_string(path).unwrap()).unwrap())
        .collect();
    assert!(!dialogs.is_empty(), "no dialogue has {chosen:?} in its name");
    dialogs
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
