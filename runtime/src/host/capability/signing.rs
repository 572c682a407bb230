//! `signing`: requests for signatures, by keys that no plugin sees. They travel in the journal and are carried out after
//! the last chain of `deliver`.

use wasmtime::Result;
use wasmtime::component::Resource;

use super::super::abi::MessageHandle;
use super::super::abi::interface::signing::{Host, SigningError};
use super::super::state::CallState;
use crate::mail::{Mail, SignatureKind, SignatureRequest};
use crate::pipeline::{Capability, Scope, Stage};
use crate::smtp::Domain;

/// Requests of one call.
const MAX_REQUESTS: usize = 8;

/// The seam between the host and those who keep the keys.
pub trait Keys: Send + Sync {
    /// Selectors of that domain's keys. `None`: the domain is none of this scope's, or another tenant's than the mail's: who
    /// writes a neighbour's name into From must not get the neighbour's signature for it.
    fn selectors(&self, scope: &Scope, mail: Option<&Mail>, domain: &Domain) -> Option<Vec<Box<str>>>;
}

impl CallState {
    fn request(&mut self, kind: SignatureKind, domain: &str, selector: &str) -> std::result::Result<(), SigningError> {
        let environment = self.environment.clone();
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.stage == Stage::Deliver) else {
            return Err(SigningError::Stage);
        };
        let Ok(domain) = Domain::parse(domain) else { return Err(SigningError::NoKey) };
        let keys = environment.services.keys.selectors(&environment.owner, asked.mail.as_deref(), &domain);
        let keys = keys.ok_or(SigningError::Denied)?;
        let selector = keys.into_iter().find(|key| **key == *selector).ok_or(SigningError::NoKey)?;
        let request = SignatureRequest { kind, domain, selector };
        asked.journal.sign(request, MAX_REQUESTS).map_err(|_| SigningError::Full)
    }
}

impl Host for CallState {
    fn selectors(&mut self, domain: String) -> Result<Vec<String>> {
        self.enter(Capability::Signing, domain.len())?;
        let environment = &self.environment;
        let Ok(domain) = Domain::parse(&domain) else { return Ok(Vec::new()) };
        let mail = self.asked.as_ref().and_then(|asked| asked.mail.as_deref());
        let selectors = environment.services.keys.selectors(&environment.owner, mail, &domain).unwrap_or_default();
        self.meter.pass(selectors.iter().map(|selector| selector.len()).sum())?;
        Ok(selectors.into_iter().map(String::from).collect())
    }

    fn sign(
        &mut self,
        _: Resource<MessageHandle>,
        domain: String,
        selector: String,
    ) -> Result<std::result::Result<(), SigningError>> {
        self.enter(Capability::Signing, domain.len() + selector.len())?;
        Ok(self.request(SignatureKind::Dkim, &domain, &selector))
    }

    fn seal(
        &mut self,
        _: Resource<MessageHandle>,
        domain: String,
        selector: String,
    ) -> Result<std::result::Result<(), SigningError>> {
        self.enter(Capability::Signing, domain.len() + selector.len())?;
        Ok(self.request(SignatureKind::Arc, &domain, &selector))
    }
}
