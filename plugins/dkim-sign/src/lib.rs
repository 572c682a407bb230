//! Asks for DKIM signatures (RFC 6376) in the name of the domain that the mail is from, so that they align for DMARC.
//!
//! Only for mail of clients that have logged in or are trusted. What comes in from strangers is never signed: anybody can
//! write the recipient's own domain into From, and would leave with its signature.

mod author;
mod config;
#[cfg(test)]
mod tests;

use postern_sdk::prelude::*;
use postern_sdk::signing::{self, SigningError};
use postern_sdk::{Direction, metrics};

use config::{Config, Missing};

/// What the gateway makes for one mail.
const MAX_SIGNATURES: usize = 8;

struct DkimSign {
    config: Config,
}

#[plugin]
impl Plugin for DkimSign {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config: config.check()? })
    }

    /// Where a domain has no key at all nothing is said: it may be that this is not where the keys are (`postern plugin test`).
    fn load(&self) -> Result<(), String> {
        for (domain, named) in &self.config.selectors {
            let there = signing::selectors(domain);
            if let Some(gone) = named.iter().find(|name| !there.is_empty() && !there.contains(name)) {
                let there = there.join(", ");
                return Err(format!("selectors.{domain:?}: there is no key {gone:?}; there are: {there}"));
            }
        }
        Ok(())
    }

    /// What comes in claims to be from anybody.
    fn wants(&self, _: Stage, direction: Direction) -> bool {
        direction == Direction::Outbound
    }

    fn deliver(&self, _: &Session, message: &Message) -> Verdict {
        let authors = match author::domains(message) {
            Ok(authors) => authors,
            Err(error) => {
                error!("can't read From: {error}");
                return defer!("4.3.0", "Local error in processing");
            }
        };
        match self.sign(message, &authors) {
            Signed::Yes => Verdict::Next,
            Signed::NoKey => self.missing(&authors),
            Signed::Failed => {
                metrics::add("failed", 1);
                defer!("4.3.5", "Local error in configuration")
            }
        }
    }
}

enum Signed {
    Yes,
    NoKey,
    /// Said in the log.
    Failed,
}

impl DkimSign {
    /// By the keys of the first domain that has some: the author's, one above it, then the fallback.
    fn sign(&self, message: &Message, authors: &[String]) -> Signed {
        let aligned = authors.iter().flat_map(|author| with_parents(author));
        let mut domains = aligned.chain(self.config.fallback.as_deref());
        domains.find_map(|domain| self.sign_for(message, domain)).unwrap_or(Signed::NoKey)
    }

    /// By the keys that config names, else all. `None`: the domain has none for this mail.
    fn sign_for(&self, message: &Message, domain: &str) -> Option<Signed> {
        let selectors = self.config.selectors.get(domain).cloned().unwrap_or_else(|| all_keys(domain));
        for selector in &selectors {
            match signing::sign(message, domain, selector) {
                Ok(()) => {}
                // Another tenant's, whatever config names.
                Err(SigningError::Denied) => return None,
                // A key that is named and gone is no reason to sign with the others alone, nor to let the mail out without.
                Err(error) => {
                    error!("{selector} of {domain}: {error}");
                    return Some(Signed::Failed);
                }
            }
        }
        if selectors.is_empty() {
            return None;
        }
        metrics::add("signed", 1);
        Some(Signed::Yes)
    }

    fn missing(&self, authors: &[String]) -> Verdict {
        metrics::add("missing", 1);
        let names = authors.join(", ");
        match self.config.missing {
            Missing::Pass => {
                debug!("no key for {names:?}: not signed");
                Verdict::Next
            }
            Missing::Defer => {
                warn!("no key for {names:?}: the mail waits");
                defer!("4.7.5", "No key to sign this mail with")
            }
        }
    }
}

fn all_keys(domain: &str) -> Vec<String> {
    let mut there = signing::selectors(domain);
    if there.len() > MAX_SIGNATURES {
        warn!("{domain} has {} keys, the first {MAX_SIGNATURES} sign", there.len());
        there.truncate(MAX_SIGNATURES);
    }
    there
}

/// The domain, and those above it down to two labels: relaxed alignment (RFC 7489 §3.1.1) is satisfied by any of one
/// organisation, and nobody has keys for what lies above one.
fn with_parents(domain: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(domain), |domain| {
        let (_, above) = domain.split_once('.')?;
        above.contains('.').then_some(above)
    })
}
