//! What is known of destinations: proven, new, or down. Deliveries to those that hang take long, and all of them together
//! must not take the places of those to destinations that answer (O9): each kind has a share.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

/// Destinations that are remembered as proven while there is no mail for them: twice as many at most.
const REMEMBERED: usize = 8 * 1024;
/// The part of all deliveries that only the proven get, and the part of its own that a tenant has on top for them.
pub(super) const FOR_PROVEN: usize = 8;
/// The part that may be tries of destinations that are down.
const FOR_DOWN: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// It answered the last time.
    Proven,
    New,
    Down,
}

#[derive(Debug, Default)]
pub(super) struct Eligible {
    keys: BTreeMap<Kind, BTreeSet<Arc<str>>>,
    /// Where each destination with mail stands: its kind, and how many deliveries it has under way.
    filed: HashMap<Arc<str>, (Kind, usize)>,
    running: BTreeMap<Kind, usize>,
    proven: HashSet<Arc<str>>,
    /// Those that were proven before; whoever is not proven again is forgotten.
    before: HashSet<Arc<str>>,
}

impl Eligible {
    /// Brings it up to date with one destination. `always`: it is no next hop.
    pub(super) fn file(&mut self, key: &Arc<str>, always: bool, down: bool, running: usize, eligible: bool) {
        let proven = always || self.is_proven(key);
        let kind = match (down, proven) {
            (true, _) => Kind::Down,
            (false, true) => Kind::Proven,
            (false, false) => Kind::New,
        };
        let before = if eligible || running > 0 {
            self.filed.insert(key.clone(), (kind, running))
        } else {
            self.filed.remove(key)
        };
        if let Some((old, ran)) = before {
            let count = self.running.entry(old).or_default();
            *count = count.saturating_sub(ran);
            if let Some(keys) = self.keys.get_mut(&old) {
                keys.remove(key);
            }
        }
        *self.running.entry(kind).or_default() += running;
        if eligible {
            self.keys.entry(kind).or_default().insert(key.clone());
        }
    }

    pub(super) fn is_proven(&self, key: &Arc<str>) -> bool {
        self.proven.contains(key) || self.before.contains(key)
    }

    pub(super) fn has(&self, key: &Arc<str>) -> bool {
        self.keys.values().any(|keys| keys.contains(key))
    }

    /// The next after that one, in turn, of a kind that has room. `most`: deliveries in all.
    pub(super) fn next(&self, after: Option<&Arc<str>>, most: usize) -> Option<Arc<str>> {
        let running = |kind| self.running.get(&kind).copied().unwrap_or(0);
        let unproven = running(Kind::New) + running(Kind::Down) < (most - most / FOR_PROVEN).max(1);
        let down = unproven && running(Kind::Down) < (most / FOR_DOWN).max(1);
        let kinds = [(Kind::Proven, true), (Kind::New, unproven), (Kind::Down, down)];
        let open = || kinds.iter().filter(|(_, open)| *open).filter_map(|(kind, _)| self.keys.get(kind));
        let later = after.and_then(|turn| {
            open().filter_map(|keys| keys.range::<Arc<str>, _>((Excluded(turn), Unbounded)).next()).min()
        });
        later.or_else(|| open().filter_map(BTreeSet::first).min()).cloned()
    }

    pub(super) fn proven(&mut self, key: &Arc<str>) {
        self.proven.insert(key.clone());
        if self.proven.len() >= REMEMBERED {
            self.before = std::mem::take(&mut self.proven);
        }
    }

    pub(super) fn disproven(&mut self, key: &Arc<str>) {
        self.proven.remove(key);
        self.before.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o9_what_is_remembered_of_destinations_without_mail_is_bounded() {
        let mut eligible = Eligible::default();
        for n in 0..10 * REMEMBERED {
            let key = Arc::from(format!("mx:d{n}.example"));
            eligible.file(&key, false, false, 0, true);
            eligible.proven(&key);
            eligible.file(&key, false, false, 1, false);
            eligible.file(&key, false, false, 0, false);
        }
        assert!(eligible.proven.len() + eligible.before.len() <= 2 * REMEMBERED);
        assert!(eligible.filed.is_empty() && eligible.running.values().all(|running| *running == 0));
        assert!(eligible.keys.values().all(BTreeSet::is_empty));
    }
}
