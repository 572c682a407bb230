//! The whole gateway in this process, between two next hops, from a config as an operator writes it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use postern::config;
use postern::log::{EventLog, Record, Sink as LogSink, pump};
use postern::metrics::Metrics;
use postern::queue::Filter;
use postern::server::{Server, plugins};
use serde_json::Value;

use crate::sink::Sink;

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Value>>>);

impl LogSink for Events {
    fn write(&mut self, time: jiff::Timestamp, record: &Record) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record.to_json(time));
    }
}

pub struct Scene {
    pub server: Server,
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
        let (server, events) = start(&path).await?;
        Ok(Self { server, sinks, events })
    }

    /// Stops the gateway and starts it again with the same config and spool. The events begin anew.
    ///
    /// # Errors
    /// Why it does not start.
    pub async fn restart(self, directory: &Path) -> Result<Self, String> {
        self.server.stop().await;
        let (server, events) = start(&directory.join("postern.toml")).await?;
        Ok(Self { server, events, ..self })
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

async fn start(path: &Path) -> Result<(Server, Events), String> {
    let loaded = config::load(path, &plugins::builtins()).map_err(|error| error.to_string())?;
    let metrics = Arc::new(Metrics::new().map_err(|error| error.to_string())?);
    let (log, receiver) = EventLog::new(metrics.clone());
    let events = Events::default();
    let mut writers: Vec<Box<dyn LogSink>> = vec![Box::new(events.clone())];
    std::thread::spawn(move || pump(&receiver, &mut writers));
    let compiler = postern::host::Compiler::InProcess;
    let server = Server::start(&loaded.settings, Some(path.to_owned()), log, metrics, compiler);
    Ok((server.await.map_err(|error| error.to_string())?, events))
}
