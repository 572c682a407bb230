//! From the plugins' `authentication` to those who verify; what was found stays with the mail.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use arc_swap::ArcSwap;

use crate::authentication::{DmarcInquiry, Settings, Source, Verifier};
use crate::dns::Resolver;
use crate::host::dns::Lookup;
use crate::host::{Authenticator, Subject};
use crate::mail::Message;
use crate::mail::evidence::{ArcChain, Dmarc, Origin, Signature, Spf, SpfIdentity};
use crate::metrics::Metrics;
use crate::smtp::ReversePath;

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
                let check = || async { self.verifier.spf_mail_from(&source, self.reverse_path()).await };
                mail.evidence.spf_mail_from.get_or_init(check).await
            }
        };
        Some(spf.clone())
    }

    /// As the client gave it.
    fn reverse_path(&self) -> &ReversePath {
        let mail = &self.subject.mail;
        mail.evidence.reverse_path.get().unwrap_or(&mail.envelope.reverse_path)
    }

    async fn dkim(&self) -> Option<Arc<[Signature]>> {
        let evidence = &self.subject.mail.evidence;
        let received = evidence.received.get()?;
        let known = || evidence.dkim_aligning.get().map_or(&[][..], Vec::as_slice);
        let verify = || async { self.verifier.dkim(received, known()).await.into() };
        Some(evidence.dkim.get_or_init(verify).await.clone())
    }

    async fn dmarc(&self) -> Option<Dmarc> {
        let evidence = &self.subject.mail.evidence;
        let received = evidence.received.get()?;
        if let Some(known) = evidence.dmarc.get() {
            return Some(known.clone());
        }
        let (source, path) = (self.source().await?, self.reverse_path());
        let check = || async {
            let inquiry = self.verifier.dmarc_inquiry(received, &source, path).await;
            let (spf, signatures) = tokio::join!(self.spf_for(&inquiry), self.dkim_for(&inquiry, received));
            self.verifier.dmarc(inquiry, spf.as_ref(), &signatures).await
        };
        Some(evidence.dmarc.get_or_init(check).await.clone())
    }

    /// What can't align is not waited for: a stranger's name servers don't decide when a mail is answered.
    async fn spf_for(&self, inquiry: &DmarcInquiry) -> Option<Spf> {
        let domain = &inquiry.claims().spf;
        match self.subject.mail.evidence.spf_mail_from.get() {
            None if inquiry.depends_on_spf(domain) => self.spf(SpfIdentity::MailFrom).await,
            known => known.cloned(),
        }
    }

    /// As [`spf_for`](Self::spf_for). What is verified here, [`dkim`](Self::dkim) does not verify again.
    async fn dkim_for(&self, inquiry: &DmarcInquiry, received: &Message) -> Arc<[Signature]> {
        let evidence = &self.subject.mail.evidence;
        let matters = |domain: &str| inquiry.depends_on_dkim(domain);
        match evidence.dkim.get() {
            Some(known) => known.clone(),
            None if inquiry.claims().dkim.iter().all(|domain| matters(domain)) => self.dkim().await.unwrap_or_default(),
            None => {
                let verify = || self.verifier.dkim_of(received, matters);
                let verified = evidence.dkim_aligning.get_or_init(verify).await;
                verified.iter().map(|(_, signature)| signature.clone()).collect()
            }
        }
    }

    async fn arc(&self) -> Option<ArcChain> {
        let evidence = &self.subject.mail.evidence;
        let received = evidence.received.get()?;
        Some(evidence.arc.get_or_init(|| async { self.verifier.arc(received).await }).await.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use hickory_resolver::proto::op::ResponseCode;
    use hickory_resolver::proto::rr::RecordType;
    use tokio::sync::OnceCell;
    use tokio::time::timeout;

    use super::*;
    use crate::dns;
    use crate::dns::responder::{Answer, Responder, txt};
    use crate::mail::evidence::{AuthOutcome, Evidence};
    use crate::mail::{Body, Envelope, Header, Mail, MessageId};
    use crate::pipeline::{Role, SessionFacts, SessionId};

    fn subject(sender: &str, header: &str) -> Subject {
        let evidence = Evidence::default();
        let header = Header::parse(&Bytes::from(header.replace('\n', "\r\n")));
        evidence.received.set(Message { header, body: Body::from_bytes(Bytes::from_static(b"x\r\n")) }).unwrap();
        evidence.reverse_path.set(ReversePath(Some(sender.parse().unwrap()))).unwrap();
        let mail = Mail {
            id: MessageId::next(),
            tenant: None,
            envelope: Envelope::new(ReversePath::NULL),
            message: None,
            tags: Vec::new(),
            route: None,
            recipient_routes: Vec::new(),
            signatures: Vec::new(),
            evidence: Arc::new(evidence),
        };
        let session = SessionFacts {
            id: SessionId::next(),
            client: "192.0.2.7:40000".parse().unwrap(),
            local: "192.0.2.1:25".parse().unwrap(),
            listener: "mx".into(),
            role: Role::Inbound,
            client_name: Arc::new(OnceCell::new()),
            concurrent: 1,
            helo: None,
            tls: None,
            login: None,
            trusted: false,
        };
        Subject { session: Arc::new(session), mail: Arc::new(mail) }
    }

    fn signature(domain: &str) -> String {
        format!("DKIM-Signature: v=1; a=rsa-sha256; d={domain}; s=s; h=From; bh=YWJj; b=YWJj\n")
    }

    /// Name servers of a stranger that never answer must not turn a refusal into a delay; those of who might stand behind
    /// the author may.
    #[tokio::test]
    async fn n1_dmarc_does_not_wait_for_what_can_not_align() {
        let dns = Responder::start().await;
        dns.set("_dmarc.strict.example", RecordType::TXT, Answer::Records(vec![txt(&["v=DMARC1; p=reject"])]));
        for name in ["stranger.example", "s._domainkey.stranger.example", "slow.strict.example"] {
            dns.set(name, RecordType::TXT, Answer::Silent);
        }
        let (never, metrics) = (Duration::from_secs(600), Arc::new(Metrics::new().unwrap()));
        let patient = dns::Settings { timeout: never, attempts: 1, ..dns.settings() };
        let resolver = Resolver::new(patient, metrics.clone()).unwrap();
        let settings = Settings { dns_time: never, ..Settings::default() };
        let authentication = Authentication::new(resolver, settings, metrics);
        let (stranger, own) = (signature("stranger.example"), signature("strict.example"));
        for (sender, signatures, reason) in [
            ("joe@stranger.example", String::new(), "SPF is that of stranger.example, it is not signed"),
            (
                "joe@stranger.example",
                stranger.clone(),
                "SPF is that of stranger.example, its signature is that of stranger.example",
            ),
            // The one that could align is verified: there is no such key.
            ("joe@strict.example", format!("{stranger}{own}"), "SPF gave none, its signature gave permerror"),
        ] {
            let subject = subject(sender, &format!("{signatures}From: boss@strict.example\n"));
            let found = timeout(Duration::from_secs(30), authentication.dmarc(subject)).await.unwrap().unwrap();
            assert_eq!(found.outcome, AuthOutcome::Fail, "{sender}: {found:?}");
            assert!(found.reason.ends_with(reason), "{}", found.reason);
        }
        let waits = authentication.dmarc(subject("joe@slow.strict.example", "From: boss@strict.example\n"));
        assert!(timeout(Duration::from_millis(200), waits).await.is_err(), "it might yet pass");
    }

    /// A failure of the name server is not cached, so each verification of such a signature, and each SPF check, asks anew.
    #[tokio::test]
    async fn each_signature_and_spf_is_verified_once_whoever_asks_first() {
        let policy = || Answer::Records(vec![txt(&["v=DMARC1; p=reject"])]);
        let keys = ["s._domainkey.stranger.example", "s._domainkey.own.example"];
        for dmarc_first in [true, false] {
            let dns = Responder::start().await;
            dns.set("_dmarc.own.example", RecordType::TXT, policy());
            for name in [keys[0], keys[1], "own.example"] {
                dns.set(name, RecordType::TXT, Answer::Code(ResponseCode::ServFail));
            }
            let metrics = Arc::new(Metrics::new().unwrap());
            let resolver = Resolver::new(dns::Settings { attempts: 1, ..dns.settings() }, metrics.clone()).unwrap();
            let authentication = Authentication::new(resolver, Settings::default(), metrics);
            let signatures = format!("{}{}", signature("stranger.example"), signature("own.example"));
            let subject = subject("joe@own.example", &format!("{signatures}From: boss@own.example\n"));
            let asked = || ["own.example", keys[1], keys[0]].map(|name| dns.queries(name, RecordType::TXT));
            if dmarc_first {
                authentication.dmarc(subject.clone()).await.unwrap();
                let [spf, aligning, stranger] = asked();
                assert!(spf > 0 && aligning > 0 && stranger == 0, "{spf} {aligning} {stranger}");
            }
            let told = authentication.dkim(subject.clone()).await.unwrap();
            let told: Vec<_> = told.iter().map(|told| (told.domain.as_str(), told.outcome)).collect();
            let temperror = AuthOutcome::Temperror;
            assert_eq!(told, [("stranger.example", temperror), ("own.example", temperror)], "in their order");
            authentication.spf(subject.clone(), SpfIdentity::MailFrom).await.unwrap();
            let once = asked();
            assert!(once[1] > 0 && once.iter().all(|count| *count == once[1]), "{once:?}");
            authentication.dmarc(subject.clone()).await.unwrap();
            authentication.dkim(subject.clone()).await.unwrap();
            authentication.spf(subject, SpfIdentity::MailFrom).await.unwrap();
            assert_eq!(asked(), once);
        }
    }
}
