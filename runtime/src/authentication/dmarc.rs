//! DMARC (RFC 9989): does the author's domain stand behind the mail, and what does its owner ask for where it does not?
//!
//! Records of RFC 7489 are read too; `pct` has no meaning any more, and `t=y` lessens the policy by one step (§4.7).

mod record;
mod walk;

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::author;
use super::{Outcome, printable};
use crate::dns::{DnsError, Resolver};
use crate::mail::Header;
use crate::mail::evidence::{Dmarc, DmarcPolicy as Policy, Signature, Spf};
use crate::smtp::Domain;
use record::{Psd, Record};
use walk::{Walked, Walker, is_within, organizational_domain};

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

/// What stands behind a mail by its own words, before anything is verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Of the reverse-path (§4.4.2; of a null one, the HELO name). Empty: there is none.
    pub spf: String,
    /// `d=`, in the order of the signatures.
    pub dkim: Vec<String>,
}

/// What the owners of the authors' domains have published, and so which claims matter. Who can't align need not be verified:
/// else a stranger whose name servers are slow could turn a refusal into a delay.
pub struct Inquiry {
    walker: Walker,
    claims: Claims,
    /// At least one.
    authors: Vec<Inquired>,
    time: Duration,
    /// What asking has taken so far.
    pub(super) spent: Duration,
}

enum Inquired {
    /// Nothing that is verified can change it.
    Concluded(Dmarc),
    Published(Published),
}

struct Published {
    author: String,
    policy_domain: String,
    record: Record,
    /// The error is why nobody can say which of them it is.
    policy: Walked<Policy>,
    organization: Organization,
}

/// The organizational domain of an author (§4.10.2).
enum Organization {
    Known(String),
    /// It is at or below `highest`, and nobody can say where.
    Unknown {
        highest: String,
        reason: String,
    },
    /// No claim could align by it.
    NotNeeded,
}

/// Asks DNS of the authors' domains, within that time.
pub async fn inquire(resolver: &Resolver, header: &Header, claims: Claims, time: Duration) -> Inquiry {
    let start = Instant::now();
    let mut walker = Walker::new(resolver);
    let mut inquired = Vec::new();
    match author::domains(header) {
        Err(fault) => inquired.push(Inquired::Concluded(concluded(Outcome::Permerror, "", &fault))),
        Ok(authors) => {
            let end = start + time;
            for author in &authors {
                let found = timeout_at(end, walker.inquire(author.as_str(), &claims)).await;
                let found = found.unwrap_or_else(|_| Err(format!("DNS has not answered within {} s", time.as_secs())));
                let unknown =
                    |reason: String| Inquired::Concluded(concluded(Outcome::Temperror, author.as_str(), &reason));
                inquired.push(found.unwrap_or_else(unknown));
            }
        }
    }
    Inquiry { walker, claims, authors: inquired, time, spent: start.elapsed() }
}

impl Inquiry {
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The result may depend on what SPF says of this domain.
    pub fn depends_on_spf(&self, domain: &str) -> bool {
        self.published().any(|published| published.may_align(domain, published.record.strict_spf))
    }

    /// The result may depend on this domain's signatures.
    pub fn depends_on_dkim(&self, domain: &str) -> bool {
        self.published().any(|published| published.may_align(domain, published.record.strict_dkim))
    }

    fn published(&self) -> impl Iterator<Item = &Published> {
        self.authors.iter().filter_map(|author| match author {
            Inquired::Published(published) => Some(published),
            Inquired::Concluded(_) => None,
        })
    }

    /// From what was verified; at least what the result depends on. `spf` is the check of the reverse-path.
    pub async fn conclude(self, spf: Option<&Spf>, signatures: &[Signature]) -> Dmarc {
        let Self { mut walker, claims, authors, time, .. } = self;
        let end = Instant::now() + time;
        let verified = Verified { spf, signatures, claims: &claims };
        let mut worst: Option<Dmarc> = None;
        for author in authors {
            let found = match author {
                Inquired::Concluded(dmarc) => dmarc,
                Inquired::Published(published) => {
                    let late = || format!("DNS has not answered within {} s", time.as_secs());
                    let decided = timeout_at(end, walker.evaluate(&published, &verified)).await;
                    decided.unwrap_or_else(|_| concluded(Outcome::Temperror, &published.author, &late()))
                }
            };
            if worst.as_ref().is_none_or(|worst| severity(&found) > severity(worst)) {
                worst = Some(found);
            }
        }
        worst.unwrap_or_else(|| concluded(Outcome::Permerror, "", "the mail has no author"))
    }
}

