//! SP9: not an open relay in any form of address.

use std::fmt::Write as _;

use postern_tests::scene::{NO_DNS, Scene, head};

use crate::dialogs::play_row;
use crate::play;

/// Who the forms are tried by: nmap's script has the first four.
const SENDERS: [&str; 6] =
    ["", "x@evil.example", "x@[203.0.113.25]", "x@gw.example.org", "ann@example.com", "x@client.example"];

/// What stands between the angle brackets of RCPT, as octets of a dialogue, and the start of the reply.
const REFUSED: [(&str, &str); 78] = [
    // The sixteen of nmap's smtp-open-relay, those that differ in the recipient.
    ("relay@evil.example", "550 5.7.1"),
    ("relay%evil.example@[203.0.113.25]", "550 5.7.1"),
    ("relay%evil.example@gw.example.org", "550 5.7.1"),
    ("\\\"relay@evil.example\\\"", "501 5.1.3"),
    ("\\\"relay%evil.example\\\"", "501 5.1.3"),
    ("relay@evil.example@[203.0.113.25]", "501 5.1.3"),
    ("\\\"relay@evil.example\\\"@[203.0.113.25]", "550 5.7.1"),
    ("relay@evil.example@gw.example.org", "501 5.1.3"),
    ("@[203.0.113.25]:relay@evil.example", "550 5.7.1"),
    ("@gw.example.org:relay@evil.example", "550 5.7.1"),
    ("evil.example!relay", "501 5.1.3"),
    ("evil.example!relay@[203.0.113.25]", "550 5.7.1"),
    ("evil.example!relay@gw.example.org", "550 5.7.1"),
    // Routes in the local part of a domain of ours, quoted and not.
    ("u%evil.example@example.com", "550 5.7.1"),
    ("u%evil.example%example.com@example.com", "550 5.7.1"),
    ("evil.example!u@example.com", "550 5.7.1"),
    ("evil.example!example.com!u@example.com", "550 5.7.1"),
    ("\\\"u@evil.example\\\"@example.com", "550 5.7.1"),
    ("\\\"u\\\\@evil.example\\\"@example.com", "550 5.7.1"),
    ("\\\"u%evil.example\\\"@example.com", "550 5.7.1"),
    ("\\\"evil.example!u\\\"@example.com", "550 5.7.1"),
    ("u@evil.example@example.com", "501 5.1.3"),
    ("u@example.com@evil.example", "501 5.1.3"),
    ("u\\\\@evil.example@example.com", "501 5.1.3"),
    ("evil.example::u@example.com", "501 5.1.3"),
    ("u%evil.example@", "501 5.1.3"),
    ("u%evil.example", "501 5.1.3"),
    // Source routes.
    ("@example.com:u@evil.example", "550 5.7.1"),
    ("@example.com,@evil.example:u@evil.example", "550 5.7.1"),
    ("@example.com:evil.example!u@example.com", "550 5.7.1"),
    ("@evil.example:@example.com:u@evil.example", "501 5.1.3"),
    ("@example.com", "501 5.1.3"),
    // Address literals, ours and others.
    ("u@[192.0.2.9]", "550 5.7.1"),
    ("u@[203.0.113.25]", "550 5.7.1"),
    ("u@[127.0.0.1]", "550 5.7.1"),
    ("u@[0.0.0.0]", "550 5.7.1"),
    ("u@[IPv6:2001:db8::9]", "550 5.7.1"),
    ("u@[IPv6:::1]", "550 5.7.1"),
    ("u@[IPv6:::ffff:203.0.113.25]", "550 5.7.1"),
    ("postmaster%evil.example@[203.0.113.25]", "550 5.7.1"),
    ("u@[203.0.113.25].evil.example", "501 5.1.3"),
    ("u@[evil.example]", "501 5.1.3"),
    ("u@[", "501 5.1.3"),
    ("u@203.0.113.25", "5"),
    ("u@3405803801", "5"),
    ("u@0xcb007119", "5"),
    // Names that look like ours.
    ("u@evil.example.", "550 5.7.1"),
    ("u@evil.example..", "501 5.1.3"),
    ("u@example.com..", "501 5.1.3"),
    ("u@.example.com", "501 5.1.3"),
    ("u@example..com", "501 5.1.3"),
    ("u@-example.com", "501 5.1.3"),
    ("u@gw.example.org", "550 5.7.1"),
    ("u@localhost", "550 5.7.1"),
    ("u@com", "550 5.7.1"),
    ("u@sub.example.com", "550 5.7.1"),
    ("u@evilexample.com", "550 5.7.1"),
    ("u@example.com.evil.example", "550 5.7.1"),
    ("u@example.comevil", "550 5.7.1"),
    ("postmaster@evil.example", "550 5.7.1"),
    ("u@xn--bcher-kva.evil.example", "550 5.7.1"),
    ("u@xn--bucher.example", "5"),
    ("u@bucher.example", "550 5.7.1"),
    ("u@b\u{00fc}cher.evil.example", "553 5.6.7"),
    ("u@\u{0435}xample.com", "553 5.6.7"),
    // Octets that end names for some.
    ("u@example.com\\0.evil.example", "500 5.5.2"),
    ("u@evil.example\\0@example.com", "500 5.5.2"),
    ("u@example.com\\xff.evil.example", "500 5.5.2"),
    ("u@evil.example\\xc3@example.com", "500 5.5.2"),
    ("u@evil.example\\t@example.com", "501 5.1.3"),
    ("u@example.com(evil)", "501 5.1.3"),
    ("u@evil.example(@example.com)", "501 5.1.3"),
    ("u@example.com evil.example", "501 5.1.3"),
    (" u@example.com", "501 5.1.3"),
    ("u@evil.example,v@example.com", "501 5.1.3"),
    ("u@example.com;v@evil.example", "501 5.1.3"),
    ("u@example.com/evil.example", "501 5.1.3"),
    ("u@example.com:25", "501 5.1.3"),
];

