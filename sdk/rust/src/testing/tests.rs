//! The SDK's own tests: a plugin that uses everything, judged by the gateway in memory.

use std::time::Duration;

use super::*;
use crate::prelude::*;
use crate::scan::ScanError;
use crate::signing::SigningError;
use crate::store::StoreError;
use crate::{
    EditError, EventKind, ReadError, authentication, call_ahead, clock, config, counters, dns, metrics, scan, signing,
    store, tables,
};

/// Does at each stage what the test's config says.
struct Probe {
    reply: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeConfig {
    reply: String,
}

#[plugin]
impl Plugin for Probe {
    type Config = ProbeConfig;

    fn new(config: ProbeConfig) -> Result<Self, String> {
        if config.reply.is_empty() { Err("reply: must not be empty".into()) } else { Ok(Self { reply: config.reply }) }
    }

    fn connect(&self, session: &Session) -> Verdict {
        session.remember("seen", session.client_address().to_string().as_bytes()).unwrap();
        session.exempt("dnsbl", "partner");
        Verdict::Next
    }

    fn mail_from(&self, session: &Session, message: &Message) -> Verdict {
        info!("{} as {} of {}", message.reverse_path().is_some(), config::name(), config::scope());
        assert_eq!(message.add_header("X", "y", Position::Top), Err(EditError::Stage));
        assert_eq!(message.header("X"), Err(ReadError::Stage));
        assert_eq!(message.remove_recipient(&"a@example.com".parse().unwrap()), Err(EditError::Stage));
        assert_eq!(session.recall("seen"), Some(b"192.0.2.1".to_vec()));
        session.remember("sender", b"yes").unwrap();
        Verdict::Next
    }

    fn rcpt(&self, session: &Session, _: &Message, recipient: &Recipient) -> Verdict {
        assert!(session.recall("sender").is_some());
        match recipient.address.local_part.as_str() {
            "no" => reject!("5.1.1", "{}", self.reply),
            _ => Verdict::Next,
        }
    }

    fn data(&self, _: &Session, message: &Message) -> Verdict {
        message.add_header("X-Seen", "1", Position::Top).unwrap();
        message.replace_header("Subject", 0, Some("changed")).unwrap();
        message.replace_body(b"new\r\n").unwrap();
        message.add_tag("seen").unwrap();
        // The plugin itself does not see its edits.
        assert_eq!(message.header("subject").unwrap(), [b"old"]);
        assert_eq!(message.read(0, 3).unwrap(), b"--b");
        Verdict::Accept
    }

    fn deliver(&self, _: &Session, message: &Message) -> Verdict {
        match message.set_route(&Route::SmartHost("b".into())) {
            Ok(()) => Verdict::Next,
            Err(error) => defer!("4.3.5", "{error}"),
        }
    }

