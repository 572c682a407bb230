use postern_sdk::testing::{Client, Gateway, Judged, Mail};

use super::*;

const CLEAN: Result<Option<&str>, ScanError> = Ok(None);
const FOUND: Result<Option<&str>, ScanError> = Ok(Some("Some.Virus-1"));
const TOO_BIG: Result<Option<&str>, ScanError> = Err(ScanError::TooBig(1000));

fn silent() -> Result<Option<&'static str>, ScanError> {
    Err(ScanError::Unavailable("it does not answer in time".to_owned()))
}

fn client() -> Client {
    Client::at("192.0.2.1")
}

fn mail() -> Mail {
    Mail::from("a@example.org").to("b@example.com").content("Subject: hello\nX-Virus-Status: Clean\n\nx\n")
}

fn gateway(config: &str, says: Result<Option<&str>, ScanError>) -> Gateway {
    Gateway::new().config(config).virus("clamav", says)
}

/// The verdict, and what its fields say afterwards.
fn judge(gateway: &Gateway, client: &Client) -> (String, Vec<String>, Vec<String>) {
    let mut mail = mail();
    let Judged { verdict, .. } = gateway.data::<Antivirus>(client, &mut mail);
    let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
    (verdict.to_string(), mail.header("X-Virus-Status").into_iter().map(text).collect(), mail.tags)
}

#[test]
fn r35_infected_mail_is_refused_and_clean_mail_marked() {
    let (verdict, ..) = judge(&gateway("{}", FOUND), &client());
    assert_eq!(verdict, "reject 550 5.7.1 This mail carries a virus: Some.Virus-1");
    let gateway = gateway("{}", CLEAN);
    assert_eq!(judge(&gateway, &client()), ("next".into(), vec!["Clean".into()], vec![]));
    assert_eq!((gateway.metric("clean"), gateway.metric("found")), (1, 0));
}

