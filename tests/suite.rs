//! All tests in one binary: linking costs more than running.

mod dialogs;
mod end_of_data;
mod states;
mod syntax;
mod tidy;
mod verdicts;

use postern_tests::{Dialog, Way, runner::run_all};

/// Runs dialogues that a test has put together, in memory and octet by octet; over TCP the files do.
fn play(texts: impl IntoIterator<Item = (String, String)>) -> usize {
    let dialogs: Vec<_> = texts.into_iter().map(|(name, text)| Dialog::parse(&name, &text).unwrap()).collect();
    for way in [Way::Memory, Way::Octets] {
        if let Err(report) = run_all(&dialogs, way) {
            panic!("\n{report}");
        }
    }
    dialogs.len()
}

/// A session up to the reply to EHLO.
const GREETED: &str = "S: 220 *\nC: EHLO client.example\nS...: 250\n";
/// A transaction up to the reply to RCPT.
const RECIPIENT: &str = "C: MAIL FROM:<smith@client.example>\nS: 250 *\nC: RCPT TO:<jones@example.com>\nS: 250 *\n";
