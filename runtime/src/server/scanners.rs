//! From the plugins' `scan` to the scanners of the config.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::host::dns::Lookup;
use crate::host::scan::ScannerKind;
use crate::host::{self, NameService, Subject};
use crate::mail::Evidence;
use crate::mail::evidence::Scanned;
use crate::pipeline::ClientName;
use crate::scan::{Circumstances, Kind, ScanError, Scanner, Scanners};

/// How long rspamd's question waits for the client's name, where nobody has asked for it yet.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Scanning {
    pub scanners: Arc<Scanners>,
    pub names: Arc<dyn NameService>,
}

impl host::Scanners for Scanning {
    fn has(&self, scanner: &str, kind: ScannerKind) -> bool {
        let wanted = match kind {
            ScannerKind::Clamd => Kind::Clamd,
            ScannerKind::Rspamd => Kind::Rspamd,
        };
        self.scanners.named(scanner).is_some_and(|scanner| scanner.settings().kind == wanted)
    }

    fn scan(&self, scanner: Arc<str>, subject: Subject) -> Lookup<'_, Scanned> {
        Box::pin(async move {
            let evidence = subject.mail.evidence.clone();
            let cell = evidence.scan(&scanner);
            // Dropped after the scan, where nobody waits for that any more: it won't be asked for again.
            let _given_up = GivenUp { evidence: &evidence, scanner: &scanner };
            cell.get_or_init(|| self.ask(&scanner, &subject)).await.clone()
        })
    }
}

/// A scan that nobody has waited for to its end has no result, for whoever asks next.
struct GivenUp<'a> {
    evidence: &'a Evidence,
    scanner: &'a Arc<str>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        // What is there stays.
        let _ = self.evidence.scan(self.scanner).set(Scanned::Unavailable("no answer in time".to_owned()));
    }
}

impl Scanning {
    async fn ask(&self, name: &str, subject: &Subject) -> Scanned {
        let unavailable = |why: String| Scanned::Unavailable(why);
        let Some(message) = subject.mail.evidence.received.get() else {
            return unavailable("the mail as it was received is not known".to_owned());
        };
        // It may have gone with a reload, since it was found.
        let Some(scanner) = self.scanners.named(name) else {
            return unavailable(format!("there is no scanner {name} any more"));
        };
        let said = match scanner.settings().kind {
            Kind::Clamd => scanner.virus(message).await.map(Scanned::Virus),
            Kind::Rspamd => self.assess(&scanner, subject).await,
        };
        said.unwrap_or_else(|error| match error {
            ScanError::TooBig(most) => Scanned::TooBig(most),
            ScanError::OtherKind | ScanError::Unavailable(_) => unavailable(error.to_string()),
        })
    }

    async fn assess(&self, scanner: &Scanner, subject: &Subject) -> Result<Scanned, ScanError> {
        let Some(message) = subject.mail.evidence.received.get() else {
            return Err(ScanError::Unavailable("the mail as it was received is not known".to_owned()));
        };
        let told = self.circumstances(subject).await;
        scanner.assess(message, &told).await.map(|said| Scanned::Assessment(Arc::new(said)))
    }

