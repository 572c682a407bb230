//! What an error of the disk means: the one place that tells a full disk from a broken one.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::SpoolError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Goes away when there is room again.
    Full,
    /// Nothing was written and nothing is wrong with the disk: out of descriptors or memory.
    Passing { action: &'static str, path: std::path::PathBuf, text: String },
    /// Nobody knows what is on the disk now: the latch closes.
    Fatal(String),
}

impl Trouble {
    pub fn new(action: &'static str, path: &Path, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull {
            return Self::Full;
        }
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR) => {
                Self::Passing { action, path: path.to_owned(), text: error.to_string() }
            }
            _ => Self::Fatal(format!("{action} {}: {error}", path.display())),
        }
    }

    /// For what must not fail half-way: only a full disk is forgiven.
    pub fn at_write(action: &'static str, path: &Path, error: &io::Error) -> Self {
        match Self::new(action, path, error) {
            Self::Passing { text, .. } => Self::Fatal(format!("{action} {}: {text}", path.display())),
            other => other,
        }
    }
}

impl From<Trouble> for SpoolError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Full => Self::Full,
            Trouble::Passing { action, path, text } => Self::Open { action, path, source_text: text },
            Trouble::Fatal(text) => Self::Failed(text),
        }
    }
}
