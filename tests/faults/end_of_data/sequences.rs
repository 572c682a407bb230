//! SP1, faults.md "End of data": only CRLF.CRLF ends a message, wherever the octets are split.

use std::fmt::Write as _;

use postern_tests::{Dialog, Way, run};

use crate::{GREETED, RECIPIENT, play};

/// Each with what is wrong about it in strict mode.
const SEQUENCES: [(&str, Fault); 20] = [
    ("\n.\n", Fault::Lf),
    ("\n.\r", Fault::Lf),
    ("\n.\r\n", Fault::Lf),
    ("\r.\r", Fault::Cr),
    ("\r.\n", Fault::Lf),
    ("\r.\r\n", Fault::Cr),
    ("\r\n.\n", Fault::Lf),
    ("\r\n.\r", Fault::Cr),
    ("\r\n.\r\r\n", Fault::Cr),
    ("\r\r\n.\r\r\n", Fault::Cr),
    ("\n\r.\r\n", Fault::Lf),
    ("\r\n.\n\r", Fault::Lf),
    ("\n\n.\r\n", Fault::Lf),
    ("\r\n\0.\r\n", Fault::Nul),
    ("\r\n.\0\r\n", Fault::Nul),
    ("\r\n.\r\0\n", Fault::Lf),
    ("\r\n. \r\n", Fault::None),
    ("\r\n.\t\r\n", Fault::None),
    ("\r\n\x0b.\r\n", Fault::None),
    ("\r\n.\u{85}\r\n", Fault::None),
];

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Lf,
    Cr,
    Nul,
}

impl Fault {
    fn reply(self, sequence: &str, normalize: bool) -> &'static str {
        let nul = sequence.contains('\0');
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

const SMUGGLED: &str = "MAIL FROM:<x@client.example>\r\nRCPT TO:<green@example.com>\r\nDATA\r\nSubject: smuggled\r\n";

/// The octets after 354, up to and with the true end, where the sequence stands in the header, between header and body,
/// and in the body.
fn contents(sequence: &str) -> [String; 3] {
    [
        format!("Subject: x{sequence}{SMUGGLED}\r\n.\r\n"),
        format!("Subject: x\r\n\r\n{sequence}{SMUGGLED}\r\n.\r\n"),
        format!("Subject: x\r\n\r\nbody{sequence}{SMUGGLED}\r\n.\r\n"),
    ]
}

fn text(setup: &str, content: &str, reply: &str) -> String {
    let mails = u8::from(reply.starts_with("250"));
    format!(
        "# SP1: end of data\n{setup}{GREETED}{RECIPIENT}C: DATA\nS: 354 *\nC\"{}\"\nS: {reply}\nC: QUIT\nS: 221 *\n@ close\n\
         @ mails {mails}\n",
        escaped(content.as_bytes())
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
                dialogs.push((format!("{sequence:?} {place} {normalize}"), text(setup, content, reply)));
            }
        }
    }
    assert_eq!(play(dialogs), 120);
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
                let (len, octets) = (content.len(), escaped(content.as_bytes()));
                let bdat = format!(
                    "# SP1: end of data in chunks\n{setup}{GREETED}{RECIPIENT}C\"BDAT {len} LAST\\r\\n{octets}\"\nS: {reply}\n\
                     C: QUIT\nS: 221 *\n@ close\n@ mails {mails}\n"
                );
                dialogs.push((format!("bdat {sequence:?} {place} {normalize}"), bdat));
            }
        }
    }
    assert_eq!(play(dialogs), 120);
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
    play(dialogs.map(|(setup, content, reply)| (format!("{content:?}"), text(setup, content, reply))));
}

/// Two writes, cut at each octet; the same in TLS, where a write is a record.
#[test]
fn sp1_splits() {
    for tls in [false, true] {
        for (sequence, fault) in SEQUENCES {
            let content = format!("x{sequence}RSET\r\n.\r\n");
            let reply = fault.reply(sequence, false);
            let setup = if tls { "@ offer implicit\n" } else { "" };
            for cut in 1..content.len() {
                let (first, second) = content.as_bytes().split_at(cut);
                // A wait, however short, makes two writes of them.
                let text = format!(
                    "# SP1: splits\n{setup}{GREETED}{RECIPIENT}C: DATA\nS: 354 *\nC\"{}\"\n@ wait 1s\nC\"{}\"\nS: {reply}\n\
                     C: QUIT\nS: 221 *\n@ close\n",
                    escaped(first),
                    escaped(second)
                );
                let dialog = Dialog::parse(&format!("{sequence:?} cut at {cut}"), &text).unwrap();
                if let Err(report) = run(&dialog, Way::Memory) {
                    panic!("\n{report}");
                }
            }
        }
    }
}

/// The sequence stands across the borders of the buffers that servers have.
#[test]
fn sp1_borders_of_buffers() {
    let mut dialogs = Vec::new();
    for border in [4096, 8192, 16_384, 32_768, 65_536] {
        for (sequence, fault) in SEQUENCES {
            for before in 0..sequence.len() {
                let header = "Subject: x\r\n\r\n";
                let content = format!("{sequence}RSET\r\n.\r\n");
                let pad = border - header.len() - before;
                let reply = fault.reply(sequence, false);
                let text = format!(
                    "# SP1: borders\n{GREETED}{RECIPIENT}C: DATA\nS: 354 *\nC\"{}\\(y*{pad}){}\"\nS: {reply}\n\
                     C: QUIT\nS: 221 *\n@ close\n",
                    escaped(header.as_bytes()),
                    escaped(content.as_bytes())
                );
                dialogs.push(Dialog::parse(&format!("{sequence:?} at {border}-{before}"), &text).unwrap());
            }
        }
    }
    if let Err(report) = postern_tests::runner::run_all(&dialogs, Way::Memory) {
        panic!("\n{report}");
    }
}
