//! Changes a mail by rules: a word before the subject, header fields, a footer (X1).
//!
//! Mail that comes in is changed at `data`: what is verified is the mail as it was received, whatever plugins make of it.
//! Mail that goes out is changed at `deliver`, once, and signed after the last plugin.

mod condition;
mod config;
mod edit;
mod encoding;
mod footer;
mod mime;
mod subject;
#[cfg(test)]
mod tests;
mod word;

use postern_sdk::EditError;
use postern_sdk::prelude::*;

use condition::Facts;
use config::{Config, Rule};
use edit::{Plan, Trouble};

struct Headers {
    rules: Vec<Rule>,
    footer_limit: usize,
}

#[plugin]
impl Plugin for Headers {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let (rules, footer_limit) = config.check()?;
        Ok(Self { rules, footer_limit })
    }

    /// What comes in is changed when it has come, what goes out when it goes.
    fn wants(&self, stage: Stage, direction: Direction) -> bool {
        let at = if direction == Direction::Inbound { Stage::Data } else { Stage::Deliver };
        stage == at && !self.rules.is_empty()
    }

    fn data(&self, session: &Session, message: &Message) -> Verdict {
        self.change(session, message)
    }

    fn deliver(&self, session: &Session, message: &Message) -> Verdict {
        self.change(session, message)
    }
}

impl Headers {
    fn change(&self, session: &Session, message: &Message) -> Verdict {
        match self.try_change(session, message) {
            Ok(()) => Verdict::Next,
            Err(Trouble::Edit(EditError::Full)) => {
                // No honest mail has hundreds of fields of one name.
                error!("more header fields to change than one call may");
                reject!("554 5.6.0", "Too many header fields of one name")
            }
            Err(Trouble::Edit(error)) => {
                error!("{error}");
                defer!("4.3.0", "Local error in processing, try again later")
            }
            Err(Trouble::Read(error)) => {
                error!("{error}");
                defer!("4.3.0", "Local error in processing, try again later")
            }
        }
    }

    /// All rules that apply, in their order.
    fn try_change(&self, session: &Session, message: &Message) -> Result<(), Trouble> {
        let facts = Facts::new(session, message);
        let mut plan = Plan::default();
        for rule in &self.rules {
            if rule.conditions.hold(&facts).map_err(Trouble::Read)? {
                info!("rule {:?}", rule.name);
                plan.add(&rule.actions);
            }
        }
        plan.carry_out(message, self.footer_limit)
    }
}
