//! Changes that a plugin asks for. They are journaled during a call and applied all together after it
//! returned well, or not at all.

use bytes::Bytes;

use crate::mail::{Body, Field, Mail, Recipient, Route, SignatureRequest};
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
    /// Nothing happens when there is no such recipient.
    SetRecipientRoute(Mailbox, Route),
    AddTag(String),
    /// At `deliver`; asked for twice, it is made once.
    Sign(SignatureRequest),
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
            (Self::RemoveRecipient(mailbox), _) => {
                mail.envelope.recipients.retain(|r| r.mailbox != mailbox);
                mail.recipient_routes.retain(|(of, _)| *of != mailbox);
            }
            (Self::SetRoute(route), _) => mail.route = Some(route),
            (Self::SetRecipientRoute(mailbox, route), _) => set_recipient_route(mail, mailbox, route),
            (Self::Sign(request), _) => {
                if !mail.signatures.contains(&request) {
                    mail.signatures.push(request);
                }
            }
            (Self::AddTag(tag), _) => {
                if !mail.tags.contains(&tag) {
                    mail.tags.push(tag);
                }
            }
        }
    }
}

fn set_recipient_route(mail: &mut Mail, mailbox: Mailbox, route: Route) {
    if !mail.envelope.recipients.iter().any(|r| r.mailbox == mailbox) {
        return;
    }
    match mail.recipient_routes.iter_mut().find(|(of, _)| *of == mailbox) {
        Some((_, known)) => *known = route,
        None => mail.recipient_routes.push((mailbox, route)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Envelope, MessageId};

    #[test]
    fn a_recipients_route_comes_and_goes_with_it() {
        let mailbox = |text: &str| Mailbox::parse(text).unwrap();
        let host = |name: &str| Route::SmartHost(name.into());
        let set = |to: &str, name: &str| Edit::SetRecipientRoute(mailbox(to), host(name));
        let mut mail = Mail {
            id: MessageId::next(),
            tenant: None,
            envelope: Envelope::new(ReversePath::NULL),
            message: None,
            tags: Vec::new(),
            route: None,
            recipient_routes: Vec::new(),
            signatures: Vec::new(),
            evidence: Default::default(),
        };
        mail.envelope.recipients = ["a@x.org", "b@x.org"].map(|to| Recipient::new(mailbox(to))).into();
        for (edit, expected) in [
            (set("a@x.org", "one"), vec![("a@x.org", "one")]),
            (set("b@x.org", "one"), vec![("a@x.org", "one"), ("b@x.org", "one")]),
            (set("a@x.org", "two"), vec![("a@x.org", "two"), ("b@x.org", "one")]),
            (set("c@x.org", "one"), vec![("a@x.org", "two"), ("b@x.org", "one")]),
            (Edit::SetRoute(host("all")), vec![("a@x.org", "two"), ("b@x.org", "one")]),
            (Edit::RemoveRecipient(mailbox("a@x.org")), vec![("b@x.org", "one")]),
            (set("a@x.org", "one"), vec![("b@x.org", "one")]),
            (Edit::AddRecipient(Recipient::new(mailbox("a@x.org"))), vec![("b@x.org", "one")]),
        ] {
            edit.apply(&mut mail);
            let expected: Vec<_> = expected.into_iter().map(|(to, name)| (mailbox(to), host(name))).collect();
            assert_eq!(mail.recipient_routes, expected);
        }
        assert_eq!(mail.route, Some(host("all")));
    }
}
