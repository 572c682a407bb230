use postern_sdk::testing::{Client, Gateway, Judged, Mail};

use super::*;

const REFUSED: &str = "reject 550 5.7.1 Automatic forwarding is not allowed here";

fn server() -> Client {
    Client::at("192.0.2.1").ehlo("exchange.company.example").trusted()
}

fn data(config: &str, header: &str) -> Judged {
    let mut mail = Mail::from("ann@company.example").to("bob@example.com").content(format!("{header}\n\nx\n"));
    Gateway::new().config(config).data::<Forwarding>(&server(), &mut mail)
}

const OUT_OF_OFFICE: &str = "X-MS-Exchange-Inbox-Rules-Loop: ann@company.example\nX-Auto-Response-Suppress: All\n\
    auto-submitted: auto-generated\nX-MS-Exchange-Generated-Message-Source: Mailbox Rules Agent";

#[test]
fn r43_what_servers_write_into_mail_that_they_forward() {
    for (header, sign) in [
        ("Auto-Submitted: auto-forwarded", Some("declared")),
        ("Auto-Submitted: Auto-Forwarded; by=x", Some("declared")),
        ("Autoforwarded: TRUE", Some("declared")),
        ("Autoforwarded: false", None),
        ("X-Autoforward: 1", Some("declared")),
        ("X-MS-Exchange-Organization-AutoForwarded: true", Some("declared")),
        ("X-MS-Exchange-Inbox-Rules-Loop: ann@company.example", Some("exchange")),
        ("X-MS-Exchange-ForwardingLoop: ann@company.example;0a1b", Some("exchange")),
        (
            "Auto-Submitted: auto-generated\nX-MS-Exchange-Generated-Message-Source: Mailbox Rules Agent",
            Some("exchange"),
        ),
        ("X-MS-Exchange-Generated-Message-Source: Journal Agent", None),
        (
            "X-Forwarded-To: bob@example.com\nX-Forwarded-For: ann@company.example bob@example.com",
            Some("forwarded-for"),
        ),
        ("X-Forwarded-For: 203.0.113.5", None),
        ("X-Sieve-Redirected-From: ann@company.example", Some("sieve")),
        ("X-Sieve: Pigeonhole Sieve", None),
        ("From: c@example.org\nResent-From: Ann <ann@company.example>", Some("resent")),
        ("From: c@company.example\nResent-From: ann@company.example", None),
        ("Subject: Fwd: something\nFrom: ann@company.example\nX-Forwarded-Message-Id: <1@x>", None),
        ("Delivered-To: ann@company.example", None),
        ("", None),
    ] {
        let judged = data("{}", header);
        let expected = if sign.is_some() { REFUSED } else { "next" };
        assert_eq!(judged.verdict.to_string(), expected, "{header}");
        let logged =
            judged.log.first().and_then(|line| line.rsplit_once('(')).map(|(_, sign)| sign.trim_end_matches(')'));
        assert_eq!(logged, sign, "{header}");
    }
}

#[test]
fn r43_bounces_and_automatic_replies_are_no_forwards() {
    for header in [
        OUT_OF_OFFICE,
        "Auto-Submitted: auto-replied\nX-MS-Exchange-Inbox-Rules-Loop: ann@company.example",
        "Auto-Submitted: auto-replied (vacation)",
        "Auto-Submitted: auto-generated",
    ] {
        assert_eq!(data("{}", header).verdict, Verdict::Next, "{header}");
    }
    let mut bounce = Mail::from_null_sender().to("bob@example.com").content("Autoforwarded: true\n\nx\n");
    assert_eq!(Gateway::new().data::<Forwarding>(&server(), &mut bounce).verdict, Verdict::Next);
    // A reply that somebody's mailbox has forwarded is a forward.
    assert_eq!(data("{}", &format!("{OUT_OF_OFFICE}\nX-Forwarded-For: a@b.example")).verdict.to_string(), REFUSED);
}

#[test]
fn r43_only_what_goes_out() {
    let stranger = Client::at("192.0.2.1").ehlo("mail.example.org");
    let mail = || Mail::from("ann@company.example").to("bob@example.com").content("Autoforwarded: true\n\nx\n");
    let gateway = Gateway::new();
    assert_eq!(gateway.data::<Forwarding>(&stranger, &mut mail()).verdict, Verdict::Next);
    let login = stranger.login("ann@company.example");
    assert_eq!(gateway.data::<Forwarding>(&login, &mut mail()).verdict.to_string(), REFUSED);
}

