//! What the next hop is sent: each message once, with one end, and nothing in it that another server might take for one.

use std::path::Path;

use postern_tests::client::Client;
use postern_tests::hop::{Hop, taking};
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use tokio::net::TcpStream;

use super::sequences::{SEQUENCES, contents};
use super::transactions;
use crate::play;

/// One listener that is strict and one that repairs, and a next hop that writes down what comes.
async fn scene(directory: &Path, hop: &Hop, more: &str) -> Scene {
    let config = head(NO_DNS).replace("{sink}", &hop.address.port().to_string())
        + "[[listener]]\nname = \"lenient\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\nline_ends = \"normalize\"\n"
        + more;
    Scene::set(&config, directory).await.unwrap()
}

/// The reply to the end of the message, which comes in writes of one octet or in one.
async fn send(scene: &Scene, listener: usize, (content, chunks): (&[u8], bool), octet_by_octet: bool) -> String {
    let stream = TcpStream::connect(scene.server.addresses()[listener].1).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut client = Client::new(Box::new(stream), octet_by_octet, PATIENCE);
    client.line().await.unwrap();
    client.send(b"EHLO client.example\r\n").await;
    client.reply().await.unwrap();
    client.send(b"MAIL FROM:<a@client.example> BODY=8BITMIME\r\nRCPT TO:<b@example.com>\r\n").await;
    for _ in 0..2 {
        assert!(client.line().await.unwrap().starts_with("250 "));
    }
    if chunks {
        client.send(&[format!("BDAT {} LAST\r\n", content.len()).as_bytes(), content].concat()).await;
    } else {
        client.send(b"DATA\r\n").await;
        assert!(client.line().await.unwrap().starts_with("354 "));
        client.send(content).await;
    }
    let reply = client.line().await.unwrap();
    // Nothing of the content was taken for a command: this is the next reply.
    client.send(b"QUIT\r\n").await;
    assert!(client.line().await.unwrap().starts_with("221 "));
    reply
}

/// All that the hop was sent, once it has so many messages: the messages, in no order.
async fn messages(scene: &Scene, hop: &Hop, count: usize) -> Vec<Vec<u8>> {
    scene.queue(0).await.unwrap();
    // Closes connections, each with QUIT.
    let heard = hop.wait_until(|heard| heard.iter().all(|octets| octets.ends_with(b"QUIT\r\n"))).await;
    let mut all = Vec::new();
    for octets in &heard {
        let (commands, messages) = transactions(octets);
        for (at, command) in commands.iter().enumerate() {
            let known = [
                "EHLO mx.example.net",
                "MAIL FROM:<a@client.example>",
                "RCPT TO:<b@example.com>",
                "DATA",
                "QUIT",
                "RSET",
            ];
            assert!(known.iter().any(|known| command.starts_with(known)), "{at}: {command}");
        }
        assert_eq!(commands.iter().filter(|command| command.starts_with("MAIL")).count(), messages.len());
        let ends = octets.windows(5).filter(|window| window == b"\r\n.\r\n").count();
        assert_eq!(ends, messages.len(), "an end within a message");
        all.extend(messages);
    }
    assert_eq!(all.len(), count);
    all
}

const QUICK: &str = "[delivery]\nidle_timeout = \"1s\"\n";

/// The outbound oracle: what is taken of all sequences goes out as one message each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sp1_what_goes_out_ends_once() {
    let directory = tempfile::tempdir().unwrap();
    let hop = Hop::start(taking).await.unwrap();
    let scene = scene(directory.path(), &hop, QUICK).await;
    let mut taken = Vec::new();
    for (sequence, fault) in SEQUENCES {
        for (place, content) in contents(sequence).iter().enumerate() {
            for (listener, chunks) in [(0, false), (0, true), (1, false), (1, true)] {
                // In single octets where that is quick.
                let reply = send(&scene, listener, (content, chunks), place == 0).await;
                let expected = fault.reply(sequence, listener == 1);
                assert_eq!(reply.get(..9), expected.get(..9), "{} {place}: {reply}", sequence.escape_ascii());
                if reply.starts_with("250") {
                    taken.push(expected_lines(content, chunks));
                }
            }
        }
    }
    assert!(taken.len() > 150, "{}", taken.len());
    let mut came = Vec::new();
    for message in messages(&scene, &hop, taken.len()).await {
        assert!(message.starts_with(b"Received: from client.example "));
        let end = message.windows(4).position(|window| window == b"000\r").unwrap();
        came.push(message[end + 5..].to_vec());
    }
    came.sort();
    taken.sort();
    for (came, taken) in came.iter().zip(&taken) {
        assert!(came == taken, "\n{}\n{}", came.escape_ascii(), taken.escape_ascii());
    }
    scene.server.stop().await;
}

