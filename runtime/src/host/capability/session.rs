//! `session`: what is known of the client and its connection.

use tokio::time::{Instant, timeout_at};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::super::abi::interface::session::{ClientName, Helo, Host, HostSession, NoteError, Role, Tls};
use super::super::abi::interface::types::{Direction, IpAddress};
use super::super::abi::{SessionHandle, ip_to_guest};
use super::super::limits::Breach;
use super::super::state::CallState;
use super::cut;
use crate::pipeline::{self, Capability, Cause, Exemption};

/// What a plugin remembers of a session or transaction.
const MAX_NOTES: usize = 16;
const MAX_NOTE_OCTETS: usize = 4096;
/// Exemptions that one call may ask for: more tests than a chain has.
const MAX_EXEMPTIONS: usize = 64;
const MAX_EXEMPTION_NAME: usize = 256;

impl Host for CallState {}

impl HostSession for CallState {
    fn id(&mut self, _: Resource<SessionHandle>) -> Result<String> {
        self.enter(Capability::Session, 16)?;
        Ok(self.session()?.id.to_string())
    }

    fn client_address(&mut self, _: Resource<SessionHandle>) -> Result<IpAddress> {
        self.enter(Capability::Session, 16)?;
        Ok(ip_to_guest(self.session()?.client.ip()))
    }

    fn client_port(&mut self, _: Resource<SessionHandle>) -> Result<u16> {
        self.enter(Capability::Session, 2)?;
        Ok(self.session()?.client.port())
    }

    async fn client_name(&mut self, _: Resource<SessionHandle>) -> Result<ClientName> {
        self.enter(Capability::Session, 256)?;
        let session = self.asked()?.session.clone();
        let environment = self.environment.clone();
        let start = Instant::now();
        let look_up = || environment.looked_up(environment.services.names.client_name(session.client.ip()));
        let asked = session.client_name.get_or_init(look_up);
        let known = timeout_at(start + self.meter.patience(), asked).await.is_ok();
        self.meter.waited(start.elapsed());
        if !known {
            // For the whole session, so that no later stage waits once more. Where another call is asking just now,
            // it is up to that one.
            let _ = session.client_name.set(pipeline::ClientName::TemporaryFailure);
        }
        Ok(match session.client_name.get().unwrap_or(&pipeline::ClientName::TemporaryFailure) {
            pipeline::ClientName::Verified(name) => ClientName::Verified(name.to_string()),
            pipeline::ClientName::Unconfirmed(name) => ClientName::Unconfirmed(name.to_string()),
            pipeline::ClientName::None => ClientName::None,
            pipeline::ClientName::TemporaryFailure => ClientName::TemporaryFailure,
        })
    }

    fn concurrent_connections(&mut self, _: Resource<SessionHandle>) -> Result<u32> {
        self.enter(Capability::Session, 4)?;
        Ok(self.session()?.concurrent)
    }

    fn listener(&mut self, _: Resource<SessionHandle>) -> Result<String> {
        self.enter(Capability::Session, 16)?;
        Ok(self.session()?.listener.to_string())
    }

    fn role(&mut self, _: Resource<SessionHandle>) -> Result<Role> {
        self.enter(Capability::Session, 1)?;
        Ok(match self.session()?.role {
            pipeline::Role::Inbound => Role::Inbound,
            pipeline::Role::Submission => Role::Submission,
            pipeline::Role::Relay => Role::Relay,
        })
    }

    fn direction(&mut self, _: Resource<SessionHandle>) -> Result<Direction> {
        self.enter(Capability::Session, 1)?;
        Ok(if self.session()?.is_outbound() { Direction::Outbound } else { Direction::Inbound })
    }

    fn trusted(&mut self, _: Resource<SessionHandle>) -> Result<bool> {
        self.enter(Capability::Session, 1)?;
        Ok(self.session()?.trusted)
    }

    fn helo(&mut self, _: Resource<SessionHandle>) -> Result<Option<Helo>> {
        self.enter(Capability::Session, 256)?;
        let helo = self.session()?.helo.as_ref();
        Ok(helo.map(|helo| Helo { name: helo.name.clone(), extended: helo.extended }))
    }

    fn tls(&mut self, _: Resource<SessionHandle>) -> Result<Option<Tls>> {
        self.enter(Capability::Session, 256)?;
        Ok(self.session()?.tls.as_ref().map(|tls| Tls {
            version: tls.version.clone(),
            cipher: tls.cipher.clone(),
            server_name: tls.sni.clone(),
        }))
    }

    fn login(&mut self, _: Resource<SessionHandle>) -> Result<Option<String>> {
        self.enter(Capability::Session, 64)?;
        Ok(self.session()?.login.as_ref().map(ToString::to_string))
    }

    fn unknown_recipients(&mut self, _: Resource<SessionHandle>) -> Result<u32> {
        self.enter(Capability::Session, 4)?;
        let client = self.session()?.client.ip();
        Ok(self.environment.services.unknown_recipients.of(client))
    }

    fn exempt(&mut self, _: Resource<SessionHandle>, test: String, rule: String) -> Result<()> {
        self.enter(Capability::Session, test.len() + rule.len())?;
        let asked = self.asked()?;
        let exemption = Exemption {
            test: cut(&test, MAX_EXEMPTION_NAME).to_owned(),
            rule: cut(&rule, MAX_EXEMPTION_NAME).to_owned(),
        };
        if asked.exemptions.contains(&exemption) {
            return Ok(());
        }
        if asked.exemptions.len() >= MAX_EXEMPTIONS {
            return Err(Breach::new(Cause::HostCalls, format!("more than {MAX_EXEMPTIONS} exemptions")).into());
        }
        asked.exemptions.push(exemption);
        Ok(())
    }

    fn remember(
        &mut self,
        _: Resource<SessionHandle>,
        key: String,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), NoteError>> {
        self.enter(Capability::Session, key.len() + value.len())?;
        let asked = self.asked()?;
        let others = asked.notes.iter().filter(|(other, _)| **other != key);
        let (count, octets) = others.fold((0, 0), |(count, octets), (k, v)| (count + 1, octets + k.len() + v.len()));
        if count >= MAX_NOTES || octets + key.len() + value.len() > MAX_NOTE_OCTETS {
            return Ok(Err(NoteError::Full));
        }
        asked.notes_mut().insert(key, value);
        Ok(Ok(()))
    }

    fn recall(&mut self, _: Resource<SessionHandle>, key: String) -> Result<Option<Vec<u8>>> {
        self.enter(Capability::Session, key.len())?;
        let value = self.asked()?.notes.get(&key).cloned();
        self.meter.pass(value.as_ref().map_or(0, Vec::len))?;
        Ok(value)
    }

    fn drop(&mut self, _: Resource<SessionHandle>) -> Result<()> {
        // Guests only ever borrow it.
        Ok(())
    }
}
