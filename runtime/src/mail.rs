//! A message as a value: envelope, header fields (byte-exact), body, MIME view.
//!
//! Mail is bytes. Nothing here decodes, folds or repairs: what was received goes out, but for the edits made on it.

pub mod body;
pub mod date;
pub mod envelope;
pub mod evidence;
pub mod header;
pub mod id;
pub mod mime;
pub mod route;
pub mod signature;

pub use body::{Body, BodyWriter};
pub use date::date;
pub use envelope::{BodyType, Envelope, Notify, Recipient, Ret};
pub use evidence::Evidence;
pub use header::{Field, Header};
pub use id::MessageId;
pub use route::{Route, TlsPolicy};
pub use signature::{SignatureKind, SignatureRequest};

use crate::smtp::Mailbox;

/// Header and body, as received (dot-unstuffed), with edits applied.
#[derive(Debug, Clone)]
pub struct Message {
    pub header: Header,
    pub body: Body,
}

impl Message {
    /// Octets on the wire, dot-stuffing not counted (RFC 1870 §3).
    pub fn len(&self) -> u64 {
        self.header.len() + self.body.separator_len() + self.body.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A mail on its way: what plugins see, edits change and the spool keeps.
#[derive(Debug, Clone)]
pub struct Mail {
    pub id: MessageId,
    /// Fixed by the first accepted recipient; `None` before it, and for mail that belongs to no tenant.
    pub tenant: Option<std::sync::Arc<str>>,
    pub envelope: Envelope,
    /// `None` until the end of data.
    pub message: Option<Message>,
    /// Short words that plugins leave for the log and for later stages.
    pub tags: Vec<String>,
    /// Where it goes; `None`: the tenant's destination, or by MX.
    pub route: Option<Route>,
    /// Recipients that go elsewhere, each at most once; set at `deliver`, else empty.
    pub recipient_routes: Vec<(Mailbox, Route)>,
    /// What it shall be signed with before it leaves; set at `deliver`, else empty.
    pub signatures: Vec<SignatureRequest>,
    pub evidence: std::sync::Arc<Evidence>,
}
