//! Where installed plugins lie: `DIRECTORY/installed.json`, the [`Record`], and `DIRECTORY/versions/DIGEST.wasm`.
//!
//! Both are written aside, synced and renamed: what has its name is whole, whatever was cut off. Only the gateway writes
//! here, one change at a time; it holds the spool's lock.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::record::Record;
use crate::host::ContentDigest;

/// Octets of the record: some thousand plugins with ten versions each.
const MAX_RECORD: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{}: {problem}. It says which plugins are installed; bring back a copy of it, or move it away to begin with those of the config",
        path.display()
    )]
    Damaged { path: PathBuf, problem: String },
}

#[derive(Debug, Clone)]
pub struct Registry {
    directory: PathBuf,
}

impl Registry {
    /// Makes the directories when there are none. Blocking, as is all that follows.
    pub fn open(directory: PathBuf) -> Result<(Self, Record), RegistryError> {
        let registry = Self { directory };
        let versions = registry.directory.join("versions");
        let make = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&versions);
        make.map_err(failed(&versions))?;
        let record = registry.read()?;
        registry.sweep(&record);
        Ok((registry, record))
    }

    /// What is there, changing nothing: beside a gateway that runs.
    pub fn look(directory: PathBuf) -> Result<(Self, Record), RegistryError> {
        let registry = Self { directory };
        let record = registry.read()?;
        Ok((registry, record))
    }

    fn record_path(&self) -> PathBuf {
        self.directory.join("installed.json")
    }

    /// Where the component of that digest lies, if it is kept.
    pub fn component(&self, digest: &str) -> PathBuf {
        self.directory.join("versions").join(format!("{digest}.wasm"))
    }

    fn read(&self) -> Result<Record, RegistryError> {
        let path = self.record_path();
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
            Err(error) => return Err(failed(&path)(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut text).map_err(failed(&path))?;
        Record::parse(&text).map_err(|problem| RegistryError::Damaged { path, problem })
    }

    /// Durable when it returns.
    pub fn save(&self, record: &Record) -> Result<(), RegistryError> {
        let path = self.record_path();
        let text = serde_json::to_vec_pretty(record).map_err(|error| failed(&path)(error.into()))?;
        replace(&path, &text).map_err(failed(&path))
    }

    /// Keeps a component; durable when it returns.
    pub fn keep(&self, digest: ContentDigest, source: &[u8]) -> Result<(), RegistryError> {
        let path = self.component(&digest.to_string());
        // A disk may have damaged the one that is there: whoever brings it again, mends it.
        let there = std::fs::read(&path).is_ok_and(|kept| kept == source);
        if there { Ok(()) } else { replace(&path, source).map_err(failed(&path)) }
    }

    /// Removes components that the record does not speak of, and what was cut off. What can't be removed stays.
    pub fn sweep(&self, record: &Record) {
        let Ok(entries) = std::fs::read_dir(self.directory.join("versions")) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let digest = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let whole = path.extension().is_some_and(|extension| extension == "wasm");
            if (!whole || !record.digests().any(|known| **known == *digest))
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "an old version of a plugin can't be removed");
            }
        }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> RegistryError {
    move |source| RegistryError::Io { path: path.to_owned(), source }
}

/// The file is the old one or the new one, whole, whenever somebody looks.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&aside, path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&aside);
        return Err(error);
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Scope;
    use crate::server::plugins::record::Version;

    fn version(digest: &str) -> Version {
        Version {
            number: 0,
            digest: digest.into(),
            size: 3,
            installed: jiff::Timestamp::UNIX_EPOCH,
            file: "x.wasm".to_owned(),
            stages: vec!["rcpt".to_owned()],
            place: None,
            settings: None,
            withdrawn: None,
        }
    }

    #[test]
    fn what_was_saved_is_there_again_and_the_rest_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("plugins");
        let (registry, mut record) = Registry::open(at.clone()).unwrap();
        assert_eq!(record, Record::default());
        let [kept, other] = [b"one", b"two"].map(|source| {
            let digest = ContentDigest::of(source);
            registry.keep(digest, source).unwrap();
            digest.to_string()
        });
        record.entry_mut(&Scope::Tenant("a".into()), "x").add(version(&kept), 10);
        registry.save(&record).unwrap();
        std::fs::write(at.join("versions/cut.new"), "half").unwrap();
        let (registry, again) = Registry::open(at.clone()).unwrap();
        assert_eq!(again, record);
        assert_eq!(std::fs::read(registry.component(&kept)).unwrap(), b"one");
        assert!(!registry.component(&other).exists());
        assert_eq!(std::fs::read_dir(at.join("versions")).unwrap().count(), 1);
    }

    #[test]
    fn a_record_that_makes_no_sense_is_named_and_left_alone() {
        for text in ["", "{", "[]", r#"{"format":2,"plugins":[]}"#, r#"{"format":1,"plugins":[{"name":"x"}]}"#, "\0"] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("installed.json");
            std::fs::write(&path, text).unwrap();
            let error = Registry::open(directory.path().to_owned()).unwrap_err().to_string();
            assert!(error.contains("installed.json") && error.contains("move it away"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_directory_without_rights_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("plugins");
        std::fs::write(&at, "a file where a directory belongs").unwrap();
        assert!(Registry::open(at).unwrap_err().to_string().contains("plugins"));
        let (registry, record) = Registry::open(directory.path().join("other")).unwrap();
        std::fs::remove_dir_all(directory.path().join("other")).unwrap();
        assert!(registry.save(&record).is_err());
        assert!(registry.keep(ContentDigest::of(b"x"), b"x").is_err());
    }
}
