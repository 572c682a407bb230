//! Big lists and maps that plugins look things up in: loaded when the config is, indexed here, shared by all scopes
//! that name them.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::smtp::{Host, Mailbox};

/// How a table is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One key a line; the values are empty.
    Lines,
    /// `key,value` a line; the value is the rest of the line.
    Csv,
}

/// Where a table comes from.
#[derive(Debug, Clone)]
pub enum Source {
    File {
        path: PathBuf,
        format: Format,
    },
    /// Written in the config itself.
    Inline(Vec<(String, String)>),
}

/// A table that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("line {line}: {problem}")]
    Line { line: usize, problem: &'static str },
    #[error("the file has more than {0} octets")]
    TooBig(u64),
    #[error("{0} can't be read: {1}")]
    Read(PathBuf, String),
    #[error("the file is not UTF-8")]
    NotUtf8,
    #[error("there are more than {0} different network masks")]
    TooManyMasks(usize),
}

/// Octets of a table's file; four million addresses.
const MAX_FILE: u64 = 128 << 20;
/// A look-up tries one mask after the other.
const MAX_MASKS: usize = 256;
/// Octets of a key: an address has at most 320.
const MAX_KEY: usize = 512;

/// One list (values empty) or map. Keys are compared without regard to ASCII case.
#[derive(Debug, Default)]
pub struct Table {
    keys: HashMap<Box<str>, Arc<str>>,
    ipv4: Networks,
    ipv6: Networks,
}

impl Table {
    /// Empty lines and those that begin with `#` are skipped.
    pub fn parse(text: &str, format: Format) -> Result<Self, TableError> {
        let mut table = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = match format {
                // Taken for a key it would match nothing, and nobody would notice.
                Format::Lines if line.contains(',') && !line.contains('"') => {
                    let problem = "a comma in a list of keys; name a file with values *.csv";
                    return Err(TableError::Line { line: number + 1, problem });
                }
                Format::Lines => (line, ""),
                Format::Csv => line.split_once(',').unwrap_or((line, "")),
            };
            table.insert(key.trim(), value.trim()).map_err(|problem| TableError::Line { line: number + 1, problem })?;
        }
        table.check()
    }

    pub fn from_entries<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, TableError> {
        let mut table = Self::default();
        for (number, (key, value)) in entries.into_iter().enumerate() {
            table.insert(key.trim(), value).map_err(|problem| TableError::Line { line: number + 1, problem })?;
        }
        table.check()
    }

    fn insert(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        if key.is_empty() {
            return Err("no key");
        }
        if key.len() > MAX_KEY {
            return Err("key too long");
        }
        let value: Arc<str> = Arc::from(value);
        match Network::parse(key) {
            Some(Network::V4 { bits, mask }) => self.ipv4.insert(u128::from(bits), u128::from(mask), value.clone()),
            Some(Network::V6 { bits, mask }) => self.ipv6.insert(bits, mask, value.clone()),
            None if key.contains('/') && key.starts_with(|c: char| c.is_ascii_digit()) => {
                return Err("neither a network nor a name");
            }
            None => {}
        }
        self.keys.insert(key.to_ascii_lowercase().into_boxed_str(), value);
        Ok(())
    }

    fn check(self) -> Result<Self, TableError> {
        if self.ipv4.by_mask.len().max(self.ipv6.by_mask.len()) > MAX_MASKS {
            return Err(TableError::TooManyMasks(MAX_MASKS));
        }
        Ok(self)
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The value of exactly that key.
    pub fn lookup(&self, key: &str) -> Option<&Arc<str>> {
        if key.len() > MAX_KEY {
            return None;
        }
        self.keys.get(key.to_ascii_lowercase().as_str())
    }

    /// The most specific of: the address, its domain, each parent domain with a leading dot.
    pub fn match_address(&self, mailbox: &Mailbox) -> Option<&Arc<str>> {
        self.lookup(&mailbox.to_string()).or_else(|| match &mailbox.host {
            Host::Domain(domain) => self.match_domain(domain.as_str()),
            literal @ Host::Literal(_) => self.lookup(&literal.to_string()),
        })
    }

    /// The domain, or its nearest parent with a leading dot.
    pub fn match_domain(&self, domain: &str) -> Option<&Arc<str>> {
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        if domain.len() > MAX_KEY {
            return None;
        }
        let domain = domain.to_ascii_lowercase();
        self.keys.get(domain.as_str()).or_else(|| {
            domain.match_indices('.').find_map(|(at, _)| self.keys.get(domain.get(at..).unwrap_or_default()))
        })
    }

    /// The network with the most mask bits that holds the address. An IPv4 address mapped into IPv6 is an IPv4 address.
    pub fn match_ip(&self, ip: IpAddr) -> Option<&Arc<str>> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.ipv4.find(u128::from(ip.to_bits())),
            IpAddr::V6(ip) => self.ipv6.find(ip.to_bits()),
        }
    }
}

