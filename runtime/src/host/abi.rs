//! Version 0.1 of the plugin contract: its types, and the one place where they become ours and ours become theirs.

use std::net::IpAddr;

use wasmtime::component::{ComponentType, Lower};

use crate::mail::Recipient;
use crate::pipeline::{self, EventKind, Stage};
use crate::smtp::{Enhanced, Host, Mailbox, Reply};

use self::bindings::postern::plugin::{message, types};
pub(super) use self::bindings::{Capabilities, postern::plugin as interface};

/// The version of the package `postern:plugin` that this gateway speaks.
pub const VERSION: &str = "0.1.0";

/// What a guest holds as `borrow<session>` and `borrow<message>`. There is one of each a call, so they carry nothing:
/// what they stand for is in the call's state, and no handle of an earlier call can lead to it.
pub struct SessionHandle;
pub struct MessageHandle;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "postern:plugin/capabilities",
        imports: {
            "postern:plugin/session.[method]session.client-name": async | trappable,
            "postern:plugin/message.[method]message.read": async | trappable,
            "postern:plugin/message.[method]message.search": async | trappable,
            "postern:plugin/message.[method]message.digest": async | trappable,
            "postern:plugin/message.[method]message.parts": async | trappable,
            "postern:plugin/message.[method]message.read-part": async | trappable,
            "postern:plugin/dns.resolve": async | trappable,
            "postern:plugin/dns.resolve-many": async | trappable,
            "postern:plugin/authentication.origin": async | trappable,
            "postern:plugin/authentication.spf-helo": async | trappable,
            "postern:plugin/authentication.spf-mail-from": async | trappable,
            "postern:plugin/authentication.dkim": async | trappable,
            "postern:plugin/authentication.dmarc": async | trappable,
            "postern:plugin/authentication.arc": async | trappable,
            "postern:plugin/scan.virus": async | trappable,
            "postern:plugin/scan.assess": async | trappable,
            "postern:plugin/call-ahead.recipient": async | trappable,
            default: trappable,
        },
        with: {
            "postern:plugin/session.session": super::SessionHandle,
            "postern:plugin/message.message": super::MessageHandle,
        },
    });
}

pub(super) type GuestVerdict = types::Verdict;
pub(super) type GuestRecipient = message::Recipient;

/// `on-event.event`.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub(super) struct GuestEvent {
    kind: GuestEventKind,
    id: String,
    recipient: String,
    detail: String,
}

#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub(super) enum GuestEventKind {
    #[component(name = "accepted")]
    Accepted,
    #[component(name = "delivered")]
    Delivered,
    #[component(name = "deferred")]
    Deferred,
    #[component(name = "bounced")]
    Bounced,
    #[component(name = "expired")]
    Expired,
    #[component(name = "quarantined")]
    Quarantined,
    #[component(name = "discarded")]
    Discarded,
}

/// Octets of a quarantine reason: it stands in the spool and in lists.
const MAX_REASON: usize = 480;

/// Checks what a plugin has said at a stage. The error says how it breaks the contract.
pub(super) fn verdict(stage: Stage, verdict: GuestVerdict) -> Result<pipeline::Verdict, String> {
    use pipeline::Verdict;
    Ok(match verdict {
        GuestVerdict::Next => Verdict::Next,
        GuestVerdict::Accept => Verdict::Accept,
        GuestVerdict::Reject(raw) => Verdict::Reject(reply("reject", raw, |code| code / 100 == 5)?),
        GuestVerdict::Defer(raw) => Verdict::Defer(reply("defer", raw, |code| code / 100 == 4)?),
        GuestVerdict::Discard => Verdict::Discard,
        GuestVerdict::Quarantine(reason) => Verdict::Quarantine(check_reason(reason)?),
        // Nobody is connected any more.
        GuestVerdict::Disconnect(_) if stage == Stage::Deliver => return Err("disconnect at deliver".to_owned()),
        GuestVerdict::Disconnect(raw) => {
            Verdict::Disconnect(reply("disconnect", raw, |code| code == 421 || code / 100 == 5)?)
        }
    })
}

fn reply(verdict: &str, raw: types::Reply, fits: impl Fn(u16) -> bool) -> Result<Reply, String> {
    let enhanced = raw.status.map(|(subject, detail)| Enhanced::new(subject, detail));
    let reply = Reply::checked(u32::from(raw.code), enhanced, &raw.text).map_err(|e| format!("{verdict}: {e}"))?;
    if !fits(reply.code()) {
        return Err(format!("{verdict} with code {}", reply.code()));
    }
    Ok(reply)
}

fn check_reason(reason: String) -> Result<String, String> {
    if reason.len() > MAX_REASON {
        return Err(format!("quarantine reason longer than {MAX_REASON} octets"));
    }
    if reason.chars().any(char::is_control) {
        return Err("quarantine reason has a control character".to_owned());
    }
    Ok(reason)
}

