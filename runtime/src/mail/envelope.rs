//! The envelope (RFC 5321 §2.3.1) with the parameters of its extensions.

use serde::{Deserialize, Serialize};

pub use crate::smtp::dsn::{Notify, Ret};
use crate::smtp::{Mailbox, ReversePath};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    #[serde(with = "null_path")]
    pub reverse_path: ReversePath,
    pub body_type: BodyType,
    /// RFC 6531: some address or header field is not ASCII.
    pub smtputf8: bool,
    /// RFC 3461 §4.3: how much of the message a DSN returns.
    pub ret: Option<Ret>,
    /// RFC 3461 §4.4, as given (xtext).
    pub envid: Option<String>,
    pub recipients: Vec<Recipient>,
}

impl Envelope {
    pub fn new(reverse_path: ReversePath) -> Self {
        Self {
            reverse_path,
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            recipients: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recipient {
    pub mailbox: Mailbox,
    /// RFC 3461 §4.1; `None`: the parameter was not given.
    pub notify: Option<Notify>,
    /// RFC 3461 §4.2, as given (`rfc822;` and xtext).
    pub orcpt: Option<String>,
}

impl Recipient {
    pub fn new(mailbox: Mailbox) -> Self {
        Self { mailbox, notify: None, orcpt: None }
    }
}

/// RFC 6152 `BODY=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyType {
    SevenBit,
    EightBitMime,
}

mod null_path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::smtp::{Mailbox, ReversePath};

    pub fn serialize<S: Serializer>(path: &ReversePath, serializer: S) -> Result<S::Ok, S::Error> {
        path.0.serialize(serializer)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ReversePath, D::Error> {
        Option::<Mailbox>::deserialize(deserializer).map(ReversePath)
    }
}
