use std::time::Duration;

use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

fn client() -> Client {
    Client::at("192.0.2.1").ehlo("client.example.com")
}

fn send(gateway: &Gateway, client: &Client, tenant: &str) -> String {
    gateway.mail_from::<SendingLimits>(client, &mut Mail::from("a@example.com").tenant(tenant)).verdict.to_string()
}

fn sends(gateway: &Gateway, client: &Client, tenant: &str, times: usize) -> Vec<String> {
    (0..times).map(|_| send(gateway, client, tenant)).collect()
}

/// How many of so many were taken.
fn taken(gateway: &Gateway, client: &Client, tenant: &str, times: usize) -> usize {
    sends(gateway, client, tenant, times).iter().filter(|verdict| *verdict == "next").count()
}

fn hours(gateway: &Gateway, hours: u64) {
    gateway.advance(Duration::from_secs(3600 * hours));
}

#[test]
fn r23_messages_of_a_login_in_an_hour_and_a_day() {
    let gateway = Gateway::new().config(r#"{"login": {"messages_per_hour": 3, "messages_per_day": 5}}"#);
    let (al, bo) = (client().login("al"), client().login("bo"));
    let deferred = "defer 450 4.7.1 Your account has sent its 3 messages an hour, try again later";
    assert_eq!(sends(&gateway, &al, "acme", 5), ["next", "next", "next", deferred, deferred]);
    assert_eq!(taken(&gateway, &bo, "acme", 5), 3, "another login");
    assert_eq!(taken(&gateway, &client().trusted(), "acme", 9), 9, "addresses have no limit here");
    hours(&gateway, 1);
    // What the hour has refused was not counted for the day.
    let day = "defer 450 4.7.1 Your account has sent its 5 messages a day, try again later";
    assert_eq!(sends(&gateway, &al, "acme", 3), ["next", "next", day]);
    hours(&gateway, 22);
    assert_eq!(taken(&gateway, &al, "acme", 1), 0);
    hours(&gateway, 1);
    assert_eq!(taken(&gateway, &al, "acme", 1), 1);
    assert_eq!(gateway.metric("deferred"), 6);
}

#[test]
fn r23_tenants_and_addresses() {
    let config = r#"{"tenant": {"messages_per_hour": 4}, "address": {"messages_per_hour": 3}}"#;
    let gateway = Gateway::new().config(config);
    let [one, same, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.9"].map(|ip| Client::at(ip).trusted());
    assert_eq!([&one, &same].map(|client| taken(&gateway, client, "acme", 2)), [2, 1], "a /64 is one client");
    assert_eq!(
        send(&gateway, &one, "acme"),
        "defer 450 4.7.1 Your address has sent its 3 messages an hour, try again later"
    );
    // The refused ones were not counted for the tenant.
    assert_eq!(
        sends(&gateway, &other, "acme", 2),
        ["next", "defer 450 4.7.1 Your organisation has sent its 4 messages an hour, try again later"]
    );
    assert_eq!(taken(&gateway, &other, "bigco", 9), 1, "another tenant, the same address");
    let mail = &mut Mail::from("a@example.com");
    assert_eq!(gateway.mail_from::<SendingLimits>(&client().trusted(), mail).verdict, Verdict::Next, "no tenant");
}

#[test]
fn r23_recipients_are_counted_at_rcpt() {
    let gateway = Gateway::new().config(r#"{"login": {"recipients_per_hour": 2, "messages_per_hour": 1}}"#);
    let al = client().login("al");
    let mut mail = Mail::from("a@example.com");
    let rcpt = |mail: &mut Mail, to: &str| gateway.rcpt::<SendingLimits>(&al, mail, to).verdict.to_string();
    assert_eq!([rcpt(&mut mail, "x@example.org"), rcpt(&mut mail, "y@example.org")], ["next", "next"]);
    let expected = "defer 450 4.7.1 Your account has sent its 2 recipients an hour, try again later";
    assert_eq!(rcpt(&mut mail, "z@example.org"), expected);
    assert_eq!(send(&gateway, &al, "acme"), "next", "counted apart");
}

#[test]
fn r23_far_beyond_the_limit_is_refused() {
    let gateway = Gateway::new().config(r#"{"login": {"messages_per_hour": 2, "reject_at": 2}}"#);
    let verdicts = sends(&gateway, &client().login("al"), "acme", 5);
    assert!(verdicts[2].starts_with("defer") && verdicts[3].starts_with("defer"), "{verdicts:?}");
    assert_eq!(verdicts[4], "reject 550 5.7.1 Your account is far beyond its 2 messages an hour");
    assert_eq!(gateway.metric("rejected"), 1);
}

#[test]
fn r23_a_warning_at_80_percent_once() {
    let gateway = Gateway::new().config(r#"{"login": {"messages_per_hour": 10}}"#);
    let al = client().login("al");
    let log = |_| gateway.mail_from::<SendingLimits>(&al, &mut Mail::from("a@example.com")).log;
    let logs: Vec<_> = (0..10).map(log).collect();
    let expected = ["warn: login:al has reached 80 % of its 10 messages an hour".to_owned()];
    assert!(
        logs.iter().enumerate().all(|(n, lines)| if n == 7 { *lines == expected } else { lines.is_empty() }),
        "{logs:?}"
    );
    assert_eq!(gateway.metric("warned"), 1);
}

#[test]
fn overrides_from_a_table() {
    let config = r#"{"overrides": "limits", "login": {"messages_per_hour": 2}, "address": {"messages_per_hour": 2},
        "tenant": {"messages_per_hour": 9}}"#;
    let gateway = Gateway::new().config(config).table(
        "limits",
        [
            ("login:al", "messages_per_hour=3"),
            ("login:free", "unlimited"),
            ("login:broken", "messages_per_hour=many"),
            ("192.0.2.0/24", "messages_per_hour=1 reject_at=2"),
            ("tenant:bigco", "messages_per_hour=1"),
        ],
    );
    let login = |name: &str| client().login(name);
    for (client, tenant, expected) in [
        (login("al"), "a", 3),
        (login("bo"), "b", 2),
        (login("free"), "c", 9),
        (login("broken"), "d", 2),
        (client().trusted(), "e", 1),
        (Client::at("198.51.100.1").trusted(), "f", 2),
        (login("free"), "bigco", 1),
    ] {
        assert_eq!(taken(&gateway, &client, tenant, 12), expected, "{tenant}");
    }
    let judged = gateway.mail_from::<SendingLimits>(&login("broken"), &mut Mail::from("a@example.com"));
    assert_eq!(judged.log[0], "error: table \"limits\": login:broken: `many` is no number");
    let gateway = Gateway::new().config(config).broken_table("limits");
    assert_eq!(taken(&gateway, &login("al"), "a", 5), 2, "the limits of the config hold");
}

#[test]
fn inbound_mail_and_exempt_networks_are_not_counted() {
    let config = r#"{"address": {"messages_per_hour": 1}, "exempt_networks": ["192.0.2.0/25"]}"#;
    let gateway = Gateway::new().config(config);
    assert_eq!(taken(&gateway, &Client::at("203.0.113.1"), "acme", 5), 5);
    assert_eq!(taken(&gateway, &client().trusted(), "acme", 5), 5);
    assert_eq!(taken(&gateway, &Client::at("192.0.2.200").trusted(), "acme", 5), 1);
    assert_eq!(taken(&Gateway::new(), &client().trusted(), "acme", 500), 500, "without a config there are no limits");
}

#[test]
fn w15_full_counters_hold_nobody_back() {
    let gateway = Gateway::new().config(r#"{"login": {"messages_per_hour": 1}}"#);
    gateway.fill_counters();
    let judged = gateway.mail_from::<SendingLimits>(&client().login("al"), &mut Mail::from("a@example.com"));
    assert_eq!(judged.verdict, Verdict::Next);
    assert!(judged.log[0].starts_with("warn: messages of login:al are not counted: "), "{:?}", judged.log);
    assert_eq!(gateway.metric("not_counted"), 1);
}

#[test]
fn configs() {
    let load = |config: &str| Gateway::new().config(config).table("t", []).load::<SendingLimits>();
    assert_eq!(load(r#"{"overrides": "t"}"#), Ok(()));
    for (config, expected) in [
        (r#"{"overrides": "u"}"#, "overrides: no table `u` is granted to this plugin"),
        (r#"{"warn_at": 101}"#, "warn_at: a part of the limit in percent, 100 at most"),
        (r#"{"login": {"reject_at": 1}}"#, "login.reject_at: more than 1, or nothing is ever deferred; 0 for never"),
    ] {
        assert_eq!(load(config), Err(expected.to_owned()), "{config}");
    }
    assert!(
        load(r#"{"login": {"messages_per_minute": 1}}"#)
            .unwrap_err()
            .starts_with("login.messages_per_minute: unknown field")
    );
}
