//! Faults that need root, minutes or Debian packages: `make test-faults`.

mod delivery;
mod resources;
mod storage;
