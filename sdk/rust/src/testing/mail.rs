//! A mail as a test describes it, and the edits of it.

use std::any::TypeId;
use std::collections::HashMap;

use super::client::Notes;
use crate::{Address, Field, Position, Recipient, Route};

/// A mail; [`Mail::from`] and what else the plugin looks at. Edits that a plugin makes can be read off it afterwards.
#[derive(Debug, Clone, Default)]
pub struct Mail {
    pub reverse_path: Option<Address>,
    pub recipients: Vec<Recipient>,
    pub tenant: Option<String>,
    pub size: Option<u64>,
    pub tags: Vec<String>,
    pub route: Option<Route>,
    /// Recipients with a route of their own.
    pub recipient_routes: Vec<(Address, Route)>,
    /// Each with its CRLF; `None` until there is content.
    pub(super) fields: Option<Vec<Vec<u8>>>,
    pub body: Vec<u8>,
    /// What each plugin has remembered in this transaction.
    notes: HashMap<TypeId, Notes>,
}

/// A change that a plugin has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    AddHeader {
        name: String,
        value: String,
        at: Position,
    },
    ReplaceHeader {
        name: String,
        nth: u32,
        value: Option<String>,
    },
    ReplaceBody(Vec<u8>),
    SetReversePath(Option<Address>),
    AddRecipient(Address),
    RemoveRecipient(Address),
    SetRoute(Route),
    SetRecipientRoute(Address, Route),
    AddTag(String),
    /// Carried out after the last plugin.
    Sign {
        domain: String,
        selector: String,
    },
    Seal {
        domain: String,
        selector: String,
    },
}

impl Mail {
    pub fn from(sender: &str) -> Self {
        Self { reverse_path: Some(address(sender)), ..Self::default() }
    }

    /// `MAIL FROM:<>`.
    pub fn from_null_sender() -> Self {
        Self::default()
    }

    /// One more recipient, as if it had been accepted.
    pub fn to(mut self, recipient: &str) -> Self {
        self.recipients.push(Recipient { address: address(recipient), original: None });
        self
    }

    pub fn tenant(self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self }
    }

    /// As `SIZE=` declares it.
    pub fn size(self, octets: u64) -> Self {
        Self { size: Some(octets), ..self }
    }

    /// Header, empty line and body; line ends may be LF, and become CRLF.
    pub fn content(mut self, content: impl AsRef<[u8]>) -> Self {
        let content = with_crlf(content.as_ref());
        self.size = u64::try_from(content.len()).ok();
        let mut fields: Vec<Vec<u8>> = Vec::new();
        let mut rest = content.as_slice();
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
            let (line, after) = rest.split_at(end + 2);
            rest = after;
            match fields.last_mut() {
                _ if line == b"\r\n" => break,
                Some(folded) if line.starts_with(b" ") || line.starts_with(b"\t") => folded.extend_from_slice(line),
                _ => fields.push(line.to_vec()),
            }
        }
        self.fields = Some(fields);
        self.body = rest.to_vec();
        self
    }

    /// All header fields, topmost first; none before there is content.
    pub fn fields(&self) -> Vec<Field> {
        self.fields.iter().flatten().map(|raw| field(raw)).collect()
    }

    /// The values of the fields of that name, topmost first.
    pub fn header(&self, name: &str) -> Vec<Vec<u8>> {
        self.fields()
            .into_iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
            .collect()
    }

    /// Header, empty line and body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.fields.iter().flatten().flatten().copied().collect::<Vec<_>>();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    pub(super) fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::AddHeader { name, value, at } => {
                let line = format!("{name}: {value}\r\n").into_bytes();
                let fields = self.fields.get_or_insert_default();
                let place = if *at == Position::Top { 0 } else { fields.len() };
                fields.insert(place, line);
            }
            Edit::ReplaceHeader { name, nth, value } => {
                let fields = self.fields.get_or_insert_default();
                let mut places = (0..).zip(fields.iter()).filter(|(_, raw)| field(raw).name.eq_ignore_ascii_case(name));
                let Some(place) = places.nth(*nth as usize).map(|(place, _)| place) else { return };
                fields.splice(place..=place, value.iter().map(|value| format!("{name}: {value}\r\n").into_bytes()));
            }
            Edit::ReplaceBody(body) => self.body.clone_from(body),
            Edit::SetReversePath(path) => self.reverse_path.clone_from(path),
            Edit::AddRecipient(address) => {
                if !self.recipients.iter().any(|known| known.address == *address) {
                    self.recipients.push(Recipient { address: address.clone(), original: None });
                }
            }
            Edit::RemoveRecipient(address) => {
                self.recipients.retain(|known| known.address != *address);
                self.recipient_routes.retain(|(known, _)| known != address);
            }
            Edit::SetRoute(route) => self.route = Some(route.clone()),
            Edit::SetRecipientRoute(address, route) => {
                if self.recipients.iter().any(|known| known.address == *address) {
                    self.recipient_routes.retain(|(known, _)| known != address);
                    self.recipient_routes.push((address.clone(), route.clone()));
                }
            }
            Edit::AddTag(tag) => {
                if !self.tags.contains(tag) {
                    self.tags.push(tag.clone());
                }
            }
            Edit::Sign { .. } | Edit::Seal { .. } => {}
        }
    }

    pub(super) fn notes<P: 'static>(&self) -> Notes {
        self.notes.get(&TypeId::of::<P>()).cloned().unwrap_or_default()
    }

    pub(super) fn keep_notes<P: 'static>(&mut self, notes: Notes) {
        self.notes.insert(TypeId::of::<P>(), notes);
    }
}

fn address(text: &str) -> Address {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn field(raw: &[u8]) -> Field {
    let colon = raw.iter().position(|&byte| byte == b':').unwrap_or(0);
    let (name, value) = raw.split_at(colon);
    let value = value.strip_prefix(b":").unwrap_or(value);
    let value: Vec<u8> = value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    Field {
        name: String::from_utf8(name.trim_ascii_end().to_vec()).unwrap_or_default(),
        value: value.trim_ascii().to_vec(),
    }
}

fn with_crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        if byte == b'\n' && out.last() != Some(&b'\r') {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}
