//! What a plugin is, and how its instance is made.

use std::any::Any;
use std::rc::Rc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Direction, Event, Message, Recipient, Session, Verdict, sys};

/// The stages of a mail's life, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Connect,
    Helo,
    MailFrom,
    Rcpt,
    Data,
    Deliver,
    Event,
}

impl Stage {
    pub(crate) const ALL: [Self; 7] =
        [Self::Connect, Self::Helo, Self::MailFrom, Self::Rcpt, Self::Data, Self::Deliver, Self::Event];
}

/// A plugin: a value made from its config, and a function for each stage it wants. Write the stages you need under
/// [`#[plugin]`](crate::plugin); at those that are not written the gateway does not ask.
///
/// A plugin keeps nothing between calls, and the gateway is free to make a new instance for each: therefore `&self`.
/// What must be remembered goes into [`Session::remember`], [`counters`](crate::counters) or
/// [`tables`](crate::tables).
pub trait Plugin: Sized + 'static {
    /// The table `config` of the plugin's entry. Derive `serde::Deserialize`, and say `deny_unknown_fields`.
    type Config: DeserializeOwned;

    /// Makes the instance. An error keeps the plugin from being loaded; name the key in it, the administrator reads it.
    fn new(config: Self::Config) -> Result<Self, String>;

    /// Asked once when the plugin is loaded, after `new`: for checks that ask the gateway, as whether a table is granted.
    fn load(&self) -> Result<(), String> {
        Ok(())
    }

    /// Whether, with this config, there is anything to do at a stage of mail in that direction. The gateway asks when it loads the
    /// plugin, and never calls it where there is no work: the cheapest call is none.
    fn wants(&self, stage: Stage, direction: Direction) -> bool {
        let _ = (stage, direction);
        true
    }

    /// A client has connected.
    fn connect(&self, session: &Session) -> Verdict {
        let _ = session;
        Verdict::Next
    }

    /// EHLO or HELO.
    fn helo(&self, session: &Session) -> Verdict {
        let _ = session;
        Verdict::Next
    }

    /// MAIL FROM.
    fn mail_from(&self, session: &Session, message: &Message) -> Verdict {
        let _ = (session, message);
        Verdict::Next
    }

    /// RCPT TO. The recipient is not yet among the message's.
    fn rcpt(&self, session: &Session, message: &Message, recipient: &Recipient) -> Verdict {
        let _ = (session, message, recipient);
        Verdict::Next
    }

    /// The end of the data.
    fn data(&self, session: &Session, message: &Message) -> Verdict {
        let _ = (session, message);
        Verdict::Next
    }

    /// Once per message and group of recipients with one destination, when it is first scheduled. The whole group can be
    /// given a route, and each recipient of it one of its own.
    fn deliver(&self, session: &Session, message: &Message) -> Verdict {
        let _ = (session, message);
        Verdict::Next
    }

    /// Told of what became of a mail, not asked.
    fn event(&self, event: &Event) {
        let _ = event;
    }
}

/// For a plugin without settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// The instance of `P`, made when it is first asked for; later calls of the same instance get the same value.
pub(crate) fn instance<P: Plugin>() -> Result<Rc<P>, String> {
    if let Some(made) = sys::instance::<P>() {
        return Ok(made);
    }
    sys::report_panics();
    let made = Rc::new(make::<P>()?);
    sys::keep_instance(made.clone() as Rc<dyn Any>);
    Ok(made)
}

fn make<P: Plugin>() -> Result<P, String> {
    P::new(crate::config::parse(&sys::config_json())?)
}

/// What `on-load` answers. Public for `#[plugin]` alone.
#[doc(hidden)]
pub fn check<P: Plugin>() -> Result<(), String> {
    let plugin = instance::<P>()?;
    plugin.load()?;
    for stage in Stage::ALL {
        for direction in [Direction::Inbound, Direction::Outbound] {
            if !plugin.wants(stage, direction) {
                sys::config_skip(stage, direction);
            }
        }
    }
    Ok(())
}
