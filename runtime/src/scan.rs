//! Scanners: other people's daemons that say whether a mail carries a virus (clamd) or is spam (rspamd).
//!
//! They are given the mail as it was received, whole, and are not trusted to answer: whatever is no clear answer in time
//! and within bounds is [`ScanError::Unavailable`], which may delay mail and never takes or refuses it.
//!
//! One deadline holds for all of a scan: the wait for a connection, connecting, sending, the answer. A scan that is dropped
//! ends with its connection; no task is left behind.

mod address;
mod clamd;
mod content;
mod pool;
mod rspamd;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, timeout_at};

pub use address::Address;

use crate::mail::evidence::Assessment;
use crate::mail::{Envelope, Message};
use crate::metrics::Metrics;
use pool::{Connection, Fault, Pool};

/// For a ping, all of it.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Clamd,
    Rspamd,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clamd => "clamd",
            Self::Rspamd => "rspamd",
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    pub name: Arc<str>,
    pub kind: Kind,
    pub address: Address,
    /// For one scan, the wait for a connection included.
    pub timeout: Duration,
    /// Octets of a mail; larger ones are not scanned.
    pub max_size: u64,
    /// At a time.
    pub connections: usize,
    /// Of rspamd's controller; its normal worker asks for none.
    pub password: Option<String>,
    /// What rspamd calls the gateway.
    pub host_name: String,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, address, timeout, max_size, connections, .. } = self;
        f.debug_struct("Settings")
            .field("name", name)
            .field("kind", kind)
            .field("address", address)
            .field("timeout", timeout)
            .field("max_size", max_size)
            .field("connections", connections)
            .finish_non_exhaustive()
    }
}

/// There is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    #[error("the scanner is of the other kind")]
    OtherKind,
    /// Octets that it is given at most.
    #[error("the mail is larger than the {0} octets that the scanner is given")]
    TooBig(u64),
    /// The scanner's fault, or ours; another time it may work. Printable, and without anything of the mail.
    #[error("{0}")]
    Unavailable(String),
}

/// What rspamd is told of a mail besides its content.
#[derive(Debug, Clone)]
pub struct Circumstances {
    pub client: IpAddr,
    /// By DNS, confirmed forward.
    pub client_name: Option<String>,
    /// As said at HELO.
    pub helo: Option<String>,
    pub login: Option<String>,
    /// The mail's name in spool and log.
    pub id: String,
    pub envelope: Envelope,
}

/// One scanner of the config.
pub struct Scanner {
    settings: Settings,
    connections: Connections,
    metrics: Arc<Metrics>,
}

enum Connections {
    Clamd(Pool<clamd::Session>),
    Rspamd(Pool<rspamd::Connection>),
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl Scanner {
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let connections = match settings.kind {
            Kind::Clamd => Connections::Clamd(Pool::new(settings.connections)),
            Kind::Rspamd => Connections::Rspamd(Pool::new(settings.connections)),
        };
        for result in ["clean", "infected", "ham", "spam", "too-big", "unavailable"] {
            if settings.kind.can_say(result) {
                // From 0 on: an alert sees no rise in a series that comes into being with its first failure.
                metrics.scans.with_label_values(&[&*settings.name, result]);
            }
        }
        Self { settings, connections, metrics }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The name of what was found, printable ASCII; `None`: nothing. clamd's.
    pub async fn virus(&self, message: &Message) -> Result<Option<String>, ScanError> {
        let Connections::Clamd(pool) = &self.connections else { return Err(ScanError::OtherKind) };
        let found = self.scan(pool, &(), message).await;
        found.inspect(|found| self.count(if found.is_some() { "infected" } else { "clean" }))
    }

    /// rspamd's.
    pub async fn assess(&self, message: &Message, circumstances: &Circumstances) -> Result<Assessment, ScanError> {
        let Connections::Rspamd(pool) = &self.connections else { return Err(ScanError::OtherKind) };
        let head = rspamd::Head::new(&self.settings, circumstances);
        let assessment = self.scan(pool, &head, message).await;
        assessment.inspect(|said| self.count(if said.score >= said.required { "spam" } else { "ham" }))
    }

    /// Whether it answers at all. The error says why not.
    pub async fn ping(&self) -> Result<(), String> {
        let end = Instant::now() + PING_TIMEOUT;
        let address = &self.settings.address;
        let ping = async {
            match &self.connections {
                Connections::Clamd(_) => clamd::ping(address).await,
                Connections::Rspamd(_) => rspamd::Connection::open(address).await?.ping().await,
            }
        };
        match timeout_at(end, ping).await {
            Ok(answered) => answered.map_err(|fault| fault.to_string()),
            Err(_) => Err("it does not answer in time".to_owned()),
        }
    }

    async fn scan<C: Connection>(
        &self,
        pool: &Pool<C>,
        told: &C::Told,
        message: &Message,
    ) -> Result<C::Said, ScanError> {
        let Settings { name, address, max_size, timeout, .. } = &self.settings;
        if message.len() > *max_size {
            self.count("too-big");
            return Err(ScanError::TooBig(*max_size));
        }
        let start = Instant::now();
        let result = timeout_at(start + *timeout, pool.scan(address, told, message)).await;
        self.metrics.scan_seconds.with_label_values(&[&**name]).observe(start.elapsed().as_secs_f64());
        match result {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(Fault::TooBig)) => {
                self.count("too-big");
                Err(ScanError::TooBig(*max_size))
            }
            Ok(Err(fault)) => Err(self.unavailable(&fault.to_string())),
            Err(_) => Err(self.unavailable("it does not answer in time")),
        }
    }

    fn unavailable(&self, why: &str) -> ScanError {
        self.count("unavailable");
        ScanError::Unavailable(format!("{} at {}: {why}", self.settings.name, self.settings.address))
    }

    fn count(&self, result: &str) {
        self.metrics.scans.with_label_values(&[&*self.settings.name, result]).inc();
    }
}

impl Kind {
    fn can_say(self, result: &str) -> bool {
        match result {
            "clean" | "infected" => self == Self::Clamd,
            "ham" | "spam" => self == Self::Rspamd,
            _ => true,
        }
    }
}

/// All scanners of the config, by name. A scan that is under way when they are replaced ends as it began.
pub struct Scanners {
    current: ArcSwap<HashMap<Arc<str>, Arc<Scanner>>>,
    metrics: Arc<Metrics>,
}

impl Scanners {
    pub fn new(settings: Vec<Settings>, metrics: Arc<Metrics>) -> Self {
        let scanners = Self { current: ArcSwap::default(), metrics };
        scanners.replace(settings);
        scanners
    }

    /// Those that have not changed keep their connections.
    pub fn replace(&self, settings: Vec<Settings>) {
        let before = self.current.load();
        let scanner = |settings: Settings| {
            let same = before.get(&settings.name).filter(|scanner| scanner.settings == settings);
            let scanner = same.cloned().unwrap_or_else(|| Arc::new(Scanner::new(settings, self.metrics.clone())));
            (scanner.settings.name.clone(), scanner)
        };
        let now = settings.into_iter().map(scanner).collect();
        self.current.store(Arc::new(now));
    }

    pub fn named(&self, name: &str) -> Option<Arc<Scanner>> {
        self.current.load().get(name).cloned()
    }
}

/// What a daemon says, for a log line: printable ASCII, and not much of it.
fn printable(text: &[u8]) -> String {
    text.iter().take(200).map(|&octet| if matches!(octet, b' '..=b'~') { char::from(octet) } else { '?' }).collect()
}
