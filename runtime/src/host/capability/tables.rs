//! `tables`: look-ups in the lists that the plugin's entry names.

use wasmtime::Result;

use super::super::abi::interface::tables::{Host, TableError};
use super::super::abi::interface::types::{Address, IpAddress};
use super::super::abi::{ip_from_guest, mailbox};
use super::super::state::CallState;
use super::super::table::Table;
use crate::pipeline::Capability;

type Found = Result<std::result::Result<Option<String>, TableError>>;

impl CallState {
    fn look(&mut self, octets: usize, name: &str, find: impl Fn(&Table) -> Option<&str>) -> Found {
        self.enter(Capability::Tables, octets + name.len())?;
        let found = match self.environment.tables.table(name) {
            None => return Ok(Err(TableError::NoTable)),
            Some(None) => return Ok(Err(TableError::Unavailable)),
            Some(Some(table)) => find(&table).map(str::to_owned),
        };
        self.meter.pass(found.as_ref().map_or(0, String::len))?;
        Ok(Ok(found))
    }
}

impl Host for CallState {
    fn lookup(&mut self, table: String, key: String) -> Found {
        self.look(key.len(), &table, |table| table.lookup(&key))
    }

    fn match_address(&mut self, table: String, address: Address) -> Found {
        let octets = address.local_part.len() + address.domain.len();
        // What is no address is in no table.
        let mailbox = mailbox(&address).ok();
        self.look(octets, &table, |table| table.match_address(mailbox.as_ref()?))
    }

    fn match_domain(&mut self, table: String, domain: String) -> Found {
        self.look(domain.len(), &table, |table| table.match_domain(&domain))
    }

    fn match_ip(&mut self, table: String, address: IpAddress) -> Found {
        self.look(16, &table, |table| table.match_ip(ip_from_guest(address)))
    }
}
