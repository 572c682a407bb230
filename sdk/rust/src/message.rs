//! The mail, as a plugin sees and changes it.

use std::fmt;

use crate::address::Address;
use crate::sys;

/// The envelope from `mail_from` on, the content at `data` and `deliver`.
///
/// Edits are applied all together after the plugin has returned, or not at all. The plugin itself does not see them;
/// the next one does.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    raw: &'a sys::Message,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    pub address: Address,
    /// RFC 3461 `ORCPT`, as given.
    pub original: Option<String>,
}

/// A header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    /// Unfolded, without white space around it. Any octets but CR and LF.
    pub value: Vec<u8>,
}

/// A MIME part that is no multipart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `type/subtype`, lower case.
    pub content_type: String,
    pub filename: Option<String>,
    pub attachment: bool,
    /// Octets after decoding of the transfer encoding.
    pub size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Top,
    Bottom,
}

/// Where a mail goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// By the MX records of the recipient's domain.
    Mx,
    /// By the MX records of this domain.
    MxOf(String),
    /// This host or address as given, and port.
    Host(String, u16),
    /// A smart host named in the gateway's config.
    SmartHost(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditError {
    /// Not at this stage.
    Stage,
    /// Against the grammar; the text says what is wrong.
    Invalid(String),
    /// Not granted: the name of the grant that it needs.
    Denied(String),
    /// The journal is full: 256 edits or 32 MiB. One route for each recipient is not counted.
    Full,
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage => f.write_str("this edit can't be made at this stage"),
            Self::Invalid(what) => f.write_str(what),
            Self::Denied(grant) => write!(f, "this edit needs the grant {grant}"),
            Self::Full => f.write_str("too many edits"),
        }
    }
}

impl std::error::Error for EditError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// No content before `data`.
    Stage,
    /// No part of that index.
    NoPart,
    /// The message cannot be taken apart: too deep, too many parts.
    Unparsable,
    /// The gateway's own trouble.
    Failed,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stage => "the message has no content at this stage",
            Self::NoPart => "the message has no part of that index",
            Self::Unparsable => "the message can't be taken apart",
            Self::Failed => "the gateway could not read the message",
        })
    }
}

impl std::error::Error for ReadError {}

impl<'a> Message<'a> {
    pub(crate) fn new(raw: &'a sys::Message) -> Self {
        Self { raw }
    }

    pub(crate) fn raw(&self) -> &'a sys::Message {
        self.raw
    }

    /// The name of this mail in spool and log.
    pub fn id(&self) -> String {
        self.raw.id()
    }

    /// The tenant it belongs to, known from the first accepted recipient on.
    pub fn tenant(&self) -> Option<String> {
        self.raw.tenant()
    }

    /// `None`: the null reverse-path, `<>`.
    pub fn reverse_path(&self) -> Option<Address> {
        sys::reverse_path(self.raw)
    }

    pub fn recipients(&self) -> Vec<Recipient> {
        sys::recipients(self.raw)
    }

    /// Octets: declared by `SIZE=` until the end of data, then measured.
    pub fn size(&self) -> Option<u64> {
        self.raw.size()
    }

    pub fn tags(&self) -> Vec<String> {
        self.raw.tags()
    }

    /// All header fields, topmost first.
    pub fn fields(&self) -> Result<Vec<Field>, ReadError> {
        sys::fields(self.raw)
    }

    /// The values of the fields of that name, topmost first.
    pub fn header(&self, name: &str) -> Result<Vec<Vec<u8>>, ReadError> {
        sys::header(self.raw, name)
    }

    /// Octets of the body.
    pub fn body_size(&self) -> Result<u64, ReadError> {
        sys::body_size(self.raw)
    }

    /// Octets of the body from `offset` on: at most 64 KiB a call, fewer than `len` only at the end.
    pub fn read(&self, offset: u64, len: u32) -> Result<Vec<u8>, ReadError> {
        sys::read(self.raw, offset, len)
    }

    /// Where the octets first stand in the body, from `offset` on. The gateway searches, nothing is copied.
    pub fn search(&self, needle: &[u8], offset: u64) -> Result<Option<u64>, ReadError> {
        sys::search(self.raw, needle, offset)
    }

    /// SHA-256 of header and body as they stand.
    pub fn digest(&self) -> Result<Vec<u8>, ReadError> {
        sys::digest(self.raw)
    }

    pub fn parts(&self) -> Result<Vec<Part>, ReadError> {
        sys::parts(self.raw)
    }

    /// Octets of the decoded part; at most 64 KiB a call.
    pub fn read_part(&self, index: u32, offset: u64, len: u32) -> Result<Vec<u8>, ReadError> {
        sys::read_part(self.raw, index, offset, len)
    }

    pub fn add_header(&self, name: &str, value: &str, at: Position) -> Result<(), EditError> {
        sys::add_header(self.raw, name, value, at)
    }

    /// The nth field of that name from the top, 0 first; `None` removes it. `Received` can't be
    /// changed or removed, nor the last `From` be removed.
    pub fn replace_header(&self, name: &str, nth: u32, value: Option<&str>) -> Result<(), EditError> {
        sys::replace_header(self.raw, name, nth, value)
    }

    /// Lines end in CRLF, and have at most 998 octets before it; NUL is refused.
    pub fn replace_body(&self, body: &[u8]) -> Result<(), EditError> {
        sys::replace_body(self.raw, body)
    }

    pub fn set_reverse_path(&self, path: Option<&Address>) -> Result<(), EditError> {
        sys::set_reverse_path(self.raw, path)
    }

    /// At `data` and `deliver`. Needs the grant `recipients`.
    pub fn add_recipient(&self, address: &Address) -> Result<(), EditError> {
        sys::add_recipient(self.raw, address)
    }

    /// At `data` and `deliver`; at `rcpt`, refuse it instead.
    pub fn remove_recipient(&self, address: &Address) -> Result<(), EditError> {
        sys::remove_recipient(self.raw, address)
    }

    /// At `deliver`. Needs the grant `route:mx`, `route:host` or `route:NAME` of the smart host.
    pub fn set_route(&self, route: &Route) -> Result<(), EditError> {
        sys::set_route(self.raw, route)
    }

    /// At `deliver`: only for this recipient of the mail; those with different routes become mails of their own. Goes
    /// before [`set_route`](Self::set_route), whichever is said first. Needs the same grants, and one such route for each
    /// recipient does not fill the journal.
    ///
    /// # Errors
    /// Also [`EditError::Invalid`] for an address that is neither a recipient nor added before in this call.
    pub fn set_recipient_route(&self, address: &Address, route: &Route) -> Result<(), EditError> {
        sys::set_recipient_route(self.raw, address, route)
    }

    /// 1 to 64 characters of a-z, 0-9, `-`, `_`, `.`, `:`.
    pub fn add_tag(&self, tag: &str) -> Result<(), EditError> {
        sys::add_tag(self.raw, tag)
    }
}
