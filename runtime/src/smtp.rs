//! The protocol as values (RFC 5321 and its extensions). No I/O, no async.

pub mod address;
pub mod reply;

pub use address::{Domain, ForwardPath, Host, LocalPart, Mailbox, ReversePath};
pub use reply::{Enhanced, Reply};
