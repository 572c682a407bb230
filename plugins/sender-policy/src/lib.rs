//! Senders need a domain, and one that exists (R63, R64).
//!
//! The form of the address is judged at `mail-from`. Whether the domain is in DNS matters, by default, only where the
//! recipient is not local, so it is judged at `rcpt`, when the recipient is known; once for each transaction.
//!
//! That a sender belongs to the login (R42, R50) is the gateway's own test: `send_as` of a user.

mod config;
mod domain;
#[cfg(test)]
mod tests;

use postern_sdk::metrics;
use postern_sdk::prelude::*;

use config::{Config, When};
use domain::{Form, Standing};

struct SenderPolicy {
    config: Config,
}

#[plugin]
impl Plugin for SenderPolicy {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config })
    }

    fn wants(&self, stage: Stage, direction: Direction) -> bool {
        match stage {
            Stage::MailFrom => self.config.require_fqdn || self.config.require_in_dns == When::Always,
            // Mail that comes in is for a tenant, or the gateway does not take it.
            Stage::Rcpt => self.config.require_in_dns == When::NotLocal && direction == Direction::Outbound,
            _ => true,
        }
    }

    fn mail_from(&self, session: &Session, message: &Message) -> Verdict {
        // Bounces have no sender, and must come through (RFC 5321 §6.1).
        let Some(sender) = message.reverse_path() else { return Verdict::Next };
        if self.is_exempt(session) {
            return Verdict::Next;
        }
        let form = Form::of(&sender.domain);
        if self.config.require_fqdn && !self.is_good(&form) {
            metrics::add("not_qualified", 1);
            return reject!("550 5.1.7", "The sender's address needs a fully qualified domain");
        }
        if self.config.require_in_dns == When::Always && form != Form::Literal {
            return check_in_dns(session, &sender.domain);
        }
        Verdict::Next
    }

    fn rcpt(&self, session: &Session, message: &Message, recipient: &Recipient) -> Verdict {
        let Some(sender) = message.reverse_path() else { return Verdict::Next };
        let local = self.config.local_recipients.iter().any(|pattern| pattern.matches(&recipient.address));
        if local || Form::of(&sender.domain) == Form::Literal || self.is_exempt(session) {
            return Verdict::Next;
        }
        check_in_dns(session, &sender.domain)
    }
}

impl SenderPolicy {
    fn is_exempt(&self, session: &Session) -> bool {
        let client = session.client_address();
        self.config.exempt_networks.iter().any(|network| network.contains(client))
    }

    fn is_good(&self, form: &Form) -> bool {
        match form {
            Form::FullyQualified => true,
            Form::Literal => self.config.allow_address_literals,
            Form::Other => false,
        }
    }
}

/// R64. A mail of a thousand recipients asks DNS once, however long that takes.
fn check_in_dns(session: &Session, domain: &str) -> Verdict {
    let known = session.recall(domain).and_then(|letters| Standing::of_letter(*letters.first()?));
    let standing = known.unwrap_or_else(|| {
        let found = Standing::look_up(domain);
        if let Err(full) = session.remember(domain, &[found.letter()]) {
            debug!("{domain} is looked up again: {full}");
        }
        found
    });
    let (counter, verdict) = match standing {
        Standing::Exists => return Verdict::Next,
        Standing::Absent => (
            "not_in_dns",
            reject!("550 5.1.8", "The sender's domain {domain} has neither a mail exchanger nor an address"),
        ),
        Standing::NullMx => ("null_mx", reject!("550 5.7.27", "The sender's domain {domain} takes no mail (null MX)")),
        Standing::Unknown => {
            ("dns_failures", defer!("451 4.4.3", "The sender's domain {domain} can't be looked up now"))
        }
    };
    metrics::add(counter, 1);
    verdict
}
