//! The power is cut: ext4 and XFS in a file, shut down without a last word, mounted again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use postern_tests::ledger::{Conversation, Moment, body};

use super::{BOB, Bench, Volume};

const FILE_SYSTEMS: [&[&str]; 2] = [&["mkfs.ext4", "-q"], &["mkfs.xfs", "-q"]];
const SIZE: u64 = 1 << 30;
const MAILS: usize = 10;

/// `connections` at once, `MAILS` on each; one of five goes through a file of its own. Ends early when there are no more answers.
fn send_from(bench: &Bench, connections: usize) {
    thread::scope(|scope| {
        for connection in 0..connections {
            scope.spawn(move || {
                let Ok(mut client) = Conversation::greeted(bench.place.listen) else { return };
                for mail in 0..MAILS {
                    let octets = if mail % 5 == 3 { 300_000 } else { 3000 };
                    let id = format!("m{connection}-{mail}");
                    if client.send(&bench.ledger, &id, BOB, &body(octets)).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn p1_power_cut_right_after_the_last_250() {
    for how in FILE_SYSTEMS {
        for connections in [1, 100] {
            let directory = tempfile::tempdir().unwrap();
            let volume = Volume::make(directory.path(), SIZE, how);
            let bench = Bench::new(directory.path(), &volume.spool());
            // So that all of it must come out of the spool.
            bench.deaf.store(true, Ordering::Relaxed);
            let gateway = bench.place.start();
            send_from(&bench, connections);
            volume.cut_power();
            gateway.kill();
            volume.unmount();
            volume.mount_with("loop");
            let account = bench.finish(0, how[0]);
            println!("{}: {connections} connections, {} acknowledged, 0 lost", how[0], account.acknowledged);
            assert_eq!(account.acknowledged, connections * MAILS);
        }
    }
}

#[test]
fn p1_power_cut_in_the_midst_of_a_hundred_connections() {
    for how in FILE_SYSTEMS {
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::make(directory.path(), SIZE, how);
        let bench = Bench::new(directory.path(), &volume.spool());
        bench.deaf.store(true, Ordering::Relaxed);
        let gateway = bench.place.start();
        thread::scope(|scope| {
            scope.spawn(|| send_from(&bench, 100));
            bench.ledger.wait_until("answers", |answers| answers.len() > 200);
            bench.before_the_cut.store(bench.ledger.lines().len(), Ordering::Relaxed);
            volume.cut_power();
        });
        gateway.kill();
        volume.unmount();
        volume.mount_with("loop");
        let account = bench.finish(0, how[0]);
        println!("{}: {} acknowledged, {} refused, 0 lost", how[0], account.acknowledged, account.refused);
    }
}

#[test]
fn p2_power_cut_while_deliveries_are_written_down() {
    for how in FILE_SYSTEMS {
        let directory = tempfile::tempdir().unwrap();
        let volume = Arc::new(Volume::make(directory.path(), SIZE, how));
        let (taken, cut) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
        let (cutter, is_cut) = (volume.clone(), cut.clone());
        let bench = Bench::with_observer(directory.path(), &volume.spool(), move |moment| {
            if moment == Moment::Answered && taken.fetch_add(1, Ordering::Relaxed) == 60 {
                cutter.cut_power();
                is_cut.store(true, Ordering::Relaxed);
            }
        });
        bench.deaf.store(true, Ordering::Relaxed);
        let gateway = bench.place.start();
        send_from(&bench, 20);
        bench.deaf.store(false, Ordering::Relaxed);
        bench.place.command(&["queue", "flush", "--all"]);
        while !cut.load(Ordering::Relaxed) {
            thread::sleep(super::PAUSE);
        }
        gateway.kill();
        volume.unmount();
        volume.mount_with("loop");
        let account = bench.finish(1, how[0]);
        println!("{}: {} acknowledged, 0 lost, {} came twice", how[0], account.acknowledged, account.extra);
    }
}
