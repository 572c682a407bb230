//! Compiled code, kept by the digest of what it was made from, in a directory that nobody but us can write.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::ContentDigest;

/// Files that are kept; the oldest go first. One each for a plugin and version of the gateway.
const MAX_FILES: usize = 256;
const DIGEST: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error(
        "{0} must be a directory of the gateway's own user with mode 0700: whoever can write there can run code in the gateway"
    )]
    NotPrivate(PathBuf),
}

#[derive(Debug)]
pub(in super::super) struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Makes the directory when there is none.
    pub fn open(directory: PathBuf) -> Result<Self, CacheError> {
        let failed = |error| CacheError::Io(directory.clone(), error);
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        // Not through a symbolic link: it could be pointed elsewhere later.
        let metadata = std::fs::symlink_metadata(&directory).map_err(failed)?;
        if !metadata.is_dir() || !is_private(&metadata) {
            return Err(CacheError::NotPrivate(directory));
        }
        Ok(Self { directory })
    }

    /// The component, when its code is there and whole. Blocking.
    pub fn load(&self, engine: &Engine, digest: &ContentDigest) -> Option<Component> {
        let path = self.path(engine, digest);
        match read_checked(&path) {
            Ok(code) => match deserialize_trusted(engine, &code) {
                Ok(component) => Some(component),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error = %format!("{error:#}"), "compiled code is not usable");
                    None
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled code is not usable");
                None
            }
        }
    }

    /// There is code of it, whole or not. Blocking.
    pub fn has(&self, engine: &Engine, digest: &ContentDigest) -> bool {
        self.path(engine, digest).is_file()
    }

    /// Keeps code that our own compiler made. Written aside and renamed: what has the name is whole. Blocking.
    pub fn store(&self, engine: &Engine, digest: &ContentDigest, code: &[u8]) -> io::Result<()> {
        let path = self.path(engine, digest);
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        let written = file.write_all(&Sha256::digest(code)).and_then(|()| file.write_all(code));
        if let Err(error) = written.and_then(|()| std::fs::rename(&aside, &path)) {
            let _ = std::fs::remove_file(&aside);
            return Err(error);
        }
        self.prune()
    }

    /// Another version of wasmtime, or another processor, makes other code.
    fn path(&self, engine: &Engine, digest: &ContentDigest) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.directory.join(format!("{digest}-{:016x}.code", hasher.finish()))
    }

    fn prune(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(&self.directory)?
            .filter_map(|entry| {
                entry.ok().and_then(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            })
            .collect();
        files.sort();
        let surplus = files.len().saturating_sub(MAX_FILES);
        files.into_iter().take(surplus).try_for_each(|(_, path)| std::fs::remove_file(path))
    }
}

fn is_private(metadata: &std::fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0
}

/// The code in a file of ours, with its digest checked: a bad disk must not become bad machine code.
fn read_checked(path: &Path) -> io::Result<Vec<u8>> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut file = std::fs::File::options().read(true).custom_flags(no_follow).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || !is_private(&metadata) {
        return Err(io::Error::other("not a private file of the gateway's own user"));
    }
    let mut expected = [0; DIGEST];
    file.read_exact(&mut expected)?;
    let mut code = Vec::new();
    file.read_to_end(&mut code)?;
    if Sha256::digest(&code)[..] == expected { Ok(code) } else { Err(io::Error::other("damaged")) }
}

/// Only for code that our own compiler has just made, or that lies in the cache.
#[expect(unsafe_code, reason = "wasmtime takes compiled code on trust; the argument stands inside")]
pub(in super::super) fn deserialize_trusted(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the code must be what `Engine::precompile_component` made, unchanged. It comes either straight out of
    // the compiler (this process or a child of the same program, over a pipe that nobody else holds), or from a file
    // whose directory and itself belong to our user and can be written by nobody else, that was written aside, renamed
    // when whole, and whose digest was checked just now. No byte of it ever comes from a plugin's author: precompiled
    // plugins are refused before this. wasmtime itself refuses code of another version or other compile settings.
    unsafe { Component::deserialize(engine, code) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::super::engine;
    use super::*;

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        Cache::open(path.clone()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(Cache::open(path.clone()), Err(CacheError::NotPrivate(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Cache::open(link), Err(CacheError::NotPrivate(_))));
    }

    #[test]
    fn what_is_damaged_or_not_ours_alone_is_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("cache")).unwrap();
        let engine = engine::compiler().unwrap();
        let component = wat::parse_str("(component)").unwrap();
        let code = engine.precompile_component(&component).unwrap();
        let digest = ContentDigest::of(&component);
        assert!(cache.load(&engine, &digest).is_none());
        assert!(!cache.has(&engine, &digest));
        cache.store(&engine, &digest, &code).unwrap();
        assert!(cache.has(&engine, &digest));
        assert!(cache.load(&engine, &digest).is_some());
        let path = cache.path(&engine, &digest);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(cache.load(&engine, &digest).is_none(), "others could have written it");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut octets = std::fs::read(&path).unwrap();
        let middle = octets.len() / 2;
        octets[middle] ^= 1;
        std::fs::write(&path, &octets).unwrap();
        assert!(cache.load(&engine, &digest).is_none(), "one bit has changed");
        std::fs::write(&path, &octets[..10]).unwrap();
        assert!(cache.load(&engine, &digest).is_none(), "it is cut short");
        cache.store(&engine, &digest, &code).unwrap();
        assert!(cache.load(&engine, &digest).is_some());
    }

    #[test]
    fn the_cache_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("cache")).unwrap();
        let engine = engine::compiler().unwrap();
        for number in 0..MAX_FILES + 3 {
            cache.store(&engine, &ContentDigest::of(number.to_string().as_bytes()), b"code").unwrap();
        }
        assert_eq!(std::fs::read_dir(&cache.directory).unwrap().count(), MAX_FILES);
    }
}
