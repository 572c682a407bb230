//! A gateway that starts, writes, is killed and starts again.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::host::counter::WallClock;

const HOUR: u64 = 3_600_000;
/// The beginning of an hour.
const NOW: u64 = 1_800_000_000_000;

struct Machine {
    directory: tempfile::TempDir,
    time: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

impl Machine {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            time: Arc::new(AtomicU64::new(NOW)),
            metrics: Arc::new(Metrics::new().unwrap()),
        }
    }

    fn start(&self) -> Archive {
        let time = self.time.clone();
        let clock: WallClock = Arc::new(move || time.load(Ordering::Relaxed));
        let (counters, store) = (Arc::new(Counters::new(clock.clone())), Arc::new(Store::new(clock)));
        Archive::open(self.directory.path().join("state"), counters, store, self.metrics.clone())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("state").join(name)
    }

    fn failures(&self, what: &str) -> u64 {
        self.metrics.state_failures.with_label_values(&[what]).get()
    }
}

fn add(archive: &Archive, key: &str, by: u64, seconds: u32) -> u64 {
    archive.counters.add("platform", "p", key, by, seconds).unwrap()
}

fn write(archive: &Archive, key: &str, value: &[u8]) {
    archive.store.write("tenant:a", "p", key, value, 86_400).unwrap();
}

fn value(archive: &Archive, key: &str) -> Option<Vec<u8>> {
    archive.store.read("tenant:a", "p", key)
}

#[test]
fn r72_counts_blocks_and_values_are_kept_over_a_restart() {
    let machine = Machine::new();
    let archive = machine.start();
    assert_eq!((add(&archive, "hour", 3, 3600), add(&archive, "minute", 3, 60)), (3, 3));
    archive.counters.add_until("gateway", "unknown", "ip", 7, NOW + 5 * HOUR).unwrap();
    archive.counters.block("platform", "p", "bad", NOW + 2 * HOUR).unwrap();
    archive.counters.block("platform", "p", "good", NOW + 2 * HOUR).unwrap();
    write(&archive, "k", b"v");
    write(&archive, "gone", b"v");
    archive.flush();
    add(&archive, "hour", 2, 3600);
    archive.counters.block("platform", "p", "good", 0).unwrap();
    archive.store.remove("tenant:a", "p", "gone");
    write(&archive, "k", b"w");
    archive.flush();
    add(&archive, "hour", 100, 3600);
    // Killed: what was written is there, what came after is not.
    drop(archive);
    let archive = machine.start();
    assert_eq!((add(&archive, "hour", 0, 3600), add(&archive, "minute", 0, 60)), (5, 0));
    assert_eq!(archive.counters.add_until("gateway", "unknown", "ip", 0, NOW + 5 * HOUR), Ok(7));
    assert_eq!(archive.counters.blocked("platform", "p", "bad"), Some(NOW + 2 * HOUR));
    assert_eq!(archive.counters.blocked("platform", "p", "good"), None);
    assert_eq!((value(&archive, "k"), value(&archive, "gone")), (Some(b"w".to_vec()), None));
    // And what has ended meanwhile is over.
    drop(archive);
    machine.time.fetch_add(3 * HOUR, Ordering::Relaxed);
    let archive = machine.start();
    assert_eq!((add(&archive, "hour", 0, 3600), archive.counters.blocked("platform", "p", "bad")), (0, None));
    assert_eq!(archive.counters.add_until("gateway", "unknown", "ip", 0, NOW + 5 * HOUR), Ok(7));
    assert_eq!((machine.failures("damaged"), machine.failures("write")), (0, 0));
}

#[test]
fn w15_a_file_cut_anywhere_gives_what_stands_before() {
    let machine = Machine::new();
    let archive = machine.start();
    for n in 0..5 {
        write(&archive, &n.to_string(), b"value");
        archive.flush();
    }
    drop(archive);
    let whole = std::fs::read(machine.path(FILE)).unwrap();
    let record = (whole.len() - MAGIC.len()) / 5;
    for end in MAGIC.len()..whole.len() {
        std::fs::write(machine.path(FILE), &whole[..end]).unwrap();
        let archive = machine.start();
        let there = (0..5).filter(|n| value(&archive, &n.to_string()).is_some()).count();
        assert_eq!(there, (end - MAGIC.len()) / record, "{end}");
        // It goes on behind the cut.
        write(&archive, "after", b"x");
        archive.flush();
        drop(archive);
        assert_eq!(value(&machine.start(), "after").as_deref(), Some(&b"x"[..]), "{end}");
    }
    assert_eq!(machine.failures("damaged"), 0);
}

#[test]
fn w15_a_damaged_file_is_set_aside_and_the_gateway_starts() {
    let machine = Machine::new();
    for (round, damage) in [0, MAGIC.len() + 9, usize::MAX].into_iter().enumerate() {
        let archive = machine.start();
        write(&archive, "k", b"v");
        archive.flush();
        drop(archive);
        let mut octets = std::fs::read(machine.path(FILE)).unwrap();
        match octets.get_mut(damage) {
            Some(octet) => *octet ^= 1,
            None => octets = b"short".to_vec(),
        }
        std::fs::write(machine.path(FILE), &octets).unwrap();
        let archive = machine.start();
        assert_eq!(machine.failures("damaged"), round as u64 + 1);
        assert_eq!(std::fs::read(machine.path(DAMAGED)).unwrap(), octets);
        assert_eq!(value(&archive, "k"), None);
        archive.flush();
    }
}

