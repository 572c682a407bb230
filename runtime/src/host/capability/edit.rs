//! The journal of a call's edits. Every check of the contract is made here, when the edit is asked for, so that what
//! is in the journal can be applied without failing.

use bytes::Bytes;

use super::super::abi::interface::message::{EditError, Position, Route};
use super::super::abi::interface::types::Address;
use super::super::abi::mailbox;
use super::super::state::Asked;
use super::{Grants, RECIPIENTS};
use crate::mail::{self, Field, SignatureRequest};
use crate::pipeline::{self, Edit, Stage};
use crate::smtp::{Domain, Host, Mailbox, ReversePath};

/// What one call may change.
const MAX_EDITS: usize = 256;
const MAX_OCTETS: usize = 32 << 20;
/// RFC 5322 §2.1.1: octets of a line, CRLF not counted.
const MAX_LINE: usize = 998;
const MAX_TAG: usize = 64;

#[derive(Default)]
pub(in super::super) struct Journal {
    edits: Vec<Edit>,
    /// Of them, those that count.
    counted: usize,
    octets: usize,
}

impl Journal {
    pub fn into_edits(self) -> Vec<Edit> {
        self.edits
    }

    fn push(&mut self, edit: Edit, octets: usize) -> Result<(), EditError> {
        self.octets = self.octets.saturating_add(octets);
        if self.counted >= MAX_EDITS || self.octets > MAX_OCTETS {
            return Err(EditError::Full);
        }
        self.counted += 1;
        self.edits.push(edit);
        Ok(())
    }

    /// A mail may have more recipients than a call has edits, so one route for each is free.
    fn push_recipient_route(&mut self, edit: Edit, recipients: usize) -> Result<(), EditError> {
        if self.edits.len() - self.counted >= recipients {
            return self.push(edit, 0);
        }
        self.edits.push(edit);
        Ok(())
    }

    /// Asked for twice, it is made once.
    pub(super) fn sign(&mut self, request: SignatureRequest, max: usize) -> Result<(), EditError> {
        let mut requests = self.edits.iter().filter_map(|edit| match edit {
            Edit::Sign(request) => Some(request),
            _ => None,
        });
        if requests.clone().any(|known| *known == request) {
            return Ok(());
        }
        if requests.nth(max.saturating_sub(1)).is_some() {
            return Err(EditError::Full);
        }
        self.push(Edit::Sign(request), 0)
    }

    fn adds(&self, mailbox: &Mailbox) -> bool {
        self.edits.iter().any(|edit| matches!(edit, Edit::AddRecipient(added) if added.mailbox == *mailbox))
    }
}

fn invalid(problem: impl ToString) -> EditError {
    EditError::Invalid(problem.to_string())
}

/// Header and body are there at `data` and `deliver` only.
fn check_content(asked: &Asked) -> Result<(), EditError> {
    let there = asked.mail.as_ref().is_some_and(|mail| mail.message.is_some());
    if there && matches!(asked.stage, Stage::Data | Stage::Deliver) { Ok(()) } else { Err(EditError::Stage) }
}

pub(super) fn add_header(asked: &mut Asked, name: &str, value: &str, at: Position) -> Result<(), EditError> {
    check_content(asked)?;
    let field = Field::new(name, value).map_err(invalid)?;
    let position = match at {
        Position::Top => pipeline::Position::Top,
        Position::Bottom => pipeline::Position::Bottom,
    };
    let octets = field.raw().len();
    asked.journal.push(Edit::AddField { field, position }, octets)
}

pub(super) fn replace_header(asked: &mut Asked, name: String, nth: u32, value: Option<&str>) -> Result<(), EditError> {
    check_content(asked)?;
    let with = Field::new(&name, value.unwrap_or("")).map_err(invalid)?;
    check_protected(asked, &name, value.is_none())?;
    let nth = usize::try_from(nth).map_err(invalid)?;
    let octets = with.raw().len();
    asked.journal.push(Edit::ReplaceField { name, nth, with: value.map(|_| with) }, octets)
}

