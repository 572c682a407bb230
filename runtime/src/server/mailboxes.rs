//! From the plugins' `call-ahead` to the tenants' destinations.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::setup;
use crate::config::Settings;
use crate::delivery::{self, Delivery};
use crate::host::call_ahead::{CallAhead, Presence};
use crate::host::dns::Lookup;
use crate::mail::Mail;
use crate::metrics::Metrics;
use crate::smtp::Mailbox;
use crate::tenancy::Directory;

pub struct Mailboxes {
    calls: Arc<delivery::CallAhead>,
    /// Whose mailbox it is, and where it would be.
    directory: ArcSwap<Directory>,
}

impl Mailboxes {
    pub fn new(settings: &Settings, delivery: Arc<Delivery>, metrics: Arc<Metrics>) -> Self {
        Self {
            calls: Arc::new(delivery::CallAhead::new(setup::call_ahead(settings), delivery, metrics)),
            directory: ArcSwap::from_pointee(settings.directory.clone()),
        }
    }

    /// What a reload changes.
    pub fn configure(&self, settings: &Settings) {
        self.calls.configure(setup::call_ahead(settings));
        self.directory.store(Arc::new(settings.directory.clone()));
    }

    async fn presence(&self, mail: &Mail, mailbox: &Mailbox) -> delivery::Presence {
        let directory = self.directory.load_full();
        let owner = mailbox.domain().and_then(|domain| directory.tenant_of(domain));
        // The mail's tenant alone: what is asked of another's server is not this plugin's to know.
        match owner.filter(|owner| mail.tenant.as_ref() == Some(&owner.name)) {
            Some(owner) => match &owner.destination {
                Some(destination) => self.calls.presence(&owner.name, destination, mailbox).await,
                None => delivery::Presence::Unavailable(format!("{} has no destination", owner.name)),
            },
            None => delivery::Presence::Unavailable(format!("{mailbox} is none of the mail's tenant")),
        }
    }
}

impl CallAhead for Mailboxes {
    fn recipient(&self, mail: Arc<Mail>, mailbox: Mailbox) -> Lookup<'_, Presence> {
        Box::pin(async move {
            match self.presence(&mail, &mailbox).await {
                delivery::Presence::Exists => Presence::Exists,
                delivery::Presence::Unknown(reply) => Presence::Unknown(reply.to_string()),
                delivery::Presence::Unavailable(why) => Presence::Unavailable(why),
            }
        })
    }
}
