//! Fuzz bodies: what must hold for any octets. Plain functions, so `make test` can replay them on seeds and on mutations of
//! these, and a fuzzer (`make fuzz`) can call them.
//!
//! They panic when something does not hold. Those of parsers that nobody else may call stand beside these.

mod content;
mod conversation;
mod file;

use std::io;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use postern::log::EventLog;
use postern::metrics::Metrics;
use postern::pipeline::{Chains, Clerk, SessionId, TlsFacts, Verdict};
use postern::session::connection::{Accepted, CommitError};
use postern::session::machine::{Answer, Gateway, Input, Machine, Output, Question};
use postern::session::{Listener, Peer, Snapshot, TlsMode};
use postern::smtp::data::{DataReader, LineEnds, Progress};
use postern::smtp::{Command, Reply};
use postern::tenancy::Directory;

use crate::fixture;

pub use content::{header_fields, mime, plugin_reply, server_reply};
pub use conversation::conversation;
pub use file::{config, kept, table};

/// A body, and the name by which `make fuzz` calls it.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 14] = [
    ("machine", machine),
    ("conversation", conversation),
    ("data", data_reader),
    ("segment", segment_recovery),
    ("command", command_line),
    ("header", header_fields),
    ("mime", mime),
    ("server-reply", server_reply),
    ("plugin-reply", plugin_reply),
    ("proxy", proxy_header),
    ("config", config),
    ("table", table),
    ("kept", kept),
    ("zone", zone),
];

/// What a client can make a line hold: more than any limit would need many pieces.
const MAX_BUFFER: usize = 256 * 1024;

/// A command line: the parser never panics, and no address that it takes holds a control character.
pub fn command_line(line: &[u8]) {
    let text = match Command::parse(line) {
        Ok(Command::Mail(path, _)) => path.to_string(),
        Ok(Command::Rcpt(path, _)) => path.to_string(),
        _ => return,
    };
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(!text.contains(['<', '>']) || text.starts_with('"'), "{text:?}");
}

/// The lines after DATA: however they are split, the same message comes out, and it has no bare line end.
pub fn data_reader(octets: &[u8]) {
    for line_ends in [LineEnds::Strict, LineEnds::Normalize] {
        let whole = read_data(octets, octets.len().max(1), line_ends);
        for piece in [1, 2, 3, 7] {
            assert_eq!(read_data(octets, piece, line_ends), whole, "in pieces of {piece}");
        }
        let (content, _) = whole;
        let clean = content.windows(2).all(|pair| (pair[0] == b'\r') == (pair[1] == b'\n'));
        assert!(clean, "a bare line end comes out of {octets:?}");
    }
}

fn read_data(octets: &[u8], piece: usize, line_ends: LineEnds) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut reader = DataReader::new(line_ends);
    let (mut buffer, mut content) = (BytesMut::new(), Vec::new());
    let mut pieces = octets.chunks(piece);
    while let Some(next) = pieces.next() {
        buffer.extend_from_slice(next);
        if reader.read(&mut buffer, &mut content) == Progress::End {
            let rest = [buffer.to_vec(), pieces.collect::<Vec<_>>().concat()].concat();
            return (content, Some(rest));
        }
    }
    (content, None)
}

/// A segment of the spool: recovery ends, whatever stands in it. A disk spoils sums too, and a fuzzer can't guess them: so it is tried
/// with right ones as well.
pub fn segment_recovery(octets: &[u8]) {
    postern::spool::recover_segment(octets);
    postern::spool::recover_segment(&with_right_sums(octets.to_vec()));
}

