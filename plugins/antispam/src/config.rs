//! The config, with its defaults: what becomes of a mail, by what rspamd would do with it and by its score.

use std::collections::BTreeMap;

use postern_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Of kind `rspamd`.
    pub scanner: String,
    /// By the action that rspamd proposes, besides those of [`usual`].
    pub actions: BTreeMap<String, Fate>,
    pub scores: Scores,
    pub unavailable: Unchecked,
    pub too_big: Unchecked,
    /// Fields that say what was found.
    pub headers: bool,
    /// Before the subject of spam that goes on; empty: what rspamd would write, if it would.
    pub subject_prefix: String,
    pub outbound: Outbound,
}

/// For outbound mail, where it is another thing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    pub actions: BTreeMap<String, Fate>,
    pub scores: Option<Scores>,
    pub unavailable: Option<Unchecked>,
    pub too_big: Option<Unchecked>,
    pub headers: bool,
}

/// From which score on; whatever rspamd proposes, if that is not stronger.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scores {
    pub tag: Option<f64>,
    pub quarantine: Option<f64>,
    pub discard: Option<f64>,
    pub defer: Option<f64>,
    pub reject: Option<f64>,
}

/// The weakest first, in the order in which the gateway combines verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    Continue,
    /// Let through and marked.
    Tag,
    Quarantine,
    Discard,
    Defer,
    Reject,
}

/// With mail of which nobody knows whether it is spam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unchecked {
    Defer,
    Quarantine,
    Continue,
}

/// What holds for a mail of one direction.
pub struct Policy<'a> {
    direction: Direction,
    actions: [&'a BTreeMap<String, Fate>; 2],
    scores: Scores,
    pub unavailable: Unchecked,
    pub too_big: Unchecked,
    pub headers: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scanner: "rspamd".to_owned(),
            actions: BTreeMap::new(),
            scores: Scores::default(),
            unavailable: Unchecked::Defer,
            too_big: Unchecked::Continue,
            headers: true,
            subject_prefix: String::new(),
            outbound: Outbound::default(),
        }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        if self.scanner.is_empty() {
            return Err("scanner: name one".to_owned());
        }
        if self.subject_prefix.chars().any(|c| !matches!(c, ' '..='~')) || self.subject_prefix.len() > 64 {
            return Err("subject_prefix: at most 64 printable ASCII characters".to_owned());
        }
        Ok(())
    }

    /// Outbound what is said for it goes first, then what is said for both.
    pub fn policy(&self, direction: Direction) -> Policy<'_> {
        let Outbound { actions, scores, unavailable, too_big, headers } = &self.outbound;
        match direction {
            Direction::Inbound => Policy {
                direction,
                actions: [&self.actions; 2],
                scores: self.scores,
                unavailable: self.unavailable,
                too_big: self.too_big,
                headers: self.headers,
            },
            Direction::Outbound => Policy {
                direction,
                actions: [actions, &self.actions],
                scores: scores.unwrap_or(self.scores),
                unavailable: unavailable.unwrap_or(self.unavailable),
                too_big: too_big.unwrap_or(self.too_big),
                headers: *headers,
            },
        }
    }
}

impl Policy<'_> {
    /// The stronger of what its action and what its score ask for.
    pub fn fate(&self, action: &str, score: f64, required: f64) -> Fate {
        let written = self.actions.iter().find_map(|actions| actions.get(action).copied());
        let by_action = written.unwrap_or_else(|| self.usual(action, score, required));
        by_action.max(self.scores.fate(score))
    }

    /// Where the config says nothing of an action.
    fn usual(&self, action: &str, score: f64, required: f64) -> Fate {
        // R23: what others would mark as spam costs our addresses their name, so it does not leave.
        let tag = if self.direction == Direction::Outbound { Fate::Reject } else { Fate::Tag };
        match action {
            "no action" => Fate::Continue,
            // Only a hint: rspamd's own greylisting says `soft reject` as long as the mail is to come back.
            "greylist" => Fate::Continue,
            "add header" | "rewrite subject" => tag,
            "soft reject" => Fate::Defer,
            "reject" => Fate::Reject,
            "quarantine" => Fate::Quarantine,
            "discard" => Fate::Discard,
            // One that somebody has made.
            _ if score >= required => tag,
            _ => Fate::Continue,
        }
    }
}

impl Scores {
    fn fate(self, score: f64) -> Fate {
        let Self { tag, quarantine, discard, defer, reject } = self;
        let steps = [
            (tag, Fate::Tag),
            (quarantine, Fate::Quarantine),
            (discard, Fate::Discard),
            (defer, Fate::Defer),
            (reject, Fate::Reject),
        ];
        let passed = steps.into_iter().filter(|(from, _)| from.is_some_and(|from| score >= from));
        passed.map(|(_, fate)| fate).max().unwrap_or(Fate::Continue)
    }
}
