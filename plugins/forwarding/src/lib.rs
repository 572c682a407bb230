//! Refuses what mailboxes behind the gateway forward automatically (R43): mail of strangers under our reputation, and a
//! thief's favourite way out.
//!
//! Judged at `data`, of outbound mail alone. Bounces and automatic replies are no forwards.

mod config;
mod sign;
#[cfg(test)]
mod tests;

use postern_sdk::prelude::*;
use postern_sdk::{ReadError, metrics};

use config::{Action, Config};
use sign::Sign;

struct Forwarding {
    config: Config,
}

#[plugin]
impl Plugin for Forwarding {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config.check()?;
        Ok(Self { config })
    }

    fn wants(&self, _: Stage, direction: Direction) -> bool {
        direction == Direction::Outbound
    }

    fn data(&self, session: &Session, message: &Message) -> Verdict {
        // A null sender is a bounce's, or an automatic reply's (RFC 3834 §4): none of a person, to whom it would come back.
        if message.reverse_path().is_none() {
            return Verdict::Next;
        }
        let signs = match self.signs(message) {
            Ok(signs) => signs,
            Err(error) => {
                error!("{error}");
                return defer!("4.3.0", "Local error in processing, try again later");
            }
        };
        match signs.first() {
            Some(sign) if !self.is_allowed(session, message, &signs) => self.act(message, sign),
            _ => Verdict::Next,
        }
    }
}

impl Forwarding {
    fn signs(&self, message: &Message) -> Result<Vec<Sign>, ReadError> {
        let found = self.config.signs.iter().map(|kind| kind.look(message, &self.config.own_domains));
        found.filter_map(Result::transpose).collect()
    }

    fn is_allowed(&self, session: &Session, message: &Message, signs: &[Sign]) -> bool {
        let allow = &self.config.allow;
        let listed = |list: &[Pattern], address: &Address| list.iter().any(|pattern| pattern.matches(address));
        if message.reverse_path().is_some_and(|sender| listed(&allow.sender, &sender)) {
            return true;
        }
        let login = session.login().and_then(|login| login.parse().ok());
        let mut forwarders = signs.iter().filter_map(|sign| sign.forwarder.as_ref()).chain(&login);
        if forwarders.any(|forwarder| listed(&allow.forwarder, forwarder)) {
            return true;
        }
        let recipients = message.recipients();
        !recipients.is_empty() && recipients.iter().all(|one| listed(&allow.recipient, &one.address))
    }

    fn act(&self, message: &Message, sign: &Sign) -> Verdict {
        let by = sign.forwarder.as_ref().map(|forwarder| format!(" by {forwarder}")).unwrap_or_default();
        info!("forwarded automatically{by} ({})", sign.kind.name());
        metrics::add(sign.kind.metric(), 1);
        match self.config.action {
            Action::Reject => reject!("550 5.7.1", "Automatic forwarding is not allowed here"),
            Action::Quarantine => Verdict::quarantine(format!("forwarded automatically ({})", sign.kind.name())),
            Action::Tag => match message.add_tag(&self.config.tag) {
                Ok(()) => Verdict::Next,
                Err(error) => {
                    error!("tag {:?}: {error}", self.config.tag);
                    defer!("4.3.0", "Local error in processing, try again later")
                }
            },
        }
    }
}
