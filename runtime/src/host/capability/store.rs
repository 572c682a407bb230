//! `store`: small values that this plugin keeps in this scope.

use wasmtime::Result;

use super::super::abi::interface::store::{Host, StoreError};
use super::super::state::CallState;
use super::super::store;
use crate::pipeline::Capability;

impl From<store::StoreError> for StoreError {
    fn from(error: store::StoreError) -> Self {
        match error {
            store::StoreError::TooBig => Self::TooBig,
            store::StoreError::Full => Self::Full,
        }
    }
}

impl Host for CallState {
    fn read(&mut self, key: String) -> Result<Option<Vec<u8>>> {
        self.enter(Capability::Store, key.len())?;
        let environment = &self.environment;
        let value = environment.services.store.read(&environment.scope, &environment.name, &key);
        self.meter.pass(value.as_ref().map_or(0, Vec::len))?;
        Ok(value)
    }

    fn write(&mut self, key: String, value: Vec<u8>, seconds: u32) -> Result<std::result::Result<(), StoreError>> {
        self.enter(Capability::Store, key.len() + value.len())?;
        let environment = &self.environment;
        let written = environment.services.store.write(&environment.scope, &environment.name, &key, &value, seconds);
        if written == Err(store::StoreError::Full) {
            environment.count_full("store");
        }
        Ok(written.map_err(StoreError::from))
    }

    fn remove(&mut self, key: String) -> Result<()> {
        self.enter(Capability::Store, key.len())?;
        let environment = &self.environment;
        environment.services.store.remove(&environment.scope, &environment.name, &key);
        Ok(())
    }
}
