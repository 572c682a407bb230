//! Replays the fuzz bodies on seeds, and on mutations of these that are the same in each run.

use std::path::Path;

use postern_tests::fuzz;
use postern_tests::script::{Dialog, Step};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Mutations of each seed.
const MUTATIONS: u64 = 20;

/// What clients say in the dialogues.
fn sessions() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dialogs");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    let said = |dialog: Dialog| {
        let steps = dialog.steps.into_iter();
        steps.flat_map(|(_, step)| if let Step::Send(octets) = step { octets } else { Vec::new() }).collect::<Vec<u8>>()
    };
    let dialog = |path: &Path| Dialog::parse("seed", &std::fs::read_to_string(path).unwrap()).unwrap();
    let mut said: Vec<_> = files.iter().map(|path| said(dialog(path))).collect();
    said.retain(|octets| octets.len() < 100_000);
    said
}

/// Runs a body on all seeds and their mutations. Octets that matter to SMTP are put in more often than others.
fn replay(body: fn(&[u8]), seeds: &[Vec<u8>]) {
    const OCTETS: &[u8] = b"\r\n.\0<>@: \xff+=";
    assert!(!seeds.is_empty());
    for (seed, octets) in seeds.iter().enumerate() {
        body(octets);
        for mutation in 0..MUTATIONS {
            let mut random = StdRng::seed_from_u64(seed as u64 * MUTATIONS + mutation);
            let mut octets = octets.clone();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..=octets.len());
                match random.random_range(0..4) {
                    0 if at < octets.len() => octets[at] = random.random(),
                    1 if at < octets.len() => drop(octets.remove(at)),
                    2 => octets.insert(at, OCTETS[random.random_range(0..OCTETS.len())]),
                    _ => {
                        let end = random.random_range(at..=octets.len().min(at + 200));
                        let part = octets[at..end].to_vec();
                        let to = random.random_range(0..=octets.len());
                        octets.splice(to..to, part);
                    }
                }
            }
            body(&octets);
        }
    }
}

#[test]
fn command_lines() {
    let lines: Vec<_> = sessions().iter().flat_map(|said| said.split(|&b| b == b'\n').map(<[u8]>::to_vec)).collect();
    replay(fuzz::command_line, &lines);
}

#[test]
fn data() {
    replay(fuzz::data_reader, &[sessions(), vec![b"a\r\n..\r\n.\r\r\n\r\n.\r\nQUIT\r\n".to_vec()]].concat());
}

#[test]
fn header_fields() {
    replay(fuzz::header_fields, &[sessions(), vec![b"A: 1\r\n b\r\nC\r\n:\r\n\r\nx".to_vec()]].concat());
}

#[test]
fn sessions_hold_their_invariants() {
    replay(fuzz::machine, &sessions());
}

/// A segment as the spool writes it, and what a disk may make of it.
#[test]
fn segments() {
    let directory = tempfile::tempdir().unwrap();
    replay(fuzz::segment_recovery, &[crate::segment(directory.path()), b"".to_vec(), vec![0; 5000]]);
}
