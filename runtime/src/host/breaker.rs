//! Stops asking a plugin that keeps failing, and tries it again with growing patience.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// When the breaker opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerSettings {
    /// That many failures within a minute: a plugin that fails on one odd mail goes on, one that fails on all stops.
    pub failures: usize,
    /// How long it stays open at first; doubled with each failed retry.
    pub pause: Duration,
    /// How long it stays open at most.
    pub max_pause: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 10, pause: Duration::from_secs(1), max_pause: Duration::from_secs(60) }
    }
}

/// How a plugin's breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum BreakerState {
    Closed,
    /// Nothing is asked before that time is over, then one call is let through to try.
    Open {
        retry_in_ms: u64,
    },
    /// That call is under way.
    Trying,
}

const WINDOW: Duration = Duration::from_secs(60);

pub(super) struct Breaker {
    settings: BreakerSettings,
    state: Mutex<State>,
    open: IntGauge,
}

#[derive(Default)]
struct State {
    /// When it failed in the last minute; at most as many as open the breaker.
    failures: VecDeque<Instant>,
    /// Set while it is open: when to try again, and how long it was open for.
    open: Option<(Instant, Duration)>,
    trying: bool,
}

/// Leave to call the plugin. Dropped without a word (the caller has gone) it changes nothing.
pub(super) struct Admission<'a> {
    breaker: &'a Breaker,
    trial: bool,
}

impl Breaker {
    /// The gauge counts those that are open: plugins of one name in several scopes share it.
    pub fn new(settings: BreakerSettings, open: IntGauge) -> Self {
        Self { settings, state: Mutex::default(), open }
    }

    /// `None`: it is open. When its time is up, one call at a time is let through to try.
    pub fn admit(&self) -> Option<Admission<'_>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let trial = match state.open {
            None => false,
            Some((until, _)) if Instant::now() < until || state.trying => return None,
            Some(_) => true,
        };
        state.trying |= trial;
        Some(Admission { breaker: self, trial })
    }

    pub fn state(&self) -> BreakerState {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.open {
            None => BreakerState::Closed,
            Some(_) if state.trying => BreakerState::Trying,
            Some((until, _)) => {
                let left = until.saturating_duration_since(Instant::now());
                BreakerState::Open { retry_in_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }
            }
        }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        // A plugin that was replaced while it was open is no longer open.
        if self.state.get_mut().unwrap_or_else(PoisonError::into_inner).open.is_some() {
            self.open.dec();
        }
    }
}

impl Admission<'_> {
    pub fn succeeded(self) {
        if self.trial {
            let mut state = self.breaker.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.failures.clear();
            if state.open.take().is_some() {
                self.breaker.open.dec();
            }
        }
    }

    pub fn failed(self) {
        let settings = &self.breaker.settings;
        let mut state = self.breaker.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let pause = match state.open {
            Some((_, pause)) if self.trial => (pause * 2).min(settings.max_pause),
            // A call that began before it opened.
            Some(_) => return,
            None => {
                state.failures.push_back(now);
                while state.failures.front().is_some_and(|&then| now.duration_since(then) > WINDOW) {
                    state.failures.pop_front();
                }
                if state.failures.len() < settings.failures.max(1) {
                    return;
                }
                settings.pause.max(Duration::from_secs(1))
            }
        };
        if state.open.replace((now + pause, pause)).is_none() {
            self.breaker.open.inc();
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.trial {
            self.breaker.state.lock().unwrap_or_else(PoisonError::into_inner).trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(failures: usize) -> Breaker {
        let settings = BreakerSettings { failures, ..BreakerSettings::default() };
        Breaker::new(settings, IntGauge::new("open", "open").unwrap())
    }

    fn fail(breaker: &Breaker) {
        breaker.admit().unwrap().failed();
    }

    #[tokio::test(start_paused = true)]
    async fn w3_opens_after_n_failures_within_a_minute_and_recovers() {
        let breaker = breaker(3);
        fail(&breaker);
        tokio::time::advance(Duration::from_secs(61)).await;
        fail(&breaker);
        fail(&breaker);
        assert!(breaker.admit().is_some(), "the first one is too long ago");
        fail(&breaker);
        assert_eq!(breaker.open.get(), 1);
        assert!(breaker.admit().is_none());
        assert_eq!(breaker.state(), BreakerState::Open { retry_in_ms: 1000 });
        tokio::time::advance(Duration::from_secs(1)).await;
        let trial = breaker.admit().unwrap();
        assert!(breaker.admit().is_none(), "one trial at a time");
        assert_eq!(breaker.state(), BreakerState::Trying);
        trial.succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.open.get(), 0);
        assert!(breaker.admit().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_gauge_counts_open_breakers_of_one_name() {
        let gauge = IntGauge::new("open", "open").unwrap();
        let settings = BreakerSettings { failures: 1, ..BreakerSettings::default() };
        let [one, other] = [0, 1].map(|_| Breaker::new(settings.clone(), gauge.clone()));
        fail(&one);
        fail(&other);
        assert_eq!(gauge.get(), 2);
        drop(one);
        tokio::time::advance(Duration::from_secs(1)).await;
        fail(&other);
        assert_eq!(gauge.get(), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        other.admit().unwrap().succeeded();
        assert_eq!(gauge.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_failed_trial_doubles_the_pause() {
        let breaker = breaker(1);
        fail(&breaker);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            tokio::time::advance(Duration::from_millis(pause * 1000 - 1)).await;
            assert!(breaker.admit().is_none(), "{pause}");
            tokio::time::advance(Duration::from_millis(1)).await;
            fail(&breaker);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_whose_caller_has_gone_is_no_answer() {
        let breaker = breaker(1);
        fail(&breaker);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().is_some());
    }
}
