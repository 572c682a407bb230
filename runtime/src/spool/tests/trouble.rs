//! A disk that is full, broken, or gone (D1, D3, D5).

use rustix::io::Errno;

use super::super::simulated::{Fault, Restart, SimulatedDisk};
use super::*;

fn one(id: u64) -> Batch {
    store([Content::new(id, 0, 100).entry(id, None)])
}

#[test]
fn d1_a_full_disk_is_said_so_and_recovers() {
    // The write, and the sync after it.
    for operation in [1, 2] {
        let disk = SimulatedDisk::new();
        let (spool, _) = open(&disk).unwrap();
        run(spool.commit(one(1))).unwrap();
        assert!(spool.has_room_for(1 << 40));
        disk.fail_at(operation, Fault::Error(Errno::NOSPC));
        assert_eq!(run(spool.commit(one(2))), Err(SpoolError::Full), "operation {operation}");
        assert!(spool.is_healthy());
        assert!(!spool.has_room_for(1), "refused at MAIL until there is room");
        run(spool.commit(one(3))).unwrap();
        for how in [Restart::Kill, Restart::PowerCut] {
            let (spool, recovered) = open(&disk.restart(how)).unwrap();
            assert_eq!(contents(&spool, &recovered).into_keys().collect::<Vec<_>>(), [1, 3], "operation {operation}");
        }
    }
}

#[test]
fn d1_new_mail_leaves_the_reserve() {
    let disk = SimulatedDisk::new();
    disk.set_free(1000);
    let settings = Settings { reserve: 400, ..settings("/spool".into()) };
    let (spool, _) = open_with(Arc::new(disk), settings).unwrap();
    assert!(spool.has_room_for(600));
    assert!(!spool.has_room_for(601));
    run(spool.commit(one(1))).unwrap();
    assert!(!spool.has_room_for(600), "what was written since counts");
}

/// Also when nobody commits any more, and though the segment is far from its size.
#[test]
fn d1_room_comes_back_when_the_mail_has_left() {
    for asked_first in [true, false] {
        let disk = SimulatedDisk::new();
        let settings = Settings { segment_octets: 64 << 20, ..settings("/spool".into()) };
        let (spool, _) = open_with(Arc::new(disk.clone()), settings).unwrap();
        run(spool.commit(store([Content::new(1, 0, 200_000).entry(1, None), Content::new(2, 0, 100).entry(2, None)])))
            .unwrap();
        disk.set_free(0);
        let octets = || disk.files().into_iter().filter(|(path, _)| path.starts_with("/spool/segments"));
        let octets = || octets().map(|(_, content)| content.len()).sum::<usize>();
        if asked_first {
            assert!(!spool.has_room_for(0));
        }
        run(spool.commit(done(1))).unwrap();
        assert!(asked_first || octets() > 200_000, "there is room enough, as far as is known");
        assert!(!spool.has_room_for(0));
        while octets() > 10_000 {
            std::thread::yield_now();
        }
        drop(spool);
        let (spool, recovered) = open(&disk.restart(Restart::PowerCut)).unwrap();
        assert_eq!(contents(&spool, &recovered).into_keys().collect::<Vec<_>>(), [2]);
    }
}