/// Trace fields tell where a mail has been, and stop it from going in circles: RFC 5321 §4.4 forbids to change or
/// remove a `Received`. A message without a `From` is none (RFC 5322 §3.6).
fn check_protected(asked: &Asked, name: &str, remove: bool) -> Result<(), EditError> {
    if name.eq_ignore_ascii_case("Received") {
        return Err(invalid("Received can't be changed or removed"));
    }
    if remove && name.eq_ignore_ascii_case("From") {
        let message = asked.mail.as_ref().and_then(|mail| mail.message.as_ref());
        let there = message.map_or(0, |message| message.header.named("From").count());
        let removed = asked.journal.edits.iter().filter(|edit| match edit {
            Edit::ReplaceField { name, with, .. } => with.is_none() && name.eq_ignore_ascii_case("From"),
            _ => false,
        });
        if removed.count() + 1 >= there {
            return Err(invalid("the last From can't be removed"));
        }
    }
    Ok(())
}

pub(super) fn replace_body(asked: &mut Asked, mut body: Vec<u8>) -> Result<(), EditError> {
    check_content(asked)?;
    check_lines(&body).map_err(invalid)?;
    if !body.is_empty() && !body.ends_with(b"\r\n") {
        body.extend_from_slice(b"\r\n");
    }
    let octets = body.len();
    asked.journal.push(Edit::ReplaceBody(Bytes::from(body)), octets)
}

/// RFC 5321 §2.3.8, RFC 5322 §2.1: lines end in CRLF, and CR and LF stand nowhere else. A bare one could end the data
/// early at a next hop that takes it for a line end.
fn check_lines(body: &[u8]) -> Result<(), &'static str> {
    let mut line = 0;
    let mut before = 0;
    for (at, &octet) in body.iter().enumerate() {
        match octet {
            b'\n' if before != b'\r' => return Err("the body has a bare LF"),
            0 => return Err("the body has a NUL"),
            _ if before == b'\r' && octet != b'\n' => return Err("the body has a bare CR"),
            b'\n' => line = at + 1,
            b'\r' => {}
            _ if at - line >= MAX_LINE => return Err("the body has a line longer than 998 octets"),
            _ => {}
        }
        before = octet;
    }
    if before == b'\r' { Err("the body has a bare CR") } else { Ok(()) }
}

pub(super) fn set_reverse_path(asked: &mut Asked, path: Option<&Address>) -> Result<(), EditError> {
    let path = path.map(|address| parse_mailbox(asked, address)).transpose()?;
    asked.journal.push(Edit::SetReversePath(ReversePath(path)), 0)
}

pub(super) fn add_recipient(asked: &mut Asked, grants: &Grants, address: &Address) -> Result<(), EditError> {
    check_recipients(asked)?;
    check_grant(grants, RECIPIENTS)?;
    let mailbox = parse_mailbox(asked, address)?;
    asked.journal.push(Edit::AddRecipient(mail::Recipient::new(mailbox)), 0)
}

pub(super) fn remove_recipient(asked: &mut Asked, address: &Address) -> Result<(), EditError> {
    check_recipients(asked)?;
    let mailbox = parse_mailbox(asked, address)?;
    asked.journal.push(Edit::RemoveRecipient(mailbox), 0)
}

/// Before the data the client is still naming them, and each is judged: at `rcpt` a plugin says no instead.
fn check_recipients(asked: &Asked) -> Result<(), EditError> {
    if matches!(asked.stage, Stage::Data | Stage::Deliver) { Ok(()) } else { Err(EditError::Stage) }
}

pub(super) fn set_route(asked: &mut Asked, grants: &Grants, route: &Route) -> Result<(), EditError> {
    check_route_stage(asked)?;
    let route = parse_route(grants, route)?;
    asked.journal.push(Edit::SetRoute(route), 0)
}

/// Those that are added in the same call are recipients too: a copy may go its own way.
pub(super) fn set_recipient_route(
    asked: &mut Asked,
    grants: &Grants,
    address: &Address,
    route: &Route,
) -> Result<(), EditError> {
    check_route_stage(asked)?;
    let route = parse_route(grants, route)?;
    let mailbox = parse_mailbox(asked, address)?;
    let recipients = asked.mail.as_ref().map_or(&[][..], |mail| &mail.envelope.recipients);
    let known = recipients.iter().any(|recipient| recipient.mailbox == mailbox) || asked.journal.adds(&mailbox);
    if !known {
        return Err(invalid("not a recipient of this mail"));
    }
    let count = recipients.len();
    asked.journal.push_recipient_route(Edit::SetRecipientRoute(mailbox, route), count)
}