/// The segment with every salt and CRC as it should be; where which stands is in `runtime/docs/spool.md`.
fn with_right_sums(mut segment: Vec<u8>) -> Vec<u8> {
    fn sum(octets: &mut [u8], of: std::ops::Range<usize>, at: usize) {
        let crc = crc32fast::hash(&octets[of]);
        octets[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
    const START: usize = 36;
    const RECORD: usize = 80;
    if segment.len() < START {
        return segment;
    }
    segment[..12].copy_from_slice(b"PSTNSEG\x1a\x01\0\0\0");
    sum(&mut segment, 0..32, 32);
    let salt: [u8; 8] = std::array::from_fn(|at| segment[24 + at]);
    let mut at = START;
    while at + RECORD <= segment.len() {
        let record = &mut segment[at..];
        record[..8].copy_from_slice(&salt);
        let number = |from: usize| usize::from(u16::from_le_bytes([record[from], record[from + 1]]));
        let (head, body) = (number(40) + number(44) + number(48), number(52));
        // A length is a small number, else nothing would follow it.
        for from in [40, 44, 48, 52] {
            record[from + 2..from + 4].fill(0);
        }
        record[56..60].fill(0);
        let in_file = record[60..68].iter().any(|&octet| octet != 0);
        let end = RECORD + head + if in_file { 0 } else { body };
        if end <= record.len() {
            sum(record, RECORD..RECORD + head, 68);
            sum(record, RECORD + head..end, 72);
        }
        sum(record, 0..RECORD - 4, RECORD - 4);
        at += end;
    }
    segment
}

/// What a balancer says of the client: an address, or an error.
pub fn proxy_header(octets: &[u8]) {
    let mut stream = octets;
    // It reads from memory, so it is never pending.
    let read = std::pin::pin!(postern::session::proxy::read_header(&mut stream));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(read.poll(&mut context).is_ready());
}

/// What a plugin's author writes for a rehearsal.
pub fn zone(octets: &[u8]) {
    if let Ok(text) = std::str::from_utf8(octets) {
        let _ = postern::rehearsal::zone::Zone::parse(text);
    }
}

/// A whole session: verdicts, failures and the size of the pieces come from the same octets as the commands.
pub fn machine(octets: &[u8]) {
    let mut choose = choices(octets);
    let directory = std::env::temp_dir();
    let mut machine = new_machine(directory, choose(4));
    let mut client = octets;
    let mut buffer = BytesMut::new();
    let mut input = Input::Start { unavailable: None };
    // Every step takes octets, answers a question or ends; a session that does none of these goes in circles.
    for _ in 0..octets.len() * 4 + 100 {
        let output = machine.step(input, &mut buffer);
        check_replies(&machine.take_replies());
        input = match output {
            Output::Close => return,
            Output::Read(_) if client.is_empty() => return,
            Output::Read(_) => {
                let (piece, rest) = client.split_at(piece(client, &mut choose));
                client = rest;
                buffer.extend_from_slice(piece);
                assert!(buffer.len() < MAX_BUFFER, "the machine lets octets pile up");
                Input::Octets
            }
            Output::StartTls => {
                assert!(buffer.is_empty(), "what was said before TLS survives it");
                let facts = TlsFacts { version: String::new(), cipher: String::new(), sni: None };
                machine = machine.after_tls(facts);
                Input::Octets
            }
            Output::Ask(question) => Input::Answered(answer(question, &mut choose)),
        };
    }
    panic!("the session goes on for ever");
}

/// Numbers below `of` that depend on all of the octets, so that letters do not always choose the same.
fn choices(octets: &[u8]) -> impl FnMut(u8) -> u8 {
    let mut state = octets
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3));
    move |of| {
        // xorshift64; zero is its one dead end.
        state = state.max(1);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 % of
    }
}

/// A client waits for replies: mostly a line at a time, sometimes less or several.
fn piece(client: &[u8], choose: &mut impl FnMut(u8) -> u8) -> usize {
    let line = client.iter().position(|&b| b == b'\n').map_or(client.len(), |lf| lf + 1);
    match choose(32) {
        0 => client.len().min(usize::from(choose(200)) + 1),
        1 => usize::from(choose(16)).clamp(1, line),
        _ => line,
    }
}