impl Published {
    /// Whether a claim of that domain could stand behind the author.
    fn may_align(&self, domain: &str, strict: bool) -> bool {
        let Some(domain) = normal(domain) else { return false };
        if domain == self.author || strict {
            return domain == self.author;
        }
        match &self.organization {
            Organization::Known(organization) => is_within(&domain, organization),
            Organization::Unknown { highest, .. } => is_within(&domain, highest),
            Organization::NotNeeded => false,
        }
    }
}

struct Verified<'a> {
    spf: Option<&'a Spf>,
    signatures: &'a [Signature],
    claims: &'a Claims,
}

impl Verified<'_> {
    /// Those that stand behind the mail or may turn out to: by SPF or not, the domain, whether it has passed, why not.
    fn identifiers(&self) -> impl Iterator<Item = (bool, &str, bool, String)> {
        let counts = |outcome| matches!(outcome, Outcome::Pass | Outcome::Temperror);
        let spf = self.spf.filter(|spf| counts(spf.outcome));
        let spf = spf.map(|spf| (true, &*spf.domain, spf.outcome == Outcome::Pass, format!("SPF: {}", spf.reason)));
        let signatures = self.signatures.iter().filter(move |signature| counts(signature.outcome));
        let dkim = signatures.map(|signature| {
            let reason = format!("DKIM: {}", signature.reason);
            (false, &*signature.domain, signature.outcome == Outcome::Pass, reason)
        });
        spf.into_iter().chain(dkim)
    }
}

impl Walker {
    async fn inquire(&mut self, author: &str, claims: &Claims) -> Walked<Inquired> {
        // §4.10.1: the author's own record decides alone what its owner asks for. What is above it is needed only to align
        // what is not the author's domain itself (§4.10.2: no walk where all are the same, or alignment is strict).
        let own = self.record_at(author).await?;
        let psd = own.as_ref().is_some_and(|record| record.psd != Psd::Unknown);
        if let Some(record) = own.clone().filter(|record| psd || !needs_walk(author, claims, record)) {
            // §4.10: `psd` ends the walk; one that starts there has found its organizational domain.
            let organization = if psd { Organization::Known(author.to_owned()) } else { Organization::NotNeeded };
            return Ok(publish(author, author, record.policy.map(Ok), record, organization));
        }
        let has_own = own.is_some();
        let walk = self.walk_up(author, own).await?;
        let organization = organizational_domain(&walk.found, author);
        // §4.10.1: the author's own record, else that of the organization, else that of the public suffix.
        let at = |name: &str| walk.found.iter().find(|(known, _)| *known == name);
        let Some((name, record)) = at(author).or_else(|| at(&organization)).or_else(|| walk.found.last()) else {
            return Ok(Inquired::Concluded(concluded(Outcome::None, author, "the domain publishes no DMARC record")));
        };
        let policy = self.policy(author, has_own, record).await;
        // Somewhere on the way nobody could say. That matters for those names alone that could be of this organization if
        // the record not seen were its own.
        let organization = match walk.gaps.first() {
            None => Organization::Known(organization),
            Some((_, reason)) => {
                let names = walk.gaps.iter().map(|(name, _)| name).chain([&organization]);
                let highest = names.min_by_key(|name| name.split('.').count()).cloned().unwrap_or_default();
                Organization::Unknown { highest, reason: reason.clone() }
            }
        };
        Ok(publish(author, name, policy, record.clone(), organization))
    }

    async fn evaluate(&mut self, published: &Published, verified: &Verified<'_>) -> Dmarc {
        let Published { author, policy_domain, record, policy, .. } = published;
        let mut dmarc = concluded(Outcome::Fail, author, "");
        dmarc.policy_domain.clone_from(policy_domain);
        let mut undecided = None;
        // What is the author's domain itself first: where it decides, nothing is waited for (§4.10.2).
        for itself in [true, false] {
            for (is_spf, domain, passed, reason) in verified.identifiers() {
                let known = if is_spf { &mut dmarc.spf_aligned } else { &mut dmarc.dkim_aligned };
                if *known || (normal(domain).as_deref() == Some(author)) != itself {
                    continue;
                }
                let strict = if is_spf { record.strict_spf } else { record.strict_dkim };
                let aligned = match itself {
                    true => Ok(true),
                    false if strict => Ok(false),
                    false => self.is_aligned(domain, published).await,
                };
                match aligned {
                    Ok(true) if passed => *known = true,
                    // §5.3.6: it might have passed.
                    Ok(true) => undecided = Some(reason),
                    Ok(false) => {}
                    Err(reason) => undecided = Some(reason),
                }
            }
            if dmarc.spf_aligned || dmarc.dkim_aligned {
                break;
            }
        }
        let decided = dmarc.spf_aligned || dmarc.dkim_aligned;
        match policy {
            Ok(policy) => dmarc.policy = if record.testing { lessened(*policy) } else { *policy },
            Err(reason) if !decided => return concluded(Outcome::Temperror, author, reason),
            Err(_) => {}
        }
        (dmarc.outcome, dmarc.reason) = match undecided {
            _ if decided => (Outcome::Pass, by_which(&dmarc).to_owned()),
            Some(reason) => (Outcome::Temperror, printable(&reason, 300)),
            None => (Outcome::Fail, why_not(author, verified)),
        };
        dmarc
    }

