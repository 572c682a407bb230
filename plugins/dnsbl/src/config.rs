//! The config as it is written, and its checks.

use std::collections::BTreeSet;

use postern_sdk::address::domain_name;
use postern_sdk::prelude::*;

use crate::code::Codes;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    lists: Vec<ListConfig>,
    #[serde(default)]
    thresholds: Thresholds,
    #[serde(default = "dnsbl")]
    tag: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListConfig {
    name: String,
    zone: String,
    #[serde(default = "ip")]
    by: Vec<Subject>,
    #[serde(default = "one")]
    weight: i32,
    #[serde(default)]
    codes: Codes,
    #[serde(default = "yes")]
    ipv6: bool,
}

/// What of a mail is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    Ip,
    Helo,
    /// The client's name in DNS, where it leads back to the client.
    ClientName,
    /// The domain of the reverse-path.
    Sender,
    /// The domains of the authors, of `From`.
    From,
}

/// From which sum on what is done; of those that are reached the first.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    pub reject: Option<i32>,
    pub defer: Option<i32>,
    pub quarantine: Option<i32>,
    pub tag: Option<i32>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { reject: Some(1), defer: None, quarantine: None, tag: None }
    }
}

pub struct List {
    pub name: String,
    pub zone: String,
    pub by: Vec<Subject>,
    pub weight: i32,
    pub codes: Codes,
    pub ipv6: bool,
}

pub struct Settings {
    pub lists: Vec<List>,
    pub thresholds: Thresholds,
    pub tag: String,
}

fn dnsbl() -> String {
    "dnsbl".into()
}

fn ip() -> Vec<Subject> {
    vec![Subject::Ip]
}

fn one() -> i32 {
    1
}

fn yes() -> bool {
    true
}

/// So that no sum overflows.
const MAX_WEIGHT: i32 = 1000;

/// Lists, so that what is remembered of them fits.
const MAX_LISTS: usize = 200;

impl Config {
    pub fn check(self) -> Result<Settings, String> {
        if self.lists.len() > MAX_LISTS {
            return Err(format!("lists: more than {MAX_LISTS}"));
        }
        let Thresholds { reject, defer, quarantine, tag } = self.thresholds;
        for (key, threshold) in [("reject", reject), ("defer", defer), ("quarantine", quarantine), ("tag", tag)] {
            if threshold.is_some_and(|least| least < 1) {
                return Err(format!("thresholds.{key}: must be 1 or more, or mail on no list would be meant"));
            }
        }
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.:".contains(&byte);
        if self.tag.is_empty() || self.tag.len() > 64 || !self.tag.bytes().all(legal) {
            return Err("tag: 1 to 64 characters of a-z, 0-9, -, _, . and :".into());
        }
        let lists = self.lists.into_iter().enumerate().map(|(at, list)| {
            let name = list.name.clone();
            list.check().map_err(|problem| format!("lists[{at}] ({name:?}): {problem}"))
        });
        let lists = lists.collect::<Result<Vec<_>, _>>()?;
        let mut seen = BTreeSet::new();
        match lists.iter().find(|list| !seen.insert(list.metric_name())) {
            Some(list) => Err(format!("lists: two are named {:?}, or alike in metrics", list.name)),
            None => Ok(Settings { lists, thresholds: self.thresholds, tag: self.tag }),
        }
    }
}

impl ListConfig {
    fn check(self) -> Result<List, String> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if self.name.is_empty() || self.name.len() > 32 || !self.name.bytes().all(legal) {
            return Err("name: 1 to 32 characters of a-z, 0-9, -, _ and .".into());
        }
        let zone = domain_name(&self.zone).map_err(|error| format!("zone: {:?}: {error}", self.zone))?;
        if self.by.is_empty() {
            return Err("by: must not be empty".into());
        }
        if self.weight == 0 || self.weight.abs() > MAX_WEIGHT || !self.codes.weights().all(|w| w.abs() <= MAX_WEIGHT) {
            return Err(format!("a weight is -{MAX_WEIGHT} to {MAX_WEIGHT}, and not 0"));
        }
        let Self { name, by, weight, codes, ipv6, .. } = self;
        Ok(List { name, zone, by, weight, codes, ipv6 })
    }
}

impl List {
    pub fn metric_name(&self) -> String {
        self.name.replace(['-', '.'], "_")
    }
}
