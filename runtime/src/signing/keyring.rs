//! The keys on disk: `DIRECTORY/DOMAIN/SELECTOR.pem`, one file for each.
//!
//! They are read with the config, so a key that can't be used is found then and not when a mail needs it. It is told, and
//! costs the mail that was to be signed with it, which waits; every other domain's goes on. A key is made once and never
//! written over (R30): whoever has signed with it must be able to be verified.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key::{Algorithm, Key, KeyError};
use crate::smtp::Domain;

/// Octets of a file; 4096 bits take 3.3 KiB.
const MAX_FILE: u64 = 16 * 1024;
/// Keys in all.
const MAX_KEYS: usize = 50_000;
const EXTENSION: &str = "pem";
/// Stands for keys whose names can't be told, so that a domain has a key that can't be used, and not none.
const NAMELESS: &str = "unusable";

/// Names one of a domain's keys (RFC 6376 §3.1): labels of letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(Domain);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a selector is a DNS label of letters, digits, - and _, or some of them with dots between")]
pub struct InvalidSelector;

impl Selector {
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        // As a path it is a file's name.
        let plain = text.is_ascii() && !text.ends_with('.') && text.len() <= 63;
        Domain::parse(text).ok().filter(|_| plain).map(Self).ok_or(InvalidSelector)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The administrator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("{}: {problem}", path.display())]
    Name { path: PathBuf, problem: String },
    #[error("{} can be {how}: chmod {mode} {}", path.display(), path.display())]
    Open { path: PathBuf, how: &'static str, mode: &'static str },
    #[error("{} is there already; a key is never written over, choose another selector", path.display())]
    Exists { path: PathBuf },
    #[error("{}: more than {MAX_KEYS} keys", path.display())]
    TooMany { path: PathBuf },
    #[error("{selector}._domainkey.{domain} is too long for DNS")]
    TooLong { domain: Domain, selector: Selector },
}

/// Read once; a reload makes another one.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: BTreeMap<Domain, BTreeMap<Selector, Arc<Key>>>,
    /// That are there and can't be used.
    broken: BTreeMap<Domain, BTreeSet<Selector>>,
    /// Whose directory can't be read: which keys they have is not known.
    unread: BTreeSet<Domain>,
    errors: Arc<[KeyringError]>,
}

impl Keyring {
    /// Without the directory there are no keys. The error: nothing can be said of any key. What is wrong with single ones
    /// is in [`errors`](Self::errors). Blocking.
    pub fn load(directory: &Path) -> Result<Self, KeyringError> {
        let mut reader = Reader::default();
        reader.read(directory)?;
        Ok(Self { errors: reader.errors.into(), ..reader.keyring })
    }

    /// Of keys that can't be used, and of directories that are no domain's.
    pub fn errors(&self) -> &[KeyringError] {
        &self.errors
    }

    /// A domain's that are there and can't be used. Mail that asks for one of them must wait.
    pub fn broken(&self, domain: &Domain) -> impl Iterator<Item = &Selector> {
        self.broken.get(domain).into_iter().flatten()
    }

    /// What can't be used now is as it was before, where it was there. Errors stay.
    #[must_use]
    pub fn with_broken_as_in(mut self: Arc<Self>, before: &Self) -> Arc<Self> {
        if self.broken.is_empty() {
            return self;
        }
        let keyring = Arc::make_mut(&mut self);
        for domain in &keyring.unread {
            if let Some(keys) = before.keys.get(domain) {
                keyring.keys.insert(domain.clone(), keys.clone());
                keyring.broken.remove(domain);
            }
        }
        for (domain, selectors) in &mut keyring.broken {
            selectors.retain(|selector| match before.key(domain, selector) {
                Some(key) => {
                    keyring.keys.entry(domain.clone()).or_default().insert(selector.clone(), key.clone());
                    false
                }
                None => true,
            });
        }
        self
    }

    pub fn key(&self, domain: &Domain, selector: &Selector) -> Option<&Arc<Key>> {
        self.keys.get(domain)?.get(selector)
    }

    /// Of a domain, in the order of the alphabet.
    pub fn selectors(&self, domain: &Domain) -> impl Iterator<Item = &Selector> {
        self.keys.get(domain).into_iter().flat_map(BTreeMap::keys)
    }

    /// All, by domain and selector.
    pub fn iter(&self) -> impl Iterator<Item = (&Domain, &Selector, &Arc<Key>)> {
        self.keys.iter().flat_map(|(domain, keys)| keys.iter().map(move |(selector, key)| (domain, selector, key)))
    }

