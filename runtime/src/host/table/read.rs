//! From a file to a table, within bounds: a line at a time, so that no file takes more memory than the table it makes.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use csv_core::{ReadRecordResult, Reader};
use toml::de::{DeTable, DeValue};

use super::{Builder, Table, TableError};

/// Octets of a line, its end included: a key and a value.
const MAX_LINE: u64 = 4096;
/// Columns of a row.
const MAX_COLUMNS: usize = 64;
/// TOML is read as a whole, which takes about ten times the file's size for a moment.
const MAX_TOML: u64 = 8 << 20;

/// Which file it is, and how to read it. Two that are equal are one table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Definition {
    /// For log and metrics: its name in the config, or the path.
    pub name: Arc<str>,
    pub path: PathBuf,
    pub format: Format,
    pub bounds: Bounds,
}

/// How a table is written down. Empty lines and those that begin with `#` are skipped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Format {
    /// One key a line; the values are empty.
    Lines,
    /// Key and value by their columns; a key alone has an empty value. RFC 4180, but that no row is longer than a line.
    Csv { key: Column, value: Column },
    /// `key = value`: texts, numbers, true and false.
    Toml,
}

/// Where in a row something stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Column {
    /// From 1.
    Number(usize),
    /// As the file's first line has it.
    Name(Arc<str>),
}

/// What a file may have at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub octets: u64,
    pub entries: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { octets: 256 << 20, entries: 4_000_000 }
    }
}

impl Format {
    /// By the end of the file's name: `*.csv` and `*.toml` are maps, any other is a list.
    pub fn of(path: &std::path::Path) -> Self {
        let is = |ending: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(ending));
        if is("csv") {
            Self::csv()
        } else if is("toml") {
            Self::Toml
        } else {
            Self::Lines
        }
    }

    /// The key in the first column, the value in the second.
    pub fn csv() -> Self {
        Self::Csv { key: Column::Number(1), value: Column::Number(2) }
    }
}

impl Definition {
    /// All by its defaults.
    pub fn of(path: PathBuf) -> Self {
        let name = path.display().to_string().into();
        Self { name, format: Format::of(&path), path, bounds: Bounds::default() }
    }
}

/// A file that has the same one has not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    octets: u64,
    modified: (i64, i64),
    /// Whoever writes a file can set back the time above, but not this one.
    changed: (i64, i64),
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            octets: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// It was changed less than that ago: it may change again without its time being another one, and may be half of what
    /// it is to be.
    pub fn is_fresh(&self, patience: Duration) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
        now.checked_sub(changed).is_some_and(|age| age < patience)
    }

    /// `None`: there is no such file, or it can't be looked at. Symbolic links are followed.
    pub fn of(path: &std::path::Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::new(&metadata))
    }
}

impl Definition {
    /// Blocking.
    pub(super) fn read(&self) -> (Option<Stamp>, Result<Table, TableError>) {
        let file = match self.open() {
            Ok(file) => file,
            Err(error) => return (Stamp::of(&self.path), Err(error)),
        };
        let stamp = |file: &File| file.metadata().map(|metadata| Stamp::new(&metadata));
        let (before, table, after) = (stamp(&file), self.read_from(&file), stamp(&file));
        match (before, table, after) {
            // Half of it may be of the one and half of the other.
            (Ok(before), Ok(_), Ok(after)) if before != after => {
                (Some(before), Err(TableError::Unsettled(self.path.clone())))
            }
            (before, table, _) => (before.ok(), table),
        }
    }

    fn unreadable(&self, error: impl ToString) -> TableError {
        TableError::Read(self.path.clone(), error.to_string())
    }

