//! `authentication`: who has sent a mail. Found out once for each mail, by whoever is asked first (see
//! [`Evidence`](crate::mail::Evidence)); here only what it looks like to a plugin.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::super::abi::interface::authentication::{
    ArcResult, DkimResult, DmarcPolicy as GuestPolicy, DmarcResult, Host, Outcome, Source,
    SpfIdentity as GuestIdentity, SpfResult,
};
use super::super::abi::interface::message::ReadError;
use super::super::abi::{MessageHandle, SessionHandle, ip_to_guest};
use super::super::limits::Breach;
use super::super::state::CallState;
use super::dns::Lookup;
use crate::mail::Mail;
use crate::mail::evidence::{ArcChain, AuthOutcome, Dmarc, DmarcPolicy, Origin, Signature, Spf, SpfIdentity};
use crate::pipeline::{Capability, SessionFacts, Stage};

/// What a call is about.
#[derive(Debug, Clone)]
pub struct Subject {
    pub session: Arc<SessionFacts>,
    pub mail: Arc<Mail>,
}

/// The seam between the host and those who verify. What was found is kept with the mail, so that nobody looks twice, also
/// where who asked first has stopped waiting. `None`: not before there is content.
pub trait Authenticator: Send + Sync {
    fn service_id(&self) -> Arc<str>;
    fn origin(&self, subject: Subject) -> Lookup<'_, Option<Origin>>;
    fn spf(&self, subject: Subject, identity: SpfIdentity) -> Lookup<'_, Option<Spf>>;
    fn dkim(&self, subject: Subject) -> Lookup<'_, Option<Arc<[Signature]>>>;
    fn dmarc(&self, subject: Subject) -> Lookup<'_, Option<Dmarc>>;
    fn arc(&self, subject: Subject) -> Lookup<'_, Option<ArcChain>>;
}

type Found<T> = Result<std::result::Result<T, ReadError>>;

impl CallState {
    pub(super) fn subject(&mut self) -> std::result::Result<Subject, Breach> {
        let mail = self.mail()?.clone();
        Ok(Subject { session: self.asked()?.session.clone(), mail })
    }

    /// Asks for it, as long as the plugin has patience. What was received is known until the mail's reply only.
    async fn find<T>(
        &mut self,
        ask: impl for<'a> FnOnce(&'a dyn Authenticator, Subject) -> Lookup<'a, Option<T>> + Send,
        in_vain: impl FnOnce() -> std::result::Result<T, ReadError> + Send,
    ) -> Found<T> {
        self.enter(Capability::Authentication, 256)?;
        if self.asked()?.stage >= Stage::Deliver {
            return Ok(Err(ReadError::Stage));
        }
        let (authenticator, subject) = (self.environment.services.authenticator.clone(), self.subject()?);
        let start = Instant::now();
        let found = timeout_at(start + self.meter.patience(), ask(&*authenticator, subject)).await;
        self.meter.waited(start.elapsed());
        // At `data` everything is there: what is not known then can't be read off the mail.
        let missing = if self.asked()?.stage >= Stage::Data { ReadError::Failed } else { ReadError::Stage };
        Ok(found.map_or_else(|_| in_vain(), |found| found.ok_or(missing)))
    }

    async fn spf(&mut self, identity: SpfIdentity) -> Found<SpfResult> {
        let in_vain = || {
            let reason = OUT_OF_TIME.to_owned();
            let outcome = AuthOutcome::Temperror;
            Ok(Spf { outcome, identity, domain: String::new(), reason, explanation: None })
        };
        let found = self.find(|by, subject| by.spf(subject, identity), in_vain).await?;
        Ok(found.map(guest_spf))
    }
}

const OUT_OF_TIME: &str = "not known in time";

impl Host for CallState {
    fn service_id(&mut self) -> Result<String> {
        self.enter(Capability::Authentication, 64)?;
        Ok(self.environment.services.authenticator.service_id().to_string())
    }

    async fn origin(&mut self, _: Resource<SessionHandle>, _: Resource<MessageHandle>) -> Found<Source> {
        let found = self.find(|by, subject| by.origin(subject), || Err(ReadError::Failed)).await?;
        let guest = |origin: Origin| Source {
            address: ip_to_guest(origin.address),
            helo: origin.helo,
            relayed: origin.relayed,
        };
        Ok(found.map(guest))
    }

