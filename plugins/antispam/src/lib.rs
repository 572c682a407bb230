//! Asks rspamd whether a mail is spam (R35, X8), inbound and outbound (R22, R23), and does with it what the config says, by
//! what rspamd proposes and by its score.

mod config;
mod mark;
#[cfg(test)]
mod tests;

use postern_sdk::metrics;
use postern_sdk::prelude::*;
use postern_sdk::scan::{self, Assessment, ScanError};

use config::{Config, Fate, Policy, Unchecked};
use mark::Status;

struct Antispam {
    config: Config,
}

#[plugin]
impl Plugin for Antispam {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config.check()?;
        Ok(Self { config })
    }

    fn data(&self, session: &Session, message: &Message) -> Verdict {
        let policy = self.config.policy(session.direction());
        match scan::assess(session, message, &self.config.scanner) {
            Ok(said) => self.judge(message, &policy, &said),
            Err(ScanError::TooBig(most)) => {
                info!("the mail is larger than the {most} octets that {} is given", self.config.scanner);
                metrics::add("too_big", 1);
                unchecked(message, &policy, policy.too_big, "too big")
            }
            Err(ScanError::Unavailable(why)) => {
                warn!("{} is not available: {why}", self.config.scanner);
                metrics::add("unavailable", 1);
                unchecked(message, &policy, policy.unavailable, "scanner not available")
            }
            Err(error @ (ScanError::NoScanner | ScanError::Stage)) => {
                error!("{}: {error}", self.config.scanner);
                metrics::add("no_scanner", 1);
                defer!("451 4.3.5", "Mail can't be scanned for spam now, try again later")
            }
        }
    }
}

impl Antispam {
    fn judge(&self, message: &Message, policy: &Policy, said: &Assessment) -> Verdict {
        let Assessment { score, required, action, .. } = said;
        let fate = policy.fate(action, *score, *required);
        info!("{score:.2} of {required:.2}, {action}: {}", counted(fate));
        metrics::add(counted(fate), 1);
        match fate {
            Fate::Reject => reject!("550 5.7.1", "{}", text(said, "This mail looks like spam")),
            Fate::Defer => defer!("451 4.7.1", "{}", text(said, "Try again later")),
            Fate::Quarantine => Verdict::quarantine(format!("spam, {score:.2} of {required:.2}")),
            Fate::Discard => Verdict::Discard,
            Fate::Continue | Fate::Tag => {
                let spam = fate == Fate::Tag;
                let marked = mark::status(message, policy.headers, &Status::Scanned { said, spam })
                    .and_then(|()| if spam { self.mark_spam(message, said) } else { Ok(()) });
                marked.map_or_else(|trouble| trouble, |()| Verdict::Next)
            }
        }
    }

    fn mark_spam(&self, message: &Message, said: &Assessment) -> Result<(), Verdict> {
        mark::tag(message, "spam")?;
        match (self.config.subject_prefix.as_str(), &said.subject) {
            ("", None) => Ok(()),
            // What is not ASCII would have to be encoded first.
            ("", Some(subject)) if subject.is_ascii() => mark::subject(message, subject),
            ("", Some(_)) => Ok(()),
            (prefix, _) => mark::prefix_subject(message, prefix),
        }
    }
}

/// What becomes of a mail that was not scanned.
fn unchecked(message: &Message, policy: &Policy, what: Unchecked, why: &str) -> Verdict {
    match what {
        Unchecked::Defer => defer!("451 4.7.1", "Mail can't be scanned for spam now, try again later"),
        Unchecked::Quarantine => Verdict::quarantine(format!("not scanned for spam: {why}")),
        Unchecked::Continue => {
            let marked = mark::status(message, policy.headers, &Status::Unchecked(why))
                .and_then(|()| mark::tag(message, "spam-unchecked"));
            marked.map_or_else(|trouble| trouble, |()| Verdict::Next)
        }
    }
}

/// As it is counted.
fn counted(fate: Fate) -> &'static str {
    match fate {
        Fate::Continue => "continued",
        Fate::Tag => "tagged",
        Fate::Quarantine => "quarantined",
        Fate::Discard => "discarded",
        Fate::Defer => "deferred",
        Fate::Reject => "rejected",
    }
}

/// What rspamd would say to the client, where a reply can say it.
fn text<'a>(said: &'a Assessment, otherwise: &'a str) -> &'a str {
    said.text.as_deref().filter(|text| text.bytes().all(|b| matches!(b, b' '..=b'~'))).unwrap_or(otherwise)
}
