//! Bits flip and blocks turn to zeros: damaged mail is never delivered, and its neighbours are (P3).

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;

use super::super::recover_segment;
use super::super::simulated::SimulatedDisk;
use super::*;

/// Where each message lies: its file, offset, octets.
type Places = BTreeMap<u64, (PathBuf, u64, u64)>;

/// A spool with sealed segments and, when it was not closed well, an open one.
fn spool_of(messages: u64, closed: bool) -> (SimulatedDisk, Places) {
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    for id in 0..messages {
        run(spool.commit(store([Content::new(id, 0, 300).entry(id, None)]))).unwrap();
    }
    let index = spool.shared_index();
    let place = |id| {
        let place = index.find(MessageId::from_u64(id)).unwrap().place;
        let file = Path::new("/spool/segments").join(index.name(place.segment).unwrap().file_name());
        (id, (file, place.offset, place.len))
    };
    let places = (0..messages).map(place).collect();
    drop(index);
    let as_killed = disk.restart(super::super::simulated::Restart::Kill);
    drop(spool);
    (if closed { disk } else { as_killed }, places)
}

/// Opens a damaged spool, and gives the ids of what is there and whole.
fn whole(disk: &SimulatedDisk) -> BTreeSet<u64> {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (spool, recovered) =
        SegmentSpool::open_on(Arc::new(disk.clone()), settings("/spool".into()), metrics.clone()).unwrap();
    let mut whole = BTreeSet::new();
    let mut damaged = 0;
    for found in &recovered {
        let id = found.id.as_u64();
        match run(spool.read(found.id)) {
            Ok(stored) => {
                assert_eq!(Content::of(&stored), Content::new(id, 0, 300), "damaged mail was handed out");
                whole.insert(id);
            }
            Err(error) => {
                assert_eq!(error, SpoolError::Damaged(found.id));
                assert_eq!(run(spool.read(found.id)).unwrap_err(), error, "and again");
                damaged += 1;
            }
        }
    }
    let set_aside = disk.files().keys().filter(|path| path.starts_with("/spool/corrupt")).count();
    assert!(set_aside >= damaged);
    assert_eq!(metrics.spool_damaged.get(), set_aside as u64);
    whole
}

/// All but those that the damage hit.
fn others(places: &Places, file: &Path, start: u64, end: u64) -> BTreeSet<u64> {
    let hit = |(path, offset, len): &(PathBuf, u64, u64)| path == file && start < offset + len && end > *offset;
    places.iter().filter(|(_, place)| !hit(place)).map(|(id, _)| *id).collect()
}

#[test]
fn p3_a_flipped_bit_costs_one_record() {
    for closed in [false, true] {
        let (origin, places) = spool_of(20, closed);
        for (file, content) in origin.files().iter().filter(|(path, _)| path.starts_with("/spool/segments")) {
            for bit in (0..content.len() * 8).step_by(509) {
                let disk = origin.restart(super::super::simulated::Restart::Kill);
                disk.damage(file, |content| content[bit / 8] ^= 1 << (bit % 8));
                let at = bit as u64 / 8;
                assert_eq!(whole(&disk), others(&places, file, at, at + 1), "bit {bit} of {}", file.display());
            }
        }
    }
}

#[test]
fn p3_a_zeroed_block_or_a_cut_costs_what_it_hits() {
    for closed in [false, true] {
        let (origin, places) = spool_of(40, closed);
        for (file, content) in origin.files().iter().filter(|(path, _)| path.starts_with("/spool/segments")) {
            let len = content.len();
            for start in (0..len).step_by(512) {
                let end = len.min(start + 1024);
                let disk = origin.restart(super::super::simulated::Restart::Kill);
                disk.damage(file, |content| content[start..end].fill(0));
                assert_eq!(whole(&disk), others(&places, file, start as u64, end as u64), "{start}..{end}");
                let disk = origin.restart(super::super::simulated::Restart::Kill);
                disk.damage(file, |content| content.truncate(start));
                assert_eq!(whole(&disk), others(&places, file, start as u64, u64::MAX), "cut at {start}");
            }
        }
    }
}

#[test]
fn a_damaged_or_missing_body_file_is_not_delivered() {
    let directory = tempfile::tempdir().unwrap();
    for how in ["flip", "cut", "remove"] {
        let disk = SimulatedDisk::new();
        let (spool, _) = open(&disk).unwrap();
        let entry = |id| Content::new(id, 0, 900).entry(id, Some(directory.path()));
        run(spool.commit(store([entry(1), entry(2)]))).unwrap();
        drop(spool);
        let is_first = |path: &&PathBuf| path.starts_with("/spool/bodies") && path.to_string_lossy().contains("1.0");
        let path = disk.files().keys().find(is_first).unwrap().clone();
        match how {
            "flip" => disk.damage(&path, |content| content[500] ^= 4),
            "cut" => disk.damage(&path, |content| content.truncate(899)),
            _ => disk.remove(&path).unwrap(),
        }
        let (spool, recovered) = open(&disk).unwrap();
        let first = run(spool.read(MessageId::from_u64(1))).unwrap_err();
        match how {
            "flip" => assert_eq!(first, SpoolError::Damaged(MessageId::from_u64(1))),
            _ => assert!(
                recovered.len() == 1 && first == SpoolError::NotFound(MessageId::from_u64(1)),
                "{how} {first:?}"
            ),
        }
        assert_eq!(Content::of(&run(spool.read(MessageId::from_u64(2))).unwrap()), Content::new(2, 0, 900));
        assert!(disk.files().keys().any(|path| path.starts_with("/spool/corrupt")), "{how}");
    }
}

