use postern_sdk::testing::{Client, Gateway, Judged, Mail};

use super::*;

fn gateway(config: &str) -> Gateway {
    Gateway::new().config(config).grant("signing").grant("metrics")
}

/// With keys of `example.com` (two), `example.org` and the platform's own `example.net`.
fn with_keys(config: &str) -> Gateway {
    let keys = [("example.com", "rsa"), ("example.com", "ed"), ("example.org", "s1"), ("example.net", "own")];
    keys.into_iter().fold(gateway(config), |gateway, (domain, selector)| gateway.key(domain, selector))
}

fn mail(from: &str) -> Mail {
    Mail::from("bounces@example.com").to("al@example.edu").content(format!("From: {from}\nSubject: x\n\nhello\n"))
}

/// The verdict's name, and what was asked for.
fn deliver(gateway: &Gateway, client: &Client, from: &str) -> (Judged, Vec<String>) {
    let judged = gateway.deliver::<DkimSign>(client, &mut mail(from));
    let asked = judged.edits.iter().map(|edit| match edit {
        postern_sdk::testing::Edit::Sign { domain, selector } => format!("{selector}@{domain}"),
        other => format!("{other:?}"),
    });
    let asked = asked.collect();
    (judged, asked)
}

fn user() -> Client {
    Client::at("192.0.2.1").login("ann@example.com")
}

#[test]
fn r27_mail_is_signed_for_the_domain_that_it_is_from() {
    let gateway = with_keys("{}");
    for (from, expected) in [
        ("Ann <ann@example.com>", &["rsa@example.com", "ed@example.com"][..]),
        ("ann@Example.ORG", &["s1@example.org"]),
        // Relaxed alignment: a key of the domain above does as well.
        ("news@a.b.example.org", &["s1@example.org"]),
        ("Ann <ann@other.example>, bob@example.org", &["s1@example.org"]),
        ("ann@badexample.org", &[]),
        ("ann@org", &[]),
        ("nobody", &[]),
        ("\"ann@example.com\" <ann@other.example>", &[]),
    ] {
        let (judged, asked) = deliver(&gateway, &user(), from);
        assert_eq!(
            (judged.verdict, asked),
            (Verdict::Next, expected.iter().map(ToString::to_string).collect()),
            "{from}"
        );
    }
    assert_eq!((gateway.metric("signed"), gateway.metric("missing")), (4, 4));
}

#[test]
fn a_key_of_the_domain_itself_goes_before_one_above() {
    let gateway = with_keys("{}").key("news.example.org", "n");
    assert_eq!(deliver(&gateway, &user(), "x@news.example.org").1, ["n@news.example.org"]);
    assert_eq!(deliver(&gateway, &user(), "x@old.example.org").1, ["s1@example.org"]);
}

/// Anybody can write the recipient's own domain into From.
#[test]
fn mail_of_strangers_is_never_signed() {
    let stranger = Client::at("192.0.2.1");
    for (config, client, signed) in [
        ("{}", &stranger, false),
        (r#"{"fallback": "example.net", "missing": "defer"}"#, &stranger, false),
        ("{}", &user(), true),
        ("{}", &stranger.clone().trusted(), true),
    ] {
        let (judged, asked) = deliver(&with_keys(config), client, "ann@example.org");
        assert_eq!((judged.verdict, !asked.is_empty()), (Verdict::Next, signed), "{config}");
    }
    let error = gateway(r#"{"direction": "both"}"#).load::<DkimSign>().unwrap_err();
    assert!(error.contains("unknown field `direction`"), "{error}");
}

#[test]
fn selectors_are_those_that_config_names() {
    let config = r#"{"selectors": {"Example.com": ["ed"]}}"#;
    assert_eq!(deliver(&with_keys(config), &user(), "ann@example.com").1, ["ed@example.com"]);
    let config = r#"{"selectors": {"example.com": ["ed", "gone"]}}"#;
    let error = with_keys(config).load::<DkimSign>().unwrap_err();
    assert_eq!(error, r#"selectors."example.com": there is no key "gone"; there are: rsa, ed"#);
}

/// It was there once: the mail waits, and does not go without.
#[test]
fn a_key_that_config_names_and_that_is_gone_lets_nothing_out_unsigned() {
    let gateway = with_keys(r#"{"selectors": {"example.edu": ["gone"]}, "fallback": "example.net"}"#);
    let (judged, asked) = deliver(&gateway, &user(), "ann@example.edu");
    assert_eq!((judged.verdict.to_string().as_str(), asked.len()), ("defer 451 4.3.5 Local error in configuration", 0));
    assert!(judged.log.iter().any(|line| line.contains("gone of example.edu")), "{:?}", judged.log);
    assert_eq!(gateway.metric("failed"), 1);
}

#[test]
fn what_has_no_key_is_passed_or_waits_or_gets_the_fallbacks() {
    let (judged, asked) = deliver(&with_keys(r#"{"fallback": "example.net"}"#), &user(), "ann@other.example");
    assert_eq!((judged.verdict, asked), (Verdict::Next, vec!["own@example.net".to_owned()]));
    let (judged, asked) = deliver(&with_keys(r#"{"missing": "defer"}"#), &user(), "ann@other.example");
    assert!(matches!(judged.verdict, Verdict::Defer(_)) && asked.is_empty());
    let both = r#"{"missing": "defer", "fallback": "none.example"}"#;
    assert!(deliver(&with_keys(both), &user(), "ann@other.example").0.verdict.reply().is_some());
}

#[test]
fn a_wrong_config_is_told() {
    for (config, problem) in [
        (r#"{"selectors": {"example.com": []}}"#, "selectors"),
        (r#"{"selectors": {"a b": ["s"]}}"#, "selectors"),
        (r#"{"fallback": "a..b"}"#, "fallback"),
        (r#"{"missing": "bounce"}"#, "missing"),
        (r#"{"key": "x"}"#, "key"),
    ] {
        let error = gateway(config).load::<DkimSign>().unwrap_err();
        assert!(error.contains(problem), "{config}: {error}");
    }
}