    /// Without waiting for whoever writes to a pipe, and without touching a device.
    fn open(&self) -> Result<File, TableError> {
        let check = |metadata: std::io::Result<Metadata>| match metadata {
            Ok(metadata) if !metadata.is_file() => Err(TableError::NoFile(self.path.clone())),
            Ok(metadata) if metadata.len() > self.bounds.octets => Err(TableError::TooBig(self.bounds.octets)),
            Ok(_) => Ok(()),
            Err(error) => Err(self.unreadable(error)),
        };
        check(std::fs::metadata(&self.path))?;
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path);
        let file = file.map_err(|error| self.unreadable(error))?;
        // It may be another one by now.
        check(file.metadata())?;
        Ok(file)
    }

    fn read_from(&self, file: &File) -> Result<Table, TableError> {
        let octets = file.metadata().map_or(0, |metadata| metadata.len());
        let mut builder = Builder::new(&self.bounds, usize::try_from(octets + octets / 4).unwrap_or(0));
        // It may grow while it is read.
        let file = BufReader::with_capacity(1 << 16, file.take(self.bounds.octets));
        match &self.format {
            Format::Lines => {
                self.each_line(file, |number, line| builder.insert(number, list_key(number, line)?, ""))?;
            }
            Format::Csv { key, value } => {
                let mut rows = Rows::new(key, value);
                self.each_line(file, |number, line| match rows.read(number, line)? {
                    Some((key, value)) => builder.insert(number, key, value),
                    None => Ok(()),
                })?;
            }
            Format::Toml => self.read_toml(file, &mut builder)?,
        }
        builder.finish()
    }

    /// The lines that say something, with their numbers from 1, without white space around them.
    fn each_line(
        &self,
        mut file: impl BufRead,
        mut then: impl FnMut(u64, &str) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = (&mut file).take(MAX_LINE + 1).read_until(b'\n', &mut line);
            if read.map_err(|error| self.unreadable(error))? == 0 {
                break;
            }
            let wrong = |problem| TableError::Line { line: number, problem };
            if line.len() as u64 > MAX_LINE {
                return Err(wrong("it has more than 4096 octets"));
            }
            let text = std::str::from_utf8(&line).map_err(|_| wrong("it is not UTF-8"))?;
            let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
            let text = text.trim();
            if text.contains(|c: char| c.is_control() && c != '\t') {
                return Err(wrong("there is a control character in it"));
            }
            if !text.is_empty() && !text.starts_with('#') {
                then(number, text)?;
            }
        }
        Ok(())
    }

    fn read_toml(&self, file: impl BufRead, builder: &mut Builder) -> Result<(), TableError> {
        let mut text = String::new();
        let read = file.take(MAX_TOML + 1).read_to_string(&mut text);
        read.map_err(|error| self.unreadable(error))?;
        if text.len() as u64 > MAX_TOML {
            return Err(TableError::TooBig(MAX_TOML));
        }
        let table = DeTable::parse(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(&text, span.start));
            TableError::Toml(format!("line {line}: {}", error.message()))
        })?;
        for (key, value) in table.get_ref() {
            let line = line_at(&text, key.span().start);
            let value = value.get_ref();
            let value = match value {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.to_string(),
                DeValue::Boolean(flag) => flag.to_string(),
                DeValue::Datetime(time) => time.to_string(),
                DeValue::Array(_) | DeValue::Table(_) => {
                    let problem = "the value is neither a text nor a number; a key with dots in it stands in quotes";
                    return Err(TableError::Line { line, problem });
                }
            };
            if value.len() as u64 > MAX_LINE || value.contains(char::is_control) {
                let problem = "the value has more than 4096 octets, or a control character";
                return Err(TableError::Line { line, problem });
            }
            builder.insert(line, key.get_ref(), &value)?;
        }
        Ok(())
    }
}

fn line_at(text: &str, at: usize) -> u64 {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    1 + before.iter().filter(|octet| **octet == b'\n').count() as u64
}

/// A comma is for maps; taken for a part of the key it would match nothing, and nobody would notice.
fn list_key(line: u64, text: &str) -> Result<&str, TableError> {
    if text.contains(',') && !text.contains('"') {
        let problem = "a comma in a list of keys; name a file with values *.csv";
        return Err(TableError::Line { line, problem });
    }
    Ok(text)
}

/// Reads rows of a CSV file.
struct Rows<'d> {
    key: &'d Column,
    value: &'d Column,
    /// Of key and value, from 0; with columns by name as soon as the first line was read.
    columns: Option<(usize, usize)>,
    reader: Reader,
    /// With its end.
    line: Vec<u8>,
    /// A row's fields, one after the other, and where each ends.
    fields: Vec<u8>,
    ends: [usize; MAX_COLUMNS],
}

