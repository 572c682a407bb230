use postern_sdk::testing::{Client, Gateway, Judged, Mail};

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

/// Where each recipient goes; `-`: where the gateway sends it.
fn deliver(mail: Mail) -> Vec<String> {
    let (routes, judged) = deliver_by(&gateway(), mail);
    assert_eq!(judged.verdict, Verdict::Next);
    routes
}

fn deliver_by(gateway: &Gateway, mail: Mail) -> (Vec<String>, Judged) {
    let mut mail = mail.content("Subject: x\n\nx\n");
    let judged = gateway.deliver::<Routing>(&Client::at("192.0.2.1"), &mut mail);
    let route = |address: &Address| {
        let own = mail.recipient_routes.iter().find(|(of, _)| of == address).map(|(_, route)| route);
        match own.or(mail.route.as_ref()) {
            Some(Route::Mx) => "mx".to_owned(),
            Some(Route::MxOf(domain)) => format!("mx:{domain}"),
            Some(Route::Host(host, port)) => format!("{host}:{port}"),
            Some(Route::SmartHost(name)) => name.clone(),
            None => "-".to_owned(),
        }
    };
    (mail.recipients.iter().map(|recipient| route(&recipient.address)).collect(), judged)
}

fn to(sender: &str, recipients: &[&str]) -> Mail {
    recipients.iter().fold(Mail::from(sender), |mail, recipient| mail.to(recipient))
}

#[test]
fn r53_r54_for_each_recipient_the_first_rule_that_matches_decides() {
    let bob = "bob.example.net:2525";
    for (sender, recipients, expected) in [
        ("a@example.edu", &["bob@example.com"][..], &[bob][..]),
        ("news@example.org", &["bob@example.com"], &[bob]),
        ("a@example.edu", &["al@example.com"], &["partner"]),
        ("a@example.edu", &["al@mail.example.com", "bob@example.com"], &["partner", bob]),
        ("a@example.edu", &["al@example.edu", "bob@example.com"], &["-", bob]),
        ("a@example.edu", &["bob@example.com", "al@example.edu", "al@example.com"], &[bob, "-", "partner"]),
        ("news@example.org", &["al@example.edu", "bob@example.com", "cy@example.edu"], &["bulk", bob, "bulk"]),
        ("NEWS@example.org", &["al@example.edu"], &["bulk"]),
        ("x@lists.example.org", &["al@example.edu"], &["bulk"]),
        ("x@mail.example.org", &["al@example.edu", "al@example.net"], &["mx", "mx"]),
        ("x@example.org", &["al@example.edu"], &["-"]),
        ("a@example.edu", &["al@example.net"], &["mx:relay.example.net"]),
        ("a@example.edu", &["al@example.edu", "al@example.net"], &["-", "mx:relay.example.net"]),
        ("a@example.edu", &["al@example.edu"], &["-"]),
    ] {
        assert_eq!(deliver(to(sender, recipients)), expected, "{sender} {recipients:?}");
    }
}

#[test]
fn r53_r54_a_rule_on_both_matches_both() {
    const BOTH: &str = r#"{"rules": [
        {"name": "both", "sender": ["news@example.org"], "recipient": ["example.com", ".example.com"], "to": "mx"},
        {"name": "rest", "sender": [".org"], "to": "mx:rest.example.net"}
    ]}"#;
    for (sender, recipients, expected) in [
        (Some("news@example.org"), &["a@example.com"][..], &["mx"][..]),
        (Some("news@example.org"), &["a@mail.example.com", "a@example.edu"], &["mx", "mx:rest.example.net"]),
        (Some("other@example.org"), &["a@example.com"], &["mx:rest.example.net"]),
        (Some("other@example.edu"), &["a@example.com"], &["-"]),
        (None, &["a@example.com"], &["-"]),
    ] {
        let mail = sender.map_or_else(Mail::from_null_sender, Mail::from);
        let mail = recipients.iter().fold(mail, |mail, recipient| mail.to(recipient));
        let gateway = Gateway::new().config(BOTH).grant("route:mx");
        assert_eq!(deliver_by(&gateway, mail).0, expected, "{sender:?} {recipients:?}");
    }
}

fn with_tables() -> Gateway {
    gateway()
        .config(
            r#"{"tables": {"recipient": "to", "sender": "from"}, "rules": [
                {"name": "bob", "recipient": ["bob@example.com"], "to": "mx"}
            ]}"#,
        )
        .table(
            "to",
            [
                ("example.com", "smart-host:partner the partner"),
                (".example.com", "host:192.0.2.1"),
                ("cy@example.com", "mx"),
            ],
        )
        .table("from", [("news@example.org", "smart-host:bulk"), ("bad@example.org", "elsewhere")])
}