fn check_route_stage(asked: &Asked) -> Result<(), EditError> {
    if asked.stage == Stage::Deliver { Ok(()) } else { Err(EditError::Stage) }
}

fn parse_route(grants: &Grants, route: &Route) -> Result<mail::Route, EditError> {
    Ok(match route {
        Route::Mx => {
            check_grant(grants, "route:mx")?;
            mail::Route::Mx(None)
        }
        Route::MxOf(domain) => {
            check_grant(grants, "route:mx")?;
            mail::Route::Mx(Some(Domain::parse(domain).map_err(invalid)?))
        }
        Route::Host((host, port)) => {
            check_grant(grants, "route:host")?;
            let host = parse_host(host)?;
            if *port == 0 {
                return Err(invalid("port 0"));
            }
            mail::Route::Host { host, port: *port, tls: mail::TlsPolicy::default() }
        }
        Route::SmartHost(name) => {
            // `route:mx` and `route:host` grant something else.
            let reserved = matches!(name.as_str(), "mx" | "host");
            if reserved {
                return Err(invalid("no smart host has this name"));
            }
            check_grant(grants, &format!("route:{name}"))?;
            mail::Route::SmartHost(name.as_str().into())
        }
    })
}

/// A name, or an address with or without brackets.
fn parse_host(text: &str) -> Result<Host, EditError> {
    match text.parse() {
        Ok(ip) => Ok(Host::Literal(ip)),
        Err(_) => Host::parse(text).map_err(invalid),
    }
}

pub(super) fn add_tag(asked: &mut Asked, tag: String) -> Result<(), EditError> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b':');
    if tag.is_empty() || tag.len() > MAX_TAG || !tag.bytes().all(legal) {
        return Err(invalid("a tag is 1 to 64 characters of a-z, 0-9, -, _, ., :"));
    }
    asked.journal.push(Edit::AddTag(tag), 0)
}

fn check_grant(grants: &Grants, grant: &str) -> Result<(), EditError> {
    if grants.has(grant) { Ok(()) } else { Err(EditError::Denied(grant.to_owned())) }
}

