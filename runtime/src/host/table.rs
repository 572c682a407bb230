//! Big lists and maps that plugins look things up in: files, read aside when they have changed, indexed here, shared by
//! all scopes that name them.
//!
//! A million entries take 50 to 110 MB and a look-up less than a microsecond (`cargo bench --bench tables`). While a table
//! is read anew the old one is there too.

mod entries;
mod late;
mod library;
mod network;
mod read;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use late::within;
pub use library::{Kept, Library};
pub use read::{Bounds, Column, Definition, Format};

use self::entries::{Entries, Inserted, Offset};
use self::network::{MAX_MASKS, Network, Networks, Rows, Unfit};
use crate::smtp::{Host, Mailbox};

/// A table that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("line {line}: {problem}")]
    Line { line: u64, problem: &'static str },
    #[error("line {line}: `{key}` is there already, with another value")]
    Again { line: u64, key: String },
    #[error("`{one}` and `{other}` are one network, with different values")]
    SameNetwork { one: String, other: String },
    #[error("there is no column `{0}` in the first line")]
    NoColumn(String),
    #[error("TOML: {0}")]
    Toml(String),
    #[error("the file has more than {0} octets")]
    TooBig(u64),
    #[error("there are more than {0} entries")]
    TooMany(usize),
    #[error("{} can't be read: {}", .0.display(), .1)]
    Read(PathBuf, String),
    #[error("{} is not a file", .0.display())]
    NoFile(PathBuf),
    #[error("{} changed while it was read", .0.display())]
    Unsettled(PathBuf),
    #[error("{} can't be read in time: its disk may hang", .0.display())]
    Late(PathBuf),
    #[error("there are more than {MAX_MASKS} different network masks that are not contiguous")]
    TooManyMasks,
}

/// Octets of a key: an address has at most 320.
const MAX_KEY: usize = 512;

/// One list (values empty) or map. Keys are compared without regard to ASCII case.
#[derive(Debug, Default)]
pub struct Table {
    entries: Entries,
    ipv4: Networks<u32>,
    ipv6: Networks<u128>,
    /// Labels of the longest key that begins with a dot: no parent of a domain with more of them needs to be looked for.
    deepest: usize,
}

impl Table {
    /// A key that is there twice is an error where the values differ.
    pub fn from_entries<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, TableError> {
        let mut builder = Builder::new(&Bounds::default(), 0);
        for (line, (key, value)) in (1..).zip(entries) {
            builder.insert(line, key, value)?;
        }
        builder.finish()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of memory.
    pub fn octets(&self) -> usize {
        self.entries.octets() + self.ipv4.octets() + self.ipv6.octets()
    }

    /// The value of exactly that key.
    pub fn lookup(&self, key: &str) -> Option<&str> {
        with_lower_case(key, |key| self.entries.find(key)).flatten()
    }

    /// The most specific of: the address, its domain, each parent domain with a leading dot.
    pub fn match_address(&self, mailbox: &Mailbox) -> Option<&str> {
        self.lookup(&mailbox.to_string()).or_else(|| match &mailbox.host {
            Host::Domain(domain) => self.match_domain(domain.as_str()),
            literal @ Host::Literal(_) => self.lookup(&literal.to_string()),
        })
    }

    /// The domain, or its nearest parent with a leading dot.
    pub fn match_domain(&self, domain: &str) -> Option<&str> {
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        with_lower_case(domain, |domain| {
            self.entries.find(domain).or_else(|| {
                let labels = domain.iter().filter(|octet| **octet == b'.').count();
                let parents = domain.iter().enumerate().filter(|(_, octet)| **octet == b'.');
                let parents = parents.skip(labels.saturating_sub(self.deepest));
                parents.filter_map(|(at, _)| self.entries.find(domain.get(at..)?)).next()
            })
        })
        .flatten()
    }

    /// The network with the most mask bits that holds the address. An IPv4 address mapped into IPv6 is an IPv4 address.
    pub fn match_ip(&self, ip: IpAddr) -> Option<&str> {
        let found = match ip.to_canonical() {
            IpAddr::V4(ip) => self.ipv4.find(ip.to_bits()),
            IpAddr::V6(ip) => self.ipv6.find(ip.to_bits()),
        };
        found.map(|entry| self.entries.value(entry))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.len())
    }
}

