//! Puts the parts together, runs them and stops them in order; the place that spawns tasks.
//!
//! Stop: listeners close, sessions between commands hear 421, those in a message end it; then the queue finishes what is
//! under way; then the spool writes its last records. What is not done by then is in the spool.

pub mod acceptance;
pub mod authentication;
pub mod certificate;
pub mod connections;
pub mod control;
pub mod descriptor;
mod heartbeat;
pub mod http;
pub mod inventory;
pub mod listener;
pub mod live;
pub mod mailboxes;
pub mod names;
pub mod plugins;
pub mod preparation;
mod rate;
pub mod reputation;
pub mod scanners;
pub mod setup;
pub mod signing;
pub mod status;
pub mod story;
pub mod supervisor;
pub mod tls;
mod trial;
pub mod verbs;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::acceptance::Acceptance;
use self::authentication::Authentication;
use self::connections::{Connections, Handshakes, Limits};
use self::heartbeat::Watchdog;
use self::http::Readiness;
use self::listener::Gate;
use self::live::{Live, Parts, Refusal};
use self::mailboxes::Mailboxes;
use self::names::Names;
use self::preparation::Preparation;
use self::scanners::Scanning;
use self::signing::Signer;
use self::status::Facts;
use self::supervisor::Supervisor;
use self::tls::Certificates;
use crate::cli;
use crate::config::Settings;
use crate::delivery::{Delivery, TlsSetupError};
use crate::dns::{NoServers, Resolver};
use crate::host::calendar::Calendar;
use crate::host::{self, Archive, Compiler, Host, HostError, Store};
use crate::log::{EventLog, Record};
use crate::metrics::Metrics;
use crate::pipeline::{Chains, Clerk, Direction, Event, Stage};
use crate::queue::Queue;
use crate::scan::Scanners;
use crate::session::connection::Context;
use crate::session::machine::Gateway;
use crate::smtp::Reply;
use crate::spool::{Recovered, SegmentSpool, Spool, SpoolError};

