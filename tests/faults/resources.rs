//! Resources and slow peers. RS: floods, slow peers, overload.

mod connections;
mod load;
mod process;
mod slow;
mod tls;

use std::path::Path;
use std::sync::LazyLock;

use postern::queue::Filter;
use postern_tests::scene::{NO_DNS, Scene, head};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::{GREETED, RECIPIENT};

/// Plays dialogues of `tests/dialogs`.
fn play(names: &[&str]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("dialogs");
    let read = |name: &&str| {
        let text = std::fs::read_to_string(directory.join(format!("{name}.smtp"))).unwrap();
        ((*name).to_owned(), text)
    };
    crate::play(names.iter().map(read));
}

/// A gateway with these keys in `[server]`, and this at the end of its config.
async fn scene(directory: &Path, server: &str, more: &str) -> Scene {
    let config = head(NO_DNS).replacen("[server]", &format!("[server]\n{server}"), 1);
    Scene::set(&format!("{config}{more}"), directory).await.unwrap()
}

const HTTP: &str = "[server.http]\naddress = \"127.0.0.1:0\"\n";

/// What is said of a small mail.
async fn send(scene: &Scene) -> String {
    scene.send("", "a@client.example", &["b@example.com"], "Subject: x\r\n\r\nx\r\n").await
}

/// What the memory holds of each message is bounded only with their number.
#[tokio::test]
async fn rs4_a_full_queue_takes_no_new_mail_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    // A next hop that nobody is behind.
    let config = head(NO_DNS).replace("{sink}", "1") + "[queue]\nmax_messages = 2\n" + HTTP;
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    for reply in ["250 ", "250 ", "452 4.3.1 ", "452 4.3.1 "] {
        let said = send(&scene).await;
        assert!(said.starts_with(reply), "{said}");
    }
    scene.queue(2).await.unwrap();
    let queued = scene.server.queue().list(&Filter::default()).await.unwrap().messages;
    scene.server.queue().delete(&Filter { ids: vec![queued[0].id], ..Filter::default() }).await.unwrap();
    assert!(send(&scene).await.starts_with("250 "), "there is room again");
}

#[test]
fn rs5_headers_beyond_the_limits_are_refused_at_the_end_of_data() {
    play(&["header-block-limit", "header-field-limit"]);
}

#[test]
fn rs6_recipients_beyond_the_limit_are_deferred_then_errors() {
    play(&["recipient-limit", "recipient-overshoot"]);
    let recipients = |count: u32| -> String {
        (0..count).map(|number| format!("C: RCPT TO:<user{number}@example.com>\n")).collect()
    };
    let begin =
        format!("# RS6: more and more recipients\n@ only whole\n{GREETED}C: MAIL FROM:<a@client.example>\nS: 250 *\n");
    let many = format!(
        "{begin}{}S*1000: 250 *\nS*1000: 452 4.5.3 *\nS*21: 452 4.5.3 *\nS: 421 4.7.0 *\n@ close\n@ mails 0\n",
        recipients(100_000)
    );
    // Who stops in time has sent to those that were taken.
    let kept = format!(
        "{begin}{}S*1000: 250 *\nS*500: 452 4.5.3 *\nC: DATA\nS: 354 *\nC: Subject: x\nC:\nC: x\nC: .\nS: 250 *\n\
         @ mails 1\n@ mail 1 recipients 1000\n",
        recipients(1500)
    );
    crate::play([("many".to_owned(), many), ("kept".to_owned(), kept)]);
}

#[test]
fn rs7_endless_lines_of_a_client() {
    play(&["endless-command-line", "long-command-lines", "long-lines-in-data"]);
}

