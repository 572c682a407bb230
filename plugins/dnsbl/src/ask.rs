//! Asks all lists at once, counts what becomes of it, and tells the hits.

use std::net::IpAddr;

use postern_sdk::dns::{self, Answer, Question, RecordType};
use postern_sdk::metrics;
use postern_sdk::prelude::*;

use crate::code::Outcome;
use crate::config::{List, Subject};
use crate::subject::{domain, reversed};

/// Something that may be listed.
pub struct Item {
    kind: Subject,
    /// For people.
    shown: String,
    /// What stands before a list's zone.
    labels: String,
    ipv6: bool,
}

/// A list that has what was looked up; one for each list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Its place in the config.
    pub list: usize,
    pub weight: i32,
    /// `None`: at an earlier stage.
    pub asked: Option<Asked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub shown: String,
    /// In DNS.
    name: String,
}

/// What `resolve_many` takes.
const MAX_QUESTIONS: usize = 32;
/// RFC 1035 §2.3.4, in text.
const MAX_NAME: usize = 253;
/// Lists with metrics of their own: a plugin may have 32 names, four for all lists and four for each of these.
const OWN_METRICS: usize = 6;
/// Characters of a list's own text in a reply.
const MAX_REASON: usize = 240;

impl Item {
    pub fn address(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { kind: Subject::Ip, shown: address.to_string(), labels: reversed(address), ipv6: address.is_ipv6() }
    }

    /// `None` for what is no domain, as an address literal.
    pub fn name(kind: Subject, text: &str) -> Option<Self> {
        let name = domain(text)?;
        Some(Self { kind, shown: name.clone(), labels: name, ipv6: false })
    }
}

/// A list that has several of the items counts once, by the weightiest.
pub fn look_up(lists: &[List], items: &[Item]) -> Vec<Hit> {
    let mut questions: Vec<(usize, Asked)> = Vec::new();
    for (at, list) in lists.iter().enumerate() {
        for item in items.iter().filter(|item| list.by.contains(&item.kind) && (list.ipv6 || !item.ipv6)) {
            let name = format!("{}.{}", item.labels, list.zone);
            let known = questions.iter().any(|(of, asked)| *of == at && asked.name == name);
            if name.len() <= MAX_NAME && !known {
                questions.push((at, Asked { shown: item.shown.clone(), name }));
            }
        }
    }
    let mut hits = Vec::new();
    for some in questions.chunks(MAX_QUESTIONS) {
        let asked = some.iter().map(|(_, asked)| Question::new(asked.name.as_str(), RecordType::A)).collect();
        for ((at, asked), answer) in some.iter().zip(dns::resolve_many(asked)) {
            let Some(list) = lists.get(*at) else { continue };
            let outcome = list.codes.read(list.weight, &answer);
            count(*at, list, outcome);
            match outcome {
                Outcome::Listed { weight, code } => {
                    info!("{} is listed by {}: {code}, weight {weight}", asked.shown, list.name);
                    hits.push(Hit { list: *at, weight, asked: Some(asked.clone()) });
                }
                Outcome::Error => {
                    let shown = if let Ok(Answer::Addresses(codes)) = &answer { codes.first().copied() } else { None };
                    warn!("{} gives no proper answer about {}: {shown:?}", list.name, asked.shown);
                }
                Outcome::Timeout => debug!("{} gives no answer about {}", list.name, asked.shown),
                Outcome::NotListed => {}
            }
        }
    }
    together(Vec::new(), hits)
}

fn count(at: usize, list: &List, outcome: Outcome) {
    let name = match outcome {
        Outcome::Listed { .. } => "listed",
        Outcome::NotListed => "not_listed",
        Outcome::Error => "error",
        Outcome::Timeout => "timeout",
    };
    metrics::add(name, 1);
    if at < OWN_METRICS {
        metrics::add(&format!("{}_{name}", list.metric_name()), 1);
    }
}

/// One hit for each list, the weightiest.
pub fn together(mut hits: Vec<Hit>, more: Vec<Hit>) -> Vec<Hit> {
    for hit in more {
        match hits.iter_mut().find(|known| known.list == hit.list) {
            Some(known) if hit.weight.abs() > known.weight.abs() => *known = hit,
            Some(_) => {}
            None => hits.push(hit),
        }
    }
    hits
}

/// Those that speak against the mail.
pub fn heaviest_first(hits: &[Hit]) -> Vec<&Hit> {
    let mut against: Vec<_> = hits.iter().filter(|hit| hit.weight > 0).collect();
    against.sort_by_key(|hit| std::cmp::Reverse(hit.weight));
    against
}

/// What the weightiest list says of it in its TXT record. Foreign text: printable, and not long.
pub fn reason(hits: &[Hit]) -> Option<String> {
    let asked = heaviest_first(hits).into_iter().find_map(|hit| hit.asked.as_ref())?;
    let Ok(Answer::Texts(texts)) = dns::resolve(&asked.name, RecordType::Txt) else { return None };
    let printable = |octet: &u8| if matches!(octet, b' '..=b'~') { char::from(*octet) } else { '?' };
    let text: String = texts.first()?.iter().take(MAX_REASON).map(printable).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// `LIST WEIGHT`, a line each.
pub fn to_note(hits: &[Hit]) -> String {
    hits.iter().map(|hit| format!("{} {}\n", hit.list, hit.weight)).collect()
}

pub fn from_note(note: &[u8]) -> Vec<Hit> {
    let lines = std::str::from_utf8(note).unwrap_or_default().lines();
    let hit = |line: &str| {
        let (list, weight) = line.split_once(' ')?;
        Some(Hit { list: list.parse().ok()?, weight: weight.parse().ok()?, asked: None })
    };
    lines.filter_map(hit).collect()
}
