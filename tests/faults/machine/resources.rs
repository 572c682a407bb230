//! Resources and slow peers, where it takes root, time or Debian packages.
