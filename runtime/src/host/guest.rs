//! What plugins are tested with: a host, and the guests of [`module`].

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;

pub use self::module::{DISCONNECT, Guest, REJECT, VERDICT, next, reply_verdict};
use super::calendar::Calendar;
use super::dns::{Answer, DnsError, Lookup, NameService, Question};
use super::{Host, Limits, LoadError, Plugin, PluginSettings, Services, Settings, Tables, counter};
use crate::log::{EventLog, Record};
use crate::mail::{Body, Envelope, Header, Mail, Message, MessageId, Recipient};
use crate::metrics::Metrics;
use crate::pipeline::{
    Call, ClientName, Failure, Filter as _, Notes, Role, Scope, SessionFacts, SessionId, Stage, Verdict,
};
use crate::smtp::ReversePath;

mod module;

/// A resolver that says what it was told to, or nothing at all.
pub enum Names {
    Silent,
    Nobody,
}

impl NameService for Names {
    fn resolve(&self, _: Question) -> Lookup<'_, Result<Answer, DnsError>> {
        match self {
            Self::Silent => Box::pin(std::future::pending()),
            Self::Nobody => Box::pin(async { Err(DnsError::NotFound) }),
        }
    }

    fn client_name(&self, _: IpAddr) -> Lookup<'_, ClientName> {
        match self {
            Self::Silent => Box::pin(std::future::pending()),
            Self::Nobody => Box::pin(async { ClientName::None }),
        }
    }
}

pub struct Bench {
    pub host: Host,
    pub metrics: Arc<Metrics>,
    pub events: Receiver<(jiff::Timestamp, Record)>,
}

pub fn bench(settings: Settings, names: Names) -> Bench {
    bench_with(settings, Arc::new(names))
}

pub fn bench_with(settings: Settings, names: Arc<dyn NameService>) -> Bench {
    made(settings, names, |_| {})
}

/// With other services than nobody.
pub fn bench_of(change: impl FnOnce(&mut Services)) -> Bench {
    made(small(), Arc::new(Names::Nobody), change)
}

fn made(settings: Settings, names: Arc<dyn NameService>, change: impl FnOnce(&mut Services)) -> Bench {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (log, events) = EventLog::new(metrics.clone());
    let calendar = Calendar::new(jiff::tz::TimeZone::UTC);
    let mut services = Services::new(log, metrics.clone(), names, counter::system_clock(), calendar);
    change(&mut services);
    Bench { host: Host::new(settings, services).unwrap(), metrics, events }
}

/// One table `list`, in which `k` is `v`.
pub fn tables() -> Arc<Tables> {
    let table = super::Table::from_entries([("k", "v")]).unwrap();
    Arc::new(Tables::new([("list".to_owned(), super::table::Kept::fixed(table))]))
}

/// Few slots, so that they are used again soon; four for a tenant.
pub fn small() -> Settings {
    Settings { calls: 16, warm: 2, ..Settings::default() }
}

pub fn settings(source: Arc<[u8]>) -> PluginSettings {
    PluginSettings {
        name: Arc::from("guest"),
        scope: Scope::Tenant(Arc::from("acme")),
        source,
        config: serde_json::Value::Null,
        grants: Vec::new(),
        tables: Arc::default(),
        scanners: Default::default(),
        limits: Limits::default(),
        reuse: false,
    }
}

impl Bench {
    pub fn new() -> Self {
        bench(small(), Names::Nobody)
    }

    pub async fn load(&self, guest: Guest) -> Result<Arc<Plugin>, LoadError> {
        self.host.load(settings(guest.build())).await
    }
}

pub fn session() -> Arc<SessionFacts> {
    Arc::new(SessionFacts {
        id: SessionId::next(),
        client: "192.0.2.7:40000".parse().unwrap(),
        local: "192.0.2.1:25".parse().unwrap(),
        listener: Arc::from("mx"),
        role: Role::Inbound,
        client_name: Arc::default(),
        concurrent: 1,
        helo: None,
        tls: None,
        login: None,
        trusted: false,
    })
}

/// A question at that stage; the content is header, empty line and body.
pub fn call(stage: Stage, content: Option<&str>) -> Call {
    let message = content.map(|content| {
        let (header, body) = content.split_once("\r\n\r\n").unwrap();
        Message {
            header: Header::parse(&Bytes::from(format!("{header}\r\n"))),
            body: Body::from_bytes(Bytes::from(body.to_owned())),
        }
    });
    let mail = Mail {
        id: MessageId::next(),
        tenant: None,
        envelope: Envelope::new(ReversePath(Some("sender@example.org".parse().unwrap()))),
        message,
        tags: Vec::new(),
        route: None,
        recipient_routes: Vec::new(),
        signatures: Vec::new(),
        evidence: Default::default(),
    };
    Call {
        stage,
        session: session(),
        mail: (!matches!(stage, Stage::Connect | Stage::Helo)).then(|| Arc::new(mail)),
        recipient: (stage == Stage::Rcpt).then(|| Recipient::new("rcpt@example.com".parse().unwrap())),
        notes: Notes::default(),
    }
}

pub fn call_at(stage: Stage) -> Call {
    let content = matches!(stage, Stage::Data | Stage::Deliver);
    call(stage, content.then_some("From: a@x.org\r\nSubject: hi\r\n\r\nhello\r\n"))
}

/// The verdict, or the failure; every answer within a generous time.
pub async fn ask(plugin: &Plugin, stage: Stage) -> Result<Verdict, Failure> {
    let judged = tokio::time::timeout(Duration::from_secs(60), plugin.judge(call_at(stage))).await;
    judged.expect("no end").result.map(|answer| answer.verdict)
}
