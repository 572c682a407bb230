//! `counters`: exact counts in windows, and blocks, of this plugin in this scope.

use wasmtime::Result;

use super::super::abi::interface::counters::{CounterError, Host};
use super::super::counter::Full;
use super::super::state::CallState;
use crate::pipeline::Capability;

impl From<Full> for CounterError {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl Host for CallState {
    fn add(&mut self, key: String, by: u64, seconds: u32) -> Result<std::result::Result<u64, CounterError>> {
        self.enter(Capability::Counters, key.len())?;
        let environment = &self.environment;
        let counters = &environment.services.counters;
        let count = counters.add(&environment.scope, &environment.name, &key, by, seconds);
        if count.is_err() {
            environment.count_full("counters");
        }
        Ok(count.map_err(CounterError::from))
    }

    fn blocked(&mut self, key: String) -> Result<Option<u64>> {
        self.enter(Capability::Counters, key.len())?;
        let environment = &self.environment;
        Ok(environment.services.counters.blocked(&environment.scope, &environment.name, &key))
    }

    fn block(&mut self, key: String, until: u64) -> Result<std::result::Result<(), CounterError>> {
        self.enter(Capability::Counters, key.len())?;
        let environment = &self.environment;
        let counters = &environment.services.counters;
        let blocked = counters.block(&environment.scope, &environment.name, &key, until);
        if blocked.is_err() {
            environment.count_full("counters");
        }
        Ok(blocked.map_err(CounterError::from))
    }
}
