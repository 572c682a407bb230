use std::time::Duration;

use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

fn connect(gateway: &Gateway, client: &Client) -> String {
    gateway.connect::<ConnectionPolicy>(client).verdict.to_string()
}

fn mail_from(gateway: &Gateway, client: &Client) -> String {
    gateway.mail_from::<ConnectionPolicy>(client, &mut Mail::from("a@example.org")).verdict.to_string()
}

fn client() -> Client {
    Client::at("192.0.2.1").ehlo("mail.example.org")
}

#[test]
fn r65_the_address_has_a_name_that_leads_back() {
    let gateway = Gateway::new().config(r#"{"require_client_name": true}"#);
    let name = "mail.example.org".to_owned();
    for (named, expected) in [
        (ClientName::Verified(name.clone()), "next"),
        (
            ClientName::Unconfirmed(name),
            "reject 550 5.7.25 The name of your address, mail.example.org, does not resolve back to it",
        ),
        (ClientName::None, "reject 550 5.7.25 Your address has no name in DNS"),
        (ClientName::TemporaryFailure, "defer 451 4.7.25 The name of your address can't be looked up now"),
    ] {
        assert_eq!(mail_from(&gateway, &client().name(named)), expected);
    }
    assert_eq!(mail_from(&gateway, &client().trusted()), "next");
    assert_eq!(mail_from(&gateway, &client().login("al")), "next");
    assert_eq!(mail_from(&Gateway::new(), &client()), "next", "off by default");
}

#[test]
fn r66_connections_at_once() {
    let expected = "disconnect 421 4.7.0 Too many connections from your address";
    for (config, count, verdict) in [
        ("{}", 50, "next"),
        ("{}", 51, expected),
        (r#"{"max_connections": 2}"#, 2, "next"),
        (r#"{"max_connections": 2}"#, 3, expected),
        (r#"{"max_connections": 0}"#, 9999, "next"),
    ] {
        assert_eq!(connect(&Gateway::new().config(config), &client().connections(count)), verdict, "{config} {count}");
    }
}

#[test]
fn r67_messages_a_minute() {
    let gateway = Gateway::new().config(r#"{"messages_per_minute": 2, "inbound_messages_per_minute": 3}"#);
    let expected = "defer 450 4.7.1 Too many messages from your address, try again in a minute";
    let send = |client: &Client, times: usize| (0..times).map(|_| mail_from(&gateway, client)).collect::<Vec<_>>();
    gateway.advance(Duration::from_secs(50));
    assert_eq!(send(&client().login("al"), 4), ["next", "next", expected, expected]);
    assert_eq!(send(&client(), 4), ["next", "next", "next", expected], "counted apart");
    assert_eq!(send(&Client::at("192.0.2.2").ehlo("mail.example.org").trusted(), 1), ["next"], "another client");
    gateway.advance(Duration::from_secs(9));
    assert_eq!(send(&client().login("al"), 1), [expected]);
    gateway.advance(Duration::from_secs(1));
    assert_eq!(send(&client().login("al"), 1), ["next"], "the minute has ended");
}

#[test]
fn r67_defaults() {
    let gateway = Gateway::new();
    let outbound = (0..601).map(|_| mail_from(&gateway, &client().trusted())).collect::<Vec<_>>();
    assert_eq!(outbound.iter().filter(|verdict| *verdict == "next").count(), 600);
    assert!((0..601).all(|_| mail_from(&gateway, &client()) == "next"), "inbound is not limited by default");
}

#[test]
fn r68_new_connections_a_minute() {
    let gateway = Gateway::new();
    let expected = "disconnect 421 4.7.0 Too many new connections from your address, try again in a minute";
    let network = ["2001:db8::1", "2001:db8::2"].map(Client::at);
    for n in 0..120 {
        assert_eq!(connect(&gateway, &network[n % 2]), "next");
    }
    assert_eq!(connect(&gateway, &network[0]), expected, "an IPv6 client is its /64");
    assert_eq!(connect(&gateway, &Client::at("2001:db8:0:1::1")), "next");
    gateway.advance(Duration::from_secs(60));
    assert_eq!(connect(&gateway, &network[0]), "next");
}

#[test]
fn r72_who_writes_to_many_unknown_recipients_is_kept_out() {
    let blocked = "disconnect 421 4.7.0 Too many unknown recipients from your address today, try again tomorrow";
    let rcpt = |gateway: &Gateway, client: &Client| {
        let mut mail = Mail::from("a@example.org");
        gateway.rcpt::<ConnectionPolicy>(client, &mut mail, "b@example.com").verdict.to_string()
    };
    for (config, count, expected) in [
        ("{}", 50, "next"),
        ("{}", 51, blocked),
        (r#"{"max_unknown_recipients": 1}"#, 1, "next"),
        (r#"{"max_unknown_recipients": 1}"#, 2, blocked),
        (r#"{"max_unknown_recipients": 0}"#, 9999, "next"),
        (r#"{"exempt_networks": ["192.0.2.0/24"]}"#, 9999, "next"),
    ] {
        let gateway = Gateway::new().config(config);
        let client = client().unknown_recipients(count);
        assert_eq!(connect(&gateway, &client), expected, "{config} {count}");
        assert_eq!(rcpt(&gateway, &client), expected, "{config} {count}: a session under way");
        assert_eq!(gateway.metric("unknown_recipients"), if expected == "next" { 0 } else { 2 });
    }
    let gateway = Gateway::new();
    let guesser = || client().unknown_recipients(51);
    assert_eq!(connect(&gateway, &guesser().trusted()), "next");
    assert_eq!(rcpt(&gateway, &guesser().trusted()), "next");
    assert_eq!(rcpt(&gateway, &guesser().login("al")), "next");
    assert_eq!(connect(&gateway, &guesser().listener("submission", Role::Submission)), "next", "who it is shows later");
}

#[test]
fn refusals_are_counted_by_cause() {
    let gateway = Gateway::new().config(
        r#"{"max_connections": 1, "connections_per_minute": 1, "inbound_messages_per_minute": 2,
            "require_client_name": true}"#,
    );
    connect(&gateway, &client().connections(2));
    connect(&gateway, &client());
    connect(&gateway, &client());
    mail_from(&gateway, &client());
    mail_from(&gateway, &client().name(ClientName::Verified("mail.example.org".into())).ehlo("x"));
    mail_from(&gateway, &client());
    let names = ["connections_at_once", "new_connections", "messages", "client_names", "helo_names"];
    assert_eq!(names.map(|name| gateway.metric(name)), [1, 1, 1, 1, 1]);
}

#[test]
fn what_cannot_be_counted_passes_and_is_logged() {
    let gateway = Gateway::new();
    gateway.fill_counters();
    let judged = gateway.connect::<ConnectionPolicy>(&client());
    assert_eq!(judged.verdict, Verdict::Next);
    assert_eq!(judged.log, ["warn: connections of 192.0.2.1 are not counted: more counters than this scope may have"]);
}

#[test]
fn r70_the_helo_name_is_fully_qualified() {
    let expected = "reject 550 5.7.0 HELO needs a fully qualified domain name or an address literal";
    let gateway = Gateway::new();
    for (name, verdict) in
        [("Mail.Example.Org", "next"), ("[192.0.2.1]", "next"), ("mail", expected), ("192.0.2.1", expected)]
    {
        assert_eq!(mail_from(&gateway, &client().ehlo(name)), verdict, "{name}");
    }
    assert_eq!(mail_from(&gateway, &client().ehlo("laptop").login("al")), "next");
    assert_eq!(mail_from(&gateway, &client().ehlo("printer").trusted()), "next");
    assert_eq!(mail_from(&Gateway::new().config(r#"{"require_fqdn_helo": false}"#), &client().ehlo("mail")), "next");
}

#[test]
fn r71_the_helo_name_is_in_dns() {
    let zone = |config: &str| {
        Gateway::new()
            .config(config)
            .dns_address("four.example.org", "192.0.2.1")
            .dns_address("six.example.org", "2001:db8::1")
            .dns_mx("mx.example.org", 10, "four.example.org")
            .dns_txt("txt.example.org", "x")
            .dns_fails("down.example.org")
            .dns_times_out("slow.example.org")
    };
    let absent = "reject 550 5.7.0 Your HELO name is not in DNS";
    for (name, verdict) in [
        ("FOUR.example.org", "next"),
        ("six.example.org", "next"),
        ("mx.example.org", "next"),
        ("[192.0.2.1]", "next"),
        ("txt.example.org", absent),
        ("no.example.org", absent),
        ("down.example.org", "defer 451 4.7.0 Your HELO name can't be looked up now"),
        ("slow.example.org", "defer 451 4.7.0 Your HELO name can't be looked up now"),
    ] {
        let gateway = zone(r#"{"require_helo_in_dns": true}"#);
        assert_eq!(mail_from(&gateway, &client().ehlo(name)), verdict, "{name}");
        assert_eq!(mail_from(&gateway, &client().ehlo(name).trusted()), "next", "{name}");
        assert_eq!(mail_from(&zone("{}"), &client().ehlo(name)), "next", "off by default: {name}");
    }
    let only_dns =
        zone(r#"{"require_helo_in_dns": true, "require_fqdn_helo": false}"#).dns_address("mail", "192.0.2.1");
    assert_eq!(mail_from(&only_dns, &client().ehlo("mail")), "next");
    assert_eq!(mail_from(&only_dns, &client().ehlo("other")), absent);
    assert_eq!(mail_from(&only_dns, &client().ehlo("a b")), absent);
}

#[test]
fn exempt_networks_are_spared_everything() {
    let strict = r#""require_client_name": true, "require_helo_in_dns": true, "connections_per_minute": 1,
        "messages_per_minute": 1, "inbound_messages_per_minute": 1, "max_connections": 1"#;
    let default = Gateway::new().config(format!("{{{strict}}}"));
    for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        let client = Client::at(address).ehlo("x").connections(9);
        for _ in 0..3 {
            assert_eq!(connect(&default, &client), "next");
            assert_eq!(mail_from(&default, &client), "next");
        }
    }
    let own = Gateway::new().config(format!(r#"{{{strict}, "exempt_networks": ["10.0.0.0/8"]}}"#));
    assert_eq!(connect(&own, &Client::at("10.1.1.1").connections(9)), "next");
    assert_ne!(connect(&own, &Client::at("127.0.0.1").connections(9)), "next");
}

#[test]
fn errors_of_the_config_name_the_key() {
    for (config, expected) in [
        (r#"{"max_connections": "many"}"#, "max_connections: invalid type: string \"many\", expected u32"),
        (r#"{"messages_per_minute": -1}"#, "messages_per_minute: invalid value: integer `-1`, expected u64"),
        (r#"{"exempt_networks": ["::1", "home"]}"#, "exempt_networks[1]: \"home\": not an IP address"),
    ] {
        assert_eq!(Gateway::new().config(config).load::<ConnectionPolicy>().unwrap_err(), expected);
    }
    assert!(
        Gateway::new()
            .config(r#"{"max": 1}"#)
            .load::<ConnectionPolicy>()
            .unwrap_err()
            .starts_with("max: unknown field")
    );
    assert_eq!(Gateway::new().load::<ConnectionPolicy>(), Ok(()));
}
