//! From a route to a host, and from host to host until one takes the mail or all have been tried.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::seq::IndexedRandom as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use super::channel::Wire;
use super::connection::{Connection, Opening};
use super::exchange::Resolvers;
use super::failure::{Failure, Stage};
use super::pool::{Key, Pool};
use super::target::Target;
use super::tls::{Connectors, TlsSetupError};
use super::transaction::{self, Outcomes, Outgoing};
use super::way::{Terms, Way, misrouted};
use super::{Job, NextHop, Outcome, Report, Settings, maildir};
use crate::dns::Resolver;
use crate::mail::{Route, TlsPolicy};
use crate::metrics::Metrics;
use crate::smtp::Host;

/// How often idle connections are looked at.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// All idle connections together, however slow their servers are.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The gateway's next hops: all of them, by whatever route.
pub struct Delivery {
    pub(super) live: ArcSwap<Live>,
    pub(super) resolvers: Resolvers,
    pub(super) pool: Pool,
    /// How many settings there have been before these.
    generation: AtomicU64,
    pub(super) metrics: Arc<Metrics>,
}

/// What a reload changes. A delivery that is under way keeps what it began with.
pub(super) struct Live {
    generation: u64,
    pub(super) settings: Settings,
    connectors: Connectors,
}

/// Settings that can be put in force.
pub struct Ready(Arc<Live>);

/// Why a target did not take the mail.
enum Refusal {
    /// It could not be brought to the point where mail can be sent: another host may.
    Unreachable(Failure),
    /// It did not take this mail's MAIL; another host may. Of other mail this says nothing: were the host down for it, a
    /// sender whom it does not like would hold up the mail of all.
    TryNext(Failure),
    /// It was in the middle of it.
    Final(Failure),
}

impl Refusal {
    fn into_failure(self) -> Failure {
        match self {
            Self::Unreachable(failure) | Self::TryNext(failure) | Self::Final(failure) => failure,
        }
    }
}

impl NextHop for Delivery {
    fn deliver<'a>(&'a self, job: Job) -> Pin<Box<dyn Future<Output = Report> + Send + 'a>> {
        Box::pin(async move { self.by_route(&job).await })
    }
}

impl Delivery {
    pub fn new(settings: Settings, resolver: Resolver, metrics: Arc<Metrics>) -> Result<Self, TlsSetupError> {
        let live = ArcSwap::from_pointee(Live::new(settings, 0)?);
        let resolvers = Resolvers { public: resolver, internal: None };
        Ok(Self { live, resolvers, pool: Pool::default(), generation: AtomicU64::new(0), metrics })
    }

    /// Asks this resolver, too, for the exchanges of [`Settings::internal_domains`] (R57).
    #[must_use]
    pub fn with_internal(mut self, resolver: Option<Resolver>) -> Self {
        self.resolvers.internal = resolver;
        self
    }