#[test]
fn what_is_gone_stays_gone_whatever_was_written_between() {
    let machine = Machine::new();
    let archive = machine.start();
    ["removed", "ended"].iter().for_each(|key| write(&archive, key, b"v"));
    archive.flush();
    archive.store.remove("tenant:a", "p", "removed");
    write(&archive, "removed", b"w");
    archive.store.remove("tenant:a", "p", "removed");
    // Shorter than before.
    archive.store.write("tenant:a", "p", "ended", b"w", 1).unwrap();
    machine.time.fetch_add(1000, Ordering::Relaxed);
    archive.flush();
    let again = machine.start();
    assert_eq!((value(&again, "removed"), value(&again, "ended")), (None, None));
}

#[test]
fn a_disk_that_does_not_write_loses_nothing_that_is_in_memory() {
    let machine = Machine::new();
    std::fs::write(machine.directory.path().join("state"), "in the way").unwrap();
    let archive = machine.start();
    assert_eq!(machine.failures("read"), 1);
    write(&archive, "k", b"v");
    assert!(!archive.flush());
    assert!(!archive.flush());
    assert_eq!(machine.failures("write"), 2);
    std::fs::remove_file(machine.directory.path().join("state")).unwrap();
    assert!(archive.flush());
    assert_eq!(machine.failures("write"), 2);
    assert_eq!(value(&machine.start(), "k").as_deref(), Some(&b"v"[..]));
}

#[test]
fn d5_a_directory_that_is_gone_is_not_made_anew() {
    let machine = Machine::new();
    let archive = machine.start();
    write(&archive, "k", b"v");
    std::fs::remove_dir(machine.directory.path().join("state")).unwrap();
    assert!(!archive.flush());
    assert_eq!(machine.failures("write"), 1);
    assert!(!machine.directory.path().join("state").exists());
}

/// A full disk is not written to every three seconds.
#[test]
fn d1_after_a_failure_it_waits_longer_and_not_for_ever() {
    let waits: Vec<u64> = std::iter::successors(Some(INTERVAL), |wait| Some(next_wait(*wait, false)))
        .take(9)
        .map(|wait| wait.as_secs())
        .collect();
    assert_eq!(waits, [3, 6, 12, 24, 48, 96, 192, 300, 300]);
    assert_eq!(next_wait(MAX_INTERVAL, true), INTERVAL);
}

/// More keys than are told of at a time, and all of them changing meanwhile.
#[test]
fn what_changes_while_all_is_told_is_told_the_next_time() {
    let machine = Machine::new();
    let archive = machine.start();
    let keys: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    for key in &keys {
        write(&archive, key, b"old");
        add(&archive, key, 1, 3600);
    }
    let mut told = 0;
    archive
        .each(true, |_| {
            // Nobody holds what it would wait for.
            if let Some(key) = keys.get(told % keys.len()) {
                write(&archive, key, b"new");
                add(&archive, key, 1, 3600);
            }
            told += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(told, 10_000);
    let mut again = std::collections::BTreeSet::new();
    archive
        .each(false, |record| {
            again.insert((record.kind == Kind::Value, record.key));
            Ok(())
        })
        .unwrap();
    assert!(again.iter().filter(|(is_value, _)| *is_value).count() == 5000, "{}", again.len());
    assert!(keys.iter().all(|key| add(&archive, key, 0, 3600) == 3 && value(&archive, key).unwrap() == b"new"));
}

#[test]
fn the_file_does_not_grow_without_end() {
    let machine = Machine::new();
    let archive = machine.start();
    archive.flush();
    for round in 0..40_u8 {
        for key in 0..100 {
            write(&archive, &key.to_string(), &[round; 4000]);
        }
        archive.flush();
        let octets = std::fs::metadata(machine.path(FILE)).unwrap().len();
        assert!(octets < MAX_APPENDED + 1_000_000, "{octets}");
        assert_eq!(machine.metrics.state_octets.get().cast_unsigned(), octets);
    }
    assert_eq!(value(&machine.start(), "99").as_deref(), Some(&[39; 4000][..]));
    assert_eq!((machine.metrics.store_entries.get(), machine.metrics.store_octets.get()), (100, 400_190));
}

#[test]
fn w15_writers_and_the_archive_do_not_wait_for_each_other_for_ever() {
    let machine = Machine::new();
    let archive = machine.start();
    std::thread::scope(|threads| {
        for writer in 0..4 {
            let archive = &archive;
            threads.spawn(move || {
                for n in 0..2000_u32 {
                    add(archive, "all", 1, 3600);
                    write(archive, &format!("{writer}/{}", n % 50), &n.to_le_bytes());
                    if n % 3 == 0 {
                        archive.store.remove("tenant:a", "p", &format!("{writer}/{}", n % 50));
                    }
                }
            });
        }
        threads.spawn(|| (0..50).for_each(|_| assert!(archive.flush())));
    });
    archive.flush();
    let again = machine.start();
    assert_eq!(add(&again, "all", 0, 3600), 8000);
    for key in (0..4).flat_map(|writer| (0..50).map(move |n| format!("{writer}/{n}"))) {
        assert_eq!(value(&again, &key), value(&archive, &key), "{key}");
    }
}

#[test]
fn a_clock_that_was_set_back_blocks_nobody_for_years() {
    let machine = Machine::new();
    let archive = machine.start();
    archive.counters.block("platform", "p", "k", NOW + HOUR).unwrap();
    archive.flush();
    drop(archive);
    machine.time.fetch_sub(365 * 24 * HOUR, Ordering::Relaxed);
    let now = machine.time.load(Ordering::Relaxed);
    assert_eq!(machine.start().counters.blocked("platform", "p", "k"), Some(now + 48 * HOUR));
}
