//! What a table of a million entries takes: memory, time to load, and time of a look-up, found and not found.
//!
//! `cargo bench --package postern-benches --bench tables`. Keys are asked for in an order that has nothing to do with
//! theirs, so most look-ups wait for memory: the worst case, not the usual one.

#![expect(clippy::expect_used, reason = "a bench that cannot even begin has nothing better to do")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use postern::host::Table;
use postern::host::table::{Definition, Kept};
use postern::smtp::Mailbox;

const ENTRIES: u32 = 1_000_000;
/// Look-ups that a bench turns around in; a power of two.
const ASKED: usize = 1 << 16;

/// Spreads numbers; each has one other.
const fn spread(n: u32) -> u32 {
    n.wrapping_mul(0x9E37_79B1).rotate_left(13).wrapping_mul(0x85EB_CA6B)
}

fn load(name: &str, row: impl Fn(u32) -> String) -> Arc<Table> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("table.csv");
    let mut text = String::new();
    for n in 0..ENTRIES {
        writeln!(text, "{},reject spam house", row(n)).expect("a text");
    }
    std::fs::write(&path, &text).expect("a file");
    drop(text);
    let before = resident();
    let start = std::time::SystemTime::now();
    let table = read(&path);
    let took = start.elapsed().unwrap_or_default();
    println!(
        "{name}: {} entries, {} MB by its own count, {} MB resident, loaded in {} ms",
        table.len(),
        table.octets() / 1_000_000,
        resident().saturating_sub(before) / 1_000_000,
        took.as_millis()
    );
    table
}

fn read(path: &Path) -> Arc<Table> {
    let kept = Kept::once(&Definition::of(path.to_owned())).expect("a table");
    kept.table().expect("a table")
}

/// Octets of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}

/// Half of them are there.
fn ask<K>(
    criterion: &mut Criterion,
    what: &str,
    table: &Table,
    key: impl Fn(u32) -> K,
    find: impl Fn(&Table, &K) -> bool,
) {
    let mut group = criterion.benchmark_group(format!("look-up of a million: {what}"));
    for (which, first) in [("found", 0), ("not found", ENTRIES)] {
        let step = ENTRIES / u32::try_from(ASKED).unwrap_or(u32::MAX);
        let mut keys: Vec<(u32, K)> = (0..)
            .step_by(usize::try_from(step).unwrap_or(1))
            .take(ASKED)
            .map(|n| (spread(n), key(first + n)))
            .collect();
        keys.sort_by_key(|(order, _)| *order);
        let mut turn = (0..ASKED).cycle();
        group.bench_function(BenchmarkId::from_parameter(which), |bencher| {
            bencher.iter(|| {
                let key = turn.next().and_then(|n| keys.get(n));
                black_box(key.is_some_and(|(_, key)| find(table, key)))
            });
        });
    }
    group.finish();
}

fn addresses(criterion: &mut Criterion) {
    let row = |n: u32| format!("firstname.lastname{n}@department{}.example.com", n % 1000);
    let table = load("addresses", row);
    let key = |n: u32| row(n).parse::<Mailbox>().expect("an address");
    ask(criterion, "addresses", &table, key, |table, key| table.match_address(key).is_some());
    ask(criterion, "exact keys", &table, row, |table, key| table.lookup(key).is_some());
}

fn domains(criterion: &mut Criterion) {
    let name = |n: u32| format!("customer{n}.{}.example.org", n % 100);
    let table = load("domains", |n| if n % 2 == 0 { format!(".{}", name(n)) } else { name(n) });
    let key = |n: u32| if n.is_multiple_of(2) { format!("mail.eu.{}", name(n)) } else { name(n) };
    ask(criterion, "domains", &table, key, |table, key| table.match_domain(key).is_some());
}

/// Networks of all lengths from /9 on, in each other.
fn networks(criterion: &mut Criterion) {
    let v4 = |n: u32| Ipv4Addr::from_bits(if n < ENTRIES { spread(n) | 1 << 31 } else { spread(n) & !(1 << 31) });
    let bits = |n: u32| if n.is_multiple_of(4) { 9 + n / 4 % 23 } else { 32 };
    let row = |n: u32| {
        let (bits, ip) = (bits(n), v4(n).to_bits());
        format!("{}/{bits}", Ipv4Addr::from_bits(ip & u32::MAX << (32 - bits)))
    };
    // Networks of few bits are the same again and again: a table has each once.
    let table = load("IPv4 networks", row);
    ask(criterion, "IPv4 networks", &table, |n| IpAddr::from(v4(n)), |table, key| table.match_ip(*key).is_some());

    let v6 =
        |n: u32| Ipv6Addr::from_bits(0x2001_u128 << 112 | u128::from(spread(n)) << 64 | u128::from(n / ENTRIES) << 80);
    let row = |n: u32| format!("{}/{}", v6(n), if n.is_multiple_of(4) { 100 + n / 4 % 28 } else { 128 });
    let table = load("IPv6 networks", row);
    ask(criterion, "IPv6 networks", &table, |n| IpAddr::from(v6(n)), |table, key| table.match_ip(*key).is_some());
}

/// As many masks with holes as there may be.
fn masks(criterion: &mut Criterion) {
    let mask = |n: u32| Ipv4Addr::from_bits(0xFF00_00FF | ((n % 48) | (1 << 6)) << 9);
    let v4 = |n: u32| Ipv4Addr::from_bits(if n < ENTRIES { spread(n) | 1 << 31 } else { spread(n) & !(1 << 31) });
    let row = |n: u32| format!("{}/{}", Ipv4Addr::from_bits(v4(n).to_bits()), mask(n));
    let table = load("48 masks with holes", row);
    ask(criterion, "48 masks with holes", &table, |n| IpAddr::from(v4(n)), |table, key| table.match_ip(*key).is_some());

    let mask = |n: u32| Ipv6Addr::from_bits(u128::MAX ^ (u128::from(n % 48) << 32 | 1 << 96));
    let v6 =
        |n: u32| Ipv6Addr::from_bits(0x2001_u128 << 112 | u128::from(spread(n)) << 64 | u128::from(n / ENTRIES) << 80);
    let table = load("48 IPv6 masks with holes", |n| format!("{}/{}", v6(n), mask(n)));
    ask(
        criterion,
        "48 IPv6 masks with holes",
        &table,
        |n| IpAddr::from(v6(n)),
        |table, key| table.match_ip(*key).is_some(),
    );
}

criterion_group!(benches, addresses, domains, networks, masks);
criterion_main!(benches);
