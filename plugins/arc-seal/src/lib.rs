//! Asks for an ARC set (RFC 8617) on mail that is passed on, so that the next server can see what was found here before
//! anything was changed.

#[cfg(test)]
mod tests;

use postern_sdk::address::domain_name;
use postern_sdk::authentication::{self, Arc, Outcome, ResultInfo};
use postern_sdk::prelude::*;
use postern_sdk::signing::{self, SigningError};
use postern_sdk::{Direction, metrics};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    domain: String,
    selector: String,
    #[serde(default)]
    direction: Mode,
    #[serde(default)]
    missing: Policy,
    #[serde(default)]
    temperror: Policy,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// What comes in and goes on to a tenant's server.
    #[default]
    Inbound,
    Both,
}

/// What becomes of a mail that can't be sealed.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Policy {
    #[default]
    Pass,
    Defer,
}

struct ArcSeal {
    config: Config,
}

#[plugin]
impl Plugin for ArcSeal {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let domain = domain_name(&config.domain).map_err(|error| format!("domain: {:?}: {error}", config.domain))?;
        if config.selector.is_empty() {
            return Err("selector: must not be empty".to_owned());
        }
        Ok(Self { config: Config { domain, ..config } })
    }

    fn wants(&self, _: Stage, direction: Direction) -> bool {
        self.config.direction == Mode::Both || direction == Direction::Inbound
    }

    /// What the chain was worth when it came: the seal vouches for it (RFC 8617 §5.1, step 3).
    fn data(&self, _: &Session, message: &Message) -> Verdict {
        let arc = match authentication::arc(message) {
            Ok(arc) => arc,
            Err(error) => {
                error!("can't look at the ARC chain: {error}");
                return defer!("4.3.0", "Local error in processing");
            }
        };
        if arc.outcome == Outcome::Temperror && self.config.temperror == Policy::Defer {
            metrics::add("temperror", 1);
            return defer!("4.4.3", "Keys of the ARC chain can't be had now");
        }
        if let Err(error) = authentication::add_results(message, &[result(&arc)]) {
            error!("can't add the result: {error}");
            return defer!("4.3.0", "Local error in processing");
        }
        Verdict::Next
    }

    fn deliver(&self, _: &Session, message: &Message) -> Verdict {
        let Config { domain, selector, .. } = &self.config;
        match signing::seal(message, domain, selector) {
            Ok(()) => {
                metrics::add("asked", 1);
                Verdict::Next
            }
            Err(error @ (SigningError::NoKey | SigningError::Denied)) if self.config.missing == Policy::Pass => {
                metrics::add("missing", 1);
                warn!("{selector} of {domain}: {error}; not sealed");
                Verdict::Next
            }
            Err(error) => {
                metrics::add("missing", 1);
                error!("{selector} of {domain}: {error}; the mail waits");
                defer!("4.3.5", "Local error in configuration")
            }
        }
    }
}

/// The method `arc` (RFC 8617 §4.1.1), in the words that `dmarc` has for it: what is there already is not said again.
fn result(arc: &Arc) -> ResultInfo {
    let reason = if matches!(arc.outcome, Outcome::Pass | Outcome::None) { "" } else { &arc.reason };
    ResultInfo::new("arc", arc.outcome).reason(reason).property("header.d", arc.sealer.as_deref().unwrap_or_default())
}
