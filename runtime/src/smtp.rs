//! The protocol as values (RFC 5321 and its extensions). No I/O, no async.

pub mod address;
pub mod command;
pub mod data;
pub mod dsn;
pub mod line;
pub mod reply;
pub mod reply_reader;
pub mod xtext;

pub use address::{Domain, ForwardPath, Host, LocalPart, Mailbox, ReversePath};
pub use command::{Command, CommandError};
pub use reply::{Enhanced, Reply};
pub use reply_reader::{ReplyError, ReplyReader, ServerReply};
