use postern_sdk::scan::Symbol;
use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

fn client() -> Client {
    Client::at("192.0.2.1")
}

fn mail() -> Mail {
    let text = "X-Spam-Flag: NO\nSubject: hello\nX-Spam-Score: -99\nx-spam-status: No, trust me\n\nx\n";
    Mail::from("a@example.org").to("b@example.com").content(text)
}

fn said(score: f64, action: &str) -> Assessment {
    let symbol = |name: &str, score| Symbol { name: name.to_owned(), score };
    Assessment {
        score,
        required: 15.0,
        action: action.to_owned(),
        symbols: vec![symbol("GTUBE", 10.0), symbol("R_SPF_ALLOW", -0.2)],
        subject: None,
        text: None,
    }
}

fn gateway(config: &str, said: Result<Assessment, ScanError>) -> Gateway {
    Gateway::new().config(config).assessment("rspamd", said)
}

fn judge(gateway: &Gateway, client: &Client) -> (String, Mail) {
    let mut mail = mail();
    let verdict = gateway.data::<Antispam>(client, &mut mail).verdict.to_string();
    (verdict, mail)
}

fn fields(mail: &Mail) -> Vec<String> {
    let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
    [mark::FLAG, mark::SCORE, mark::STATUS].iter().flat_map(|name| mail.header(name)).map(text).collect()
}

#[test]
fn r35_what_becomes_of_each_action() {
    for (action, within, out) in [
        ("no action", "next", "next"),
        ("greylist", "next", "next"),
        ("add header", "next", "reject 550 5.7.1 This mail looks like spam"),
        ("rewrite subject", "next", "reject 550 5.7.1 This mail looks like spam"),
        ("soft reject", "defer 451 4.7.1 Try again later", "defer 451 4.7.1 Try again later"),
        ("reject", "reject 550 5.7.1 This mail looks like spam", "reject 550 5.7.1 This mail looks like spam"),
        ("quarantine", "quarantine spam, 7.00 of 15.00", "quarantine spam, 7.00 of 15.00"),
        ("discard", "discard", "discard"),
        ("somebody's own", "next", "next"),
    ] {
        let gateway = gateway("{}", Ok(said(7.0, action)));
        assert_eq!(judge(&gateway, &client()).0, within, "{action}");
        assert_eq!(judge(&gateway, &client().login("al")).0, out, "{action}");
    }
    let gateway = gateway("{}", Ok(said(15.0, "somebody's own")));
    assert_eq!(judge(&gateway, &client()).1.tags, ["spam"]);
    assert_eq!(gateway.metric("tagged"), 1);
}

#[test]
fn r35_spam_that_goes_on_is_marked() {
    let (verdict, mail) = judge(&gateway("{}", Ok(said(7.256, "add header"))), &client());
    assert_eq!((verdict.as_str(), mail.tags.as_slice()), ("next", &["spam".to_owned()][..]));
    let status = "Yes, score=7.26 required=15.00 action=\"add header\" tests=GTUBE=10.00, R_SPF_ALLOW=-0.20".to_owned();
    assert_eq!(fields(&mail), ["YES".to_owned(), "7.26".to_owned(), status]);
    let (_, mail) = judge(&gateway("{}", Ok(Assessment { symbols: vec![], ..said(-1.0, "no action") })), &client());
    assert_eq!(fields(&mail), ["NO", "-1.00", "No, score=-1.00 required=15.00 action=\"no action\" tests=none"]);
    assert!(mail.tags.is_empty());
}

#[test]
fn nobody_elses_word_stands_in_the_header() {
    // Also where nothing of our own is said.
    for (config, client) in [(r#"{"headers": false}"#, client()), ("{}", client().login("al"))] {
        let (verdict, mail) = judge(&gateway(config, Ok(said(0.0, "no action"))), &client);
        assert_eq!((verdict.as_str(), fields(&mail)), ("next", vec![]));
        assert_eq!(mail.header("Subject"), [b"hello"]);
    }
    let mut mail = Mail::from("a@example.org").content(format!("{}\nx\n", "X-Spam-Flag: NO\n".repeat(500)));
    let judged = gateway("{}", Ok(said(0.0, "no action"))).data::<Antispam>(&client(), &mut mail);
    assert_eq!(judged.verdict.to_string(), "reject 554 5.6.0 The mail has 500 fields X-Spam-Flag");
}

#[test]
fn the_stronger_of_action_and_score_counts() {
    let config = r#"{"scores": {"tag": 4, "quarantine": 8, "defer": 9.5, "reject": 12},
        "actions": {"no action": "continue", "greylist": "defer", "reject": "quarantine"}}"#;
    for (score, action, expected) in [
        (3.99, "no action", "next"),
        (4.0, "no action", "next"),
        (8.0, "no action", "quarantine spam, 8.00 of 15.00"),
        (9.5, "add header", "defer 451 4.7.1 Try again later"),
        (12.0, "no action", "reject 550 5.7.1 This mail looks like spam"),
        (0.0, "greylist", "defer 451 4.7.1 Try again later"),
        (0.0, "reject", "quarantine spam, 0.00 of 15.00"),
        (12.0, "reject", "reject 550 5.7.1 This mail looks like spam"),
    ] {
        let (verdict, mail) = judge(&gateway(config, Ok(said(score, action))), &client());
        assert_eq!(verdict, expected, "{score} {action}");
        assert_eq!(mail.tags.len(), usize::from(score == 4.0), "{score} {action}");
    }
}