/// What a stop may take beyond the drain time: deliveries (30 s) and the spool's last records.
const AFTER_DRAIN: Duration = Duration::from_secs(60);
/// Events for the `event` hook that wait to be told; those beyond are not told.
const MAX_EVENTS: usize = 4096;
/// Events that are being told at a time; one plugin takes at most what its quota allows.
const MAX_TELLING: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the spool directory {} is not there: make it, or mount its disk", .0.display())]
    NoSpool(PathBuf),
    #[error("spool: {0}")]
    Spool(#[from] SpoolError),
    #[error("{0}")]
    Dns(#[from] NoServers),
    #[error("delivery: {0}")]
    Delivery(#[from] TlsSetupError),
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("{0}")]
    Plugins(#[from] Refusal),
    #[error("listener {name}: {source}")]
    Tls { name: Arc<str>, source: rustls::Error },
    #[error("can't listen on {address}: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("control socket {}: {source}", path.display())]
    Control { path: PathBuf, source: std::io::Error },
    #[error("the thread that writes what plugins keep can't be started: {0}")]
    Archive(std::io::Error),
    #[error("the thread that watches the others can't be started: {0}")]
    Watchdog(std::io::Error),
    #[error("a part of the start was interrupted")]
    Interrupted,
}

/// A gateway that runs. Dropping it does not stop it in order: see [`stop`](Self::stop).
pub struct Server {
    gateway: Arc<Gateway>,
    queue: Arc<Queue>,
    delivery: Arc<Delivery>,
    /// What counters and store keep.
    archive: Arc<Archive>,
    live: Arc<Live>,
    spool: Arc<SegmentSpool>,
    stopping: watch::Sender<bool>,
    limits: Arc<ArcSwap<Limits>>,
    supervisor: Supervisor,
    _watchdog: Watchdog,
    drain: Duration,
    listeners: JoinSet<()>,
    services: JoinSet<()>,
    queue_task: tokio::task::JoinHandle<()>,
    stop_queue: watch::Sender<bool>,
    /// Where it listens, by the listeners' names; with the port that the system chose for port 0.
    addresses: Vec<(Arc<str>, SocketAddr)>,
    http: Option<SocketAddr>,
}

impl Server {
    /// Returns when mail can be taken. The spool's directory must be there. `compiler`: where plugins are compiled.
    pub async fn start(
        settings: &Settings,
        config: Option<PathBuf>,
        log: EventLog,
        metrics: Arc<Metrics>,
        compiler: Compiler,
    ) -> Result<Self, ServerError> {
        log.emit(
            Record::new("start").text("version", env!("CARGO_PKG_VERSION")).text("host", &settings.server.host_name),
        );
        let (spool, recovered) = open_spool(settings, metrics.clone()).await?;
        let story = log.clone();
        spool.observe(move |reason| story.emit(Record::new("spool").text("failure", reason)));
        let clerk = Clerk { log: log.clone(), metrics: metrics.clone() };
        let resolver = Resolver::new(setup::dns(settings), metrics.clone())?;
        let delivery = Arc::new(delivery(settings, resolver.clone(), &metrics)?);
        let names = Arc::new(Names(resolver.clone()));
        let basis = services(settings, &clerk, names.clone());
        let mailboxes = Arc::new(Mailboxes::new(settings, delivery.clone(), basis.store.clone(), metrics.clone()));
        let signer = Arc::new(Signer::new(settings, &metrics));
        let scanners = Arc::new(Scanners::new(setup::scanners(settings), metrics.clone()));
        let verify = setup::authentication(settings);
        let authentication = Arc::new(Authentication::new(resolver.clone(), verify, metrics.clone()));
        let services = host::Services {
            call_ahead: mailboxes.clone(),
            keys: signer.clone(),
            scanners: Arc::new(Scanning { scanners: scanners.clone(), names }),
            authenticator: authentication.clone(),
            ..basis
        };
        let unknown_recipients = services.unknown_recipients.clone();
        let archive = open_archive(settings, &services).await?;
        let host = Arc::new(Host::new(setup::host(settings, compiler), services)?);
        let started = live::start(&host, settings).await?;
        let incoming = spool.incoming_directory().to_owned();
        let (room, filled) = (spool.clone(), Arc::new(OnceLock::<Weak<Queue>>::new()));
        let snapshot = setup::snapshot(settings, incoming.clone(), started.chains);
        let queue_of_it = filled.clone();
        let has_room = Box::new(move |octets| {
            let queue = queue_of_it.get().and_then(Weak::upgrade);
            // A spool that has failed is not full: who is still connected hears 451 from the commit, and not 452 here.
            queue.is_none_or(|queue| queue.has_room()) && (room.has_room_for(octets) || !room.is_healthy())
        });
        let gateway = Gateway::new(snapshot, clerk, has_room);
        let gateway = gateway.with_unknown_recipients(Box::new(move |client| unknown_recipients.add(client)));
        let limits = Arc::new(ArcSwap::from_pointee(setup::connections(settings, &metrics)));
        let handshakes = Handshakes::new(limits.clone());
        let gateway = Arc::new(gateway.with_handshakes(Box::new(move |client| handshakes.admits(client))));
        let prepare = Arc::new(Preparation { gateway: gateway.clone(), signer: signer.clone() });
        let queue = Queue::new(setup::queue(settings), spool.clone(), mailboxes.clone(), prepare, log, metrics.clone());
        let _ = filled.set(Arc::downgrade(&queue));
        let (stopping, stopped) = watch::channel(false);
        let supervisor = Supervisor::from_environment();
        let parts = Parts {
            gateway: gateway.clone(),
            queue: queue.clone(),
            delivery: delivery.clone(),
            mailboxes,
            scanners,
            authentication,
            host,
            incoming,
            limits: limits.clone(),
            supervisor: supervisor.clone(),
            certificates: Certificates::new(settings),
            signer,
            registry: started.registry,
        };
        let mut server = Self {
            queue_task: tokio::spawn(std::future::ready(())),
            stop_queue: watch::channel(false).0,
            listeners: JoinSet::new(),
            services: JoinSet::new(),
            addresses: Vec::new(),
            http: None,
            gateway,
            queue,
            delivery,
            archive,
            live: Arc::new(Live::new(config, parts, started.in_force)),
            spool,
            stopping,
            limits,
            supervisor,
            _watchdog: Watchdog::start(&metrics).map_err(ServerError::Watchdog)?,
            drain: settings.server.drain_timeout,
        };
        // All sockets first: a port in use must not leave half a gateway.
        let sockets = server.bind(settings)?;
        server.start_queue(recovered).await?;
        server.serve_mail(settings, sockets.mail, &stopped)?;
        let ready = server.readiness(stopped);
        if let Some(http) = sockets.http {
            server.serve_http(http, metrics, ready.clone());
        }
        let watch = reputation::watch(server.live.clone(), resolver, server.gateway.clerk.clone());
        server.services.spawn(watch);
        let facts = server.facts(settings, ready);
        server.serve_control(sockets.control, facts);
        Ok(server)
    }

    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Tells the service manager that mail is taken, and from now on how it is. After signals can be handled: it may send
    /// one at once.
    pub fn supervise(&self) {
        self.supervisor.ready();
        let (spool, queue, metrics) = (self.spool.clone(), self.queue.clone(), self.gateway.clerk.metrics.clone());
        let committer = spool.clone();
        let turn = move || committer.clone().turn();
        // Until the very end, beyond `stop`: it is watched until it is gone.
        tokio::spawn(self.supervisor.clone().beat(turn, move || standing(&spool, &queue, &metrics)));
    }

    /// In order, and not longer than the drain time for sessions and again for deliveries.
    pub async fn stop(mut self) {
        self.supervisor.stopping(self.drain + AFTER_DRAIN);
        self.gateway.clerk.log.emit(Record::new("stopping"));
        // Nobody listens any more when it fails.
        let _ = self.stopping.send(true);
        while self.listeners.join_next().await.is_some() {}
        let _ = self.stop_queue.send(true);
        let _ = self.queue_task.await;
        self.services.shutdown().await;
        self.delivery.close().await;
        let (archive, spool) = (self.archive.clone(), self.spool.clone());
        let last = move || {
            archive.flush();
            spool.shutdown();
        };
        let _ = tokio::task::spawn_blocking(last).await;
        self.gateway.clerk.log.emit(Record::new("stopped"));
    }

    fn bind(&mut self, settings: &Settings) -> Result<Sockets, ServerError> {
        let mut mail = Vec::new();
        for listener in &settings.listeners {
            let (socket, address) = bind(listener.address)?;
            self.addresses.push((listener.name.clone(), address));
            mail.push(socket);
        }
        let http = settings.http.as_ref().map(|http| bind(http.address)).transpose()?;
        self.http = http.as_ref().map(|(_, address)| *address);
        let path = settings.control_socket();
        let control = cli::control::bind(&path).map_err(|source| ServerError::Control { path, source })?;
        Ok(Sockets { mail, http: http.map(|(socket, _)| socket), control })
    }

    async fn start_queue(&mut self, recovered: Vec<Recovered>) -> Result<(), ServerError> {
        self.tell_events();
        let queue = self.queue.clone();
        let revived = tokio::task::spawn_blocking(move || queue.recover(recovered)).await;
        revived.map_err(|_| ServerError::Interrupted)?;
        let (stop, mut stopped) = watch::channel(false);
        self.stop_queue = stop;
        let shutdown = async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        self.queue_task = tokio::spawn(self.queue.clone().run(shutdown));
        let delivery = self.delivery.clone();
        self.services.spawn(async move { delivery.tend().await });
        Ok(())
    }

    /// From the queue to the plugins that have an `event` hook, without ever holding the queue up.
    fn tell_events(&mut self) {
        let (sender, mut receiver) = mpsc::channel::<(Option<Arc<str>>, bool, Event)>(MAX_EVENTS);
        let dropped = self.gateway.clerk.metrics.events_untold.clone();
        self.queue.observe(Arc::new(move |tenant, outbound, event| {
            if sender.try_send((tenant.cloned(), outbound, event)).is_err() {
                dropped.inc();
            }
        }));
        let gateway = self.gateway.clone();
        self.services.spawn(async move {
            // One that is slow to hear does not keep the others waiting: it has a quota of its own.
            let mut telling = JoinSet::new();
            while let Some((tenant, outbound, event)) = receiver.recv().await {
                let direction = if outbound { Direction::Outbound } else { Direction::Inbound };
                let gateway = gateway.clone();
                telling.spawn(async move { tell(&gateway, tenant.as_ref(), direction, &event).await });
                while telling.try_join_next().is_some() {}
                if telling.len() >= MAX_TELLING {
                    telling.join_next().await;
                }
            }
        });
    }

    fn serve_mail(
        &mut self,
        settings: &Settings,
        sockets: Vec<TcpListener>,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), ServerError> {
        self.live.certificates().tell(&self.gateway.clerk.metrics);
        let connections = Arc::new(Connections::new(self.gateway.overload.clone()));
        let acceptance = Arc::new(Acceptance { queue: self.queue.clone() });
        for (written, socket) in settings.listeners.iter().zip(sockets) {
            let tls = self.live.certificates().acceptor(&written.name);
            let tls = tls.map_err(|source| ServerError::Tls { name: written.name.clone(), source })?;
            let listener = Arc::new(setup::listener(written));
            let context = Context::new(self.gateway.clone(), listener, acceptance.clone(), tls, stopped.clone());
            let (spool, host_name) = (self.spool.clone(), settings.server.host_name.to_string());
            let gate = Gate {
                context,
                connections: connections.clone(),
                limits: self.limits.clone(),
                unavailable: Arc::new(move || (!spool.is_healthy()).then(|| Reply::shutting_down(&host_name))),
            };
            self.listeners.spawn(listener::run(socket, gate, settings.server.drain_timeout));
        }
        Ok(())
    }

    fn readiness(&self, stopping: watch::Receiver<bool>) -> Readiness {
        let (spool, queue) = (self.spool.clone(), self.queue.clone());
        Arc::new(move || {
            // Asked first: it may find out that the spool has failed.
            let has_room = spool.has_room_for(0);
            match (spool.is_healthy(), *stopping.borrow()) {
                (false, _) => Err("the spool has failed"),
                (true, true) => Err("stopping"),
                (true, false) if !has_room => Err("the spool is full"),
                (true, false) if !queue.has_room() => Err("the queue is full"),
                (true, false) => Ok(()),
            }
        })
    }

    fn facts(&self, settings: &Settings, ready: Readiness) -> Facts {
        Facts {
            started: jiff::Timestamp::now(),
            addresses: self.addresses.clone(),
            http: self.http,
            directory: settings.spool.directory.clone(),
            reserve: settings.spool.reserve.0,
            ready,
            live: self.live.clone(),
        }
    }

    fn serve_http(&mut self, socket: TcpListener, metrics: Arc<Metrics>, ready: Readiness) {
        self.services.spawn(http::serve(socket, metrics, ready));
    }

    fn serve_control(&mut self, socket: UnixListener, facts: Facts) {
        let (queue, live, facts) = (self.queue.clone(), self.live.clone(), Arc::new(facts));
        self.services.spawn(cli::control::serve(socket, move |request| {
            control::answer(request, queue.clone(), live.clone(), facts.clone())
        }));
        let live = self.live.clone();
        self.services.spawn(async move { live.watch_trials().await });
    }

    /// What can be changed while it runs.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

struct Sockets {
    mail: Vec<TcpListener>,
    http: Option<TcpListener>,
    control: UnixListener,
}

/// With the port that the system has chosen for port 0.
fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Bind { address, source };
    let socket = listener::bind(address).map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((socket, bound))
}

async fn open_spool(
    settings: &Settings,
    metrics: Arc<Metrics>,
) -> Result<(Arc<SegmentSpool>, Vec<Recovered>), ServerError> {
    let settings = setup::spool(settings);
    if !settings.directory.is_dir() {
        // It is not made here: what is missing may be a disk that was not mounted (D5).
        return Err(ServerError::NoSpool(settings.directory));
    }
    let open = tokio::task::spawn_blocking(move || SegmentSpool::open(settings, metrics));
    Ok(open.await.map_err(|_| ServerError::Interrupted)??)
}

/// The next hops, with the internal DNS where there is one.
pub fn delivery(settings: &Settings, resolver: Resolver, metrics: &Arc<Metrics>) -> Result<Delivery, ServerError> {
    let internal =
        setup::internal_dns(settings).map(|settings| Resolver::new(settings, metrics.clone())).transpose()?;
    Ok(Delivery::new(setup::delivery(settings), resolver, metrics.clone())?.with_internal(internal))
}

/// In a few words, for whoever asks the service manager.
fn standing(spool: &SegmentSpool, queue: &Queue, metrics: &Metrics) -> String {
    if !spool.is_healthy() {
        return "takes no mail: the spool has failed; the log says why".to_owned();
    }
    let states = ["ready", "waiting", "delivering", "held", "quarantined"];
    let queued: i64 = states.iter().map(|state| metrics.queue_messages.with_label_values(&[*state]).get()).sum();
    let takes = match (spool.has_room_for(0), queue.has_room()) {
        (false, _) => "takes no mail, the spool is full",
        (true, false) => "takes no mail, the queue is full",
        (true, true) => "takes mail",
    };
    format!("{takes}; {} sessions, {queued} messages in the queue", metrics.sessions_open.get())
}

/// What stands behind the interfaces that need nothing of the gateway's other parts.
fn services(settings: &Settings, clerk: &Clerk, names: Arc<Names>) -> host::Services {
    let clock = host::counter::system_clock();
    let calendar = Calendar::new(settings.server.time_zone.clone());
    host::Services {
        store: Arc::new(Store::with_limits(clock.clone(), setup::store(settings))),
        ..host::Services::new(clerk.log.clone(), clerk.metrics.clone(), names, clock, calendar)
    }
}

/// Before any plugin is asked: it might count anew what it has counted already.
async fn open_archive(settings: &Settings, services: &host::Services) -> Result<Arc<Archive>, ServerError> {
    let directory = settings.spool.directory.join("state");
    let host::Services { counters, store, metrics, .. } = services.clone();
    let open = tokio::task::spawn_blocking(move || Archive::open(directory, counters, store, metrics));
    let archive = Arc::new(open.await.map_err(|_| ServerError::Interrupted)?);
    archive.write_behind().map_err(ServerError::Archive)?;
    Ok(archive)
}

/// Every plugin of the mail's scopes that wants to know.
async fn tell(gateway: &Gateway, tenant: Option<&Arc<str>>, direction: Direction, event: &Event) {
    let snapshot = gateway.current.load_full();
    let reseller = tenant.and_then(|name| snapshot.directory.tenant(name)).and_then(|tenant| tenant.reseller.clone());
    let chains: &Chains = &snapshot.chains;
    let scoped = [
        Some(&chains.platform),
        reseller.as_ref().and_then(|name| chains.resellers.get(name)),
        tenant.and_then(|name| chains.tenants.get(name)),
    ];
    for entry in scoped.into_iter().flatten().flat_map(|chain| chain.at(Stage::Event, direction)) {
        if let Err(failure) = entry.filter.tell(event.clone()).await {
            let record = Record::new("plugin").id(event.id).text("stage", Stage::Event).text("plugin", &entry.name);
            gateway.clerk.log.emit(record.text("failure", failure.cause.name()).text("detail", &failure.detail));
        }
    }
}
