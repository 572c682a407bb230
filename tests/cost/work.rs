//! The three works, and the client that does them. It allocates nothing while it sends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::gateway::{Log, Stage};

pub struct Work {
    pub name: &'static str,
    /// Octets of a mail.
    octets: usize,
    /// Else all mails go over one.
    connection_each: bool,
    /// MAIL, RCPT and DATA in one write.
    pipelined: bool,
}

pub const WORKS: [Work; 3] = [
    Work { name: "one connection", octets: 4 << 10, connection_each: false, pipelined: false },
    Work { name: "connection each", octets: 4 << 10, connection_each: true, pipelined: false },
    Work { name: "large, pipelined", octets: 64 << 10, connection_each: false, pipelined: true },
];

const HEADER: &str = "From: Smith <smith@example.org>\r\nTo: jones@example.com\r\nSubject: cost\r\n\
                      Date: Mon, 5 Jan 2026 10:00:00 +0000\r\nMessage-ID: <cost@example.org>\r\n\r\n";
const LINE: &str = "The quick brown fox jumps over the lazy dog, and then some more of it.\r\n";

const GREETING: &[u8] = b"EHLO client.example.org\r\n";
const MAIL: &[u8] = b"MAIL FROM:<smith@example.org>\r\n";
const RCPT: &[u8] = b"RCPT TO:<jones@example.com>\r\n";
const DATA: &[u8] = b"DATA\r\n";

/// Sends one mail after the other, each when the one before is delivered.
pub struct Client<'a> {
    stage: &'a Stage,
    work: &'static Work,
    log: Log,
    /// Header, body, the last dot.
    content: String,
    /// The three commands in one.
    envelope: Vec<u8>,
    connection: Option<Connection>,
}

impl<'a> Client<'a> {
    pub fn new(stage: &'a Stage, work: &'static Work) -> Self {
        let lines = (work.octets - HEADER.len()) / LINE.len();
        let content = format!("{HEADER}{}.\r\n", LINE.repeat(lines));
        Self { stage, work, log: stage.log(), content, envelope: [MAIL, RCPT, DATA].concat(), connection: None }
    }

    pub fn send(&mut self, mails: u32) {
        for _ in 0..mails {
            let mut connection = self.connection.take().unwrap_or_else(|| Connection::open(self.stage));
            if self.work.pipelined {
                connection.write(&self.envelope);
                [b'2', b'2', b'3'].into_iter().for_each(|class| connection.hear(class));
            } else {
                connection.say(MAIL, b'2');
                connection.say(RCPT, b'2');
                connection.say(DATA, b'3');
            }
            connection.say(self.content.as_bytes(), b'2');
            self.log.wait_for("delivered");
            if self.work.connection_each {
                connection.say(b"QUIT\r\n", b'2');
                self.log.wait_for("disconnect");
            } else {
                self.connection = Some(connection);
            }
        }
    }
}

impl Drop for Client<'_> {
    /// The next one's log has nothing of ours in it.
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take().filter(|_| !std::thread::panicking()) {
            connection.say(b"QUIT\r\n", b'2');
            self.log.wait_for("disconnect");
        }
    }
}

struct Connection {
    stream: TcpStream,
    heard: [u8; 4096],
    /// Of `heard`: what is still to be understood.
    rest: std::ops::Range<usize>,
}

impl Connection {
    fn open(stage: &Stage) -> Self {
        let stream = stage.connect();
        let mut connection = Self { stream, heard: [0; 4096], rest: 0..0 };
        connection.hear(b'2');
        connection.say(GREETING, b'2');
        connection
    }

    fn say(&mut self, octets: &[u8], class: u8) {
        self.write(octets);
        self.hear(class);
    }

    /// In one call: how often the gateway reads is not to depend on how often we write.
    fn write(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).unwrap();
    }

    /// A whole reply, which must begin so.
    fn hear(&mut self, class: u8) {
        loop {
            let line = self.line();
            let line = &self.heard[line];
            assert_eq!(line.first(), Some(&class), "{}", line.escape_ascii());
            if line.get(3) != Some(&b'-') {
                return;
            }
        }
    }

    fn line(&mut self) -> std::ops::Range<usize> {
        loop {
            let rest = self.rest.clone();
            if let Some(len) = self.heard[rest.clone()].iter().position(|&octet| octet == b'\n') {
                self.rest.start += len + 1;
                return rest.start..rest.start + len;
            }
            self.heard.copy_within(rest, 0);
            self.rest = 0..self.rest.len();
            let read = self.stream.read(&mut self.heard[self.rest.end..]).unwrap();
            assert_ne!(read, 0, "the gateway has hung up");
            self.rest.end += read;
        }
    }
}
