//! Any sequence of operations, starts and deaths, against a map.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::simulated::{Restart, SimulatedDisk};
use super::*;

#[derive(Debug, Clone)]
enum Operation {
    Store {
        id: u64,
        version: u64,
        octets: usize,
        file: bool,
    },
    State(u64, u8),
    Done(u64),
    Forget(u64),
    /// In one batch: the first stored anew, the second given a state, the third done.
    All(u64, u64, u64),
    Close,
    Kill,
    PowerCut,
    Tear(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let id = 0_u64..12;
    prop_oneof![
        8 => (id.clone(), 0_u64..100, 0_usize..1500, any::<bool>())
            .prop_map(|(id, version, octets, file)| Operation::Store { id, version, octets, file }),
        4 => (id.clone(), any::<u8>()).prop_map(|(id, state)| Operation::State(id, state)),
        4 => id.clone().prop_map(Operation::Done),
        3 => id.clone().prop_map(Operation::Forget),
        2 => (id.clone(), id.clone(), id).prop_map(|(a, b, c)| Operation::All(a, b, c)),
        1 => Just(Operation::Close),
        1 => Just(Operation::Kill),
        1 => Just(Operation::PowerCut),
        1 => any::<u64>().prop_map(Operation::Tear),
    ]
}

struct World {
    disk: SimulatedDisk,
    spool: Arc<SegmentSpool>,
    model: BTreeMap<u64, Content>,
    /// Since the last commit: there or not.
    forgotten: BTreeSet<u64>,
}

impl World {
    fn commit(&mut self, batch: Batch) {
        run(self.spool.commit(batch)).unwrap();
        for id in std::mem::take(&mut self.forgotten) {
            self.model.remove(&id);
        }
    }

    fn set_state(&mut self, id: u64, state: u8) -> (MessageId, Bytes) {
        let state = Bytes::from(vec![state; usize::from(state)]);
        if let Some(content) = self.model.get_mut(&id) {
            content.state = Some(state.clone());
        }
        (MessageId::from_u64(id), state)
    }

    fn restart(&mut self, how: Option<Restart>) {
        let closed = how.is_none();
        let disk = how.map_or(self.disk.clone(), |how| self.disk.restart(how));
        self.spool.shutdown();
        if !closed {
            self.disk = disk;
        }
        let nothing = SimulatedDisk::new();
        self.spool = open(&nothing).unwrap().0;
        let (spool, recovered) = open(&self.disk).unwrap();
        let found = contents(&spool, &recovered);
        self.spool = spool;
        let forgotten = std::mem::take(&mut self.forgotten);
        self.model.retain(|id, _| !forgotten.contains(id) || (!closed && found.contains_key(id)));
        assert_eq!(found, self.model);
    }

    fn apply(&mut self, operation: Operation, directory: &std::path::Path) {
        match operation {
            Operation::Store { id, version, octets, file } => {
                let content = Content::new(id, version, octets);
                self.commit(store([content.entry(id, file.then_some(directory))]));
                self.model.insert(id, content);
            }
            Operation::State(id, state) => {
                let state = self.set_state(id, state);
                self.commit(Batch { state: vec![state], ..Batch::default() });
            }
            Operation::Done(id) => {
                self.commit(done(id));
                self.model.remove(&id);
            }
            Operation::Forget(id) => {
                self.spool.forget(MessageId::from_u64(id));
                self.forgotten.insert(id);
            }
            Operation::All(a, b, c) => {
                // What was forgotten is done after this batch; to keep the model simple, before it.
                self.commit(Batch { done: vec![MessageId::from_u64(a)], ..Batch::default() });
                self.model.insert(a, Content::new(a, 7, 100));
                let state = self.set_state(b, 9);
                self.model.remove(&c);
                let entry = Content::new(a, 7, 100).entry(a, None);
                self.commit(Batch { store: vec![entry], state: vec![state], done: vec![MessageId::from_u64(c)] });
            }
            Operation::Close => self.restart(None),
            Operation::Kill => self.restart(Some(Restart::Kill)),
            Operation::PowerCut => self.restart(Some(Restart::PowerCut)),
            Operation::Tear(seed) => self.restart(Some(Restart::Torn(seed))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations(operations in prop::collection::vec(operation(), 1..80)) {
        let directory = tempfile::tempdir().unwrap();
        let disk = SimulatedDisk::new();
        let spool = open(&disk).unwrap().0;
        let mut world = World { disk, spool, model: BTreeMap::new(), forgotten: BTreeSet::new() };
        for operation in operations {
            world.apply(operation, directory.path());
        }
        world.restart(Some(Restart::PowerCut));
    }
}