    /// Of mail through a relay that config trusts, what is known of the client before it (R11).
    async fn circumstances(&self, subject: &Subject) -> Circumstances {
        let (session, mail) = (&subject.session, &subject.mail);
        let before = mail.evidence.origin.get().and_then(|origin| origin.as_ref().ok()).filter(|origin| origin.relayed);
        let client = before.map_or_else(|| session.client.ip(), |origin| origin.address);
        let name = match before {
            Some(_) => timeout(NAME_TIMEOUT, self.names.client_name(client)).await.ok(),
            None => {
                let known = session.client_name.get_or_init(|| self.names.client_name(client));
                timeout(NAME_TIMEOUT, known).await.ok().cloned()
            }
        };
        let helo = match before {
            Some(origin) => origin.helo.clone(),
            None => session.helo.as_ref().map(|helo| helo.name.clone()),
        };
        Circumstances {
            client,
            client_name: name.and_then(|name| match name {
                ClientName::Verified(name) => Some(name.to_string()),
                _ => None,
            }),
            helo,
            login: session.login.as_ref().map(ToString::to_string),
            id: mail.id.to_string(),
            envelope: mail.envelope.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use tokio::net::TcpListener;
    use tokio::sync::OnceCell;

    use super::*;
    use crate::host::Scanners as _;
    use crate::host::dns::{Answer, DnsError, Question};
    use crate::mail::evidence::Origin;
    use crate::mail::{Body, Envelope, Header, Mail, Message, MessageId};
    use crate::metrics::Metrics;
    use crate::pipeline::{Helo, Role, SessionFacts, SessionId};
    use crate::scan::{Address, Settings};
    use crate::smtp::{Domain, ReversePath};

    /// Every address has the name of its last octet.
    struct Names;

    impl NameService for Names {
        fn resolve(&self, _: Question) -> Lookup<'_, Result<Answer, DnsError>> {
            Box::pin(std::future::ready(Err(DnsError::NotFound)))
        }

        fn client_name(&self, client: std::net::IpAddr) -> Lookup<'_, ClientName> {
            let last = client.to_string().rsplit('.').next().unwrap().to_owned();
            let name = Domain::parse(&format!("host{last}.example")).unwrap();
            Box::pin(std::future::ready(ClientName::Verified(name)))
        }
    }

    fn subject() -> Subject {
        let evidence = Evidence::default();
        let message = Message { header: Header::default(), body: Body::from_bytes(Bytes::from_static(b"x\r\n")) };
        evidence.received.set(message).unwrap();
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
            helo: Some(Helo { name: "seven".to_owned(), host: None, extended: true }),
            tls: None,
            login: Some("anna".into()),
            trusted: false,
        };
        Subject { session: Arc::new(session), mail: Arc::new(mail) }
    }

    fn scanning(port: u16) -> Scanning {
        let settings = Settings {
            name: "clamav".into(),
            kind: Kind::Clamd,
            address: Address::Tcp("127.0.0.1".to_owned(), port),
            timeout: Duration::from_secs(60),
            max_size: 1000,
            connections: 1,
            password: None,
            host_name: "mx.example.net".to_owned(),
        };
        let scanners = Scanners::new(vec![settings], Arc::new(Metrics::new().unwrap()));
        Scanning { scanners: Arc::new(scanners), names: Arc::new(Names) }
    }

    #[tokio::test]
    async fn a_scan_that_nobody_has_waited_for_is_not_asked_for_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scanning = scanning(listener.local_addr().unwrap().port());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                held.push(stream);
            }
        });
        let subject = subject();
        let scan = || scanning.scan("clamav".into(), subject.clone());
        timeout(Duration::from_millis(100), scan()).await.unwrap_err();
        let said = timeout(Duration::from_secs(30), scan()).await.unwrap();
        assert_eq!(said, Scanned::Unavailable("no answer in time".to_owned()));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_scanner_that_has_gone_is_unavailable() {
        let scanning = scanning(1);
        assert!(scanning.has("clamav", ScannerKind::Clamd) && !scanning.has("clamav", ScannerKind::Rspamd));
        scanning.scanners.replace(Vec::new());
        assert!(!scanning.has("clamav", ScannerKind::Clamd));
        let said = scanning.scan("clamav".into(), subject()).await;
        assert_eq!(said, Scanned::Unavailable("there is no scanner clamav any more".to_owned()));
    }

    #[tokio::test]
    async fn r11_rspamd_is_told_who_was_before_a_trusted_relay() {
        let scanning = scanning(1);
        let told = async |subject: &Subject| {
            let Circumstances { client, client_name, helo, login, .. } = scanning.circumstances(subject).await;
            (client.to_string(), client_name.unwrap(), helo.unwrap(), login.unwrap())
        };
        let text = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned(), "anna".to_owned());
        assert_eq!(told(&subject()).await, text("192.0.2.7", "host7.example", "seven"));
        let relayed = subject();
        let helo = Some("nine".to_owned());
        let origin = Origin { address: "192.0.2.9".parse().unwrap(), helo, relayed: true };
        relayed.mail.evidence.origin.set(Ok(origin)).unwrap();
        assert_eq!(told(&relayed).await, text("192.0.2.9", "host9.example", "nine"));
    }
}
