//! Runs the `deliver` chains for a mail that there is not, and follows the route that comes out of it to its hosts.
//! Nothing is sent, and nothing of the gateway is touched: counters and store are this process's own.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::timeout;

use super::super::CliError;
use super::super::check::plugin::aside;
use crate::config::Settings;
use crate::delivery::Prospect;
use crate::dns::Resolver;
use crate::host::Compiler;
use crate::log::EventLog;
use crate::mail::{Body, Envelope, Header, Mail, Message, MessageId, Recipient, Route};
use crate::metrics::Metrics;
use crate::pipeline::{
    Call, Chain, Chains, Clerk, Direction, Edit, Entry, Event, Failure, Filter, Interest, Judged, RecordedSession,
    Role, Scope, Verdict,
};
use crate::queue::{Accepted, Prepare as _};
use crate::rehearsal::recorder::{LogLine, Timeline};
use crate::server::preparation::Preparation;
use crate::server::{live, setup};
use crate::session::machine::Gateway;
use crate::smtp::{Host, Mailbox, ReversePath};
use crate::tenancy::{Directory, Tenant};

/// For all look-ups of one route.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Asked {
    pub from: ReversePath,
    pub to: Mailbox,
    pub client: IpAddr,
    /// Of a client that may relay, though the recipient is a tenant's.
    pub outbound: bool,
}

pub(super) struct Explanation {
    pub direction: Direction,
    /// Whose mail it is.
    pub tenant: Option<Arc<str>>,
    /// In the order in which they were asked.
    pub heard: Vec<Heard>,
    pub verdict: Verdict,
    /// For each recipient that is left.
    pub ways: Vec<Way>,
}

/// What one plugin has said.
pub(super) struct Heard {
    pub plugin: Arc<str>,
    pub scope: Scope,
    pub judged: Judged,
    pub log: Vec<LogLine>,
}

pub(super) struct Way {
    pub recipient: Mailbox,
    pub route: Route,
    pub by: By,
    /// `None`: it is on this machine.
    pub prospect: Option<Prospect>,
}

/// Who has chosen a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum By {
    Plugin(Arc<str>, Scope),
    Destination(Arc<str>),
    Outbound(Arc<str>),
    /// Nobody.
    Mx,
}

pub(super) async fn explain(settings: &Settings, compiler: Compiler, asked: &Asked) -> Result<Explanation, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let metrics = Arc::new(Metrics::new().map_err(|error| failed(&error))?);
    let (log, receiver) = EventLog::new(metrics.clone());
    let notebook = Arc::new(Notebook { timeline: Timeline::new(receiver), heard: Mutex::default() });
    let resolver = Resolver::new(setup::dns(settings), metrics.clone()).map_err(|error| failed(&error))?;
    let host = aside(settings, compiler, resolver.clone(), log.clone(), metrics.clone());
    let host = Arc::new(host.map_err(|error| failed(&error))?);
    let chains = live::look(&host, settings).await.map_err(|error| failed(&error))?;
    // What they wrote while they were loaded is of no use here.
    notebook.timeline.take_log();
    let snapshot = setup::snapshot(settings, settings.spool.directory.clone(), witnessed(&chains, &notebook));
    let clerk = Clerk { log, metrics: metrics.clone() };
    let preparation =
        Preparation { gateway: Arc::new(Gateway::new(snapshot, clerk, Box::new(|_| true))), signer: Arc::default() };
    let accepted = accepted(&settings.directory, asked)?;
    let prepared = preparation.prepare(mail(asked, &accepted), &accepted).await;
    let heard = std::mem::take(&mut *notebook.heard.lock().unwrap_or_else(PoisonError::into_inner));
    let delivery = crate::server::delivery(settings, resolver, &metrics).map_err(|error| failed(&error))?;
    let mut ways = Vec::new();
    for recipient in &prepared.mail.envelope.recipients {
        let (route, by) = route_of(&prepared.mail, recipient, &heard).unwrap_or_else(|| {
            let route = preparation.destination(&accepted, recipient);
            by_config(route, recipient, &accepted, &settings.directory)
        });
        let prospect = match route {
            Route::Maildir(_) => None,
            _ => {
                let looked = timeout(PATIENCE, delivery.prospect(&route, Some(&recipient.mailbox.host))).await;
                Some(looked.map_err(|_| CliError::Failed(format!("{route}: DNS did not answer in time")))?)
            }
        };
        ways.push(Way { recipient: recipient.mailbox.clone(), route, by, prospect });
    }
    let direction = if accepted.outbound { Direction::Outbound } else { Direction::Inbound };
    Ok(Explanation { direction, tenant: accepted.tenant, heard, verdict: prepared.verdict, ways })
}

