//! Asks the server behind the gateway whether a mailbox exists (RCPT TO, and no mail). Grant `call-ahead`.
//!
//! Answers are remembered, for each tenant apart; one that is asked for at the same time is asked for once.

use crate::{Address, sys};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    Exists,
    /// The reply that refused it for good, e.g. `550 5.1.1 no such user`.
    Unknown(String),
    /// It does not answer, defers, or refuses us and not the mailbox: nobody can say.
    Unavailable(String),
}

/// Of a recipient in this mail's tenant; of any other it is [`Presence::Unavailable`].
pub fn recipient(address: &Address) -> Presence {
    sys::call_ahead(address)
}