/// `None`: longer than any key.
fn with_lower_case<T>(key: &str, find: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let mut lower = [0; MAX_KEY];
    let lower = lower.get_mut(..key.len())?;
    lower.copy_from_slice(key.as_bytes());
    lower.make_ascii_lowercase();
    Some(find(lower))
}

/// A table while it is read.
struct Builder {
    entries: Entries,
    ipv4: Rows<u32>,
    ipv6: Rows<u128>,
    deepest: usize,
    max_entries: usize,
    /// For a key in lower case; one allocation for all of them.
    lower: String,
}

impl Builder {
    fn new(bounds: &Bounds, octets: usize) -> Self {
        Self {
            entries: Entries::with_room_for(octets),
            ipv4: Rows::default(),
            ipv6: Rows::default(),
            deepest: 0,
            max_entries: bounds.entries,
            lower: String::new(),
        }
    }

    /// White space around the key is no part of it. `line` is for messages.
    fn insert(&mut self, line: u64, key: &str, value: &str) -> Result<(), TableError> {
        let key = key.trim();
        let network = check(key).map_err(|problem| TableError::Line { line, problem })?;
        self.lower.clear();
        self.lower.push_str(key);
        self.lower.make_ascii_lowercase();
        let at = match self.entries.insert(&self.lower, value) {
            Ok(Inserted::At(at)) => at,
            Ok(Inserted::Already(there)) if there == value => return Ok(()),
            Ok(Inserted::Already(_)) => return Err(TableError::Again { line, key: key.to_owned() }),
            Err(entries::Overflow) => return Err(TableError::TooBig(u32::MAX.into())),
        };
        if self.entries.len() > self.max_entries {
            return Err(TableError::TooMany(self.max_entries));
        }
        match network {
            Some(Network::V4 { bits, mask }) => self.ipv4.push(bits, mask, at),
            Some(Network::V6 { bits, mask }) => self.ipv6.push(bits, mask, at),
            None if key.starts_with('.') => {
                self.deepest = self.deepest.max(key.bytes().filter(|octet| *octet == b'.').count());
            }
            None => {}
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Table, TableError> {
        self.entries.shrink();
        let Self { entries, ipv4, ipv6, deepest, .. } = self;
        let same = |one: Offset, other: Offset| entries.value(one) == entries.value(other);
        let unfit = |unfit| match unfit {
            Unfit::TooManyMasks => TableError::TooManyMasks,
            Unfit::Same(one, other) => {
                TableError::SameNetwork { one: entries.key(one).to_owned(), other: entries.key(other).to_owned() }
            }
        };
        let (ipv4, ipv6) = (ipv4.finish(same).map_err(unfit)?, ipv6.finish(same).map_err(unfit)?);
        Ok(Table { entries, ipv4, ipv6, deepest })
    }
}

/// A key that is none would match nothing, and nobody would notice. The network, where it is one.
fn check(key: &str) -> Result<Option<Network>, &'static str> {
    if key.is_empty() {
        return Err("no key");
    }
    if key.len() > MAX_KEY {
        return Err("key too long");
    }
    match Network::parse(key) {
        None if key.contains('/') && key.starts_with(|c: char| c.is_ascii_digit()) => {
            Err("neither a network nor a name")
        }
        network => Ok(network),
    }
}

/// Tables by the names that one plugin knows them under.
#[derive(Debug, Default)]
pub struct Tables {
    tables: HashMap<Box<str>, Arc<Kept>>,
}

impl Tables {
    pub fn new(tables: impl IntoIterator<Item = (String, Arc<Kept>)>) -> Self {
        Self { tables: tables.into_iter().map(|(name, table)| (name.into_boxed_str(), table)).collect() }
    }

