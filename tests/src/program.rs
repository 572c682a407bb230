//! The program itself, as an operator starts it: for tests in which it dies, or its disk does.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rand::RngExt as _;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// It only keeps a broken gateway from hanging the test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// For `[server]`, where one client has many connections.
pub const MANY_OF_A_CLIENT: &str = "max_connections_per_client = 1000";

/// Ticks a second of the times in /proc/PID/stat: USER_HZ, the same on all machines that Linux runs on today.
const TICKS: u64 = 100;

/// Where a gateway lives: its config, log and what it said; the spool may be elsewhere. One after the other may be started there.
pub struct Place {
    pub directory: PathBuf,
    pub spool: PathBuf,
    pub listen: SocketAddr,
    pub http: SocketAddr,
}

/// A gateway that runs. Killed when dropped, so that a failed test leaves nothing behind.
pub struct Gateway {
    child: Child,
}

/// A port that the system does not give to clients: one of those, connecting again and again while nobody listens, would
/// in the end be given that very port and be connected to itself.
///
/// # Panics
/// No port is free.
pub fn free_address() -> SocketAddr {
    let ports = std::iter::repeat_with(|| rand::rng().random_range(10_000..30_000));
    let mut free = ports.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    free.next().and_then(|listener| listener.local_addr().ok()).expect("a free port")
}

/// Two folders up from the test, where `cargo build --package postern` puts it.
///
/// # Panics
/// It is not there.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a path of ours");
    let binary = test.ancestors().nth(2).expect("a target directory").join("postern");
    assert!(binary.is_file(), "{} is not there: `make test` builds it first", binary.display());
    binary
}

impl Place {
    /// The gateway `mx.example.net`, that takes mail for the tenant `example` with the domain `example.com` and hands it to
    /// that port. `server`: keys of `[server]`; `more`: keys of `[spool]`, then whole sections besides.
    ///
    /// # Panics
    /// The files can't be written.
    pub fn new(directory: &Path, next_hop: u16, server: &str, more: &str) -> Self {
        let spool = directory.join("spool");
        fs::create_dir(&spool).expect("a spool directory");
        Self::with_spool(directory, &spool, next_hop, server, more)
    }

    /// As `new`, with a spool directory that is there.
    ///
    /// # Panics
    /// The files can't be written.
    pub fn with_spool(directory: &Path, spool: &Path, next_hop: u16, server: &str, more: &str) -> Self {
        let (directory, spool) = (directory.to_owned(), spool.to_owned());
        let place = Self { directory, spool, listen: free_address(), http: free_address() };
        place.configure(next_hop, server, more);
        place
    }

    /// Writes the config anew.
    ///
    /// # Panics
    /// It can't be written.
    pub fn configure(&self, next_hop: u16, server: &str, more: &str) {
        let reserve = if more.contains("reserve") { "" } else { "reserve = \"1 MiB\"" };
        let config = format!(
            "[server]\nhost_name = \"mx.example.net\"\nadministrators = [\"admin@example.com\"]\n{server}\n\
             [server.http]\naddress = \"{http}\"\n\
             [[listener]]\nname = \"mx\"\naddress = \"{listen}\"\nrole = \"inbound\"\ntls = \"none\"\n\
             [log]\nfile = \"{directory}/events.jsonl\"\n[dns]\nsystem = false\n[chain]\nplatform = []\n\
             [queue]\nretry = [\"1s\"]\nmax_messages = 2000000\n\
             [[tenant]]\nname = \"example\"\ndomains = [\"example.com\"]\n\
             destination = {{ host = \"127.0.0.1\", port = {next_hop}, tls = \"never\" }}\n\
             [spool]\ndirectory = \"{spool}\"\n{reserve}\n{more}\n",
            http = self.http,
            listen = self.listen,
            directory = self.directory.display(),
            spool = self.spool.display(),
        );
        fs::write(self.config(), config).expect("the config");
    }

    pub fn config(&self) -> PathBuf {
        self.directory.join("postern.toml")
    }