#[test]
fn x8_each_outcome_has_its_policy() {
    let later = "defer 451 4.7.1 Mail can't be scanned for viruses now, try again later";
    for (config, says, verdict, status, tags) in [
        (r#"{"found": "quarantine"}"#, FOUND, "quarantine virus Some.Virus-1", "", ""),
        (r#"{"found": "discard"}"#, FOUND, "discard", "", ""),
        (r#"{"found": "tag"}"#, FOUND, "next", "Infected (Some.Virus-1)", "virus"),
        ("{}", silent(), later, "", ""),
        (r#"{"unavailable": "continue"}"#, silent(), "next", "Unchecked (scanner not available)", "virus-unchecked"),
        (r#"{"unavailable": "quarantine"}"#, silent(), "quarantine clamav is not available", "", ""),
        (r#"{"unavailable": "reject"}"#, silent(), "reject 554 5.7.1 Mail can't be scanned for viruses", "", ""),
        ("{}", TOO_BIG, "next", "Unchecked (too big)", "virus-unchecked"),
        (
            r#"{"too_big": "reject"}"#,
            TOO_BIG,
            "reject 552 5.3.4 Mails above 1000 octets can't be scanned for viruses",
            "",
            "",
        ),
        (r#"{"too_big": "quarantine"}"#, TOO_BIG, "quarantine too big to be scanned for viruses", "", ""),
        (
            r#"{"too_big": "defer"}"#,
            TOO_BIG,
            "defer 451 4.3.4 This mail is too big to be scanned for viruses now",
            "",
            "",
        ),
    ] {
        let (got, header, got_tags) = judge(&gateway(config, says), &client());
        assert_eq!(got, verdict, "{config}");
        // What does not go on is left as it came.
        let expected = if status.is_empty() { "Clean" } else { status };
        assert_eq!((header.join("|").as_str(), got_tags.join("|").as_str()), (expected, tags), "{config}");
    }
}

#[test]
fn a_scanner_that_is_not_granted_is_the_administrators_mistake() {
    let gateway = Gateway::new().config(r#"{"scanners": ["other"], "unavailable": "continue"}"#);
    let judged = gateway.data::<Antivirus>(&client(), &mut mail());
    assert!(judged.verdict.to_string().starts_with("defer 451 4.3.5"), "{}", judged.verdict);
    assert_eq!(judged.log, ["error: other: no scanner of that name and kind is granted to this plugin"]);
}

#[test]
fn r22_outbound_mail_is_scanned_with_a_policy_of_its_own() {
    let config = r#"{"found": "quarantine", "unavailable": "continue", "outbound": {"found": "reject"}}"#;
    let (out, within) = (client().login("al"), client());
    assert!(judge(&gateway(config, FOUND), &within).0.starts_with("quarantine"));
    assert!(judge(&gateway(config, FOUND), &out).0.starts_with("reject 550 5.7.1"));
    // What it does not say is as inbound.
    assert_eq!(judge(&gateway(config, silent()), &out).0, "next");
}

#[test]
fn several_scanners_are_asked_and_the_worst_counts() {
    let config = r#"{"scanners": ["one", "two"]}"#;
    for (one, two, expected) in [
        (CLEAN, CLEAN, "next"),
        (CLEAN, FOUND, "reject 550"),
        (silent(), FOUND, "reject 550"),
        (TOO_BIG, FOUND, "reject 550"),
        (silent(), CLEAN, "defer 451 4.7.1"),
        (silent(), TOO_BIG, "defer 451 4.7.1"),
        (TOO_BIG, silent(), "defer 451 4.7.1"),
        (TOO_BIG, CLEAN, "next"),
    ] {
        let gateway = Gateway::new().config(config).virus("one", one).virus("two", two);
        let (verdict, ..) = judge(&gateway, &client());
        assert!(verdict.starts_with(expected), "{verdict}");
    }
}

#[test]
fn nobody_elses_word_stands_in_the_header() {
    let fields = "X-Virus-Status: Clean\nx-virus-STATUS: Infected (no)\n";
    let mut mail = Mail::from("a@example.org").content(format!("{fields}Subject: x\n{fields}\nx\n"));
    gateway(r#"{"unavailable": "continue"}"#, silent()).data::<Antivirus>(&client(), &mut mail);
    assert_eq!(mail.header("X-Virus-Status"), [b"Unchecked (scanner not available)"]);
    assert_eq!(mail.header("Subject"), [b"x"]);
    // As many as fit into no journal.
    let mut mail = Mail::from("a@example.org").content(format!("{}\nx\n", fields.repeat(300)));
    let judged = gateway("{}", CLEAN).data::<Antivirus>(&client(), &mut mail);
    assert_eq!(judged.verdict.to_string(), "reject 554 5.6.0 The mail has 600 fields X-Virus-Status");
    // Without a field of its own it touches none.
    let mut mail = self::mail();
    assert_eq!(gateway(r#"{"header": ""}"#, CLEAN).data::<Antivirus>(&client(), &mut mail).edits, []);
}

#[test]
fn the_subject_of_infected_mail_that_goes_on_is_marked() {
    let config = r#"{"found": "tag", "subject_prefix": "[VIRUS] "}"#;
    for (subject, expected) in [
        (&b"Subject: hello\n"[..], &[&b"[VIRUS] hello"[..]][..]),
        (b"Subject: [VIRUS] hello\n", &[b"[VIRUS] hello"]),
        (b"", &[b"[VIRUS]"]),
        (b"Subject: \xff\n", &[b"\xff"]),
    ] {
        let mut mail = Mail::from("a@example.org").content([subject, b"\nx\n"].concat());
        assert_eq!(gateway(config, FOUND).data::<Antivirus>(&client(), &mut mail).verdict, Verdict::Next);
        assert_eq!(mail.header("Subject"), expected);
    }
}

#[test]
fn a_wrong_config_is_refused() {
    for (config, expected) in [
        (r#"{"scanners": []}"#, "scanners: name at least one"),
        (r#"{"header": "X Y"}"#, "header: `X Y` is no name"),
        (r#"{"subject_prefix": "a\nb"}"#, "subject_prefix: "),
        (r#"{"found": "continue"}"#, "found: unknown variant `continue`"),
        (r#"{"outbound": {"found": "x"}}"#, "outbound.found: unknown variant"),
        (r#"{"scanner": "clamav"}"#, "unknown field `scanner`"),
    ] {
        let error = Gateway::new().config(config).load::<Antivirus>().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(Gateway::new().load::<Antivirus>(), Ok(()));
}