    fn event(&self, event: &Event) {
        metrics::add("bounces", u64::from(event.kind == EventKind::Bounced));
        info!("{} {}", event.id, event.detail);
    }
}

fn gateway() -> Gateway {
    Gateway::new().config(r#"{"reply": "nobody"}"#)
}

const MESSAGE: &str = "Received: x\nSubject: old\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\ntext\n\
    --b\nContent-Type: application/PDF\nContent-Disposition: attachment; filename=\"a.pdf\"\n\
    Content-Transfer-Encoding: base64\n\naGVsbG8=\n--b--\n";

/// Would refuse everything, and wants recipients of outbound mail alone.
struct Picky;

#[plugin]
impl Plugin for Picky {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn wants(&self, stage: Stage, direction: Direction) -> bool {
        stage == Stage::Rcpt && direction == Direction::Outbound
    }

    fn mail_from(&self, _: &Session, _: &Message) -> Verdict {
        reject!("5.7.1", "no")
    }

    fn rcpt(&self, _: &Session, _: &Message, _: &Recipient) -> Verdict {
        reject!("5.7.1", "no")
    }
}

#[test]
fn what_a_plugin_does_not_want_it_is_not_asked() {
    let gateway = Gateway::new();
    for (client, refused) in
        [(Client::at("192.0.2.1"), false), (Client::at("192.0.2.1").login("alice@example.org"), true)]
    {
        let mut mail = Mail::from("alice@example.org");
        assert_eq!(gateway.mail_from::<Picky>(&client, &mut mail).verdict, Verdict::Next);
        let judged = gateway.rcpt::<Picky>(&client, &mut mail, "bob@example.com");
        assert_eq!(judged.verdict != Verdict::Next, refused);
    }
}

#[test]
fn config_is_checked_when_the_plugin_is_loaded() {
    assert_eq!(gateway().load::<Probe>(), Ok(()));
    for (json, expected) in [
        (r#"{"reply": ""}"#, "reply: must not be empty"),
        (r#"{"reply": 1}"#, "reply: invalid type: integer `1`, expected a string"),
        (r#"{}"#, "missing field `reply`"),
        (r#"{"reply": "x", "replay": 1}"#, "replay: unknown field `replay`, expected `reply`"),
    ] {
        assert_eq!(Gateway::new().config(json).load::<Probe>().unwrap_err(), expected);
    }
}

#[test]
fn a_session_and_its_transactions_remember() {
    let gateway = gateway().name("probe").scope("tenant:acme");
    let client = Client::at("192.0.2.1").ehlo("mail.example.org");
    let judged = gateway.connect::<Probe>(&client);
    assert_eq!(judged.exemptions, [Exemption { test: "dnsbl".into(), rule: "partner".into() }]);
    let mut mail = Mail::from("alice@example.org");
    assert_eq!(gateway.mail_from::<Probe>(&client, &mut mail).log, ["info: true as probe of tenant:acme"]);
    assert_eq!(gateway.rcpt::<Probe>(&client, &mut mail, "bob@example.com").verdict, Verdict::Next);
    let refused = gateway.rcpt::<Probe>(&client, &mut mail, "no@example.com");
    assert_eq!(refused.verdict.to_string(), "reject 550 5.1.1 nobody");
    let taken: Vec<_> = mail.recipients.iter().map(|recipient| recipient.address.to_string()).collect();
    assert_eq!(taken, ["bob@example.com"]);
}

#[test]
fn notes_are_bounded() {
    struct Notes;
    #[plugin]
    impl Plugin for Notes {
        type Config = NoConfig;
        fn new(_: NoConfig) -> Result<Self, String> {
            Ok(Self)
        }
        fn connect(&self, session: &Session) -> Verdict {
            for n in 0..16 {
                session.remember(&n.to_string(), b"x").unwrap();
            }
            assert!(session.remember("0", &[0; 4000]).is_ok(), "a key that is there is replaced");
            assert!(session.remember("1", &[0; 100]).is_err(), "4 KiB in all");
            assert!(session.remember("16", b"x").is_err(), "16 keys");
            Verdict::Next
        }
    }
    Gateway::new().connect::<Notes>(&Client::at("::1"));
}

#[test]
fn edits_are_applied_after_the_call() {
    let mut mail = Mail::from("a@example.org").to("b@example.com").content(MESSAGE);
    let judged = gateway().data::<Probe>(&Client::at("192.0.2.1"), &mut mail);
    assert_eq!((judged.verdict, judged.edits.len()), (Verdict::Accept, 4));
    let names: Vec<_> = mail.fields().into_iter().map(|field| field.name).collect();
    assert_eq!(names, ["X-Seen", "Received", "Subject", "Content-Type"]);
    assert_eq!(mail.header("Subject"), [b"changed"]);
    assert_eq!((mail.body, mail.tags), (b"new\r\n".to_vec(), vec!["seen".to_owned()]));
}

#[test]
fn a_route_needs_its_grant() {
    let client = Client::at("192.0.2.1");
    let mut mail = Mail::from("a@example.org").to("b@example.com").content(MESSAGE);
    let judged = gateway().grant("route:a").deliver::<Probe>(&client, &mut mail);
    assert_eq!(judged.verdict.to_string(), "defer 451 4.3.5 this edit needs the grant route:b");
    assert_eq!(mail.route, None);
    gateway().grant("route:b").deliver::<Probe>(&client, &mut mail);
    assert_eq!(mail.route, Some(Route::SmartHost("b".into())));
}

/// Sends the first recipient and a copy elsewhere.
struct Diverter;

#[plugin]
impl Plugin for Diverter {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn deliver(&self, _: &Session, message: &Message) -> Verdict {
        let (archive, route) = ("archive@example.net".parse().unwrap(), Route::SmartHost("b".into()));
        let unknown = message.set_recipient_route(&archive, &route);
        assert_eq!(unknown, Err(EditError::Invalid("not a recipient of this mail".into())));
        let denied = message.set_recipient_route(&message.recipients()[0].address, &Route::Mx);
        assert_eq!(denied, Err(EditError::Denied("route:mx".into())));
        message.set_recipient_route(&message.recipients()[0].address, &Route::SmartHost("a".into())).unwrap();
        message.set_recipient_route(&message.recipients()[0].address, &route).unwrap();
        message.add_recipient(&archive).unwrap();
        message.set_recipient_route(&archive, &route).unwrap();
        message.set_recipient_route(&message.recipients()[1].address, &route).unwrap();
        message.remove_recipient(&message.recipients()[1].address).unwrap();
        Verdict::Next
    }
}

#[test]
fn a_recipient_has_a_route_of_its_own() {
    let mut mail = Mail::from("a@example.org").to("b@example.com").to("c@example.com").content(MESSAGE);
    let gateway = Gateway::new().grant("route:a").grant("route:b").grant("recipients");
    gateway.deliver::<Diverter>(&Client::at("192.0.2.1"), &mut mail);
    let own = |to: &str| (to.parse().unwrap(), Route::SmartHost("b".into()));
    assert_eq!(mail.recipient_routes, [own("b@example.com"), own("archive@example.net")]);
    assert_eq!(mail.route, None);
}

#[test]
fn a_route_for_each_recipient_always_fits() {
    let mail = (0..300).fold(Mail::from("a@example.org"), |mail, n| mail.to(&format!("u{n}@example.com")));
    let message = sys::Message::new(mail.content(MESSAGE), Stage::Deliver);
    Gateway::new().grant("route:mx").world.enter(|| {
        let message = Message::new(&message);
        let recipients = message.recipients();
        for recipient in recipients.iter().chain(&recipients[..256]) {
            message.set_recipient_route(&recipient.address, &Route::Mx).unwrap();
        }
        assert_eq!(message.set_recipient_route(&recipients[0].address, &Route::Mx), Err(EditError::Full));
        assert_eq!(message.set_route(&Route::Mx), Err(EditError::Full));
    });
    with_message(Mail::from("a@example.org").to("b@example.com").content(MESSAGE), Stage::Data, |message| {
        let early = message.set_recipient_route(&message.recipients()[0].address, &Route::Mx);
        assert_eq!(early, Err(EditError::Stage));
    });
}

#[test]
fn events_are_told() {
    let gateway = gateway();
    let event =
        Event { kind: EventKind::Bounced, id: "m7".into(), recipient: "b@example.com".into(), detail: "550 no".into() };
    assert_eq!(gateway.event::<Probe>(&event), ["info: m7 550 no"]);
    assert_eq!(gateway.metric("bounces"), 1);
}

/// Runs code as a plugin's would.
fn inside(gateway: &Gateway, code: impl FnOnce()) {
    gateway.world.enter(code);
}

/// Runs code as a plugin's at `stage` would.
fn with_message(mail: Mail, stage: Stage, code: impl FnOnce(&Message)) {
    let message = sys::Message::new(mail, stage);
    Gateway::new().world.enter(|| code(&Message::new(&message)));
}

#[test]
fn content_is_read_in_pieces() {
    with_message(Mail::from("a@example.org").content(MESSAGE), Stage::Data, |message| {
        let parts = message.parts().unwrap();
        let seen: Vec<_> =
            parts.iter().map(|p| (p.content_type.as_str(), p.filename.as_deref(), p.attachment, p.size)).collect();
        assert_eq!(seen, [("text/plain", None, false, 4), ("application/pdf", Some("a.pdf"), true, 5)]);
        assert_eq!(message.read_part(1, 1, 3).unwrap(), b"ell");
        assert_eq!(message.read_part(2, 0, 1), Err(ReadError::NoPart));
        let size = message.body_size().unwrap();
        assert_eq!(message.read(size, 10).unwrap(), b"");
        assert_eq!(message.search(b"text", 0).unwrap(), Some(7));
        assert_eq!(message.search(b"text", 8).unwrap(), None);
        assert_eq!(message.digest().unwrap().len(), 32);
    });
    with_message(
        Mail::from("a@example.org").content([b"\n".as_slice(), &[b'x'; 70_000]].concat()),
        Stage::Data,
        |message| {
            assert_eq!(message.read(0, u32::MAX).unwrap().len(), 65_536);
        },
    );
}

#[test]
fn edits_against_the_grammar_are_refused() {
    with_message(Mail::from("a@example.org").content(MESSAGE), Stage::Data, |message| {
        let invalid = |result| matches!(result, Err(EditError::Invalid(_)));
        assert!(invalid(message.add_header("A:b", "x", Position::Top)));
        assert!(invalid(message.add_header("A", "x\r\nEvil: 1", Position::Top)));
        assert!(invalid(message.replace_header("received", 0, None)));
        assert!(invalid(message.replace_header("Received", 0, Some("elsewhere"))));
        assert!(invalid(message.replace_header("from", 0, None)));
        assert!(invalid(message.replace_body(b"a\0b\r\n")));
        assert!(invalid(message.replace_body(&[b'x'; 999])));
        assert_eq!(message.replace_body(&[b'x'; 998]), Ok(()));
        assert!(invalid(message.replace_body(b"a\nb")));
        assert!(invalid(message.replace_body(b"a\rb")));
        assert!(invalid(message.add_tag("Not a tag")));
        assert!(invalid(message.set_reverse_path(Some(&Address { local_part: "a\r\n".into(), domain: "b".into() }))));
        assert_eq!(message.set_route(&Route::Mx), Err(EditError::Stage));
        let denied = message.add_recipient(&"x@example.com".parse().unwrap());
        assert_eq!(denied, Err(EditError::Denied("recipients".into())));
        for _ in 1..256 {
            message.add_tag("x").unwrap();
        }
        assert_eq!(message.add_tag("x"), Err(EditError::Full));
    });
}

#[test]
fn dns_answers_from_the_script() {
    let gateway = Gateway::new()
        .dns_address("mail.example.org", "192.0.2.1")
        .dns_address("MAIL.example.org.", "2001:db8::1")
        .dns_mx("example.org", 10, "mail.example.org")
        .dns_txt("example.org", "v=spf1 -all")
        .dns_ptr("192.0.2.1", "mail.example.org")
        .dns_fails("down.example")
        .dns_times_out("slow.example");
    inside(&gateway, || {
        let addresses: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(dns::addresses("Mail.Example.org"), Ok(addresses));
        assert_eq!(dns::addresses("down.example"), Err(DnsError::Temporary));
        assert_eq!(dns::addresses("slow.example"), Err(DnsError::TimedOut));
        assert_eq!(dns::addresses("other.example"), Err(DnsError::NotFound));
        assert_eq!(dns::addresses("a..b"), Err(DnsError::BadName));
        assert_eq!(dns::resolve("example.org", RecordType::A), Err(DnsError::NotFound));
        assert_eq!(dns::resolve("192.0.2.1", RecordType::Ptr), Ok(Answer::Names(vec!["mail.example.org".into()])));
        assert_eq!(dns::resolve("example.org", RecordType::Txt), Ok(Answer::Texts(vec![b"v=spf1 -all".to_vec()])));
    });
}

#[test]
fn tables_find_the_most_specific_key() {
    let rows = [
        ("192.0.2.0/24", "net"),
        ("192.0.2.7", "host"),
        ("192.163.1.1/255.100.10.1", "holes"),
        ("Bob@example.com", "bob"),
        ("example.com", "domain"),
        (".example.com", "below"),
    ];
    let gateway = Gateway::new().table("t", rows).broken_table("broken");
    inside(&gateway, || {
        for (ip, expected) in [
            ("192.0.2.7", Some("host")),
            ("192.0.2.8", Some("net")),
            ("192.32.0.1", Some("holes")),
            ("203.0.113.1", None),
        ] {
            assert_eq!(tables::match_ip("t", ip.parse().unwrap()).unwrap().as_deref(), expected, "{ip}");
        }
        for (address, expected) in [
            ("bob@EXAMPLE.com", Some("bob")),
            ("al@example.com", Some("domain")),
            ("al@a.b.example.com", Some("below")),
            ("al@example.org", None),
        ] {
            assert_eq!(
                tables::match_address("t", &address.parse().unwrap()).unwrap().as_deref(),
                expected,
                "{address}"
            );
        }
        assert_eq!(tables::match_domain("t", "mail.example.com").unwrap().as_deref(), Some("below"));
        assert_eq!(tables::lookup("t", "EXAMPLE.COM").unwrap().as_deref(), Some("domain"));
        assert_eq!(tables::lookup("other", "x"), Err(tables::TableError::NoTable));
        assert_eq!(tables::lookup("broken", "x"), Err(tables::TableError::Unavailable));
    });
}

#[test]
fn counters_keep_to_their_windows() {
    let gateway = Gateway::new();
    let add = |by| {
        let mut count = 0;
        inside(&gateway, || count = counters::add("k", by, 60).unwrap());
        count
    };
    gateway.advance(Duration::from_secs(59));
    assert_eq!((add(1), add(2), add(0)), (1, 3, 3));
    gateway.advance(Duration::from_secs(1));
    assert_eq!(add(1), 1, "the window ends at the full minute");
    gateway.fill_counters();
    assert_eq!(add(1), 2);
    inside(&gateway, || assert!(counters::add("other", 1, 60).is_err()));
}

#[test]
fn blocks_end() {
    let gateway = Gateway::new();
    let far = gateway.now() + Duration::from_secs(90 * 3600);
    inside(&gateway, || {
        counters::block("k", far).unwrap();
        assert_eq!(counters::blocked("k"), Some(clock::now() + Duration::from_secs(48 * 3600)));
        assert_eq!(counters::blocked("other"), None);
    });
    gateway.advance(Duration::from_secs(48 * 3600));
    inside(&gateway, || assert_eq!(counters::blocked("k"), None));
}

#[test]
fn what_is_stored_has_an_end() {
    let gateway = gateway();
    inside(&gateway, || {
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(store::write("k", b"v", day), Ok(()));
        assert_eq!(store::write("", b"v", day), Err(StoreError::TooBig));
        assert_eq!(store::write("k", &[0; 4097], day), Err(StoreError::TooBig));
        gateway.fill_store();
        assert_eq!(store::write("l", b"v", day), Err(StoreError::Full));
        assert_eq!(store::write("k", b"w", day), Ok(()));
        gateway.advance(day - Duration::from_millis(1));
        assert_eq!(store::read("k"), Some(b"w".to_vec()));
        gateway.advance(Duration::from_millis(1));
        assert_eq!(store::read("k"), None);
        store::remove("k");
        assert_eq!(clock::next_day(), gateway.now() + day, "it is midnight");
    });
}

/// A plugin that asks for all that is found out about a mail.
struct Curious;

#[plugin]
impl Plugin for Curious {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn mail_from(&self, session: &Session, message: &Message) -> Verdict {
        assert_eq!(authentication::dkim(message), Err(ReadError::Stage));
        assert_eq!(scan::virus(message, "clamav"), Err(ScanError::Stage));
        assert_eq!(signing::sign(message, "example.com", "s1"), Err(SigningError::Stage));
        match authentication::spf_mail_from(session, message) {
            Ok(spf) => reject!("5.7.23", "{} {} of {}", session.unknown_recipients(), spf.outcome, spf.domain),
            Err(error) => defer!("4.7.24", "{error}"),
        }
    }

    fn rcpt(&self, _: &Session, _: &Message, recipient: &Recipient) -> Verdict {
        match call_ahead::recipient(&recipient.address) {
            Presence::Exists => Verdict::Next,
            Presence::Unknown(reply) => reject!("5.1.1", "{reply}"),
            Presence::Unavailable(why) => defer!("4.4.3", "{why}"),
        }
    }

    fn data(&self, session: &Session, message: &Message) -> Verdict {
        let origin = authentication::origin(session, message).unwrap();
        let dmarc = authentication::dmarc(session, message).unwrap();
        let arc = authentication::arc(message).unwrap();
        let virus = scan::virus(message, "clamav");
        let spam = scan::assess(session, message, "rspamd").map(|said| said.action);
        info!("{} {} {} {virus:?} {spam:?}", origin.address, dmarc.outcome, arc.outcome);
        Verdict::Next
    }

    fn deliver(&self, session: &Session, message: &Message) -> Verdict {
        assert_eq!(authentication::dmarc(session, message), Err(ReadError::Stage));
        for selector in signing::selectors("Example.COM") {
            signing::sign(message, "example.com", &selector).unwrap();
            signing::sign(message, "example.com", &selector).unwrap();
        }
        assert_eq!(signing::seal(message, "example.com", "s9"), Err(SigningError::NoKey));
        Verdict::Next
    }
}

#[test]
fn what_is_found_out_about_a_mail_comes_from_the_script() {
    let origin = Origin { address: "198.51.100.1".parse().unwrap(), helo: None, relayed: true };
    let gateway = Gateway::new()
        .presence("a@example.com", Presence::Exists)
        .presence("b@example.com", Presence::Unknown("550 5.1.1 who?".into()))
        .virus("clamav", Ok(Some("Eicar")))
        .key("example.com", "s1");
    let client = Client::at("192.0.2.1").unknown_recipients(3);
    let mut mail = Mail::from("a@example.org").content("From: a@example.org\n\nx\n");
    let from = |gateway: &Gateway, mail: &mut Mail| gateway.mail_from::<Curious>(&client, mail).verdict.to_string();
    assert_eq!(from(&gateway, &mut mail), "reject 550 5.7.23 3 none of example.org");
    for (to, expected) in [
        ("a@example.com", "next"),
        ("b@example.com", "reject 550 5.1.1 550 5.1.1 who?"),
        ("c@example.com", "defer 451 4.4.3 no destination"),
    ] {
        assert_eq!(gateway.rcpt::<Curious>(&client, &mut mail, to).verdict.to_string(), expected);
    }
    let log = gateway.data::<Curious>(&client, &mut mail).log;
    assert_eq!(log, [r#"info: 192.0.2.1 none none Ok(Some("Eicar")) Err(NoScanner)"#]);
    let edits = gateway.deliver::<Curious>(&client, &mut mail).edits;
    assert_eq!(edits, [Edit::Sign { domain: "example.com".into(), selector: "s1".into() }]);
    let relayed = Gateway::new().origin(origin);
    assert_eq!(from(&relayed, &mut mail), "defer 451 4.7.24 the message has no content at this stage");
    assert!(relayed.data::<Curious>(&client, &mut mail).log.concat().starts_with("info: 198.51.100.1 "));
}

#[test]
fn the_log_is_cut() {
    let gateway = Gateway::new();
    inside(&gateway, || {
        for n in 0..100 {
            warn!("{n}");
        }
    });
    assert_eq!(gateway.world.take_log().len(), 64);
    inside(&gateway, || {
        warn!("{}", "é".repeat(8191));
        warn!("éé");
        warn!("x");
        warn!("");
    });
    let lens: Vec<_> = gateway.world.take_log().iter().map(|line| line.len() - "warn: ".len()).collect();
    assert_eq!(lens, [16_382, 2, 0]);
}

#[test]
fn metrics_have_a_bound() {
    let gateway = Gateway::new();
    inside(&gateway, || {
        for n in 0..40 {
            metrics::add(&format!("m{n}"), 2);
        }
        metrics::add("not a name", 1);
    });
    assert_eq!((gateway.metric("m31"), gateway.metric("m32"), gateway.metric("other")), (2, 0, 17));
}

#[test]
fn a_client_is_outbound_when_it_may_relay() {
    let direction = |client: Client| {
        let session = sys::Session::new(&client, Stage::MailFrom, Default::default());
        Session::new(&session).direction()
    };
    for (client, expected) in [
        (Client::at("192.0.2.1"), Direction::Inbound),
        (Client::at("192.0.2.1").trusted(), Direction::Outbound),
        (Client::at("192.0.2.1").login("al"), Direction::Outbound),
        (Client::at("192.0.2.1").listener("submission", crate::Role::Submission), Direction::Outbound),
    ] {
        assert_eq!(direction(client), expected);
    }
}
