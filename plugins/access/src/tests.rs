use postern_sdk::testing::{Client, Gateway, Judged, Mail};

use super::*;

const RULES: &str = r#"
    {"name": "office", "action": "allow", "ip": ["192.0.2.1"]},
    {"name": "partner", "action": "allow", "ip": ["192.0.2.0/24", "192.163.1.1/255.100.10.1"]},
    {"name": "spam house", "action": "reject", "ip": ["192.0.2.128/25", "2001:db8::/32"]},
    {"name": "sink", "action": "ignore", "ip": ["203.0.113.7"]},
    {"name": "tie, white", "action": "allow", "ip": ["198.51.100.0/24"]},
    {"name": "tie, black", "action": "reject", "ip": ["198.51.100.0/255.255.255.0"]},
    {"name": "newsletter", "action": "allow", "sender": ["news@example.org", "only@sender.example"]},
    {"name": "pest", "action": "reject", "sender": ["pest@example.org", "both@example.org"]},
    {"name": "both", "action": "allow", "sender": ["both@example.org"]},
    {"name": "trap", "action": "ignore", "sender": ["trap@example.org"]},
    {"name": "friends", "action": "allow", "domain": ["example.net", ".example.net", "example.org"]},
    {"name": "abuse desk", "action": "allow", "recipient": ["abuse@example.com"]},
    {"name": "closed", "action": "reject", "recipient": ["closed@example.com"]},
    {"name": "hole", "action": "ignore", "recipient": ["hole@example.com"]}
"#;

const NO_IP_RULE: &str = "100.64.0.1";

