//! What was answered, bounded by octets: two generations, so that what is asked again stays and what is not goes.

use std::collections::HashMap;
use std::sync::Arc;

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::Instant;

use super::DnsError;

/// Octets that one slot stands for.
const SLOT: usize = 512;

pub(super) type Key = (Name, RecordType);

#[derive(Debug, Clone)]
struct Entry {
    answer: Result<Arc<[RData]>, DnsError>,
    expires: Instant,
    slots: usize,
}

/// Takes `slots` in all. When the young generation has half of them, it becomes the old one, and the old one goes.
#[derive(Debug)]
pub(super) struct Cache {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
    /// Of the young generation.
    used: usize,
    half: usize,
}

impl Cache {
    pub(super) fn new(slots: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), used: 0, half: slots / 2 }
    }

    pub(super) fn find(&mut self, key: &Key, now: Instant) -> Option<Result<Arc<[RData]>, DnsError>> {
        if let Some(entry) = self.young.get(key) {
            return (entry.expires > now).then(|| entry.answer.clone());
        }
        let (key, entry) = self.old.remove_entry(key)?;
        if entry.expires <= now {
            return None;
        }
        let answer = entry.answer.clone();
        self.put(key, entry);
        Some(answer)
    }

    pub(super) fn insert(&mut self, key: Key, answer: Result<Arc<[RData]>, DnsError>, expires: Instant) {
        let slots = 1 + answer.as_ref().map_or(0, |data| data.iter().map(octets).sum::<usize>() / SLOT);
        self.old.remove(&key);
        self.put(key, Entry { answer, expires, slots });
    }

    fn put(&mut self, key: Key, entry: Entry) {
        if entry.slots > self.half {
            return;
        }
        if self.used + entry.slots > self.half {
            self.old = std::mem::take(&mut self.young);
            self.used = 0;
        }
        self.used += entry.slots;
        if let Some(replaced) = self.young.insert(key, entry) {
            self.used -= replaced.slots;
        }
    }
}

/// About what a record takes in memory.
fn octets(data: &RData) -> usize {
    match data {
        RData::TXT(txt) => 64 + txt.txt_data.iter().map(|string| string.len() + 16).sum::<usize>(),
        _ => 64,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_resolver::proto::rr::rdata::TXT;

    use super::*;

    fn key(n: usize) -> Key {
        (Name::from_ascii(format!("n{n}.example.")).unwrap(), RecordType::TXT)
    }

    fn len(cache: &Cache) -> usize {
        cache.young.len() + cache.old.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_names_stays_within_the_bound_and_spares_what_is_in_use() {
        let mut cache = Cache::new(100);
        let expires = Instant::now() + Duration::from_secs(60);
        cache.insert(key(0), Err(DnsError::NotFound), expires);
        for n in 1..10_000 {
            cache.insert(key(n), Err(DnsError::NotFound), expires);
            assert!(cache.find(&key(0), Instant::now()).is_some(), "{n}");
            assert!(len(&cache) <= 100, "{n}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn big_answers_take_more_slots() {
        let mut cache = Cache::new(100);
        let expires = Instant::now() + Duration::from_secs(60);
        let big: Arc<[RData]> = [RData::TXT(TXT::new(vec!["x".repeat(200); 50]))].into();
        for n in 0..100 {
            cache.insert(key(n), Ok(big.clone()), expires);
        }
        assert!((1..=5).contains(&len(&cache)), "{}", len(&cache));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_expire() {
        let mut cache = Cache::new(100);
        cache.insert(key(0), Err(DnsError::NotFound), Instant::now() + Duration::from_secs(1));
        assert_eq!(cache.find(&key(0), Instant::now()), Some(Err(DnsError::NotFound)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(cache.find(&key(0), Instant::now()), None);
    }
}
