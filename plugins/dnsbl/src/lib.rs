//! DNS lists of addresses and domains (RFC 5782): all are asked at once, each that has the sender adds its weight, and from
//! a sum on the mail is refused, deferred, kept back or tagged.
//!
//! Asked at `mail-from`, when it is known that the client has not logged in and what the chain before has to say; what came
//! through a trusted relay (R11) and the authors of `From` are known at `data`. A list that does not answer, or with rubbish,
//! weighs nothing, so no list's trouble stops mail.

mod ask;
mod code;
mod config;
mod subject;
#[cfg(test)]
mod tests;

use postern_sdk::authentication::{self, Origin};
use postern_sdk::prelude::*;
use postern_sdk::{ReadError, metrics};

use ask::{Hit, Item};
use config::{Config, Settings, Subject};

struct Dnsbl {
    settings: Settings,
}

/// Under which what `mail-from` has found is remembered: a hit a line.
const NOTE: &str = "hits";

#[plugin]
impl Plugin for Dnsbl {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { settings: config.check()? })
    }

    fn wants(&self, _: Stage, direction: Direction) -> bool {
        direction == Direction::Inbound && !self.settings.lists.is_empty()
    }

    fn mail_from(&self, session: &Session, message: &Message) -> Verdict {
        let origin = match authentication::origin(session, message) {
            Ok(origin) => origin,
            // Of a trusted relay's mail it is known at `data`.
            Err(ReadError::Stage) => return Verdict::Next,
            Err(error) => return trouble(error),
        };
        let hits = ask::look_up(&self.settings.lists, &self.of_envelope(session, message, &origin));
        if let Err(full) = session.remember(NOTE, ask::to_note(&hits).as_bytes()) {
            warn!("all lists will be asked again at the end of the data: {full}");
        }
        self.judge(message, &hits)
    }

    fn data(&self, session: &Session, message: &Message) -> Verdict {
        let known = session.recall(NOTE);
        let by_author = self.asks_about(Subject::From);
        if known.is_some() && !by_author {
            return Verdict::Next;
        }
        let origin = match authentication::origin(session, message) {
            Ok(origin) => origin,
            // The relay does not say who stood before it: nobody is judged in the sender's place.
            Err(ReadError::Failed) => {
                warn!("no list is asked: nobody knows who has sent this mail");
                return Verdict::Next;
            }
            Err(error) => return trouble(error),
        };
        let mut items = if known.is_some() { Vec::new() } else { self.of_envelope(session, message, &origin) };
        if by_author && subject::is_public(origin.address) {
            match of_authors(message) {
                Ok(authors) => items.extend(authors),
                Err(error) => return trouble(error),
            }
        }
        let found = ask::look_up(&self.settings.lists, &items);
        if found.is_empty() {
            // What is known has been judged.
            return Verdict::Next;
        }
        self.judge(message, &ask::together(ask::from_note(known.as_deref().unwrap_or_default()), found))
    }
}

impl Dnsbl {
    fn asks_about(&self, subject: Subject) -> bool {
        self.settings.lists.iter().any(|list| list.by.contains(&subject))
    }

    /// Nothing of a client in a private network: what is there is somebody's own.
    fn of_envelope(&self, session: &Session, message: &Message, origin: &Origin) -> Vec<Item> {
        let mut items = Vec::new();
        if !subject::is_public(origin.address) {
            return items;
        }
        if self.asks_about(Subject::Ip) {
            items.push(Item::address(origin.address));
        }
        if self.asks_about(Subject::Helo) {
            items.extend(origin.helo.as_deref().and_then(|helo| Item::name(Subject::Helo, helo)));
        }
        // The relay's name is not the sender's.
        if self.asks_about(Subject::ClientName)
            && !origin.relayed
            && let ClientName::Verified(name) = session.client_name()
        {
            items.extend(Item::name(Subject::ClientName, &name));
        }
        if self.asks_about(Subject::Sender) {
            items.extend(message.reverse_path().and_then(|path| Item::name(Subject::Sender, &path.domain)));
        }
        items
    }

    fn judge(&self, message: &Message, hits: &[Hit]) -> Verdict {
        let score: i32 = hits.iter().map(|hit| hit.weight).sum();
        let reached = |threshold: Option<i32>| threshold.is_some_and(|least| score >= least);
        let thresholds = &self.settings.thresholds;
        if reached(thresholds.reject) {
            let (subject, lists) = self.named(hits);
            return match ask::reason(hits) {
                Some(reason) => reject!("554 5.7.1", "{subject} is listed by {lists}: {reason}"),
                None => reject!("554 5.7.1", "{subject} is listed by {lists}"),
            };
        }
        if reached(thresholds.defer) {
            let (subject, lists) = self.named(hits);
            return defer!("4.7.1", "{subject} is listed by {lists}, try again later");
        }
        if reached(thresholds.quarantine) {
            let (subject, lists) = self.named(hits);
            return Verdict::quarantine(format!("{subject} is listed by {lists}, score {score}"));
        }
        if reached(thresholds.tag) {
            if let Err(error) = message.add_tag(&self.settings.tag) {
                error!("tag {:?}: {error}", self.settings.tag);
                return defer!("4.3.0", "Local error in processing, try again later");
            }
            metrics::add("tagged", 1);
        }
        Verdict::Next
    }

    /// What is listed, and by whom: the lists that weigh most.
    fn named(&self, hits: &[Hit]) -> (String, String) {
        const MAX_NAMED: usize = 5;
        let heaviest = ask::heaviest_first(hits);
        let subject = heaviest.iter().find_map(|hit| Some(hit.asked.as_ref()?.shown.clone()));
        let names = heaviest.iter().filter_map(|hit| Some(self.settings.lists.get(hit.list)?.name.as_str()));
        (subject.unwrap_or_default(), names.take(MAX_NAMED).collect::<Vec<_>>().join(", "))
    }
}

fn of_authors(message: &Message) -> Result<Vec<Item>, ReadError> {
    let domains = message.header("From")?.into_iter().flat_map(|value| subject::author_domains(&value));
    Ok(domains.filter_map(|domain| Item::name(Subject::From, &domain)).collect())
}

fn trouble(error: ReadError) -> Verdict {
    error!("who has sent this mail: {error}");
    defer!("4.3.0", "Local error in processing, try again later")
}
