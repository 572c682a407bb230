use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

const RULES: &str = r#"{"rules": [
    {"name": "bob", "recipient": ["bob@example.com"], "to": "host:bob.example.net:2525"},
    {"name": "partner", "recipient": ["example.com", ".example.com"], "to": "smart-host:partner"},
    {"name": "newsletter", "sender": ["news@example.org", "lists.example.org"], "to": "smart-host:bulk"},
    {"name": "back", "sender": [".example.org"], "to": "mx"},
    {"name": "rest", "recipient": [".net"], "to": "mx:relay.example.net"}
]}"#;

fn gateway() -> Gateway {
    let grants = ["route:mx", "route:host", "route:partner", "route:bulk"];
    grants.iter().fold(Gateway::new().config(RULES), |gateway, grant| gateway.grant(grant))
}

fn deliver(mail: Mail) -> Option<Route> {
    let mut mail = mail.content("Subject: x\n\nx\n");
    let judged = gateway().deliver::<Routing>(&Client::at("192.0.2.1"), &mut mail);
    assert_eq!(judged.verdict, Verdict::Next);
    mail.route
}

#[test]
fn r53_r54_the_first_rule_that_matches_decides() {
    let smart_host = |name: &str| Some(Route::SmartHost(name.into()));
    for (sender, recipients, expected) in [
        ("a@example.edu", &["bob@example.com"][..], Some(Route::Host("bob.example.net".into(), 2525))),
        ("news@example.org", &["bob@example.com"], Some(Route::Host("bob.example.net".into(), 2525))),
        ("a@example.edu", &["al@example.com"], smart_host("partner")),
        ("a@example.edu", &["al@mail.example.com", "bob@example.com"], smart_host("partner")),
        ("NEWS@example.org", &["al@example.edu"], smart_host("bulk")),
        ("x@lists.example.org", &["al@example.edu"], smart_host("bulk")),
        ("x@mail.example.org", &["al@example.edu"], Some(Route::Mx)),
        ("x@example.org", &["al@example.edu"], None),
        ("a@example.edu", &["al@example.net"], Some(Route::MxOf("relay.example.net".into()))),
        ("a@example.edu", &["al@example.edu"], None),
    ] {
        let mail = recipients.iter().fold(Mail::from(sender), |mail, recipient| mail.to(recipient));
        assert_eq!(deliver(mail), expected, "{sender} {recipients:?}");
    }
}

#[test]
fn a_bounce_has_no_sender_to_match() {
    assert_eq!(deliver(Mail::from_null_sender().to("al@example.edu")), None);
}

#[test]
fn a_rule_on_some_of_the_recipients_is_passed_over_and_logged() {
    let mut mail = Mail::from("a@example.edu").to("bob@example.com").to("al@example.edu").content("\n");
    let judged = gateway().deliver::<Routing>(&Client::at("192.0.2.1"), &mut mail);
    assert_eq!(mail.route, None);
    assert_eq!(judged.log[0], "warn: rule \"bob\" is passed over: it lists 1 of 2 recipients");
}

#[test]
fn a_route_that_is_not_granted_waits_for_the_administrator() {
    let mut mail = Mail::from("a@example.edu").to("al@example.com").content("\n");
    let judged = Gateway::new().config(RULES).deliver::<Routing>(&Client::at("192.0.2.1"), &mut mail);
    assert_eq!(judged.verdict.to_string(), "defer 451 4.3.5 Local error in configuration");
    assert_eq!(judged.log[1], "error: rule \"partner\": smart-host:partner: this edit needs the grant route:partner");
    assert_eq!(mail.route, None);
}

#[test]
fn errors_of_the_config_name_the_key() {
    for (config, expected) in [
        (r#"{"rules": [{"name": "a", "recipient": ["example.com"]}]}"#, "rules[0]: missing field `to`"),
        (
            r#"{"rules": [{"name": "a", "recipient": ["example.com"], "to": "nowhere"}]}"#,
            "rules[0].to: \"nowhere\": is none of mx, mx:DOMAIN, host:HOST:PORT, smart-host:NAME",
        ),
        (
            r#"{"rules": [{"name": "a", "recipient": ["a b"], "to": "mx"}]}"#,
            "rules[0].recipient[0]: \"a b\": not a domain name in ASCII letters",
        ),
        (r#"{"rules": [{"name": "a", "to": "mx"}]}"#, "rules[0] (\"a\"): has exactly one of recipient and sender"),
        (
            r#"{"rules": [{"name": "a", "to": "mx", "sender": ["a.example"], "recipient": ["b.example"]}]}"#,
            "rules[0] (\"a\"): has exactly one of recipient and sender",
        ),
        (
            r#"{"rules": [{"name": "", "to": "mx", "sender": ["a.example"]}]}"#,
            "rules[0] (\"\"): name: must not be empty",
        ),
    ] {
        assert_eq!(Gateway::new().config(config).load::<Routing>().unwrap_err(), expected);
    }
    assert_eq!(gateway().load::<Routing>(), Ok(()));
}