/// What is to come of such a content: repaired, the empty line before the first line that is no field.
fn expected_lines(content: &[u8], chunks: bool) -> Vec<u8> {
    let content = if chunks { content } else { content.strip_suffix(b".\r\n").unwrap() };
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let mut octets = content.iter().copied().peekable();
    // Only CRLF begins a line that may be stuffed.
    let mut stuffed = !chunks;
    while let Some(octet) = octets.next() {
        let line = lines.last_mut().unwrap();
        let is_end = match octet {
            b'\r' if octets.peek() == Some(&b'\n') => {
                octets.next();
                stuffed = !chunks;
                lines.push(Vec::new());
                continue;
            }
            b'\n' => true,
            b'\r' => {
                line.push(b' ');
                false
            }
            b'.' if stuffed && line.is_empty() => false,
            octet => {
                line.push(octet);
                false
            }
        };
        stuffed = false;
        if is_end {
            lines.push(Vec::new());
        }
    }
    let unfinished = lines.pop().filter(|line| !line.is_empty());
    let is_field = |(at, line): &(usize, &Vec<u8>)| match line.first() {
        Some(b' ' | b'\t') => *at > 0,
        _ => line.starts_with(b"Subject: "),
    };
    let head = lines.iter().enumerate().take_while(is_field).count();
    let (header, body) = lines.split_at(head);
    let body = body.strip_prefix(&[Vec::new()]).unwrap_or(body);
    let line = |line: &Vec<u8>| [line.as_slice(), b"\r\n"].concat();
    let (header, body): (Vec<_>, Vec<_>) =
        (header.iter().flat_map(line).collect(), body.iter().flat_map(line).collect());
    [header, b"\r\n".to_vec(), body, unfinished.map(|line| [line, b"\r\n".to_vec()].concat()).unwrap_or_default()]
        .concat()
}

