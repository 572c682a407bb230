//! SP1, faults.md "End of data": only CRLF.CRLF ends a message, wherever the octets are split.

use std::fmt::Write as _;

use postern_tests::runner::run_all;
use postern_tests::{Dialog, Way};

use crate::{GREETED, RECIPIENT, play};

/// Each with what is wrong about it in strict mode.
pub const SEQUENCES: [(&[u8], Fault); 21] = [
    (b"\n.\n", Fault::Lf),
    (b"\n.\r", Fault::Lf),
    (b"\n.\r\n", Fault::Lf),
    (b"\r.\r", Fault::Cr),
    (b"\r.\n", Fault::Lf),
    (b"\r.\r\n", Fault::Cr),
    (b"\r\n.\n", Fault::Lf),
    (b"\r\n.\r", Fault::Cr),
    (b"\r\n.\r\r\n", Fault::Cr),
    (b"\r\r\n.\r\r\n", Fault::Cr),
    (b"\n\r.\r\n", Fault::Lf),
    (b"\r\n.\n\r", Fault::Lf),
    (b"\n\n.\r\n", Fault::Lf),
    (b"\r\n\0.\r\n", Fault::Nul),
    (b"\r\n.\0\r\n", Fault::Nul),
    (b"\r\n.\r\0\n", Fault::Lf),
    (b"\r\n. \r\n", Fault::None),
    (b"\r\n.\t\r\n", Fault::None),
    (b"\r\n\x0b.\r\n", Fault::None),
    // NEL, in Latin-1 and in UTF-8.
    (b"\r\n.\x85\r\n", Fault::None),
    (b"\r\n.\xc2\x85\r\n", Fault::None),
];

#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    Lf,
    Cr,
    Nul,
}

impl Fault {
    pub fn reply(self, sequence: &[u8], normalize: bool) -> &'static str {
        let nul = sequence.contains(&0);
        match self {
            Self::Nul => "554 5.6.1 *",
            _ if normalize && nul => "554 5.6.1 *",
            Self::Lf if !normalize => "550 5.5.2 *<LF>*",
            Self::Cr if !normalize => "550 5.5.2 *<CR>*",
            _ => "250 2.0.0 *",
        }
    }
}

fn escaped(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "\\x{octet:02x}");
        text
    })
}

pub const SMUGGLED: &str =
    "MAIL FROM:<x@client.example>\r\nRCPT TO:<green@example.com>\r\nDATA\r\nSubject: smuggled\r\n";

/// The octets after 354, up to and with the true end, where the sequence stands at the start, in the header, between header
/// and body, and in the body.
pub fn contents(sequence: &[u8]) -> [Vec<u8>; 4] {
    ["", "Subject: x", "Subject: x\r\n\r\n", "Subject: x\r\n\r\nbody"]
        .map(|before| [before.as_bytes(), sequence, SMUGGLED.as_bytes(), b"\r\n.\r\n"].concat())
}

fn text(setup: &str, content: &[u8], reply: &str) -> String {
    let mails = u8::from(reply.starts_with("250"));
    format!(
        "# SP1: end of data\n{setup}{GREETED}{RECIPIENT}C: DATA\nS: 354 *\nC\"{}\"\nS: {reply}\nC: QUIT\nS: 221 *\n@ close\n\
         @ mails {mails}\n",
        escaped(content)
    )
}

#[test]
fn sp1_no_sequence_but_one_ends_data() {
    let mut dialogs = Vec::new();
    for (sequence, fault) in SEQUENCES {
        for normalize in [false, true] {
            let setup = if normalize { "@ normalize\n" } else { "" };
            let reply = fault.reply(sequence, normalize);
            for (place, content) in contents(sequence).iter().enumerate() {
                dialogs.push((format!("{} {place} {normalize}", sequence.escape_ascii()), text(setup, content, reply)));
            }
        }
    }
    assert_eq!(play(dialogs), 168);
}

#[test]
fn sp1_no_sequence_ends_a_chunk() {
    let mut dialogs = Vec::new();
    for (sequence, fault) in SEQUENCES {
        for normalize in [false, true] {
            let setup = if normalize { "@ normalize\n" } else { "" };
            let reply = fault.reply(sequence, normalize);
            for (place, content) in contents(sequence).iter().enumerate() {
                let mails = u8::from(reply.starts_with("250"));
                let (len, octets) = (content.len(), escaped(content));
                let bdat = format!(
                    "# SP1: end of data in chunks\n{setup}{GREETED}{RECIPIENT}C\"BDAT {len} LAST\\r\\n{octets}\"\nS: {reply}\n\
                     C: QUIT\nS: 221 *\n@ close\n@ mails {mails}\n"
                );
                dialogs.push((format!("bdat {} {place} {normalize}", sequence.escape_ascii()), bdat));
            }
        }
    }
    assert_eq!(play(dialogs), 168);
}

