//! Asks for DKIM signatures (RFC 6376) in the name of the domain that the mail is from, so that they align for DMARC.

mod author;
mod config;
#[cfg(test)]
mod tests;

use postern_sdk::prelude::*;
use postern_sdk::{Direction, metrics, signing};

use config::{Config, Missing, Mode};

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

    fn deliver(&self, session: &Session, message: &Message) -> Verdict {
        if self.config.direction == Mode::Outbound && session.direction() != Direction::Outbound {
            return Verdict::Next;
        }
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
            Signed::Failed => defer!("4.3.5", "Local error in configuration"),
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
        for domain in aligned.chain(self.config.fallback.as_deref()) {
            let selectors = self.selectors(domain);
            if selectors.is_empty() {
                continue;
            }
            for selector in &selectors {
                if let Err(error) = signing::sign(message, domain, selector) {
                    error!("{selector} of {domain}: {error}");
                    return Signed::Failed;
                }
            }
            metrics::add("signed", 1);
            return Signed::Yes;
        }
        Signed::NoKey
    }

    /// Those that config names, else all. One that is named and not there is no reason to sign with the others alone.
    fn selectors(&self, domain: &str) -> Vec<String> {
        let mut there = signing::selectors(domain);
        if there.len() > MAX_SIGNATURES {
            warn!("{domain} has {} keys, the first {MAX_SIGNATURES} sign", there.len());
            there.truncate(MAX_SIGNATURES);
        }
        let Some(named) = self.config.selectors.get(domain).filter(|_| !there.is_empty()) else { return there };
        if let Some(gone) = named.iter().find(|name| !there.contains(name)) {
            warn!("{domain} has no key {gone}, which config names");
            return Vec::new();
        }
        named.clone()
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

/// The domain, and those above it down to two labels: relaxed alignment (RFC 7489 §3.1.1) is satisfied by any of one
/// organisation, and nobody has keys for what lies above one.
fn with_parents(domain: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(domain), |domain| {
        let (_, above) = domain.split_once('.')?;
        above.contains('.').then_some(above)
    })
}
