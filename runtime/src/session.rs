//! One client connection.
//!
//! [`machine`] is the protocol without I/O: octets in, replies and questions out. [`connection`] drives a machine over a
//! stream and has its questions answered by [`Services`]. Ownership is the reset rule: a machine owns its peer,
//! `Option<Greeted>` what EHLO said, `Option<Transaction>` the mail in progress; RSET, EHLO, refusal and end of mail drop
//! the value, STARTTLS builds a new machine.

pub mod answer;
pub mod authentication;
mod clock;
pub mod connection;
pub mod extension;
pub mod machine;
pub mod overload;
pub mod proxy;
pub mod received;
pub mod reception;
pub mod settings;
pub mod transaction;
pub mod xclient;

pub use connection::{Accepted, CommitError, Services, serve};
pub use machine::{Machine, Peer};
pub use settings::{Listener, Settings, Snapshot, Strain, Timeouts, TlsMode};
