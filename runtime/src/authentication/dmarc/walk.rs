//! The tree walk (RFC 9989 §4.10): records on the way from a name to the root.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::record::{self, Psd, Record};
use crate::dns::{DnsError, Resolver};

/// §4.10: names with more labels are cut down to seven after the first query, so that there are never more than eight.
const MAX_WALKED_LABELS: usize = 8;
/// How long the names above a record of the author's own are waited for, all together.
const ABOVE_OWN_RECORD: Duration = Duration::from_secs(2);

/// Records found on the way from a name to the root, the longest name first.
#[derive(Debug, Clone, Default)]
pub(super) struct Walk {
    pub found: Vec<(String, Record)>,
    /// Names above a record of the very name it started from, of which nobody could say what they have, and why.
    pub gaps: Vec<(String, String)>,
}

pub(super) struct Walker {
    pub resolver: Resolver,
    /// By the name where they started.
    walks: HashMap<String, Walk>,
}

/// The error is why nobody can say.
pub(super) type Walked<T> = Result<T, String>;

impl Walker {
    pub fn new(resolver: &Resolver) -> Self {
        Self { resolver: resolver.clone(), walks: HashMap::new() }
    }

    /// Of another domain than an author's.
    pub async fn walk(&mut self, start: &str) -> Walked<Walk> {
        if let Some(walk) = self.walks.get(start) {
            return Ok(walk.clone());
        }
        let own = self.record_at(start).await?;
        let walk = self.walk_up(start, own).await?;
        self.walks.insert(start.to_owned(), walk.clone());
        Ok(walk)
    }

    /// §4.10, the tree walk, from a name whose own record is known. Where it has one, what nobody can say of the names above
    /// is noted and gone past, and is not waited for as long: much is decided without it. Else it is an error, for there
    /// would be no policy.
    pub async fn walk_up(&self, start: &str, own: Option<Record>) -> Walked<Walk> {
        let mut walk = Walk::default();
        let has_own = own.is_some();
        let mut stop = own.as_ref().is_some_and(|record| record.psd != Psd::Unknown);
        walk.found.extend(own.map(|record| (start.to_owned(), record)));
        let end = Instant::now() + ABOVE_OWN_RECORD;
        let mut name = start;
        while let Some(above) = parent(name).filter(|_| !stop) {
            name = above;
            let asked = self.record_at(name);
            let answer = match has_own {
                true => {
                    timeout_at(end, asked).await.unwrap_or_else(|_| Err(format!("_dmarc.{name}: no answer in time")))
                }
                false => asked.await,
            };
            match answer {
                Ok(Some(record)) => {
                    stop = record.psd != Psd::Unknown;
                    walk.found.push((name.to_owned(), record));
                }
                Ok(None) => {}
                Err(reason) if has_own => walk.gaps.push((name.to_owned(), reason)),
                Err(reason) => return Err(reason),
            }
        }
        Ok(walk)
    }

    /// §4.10: what is no DMARC record is discarded, and so are several.
    pub async fn record_at(&self, name: &str) -> Walked<Option<Record>> {
        let texts = match self.resolver.txt(&format!("_dmarc.{name}")).await {
            Ok(texts) => texts,
            Err(DnsError::NotFound | DnsError::BadName) => return Ok(None),
            Err(error) => return Err(format!("_dmarc.{name}: {error}")),
        };
        let mut records = texts.iter().filter(|text| record::is_dmarc(text));
        Ok(match (records.next(), records.next()) {
            (Some(text), None) => Some(Record::parse(text)),
            _ => None,
        })
    }
}

/// The next name of a walk. `None` at a top level.
fn parent(name: &str) -> Option<&str> {
    let labels = name.split('.').count();
    let (_, mut rest) = name.split_once('.')?;
    for _ in MAX_WALKED_LABELS..labels {
        rest = rest.split_once('.').map_or(rest, |(_, rest)| rest);
    }
    Some(rest)
}

/// §4.10.2, of a walk that started there.
pub(super) fn organizational_domain(found: &[(String, Record)], start: &str) -> String {
    for (name, record) in found {
        match record.psd {
            Psd::No => return name.clone(),
            Psd::Yes if name != start => return one_label_below(name, start).to_owned(),
            _ => {}
        }
    }
    found.last().map_or_else(|| start.to_owned(), |(name, _)| name.clone())
}

/// The name on the way from `start` to `suffix` that has one label more than `suffix`.
fn one_label_below<'a>(suffix: &str, start: &'a str) -> &'a str {
    let above = start.len().saturating_sub(suffix.len() + 1);
    let from = start.get(..above).and_then(|labels| labels.rfind('.')).map_or(0, |dot| dot + 1);
    start.get(from..).unwrap_or(start)
}

pub(super) fn is_within(name: &str, domain: &str) -> bool {
    name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}
