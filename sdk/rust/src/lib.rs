//! Write plugins for Postern, the programmable mail gateway.
//!
//! A plugin is a type that implements [`Plugin`], with the stages of a mail's life that it wants to judge, under
//! [`#[plugin]`](plugin):
//!
//! ```
//! use postern_sdk::prelude::*;
//!
//! /// Refuses mail to mailboxes that have been closed.
//! struct Closed {
//!     mailboxes: Vec<Pattern>,
//! }
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     mailboxes: Vec<Pattern>,
//! }
//!
//! #[plugin]
//! impl Plugin for Closed {
//!     type Config = Config;
//!
//!     fn new(config: Config) -> Result<Self, String> {
//!         Ok(Self { mailboxes: config.mailboxes })
//!     }
//!
//!     fn rcpt(&self, _: &Session, _: &Message, recipient: &Recipient) -> Verdict {
//!         if self.mailboxes.iter().any(|pattern| pattern.matches(&recipient.address)) {
//!             info!("{} is closed", recipient.address);
//!             return reject!("5.2.1", "This mailbox has been closed");
//!         }
//!         Verdict::Next
//!     }
//! }
//!
//! // In a test: no gateway, no WebAssembly.
//! use postern_sdk::testing::{Client, Gateway, Mail};
//!
//! let gateway = Gateway::new().config(r#"{"mailboxes": ["old@example.com"]}"#);
//! let mut mail = Mail::from("alice@example.org");
//! let judged = gateway.rcpt::<Closed>(&Client::at("192.0.2.1"), &mut mail, "old@example.com");
//! assert_eq!(judged.verdict.to_string(), "reject 550 5.2.1 This mailbox has been closed");
//! assert_eq!(judged.log, ["info: old@example.com is closed"]);
//! ```
//!
//! Compiled for `wasm32-unknown-unknown`, such a crate of type `cdylib` is the plugin, and exports only the stages that
//! are written. Compiled for any other target, everything that the gateway would answer comes from [`testing`].

// The code that #[plugin] writes names this crate; so the crate's own tests can use it as well.
extern crate self as postern_sdk;

/// Deserializes from the text form.
macro_rules! from_text {
    ($($type:ty),*) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(|error| serde::de::Error::custom(format_args!("{text:?}: {error}")))
            }
        }
    )*};
}

pub mod address;
pub mod authentication;
pub mod call_ahead;
pub mod clock;
pub mod config;
pub mod counters;
pub mod dns;
pub mod event;
pub mod log;
pub mod message;
pub mod metrics;
pub mod network;
pub mod plugin;
pub mod scan;
pub mod session;
pub mod signing;
pub mod store;
pub mod tables;
pub mod verdict;

/// The gateway, played in memory, for tests of plugins.
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
pub mod wasm;

#[cfg(not(target_arch = "wasm32"))]
use testing::sys;
#[cfg(target_arch = "wasm32")]
use wasm::sys;

pub use address::{Address, Pattern};
pub use event::{Event, EventKind};
pub use message::{EditError, Field, Message, Part, Position, ReadError, Recipient, Route};
pub use network::Network;
pub use plugin::{NoConfig, Plugin, Stage};
pub use postern_sdk_macros::plugin;
pub use session::{ClientName, Direction, Helo, Role, Session, Tls};
pub use verdict::{Code, Reply, Verdict};

/// What nearly every plugin needs.
pub mod prelude {
    pub use crate::{
        Address, ClientName, Direction, Message, Network, NoConfig, Pattern, Plugin, Position, Recipient, Route,
        Session, Stage, Verdict, debug, defer, disconnect, error, info, plugin, reject, warn,
    };
    pub use serde::Deserialize;
}