/// What the next hop says before the line that never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs7_endless_replies_of_a_next_hop() {
    static LINE: LazyLock<Vec<u8>> = LazyLock::new(|| vec![b'x'; 64 * 1024]);
    static LINES: LazyLock<Vec<u8>> = LazyLock::new(|| b"250-and so on\r\n".repeat(4096));
    for endless in [&LINE, &LINES] {
        let hop = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let config = head(NO_DNS).replace("{sink}", &hop.local_addr().unwrap().port().to_string());
        let scene = Scene::set(&config, directory.path()).await.unwrap();
        let said = scene.send("", "a@client.example", &["b@example.com"], "Subject: x\r\n\r\nx\r\n").await;
        assert!(said.starts_with("250 "), "{said}");
        let (mut stream, _) = hop.accept().await.unwrap();
        stream.write_all(b"220 ready\r\n").await.unwrap();
        // It ends because the gateway closes.
        let mut sent: usize = 0;
        while stream.write_all(endless).await.is_ok() {
            sent += endless.len();
            assert!(sent < 64 << 20, "{sent} octets of one reply were taken");
        }
        scene.happened("deferred", |_| true).await;
        scene.queue(1).await.unwrap();
        scene.server.stop().await;
    }
}

#[test]
fn rs8_octets_that_no_command_has() {
    play(&["octets-in-commands", "nul-in-data"]);
}

#[test]
fn rs9_messages_beyond_the_limit() {
    play(&[
        "size-declared",
        "size-exceeded-in-data",
        "size-exceeded-in-bdat",
        "size-absurd-in-bdat",
        "size-at-the-limit",
        "big-body-in-a-file",
    ]);
}

/// A plugin that takes them apart either does so or has its mail deferred by policy; nobody else waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs10_mails_that_are_hard_to_take_apart() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = "[[plugin]]\nname = \"headers\"\n[[plugin.config.rules]]\nname = \"all\"\nfooter = { text = \"-- x\" }\n\
                  [chain]\nplatform = [\"headers\"]\n";
    let scene = scene(directory.path(), "", plugin).await;
    let nested: String =
        (0..20_000).map(|n| format!("--{n}\r\nContent-Type: multipart/x; boundary={}\r\n\r\n", n + 1)).collect();
    for (what, header, body) in [
        ("deep", "multipart/x; boundary=0", nested),
        ("messages in messages", "message/rfc822", "Content-Type: message/rfc822\r\n\r\n".repeat(30_000)),
        ("wide", "multipart/mixed; boundary=a", "--a\r\n\r\n".repeat(130_000)),
        ("a part that is its own parent", "multipart/mixed; boundary=a", {
            "--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n".repeat(10_000)
        }),
    ] {
        let mail = format!("Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: {header}\r\n\r\n{body}");
        let said = scene.send("", "a@client.example", &["b@example.com"], &mail).await;
        assert!(said.starts_with("250 ") || said.starts_with("451 4.3.0 "), "{what}: {said}");
        let next = scene.send("", "a@client.example", &["b@example.com"], "Subject: x\r\n\r\nx\r\n").await;
        assert!(next.starts_with("250 "), "after {what}: {next}");
    }
    scene.server.stop().await;
}

#[test]
fn rs14_commands_that_lead_to_nothing() {
    play(&["junk-commands", "junk-commands-after-a-mail", "junk-ehlo", "error-limit", "starttls-keeps-errors"]);
    let mut dialogs = Vec::new();
    for command in ["NOOP", "RSET", "VRFY smith", "HELP", "EHLO client.example", "HELO client.example"] {
        // The reply to EHLO has many lines.
        let reply = if command.starts_with("EHLO") { "S...: 250" } else { "S: 2*" };
        let one = format!("C: {command}\n{reply}\n");
        let all =
            format!("# RS14: junk\n@ only memory\n{GREETED}{}C: {command}\nS: 421 4.7.0 *\n@ close\n", one.repeat(100));
        dialogs.push((command.to_owned(), all));
    }
    let empty_chunk = "C: BDAT 0\nS: 250 *\n".repeat(100);
    let chunks = format!(
        "# RS14: junk\n@ only memory\n{GREETED}{RECIPIENT}{empty_chunk}C: BDAT 0\nS: 421 4.7.0 *\n@ close\n@ mails 0\n"
    );
    dialogs.push(("BDAT 0".to_owned(), chunks));
    crate::play(dialogs);
}
