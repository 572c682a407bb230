//! What the tests of the spool share, and the tests of what it does when all goes well.

mod crash;
mod damage;
mod model;
mod trouble;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::disk::{Disk, RealDisk};
use super::simulated::SimulatedDisk;
use super::{Batch, Entry, Recovered, SegmentSpool, Settings, Spool, SpoolError, Stored};
use crate::mail::{Body, BodyWriter, Header, Message, MessageId};
use crate::metrics::Metrics;

/// Bodies above it that are files stay files.
const INLINE: u64 = 600;

fn settings(directory: PathBuf) -> Settings {
    Settings {
        segment_octets: 4096,
        inline_octets: INLINE,
        // What is forgotten rides on commits alone, so the order of operations is the same in each run.
        forget_delay: Duration::from_secs(3600),
        ..Settings::new(directory, 0)
    }
}

fn open(disk: &SimulatedDisk) -> Result<(Arc<SegmentSpool>, Vec<Recovered>), SpoolError> {
    open_with(Arc::new(disk.clone()), settings("/spool".into()))
}

fn open_with(disk: Arc<dyn Disk>, settings: Settings) -> Result<(Arc<SegmentSpool>, Vec<Recovered>), SpoolError> {
    SegmentSpool::open_on(disk, settings, Arc::new(Metrics::new().unwrap()))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// What a message is, as a test compares it: meta, state, header, whether there is a body, body.
#[derive(Clone, PartialEq, Eq)]
struct Content {
    meta: Bytes,
    state: Option<Bytes>,
    header: Bytes,
    body: Option<Bytes>,
}

/// Short: a failed comparison shows many.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.meta, self.state, self.body.as_ref().map(Bytes::len))
    }
}

impl Content {
    /// Differs for each id and version; the body has that many octets.
    fn new(id: u64, version: u64, octets: usize) -> Self {
        let body = (0..octets as u64).map(|at| u8::try_from((at * 7 + id * 31 + version) % 251).unwrap()).collect();
        Self {
            meta: Bytes::from(format!("meta {id} {version}")),
            state: None,
            header: Bytes::from(format!("Subject: {id}\r\n version {version}\r\n")),
            body: Some(body),
        }
    }

    fn of(stored: &Stored) -> Self {
        let body = &stored.message.body;
        let octets = body.read_at(0, usize::MAX).unwrap();
        assert_eq!(octets.len() as u64, body.len());
        Self {
            meta: stored.meta.clone(),
            state: stored.state.clone(),
            header: stored.message.header.to_bytes(),
            body: body.is_separated().then_some(octets),
        }
    }

    /// With the body in a file of its own in `directory`, when there is one.
    fn entry(&self, id: u64, directory: Option<&std::path::Path>) -> Entry {
        let body = match (&self.body, directory) {
            (None, _) => Body::absent(),
            (Some(body), None) => Body::from_bytes(body.clone()),
            (Some(body), Some(directory)) => {
                let mut writer = BodyWriter::new(directory.to_owned(), 0);
                writer.push(body);
                writer.flush().unwrap();
                writer.finish().unwrap()
            }
        };
        let message = Message { header: Header::parse(&self.header), body };
        Entry { id: MessageId::from_u64(id), meta: self.meta.clone(), state: self.state.clone(), message }
    }
}

/// What the spool holds, asked for in both ways.
fn contents(spool: &SegmentSpool, recovered: &[Recovered]) -> BTreeMap<u64, Content> {
    let mut contents = BTreeMap::new();
    for found in recovered {
        let stored = run(spool.read(found.id)).unwrap();
        assert_eq!((&stored.meta, &stored.state), (&found.meta, &found.state), "{}", found.id);
        assert_eq!(stored.message.len(), found.size, "{}", found.id);
        contents.insert(found.id.as_u64(), Content::of(&stored));
    }
    contents
}

fn store(entries: impl IntoIterator<Item = Entry>) -> Batch {
    Batch { store: entries.into_iter().collect(), ..Batch::default() }
}

fn done(id: u64) -> Batch {
    Batch { done: vec![MessageId::from_u64(id)], ..Batch::default() }
}

fn state(id: u64, state: &'static str) -> Batch {
    Batch { state: vec![(MessageId::from_u64(id), Bytes::from_static(state.as_bytes()))], ..Batch::default() }
}