/// What no session changes, made once: passwords and the names of series take longer than a session.
static SHARED: LazyLock<(Arc<Directory>, Clerk)> = LazyLock::new(|| {
    let metrics = Arc::new(Metrics::new().expect("names of series are right"));
    (Arc::new(fixture::directory()), Clerk { log: EventLog::new(metrics.clone()).0, metrics })
});

fn new_machine(directory: std::path::PathBuf, listener: u8) -> Machine {
    let (known, clerk) = &*SHARED;
    let snapshot = Snapshot {
        settings: Arc::new(fixture::settings(directory)),
        directory: known.clone(),
        chains: Arc::new(Chains::default()),
    };
    let gateway = Gateway::new(snapshot, clerk.clone(), Box::new(|_| true));
    let everybody = "0.0.0.0/0".parse().expect("a network");
    let listener = Listener {
        tls: if listener & 1 == 0 { TlsMode::None } else { TlsMode::StartTls },
        auth: listener & 1 == 1,
        xclient_from: if listener & 2 == 0 { Vec::new() } else { vec![everybody] },
        ..Listener::inbound("mx")
    };
    let client = ([192, 0, 2, 1], 1025).into();
    let peer = Peer {
        id: SessionId::next(),
        client,
        connecting: client,
        local: ([203, 0, 113, 25], 25).into(),
        client_name: Arc::default(),
        concurrent: 1,
        tls: None,
    };
    Machine::new(Arc::new(gateway), Arc::new(listener), peer)
}

fn answer(question: Question, choose: &mut impl FnMut(u8) -> u8) -> Answer {
    match question {
        Question::Hear(_, _, hearing) => Answer::Heard(hearing, verdict(choose(64))),
        Question::Verify { .. } => Answer::Verified(choose(2) == 0),
        Question::Flush(mut reception) => {
            let result = if choose(4) == 0 { Err(io::ErrorKind::StorageFull.into()) } else { reception.flush() };
            Answer::Flushed(reception, result)
        }
        Question::Finish(reception) => Answer::Finished(reception.finish()),
        Question::Commit(copies) => {
            check_copies(&copies);
            Answer::Committed(match choose(4) {
                0 => Err(CommitError::Full),
                1 => Err(CommitError::Failed),
                _ => Ok(()),
            })
        }
        Question::Wait(_) => Answer::Waited,
    }
}

/// Mostly agreement, else a session never gets anywhere.
fn verdict(choice: u8) -> Verdict {
    let reply = |code| Reply::new(code, None, "as the octets wish");
    match choice {
        0 => Verdict::Reject(reply(550)),
        1 => Verdict::Defer(reply(451)),
        2 => Verdict::Discard,
        3 => Verdict::Quarantine("odd".to_owned()),
        4 => Verdict::Disconnect(reply(421)),
        5 => Verdict::Accept,
        _ => Verdict::Next,
    }
}

fn check_copies(copies: &[Accepted]) {
    assert!(!copies.is_empty());
    for copy in copies {
        assert!(!copy.mail.envelope.recipients.is_empty(), "mail for nobody");
        let message = copy.mail.message.as_ref().expect("a message");
        assert!(message.header.fields().first().is_some_and(|field| field.is("Received")));
        let body = message.body.read_at(0, usize::MAX).expect("a body that can be read");
        let clean = body.windows(2).all(|pair| (pair[0] == b'\r') == (pair[1] == b'\n')) && !body.contains(&0);
        assert!(clean, "a bare line end or NUL was taken");
    }
}

fn check_replies(replies: &[u8]) {
    for line in replies.split_inclusive(|&b| b == b'\n') {
        let text = std::str::from_utf8(line).expect("a reply is UTF-8");
        let text = text.strip_suffix("\r\n").expect("a reply line ends in CRLF");
        let (code, rest) = text.split_at(3);
        assert!(code.parse().is_ok_and(|code: u16| (200..600).contains(&code)), "{text:?}");
        assert!(rest.starts_with([' ', '-']) && !rest.chars().any(char::is_control), "{text:?}");
        assert!(line.len() <= 512, "a reply line of {} octets", line.len());
    }
}