impl<'d> Rows<'d> {
    fn new(key: &'d Column, value: &'d Column) -> Self {
        let columns = match (key, value) {
            (Column::Number(key), Column::Number(value)) => Some((key.saturating_sub(1), value.saturating_sub(1))),
            _ => None,
        };
        // No field is longer than its line.
        let fields = vec![0; usize::try_from(MAX_LINE).unwrap_or(usize::MAX)];
        Self { key, value, columns, reader: Reader::new(), line: Vec::new(), fields, ends: [0; MAX_COLUMNS] }
    }

    /// `None`: it was the line with the columns' names.
    fn read(&mut self, number: u64, line: &str) -> Result<Option<(&str, &str)>, TableError> {
        let wrong = |problem| TableError::Line { line: number, problem };
        self.line.clear();
        self.line.extend_from_slice(line.as_bytes());
        self.line.push(b'\n');
        self.reader.reset();
        let (result, read, _, count) = self.reader.read_record(&self.line, &mut self.fields, &mut self.ends);
        match result {
            ReadRecordResult::Record if read == self.line.len() => {}
            // It would swallow the next rows.
            ReadRecordResult::InputEmpty => return Err(wrong("a quote is left open")),
            _ => return Err(wrong("too many columns")),
        }
        let Some((key, value)) = self.columns else {
            self.columns = Some((self.position(self.key, count)?, self.position(self.value, count)?));
            return Ok(None);
        };
        let by_default = (key, value) == (0, 1);
        if by_default && count > 2 {
            return Err(wrong("more than two columns; a value with a comma stands in quotes"));
        }
        let key = self.field(key, count).ok_or(wrong("no key"))?;
        Ok(Some((key, self.field(value, count).unwrap_or_default())))
    }

    fn position(&self, column: &Column, count: usize) -> Result<usize, TableError> {
        match column {
            Column::Number(number) => Ok(number.saturating_sub(1)),
            Column::Name(name) => (0..count)
                .find(|at| self.field(*at, count).is_some_and(|field| field.eq_ignore_ascii_case(name)))
                .ok_or_else(|| TableError::NoColumn(name.to_string())),
        }
    }

    /// Without white space around it.
    fn field(&self, at: usize, count: usize) -> Option<&str> {
        let ends = self.ends.get(..count)?;
        let start = at.checked_sub(1).map_or(Some(0), |before| ends.get(before).copied())?;
        std::str::from_utf8(self.fields.get(start..*ends.get(at)?)?).ok().map(str::trim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &[u8]) -> Result<Table, TableError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        Definition::of(path).read().1
    }

    fn error(name: &str, content: &[u8]) -> String {
        read(name, content).unwrap_err().to_string()
    }

    #[test]
    fn lists() {
        let table = read("list", b"\xef\xbb\xbfa\r\n\n# no\n  b c \n\"a,b\"@example.com\nlast").unwrap();
        assert_eq!(table.len(), 4);
        for key in ["a", "b c", "\"a,b\"@example.com", "last"] {
            assert_eq!(table.lookup(key), Some(""), "{key}");
        }
        assert_eq!(
            error("list", b"192.0.2.1,reject spam\n"),
            "line 1: a comma in a list of keys; name a file with values *.csv"
        );
        assert_eq!(read("list", b"").unwrap().len(), 0);
    }

    #[test]
    fn rows_of_csv() {
        let table = read("t.CSV", b"# key, value\na, one two \nb\n\"c,d\",\"x \"\"y\"\", z\"\ne,\n").unwrap();
        for (key, value) in [("a", "one two"), ("b", ""), ("c,d", "x \"y\", z"), ("e", "")] {
            assert_eq!(table.lookup(key), Some(value), "{key}");
        }
        assert_eq!(error("t.csv", b"ok\n,x\n"), "line 2: no key");
        assert_eq!(error("t.csv", b"a,b,c\n"), "line 1: more than two columns; a value with a comma stands in quotes");
        assert_eq!(error("t.csv", b"a,\"b\nc,d\n"), "line 1: a quote is left open");
        assert_eq!(error("t.csv", &[b','; 70]), "line 1: too many columns");
    }

