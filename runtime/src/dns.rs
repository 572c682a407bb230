//! DNS as the gateway asks it: addresses, mail exchanges, text, names of addresses.
//!
//! One distinction rules everything here: *there is no such record* ([`DnsError::NotFound`]) may refuse mail for good,
//! *nobody could say* ([`DnsError::Temporary`]) may only ever delay it. So whatever is not a clear answer (SERVFAIL,
//! REFUSED, silence, truncation, rubbish, a chain of aliases without end) is temporary, and is never remembered for long.
//!
//! Names are looked up in DNS alone, always as absolute names: no hosts file, no search list, which would let the
//! machine's set-up decide where mail goes.

pub mod blocklist;
mod cache;
mod literal;
#[cfg(test)]
pub(crate) mod responder;
mod upstream;
pub mod zone;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::metrics::Metrics;
use crate::smtp::Domain;
use cache::Cache;
pub use literal::LiteralName;
use upstream::Upstream;

/// RFC 7208 §4.6.4 and §5.5: names of one address beyond these are not looked at.
const MAX_NAMES_OF_ADDRESS: usize = 10;
/// How long it is remembered that nobody could say: enough for one burst of questions, no more.
const FAILURE_TTL: Duration = Duration::from_secs(5);
/// The cause of [`DnsError::Temporary`] when no answer came.
const TIMED_OUT: &str = "timed out";

#[derive(Debug, Clone)]
pub struct Settings {
    /// Name servers, asked over UDP, and over TCP when an answer is truncated. They go before those of the system.
    pub servers: Vec<SocketAddr>,
    /// Without `servers`: those of `/etc/resolv.conf`. With neither, all look-ups fail for a time.
    pub system: bool,
    /// For one try.
    pub timeout: Duration,
    /// Tries for one question, the first included. A look-up never takes longer than `timeout * attempts`.
    pub attempts: u32,
    /// Answers remembered, of 512 octets each; a bigger one counts as several.
    pub cache_entries: usize,
    /// Questions under way at once; others wait, and fail for a time when they have waited too long.
    pub max_concurrent: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            system: true,
            timeout: Duration::from_secs(4),
            attempts: 2,
            cache_entries: 64 * 1024,
            max_concurrent: 1024,
        }
    }
}

/// The name servers of the system can't be known: the administrator's to mend.
#[derive(Debug, thiserror::Error)]
#[error("no DNS servers: {0}")]
pub struct NoServers(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist (NXDOMAIN), or has no such record (NODATA, RFC 2308 §2).
    #[error("no such record")]
    NotFound,
    /// No clear answer; another time there may be one.
    #[error("DNS has no answer for now: {0}")]
    Temporary(String),
    /// Can't be a name in DNS; nobody was asked.
    #[error("not a DNS name")]
    BadName,
}

impl DnsError {
    /// No answer came; other failures are answers that say nothing.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Temporary(cause) if cause == TIMED_OUT)
    }

    const fn label(&self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Temporary(_) => "temporary",
            Self::BadName => "bad-name",
        }
    }
}

/// One MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub preference: u16,
    /// `None`: the domain takes no mail (RFC 7505); then it is the only one.
    pub host: Option<Domain>,
}

/// A client's name, confirmed forward (iprev, RFC 8601 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Iprev {
    /// The address has this name, and the name has the address.
    Verified(Domain),
    /// The address has this name, which does not resolve back to it.
    Unconfirmed(Domain),
    /// The address has no name.
    None,
    TemporaryFailure,
}

