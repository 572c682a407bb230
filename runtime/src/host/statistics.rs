//! What one loaded version of a plugin has done: how often, how fast, how well.
//!
//! Each call adds to a handful of atomics, without locks and without order among them: who reads sees numbers that may be
//! a call apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::account::Entry;
use super::breaker::BreakerState;
use crate::pipeline::{Cause, Usage};

/// Calls that failed, by cause.
#[derive(Default)]
pub(super) struct Failures([AtomicU64; Cause::COUNT]);

impl Failures {
    pub fn add(&self, cause: Cause) {
        if let Some(count) = self.0.get(cause as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The causes that there were.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, u64)> {
        let counts = Cause::ALL.into_iter().zip(&self.0).map(|(cause, count)| (cause, count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0)
    }
}

/// Of one version, since it was loaded.
pub(super) struct Statistics {
    account: Arc<Entry>,
    loaded: Timestamp,
    calls: AtomicU64,
    failures: Failures,
    memory: AtomicU64,
    wall: Histogram,
    cpu: Histogram,
}

impl Statistics {
    /// What is used is put on the account too.
    pub fn new(account: Arc<Entry>) -> Self {
        Self {
            account,
            loaded: Timestamp::now(),
            calls: AtomicU64::new(0),
            failures: Failures::default(),
            memory: AtomicU64::new(0),
            wall: Histogram::default(),
            cpu: Histogram::default(),
        }
    }

    /// A call that has run, however it ended.
    pub fn charge(&self, usage: &Usage) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.wall.observe(usage.wall);
        self.cpu.observe(usage.cpu);
        raise(&self.memory, usage.memory);
        self.account.charge(usage);
    }

    pub fn fail(&self, cause: Cause) {
        self.failures.add(cause);
        self.account.fail(cause);
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub fn failures(&self) -> u64 {
        self.failures.iter().filter(|(cause, _)| cause.is_plugins_own()).map(|(_, count)| count).sum()
    }

    pub fn report(&self, breaker: BreakerState, warm: usize) -> Activity {
        Activity {
            loaded: self.loaded,
            calls: self.calls(),
            failures: self.failures.iter().map(|(cause, count)| (cause.name().to_owned(), count)).collect(),
            wall_us: self.wall.quantiles(),
            cpu_us: self.cpu.quantiles(),
            memory_peak: self.memory.load(Ordering::Relaxed),
            breaker,
            warm,
        }
    }
}

/// The largest so far. Seldom a new one, so it is only read as a rule.
pub(super) fn raise(largest: &AtomicU64, value: u64) {
    if largest.load(Ordering::Relaxed) < value {
        largest.fetch_max(value, Ordering::Relaxed);
    }
}

/// What one version has done since it was loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    pub loaded: Timestamp,
    /// That ran; those that breaker or quota kept from running are failures only.
    pub calls: u64,
    /// By cause; causes that there were.
    pub failures: BTreeMap<String, u64>,
    /// From call to return.
    pub wall_us: Quantiles,
    pub cpu_us: Quantiles,
    /// Octets of the largest linear memory that one instance had.
    pub memory_peak: u64,
    pub breaker: BreakerState,
    /// Instances that wait for the next call.
    pub warm: usize,
}

/// Microseconds; 0 where nothing was observed. Within 3.2 % of the true value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

/// Each power of two is parted into that many buckets of equal width: the middle of a bucket is within 1/32 of all that
/// is in it.
const PARTS: u64 = 16;
const PART_BITS: u32 = PARTS.trailing_zeros();
/// Nanoseconds up to 2^40, 18 minutes; what is above counts as that.
const MAX_NANOS: u64 = (1 << 40) - 1;
const BUCKETS: usize = 592;

/// Durations in buckets that grow with them.
struct Histogram([AtomicU64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

/// The first 16 are a nanosecond each; from there on a bucket is told by exponent and the four bits below the first.
fn bucket(nanos: u64) -> u64 {
    let nanos = nanos.min(MAX_NANOS);
    match nanos.checked_ilog2() {
        Some(exponent) if exponent >= PART_BITS => {
            let shift = exponent - PART_BITS;
            u64::from(shift) * PARTS + (nanos >> shift)
        }
        _ => nanos,
    }
}

/// The middle of a bucket, in nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "40 bits fit")]
fn middle(bucket: u64) -> f64 {
    if bucket < PARTS {
        return bucket as f64;
    }
    let shift = bucket / PARTS - 1;
    let low = (PARTS + bucket % PARTS) << shift;
    let width = 1_u64 << shift;
    low as f64 + (width - 1) as f64 / 2.0
}

impl Histogram {
    fn observe(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = usize::try_from(bucket(nanos)).ok().and_then(|bucket| self.0.get(bucket)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn quantiles(&self) -> Quantiles {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let quantile = |percent: u64| {
            let rank = (all * percent).div_ceil(100);
            let mut seen = 0;
            let reached = counts.iter().zip(0_u64..).find(|(count, _)| {
                seen += **count;
                seen >= rank
            });
            // To 10 ns: more digits would be made up.
            reached.map_or(0.0, |(_, bucket)| (middle(bucket) / 10.0).round() / 100.0)
        };
        if all == 0 { Quantiles::default() } else { Quantiles { p50: quantile(50), p99: quantile(99) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_the_last_one_is_there() {
        let mut nanos = 0;
        let mut last = 0;
        while nanos < MAX_NANOS {
            let (at, middle) = (bucket(nanos), middle(bucket(nanos)));
            assert!(at == last || at == last + 1, "{nanos}: {last} {at}");
            #[expect(clippy::cast_precision_loss, reason = "40 bits fit")]
            let error = (middle - nanos as f64).abs();
            assert!(error * 31.0 <= nanos as f64, "{nanos}: {middle}");
            last = at;
            nanos += 1 + nanos / 40;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS as u64 - 1);
    }

    #[test]
    fn quantiles_are_within_their_error() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantiles(), Quantiles::default());
        (1..=1000).for_each(|micros| histogram.observe(Duration::from_micros(micros)));
        let Quantiles { p50, p99 } = histogram.quantiles();
        assert!((p50 / 500.0 - 1.0).abs() < 0.032 && (p99 / 990.0 - 1.0).abs() < 0.032, "{p50} {p99}");
        let one = Histogram::default();
        one.observe(Duration::from_secs(3));
        let Quantiles { p50, p99 } = one.quantiles();
        assert!(p50 == p99 && (p50 / 3e6 - 1.0).abs() < 0.032, "{p50} {p99}");
    }
}
