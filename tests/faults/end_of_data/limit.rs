//! What is endless: lines, `From ` lines, octets before the banner; and what others have been made to believe.

use postern_tests::client::Client;
use postern_tests::hop::{Hop, taking};
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use tokio::net::TcpStream;

use crate::dialogs::play_row;
use crate::{GREETED, RECIPIENT, play};

#[test]
fn t_line_commands_without_end() {
    play_row("T-LINE", 2);
}

#[test]
fn t_utf8_state_an_address_without_smtputf8_changes_nothing() {
    play_row("T-UTF8-STATE", 1);
}

#[test]
fn t_dsn_param_encoded_octets() {
    play_row("T-DSN-PARAM", 1);
    // In each place, each octet that no envelope may have.
    let mut text = format!("# T-DSN-PARAM: octets\n@ set max_errors 1000\n{GREETED}");
    let hidden = || (0..32_u8).chain([127]);
    for octet in hidden() {
        text += &format!("C: MAIL FROM:<> ENVID=a+{octet:02X}b\nS: 501 5.5.4 *\n");
    }
    text += RECIPIENT;
    for octet in hidden() {
        text += &format!("C: RCPT TO:<green@example.com> ORCPT=rfc822;a+{octet:02X}b\nS: 501 5.5.4 *\n");
    }
    play([("octets".to_owned(), text + "C: DATA\nS: 354 *\nC: .\nS: 250 *\n@ mail 1 recipients 1\n")]);
}

/// However many there are: they count, though nothing is kept of them.
#[test]
fn t_from_lines_count_as_the_rest_does() {
    play_row("T-FROM-LINES", 2);
    let mail = |lines: usize| {
        format!(
            "{RECIPIENT}C: DATA\nS: 354 *\nC\"\\(From a Mon Jan  1\\r\\n*{lines})Subject: x\\r\\n\\r\\nx\\r\\n.\\r\\n\"\n"
        )
    };
    let (much, little) = (mail(10_000), mail(100));
    play([(
        "from lines".to_owned(),
        format!(
            "# T-FROM-LINES: size\n@ set max_message_size 10000\n@ set max_header_size 1000\n{GREETED}{much}S: 552 5.3.4 *\n\
             {little}S: 250 *\n@ mails 1\n@ mail 1 lacks \"From a\"\n@ mail 1 body \"x\\r\\n\"\n"
        ),
    )]);
}

/// A reply without end from a next hop, in one line and in many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_line_replies_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let long: [fn() -> Vec<u8>; 3] =
        [|| vec![b'2'; 8 << 20], || [b"250-", &vec![b'x'; 8 << 20][..]].concat(), || b"250-x\r\n".repeat(1 << 20)];
    for long in long {
        for stage in ["", "EHLO", "MAIL", "RCPT", "DATA", "."] {
            let directory = directory.path().join(format!("{stage}{}", long().len()));
            let _ = std::fs::create_dir_all(&directory);
            let said = move |line: &str| {
                let here = if stage.len() < 2 { line == stage } else { line.starts_with(stage) };
                if here { Some(long()) } else { taking(line) }
            };
            let hop = Hop::start(said).await.unwrap();
            let directory = tempfile::tempdir_in(&directory).unwrap();
            let config = head(NO_DNS).replace("{sink}", &hop.address.port().to_string());
            let scene = Scene::set(&config, directory.path()).await.unwrap();
            let reply = scene.send("", "a@client.example", &["b@example.com"], "Subject: x\r\n\r\nx\r\n").await;
            assert!(reply.starts_with("250 "), "{reply}");
            let given_up = |event: &serde_json::Value| event["reply"].as_str().unwrap().starts_with("451 4.5.0 ");
            scene.happened("deferred", given_up).await;
            scene.server.stop().await;
        }
    }
}

/// Much before the banner: it is not kept, and its end is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_prebanner_flood_is_cut_off() {
    use tokio::io::AsyncWriteExt as _;
    play_row("T-PREBANNER-FLOOD", 1);
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&head(NO_DNS), directory.path()).await.unwrap();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(scene.address()).await.unwrap();
        let flood = async {
            let block = vec![b'x'; 64 * 1024];
            let mut sent = 0;
            while stream.write_all(&block).await.is_ok() {
                sent += block.len();
            }
            sent
        };
        // What is on its way fills the buffers of two sockets; an endless reader would take all there is.
        let sent = tokio::time::timeout(PATIENCE, flood).await.expect("it is cut off");
        assert!(sent < 32 << 20, "{sent} octets were taken");
    }
    scene.until(|events| events.iter().filter(|event| event["event"] == "disconnect").count() == 20).await;
    let reply = scene.send("", "a@client.example", &["b@example.com"], "Subject: x\r\n\r\nx\r\n").await;
    assert!(reply.starts_with("250 "), "{reply}");
    scene.server.stop().await;
}

/// What one tenant's destination says of a mailbox is not another's answer, and who is not asked for does not teach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_call_ahead_answers_are_kept_for_each_tenant() {
    let directory = tempfile::tempdir().unwrap();
    let says = |line: &str| match line {
        _ if line.starts_with("RCPT TO:<bob@example.com>") => Some(b"550 5.1.1 nobody\r\n".to_vec()),
        _ => taking(line),
    };
    let hop = Hop::start(says).await.unwrap();
    let config = head(NO_DNS).replace("{sink}", &hop.address.port().to_string());
    let other = config
        .split("[[tenant]]")
        .nth(1)
        .unwrap()
        .replace("\"example\"", "\"other\"")
        .replace("example.com", "example.org");
    let config = format!("{config}[[tenant]]{other}[chain]\nplatform = [\"recipients\"]\n");
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    for (to, expected) in [
        ("bob@example.com", "550 5.1.1 "),
        ("bob@example.com", "550 5.1.1 "),
        // The same local part and the same server, for another tenant.
        ("bob@example.org", "250 "),
        ("bob@example.com", "550 5.1.1 "),
    ] {
        let mut client: Client = scene.client("").await;
        client.send(format!("MAIL FROM:<a@client.example>\r\nRCPT TO:<{to}>\r\n").as_bytes()).await;
        client.line().await.unwrap();
        let reply = client.line().await.unwrap();
        assert!(reply.starts_with(expected), "{to}: {reply}");
    }
    // Asked once each.
    let heard = hop.heard().concat();
    let asked = |to: &str| {
        let command = format!("RCPT TO:<{to}>");
        heard.windows(command.len()).filter(|window| *window == command.as_bytes()).count()
    };
    assert_eq!((asked("bob@example.com"), asked("bob@example.org")), (1, 1));
    scene.server.stop().await;
}