    /// Starts the gateway and waits until it takes connections.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(&self) -> Gateway {
        self.start_under(&[]).unwrap_or_else(|status| panic!("it does not start, {status}\n{}", self.said()))
    }

    /// Behind these words of a command line that ends in executing the rest, e.g. `strace -D`.
    ///
    /// # Errors
    /// It has ended before it took connections.
    ///
    /// # Panics
    /// There is no such program.
    pub fn start_under(&self, wrapper: &[&str]) -> Result<Gateway, ExitStatus> {
        let mut gateway = self.spawn(wrapper);
        self.wait_until_up(&mut gateway).map(|()| gateway)
    }

    /// # Errors
    /// It has ended before it took connections.
    pub fn wait_until_up(&self, gateway: &mut Gateway) -> Result<(), ExitStatus> {
        // The one for probes is opened after the one for mail.
        while TcpStream::connect(self.listen).is_err() || TcpStream::connect(self.http).is_err() {
            if let Some(status) = gateway.ended() {
                return Err(status);
            }
            thread::yield_now();
        }
        Ok(())
    }

    /// Starts it and does not wait.
    ///
    /// # Panics
    /// There is no such program.
    pub fn spawn(&self, wrapper: &[&str]) -> Gateway {
        let words: Vec<_> = wrapper.iter().map(PathBuf::from).chain([binary()]).collect();
        let (program, rest) = words.split_first().expect("a program");
        let said = File::options().create(true).append(true).open(self.directory.join("said.log")).expect("a file");
        let mut command = Command::new(program);
        command.args(rest).arg("--config").arg(self.config()).arg("serve").stdout(Stdio::null()).stderr(said);
        Gateway { child: command.spawn().expect("the program") }
    }

    /// What all that were started here have said on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(self.directory.join("said.log")).unwrap_or_default()
    }

    /// What is in the event log.
    pub fn events(&self) -> Vec<serde_json::Value> {
        let log = fs::read_to_string(self.directory.join("events.jsonl")).unwrap_or_default();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Exit code, and what a command has printed.
    ///
    /// # Panics
    /// It can't be run.
    pub fn command(&self, words: &[&str]) -> (Option<i32>, String) {
        let output =
            Command::new(binary()).arg("--config").arg(self.config()).args(words).output().expect("the program");
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
    }

    /// Status code and text of `/healthz/ready` and the like.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn get(&self, path: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.http)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let broken = || io::Error::other(format!("no answer of HTTP: {answer}"));
        let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
        Ok((code, text.to_owned()))
    }

    /// The value of a series without labels.
    ///
    /// # Panics
    /// There is none.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").expect("metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no series {name}"))
    }

    /// The segments in the spool, in their order.
    ///
    /// # Panics
    /// There is no such directory.
    pub fn segments(&self) -> Vec<PathBuf> {
        let there = fs::read_dir(self.spool.join("segments")).expect("segments");
        let mut segments: Vec<_> = there.map(|entry| entry.expect("an entry").path()).collect();
        segments.sort();
        segments
    }
}

impl Gateway {
    /// With a config of the test's own; returns when it takes connections.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(config: &Path, listen: SocketAddr) -> Self {
        let mut command = Command::new(binary());
        command.arg("--config").arg(config).arg("serve").stdout(Stdio::null()).stderr(Stdio::null());
        let mut gateway = Self { child: command.spawn().expect("the program") };
        while TcpStream::connect(listen).is_err() {
            assert!(gateway.ended().is_none(), "the gateway has ended by itself");
            thread::yield_now();
        }
        gateway
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Octets of memory that it has now.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Octets that it had at most so far.
    pub fn memory_peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Of the processor, so far.
    ///
    /// # Panics
    /// It has ended.
    pub fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // The name in parentheses may have anything in it; user and system time are the 12th and 13th after it.
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    /// # Panics
    /// It has ended.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a process that runs").count()
    }

    /// Sets the soft limit of open files; what it was before.
    ///
    /// # Panics
    /// It has ended, or may have less at most.
    pub fn limit_open_files(&self, files: u64) -> u64 {
        let limits = self.read("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
        let maximum = line.split_whitespace().nth(1).and_then(|hard| hard.parse().ok()).expect("a hard limit");
        let limit = Rlimit { current: Some(files), maximum: Some(maximum) };
        prlimit(Some(self.pid()), Resource::Nofile, limit).ok().and_then(|limit| limit.current).expect("the limit")
    }

    fn status(&self, name: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name");
        line.trim().strip_suffix(" kB").and_then(|number| number.parse::<u64>().ok()).expect("a size") * 1024
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("a process that runs")
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL, for those who have only its id; it is not waited for.
    pub fn killer(&self) -> impl Fn() + Send + Sync + use<> {
        let pid = self.pid();
        move || {
            // Nobody else is killed: the child is not waited for before `self` is gone.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// It can't be waited for.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child")
    }

    pub fn terminate(&self) {
        let _ = kill_process(self.pid(), Signal::TERM);
    }

    /// SIGTERM; the process must end by itself, with success.
    ///
    /// # Panics
    /// It ends otherwise.
    pub fn stop(mut self) {
        self.terminate();
        let status = self.wait();
        assert!(status.success(), "SIGTERM must end it with exit code 0, not {status}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
