//! DMARC (RFC 9989): does the author's domain stand behind the mail, and what does its owner ask for where it does not?
//!
//! Records of RFC 7489 are read too; `pct` has no meaning any more, and `t=y` lessens the policy by one step (§4.7).

mod record;

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::timeout;

use super::author;
use super::{Outcome, printable};
use crate::dns::{DnsError, Resolver};
use crate::mail::Header;
use crate::mail::evidence::{Dmarc, DmarcPolicy as Policy, Signature, Spf};
use crate::smtp::Domain;
use record::{Psd, Record};

/// §4.10: names with more labels are cut down to seven after the first query, so that there are never more than eight.
const MAX_WALKED_LABELS: usize = 8;

/// Without a policy, and with nobody who stands behind it.
fn concluded(outcome: Outcome, domain: &str, reason: &str) -> Dmarc {
    Dmarc {
        outcome,
        domain: domain.to_owned(),
        policy_domain: String::new(),
        policy: Policy::None,
        spf_aligned: false,
        dkim_aligned: false,
        reason: printable(reason, 300),
    }
}

/// Which of several authors' results speaks for the mail: a failure with the strictest policy, then what nobody could
/// say, then no policy at all; a pass only where all pass.
fn severity(dmarc: &Dmarc) -> (u8, u8) {
    let rank = match dmarc.outcome {
        Outcome::Fail => 4,
        Outcome::Temperror => 3,
        Outcome::Permerror => 2,
        Outcome::Pass => 0,
        _ => 1,
    };
    let policy = match dmarc.policy {
        Policy::None => 0,
        Policy::Quarantine => 1,
        Policy::Reject => 2,
    };
    (rank, policy)
}

/// `t=y`.
const fn lessened(policy: Policy) -> Policy {
    match policy {
        Policy::Reject => Policy::Quarantine,
        Policy::Quarantine | Policy::None => Policy::None,
    }
}

/// Within that time. `spf` is the check of the reverse-path (§4.4.2; with a null one, of the HELO name).
pub async fn check(resolver: &Resolver, header: &Header, spf: &Spf, signatures: &[Signature], time: Duration) -> Dmarc {
    let authors = match author::domains(header) {
        Ok(authors) => authors,
        Err(fault) => return concluded(Outcome::Permerror, "", &fault),
    };
    let evaluate = async {
        let mut walker = Walker { resolver, walks: HashMap::new() };
        let mut worst: Option<Dmarc> = None;
        for author in &authors {
            let found = walker.evaluate(author, spf, signatures).await;
            let found = found.unwrap_or_else(|reason| concluded(Outcome::Temperror, author.as_str(), &reason));
            if worst.as_ref().is_none_or(|worst| severity(&found) > severity(worst)) {
                worst = Some(found);
            }
        }
        worst
    };
    let first = authors.first().map_or("", Domain::as_str);
    let late = || concluded(Outcome::Temperror, first, &format!("DNS has not answered within {} s", time.as_secs()));
    timeout(time, evaluate).await.ok().flatten().unwrap_or_else(late)
}

/// Records found on the way from a name to the root, the longest name first.
type Walk = Vec<(String, Record)>;

struct Walker<'a> {
    resolver: &'a Resolver,
    /// By the name where they started.
    walks: HashMap<String, Walk>,
}

/// The error is why nobody can say.
type Walked<T> = Result<T, String>;

