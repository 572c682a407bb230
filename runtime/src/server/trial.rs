//! The first minutes of a new version: when it fails too often, the one before it comes back by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::plugins::{Change, Key};
use crate::host::{BreakerState, Plugin};

/// A version that fails less than once in so many calls is not taken back: some mails are odd.
const CALLS_PER_FAILURE: u64 = 20;

/// How long a version that could not be taken back is left alone.
const PAUSE: Duration = Duration::from_secs(10);

/// New versions that are watched.
#[derive(Default)]
pub(super) struct Trials(Mutex<Vec<Trial>>);

struct Trial {
    key: Key,
    plugin: Arc<Plugin>,
    until: Instant,
    /// Calls and failures of its earlier life: a version may be tried again.
    calls: u64,
    failures: u64,
    not_before: Option<Instant>,
}

/// A version that has failed too often.
pub(super) struct Failing {
    pub key: Key,
    pub plugin: Arc<Plugin>,
    pub calls: u64,
    pub failures: u64,
}

impl Trials {
    /// Watches what has replaced something and is a version of its own: only then is there something to go back to. Ends the
    /// trials of what is replaced.
    pub fn begin(&self, changes: &[Change], window: Duration, is_version: impl Fn(&Change) -> bool) {
        let mut trials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            trials.retain(|trial| trial.key != change.key);
            if let (Some(plugin), Some(_), true) = (&change.mounted.plugin, &change.before, is_version(change)) {
                let until = Instant::now() + window;
                let (calls, failures) = (plugin.calls(), plugin.failures());
                trials.push(Trial {
                    key: change.key.clone(),
                    plugin: plugin.clone(),
                    until,
                    calls,
                    failures,
                    not_before: None,
                });
            }
        }
    }

    /// It is looked at again later.
    pub fn pause(&self, key: &Key) {
        let mut trials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let later = Instant::now() + PAUSE;
        trials.iter_mut().filter(|trial| trial.key == *key).for_each(|trial| trial.not_before = Some(later));
    }

    pub fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|trial| trial.key != *key);
    }

    /// How long the plugin is still watched.
    pub fn left(&self, key: &Key) -> Option<Duration> {
        let trials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let trial = trials.iter().find(|trial| trial.key == *key)?;
        Some(trial.until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Those that have failed `limit` times or more. Forgets those whose time is over.
    pub fn failing(&self, limit: u64) -> Vec<Failing> {
        let mut trials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        trials.retain(|trial| trial.until > now);
        let judge = |trial: &Trial| {
            if trial.not_before.is_some_and(|later| now < later) {
                return None;
            }
            let calls = trial.plugin.calls().saturating_sub(trial.calls);
            let failures = trial.plugin.failures().saturating_sub(trial.failures);
            // With an open breaker hardly any call runs that could still fail.
            let tripped = trial.plugin.breaker() != BreakerState::Closed;
            let failing = tripped || failures >= limit && failures.saturating_mul(CALLS_PER_FAILURE) >= calls;
            failing.then(|| Failing { key: trial.key.clone(), plugin: trial.plugin.clone(), calls, failures })
        };
        trials.iter().filter_map(judge).collect()
    }
}
