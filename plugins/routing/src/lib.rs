//! Where mail goes next, by rules on recipients, the sender, or both; for each recipient the first that matches decides
//! (R51–R54). Where none does, the route stays what the gateway has chosen.

mod choice;
mod config;
#[cfg(test)]
mod tests;

use postern_sdk::metrics;
use postern_sdk::prelude::*;
use postern_sdk::tables::{self, TableError};

use choice::{Choice, Trouble};
use config::{Config, Rule, Tables};

struct Routing {
    rules: Vec<Rule>,
    tables: Tables,
}

#[plugin]
impl Plugin for Routing {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let (rules, tables) = config.check()?;
        Ok(Self { rules, tables })
    }

    fn load(&self) -> Result<(), String> {
        for (key, table) in self.tables.named() {
            if tables::lookup(table, "") == Err(TableError::NoTable) {
                return Err(format!("tables.{key}: no table `{table}` is granted to this plugin"));
            }
        }
        Ok(())
    }

    fn wants(&self, _: Stage, _: Direction) -> bool {
        !self.rules.is_empty() || self.tables.named().next().is_some()
    }

    fn deliver(&self, _: &Session, message: &Message) -> Verdict {
        let sender = message.reverse_path();
        let recipients: Vec<_> = message.recipients().into_iter().map(|recipient| recipient.address).collect();
        match self.route(message, sender.as_ref(), &recipients) {
            Ok(()) => Verdict::Next,
            Err(trouble) => trouble.verdict(),
        }
    }
}

impl Routing {
    fn route(&self, message: &Message, sender: Option<&Address>, recipients: &[Address]) -> Result<(), Trouble> {
        let choice = Choice::make(&self.rules, &self.tables, sender, recipients)?;
        let all = recipients.len();
        let mut routed = 0;
        for (by, taken) in choice.taken() {
            info!("rule {:?}: {}: {} of {all} recipients, by {}", by.rule(), by.to(), taken.len(), by.what());
            routed += taken.len();
        }
        metrics::add("routed", u64::try_from(routed).unwrap_or(u64::MAX));
        choice.set(message)
    }
}
