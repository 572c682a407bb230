//! Has mail scanned for viruses by clamd (R35, X8), inbound and outbound (R22), and does with it what the config says.
//!
//! A scanner that does not answer has not said that the mail is clean: what happens then is a policy of its own, and is by
//! default that the mail comes later.

mod config;
#[cfg(test)]
mod tests;

use postern_sdk::message::{EditError, ReadError};
use postern_sdk::metrics;
use postern_sdk::prelude::*;
use postern_sdk::scan::{self, ScanError};

use config::{Config, Found, Policy, Unchecked};

/// Fields of our name that a mail from outside may bring; they are taken out one by one.
const MAX_FIELDS: usize = 100;

struct Antivirus {
    config: Config,
}

/// What all scanners together have said.
enum Outcome {
    Clean,
    Found(String),
    /// Too big for at least one of them.
    TooBig(u64),
    Unavailable(String),
    /// The administrator's to mend: the config of plugin and gateway don't fit.
    NoScanner,
}

#[plugin]
impl Plugin for Antivirus {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config.check()?;
        Ok(Self { config })
    }

    fn data(&self, session: &Session, message: &Message) -> Verdict {
        let outcome = self.scan(message);
        let policy = self.config.policy(session.direction());
        metrics::add(outcome.name(), 1);
        let (verdict, status) = outcome.judged(policy);
        if verdict != Verdict::Next {
            return verdict;
        }
        match self.mark(message, &outcome, &status) {
            Ok(()) => Verdict::Next,
            Err(trouble) => trouble,
        }
    }
}

impl Antivirus {
    fn scan(&self, message: &Message) -> Outcome {
        let mut outcome = Outcome::Clean;
        for scanner in &self.config.scanners {
            match scan::virus(message, scanner) {
                Ok(None) => {}
                Ok(Some(name)) => {
                    info!("{scanner} has found {name}");
                    return Outcome::Found(name);
                }
                Err(ScanError::TooBig(most)) => {
                    info!("the mail is larger than the {most} octets that {scanner} is given");
                    // Where another one can't be asked at all, that weighs more.
                    if let Outcome::Clean = outcome {
                        outcome = Outcome::TooBig(most);
                    }
                }
                Err(ScanError::Unavailable(why)) => {
                    warn!("{scanner} is not available: {why}");
                    outcome = Outcome::Unavailable(scanner.clone());
                }
                Err(error @ (ScanError::NoScanner | ScanError::Stage)) => {
                    error!("{scanner}: {error}");
                    return Outcome::NoScanner;
                }
            }
        }
        outcome
    }

    /// Says in the header what was found, in place of what anybody before us has said there. The error is what becomes of a
    /// mail that can't be marked.
    fn mark(&self, message: &Message, outcome: &Outcome, status: &str) -> Result<(), Verdict> {
        if let Some(tag) = outcome.tag() {
            message.add_tag(tag).map_err(unmarked)?;
        }
        let header = self.config.header.as_str();
        if !header.is_empty() {
            let theirs = message.header(header).map_err(unread)?.len();
            if theirs > MAX_FIELDS {
                return Err(reject!("554 5.6.0", "The mail has {theirs} fields {header}"));
            }
            for nth in (0..theirs).rev() {
                message.replace_header(header, u32::try_from(nth).unwrap_or(0), None).map_err(unmarked)?;
            }
            message.add_header(header, status, Position::Top).map_err(unmarked)?;
        }
        if let (Outcome::Found(_), false) = (outcome, self.config.subject_prefix.is_empty()) {
            self.prefix_subject(message)?;
        }
        Ok(())
    }

    fn prefix_subject(&self, message: &Message) -> Result<(), Verdict> {
        let prefix = self.config.subject_prefix.as_str();
        let subjects = message.header("Subject").map_err(unread)?;
        match subjects.first().map(|subject| std::str::from_utf8(subject)) {
            None => message.add_header("Subject", prefix.trim_end(), Position::Bottom).map_err(unmarked),
            Some(Ok(subject)) if subject.starts_with(prefix) => Ok(()),
            Some(Ok(subject)) => {
                message.replace_header("Subject", 0, Some(&format!("{prefix}{subject}"))).map_err(unmarked)
            }
            // It is marked by its other field; to guess a charset would spoil it.
            Some(Err(_)) => Ok(()),
        }
    }
}

impl Outcome {
    /// As it is counted.
    fn name(&self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Found(_) => "found",
            Self::TooBig(_) => "too_big",
            Self::Unavailable(_) => "unavailable",
            Self::NoScanner => "no_scanner",
        }
    }

    /// For later stages and the log.
    fn tag(&self) -> Option<&'static str> {
        match self {
            Self::Clean => None,
            Self::Found(_) => Some("virus"),
            Self::TooBig(_) | Self::Unavailable(_) | Self::NoScanner => Some("virus-unchecked"),
        }
    }

    /// The verdict, and what the header says of a mail that goes on.
    fn judged(&self, policy: Policy) -> (Verdict, String) {
        match self {
            Self::Clean => (Verdict::Next, "Clean".to_owned()),
            Self::Found(name) => {
                let verdict = match policy.found {
                    Found::Reject => reject!("550 5.7.1", "This mail carries a virus: {name}"),
                    Found::Quarantine => Verdict::quarantine(format!("virus {name}")),
                    Found::Discard => Verdict::Discard,
                    Found::Tag => Verdict::Next,
                };
                (verdict, format!("Infected ({name})"))
            }
            Self::TooBig(most) => {
                let verdict = match policy.too_big {
                    Unchecked::Defer => defer!("451 4.3.4", "This mail is too big to be scanned for viruses now"),
                    Unchecked::Reject => reject!("552 5.3.4", "Mails above {most} octets can't be scanned for viruses"),
                    Unchecked::Quarantine => Verdict::quarantine("too big to be scanned for viruses"),
                    Unchecked::Continue => Verdict::Next,
                };
                (verdict, "Unchecked (too big)".to_owned())
            }
            Self::Unavailable(scanner) => {
                let verdict = match policy.unavailable {
                    Unchecked::Defer => defer!("451 4.7.1", "Mail can't be scanned for viruses now, try again later"),
                    Unchecked::Reject => reject!("554 5.7.1", "Mail can't be scanned for viruses"),
                    Unchecked::Quarantine => Verdict::quarantine(format!("{scanner} is not available")),
                    Unchecked::Continue => Verdict::Next,
                };
                (verdict, "Unchecked (scanner not available)".to_owned())
            }
            Self::NoScanner => {
                (defer!("451 4.3.5", "Mail can't be scanned for viruses now, try again later"), String::new())
            }
        }
    }
}

fn unread(error: ReadError) -> Verdict {
    error!("the header can't be read: {error}");
    defer!("451 4.3.0", "The mail can't be read now, try again later")
}

fn unmarked(error: EditError) -> Verdict {
    error!("the mail can't be marked: {error}");
    defer!("451 4.3.0", "The mail can't be marked now, try again later")
}