#[test]
fn a_body_file_that_goes_missing_costs_one_message() {
    let directory = tempfile::tempdir().unwrap();
    for gone in ["body", "bodies", "segments"] {
        let disk = SimulatedDisk::new();
        let metrics = Arc::new(Metrics::new().unwrap());
        let (spool, _) =
            SegmentSpool::open_on(Arc::new(disk.clone()), settings("/spool".into()), metrics.clone()).unwrap();
        let entry = |id| Content::new(id, 0, 900).entry(id, Some(directory.path()));
        run(spool.commit(store([entry(1), entry(2)]))).unwrap();
        let is_first = |path: &&PathBuf| path.starts_with("/spool/bodies") && path.to_string_lossy().contains("1.0");
        let body = disk.files().keys().find(is_first).unwrap().clone();
        match gone {
            "body" => disk.remove(&body).unwrap(),
            other => disk.remove_directory(&Path::new("/spool").join(other)),
        }
        let first = MessageId::from_u64(1);
        for _ in 0..2 {
            let error = run(spool.read(first)).unwrap_err();
            assert_eq!(error == SpoolError::Damaged(first), gone == "body", "{gone}: {error}");
        }
        assert_eq!(spool.is_healthy(), gone == "body", "{gone}");
        if gone == "body" {
            assert_eq!(metrics.spool_damaged.get(), 1);
            assert!(disk.files().keys().any(|path| path.starts_with("/spool/corrupt")));
            assert_eq!(Content::of(&run(spool.read(MessageId::from_u64(2))).unwrap()), Content::new(2, 0, 900));
            run(spool.commit(store([entry(3)]))).unwrap();
            run(spool.commit(done(1))).unwrap();
            assert!(spool.is_healthy(), "its end does not ask for the body");
        }
    }
}

#[test]
fn a_mail_can_not_pass_for_a_record() {
    // A sender who knows the format, but not the salt, puts records into a mail whose own header then goes bad.
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    let mut forged = Vec::new();
    let mut header = super::super::record::RecordHeader::new(super::super::record::Kind::Done, MessageId::from_u64(1));
    header.group = 9;
    header.encode([0; 8], &mut forged);
    let mut content = Content::new(2, 0, 0);
    content.body = Some(forged.into());
    run(spool.commit(store([Content::new(1, 0, 300).entry(1, None)]))).unwrap();
    run(spool.commit(store([content.entry(2, None)]))).unwrap();
    let place = spool.shared_index().find(MessageId::from_u64(2)).unwrap().place;
    let disk = disk.restart(super::super::simulated::Restart::Kill);
    let file = disk.files().keys().find(|path| path.starts_with("/spool/segments")).unwrap().clone();
    disk.damage(&file, |content| content[usize::try_from(place.offset).unwrap() + 20] ^= 1);
    assert_eq!(whole(&disk), BTreeSet::from([1]));
}

#[test]
fn k18_a_newer_format_is_refused() {
    let (disk, _) = spool_of(1, true);
    let file = disk.files().keys().find(|path| path.starts_with("/spool/segments")).unwrap().clone();
    disk.damage(&file, |content| {
        content[8] = 2;
        let crc = crc32fast::hash(&content[..32]);
        content[32..36].copy_from_slice(&crc.to_le_bytes());
    });
    let error = open(&disk).err().unwrap().to_string();
    assert!(error.contains("format version 2"), "{error}");
}

proptest! {
    #[test]
    fn any_octets_may_stand_in_a_segment(data in prop::collection::vec(any::<u8>(), 0..400)) {
        recover_segment(&data);
    }

    #[test]
    fn a_real_segment_may_be_damaged_in_any_way(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 1_usize..64), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let (disk, _) = spool_of(6, true);
        let mut data = disk.files().into_iter().find(|(path, _)| path.starts_with("/spool/segments")).unwrap().1;
        let records = recover_segment(&data);
        prop_assert_eq!(records, 6);
        for (at, value, len) in changes {
            let at = at.index(data.len());
            let end = data.len().min(at + len);
            data[at..end].fill(value);
        }
        data.truncate(cut.index(data.len()) + 1);
        prop_assert!(recover_segment(&data) <= records);
    }
}
