//! The language of the dialogues itself: a runner that takes anything would test nothing.

use postern_tests::escape::unescape;
use postern_tests::script::matches;
use postern_tests::{Dialog, Way, run};

#[test]
fn patterns() {
    for (pattern, text, expected) in [
        ("250 *", "250 Ok", true),
        ("250 *", "250 ", true),
        ("250 *", "251 Ok", false),
        ("250", "250 Ok", false),
        ("550 *<LF>*", "550 5.5.2 bare <LF>, see", true),
        ("550 *<LF>", "550 5.5.2 bare <LF>, see", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
    }
}

#[test]
fn escapes() {
    assert_eq!(unescape(r#"a\r\n\t\0\x80\\\"\(xy*3)\(\r\n*2)"#).unwrap(), b"a\r\n\t\0\x80\\\"xyxyxy\r\n\r\n");
    for bad in [r"\", r"\q", r"\x1", r"\xzz", r"\(x", r"\(x)", r"\(x*y)"] {
        assert!(unescape(bad).is_err(), "{bad}");
    }
}

#[test]
fn mistakes_in_a_dialogue_are_told_with_their_line() {
    for bad in ["S 220", "@ nonsense", "C\"x", "@ set colour red", "@ filter rcpt maybe", "X: y", "C*x: NOOP"] {
        let error = Dialog::parse("bad.smtp", &format!("# RFC 5321 §1: x\n{bad}\n")).unwrap_err();
        assert!(error.starts_with("bad.smtp:2: "), "{error}");
    }
    assert!(Dialog::parse("bad.smtp", "S: 220 *\n").is_err());
    assert!(Dialog::parse("bad.smtp", "# RFC 5321 §1: x\nS: 220 *\n@ client 192.0.2.1\n").is_err());
}

/// Each of these dialogues is wrong about the gateway, and each way must say so.
#[test]
fn a_dialogue_can_fail() {
    let mail = "S: 220 *\nC: HELO x\nS: 250 *\nC: MAIL FROM:<>\nS: 250 *\nC: RCPT TO:<jones@example.com>\nS: 250 *\n\
                C: DATA\nS: 354 *\nC: .\nS: 250 *\n";
    for wrong in [
        "S: 221 *",
        "S: 220 *\nS: 250 *",
        "S: 220 *\nC: NOOP",
        "S: 220 *\n@ close",
        "S: 220 *\n@ mails 1",
        "S: 220 *\nC: EHLO x\nS...: 251",
        "S: 220 *\nC: EHLO x\nS...: 250\n@ offers STARTTLS",
        "S: 220 *\nC: EHLO x\nS...: 250\n@ lacks DSN",
        "S: 220 *\n@ logged discarded",
        "S: 220 *\n@ asked nobody rcpt 1",
        &format!("{mail}@ mails 0"),
        &format!("{mail}@ mail 1 sender <a@b.c>"),
        &format!("{mail}@ mail 1 recipient <a@b.c>"),
        &format!("{mail}@ mail 1 has \"x-not-there\""),
        &format!("{mail}@ mail 1 lacks \"Received\""),
        &format!("{mail}@ mail 1 body \"x\""),
        &format!("{mail}@ mail 1 quarantined x"),
        &format!("{mail}@ mail 1 outbound"),
    ] {
        let dialog = Dialog::parse("wrong", &format!("# RFC 5321 §1: x\n{wrong}\n")).unwrap();
        for way in [Way::Memory, Way::Octets] {
            assert!(run(&dialog, way).is_err(), "{way:?}: {wrong}");
        }
    }
}
