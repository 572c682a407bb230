//! Fuzz bodies of files that an operator writes, or that a disk has kept badly.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use postern::host::counter::system_clock;
use postern::host::table::{Bounds, Definition, Format, Kept};
use postern::host::{Archive, Counters, Store};
use postern::metrics::Metrics;

/// A directory that is gone when it is dropped.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("postern-fuzz-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory for the files of a fuzz body");
        Self(path)
    }

    fn write(&self, name: &str, octets: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, octets).expect("a file in it");
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A config: settings, or problems that can be shown.
pub fn config(octets: &[u8]) {
    let place = Place::new();
    let path = place.write("postern.toml", octets);
    match postern::config::load(&path, &["access", "routing", "spf"]) {
        Ok(loaded) => loaded.warnings.iter().for_each(|problem| drop(problem.to_string())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A table in each of its three forms: read within its bounds, and what is found in it is there.
pub fn table(octets: &[u8]) {
    let place = Place::new();
    let path = place.write("table", octets);
    for format in [Format::Lines, Format::csv(), Format::Toml] {
        let bounds = Bounds { octets: 64 << 10, entries: 100 };
        let definition = Definition { name: "table".into(), path: path.clone(), format, bounds };
        let Some(table) = Kept::once(&definition).ok().and_then(|kept| kept.table()) else { continue };
        assert!(table.len() <= 100);
        for key in std::str::from_utf8(octets).unwrap_or_default().split(['\n', ',', ' ', '=', '"']) {
            let _ = table.lookup(key);
            let _ = table.match_domain(key);
            if let Ok(address) = key.parse() {
                let _ = table.match_ip(address);
            }
            if let Ok(mailbox) = postern::smtp::Mailbox::parse(key) {
                let _ = table.match_address(&mailbox);
            }
        }
    }
}

/// What plugins have kept: whatever is in the file, the gateway starts, and what it then keeps is there at the next start.
pub fn kept(octets: &[u8]) {
    let place = Place::new();
    // Half of what is tried has the right beginning.
    let (head, rest) = octets.split_at(octets.len().min(1));
    let file = if head == [0] { rest.to_vec() } else { [b"postern state 1\n", rest].concat() };
    place.write("kept", &file);
    let open = || {
        let metrics = Arc::new(Metrics::new().expect("names of series are right"));
        let (counters, store) = (Arc::new(Counters::new(system_clock())), Arc::new(Store::new(system_clock())));
        let archive = Archive::open(place.0.clone(), counters, store.clone(), metrics);
        (archive, store)
    };
    let (archive, store) = open();
    store.write("tenant/x", "fuzz", "key", b"value", 3600).expect("room");
    assert!(archive.flush(), "it can't be written");
    let (_, store) = open();
    assert_eq!(store.read("tenant/x", "fuzz", "key").as_deref(), Some(&b"value"[..]));
}