/// As the queue would have it from a session.
fn accepted(directory: &Directory, asked: &Asked) -> Result<Accepted, CliError> {
    let tenant_of = |mailbox: &Mailbox| mailbox.domain().and_then(|domain| directory.tenant_of(domain)).cloned();
    let theirs = tenant_of(&asked.to);
    if let Some(tenant) = theirs.as_ref().filter(|tenant| tenant.destination.is_none()) {
        // R6.
        let text =
            format!("{} belongs to the tenant {}, which has no destination: no mail is taken", asked.to, tenant.name);
        return Err(CliError::Failed(text));
    }
    let outbound = asked.outbound || theirs.is_none();
    let tenant: Option<Arc<Tenant>> = if outbound { asked.from.mailbox().and_then(tenant_of) } else { theirs };
    let mut envelope = Envelope::new(asked.from.clone());
    envelope.recipients.push(Recipient::new(asked.to.clone()));
    let client = SocketAddr::new(asked.client, 40_000);
    let session = RecordedSession {
        client,
        local: SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 25),
        listener: Arc::from("explain"),
        role: if outbound { Role::Relay } else { Role::Inbound },
        client_name: None,
        helo: None,
        tls: None,
        login: None,
        trusted: outbound,
    };
    Ok(Accepted {
        tenant: tenant.map(|tenant| tenant.name.clone()),
        session: Some(session),
        outbound,
        authenticated: outbound,
        ..Accepted::new(envelope, Timestamp::now())
    })
}

fn mail(asked: &Asked, accepted: &Accepted) -> Mail {
    let header = format!("From: <{}>\r\nTo: <{}>\r\nSubject: explained\r\n", asked.from, asked.to);
    let header = Header::parse(&Bytes::from(header));
    Mail {
        id: MessageId::next(),
        tenant: accepted.tenant.clone(),
        envelope: accepted.envelope.clone(),
        message: Some(Message { header, body: Body::from_bytes(Bytes::new()) }),
        tags: Vec::new(),
        route: None,
        recipient_routes: Vec::new(),
        signatures: Vec::new(),
        evidence: Arc::default(),
    }
}

/// What a plugin has chosen, and which: the last one that did, of those that chose for this recipient alone first.
fn route_of(mail: &Mail, recipient: &Recipient, heard: &[Heard]) -> Option<(Route, By)> {
    let own = mail.recipient_routes.iter().find(|(mailbox, _)| *mailbox == recipient.mailbox);
    let route = own.map(|(_, route)| route).or(mail.route.as_ref())?;
    let chose = |edit: &Edit| match edit {
        Edit::SetRecipientRoute(mailbox, _) => own.is_some() && *mailbox == recipient.mailbox,
        Edit::SetRoute(_) => own.is_none(),
        _ => false,
    };
    let chooser = heard.iter().rev().find(|heard| heard.edits().any(chose));
    let by = chooser.map_or(By::Mx, |heard| By::Plugin(heard.plugin.clone(), heard.scope.clone()));
    Some((resolved(route.clone(), recipient), by))
}

fn by_config(route: Option<Route>, recipient: &Recipient, accepted: &Accepted, directory: &Directory) -> (Route, By) {
    let Some(route) = route else { return (resolved(Route::Mx(None), recipient), By::Mx) };
    let owner = recipient.mailbox.domain().and_then(|domain| directory.tenant_of(domain));
    let by = match (owner, &accepted.tenant) {
        (Some(owner), _) => By::Destination(owner.name.clone()),
        (None, Some(tenant)) => By::Outbound(tenant.clone()),
        (None, None) => By::Mx,
    };
    (resolved(route, recipient), by)
}

/// By MX of the recipient's domain, as the queue names it; an address literal is the host itself (RFC 5321 §5.1).
fn resolved(route: Route, recipient: &Recipient) -> Route {
    match (route, &recipient.mailbox.host) {
        (Route::Mx(None), Host::Domain(domain)) => Route::Mx(Some(domain.clone())),
        (Route::Mx(None), Host::Literal(address)) => Route::Literal(*address),
        (route, _) => route,
    }
}

impl Heard {
    pub fn edits(&self) -> impl Iterator<Item = &Edit> {
        self.judged.result.iter().flat_map(|answer| &answer.edits)
    }
}

struct Notebook {
    timeline: Timeline,
    heard: Mutex<Vec<Heard>>,
}

/// A plugin in its place, with every answer written down.
struct Witness {
    scope: Scope,
    name: Arc<str>,
    filter: Arc<dyn Filter>,
    notebook: Arc<Notebook>,
}

fn witnessed(chains: &Chains, notebook: &Arc<Notebook>) -> Chains {
    let chain = |scope: Scope, chain: &Chain| {
        let entries = chain.entries.iter().map(|entry| {
            let (scope, name, filter) = (scope.clone(), entry.name.clone(), entry.filter.clone());
            Entry { filter: Arc::new(Witness { scope, name, filter, notebook: notebook.clone() }), ..entry.clone() }
        });
        Arc::new(Chain { entries: entries.collect() })
    };
    let resellers = chains.resellers.iter().map(|(name, of)| (name.clone(), chain(Scope::Reseller(name.clone()), of)));
    let tenants = chains.tenants.iter().map(|(name, of)| (name.clone(), chain(Scope::Tenant(name.clone()), of)));
    Chains {
        platform: chain(Scope::Platform, &chains.platform),
        resellers: resellers.collect(),
        tenants: tenants.collect(),
    }
}

impl Filter for Witness {
    fn interest(&self) -> Interest {
        self.filter.interest()
    }

    fn judge<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Judged> + Send + 'a>> {
        Box::pin(async move {
            let judged = self.filter.judge(call).await;
            let (plugin, scope, log) = (self.name.clone(), self.scope.clone(), self.notebook.timeline.take_log());
            let heard = Heard { plugin, scope, judged: judged.clone(), log };
            self.notebook.heard.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
            judged
        })
    }

    fn tell<'a>(&'a self, event: Event) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        self.filter.tell(event)
    }
}