    #[test]
    fn columns_by_number_and_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("export");
        std::fs::write(&path, "Id,Mail,Class,Note\n1,a@x.org,gold,\"n, m\"\n2,b@x.org\n").unwrap();
        let definition = |key: Column, value: Column| Definition {
            format: Format::Csv { key, value },
            ..Definition::of(path.clone())
        };
        let named = definition(Column::Name("mail".into()), Column::Name("Class".into())).read().1.unwrap();
        assert_eq!((named.len(), named.lookup("a@x.org"), named.lookup("b@x.org")), (2, Some("gold"), Some("")));
        let numbered = definition(Column::Number(3), Column::Number(1)).read().1;
        assert_eq!(numbered.unwrap_err(), TableError::Line { line: 3, problem: "no key" });
        let missing = definition(Column::Name("Name".into()), Column::Number(1)).read().1;
        assert_eq!(missing.unwrap_err().to_string(), "there is no column `Name` in the first line");
    }

    #[test]
    fn toml() {
        let table = read("t.toml", b"a = \"x\"\n\"b@example.com\" = 7\nc = true\n\"192.0.2.0/24\" = 'net'\n").unwrap();
        for (key, value) in [("a", "x"), ("b@example.com", "7"), ("c", "true"), ("192.0.2.0/24", "net")] {
            assert_eq!(table.lookup(key), Some(value), "{key}");
        }
        assert!(
            error("t.toml", b"a = 1\na = 2\n").starts_with("TOML: line 2: "),
            "{}",
            error("t.toml", b"a = 1\na = 2\n")
        );
        assert!(error("t.toml", b"a = 1\nexample.com = 2\n").starts_with("line 2: the value is neither"));
        assert!(error("t.toml", b"a = \"\\n\"\n").starts_with("line 1: the value has more than"));
        assert!(error("t.toml", b"a = ").starts_with("TOML: line 1: "));
    }

    #[test]
    fn hostile_files_are_told_and_cost_nothing() {
        assert_eq!(error("list", b"ok\na\0b\n"), "line 2: there is a control character in it");
        assert_eq!(error("list", b"ok\n\xff\n"), "line 2: it is not UTF-8");
        assert_eq!(error("list", &[b'a'; 5000]), "line 1: it has more than 4096 octets");
        assert_eq!(error("t.csv", b"a,1\na,2\n"), "line 2: `a` is there already, with another value");
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let error = |path: PathBuf| Definition::of(path).read().1.unwrap_err();
        assert_eq!(error(at("")), TableError::NoFile(at("")), "a directory");
        assert_eq!(error("/dev/zero".into()), TableError::NoFile("/dev/zero".into()));
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        assert_eq!(error(at("fifo")), TableError::NoFile(at("fifo")));
        for (link, to) in [("zero", "/dev/zero"), ("round", "round"), ("lost", "nowhere")] {
            std::os::unix::fs::symlink(to, at(link)).unwrap();
        }
        assert_eq!(error(at("zero")), TableError::NoFile(at("zero")));
        for link in ["round", "lost", "none"] {
            assert!(matches!(error(at(link)), TableError::Read(..)), "{link}");
        }
        // 2 GB with nothing in it.
        File::create(at("big")).unwrap().set_len(2 << 30).unwrap();
        assert_eq!(error(at("big")), TableError::TooBig(256 << 20));
        // One line of 200 MB.
        File::create(at("line")).unwrap().set_len(200 << 20).unwrap();
        assert_eq!(error(at("line")).to_string(), "line 1: it has more than 4096 octets");
        File::create(at("big.toml")).unwrap().set_len(9 << 20).unwrap();
        assert_eq!(error(at("big.toml")), TableError::TooBig(MAX_TOML));
        std::fs::write(at("many"), "a\nb\nc\n").unwrap();
        let two = Definition { bounds: Bounds { entries: 2, octets: 100 }, ..Definition::of(at("many")) };
        assert_eq!(two.read().1.unwrap_err(), TableError::TooMany(2));
        std::os::unix::fs::symlink(at("many"), at("link")).unwrap();
        assert_eq!(Definition::of(at("link")).read().1.unwrap().len(), 3, "a link to a file is a file");
    }
}
