//! Whether there are so many sessions that patience gets short (faults.md RS4): then time-outs and the error limit shrink,
//! for sessions that are open already too. Who counts them says when; see [`Settings`](super::Settings) for how much.

use tokio::sync::watch;

use crate::log::Record;
use crate::pipeline::Clerk;

pub struct Overload {
    state: watch::Sender<bool>,
    clerk: Clerk,
}

impl Overload {
    pub fn new(clerk: Clerk) -> Self {
        Self { state: watch::Sender::new(false), clerk }
    }

    pub fn is_on(&self) -> bool {
        *self.state.borrow()
    }

    /// For sessions that wait: it wakes them when it begins or ends.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.state.subscribe()
    }

    /// With `open` sessions of at most `limit`. To set it again to what it is tells nobody.
    pub fn set(&self, on: bool, open: usize, limit: usize) {
        let changed = self.state.send_if_modified(|state| std::mem::replace(state, on) != on);
        if !changed {
            return;
        }
        self.clerk.metrics.overload.set(i64::from(on));
        let record = Record::new("overload").flag("on", on);
        self.clerk.log.emit(record.number("open", open as u64).number("limit", limit as u64));
        if on {
            tracing::warn!(open, limit, "overload: sessions get less time and fewer errors until fewer are open");
        } else {
            tracing::info!(open, limit, "the overload is over");
        }
    }
}
