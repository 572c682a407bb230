use postern_sdk::authentication::{Origin, Spf, SpfIdentity};
use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

const FIRST: &str = "defer 451 4.7.1 Greylisted: this is new here, try again in 300 seconds";

fn client(address: &str) -> Client {
    Client::at(address).ehlo("mail.example.org")
}

fn rcpt(gateway: &Gateway, client: &Client, sender: Option<&str>, recipient: &str) -> String {
    let mut mail = sender.map_or_else(Mail::from_null_sender, Mail::from);
    gateway.rcpt::<Greylist>(client, &mut mail, recipient).verdict.to_string()
}

fn minutes(gateway: &Gateway, minutes: u64) {
    gateway.advance(Duration::from_secs(60 * minutes));
}

fn passing(domain: &str) -> Spf {
    Spf {
        outcome: Outcome::Pass,
        identity: SpfIdentity::MailFrom,
        domain: domain.to_owned(),
        reason: "ip4".to_owned(),
        explanation: None,
    }
}

#[test]
fn who_comes_back_is_let_in() {
    let gateway = Gateway::new();
    let try_it = |address: &str| rcpt(&gateway, &client(address), Some("a@example.org"), "b@example.com");
    assert_eq!(try_it("192.0.2.1"), FIRST);
    minutes(&gateway, 4);
    assert_eq!(try_it("192.0.2.1"), FIRST.replace("300", "60"));
    minutes(&gateway, 1);
    assert_eq!(try_it("192.0.2.99"), "next", "of the same network");
    assert_eq!(try_it("192.0.3.1"), FIRST, "another network");
    minutes(&gateway, 36 * 24 * 60 - 1);
    assert_eq!(try_it("192.0.2.1"), "next", "known for 36 days");
    minutes(&gateway, 36 * 24 * 60 - 1);
    assert_eq!(try_it("192.0.2.1"), "next", "and again from each mail on");
    minutes(&gateway, 36 * 24 * 60);
    assert_eq!(try_it("192.0.2.1"), FIRST);
    let count = |name: &str| gateway.metric(name);
    assert_eq!((count("deferred_first"), count("deferred_early"), count("passed"), count("known")), (3, 1, 1, 2));
}

#[test]
fn who_comes_too_late_is_new() {
    let gateway = Gateway::new();
    let try_it = || rcpt(&gateway, &client("192.0.2.1"), Some("a@example.org"), "b@example.com");
    assert_eq!(try_it(), FIRST);
    minutes(&gateway, 4 * 60);
    assert_eq!(try_it(), FIRST);
    minutes(&gateway, 4 * 60 - 1);
    assert_eq!(try_it(), "next");
}

#[test]
fn each_part_of_the_triplet_counts() {
    let gateway = Gateway::new();
    rcpt(&gateway, &client("192.0.2.1"), Some("a@example.org"), "b@example.com");
    minutes(&gateway, 5);
    for (address, sender, recipient, expected) in [
        ("192.0.2.1", Some("a@example.org"), "c@example.com", FIRST),
        ("192.0.2.1", Some("c@example.org"), "b@example.com", FIRST),
        ("192.0.2.1", None, "b@example.com", FIRST),
        ("2001:db8::1", Some("a@example.org"), "b@example.com", FIRST),
        ("192.0.2.1", Some("A@example.org"), "B@example.com", "next"),
    ] {
        assert_eq!(rcpt(&gateway, &client(address), sender, recipient), expected, "{address} {sender:?} {recipient}");
    }
    minutes(&gateway, 5);
    assert_eq!(rcpt(&gateway, &client("192.0.2.1"), None, "b@example.com"), "next", "the null sender comes back, too");
    assert_eq!(rcpt(&gateway, &client("2001:db8::2"), Some("a@example.org"), "b@example.com"), "next", "of a /64");
}

#[test]
fn lists_with_an_address_for_each_mail() {
    let gateway = Gateway::new();
    let try_it = |sender| rcpt(&gateway, &client("192.0.2.1"), Some(sender), "b@example.com");
    assert_eq!(try_it("bounce-1001-b=example.com@lists.example.org"), FIRST);
    minutes(&gateway, 5);
    assert_eq!(try_it("bounce-1002-b=example.com@lists.example.org"), "next");
}

