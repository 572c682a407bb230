//! A connection in memory whose client knows when the gateway has said all that it has to say: when it waits for more.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

#[derive(Default)]
struct State {
    to_gateway: BytesMut,
    to_client: BytesMut,
    /// The gateway has read all there is, and wants more.
    waits: bool,
    /// The gateway says nothing more.
    ended: bool,
    /// The client says nothing more.
    hung_up: bool,
    reader: Option<Waker>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct ClientEnd(Arc<Shared>);

pub struct GatewayEnd(Arc<Shared>);

pub fn wire() -> (ClientEnd, GatewayEnd) {
    let shared = Arc::new(Shared::default());
    (ClientEnd(shared.clone()), GatewayEnd(shared))
}

impl ClientEnd {
    pub fn send(&self, octets: &[u8]) {
        let mut state = self.0.lock();
        state.to_gateway.extend_from_slice(octets);
        state.waits = false;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    pub fn hang_up(&self) {
        let mut state = self.0.lock();
        state.hung_up = true;
        state.waits = false;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Waits until the gateway waits for the client, or has closed; gives what it has said.
    pub async fn hear(&self) -> Bytes {
        loop {
            {
                let mut state = self.0.lock();
                if state.ended || state.waits {
                    return state.to_client.split().freeze();
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// As [`hear`](Self::hear), but not before it has said something: it looks for octets once before its banner.
    pub async fn hear_banner(&self) -> Bytes {
        loop {
            let heard = self.hear().await;
            if !heard.is_empty() || self.is_ended() {
                return heard;
            }
            self.0.changed.notified().await;
        }
    }

    pub fn is_ended(&self) -> bool {
        self.0.lock().ended
    }
}

impl AsyncRead for GatewayEnd {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.to_gateway.is_empty() && !state.hung_up {
            state.waits = true;
            state.reader = Some(context.waker().clone());
            self.0.changed.notify_one();
            return Poll::Pending;
        }
        let octets = state.to_gateway.len().min(buffer.remaining());
        buffer.put_slice(state.to_gateway.get(..octets).unwrap_or_default());
        state.to_gateway.advance(octets);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GatewayEnd {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        state.waits = false;
        state.to_client.extend_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for GatewayEnd {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn the_client_hears_all_that_was_said_before_the_gateway_waits() {
        let (client, mut gateway) = wire();
        let server = tokio::spawn(async move {
            let mut buffer = BytesMut::with_capacity(16);
            gateway.write_all(b"hello").await.unwrap();
            gateway.read_buf(&mut buffer).await.unwrap();
            tokio::task::yield_now().await;
            for word in [&b"one"[..], b"two"] {
                gateway.write_all(word).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(gateway.read(&mut [0; 4]).await.unwrap(), 0);
            buffer
        });
        assert_eq!(client.hear_banner().await, "hello");
        client.send(b"x");
        assert_eq!(client.hear().await, "onetwo");
        client.hang_up();
        assert_eq!(client.hear().await, "");
        assert!(client.is_ended());
        assert_eq!(server.await.unwrap(), "x");
    }
}