#[test]
fn r23_outbound_mail_has_a_policy_of_its_own() {
    let config = r#"{"scores": {"tag": 4}, "actions": {"reject": "tag", "soft reject": "continue"},
        "outbound": {"scores": {"quarantine": 5}, "actions": {"reject": "discard"}, "headers": true}}"#;
    let out = client().login("al");
    for (score, action, expected) in [
        (4.0, "no action", "next"),
        (5.0, "no action", "quarantine spam, 5.00 of 15.00"),
        (0.0, "reject", "discard"),
        // What it does not say is as inbound.
        (0.0, "soft reject", "next"),
    ] {
        assert_eq!(judge(&gateway(config, Ok(said(score, action))), &out).0, expected, "{score} {action}");
    }
    assert_eq!(fields(&judge(&gateway(config, Ok(said(1.0, "no action"))), &out).1).len(), 3);
}

#[test]
fn x8_a_scanner_that_does_not_answer_has_a_policy_of_its_own() {
    let silent = || Err(ScanError::Unavailable("it does not answer in time".to_owned()));
    let later = "defer 451 4.7.1 Mail can't be scanned for spam now, try again later";
    for (config, error, expected, status) in [
        ("{}", silent(), later, ""),
        (r#"{"unavailable": "quarantine"}"#, silent(), "quarantine not scanned for spam: scanner not available", ""),
        (r#"{"unavailable": "continue"}"#, silent(), "next", "No, unchecked (scanner not available)"),
        ("{}", Err(ScanError::TooBig(1)), "next", "No, unchecked (too big)"),
        (r#"{"too_big": "defer"}"#, Err(ScanError::TooBig(1)), later, ""),
    ] {
        let (verdict, mail) = judge(&gateway(config, error), &client());
        assert_eq!(verdict, expected, "{config}");
        if !status.is_empty() {
            assert_eq!((fields(&mail), mail.tags.join("")), (vec![status.to_owned()], "spam-unchecked".to_owned()));
        }
    }
    let config = r#"{"unavailable": "defer", "outbound": {"unavailable": "continue"}}"#;
    assert_eq!(judge(&gateway(config, silent()), &client().login("al")).0, "next");
    let gateway = Gateway::new().config(r#"{"scanner": "other", "unavailable": "continue"}"#);
    assert!(judge(&gateway, &client()).0.starts_with("defer 451 4.3.5"));
}

#[test]
fn subjects_are_marked_as_config_or_rspamd_says() {
    let rspamd = |subject: &str| Assessment { subject: Some(subject.to_owned()), ..said(7.0, "rewrite subject") };
    let prefix = r#"{"subject_prefix": "[SPAM] "}"#;
    for (config, said, before, after) in [
        ("{}", said(7.0, "add header"), "Subject: hello\n", Some("hello")),
        (prefix, said(7.0, "add header"), "Subject: hello\n", Some("[SPAM] hello")),
        (prefix, said(7.0, "add header"), "Subject: [SPAM] hello\n", Some("[SPAM] hello")),
        (prefix, said(7.0, "add header"), "", Some("[SPAM]")),
        (prefix, said(0.0, "no action"), "Subject: hello\n", Some("hello")),
        ("{}", rspamd("*** hello"), "Subject: hello\n", Some("*** hello")),
        ("{}", rspamd("*** hello"), "", Some("*** hello")),
        ("{}", rspamd("*** h\u{e4}llo"), "Subject: hello\n", Some("hello")),
        (prefix, rspamd("*** hello"), "Subject: hello\n", Some("[SPAM] hello")),
        ("{}", said(7.0, "add header"), "", None),
    ] {
        let mut mail = Mail::from("a@example.org").content(format!("{before}\nx\n"));
        assert_eq!(gateway(config, Ok(said)).data::<Antispam>(&client(), &mut mail).verdict, Verdict::Next);
        assert_eq!(mail.header("Subject").first().map(|value| std::str::from_utf8(value).unwrap()), after);
    }
    let mut mail = Mail::from("a@example.org").content(b"Subject: \xff\n\nx\n");
    gateway(prefix, Ok(said(7.0, "add header"))).data::<Antispam>(&client(), &mut mail);
    assert_eq!(mail.header("Subject"), [b"\xff"]);
}

#[test]
fn the_client_hears_what_rspamd_would_say() {
    for (text, expected) in [
        ("Gtube pattern", "reject 550 5.7.1 Gtube pattern"),
        ("Gr\u{fc}n", "reject 550 5.7.1 This mail looks like spam"),
    ] {
        let said = Assessment { text: Some(text.to_owned()), ..said(20.0, "reject") };
        assert_eq!(judge(&gateway("{}", Ok(said)), &client()).0, expected);
    }
}

#[test]
fn a_wrong_config_is_refused() {
    for (config, expected) in [
        (r#"{"scanner": ""}"#, "scanner: name one"),
        (r#"{"subject_prefix": "\u00e4"}"#, "subject_prefix: "),
        (r#"{"actions": {"reject": "refuse"}}"#, "actions.reject: unknown variant `refuse`"),
        (r#"{"scores": {"refuse": 3}}"#, "scores.refuse: unknown field"),
        (r#"{"unavailable": "tag"}"#, "unavailable: unknown variant"),
    ] {
        let error = Gateway::new().config(config).load::<Antispam>().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(Gateway::new().load::<Antispam>(), Ok(()));
}