/// Networks by mask, those with the most bits first.
#[derive(Debug, Default)]
struct Networks {
    by_mask: Vec<(u128, HashMap<u128, Arc<str>>)>,
}

impl Networks {
    fn insert(&mut self, bits: u128, mask: u128, value: Arc<str>) {
        let at = match self.by_mask.iter().position(|(other, _)| *other == mask) {
            Some(at) => at,
            None => {
                let at = self.by_mask.partition_point(|(other, _)| other.count_ones() >= mask.count_ones());
                self.by_mask.insert(at, (mask, HashMap::new()));
                at
            }
        };
        if let Some((_, networks)) = self.by_mask.get_mut(at) {
            networks.insert(bits & mask, value);
        }
    }

    fn find(&self, bits: u128) -> Option<&Arc<str>> {
        self.by_mask.iter().find_map(|(mask, networks)| networks.get(&(bits & mask)))
    }
}

/// A key of a table of addresses: an address, `NET/BITS`, or `NET/MASK`, whose mask need not be contiguous
/// (`192.163.1.1/255.100.10.1` is legal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    V4 { bits: u32, mask: u32 },
    V6 { bits: u128, mask: u128 },
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, mask) = text.split_once('/').map_or((text, None), |(address, mask)| (address, Some(mask)));
        match address.parse::<IpAddr>().ok()? {
            IpAddr::V4(address) => {
                let mask = mask.map_or(Some(u32::MAX), |mask| {
                    prefix(mask, 32).map(ones_v4).or_else(|| mask.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits))
                })?;
                Some(Self::V4 { bits: address.to_bits(), mask })
            }
            IpAddr::V6(address) => {
                let mask = mask.map_or(Some(u128::MAX), |mask| {
                    prefix(mask, 128).map(ones_v6).or_else(|| mask.parse::<Ipv6Addr>().ok().map(Ipv6Addr::to_bits))
                })?;
                Some(Self::V6 { bits: address.to_bits(), mask })
            }
        }
    }
}

fn prefix(text: &str, max: u32) -> Option<u32> {
    text.parse().ok().filter(|&bits| bits <= max)
}

