//! Runs dialogues: what a client says, what the gateway answers, and what became of the mail.
//!
//! A dialogue is a text file, `tests/dialogs/NAME.smtp`, that a postmaster can read. [`script`] says how it is written,
//! [`fixture`] who is known to the gateway in it, [`runner`] runs it: in memory, in memory octet by octet, over TCP.

pub mod filter;
pub mod fixture;
pub mod fuzz;
#[path = "../../runtime/src/host/guest/module.rs"]
pub mod guest;
pub mod hop;
pub mod ledger;
pub mod next_hop;
pub mod program;
pub mod runner;
pub mod scanner;
pub mod scenario;
pub mod scene;
pub mod script;
pub mod setup;
pub mod sink;
pub mod tls;

pub mod client;
pub mod dns;
mod mail;

pub use postern::rehearsal::escape;
pub use runner::{Way, run};
pub use script::Dialog;
