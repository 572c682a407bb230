//! What stands behind interfaces where there is nobody to ask: it says so, and nothing that a plugin could take for an
//! answer.

use std::sync::Arc;

use super::authentication::{Authenticator, Subject};
use super::call_ahead::{CallAhead, Presence};
use super::dns::Lookup;
use super::scan::{ScannerKind, Scanners};
use super::signing::Keys;
use crate::mail::Mail;
use crate::mail::evidence::{ArcChain, AuthOutcome, Dmarc, DmarcPolicy, Origin, Scanned, Signature, Spf, SpfIdentity};
use crate::pipeline::Scope;
use crate::smtp::{Domain, Mailbox};

const NOBODY: &str = "not looked up here";

#[derive(Debug, Clone, Copy)]
pub struct Absent;

impl Authenticator for Absent {
    fn service_id(&self) -> Arc<str> {
        Arc::from("localhost")
    }

    fn origin(&self, subject: Subject) -> Lookup<'_, Option<Origin>> {
        let helo = subject.session.helo.as_ref().map(|helo| helo.name.clone());
        let origin = Origin { address: subject.session.client.ip(), helo, relayed: false };
        Box::pin(std::future::ready(Some(origin)))
    }

    fn spf(&self, _: Subject, identity: SpfIdentity) -> Lookup<'_, Option<Spf>> {
        Box::pin(std::future::ready(Some(Spf {
            outcome: AuthOutcome::Temperror,
            identity,
            domain: String::new(),
            reason: NOBODY.to_owned(),
            explanation: None,
        })))
    }

    fn dkim(&self, subject: Subject) -> Lookup<'_, Option<Arc<[Signature]>>> {
        Box::pin(std::future::ready(subject.mail.message.is_some().then(|| Arc::from([]))))
    }

    fn dmarc(&self, subject: Subject) -> Lookup<'_, Option<Dmarc>> {
        Box::pin(std::future::ready(subject.mail.message.is_some().then(|| Dmarc {
            outcome: AuthOutcome::Temperror,
            domain: String::new(),
            policy_domain: String::new(),
            policy: DmarcPolicy::None,
            spf_aligned: false,
            dkim_aligned: false,
            reason: NOBODY.to_owned(),
        })))
    }

    fn arc(&self, subject: Subject) -> Lookup<'_, Option<ArcChain>> {
        Box::pin(std::future::ready(subject.mail.message.is_some().then(|| ArcChain {
            outcome: AuthOutcome::Temperror,
            sets: 0,
            sealer: None,
            reason: NOBODY.to_owned(),
        })))
    }
}

impl Keys for Absent {
    fn selectors(&self, _: &Scope, _: Option<&Mail>, _: &Domain) -> Option<Vec<Box<str>>> {
        Some(Vec::new())
    }
}

impl Scanners for Absent {
    fn has(&self, _: &str, _: ScannerKind) -> bool {
        false
    }

    fn scan(&self, _: Arc<str>, _: Subject) -> Lookup<'_, Scanned> {
        Box::pin(std::future::ready(Scanned::Unavailable(NOBODY.to_owned())))
    }
}

impl CallAhead for Absent {
    fn recipient(&self, _: Arc<Mail>, _: Mailbox) -> Lookup<'_, Presence> {
        Box::pin(std::future::ready(Presence::Unavailable(NOBODY.to_owned())))
    }
}
