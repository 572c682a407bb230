//! The gateway's keys: which of them a scope may sign with, and the signatures that were asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::authentication::author_domains;
use crate::config::Settings;
use crate::host::Keys;
use crate::log::Record;
use crate::mail::{Mail, SignatureKind, SignatureRequest};
use crate::metrics::Metrics;
use crate::pipeline::{Clerk, Scope};
use crate::signing::{self, Done, Keyring, Policy, SigningError};
use crate::smtp::{Domain, Enhanced, Reply};
use crate::tenancy::Directory;

/// What a reload can change.
#[derive(Default)]
struct InForce {
    keys: Arc<Keyring>,
    policy: Policy,
    directory: Directory,
}

pub struct Signer {
    in_force: ArcSwap<InForce>,
    /// Those that come with the config that is being tried.
    coming: ArcSwap<Keyring>,
    /// Signing keeps a processor busy: no more at a time than there are.
    permits: Semaphore,
}

impl Default for Signer {
    /// Without keys.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let (in_force, coming) = (ArcSwap::default(), ArcSwap::default());
        Self { in_force, coming, permits: Semaphore::new(processors) }
    }
}

impl Signer {
    pub fn new(settings: &Settings, metrics: &Metrics) -> Self {
        let signer = Self::default();
        signer.replace(settings, metrics);
        signer
    }

    /// The keys were read with the config, so nothing can fail here. One that can't be used now stays as it was.
    pub fn replace(&self, settings: &Settings, metrics: &Metrics) {
        self.announce(settings);
        let signing = &settings.signing;
        let broken = i64::try_from(signing.keys.errors().len()).unwrap_or(i64::MAX);
        metrics.signing_keys_broken.set(broken);
        self.in_force.store(Arc::new(InForce {
            keys: signing.keys.clone().with_broken_as_in(&self.in_force.load().keys),
            policy: Policy {
                timestamp: signing.timestamp,
                validity: signing.validity.map(|validity| validity.as_secs()),
                service_id: settings.authentication.service_id.to_string(),
            },
            directory: settings.directory.clone(),
        }));
    }

    /// Before a config is tried: plugins are loaded before its keys are in force, and may ask whether those are there that
    /// they need.
    pub fn announce(&self, settings: &Settings) {
        self.coming.store(settings.signing.keys.clone());
    }

    /// Carries out what was asked for; all of it, or the mail waits: it never leaves without a signature that it was to
    /// have. True: it has changed.
    pub async fn sign(&self, mail: &mut Mail, clerk: &Clerk) -> Result<bool, Reply> {
        let requests = std::mem::take(&mut mail.signatures);
        let (false, Some(message)) = (requests.is_empty(), mail.message.clone()) else { return Ok(false) };
        let in_force = self.in_force.load_full();
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        // It is never closed.
        let _permit = self.permits.acquire().await;
        let (mut signed, asked) = (message, requests.clone());
        let carry_out = tokio::task::spawn_blocking(move || {
            let done = signing::carry_out(&mut signed, &asked, &in_force.keys, &in_force.policy, now)?;
            Ok::<_, SigningError>((signed, done))
        });
        let result = carry_out.await.unwrap_or_else(|_| Err(std::io::Error::other("interrupted").into()));
        let (message, done) = result.map_err(|error| refuse(mail, &requests, &error, clerk))?;
        let changed = done.iter().any(|(_, done)| !matches!(done, Done::Left(_)));
        for (request, done) in done {
            let (result, word) = match done {
                Done::Signed | Done::Sealed => ("made", "made"),
                Done::Left(why) => ("left", why.name()),
            };
            count(clerk, request.kind, result);
            clerk.log.emit(record(mail, &request).text("result", word));
        }
        mail.message = Some(message);
        Ok(changed)
    }
}