    /// The next delivery goes by these, over connections opened under these. On an error the old ones stay.
    pub fn prepare(&self, settings: Settings) -> Result<Ready, TlsSetupError> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Ready(Arc::new(Live::new(settings, generation)?)))
    }

    /// Puts them in force.
    pub fn replace(&self, ready: Ready) {
        self.live.store(ready.0);
    }

    /// Closes connections that have been idle for long enough; never ends. To be run beside the deliveries.
    pub async fn tend(&self) {
        let mut tick = interval(TEND_EVERY);
        let mut closing = JoinSet::new();
        loop {
            tick.tick().await;
            // Not waited for: a slow server keeps nobody else's connection open.
            while closing.try_join_next().is_some() {}
            self.close_idle(self.live.load().settings.idle_time, &mut closing);
        }
    }

    /// Closes all idle connections, for a graceful stop; within five seconds.
    pub async fn close(&self) {
        let mut closing = JoinSet::new();
        self.close_idle(Duration::ZERO, &mut closing);
        let all = async { while closing.join_next().await.is_some() {} };
        if timeout(CLOSE_WITHIN, all).await.is_err() {
            tracing::debug!(left = closing.len(), "idle connections closed before their servers replied to QUIT");
        }
    }

    /// All at the same time; dropping `closing` closes without further words.
    fn close_idle(&self, idle_time: Duration, closing: &mut JoinSet<()>) {
        let live = self.live.load_full();
        for connection in self.pool.expired(idle_time) {
            let live = live.clone();
            closing.spawn(async move { connection.quit(&live.settings.timeouts).await });
        }
    }

    async fn by_route(&self, job: &Job) -> Report {
        if job.envelope.recipients.is_empty() {
            return Report { outcomes: Vec::new(), destination_down: false };
        }
        let live = self.live.load_full();
        if let Route::Maildir(directory) = &job.route {
            let outcome = maildir::deliver(directory, &live.settings.host_name, job).await;
            return same_for_all(job, outcome, false);
        }
        match self.way(&live, &job.route, only_host(job)).await {
            Ok(way) => self.by_smtp(&live, job, way).await,
            Err(no_way) => same_for_all(job, no_way.outcome, no_way.down),
        }
    }

    async fn by_smtp(&self, live: &Live, job: &Job, way: Way<'_>) -> Report {
        let Way { mut search, name, terms } = way;
        let mail = Outgoing::new(&job.envelope, &job.message);
        let mut outcomes: Outcomes = vec![None; job.envelope.recipients.len()];
        let mut lacking: Outcomes = vec![None; job.envelope.recipients.len()];
        // Hosts that lack something: their other addresses will not have it.
        let mut unfit: Vec<String> = Vec::new();
        let (mut deferred, mut failed, mut reached) = (None, None, false);
        let mut left = live.settings.max_mx.max(1);
        let begun = Instant::now();
        'search: while let Some(mut targets) = search.next().await {
            targets.sort_by_key(|target| !self.pool.has(&live.key(target, &terms)));
            for target in targets {
                if unfit.contains(&target.host) {
                    continue;
                }
                if left == 0 || begun.elapsed() >= live.settings.timeouts.total {
                    break 'search;
                }
                left -= 1;
                match self.try_target(live, &target, &mail, &terms, &mut outcomes).await {
                    Ok(lacks) if outcomes.iter().any(Option::is_none) => {
                        lacking = lacks;
                        unfit.push(target.host);
                    }
                    Ok(_) => return report(outcomes, &misrouted("No outcome"), false),
                    Err(Refusal::Final(failure)) => return report(outcomes, &failure.outcome(&target.host), false),
                    // RFC 5321 §5.1: from ourselves on, no exchange is better.
                    Err(Refusal::Unreachable(failure @ Failure::OwnHost)) => {
                        failed = Some(failure.outcome(&target.host));
                        break 'search;
                    }
                    Err(refusal) => {
                        reached |= matches!(refusal, Refusal::TryNext(_));
                        match refusal.into_failure().outcome(&target.host) {
                            outcome @ Outcome::Failed(_) => failed = Some(outcome),
                            outcome => deferred = Some(outcome),
                        }
                    }
                }
            }
        }
        let later = deferred.or_else(|| search.temporary(&name));
        if later.is_none() {
            // No host is left that might do what those lacked.
            for (outcome, lack) in outcomes.iter_mut().zip(lacking).filter(|(outcome, _)| outcome.is_none()) {
                *outcome = lack;
            }
        }
        let outcome = later.or(failed).unwrap_or_else(|| search.verdict(&name));
        let down = !reached && unfit.is_empty() && matches!(outcome, Outcome::Deferred(_));
        report(outcomes, &outcome, down)
    }

    /// Over a connection that is there, else over a new one. That an idle connection was closed meanwhile is no failure
    /// of anybody's (O10).
    ///
    /// Returns what [`transaction::deliver`] does: who is left because this server lacks something.
    async fn try_target(
        &self,
        live: &Live,
        target: &Target,
        mail: &Outgoing<'_>,
        terms: &Terms,
        outcomes: &mut Outcomes,
    ) -> Result<Outcomes, Refusal> {
        let key = live.key(target, terms);
        while let Some(mut connection) = self.pool.take(&key, live.settings.idle_time) {
            if !connection.is_alive().await {
                continue;
            }
            match self.send(live, &key, connection, mail, outcomes).await {
                Err(Refusal::TryNext(failure)) => tracing::debug!(?failure, "an idle connection was stale"),
                result => return result,
            }
        }
        let opened = self.open(live, target, terms).await;
        let result = if opened.is_ok() { "ok" } else { "failed" };
        self.metrics.next_hop_connections.with_label_values(&[result]).inc();
        self.send(live, &key, opened.map_err(Refusal::Unreachable)?, mail, outcomes).await
    }

    async fn send(
        &self,
        live: &Live,
        key: &Key,
        mut connection: Connection,
        mail: &Outgoing<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<Outcomes, Refusal> {
        let Settings { timeouts, max_recipients, max_mails_per_connection, max_idle_connections, .. } = &live.settings;
        match transaction::deliver(&mut connection, mail, timeouts, *max_recipients, outcomes).await {
            Ok(lacking) => {
                let spent = connection.mails >= *max_mails_per_connection;
                self.pool.put(key.clone(), connection, spent, *max_idle_connections);
                Ok(lacking)
            }
            // Our own trouble with the message is the same everywhere.
            Err(failure @ (Failure::Unreadable(_) | Failure::Unsendable(_))) => Err(Refusal::Final(failure)),
            Err(failure) if connection.mail_answered => {
                if failure.stage() == Some(Stage::Dot) {
                    self.metrics.deliveries_unanswered.inc();
                }
                Err(Refusal::Final(failure))
            }
            Err(failure) => Err(Refusal::TryNext(failure)),
        }
    }

    /// Where TLS is welcome but no must and its handshake fails, once more without (RFC 7435 §3).
    pub(super) async fn open(&self, live: &Live, target: &Target, terms: &Terms) -> Result<Connection, Failure> {
        match open(live, target, terms.tls, terms).await {
            Err(Failure::Tls(cause)) if terms.tls == TlsPolicy::Opportunistic => {
                tracing::info!(host = target.host, cause, "TLS failed; mail goes in the clear");
                open(live, target, TlsPolicy::Never, terms).await
            }
            opened => opened,
        }
    }
}

