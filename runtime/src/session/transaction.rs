//! One mail in progress: from MAIL to its end. Dropping it is the reset.

use std::sync::Arc;

use super::connection::CommitError;
use super::reception::Reception;
use super::settings::Snapshot;
use crate::mail::{Envelope, Evidence, Mail, MessageId, Recipient};
use crate::pipeline::{Direction, TransactionStanding};
use crate::smtp::Mailbox;
use crate::tenancy::Tenant;

pub struct Transaction {
    /// In force when MAIL was said; holds until the mail's reply.
    pub snapshot: Snapshot,
    pub mail: Arc<Mail>,
    pub standing: TransactionStanding,
    pub direction: Direction,
    /// Fixed at MAIL for outbound mail, by the first recipient taken for inbound mail.
    pub tenant: Option<Arc<Tenant>>,
    /// Recipients that came after the limit was reached.
    pub overshoot: usize,
    /// Recipients that were answered 250 and dropped.
    pub dropped: usize,
    /// Recipients whose copy is kept back, and why.
    pub kept_back: Vec<(Mailbox, String)>,
    /// Recipients that stand for postmaster: no verdict on a recipient refuses them, nor one on a mail for them alone (R49).
    pub postmaster: usize,
    pub reception: Option<Reception>,
    /// BDAT has begun: DATA and RCPT are out of order from here on.
    pub chunking: bool,
    /// The disk did not take the body, for this reason.
    pub storage_failure: Option<CommitError>,
    /// All of it goes to quarantine, as a plugin wished of the whole mail.
    pub all_kept_back: bool,
}

impl Transaction {
    pub fn new(snapshot: Snapshot, envelope: Envelope, direction: Direction, tenant: Option<Arc<Tenant>>) -> Self {
        let evidence = Evidence::default();
        // What plugins make of it does not count.
        let _ = evidence.reverse_path.set(envelope.reverse_path.clone());
        let mail = Mail {
            id: MessageId::next(),
            tenant: tenant.as_ref().map(|tenant| tenant.name.clone()),
            envelope,
            message: None,
            tags: Vec::new(),
            route: None,
            recipient_routes: Vec::new(),
            signatures: Vec::new(),
            evidence: Arc::new(evidence),
        };
        Self {
            snapshot,
            mail: Arc::new(mail),
            standing: TransactionStanding::default(),
            direction,
            tenant,
            overshoot: 0,
            dropped: 0,
            kept_back: Vec::new(),
            postmaster: 0,
            reception: None,
            chunking: false,
            storage_failure: None,
            all_kept_back: false,
        }
    }

    /// Recipients that were answered 250.
    pub fn taken(&self) -> usize {
        self.mail.envelope.recipients.len() + self.dropped
    }

    pub fn only_postmaster(&self) -> bool {
        self.postmaster > 0 && self.postmaster == self.taken()
    }

    pub fn max_message_size(&self) -> u64 {
        let own = self.tenant.as_ref().and_then(|tenant| tenant.max_message_size);
        own.map_or(self.snapshot.settings.max_message_size, |own| own.min(self.snapshot.settings.max_message_size))
    }

    pub fn max_recipients(&self) -> usize {
        let own = self.tenant.as_ref().and_then(|tenant| tenant.max_recipients);
        own.map_or(self.snapshot.settings.max_recipients, |own| own.min(self.snapshot.settings.max_recipients))
    }

    pub fn take(&mut self, recipient: Recipient) {
        // The same address twice is one delivery.
        if self.mail.envelope.recipients.iter().any(|r| r.mailbox == recipient.mailbox) {
            self.dropped += 1;
        } else {
            Arc::make_mut(&mut self.mail).envelope.recipients.push(recipient);
        }
    }
}
