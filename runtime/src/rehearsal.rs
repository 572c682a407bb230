//! A rehearsal: one plugin in a gateway of its own that nobody else can reach, and one client that says what a script
//! has it say. `postern plugin test`.
//!
//! Everything that judges is what production has: the host with its limits, the pipeline, the session's machine, the
//! `deliver` chains. Everything around it is played: the connection, DNS, scanners, the clock. Accepted mail goes nowhere.

pub mod escape;
pub mod recorder;
pub mod scanners;
pub mod script;
pub mod wire;
pub mod zone;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;

use self::recorder::{Hook, LogLine, Recorder, Timeline, Void};
use self::scanners::Scanners;
use self::script::{Script, Step, matches};
use self::wire::{ClientEnd, wire};
use self::zone::Zone;
use jiff::tz::TimeZone;

use crate::host::calendar::Calendar;
use crate::host::{self, Compiler, Host, HostError, Inspection, LoadError, PluginSettings};
use crate::log::EventLog;
use crate::mail::{Mail, Route};
use crate::metrics::Metrics;
use crate::pipeline::{
    Chain, Chains, Clerk, Directions, Entry as ChainEntry, OnFailure, Scope, Series, SessionId, Verdict,
};
use crate::queue::{NewMail, Prepare as _};
use crate::server::preparation::Preparation;
use crate::session::connection::Context;
use crate::session::machine::Gateway;
use crate::session::{self, Listener, Peer, Snapshot, serve};
use crate::smtp::{Domain, Host as MailHost};
use crate::tenancy::{Directory, Tenant, TrustedNetwork};

/// The gateway's name in replies.
const HOST_NAME: &str = "gateway.example";
/// The tenant's and the reseller's, where the scope does not say it.
const NAME: &str = "test";
/// Octets of a message, and of its body that stay in memory: no file is written.
const MAX_MESSAGE: u64 = 64 << 20;

/// What is rehearsed.
pub struct Rehearsal {
    pub plugin: PluginSettings,
    pub directions: Directions,
    pub on_failure: OnFailure,
    /// Those of the one tenant there is.
    pub domains: Vec<Domain>,
    pub script: Script,
    /// What `@ eml` sends.
    pub message: Vec<u8>,
    pub zone: Zone,
    /// What scanners say of any mail.
    pub scanners: Scanners,
    /// What the plugin takes for now, in milliseconds since 1970. It does not go on.
    pub now: u64,
    pub compiler: Compiler,
    pub cache: Option<PathBuf>,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    Said(Vec<u8>),
    Heard(String),
    Closed,
    /// The message was not sent: the gateway did not ask for it.
    Unsent,
    Hook(Box<Hook>),
    /// The mail was taken; where its recipients would go.
    Accepted(Fate),
    /// What the script, in this line, expected and did not come.
    Unmet {
        line: usize,
        expected: String,
        got: String,
    },
}

/// What becomes of a mail that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Quarantined(String),
    Discarded,
    Refused(String),
    Deferred(String),
    /// Recipients, and their route as text.
    Sent(Vec<(String, String)>),
}

#[derive(Debug)]
pub struct Report {
    pub inspection: Inspection,
    /// Its compiled code was there already.
    pub cached: bool,
    /// From the bytes to a plugin that can be asked, compiling included.
    pub loading: Duration,
    /// What it wrote while it was loaded.
    pub log: Vec<LogLine>,
    pub events: Vec<Event>,
}

