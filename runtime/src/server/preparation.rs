//! From the queue to the `deliver` chains and the tenants' destinations.

use std::pin::Pin;
use std::sync::Arc;

use super::signing::Signer;
use crate::mail::{Mail, Recipient, Route};
use crate::pipeline::{Direction, Hearing, SessionFacts, SessionStanding, Stage, TransactionStanding, Verdict};
use crate::queue::{Accepted, Kind, Prepare, Prepared};
use crate::session::machine::Gateway;

pub struct Preparation {
    pub gateway: Arc<Gateway>,
    pub signer: Arc<Signer>,
}

impl Prepare for Preparation {
    /// With the snapshot that is in force now: a mail may have waited for days.
    fn prepare<'a>(
        &'a self,
        mail: Mail,
        accepted: &'a Accepted,
    ) -> Pin<Box<dyn Future<Output = Prepared> + Send + 'a>> {
        Box::pin(async move {
            // What the gateway itself has written is nobody's to judge.
            let Some(session) = accepted.session.clone() else { return unjudged(mail) };
            let snapshot = self.gateway.current.load_full();
            let direction = if accepted.outbound { Direction::Outbound } else { Direction::Inbound };
            let tenant = accepted.tenant.as_ref().and_then(|name| snapshot.directory.tenant(name));
            let reseller = tenant.and_then(|tenant| tenant.reseller.clone());
            if !snapshot.chains.asks(Stage::Deliver, direction, accepted.tenant.as_ref(), reseller.as_ref()) {
                return unjudged(mail);
            }
            let facts = SessionFacts::from(session);
            let before = Arc::new(mail);
            let mut hearing = Hearing {
                chains: snapshot.chains.clone(),
                session: SessionStanding::default(),
                transaction: TransactionStanding::default(),
                facts: Arc::new(facts),
                mail: Some(before.clone()),
                direction,
                tenant: accepted.tenant.clone(),
                reseller,
            };
            let verdict = hearing.deliver(&self.gateway.clerk).await;
            let after = hearing.mail.unwrap_or_else(|| before.clone());
            // Whoever edits it makes a copy.
            let edited = !Arc::ptr_eq(&before, &after);
            drop(before);
            let mut mail = Arc::unwrap_or_clone(after);
            let (verdict, signed) = self.sign(verdict, &mut mail).await;
            Prepared { verdict, mail, judged: true, edited: edited || signed }
        })
    }

    fn destination(&self, accepted: &Accepted, recipient: &Recipient) -> Option<Route> {
        let snapshot = self.gateway.current.load();
        let directory = &snapshot.directory;
        let own = recipient.mailbox.domain().and_then(|domain| directory.tenant_of(domain));
        // A tenant's domain goes to that tenant's server, whoever sends: by MX it would come back to us.
        if let Some(destination) = own.and_then(|tenant| tenant.destination.clone()) {
            return Some(destination);
        }
        if accepted.kind == Kind::Dsn || !accepted.outbound {
            return None;
        }
        accepted.tenant.as_ref().and_then(|name| directory.tenant(name)).and_then(|tenant| tenant.outbound.clone())
    }
}

impl Preparation {
    /// Last of all: what is signed here is stored, and nobody changes it any more. One that a plugin wants refused or kept
    /// back is signed, too: an operator may let it go.
    async fn sign(&self, verdict: Verdict, mail: &mut Mail) -> (Verdict, bool) {
        if matches!(verdict, Verdict::Discard | Verdict::Defer(_) | Verdict::Disconnect(_)) {
            return (verdict, false);
        }
        match self.signer.sign(mail, &self.gateway.clerk).await {
            Ok(signed) => (verdict, signed),
            Err(reply) => (Verdict::Defer(reply), false),
        }
    }
}

fn unjudged(mail: Mail) -> Prepared {
    Prepared { verdict: Verdict::Next, mail, judged: false, edited: false }
}