#[test]
fn d3_after_a_failed_sync_nothing_is_taken() {
    for operation in [1, 2] {
        let disk = SimulatedDisk::new();
        let metrics = Arc::new(Metrics::new().unwrap());
        let (spool, _) =
            SegmentSpool::open_on(Arc::new(disk.clone()), settings("/spool".into()), metrics.clone()).unwrap();
        run(spool.commit(one(1))).unwrap();
        assert_eq!(metrics.spool_healthy.get(), 1);
        disk.fail_at(operation, Fault::Error(Errno::IO));
        assert!(matches!(run(spool.commit(one(2))), Err(SpoolError::Failed(_))));
        assert!(!spool.is_healthy() && !spool.has_room_for(1));
        assert_eq!(metrics.spool_healthy.get(), 0);
        // The disk would work again: the latch stays closed all the same.
        assert!(matches!(run(spool.commit(one(3))), Err(SpoolError::Failed(_))));
        assert!(matches!(run(spool.read(MessageId::from_u64(1))), Err(SpoolError::Failed(_))));
        spool.forget(MessageId::from_u64(1));
        drop(spool);
        let (spool, recovered) = open(&disk.restart(Restart::Kill)).unwrap();
        assert_eq!(contents(&spool, &recovered).into_keys().collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn d3_a_body_file_that_can_not_be_synced_closes_the_latch_too() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    // link, open, sync
    disk.fail_at(3, Fault::Error(Errno::IO));
    let entry = Content::new(1, 0, 900).entry(1, Some(directory.path()));
    assert!(matches!(run(spool.commit(store([entry]))), Err(SpoolError::Failed(_))));
    assert!(!spool.is_healthy());
    assert!(!disk.files().keys().any(|path| path.starts_with("/spool/bodies")));
}

#[test]
fn d5_a_spool_that_is_removed_under_us_is_not_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    for remount in [false, true] {
        std::fs::create_dir(&path).unwrap();
        let (spool, _) = open_with(Arc::new(RealDisk), settings(path.clone())).unwrap();
        run(spool.commit(one(1))).unwrap();
        if remount {
            std::fs::rename(&path, directory.path().join("away")).unwrap();
        } else {
            std::fs::remove_dir_all(&path).unwrap();
        }
        assert!(matches!(run(spool.commit(one(2))), Err(SpoolError::Failed(_))));
        assert!(!spool.is_healthy());
        assert!(!path.exists());
        drop(spool);
        assert!(matches!(open_with(Arc::new(RealDisk), settings(path.clone())), Err(SpoolError::Open { .. })));
    }
}

#[test]
fn d5_reading_from_a_spool_that_is_gone() {
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    run(spool.commit(one(1))).unwrap();
    disk.remove_all();
    assert!(matches!(run(spool.read(MessageId::from_u64(1))), Err(SpoolError::Failed(_))));
    assert!(!spool.is_healthy());
}

/// What the watchdog asks: a restart would not mend a spool that has failed, so that is no reason for one.
#[test]
fn a_turn_is_had_in_health_and_in_sickness() {
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    let commits = |result| spool.shared_metrics().spool_commits.with_label_values(&[result]).get();
    run(spool.commit(one(1))).unwrap();
    run(spool.clone().turn());
    assert_eq!((commits("ok"), commits("failed")), (1, 0), "nothing is written for it");
    disk.remove_all();
    assert!(run(spool.commit(one(2))).is_err());
    assert!(!spool.is_healthy());
    run(spool.clone().turn());
    spool.shutdown();
    run(spool.clone().turn());
}

#[test]
fn too_many_open_files_pass() {
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    run(spool.commit(one(1))).unwrap();
    disk.fail_at(1, Fault::Error(Errno::MFILE));
    assert!(matches!(run(spool.read(MessageId::from_u64(1))), Err(SpoolError::Open { .. })));
    assert_eq!(Content::of(&run(spool.read(MessageId::from_u64(1))).unwrap()), Content::new(1, 0, 100));
}

#[test]
fn bodies_that_never_became_mail_are_wiped_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let open = || open_with(Arc::new(RealDisk), settings(directory.path().to_owned())).unwrap();
    open();
    for left in ["incoming/x.body", "bodies/0000000000001.0000000000000009"] {
        std::fs::write(directory.path().join(left), "left over").unwrap();
    }
    open();
    for place in ["incoming", "bodies"] {
        assert_eq!(std::fs::read_dir(directory.path().join(place)).unwrap().count(), 0, "{place}");
    }
}

/// On a full disk, what is done must be written down to make room, however many clients ask for it meanwhile.
#[test]
fn d1_what_is_forgotten_is_written_while_others_ask_for_room() {
    let disk = SimulatedDisk::new();
    let delay = Duration::from_millis(100);
    let settings = Settings { forget_delay: delay, ..settings("/spool".into()) };
    let (spool, _) = open_with(Arc::new(disk.clone()), settings).unwrap();
    let id = MessageId::from_u64(1);
    run(spool.commit(one(1))).unwrap();
    disk.set_free(0);
    spool.forget(id);
    let began = tokio::time::Instant::now();
    while run(spool.read(id)).is_ok() {
        assert!(!spool.has_room_for(1));
        assert!(began.elapsed() < 100 * delay, "nobody writes it");
    }
}
