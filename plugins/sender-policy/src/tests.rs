use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

const NOT_QUALIFIED: &str = "reject 550 5.1.7 The sender's address needs a fully qualified domain";

fn client() -> Client {
    Client::at("192.0.2.1").ehlo("mail.example.org")
}

fn zone(config: &str) -> Gateway {
    Gateway::new()
        .config(config)
        .dns_mx("mx.example", 10, "mail.mx.example")
        .dns_address("four.example", "192.0.2.1")
        .dns_address("six.example", "2001:db8::1")
        .dns_txt("txt.example", "v=spf1 -all")
        .dns_mx("null.example", 0, ".")
        .dns_address("null.example", "192.0.2.1")
        .dns_mx("two.example", 0, ".")
        .dns_mx("two.example", 10, "mail.mx.example")
        .dns_fails("down.example")
        .dns_times_out("slow.example")
}

/// What DNS has of each domain, and what follows.
const SENDERS: [(&str, &str); 9] = [
    ("mx.example", "next"),
    ("four.example", "next"),
    ("six.example", "next"),
    // A null MX beside others means nothing (RFC 7505 §3).
    ("two.example", "next"),
    ("txt.example", "reject 550 5.1.8 The sender's domain txt.example has neither a mail exchanger nor an address"),
    (
        "nowhere.example",
        "reject 550 5.1.8 The sender's domain nowhere.example has neither a mail exchanger nor an address",
    ),
    ("null.example", "reject 550 5.7.27 The sender's domain null.example takes no mail (null MX)"),
    ("down.example", "defer 451 4.4.3 The sender's domain down.example can't be looked up now"),
    ("slow.example", "defer 451 4.4.3 The sender's domain slow.example can't be looked up now"),
];

fn mail_from(gateway: &Gateway, client: &Client, sender: &str) -> String {
    gateway.mail_from::<SenderPolicy>(client, &mut Mail::from(sender)).verdict.to_string()
}

fn rcpt(gateway: &Gateway, client: &Client, sender: &str, recipient: &str) -> String {
    gateway.rcpt::<SenderPolicy>(client, &mut Mail::from(sender), recipient).verdict.to_string()
}

