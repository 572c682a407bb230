//! Refuses inbound mail to mailboxes that don't exist (X9): by a list, by asking the tenant's destination, or by both.
//!
//! *There is no such mailbox* refuses for good, `550 5.1.1`, so that no report has to go to a sender who may be forged.
//! *Nobody can say* never does: it defers, or is taken where config says so.

mod config;
#[cfg(test)]
mod tests;

use postern_sdk::call_ahead::{self, Presence};
use postern_sdk::metrics;
use postern_sdk::prelude::*;
use postern_sdk::tables::{self, TableError};

use config::{Config, OnUnavailable, Settings};

struct Recipients {
    settings: Settings,
}

#[plugin]
impl Plugin for Recipients {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { settings: config.check()? })
    }

    fn load(&self) -> Result<(), String> {
        match &self.settings.table {
            Some(table) if tables::lookup(table, "") == Err(TableError::NoTable) => {
                Err(format!("table: no table `{table}` is granted to this plugin"))
            }
            _ => Ok(()),
        }
    }

    fn wants(&self, _: Stage, direction: Direction) -> bool {
        direction == Direction::Inbound
    }

    fn rcpt(&self, _: &Session, _: &Message, recipient: &Recipient) -> Verdict {
        let address = &recipient.address;
        // RFC 5321 §4.5.1: postmaster is there, whatever lists say.
        if address.local_part.eq_ignore_ascii_case("postmaster") {
            return Verdict::Next;
        }
        match self.presence(address) {
            Ok(Presence::Exists) => {
                metrics::add("known", 1);
                Verdict::Next
            }
            Ok(Presence::Unknown(why)) => {
                metrics::add("unknown", 1);
                info!("{address}: {why}");
                reject!("550 5.1.1", "No such mailbox here")
            }
            Ok(Presence::Unavailable(why)) => {
                metrics::add("unavailable", 1);
                warn!("{address}: {why}");
                match self.settings.on_unavailable {
                    OnUnavailable::Accept => Verdict::Next,
                    OnUnavailable::Defer => {
                        defer!("450 4.1.1", "It can't be found out now whether this mailbox exists, try again later")
                    }
                }
            }
            Err(error) => {
                error!("table {:?}: {error}", self.settings.table.as_deref().unwrap_or_default());
                defer!("451 4.3.0", "Local error in processing, try again later")
            }
        }
    }
}

impl Recipients {
    fn presence(&self, address: &Address) -> Result<Presence, TableError> {
        let whole = self.without_subaddress(address);
        if let Some(table) = &self.settings.table {
            // A subaddress may stand in the list by itself.
            for address in std::iter::once(address).chain(&whole) {
                if tables::match_address(table, address)?.is_some() {
                    return Ok(Presence::Exists);
                }
            }
            if !self.settings.call_ahead {
                return Ok(Presence::Unknown(format!("not in the table {table}")));
            }
        }
        Ok(call_ahead::recipient(whole.as_ref().unwrap_or(address)))
    }

    /// `user@…` of `user+tag@…`; `None` where there is no subaddress.
    fn without_subaddress(&self, address: &Address) -> Option<Address> {
        let (user, _) = address.local_part.split_once(self.settings.separator.as_deref()?)?;
        (!user.is_empty()).then(|| Address { local_part: user.to_owned(), domain: address.domain.clone() })
    }
}
