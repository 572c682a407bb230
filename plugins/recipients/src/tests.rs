use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

const REFUSED: &str = "reject 550 5.1.1 No such mailbox here";
const LATER: &str = "defer 450 4.1.1 It can't be found out now whether this mailbox exists, try again later";

fn rcpt(gateway: &Gateway, recipient: &str) -> String {
    of(gateway, &Client::at("192.0.2.1"), recipient)
}

fn of(gateway: &Gateway, client: &Client, recipient: &str) -> String {
    gateway.rcpt::<Recipients>(client, &mut Mail::from("a@example.org"), recipient).verdict.to_string()
}

/// Anna is there, nobody is not, and of everybody else the destination says nothing.
fn asked(config: &str) -> Gateway {
    Gateway::new()
        .config(config)
        .presence("anna@example.com", Presence::Exists)
        .presence("nobody@example.com", Presence::Unknown("550 5.1.1 who?".into()))
}

fn listed(config: &str) -> Gateway {
    asked(config).table("mailboxes", [("bob@example.com", ""), ("cy+news@example.com", ""), (".example.net", "")])
}

#[test]
fn x9_the_destination_is_asked() {
    let gateway = asked("{}");
    for (recipient, expected) in
        [("anna@example.com", "next"), ("nobody@example.com", REFUSED), ("down@example.com", LATER)]
    {
        assert_eq!(rcpt(&gateway, recipient), expected, "{recipient}");
    }
    let judged =
        gateway.rcpt::<Recipients>(&Client::at("192.0.2.1"), &mut Mail::from("a@example.org"), "nobody@example.com");
    assert_eq!(judged.log, ["info: nobody@example.com: 550 5.1.1 who?"]);
    assert_eq!(["known", "unknown", "unavailable"].map(|name| gateway.metric(name)), [1, 2, 1]);
}

#[test]
fn x9_a_destination_that_can_not_be_asked() {
    let gateway = asked(r#"{"on_unavailable": "accept"}"#);
    assert_eq!(rcpt(&gateway, "down@example.com"), "next");
    assert_eq!(rcpt(&gateway, "nobody@example.com"), REFUSED, "who is not there is not there");
}

#[test]
fn x9_a_list() {
    for (config, recipient, expected) in [
        (r#"{"table": "mailboxes"}"#, "bob@example.com", "next"),
        (r#"{"table": "mailboxes"}"#, "BOB@example.com", "next"),
        (r#"{"table": "mailboxes"}"#, "any@mail.example.net", "next"),
        (r#"{"table": "mailboxes"}"#, "anna@example.com", REFUSED),
        (r#"{"table": "mailboxes"}"#, "bob+x@example.com", REFUSED),
        // And who is not on it is asked for.
        (r#"{"table": "mailboxes", "call_ahead": true}"#, "bob@example.com", "next"),
        (r#"{"table": "mailboxes", "call_ahead": true}"#, "anna@example.com", "next"),
        (r#"{"table": "mailboxes", "call_ahead": true}"#, "nobody@example.com", REFUSED),
        (r#"{"table": "mailboxes", "call_ahead": true}"#, "down@example.com", LATER),
    ] {
        assert_eq!(rcpt(&listed(config), recipient), expected, "{config} {recipient}");
    }
}

#[test]
fn x9_a_list_that_can_not_be_read_refuses_nobody() {
    let gateway = Gateway::new().config(r#"{"table": "mailboxes"}"#).broken_table("mailboxes");
    let judged =
        gateway.rcpt::<Recipients>(&Client::at("192.0.2.1"), &mut Mail::from("a@example.org"), "bob@example.com");
    assert_eq!(judged.verdict.to_string(), "defer 451 4.3.0 Local error in processing, try again later");
    assert_eq!(judged.log, ["error: table \"mailboxes\": the table could not be read"]);
}

#[test]
fn x9_subaddresses_are_folded_where_config_says_so() {
    for (config, recipient, expected) in [
        (r#"{"separator": "+"}"#, "anna+news@example.com", "next"),
        (r#"{"separator": "+"}"#, "anna+a+b@example.com", "next"),
        (r#"{"separator": "+"}"#, "nobody+x@example.com", REFUSED),
        (r#"{"separator": "+"}"#, "+anna@example.com", LATER),
        (r#"{"separator": "--"}"#, "anna--news@example.com", "next"),
        ("{}", "anna+news@example.com", LATER),
        (r#"{"table": "mailboxes", "separator": "+"}"#, "bob+x@example.com", "next"),
        (r#"{"table": "mailboxes", "separator": "+"}"#, "cy+news@example.com", "next"),
        (r#"{"table": "mailboxes", "separator": "+"}"#, "cy+x@example.com", REFUSED),
    ] {
        assert_eq!(rcpt(&listed(config), recipient), expected, "{config} {recipient}");
    }
}

#[test]
fn x9_postmaster_is_always_there() {
    let gateway = listed(r#"{"table": "mailboxes"}"#);
    assert_eq!(rcpt(&gateway, "Postmaster@example.com"), "next");
    assert_eq!(rcpt(&gateway, "postmaster2@example.com"), REFUSED);
}

#[test]
fn x9_mail_on_its_way_out_is_not_judged() {
    let gateway = asked("{}");
    for client in [Client::at("192.0.2.1").trusted(), Client::at("192.0.2.1").login("al")] {
        assert_eq!(of(&gateway, &client, "nobody@example.com"), "next");
    }
}

#[test]
fn errors_of_the_config_name_the_key() {
    for (config, expected) in [
        (
            r#"{"call_ahead": false}"#,
            "call_ahead: without it, and without a table, nobody knows which mailboxes there are",
        ),
        (r#"{"separator": ""}"#, "separator: one character or more, and no @"),
        (r#"{"separator": "@"}"#, "separator: one character or more, and no @"),
        (r#"{"table": "none"}"#, "table: no table `none` is granted to this plugin"),
        (r#"{"on_unavailable": "reject"}"#, "on_unavailable: unknown variant `reject`, expected `defer` or `accept`"),
    ] {
        assert_eq!(Gateway::new().config(config).load::<Recipients>().unwrap_err(), expected);
    }
    assert_eq!(Gateway::new().load::<Recipients>(), Ok(()));
}