    pub fn len(&self) -> usize {
        self.keys.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Puts a key in by hand.
    #[cfg(test)]
    pub fn with(mut self, domain: &str, selector: &str, key: Key) -> Self {
        let keys = self.keys.entry(Domain::parse(domain).unwrap()).or_default();
        keys.insert(Selector::parse(selector).unwrap(), Arc::new(key));
        self
    }
}

/// Where a key lies.
pub fn path(directory: &Path, domain: &Domain, selector: &Selector) -> PathBuf {
    directory.join(domain.as_str()).join(format!("{selector}.{EXTENSION}"))
}

/// Makes a key and puts it on disk, where there is none of that name; the directories too. It is whole or not there,
/// and nobody else can read it. Run as root, it belongs to whom the directory above belongs to. Blocking.
pub fn create(
    directory: &Path,
    domain: &Domain,
    selector: &Selector,
    algorithm: Algorithm,
) -> Result<(Key, PathBuf), KeyringError> {
    // RFC 1035 §2.3.4: 255 octets on the wire are 253 characters.
    if domain.as_str().len() + selector.as_str().len() + "._domainkey.".len() > 253 {
        return Err(KeyringError::TooLong { domain: domain.clone(), selector: selector.clone() });
    }
    let place = path(directory, domain, selector);
    let exists = || KeyringError::Exists { path: place.clone() };
    if fs::symlink_metadata(&place).is_ok() {
        return Err(exists());
    }
    let folder = directory.join(domain.as_str());
    for made in [directory, &folder] {
        make_directory(made).map_err(failed(made))?;
    }
    let (key, pem) = Key::generate(algorithm).map_err(|source| KeyringError::Key { path: place.clone(), source })?;
    let aside = folder.join(format!(".{selector}.{}", std::process::id()));
    let written = write_aside(&aside, &pem).and_then(|()| fs::hard_link(&aside, &place));
    // Its only name is the other one now; left over, it would be one that nobody reads.
    let _ = fs::remove_file(&aside);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists()),
        written => written.map_err(failed(&place))?,
    }
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed(&folder))?;
    Ok((key, place))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> KeyringError {
    move |source| KeyringError::Io { path: path.to_owned(), source }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| belong_to_parent(path)),
    }
}

fn write_aside(path: &Path, pem: &str) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(pem.as_bytes())?;
    belong_to_parent(path)?;
    file.sync_all()
}

/// What root makes must be the gateway's, which does not run as root.
fn belong_to_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (own, above) = (fs::symlink_metadata(path)?, fs::metadata(parent)?);
    if rustix::process::geteuid().is_root() && (own.uid(), own.gid()) != (above.uid(), above.gid()) {
        std::os::unix::fs::lchown(path, Some(above.uid()), Some(above.gid()))?;
    }
    Ok(())
}

#[derive(Default)]
struct Reader {
    keyring: Keyring,
    count: usize,
    errors: Vec<KeyringError>,
}

impl Reader {
    fn read(&mut self, directory: &Path) -> Result<(), KeyringError> {
        // Nor is it there where what should be above it is none.
        let is_absent =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        if fs::metadata(directory).is_err_and(|error| is_absent(&error)) {
            return Ok(());
        }
        check_directory(directory)?;
        for entry in fs::read_dir(directory).map_err(failed(directory))? {
            let path = entry.map_err(failed(directory))?.path();
            if is_hidden(&path) || !path.is_dir() {
                continue;
            }
            match domain(&path) {
                Ok((domain, problem)) => self.read_domain(&path, &domain, problem),
                Err(error) => self.errors.push(error),
            }
            if self.count > MAX_KEYS {
                return Err(KeyringError::TooMany { path: directory.to_owned() });
            }
        }
        Ok(())
    }

    /// `problem`: of the directory, so that none of its keys can be used.
    fn read_domain(&mut self, folder: &Path, domain: &Domain, problem: Option<KeyringError>) {
        let is_sound = problem.is_none();
        self.errors.extend(problem);
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.note_unread(domain, failed(folder)(error)),
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => return self.note_unread(domain, failed(folder)(error)),
            };
            if is_hidden(&path) || path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            self.count += 1;
            if self.count > MAX_KEYS {
                return;
            }
            match read_key(&path) {
                Ok((selector, key)) if is_sound => {
                    self.keyring.keys.entry(domain.clone()).or_default().insert(selector, Arc::new(key));
                }
                // What is wrong is told of the directory.
                Ok((selector, _)) => drop(self.keyring.broken.entry(domain.clone()).or_default().insert(selector)),
                Err(error) => self.note_broken(domain, &path, error),
            }
        }
    }

    fn note_unread(&mut self, domain: &Domain, error: KeyringError) {
        self.keyring.unread.insert(domain.clone());
        self.keyring.broken.entry(domain.clone()).or_default().extend(Selector::parse(NAMELESS));
        self.errors.push(error);
    }

    fn note_broken(&mut self, domain: &Domain, path: &Path, error: KeyringError) {
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let selector = name.and_then(|name| Selector::parse(name).ok()).or_else(|| Selector::parse(NAMELESS).ok());
        self.keyring.broken.entry(domain.clone()).or_default().extend(selector);
        self.errors.push(error);
    }
}

