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

/// Octets that mean as much as any: for bodies that take them for choices.
fn rows() -> Vec<Vec<u8>> {
    let row = |seed| {
        let mut random = StdRng::seed_from_u64(seed);
        (0..random.random_range(20..300)).map(|_| random.random()).collect()
    };
    (0..300).map(row).collect()
}

fn configs() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().filter_map(|path| std::fs::read(path.join("postern.toml")).ok()).collect()
}

/// What the body of this name begins with.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let texts = |texts: &[&[u8]]| texts.iter().map(|text| text.to_vec()).collect::<Vec<_>>();
    let proxy = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 1, 198, 51, 100, 2, 31, 144, 0, 25]].concat();
    let mail = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; name*=utf-8''x\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\r\na=3D=\r\nb\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nYWJj\r\nZA==\r\n--b--\r\n";
    match name {
        "machine" => sessions(),
        "conversation" => rows(),
        "data" => [sessions(), texts(&[b"a\r\n..\r\n.\r\r\n\r\n.\r\nQUIT\r\n"])].concat(),
        // A segment as the spool writes it, and what a disk may make of it.
        "segment" => [vec![crate::segment(tempfile::tempdir().unwrap().path())], texts(&[b"", &[0; 5000]])].concat(),
        "command" => sessions().iter().flat_map(|said| said.split(|&b| b == b'\n').map(<[u8]>::to_vec)).collect(),
        "header" => [sessions(), texts(&[b"A: 1\r\n b\r\nC\r\n:\r\n\r\nx"])].concat(),
        "mime" => texts(&[mail]),
        "server-reply" => texts(&[b"250-a\r\n250 2.1.0 b\r\n550 5.1.1 no\r\n", b"220\r\n2x0 a\r\n", b"250 a\n"]),
        "plugin-reply" => texts(&[
            b"\x26\x02\x07\0\x01\0no such user",
            b"\xc3\x01\0\0\0\0X-Name: value\r\n folded",
            b"\0\0\0\0\0\0\"a b\"@example.com",
        ]),
        "proxy" => vec![proxy],
        "config" => configs(),
        "table" => texts(&[
            b"a@example.com,1\n192.0.2.0/24,2\n# x\n*.example.org,\"3\"\"\"\n",
            b"\"example.com\" = 1\nb = true\n",
        ]),
        "kept" => texts(&[b"\x01", b"\x01\x0a\0\0\0\0\0\0\0aaaaaaaaaa", b"\0postern state 2\n"]),
        "zone" => {
            texts(&[b"[\"example.org\"]\nmx = [\"10 mail.example.org\"]\n[\"192.0.2.1\"]\nptr = \"a.example\"\n"])
        }
        _ => panic!("{name} has nothing to begin with"),
    }
}

#[test]
fn the_targets_hold_on_seeds_and_their_mutations() {
    for (name, body) in fuzz::TARGETS {
        println!("{name}");
        replay(body, &seeds(name));
    }
}

/// `make fuzz` begins with them: `POSTERN_SEEDS` says where they are written to, a folder for each body.
#[test]
fn the_seeds_can_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let place = std::env::var_os("POSTERN_SEEDS").map_or(directory.path().to_owned(), Into::into);
    for (name, _) in fuzz::TARGETS {
        let folder = place.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds(name).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
        assert!(std::fs::read_dir(&folder).unwrap().next().is_some());
    }
}
