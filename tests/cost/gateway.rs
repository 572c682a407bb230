//! The gateway between our client and our next hop, with the default chain: once in this process, where allocations are counted, and
//! once as the program itself, which is traced.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use postern::config;
use postern::host::Compiler;
use postern::log::{EventLog, JsonLines, LogFile, Sink, pump};
use postern::metrics::Metrics;
use postern::server::{Server, plugins};
use postern_tests::dns::Dns;
use postern_tests::program::{Gateway, Place, free_address};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::peer::next_hop;

/// All that a gateway needs, and what both have one after the other: config, spool, the cache of compiled plugins.
pub struct Stage {
    place: Place,
    /// A pipe: who reads it hears of each event as soon as it is told, and nobody has to look again and again.
    log: PathBuf,
    /// Holds the pipe open while nobody reads, or nobody writes.
    _pipe: File,
    _directory: TempDir,
    _names: Runtime,
}

impl Stage {
    pub fn set() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().to_owned();
        let log = at.join("events");
        mknodat(CWD, &log, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let pipe = File::options().read(true).write(true).open(&log).unwrap();
        let names = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dns = names.block_on(Dns::start()).unwrap();
        publish(&dns);
        let place = Place { spool: at.join("spool"), directory: at, listen: free_address(), http: free_address() };
        fs::create_dir(&place.spool).unwrap();
        fs::write(place.config(), config(&place, &dns, next_hop())).unwrap();
        Self { place, log, _pipe: pipe, _directory: directory, _names: names }
    }

    /// The program, with one thread for sessions and deliveries.
    pub fn start_program(&self) -> Gateway {
        let started = self.place.start_under(&["env", "TOKIO_WORKER_THREADS=1"]);
        started.unwrap_or_else(|status| panic!("it does not start, {status}\n{}", self.place.said()))
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.place.listen).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub fn log(&self) -> Log {
        Log { lines: BufReader::new(File::open(&self.log).unwrap()), line: String::with_capacity(1 << 16) }
    }
}

/// SPF passes, and DMARC is aligned by it.
fn publish(dns: &Dns) {
    dns.txt("example.org", "v=spf1 ip4:127.0.0.1 -all").mx("example.org", 10, "mx.example.org");
    dns.address("example.org", "127.0.0.1").txt("_dmarc.example.org", "v=DMARC1; p=reject");
    dns.address("client.example.org", "127.0.0.1").txt("client.example.org", "v=spf1 a -all");
}

/// The default chain. Limits for one client are lifted, and loopback is not exempt, so that their counters are at work.
fn config(place: &Place, dns: &Dns, next_hop: SocketAddr) -> String {
    format!(
        r#"
[server]
host_name = "mx.example.net"
administrators = ["admin@example.com"]
max_connections_per_client = 1000
max_connection_rate = 1000000
[server.http]
address = "{http}"
[[listener]]
name = "mx"
address = "{listen}"
role = "inbound"
tls = "none"
[spool]
directory = "{spool}"
reserve = "1 MiB"
[log]
file = "{directory}/events"
[dns]
servers = ["{dns}"]
[[tenant]]
name = "example"
domains = ["example.com"]
destination = {{ host = "127.0.0.1", port = {port}, tls = "never" }}
[[plugin]]
name = "connection-policy"
config = {{ exempt_networks = [], max_connections = 1000000, connections_per_minute = 1000000000, messages_per_minute = 1000000000, inbound_messages_per_minute = 1000000000 }}
"#,
        http = place.http,
        listen = place.listen,
        spool = place.spool.display(),
        directory = place.directory.display(),
        dns = dns.address,
        port = next_hop.port(),
    )
}

/// What the gateway tells from now on; allocates nothing.
pub struct Log {
    lines: BufReader<File>,
    line: String,
}

impl Log {
    /// Reads up to the next event of that kind.
    pub fn wait_for(&mut self, event: &str) {
        loop {
            self.line.clear();
            self.lines.read_line(&mut self.line).unwrap();
            let told = self.line.split_once("\"event\":\"").and_then(|(_, rest)| rest.strip_prefix(event));
            if told.is_some_and(|rest| rest.starts_with('"')) {
                return;
            }
        }
    }
}

/// The gateway as `postern serve` puts it together, with one thread for sessions and deliveries.
pub struct InProcess {
    runtime: Runtime,
    server: Server,
    metrics: Arc<Metrics>,
}

impl InProcess {
    pub fn start(stage: &Stage) -> Self {
        let path = stage.place.config();
        let settings = config::load(&path, &plugins::builtins()).unwrap().settings;
        let metrics = Arc::new(Metrics::new().unwrap());
        let (log, events) = EventLog::new(metrics.clone());
        let mut sinks: Vec<Box<dyn Sink>> =
            vec![Box::new(JsonLines::new(LogFile::open(&stage.log).unwrap(), metrics.clone()))];
        thread::spawn(move || pump(&events, &mut sinks));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // What it compiles the program finds in the cache.
        let server = Server::start(&settings, Some(path), log, metrics.clone(), Compiler::InProcess);
        let server = runtime.block_on(server).unwrap();
        Self { runtime, server, metrics }
    }

    /// Batches that were made durable so far, each with one sync.
    pub fn syncs(&self) -> u64 {
        self.metrics.spool_commits.with_label_values(&["ok"]).get()
    }

    pub fn stop(self) {
        self.runtime.block_on(self.server.stop());
    }
}