#[test]
fn r43_domains_of_ones_own_tell_what_no_server_has_marked() {
    const OWN: &str = r#"{"own_domains": ["company.example", ".company.example"]}"#;
    let way = |hops: usize| "Received: by x\n".repeat(hops);
    for (header, expected) in [
        (format!("{}From: c@example.org", way(3)), REFUSED),
        (format!("{}From: c@example.org", way(2)), "next"),
        (format!("{}From: c@company.example", way(9)), "next"),
        (format!("{}From: C <c@mail.company.example>", way(9)), "next"),
        (format!("{}From: c@example.org, ann@company.example\nFrom: ann@company.example", way(9)), "next"),
        ("Delivered-To: ann@company.example\nFrom: ann@company.example".into(), REFUSED),
        ("Delivered-To: c@example.org".into(), "next"),
    ] {
        assert_eq!(data(OWN, &header).verdict.to_string(), expected, "{header}");
        assert_eq!(data("{}", &header).verdict, Verdict::Next, "nobody's: {header}");
    }
}

#[test]
fn r43_who_may_forward_and_where_to() {
    let by_gmail = "X-Forwarded-For: ann@company.example c@example.net";
    for (allow, header, expected) in [
        (r#""sender": ["ANN@company.example"]"#, by_gmail, "next"),
        (r#""sender": ["example.net"]"#, by_gmail, REFUSED),
        (r#""forwarder": ["ann@company.example"]"#, by_gmail, "next"),
        (r#""forwarder": ["eve@company.example"]"#, by_gmail, REFUSED),
        (r#""forwarder": ["company.example"]"#, "X-MS-Exchange-ForwardingLoop: ann@company.example;1", "next"),
        (r#""forwarder": ["company.example"]"#, "Autoforwarded: true", REFUSED),
        (r#""recipient": ["example.com"]"#, by_gmail, "next"),
        (r#""recipient": ["example.net"]"#, by_gmail, REFUSED),
    ] {
        let config = format!(r#"{{"allow": {{{allow}}}}}"#);
        assert_eq!(data(&config, header).verdict.to_string(), expected, "{allow} {header}");
    }
    let gateway =
        Gateway::new().config(r#"{"allow": {"forwarder": ["ann@company.example"], "recipient": ["example.com"]}}"#);
    let mail =
        || Mail::from("c@example.org").to("bob@example.com").to("d@example.net").content("Autoforwarded: true\n\nx\n");
    assert_eq!(gateway.data::<Forwarding>(&server(), &mut mail()).verdict.to_string(), REFUSED, "one recipient of two");
    let login = Client::at("192.0.2.1").login("ann@company.example");
    assert_eq!(gateway.data::<Forwarding>(&login, &mut mail()).verdict, Verdict::Next);
}

#[test]
fn r43_what_is_done() {
    let header = "Autoforwarded: true";
    assert_eq!(
        data(r#"{"action": "quarantine"}"#, header).verdict.to_string(),
        "quarantine forwarded automatically (declared)"
    );
    let gateway = Gateway::new().config(r#"{"action": "tag", "tag": "forward"}"#);
    let mut mail = Mail::from("ann@company.example").to("bob@example.com").content("Autoforwarded: true\n\nx\n");
    assert_eq!(gateway.data::<Forwarding>(&server(), &mut mail).verdict, Verdict::Next);
    assert_eq!((mail.tags, gateway.metric("declared")), (vec!["forward".to_owned()], 1));
    assert_eq!(data(r#"{"signs": ["exchange", "sieve"]}"#, header).verdict, Verdict::Next);
}

#[test]
fn hostile_headers_are_read_in_bounds() {
    let many = "X-Forwarded-For: nobody\n".repeat(900);
    assert_eq!(data("{}", many.trim_end()).verdict, Verdict::Next);
    let long = format!("X-Forwarded-For: {}a@b.example", "<".repeat(200_000));
    assert_eq!(data("{}", &long).verdict, Verdict::Next);
    let odd = "From: \u{e9}@\u{fc}.example\nResent-From: <<<@@>>>\nAuto-Submitted: ;;;";
    assert_eq!(data(r#"{"own_domains": ["company.example"]}"#, odd).verdict, Verdict::Next);
}

#[test]
fn errors_of_the_config_name_the_key() {
    for (config, expected) in [
        (r#"{"action": "drop"}"#, "action: unknown variant `drop`, expected one of `reject`, `quarantine`, `tag`"),
        (r#"{"signs": []}"#, "signs: must not be empty"),
        (r#"{"tag": "A"}"#, "tag: 1 to 64 characters of a-z, 0-9, -, _, . and :"),
        (r#"{"own_domains": ["a b"]}"#, "own_domains[0]: \"a b\": not a domain name in ASCII letters"),
        (
            r#"{"signs": ["gmail"]}"#,
            "signs[0]: unknown variant `gmail`, expected one of `declared`, `exchange`, `forwarded-for`, `sieve`, `resent`, \
             `delivered`, `author`",
        ),
    ] {
        assert_eq!(Gateway::new().config(config).load::<Forwarding>().unwrap_err(), expected);
    }
    assert_eq!(Gateway::new().load::<Forwarding>(), Ok(()));
}
