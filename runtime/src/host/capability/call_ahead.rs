//! `call-ahead`: whether a mailbox exists, as the server behind the gateway says.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use wasmtime::Result;

use super::super::abi::interface::call_ahead::{Host, Presence as GuestPresence};
use super::super::abi::interface::types::Address;
use super::super::abi::mailbox;
use super::super::state::CallState;
use super::dns::Lookup;
use crate::mail::Mail;
use crate::pipeline::Capability;
use crate::smtp::Mailbox;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    Exists,
    /// The reply that refused it for good.
    Unknown(String),
    /// Nobody can say, and why.
    Unavailable(String),
}

/// The seam between the host and those who ask. An answer is remembered there, also where who asked has stopped waiting.
pub trait CallAhead: Send + Sync {
    /// Of a recipient of the mail's tenant.
    fn recipient(&self, mail: Arc<Mail>, mailbox: Mailbox) -> Lookup<'_, Presence>;
}

impl Host for CallState {
    async fn recipient(&mut self, address: Address) -> Result<GuestPresence> {
        self.enter(Capability::CallAhead, address.local_part.len() + address.domain.len())?;
        let mail = self.mail()?.clone();
        let Ok(mailbox) = mailbox(&address) else {
            return Ok(GuestPresence::Unavailable("not an address".to_owned()));
        };
        let environment = self.environment.clone();
        let start = Instant::now();
        let asked = environment.services.call_ahead.recipient(mail, mailbox);
        let said = timeout_at(start + self.meter.long_patience(), asked).await;
        self.meter.waited(start.elapsed());
        Ok(match said.unwrap_or_else(|_| Presence::Unavailable("no answer in time".to_owned())) {
            Presence::Exists => GuestPresence::Exists,
            Presence::Unknown(reply) => GuestPresence::Unknown(reply),
            Presence::Unavailable(why) => GuestPresence::Unavailable(why),
        })
    }
}
