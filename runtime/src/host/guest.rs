//! Guests for tests: written as text, made into plugins the way a build makes them.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;

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

/// Where guests put the verdict that they return; all zeros are `next`.
pub const VERDICT: u32 = 1024;

/// A core module in the making. Its functions return what stands at [`VERDICT`], after dropping their handles.
#[derive(Default)]
pub struct Guest {
    stages: Vec<String>,
    world: String,
    imports: String,
    items: String,
}

impl Guest {
    pub fn new() -> Self {
        Self::default()
    }

    /// `(import "postern:plugin/{interface}" "{name}" (func ${alias} (param …)))`
    pub fn import(mut self, interface: &str, name: &str, alias: &str, params: &str) -> Self {
        let _ = writeln!(
            self.imports,
            r#"(import "postern:plugin/{interface}@0.1.0" "{name}" (func ${alias} (param {params})))"#
        );
        self
    }

    /// What else stands in the world, and what the module imports for it.
    pub fn world(mut self, item: &str, import: &str) -> Self {
        self.world.push_str(item);
        self.imports.push_str(import);
        self
    }

    /// Whatever stands in a module: data, functions.
    pub fn item(mut self, item: &str) -> Self {
        self.items.push_str(item);
        self.items.push('\n');
        self
    }

    /// Exports a stage whose function does this before it returns.
    pub fn at(mut self, stage: &str, body: &str) -> Self {
        let (params, drops, result) = match stage {
            "connect" | "helo" => ("(param $session i32)", "(call $drop-session (local.get $session))", true),
            "rcpt" => (
                "(param $session i32) (param $message i32) (param i32 i32 i32 i32 i32 i32 i32)",
                "(call $drop-session (local.get $session)) (call $drop-message (local.get $message))",
                true,
            ),
            "load" => ("", "", true),
            "event" => ("(param i32 i32 i32 i32 i32 i32 i32)", "", false),
            _ => (
                "(param $session i32) (param $message i32)",
                "(call $drop-session (local.get $session)) (call $drop-message (local.get $message))",
                true,
            ),
        };
        let function = match stage {
            "load" => "check",
            "event" => "notify",
            _ => "judge",
        };
        let (result, value) =
            if result { ("(result i32)", format!("(i32.const {VERDICT})")) } else { ("", String::new()) };
        let item = format!(
            r#"(func $on-{stage} (export "postern:plugin/on-{stage}@0.1.0#{function}") {params} {result} (local $i i32)
                {body} {drops} {value})"#
        );
        self.stages.push(stage.to_owned());
        self.item(&item)
    }

    /// A core module with the world in a custom section, as `cargo build` leaves it.
    pub fn build(&self) -> Arc<[u8]> {
        self.build_with_memory(4)
    }

    pub fn build_with_memory(&self, pages: u32) -> Arc<[u8]> {
        let Self { imports, items, .. } = self;
        let text = format!(
            r#"(module $guest
                (import "postern:plugin/session@0.1.0" "[resource-drop]session" (func $drop-session (param i32)))
                (import "postern:plugin/message@0.1.0" "[resource-drop]message" (func $drop-message (param i32)))
                {imports}
                (memory (export "memory") {pages})
                (global $heap (mut i32) (i32.const 65536))
                (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (call $allocated)
                    (global.get $heap)
                    (global.set $heap (i32.add (global.get $heap) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8)))))
                {allocated}
                {items})"#,
            allocated = if items.contains("(func $allocated") { "" } else { "(func $allocated)" },
        );
        let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut resolve = wit_parser::Resolve::default();
        resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")).unwrap();
        let includes: String =
            self.stages.iter().map(|stage| format!("include postern:plugin/plugin-on-{stage}@0.1.0;\n")).collect();
        let world = format!("package test:guest;\nworld guest {{ {includes} {} }}", self.world);
        let package = resolve.push_str("guest.wit", &world).unwrap();
        let world = resolve.select_world(&[package], Some("guest")).unwrap();
        wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8)
            .unwrap();
        Arc::from(module)
    }
}

/// A plugin that says `next` at one stage.
pub fn next(stage: &str) -> Arc<[u8]> {
    Guest::new().at(stage, "").build()
}

/// A verdict with a reply, as it lies in memory: the text at 2048.
pub fn reply_verdict(case: u8, code: u16, text: &[u8]) -> String {
    let hex = |octets: &[u8]| octets.iter().fold(String::new(), |out, octet| out + &format!("\\{octet:02x}"));
    let mut verdict = vec![case, 0, 0, 0];
    verdict.extend(code.to_le_bytes());
    verdict.extend([1, 0, 7, 0, 1, 0]);
    verdict.extend(2048_u32.to_le_bytes());
    verdict.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    format!(r#"(data (i32.const {VERDICT}) "{}") (data (i32.const 2048) "{}")"#, hex(&verdict), hex(text))
}

pub const REJECT: u8 = 2;
pub const DISCONNECT: u8 = 6;

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