impl Walker<'_> {
    async fn evaluate(&mut self, author: &Domain, spf: &Spf, signatures: &[Signature]) -> Walked<Dmarc> {
        let author = author.as_str();
        let walk = self.walk(author).await?;
        let organization = organizational_domain(&walk, author);
        // §4.10.1: the author's own record, else that of the organization, else that of the public suffix.
        let own = walk.iter().find(|(name, _)| name == author);
        let found = own.or_else(|| walk.iter().find(|(name, _)| *name == organization)).or_else(|| walk.last());
        let Some((name, record)) = found else {
            return Ok(concluded(Outcome::None, author, "the domain publishes no DMARC record"));
        };
        let Some(policy) = self.policy(author, own.is_some(), record).await? else {
            return Ok(concluded(Outcome::None, author, "the DMARC record has no policy"));
        };
        let mut dmarc = concluded(Outcome::Fail, author, "");
        (dmarc.policy_domain, dmarc.policy) = (name.clone(), if record.testing { lessened(policy) } else { policy });

        let mut undecided = None;
        if matches!(spf.outcome, Outcome::Pass | Outcome::Temperror) {
            match self.is_aligned(&spf.domain, author, &organization, record.strict_spf).await {
                Ok(true) if spf.outcome == Outcome::Pass => dmarc.spf_aligned = true,
                Ok(true) => undecided = Some(format!("SPF: {}", spf.reason)),
                Ok(false) => {}
                Err(reason) => undecided = Some(reason),
            }
        }
        for signature in signatures {
            if dmarc.dkim_aligned || !matches!(signature.outcome, Outcome::Pass | Outcome::Temperror) {
                continue;
            }
            match self.is_aligned(&signature.domain, author, &organization, record.strict_dkim).await {
                Ok(true) if signature.outcome == Outcome::Pass => dmarc.dkim_aligned = true,
                Ok(true) => undecided = Some(format!("DKIM: {}", signature.reason)),
                Ok(false) => {}
                Err(reason) => undecided = Some(reason),
            }
        }
        (dmarc.outcome, dmarc.reason) = match undecided {
            _ if dmarc.spf_aligned || dmarc.dkim_aligned => (Outcome::Pass, by_which(&dmarc).to_owned()),
            // §5.3.6: it might have passed.
            Some(reason) => (Outcome::Temperror, printable(&reason, 300)),
            None => (Outcome::Fail, why_not(author, spf, signatures)),
        };
        Ok(dmarc)
    }

    /// §4.7: `p`, or below the record's name `np` or `sp`. `None`: the record asks for nothing.
    async fn policy(&self, author: &str, own: bool, record: &Record) -> Walked<Option<Policy>> {
        let Some(policy) = record.policy else { return Ok(None) };
        if own {
            return Ok(Some(policy));
        }
        let below = record.subdomain_policy.unwrap_or(policy);
        let absent = record.absent_policy.unwrap_or(below);
        if below == absent {
            return Ok(Some(below));
        }
        match self.resolver.exists(author).await {
            Ok(true) => Ok(Some(below)),
            Ok(false) | Err(DnsError::NotFound | DnsError::BadName) => Ok(Some(absent)),
            Err(error) => Err(format!("{author}: {error}")),
        }
    }

    /// §4.10.2.
    async fn is_aligned(&mut self, identifier: &str, author: &str, organization: &str, strict: bool) -> Walked<bool> {
        let identifier = match Domain::parse(identifier) {
            Ok(identifier) => identifier.as_str().to_owned(),
            Err(_) => return Ok(false),
        };
        if identifier == author {
            return Ok(true);
        }
        // Only names at or below it can have that organizational domain.
        if strict || !is_within(&identifier, organization) {
            return Ok(false);
        }
        let walk = self.walk(&identifier).await?;
        Ok(organizational_domain(&walk, &identifier) == organization)
    }

    /// §4.10, the tree walk.
    async fn walk(&mut self, start: &str) -> Walked<Walk> {
        if let Some(walk) = self.walks.get(start) {
            return Ok(walk.clone());
        }
        let mut walk = Walk::new();
        let mut name = start;
        loop {
            if let Some(record) = self.record_at(name).await? {
                let stop = record.psd != Psd::Unknown;
                walk.push((name.to_owned(), record));
                if stop {
                    break;
                }
            }
            match parent(name) {
                Some(parent) => name = parent,
                None => break,
            }
        }
        self.walks.insert(start.to_owned(), walk.clone());
        Ok(walk)
    }

    /// §4.10: what is no DMARC record is discarded, and so are several.
    async fn record_at(&self, name: &str) -> Walked<Option<Record>> {
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

fn by_which(dmarc: &Dmarc) -> &'static str {
    match (dmarc.spf_aligned, dmarc.dkim_aligned) {
        (true, true) => "SPF and DKIM stand behind it",
        (true, false) => "SPF stands behind it",
        _ => "DKIM stands behind it",
    }
}

fn why_not(author: &str, spf: &Spf, signatures: &[Signature]) -> String {
    let spf = match spf.outcome {
        Outcome::Pass => format!("SPF passed for {}", spf.domain),
        other => format!("SPF gave {}", other.name()),
    };
    let passed = signatures.iter().find(|signature| signature.outcome == Outcome::Pass);
    let dkim = match (passed, signatures.first()) {
        (Some(signature), _) => format!("it is signed by {}", signature.domain),
        (None, Some(signature)) => format!("its signature gave {}", signature.outcome.name()),
        (None, None) => "it is not signed".to_owned(),
    };
    printable(&format!("not by {author}: {spf}, {dkim}"), 300)
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
fn organizational_domain(walk: &Walk, start: &str) -> String {
    for (name, record) in walk {
        match record.psd {
            Psd::No => return name.clone(),
            Psd::Yes if name != start => return one_label_below(name, start).to_owned(),
            _ => {}
        }
    }
    walk.last().map_or_else(|| start.to_owned(), |(name, _)| name.clone())
}

/// The name on the way from `start` to `suffix` that has one label more than `suffix`.
fn one_label_below<'a>(suffix: &str, start: &'a str) -> &'a str {
    let above = start.len().saturating_sub(suffix.len() + 1);
    let from = start.get(..above).and_then(|labels| labels.rfind('.')).map_or(0, |dot| dot + 1);
    start.get(from..).unwrap_or(start)
}

fn is_within(name: &str, domain: &str) -> bool {
    name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests;