#[test]
fn r63_the_sender_has_a_fully_qualified_domain() {
    let gateway = Gateway::new();
    for (sender, verdict) in [
        ("ann@example.org", "next"),
        ("ann@[192.0.2.1]", "next"),
        ("ann@[IPv6:2001:db8::1]", "next"),
        ("root@localhost", NOT_QUALIFIED),
        ("ann@192.0.2.1", NOT_QUALIFIED),
    ] {
        for client in [client(), client().trusted(), client().login("ann")] {
            assert_eq!(mail_from(&gateway, &client, sender), verdict, "{sender}");
        }
        let off = Gateway::new().config(r#"{"require_fqdn": false}"#);
        assert_eq!(mail_from(&off, &client(), sender), "next", "{sender}");
    }
    let strict = Gateway::new().config(r#"{"allow_address_literals": false}"#);
    assert_eq!(mail_from(&strict, &client(), "ann@[192.0.2.1]"), NOT_QUALIFIED);
    assert_eq!(mail_from(&strict, &client(), "ann@example.org"), "next");
}

#[test]
fn r63_r64_a_bounce_has_no_sender_to_judge() {
    let gateway = zone(r#"{"require_in_dns": "always"}"#);
    let mut bounce = Mail::from_null_sender();
    assert_eq!(gateway.mail_from::<SenderPolicy>(&client(), &mut bounce).verdict, Verdict::Next);
    let gateway = zone("{}");
    let judged = gateway.rcpt::<SenderPolicy>(&client().trusted(), &mut bounce, "bob@example.net");
    assert_eq!(judged.verdict, Verdict::Next);
}

#[test]
fn r64_a_sender_nobody_can_answer_may_not_write_to_others_than_us() {
    let gateway = zone("{}");
    for (domain, verdict) in SENDERS {
        let sender = format!("ann@{domain}");
        for outbound in [client().trusted(), client().login("ann")] {
            assert_eq!(rcpt(&gateway, &outbound, &sender, "bob@elsewhere.example"), verdict);
        }
        // The recipient is a tenant's.
        assert_eq!(rcpt(&gateway, &client(), &sender, "bob@example.com"), "next");
        assert_eq!(mail_from(&gateway, &client(), &sender), "next");
        assert_eq!(mail_from(&gateway, &client().trusted(), &sender), "next", "not before the recipient is known");
    }
    assert_eq!(rcpt(&gateway, &client().trusted(), "ann@[192.0.2.1]", "bob@elsewhere.example"), "next");
}

#[test]
fn r64_recipients_that_are_local() {
    let gateway = zone(r#"{"local_recipients": ["example.com", ".example.com"]}"#);
    let rcpt = |recipient| rcpt(&gateway, &client().trusted(), "ann@nowhere.example", recipient);
    assert_eq!(rcpt("bob@example.com"), "next");
    assert_eq!(rcpt("bob@mail.example.com"), "next");
    assert!(rcpt("bob@example.net").starts_with("reject 550 5.1.8 "));
}

#[test]
fn r64_always_or_never() {
    let (always, never) = (zone(r#"{"require_in_dns": "always"}"#), zone(r#"{"require_in_dns": "never"}"#));
    for (domain, verdict) in SENDERS {
        let sender = format!("ann@{domain}");
        for client in [client(), client().trusted()] {
            assert_eq!(mail_from(&always, &client, &sender), verdict);
            assert_eq!(rcpt(&always, &client, &sender, "bob@example.com"), "next", "said at mail-from");
            assert_eq!(mail_from(&never, &client, &sender), "next");
            assert_eq!(rcpt(&never, &client, &sender, "bob@example.com"), "next");
        }
    }
}

#[test]
fn r64_dns_is_asked_once_a_transaction() {
    let mut mail = Mail::from("ann@nowhere.example");
    let trusted = client().trusted();
    let first = zone("{}").rcpt::<SenderPolicy>(&trusted, &mut mail, "a@elsewhere.example");
    assert_eq!(first.verdict.name(), "reject");
    // Now it is there; the mail in hand goes on with what was found.
    let there = || zone("{}").dns_address("nowhere.example", "192.0.2.1");
    let second = there().rcpt::<SenderPolicy>(&trusted, &mut mail, "b@elsewhere.example");
    assert_eq!(second.verdict, first.verdict);
    assert_eq!(rcpt(&there(), &trusted, "ann@nowhere.example", "b@elsewhere.example"), "next");
}

#[test]
fn exempt_networks_are_spared_everything() {
    let default = zone(r#"{"require_in_dns": "always"}"#);
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(mail_from(&default, &Client::at(address), "root@localhost"), "next");
        assert_eq!(rcpt(&zone("{}"), &Client::at(address).trusted(), "a@nowhere.example", "b@b.example"), "next");
    }
    let own = zone(r#"{"exempt_networks": ["10.0.0.0/8"]}"#);
    assert_eq!(mail_from(&own, &Client::at("10.1.1.1"), "root@localhost"), "next");
    assert_eq!(mail_from(&own, &Client::at("127.0.0.1"), "root@localhost"), NOT_QUALIFIED);
}

#[test]
fn errors_of_the_config_name_the_key() {
    for (config, expected) in [
        (r#"{"require_fqdn": "yes"}"#, "require_fqdn: invalid type: string \"yes\", expected a boolean"),
        (
            r#"{"require_in_dns": "sometimes"}"#,
            "require_in_dns: unknown variant `sometimes`, expected one of `never`, `not-local`, `always`",
        ),
        (r#"{"local_recipients": ["a b"]}"#, "local_recipients[0]: \"a b\": not a domain name in ASCII letters"),
        (r#"{"exempt_networks": ["home"]}"#, "exempt_networks[0]: \"home\": not an IP address"),
    ] {
        assert_eq!(Gateway::new().config(config).load::<SenderPolicy>().unwrap_err(), expected);
    }
    assert_eq!(Gateway::new().load::<SenderPolicy>(), Ok(()));
}

#[test]
fn refusals_are_counted_by_cause() {
    let gateway = zone(r#"{"require_in_dns": "always"}"#);
    for domain in ["localhost", "mx.example", "nowhere.example", "txt.example", "null.example", "down.example"] {
        mail_from(&gateway, &client(), &format!("ann@{domain}"));
    }
    let counted = ["not_qualified", "not_in_dns", "null_mx", "dns_failures"].map(|name| gateway.metric(name));
    assert_eq!(counted, [1, 2, 1, 1]);
}
