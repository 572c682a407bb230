//! clamd: mails as streams in a session (`IDSESSION`, `INSTREAM`).
//!
//! A session, and not a connection for each mail: clamd numbers its answers in one, so an answer can be held against the
//! question it belongs to, and a connection can be used again. One mail at a time goes over a session, therefore the number
//! is always known, and an answer with another one is none.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, split};

use super::address::{Address, Wire};
use super::content::Content;
use super::pool::{Connection, Fault};
use super::printable;

/// Octets of an answer. The name of what was found is some dozens.
const MAX_REPLY: usize = 1024;
/// Octets of the name that is passed on.
const MAX_NAME: usize = 256;
/// What is written at a time: a piece and what goes before it.
const BUFFER: usize = 68 * 1024;

/// A connection that has begun a session.
pub(super) struct Session {
    wire: Wire,
    /// Questions so far; clamd counts them too, from 1.
    asked: u32,
}

/// What clamd has said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    Clean,
    Found(String),
    /// More than its own `StreamMaxLength`.
    SizeLimit,
    Error(String),
}

impl Connection for Session {
    type Told = ();
    /// The name of what was found.
    type Said = Option<String>;

    async fn open(address: &Address) -> Result<Self, Fault> {
        let failed = |error: io::Error| Fault::of(format!("it can't be reached: {error}"));
        let mut wire = address.connect().await.map_err(failed)?;
        // A `z` before a command: it and its answer end in NUL.
        wire.write_all(b"zIDSESSION\0").await.map_err(failed)?;
        Ok(Self { wire, asked: 0 })
    }

    async fn scan(&mut self, (): &(), content: Content) -> Result<Option<String>, Fault> {
        self.asked = self.asked.saturating_add(1);
        let said = self.ask(content).await;
        said.map_err(|fault| match fault {
            // In a session that has waited idle it may be what clamd has said when it had enough of waiting (`COMMAND READ TIMED
            // OUT`), which is no more than a closed connection.
            Fault::Failed(why) if self.asked > 1 => Fault::Lost(why),
            fault => fault,
        })
    }
}

impl Session {
    async fn ask(&mut self, content: Content) -> Result<Option<String>, Fault> {
        let (mut input, output) = split(&mut self.wire);
        let mut answer = Box::pin(read_reply(&mut input));
        let (text, early) = tokio::select! {
            // Before all is sent, clamd has only errors to tell. It need not read on then, so we must not write on.
            biased;
            early = &mut answer => (early?, true),
            sent = send(output, content) => match sent {
                // What it had to say before it closed may still be there.
                Err(Unsent::Wire(error)) => (answer.await.map_err(|_| Fault::Lost(error.to_string()))?, true),
                Err(Unsent::Mail(error)) => return Err(Fault::of(format!("the mail can't be read: {error}"))),
                Ok(()) => (answer.await?, false),
            },
        };
        match parse_reply(&text, self.asked) {
            Some(Reply::Clean | Reply::Found(_)) if early => Err(Fault::of("it answers before it has the mail")),
            Some(Reply::Clean) => Ok(None),
            Some(Reply::Found(name)) => Ok(Some(name)),
            Some(Reply::SizeLimit) => Err(Fault::TooBig),
            Some(Reply::Error(said)) => Err(Fault::of(format!("it says: {said}"))),
            None => Err(Fault::of("its answer makes no sense")),
        }
    }
}

/// On a connection of its own.
pub(super) async fn ping(address: &Address) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault::of(format!("it can't be reached: {error}"));
    let mut wire = address.connect().await.map_err(failed)?;
    wire.write_all(b"zPING\0").await.map_err(failed)?;
    match read_reply(&mut wire).await?.as_slice() {
        b"PONG" => Ok(()),
        _ => Err(Fault::of("it does not answer as clamd does")),
    }
}

/// The mail was not sent to its end.
enum Unsent {
    Wire(io::Error),
    Mail(io::Error),
}

/// Pieces, each with its length before it (32 bits, network byte order), and one of no length at the end.
async fn send(output: impl AsyncWrite + Unpin, mut content: Content) -> Result<(), Unsent> {
    let mut output = BufWriter::with_capacity(BUFFER, output);
    output.write_all(b"zINSTREAM\0").await.map_err(Unsent::Wire)?;
    while let Some(piece) = content.next().await {
        let piece = piece.map_err(Unsent::Mail)?;
        // At most 64 KiB.
        output.write_u32(u32::try_from(piece.len()).unwrap_or(0)).await.map_err(Unsent::Wire)?;
        output.write_all(&piece).await.map_err(Unsent::Wire)?;
    }
    output.write_u32(0).await.map_err(Unsent::Wire)?;
    output.flush().await.map_err(Unsent::Wire)
}