fn ones_v4(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

fn ones_v6(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

/// All tables by name. Published whole with the rest of the config.
#[derive(Debug, Default)]
pub struct Tables {
    tables: HashMap<Box<str>, Result<Table, TableError>>,
}

impl Tables {
    /// Reads them all. Blocking. One that can't be read is there as unavailable: those who ask for it are told so.
    pub fn load(sources: impl IntoIterator<Item = (String, Source)>) -> Self {
        let load = |source| match source {
            Source::Inline(entries) => Table::from_entries(entries.iter().map(|(k, v)| (k.as_str(), v.as_str()))),
            Source::File { path, format } => Table::parse(&read(path)?, format),
        };
        Self { tables: sources.into_iter().map(|(name, source)| (name.into_boxed_str(), load(source))).collect() }
    }

    /// `None`: there is no such table.
    pub fn table(&self, name: &str) -> Option<Result<&Table, &TableError>> {
        self.tables.get(name).map(Result::as_ref)
    }

    /// Those that could not be read, for the log.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &TableError)> {
        self.tables.iter().filter_map(|(name, table)| table.as_ref().err().map(|error| (&**name, error)))
    }
}

fn read(path: PathBuf) -> Result<String, TableError> {
    use std::io::Read as _;
    let mut octets = Vec::new();
    let result = std::fs::File::open(&path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut octets));
    match result {
        Err(error) => Err(TableError::Read(path, error.to_string())),
        Ok(_) if octets.len() as u64 > MAX_FILE => Err(TableError::TooBig(MAX_FILE)),
        Ok(_) => String::from_utf8(octets).map_err(|_| TableError::NotUtf8),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(found: Option<&Arc<str>>) -> Option<&str> {
        found.map(|value| &**value)
    }

    #[test]
    fn lines_and_csv() {
        let table = Table::parse("# list\n\nA@Example.com\n  b \n", Format::Lines).unwrap();
        assert_eq!(
            (table.len(), value(table.lookup("a@example.COM")), value(table.lookup("B"))),
            (2, Some(""), Some(""))
        );
        let table = Table::parse("a, one, two\nb\n", Format::Csv).unwrap();
        assert_eq!((value(table.lookup("a")), value(table.lookup("b"))), (Some("one, two"), Some("")));
        assert_eq!(Table::parse("ok\n,x\n", Format::Csv).unwrap_err(), TableError::Line { line: 2, problem: "no key" });
        assert!(Table::parse("192.0.2.0/33\n", Format::Lines).is_err());
        assert!(Table::parse("192.0.2.1,reject spam\n", Format::Lines).is_err());
        assert_eq!(Table::parse("\"a,b\"@example.com\n", Format::Lines).unwrap().len(), 1);
    }

    #[test]
    fn the_most_specific_key_matches() {
        let table =
            Table::parse("a@x.example.com,address\nx.example.com,domain\n.example.com,parent\n.com,top\n", Format::Csv)
                .unwrap();
        for (address, expected) in [
            ("A@X.example.com", Some("address")),
            ("b@x.example.com", Some("domain")),
            ("b@y.example.com", Some("parent")),
            ("b@z.y.example.com", Some("parent")),
            ("b@example.com", Some("top")),
            ("b@example.org", None),
        ] {
            assert_eq!(value(table.match_address(&address.parse().unwrap())), expected, "{address}");
        }
        assert_eq!(value(table.match_domain("Y.EXAMPLE.com.")), Some("parent"));
    }

    #[test]
    fn networks_longest_first() {
        let table = Table::parse(
            "192.0.2.1,one\n192.0.2.0/24,net\n192.0.0.0/255.255.0.0,wide\n0.0.0.0/0,all\n2001:db8::/32,six\n",
            Format::Csv,
        )
        .unwrap();
        for (ip, expected) in [
            ("192.0.2.1", Some("one")),
            ("192.0.2.2", Some("net")),
            ("192.0.3.2", Some("wide")),
            ("10.0.0.1", Some("all")),
            ("::ffff:192.0.2.1", Some("one")),
            ("2001:db8::5", Some("six")),
            ("2001:db9::5", None),
        ] {
            assert_eq!(value(table.match_ip(ip.parse().unwrap())), expected, "{ip}");
        }
    }

    #[test]
    fn r59_masks_need_not_be_contiguous() {
        let table = Table::parse("192.163.1.1/255.100.10.1,odd\n", Format::Csv).unwrap();
        for (ip, expected) in [
            ("192.163.1.1", Some("odd")),
            // 163 & 100 = 32, 1 & 10 = 0, 1 & 1 = 1
            ("192.32.0.1", Some("odd")),
            ("192.187.245.255", Some("odd")),
            ("192.163.1.2", None),
            ("192.163.2.1", None),
            ("193.163.1.1", None),
        ] {
            assert_eq!(value(table.match_ip(ip.parse().unwrap())), expected, "{ip}");
        }
    }

    #[test]
    fn masks_are_bounded() {
        let lines: String =
            (0..=u32::try_from(MAX_MASKS).unwrap()).map(|n| format!("10.0.0.1/{}\n", Ipv4Addr::from_bits(n))).collect();
        assert_eq!(Table::parse(&lines, Format::Lines).unwrap_err(), TableError::TooManyMasks(MAX_MASKS));
    }

    #[test]
    fn a_table_that_cannot_be_read_is_unavailable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        std::fs::write(&path, "a\n").unwrap();
        let file = |path: PathBuf| Source::File { path, format: Format::Lines };
        let tables = Tables::load([
            ("good".to_owned(), file(path)),
            ("bad".to_owned(), file(directory.path().join("none"))),
            ("inline".to_owned(), Source::Inline(vec![("k".to_owned(), "v".to_owned())])),
        ]);
        assert_eq!(tables.table("good").unwrap().unwrap().len(), 1);
        assert_eq!(value(tables.table("inline").unwrap().unwrap().lookup("K")), Some("v"));
        assert!(tables.table("bad").unwrap().is_err());
        assert!(tables.table("other").is_none());
        assert_eq!(tables.failures().count(), 1);
    }
}
