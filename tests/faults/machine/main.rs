//! Faults that need root, minutes or Debian packages: `make test-faults`.

mod delivery;
mod resources;
mod storage;

/// A number that `make` gives, e.g. for longer runs.
fn from_environment(name: &str, default: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "how long a test runs is not config")]
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