pub(super) fn event(event: pipeline::Event) -> GuestEvent {
    let kind = match event.kind {
        EventKind::Accepted => GuestEventKind::Accepted,
        EventKind::Delivered => GuestEventKind::Delivered,
        EventKind::Deferred => GuestEventKind::Deferred,
        EventKind::Bounced => GuestEventKind::Bounced,
        EventKind::Expired => GuestEventKind::Expired,
        EventKind::Quarantined => GuestEventKind::Quarantined,
        EventKind::Discarded => GuestEventKind::Discarded,
    };
    GuestEvent { kind, id: event.id.to_string(), recipient: event.recipient, detail: event.detail }
}

pub(super) fn recipient(recipient: &Recipient) -> GuestRecipient {
    GuestRecipient { address: address(&recipient.mailbox), original: recipient.orcpt.clone() }
}

pub(super) fn address(mailbox: &Mailbox) -> types::Address {
    types::Address { local_part: mailbox.local.as_str().to_owned(), domain: mailbox.host.to_string() }
}

/// The mailbox that a guest means. Goes through the one grammar there is, so nothing gets in that RCPT would refuse.
pub(super) fn mailbox(address: &types::Address) -> Result<Mailbox, String> {
    let host = Host::parse(&address.domain).map_err(|e| e.to_string())?;
    let local = &address.local_part;
    let quoted: String =
        local.chars().flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])).collect();
    Mailbox::parse(&format!("{local}@{host}"))
        .ok()
        .filter(|mailbox| mailbox.local.as_str() == local)
        .map_or_else(|| Mailbox::parse(&format!("\"{quoted}\"@{host}")).map_err(|e| e.to_string()), Ok)
}

pub(super) fn ip_to_guest(ip: IpAddr) -> types::IpAddress {
    match ip.to_canonical() {
        IpAddr::V4(ip) => types::IpAddress::Ipv4(ip.octets().into()),
        IpAddr::V6(ip) => types::IpAddress::Ipv6(ip.segments().into()),
    }
}

pub(super) fn ip_from_guest(ip: types::IpAddress) -> IpAddr {
    match ip {
        types::IpAddress::Ipv4((a, b, c, d)) => IpAddr::from([a, b, c, d]),
        types::IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => IpAddr::from([a, b, c, d, e, f, g, h]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u16, text: &str) -> types::Reply {
        types::Reply { code, status: Some((7, 1)), text: text.to_owned() }
    }

    #[test]
    fn w5_codes_must_fit_the_verdict() {
        type Make = fn(types::Reply) -> GuestVerdict;
        let verdicts: [(Make, &[u16]); 3] = [
            (GuestVerdict::Reject, &[500, 550, 554, 599]),
            (GuestVerdict::Defer, &[400, 421, 451, 499]),
            (GuestVerdict::Disconnect, &[421, 500, 550, 554, 599]),
        ];
        for (make, legal) in verdicts {
            for code in [0, 1, 199, 200, 250, 354, 399, 400, 421, 451, 499, 500, 550, 554, 599, 600, 999, u16::MAX] {
                assert_eq!(verdict(Stage::Rcpt, make(said(code, "x"))).is_ok(), legal.contains(&code), "{code}");
            }
        }
    }

    #[test]
    fn w5_text_that_could_not_be_sent_is_refused() {
        for text in ["a\r\n250 ok", "a\nb", "a\0b", "\u{7f}", "\u{85}", &"a".repeat(481)] {
            assert!(verdict(Stage::Data, GuestVerdict::Reject(said(550, text))).is_err(), "{text:?}");
            assert!(verdict(Stage::Data, GuestVerdict::Quarantine(text.to_owned())).is_err(), "{text:?}");
        }
        let status = types::Reply { code: 550, status: Some((1000, 1)), text: String::new() };
        assert!(verdict(Stage::Data, GuestVerdict::Reject(status)).is_err());
    }

    #[test]
    fn nobody_is_connected_at_deliver() {
        assert!(verdict(Stage::Deliver, GuestVerdict::Disconnect(said(421, "x"))).is_err());
        assert!(verdict(Stage::Deliver, GuestVerdict::Reject(said(550, "x"))).is_ok());
    }

    #[test]
    fn addresses_go_through_the_grammar() {
        let guest = |local: &str, domain: &str| types::Address { local_part: local.into(), domain: domain.into() };
        for (local, domain, expected) in [
            ("a.b", "Example.COM", Some("a.b@example.com")),
            ("a b", "example.com", Some("\"a b\"@example.com")),
            ("a\"@\\", "example.com", Some("\"a\\\"@\\\\\"@example.com")),
            ("a", "[192.0.2.1]", Some("a@[192.0.2.1]")),
            ("\"a\"", "example.com", Some("\"\\\"a\\\"\"@example.com")),
            ("a\r\nb", "example.com", None),
            ("", "example.com", None),
            ("a", "", None),
            ("a", "x.org> SIZE=1", None),
            ("a@x.org> <b", "x.org", Some("\"a@x.org> <b\"@x.org")),
        ] {
            let parsed = mailbox(&guest(local, domain));
            assert_eq!(parsed.as_ref().ok().map(ToString::to_string).as_deref(), expected, "{local:?} {domain:?}");
            if let Ok(parsed) = parsed {
                assert_eq!(address(&parsed).local_part, local);
            }
        }
    }
}
