//! What rules do. Edits are seen by the next plugin only, so what all rules ask for is put together first, and each field is
//! changed once.

use postern_sdk::prelude::*;
use postern_sdk::{EditError, ReadError, metrics};

use crate::footer::{self, Footer};
use crate::mime::{self, Fields};
use crate::{subject, word};

pub struct Actions {
    pub subject: Option<String>,
    pub add: Vec<Written>,
    pub replace: Vec<Written>,
    pub remove: Vec<String>,
    pub footer: Option<Footer>,
}

/// A field as it is written into the header: ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    name: String,
    value: String,
}

/// What all rules that apply ask for, in their order.
#[derive(Default)]
pub struct Plan<'a> {
    prefixes: Vec<&'a str>,
    changes: Vec<Change<'a>>,
    footers: Vec<&'a Footer>,
}

enum Change<'a> {
    Add(&'a Written),
    Replace(&'a Written),
    Remove(&'a str),
}

/// Why the mail can't be as the rules want it.
pub enum Trouble {
    Read(ReadError),
    Edit(EditError),
}

/// Subjects of one mail that get a prefix: it should have one, and readers show any.
const MAX_SUBJECTS: usize = 10;

impl Actions {
    pub fn is_empty(&self) -> bool {
        let Self { subject, add, replace, remove, footer } = self;
        subject.is_none() && add.is_empty() && replace.is_empty() && remove.is_empty() && footer.is_none()
    }
}

impl Written {
    /// `None` for what no field can have.
    pub fn new(name: String, value: &str) -> Option<Self> {
        let value = word::encode_if_needed(value.trim());
        let good = !value.chars().any(char::is_control) && value.len() < 8192;
        (good && value.split(' ').all(|word| word.len() <= 900)).then_some(Self { name, value })
    }
}

impl<'a> Plan<'a> {
    pub fn add(&mut self, actions: &'a Actions) {
        self.prefixes.extend(actions.subject.as_deref().filter(|prefix| !self.prefixes.contains(prefix)));
        self.changes.extend(actions.remove.iter().map(|name| Change::Remove(name)));
        self.changes.extend(actions.replace.iter().map(Change::Replace));
        self.changes.extend(actions.add.iter().map(Change::Add));
        self.footers.extend(&actions.footer);
    }

    /// `footer_limit`: octets of body up to which a mail gets a footer.
    pub fn carry_out(&self, message: &Message, footer_limit: usize) -> Result<(), Trouble> {
        self.change_fields(message)?;
        if !self.prefixes.is_empty() {
            self.tag_subject(message)?;
        }
        if !self.footers.is_empty() {
            self.append_footers(message, footer_limit)?;
        }
        Ok(())
    }

    /// Edits are carried out one after the other, so the place of a field is what the earlier ones leave of it.
    fn change_fields(&self, message: &Message) -> Result<(), Trouble> {
        let mut counts: Vec<(String, u32)> = Vec::new();
        for change in &self.changes {
            let name = match change {
                Change::Add(field) | Change::Replace(field) => field.name.as_str(),
                Change::Remove(name) => name,
            };
            let lower = name.to_ascii_lowercase();
            let place = match counts.iter().position(|(known, _)| *known == lower) {
                Some(place) => place,
                None => {
                    let there = message.header(name).map_err(Trouble::Read)?.len();
                    counts.push((lower, u32::try_from(there).unwrap_or(u32::MAX)));
                    counts.len() - 1
                }
            };
            let Some((_, count)) = counts.get_mut(place) else { continue };
            *count = match change {
                Change::Add(field) => {
                    message.add_header(name, &field.value, Position::Top)?;
                    *count + 1
                }
                Change::Replace(field) if *count == 0 => {
                    message.add_header(name, &field.value, Position::Top)?;
                    1
                }
                Change::Replace(field) => {
                    message.replace_header(name, 0, Some(&field.value))?;
                    remove(message, name, 1, *count - 1)?;
                    1
                }
                Change::Remove(_) => {
                    remove(message, name, 0, *count)?;
                    0
                }
            };
        }
        Ok(())
    }

    fn tag_subject(&self, message: &Message) -> Result<(), Trouble> {
        let subjects = message.header("Subject").map_err(Trouble::Read)?;
        if subjects.is_empty() {
            let value = subject::with_prefixes(b"", &self.prefixes).unwrap_or_default();
            message.add_header("Subject", &value, Position::Bottom)?;
        }
        for (nth, old) in (0..).zip(subjects.iter().take(MAX_SUBJECTS)) {
            if let Some(new) = subject::with_prefixes(old, &self.prefixes) {
                message.replace_header("Subject", nth, Some(&new))?;
            }
        }
        metrics::add("subject_tagged", 1);
        Ok(())
    }

    fn append_footers(&self, message: &Message, limit: usize) -> Result<(), Trouble> {
        let left_out = |why: &str| {
            info!("no footer: {why}");
            metrics::add("footer_left_out", 1);
        };
        let size = message.body_size().map_err(Trouble::Read)?;
        let Some(size) = usize::try_from(size).ok().filter(|&size| size <= limit) else {
            left_out("the mail is too big");
            return Ok(());
        };
        let body = read(message, size).map_err(Trouble::Read)?;
        let fields = fields(message).map_err(Trouble::Read)?;
        let new = mime::first_text(&fields, &body).and_then(|places| footer::put(&body, &places, &self.footers));
        match new.map(|new| message.replace_body(&new)) {
            Ok(Ok(())) => metrics::add("footer_added", 1),
            // A line that is too long was there before.
            Ok(Err(EditError::Invalid(why))) => left_out(&why),
            Ok(Err(error)) => return Err(error.into()),
            Err(obstacle) => left_out(obstacle.name()),
        }
        Ok(())
    }
}

fn remove(message: &Message, name: &str, nth: u32, count: u32) -> Result<(), EditError> {
    (0..count).try_for_each(|_| message.replace_header(name, nth, None))
}

fn read(message: &Message, size: usize) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::with_capacity(size);
    while body.len() < size {
        let piece = message.read(body.len() as u64, 64 * 1024)?;
        if piece.is_empty() {
            break;
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn fields(message: &Message) -> Result<Fields, ReadError> {
    let first = |name: &str| Ok(message.header(name)?.into_iter().next().unwrap_or_default());
    Ok(Fields {
        content_type: first("Content-Type")?,
        encoding: first("Content-Transfer-Encoding")?,
        disposition: first("Content-Disposition")?,
    })
}

impl From<EditError> for Trouble {
    fn from(error: EditError) -> Self {
        Self::Edit(error)
    }
}
