//! MIME files that others have collected, pushed through the whole gateway (`make test-suites`): what comes out is octet for
//! octet what went in, but for the fields that the gateway documents. What it refuses or mends is in the tables below.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use postern_tests::client::Client;
use postern_tests::scene::{NO_DNS, Scene, head};

/// What is not taken, and what is said to it.
const REFUSED: &[(&str, &str)] = &[
    ("mail-parser/legacy/049.eml", BARE_CR),
    ("mail-parser/malformed/000.eml", BARE_LF),
    ("mail-parser/malformed/018.eml", BARE_LF),
    ("mail-parser/thirdparty/001.eml", BARE_LF),
    ("mail-parser/thirdparty/003.eml", BARE_LF),
    ("mail-parser/thirdparty/005.eml", "554 5.6.1 Message has a NUL octet"),
];
const BARE_CR: &str = "550 5.5.2 Message has a bare <CR>, see RFC 5321 section 2.3.8";
const BARE_LF: &str = "550 5.5.2 Message has a bare <LF>, see RFC 5321 section 2.3.8";
/// What gets an empty line before the first line that is no field, with the number of fields' lines before it.
const SEPARATED: &[(&str, usize)] = &[("cpython/msg_19.txt", 0), ("cpython/msg_35.txt", 3)];
/// What begins with the line of an mbox, which is left out.
const MBOX: &[&str] = &["cpython/msg_25.txt", "cpython/msg_43.txt"];

/// Each with its path below the folder; line ends are CRLF, but where a file has some of both.
fn files() -> BTreeMap<String, Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/suites/mime");
    let mut files = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}; make test-suites", folder.display()))
        {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if name.ends_with(".eml") || (name.starts_with("cpython/msg_") && name.ends_with(".txt")) {
                files.insert(name, with_crlf(std::fs::read(&path).unwrap()));
            }
        }
    }
    files
}

fn with_crlf(octets: Vec<u8>) -> Vec<u8> {
    if octets.contains(&b'\r') {
        return octets;
    }
    octets
        .split_inclusive(|&b| b == b'\n')
        .flat_map(|line| match line.strip_suffix(b"\n") {
            Some(line) => [line, b"\r\n"].concat(),
            None => line.to_vec(),
        })
        .collect()
}

/// The reply to the message, or the first that refuses.
async fn send(client: &mut Client, number: usize, content: &[u8], chunks: bool) -> String {
    let body = if content.is_ascii() { "" } else { " BODY=8BITMIME" };
    client.send(format!("MAIL FROM:<n{number}@client.example>{body}\r\nRCPT TO:<b@example.com>\r\n").as_bytes()).await;
    for _ in 0..2 {
        assert!(client.line().await.unwrap().starts_with("250 "));
    }
    if chunks {
        client.send(&[format!("BDAT {} LAST\r\n", content.len()).as_bytes(), content].concat()).await;
        return client.line().await.unwrap();
    }
    client.send(b"DATA\r\n").await;
    assert!(client.line().await.unwrap().starts_with("354 "));
    let mut stuffed: Vec<u8> = Vec::new();
    // Only CRLF ends a line.
    let mut at_start = true;
    for (at, &octet) in content.iter().enumerate() {
        if at_start && octet == b'.' {
            stuffed.push(b'.');
        }
        stuffed.push(octet);
        at_start = octet == b'\n' && at > 0 && content[at - 1] == b'\r';
    }
    let end: &[u8] = if at_start { b".\r\n" } else { b"\r\n.\r\n" };
    client.send(&[&stuffed, end].concat()).await;
    client.line().await.unwrap()
}

/// Below our trace field.
fn expected(name: &str, content: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = content.split_inclusive(|&b| b == b'\n').collect();
    if MBOX.contains(&name) {
        lines.remove(0);
    }
    if let Some((_, at)) = SEPARATED.iter().find(|(separated, _)| *separated == name) {
        lines.insert(*at, b"\r\n");
    }
    let mut octets = lines.concat();
    if !octets.is_empty() && !octets.ends_with(b"\r\n") {
        octets.extend_from_slice(b"\r\n");
    }
    octets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs files of others: make test-suites"]
async fn mime_files_pass_unharmed_suite() {
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&head(NO_DNS), directory.path()).await.unwrap();
    let files = files();
    assert!(files.len() > 140, "{} files only", files.len());
    let names: Vec<&String> = files.keys().collect();
    let (mut refused, mut wrong) = (BTreeMap::new(), Vec::new());
    for chunks in [false, true] {
        for (number, name) in names.iter().enumerate() {
            let mut client = scene.client("").await;
            let reply = send(&mut client, number, &files[*name], chunks).await;
            client.hang_up();
            if !reply.starts_with("250 ") {
                let before = refused.insert(name.as_str(), reply.clone());
                assert!(before.is_none_or(|before| before == reply), "{name}: by DATA or by BDAT: {reply}");
            }
        }
    }
    for mail in scene.taken("sink", 2 * (files.len() - refused.len())).await {
        let number: usize = mail.sender[1..].split('@').next().unwrap().parse().unwrap();
        let name = names[number];
        let trace = mail.octets.windows(7).position(|window| window == b" +0000\r").map_or(0, |at| at + 8);
        assert!(mail.octets.starts_with(b"Received: from mail.client.example "), "{name}");
        if mail.octets[trace..] != expected(name, &files[name]) {
            let same = mail.octets[trace..]
                .iter()
                .zip(expected(name, &files[name]).iter())
                .take_while(|(a, b)| a == b)
                .count();
            wrong.push(format!(
                "{name} from octet {same}: {}",
                mail.octets[trace + same..].iter().take(60).copied().collect::<Vec<_>>().escape_ascii()
            ));
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let refused: Vec<(&str, &str)> = refused.iter().map(|(name, reply)| (*name, reply.as_str())).collect();
    assert_eq!(refused, REFUSED);
    scene.server.stop().await;
}

/// With plugins that look into every part and write into it: each mail is taken, and no call fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs files of others: make test-suites"]
async fn mime_files_are_read_part_by_part_suite() {
    let directory = tempfile::tempdir().unwrap();
    let config = head(NO_DNS)
        + "[[plugin]]\nname = \"headers\"\nlimits = { cpu = \"2s\" }\nconfig = { footer_limit = 4194304, rules = [\
           { name = \"all\", subject = \"[x]\", footer = { text = \"the end\" } }] }\n[chain]\nplatform = [\"headers\"]\n";
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    let files = files();
    let mut count = 0;
    for (number, (name, content)) in files.iter().enumerate() {
        let mut client = scene.client("").await;
        let reply = send(&mut client, number, content, true).await;
        client.hang_up();
        let is_refused = REFUSED.iter().any(|(refused, said)| refused == name && *said == reply);
        assert!(is_refused || reply.starts_with("250 "), "{name}: {reply}");
        count += usize::from(!is_refused);
    }
    let taken = scene.taken("sink", count).await;
    let with_footer = taken.iter().filter(|mail| mail.octets.windows(7).any(|window| window == b"the end"));
    assert!(with_footer.count() > 50);
    let failures: Vec<_> = scene
        .events()
        .into_iter()
        .filter(|event| event.get("failure").is_some() || event["event"] == "plugin-failed")
        .collect();
    assert!(failures.is_empty(), "{failures:?}");
    scene.server.stop().await;
}