/// Content as sent by BDAT; the fields of its header, as they are to come; its body, where it is to have one.
type Form = (&'static [u8], &'static [u8], Option<&'static [u8]>);

const FORMS: [Form; 24] = [
    (b"", b"", None),
    (b"\r\n", b"", Some(b"")),
    (b"\r\n\r\n", b"", Some(b"\r\n")),
    (b"X: y\r\n", b"X: y\r\n", None),
    (b"X: y", b"X: y\r\n", None),
    (b"X: y\r\n\r\n", b"X: y\r\n", Some(b"")),
    (b"X: y\r\n z\r\n", b"X: y\r\n z\r\n", None),
    (b"X: y\r\n\r\n\r\n\r\nbody\r\n", b"X: y\r\n", Some(b"\r\n\r\nbody\r\n")),
    (b"X: y\r\n\r\nbody", b"X: y\r\n", Some(b"body\r\n")),
    (b"\r\nbody\r\n", b"", Some(b"body\r\n")),
    (b"\r\nX: y\r\n\r\nbody\r\n", b"", Some(b"X: y\r\n\r\nbody\r\n")),
    (b"no field\r\nX: y\r\n\r\nbody\r\n", b"", Some(b"no field\r\nX: y\r\n\r\nbody\r\n")),
    (b" folded\r\nX: y\r\n\r\nbody\r\n", b"", Some(b" folded\r\nX: y\r\n\r\nbody\r\n")),
    (b": y\r\n\r\nbody\r\n", b"", Some(b": y\r\n\r\nbody\r\n")),
    (b"X y: z\r\n\r\nbody\r\n", b"", Some(b"X y: z\r\n\r\nbody\r\n")),
    (b"X: y\r\nno field\r\nY: z\r\n\r\nbody\r\n", b"X: y\r\n", Some(b"no field\r\nY: z\r\n\r\nbody\r\n")),
    (b"X: y\r\n\xff: z\r\n\r\nbody\r\n", b"X: y\r\n", Some(b"\xff: z\r\n\r\nbody\r\n")),
    (b".\r\n", b"", Some(b".\r\n")),
    (b".\r\n.\r\n", b"", Some(b".\r\n.\r\n")),
    (b"\r\n.\r\n", b"", Some(b".\r\n")),
    (b"X: y\r\n.\r\nZ: z\r\n", b"X: y\r\n", Some(b".\r\nZ: z\r\n")),
    (b"X: y\r\n\r\n.\r\nMAIL FROM:<x@client.example>\r\n", b"X: y\r\n", Some(b".\r\nMAIL FROM:<x@client.example>\r\n")),
    (b"From a Mon Jan  1 10:00:00 2026\r\nX: y\r\n\r\nFrom b\r\n", b"X: y\r\n", Some(b"From b\r\n")),
    (b"X: y\r\n \r\n\r\nbody\r\n", b"X: y\r\n \r\n", Some(b"body\r\n")),
];

/// What is inserted, and whether above or below the mail's own fields.
const INSERTED: [(&str, bool); 5] =
    [("Received", true), ("Authentication-Results", true), ("Received-SPF", true), ("X-Tag", true), ("Subject", false)];

fn dot_stuffed(content: &[u8]) -> Vec<u8> {
    let lines = content.split_inclusive(|&b| b == b'\n');
    let mut stuffed: Vec<u8> =
        lines.flat_map(|line| [if line.starts_with(b".") { &b"."[..] } else { b"" }, line].concat()).collect();
    if !stuffed.is_empty() && !stuffed.ends_with(b"\r\n") {
        stuffed.extend_from_slice(b"\r\n");
    }
    stuffed.extend_from_slice(b".\r\n");
    stuffed
}

/// Fields that gateway and plugins insert stand where they should, and the mail is around them what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_smug_ins_inserted_fields_change_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let hop = Hop::start(taking).await.unwrap();
    let plugins = format!(
        "{QUICK}[[plugin]]\nname = \"spf\"\n[[plugin]]\nname = \"headers\"\n\
         config = {{ rules = [{{ name = \"tag\", subject = \"[x]\", add = [{{ name = \"X-Tag\", value = \"yes\" }}] }}] }}\n\
         [chain]\nplatform = [\"spf\", \"headers\"]\n"
    );
    let scene = scene(directory.path(), &hop, &plugins).await;
    let mut wanted = Vec::new();
    for (content, header, body) in FORMS {
        for chunks in [true, false] {
            let octets = if chunks { content.to_vec() } else { dot_stuffed(content) };
            let reply = send(&scene, 0, (&octets, chunks), false).await;
            assert!(reply.starts_with("250 "), "{}: {reply}", content.escape_ascii());
            wanted.push((header.to_vec(), body.map(<[u8]>::to_vec)));
        }
    }
    let mut came = Vec::new();
    for message in messages(&scene, &hop, wanted.len()).await {
        let whole = message.escape_ascii().to_string();
        let (head, body) = match message.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(at) => (&message[..at + 2], Some(message[at + 4..].to_vec())),
            None => (&message[..], None),
        };
        let mut fields: Vec<Vec<u8>> = Vec::new();
        for line in head.split_inclusive(|&b| b == b'\n') {
            match fields.last_mut() {
                Some(field) if line.starts_with(b" ") || line.starts_with(b"\t") => field.extend_from_slice(line),
                _ => fields.push(line.to_vec()),
            }
        }
        for (name, above) in INSERTED {
            let at: Vec<_> =
                (0..fields.len()).filter(|&at| fields[at].starts_with(format!("{name}:").as_bytes())).collect();
            assert_eq!(at.len(), 1, "{name} in {whole}");
            let field = fields.remove(at[0]);
            assert!(field.ends_with(b"\r\n"), "{name} in {whole}");
            // The mail's own begin with an X and a colon.
            let others = if above { &fields[..at[0]] } else { &fields[at[0]..] };
            assert!(others.iter().all(|field| !field.starts_with(b"X:")), "{name} in {whole}");
        }
        came.push((fields.concat(), body));
    }
    came.sort();
    wanted.sort();
    assert_eq!(came, wanted);
    scene.server.stop().await;
}

/// What a submission server adds, where there is no header and where there is no body.
#[test]
fn t_smug_ins_fields_of_a_submission_server() {
    let dialogs = FORMS.map(|(content, _, body)| {
        let content: String = content.iter().map(|octet| format!("\\x{octet:02x}")).collect::<String>();
        let body: String = body.unwrap_or_default().iter().map(|octet| format!("\\x{octet:02x}")).collect();
        let len = content.len() / 4;
        // A last line without end gets one on the way out only.
        let body = if content.ends_with("\\x0a") || len == 0 { body } else { body.trim_end_matches("\\x0d\\x0a").to_owned() };
        let text = format!(
            "# T-SMUG-INS: submission\n@ listener submission\n@ client 198.51.100.20\n{}\
             C: MAIL FROM:<ann@example.com> BODY=8BITMIME\nS: 250 *\nC: RCPT TO:<b@elsewhere.example>\nS: 250 *\n\
             C\"BDAT {len} LAST\\r\\n{content}\"\nS: 250 *\n@ mail 1 has \"\\r\\nDate: \"\n@ mail 1 has \"\\r\\nMessage-ID: <\"\n\
             @ mail 1 body \"{body}\"\n",
            crate::GREETED
        );
        (content, text)
    });
    play(dialogs);
}
