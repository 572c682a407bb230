//! From the plugins' `authentication` to those who verify; what was found stays with the mail.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use arc_swap::ArcSwap;

use crate::authentication::{Settings, Source, Verifier};
use crate::dns::Resolver;
use crate::host::dns::Lookup;
use crate::host::{Authenticator, Subject};
use crate::mail::evidence::{ArcChain, Dmarc, Origin, Signature, Spf, SpfIdentity};
use crate::metrics::Metrics;

pub struct Authentication {
    verifier: ArcSwap<Verifier>,
    resolver: Resolver,
    metrics: Arc<Metrics>,
}

impl Authentication {
    pub fn new(resolver: Resolver, settings: Settings, metrics: Arc<Metrics>) -> Self {
        let verifier = Verifier::new(resolver.clone(), settings, metrics.clone());
        Self { verifier: ArcSwap::from_pointee(verifier), resolver, metrics }
    }

    /// What was found so far stays as it is.
    pub fn configure(&self, settings: Settings) {
        let verifier = Verifier::new(self.resolver.clone(), settings, self.metrics.clone());
        self.verifier.store(Arc::new(verifier));
    }

    /// What needs no waiting is done at once: to wake another thread for it would cost more than most answers. The rest goes
    /// on when who has asked waits no longer, so that the next who asks finds it.
    fn find<T, F>(&self, known: Option<T>, subject: Subject, look: impl FnOnce(Look) -> F) -> Lookup<'_, Option<T>>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
    {
        if known.is_some() {
            return Box::pin(std::future::ready(known));
        }
        let mut looking = Box::pin(look(Look { verifier: self.verifier.load_full(), subject }));
        Box::pin(async move {
            match poll_fn(|context| Poll::Ready(looking.as_mut().poll(context))).await {
                Poll::Ready(found) => found,
                Poll::Pending => tokio::spawn(looking).await.ok().flatten(),
            }
        })
    }
}

impl Authenticator for Authentication {
    fn service_id(&self) -> Arc<str> {
        self.verifier.load().service_id().into()
    }

    fn origin(&self, subject: Subject) -> Lookup<'_, Option<Origin>> {
        let verifier = self.verifier.load_full();
        Box::pin(async move { Look { verifier, subject }.source().await?.ok() })
    }

    fn spf(&self, subject: Subject, identity: SpfIdentity) -> Lookup<'_, Option<Spf>> {
        let evidence = &subject.mail.evidence;
        let known = match identity {
            SpfIdentity::Helo => evidence.spf_helo.get(),
            SpfIdentity::MailFrom => evidence.spf_mail_from.get(),
        };
        self.find(known.cloned(), subject, move |look| async move { look.spf(identity).await })
    }

    fn dkim(&self, subject: Subject) -> Lookup<'_, Option<Arc<[Signature]>>> {
        self.find(subject.mail.evidence.dkim.get().cloned(), subject, |look| async move { look.dkim().await })
    }

    fn dmarc(&self, subject: Subject) -> Lookup<'_, Option<Dmarc>> {
        self.find(subject.mail.evidence.dmarc.get().cloned(), subject, |look| async move { look.dmarc().await })
    }

    fn arc(&self, subject: Subject) -> Lookup<'_, Option<ArcChain>> {
        self.find(subject.mail.evidence.arc.get().cloned(), subject, |look| async move { look.arc().await })
    }
}

/// One question about one mail. Each gives `None` where the mail's content is needed and not there yet.
struct Look {
    verifier: Arc<Verifier>,
    subject: Subject,
}

impl Look {
    async fn source(&self) -> Option<Source> {
        let (evidence, session) = (&self.subject.mail.evidence, &self.subject.session);
        if let Some(known) = evidence.origin.get() {
            return Some(known.clone());
        }
        let helo = session.helo.as_ref().map(|helo| helo.name.as_str());
        let source = self.verifier.origin(session.client.ip(), helo, evidence.received.get())?;
        Some(evidence.origin.get_or_init(|| async { source }).await.clone())
    }

    async fn spf(&self, identity: SpfIdentity) -> Option<Spf> {
        let mail = &self.subject.mail;
        let source = self.source().await?;
        let spf = match identity {
            SpfIdentity::Helo => {
                mail.evidence.spf_helo.get_or_init(|| async { self.verifier.spf_helo(&source).await }).await
            }
            SpfIdentity::MailFrom => {
                let path = mail.evidence.reverse_path.get().unwrap_or(&mail.envelope.reverse_path);
                let check = || async { self.verifier.spf_mail_from(&source, path).await };
                mail.evidence.spf_mail_from.get_or_init(check).await
            }
        };
        Some(spf.clone())
    }

    async fn dkim(&self) -> Option<Arc<[Signature]>> {
        let evidence = &self.subject.mail.evidence;
        let received = evidence.received.get()?;
        let verify = || async { self.verifier.dkim(received).await.into() };
        Some(evidence.dkim.get_or_init(verify).await.clone())
    }

    async fn dmarc(&self) -> Option<Dmarc> {
        let evidence = &self.subject.mail.evidence;
        let received = evidence.received.get()?;
        if let Some(known) = evidence.dmarc.get() {
            return Some(known.clone());
        }
        let (spf, signatures) = tokio::join!(self.spf(SpfIdentity::MailFrom), self.dkim());
        let (spf, signatures) = (spf?, signatures?);
        let check = || async { self.verifier.dmarc(received, &spf, &signatures).await };
        Some(evidence.dmarc.get_or_init(check).await.clone())
    }

    async fn arc(&self) -> Option<ArcChain> {
        let evidence = &self.subject.mail.evidence;
        let received = evidence.received.get()?;
        Some(evidence.arc.get_or_init(|| async { self.verifier.arc(received).await }).await.clone())
    }
}
