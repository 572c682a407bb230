//! A mail as octets, piece by piece: the same for all who send it somewhere.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use crate::mail::{Body, Message};

/// Octets of one piece: what a read from a file fetches at a time.
const PIECE: usize = 64 * 1024;

/// Header, empty line and body, as on the wire without dot-stuffing. Holds one piece of a body that is in a file.
pub(super) struct Content {
    ready: VecDeque<Bytes>,
    body: Body,
    /// Of the body: what is neither in `ready` nor given.
    offset: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    left: u64,
}

impl Content {
    pub(super) fn new(message: &Message) -> Self {
        let mut head = BytesMut::from(&message.header.to_bytes()[..]);
        if message.body.is_separated() {
            head.extend_from_slice(b"\r\n");
        }
        let mut ready = VecDeque::from([head.freeze()]);
        let body = message.body.clone();
        let in_memory = body.as_memory().cloned();
        let offset = if in_memory.is_some() { body.len() } else { 0 };
        ready.extend(in_memory);
        ready.retain(|piece| !piece.is_empty());
        Self { ready, body, offset, reading: None, left: message.len() }
    }

    /// Nothing at all: the body of a request that has none.
    pub(super) fn none() -> Self {
        let body = Body::absent();
        Self { ready: VecDeque::new(), body, offset: 0, reading: None, left: 0 }
    }

    /// The next piece, of at most 64 KiB; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(front) = self.ready.front_mut() {
            let piece = front.split_to(front.len().min(PIECE));
            if front.is_empty() {
                self.ready.pop_front();
            }
            self.left = self.left.saturating_sub(piece.len() as u64);
            return Poll::Ready(Some(Ok(piece)));
        }
        if self.offset >= self.body.len() {
            return Poll::Ready(None);
        }
        let (body, offset) = (self.body.clone(), self.offset);
        let read = move || body.read_at(offset, PIECE);
        let reading = self.reading.get_or_insert_with(|| tokio::task::spawn_blocking(read));
        let read = ready!(Pin::new(reading).poll(cx)).unwrap_or_else(|error| Err(io::Error::other(error)));
        self.reading = None;
        Poll::Ready(Some(match read {
            // Shorter than it says it is: what is sent of it would not be the mail.
            Ok(piece) if piece.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(piece) => {
                self.offset += piece.len() as u64;
                self.left = self.left.saturating_sub(piece.len() as u64);
                Ok(piece)
            }
            Err(error) => Err(error),
        }))
    }
}

/// Of an HTTP request, with its length said beforehand.
impl hyper::body::Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.poll_next(cx).map(|next| next.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{BodyWriter, Header};

    async fn octets(message: &Message) -> Vec<u8> {
        let mut content = Content::new(message);
        let mut out = Vec::new();
        while let Some(piece) = content.next().await {
            let piece = piece.unwrap();
            assert!((1..=PIECE).contains(&piece.len()));
            out.extend_from_slice(&piece);
        }
        assert!(hyper::body::Body::is_end_stream(&content));
        out
    }

    #[tokio::test]
    async fn it_is_the_mail_as_received_wherever_the_body_is() {
        let directory = tempfile::tempdir().unwrap();
        let header = Header::parse(&Bytes::from_static(b"A: 1\r\n\tb\r\nno field\r\n"));
        for len in [0, 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let text: Vec<u8> = (0..=250).cycle().take(len).collect();
            let mut writer = BodyWriter::new(directory.path().to_owned(), 0);
            writer.push(&text);
            writer.flush().unwrap();
            let expected = [b"A: 1\r\n\tb\r\nno field\r\n\r\n", &text[..]].concat();
            for body in [writer.finish().unwrap(), Body::from_bytes(text.clone().into())] {
                let message = Message { header: header.clone(), body };
                assert_eq!(octets(&message).await, expected, "{len}");
                assert_eq!(hyper::body::Body::size_hint(&Content::new(&message)).exact(), Some(expected.len() as u64));
            }
        }
        let message = Message { header, body: Body::absent() };
        assert_eq!(octets(&message).await, b"A: 1\r\n\tb\r\nno field\r\n");
        assert_eq!(octets(&Message { header: Header::default(), body: Body::absent() }).await, b"");
    }

    #[tokio::test]
    async fn a_body_that_is_cut_off_on_disk_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("body");
        std::fs::write(&path, b"short").unwrap();
        let file = crate::mail::body::BodyFile::new(std::fs::File::open(&path).unwrap(), 0, 100);
        let body = Body::from_file(std::sync::Arc::new(file));
        let mut content = Content::new(&Message { header: Header::default(), body });
        assert!(content.next().await.unwrap().is_ok(), "the empty line");
        assert!(content.next().await.unwrap().is_err());
    }
}
