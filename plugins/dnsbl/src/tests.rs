use postern_sdk::dns::{Answer, RecordType};
use postern_sdk::testing::{Client, Gateway, Judged, Mail};

use super::*;

const LISTS: &str = r#"
    {"name": "zen", "zone": "zen.test", "weight": 3, "codes": ["127.0.0.[2-4]", "127.0.0.10"]},
    {"name": "old-one", "zone": "old.test", "ipv6": false},
    {"name": "weighted", "zone": "weighted.test", "codes": {"127.0.0.2": 2, "127.0.0.[3-9]": 1}},
    {"name": "white", "zone": "white.test", "weight": -3},
    {"name": "names", "zone": "names.test", "by": ["helo", "client-name", "sender"], "weight": 2}
"#;

fn gateway(more: &str) -> Gateway {
    Gateway::new().config(format!(r#"{{"lists": [{LISTS}]{more}}}"#))
}

fn client() -> Client {
    Client::at("192.0.2.99").ehlo("mail.example.org")
}

fn mail_from(gateway: &Gateway, client: &Client) -> Judged {
    gateway.mail_from::<Dnsbl>(client, &mut Mail::from("ann@sender.example"))
}

const BY_ZEN: &str = "99.2.0.192.zen.test";

#[test]
fn dnsbl_who_is_listed_is_refused_with_the_lists_own_words() {
    let listed = || gateway("").dns_address(BY_ZEN, "127.0.0.4");
    let judged = mail_from(&listed(), &client());
    assert_eq!(judged.verdict.to_string(), "reject 554 5.7.1 192.0.2.99 is listed by zen");
    assert_eq!(judged.log, ["info: 192.0.2.99 is listed by zen: 127.0.0.4, weight 3"]);
    let text = format!("see\r\n250 ok \u{e9} {}", "x".repeat(1000));
    let reply = mail_from(&listed().dns_txt(BY_ZEN, &text), &client()).verdict.to_string();
    assert!(reply.starts_with("reject 554 5.7.1 192.0.2.99 is listed by zen: see??250 ok ?? xxx"), "{reply}");
    assert!(reply.is_ascii() && reply.len() < 320, "{}", reply.len());
    assert_eq!(mail_from(&gateway(""), &client()).verdict, Verdict::Next);
}

#[test]
fn dnsbl_ipv6_by_nibbles() {
    let name = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2";
    let gateway = gateway("").dns_address(&format!("{name}.zen.test"), "127.0.0.2");
    let judged = mail_from(&gateway, &Client::at("2001:db8::1"));
    assert_eq!(judged.verdict.to_string(), "reject 554 5.7.1 2001:db8::1 is listed by zen");
    assert_eq!(gateway.metric("old_one_not_listed"), 0, "a list that has no IPv6 is not asked for it");
}

#[test]
fn dnsbl_names() {
    for (client, listed, shown) in [
        (client(), "mail.example.org", Some("mail.example.org")),
        (client(), "sender.example", Some("sender.example")),
        (client().name(ClientName::Verified("ptr.example".into())), "ptr.example", Some("ptr.example")),
        // Who owns the address can write any name there.
        (client().name(ClientName::Unconfirmed("ptr.example".into())), "ptr.example", None),
        (client().ehlo("[192.0.2.99]"), "[192.0.2.99]", None),
        (client().ehlo("192.0.2.99"), "192.0.2.99", None),
        (client(), "example.org", None),
    ] {
        let gateway = gateway("").dns_address(&format!("{listed}.names.test"), "127.0.1.2");
        let expected = shown.map_or("next".into(), |shown| format!("reject 554 5.7.1 {shown} is listed by names"));
        assert_eq!(mail_from(&gateway, &client).verdict.to_string(), expected, "{listed}");
    }
}

#[test]
fn dnsbl_weights_add_up_to_what_is_done() {
    const THRESHOLDS: &str = r#", "thresholds": {"reject": 5, "defer": 4, "quarantine": 2, "tag": 1}"#;
    for (answers, verdict, tag) in [
        (&[][..], "next", false),
        (&[("old", "127.0.0.2")], "next", true),
        (&[("weighted", "127.0.0.3")], "next", true),
        (&[("weighted", "127.0.0.2")], "quarantine 192.0.2.99 is listed by weighted, score 2", false),
        (&[("zen", "127.0.0.10")], "quarantine 192.0.2.99 is listed by zen, score 3", false),
        (
            &[("zen", "127.0.0.2"), ("old", "127.0.0.2")],
            "defer 451 4.7.1 192.0.2.99 is listed by zen, old-one, try again later",
            false,
        ),
        (
            &[("weighted", "127.0.0.2"), ("zen", "127.0.0.2"), ("old", "127.0.0.2")],
            "reject 554 5.7.1 192.0.2.99 is listed by zen, weighted, old-one",
            false,
        ),
        (
            &[("zen", "127.0.0.2"), ("weighted", "127.0.0.2"), ("white", "127.0.0.2")],
            "quarantine 192.0.2.99 is listed by zen, weighted, score 2",
            false,
        ),
        (&[("zen", "127.0.0.2"), ("white", "127.0.0.2")], "next", false),
        // A code that is not meant.
        (&[("zen", "127.0.0.5"), ("weighted", "127.0.0.1")], "next", false),
    ] {
        let gateway = answers.iter().fold(gateway(THRESHOLDS), |gateway, (zone, code)| {
            gateway.dns_address(&format!("99.2.0.192.{zone}.test"), code)
        });
        let mut mail = Mail::from("ann@sender.example");
        let judged = gateway.mail_from::<Dnsbl>(&client(), &mut mail);
        assert_eq!(judged.verdict.to_string(), verdict, "{answers:?}");
        assert_eq!(mail.tags.contains(&"dnsbl".to_owned()), tag, "{answers:?}");
    }
}

#[test]
fn dnsbl_a_list_counts_once() {
    let gateway = gateway(r#", "thresholds": {"reject": 3}"#)
        .dns_address("mail.example.org.names.test", "127.0.0.2")
        .dns_address("sender.example.names.test", "127.0.0.2");
    assert_eq!(mail_from(&gateway, &client()).verdict, Verdict::Next);
    assert_eq!(gateway.metric("names_listed"), 2, "look-ups are counted, not lists");
}

#[test]
fn r33_listed_not_listed_errors_and_time_outs_are_counted_apart() {
    let gateway = gateway("")
        .dns_address(BY_ZEN, "127.255.255.254")
        .dns_times_out("99.2.0.192.old.test")
        .dns_fails("99.2.0.192.weighted.test")
        .dns_address("99.2.0.192.white.test", "127.0.0.2");
    let judged = mail_from(&gateway, &client());
    assert_eq!(judged.verdict, Verdict::Next, "no list's trouble stops mail");
    for (name, expected) in [
        ("zen_error", 1),
        ("zen_listed", 0),
        ("old_one_timeout", 1),
        ("old_one_error", 0),
        ("weighted_error", 1),
        ("white_listed", 1),
        ("names_not_listed", 2),
        ("error", 2),
        ("timeout", 1),
        ("listed", 1),
        ("not_listed", 2),
    ] {
        assert_eq!(gateway.metric(name), expected, "{name}");
    }
}

#[test]
fn dnsbl_more_lists_than_metrics_and_than_one_call_asks() {
    let lists: Vec<_> = (0..70).map(|n| format!(r#"{{"name": "l{n}", "zone": "l{n}.test"}}"#)).collect();
    let gateway = Gateway::new().config(format!(r#"{{"lists": [{}]}}"#, lists.join(",")));
    let gateway = gateway.dns_address("99.2.0.192.l69.test", "127.0.0.2");
    let verdict = mail_from(&gateway, &client()).verdict;
    assert_eq!(verdict.to_string(), "reject 554 5.7.1 192.0.2.99 is listed by l69");
    assert_eq!((gateway.metric("not_listed"), gateway.metric("l5_not_listed")), (69, 1));
    assert_eq!((gateway.metric("l6_not_listed"), gateway.metric("other")), (0, 0), "32 names are all there are");
}

#[test]
fn dnsbl_never_for_those_who_may_relay_nor_for_private_addresses() {
    let listed = |address: &str| {
        let name = format!("{}.zen.test", subject::reversed(address.parse().unwrap()));
        gateway("").dns_address(&name, "127.0.0.2").dns_address("sender.example.names.test", "127.0.0.2")
    };
    for (gateway, client) in [
        (listed("192.0.2.99"), client().trusted()),
        (listed("192.0.2.99"), client().login("ann")),
        (listed("10.0.0.1"), Client::at("10.0.0.1")),
        (listed("127.0.0.1"), Client::at("127.0.0.1")),
        (listed("fd00::1"), Client::at("fd00::1")),
    ] {
        let mut mail = Mail::from("ann@sender.example").content("From: a@sender.example\n\nx\n");
        assert_eq!(gateway.mail_from::<Dnsbl>(&client, &mut mail).verdict, Verdict::Next);
        assert_eq!(gateway.data::<Dnsbl>(&client, &mut mail).verdict, Verdict::Next);
        assert_eq!(gateway.metric("listed") + gateway.metric("not_listed"), 0);
    }
}

#[test]
fn r11_mail_of_a_trusted_relay_is_judged_by_who_gave_it_to_the_relay() {
    let origin = Origin { address: "203.0.113.5".parse().unwrap(), helo: Some("helo.example".into()), relayed: true };
    let base = || gateway("").origin(origin.clone()).dns_address(BY_ZEN, "127.0.0.2");
    let relay = client().name(ClientName::Verified("relay.example".into()));
    for (gateway, expected) in [
        (base(), "next"),
        (base().dns_address("relay.example.names.test", "127.0.0.2"), "next"),
        (base().dns_address("5.113.0.203.zen.test", "127.0.0.2"), "reject 554 5.7.1 203.0.113.5 is listed by zen"),
        (
            base().dns_address("helo.example.names.test", "127.0.0.2"),
            "reject 554 5.7.1 helo.example is listed by names",
        ),
    ] {
        let mut mail = Mail::from("ann@sender.example").content("From: a@x.example\n\nx\n");
        let early = gateway.mail_from::<Dnsbl>(&relay, &mut mail);
        assert_eq!((early.verdict, gateway.metric("not_listed")), (Verdict::Next, 0), "it is not known yet");
        assert_eq!(gateway.data::<Dnsbl>(&relay, &mut mail).verdict.to_string(), expected);
    }
}

#[test]
fn dnsbl_authors_are_looked_up_when_they_are_known() {
    let config = |threshold: u32| {
        format!(
            r#"{{"lists": [{{"name": "ip", "zone": "ip.test"}},
            {{"name": "uri", "zone": "uri.test", "by": ["from", "sender"]}}], "thresholds": {{"reject": {threshold}}}}}"#
        )
    };
    let judge = |gateway: Gateway| {
        let mut mail = Mail::from("ann@sender.example").content("From: A <a@author.example>\n\nx\n");
        let early = gateway.mail_from::<Dnsbl>(&client(), &mut mail).verdict.to_string();
        (early, gateway.data::<Dnsbl>(&client(), &mut mail).verdict.to_string())
    };
    let gateway = |threshold| Gateway::new().config(config(threshold));
    let by_author = |gateway: Gateway| gateway.dns_address("author.example.uri.test", "127.0.0.2");
    let refused = "reject 554 5.7.1 author.example is listed by uri";
    assert_eq!(judge(by_author(gateway(1))), ("next".into(), refused.into()));
    assert_eq!(judge(gateway(1)), ("next".into(), "next".into()));
    // Together with what was found before; but a list counts once.
    let both = by_author(gateway(2)).dns_address("99.2.0.192.ip.test", "127.0.0.2");
    assert_eq!(judge(both), ("next".into(), "reject 554 5.7.1 author.example is listed by ip, uri".into()));
    let same = by_author(gateway(2)).dns_address("sender.example.uri.test", "127.0.0.2");
    assert_eq!(judge(same), ("next".into(), "next".into()));
}

#[test]
fn dnsbl_a_name_that_is_too_long_is_not_asked() {
    let long = format!("{}.example", vec!["a".repeat(60); 4].join("."));
    let gateway = gateway("");
    assert_eq!(mail_from(&gateway, &client().ehlo(&long)).verdict, Verdict::Next);
    assert_eq!((gateway.metric("error"), gateway.metric("names_not_listed")), (0, 1));
}

#[test]
fn an_answer_of_another_kind_is_an_error() {
    let gateway = gateway("").dns_record(BY_ZEN, RecordType::A, Answer::Names(vec!["x".into()]));
    assert_eq!(mail_from(&gateway, &client()).verdict, Verdict::Next);
    assert_eq!(gateway.metric("zen_error"), 1);
}

#[test]
fn errors_of_the_config_name_the_key() {
    let one = |list: &str| format!(r#"{{"lists": [{list}]}}"#);
    for (config, expected) in [
        (one(r#"{"name": "a"}"#), "lists[0]: missing field `zone`"),
        (
            one(r#"{"name": "A", "zone": "a.test"}"#),
            "lists[0] (\"A\"): name: 1 to 32 characters of a-z, 0-9, -, _ and .",
        ),
        (one(r#"{"name": "a", "zone": "a b"}"#), "lists[0] (\"a\"): zone: \"a b\": not a domain name in ASCII letters"),
        (one(r#"{"name": "a", "zone": "a.test", "by": []}"#), "lists[0] (\"a\"): by: must not be empty"),
        (
            one(r#"{"name": "a", "zone": "a.test", "by": ["uri"]}"#),
            "lists[0].by[0]: unknown variant `uri`, expected one of `ip`, `helo`, `client-name`, `sender`, `from`",
        ),
        (
            one(r#"{"name": "a", "zone": "a.test", "weight": 0}"#),
            "lists[0] (\"a\"): a weight is -1000 to 1000, and not 0",
        ),
        (
            one(r#"{"name": "a", "zone": "a.test", "codes": {"127.0.0.2": 2000000000}}"#),
            "lists[0] (\"a\"): a weight is -1000 to 1000, and not 0",
        ),
        (
            one(r#"{"name": "a", "zone": "a.test", "codes": ["127.0.0.[7-4]"]}"#),
            "lists[0].codes[0]: \"127.0.0.[7-4]\": a range begins with the smaller number",
        ),
        (
            one(r#"{"name": "a", "zone": "a.test", "codes": 2}"#),
            "lists[0].codes: invalid type: integer `2`, expected a list of return codes, or a table of return codes \
             with their weights",
        ),
        (
            one(r#"{"name": "a-b", "zone": "a.test"}, {"name": "a.b", "zone": "b.test"}"#),
            "lists: two are named \"a.b\", or alike in metrics",
        ),
        (
            r#"{"thresholds": {"tag": 0}}"#.into(),
            "thresholds.tag: must be 1 or more, or mail on no list would be meant",
        ),
        (r#"{"tag": "A b"}"#.into(), "tag: 1 to 64 characters of a-z, 0-9, -, _, . and :"),
    ] {
        assert_eq!(Gateway::new().config(&config).load::<Dnsbl>().unwrap_err(), expected);
    }
    assert_eq!(gateway("").load::<Dnsbl>(), Ok(()));
}