#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    #[error("{0}")]
    Host(#[from] HostError),
    /// The plugin's fault.
    #[error("{0}")]
    Load(#[from] LoadError),
    #[error("the gateway can't be set up: {0}")]
    Setup(String),
}

/// Runs it. Needs a runtime with time; what the plugin costs is measured best when nothing else runs on it.
pub async fn run(rehearsal: Rehearsal) -> Result<Report, RehearsalError> {
    let setup = |error: &dyn std::fmt::Display| RehearsalError::Setup(error.to_string());
    let metrics = Arc::new(Metrics::new().map_err(|error| setup(&error))?);
    let (log, receiver) = EventLog::new(metrics.clone());
    let timeline = Arc::new(Timeline::new(receiver));
    let now = rehearsal.now;
    let services = host::Services::new(
        log.clone(),
        metrics.clone(),
        Arc::new(rehearsal.zone.clone()),
        Arc::new(move || now),
        Calendar::new(TimeZone::UTC),
    );
    let services = host::Services { scanners: Arc::new(rehearsal.scanners.clone()), ..services };
    let settings = host::Settings {
        compiler: rehearsal.compiler.clone(),
        cache: rehearsal.cache.clone(),
        calls: 4,
        warm: 4,
        ..host::Settings::default()
    };
    let host = Host::new(settings, services)?;
    let cached = host.has_code_of(&rehearsal.plugin.source).await;
    let (name, scope) = (rehearsal.plugin.name.clone(), rehearsal.plugin.scope.clone());
    let started = Instant::now();
    let plugin = host.load(rehearsal.plugin.clone()).await?;
    let loading = started.elapsed();
    let inspection = plugin.inspect().clone();
    let loaded_log = timeline.take_log();
    let entry = ChainEntry {
        name,
        filter: Arc::new(Recorder::new(plugin, timeline.clone())),
        directions: rehearsal.directions,
        on_failure: rehearsal.on_failure,
        exemptable: true,
        series: Series::default(),
    };
    let snapshot = Snapshot {
        settings: Arc::new(session_settings()),
        directory: Arc::new(directory(&rehearsal, &scope).map_err(|error| setup(&error))?),
        chains: Arc::new(chains(&scope, entry)),
    };
    let gateway = Arc::new(Gateway::new(snapshot, Clerk { log, metrics }, Box::new(|_| true)));
    let play = Play { timeline: timeline.clone(), void: Arc::default(), gateway };
    play.run(&rehearsal).await;
    Ok(Report { inspection, cached, loading, log: loaded_log, events: timeline.take() })
}

fn session_settings() -> session::Settings {
    session::Settings {
        host_name: HOST_NAME.to_owned(),
        max_message_size: MAX_MESSAGE,
        body_memory: usize::try_from(MAX_MESSAGE).unwrap_or(usize::MAX),
        ..session::Settings::default()
    }
}

fn tenant_name(scope: &Scope) -> Arc<str> {
    if let Scope::Tenant(name) = scope { name.clone() } else { NAME.into() }
}

fn directory(rehearsal: &Rehearsal, scope: &Scope) -> Result<Directory, crate::tenancy::DirectoryError> {
    let mut domains = rehearsal.domains.clone();
    domains.dedup();
    let tenant = Tenant {
        name: tenant_name(scope),
        reseller: Some(if let Scope::Reseller(name) = scope { name.clone() } else { NAME.into() }),
        domains,
        destination: Some(destination()),
        outbound: None,
        max_message_size: None,
        max_recipients: None,
    };
    let trusted = TrustedNetwork {
        name: "trusted".into(),
        network: IpNet::from(rehearsal.script.client),
        tenant: Some(tenant.name.clone()),
    };
    let trusted = rehearsal.script.trusted.then_some(trusted);
    Directory::new(vec![tenant], Vec::new(), trusted.into_iter().collect())
}

/// Where the tenant's own mail goes; nothing is ever sent there.
fn destination() -> Route {
    Route::SmartHost("destination-of-the-tenant".into())
}

fn chains(scope: &Scope, entry: ChainEntry) -> Chains {
    let chain = Arc::new(Chain { entries: vec![entry] });
    let mut chains = Chains::default();
    match scope {
        Scope::Platform => chains.platform = chain,
        Scope::Reseller(name) => drop(chains.resellers.insert(name.clone(), chain)),
        Scope::Tenant(name) => drop(chains.tenants.insert(name.clone(), chain)),
    }
    chains
}

/// The session under way.
struct Play {
    timeline: Arc<Timeline>,
    void: Arc<Void>,
    gateway: Arc<Gateway>,
}

impl Play {
    async fn run(&self, rehearsal: &Rehearsal) {
        let (client, far) = wire();
        let (stop, stopping) = watch::channel(false);
        let listener = Arc::new(Listener::inbound("mx"));
        let context = Context::new(self.gateway.clone(), listener, self.void.clone(), None, stopping);
        let session = tokio::spawn(serve(far, context, peer(rehearsal), None));
        let mut heard = Vec::new();
        self.note(&client.hear_banner().await, &mut heard);
        // Nor is the banner an answer to what is said first.
        let mut answered = true;
        let mut asked_for_message = false;
        for (line, step) in &rehearsal.script.steps {
            match step {
                Step::Message if !asked_for_message => self.timeline.add(Event::Unsent),
                Step::Send(_) | Step::Message => {
                    // What was said before, and nobody expected, is not an answer to this.
                    if std::mem::take(&mut answered) {
                        heard.clear();
                    }
                    let before = heard.len();
                    self.say(step, &rehearsal.message, &client, &mut heard).await;
                    let said = heard.get(before..).and_then(<[String]>::last);
                    asked_for_message = said.is_some_and(|line| line.starts_with("354 "));
                }
                _ => {
                    answered = true;
                    if let Err((expected, got)) = self.check(step, &client, &mut heard) {
                        self.timeline.add(Event::Unmet { line: *line, expected, got });
                        // What comes after a reply that was not foreseen makes no sense.
                        if matches!(step, Step::Expect(_) | Step::ExpectReply(_)) {
                            break;
                        }
                    }
                }
            }
        }
        client.hang_up();
        // A session that panics has ended too; what it did not say is not in the report.
        let _ = session.await;
        drop(stop);
    }

    async fn say(&self, step: &Step, message: &[u8], client: &ClientEnd, heard: &mut Vec<String>) {
        match step {
            Step::Send(octets) => {
                self.timeline.add(Event::Said(octets.clone()));
                client.send(octets);
            }
            _ => {
                self.timeline.add(Event::Said(format!("(a message of {} octets)", message.len()).into_bytes()));
                client.send(&dot_stuffed(message));
            }
        }
        self.note(&client.hear().await, heard);
        for mail in self.void.take() {
            let fate = self.deliver(mail).await;
            self.timeline.add(Event::Accepted(fate));
        }
        if client.is_ended() {
            self.timeline.close();
        }
    }

    /// The gateway ends each line, and has ended the last one when it waits.
    fn note(&self, octets: &Bytes, heard: &mut Vec<String>) {
        for line in octets.split(|&octet| octet == b'\n').filter(|line| !line.is_empty()) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let text: String = line.utf8_chunks().flat_map(|chunk| chunk.valid().chars()).collect();
            self.timeline.add(Event::Heard(text.clone()));
            heard.push(text);
        }
    }

    /// The error: what was expected, and what came.
    fn check(&self, step: &Step, client: &ClientEnd, heard: &mut Vec<String>) -> Result<(), (String, String)> {
        let nothing = || "nothing".to_owned();
        match step {
            Step::Expect(pattern) if heard.is_empty() => Err((pattern.clone(), nothing())),
            Step::Expect(pattern) => {
                let line = heard.remove(0);
                if matches(pattern, &line) { Ok(()) } else { Err((pattern.clone(), line)) }
            }
            Step::ExpectReply(code) => {
                let last = heard.iter().position(|line| line.as_bytes().get(3) != Some(&b'-'));
                let reply: Vec<String> = heard.drain(..last.map_or(heard.len(), |last| last + 1)).collect();
                let right = !reply.is_empty() && reply.iter().all(|line| line.get(..3) == Some(code.as_str()));
                let got = if reply.is_empty() { nothing() } else { reply.join(" / ") };
                if right { Ok(()) } else { Err((code.clone(), got)) }
            }
            Step::Judged(stage, pattern) => {
                let expected = || format!("{stage} {pattern}");
                match self.timeline.last_at(*stage) {
                    Some(said) if matches(pattern, &said) => Ok(()),
                    Some(said) => Err((expected(), format!("{stage} {said}"))),
                    None => Err((expected(), format!("it was not asked at {stage}"))),
                }
            }
            Step::Close if client.is_ended() => Ok(()),
            Step::Close => Err(("a closed connection".to_owned(), "an open one".to_owned())),
            Step::Send(_) | Step::Message => Ok(()),
        }
    }

    /// The `deliver` stage, as the queue has it asked when the mail is first due.
    async fn deliver(&self, mail: NewMail) -> Fate {
        let NewMail { id, accepted, message } = mail;
        if let Some(reason) = &accepted.quarantine {
            return Fate::Quarantined(reason.clone());
        }
        let preparation = Preparation { gateway: self.gateway.clone(), signer: Arc::default() };
        let mut groups: Vec<(String, Vec<_>)> = Vec::new();
        for recipient in &accepted.envelope.recipients {
            let route = match preparation.destination(&accepted, recipient) {
                Some(_) => "to the tenant's destination".to_owned(),
                None => by_mx(&recipient.mailbox.host),
            };
            match groups.iter_mut().find(|(known, _)| *known == route) {
                Some((_, recipients)) => recipients.push(recipient.clone()),
                None => groups.push((route, vec![recipient.clone()])),
            }
        }
        let mut sent = Vec::new();
        for (usual, recipients) in groups {
            let mut envelope = accepted.envelope.clone();
            envelope.recipients = recipients;
            let mail = Mail {
                id,
                tenant: accepted.tenant.clone(),
                envelope,
                message: Some(message.clone()),
                tags: accepted.tags.clone(),
                route: accepted.route.clone(),
                recipient_routes: Vec::new(),
                signatures: Vec::new(),
                evidence: Default::default(),
            };
            let prepared = preparation.prepare(mail, &accepted).await;
            match prepared.verdict {
                Verdict::Next | Verdict::Accept => sent.extend(routes(&prepared.mail, &usual)),
                Verdict::Discard => return Fate::Discarded,
                Verdict::Quarantine(reason) => return Fate::Quarantined(reason),
                Verdict::Reject(reply) if accepted.authenticated => return Fate::Refused(reply.to_string()),
                Verdict::Reject(reply) => return Fate::Quarantined(reply.to_string()),
                Verdict::Defer(reply) | Verdict::Disconnect(reply) => return Fate::Deferred(reply.to_string()),
            }
        }
        Fate::Sent(sent)
    }
}