fn parse_mailbox(asked: &Asked, address: &Address) -> Result<Mailbox, EditError> {
    let mailbox = mailbox(address).map_err(EditError::Invalid)?;
    let smtputf8 = asked.mail.as_ref().is_some_and(|mail| mail.envelope.smtputf8);
    // RFC 6531 §3.4: the mail would have to be refused by servers that take it now.
    if !mailbox.is_ascii() && !smtputf8 {
        return Err(invalid("a non-ASCII address in a mail without SMTPUTF8"));
    }
    Ok(mailbox)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::guest;
    use super::*;

    fn asked(stage: Stage) -> Asked {
        let content = matches!(stage, Stage::Data | Stage::Deliver);
        Asked::new(guest::call(stage, content.then_some("From: a@x.org\r\nReceived: by x\r\n\r\nhello\r\n")))
    }

    fn to<'a>(asked: &'a mut Asked, recipients: &[&str]) -> &'a mut Asked {
        let mail = Arc::make_mut(asked.mail.as_mut().unwrap());
        mail.envelope.recipients = recipients.iter().map(|to| mail::Recipient::new(to.parse().unwrap())).collect();
        asked
    }

    fn address(text: &str) -> Address {
        let (local, domain) = text.rsplit_once('@').unwrap();
        Address { local_part: local.to_owned(), domain: domain.to_owned() }
    }

    fn grants(names: &[&str]) -> Grants {
        Grants::new(names.iter().map(|name| (*name).to_owned())).unwrap()
    }

    #[test]
    fn w6_header_injection_is_refused() {
        let mut data = asked(Stage::Data);
        for (name, value) in [
            ("X", "a\r\nBcc: b"),
            ("X", "a\nb"),
            ("X", "a\0"),
            ("X Y", "v"),
            ("X:", "v"),
            ("", "v"),
            ("Ü", "v"),
            ("X", &"v ".repeat(50_000)),
        ] {
            assert!(matches!(add_header(&mut data, name, value, Position::Top), Err(EditError::Invalid(_))), "{name}");
            assert!(replace_header(&mut data, name.to_owned(), 0, Some(value)).is_err());
        }
        assert!(data.journal.edits.is_empty());
        add_header(&mut data, "Authentication-Results", "mx; spf=pass", Position::Top).unwrap();
    }

    #[test]
    fn w6_bodies_have_crlf_and_nothing_else() {
        let mut data = asked(Stage::Data);
        for bad in ["a\nb", "a\rb", "a\r", "\n", "\r\r\n", "a\0", &"a".repeat(999)] {
            assert!(matches!(replace_body(&mut data, bad.as_bytes().to_vec()), Err(EditError::Invalid(_))), "{bad:?}");
        }
        for (good, stored) in [("", ""), ("a", "a\r\n"), ("a\r\n\r\n.\r\n", "a\r\n\r\n.\r\n")] {
            replace_body(&mut data, good.as_bytes().to_vec()).unwrap();
            let Some(Edit::ReplaceBody(body)) = data.journal.edits.last() else { panic!("no edit") };
            assert_eq!(&body[..], stored.as_bytes());
        }
        let long = format!("{}\r\n{}\r\n", "a".repeat(998), "b".repeat(998));
        replace_body(&mut data, long.into_bytes()).unwrap();
    }

    #[test]
    fn w6_trace_and_the_last_from_stay() {
        let mut data = asked(Stage::Data);
        assert!(replace_header(&mut data, "received".to_owned(), 0, None).is_err());
        assert!(replace_header(&mut data, "Received".to_owned(), 0, Some("by y")).is_err());
        assert!(replace_header(&mut data, "FROM".to_owned(), 0, None).is_err());
        replace_header(&mut data, "From".to_owned(), 0, Some("b@x.org")).unwrap();
        replace_header(&mut data, "Subject".to_owned(), 0, None).unwrap();
    }

    #[test]
    fn edits_belong_to_stages() {
        type Attempt = fn(&mut Asked) -> Result<(), EditError>;
        let attempts: [(Attempt, &[Stage]); 6] = [
            (|a| add_header(a, "X", "v", Position::Bottom), &[Stage::Data, Stage::Deliver]),
            (|a| replace_body(a, Vec::new()), &[Stage::Data, Stage::Deliver]),
            (|a| remove_recipient(a, &address("a@x.org")), &[Stage::Data, Stage::Deliver]),
            (|a| set_route(a, &grants(&["route:mx"]), &Route::Mx), &[Stage::Deliver]),
            (
                |a| set_recipient_route(to(a, &["a@x.org"]), &grants(&["route:mx"]), &address("a@x.org"), &Route::Mx),
                &[Stage::Deliver],
            ),
            (|a| set_reverse_path(a, None), &[Stage::MailFrom, Stage::Rcpt, Stage::Data, Stage::Deliver]),
        ];
        for (number, (attempt, legal)) in attempts.into_iter().enumerate() {
            for stage in [Stage::MailFrom, Stage::Rcpt, Stage::Data, Stage::Deliver] {
                let done = attempt(&mut asked(stage));
                assert_eq!(done.is_ok(), legal.contains(&stage), "{number} {stage}: {done:?}");
                assert!(done.is_ok() || matches!(done, Err(EditError::Stage)));
            }
        }
    }

    #[test]
    fn what_needs_a_grant_names_it() {
        let none = grants(&["route:other", "dns"]);
        let mut deliver = asked(Stage::Deliver);
        let denied = |done: Result<(), EditError>| match done {
            Err(EditError::Denied(grant)) => grant,
            other => panic!("{other:?}"),
        };
        let host = Route::Host(("192.0.2.1".to_owned(), 25));
        assert_eq!(denied(add_recipient(&mut deliver, &none, &address("a@x.org"))), "recipients");
        assert_eq!(denied(set_route(&mut deliver, &none, &Route::MxOf("x.org".to_owned()))), "route:mx");
        assert_eq!(denied(set_route(&mut deliver, &none, &host)), "route:host");
        assert_eq!(denied(set_route(&mut deliver, &none, &Route::SmartHost("partner".to_owned()))), "route:partner");
        set_route(&mut deliver, &none, &Route::SmartHost("other".to_owned())).unwrap();
        set_route(&mut deliver, &grants(&["route:host"]), &host).unwrap();
        let mx = Route::SmartHost("mx".to_owned());
        assert!(matches!(set_route(&mut deliver, &grants(&["route:mx"]), &mx), Err(EditError::Invalid(_))));
    }

    #[test]
    fn a_recipients_route_needs_a_recipient_and_the_grant() {
        let mut asked = asked(Stage::Deliver);
        let deliver = to(&mut asked, &["a@x.org"]);
        let all = grants(&["route:partner", "recipients"]);
        let partner = Route::SmartHost("partner".to_owned());
        for (to, route) in [("b@x.org", &partner), ("a@x.org ", &partner)] {
            let done = set_recipient_route(deliver, &all, &address(to), route);
            assert!(matches!(done, Err(EditError::Invalid(_))), "{to:?} {done:?}");
        }
        for (granted, route, missing) in [
            (&grants(&[]), &partner, "route:partner"),
            (&all, &Route::Mx, "route:mx"),
            (&all, &Route::Host(("192.0.2.1".to_owned(), 25)), "route:host"),
        ] {
            let done = set_recipient_route(deliver, granted, &address("a@x.org"), route);
            assert!(matches!(done, Err(EditError::Denied(grant)) if grant == missing));
        }
        assert!(deliver.journal.edits.is_empty());
        add_recipient(deliver, &all, &address("b@x.org")).unwrap();
        for to in ["a@x.org", "B@X.ORG", "b@X.ORG"] {
            let done = set_recipient_route(deliver, &all, &address(to), &partner);
            // RFC 5321 §2.4: the case of a local part counts, that of a domain does not.
            assert_eq!(done.is_ok(), !to.starts_with('B'), "{to}");
        }
    }

    #[test]
    fn a_route_for_each_recipient_always_fits() {
        let names: Vec<String> = (0..1000).map(|number| format!("u{number}@x.org")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut asked = asked(Stage::Deliver);
        let deliver = to(&mut asked, &names);
        let set = |deliver: &mut Asked, to: &str| {
            set_recipient_route(deliver, &grants(&["route:mx"]), &address(to), &Route::Mx)
        };
        for name in &names {
            set(deliver, name).unwrap();
        }
        for _ in 0..MAX_EDITS {
            set(deliver, names[0]).unwrap();
        }
        assert!(matches!(set(deliver, names[0]), Err(EditError::Full)));
        assert!(matches!(add_tag(deliver, "a".to_owned()), Err(EditError::Full)));
    }

    #[test]
    fn the_journal_is_bounded() {
        let mut data = asked(Stage::Data);
        for _ in 0..MAX_EDITS {
            add_tag(&mut data, "a:b-c_d.1".to_owned()).unwrap();
        }
        assert!(matches!(add_tag(&mut data, "a".to_owned()), Err(EditError::Full)));
        assert!(matches!(add_tag(&mut data, "A".to_owned()), Err(EditError::Invalid(_))));
        let mut data = asked(Stage::Data);
        let body = b"a\r\n".repeat(MAX_OCTETS / 6 + 1);
        replace_body(&mut data, body.clone()).unwrap();
        assert!(matches!(replace_body(&mut data, body), Err(EditError::Full)));
    }

    #[test]
    fn addresses_fit_the_envelope() {
        let mut data = asked(Stage::Data);
        assert!(set_reverse_path(&mut data, Some(&address("ü@x.org"))).is_err());
        let mut mail = data.mail.as_deref().cloned().unwrap();
        mail.envelope.smtputf8 = true;
        data.mail = Some(Arc::new(mail));
        set_reverse_path(&mut data, Some(&address("ü@x.org"))).unwrap();
        assert!(set_reverse_path(&mut data, Some(&address("a\r\nb@x.org"))).is_err());
    }
}