#[test]
fn sp1_what_does_end_data() {
    let dialogs = [
        ("", ".\r\n", "250 2.0.0 *"),
        ("", "\r\n.\r\n", "250 2.0.0 *"),
        ("", "x\r\n..\r\n.\r\n", "250 2.0.0 *"),
        // The true end is in it.
        ("", "x\r\r\n.\r\n", "550 5.5.2 *<CR>*"),
        ("@ normalize\n", "x\r\r\n.\r\n", "250 2.0.0 *"),
    ];
    play(dialogs.map(|(setup, content, reply)| (format!("{content:?}"), text(setup, content.as_bytes(), reply))));
}

/// What ends the octets of a message, and what they are sent with.
fn sent(chunks: bool, content: &[u8]) -> Vec<u8> {
    if chunks { [format!("BDAT {} LAST\r\n", content.len()).as_bytes(), content].concat() } else { content.to_vec() }
}

/// Two writes, cut at each octet; the same in TLS, where a write is a record.
#[test]
fn sp1_splits() {
    let mut dialogs = Vec::new();
    for (tls, chunks) in [(false, false), (false, true), (true, false), (true, true)] {
        for (sequence, fault) in SEQUENCES {
            let octets = sent(chunks, &[b"x", sequence, b"RSET\r\n.\r\n"].concat());
            let reply = fault.reply(sequence, false);
            let setup = if tls { "@ offer implicit\n" } else { "" };
            let data = if chunks { "" } else { "C: DATA\nS: 354 *\n" };
            for cut in 1..octets.len() {
                let (first, second) = octets.split_at(cut);
                // A wait, however short, makes two writes of them.
                let text = format!(
                    "# SP1: splits\n{setup}{GREETED}{RECIPIENT}{data}C\"{}\"\n@ wait 1s\nC\"{}\"\nS: {reply}\n\
                     C: QUIT\nS: 221 *\n@ close\n",
                    escaped(first),
                    escaped(second)
                );
                dialogs.push(Dialog::parse(&format!("{} cut at {cut}", sequence.escape_ascii()), &text).unwrap());
            }
        }
    }
    in_memory(&dialogs);
}

/// One chunk ends within the sequence, at each octet of it, and the next goes on: no border of chunks is a line end.
#[test]
fn sp1_sequences_across_chunks() {
    let mut dialogs = Vec::new();
    for (sequence, fault) in SEQUENCES {
        for normalize in [false, true] {
            let (setup, reply) = (if normalize { "@ normalize\n" } else { "" }, fault.reply(sequence, normalize));
            let content = [b"Subject: x\r\n\r\nx", sequence, b"RSET\r\n.\r\nx\r\n"].concat();
            for cut in 15..content.len() {
                let (first, second) = content.split_at(cut);
                let text = format!(
                    "# SP1: chunks\n{setup}{GREETED}{RECIPIENT}C\"BDAT {cut}\\r\\n{}\"\nS: 250 2.0.0 *\n\
                     C\"BDAT {} LAST\\r\\n{}\"\nS: {reply}\nC: QUIT\nS: 221 *\n@ close\n",
                    escaped(first),
                    second.len(),
                    escaped(second)
                );
                dialogs.push(Dialog::parse(&format!("{} cut at {cut}", sequence.escape_ascii()), &text).unwrap());
            }
        }
    }
    in_memory(&dialogs);
}

/// The sequence stands across the borders of the buffers that servers have.
#[test]
fn sp1_borders_of_buffers() {
    let mut dialogs = Vec::new();
    for (border, chunks) in [4096, 8192, 16_384, 32_768, 65_536].into_iter().flat_map(|b| [(b, false), (b, true)]) {
        for (sequence, fault) in SEQUENCES {
            for before in 0..=sequence.len() {
                let header = "Subject: x\r\n\r\n";
                let content = [sequence, b"RSET\r\n.\r\n"].concat();
                let pad = border - header.len() - before;
                let reply = fault.reply(sequence, false);
                let data = match chunks {
                    true => format!("C\"BDAT {} LAST\\r\\n", header.len() + pad + content.len()),
                    false => "C: DATA\nS: 354 *\nC\"".to_owned(),
                };
                let text = format!(
                    "# SP1: borders\n{GREETED}{RECIPIENT}{data}{}\\(y*{pad}){}\"\nS: {reply}\n\
                     C: QUIT\nS: 221 *\n@ close\n",
                    escaped(header.as_bytes()),
                    escaped(&content)
                );
                let name = format!("{} at {border}-{before} {chunks}", sequence.escape_ascii());
                dialogs.push(Dialog::parse(&name, &text).unwrap());
            }
        }
    }
    in_memory(&dialogs);
}

fn in_memory(dialogs: &[Dialog]) {
    if let Err(report) = run_all(dialogs, Way::Memory) {
        panic!("\n{report}");
    }
}
