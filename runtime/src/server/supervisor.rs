//! What the service manager hears, by sd_notify(3): mail is taken, a reload is under way, the gateway stops, it lives.
//! Datagrams to the socket that `NOTIFY_SOCKET` names; without it nothing happens. The protocol is a few lines of text,
//! so it is spoken here: the crate for it can't reach abstract sockets and waits for a manager that does not read.
//!
//! *Alive* means that all works which a restart could mend: the runtime runs tasks and timers, and the spool's committer
//! takes its turns. A spool that has failed is alive. It answers everybody 4xx, and a restart over a broken disk would
//! only go round in circles; that is for readiness, alerts and the status line.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// A manager that does not read must not hold up mail.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the status line is renewed at least.
const STATUS_PERIOD: Duration = Duration::from_secs(30);
/// How long the committer may take for one turn: more than a disk that comes back (30 s a command, tried five times; the
/// kernel itself warns of hung tasks after 120 s), less than clients wait (10 minutes, RFC 5321 §4.5.3.2.6).
const STUCK: Duration = Duration::from_secs(300);

/// Cheap to clone. The default has nobody to tell.
#[derive(Clone, Default)]
pub struct Supervisor(Option<Arc<Manager>>);

struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// It ends a service that has not said for so long that it lives.
    watchdog: Option<Duration>,
}

/// While it is there, the manager shows the service as reloading.
pub struct Reloading(Supervisor);

impl Supervisor {
    /// The manager that has started this process, if one has.
    pub fn from_environment() -> Self {
        // Not config: this is how the protocol hands over its socket.
        let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let number = |name| std::env::var_os(name).and_then(|value: OsString| value.to_str()?.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        Self::new(&socket, watchdog).unwrap_or_else(|error| {
            tracing::warn!(%error, ?socket, "the service manager can't be told anything");
            Self::default()
        })
    }

    /// `socket`: a path, or `@` and the name of an abstract socket.
    pub fn new(socket: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match socket.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(socket)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract socket")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self(Some(Arc::new(Manager { socket, address, watchdog }))))
    }

    /// Mail can be taken, and signals are understood.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Until the value is dropped.
    #[must_use]
    pub fn reloading(&self) -> Reloading {
        let now = clock_gettime(ClockId::Monotonic);
        // Of Type=notify-reload it is demanded: it tells this reload from an earlier one.
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
        Reloading(self.clone())
    }

    /// `within`: how long it may take, whatever the manager's own limit is.
    pub fn stopping(&self, within: Duration) {
        self.tell(&format!("STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC={}", within.as_micros()));
    }

    /// Says again and again how it is, and that we live while `turn` is answered: each call of it is the wish to have a
    /// turn of the spool's committer. Never ends.
    pub async fn beat<T: Future<Output = ()>>(self, turn: impl Fn() -> T, status: impl Fn() -> String) {
        let Some(manager) = &self.0 else { return };
        let half = manager.watchdog.map(|watchdog| watchdog / 2);
        let mut ticks = interval(half.map_or(STATUS_PERIOD, |half| half.min(STATUS_PERIOD)));
        // A tick that was missed is over: several pings at once say no more than one.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut asked, mut answered) = (Instant::now(), false);
        let mut waiting = Box::pin(turn());
        loop {
            tokio::select! {
                () = &mut waiting, if !answered => answered = true,
                _ = ticks.tick() => {
                    let alive = answered || asked.elapsed() < STUCK;
                    if answered {
                        (asked, answered) = (Instant::now(), false);
                        waiting.set(turn());
                    }
                    match (alive, half) {
                        (true, Some(_)) => self.tell(&format!("WATCHDOG=1\nSTATUS={}", status())),
                        (true, None) => self.tell(&format!("STATUS={}", status())),
                        (false, _) => {
                            tracing::error!("the spool's committer has not taken a turn for {} s", STUCK.as_secs());
                            self.tell("STATUS=the spool's committer is stuck");
                        }
                    }
                }
            }
        }
    }

    fn tell(&self, state: &str) {
        let Some(Manager { socket, address, .. }) = self.0.as_deref() else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::debug!(%error, state, "the service manager did not hear it");
        }
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        self.0.ready();
    }
}

#[cfg(test)]
mod tests {
    use std::thread::JoinHandle;

    use super::*;

    /// A manager with an abstract socket, whose thread reads until it is told the end.
    fn manager(name: &str, watchdog: Option<Duration>) -> (Supervisor, JoinHandle<Vec<String>>) {
        let name = format!("postern-test-{}-{name}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let supervisor = Supervisor::new(OsStr::new(&format!("@{name}")), watchdog).unwrap();
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            loop {
                let mut datagram = [0; 512];
                let len = socket.recv(&mut datagram).unwrap();
                match std::str::from_utf8(&datagram[..len]).unwrap() {
                    "END" => return heard,
                    state => heard.push(state.to_owned()),
                }
            }
        });
        (supervisor, reader)
    }

    #[test]
    fn states_are_told_in_order() {
        let (supervisor, reader) = manager("order", None);
        supervisor.ready();
        drop(supervisor.reloading());
        supervisor.stopping(Duration::from_secs(70));
        supervisor.tell("END");
        let heard = reader.join().unwrap();
        let [ready, reloading, again, stopping] = heard.as_slice() else { panic!("{heard:?}") };
        assert_eq!([ready.as_str(), again], ["READY=1"; 2]);
        let since_boot = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(since_boot.parse::<u64>().unwrap() > 0);
        assert_eq!(stopping, "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=70000000");
    }

    #[test]
    fn only_sockets_of_this_machine_are_known() {
        for wrong in ["", "vsock:2:9999", "relative/path"] {
            assert!(Supervisor::new(OsStr::new(wrong), None).is_err(), "{wrong}");
        }
        // Nobody is behind it: no reason to fail.
        Supervisor::new(OsStr::new("/nowhere/notify"), None).unwrap().ready();
        Supervisor::default().ready();
    }

    /// What is said within `time`, by a clock that runs ahead; `turn` as in [`Supervisor::beat`].
    async fn heard<T: Future<Output = ()>>(name: &str, time: Duration, turn: impl Fn() -> T) -> Vec<String> {
        let (supervisor, reader) = manager(name, Some(Duration::from_secs(20)));
        let beat = supervisor.clone().beat(turn, || "well".to_owned());
        assert!(tokio::time::timeout(time, beat).await.is_err(), "it never ends");
        supervisor.tell("END");
        reader.join().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_comes_twice_in_the_watchdogs_time() {
        let heard = heard("beat", Duration::from_secs(3601), || async {}).await;
        assert_eq!(heard.len(), 361);
        assert!(heard.iter().all(|state| state == "WATCHDOG=1\nSTATUS=well"), "{heard:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_committer_lives_and_a_stuck_one_does_not() {
        let slow = || tokio::time::sleep(STUCK - Duration::from_secs(11));
        let slow = heard("slow", Duration::from_secs(3600), slow).await;
        assert!(slow.iter().all(|state| state.starts_with("WATCHDOG=1")), "{slow:?}");
        let stuck = heard("stuck", STUCK * 2 - Duration::from_secs(1), std::future::pending).await;
        let (alive, dead) = stuck.split_at(30);
        assert!(alive.iter().all(|state| state.starts_with("WATCHDOG=1")), "{alive:?}");
        assert_eq!(dead.len(), 30);
        assert!(dead.iter().all(|state| state == "STATUS=the spool's committer is stuck"), "{dead:?}");
    }
}