fn routes(mail: &Mail, usual: &str) -> Vec<(String, String)> {
    let of = |recipient: &crate::mail::Recipient| {
        let own = mail.recipient_routes.iter().find(|(mailbox, _)| *mailbox == recipient.mailbox);
        let route = own.map(|(_, route)| route).or(mail.route.as_ref());
        (recipient.mailbox.to_string(), route.map_or_else(|| usual.to_owned(), ToString::to_string))
    };
    mail.envelope.recipients.iter().map(of).collect()
}

fn by_mx(host: &MailHost) -> String {
    match host {
        MailHost::Domain(domain) => Route::Mx(Some(domain.clone())).to_string(),
        MailHost::Literal(address) => Route::Literal(*address).to_string(),
    }
}

fn peer(rehearsal: &Rehearsal) -> Peer {
    let client = (rehearsal.script.client, 40_000).into();
    Peer {
        id: SessionId::next(),
        client,
        connecting: client,
        local: ([203, 0, 113, 25], 25).into(),
        client_name: Arc::default(),
        concurrent: 1,
        tls: None,
    }
}

/// RFC 5321 §4.5.2, and the line ends that a file on this machine may not have.
fn dot_stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 16 + 5);
    for line in message.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        match line.strip_suffix(b"\n") {
            Some(text) => {
                out.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
                out.extend_from_slice(b"\r\n");
            }
            None => {
                out.extend_from_slice(line);
                out.extend_from_slice(b"\r\n");
            }
        }
    }
    out.extend_from_slice(b".\r\n");
    out
}
