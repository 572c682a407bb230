//! Which rule decides for whom, and what that makes of the mail.

use postern_sdk::EditError;
use postern_sdk::prelude::*;
use postern_sdk::tables::{self, TableError};

use crate::config::{Rule, Tables, Target};

/// What has decided.
pub enum By<'a> {
    Rule(&'a Rule),
    Row(Row),
}

/// Of a table.
pub struct Row {
    /// As it stands there.
    text: String,
    name: String,
    to: Target,
    what: &'static str,
}

/// Nothing is routed, for want of knowing where to.
pub enum Trouble {
    Table(String, TableError),
    Row(String, String, String),
    Edit(String, EditError),
}

pub struct Choice<'a> {
    /// In the order of the rules; each has taken somebody.
    taken: Vec<(By<'a>, Vec<&'a Address>)>,
    /// Some recipient matches no rule, and keeps the route that the gateway has chosen.
    some_left: bool,
}

impl<'a> Choice<'a> {
    /// Each rule takes those of its recipients that no earlier one took; what is left is looked up in the tables, by
    /// recipient, then by sender.
    pub fn make(
        rules: &'a [Rule],
        tables: &Tables,
        sender: Option<&Address>,
        recipients: &'a [Address],
    ) -> Result<Self, Trouble> {
        let mut choice = Self { taken: Vec::new(), some_left: false };
        let mut left: Vec<&Address> = recipients.iter().collect();
        for rule in rules.iter().filter(|rule| rule.what.has_sender(sender)) {
            let (matching, others) = left.into_iter().partition(|recipient| rule.what.has_recipient(recipient));
            left = others;
            choice.take(By::Rule(rule), matching);
        }
        if let Some(table) = &tables.recipient {
            let mut others = Vec::new();
            for recipient in left {
                match Row::find(table, recipient, "recipient")? {
                    Some(row) => choice.take_one(row, recipient),
                    None => others.push(recipient),
                }
            }
            left = others;
        }
        if let (Some(table), Some(sender), false) = (&tables.sender, sender, left.is_empty())
            && let Some(row) = Row::find(table, sender, "sender")?
        {
            choice.take(By::Row(row), std::mem::take(&mut left));
        }
        choice.some_left = !left.is_empty();
        Ok(choice)
    }

    fn take(&mut self, by: By<'a>, recipients: Vec<&'a Address>) {
        if !recipients.is_empty() {
            self.taken.push((by, recipients));
        }
    }

    /// With those of the same row.
    fn take_one(&mut self, row: Row, recipient: &'a Address) {
        let same = |by: &By<'_>| matches!(by, By::Row(other) if other.text == row.text);
        match self.taken.iter_mut().find(|(by, _)| same(by)) {
            Some((_, taken)) => taken.push(recipient),
            None => self.taken.push((By::Row(row), vec![recipient])),
        }
    }

    pub fn taken(&self) -> &[(By<'a>, Vec<&'a Address>)] {
        &self.taken
    }

    /// Most often one rule takes all, and the mail stays whole.
    pub fn set(&self, message: &Message) -> Result<(), Trouble> {
        let most = self.taken.iter().max_by_key(|(_, taken)| taken.len()).map(|(by, _)| by);
        let common = most.filter(|_| !self.some_left);
        if let Some(by) = common {
            message.set_route(by.to().route()).map_err(|error| by.denied(error))?;
        }
        for (by, taken) in &self.taken {
            if common.is_some_and(|common| common.to().route() == by.to().route()) {
                continue;
            }
            for recipient in taken {
                message.set_recipient_route(recipient, by.to().route()).map_err(|error| by.denied(error))?;
            }
        }
        Ok(())
    }
}

impl By<'_> {
    pub fn rule(&self) -> &str {
        match self {
            Self::Rule(rule) => &rule.name,
            Self::Row(row) => &row.name,
        }
    }

    pub fn to(&self) -> &Target {
        match self {
            Self::Rule(rule) => &rule.to,
            Self::Row(row) => &row.to,
        }
    }

    /// By what it has matched.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Rule(rule) => rule.what.name(),
            Self::Row(row) => row.what,
        }
    }

    fn denied(&self, error: EditError) -> Trouble {
        Trouble::Edit(format!("rule {:?}: {}", self.rule(), self.to()), error)
    }
}

impl Row {
    fn find(table: &str, address: &Address, what: &'static str) -> Result<Option<Self>, Trouble> {
        let row = tables::match_address(table, address).map_err(|error| Trouble::Table(table.to_owned(), error))?;
        row.map(|text| Self::parse(table, text, what)).transpose()
    }

    /// A target as in a rule, then perhaps the rule's name.
    fn parse(table: &str, text: String, what: &'static str) -> Result<Self, Trouble> {
        let row = text.trim();
        let (target, name) = row.split_once(' ').unwrap_or((row, ""));
        let name = if name.trim().is_empty() { format!("table {table}") } else { name.trim().to_owned() };
        match Target::try_from(target.to_owned()) {
            Ok(to) => Ok(Self { name, to, what, text }),
            Err(problem) => Err(Trouble::Row(table.to_owned(), row.to_owned(), problem)),
        }
    }
}

impl Trouble {
    /// The mail waits until config is put right.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Table(table, why) => {
                error!("table {table:?}: {why}");
                defer!("4.3.0", "Local error in processing")
            }
            Self::Row(table, row, problem) => {
                error!("table {table:?}: row {row:?}: {problem}");
                defer!("4.3.5", "Local error in configuration")
            }
            Self::Edit(rule, why) => {
                error!("{rule}: {why}");
                defer!("4.3.5", "Local error in configuration")
            }
        }
    }
}