impl Keys for Signer {
    fn selectors(&self, scope: &Scope, mail: Option<&Mail>, domain: &Domain) -> Option<Vec<Box<str>>> {
        let in_force = self.in_force.load();
        let tenant = in_force.directory.tenant_of(domain);
        match (mail, tenant) {
            (Some(mail), Some(tenant)) if mail.tenant.as_ref() != Some(&tenant.name) => return None,
            // A domain of the platform's own vouches for nobody else's author: it may seal and stand in, but not align.
            (Some(mail), None) if mail.tenant.is_some() && is_author(mail, domain) => return None,
            _ => {}
        }
        let is_own = match scope {
            Scope::Platform => true,
            Scope::Reseller(name) => tenant.is_some_and(|tenant| tenant.reseller.as_ref() == Some(name)),
            Scope::Tenant(name) => tenant.is_some_and(|tenant| tenant.name == *name),
        };
        // Without a mail it is a plugin that is being loaded.
        let coming = self.coming.load();
        let keys = if mail.is_none() { &coming } else { &in_force.keys };
        // With those that can't be used: who asks for one of them waits, and who would ask for all must not leave with less.
        let selectors: BTreeSet<_> = keys.selectors(domain).chain(keys.broken(domain)).collect();
        is_own.then(|| selectors.into_iter().map(|selector| selector.as_str().into()).collect())
    }
}

/// The mail says that somebody of this domain, or of one below it, has written it.
fn is_author(mail: &Mail, domain: &Domain) -> bool {
    let authors = mail.message.as_ref().and_then(|message| author_domains(&message.header).ok());
    authors.into_iter().flatten().any(|author| author == *domain || author.as_str().ends_with(&format!(".{domain}")))
}

fn refuse(mail: &Mail, requests: &[SignatureRequest], error: &SigningError, clerk: &Clerk) -> Reply {
    for request in requests {
        count(clerk, request.kind, "failed");
        clerk.log.emit(record(mail, request).text("result", "failed").text("reason", error));
    }
    tracing::error!(id = %mail.id, %error, "a mail can't be signed, and waits");
    match error {
        SigningError::NoKey(_) => Reply::new(451, Some(Enhanced::new(3, 5)), "Local error in configuration"),
        SigningError::Unreadable(_) | SigningError::Key(_) => Reply::local_error(),
    }
}

fn record(mail: &Mail, request: &SignatureRequest) -> Record {
    let record = Record::new("signature").id(mail.id).text("kind", request.kind.name());
    record.text("domain", &request.domain).text("selector", &request.selector)
}

