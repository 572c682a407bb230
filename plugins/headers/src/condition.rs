//! When a rule applies: everything that it names must hold, and of each list one entry.

use postern_sdk::ReadError;
use postern_sdk::prelude::*;

use crate::word;

#[derive(Default)]
pub struct Conditions {
    pub direction: Option<Direction>,
    pub sender: Vec<Pattern>,
    pub except_sender: Vec<Pattern>,
    /// One of the recipients is among them.
    pub recipient: Vec<Pattern>,
    /// Not where all recipients are among them.
    pub except_recipient: Vec<Pattern>,
    pub header: Vec<HeaderCondition>,
    pub tag: Vec<String>,
    /// Octets.
    pub larger_than: Option<u64>,
    pub smaller_than: Option<u64>,
}

/// Compared without regard to ASCII case, encoded words decoded.
pub struct HeaderCondition {
    pub name: String,
    pub test: HeaderTest,
}

pub enum HeaderTest {
    Present,
    Absent,
    Equals(String),
    Contains(String),
}

/// Fields of one name that are looked at, and octets of each.
const MAX_FIELDS: usize = 50;
const MAX_VALUE: usize = 4096;

/// A mail as conditions see it. What no rule asks for is never fetched.
pub struct Facts<'a> {
    session: &'a Session<'a>,
    message: &'a Message<'a>,
}

impl<'a> Facts<'a> {
    pub fn new(session: &'a Session<'a>, message: &'a Message<'a>) -> Self {
        Self { session, message }
    }
}

impl Conditions {
    pub fn hold(&self, facts: &Facts) -> Result<bool, ReadError> {
        let Facts { session, message } = facts;
        let direction = self.direction.is_none_or(|wanted| wanted == session.direction());
        if !direction || !self.size_fits(message) || !self.envelope_fits(message) {
            return Ok(false);
        }
        if !self.tag.is_empty() && !message.tags().iter().any(|tag| self.tag.contains(tag)) {
            return Ok(false);
        }
        for condition in &self.header {
            if !condition.holds(message)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn size_fits(&self, message: &Message) -> bool {
        if self.larger_than.is_none() && self.smaller_than.is_none() {
            return true;
        }
        let size = message.size().unwrap_or_default();
        self.larger_than.is_none_or(|least| size > least) && self.smaller_than.is_none_or(|most| size < most)
    }

    fn envelope_fits(&self, message: &Message) -> bool {
        let listed = |list: &[Pattern], address: &Address| list.iter().any(|pattern| pattern.matches(address));
        if !self.sender.is_empty() || !self.except_sender.is_empty() {
            let sender = message.reverse_path();
            let is_in = |list: &[Pattern]| sender.as_ref().is_some_and(|sender| listed(list, sender));
            if !self.sender.is_empty() && !is_in(&self.sender) || is_in(&self.except_sender) {
                return false;
            }
        }
        if self.recipient.is_empty() && self.except_recipient.is_empty() {
            return true;
        }
        let recipients = message.recipients();
        let wanted = self.recipient.is_empty() || recipients.iter().any(|one| listed(&self.recipient, &one.address));
        wanted && !recipients.iter().all(|one| listed(&self.except_recipient, &one.address))
    }
}

impl HeaderCondition {
    fn holds(&self, message: &Message) -> Result<bool, ReadError> {
        let values = message.header(&self.name)?;
        let mut shown = values.iter().take(MAX_FIELDS).map(|value| {
            let start = value.get(..MAX_VALUE).unwrap_or(value);
            word::decode(start).to_ascii_lowercase()
        });
        Ok(match &self.test {
            HeaderTest::Present => !values.is_empty(),
            HeaderTest::Absent => values.is_empty(),
            HeaderTest::Equals(wanted) => shown.any(|value| value.trim() == wanted.to_ascii_lowercase()),
            HeaderTest::Contains(wanted) => shown.any(|value| value.contains(&wanted.to_ascii_lowercase())),
        })
    }
}