/// Up to the NUL that ends it.
async fn read_reply(input: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Fault> {
    let mut reply = Vec::new();
    loop {
        let read = input.read_buf(&mut reply).await.map_err(|error| lost(&reply, &error.to_string()))?;
        match reply.iter().position(|&octet| octet == 0) {
            Some(end) if end + 1 == reply.len() && end <= MAX_REPLY => {
                reply.truncate(end);
                return Ok(reply);
            }
            Some(_) => return Err(Fault::of("it says more than it was asked")),
            None if reply.len() > MAX_REPLY => return Err(Fault::of("its answer does not end")),
            None if read == 0 => return Err(lost(&reply, "no answer")),
            None => {}
        }
    }
}

fn lost(so_far: &[u8], why: &str) -> Fault {
    if so_far.is_empty() { Fault::Lost(why.to_owned()) } else { Fault::of("its answer is cut off") }
}

/// `None` for what is no answer to that question. The numbers before errors are not looked at: an error is no result,
/// whatever it belongs to.
fn parse_reply(reply: &[u8], asked: u32) -> Option<Reply> {
    let text = std::str::from_utf8(reply).ok().filter(|text| text.bytes().all(|b| matches!(b, b' '..=b'~')))?;
    if let Some(error) = text.strip_suffix("ERROR") {
        let error = error.trim_end();
        let size = error.ends_with("INSTREAM size limit exceeded.");
        return Some(if size { Reply::SizeLimit } else { Reply::Error(printable(error.as_bytes())) });
    }
    let said = text.strip_prefix(&format!("{asked}: stream: "))?;
    match said.strip_suffix(" FOUND") {
        Some(name) if !name.trim().is_empty() && name.len() <= MAX_NAME => Some(Reply::Found(name.to_owned())),
        Some(_) => None,
        None => (said == "OK").then_some(Reply::Clean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_answers_count() {
        let found = |name: &str| Some(Reply::Found(name.to_owned()));
        let error = |text: &str| Some(Reply::Error(text.to_owned()));
        for (reply, expected) in [
            ("7: stream: OK", Some(Reply::Clean)),
            ("7: stream: Eicar-Test-Signature FOUND", found("Eicar-Test-Signature")),
            ("7: stream: Win.Test.EICAR_HDB-1 FOUND", found("Win.Test.EICAR_HDB-1")),
            ("7: stream: OK FOUND", found("OK")),
            ("7: stream: two words FOUND", found("two words")),
            ("INSTREAM size limit exceeded. ERROR", Some(Reply::SizeLimit)),
            ("7: INSTREAM size limit exceeded. ERROR", Some(Reply::SizeLimit)),
            ("7: stream: Can't allocate memory ERROR", error("7: stream: Can't allocate memory")),
            ("UNKNOWN COMMAND", None),
            ("6: stream: OK", None),
            ("17: stream: OK", None),
            ("stream: OK", None),
            ("7: stream: OKAY", None),
            ("7: stream:  OK", None),
            ("7: stream: OK ", None),
            ("7: /tmp/x: OK", None),
            ("7: stream: FOUND", None),
            ("7: stream:  FOUND", None),
            ("7: stream: x\nOK FOUND", None),
            ("7: stream: x FOUND\n", None),
            ("7: stream: \u{fc} FOUND", None),
            ("", None),
        ] {
            assert_eq!(parse_reply(reply.as_bytes(), 7), expected, "{reply:?}");
        }
        let long = format!("7: stream: {} FOUND", "x".repeat(MAX_NAME + 1));
        assert_eq!(parse_reply(long.as_bytes(), 7), None);
    }

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_and_not_beyond() {
        for (octets, expected) in [
            (&b"PONG\0"[..], Some(&b"PONG"[..])),
            (b"PONG\0x", None),
            (b"PONG", None),
            (b"", None),
            (&[b'x'; 1 << 20][..], None),
        ] {
            let mut input = octets;
            assert_eq!(read_reply(&mut input).await.ok().as_deref(), expected);
        }
    }
}
