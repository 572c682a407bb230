//! What the signatures of a mail are worth (RFC 6376), judged at `data`. What was found is written into the header.
//!
//! A broken signature is, by RFC 6376 §6.1, no worse than none: by default nothing is refused here. DMARC asks who stands
//! behind the author.

#[cfg(test)]
mod tests;

use postern_sdk::authentication::{self, Action, Outcome, ResultInfo, Signature};
use postern_sdk::metrics;
use postern_sdk::prelude::*;

/// Results that are written down.
const MAX_RESULTS: usize = 10;

/// What is done where no signature passes, by what the best of them is worth.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Not signed.
    none: Action,
    fail: Action,
    /// Good, but not acceptable: it does not cover the whole body.
    policy: Action,
    /// Malformed.
    neutral: Action,
    /// Not to be verified at all: no key, From not signed.
    permerror: Action,
    /// DNS could not say: `none`, `tag` or `defer`.
    temperror: Action,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            none: Action::None,
            fail: Action::Tag,
            policy: Action::Tag,
            neutral: Action::None,
            permerror: Action::None,
            temperror: Action::None,
        }
    }
}

struct DkimPolicy {
    config: Config,
}

#[plugin]
impl Plugin for DkimPolicy {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        match config.temperror {
            Action::None | Action::Tag | Action::Defer => Ok(Self { config }),
            other => Err(format!("temperror can't be {}: what nobody can say refuses no mail", other.name())),
        }
    }

    // What leaves a tenant is signed later.
    fn wants(&self, _: Stage, direction: Direction) -> bool {
        direction == Direction::Inbound
    }

    fn data(&self, _: &Session, message: &Message) -> Verdict {
        let signatures = match authentication::dkim(message) {
            Ok(signatures) => signatures,
            // Not in time, or our own trouble: as if the keys could not be had.
            Err(error) => {
                warn!("signatures are not known: {error}");
                return self.obey(message, Outcome::Temperror, &error.to_string());
            }
        };
        if let Err(error) = authentication::add_results(message, &results(&signatures)) {
            warn!("the results are not written: {error}");
        }
        self.judge(message, &signatures)
    }
}

impl DkimPolicy {
    fn judge(&self, message: &Message, signatures: &[Signature]) -> Verdict {
        let best = best(signatures);
        let outcome = best.map_or(Outcome::None, |best| best.outcome);
        let why = best.map_or("the mail is not signed".to_owned(), |best| format!("{}: {}", best.domain, best.reason));
        self.obey(message, outcome, &why)
    }

    fn obey(&self, message: &Message, outcome: Outcome, why: &str) -> Verdict {
        let action = match outcome {
            Outcome::Fail => self.config.fail,
            Outcome::Policy => self.config.policy,
            Outcome::Neutral => self.config.neutral,
            Outcome::Permerror => self.config.permerror,
            Outcome::Temperror => self.config.temperror,
            Outcome::None => self.config.none,
            // DKIM gives no `softfail`.
            Outcome::Pass | Outcome::Softfail => Action::None,
        };
        match action {
            Action::None => Verdict::Next,
            Action::Tag => {
                metrics::add("tagged", 1);
                if let Err(error) = message.add_tag(&format!("dkim:{outcome}")) {
                    warn!("no tag: {error}");
                }
                Verdict::Next
            }
            Action::Quarantine => {
                metrics::add("quarantined", 1);
                Verdict::quarantine(format!("DKIM: {outcome} ({why})"))
            }
            Action::Defer => {
                metrics::add("deferred", 1);
                defer!("451 4.7.20", "The signature can't be verified now ({why})")
            }
            Action::Reject => {
                metrics::add("rejected", 1);
                // RFC 7372 §3.1.
                match outcome {
                    Outcome::Policy => reject!("550 5.7.21", "No acceptable DKIM signature ({why})"),
                    _ => reject!("550 5.7.20", "No passing DKIM signature ({why})"),
                }
            }
        }
    }
}

/// The one that is worth most. What a domain says that only tests (`t=y`) counts where it passes, else as if there were none.
fn best(signatures: &[Signature]) -> Option<&Signature> {
    let counts = |signature: &&Signature| signature.outcome == Outcome::Pass || !signature.testing;
    let worth = |signature: &&Signature| match signature.outcome {
        Outcome::Pass => 6,
        // It may yet pass.
        Outcome::Temperror => 5,
        Outcome::Policy => 4,
        Outcome::Fail => 3,
        Outcome::Permerror => 2,
        Outcome::Neutral => 1,
        Outcome::None | Outcome::Softfail => 0,
    };
    // Of those worth the same the topmost.
    signatures.iter().filter(counts).rev().max_by_key(worth)
}

fn results(signatures: &[Signature]) -> Vec<ResultInfo> {
    if signatures.is_empty() {
        return vec![ResultInfo::new("dkim", Outcome::None)];
    }
    let result = |signature: &Signature| {
        let reason = match (signature.testing, signature.outcome) {
            (true, _) => format!("{}; the domain tests", signature.reason),
            (false, Outcome::Pass) => String::new(),
            (false, _) => signature.reason.clone(),
        };
        ResultInfo::new("dkim", signature.outcome)
            .reason(&reason)
            .property("header.d", &signature.domain)
            .property("header.i", &signature.identity)
            .property("header.s", &signature.selector)
            .property("header.a", &signature.algorithm)
            .property("header.b", &signature.value)
    };
    signatures.iter().take(MAX_RESULTS).map(result).collect()
}