#[test]
fn r53_rules_may_stand_in_a_table() {
    for (sender, recipients, expected) in [
        ("a@example.edu", &["bob@example.com", "al@example.com"][..], &["mx", "partner"][..]),
        (
            "a@example.edu",
            &["al@example.com", "cy@example.com", "dan@x.example.com"],
            &["partner", "mx", "192.0.2.1:25"],
        ),
        ("a@example.edu", &["al@example.edu"], &["-"]),
        ("news@example.org", &["al@example.edu", "al@example.com"], &["bulk", "partner"]),
    ] {
        assert_eq!(deliver_by(&with_tables(), to(sender, recipients)).0, expected, "{sender} {recipients:?}");
    }
    let (_, judged) = deliver_by(&with_tables(), to("news@example.org", &["al@example.edu", "al@example.com"]));
    assert_eq!(
        judged.log,
        [
            "info: rule \"the partner\": smart-host:partner: 1 of 2 recipients, by recipient",
            "info: rule \"table from\": smart-host:bulk: 1 of 2 recipients, by sender"
        ]
    );
}

#[test]
fn a_table_that_is_of_no_use_holds_all_back() {
    let (_, judged) = deliver_by(&with_tables(), to("bad@example.org", &["al@example.edu"]));
    assert_eq!(judged.verdict.to_string(), "defer 451 4.3.5 Local error in configuration");
    assert_eq!(
        judged.log,
        [
            "error: table \"from\": row \"elsewhere\": \"elsewhere\": is none of mx, mx:DOMAIN, host:HOST:PORT, smart-host:NAME"
        ]
    );
    let (_, judged) = deliver_by(&with_tables().broken_table("to"), to("a@example.edu", &["al@example.com"]));
    assert_eq!(judged.verdict.to_string(), "defer 451 4.3.0 Local error in processing");
}

#[test]
fn a_bounce_has_no_sender_to_match() {
    assert_eq!(deliver(Mail::from_null_sender().to("al@example.edu").to("al@example.com")), ["-", "partner"]);
}

#[test]
fn a_mail_whose_recipients_agree_stays_whole() {
    const SAME: &str = r#"{"rules": [
        {"name": "bob", "recipient": ["bob@example.com"], "to": "mx"},
        {"name": "all", "recipient": ["example.com"], "to": "mx"}
    ]}"#;
    let gateway = Gateway::new().config(SAME).grant("route:mx");
    let mut mail = to("a@example.edu", &["al@example.com", "bob@example.com"]).content("\n");
    let judged = gateway.deliver::<Routing>(&Client::at("192.0.2.1"), &mut mail);
    assert_eq!((mail.route, mail.recipient_routes), (Some(Route::Mx), vec![]));
    assert_eq!(
        judged.log,
        [
            "info: rule \"bob\": mx: 1 of 2 recipients, by recipient",
            "info: rule \"all\": mx: 1 of 2 recipients, by recipient"
        ]
    );
    assert_eq!(gateway.metric("routed"), 2);
}

#[test]
fn a_mail_of_a_thousand_recipients_fits() {
    let many: Vec<String> = (0..999).map(|n| format!("u{n}@example.com")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain(["al@example.edu"]).collect();
    let routes = deliver(to("a@example.edu", &many));
    assert_eq!(routes.iter().filter(|route| *route == "partner").count(), 999);
    assert_eq!(routes.last().map(String::as_str), Some("-"));
}

#[test]
fn one_route_that_is_not_granted_holds_all_back() {
    let mut mail = to("a@example.edu", &["bob@example.com", "al@example.com"]).content("\n");
    let judged =
        Gateway::new().config(RULES).grant("route:host").deliver::<Routing>(&Client::at("192.0.2.1"), &mut mail);
    assert_eq!(judged.verdict.to_string(), "defer 451 4.3.5 Local error in configuration");
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
        (r#"{"rules": [{"name": "a", "to": "mx"}]}"#, "rules[0] (\"a\"): has neither recipient nor sender"),
        (r#"{"tables": {"sender": "none"}}"#, "tables.sender: no table `none` is granted to this plugin"),
        (
            r#"{"rules": [{"name": "", "to": "mx", "sender": ["a.example"]}]}"#,
            "rules[0] (\"\"): name: must not be empty",
        ),
    ] {
        assert_eq!(Gateway::new().config(config).load::<Routing>().unwrap_err(), expected);
    }
    assert_eq!(gateway().load::<Routing>(), Ok(()));
}
