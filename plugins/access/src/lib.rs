//! Black and white lists (R58–R62): by client address and network at `connect`, by sender and its domain at
//! `mail-from`, by recipient at `rcpt`.
//!
//! A rule on the client's address decides alone: where one matches, the other rules are not looked at.

mod config;
mod rule;
#[cfg(test)]
mod tests;

use postern_sdk::metrics;
use postern_sdk::prelude::*;
use postern_sdk::tables::{self, TableError};

use config::{Config, Exempt, Tables};
use rule::{Action, Criterion, Match, Rule, What};

struct Access {
    rules: Vec<Rule>,
    tables: Tables,
    exempt: Exempt,
}

/// A table that can't be asked. Never taken for "not listed".
enum Trouble {
    Table(String, TableError),
    Row(String, String),
}

#[plugin]
impl Plugin for Access {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let (rules, tables, exempt) = config.check(&postern_sdk::config::scope())?;
        Ok(Self { rules, tables, exempt })
    }

    fn load(&self) -> Result<(), String> {
        for (key, table) in self.tables.named() {
            if tables::lookup(table, "") == Err(TableError::NoTable) {
                return Err(format!("tables.{key}: no table `{table}` is granted to this plugin"));
            }
        }
        Ok(())
    }

    fn wants(&self, stage: Stage, _: Direction) -> bool {
        match stage {
            Stage::Connect => self.has(Criterion::Ip),
            Stage::MailFrom => self.has(Criterion::Sender) || self.has(Criterion::Domain),
            Stage::Rcpt => self.has(Criterion::Recipient),
            _ => true,
        }
    }

    fn connect(&self, session: &Session) -> Verdict {
        match self.by_address(session) {
            Ok(Some(found)) => self.obey(session, &found),
            Ok(None) => Verdict::Next,
            Err(trouble) => trouble.verdict(),
        }
    }

    fn mail_from(&self, session: &Session, message: &Message) -> Verdict {
        let Some(sender) = message.reverse_path() else { return Verdict::Next };
        self.unless_by_address(session, || {
            let by_sender = self.by_sender(&sender)?;
            let verdict = by_sender.as_ref().map_or(Verdict::Next, |found| self.obey(session, found));
            // A black sender is not spared anything. A white one at a white domain is spared the tests of both.
            if verdict == Verdict::Next
                && let Some(found) = self.by_domain(&sender.domain)?
            {
                return Ok(self.obey(session, &found));
            }
            Ok(verdict)
        })
    }

    fn rcpt(&self, session: &Session, _: &Message, recipient: &Recipient) -> Verdict {
        self.unless_by_address(session, || {
            Ok(self.by_recipient(&recipient.address)?.map_or(Verdict::Next, |found| self.obey(session, &found)))
        })
    }
}

impl Access {
    /// Some rule or table is on it: without one the gateway is asked nothing.
    fn has(&self, criterion: Criterion) -> bool {
        let Tables { ip, sender, recipient, domain } = &self.tables;
        let (table, rule): (_, fn(&What) -> bool) = match criterion {
            Criterion::Ip | Criterion::Network => (ip, |what| matches!(what, What::Ip(_))),
            Criterion::Sender => (sender, |what| matches!(what, What::Sender(_))),
            Criterion::Recipient => (recipient, |what| matches!(what, What::Recipient(_))),
            Criterion::Domain => (domain, |what| matches!(what, What::Domain(_))),
        };
        table.is_some() || self.rules.iter().any(|one| rule(&one.what))
    }

    /// R62: rules on the address win over all others, so these are asked only where none matches.
    fn unless_by_address(&self, session: &Session, others: impl FnOnce() -> Result<Verdict, Trouble>) -> Verdict {
        let verdict = match self.by_address(session) {
            Ok(Some(_)) => Ok(Verdict::Next),
            Ok(None) => others(),
            Err(trouble) => Err(trouble),
        };
        verdict.unwrap_or_else(Trouble::verdict)
    }

