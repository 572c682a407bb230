//! A next hop for tests that follows a script, however bad its manners. One step a line:
//!
//! `S: text` says a line, `S*7: text` says it seven times, `S"octets\r\n"` says these octets;
//! `C: text` wants this line from the client (a `*` at its end stands for anything); `.` takes a message up to its end;
//! `quiet` wants nothing more to have come; `tls` does the handshake; `hang` waits until the client closes; `stall` does
//! not even read; `drip` says an endless line, an octet a minute; `late` lets 290 seconds pass; `close` closes; `end` wants the client to close; after `or end` it may have closed instead of going on.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::channel::Wire;

#[derive(Debug, Default)]
pub(super) struct Played {
    /// Lines of the client, without CRLF.
    pub(super) commands: Vec<String>,
    /// As they came over the wire, with the end of data.
    pub(super) contents: Vec<Vec<u8>>,
}

struct Stage {
    wire: Option<Wire>,
    input: Vec<u8>,
    played: Played,
}

/// Panics where the client does not follow.
pub(super) async fn play(wire: Wire, script: &str, acceptor: Option<&TlsAcceptor>) -> Played {
    let mut stage = Stage { wire: Some(wire), input: Vec::new(), played: Played::default() };
    for step in script.lines().map(str::trim_start).filter(|step| !step.is_empty()) {
        if step == "or end" && stage.input.is_empty() && !stage.fill().await {
            break;
        }
        stage.step(step, acceptor).await;
    }
    stage.played
}

impl Stage {
    async fn step(&mut self, step: &str, acceptor: Option<&TlsAcceptor>) {
        if let Some(text) = step.strip_prefix("S: ") {
            self.say(format!("{text}\r\n").as_bytes()).await;
        } else if let Some((times, text)) = step.strip_prefix("S*").and_then(|rest| rest.split_once(": ")) {
            self.say(format!("{text}\r\n").repeat(times.parse().unwrap()).as_bytes()).await;
        } else if let Some(text) = step.strip_prefix("S\"").and_then(|rest| rest.strip_suffix('"')) {
            self.say(&unescape(text)).await;
        } else if let Some(wanted) = step.strip_prefix("C: ") {
            let line = self.line().await;
            match wanted.strip_suffix('*') {
                Some(start) => assert!(line.starts_with(start), "wanted {wanted:?}, got {line:?}"),
                None => assert_eq!(line, wanted),
            }
            self.played.commands.push(line);
        } else {
            self.act(step, acceptor).await;
        }
    }

    async fn act(&mut self, step: &str, acceptor: Option<&TlsAcceptor>) {
        match step {
            "." => self.content().await,
            "quiet" => {
                assert!(self.input.is_empty(), "came too early: {}", self.input.escape_ascii());
            }
            "tls" => {
                let stream = acceptor.unwrap().accept(self.wire.take().unwrap()).await;
                // A client that does not like the certificate goes away.
                self.wire = stream.ok().map(|stream| Box::new(stream) as Wire);
            }
            "hang" => while self.fill().await {},
            "stall" => tokio::time::sleep(Duration::from_secs(24 * 3600)).await,
            "drip" => {
                for _ in 0..1000 {
                    self.say(b"a").await;
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            }
            "late" => tokio::time::sleep(Duration::from_secs(290)).await,
            "or end" => {}
            "close" => self.wire = None,
            "end" => {
                assert!(!self.fill().await, "came after the end: {}", self.input.escape_ascii());
                assert!(self.input.is_empty(), "left over: {}", self.input.escape_ascii());
            }
            other => panic!("no such step: {other}"),
        }
    }

    async fn say(&mut self, octets: &[u8]) {
        if let Some(wire) = &mut self.wire {
            // The client may have gone: what matters is what it has made of it.
            let _ = wire.write_all(octets).await;
            let _ = wire.flush().await;
        }
    }

    /// False at the end.
    async fn fill(&mut self) -> bool {
        match &mut self.wire {
            Some(wire) => wire.read_buf(&mut self.input).await.is_ok_and(|read| read > 0),
            None => false,
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.input.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).unwrap();
            }
            assert!(self.fill().await, "closed by the client after {:?}", self.played.commands.last());
        }
    }

    async fn content(&mut self) {
        loop {
            let end = if self.input.starts_with(b".\r\n") {
                Some(3)
            } else {
                self.input.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 5)
            };
            if let Some(end) = end {
                self.played.contents.push(self.input.drain(..end).collect());
                return;
            }
            assert!(self.fill().await, "closed by the client within a message");
        }
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        octets.push(match (c, if c == '\\' { chars.next() } else { None }) {
            (_, Some('r')) => b'\r',
            (_, Some('n')) => b'\n',
            (_, Some('0')) => 0,
            (c, None) => u8::try_from(c).unwrap(),
            (_, Some(other)) => panic!("no such escape: {other}"),
        });
    }
    octets
}
