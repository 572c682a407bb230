//! From the session to the queue: what `250` stands for.

use std::pin::Pin;
use std::sync::Arc;

use crate::mail::Mail;
use crate::mail::evidence::AuthOutcome;
use crate::queue::{self, NewMail, Queue};
use crate::session::{Accepted, CommitError, Services};
use crate::spool::SpoolError;

pub struct Acceptance {
    pub queue: Arc<Queue>,
}

impl Services for Acceptance {
    fn commit(&self, copies: Vec<Accepted>) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send + '_>> {
        let arrival = self.queue.now();
        let mails: Option<Vec<_>> = copies.into_iter().map(|copy| new_mail(copy, arrival)).collect();
        Box::pin(async move {
            // A copy without content does not come out of a session; should one, it must not be answered 250.
            let mails = mails.ok_or(CommitError::Failed)?;
            self.queue.accept(mails).await.map_err(|error| match error {
                SpoolError::Full => CommitError::Full,
                error => {
                    tracing::error!(%error, "a mail was not made durable");
                    CommitError::Failed
                }
            })
        })
    }
}

pub(crate) fn new_mail(copy: Accepted, arrival: jiff::Timestamp) -> Option<NewMail> {
    // Routes of single recipients are chosen at `deliver`.
    let Mail { id, tenant, envelope, message, tags, route, recipient_routes: _, signatures: _, evidence } = copy.mail;
    // Where no plugin has asked for it, nobody knows.
    let sender_forged = evidence.spf_mail_from.get().is_some_and(|spf| spf.outcome == AuthOutcome::Fail);
    let accepted = queue::Accepted {
        tenant,
        tags,
        route,
        session: Some(copy.session),
        quarantine: copy.kept_back,
        outbound: copy.outbound,
        authenticated: copy.authenticated,
        sender_forged,
        origin: copy.origin,
        ..queue::Accepted::new(envelope, arrival)
    };
    Some(NewMail { id, accepted, message: message? })
}
