//! The event log as files: those that are there, and their events. Broken lines are passed over.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Octets of a line; longer ones are not ours.
pub(super) const MAX_LINE: u64 = 1 << 20;
/// Rotated files: `FILE.1` is the newest of them.
const MAX_FILES: usize = 1000;

pub(super) type Event = Map<String, Value>;

/// Those that are there, oldest first.
pub(super) fn log_files(file: &Path) -> Vec<PathBuf> {
    let numbered = |n: usize| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    let mut files: Vec<_> = (1..MAX_FILES).map(numbered).take_while(|path| path.is_file()).collect();
    files.reverse();
    files.extend(file.is_file().then(|| file.to_owned()));
    files
}

/// Calls `then` with each event of the files, numbered, whose line is `wanted`. Most lines are about other mails: they
/// are not parsed. What is no JSON is no event.
pub(super) fn each_event(
    files: &[PathBuf],
    wanted: impl Fn(&str) -> bool,
    mut then: impl FnMut(usize, Event),
) -> io::Result<()> {
    each_line(files, |number, line| {
        if wanted(line)
            && let Some(event) = parse(line)
        {
            then(number, event);
        }
    })
}

/// The same with lines, which may be no events.
pub(super) fn each_line(files: &[PathBuf], mut then: impl FnMut(usize, &str)) -> io::Result<()> {
    let mut number = 0;
    let mut line = Vec::new();
    for path in files {
        let mut reader = match File::open(path) {
            Ok(file) => BufReader::new(file),
            // Rotated away since they were listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        loop {
            line.clear();
            if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            number += 1;
            if let Ok(text) = std::str::from_utf8(&line) {
                then(number, text);
            }
        }
    }
    Ok(())
}

pub(super) fn parse(line: &str) -> Option<Event> {
    serde_json::from_str(line).ok()
}

pub(super) fn text<'e>(event: &'e Event, field: &str) -> Option<&'e str> {
    event.get(field).and_then(Value::as_str)
}
