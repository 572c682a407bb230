//! Where a scanner listens.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// As config writes it: `unix:/run/clamav/clamd.ctl`, `tcp:127.0.0.1:3310`, `http://127.0.0.1:11333`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// A host name or address, and a port. A name is the system's to know, hosts file included: it is the administrator's
    /// word, and no mail is routed by it.
    Tcp(String, u16),
    Http(String, u16),
}

/// A Unix socket or a TCP connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

pub(super) type Wire = Pin<Box<dyn Io>>;

impl Address {
    pub(super) async fn connect(&self) -> io::Result<Wire> {
        Ok(match self {
            Self::Unix(path) => Box::pin(UnixStream::connect(path).await?),
            Self::Tcp(host, port) | Self::Http(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // What is sent is sent in large pieces, and the last one must not wait for an acknowledgement.
                stream.set_nodelay(true)?;
                Box::pin(stream)
            }
        })
    }

    /// `host:port`, as the field `Host` has it.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp(host, port) | Self::Http(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp(host, port) | Self::Http(host, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(..) => write!(f, "tcp:{}", self.authority()),
            Self::Http(..) => write!(f, "http://{}", self.authority()),
        }
    }
}