    fn obey(&self, session: &Session, found: &Match) -> Verdict {
        let Match { criterion, action, rule } = found;
        info!("rule {rule:?}: {} {}", action.name(), criterion.name());
        metrics::add(action.counted_as(), 1);
        match action {
            Action::Allow => {
                self.exempt.tests(*criterion).iter().for_each(|test| session.exempt(test, rule));
                Verdict::Next
            }
            Action::Ignore => Verdict::Discard,
            Action::Reject => match criterion {
                Criterion::Ip | Criterion::Network => reject!("5.7.1", "Mail from your address is not accepted here"),
                Criterion::Sender | Criterion::Domain => reject!("5.7.1", "Mail from this sender is not accepted here"),
                Criterion::Recipient => reject!("5.7.1", "Mail to this recipient is not accepted here"),
            },
        }
    }

    /// The most specific rule; of two that are equally so, the black one.
    fn by_address(&self, session: &Session) -> Result<Option<Match>, Trouble> {
        if !self.has(Criterion::Ip) {
            return Ok(None);
        }
        let address = session.client_address();
        let matching = self.rules.iter().flat_map(|rule| {
            let networks = if let What::Ip(networks) = &rule.what { networks.as_slice() } else { &[] };
            networks.iter().filter(|network| network.contains(address)).map(move |network| (rule, network))
        });
        let best = matching.max_by_key(|(rule, network)| (network.specificity(), rule.action != Action::Allow));
        if let Some((rule, network)) = best {
            let criterion = if network.is_single_address() { Criterion::Ip } else { Criterion::Network };
            return Ok(Some(rule.matched(criterion)));
        }
        let Some(table) = &self.tables.ip else { return Ok(None) };
        match ask(table, Criterion::Ip, || tables::lookup(table, &address.to_canonical().to_string()))? {
            Some(found) => Ok(Some(found)),
            None => ask(table, Criterion::Network, || tables::match_ip(table, address)),
        }
    }

    fn by_sender(&self, sender: &Address) -> Result<Option<Match>, Trouble> {
        let named = |what: &What| matches!(what, What::Sender(list) if list.iter().any(|one| one.matches(sender)));
        self.find(Criterion::Sender, named, self.tables.sender.as_deref(), &sender.to_string())
    }

    fn by_recipient(&self, recipient: &Address) -> Result<Option<Match>, Trouble> {
        let named =
            |what: &What| matches!(what, What::Recipient(list) if list.iter().any(|one| one.matches(recipient)));
        self.find(Criterion::Recipient, named, self.tables.recipient.as_deref(), &recipient.to_string())
    }

    fn by_domain(&self, domain: &str) -> Result<Option<Match>, Trouble> {
        let named = |rule: &&Rule| matches!(&rule.what, What::Domain(list) if list.iter().any(|one| one.holds(domain)));
        if let Some(rule) = self.rules.iter().find(named) {
            return Ok(Some(rule.matched(Criterion::Domain)));
        }
        let Some(table) = &self.tables.domain else { return Ok(None) };
        ask(table, Criterion::Domain, || tables::match_domain(table, domain))
    }

    /// Black before white; the rules of the config before those of the table.
    fn find(
        &self,
        criterion: Criterion,
        named: impl Fn(&What) -> bool,
        table: Option<&str>,
        key: &str,
    ) -> Result<Option<Match>, Trouble> {
        let matching = self.rules.iter().filter(|rule| named(&rule.what));
        if let Some(rule) = matching.min_by_key(|rule| rule.action == Action::Allow) {
            return Ok(Some(rule.matched(criterion)));
        }
        let Some(table) = table else { return Ok(None) };
        ask(table, criterion, || tables::lookup(table, key))
    }
}

fn ask(
    table: &str,
    criterion: Criterion,
    look_up: impl FnOnce() -> Result<Option<String>, TableError>,
) -> Result<Option<Match>, Trouble> {
    match look_up() {
        Ok(None) => Ok(None),
        Ok(Some(row)) => match Match::parse(&row, criterion) {
            Some(found) => Ok(Some(found)),
            None => Err(Trouble::Row(table.to_owned(), row)),
        },
        Err(error) => Err(Trouble::Table(table.to_owned(), error)),
    }
}

impl Trouble {
    fn verdict(self) -> Verdict {
        metrics::add("deferred", 1);
        match self {
            Self::Table(table, why) => {
                error!("table {table:?}: {why}");
                defer!("4.3.0", "Local error in processing, try again later")
            }
            Self::Row(table, row) => {
                error!("table {table:?}: {row:?} is none of allow, reject, ignore (of a domain: allow), and a name");
                defer!("4.3.5", "Local error in configuration, try again later")
            }
        }
    }
}
