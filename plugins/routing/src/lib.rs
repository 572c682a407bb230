//! Where mail goes next, by rules on recipients or the sender; for each recipient the first that matches decides
//! (R51–R54). Where none does, the route stays what the gateway has chosen.

mod config;
#[cfg(test)]
mod tests;

use postern_sdk::EditError;
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
        let choice = Choice::make(&self.rules, sender.as_ref(), &recipients);
        for (rule, taken) in &choice.taken {
            info!("rule {:?}: {}: {} of {} recipients", rule.name, rule.to, taken.len(), recipients.len());
        }
        if let Err((rule, error)) = choice.set(message) {
            error!("rule {:?}: {}: {error}", rule.name, rule.to);
            return defer!("4.3.5", "Local error in configuration");
        }
        Verdict::Next
    }
}

/// Which rule decides for whom.
struct Choice<'a> {
    /// In the order of the rules; each has taken somebody.
    taken: Vec<(&'a Rule, Vec<&'a Address>)>,
    /// Some recipient matches no rule, and keeps the route that the gateway has chosen.
    some_left: bool,
}

impl<'a> Choice<'a> {
    /// Each rule takes those of its recipients that no earlier one took.
    fn make(rules: &'a [Rule], sender: Option<&Address>, recipients: &'a [Address]) -> Self {
        let mut taken = Vec::new();
        let mut left: Vec<&Address> = recipients.iter().collect();
        for rule in rules {
            let (matching, others) = rule.split(sender, left);
            left = others;
            if !matching.is_empty() {
                taken.push((rule, matching));
            }
        }
        Self { taken, some_left: !left.is_empty() }
    }

    /// Most often one rule takes all, and the mail stays whole.
    fn set(&self, message: &Message) -> Result<(), (&'a Rule, EditError)> {
        let most = self.taken.iter().max_by_key(|(_, taken)| taken.len()).map(|(rule, _)| *rule);
        let common = most.filter(|_| !self.some_left);
        if let Some(rule) = common {
            message.set_route(rule.to.route()).map_err(|error| (rule, error))?;
        }
        for &(rule, ref taken) in &self.taken {
            if common.is_some_and(|common| common.to.route() == rule.to.route()) {
                continue;
            }
            for recipient in taken {
                message.set_recipient_route(recipient, rule.to.route()).map_err(|error| (rule, error))?;
            }
        }
        Ok(())
    }
}

impl Rule {
    /// The recipients that it matches, and the others. A rule on senders matches all or nobody.
    fn split<'a>(
        &self,
        sender: Option<&Address>,
        recipients: Vec<&'a Address>,
    ) -> (Vec<&'a Address>, Vec<&'a Address>) {
        let listed = |list: &[Pattern], address: &Address| list.iter().any(|pattern| pattern.matches(address));
        match &self.what {
            What::Sender(list) if sender.is_some_and(|sender| listed(list, sender)) => (recipients, Vec::new()),
            What::Sender(_) => (Vec::new(), recipients),
            What::Recipient(list) => recipients.into_iter().partition(|recipient| listed(list, recipient)),
        }
    }
}
