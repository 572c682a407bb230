//! The whole gateway in this process, between two next hops, from a config as an operator writes it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern::config;
use postern::log::{EventLog, Record, Sink as LogSink, pump};
use postern::metrics::Metrics;
use postern::queue::Filter;
use postern::server::{Server, plugins};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::client::Client;
use crate::sink::{Sink, Taken};

/// It only keeps a broken gateway from hanging the test.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Value>>>);

impl LogSink for Events {
    fn write(&mut self, time: jiff::Timestamp, record: &Record) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record.to_json(time));
    }
}

pub struct Scene {
    pub server: Server,
    pub metrics: Arc<Metrics>,
    sinks: HashMap<&'static str, Sink>,
    events: Events,
}

/// Somewhere in a config without `[chain]`: it is meant to have the default one.
pub const DEFAULT_CHAIN: &str = "# The default chain.";

/// Each call of a plugin, with `plugin`, `stage`, `version` and the mail's `id`: those who said `next` stand in the record of
/// the stage.
#[must_use]
pub fn asked(events: &[Value]) -> Vec<Value> {
    let of_stage = |stage: &Value| {
        let mut next = stage["next"].as_array().cloned().unwrap_or_default();
        next.iter_mut().for_each(|call| call["id"] = stage["id"].clone());
        next
    };
    let calls = |event: &Value| match event["event"].as_str() {
        Some("plugin") => vec![event.clone()],
        Some("stage") => of_stage(event),
        _ => Vec::new(),
    };
    events.iter().flat_map(calls).collect()
}

/// How most configs begin: the gateway `mx.example.net` with one listener, at which the test says by XCLIENT who it is, and
/// the tenant `example` with the domain `example.com`, whose mail goes to `{sink}`. `dns`: what stands in `[dns]`.
pub fn head(dns: &str) -> String {
    format!(
        r#"
[server]
host_name = "mx.example.net"
administrators = ["admin@example.com"]
[[listener]]
name = "mx"
address = "127.0.0.1:0"
role = "inbound"
xclient_from = ["127.0.0.1"]
[spool]
directory = "{{directory}}/spool"
[dns]
{dns}
[[tenant]]
name = "example"
domains = ["example.com"]
destination = {{ host = "127.0.0.1", port = {{sink}}, tls = "never" }}
"#
    )
}

/// For [`head`]: nobody is asked.
pub const NO_DNS: &str = "system = false";

/// For after a [`head`]: clients in 198.51.100.0/24 are the tenant's and may send anywhere.
pub const OFFICE: &str = r#"
[[trusted_network]]
name = "office"
network = "198.51.100.0/24"
tenant = "example"
"#;

