//! What became of a mail.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Accepted,
    Delivered,
    Deferred,
    Bounced,
    Expired,
    Quarantined,
    Discarded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// The mail's id.
    pub id: String,
    /// Empty where it is the whole mail.
    pub recipient: String,
    /// The reply or reason.
    pub detail: String,
}
