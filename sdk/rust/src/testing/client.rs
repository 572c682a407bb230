//! A client as a test describes it.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::{ClientName, Helo, Role, Tls};

pub(super) type Notes = BTreeMap<String, Vec<u8>>;

/// A client and its connection; [`Client::at`] and what else the plugin looks at.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) name: ClientName,
    pub(super) concurrent: u32,
    pub(super) listener: String,
    pub(super) role: Role,
    pub(super) trusted: bool,
    pub(super) helo: Option<Helo>,
    pub(super) tls: Option<Tls>,
    pub(super) login: Option<String>,
    pub(super) unknown_recipients: u32,
    /// What each plugin has remembered at `connect` and `helo`.
    notes: RefCell<HashMap<TypeId, Notes>>,
}

impl Client {
    /// At that IP address, with no name in DNS; it has one connection to the inbound listener, and has said nothing yet.
    pub fn at(address: &str) -> Self {
        Self {
            address: address.parse().expect("an IP address"),
            port: 40_000,
            name: ClientName::None,
            concurrent: 1,
            listener: "inbound".into(),
            role: Role::Inbound,
            trusted: false,
            helo: None,
            tls: None,
            login: None,
            unknown_recipients: 0,
            notes: RefCell::default(),
        }
    }

    /// What DNS says of the address.
    pub fn name(self, name: ClientName) -> Self {
        Self { name, ..self }
    }

    /// Open connections of this address, this one included.
    pub fn connections(self, concurrent: u32) -> Self {
        Self { concurrent, ..self }
    }

    pub fn listener(self, listener: &str, role: Role) -> Self {
        Self { listener: listener.to_owned(), role, ..self }
    }

    /// In a network that may relay.
    pub fn trusted(self) -> Self {
        Self { trusted: true, ..self }
    }

    /// `EHLO name`.
    pub fn ehlo(self, name: &str) -> Self {
        Self { helo: Some(Helo { name: name.to_owned(), extended: true }), ..self }
    }

    pub fn tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Logged in as that user.
    pub fn login(self, user: &str) -> Self {
        Self { login: Some(user.to_owned()), ..self }
    }

    /// Recipients that its address has named today and that don't exist.
    pub fn unknown_recipients(self, unknown_recipients: u32) -> Self {
        Self { unknown_recipients, ..self }
    }

    pub(super) fn notes<P: 'static>(&self) -> Notes {
        self.notes.borrow().get(&TypeId::of::<P>()).cloned().unwrap_or_default()
    }

    pub(super) fn keep_notes<P: 'static>(&self, notes: Notes) {
        self.notes.borrow_mut().insert(TypeId::of::<P>(), notes);
    }
}