impl Live {
    fn new(settings: Settings, generation: u64) -> Result<Self, TlsSetupError> {
        Ok(Self { generation, connectors: Connectors::new(&settings)?, settings })
    }

    pub(super) fn key(&self, target: &Target, terms: &Terms) -> Key {
        let login = terms.login.as_ref().map(|(name, _)| name.clone());
        let Target { host, address } = target.clone();
        Key { address, host, tls: terms.tls, login, generation: self.generation }
    }
}

async fn open(live: &Live, target: &Target, tls: TlsPolicy, terms: &Terms) -> Result<Connection, Failure> {
    let Settings { timeouts, host_name, source_addresses, .. } = &live.settings;
    let connect = connect(target.address, source_addresses);
    let stream = match timeout(timeouts.connect, connect).await {
        Ok(connected) => connected.map_err(|error| Failure::Connect(error.to_string()))?,
        Err(_) => return Err(Failure::Connect("timed out".to_owned())),
    };
    if stream.local_addr().is_ok_and(|local| live.settings.is_own_end(local.ip(), target.address)) {
        return Err(Failure::OwnHost);
    }
    let wire: Wire = Box::new(stream);
    let login = terms.login.as_ref().map(|(_, login)| login);
    let opening = Opening { hello: host_name, host: &target.host, tls, login, connectors: &live.connectors, timeouts };
    Connection::open(wire, &opening).await
}

async fn connect(address: SocketAddr, sources: &[IpAddr]) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !sources.is_empty() {
        let fitting: Vec<&IpAddr> = sources.iter().filter(|source| source.is_ipv4() == address.is_ipv4()).collect();
        let source = fitting.choose(&mut rand::rng()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrNotAvailable, "no source address of the destination's family")
        })?;
        socket.bind(SocketAddr::new(**source, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The host that all recipients have, if it is one.
fn only_host(job: &Job) -> Option<&Host> {
    let mut hosts = job.envelope.recipients.iter().map(|recipient| &recipient.mailbox.host);
    let first = hosts.next()?;
    hosts.all(|host| host == first).then_some(first)
}

fn same_for_all(job: &Job, outcome: Outcome, destination_down: bool) -> Report {
    Report { outcomes: vec![outcome; job.envelope.recipients.len()], destination_down }
}

/// Who has no outcome of his own shares that of the connection.
fn report(outcomes: Outcomes, rest: &Outcome, destination_down: bool) -> Report {
    let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| rest.clone())).collect();
    Report { outcomes, destination_down }
}
