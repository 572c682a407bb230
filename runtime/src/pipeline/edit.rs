//! Changes that a plugin asks for. They are journaled during a call and applied all together after it
//! returned well, or not at all.

use bytes::Bytes;

use crate::mail::{Body, Field, Mail, Recipient, Route};
use crate::smtp::{Mailbox, ReversePath};

#[derive(Debug, Clone)]
pub enum Edit {
    AddField {
        field: Field,
        position: Position,
    },
    /// The `nth` field of that name from the top; `None` removes it. Nothing happens when there is none.
    ReplaceField {
        name: String,
        nth: usize,
        with: Option<Field>,
    },
    ReplaceBody(Bytes),
    SetReversePath(ReversePath),
    AddRecipient(Recipient),
    RemoveRecipient(Mailbox),
    SetRoute(Route),
    AddTag(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Top,
    Bottom,
}

impl Edit {
    pub fn apply(self, mail: &mut Mail) {
        match (self, mail.message.as_mut()) {
            (Self::AddField { field, position: Position::Top }, Some(message)) => message.header.prepend(field),
            (Self::AddField { field, position: Position::Bottom }, Some(message)) => message.header.append(field),
            (Self::ReplaceField { name, nth, with }, Some(message)) => {
                message.header.replace(&name, nth, with);
            }
            (Self::ReplaceBody(body), Some(message)) => message.body = Body::from_bytes(body),
            (Self::AddField { .. } | Self::ReplaceField { .. } | Self::ReplaceBody(_), None) => {}
            (Self::SetReversePath(path), _) => mail.envelope.reverse_path = path,
            (Self::AddRecipient(recipient), _) => {
                if !mail.envelope.recipients.iter().any(|r| r.mailbox == recipient.mailbox) {
                    mail.envelope.recipients.push(recipient);
                }
            }
            (Self::RemoveRecipient(mailbox), _) => mail.envelope.recipients.retain(|r| r.mailbox != mailbox),
            (Self::SetRoute(route), _) => mail.route = Some(route),
            (Self::AddTag(tag), _) => {
                if !mail.tags.contains(&tag) {
                    mail.tags.push(tag);
                }
            }
        }
    }
}