#[test]
fn sp9_no_form_of_address_is_relayed() {
    play_row("SP9", 4);
    let dialogs = SENDERS.map(|sender| {
        let mut text = format!(
            "# SP9: senders\n@ set max_errors 1000\n@ set administrators none\nS: 220 *\nC: EHLO client.example\nS...: 250\n\
             C: MAIL FROM:<{sender}>\nS: 250 *\n"
        );
        for (form, reply) in REFUSED {
            let _ = write!(text, "C\"RCPT TO:<{form}>\\r\\n\"\nS: {reply}*\n");
        }
        // Outside of the brackets, and without them.
        for form in ["<u@example.com>,<v@evil.example>", "<u@evil.example> <u@example.com>", "u@evil.example"] {
            let _ = write!(text, "C: RCPT TO:{form}\nS: 5*\n");
        }
        (format!("sender <{sender}>"), text + "C: DATA\nS: 554 5.5.1 *\n@ mails 0\n")
    });
    play(dialogs);
}

/// What is taken goes to the domain that it names, and the local part is not looked into on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp9_what_is_taken_goes_literally_to_the_own_domain() {
    let directory = tempfile::tempdir().unwrap();
    let config = head(NO_DNS).replace("[\"example.com\"]", "[\"example.com\", \"b\u{fc}cher.example\"]");
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    let forms = [
        ("a@EXAMPLE.COM", "a@example.com"),
        ("b@example.com.", "b@example.com"),
        ("C@eXample.com", "C@example.com"),
        ("d@xn--bcher-kva.example", "d@xn--bcher-kva.example"),
        ("e@B\u{dc}CHER.example", "e@xn--bcher-kva.example"),
        // Decomposed, and the full stop of East Asia (UTS 46): the same name.
        ("f@bu\u{308}cher\u{3002}example", "f@xn--bcher-kva.example"),
        ("\"g h\"@example.com", "\"g h\"@example.com"),
        ("\"i\"@example.com", "i@example.com"),
        ("@evil.example:j@example.com", "j@example.com"),
        ("k#evil.example@example.com", "k#evil.example@example.com"),
        ("l|evil.example@example.com", "l|evil.example@example.com"),
        ("m=evil.example@example.com", "m=evil.example@example.com"),
        ("\"n\\\"<o>\"@example.com", "\"n\\\"<o>\"@example.com"),
    ];
    let mut client = scene.client("").await;
    client.send(b"MAIL FROM:<> SMTPUTF8\r\n").await;
    client.line().await.unwrap();
    for (form, _) in forms {
        client.send(format!("RCPT TO:<{form}>\r\n").as_bytes()).await;
        let reply = client.line().await.unwrap();
        assert!(reply.starts_with("250 "), "{form}: {reply}");
    }
    client.send(b"DATA\r\n").await;
    client.line().await.unwrap();
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n").await;
    assert!(client.line().await.unwrap().starts_with("250 "));
    let mut came: Vec<_> = scene.taken("sink", 1).await.remove(0).recipients;
    let mut wanted: Vec<_> = forms.iter().map(|(_, to)| (*to).to_owned()).collect();
    // The sink reads up to the first `>`.
    wanted.last_mut().unwrap().truncate("\"n\\\"<o".len());
    came.sort();
    wanted.sort();
    assert_eq!(came, wanted);
    scene.server.stop().await;
}
