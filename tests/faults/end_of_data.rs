//! T-…: what ends a message, and the bugs that other servers have had.

mod sequences;
mod states;
