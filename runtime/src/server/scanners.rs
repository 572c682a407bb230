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
