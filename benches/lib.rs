//! Nothing but benches: see `micro.rs`.