#[test]
fn a_network_is_let_in_after_so_many() {
    let gateway = Gateway::new().config(r#"{"auto_allow_after": 2}"#);
    let try_it = |address: &str, recipient: &str| rcpt(&gateway, &client(address), Some("a@example.org"), recipient);
    for recipient in ["b@example.com", "c@example.com"] {
        assert_eq!(try_it("192.0.2.1", recipient), FIRST);
    }
    minutes(&gateway, 5);
    assert_eq!(try_it("192.0.2.1", "b@example.com"), "next");
    assert_eq!(try_it("192.0.2.1", "d@example.com"), FIRST, "one is not two");
    assert_eq!(try_it("192.0.2.1", "c@example.com"), "next");
    assert_eq!(try_it("192.0.2.200", "e@example.com"), "next");
    assert_eq!(try_it("198.51.100.1", "e@example.com"), FIRST);
    minutes(&gateway, 30 * 24 * 60);
    assert_eq!(try_it("192.0.2.1", "f@example.com"), "next");
    minutes(&gateway, 30 * 24 * 60);
    assert_eq!(try_it("192.0.2.1", "g@example.com"), "next", "renewed");
    let never = Gateway::new().config(r#"{"auto_allow_after": 0}"#);
    for _ in 0..2 {
        for n in 0..9 {
            rcpt(&never, &client("192.0.2.1"), Some("a@example.org"), &format!("x{n}@example.com"));
        }
        minutes(&never, 5);
    }
    assert_eq!(rcpt(&never, &client("192.0.2.1"), Some("a@example.org"), "new@example.com"), FIRST);
}

#[test]
fn mail_that_spf_passes_is_known_by_its_domain() {
    let gateway = Gateway::new().spf(passing("Example.org"));
    let try_it =
        |gateway: &Gateway, address: &str| rcpt(gateway, &client(address), Some("a@example.org"), "b@example.com");
    assert_eq!(try_it(&gateway, "192.0.2.1"), FIRST);
    minutes(&gateway, 5);
    assert_eq!(try_it(&gateway, "203.0.113.9"), "next", "tried again from elsewhere");
    let skipping = Gateway::new().config(r#"{"spf": "skip"}"#).spf(passing("example.org"));
    assert_eq!(try_it(&skipping, "192.0.2.1"), "next");
    let ignoring = Gateway::new().config(r#"{"spf": "ignore"}"#).spf(passing("example.org"));
    assert_eq!(try_it(&ignoring, "192.0.2.1"), FIRST);
    minutes(&ignoring, 5);
    assert_eq!(try_it(&ignoring, "203.0.113.9"), FIRST);
    for outcome in [Outcome::Fail, Outcome::Neutral, Outcome::Temperror] {
        let gateway = Gateway::new().config(r#"{"spf": "skip"}"#).spf(Spf { outcome, ..passing("example.org") });
        assert_eq!(try_it(&gateway, "192.0.2.1"), FIRST, "{outcome}");
    }
}

#[test]
fn own_users_and_relays_do_not_wait() {
    let gateway = Gateway::new();
    let try_it = |client: Client| rcpt(&gateway, &client, Some("a@example.org"), "b@example.com");
    assert_eq!(try_it(client("192.0.2.1").trusted()), "next");
    assert_eq!(try_it(client("192.0.2.1").login("al")), "next");
    assert_eq!(try_it(client("127.0.0.1")), "next");
    let relayed = Origin { address: "203.0.113.1".parse().unwrap(), helo: None, relayed: true };
    let gateway = Gateway::new().origin(relayed);
    assert_eq!(rcpt(&gateway, &client("192.0.2.1"), Some("a@example.org"), "b@example.com"), "next");
}

#[test]
fn w15_a_full_store_holds_nobody_back() {
    let gateway = Gateway::new();
    gateway.fill_store();
    let judged = gateway.rcpt::<Greylist>(&client("192.0.2.1"), &mut Mail::from("a@example.org"), "b@example.com");
    assert_eq!(judged.verdict.to_string(), "next");
    assert!(
        judged.log[0].starts_with("warn: t/192.0.2.0/24/a@example.org/b@example.com is not remembered: "),
        "{:?}",
        judged.log
    );
    assert_eq!(gateway.metric("store_full"), 1);
}

#[test]
fn configs() {
    let load = |config: &str| Gateway::new().config(config).load::<Greylist>();
    assert_eq!(load("{}"), Ok(()));
    assert_eq!(load(r#"{"delay": 30, "window": "2h", "keep": "10d"}"#), Ok(()));
    for (config, expected) in [
        (r#"{"delay": "4h"}"#, "window: it must be longer than delay, or nobody ever passes"),
        (r#"{"keep": "1h"}"#, "keep: it must not be shorter than window"),
        (r#"{"keep": "366d"}"#, "keep: a year at most"),
        (r#"{"delay": "5 minutes"}"#, "delay: \"5 minutes\": no duration like \"5m\", \"4h\" or \"36d\""),
    ] {
        assert_eq!(load(config), Err(expected.to_owned()), "{config}");
    }
}
