//! Signatures that a mail shall get before it leaves.

use crate::smtp::Domain;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureKind {
    /// RFC 6376.
    Dkim,
    /// An ARC set, RFC 8617.
    Arc,
}

impl SignatureKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dkim => "dkim",
            Self::Arc => "arc",
        }
    }
}

/// Carried out last, over the mail as it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureRequest {
    pub kind: SignatureKind,
    pub domain: Domain,
    pub selector: Box<str>,
}