    /// §4.7: `p`, or below the record's name `np` or `sp`. `None`: the record asks for nothing.
    async fn policy(&self, author: &str, own: bool, record: &Record) -> Option<Walked<Policy>> {
        let policy = record.policy?;
        if own {
            return Some(Ok(policy));
        }
        let below = record.subdomain_policy.unwrap_or(policy);
        let absent = record.absent_policy.unwrap_or(below);
        if below == absent {
            return Some(Ok(below));
        }
        Some(match self.resolver.exists(author).await {
            Ok(true) => Ok(below),
            Ok(false) | Err(DnsError::NotFound | DnsError::BadName) => Ok(absent),
            Err(error) => Err(format!("{author}: {error}")),
        })
    }

    /// §4.10.2, of a domain that is not the author's own.
    async fn is_aligned(&mut self, identifier: &str, published: &Published) -> Walked<bool> {
        let Some(identifier) = normal(identifier) else { return Ok(false) };
        // Only names at or below it can have that organizational domain.
        let organization = match &published.organization {
            Organization::Known(organization) if is_within(&identifier, organization) => organization,
            Organization::Unknown { highest, reason } if is_within(&identifier, highest) => return Err(reason.clone()),
            _ => return Ok(false),
        };
        let walk = self.walk(&identifier).await?;
        match walk.gaps.first() {
            Some((_, reason)) => Err(reason.clone()),
            None => Ok(organizational_domain(&walk.found, &identifier) == *organization),
        }
    }
}

fn by_which(dmarc: &Dmarc) -> &'static str {
    match (dmarc.spf_aligned, dmarc.dkim_aligned) {
        (true, true) => "SPF and DKIM stand behind it",
        (true, false) => "SPF stands behind it",
        _ => "DKIM stands behind it",
    }
}

fn why_not(author: &str, verified: &Verified<'_>) -> String {
    let Verified { spf, signatures, claims } = verified;
    let spf = match spf {
        Some(Spf { outcome: Outcome::Pass, domain, .. }) => format!("SPF passed for {domain}"),
        Some(Spf { outcome, .. }) => format!("SPF gave {}", outcome.name()),
        None if claims.spf.is_empty() => "there is no domain for SPF".to_owned(),
        None => format!("SPF is that of {}", claims.spf),
    };
    let passed = signatures.iter().find(|signature| signature.outcome == Outcome::Pass);
    let dkim = match (passed, signatures.first(), claims.dkim.first()) {
        (Some(signature), ..) => format!("it is signed by {}", signature.domain),
        (None, Some(signature), _) => format!("its signature gave {}", signature.outcome.name()),
        (None, None, Some(domain)) => format!("its signature is that of {domain}"),
        (None, None, None) => "it is not signed".to_owned(),
    };
    printable(&format!("not by {author}: {spf}, {dkim}"), 300)
}

/// Without a policy the record asks for nothing.
fn publish(
    author: &str,
    name: &str,
    policy: Option<Walked<Policy>>,
    record: Record,
    organization: Organization,
) -> Inquired {
    let Some(policy) = policy else {
        return Inquired::Concluded(concluded(Outcome::None, author, "the DMARC record has no policy"));
    };
    let (author, policy_domain) = (author.to_owned(), name.to_owned());
    Inquired::Published(Published { author, policy_domain, record, policy, organization })
}

/// Some claim could align in the relaxed way, if the organization is as high as it can be.
fn needs_walk(author: &str, claims: &Claims, record: &Record) -> bool {
    let top = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let related = |domain: &str| normal(domain).is_some_and(|domain| domain != author && top(&domain) == top(author));
    !record.strict_spf && related(&claims.spf)
        || !record.strict_dkim && claims.dkim.iter().any(|domain| related(domain))
}

/// As names are compared. `None`: no domain has this name.
fn normal(domain: &str) -> Option<String> {
    Domain::parse(domain).ok().map(|domain| domain.as_str().to_owned())
}

#[cfg(any(test, fuzzing))]
pub(super) fn read_anything(octets: &[u8]) {
    // No tag, no wish.
    let record = Record::parse(octets);
    assert!(octets.contains(&b'=') || record.policy.is_none() && !record.testing);
}

#[cfg(test)]
mod tests;
