//! `scan`: what clamd and rspamd say of a mail. The host asks them; a plugin sees the answer.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::super::abi::interface::scan::{Assessment as GuestAssessment, Host, ScanError, Symbol};
use super::super::abi::{MessageHandle, SessionHandle};
use super::super::state::CallState;
use super::authentication::Subject;
use super::dns::Lookup;
use crate::mail::evidence::Scanned;
use crate::pipeline::{Capability, Stage};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScannerKind {
    /// Viruses.
    Clamd,
    /// Spam.
    Rspamd,
}

/// The seam between the host and the scanners. What one said is kept with the mail, so that it is asked once, also where
/// who asked first has stopped waiting.
pub trait Scanners: Send + Sync {
    /// There is one of that name and kind.
    fn has(&self, scanner: &str, kind: ScannerKind) -> bool;
    fn scan(&self, scanner: Arc<str>, subject: Subject) -> Lookup<'_, Scanned>;
}

impl CallState {
    async fn scan(&mut self, scanner: &str, kind: ScannerKind) -> Result<std::result::Result<Scanned, ScanError>> {
        self.enter(Capability::Scan, scanner.len() + 64)?;
        let environment = self.environment.clone();
        let asked = self.asked()?;
        // Later the mail as it was received is not known any more.
        if asked.stage != Stage::Data || asked.mail.as_ref().is_none_or(|mail| mail.message.is_none()) {
            return Ok(Err(ScanError::Stage));
        }
        let scanners = &environment.services.scanners;
        let granted = environment.scanners.get(scanner).filter(|name| scanners.has(name, kind));
        let Some(scanner) = granted.cloned() else { return Ok(Err(ScanError::NoScanner)) };
        let subject = self.subject()?;
        let start = Instant::now();
        let scan = async {
            // Of mail through a relay that is trusted, rspamd is told who was before it.
            if kind == ScannerKind::Rspamd {
                environment.services.authenticator.origin(subject.clone()).await;
            }
            scanners.scan(scanner, subject).await
        };
        let said = timeout_at(start + self.meter.long_patience(), scan).await;
        self.meter.waited(start.elapsed());
        Ok(match said {
            Ok(Scanned::TooBig(most)) => Err(ScanError::TooBig(most)),
            Ok(Scanned::Unavailable(why)) => Err(ScanError::Unavailable(why)),
            Ok(said) => Ok(said),
            Err(_) => Err(ScanError::Unavailable("no answer in time".to_owned())),
        })
    }
}

/// It has answered as one of the other kind would.
fn nonsense<T>() -> std::result::Result<T, ScanError> {
    Err(ScanError::Unavailable("an answer that makes no sense".to_owned()))
}

impl Host for CallState {
    async fn virus(
        &mut self,
        _: Resource<MessageHandle>,
        scanner: String,
    ) -> Result<std::result::Result<Option<String>, ScanError>> {
        Ok(match self.scan(&scanner, ScannerKind::Clamd).await? {
            Ok(Scanned::Virus(name)) => Ok(name),
            Ok(_) => nonsense(),
            Err(error) => Err(error),
        })
    }

    async fn assess(
        &mut self,
        _: Resource<SessionHandle>,
        _: Resource<MessageHandle>,
        scanner: String,
    ) -> Result<std::result::Result<GuestAssessment, ScanError>> {
        let said = match self.scan(&scanner, ScannerKind::Rspamd).await? {
            Ok(Scanned::Assessment(said)) => said,
            Ok(_) => return Ok(nonsense()),
            Err(error) => return Ok(Err(error)),
        };
        self.meter.pass(said.symbols.iter().map(|(name, _)| name.len() + 8).sum())?;
        let symbol = |(name, score): &(String, f64)| Symbol { name: name.clone(), score: *score };
        Ok(Ok(GuestAssessment {
            score: said.score,
            required: said.required,
            action: said.action.clone(),
            symbols: said.symbols.iter().map(symbol).collect(),
            subject: said.subject.clone(),
            text: said.text.clone(),
        }))
    }
}
