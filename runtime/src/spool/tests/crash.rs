//! The machine or the process dies at every operation, or the disk fails there: what was acknowledged is there and
//! whole, what was refused is not, and what got no answer is there whole or not at all (I1, I2, K2–K8, K13, K17, P1, P2).

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

use super::super::simulated::{Fault, Restart, SimulatedDisk};
use super::*;

type Model = BTreeMap<u64, Content>;

#[derive(Debug, Clone)]
enum Step {
    /// Stored, with a body in a file when it is above the limit, and done, in one batch.
    Commit {
        store: Vec<(u64, u64, usize)>,
        state: Vec<(u64, &'static str)>,
        done: Vec<u64>,
    },
    Forget(u64),
}

fn commit(store: &[(u64, u64, usize)], state: &[(u64, &'static str)], done: &[u64]) -> Step {
    Step::Commit { store: store.to_vec(), state: state.to_vec(), done: done.to_vec() }
}

/// Touches all there is: segments that fill, replaced messages, states, body files, batches of several, compaction.
fn workload() -> Vec<Step> {
    let mut steps = vec![
        commit(&[(1, 0, 100)], &[], &[]),
        commit(&[(2, 0, 2000)], &[(1, "tried once")], &[]),
        commit(&[(2, 1, 2000), (3, 0, 1500)], &[(2, "with it")], &[]),
        Step::Forget(1),
        commit(&[(4, 0, 900), (5, 0, 50)], &[(3, "x")], &[2]),
    ];
    for id in 10..40 {
        // Two in a batch, larger than what a disk writes whole.
        let octets = if id % 3 == 0 { 700 } else { 590 };
        steps.push(commit(&[(id, 0, octets), (1000 + id % 2, id, 550)], &[(4, "again")], &[]));
        if id > 12 {
            steps.push(if id % 2 == 0 { Step::Forget(id - 2) } else { commit(&[(100, id, 30)], &[], &[id - 2]) });
        }
    }
    steps.push(commit(&[], &[(100, "last")], &[4]));
    steps.push(commit(&[], &[], &[37]));
    steps
}

#[derive(Default)]
struct Outcome {
    acknowledged: Model,
    /// As it would be if what got no answer had come through.
    unanswered: Option<Model>,
    /// May still be there.
    forgotten: BTreeSet<u64>,
}

fn apply(model: &mut Model, step: &Step) {
    let Step::Commit { store, state, done } = step else { return };
    for &(id, version, octets) in store {
        model.insert(id, Content::new(id, version, octets));
    }
    for (id, state) in state {
        if let Some(content) = model.get_mut(id) {
            content.state = Some(Bytes::from_static(state.as_bytes()));
        }
    }
    done.iter().for_each(|id| drop(model.remove(id)));
}

fn batch(step: &Step, incoming: &std::path::Path) -> Batch {
    let Step::Commit { store, state, done } = step else { return Batch::default() };
    let entry = |&(id, version, octets): &(u64, u64, usize)| {
        Content::new(id, version, octets).entry(id, (octets as u64 > INLINE).then_some(incoming))
    };
    Batch {
        store: store.iter().map(entry).collect(),
        state: state
            .iter()
            .map(|(id, state)| (MessageId::from_u64(*id), Bytes::from_static(state.as_bytes())))
            .collect(),
        done: done.iter().map(|id| MessageId::from_u64(*id)).collect(),
    }
}

/// Runs the workload until the disk crashes. What is refused by a disk that lives must stay refused.
fn work(disk: &SimulatedDisk, incoming: &std::path::Path, crashes: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let Ok((spool, recovered)) = open(disk) else { return outcome };
    assert!(recovered.is_empty());
    for step in workload() {
        if let Step::Forget(id) = step {
            spool.forget(MessageId::from_u64(id));
            outcome.forgotten.insert(id);
            continue;
        }
        let answer = run(spool.commit(batch(&step, incoming)));
        if answer.is_ok() {
            apply(&mut outcome.acknowledged, &step);
        } else if crashes {
            let mut model = outcome.acknowledged.clone();
            apply(&mut model, &step);
            outcome.unanswered = Some(model);
            break;
        }
    }
    outcome
}

impl Outcome {
    fn check(&self, found: &Model, context: &str) {
        let without = |model: &Model| {
            let mut model = model.clone();
            model.retain(|id, _| found.contains_key(id) || !self.forgotten.contains(id));
            model
        };
        let fits = [Some(&self.acknowledged), self.unanswered.as_ref()];
        if !fits.into_iter().flatten().any(|model| without(model) == *found) {
            let Self { acknowledged, unanswered, forgotten } = self;
            panic!(
                "{context}:\nfound {found:?}\nacknowledged {acknowledged:?}\nunanswered {unanswered:?}\nforgotten {forgotten:?}"
            );
        }
    }
}

fn reopened(disk: &SimulatedDisk) -> Model {
    let (spool, recovered) = open(disk).unwrap();
    contents(&spool, &recovered)
}

#[test]
fn a_crash_at_every_operation() {
    let directory = tempfile::tempdir().unwrap();
    // The second: the kernel shows what a failed sync has lost, and the process does not live to cut it off.
    for fault in [Fault::Crash, Fault::Last(Errno::IO)] {
        for operation in 1.. {
            let disk = SimulatedDisk::new();
            disk.fail_at(operation, fault);
            let outcome = work(&disk, directory.path(), true);
            for how in
                [Restart::Kill, Restart::PowerCut, Restart::Torn(operation), Restart::Torn(operation + 1_000_000)]
            {
                let context = format!("{fault:?} at {operation}, {how:?}");
                let after = disk.restart(how);
                let found = reopened(&after);
                outcome.check(&found, &context);
                assert_eq!(reopened(&after.restart(Restart::PowerCut)), found, "{context}, once more");
            }
            if !disk.has_failed() {
                assert!(operation > 200, "the workload is too small: {operation} operations");
                break;
            }
        }
    }
}

#[test]
fn an_error_at_every_operation() {
    let directory = tempfile::tempdir().unwrap();
    for fault in [
        Fault::Error(Errno::IO),
        Fault::Error(Errno::NOSPC),
        Fault::Error(Errno::MFILE),
        Fault::Late(Errno::IO),
        Fault::Late(Errno::NOSPC),
    ] {
        for operation in 1.. {
            let disk = SimulatedDisk::new();
            disk.fail_at(operation, fault);
            let outcome = work(&disk, directory.path(), false);
            for how in [Restart::Kill, Restart::PowerCut] {
                outcome.check(&reopened(&disk.restart(how)), &format!("{fault:?} at {operation}, {how:?}"));
            }
            if !disk.has_failed() {
                break;
            }
        }
    }
}

#[test]
fn k17_recovery_may_die_too() {
    let directory = tempfile::tempdir().unwrap();
    let origin = SimulatedDisk::new();
    origin.fail_at(201, Fault::Crash);
    let outcome = work(&origin, directory.path(), true);
    assert!(origin.has_failed());
    let origin = origin.restart(Restart::Torn(1));
    let expected = reopened(&origin.restart(Restart::PowerCut));
    outcome.check(&expected, "first");
    let mut chain = origin.clone();
    for operation in 1.. {
        let disk = origin.restart(Restart::PowerCut);
        disk.fail_at(operation, Fault::Crash);
        drop(open(&disk));
        assert_eq!(reopened(&disk.restart(Restart::Torn(operation))), expected, "operation {operation}");
        // And one death after the other, on the same disk.
        chain = chain.restart(Restart::Kill);
        chain.fail_at(operation, Fault::Crash);
        drop(open(&chain));
        if !disk.has_failed() {
            break;
        }
    }
    let chain = chain.restart(Restart::Kill);
    assert_eq!(reopened(&chain), expected);
    let files = chain.files().len();
    assert!(files <= origin.files().len() + 3, "{files} files: {:?}", chain.files().keys());
}
