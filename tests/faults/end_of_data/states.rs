//! T-BDAT-STATE: what may follow a chunk, for each pair of how it ended and what comes next.

use crate::{GREETED, RECIPIENT, play};

/// What was said before, and whether the transaction is then absent, in chunks, or open.
#[derive(Clone, Copy, PartialEq)]
enum After {
    /// The message was taken, or its chunk refused: there is no transaction.
    None,
    /// A chunk was taken that is not the last.
    Chunks,
}

const CHUNKS: [(&str, &str, After); 5] = [
    ("ok", "C\"BDAT 3 LAST\\r\\nx\\r\\n\"\nS: 250 2.0.0 Ok: queued as *\n", After::None),
    ("partial", "C\"BDAT 3\\r\\nx\\r\\n\"\nS: 250 2.0.0 *\n", After::Chunks),
    ("empty", "C: BDAT 0\nS: 250 2.0.0 *\n", After::Chunks),
    ("bad-octets", "C\"BDAT 3 LAST\\r\\nx\\n\\n\"\nS: 550 5.5.2 *\n", After::None),
    ("too-big", "C\"BDAT 2000 LAST\\r\\n\\(y*2000)\"\nS: 552 5.3.4 *\n", After::None),
];

#[test]
fn t_bdat_state_what_follows_a_chunk() {
    let after_tls = "@ tls\nC: MAIL FROM:<>\nS: 503 *\n";
    let last = "C\"BDAT 3 LAST\\r\\nx\\r\\n\"\n";
    let then = [
        ("data", "C: DATA\n".to_owned(), ["S: 503 5.5.1 *\n"; 2]),
        ("rcpt", "C: RCPT TO:<green@example.com>\n".to_owned(), ["S: 503 5.5.1 *\n"; 2]),
        ("mail", "C: MAIL FROM:<>\n".to_owned(), ["S: 250 *\n", "S: 503 5.5.1 *\n"]),
        ("ehlo", "C: EHLO again.example\nS...: 250\nC: RCPT TO:<jones@example.com>\n".to_owned(), ["S: 503 *\n"; 2]),
        ("rset", "C: RSET\nS: 250 *\nC: DATA\n".to_owned(), ["S: 503 5.5.1 *\n"; 2]),
        ("starttls", "C: STARTTLS\n".to_owned(), ["S: 220 *\n", "S: 503 5.5.1 *\n"]),
        ("bdat-last", last.to_owned(), ["S: 503 5.5.1 *\n", "S: 250 2.0.0 Ok: queued as *\n"]),
        ("bdat-0-last", "C: BDAT 0 LAST\n".to_owned(), ["S: 503 5.5.1 *\n", "S: 250 2.0.0 Ok: queued as *\n"]),
        ("hangup", "@ hangup\n".to_owned(), [""; 2]),
    ];
    let mut dialogs = Vec::new();
    for (first, chunk, state) in CHUNKS {
        for (second, command, replies) in &then {
            let reply = replies[usize::from(state == After::Chunks)];
            let ends_well = reply.contains("queued");
            let mails = usize::from(first == "ok") + usize::from(ends_well);
            let handshake = if *second == "starttls" && state == After::None { after_tls } else { "" };
            // Whatever it was, the next mail is a mail of its own.
            let next = if *second == "hangup" {
                "".to_owned()
            } else {
                format!(
                    "C: EHLO next.example\nS...: 250\n{RECIPIENT}C: DATA\nS: 354 *\nC: Subject: next\nC: .\nS: 250 *\n"
                )
            };
            let total = mails + usize::from(*second != "hangup");
            let setup = "# T-BDAT-STATE: pairs\n@ offer starttls\n@ set max_message_size 1000\n";
            let text = format!("{setup}{GREETED}{RECIPIENT}{chunk}{command}{reply}{handshake}{next}@ mails {total}\n");
            dialogs.push((format!("bdat-{first}-then-{second}"), text));
        }
    }
    assert_eq!(play(dialogs), 45);
}