#[test]
fn what_was_committed_is_read_back_now_and_after_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let open = || open_with(Arc::new(RealDisk), settings(directory.path().to_owned())).unwrap();
    let (spool, recovered) = open();
    assert!(recovered.is_empty());
    let incoming = spool.incoming_directory().to_owned();
    let mut expected = BTreeMap::new();
    // In memory and in files, around the limit and far above it; without body.
    for (id, octets, file) in [
        (1, 0, false),
        (2, 10, true),
        (3, 600, true),
        (4, 601, true),
        (5, 300_000, true),
        (6, 300_000, false),
        (7, 0, false),
    ] {
        let mut content = Content::new(id, 0, octets);
        if id == 7 {
            content.body = None;
        }
        content.state = (id % 2 == 0).then(|| Bytes::from_static(b"with the entry"));
        run(spool.commit(store([content.entry(id, file.then_some(&incoming))]))).unwrap();
        expected.insert(id, content);
    }
    run(spool.commit(state(1, "later"))).unwrap();
    expected.get_mut(&1).unwrap().state = Some(Bytes::from_static(b"later"));
    run(spool.commit(state(99, "of nothing"))).unwrap();
    for (id, content) in &expected {
        let stored = run(spool.read(MessageId::from_u64(*id))).unwrap();
        assert_eq!(Content::of(&stored), *content, "{id}");
        assert_eq!(
            stored.message.body.as_file().is_some(),
            content.body.as_ref().is_some_and(|b| b.len() as u64 > INLINE)
        );
    }
    assert_eq!(run(spool.read(MessageId::from_u64(99))).unwrap_err(), SpoolError::NotFound(MessageId::from_u64(99)));
    assert_eq!(std::fs::read_dir(&incoming).unwrap().count(), 0, "the bodies' first names are gone");
    drop(spool);
    let (spool, recovered) = open();
    assert_eq!(contents(&spool, &recovered), expected);
}

#[test]
fn a_body_outlives_its_record_and_is_linked_when_stored_again() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open_with(Arc::new(RealDisk), settings(directory.path().to_owned())).unwrap();
    let bodies = || std::fs::read_dir(directory.path().join("bodies")).unwrap().count();
    let (first, inline) = (Content::new(1, 0, 5000), Content::new(2, 0, 5000));
    run(spool.commit(store([first.entry(1, Some(spool.incoming_directory())), inline.entry(2, None)]))).unwrap();
    let stored = run(spool.read(MessageId::from_u64(1))).unwrap();
    let in_segment = run(spool.read(MessageId::from_u64(2))).unwrap();
    assert_eq!(bodies(), 1);

    // The queue stores a message anew when a hook has changed its header: the same body, with another header.
    let again = |id, stored: &Stored| {
        let mut message = stored.message.clone();
        message.header = Header::parse(&Bytes::from_static(b"New: yes\r\n"));
        store([Entry { id: MessageId::from_u64(id), meta: Bytes::new(), state: None, message }])
    };
    run(spool.commit(again(1, &stored))).unwrap();
    run(spool.commit(again(2, &in_segment))).unwrap();
    assert_eq!(bodies(), 2, "one each; what was replaced is gone");
    for (id, before) in [(1, &first), (2, &inline)] {
        let changed = Content::of(&run(spool.read(MessageId::from_u64(id))).unwrap());
        assert_eq!((&changed.header[..], &changed.body), (&b"New: yes\r\n"[..], &before.body));
    }

    run(spool.commit(Batch { done: vec![MessageId::from_u64(1), MessageId::from_u64(2)], ..Batch::default() }))
        .unwrap();
    assert_eq!(bodies(), 0);
    assert_eq!(Content::of(&stored), first);
    assert_eq!(Content::of(&in_segment), inline);
}