fn gateway(more: &str) -> Gateway {
    Gateway::new().config(format!(r#"{{"rules": [{RULES}]{more}}}"#))
}

fn connect(address: &str) -> Judged {
    gateway("").connect::<Access>(&Client::at(address))
}

fn mail_from(gateway: &Gateway, client: &str, sender: &str) -> Judged {
    gateway.mail_from::<Access>(&Client::at(client), &mut Mail::from(sender))
}

fn rcpt(gateway: &Gateway, client: &str, recipient: &str) -> Judged {
    gateway.rcpt::<Access>(&Client::at(client), &mut Mail::from("a@example.edu"), recipient)
}

const REFUSED_CLIENT: &str = "reject 550 5.7.1 Mail from your address is not accepted here";

#[test]
fn r59_r60_rules_on_the_client_address() {
    for (address, verdict, rule) in [
        ("192.0.2.9", "next", Some("partner")),
        ("192.0.2.200", REFUSED_CLIENT, Some("spam house")),
        ("192.32.0.1", "next", Some("partner")),
        ("2001:db8::9", REFUSED_CLIENT, Some("spam house")),
        ("::ffff:192.0.2.200", REFUSED_CLIENT, Some("spam house")),
        ("203.0.113.7", "discard", Some("sink")),
        ("198.51.100.1", REFUSED_CLIENT, Some("tie, black")),
        (NO_IP_RULE, "next", None),
    ] {
        let judged = connect(address);
        assert_eq!(judged.verdict.to_string(), verdict, "{address}");
        let logged = judged.log.first().and_then(|line| line.split('"').nth(1));
        assert_eq!(logged, rule, "{address}");
    }
}

/// What a client, sender or recipient that only one criterion matches is spared.
fn spared(gateway: &Gateway, criterion: Criterion) -> Vec<String> {
    let judged = match criterion {
        Criterion::Ip => gateway.connect::<Access>(&Client::at("192.0.2.1")),
        Criterion::Network => gateway.connect::<Access>(&Client::at("192.0.2.9")),
        Criterion::Sender => mail_from(gateway, NO_IP_RULE, "only@sender.example"),
        Criterion::Recipient => rcpt(gateway, NO_IP_RULE, "abuse@example.com"),
        Criterion::Domain => mail_from(gateway, NO_IP_RULE, "a@example.net"),
    };
    assert_eq!(judged.verdict, Verdict::Next);
    judged.exemptions.into_iter().map(|exemption| exemption.test).collect()
}

#[test]
fn r61_whitelist_matrix() {
    const TESTS: [&str; 5] = ["dnsbl", "spf", "antivirus", "dkim", "dmarc"];
    // The table of R61; `!`: skipped only where the platform allows what a client can forge.
    let matrix = [
        (Criterion::Ip, ["skip", "skip", "skip", "skip", "skip"]),
        (Criterion::Network, ["skip", "skip", "runs", "skip", "skip"]),
        (Criterion::Sender, ["runs", "skip", "!", "runs", "runs"]),
        (Criterion::Recipient, ["runs", "skip", "!", "runs", "runs"]),
        (Criterion::Domain, ["runs", "skip", "!", "skip", "skip"]),
    ];
    for (scope, more, allowed) in [
        ("platform", "", false),
        ("platform", r#", "forgeable_skips_antivirus": false"#, false),
        ("platform", r#", "forgeable_skips_antivirus": true"#, true),
        ("reseller:acme", "", false),
        ("tenant:company", "", false),
        ("tenant:company", r#", "forgeable_skips_antivirus": false"#, false),
    ] {
        let gateway = gateway(more).scope(scope);
        for (criterion, row) in matrix {
            let spared = spared(&gateway, criterion);
            for (test, expected) in TESTS.into_iter().zip(row) {
                let skip = expected == "skip" || expected == "!" && allowed;
                assert_eq!(spared.iter().any(|one| one == test), skip, "{scope} {more} {criterion:?} {test}");
            }
            assert!(spared.iter().all(|test| TESTS.contains(&test.as_str())), "{spared:?}");
        }
    }
}

#[test]
fn r61_a_row_of_ones_own_replaces_that_row_alone() {
    let own = r#", "exempt": {"domain": ["greylist", "antivirus", "antivirus-second", "antivirusless"], "ip": []}"#;
    let gateway = gateway(own).scope("tenant:company");
    for (criterion, expected) in [
        (Criterion::Ip, &[][..]),
        (Criterion::Network, &["dnsbl", "spf", "dkim", "dmarc"]),
        (Criterion::Sender, &["spf"]),
        (Criterion::Domain, &["greylist", "antivirusless"]),
    ] {
        assert_eq!(spared(&gateway, criterion), expected, "{criterion:?}");
    }
}

#[test]
fn r61_only_the_platform_allows_what_a_client_can_forge_to_skip_the_antivirus() {
    let load = |scope| gateway(r#", "forgeable_skips_antivirus": true"#).scope(scope).load::<Access>();
    assert_eq!(load("platform"), Ok(()));
    for scope in ["tenant:company", "reseller:acme", "tenant:platform"] {
        let expected = "forgeable_skips_antivirus: only the platform can allow it, in a plugin of its own";
        assert_eq!(load(scope).unwrap_err(), expected, "{scope}");
    }
}

#[test]
fn a_white_sender_at_a_white_domain_is_spared_the_tests_of_both() {
    let both = mail_from(&gateway(""), NO_IP_RULE, "News@example.org");
    assert_eq!(both.exempted(), ["spf", "spf", "dkim", "dmarc"]);
    let rules: Vec<_> = both.exemptions.iter().map(|one| one.rule.as_str()).collect();
    assert_eq!(rules, ["newsletter", "friends", "friends", "friends"]);
    // A black one at a white domain is spared nothing.
    assert_eq!(mail_from(&gateway(""), NO_IP_RULE, "both@example.org").exempted(), [""; 0]);
}

#[test]
fn r60_black_senders_and_recipients() {
    let gateway = gateway("");
    for (sender, verdict) in [
        ("PEST@example.org", "reject 550 5.7.1 Mail from this sender is not accepted here"),
        // White by domain and by address, too.
        ("both@example.org", "reject 550 5.7.1 Mail from this sender is not accepted here"),
        ("trap@example.org", "discard"),
        ("a@example.edu", "next"),
    ] {
        assert_eq!(mail_from(&gateway, NO_IP_RULE, sender).verdict.to_string(), verdict, "{sender}");
    }
    for (recipient, verdict) in [
        ("closed@example.com", "reject 550 5.7.1 Mail to this recipient is not accepted here"),
        ("hole@example.com", "discard"),
        ("open@example.com", "next"),
    ] {
        assert_eq!(rcpt(&gateway, NO_IP_RULE, recipient).verdict.to_string(), verdict, "{recipient}");
    }
}

#[test]
fn r62_rules_on_the_address_win_over_all_others() {
    let gateway = gateway("");
    for client in ["192.0.2.1", "192.0.2.200", "203.0.113.7"] {
        let judged = mail_from(&gateway, client, "pest@example.org");
        assert_eq!((judged.verdict, judged.exemptions.len()), (Verdict::Next, 0), "{client}");
        assert_eq!(mail_from(&gateway, client, "a@example.net").exemptions, [], "{client}");
        assert_eq!(rcpt(&gateway, client, "closed@example.com").verdict, Verdict::Next, "{client}");
    }
}

#[test]
fn r62_an_address_rule_decides_even_while_other_tables_are_broken() {
    let gateway = gateway(r#", "tables": {"sender": "people", "domain": "people", "recipient": "people"}"#);
    let gateway = gateway.broken_table("people");
    assert_eq!(mail_from(&gateway, "192.0.2.1", "a@example.edu").verdict, Verdict::Next);
    assert_eq!(rcpt(&gateway, "192.0.2.1", "a@example.edu").verdict, Verdict::Next);
    assert_eq!(mail_from(&gateway, NO_IP_RULE, "a@example.edu").verdict.name(), "defer");
    // A black sender of the config is refused whatever the tables would say.
    assert_eq!(mail_from(&gateway, NO_IP_RULE, "pest@example.org").verdict.name(), "reject");
}

#[test]
fn the_null_sender_matches_no_rule() {
    let judged = gateway("").mail_from::<Access>(&Client::at(NO_IP_RULE), &mut Mail::from_null_sender());
    assert_eq!((judged.verdict, judged.log.len()), (Verdict::Next, 0));
}

fn with_tables() -> Gateway {
    gateway(r#", "tables": {"ip": "ips", "sender": "people", "recipient": "people", "domain": "domains"}"#)
        .table(
            "ips",
            [
                ("100.64.0.1", "reject one"),
                ("100.65.0.0/16", "allow net"),
                ("192.0.2.1", "reject office"),
                ("10.99.9.9/255.100.10.1", "ignore holes"),
            ],
        )
        .table("people", [("Eve@example.edu", "reject"), ("odd@example.edu", "perhaps"), ("example.edu", "reject")])
        .table("domains", [(".example.edu", "allow university"), ("bad.example", "reject x")])
}

#[test]
fn tables_have_more_rules() {
    let gateway = with_tables();
    assert_eq!(gateway.load::<Access>(), Ok(()));
    let connect = |ip| gateway.connect::<Access>(&Client::at(ip));
    assert_eq!(connect("100.64.0.1").verdict.to_string(), REFUSED_CLIENT);
    assert_eq!(connect("100.65.1.1").exempted(), ["dnsbl", "spf", "dkim", "dmarc"]);
    assert_eq!(connect("192.0.2.1").verdict, Verdict::Next, "the rules of the config come first");
    // R59: 10.99.9.9 under a mask with holes.
    assert_eq!(connect("10.96.8.1").verdict, Verdict::Discard);
    assert_eq!(connect("10.96.8.2").verdict, Verdict::Next);
    let refused = mail_from(&gateway, "100.66.0.1", "eve@example.edu");
    assert_eq!(refused.verdict.to_string(), "reject 550 5.7.1 Mail from this sender is not accepted here");
    let allowed = mail_from(&gateway, "100.66.0.1", "adam@mail.example.edu");
    assert_eq!((allowed.verdict, allowed.exemptions[0].rule.as_str()), (Verdict::Next, "university"));
    assert!(rcpt(&gateway, "100.66.0.1", "eve@example.edu").verdict.reply().is_some());
}

#[test]
fn a_table_that_cannot_be_asked_defers() {
    let broken = gateway(r#", "tables": {"ip": "ips"}"#).broken_table("ips");
    assert_eq!(broken.load::<Access>(), Ok(()), "it may be there again when mail comes");
    let expected = "defer 451 4.3.0 Local error in processing, try again later";
    assert_eq!(broken.connect::<Access>(&Client::at(NO_IP_RULE)).verdict.to_string(), expected);
    assert_eq!(mail_from(&broken, NO_IP_RULE, "a@example.edu").verdict.to_string(), expected);
    for sender in ["odd@example.edu", "x@bad.example"] {
        let judged = mail_from(&with_tables(), "100.66.0.1", sender);
        assert_eq!(judged.verdict.to_string(), "defer 451 4.3.5 Local error in configuration, try again later");
        assert!(judged.log[0].starts_with("error: table "), "{:?}", judged.log);
    }
}

#[test]
fn errors_of_the_config_name_the_key() {
    for (config, expected) in [
        (
            r#"{"rule": []}"#,
            "rule: unknown field `rule`, expected one of `rules`, `tables`, `exempt`, `forgeable_skips_antivirus`",
        ),
        (r#"{"rules": [{"action": "allow", "ip": ["::1"]}]}"#, "rules[0]: missing field `name`"),
        (
            r#"{"rules": [{"name": "a", "action": "deny", "ip": ["::1"]}]}"#,
            "rules[0].action: unknown variant `deny`, expected one of `allow`, `reject`, `ignore`",
        ),
        (
            r#"{"rules": [{"name": "a", "action": "allow", "ip": ["1.2.3"]}]}"#,
            "rules[0].ip[0]: \"1.2.3\": not an IP address",
        ),
        (
            r#"{"rules": [{"name": "a", "action": "allow"}]}"#,
            "rules[0] (\"a\"): has exactly one of ip, sender, recipient, domain",
        ),
        (
            r#"{"rules": [{"name": "a", "action": "allow", "ip": ["::1"], "domain": ["example.com"]}]}"#,
            "rules[0] (\"a\"): has exactly one of ip, sender, recipient, domain",
        ),
        (
            r#"{"rules": [{"name": "a", "action": "ignore", "domain": ["example.com"]}]}"#,
            "rules[0] (\"a\"): domain: can only be allowed",
        ),
        (
            r#"{"rules": [{"name": "a", "action": "allow", "domain": ["a@example.com"]}]}"#,
            "rules[0] (\"a\"): domain: has an address; addresses go into sender",
        ),
        (r#"{"rules": [{"name": "", "action": "allow", "ip": ["::1"]}]}"#, "rules[0] (\"\"): name: must not be empty"),
        (r#"{"tables": {"ip": "none"}}"#, "tables.ip: no table `none` is granted to this plugin"),
    ] {
        assert_eq!(Gateway::new().config(config).load::<Access>().unwrap_err(), expected);
    }
}

#[test]
fn what_rules_have_done_is_counted() {
    let gateway = gateway("");
    for address in ["192.0.2.9", "192.0.2.200", "203.0.113.7", NO_IP_RULE] {
        gateway.connect::<Access>(&Client::at(address));
    }
    mail_from(&gateway, NO_IP_RULE, "pest@example.org");
    // A white address at a white domain: two rules.
    mail_from(&gateway, NO_IP_RULE, "news@example.org");
    mail_from(&gateway, "192.0.2.9", "pest@example.org");
    rcpt(&gateway, NO_IP_RULE, "hole@example.com");
    rcpt(&gateway, NO_IP_RULE, "anybody@example.com");
    let counted = ["allowed", "rejected", "ignored", "deferred"].map(|name| gateway.metric(name));
    assert_eq!(counted, [3, 2, 2, 0]);
}
