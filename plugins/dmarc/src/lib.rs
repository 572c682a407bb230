//! What the owner of the author's domain wants (RFC 9989), judged at `data`. What was found is written into the header.

mod sealed;
#[cfg(test)]
mod tests;

use postern_sdk::authentication::{self, Action, Arc, Dmarc, DmarcPolicy as Published, Outcome, ResultInfo};
use postern_sdk::metrics;
use postern_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Of mail that fails, where its owner asks to reject it.
    reject: Action,
    /// … to quarantine it.
    quarantine: Action,
    /// … to do nothing.
    none: Action,
    /// The domain has no DMARC record.
    unpublished: Action,
    /// Nobody can say who the author is: no From, two of them, none with a domain.
    permerror: Action,
    /// DNS could not say: `none`, `tag` or `defer`.
    temperror: Action,
    /// Who seals by ARC with one of these domains, and a whole chain, is believed to have found that the author stood behind the
    /// mail when it came: such mail is only tagged where it fails.
    trusted_sealers: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reject: Action::Reject,
            quarantine: Action::Quarantine,
            none: Action::None,
            unpublished: Action::None,
            permerror: Action::Reject,
            temperror: Action::Defer,
            trusted_sealers: Vec::new(),
        }
    }
}

struct DmarcPolicy {
    config: Config,
}

#[plugin]
impl Plugin for DmarcPolicy {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        match config.temperror {
            Action::None | Action::Tag | Action::Defer => Ok(Self { config }),
            other => Err(format!("temperror can't be {}: what nobody can say refuses no mail", other.name())),
        }
    }

    fn wants(&self, _: Stage, direction: Direction) -> bool {
        direction == Direction::Inbound
    }

    fn data(&self, session: &Session, message: &Message) -> Verdict {
        let dmarc = match authentication::dmarc(session, message) {
            Ok(dmarc) => dmarc,
            Err(error) => {
                error!("DMARC is not known: {error}");
                return defer!("4.3.0", "Local error in processing, try again later");
            }
        };
        // Only where it may change something: up to fifty seals are verified for it.
        let wanted = dmarc.outcome == Outcome::Fail && !self.config.trusted_sealers.is_empty();
        let sealed = wanted && message.header("ARC-Seal").is_ok_and(|seals| !seals.is_empty());
        let arc = sealed.then(|| authentication::arc(message).ok()).flatten();
        let forwarded = arc.as_ref().is_some_and(|arc| self.trusts(arc) && is_vouched_for(message, arc, &dmarc));
        if let Err(error) = authentication::add_results(message, &results(&dmarc, arc.as_ref(), forwarded)) {
            warn!("the results are not written: {error}");
        }
        // A trusted relay that does not say who stood before it: nobody will know it later either.
        let untold = dmarc.outcome == Outcome::Temperror && authentication::origin(session, message).is_err();
        let action = if forwarded || untold { Action::Tag } else { self.action(&dmarc) };
        act(message, &dmarc, action)
    }
}

impl DmarcPolicy {
    fn action(&self, dmarc: &Dmarc) -> Action {
        match (dmarc.outcome, dmarc.policy) {
            (Outcome::Fail, Published::Reject) => self.config.reject,
            (Outcome::Fail, Published::Quarantine) => self.config.quarantine,
            (Outcome::Fail, Published::None) => self.config.none,
            (Outcome::None, _) => self.config.unpublished,
            (Outcome::Permerror, _) => self.config.permerror,
            (Outcome::Temperror, _) => self.config.temperror,
            // DMARC gives no others.
            (Outcome::Pass | Outcome::Softfail | Outcome::Neutral | Outcome::Policy, _) => Action::None,
        }
    }

    fn trusts(&self, arc: &Arc) -> bool {
        let sealer = arc.sealer.as_deref().unwrap_or_default();
        arc.outcome == Outcome::Pass
            && self.config.trusted_sealers.iter().any(|trusted| trusted.eq_ignore_ascii_case(sealer))
    }
}

/// RFC 8617 §7.2.1: what the newest sealer has found is in its own set. That it has handled the mail says nothing of the author.
fn is_vouched_for(message: &Message, arc: &Arc, dmarc: &Dmarc) -> bool {
    let Ok(fields) = message.header("ARC-Authentication-Results") else { return false };
    let of = |value: &Vec<u8>| sealed::vouches(value, arc.sets, &dmarc.domain, &dmarc.policy_domain);
    let said: Vec<bool> = fields.iter().filter_map(of).collect();
    // A whole chain has one of each number.
    said == [true]
}

fn act(message: &Message, dmarc: &Dmarc, action: Action) -> Verdict {
    let Dmarc { outcome, domain, reason, policy_domain, .. } = dmarc;
    match action {
        Action::None => Verdict::Next,
        Action::Tag => {
            metrics::add("tagged", 1);
            if let Err(error) = message.add_tag(&format!("dmarc:{outcome}")) {
                warn!("no tag: {error}");
            }
            Verdict::Next
        }
        Action::Quarantine => {
            metrics::add("quarantined", 1);
            Verdict::quarantine(format!("DMARC: {outcome} ({reason})"))
        }
        Action::Defer => {
            metrics::add("deferred", 1);
            defer!("451 4.7.1", "The author's domain can't be checked now ({reason})")
        }
        Action::Reject => {
            metrics::add("rejected", 1);
            match outcome {
                Outcome::Permerror => reject!("550 5.7.1", "Nobody can say who wrote this mail: {reason}"),
                Outcome::None => reject!("550 5.7.1", "{domain} has no DMARC record, which is needed here"),
                _ => reject!("550 5.7.1", "Refused as {policy_domain} wants it (DMARC): {reason}"),
            }
        }
    }
}

fn results(dmarc: &Dmarc, arc: Option<&Arc>, forwarded: bool) -> Vec<ResultInfo> {
    let policy = if dmarc.policy_domain.is_empty() { "" } else { dmarc.policy.name() };
    let said = match dmarc.outcome {
        _ if forwarded => format!("{}; believed for its ARC seal", dmarc.reason),
        Outcome::Pass => String::new(),
        _ => dmarc.reason.clone(),
    };
    let of_dmarc = ResultInfo::new("dmarc", dmarc.outcome)
        .reason(&said)
        .property("header.from", &dmarc.domain)
        .property("policy.published", policy);
    let of_arc = arc.map(|arc| {
        let reason = if arc.outcome == Outcome::Pass { "" } else { &arc.reason };
        ResultInfo::new("arc", arc.outcome)
            .reason(reason)
            .property("header.d", arc.sealer.as_deref().unwrap_or_default())
    });
    std::iter::once(of_dmarc).chain(of_arc).collect()
}