#[test]
fn many_writers_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { segment_octets: 100_000, ..settings(directory.path().to_owned()) };
    let metrics = Arc::new(Metrics::new().unwrap());
    let (spool, _) = SegmentSpool::open(settings.clone(), metrics.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let writers = (0..64).map(|writer| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for number in 0..20 {
                    let id = writer * 100 + number;
                    spool.commit(store([Content::new(id, 0, 500).entry(id, None)])).await.unwrap();
                    if number % 2 == 0 {
                        spool.forget(MessageId::from_u64(id));
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
    assert!(metrics.spool_commits.with_label_values(&["ok"]).get() < 1280, "batches share syncs");
    drop(spool);
    let (spool, recovered) = open_with(Arc::new(RealDisk), settings).unwrap();
    let found = contents(&spool, &recovered);
    let expected = (0..64).flat_map(|w| (0..20).map(move |n| w * 100 + n)).filter(|id| id % 2 == 1);
    assert_eq!(found, expected.map(|id| (id, Content::new(id, 0, 500))).collect());
}

#[test]
fn what_is_forgotten_is_gone_after_a_while_without_a_commit() {
    let disk = SimulatedDisk::new();
    let settings = Settings { forget_delay: Duration::from_millis(1), ..settings("/spool".into()) };
    let (spool, _) = open_with(Arc::new(disk), settings).unwrap();
    let id = MessageId::from_u64(1);
    run(spool.commit(store([Content::new(1, 0, 5).entry(1, None)]))).unwrap();
    spool.forget(id);
    while run(spool.read(id)).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(run(spool.read(id)).unwrap_err(), SpoolError::NotFound(id));
}

#[test]
fn compaction_frees_space_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    let mut expected = BTreeMap::new();
    for id in 0..400 {
        let content = Content::new(id, 0, if id % 40 == 0 { 700 } else { 200 });
        let file = (id % 40 == 0).then(|| directory.path());
        run(spool.commit(store([content.entry(id, file)]))).unwrap();
        if id % 20 == 0 {
            run(spool.commit(state(id, "kept"))).unwrap();
            expected.insert(id, Content { state: Some(Bytes::from_static(b"kept")), ..content });
        }
        if id >= 50 && (id - 50) % 20 != 0 {
            spool.forget(MessageId::from_u64(id - 50));
        }
    }
    for id in (350..400).filter(|id| id % 20 != 0) {
        spool.forget(MessageId::from_u64(id));
    }
    let octets = || disk.files().values().map(Vec::len).sum::<usize>();
    let mut turns = 0;
    while octets() > 30_000 && turns < 1000 {
        // Each commit is followed by a slice of compaction.
        run(spool.commit(done(1))).unwrap();
        turns += 1;
    }
    assert!(octets() <= 30_000, "{} octets after {turns} commits", octets());
    for (id, content) in &expected {
        assert_eq!(Content::of(&run(spool.read(MessageId::from_u64(*id))).unwrap()), *content);
    }
    drop(spool);
    let (spool, recovered) = open(&disk).unwrap();
    assert_eq!(contents(&spool, &recovered), expected);
}

#[test]
fn d6_a_second_instance_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = || open_with(Arc::new(RealDisk), settings(directory.path().to_owned()));
    let first = open().unwrap();
    assert_eq!(open().err(), Some(SpoolError::Locked(directory.path().to_owned())));
    drop(first);
    open().unwrap();
}

#[test]
fn shutdown_writes_what_is_forgotten_and_closes() {
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    run(spool.commit(store([1, 2].map(|id| Content::new(id, 0, 5).entry(id, None))))).unwrap();
    spool.forget(MessageId::from_u64(1));
    spool.shutdown();
    assert!(matches!(run(spool.commit(done(2))), Err(SpoolError::Failed(_))));
    drop(spool);
    let (spool, recovered) = open(&disk.restart(super::simulated::Restart::PowerCut)).unwrap();
    assert_eq!(contents(&spool, &recovered).into_keys().collect::<Vec<_>>(), [2]);
}

/// The one file with records in it.
fn segment(disk: &SimulatedDisk) -> Vec<u8> {
    let files = disk.files().into_iter();
    let mut segments: Vec<_> = files.filter(|(path, _)| path.starts_with("/spool/segments")).collect();
    assert_eq!(segments.len(), 1);
    segments.remove(0).1
}

/// More of them than any record holds.
fn has_zeros(content: &[u8]) -> bool {
    content.windows(100).any(|octets| octets.iter().all(|octet| *octet == 0))
}

#[test]
fn a_segment_grows_in_steps_of_zeros_that_are_no_damage() {
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    let mut sizes = Vec::new();
    for id in 0..8 {
        run(spool.commit(Batch { store: vec![Content::new(id, 0, 100).entry(id, None)], ..Batch::default() })).unwrap();
        sizes.push(segment(&disk).len());
    }
    assert!(has_zeros(&segment(&disk)));
    let steps = sizes.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!((steps, sizes[0] > 2048), (0, true), "{sizes:?}");
    // The process dies: what is behind the last record is zeros, and goes.
    let found = disk.restart(super::simulated::Restart::Kill);
    let metrics = Arc::new(Metrics::new().unwrap());
    let (recovered, messages) =
        SegmentSpool::open_on(Arc::new(found.clone()), settings("/spool".into()), metrics.clone()).unwrap();
    assert_eq!((messages.len(), metrics.spool_damaged.get()), (8, 0));
    drop(recovered);
    let mut segments = found.files().into_iter().filter(|(path, _)| path.starts_with("/spool/segments"));
    assert!(segments.all(|(_, content)| !has_zeros(&content)));
    // Sealed in order, they go as well.
    drop(spool);
    assert!(!has_zeros(&segment(&disk)));
    let (_, messages) = open(&disk).unwrap();
    assert_eq!(messages.len(), 8);
}

#[test]
fn a_large_group_and_a_disk_without_room_get_no_zeros() {
    let disk = SimulatedDisk::new();
    let (spool, _) = open(&disk).unwrap();
    let commit = |id, octets| {
        let before = segment(&disk).len();
        run(spool.commit(Batch { store: vec![Content::new(id, 0, octets).entry(id, None)], ..Batch::default() }))
            .unwrap();
        segment(&disk).len() - before
    };
    assert!((1000..1200).contains(&commit(1, 1000)));
    disk.set_free(4096);
    spool.has_room_for(0);
    assert!((100..300).contains(&commit(2, 100)));
}
