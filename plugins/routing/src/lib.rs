//! Where mail goes next, by rules on recipients or the sender; the first that matches decides (R51–R54). Where none
//! does, the route stays what the gateway has chosen.

mod config;
#[cfg(test)]
mod tests;

use postern_sdk::prelude::*;

use config::{Config, Rule, What};

struct Routing {
    rules: Vec<Rule>,
}

#[plugin]
impl Plugin for Routing {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { rules: config.check()? })
    }

    fn deliver(&self, _: &Session, message: &Message) -> Verdict {
        let sender = message.reverse_path();
        let recipients: Vec<_> = message.recipients().into_iter().map(|recipient| recipient.address).collect();
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(sender.as_ref(), &recipients)) else {
            return Verdict::Next;
        };
        info!("rule {:?}: {}", rule.name, rule.to);
        if let Err(error) = message.set_route(&rule.to.route()) {
            error!("rule {:?}: {}: {error}", rule.name, rule.to);
            return defer!("4.3.5", "Local error in configuration");
        }
        Verdict::Next
    }
}

impl Rule {
    /// One route is set for all recipients of the call, so a rule on recipients must match all of them.
    fn matches(&self, sender: Option<&Address>, recipients: &[Address]) -> bool {
        let listed = |list: &[Pattern], address: &Address| list.iter().any(|pattern| pattern.matches(address));
        match &self.what {
            What::Sender(list) => sender.is_some_and(|sender| listed(list, sender)),
            What::Recipient(list) => {
                let matching = recipients.iter().filter(|recipient| listed(list, recipient)).count();
                if matching > 0 && matching < recipients.len() {
                    warn!(
                        "rule {:?} is passed over: it lists {matching} of {} recipients",
                        self.name,
                        recipients.len()
                    );
                }
                matching > 0 && matching == recipients.len()
            }
        }
    }
}
