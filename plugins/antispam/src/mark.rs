//! What a mail that goes on says of itself: header fields, subject, tag. The error is what becomes of one that can't be
//! marked.

use postern_sdk::message::{EditError, ReadError};
use postern_sdk::prelude::*;
use postern_sdk::scan::Assessment;

pub const FLAG: &str = "X-Spam-Flag";
pub const SCORE: &str = "X-Spam-Score";
pub const STATUS: &str = "X-Spam-Status";

/// Fields of each of our names that a mail from outside may bring; they are taken out one by one.
const MAX_FIELDS: usize = 50;
/// Symbols that the header names: those with the largest score.
const MAX_SYMBOLS: usize = 30;

pub enum Status<'a> {
    Scanned { said: &'a Assessment, spam: bool },
    Unchecked(&'a str),
}

/// Takes out what anybody before us has said there. `say`: and says what was found.
pub fn status(message: &Message, say: bool, status: &Status) -> Result<(), Verdict> {
    for name in [FLAG, SCORE, STATUS] {
        remove(message, name)?;
    }
    if !say {
        return Ok(());
    }
    let add = |name, value: &str| message.add_header(name, value, Position::Top).map_err(unmarked);
    match status {
        Status::Unchecked(why) => add(STATUS, &format!("No, unchecked ({why})")),
        Status::Scanned { said, spam } => {
            add(STATUS, &status_line(said, *spam))?;
            add(SCORE, &format!("{:.2}", said.score))?;
            add(FLAG, if *spam { "YES" } else { "NO" })
        }
    }
}

/// Words apart, so that the field can be folded.
fn status_line(said: &Assessment, spam: bool) -> String {
    let Assessment { score, required, action, symbols, .. } = said;
    let word = if spam { "Yes" } else { "No" };
    let tests: Vec<_> = symbols.iter().take(MAX_SYMBOLS).map(|one| format!("{}={:.2}", one.name, one.score)).collect();
    let tests = if tests.is_empty() { "none".to_owned() } else { tests.join(", ") };
    format!("{word}, score={score:.2} required={required:.2} action=\"{action}\" tests={tests}")
}

fn remove(message: &Message, name: &str) -> Result<(), Verdict> {
    let theirs = message.header(name).map_err(unread)?.len();
    if theirs > MAX_FIELDS {
        return Err(reject!("554 5.6.0", "The mail has {theirs} fields {name}"));
    }
    for nth in (0..theirs).rev() {
        message.replace_header(name, u32::try_from(nth).unwrap_or(0), None).map_err(unmarked)?;
    }
    Ok(())
}

pub fn tag(message: &Message, tag: &str) -> Result<(), Verdict> {
    message.add_tag(tag).map_err(unmarked)
}

pub fn prefix_subject(message: &Message, prefix: &str) -> Result<(), Verdict> {
    let subjects = message.header("Subject").map_err(unread)?;
    match subjects.first().map(|subject| std::str::from_utf8(subject)) {
        Some(Ok(theirs)) if theirs.starts_with(prefix) => Ok(()),
        Some(Ok(theirs)) => subject(message, &format!("{prefix}{theirs}")),
        None => subject(message, prefix.trim_end()),
        // It is marked by its other fields; to guess a charset would spoil it.
        Some(Err(_)) => Ok(()),
    }
}

pub fn subject(message: &Message, subject: &str) -> Result<(), Verdict> {
    let there = !message.header("Subject").map_err(unread)?.is_empty();
    match there {
        true => message.replace_header("Subject", 0, Some(subject)),
        false => message.add_header("Subject", subject, Position::Bottom),
    }
    .map_err(unmarked)
}

fn unread(error: ReadError) -> Verdict {
    error!("the header can't be read: {error}");
    defer!("451 4.3.0", "The mail can't be read now, try again later")
}

fn unmarked(error: EditError) -> Verdict {
    error!("the mail can't be marked: {error}");
    defer!("451 4.3.0", "The mail can't be marked now, try again later")
}
