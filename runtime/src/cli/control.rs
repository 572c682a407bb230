//! The control socket: how the commands talk to the running gateway.
//!
//! A Unix socket of mode 0600 in the spool directory; peers of another user are turned away as well. One JSON object a
//! line, a [`Request`] and then its [`Response`], as often as the client likes. A line that is too long or no request
//! is answered with an error and ends the connection; it can't do more. The octets of a component follow the line of the
//! request that installs it.

pub mod plugin;

mod mail;
pub mod vitals;

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use self::mail::MAX_ERROR_TEXT;
pub(super) use self::mail::seconds;
pub use self::mail::{Cause, Changed, Cursor, Detail, Left, RecipientDetail, Selection, State, Summary, Verb};
use self::vitals::Vitals;
use crate::host::{Accounts, check_size};
use crate::mail::MessageId;

/// Octets of a request's line.
const MAX_REQUEST: u64 = 64 * 1024;
/// Octets of a response's line. A page has at most [`MAX_PAGE`] messages.
const MAX_RESPONSE: u64 = 16 << 20;
/// Octets of a component that are waited for at a time.
const COMPONENT_READ: u64 = 1 << 20;
/// Messages in one response.
pub const MAX_PAGE: u32 = 500;
/// Ids in one request.
pub const MAX_IDS: usize = 1000;
const MAX_CONNECTIONS: usize = 16;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the gateway may take for what may have to compile components and try them out.
const INSTALLING: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Answered with `Messages`, oldest first.
    List {
        /// Only these.
        #[serde(default)]
        ids: Vec<MessageId>,
        #[serde(default)]
        selection: Selection,
        /// Only those later than this one: the page after it.
        after: Option<MessageId>,
        /// At most [`MAX_PAGE`].
        limit: u32,
    },
    /// Answered with `Message`.
    Show {
        id: MessageId,
    },
    /// One step of a verb over the messages named, or over those selected; answered with `Changed`. A queue of any length
    /// is changed step by step, each taking bounded time and memory.
    Change {
        verb: Verb,
        /// At most [`MAX_IDS`].
        #[serde(default)]
        ids: Vec<MessageId>,
        #[serde(default)]
        selection: Selection,
        /// Must be said where nothing is named or selected.
        #[serde(default)]
        all: bool,
        /// From the answer to the step before.
        #[serde(default)]
        cursor: Option<Cursor>,
    },
    /// Answered with `Status`.
    Status,
    /// Answered with `Done`.
    Reload,
    PluginInstall {
        install: plugin::Install,
        /// What follows the line.
        #[serde(skip)]
        source: Vec<u8>,
    },
    /// Answered with `Plugins`; of all scopes without one.
    PluginList {
        scope: Option<String>,
    },
    /// Answered with `Plugin`.
    PluginShow {
        scope: String,
        name: String,
    },
    /// Into the chain of a scope, or out of it.
    PluginSwitch {
        scope: String,
        name: String,
        enabled: bool,
    },
    /// Answered with `Usage`; of all scopes without one.
    PluginUsage {
        scope: Option<String>,
    },
    PluginRollback {
        scope: String,
        name: String,
    },
    PluginRemove {
        scope: String,
        name: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
pub enum Response {
    Messages {
        messages: Vec<Summary>,
        /// Where the next page begins (`after`), even if this one is empty; `None`: this was the last one.
        next: Option<MessageId>,
    },
    Message {
        message: Box<Detail>,
    },
    Changed {
        changed: Changed,
    },
    Status {
        status: Box<Vitals>,
    },
    Plugins {
        plugins: Vec<plugin::State>,
    },
    Plugin {
        plugin: Box<plugin::Detail>,
    },
    Usage {
        usage: Accounts,
    },
    Done {
        message: String,
    },
    Error {
        kind: ErrorKind,
        message: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    NotFound,
    /// It is in a state that does not allow it, e.g. being delivered right now.
    Conflict,
    Invalid,
    Failed,
}

impl Response {
    pub fn error(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Error { kind, message: message.into() }
    }

    /// For an answer that is not the one to the question.
    pub fn unexpected(self) -> ControlError {
        match self {
            Self::Error { kind, message } => ControlError::Refused { kind, message },
            _ => ControlError::Garbled,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no gateway is running with this config ({0} does not answer)")]
    NotRunning(PathBuf),
    #[error("{path}: {source}; only root and the user that the gateway runs as may ask it: try sudo")]
    Denied { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("the gateway does not answer: {0}")]
    Broken(#[from] io::Error),
    #[error("the gateway's answer makes no sense; is it another version?")]
    Garbled,
    #[error("{message}")]
    Refused { kind: ErrorKind, message: String },
}

/// A connection to the running gateway. Blocking.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub fn connect(socket: &Path) -> Result<Self, ControlError> {
        let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning(socket.to_owned()),
            io::ErrorKind::PermissionDenied => ControlError::Denied { path: socket.to_owned(), source },
            _ => ControlError::Connect { path: socket.to_owned(), source },
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// An error that the gateway answers comes back as `Response::Error`.
    pub fn ask(&mut self, request: &Request) -> Result<Response, ControlError> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        if let Request::PluginInstall { source, .. } = request {
            self.stream.get_mut().write_all(source)?;
        }
        self.stream.get_ref().set_read_timeout(Some(patience(request)))?;
        line.clear();
        (&mut self.stream).take(MAX_RESPONSE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        serde_json::from_slice(&line).map_err(|_| ControlError::Garbled)
    }
}

/// How long the gateway may take to answer.
fn patience(request: &Request) -> Duration {
    match request {
        Request::Reload
        | Request::PluginInstall { .. }
        | Request::PluginSwitch { .. }
        | Request::PluginRollback { .. }
        | Request::PluginRemove { .. } => INSTALLING,
        _ => PATIENCE,
    }
}

/// Makes the socket. Only for whoever holds the spool's lock: an old socket there is taken for a leftover.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    // Under another name until its mode is right, so nobody can connect in between.
    let unborn = socket.with_extension("new");
    for leftover in [&unborn, socket] {
        match std::fs::remove_file(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let listener = UnixListener::bind(&unborn)?;
    std::fs::set_permissions(&unborn, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&unborn, socket)?;
    Ok(listener)
}

/// Answers requests until it is dropped, which also drops the connections.
pub async fn serve<H, A>(listener: UnixListener, handler: H)
where
    H: Fn(Request) -> A + Clone + Send + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) if is_allowed(&stream) => {
                    let handler = handler.clone();
                    connections.spawn(async move {
                        if let Err(error) = converse(stream, handler).await {
                            tracing::debug!(%error, "control connection");
                        }
                    });
                }
                Ok(_) => tracing::warn!("a process of another user was turned away from the control socket"),
                Err(error) => {
                    tracing::warn!(%error, "control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Our own user and root.
fn is_allowed(stream: &tokio::net::UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn converse<H, A>(stream: tokio::net::UnixStream, handler: H) -> io::Result<()>
where
    H: Fn(Request) -> A,
    A: Future<Output = Response>,
{
    let (reader, mut writer) = stream.into_split();
    let mut reader = tokio::io::BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(MAX_REQUEST);
        if tokio::time::timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(());
        }
        let mut request = parse(&line);
        let ends = request.is_err();
        if let Ok(Request::PluginInstall { install, source }) = &mut request {
            *source = read_component(&mut reader, install.octets).await?;
        }
        let response = match request {
            Ok(request) => handler(request).await,
            Err(refusal) => refusal,
        };
        let mut answer = serde_json::to_vec(&response)?;
        if answer.len() as u64 >= MAX_RESPONSE {
            answer = serde_json::to_vec(&Response::error(ErrorKind::Failed, "the answer is too long"))?;
        }
        answer.push(b'\n');
        tokio::time::timeout(PATIENCE, writer.write_all(&answer)).await??;
        if ends {
            return Ok(());
        }
    }
}

/// Cut off half way it is an error that ends the connection, and nobody has seen any of it.
async fn read_component(reader: &mut (impl AsyncRead + Unpin), octets: u64) -> io::Result<Vec<u8>> {
    let mut source = Vec::new();
    while (source.len() as u64) < octets {
        let left = octets - source.len() as u64;
        let mut bounded = reader.take(left.min(COMPONENT_READ));
        let read = tokio::time::timeout(PATIENCE, bounded.read_to_end(&mut source)).await??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(source)
}

fn parse(line: &[u8]) -> Result<Request, Response> {
    let invalid = |message: String| Response::error(ErrorKind::Invalid, message);
    if !line.ends_with(b"\n") {
        return Err(invalid(format!("a request is a line of at most {MAX_REQUEST} octets")));
    }
    match serde_json::from_slice(line) {
        Ok(Request::List { limit, .. }) if limit == 0 || limit > MAX_PAGE => {
            Err(invalid(format!("`limit` is between 1 and {MAX_PAGE}")))
        }
        Ok(Request::List { ids, .. } | Request::Change { ids, .. }) if ids.len() > MAX_IDS => {
            Err(invalid(format!("more than {MAX_IDS} ids")))
        }
        // Nothing defaults to all.
        Ok(Request::Change { ids, selection, all: false, .. }) if ids.is_empty() && selection.is_empty() => {
            Err(invalid("nothing is named or selected: say `all`".to_owned()))
        }
        Ok(Request::List { selection, .. } | Request::Change { selection, .. })
            if selection.error.as_ref().is_some_and(|text| text.len() > MAX_ERROR_TEXT) =>
        {
            Err(invalid(format!("`error` has more than {MAX_ERROR_TEXT} octets")))
        }
        Ok(Request::PluginInstall { install, source }) => match check_size(install.octets) {
            Ok(()) => Ok(Request::PluginInstall { install, source }),
            Err(error) => Err(invalid(error.to_string())),
        },
        Ok(request) => Ok(request),
        Err(error) => Err(invalid(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changed: u64) -> Response {
        Response::Changed { changed: Changed { changed, ..Changed::default() } }
    }

    fn flush(ids: Vec<MessageId>, all: bool) -> Request {
        Request::Change { verb: Verb::Flush, ids, selection: Selection::default(), all, cursor: None }
    }

    async fn answer(request: Request) -> Response {
        match request {
            Request::Change { ids, .. } => changed(ids.len() as u64),
            Request::Show { id } => Response::error(ErrorKind::NotFound, format!("no message {id}")),
            _ => Response::error(ErrorKind::Failed, "no"),
        }
    }

    /// Runs `client` on a thread of its own, as the command does, against a gateway in this one.
    async fn with_gateway<T: Send + 'static>(client: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        std::fs::write(&socket, "a leftover").unwrap();
        let listener = bind(&socket).unwrap();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        tokio::select! {
            () = serve(listener, answer) => unreachable!("it serves for ever"),
            result = tokio::task::spawn_blocking(move || client(socket)) => result.unwrap(),
        }
    }

    #[tokio::test]
    async fn questions_are_answered_in_turn() {
        with_gateway(|socket| {
            let mut client = Client::connect(&socket).unwrap();
            for n in [1_u64, 3] {
                let ids = (0..n).map(MessageId::from_u64).collect();
                assert_eq!(client.ask(&flush(ids, false)).unwrap(), changed(n));
            }
            let id = MessageId::from_u64(7);
            let refused = client.ask(&Request::Show { id }).unwrap().unexpected();
            assert!(matches!(refused, ControlError::Refused { kind: ErrorKind::NotFound, .. }), "{refused}");
        })
        .await;
    }

    #[tokio::test]
    async fn garbage_ends_the_connection_and_nothing_else() {
        with_gateway(|socket| {
            let deep = [vec![b'['; 60_000], b"\n".to_vec()].concat();
            let long = vec![b'x'; 64 * 1024 + 1];
            for garbage in [
                &b"GET / HTTP/1.1\r\n\r\n"[..],
                b"\n",
                b"\xff\xfe\0\n",
                b"{\"request\":\"show\",\"id\":\"../../../x\"}\n",
                b"{\"request\":\"list\",\"limit\":100000}\n",
                b"{\"request\":\"list\",\"selection\":{\"sender\":\"a\"},\"limit\":9}\n",
                b"{\"request\":\"delete\"}\n",
                b"{\"request\":\"change\",\"verb\":\"delete\"}\n",
                b"{\"request\":\"change\",\"verb\":\"delete\",\"selection\":{}}\n",
                b"{\"request\":\"change\",\"verb\":\"bounce\",\"all\":true}\n",
                b"{\"request\":\"change\",\"verb\":\"hold\",\"ids\":[\"0000000000001\"],\"x\":1}\n",
                &deep,
                &long,
            ] {
                let mut stream = UnixStream::connect(&socket).unwrap();
                stream.write_all(garbage).unwrap();
                let mut text = String::new();
                // The rest of a line that is too long may come back as a reset.
                let _ = stream.read_to_string(&mut text);
                assert!(text.is_empty() || text.contains("\"kind\":\"invalid\""), "{text}");
                assert!(garbage.len() > 64 * 1024 || !text.is_empty(), "{garbage:?}");
            }
            let mut client = Client::connect(&socket).unwrap();
            assert!(matches!(client.ask(&flush(vec![], true)), Ok(Response::Changed { .. })));
        })
        .await;
    }

    #[test]
    fn nobody_listens() {
        let directory = tempfile::tempdir().unwrap();
        let error = Client::connect(&directory.path().join("control.sock")).unwrap_err();
        assert!(error.to_string().starts_with("no gateway is running"), "{error}");
    }
}