/// T-BDAT-MANY: tiny chunks cost nothing but their octets.
#[test]
fn t_bdat_many_tiny_chunks_make_one_message() {
    let text = format!(
        "# T-BDAT-MANY: tiny chunks\n{GREETED}{RECIPIENT}C\"\\(BDAT 1\\r\\nx*500)\"\nS*500: 250 2.0.0 1 octets received\n\
         C: BDAT 0 LAST\nS: 250 2.0.0 Ok: queued as *\n@ mails 1\n@ mail 1 has \"\\(x*500)\"\n"
    );
    play([("bdat-many".to_owned(), text)]);
}

/// T-STATE-1 for each way in which a message can end.
#[test]
fn t_state_1_nothing_of_a_transaction_outlives_its_end() {
    let ends = [
        ("taken", "", "x", "250 2.0.0 *"),
        ("rejected", "@ filter once data reject 550 5.7.1 No\n", "x", "550 5.7.1 No"),
        ("deferred", "@ filter once data defer 451 4.7.1 Later\n", "x", "451 4.7.1 Later"),
        ("discarded", "@ filter once data discard\n", "x", "250 2.0.0 *"),
        ("quarantined", "@ filter once data quarantine odd\n", "x", "250 2.0.0 *"),
        ("failed", "@ filter once data fail trap\n", "x", "451 4.3.0 *"),
        ("bare", "", "x\\ny", "550 5.5.2 *"),
        ("nul", "", "\\0", "554 5.6.1 *"),
        ("big", "@ set max_message_size 100\n", "\\(x*200)", "552 5.3.4 *"),
        ("not-committed", "@ commit failed\n", "x", "451 4.3.0 *"),
    ];
    let dialogs = ends.map(|(name, setup, content, reply)| {
        let text = format!(
            "# T-STATE-1: {name}\n{setup}{GREETED}{RECIPIENT}C: DATA\nS: 354 *\nC\"{content}\\r\\n.\\r\\n\"\nS: {reply}\n\
             C: RCPT TO:<jones@example.com>\nS: 503 5.5.1 *\nC: DATA\nS: 503 5.5.1 *\nC\"BDAT 1 LAST\\r\\nx\"\nS: 503 *\n\
             @ commit ok\n{RECIPIENT}C: DATA\nS: 354 *\nC: .\nS: 250 *\n@ mail 1 recipients 1\n"
        );
        (format!("state-{name}"), text)
    });
    play(dialogs);
}

/// The real program, a message in very many chunks: its memory does not grow with their number.
#[test]
fn t_bdat_many_chunks_take_no_memory() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let chunks = crate::from_environment("POSTERN_TINY_CHUNKS").unwrap_or(50_000);
    let directory = tempfile::tempdir().unwrap();
    let listen = postern_tests::program::free_address();
    let config = format!(
        "[server]\nhost_name = \"mx.example.com\"\n[[listener]]\nname = \"mx\"\naddress = \"{listen}\"\nrole = \"inbound\"\n\
         [spool]\ndirectory = \"spool\"\n[log]\nfile = \"events.jsonl\"\n[dns]\nsystem = false\n[chain]\nplatform = []\n\
         [[tenant]]\nname = \"example\"\ndomains = [\"example.com\"]\ndestination = {{ maildir = \"maildir\" }}\n"
    );
    let path = directory.path().join("postern.toml");
    std::fs::write(&path, config).unwrap();
    std::fs::create_dir(directory.path().join("spool")).unwrap();
    let gateway = postern_tests::program::Gateway::start(&path, listen);
    let mut stream = std::net::TcpStream::connect(listen).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut say = |octets: &[u8], replies: usize| {
        stream.write_all(octets).unwrap();
        let said: Vec<String> =
            lines.by_ref().map(Result::unwrap).filter(|line| !line.starts_with("250-")).take(replies).collect();
        assert!(said.iter().all(|line| line.starts_with('2')), "{:?}", said.last());
    };
    say(b"", 1);
    say(b"EHLO client.example\r\n", 1);
    say(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\n", 2);
    let mut before = 0;
    for round in 0..chunks / 500 {
        say(&b"BDAT 1\r\nx".repeat(500), 500);
        if round == 10 {
            before = gateway.memory();
        }
    }
    let after = gateway.memory();
    say(b"BDAT 0 LAST\r\n", 1);
    let grown = after.saturating_sub(before);
    assert!(grown < chunks as u64 + (8 << 20), "{grown} octets more after {chunks} chunks");
    say(b"QUIT\r\n", 1);
    gateway.stop();
}
