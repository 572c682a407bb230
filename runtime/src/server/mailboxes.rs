//! From the plugins' `call-ahead` to the tenants' destinations, and from what deliveries hear there back to it.

use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::setup;
use crate::config::Settings;
use crate::delivery::{self, Delivery, Job, Memory, NextHop, Report};
use crate::host::Store;
use crate::host::call_ahead::{CallAhead, Presence};
use crate::host::dns::Lookup;
use crate::mail::Mail;
use crate::metrics::Metrics;
use crate::pipeline::Scope;
use crate::smtp::Mailbox;
use crate::tenancy::Directory;

/// Under which name it is kept, of the tenant whose mailbox it is. No plugin can have it.
const NAME: &str = "gateway/call-ahead";

pub struct Mailboxes {
    delivery: Arc<Delivery>,
    calls: Arc<delivery::CallAhead>,
    /// Whose mailbox it is, and where it would be.
    directory: ArcSwap<Directory>,
}

impl Mailboxes {
    /// `store`: where it is kept which mailboxes exist.
    pub fn new(settings: &Settings, delivery: Arc<Delivery>, store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        let calls = delivery::CallAhead::new(setup::call_ahead(settings), delivery.clone(), memory(store), metrics);
        Self { delivery, calls: Arc::new(calls), directory: ArcSwap::from_pointee(settings.directory.clone()) }
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

/// In the store, and so in what outlasts a restart; bounded for each tenant, as a plugin's values are.
fn memory(store: Arc<Store>) -> Memory {
    let scope = |tenant: &str| Scope::Tenant(tenant.into()).to_string();
    let writer = store.clone();
    Memory {
        read: Box::new(move |tenant, key| store.read(&scope(tenant), NAME, key)),
        write: Box::new(move |tenant, key, value| match value {
            Some((value, keep)) => {
                let seconds = u32::try_from(keep.as_secs()).unwrap_or(u32::MAX);
                // What there is no room for is asked anew after a restart.
                let _ = writer.write(&scope(tenant), NAME, key, value, seconds);
            }
            None => writer.remove(&scope(tenant), NAME, key),
        }),
    }
}

impl NextHop for Mailboxes {
    /// Delivers, and keeps what the tenant's own destination says of its mailboxes.
    fn deliver<'a>(&'a self, job: Job) -> Pin<Box<dyn Future<Output = Report> + Send + 'a>> {
        Box::pin(async move {
            let directory = self.directory.load_full();
            // One mail, one tenant; and what other routes say is not the destination's word.
            let host = job.envelope.recipients.first().and_then(|recipient| recipient.mailbox.domain());
            let tenant = host.and_then(|domain| directory.tenant_of(domain));
            let Some(tenant) = tenant.filter(|tenant| tenant.destination.as_ref() == Some(&job.route)) else {
                return self.delivery.deliver(job).await;
            };
            let (route, recipients) = (job.route.clone(), job.envelope.recipients.clone());
            let report = self.delivery.deliver(job).await;
            let is_own = |mailbox: &Mailbox| {
                let owner = mailbox.domain().and_then(|domain| directory.tenant_of(domain));
                owner.is_some_and(|owner| owner.name == tenant.name)
            };
            let heard = recipients.iter().map(|recipient| &recipient.mailbox).zip(&report.outcomes);
            self.calls.learn_from(&tenant.name, &route, heard.filter(|(mailbox, _)| is_own(mailbox)));
            report
        })
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
