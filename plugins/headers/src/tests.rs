use postern_sdk::testing::{Client, Gateway, Mail};

use super::*;

fn stranger() -> Client {
    Client::at("192.0.2.1").ehlo("mail.example.org")
}

fn gateway(rules: &str) -> Gateway {
    Gateway::new().config(format!(r#"{{"rules": [{rules}]}}"#))
}

fn mail(content: &str) -> Mail {
    Mail::from("ann@example.org").to("bob@example.com").content(content)
}

/// The mail as it is when it has come in.
fn received(rules: &str, content: &str) -> Mail {
    let mut mail = mail(content);
    let judged = gateway(rules).data::<Headers>(&stranger(), &mut mail);
    assert_eq!(judged.verdict, Verdict::Next, "{:?}", judged.log);
    mail
}

fn text(mail: &Mail) -> String {
    String::from_utf8(mail.to_bytes()).unwrap().replace("\r\n", "\n")
}

const TAG: &str = r#"{"name": "external", "subject": "[EXT]"}"#;

#[test]
fn x1_the_subject_is_tagged_once() {
    let tagged = received(TAG, "Subject: hello\n\nx\n");
    assert_eq!(text(&tagged), "Subject: [EXT] hello\n\nx\n");
    assert_eq!(text(&received(TAG, &text(&tagged))), text(&tagged));
    assert_eq!(text(&received(TAG, "To: bob\n\nx\n")), "To: bob\nSubject: [EXT]\n\nx\n", "a mail without a subject");
    // What readers show of several is not known.
    let two = received(TAG, "Subject: a\nX: y\nSubject: b\n\nx\n");
    assert_eq!(text(&two), "Subject: [EXT] a\nX: y\nSubject: [EXT] b\n\nx\n");
    // By several rules.
    let rules = format!(r#"{TAG}, {{"name": "spam", "subject": "[SPAM]"}}, {{"name": "again", "subject": "[EXT]"}}"#);
    assert_eq!(text(&received(&rules, "Subject: hello\n\nx\n")), "Subject: [EXT] [SPAM] hello\n\nx\n");
}

#[test]
fn x1_fields_are_added_replaced_and_removed() {
    let rules = r#"
        {"name": "one", "add": [{"name": "X-Gate", "value": "café"}], "remove": ["x-old", "X-None"]},
        {"name": "two", "replace": [{"name": "X-Class", "value": "b"}, {"name": "X-New", "value": "n"}],
            "add": [{"name": "X-Old", "value": "again"}]}
    "#;
    let content = "X-Old: 1\nX-Class: a\nSubject: s\nX-OLD: 2\nX-Class: z\nX-Class: y\n\nx\n";
    let expected = "X-Old: again\nX-New: n\nX-Gate: =?utf-8?B?Y2Fmw6k=?=\nX-Class: b\nSubject: s\n\nx\n";
    assert_eq!(text(&received(rules, content)), expected);
}

#[test]
fn x1_conditions() {
    const CONTENT: &str = "Subject: =?utf-8?Q?Caf=C3=A9?= bill\nX-Spam: YES\nX-Spam: no\n\nx\n";
    for (condition, applies) in [
        (r#""direction": "inbound""#, true),
        (r#""direction": "outbound""#, false),
        (r#""sender": ["ANN@example.org"]"#, true),
        (r#""sender": ["example.net"]"#, false),
        (r#""except_sender": ["example.org"]"#, false),
        (r#""except_sender": ["example.net"]"#, true),
        (r#""recipient": ["example.com"]"#, true),
        (r#""recipient": ["cy@example.net"]"#, true),
        (r#""recipient": ["example.edu"]"#, false),
        (r#""except_recipient": ["example.com"]"#, true),
        (r#""except_recipient": ["example.com", "example.net"]"#, false),
        (r#""recipient": ["example.com"], "except_recipient": ["example.net"]"#, true),
        (r#""header": [{"name": "x-spam"}]"#, true),
        (r#""header": [{"name": "X-Ham"}]"#, false),
        (r#""header": [{"name": "X-Ham", "absent": true}]"#, true),
        (r#""header": [{"name": "X-Spam", "absent": true}]"#, false),
        (r#""header": [{"name": "X-Spam", "equals": "Yes"}]"#, true),
        (r#""header": [{"name": "X-Spam", "equals": "No"}]"#, true),
        (r#""header": [{"name": "X-Spam", "equals": "ye"}]"#, false),
        (r#""header": [{"name": "X-Spam", "contains": "ye"}]"#, true),
        (r#""header": [{"name": "Subject", "contains": "caf"}, {"name": "X-Spam"}]"#, true),
        (r#""header": [{"name": "Subject", "contains": "café BILL"}]"#, true),
        (r#""header": [{"name": "Subject", "contains": "caf"}, {"name": "X-Ham"}]"#, false),
        (r#""tag": ["dnsbl", "spam"]"#, true),
        (r#""tag": ["dnsbl"]"#, false),
        (r#""larger_than": 10"#, true),
        (r#""larger_than": 10000"#, false),
        (r#""smaller_than": 10000"#, true),
        (r#""smaller_than": 10"#, false),
        (r#""tag": ["spam"], "sender": ["example.org"], "direction": "inbound", "larger_than": 10"#, true),
        (r#""tag": ["spam"], "sender": ["example.net"]"#, false),
    ] {
        let rule = format!(r#"{{"name": "r", "add": [{{"name": "X-Rule", "value": "r"}}], {condition}}}"#);
        let mut mail = mail(CONTENT).to("cy@example.net");
        mail.tags.push("spam".into());
        let judged = gateway(&rule).data::<Headers>(&stranger(), &mut mail);
        assert_eq!((judged.verdict, mail.header("X-Rule").len() == 1), (Verdict::Next, applies), "{condition}");
    }
    let mut bounce = Mail::from_null_sender().to("bob@example.com").content("\nx\n");
    let rule = r#"{"name": "r", "subject": "[r]", "sender": ["example.org"]}"#;
    assert_eq!(gateway(rule).data::<Headers>(&stranger(), &mut bounce).edits, [], "a bounce has no sender");
}

#[test]
fn x1_inbound_at_data_and_outbound_at_deliver() {
    for (client, at_data, at_deliver) in
        [(stranger(), 1, 0), (stranger().trusted(), 0, 1), (stranger().login("ann"), 0, 1)]
    {
        let gateway = gateway(TAG);
        assert_eq!(gateway.data::<Headers>(&client, &mut mail("Subject: s\n\nx\n")).edits.len(), at_data);
        assert_eq!(gateway.deliver::<Headers>(&client, &mut mail("Subject: s\n\nx\n")).edits.len(), at_deliver);
    }
}

const FOOTER: &str = r#"{"name": "footer", "footer": {"text": "-- \nÉmile & Co", "html": "<p>Émile</p>"}}"#;

#[test]
fn x1_footer_of_a_single_text() {
    assert_eq!(text(&received(FOOTER, "Subject: s\n\nhello\n")), "Subject: s\n\nhello\n-- \nEmile & Co\n");
    let quoted = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n";
    let expected = format!("{quoted}caf=C3=A9\n--=20\n=C3=89mile & Co\n");
    assert_eq!(text(&received(FOOTER, &format!("{quoted}caf=C3=A9\n"))), expected);
    let html = "Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n";
    let expected = format!("{html}<body>x\n<p>Émile</p>\n</body>\n");
    assert_eq!(text(&received(FOOTER, &format!("{html}<body>x</body>\n"))), expected);
}

#[test]
fn x1_footer_of_a_multipart_in_all_versions_of_its_first_text() {
    let content = "Content-Type: multipart/mixed; boundary=\"b\"\n\npreamble\n--b\n\
        Content-Type: multipart/alternative; boundary=c\n\n--c\nContent-Type: text/plain; charset=utf-8\n\
        Content-Transfer-Encoding: base64\n\naGVsbG8K\n--c\nContent-Type: text/html\n\n<p>hello</p>\n--c--\n\n--b\n\
        Content-Type: text/plain\nContent-Disposition: attachment\n\nnotes\n--b--\nepilogue\n";
    let expected = content
        .replace("aGVsbG8K\n", "aGVsbG8KLS0gCsOJbWlsZSAmIENvCg==\n")
        .replace("<p>hello</p>\n", "<p>hello</p>\n<p>&#201;mile</p>\n");
    let got = text(&received(FOOTER, content));
    assert_eq!(got, expected);
}

#[test]
fn x1_several_footers_in_the_order_of_the_rules() {
    let rules = r#"{"name": "a", "footer": {"text": "one"}}, {"name": "b", "footer": {"text": "two"}}"#;
    assert_eq!(text(&received(rules, "Subject: s\n\nhello\n")), "Subject: s\n\nhello\none\ntwo\n");
}

#[test]
fn x1_mail_that_a_footer_would_break_is_left_alone() {
    let signed = "Content-Type: multipart/signed; boundary=b\n\n--b\n\nhello\n--b\nContent-Type: application/pgp-signature\n\nx\n--b--\n";
    let long = format!("\n{}\n", "x".repeat(1200));
    for (content, why) in [
        (signed, "signed or encrypted"),
        ("Content-Type: application/pkcs7-mime\n\nx\n", "signed or encrypted"),
        ("Subject: s\n\n-----BEGIN PGP SIGNED MESSAGE-----\n", "signed or encrypted"),
        ("Content-Type: image/png\n\nx\n", "does not begin with text"),
        ("Content-Type: multipart/mixed\n\nx\n", "can't be taken apart"),
        (&long, "the lines of a body end in CRLF, have at most 998 octets and no NUL"),
    ] {
        let gateway = gateway(FOOTER);
        let mut mail = mail(content);
        let before = mail.to_bytes();
        let judged = gateway.data::<Headers>(&stranger(), &mut mail);
        assert_eq!((judged.verdict, &judged.log[1]), (Verdict::Next, &format!("info: no footer: {why}")));
        assert_eq!(mail.to_bytes(), before);
        assert_eq!((gateway.metric("footer_left_out"), gateway.metric("footer_added")), (1, 0));
    }
}

#[test]
fn x1_a_mail_that_is_too_big_gets_no_footer_but_its_subject() {
    let rule = r#"{"name": "r", "subject": "[EXT]", "footer": {"text": "x"}}"#;
    for (limit, added) in [(50_000, 0), (100_000, 1)] {
        let gateway = Gateway::new().config(format!(r#"{{"rules": [{rule}], "footer_limit": {limit}}}"#));
        let mut mail = mail(&format!("Subject: s\n\n{}", "a line of text\n".repeat(5_000)));
        let judged = gateway.data::<Headers>(&stranger(), &mut mail);
        assert_eq!((judged.verdict, gateway.metric("footer_added")), (Verdict::Next, added));
        assert_eq!(mail.header("Subject"), [b"[EXT] s"]);
        assert_eq!(mail.body.ends_with(b"\r\nx\r\n"), added == 1);
        assert_eq!(mail.body.len(), 80_000 + if added == 1 { 3 } else { 0 });
    }
}

#[test]
fn a_mail_of_hundreds_of_fields_of_one_name_is_refused() {
    let rule = r#"{"name": "r", "remove": ["X-Spam"]}"#;
    let content = |count: usize| format!("{}Subject: s\n\nx\n", "X-Spam: no\n".repeat(count));
    assert_eq!(text(&received(rule, &content(256))), "Subject: s\n\nx\n");
    let judged = gateway(rule).data::<Headers>(&stranger(), &mut mail(&content(257)));
    assert_eq!(judged.verdict.to_string(), "reject 554 5.6.0 Too many header fields of one name");
}

#[test]
fn errors_of_the_config_name_the_key() {
    for (rule, expected) in [
        (r#"{"name": "a"}"#, "rules[0] (\"a\"): has none of subject, add, replace, remove, footer"),
        (r#"{"name": "", "subject": "x"}"#, "rules[0] (\"\"): name: must not be empty"),
        (
            r#"{"name": "a", "subject": "a\nb"}"#,
            "rules[0] (\"a\"): subject: 1 to 200 octets of text, without control characters and =?",
        ),
        (
            r#"{"name": "a", "remove": ["Received"]}"#,
            "rules[0] (\"a\"): remove: Received: this field can't be changed by rules",
        ),
        (
            r#"{"name": "a", "add": [{"name": "arc-seal", "value": "x"}]}"#,
            "rules[0] (\"a\"): add: arc-seal: this field can't be changed by rules",
        ),
        (
            r#"{"name": "a", "replace": [{"name": "Content-Type", "value": "x"}]}"#,
            "rules[0] (\"a\"): replace: Content-Type: this field can't be changed by rules",
        ),
        (
            r#"{"name": "a", "add": [{"name": "X Y", "value": "x"}]}"#,
            "rules[0] (\"a\"): add: \"X Y\": a field name is 1 to 76 printable ASCII characters without colon",
        ),
        (
            r#"{"name": "a", "add": [{"name": "X-Y", "value": "x\r\nBcc: y"}]}"#,
            "rules[0] (\"a\"): add: a value has no control characters, and no long words",
        ),
        (r#"{"name": "a", "footer": {"text": " "}}"#, "rules[0] (\"a\"): footer: must not be empty"),
        (
            r#"{"name": "a", "subject": "x", "header": [{"name": "X", "equals": "a", "contains": "b"}]}"#,
            "rules[0] (\"a\"): header: \"X\" has more than one of equals, contains, absent",
        ),
        (
            r#"{"name": "a", "subject": "x", "direction": "both"}"#,
            "rules[0].direction: unknown variant `both`, expected `inbound` or `outbound`",
        ),
    ] {
        assert_eq!(gateway(rule).load::<Headers>().unwrap_err(), expected);
    }
    let config = r#"{"footer_limit": 99999999}"#;
    assert_eq!(Gateway::new().config(config).load::<Headers>().unwrap_err(), "footer_limit: more than 4194304");
    assert_eq!(gateway(FOOTER).load::<Headers>(), Ok(()));
}
