//! One rule, and what it means that it matches.

use postern_sdk::prelude::*;

pub struct Rule {
    pub name: String,
    pub action: Action,
    pub what: What,
}

/// R58, R60: white is `allow`; black is `reject` or `ignore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// White: spared the tests of its criterion.
    Allow,
    Reject,
    /// Taken and dropped.
    Ignore,
}

/// What a rule lists (R59).
pub enum What {
    Ip(Vec<Network>),
    Sender(Vec<Address>),
    Recipient(Vec<Address>),
    Domain(Vec<DomainPattern>),
}

/// `example.com`, or `.example.com` for each domain below it.
pub struct DomainPattern(Pattern);

/// By what a rule has matched: a row of the table of R61.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criterion {
    Ip,
    Network,
    Sender,
    Recipient,
    Domain,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Match {
    pub criterion: Criterion,
    pub action: Action,
    /// The rule's name, for the log.
    pub rule: String,
}

impl Rule {
    pub fn matched(&self, criterion: Criterion) -> Match {
        Match { criterion, action: self.action, rule: self.name.clone() }
    }
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Reject => "reject",
            Self::Ignore => "ignore",
        }
    }

    /// The counter of those that it has hit.
    pub fn counted_as(self) -> &'static str {
        match self {
            Self::Allow => "allowed",
            Self::Reject => "rejected",
            Self::Ignore => "ignored",
        }
    }
}

impl Criterion {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Network => "network",
            Self::Sender => "sender",
            Self::Recipient => "recipient",
            Self::Domain => "domain",
        }
    }
}

impl DomainPattern {
    pub fn new(pattern: Pattern) -> Option<Self> {
        if matches!(pattern, Pattern::Address(_)) { None } else { Some(Self(pattern)) }
    }

    pub fn holds(&self, domain: &str) -> bool {
        self.0.matches(&Address { local_part: String::new(), domain: domain.to_owned() })
    }
}

impl Match {
    /// The row of a table: `allow`, `reject` or `ignore`, then the rule's name. A domain can only be allowed (R59).
    pub fn parse(row: &str, criterion: Criterion) -> Option<Self> {
        let row = row.trim();
        let (word, name) = row.split_once(' ').unwrap_or((row, ""));
        let action = match word {
            "allow" => Action::Allow,
            "reject" if criterion != Criterion::Domain => Action::Reject,
            "ignore" if criterion != Criterion::Domain => Action::Ignore,
            _ => return None,
        };
        let name = name.trim();
        let rule = if name.is_empty() { "table" } else { name };
        Some(Self { criterion, action, rule: rule.to_owned() })
    }
}
