//! SP…: what a client, a next hop or a name server says to make the gateway do what it must not. Rows that are said and
//! answered on one connection are dialogues (`tests/dialogs`, each cites its rows); here they are played row by row, beside
//! what needs the whole gateway.

mod backscatter;
mod injection;
mod relay;
mod target;
mod tls;

use postern_tests::client::Client;
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use tokio::net::TcpStream;

use crate::dialogs::play_row;
use crate::{GREETED, RECIPIENT, play};

/// The reply after which each of these ends; nothing more is said then.
fn ends(name: &str, steps: &str) -> (String, String) {
    (name.to_owned(), format!("# SP: {name}\n{steps}"))
}

#[test]
fn sp5_starttls_twice_and_in_a_transaction() {
    play_row("SP5", 3);
}

#[test]
fn sp6_auth_out_of_place_malformed_and_guessed() {
    play_row("SP6", 6);
    // A megabyte is given up long before its end.
    let text = format!(
        "@ offer implicit\n@ auth\n{GREETED}C: AUTH PLAIN\nS: 334 *\nC\"\\(A*1000000)\"\nS: 421 4.7.0 *\n@ close\n"
    );
    let in_a_transaction =
        format!("@ offer implicit\n@ auth\n{GREETED}{RECIPIENT}C: AUTH PLAIN AGFubgBzZWNyZXQ=\nS: 503 5.5.1 *\n");
    play([ends("megabyte", &text), ends("transaction", &in_a_transaction)]);
}

#[test]
fn sp7_pipelining_past_a_synchronisation_point() {
    play_row("SP7", 4);
}

#[test]
fn sp8_commands_out_of_order() {
    play_row("SP8", 4);
    let (bdat, data) = ("C\"BDAT 3\\r\\nx\\r\\n\"\nS: 250 *\n", "C: DATA\nS: 503 5.5.1 *\n");
    play([
        ends("bdat then data", &format!("{GREETED}{RECIPIENT}{bdat}{data}")),
        ends("bdat without mail, then data", &format!("{GREETED}C\"BDAT 3\\r\\nx\\r\\n\"\nS: 503 5.5.1 *\n{data}")),
        ends(
            "bdat without a recipient, then data",
            &format!("{GREETED}C: MAIL FROM:<>\nS: 250 *\nC\"BDAT 3\\r\\nx\\r\\n\"\nS: 554 5.5.1 *\n{data}"),
        ),
    ]);
}

#[test]
fn sp13_parameters_of_dsn() {
    play_row("SP13", 1);
    // Ten kilobytes are no command line.
    let long = |command: &str| {
        format!("{GREETED}{RECIPIENT}C\"{command}\\(x*10000)\\r\\n\"\nS: 500 5.5.2 *\nC: DATA\nS: 354 *\n")
    };
    play([
        ends(
            "envid",
            &format!("{GREETED}C\"MAIL FROM:<> ENVID=\\(x*10000)\\r\\n\"\nS: 500 5.5.2 *\nC: DATA\nS: 503 *\n"),
        ),
        ends("orcpt", &long("RCPT TO:<jones@example.com> ORCPT=rfc822;")),
    ]);
}

#[test]
fn sp14_commands_of_strangers() {
    play_row("SP14", 2);
    let line = "PROXY TCP4 198.51.100.7 203.0.113.25 4000 25";
    play([
        // Before the banner it is an early talker's word, after it no command.
        ends("proxy first", &format!("C: {line}\nS: 554 5.5.0 *\n@ close\n")),
        ends(
            "proxy later",
            &format!(
                "S: 220 *\nC: {line}\nS: 500 5.5.2 *\nC: EHLO x\nS...: 250\nC: MAIL FROM:<>\nS: 250 *\nC: RCPT TO:<u@evil.example>\nS: 550 5.7.1 *\n"
            ),
        ),
    ]);
}

/// A listed balancer that says what is no header, and one that says a good one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp14_a_bad_proxy_header_ends_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let config = head(NO_DNS).replace("xclient_from", "proxy_protocol_from");
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let addresses = [198, 51, 100, 7, 203, 0, 113, 25, 0x0f, 0xa0, 0, 25];
    let header = |command: &[u8], rest: &[u8]| [&signature[..], command, rest].concat();
    for bad in [
        b"PROXY TCP4 198.51.100.7 203.0.113.25 4000 25\r\nEHLO x\r\n".to_vec(),
        b"EHLO client.example\r\n".to_vec(),
        // Of the next version, with addresses that are too short, too long, of no IP.
        header(b"\x31\x11\x00\x0c", &addresses),
        header(b"\x21\x11\x00\x02", &[1, 2]),
        header(b"\x21\x11\xff\xff", &addresses),
        header(b"\x21\x31\x00\xd8", &[0; 216]),
    ] {
        let mut client = connect(&scene).await;
        client.send(&bad).await;
        client.closed().await.unwrap();
    }
    let refused = |event: &serde_json::Value| event["event"] == "refused";
    scene.until(|events| events.iter().filter(|event| refused(event)).count() == 6).await;
    let mut client = connect(&scene).await;
    client.send(&header(b"\x21\x11\x00\x0c", &addresses)).await;
    assert!(client.line().await.unwrap().starts_with("220 "));
    client.send(b"EHLO x\r\n").await;
    assert!(client.reply().await.unwrap()[0].contains("[198.51.100.7]"));
    scene.server.stop().await;
}

async fn connect(scene: &Scene) -> Client {
    Client::new(Box::new(TcpStream::connect(scene.address()).await.unwrap()), false, PATIENCE)
}

#[test]
fn sp15_other_protocols() {
    play_row("SP15", 3);
    let lines = [
        "GET / HTTP/1.1",
        "PUT /x HTTP/1.0",
        "OPTIONS * HTTP/1.1",
        "CONNECT gw.example.org:25 HTTP/1.1",
        "Host: gw.example.org",
        "Content-Length: 100",
        "From: smith@client.example",
        "Received: from x",
    ];
    play(lines.map(|line| ends(line, &format!("S: 220 *\nC: {line}\nC: MAIL FROM:<>\nS: 421 4.7.0 *\n@ close\n"))));
}

#[test]
fn sp16_nothing_is_left_after_the_end_of_data_a_timeout_or_a_refusal() {
    play_row("SP16", 2);
    // A refusal of MAIL by a plugin is held to RCPT, and must be gone with RSET.
    let refused = format!(
        "@ filter once mail-from reject 550 5.7.1 No\n{GREETED}C: MAIL FROM:<smith@client.example>\nS: 250 *\n\
         C: RCPT TO:<jones@example.com>\nS: 550 5.7.1 No\nC: DATA\nS: 554 5.5.1 *\nC: RSET\nS: 250 *\n\
         C: RCPT TO:<jones@example.com>\nS: 503 5.5.1 *\n{RECIPIENT}C: DATA\nS: 354 *\nC: .\nS: 250 *\n@ mails 1\n"
    );
    play([ends("refused by a plugin", &refused)]);
}
