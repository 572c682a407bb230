//! Process death and storage, where it takes root, time or Debian packages.