/// Cheap to clone; all clones share cache and limits.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    upstream: Option<Upstream>,
    deadline: Duration,
    permits: Semaphore,
    cache: Mutex<Cache>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, NoServers> {
        Ok(Self(Arc::new(Inner {
            upstream: Upstream::new(&settings).map_err(NoServers)?,
            deadline: settings.timeout * settings.attempts.max(1),
            permits: Semaphore::new(settings.max_concurrent.clamp(1, Semaphore::MAX_PERMITS)),
            cache: Mutex::new(Cache::new(settings.cache_entries)),
            metrics,
        })))
    }

    /// A and AAAA, asked at the same time. One of them is enough; without any, a failure outweighs an absence.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        match tokio::join!(self.ipv4(name), self.ipv6(name)) {
            (Ok(four), Ok(six)) => {
                Ok(four.into_iter().map(IpAddr::V4).chain(six.into_iter().map(IpAddr::V6)).collect())
            }
            (Ok(four), Err(_)) => Ok(four.into_iter().map(IpAddr::V4).collect()),
            (Err(_), Ok(six)) => Ok(six.into_iter().map(IpAddr::V6).collect()),
            (Err(DnsError::NotFound), Err(error)) | (Err(error), Err(_)) => Err(error),
        }
    }

    pub async fn ipv4(&self, name: &str) -> Result<Vec<Ipv4Addr>, DnsError> {
        self.ask(absolute_name(name), RecordType::A, ipv4_in).await
    }

    pub async fn ipv6(&self, name: &str) -> Result<Vec<Ipv6Addr>, DnsError> {
        self.ask(absolute_name(name), RecordType::AAAA, ipv6_in).await
    }

    /// Best first. Empty when there are records, but none with a name that a host can have: that is not `NotFound`,
    /// after which the domain itself would be tried (RFC 5321 §5.1).
    pub async fn mx(&self, domain: &Domain) -> Result<Vec<Exchange>, DnsError> {
        let records = self
            .ask(absolute_name(domain.as_str()), RecordType::MX, |data| match data {
                RData::MX(mx) => Some((mx.preference, mx.exchange.clone())),
                _ => None,
            })
            .await?;
        let alone = records.len() == 1;
        let mut exchanges: Vec<Exchange> = records
            .into_iter()
            .filter_map(|(preference, name)| {
                if name.is_root() {
                    // RFC 7505 §3: a null MX beside others means nothing.
                    return alone.then_some(Exchange { preference, host: None });
                }
                Some(Exchange { preference, host: Some(domain_of(&name)?) })
            })
            .collect();
        exchanges.sort_by_key(|exchange| exchange.preference);
        Ok(exchanges)
    }

    /// Each record's character-strings joined without space (RFC 7208 §3.3, RFC 6376 §3.6.2.2).
    pub async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        self.ask(absolute_name(name), RecordType::TXT, text_in).await
    }

    /// Whether there is such a name, with whatever records or none (RFC 8020): all but NXDOMAIN.
    pub async fn exists(&self, name: &str) -> Result<bool, DnsError> {
        match self.ask_counted(absolute_name(name), RecordType::A).await {
            Ok(_) => Ok(true),
            Err(DnsError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// PTR: the names of an address.
    pub async fn names_of(&self, address: IpAddr) -> Result<Vec<Domain>, DnsError> {
        let name = Name::from(address.to_canonical()).to_ascii();
        self.ask(absolute_name(&name), RecordType::PTR, |data| match data {
            RData::PTR(ptr) => domain_of(&ptr.0),
            _ => None,
        })
        .await
    }

    pub async fn ns(&self, name: &str) -> Result<Vec<Domain>, DnsError> {
        self.ask(absolute_name(name), RecordType::NS, |data| match data {
            RData::NS(ns) => domain_of(&ns.0),
            _ => None,
        })
        .await
    }

    /// What the name is an alias of.
    pub async fn cname(&self, name: &str) -> Result<Domain, DnsError> {
        let targets = self
            .ask(absolute_name(name), RecordType::CNAME, |data| match data {
                RData::CNAME(cname) => domain_of(&cname.0),
                _ => None,
            })
            .await?;
        targets.into_iter().next().ok_or(DnsError::NotFound)
    }

    /// RFC 8601 §3. At most ten names are checked, and no longer than three look-ups may take.
    pub async fn client_name(&self, address: IpAddr) -> Iprev {
        let checked = timeout(self.0.deadline * 3, self.confirm_names(address.to_canonical())).await;
        checked.unwrap_or(Iprev::TemporaryFailure)
    }

    async fn confirm_names(&self, address: IpAddr) -> Iprev {
        let names = match self.names_of(address).await {
            Ok(names) => names,
            Err(DnsError::Temporary(_)) => return Iprev::TemporaryFailure,
            Err(DnsError::NotFound | DnsError::BadName) => return Iprev::None,
        };
        let mut failed = false;
        for name in names.iter().take(MAX_NAMES_OF_ADDRESS) {
            match self.has_address(name, address).await {
                Ok(true) => return Iprev::Verified(name.clone()),
                Ok(false) | Err(DnsError::NotFound | DnsError::BadName) => {}
                Err(DnsError::Temporary(_)) => failed = true,
            }
        }
        match names.into_iter().next() {
            Some(_) if failed => Iprev::TemporaryFailure,
            Some(name) => Iprev::Unconfirmed(name),
            None => Iprev::None,
        }
    }

    async fn has_address(&self, name: &Domain, address: IpAddr) -> Result<bool, DnsError> {
        match address {
            IpAddr::V4(four) => Ok(self.ipv4(name.as_str()).await?.contains(&four)),
            IpAddr::V6(six) => Ok(self.ipv6(name.as_str()).await?.contains(&six)),
        }
    }

    async fn ask<T>(
        &self,
        name: Result<Name, DnsError>,
        kind: RecordType,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Result<Vec<T>, DnsError> {
        let answer = self.ask_counted(name, kind).await?;
        if answer.is_empty() { Err(DnsError::NotFound) } else { Ok(answer.iter().filter_map(pick).collect()) }
    }

    /// Empty: the name has no such record (NODATA). `NotFound`: there is no such name (NXDOMAIN).
    async fn ask_counted(&self, name: Result<Name, DnsError>, kind: RecordType) -> Result<Arc<[RData]>, DnsError> {
        let start = Instant::now();
        let answer = match name {
            Ok(name) => self.look_up(name, kind).await,
            Err(error) => Err(error),
        };
        let inner = &self.0;
        inner.metrics.dns_seconds.observe(start.elapsed().as_secs_f64());
        let result = match &answer {
            Ok(data) if data.is_empty() => DnsError::NotFound.label(),
            Ok(_) => "ok",
            Err(error) => error.label(),
        };
        inner.metrics.dns_queries.with_label_values(&[kind_label(kind), result]).inc();
        answer
    }

    async fn look_up(&self, name: Name, kind: RecordType) -> Result<Arc<[RData]>, DnsError> {
        let Some(upstream) = &self.0.upstream else {
            return Err(DnsError::Temporary("no name server is configured".to_owned()));
        };
        let key = (name.to_lowercase(), kind);
        if let Some(answer) = self.lock_cache().find(&key, Instant::now()) {
            return answer;
        }
        let (answer, ttl) = match timeout(self.0.deadline, self.ask_upstream(upstream, name, kind)).await {
            Ok(answered) => answered,
            Err(_) => (Err(DnsError::Temporary(TIMED_OUT.to_owned())), FAILURE_TTL),
        };
        if !ttl.is_zero() {
            self.lock_cache().insert(key, answer.clone(), Instant::now() + ttl);
        }
        answer
    }

    async fn ask_upstream(&self, upstream: &Upstream, name: Name, kind: RecordType) -> upstream::Answer {
        match self.0.permits.acquire().await {
            Ok(_permit) => upstream.ask(name, kind).await,
            Err(_) => (Err(DnsError::Temporary("no look-ups any more".to_owned())), Duration::ZERO),
        }
    }

    fn lock_cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ipv4_in(data: &RData) -> Option<Ipv4Addr> {
    match data {
        RData::A(a) => Some(a.0),
        _ => None,
    }
}

fn ipv6_in(data: &RData) -> Option<Ipv6Addr> {
    match data {
        RData::AAAA(aaaa) => Some(aaaa.0),
        _ => None,
    }
}

fn text_in(data: &RData) -> Option<Vec<u8>> {
    match data {
        RData::TXT(txt) => Some(txt.txt_data.concat()),
        _ => None,
    }
}

const fn kind_label(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "a",
        RecordType::AAAA => "aaaa",
        RecordType::MX => "mx",
        RecordType::TXT => "txt",
        RecordType::PTR => "ptr",
        RecordType::NS => "ns",
        RecordType::CNAME => "cname",
        _ => "other",
    }
}

/// Names of services have underscores and names from SPF macros nearly anything; but escapes are for zone files only,
/// and an address is not a name.
fn absolute_name(text: &str) -> Result<Name, DnsError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() || text.contains('\\') || text.parse::<IpAddr>().is_ok() {
        return Err(DnsError::BadName);
    }
    let mut name = if text.is_ascii() {
        Name::from_ascii(text).map_err(|_| DnsError::BadName)?
    } else {
        let ascii = idna::domain_to_ascii(text).map_err(|_| DnsError::BadName)?;
        Name::from_ascii(ascii).map_err(|_| DnsError::BadName)?
    };
    if name.is_fqdn() {
        // A second dot at the end.
        return Err(DnsError::BadName);
    }
    name.set_fqdn(true);
    Ok(name)
}

/// `None` for a name that no host can have.
fn domain_of(name: &Name) -> Option<Domain> {
    Domain::parse(&name.to_ascii()).ok()
}

#[cfg(test)]
mod tests;