    async fn spf_helo(&mut self, _: Resource<SessionHandle>, _: Resource<MessageHandle>) -> Found<SpfResult> {
        self.spf(SpfIdentity::Helo).await
    }

    async fn spf_mail_from(&mut self, _: Resource<SessionHandle>, _: Resource<MessageHandle>) -> Found<SpfResult> {
        self.spf(SpfIdentity::MailFrom).await
    }

    async fn dkim(&mut self, _: Resource<MessageHandle>) -> Found<Vec<DkimResult>> {
        let found = self.find(|by, subject| by.dkim(subject), || Err(ReadError::Failed)).await?;
        let signatures = match found {
            Ok(signatures) => signatures,
            Err(error) => return Ok(Err(error)),
        };
        let octets = signatures.iter().map(|one| one.domain.len() + one.identity.len() + one.reason.len() + 64).sum();
        self.meter.pass(octets)?;
        Ok(Ok(signatures.iter().cloned().map(guest_signature).collect()))
    }

    async fn dmarc(&mut self, _: Resource<SessionHandle>, _: Resource<MessageHandle>) -> Found<DmarcResult> {
        let in_vain = || {
            Ok(Dmarc {
                outcome: AuthOutcome::Temperror,
                domain: String::new(),
                policy_domain: String::new(),
                policy: DmarcPolicy::None,
                spf_aligned: false,
                dkim_aligned: false,
                reason: OUT_OF_TIME.to_owned(),
            })
        };
        let found = self.find(|by, subject| by.dmarc(subject), in_vain).await?;
        Ok(found.map(guest_dmarc))
    }

    async fn arc(&mut self, _: Resource<MessageHandle>) -> Found<ArcResult> {
        let in_vain = || {
            let reason = OUT_OF_TIME.to_owned();
            Ok(ArcChain { outcome: AuthOutcome::Temperror, sets: 0, sealer: None, reason })
        };
        let found = self.find(|by, subject| by.arc(subject), in_vain).await?;
        let guest = |arc: ArcChain| ArcResult {
            outcome: guest_outcome(arc.outcome),
            sets: arc.sets,
            sealer: arc.sealer,
            reason: arc.reason,
        };
        Ok(found.map(guest))
    }
}

fn guest_outcome(outcome: AuthOutcome) -> Outcome {
    match outcome {
        AuthOutcome::None => Outcome::None,
        AuthOutcome::Pass => Outcome::Pass,
        AuthOutcome::Fail => Outcome::Fail,
        AuthOutcome::Softfail => Outcome::Softfail,
        AuthOutcome::Neutral => Outcome::Neutral,
        AuthOutcome::Policy => Outcome::Policy,
        AuthOutcome::Temperror => Outcome::Temperror,
        AuthOutcome::Permerror => Outcome::Permerror,
    }
}

fn guest_spf(spf: Spf) -> SpfResult {
    SpfResult {
        outcome: guest_outcome(spf.outcome),
        identity: match spf.identity {
            SpfIdentity::Helo => GuestIdentity::Helo,
            SpfIdentity::MailFrom => GuestIdentity::MailFrom,
        },
        domain: spf.domain,
        reason: spf.reason,
        explanation: spf.explanation,
    }
}

fn guest_signature(signature: Signature) -> DkimResult {
    DkimResult {
        outcome: guest_outcome(signature.outcome),
        domain: signature.domain,
        selector: signature.selector,
        identity: signature.identity,
        algorithm: signature.algorithm,
        value: signature.value,
        testing: signature.testing,
        reason: signature.reason,
    }
}

fn guest_dmarc(dmarc: Dmarc) -> DmarcResult {
    DmarcResult {
        outcome: guest_outcome(dmarc.outcome),
        domain: dmarc.domain,
        policy_domain: dmarc.policy_domain,
        policy: match dmarc.policy {
            DmarcPolicy::None => GuestPolicy::None,
            DmarcPolicy::Quarantine => GuestPolicy::Quarantine,
            DmarcPolicy::Reject => GuestPolicy::Reject,
        },
        spf_aligned: dmarc.spf_aligned,
        dkim_aligned: dmarc.dkim_aligned,
        reason: dmarc.reason,
    }
}