    /// As it is now. `None`: there is no such table; `Some(None)`: it could not be read yet.
    pub fn table(&self, name: &str) -> Option<Option<Arc<Table>>> {
        self.tables.get(name).map(|kept| kept.table())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, &str)]) -> Table {
        Table::from_entries(rows.iter().copied()).unwrap()
    }

    #[test]
    fn keys_are_compared_without_regard_to_case() {
        let table = table(&[("A@Example.com", "a"), (" b ", ""), ("a@example.COM", "a")]);
        assert_eq!((table.len(), table.lookup("a@EXAMPLE.com"), table.lookup("B")), (2, Some("a"), Some("")));
        assert_eq!(table.lookup(&"x".repeat(MAX_KEY + 1)), None);
        assert_eq!(table.lookup(""), None);
    }

    #[test]
    fn what_contradicts_itself_is_an_error() {
        let error = |rows: &[(&str, &str)]| Table::from_entries(rows.iter().copied()).unwrap_err().to_string();
        assert_eq!(error(&[("a", "1"), ("A", "2")]), "line 2: `A` is there already, with another value");
        assert_eq!(
            error(&[("10.0.0.1/24", "1"), ("10.0.0.0/24", "2")]),
            "`10.0.0.1/24` and `10.0.0.0/24` are one network, with different values"
        );
        assert_eq!(error(&[("ok", ""), ("", "x")]), "line 2: no key");
        assert_eq!(error(&[("192.0.2.0/33", "")]), "line 1: neither a network nor a name");
        assert_eq!(error(&[(&"k".repeat(513), "")]), "line 1: key too long");
        // The same said twice is said once.
        assert_eq!(table(&[("10.0.0.1/24", "1"), ("10.0.0.0/24", "1")]).match_ip([10, 0, 0, 9].into()), Some("1"));
    }

    #[test]
    fn the_most_specific_key_matches() {
        let table = table(&[
            ("a@x.example.com", "address"),
            ("x.example.com", "domain"),
            (".example.com", "parent"),
            (".com", "top"),
            ("[192.0.2.1]", "literal"),
        ]);
        for (address, expected) in [
            ("A@X.example.com", Some("address")),
            ("b@x.example.com", Some("domain")),
            ("b@y.example.com", Some("parent")),
            ("b@z.y.example.com", Some("parent")),
            ("b@example.com", Some("top")),
            ("b@example.org", None),
            ("b@[192.0.2.1]", Some("literal")),
        ] {
            assert_eq!(table.match_address(&address.parse().unwrap()), expected, "{address}");
        }
        assert_eq!(table.match_domain("Y.EXAMPLE.com."), Some("parent"));
        assert_eq!(table.match_domain(&format!("{}example.com", "a.".repeat(127))), Some("parent"));
    }

    #[test]
    fn networks_longest_first() {
        let table = table(&[
            ("192.0.2.1", "one"),
            ("192.0.2.0/24", "net"),
            ("192.0.0.0/255.255.0.0", "wide"),
            ("0.0.0.0/0", "all"),
            ("2001:db8::/32", "six"),
        ]);
        for (ip, expected) in [
            ("192.0.2.1", Some("one")),
            ("192.0.2.2", Some("net")),
            ("192.0.3.2", Some("wide")),
            ("10.0.0.1", Some("all")),
            ("::ffff:192.0.2.1", Some("one")),
            ("2001:db8::5", Some("six")),
            ("2001:db9::5", None),
        ] {
            assert_eq!(table.match_ip(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn r59_masks_need_not_be_contiguous() {
        let table = table(&[("192.163.1.1/255.100.10.1", "odd"), ("192.0.0.0/8", "wide"), ("192.163.1.0/24", "net")]);
        for (ip, expected) in [
            ("192.163.1.1", Some("net")),
            // 163 & 100 = 32, 1 & 10 = 0, 1 & 1 = 1
            ("192.32.0.1", Some("odd")),
            ("192.187.245.255", Some("odd")),
            ("192.163.2.1", Some("wide")),
            ("193.163.1.1", None),
        ] {
            assert_eq!(table.match_ip(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn masks_are_bounded() {
        let masks: Vec<String> = (1..=49).map(|n| format!("10.0.0.1/255.0.{n}.1")).collect();
        let error = Table::from_entries(masks.iter().map(|mask| (mask.as_str(), ""))).unwrap_err();
        assert_eq!(error, TableError::TooManyMasks);
        assert!(Table::from_entries(masks.iter().skip(1).map(|mask| (mask.as_str(), ""))).is_ok());
    }

    /// The bound of the issue; what the parts are is measured in the bench.
    #[test]
    fn a_hundred_thousand_entries_take_their_tenth_of_200_mb() {
        let keys: Vec<String> =
            (0..100_000_u32).map(|n| format!("{}/32", std::net::Ipv4Addr::from_bits(n << 8))).collect();
        let table = Table::from_entries(keys.iter().map(|key| (key.as_str(), "reject spam"))).unwrap();
        assert!(table.octets() < 20_000_000, "{}", table.octets());
        assert_eq!(table.match_ip([0, 1, 1, 0].into()), Some("reject spam"));
    }
}
