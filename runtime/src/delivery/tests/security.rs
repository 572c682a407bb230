//! TLS and logins; faults SP3 and SP4.

use super::*;
use crate::mail::Route;

const CLEAR: &str = "S: 220 mx\nC: EHLO us.example\n";
const MAIL: &str = "C: MAIL FROM:<from@us.example>\nS: 250 ok\nC: RCPT TO:<to@them.example>\nS: 250 ok
    C: DATA\nS: 354 go\n.\nS: 250 ok\nend";

fn one() -> Job {
    job(Route::Mx(None), &["to@them.example"])
}

fn terms(tls: TlsPolicy, name: &str, trusted: bool) -> Terms {
    let (authority, acceptor) = certificate(name);
    let settings = Settings { extra_roots: if trusted { vec![authority] } else { vec![] }, ..Settings::default() };
    Terms { settings, tls: Some(tls), login: None, acceptor: Some(acceptor) }
}

#[tokio::test(start_paused = true)]
async fn starttls_by_policy_and_certificate() {
    let script = format!(
        "{CLEAR}S: 250-mx\nS: 250-PIPELINING\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\ntls
        C: EHLO us.example\nS: 250 mx\n{}",
        // What was offered in the clear is forgotten: no pipelining.
        MAIL.replace("S: 250 ok\nC: RCPT", "quiet\nS: 250 ok\nC: RCPT")
    );
    let untrusted = format!("{CLEAR}S: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\ntls\nend");
    for (tls, name, trusted, taken) in [
        (TlsPolicy::Opportunistic, "other.example", false, true),
        (TlsPolicy::Required, "other.example", false, true),
        (TlsPolicy::Verified, "mx.example", true, true),
        (TlsPolicy::Verified, "other.example", true, false),
        (TlsPolicy::Verified, "mx.example", false, false),
    ] {
        let script = if taken { &script } else { &untrusted };
        let talk = talk_with(script, &one(), terms(tls, name, trusted)).await;
        let expected = if taken { "delivered 250 2.0.0 remote" } else { "deferred 451 4.7.5 own" };
        assert_eq!(talk.brief(), expected, "{tls:?} {name} {trusted}");
    }
}

#[tokio::test(start_paused = true)]
async fn tls_from_the_first_octet() {
    let script = format!("tls\nS: 220 mx\nC: EHLO us.example\nS: 250-mx\nS: 250 STARTTLS\n{MAIL}");
    let talk = talk_with(&script, &one(), terms(TlsPolicy::Implicit, "mx.example", true)).await;
    assert_eq!(talk.brief(), "delivered 250 2.0.0 remote");
    let talk = talk_with("tls\nend", &one(), terms(TlsPolicy::Implicit, "mx.example", false)).await;
    assert_eq!(talk.brief(), "deferred 451 4.7.5 own");
}

#[tokio::test(start_paused = true)]
async fn sp3_octets_in_the_clear_after_the_reply_to_starttls_are_fatal() {
    for injected in ["250-AUTH PLAIN\\r\\n", "250 x\\r\\n", "2"] {
        let script = format!("{CLEAR}S: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS\"220 go\\r\\n{injected}\"\nend");
        for tls in [TlsPolicy::Opportunistic, TlsPolicy::Required, TlsPolicy::Verified] {
            let talk = talk_with(&script, &one(), terms(tls, "mx.example", true)).await;
            assert_eq!(talk.brief(), "deferred 451 4.5.0 own", "{tls:?} {injected}");
            // Not a failure of TLS, after which it would be tried without.
            assert!(!matches!(talk.failure, Some(Failure::Tls(_))));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sp4_without_tls_only_where_the_policy_allows() {
    let missing = format!("{CLEAR}S: 250 mx\n");
    let unknown = "S: 220 mx\nC: EHLO us.example\nS: 502 what\nC: HELO us.example\nS: 250 mx\n".to_owned();
    let refused = |reply: &str| format!("{CLEAR}S: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: {reply}\n");
    for start in [missing, unknown, refused("454 later"), refused("354 go"), refused("502 what"), refused("250 ok")] {
        for tls in [TlsPolicy::Required, TlsPolicy::Verified] {
            let talk = talk_with(&format!("{start}end"), &one(), terms(tls, "mx.example", true)).await;
            assert_eq!(talk.brief(), "deferred 451 4.7.5 own", "{tls:?} {start}");
        }
        let talk =
            talk_with(&(start.clone() + MAIL), &one(), terms(TlsPolicy::Opportunistic, "mx.example", true)).await;
        assert_eq!(talk.brief(), "delivered 250 2.0.0 remote", "{start}");
    }
    let never = format!("{CLEAR}S: 250-mx\nS: 250 STARTTLS\n{MAIL}");
    let talk = talk_with(&never, &one(), terms(TlsPolicy::Never, "mx.example", true)).await;
    assert_eq!(talk.brief(), "delivered 250 2.0.0 remote");
}

async fn log_in(tls: TlsPolicy, after_tls: &str) -> Talk {
    let login = Some(Login { user: "user".to_owned(), password: "secret".to_owned() });
    let start = format!("{CLEAR}S: 250-mx\nS: 250-AUTH PLAIN\nS: 250 STARTTLS\n");
    let script = match tls {
        TlsPolicy::Verified => format!("{start}C: STARTTLS\nS: 220 go\ntls\nC: EHLO us.example\n{after_tls}"),
        _ => format!("{start}{after_tls}"),
    };
    talk_with(&script, &one(), Terms { login, ..terms(tls, "mx.example", true) }).await
}

#[tokio::test(start_paused = true)]
async fn logins() {
    let verified = TlsPolicy::Verified;
    let plain = "S: 250-mx\nS: 250 AUTH LOGIN PLAIN\nC: AUTH PLAIN AHVzZXIAc2VjcmV0\n";
    let taken = log_in(verified, &format!("{plain}S: 235 2.7.0 welcome\n{MAIL}")).await;
    assert_eq!(taken.brief(), "delivered 250 2.0.0 remote");
    let login = "S: 250-mx\nS: 250 AUTH LOGIN\nC: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: dXNlcg==\nS: 334 UGFzc3dvcmQ6
        C: c2VjcmV0\nS: 235 2.7.0 welcome\n";
    assert_eq!(log_in(verified, &format!("{login}{MAIL}")).await.brief(), "delivered 250 2.0.0 remote");
    for refusal in ["535 5.7.8 no", "454 4.7.0 later", "250 what"] {
        let talk = log_in(verified, &format!("{plain}S: {refusal}\nend")).await;
        assert_eq!(talk.brief(), "deferred 451 4.7.0 own", "{refusal}");
        assert!(!format!("{:?}", talk.outcomes).contains("secret"));
    }
    let missing = log_in(verified, "S: 250 mx\nend").await;
    assert_eq!(missing.brief(), "deferred 451 4.7.0 own");
    let clear = log_in(TlsPolicy::Never, "end").await;
    assert_eq!(clear.brief(), "deferred 451 4.7.0 own");
    assert!(!format!("{:?}", Login { user: "u".to_owned(), password: "secret".to_owned() }).contains("secret"));
}