fn count(clerk: &Clerk, kind: SignatureKind, result: &str) {
    clerk.metrics.signatures.with_label_values(&[kind.name(), result]).inc();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::EventLog;
    use crate::mail::{Body, Envelope, Header, Message, MessageId};
    use crate::signing::{Algorithm, Key};
    use crate::smtp::ReversePath;
    use crate::tenancy::Tenant;

    fn signer() -> Signer {
        let key = || Key::generate(Algorithm::Ed25519).unwrap().0;
        let keys = Keyring::default().with("one.example", "s", key()).with("two.example", "t", key());
        let tenant = |name: &str, reseller: Option<&str>, domain: &str| Tenant {
            name: name.into(),
            reseller: reseller.map(Arc::from),
            domains: vec![Domain::parse(domain).unwrap()],
            destination: None,
            outbound: None,
            max_message_size: None,
            max_recipients: None,
        };
        let tenants = vec![tenant("one", Some("north"), "one.example"), tenant("two", None, "two.example")];
        let directory = Directory::new(tenants, Vec::new(), Vec::new()).unwrap();
        let signer = Signer::default();
        let policy = Policy { service_id: "mx.example.net".to_owned(), ..Policy::default() };
        let keys = Arc::new(keys);
        signer.coming.store(keys.clone());
        signer.in_force.store(Arc::new(InForce { keys, policy, directory }));
        signer
    }

    #[test]
    fn each_scope_signs_for_its_own_domains() {
        let signer = signer();
        for (scope, domain, expected) in [
            (Scope::Platform, "one.example", Some(vec!["s"])),
            (Scope::Platform, "two.example", Some(vec!["t"])),
            (Scope::Platform, "none.example", Some(vec![])),
            (Scope::Tenant("one".into()), "one.example", Some(vec!["s"])),
            (Scope::Tenant("one".into()), "two.example", None),
            (Scope::Tenant("one".into()), "sub.one.example", None),
            (Scope::Tenant("one".into()), "none.example", None),
            (Scope::Reseller("north".into()), "one.example", Some(vec!["s"])),
            (Scope::Reseller("north".into()), "two.example", None),
            (Scope::Reseller("south".into()), "one.example", None),
            // A reseller and a tenant may have one name.
            (Scope::Reseller("one".into()), "one.example", None),
            (Scope::Tenant("north".into()), "one.example", None),
        ] {
            let selectors = signer.selectors(&scope, None, &Domain::parse(domain).unwrap());
            let expected = expected.map(|names| names.into_iter().map(Box::from).collect::<Vec<Box<str>>>());
            assert_eq!(selectors, expected, "{scope} {domain}");
        }
    }

    /// Who writes a neighbour's name into From must not get the neighbour's signature for it.
    #[test]
    fn a_tenants_domain_signs_the_tenants_own_mail() {
        let signer = signer();
        let mut mail = mail(&[]);
        for (tenant, domain, may) in [
            (Some("one"), "one.example", true),
            (Some("one"), "two.example", false),
            (None, "one.example", false),
            (Some("one"), "none.example", true),
            (None, "none.example", true),
        ] {
            mail.tenant = tenant.map(Arc::from);
            let selectors = signer.selectors(&Scope::Platform, Some(&mail), &Domain::parse(domain).unwrap());
            assert_eq!(selectors.is_some(), may, "{tenant:?} {domain}");
        }
    }

    fn mail(requests: &[(SignatureKind, &str, &str)]) -> Mail {
        let message = Message {
            header: Header::parse(&bytes::Bytes::from_static(b"From: a@one.example\r\n")),
            body: Body::from_bytes(bytes::Bytes::from_static(b"hello\r\n")),
        };
        let request = |(kind, domain, selector): &(SignatureKind, &str, &str)| SignatureRequest {
            kind: *kind,
            domain: Domain::parse(domain).unwrap(),
            selector: (*selector).into(),
        };
        Mail {
            id: MessageId::next(),
            tenant: None,
            envelope: Envelope::new(ReversePath::NULL),
            message: Some(message),
            tags: Vec::new(),
            route: None,
            recipient_routes: Vec::new(),
            signatures: requests.iter().map(request).collect(),
            evidence: Arc::default(),
        }
    }

    #[tokio::test]
    async fn what_was_asked_for_is_done_or_the_mail_waits() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let clerk = Clerk { log: EventLog::new(metrics.clone()).0, metrics: metrics.clone() };
        let (dkim, arc) = (SignatureKind::Dkim, SignatureKind::Arc);
        let signer = signer();
        let mut good = mail(&[(arc, "two.example", "t"), (dkim, "one.example", "s")]);
        assert_eq!(signer.sign(&mut good, &clerk).await, Ok(true));
        let names: Vec<_> =
            good.message.as_ref().unwrap().header.fields().iter().map(|f| f.name().to_owned()).collect();
        let expected = ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results", "DKIM-Signature", "From"];
        assert_eq!((names, good.signatures), (expected.map(str::to_owned).to_vec(), vec![]));
        assert_eq!(signer.sign(&mut mail(&[]), &clerk).await, Ok(false));
        // The key was there when it was asked for, and is not any more.
        let mut late = mail(&[(dkim, "one.example", "s"), (dkim, "one.example", "gone")]);
        let reply = signer.sign(&mut late, &clerk).await.unwrap_err();
        assert_eq!((reply.code(), reply.status().as_str()), (451, "4.3.5"));
        assert_eq!(late.message.as_ref().unwrap().header.fields().len(), 1);
        let counted = |kind, result| metrics.signatures.with_label_values(&[kind, result]).get();
        assert_eq!((counted("dkim", "made"), counted("arc", "made"), counted("dkim", "failed")), (1, 1, 2));
    }
}
