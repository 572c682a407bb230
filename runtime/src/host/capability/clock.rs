//! `clock`: the time of day, coarse, so that it does not measure what other tenants' mails take.

use wasmtime::Result;

use super::super::abi::interface::clock::Host;
use super::super::state::CallState;
use crate::pipeline::Capability;

const GRAIN_MILLIS: u64 = 10;

impl Host for CallState {
    fn now(&mut self) -> Result<u64> {
        self.enter(Capability::Clock, 8)?;
        // The clock of the counters, so that windows and blocks agree with what a plugin reads.
        let now = self.environment.services.counters.now();
        Ok(now - now % GRAIN_MILLIS)
    }

    fn next_day(&mut self) -> Result<u64> {
        self.enter(Capability::Clock, 8)?;
        let services = &self.environment.services;
        Ok(services.calendar.next_day(services.counters.now()))
    }
}