impl Scene {
    /// `{sink}` and `{other}` in the config are the ports of two next hops, `{directory}` is the directory, where the config
    /// is written to and where the spool may be.
    ///
    /// # Errors
    /// Why it does not start.
    pub async fn set(config: &str, directory: &Path) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let sinks = HashMap::from([
            ("sink", Sink::start().await.map_err(text)?),
            ("other", Sink::start().await.map_err(text)?),
        ]);
        let mut config = config.replace("{directory}", &directory.display().to_string());
        // Without a chain it would be the default one: eight plugins to compile.
        if !config.contains("[chain]") && !config.contains(DEFAULT_CHAIN) {
            config += "\n[chain]\nplatform = []\n";
        }
        for (name, sink) in &sinks {
            config = config.replace(&format!("{{{name}}}"), &sink.address.port().to_string());
        }
        let path = directory.join("postern.toml");
        std::fs::write(&path, config).map_err(text)?;
        std::fs::create_dir(directory.join("spool")).map_err(text)?;
        let (server, events, metrics) = start(&path).await?;
        Ok(Self { server, metrics, sinks, events })
    }

    /// Stops the gateway and starts it again with the same config and spool. The events begin anew.
    ///
    /// # Errors
    /// Why it does not start.
    pub async fn restart(self, directory: &Path) -> Result<Self, String> {
        self.server.stop().await;
        let (server, events, metrics) = start(&directory.join("postern.toml")).await?;
        Ok(Self { server, metrics, events, ..self })
    }

    /// A client that has said EHLO; at that address, or an empty one: at ours.
    ///
    /// # Panics
    /// It is not let in.
    pub async fn client(&self, address: &str) -> Client {
        let stream = TcpStream::connect(self.address()).await.expect("a connection");
        let mut client = Client::new(Box::new(stream), false, PATIENCE);
        client.line().await.expect("a banner");
        if !address.is_empty() {
            client.send(format!("XCLIENT ADDR={address}\r\n").as_bytes()).await;
            client.line().await.expect("another banner");
        }
        client.send(b"EHLO mail.client.example\r\n").await;
        client.reply().await.expect("a reply to EHLO");
        client
    }

    /// The first reply that refuses, else that to the mail, which is dot-stuffed and has CRLF.
    ///
    /// # Panics
    /// The gateway hangs up.
    pub async fn send(&self, address: &str, from: &str, to: &[&str], mail: &str) -> String {
        let mut client = self.client(address).await;
        let recipients = to.iter().map(|to| format!("RCPT TO:<{to}>\r\n"));
        let steps = std::iter::once(format!("MAIL FROM:<{from}>\r\n")).chain(recipients);
        let mut last = String::new();
        for step in steps.chain(["DATA\r\n".to_owned(), format!("{mail}.\r\n")]) {
            client.send(step.as_bytes()).await;
            last = client.line().await.expect("a reply");
            if last.starts_with(['4', '5']) {
                break;
            }
        }
        client.hang_up();
        last
    }

    /// What a next hop has taken, as soon as there are so many mails.
    ///
    /// # Panics
    /// They don't come.
    pub async fn taken(&self, sink: &str, count: usize) -> Vec<Taken> {
        let sink = self.sink(sink).expect("a sink");
        let taken = tokio::time::timeout(PATIENCE, sink.wait_for(count)).await;
        taken.unwrap_or_else(|_| panic!("{count} mails never came\n{}", self.story()))
    }

    /// Waits for such an event.
    ///
    /// # Panics
    /// It never comes.
    pub async fn happened(&self, what: &str, so: impl Fn(&Value) -> bool) {
        let come = self.until(|events| events.iter().any(|event| event["event"] == what && so(event)));
        if tokio::time::timeout(PATIENCE, come).await.is_err() {
            panic!("no such event {what}\n{}", self.story());
        }
    }

    /// Of the first listener.
    ///
    /// # Panics
    /// Without a listener.
    pub fn address(&self) -> SocketAddr {
        self.server.addresses().first().expect("a listener").1
    }

    /// # Errors
    /// There is no such next hop.
    pub fn sink(&self, name: &str) -> Result<&Sink, String> {
        self.sinks.get(name).ok_or_else(|| format!("no sink {name}"))
    }

    /// Events come on a thread of their own, so they are waited for.
    pub async fn until(&self, so: impl Fn(&[Value]) -> bool) {
        while !so(&self.events.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            tokio::task::yield_now().await;
        }
    }

    pub fn events(&self) -> Vec<Value> {
        self.events.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many messages are in the queue.
    ///
    /// # Errors
    /// The queue can't be listed.
    pub async fn queue(&self, wanted: usize) -> Result<(), String> {
        loop {
            let left = self.server.queue().list(&Filter::default()).await.map_err(|error| error.to_string())?.messages;
            if left.len() == wanted {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    pub fn story(&self) -> String {
        self.events().iter().map(|event| format!("    {event}\n")).collect()
    }
}

async fn start(path: &Path) -> Result<(Server, Events, Arc<Metrics>), String> {
    let mut loaded = config::load(path, &plugins::builtins()).map_err(|error| error.to_string())?;
    // Where the exchanges of a test listen; with port 25 they are taken for ourselves.
    loaded.settings.delivery.allow_loopback_mx = loaded.settings.delivery.mx_port != 25;
    let metrics = Arc::new(Metrics::new().map_err(|error| error.to_string())?);
    let (log, receiver) = EventLog::new(metrics.clone());
    let events = Events::default();
    let mut writers: Vec<Box<dyn LogSink>> = vec![Box::new(events.clone())];
    std::thread::spawn(move || pump(&receiver, &mut writers));
    let compiler = postern::host::Compiler::InProcess;
    let server = Server::start(&loaded.settings, Some(path.to_owned()), log, metrics.clone(), compiler);
    Ok((server.await.map_err(|error| error.to_string())?, events, metrics))
}
