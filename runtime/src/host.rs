//! The WebAssembly host: loads plugins, gives them what they may have, and takes nothing from them unchecked.

pub mod counter;
pub mod table;
