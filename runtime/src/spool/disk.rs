//! The narrow seam to the file system: all that the spool asks of a disk, and nothing more.
//!
//! Behind it are the real one and, in tests, one that drops what was not synced, tears tails and returns errors. All
//! calls block. Paths are made by the spool from numbers; none ever holds what came from outside.

use std::any::Any;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::Advice;

pub trait Disk: Send + Sync + 'static {
    /// Fine when it is there already. Its parent must be there.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Held until the value is dropped; `None` when another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;

    /// Names and octets of the files in a directory.
    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>>;

    /// There is a directory at that path.
    fn has_directory(&self, path: &Path) -> bool;

    /// A new file, for its owner alone; an error when there is one of that name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Makes `to` another name of the file `from`.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// What was created, linked or removed in the directory is durable after this.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Octets that we may still write; 0 when there are no inodes left.
    fn free_octets(&self, path: &Path) -> io::Result<u64>;
}

pub trait DiskFile: Send + Sync {
    /// All of the parts, one after the other, at `offset`. After an error any part of them may have been written.
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Fills the buffer; an error when the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;

    fn truncate(&self, len: u64) -> io::Result<()>;

    fn sync(&self) -> io::Result<()>;

    /// Syncs, and forgets what the kernel has cached: what is read then is what is on the disk. After a failed sync the
    /// cache may show octets that never got there.
    fn settle(&self) -> io::Result<()>;

    /// The path still leads to this file: it was not removed, and nothing was mounted over it or moved away.
    fn is_at(&self, path: &Path) -> bool;

    /// For a reader that outlives the spool's own use.
    fn into_std(self: Box<Self>) -> Result<File, Box<dyn DiskFile>>;
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

struct RealFile(File);

impl Disk for RealDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn has_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(File::options().read(true).write(true).open(path)?)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn free_octets(&self, path: &Path) -> io::Result<u64> {
        let free = rustix::fs::statvfs(path)?;
        // Some file systems have no table of inodes and say 0 of 0.
        let out_of_inodes = free.f_files > 0 && free.f_favail == 0;
        Ok(if out_of_inodes { 0 } else { free.f_bavail.saturating_mul(free.f_frsize) })
    }
}

impl DiskFile for RealFile {
    fn write_at(&self, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        while !parts.is_empty() {
            match rustix::io::pwritev(&self.0, parts, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut parts, written);
                    offset = offset.saturating_add(written as u64);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn settle(&self) -> io::Result<()> {
        self.0.sync_data()?;
        Ok(rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }

    fn is_at(&self, path: &Path) -> bool {
        match (self.0.metadata(), std::fs::metadata(path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    fn into_std(self: Box<Self>) -> Result<File, Box<dyn DiskFile>> {
        Ok(self.0)
    }
}
