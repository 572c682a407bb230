//! P3 and D, as far as they need no disk of their own.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use postern_tests::program::MANY_OF_A_CLIENT;

use super::Bench;

const BOB: &[&str] = &["bob@example.com"];

/// In the first of these octets.
pub(super) fn flip_a_bit_of(file: &Path, octets: &[u8]) {
    let mut content = fs::read(file).unwrap();
    let at = content.windows(octets.len()).position(|window| window == octets).unwrap();
    content[at] ^= 1;
    fs::write(file, content).unwrap();
}

/// Does it to a file.
type Damage<'a> = &'a dyn Fn(&Path);

/// Of three mails in the newest segment the second is hit, or the last one's end is.
#[test]
fn p3_a_damaged_tail_costs_what_it_hits() {
    // Behind the last record are zeros already.
    let end = |content: &[u8]| content.iter().rposition(|octet| *octet != 0).unwrap() + 1;
    let zero_the_end = |file: &Path| {
        let mut content = fs::read(file).unwrap();
        let end = end(&content);
        content[end - 4096..end].fill(0);
        fs::write(file, content).unwrap();
    };
    let cut_the_end = |file: &Path| {
        let mut content = fs::read(file).unwrap();
        content.truncate(end(&content) - 4096);
        fs::write(file, content).unwrap();
    };
    let flip = |file: &Path| flip_a_bit_of(file, b"X-Ledger: m1");
    let damages: [(&str, Damage, &str); 3] =
        [("a bit", &flip, "m1"), ("zeros", &zero_the_end, "m2"), ("cut", &cut_the_end, "m2")];
    for (how, damage, hit) in damages {
        let bench = Bench::new("");
        bench.deaf.store(true, Ordering::Relaxed);
        let gateway = bench.place.start();
        for id in ["m0", "m1", "m2"] {
            assert!(bench.send(id, BOB, 20_000).starts_with("250 "));
        }
        // Without an end in order there is no index that would say what is missing.
        gateway.kill();
        damage(&bench.place.segments().remove(0));
        bench.deaf.store(false, Ordering::Relaxed);
        let gateway = bench.place.start();
        bench.place.command(&["queue", "flush", "--all"]);
        for id in ["m0", "m1", "m2"].into_iter().filter(|id| *id != hit) {
            bench.wait_for(id);
        }
        assert!(bench.send("after", BOB, 100).starts_with("250 "));
        bench.wait_for("after");
        assert!(bench.place.metric("postern_spool_damaged_records_total") > 0.0, "{how}");
        gateway.stop();
        assert_eq!(bench.copies(hit), 0, "{how}");
        assert!(fs::read_dir(bench.place.spool.join("corrupt")).unwrap().count() > 0, "{how}");
        assert!(bench.arrivals.lines().iter().all(|arrival| arrival.whole), "{how}");
        assert!(bench.place.said().contains("ERROR"), "{how}: {}", bench.place.said());
    }
}

#[test]
fn d1_no_room_above_the_reserve() {
    let bench = Bench::new("");
    let gateway = bench.place.start();
    assert!(bench.send("waits", &["later@example.com"], 100).starts_with("250 "));
    bench.happened("deferred");
    gateway.stop();
    bench.place.configure(bench.next_hop, MANY_OF_A_CLIENT, "reserve = \"1000000 GiB\"");
    let gateway = bench.place.start();
    let reply = bench.client().send(&bench.ledger, "refused", BOB, "").unwrap_err().to_string();
    assert!(reply.starts_with("452 4.3.1 "), "{reply}");
    // Delivery goes on.
    bench.putting_off.store(false, Ordering::Relaxed);
    bench.place.command(&["queue", "flush", "--all"]);
    bench.wait_for("waits");
    bench.wait_until_empty();
    gateway.stop();
    bench.place.configure(bench.next_hop, MANY_OF_A_CLIENT, "");
    let gateway = bench.place.start();
    assert!(bench.send("after", BOB, 100).starts_with("250 "));
    assert_eq!(bench.finish(gateway, 0).refused, 1);
}

/// A start that could not write mail is none, and says why.
#[test]
fn d2_a_start_that_cannot_write_is_refused() {
    let bench = Bench::new("");
    for part in ["segments", "bodies", "incoming", "lock"] {
        let path = bench.place.spool.join(part);
        if part == "lock" {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        } else {
            fs::write(&path, "in the way").unwrap();
        }
        let before = bench.place.said().len();
        assert!(!bench.place.spawn(&[]).wait().success(), "{part}");
        let said = bench.place.said();
        assert!(said[before..].contains(&path.display().to_string()), "{part}: {}", &said[before..]);
        if part == "lock" { fs::remove_dir(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
    }
    let gateway = bench.place.start();
    assert!(bench.send("after", BOB, 100).starts_with("250 "));
    bench.finish(gateway, 0);
}

#[test]
fn d6_a_second_gateway_on_one_spool_is_refused() {
    let bench = Bench::new("");
    let gateway = bench.place.start();
    let directory = bench.directory.path().join("other");
    fs::create_dir(&directory).unwrap();
    let other = super::Place::with_spool(&directory, &bench.place.spool, bench.next_hop, MANY_OF_A_CLIENT, "");
    assert!(!other.spawn(&[]).wait().success());
    assert!(other.said().contains("is in use by another postern"), "{}", other.said());
    assert!(bench.send("m", BOB, 100).starts_with("250 "));
    assert_eq!(bench.finish(gateway, 0).extra, 0);
}