/// Whose keys are in a directory, and why none of them can be used. The error: it is nobody's.
fn domain(path: &Path) -> Result<(Domain, Option<KeyringError>), KeyringError> {
    let wrong = |problem: String| KeyringError::Name { path: path.to_owned(), problem };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Ok(domain) = Domain::parse(name) else {
        return Err(wrong("this directory is not named after a domain".to_owned()));
    };
    // The name must be the one that is looked up, or one key would have two places.
    let problem = match domain.as_str() == name {
        true => check_directory(path).err(),
        false => Some(wrong(format!("this directory must be named `{domain}`"))),
    };
    Ok((domain, problem))
}

/// Of an editor, or a file system's own.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".") || name == "lost+found")
}

fn check_directory(path: &Path) -> Result<(), KeyringError> {
    let mode = fs::metadata(path).map_err(failed(path))?.mode();
    if mode & 0o022 != 0 {
        return Err(KeyringError::Open { path: path.to_owned(), how: "written by others", mode: "700" });
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<(Selector, Key), KeyringError> {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let selector = Selector::parse(name).ok().filter(|selector| selector.as_str() == name).ok_or_else(|| {
        KeyringError::Name { path: path.to_owned(), problem: format!("{InvalidSelector}, in lower case") }
    })?;
    let file = File::open(path).map_err(failed(path))?;
    // The group may read: a key can be root's, who alone changes it.
    if file.metadata().map_err(failed(path))?.mode() & 0o037 != 0 {
        return Err(KeyringError::Open { path: path.to_owned(), how: "read or changed by others", mode: "600" });
    }
    let mut pem = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut pem).map_err(failed(path))?;
    let key = Key::from_pem(&pem).map_err(|source| KeyringError::Key { path: path.to_owned(), source })?;
    Ok((selector, key))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn selector(name: &str) -> Selector {
        Selector::parse(name).unwrap()
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn selectors() {
        for (text, good) in [
            ("postern-2026-11", true),
            ("a.b_c", true),
            ("", false),
            (".", false),
            ("..", false),
            ("../x", false),
            ("a/b", false),
            ("a.", false),
            (".a", false),
            ("a b", false),
            ("ü", false),
            ("a\0", false),
        ] {
            assert_eq!(Selector::parse(text).is_ok(), good, "{text:?}");
        }
        assert_eq!(selector("UPPER").as_str(), "upper");
    }

    #[test]
    fn r27_keys_that_are_made_are_found_again_and_private() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("keys");
        assert!(Keyring::load(&directory).unwrap().is_empty());
        let (example, org) = (domain("example.com"), domain("example.org"));
        let make = |domain: &Domain, name: &str, algorithm| {
            create(&directory, domain, &selector(name), algorithm).unwrap().0.record().unwrap()
        };
        let one = make(&example, "s1", Algorithm::Ed25519);
        make(&example, "s0", Algorithm::Rsa);
        make(&org, "s1", Algorithm::Ed25519);
        for path in [directory.clone(), directory.join("example.com")] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        }
        let file = directory.join("example.com/s1.pem");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let keyring = Keyring::load(&directory).unwrap();
        let selectors: Vec<_> = keyring.selectors(&example).map(Selector::as_str).collect();
        assert_eq!((selectors, keyring.len()), (vec!["s0", "s1"], 3));
        assert_eq!(keyring.key(&example, &selector("s1")).unwrap().record().unwrap(), one);
        assert!(keyring.key(&org, &selector("s0")).is_none());
    }

    #[test]
    fn r30_a_key_is_never_written_over() {
        let place = tempfile::tempdir().unwrap();
        let make = || create(place.path(), &domain("example.com"), &selector("s"), Algorithm::Ed25519);
        let (_, path) = make().unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(make(), Err(KeyringError::Exists { .. })));
        // Nor what is no key, nor what a link without an end points at.
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(matches!(make(), Err(KeyringError::Exists { .. })));
        fs::remove_file(&path).unwrap();
        fs::write(&path, &before).unwrap();
        assert!(matches!(make(), Err(KeyringError::Exists { .. })));
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(place.path().join("example.com")).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn what_is_wrong_is_told_of_all() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["good.example", "Upper.example", "not a domain", ".hidden", "open.example"] {
            fs::create_dir(at(name)).unwrap();
        }
        mode(&at("open.example"), 0o770);
        let (_, key) = create(place.path(), &domain("good.example"), &selector("a"), Algorithm::Ed25519).unwrap();
        let pem = fs::read(key).unwrap();
        for (name, content, mode_of) in [
            ("good.example/readable.pem", &pem[..], 0o660),
            ("good.example/world.pem", &pem, 0o604),
            ("good.example/rubbish.pem", b"x", 0o600),
            ("good.example/big.pem", &[b'x'; 20_000], 0o600),
            ("good.example/BAD.pem", &pem, 0o600),
            ("good.example/no selector.pem", &pem, 0o600),
            ("good.example/notes.txt", b"not looked at", 0o644),
            ("good.example/.b.pem.swp", b"nor this", 0o644),
        ] {
            fs::write(at(name), content).unwrap();
            mode(&at(name), mode_of);
        }
        fs::copy(at("good.example/a.pem"), at("open.example/b.pem")).unwrap();
        let keyring = Keyring::load(place.path()).unwrap();
        // Each costs nobody but its own domain.
        let names = |name: &str| {
            let (domain, text) = (domain(name), |selector: &Selector| selector.to_string());
            let good: Vec<_> = keyring.selectors(&domain).map(text).collect();
            (good.join(" "), keyring.broken(&domain).map(text).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names("good.example"), ("a".to_owned(), "bad big readable rubbish unusable world".to_owned()));
        assert_eq!(names("open.example"), (String::new(), "b".to_owned()));
        let errors = keyring.errors();
        let mut told: Vec<_> = errors.iter().map(ToString::to_string).collect();
        told.sort();
        let told = told.join("\n");
        assert_eq!(errors.len(), 9, "{told}");
        for part in [
            "readable.pem can be read or changed by others: chmod 600",
            "world.pem can be read or changed by others",
            "rubbish.pem: it holds no private key",
            "big.pem: it holds no private key",
            "BAD.pem: a selector is",
            "must be named `upper.example`",
            "not named after a domain",
            "open.example can be written by others: chmod 700",
        ] {
            assert!(told.contains(part), "{part}\n{told}");
        }
    }

    #[test]
    fn a_broken_key_is_as_it_was_before() {
        let place = tempfile::tempdir().unwrap();
        let (example, org) = (domain("example.com"), domain("example.org"));
        let (_, path) = create(place.path(), &example, &selector("a"), Algorithm::Ed25519).unwrap();
        create(place.path(), &org, &selector("a"), Algorithm::Ed25519).unwrap();
        let before = Keyring::load(place.path()).unwrap();
        fs::write(&path, "rubbish").unwrap();
        fs::write(path.with_file_name("new.pem"), "rubbish").unwrap();
        fs::remove_dir_all(place.path().join("example.org")).unwrap();
        let now = Arc::new(Keyring::load(place.path()).unwrap());
        assert!(now.is_empty() && now.errors().len() == 2);
        let now = now.with_broken_as_in(&before);
        let record = |keyring: &Keyring| keyring.key(&example, &selector("a")).unwrap().record().unwrap();
        assert_eq!(record(&now), record(&before));
        assert_eq!(now.broken(&example).map(Selector::as_str).collect::<Vec<_>>(), ["new"]);
        assert!(now.key(&org, &selector("a")).is_none() && now.errors().len() == 2, "what is gone is gone");
    }

    #[test]
    fn a_domain_whose_directory_can_not_be_read_has_the_keys_that_it_had() {
        let place = tempfile::tempdir().unwrap();
        let example = domain("example.com");
        create(place.path(), &example, &selector("a"), Algorithm::Ed25519).unwrap();
        let before = Keyring::load(place.path()).unwrap();
        // Nobody's rights keep root out: a file in the directory's place does.
        fs::remove_dir_all(place.path().join("example.com")).unwrap();
        let mut reader = Reader::default();
        fs::write(place.path().join("example.com"), "").unwrap();
        reader.read_domain(&place.path().join("example.com"), &example, None);
        let now = Arc::new(Keyring { errors: reader.errors.into(), ..reader.keyring });
        assert_eq!((now.errors().len(), now.broken(&example).count()), (1, 1));
        let now = now.with_broken_as_in(&before);
        assert!(now.key(&example, &selector("a")).is_some() && now.broken(&example).next().is_none());
    }

    #[test]
    fn a_directory_that_others_can_write_has_no_keys_at_all() {
        let place = tempfile::tempdir().unwrap();
        mode(place.path(), 0o777);
        assert!(matches!(Keyring::load(place.path()), Err(KeyringError::Open { .. })));
    }

    #[test]
    fn a_name_that_dns_can_not_have_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let long = domain(&["x".repeat(60), "y".repeat(60), "z".repeat(60), "example".to_owned()].join("."));
        let create = |name: &str| create(place.path(), &long, &selector(name), Algorithm::Ed25519);
        assert!(matches!(create(&"s".repeat(63)), Err(KeyringError::TooLong { .. })));
        assert!(create("s").is_ok());
    }
}
