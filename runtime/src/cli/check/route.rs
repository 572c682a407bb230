//! Whether mail could go where config sends it: names have addresses, domains exchanges, and none of them is ourselves.
//!
//! That a name does not exist is an error; that DNS can't say is a warning. All are asked at the same time.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::deep::Report;
use crate::config::{Settings, Severity};
use crate::delivery::Delivery;
use crate::dns::{DnsError, Resolver};
use crate::mail::Route;
use crate::metrics::Metrics;
use crate::server::setup;
use crate::smtp::{Domain, Host, Reply};

/// All questions together.
const PATIENCE: Duration = Duration::from_secs(30);
/// At a time.
const QUESTIONS: usize = 64;
/// Exchanges of one domain that are looked up.
const MAX_EXCHANGES: usize = 10;

/// What is asked about, once for all who send there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Host(String, u16),
    Address(IpAddr, u16),
    Exchanges(Domain),
    Maildir(PathBuf),
}

/// Where it is written.
type Place = (&'static str, String, &'static str);
type Finding = (Severity, String, &'static str);

/// We, as far as config knows.
struct Own {
    name: Domain,
    listeners: Vec<SocketAddr>,
    mx_port: u16,
    /// What an internal DNS says of these domains counts, too (R57): only delivery knows what comes of both.
    split: Option<(Delivery, HashSet<Domain>)>,
}

pub(super) async fn check(settings: &Settings, resolver: &Resolver, report: &mut Report<'_>) {
    let own = Arc::new(Own {
        name: settings.server.host_name.clone(),
        listeners: settings.listeners.iter().map(|listener| listener.address).collect(),
        mx_port: settings.delivery.mx_port,
        split: split(settings, resolver, report),
    });
    let mut targets = targets(settings);
    let permits = Arc::new(Semaphore::new(QUESTIONS));
    let mut questions = JoinSet::new();
    for target in targets.keys().cloned() {
        let (resolver, own, permits) = (resolver.clone(), own.clone(), permits.clone());
        questions.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let findings = look(&target, &resolver, &own).await;
            (target, findings)
        });
    }
    let mut tell = |places: Vec<Place>, findings: Vec<Finding>| {
        for (severity, message, help) in findings {
            for (section, name, key) in &places {
                match severity {
                    Severity::Error => report.error((section, name, key), message.clone(), help),
                    Severity::Warning => report.warning((section, name, key), message.clone(), help),
                }
            }
        }
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Ok(Some(answered)) = tokio::time::timeout_at(deadline, questions.join_next()).await {
        let Ok((target, findings)) = answered else { continue };
        tell(targets.remove(&target).unwrap_or_default(), findings);
    }
    for (target, places) in targets {
        tell(places, vec![(Severity::Warning, format!("{}: no answer in time", target.shown()), "")]);
    }
}

fn targets(settings: &Settings) -> BTreeMap<Target, Vec<Place>> {
    let mut targets: BTreeMap<Target, Vec<Place>> = BTreeMap::new();
    let mut add = |target: Target, place: Place| targets.entry(target).or_default().push(place);
    for host in &settings.smart_hosts {
        add(Target::of(&host.host, host.port), ("smart_host", host.name.to_string(), "host"));
    }
    let mut tenants: Vec<_> = settings.directory.tenants().collect();
    tenants.sort_by(|one, other| one.name.cmp(&other.name));
    for tenant in tenants {
        for (key, route) in [("destination", &tenant.destination), ("outbound", &tenant.outbound)] {
            let target = match route {
                Some(Route::Host { host, port, .. }) => Target::of(host, *port),
                Some(Route::Mx(Some(domain))) => Target::Exchanges(domain.clone()),
                Some(Route::Maildir(path)) => Target::Maildir(path.clone()),
                // A smart host is looked up once, for itself; literals are of recipients, never of config.
                Some(Route::Mx(None) | Route::Literal(_) | Route::SmartHost(_)) | None => continue,
            };
            add(target, ("tenant", tenant.name.to_string(), key));
        }
    }
    targets
}

impl Target {
    fn of(host: &Host, port: u16) -> Self {
        match host {
            Host::Literal(address) => Self::Address(*address, port),
            // A name in digits is an address.
            Host::Domain(name) => match name.as_str().parse() {
                Ok(address) => Self::Address(address, port),
                Err(_) => Self::Host(name.to_string(), port),
            },
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Host(name, _) => name.clone(),
            Self::Address(address, _) => address.to_string(),
            Self::Exchanges(domain) => format!("MX of {domain}"),
            Self::Maildir(path) => path.display().to_string(),
        }
    }
}

async fn look(target: &Target, resolver: &Resolver, own: &Own) -> Vec<Finding> {
    match target {
        Target::Address(address, port) if own.is_at(*address, *port) => vec![circle(&address.to_string())],
        Target::Address(..) => Vec::new(),
        Target::Host(name, port) => host(name, *port, resolver, own).await,
        Target::Exchanges(domain) => match &own.split {
            Some((delivery, internal)) if internal.contains(domain) => both(domain, delivery).await,
            _ => exchanges(domain, resolver, own).await,
        },
        Target::Maildir(path) => maildir(path),
    }
}

async fn host(name: &str, port: u16, resolver: &Resolver, own: &Own) -> Vec<Finding> {
    match resolver.addresses(name).await {
        Ok(addresses) if addresses.iter().any(|address| own.is_at(*address, port)) => vec![circle(name)],
        Ok(_) => Vec::new(),
        Err(error) => vec![unresolved(name, "address", &error)],
    }
}

async fn exchanges(domain: &Domain, resolver: &Resolver, own: &Own) -> Vec<Finding> {
    let exchanges = match resolver.mx(domain).await {
        Ok(exchanges) => exchanges,
        // RFC 5321 §5.1: without MX records the domain itself is meant.
        Err(DnsError::NotFound) => return host(domain.as_str(), own.mx_port, resolver, own).await,
        Err(error) => return vec![unresolved(domain.as_str(), "MX record", &error)],
    };
    if exchanges.iter().any(|exchange| exchange.host.is_none()) {
        return vec![(Severity::Error, format!("{domain} takes no mail (null MX, RFC 7505)"), "")];
    }
    let names: Vec<Domain> = exchanges.into_iter().filter_map(|exchange| exchange.host).take(MAX_EXCHANGES).collect();
    if names.is_empty() {
        return vec![(Severity::Error, format!("{domain} has no MX record with a name that a host can have"), "")];
    }
    if names.first() == Some(&own.name) {
        return vec![circle(&format!("the MX of {domain}"))];
    }
    let mut findings = Vec::new();
    for name in &names {
        findings.extend(host(name.as_str(), own.mx_port, resolver, own).await);
    }
    // One host that can be reached is enough to deliver.
    if findings.len() < names.len() {
        findings.iter_mut().for_each(|finding| finding.0 = Severity::Warning);
    }
    findings
}

fn split(settings: &Settings, resolver: &Resolver, report: &mut Report<'_>) -> Option<(Delivery, HashSet<Domain>)> {
    if settings.dns.internal_servers.is_empty() {
        return None;
    }
    let delivery = Metrics::new().map_err(|error| error.to_string()).and_then(|metrics| {
        crate::server::delivery(settings, resolver.clone(), &Arc::new(metrics)).map_err(|error| error.to_string())
    });
    match delivery {
        Ok(delivery) => Some((delivery, setup::delivery(settings).internal_domains)),
        Err(error) => {
            report.error(("dns", "", "internal_servers"), error, "");
            None
        }
    }
}

/// As delivery would find them in both DNS.
async fn both(domain: &Domain, delivery: &Delivery) -> Vec<Finding> {
    let prospect = delivery.prospect(&Route::Mx(Some(domain.clone())), None).await;
    let severity = |reply: &Reply| match reply.is_permanent() {
        true => Severity::Error,
        false => Severity::Warning,
    };
    prospect.problem.map(|reply| (severity(&reply), format!("MX of {domain}: {reply}"), "")).into_iter().collect()
}

fn maildir(path: &Path) -> Vec<Finding> {
    let parent = path.parent().is_none_or(|parent| parent.is_dir() || parent.as_os_str().is_empty());
    if path.is_dir() || parent {
        return Vec::new();
    }
    vec![(Severity::Error, format!("the Maildir {} can't be made", path.display()), "make the directory above it")]
}

fn unresolved(name: &str, what: &str, error: &DnsError) -> Finding {
    match error {
        DnsError::NotFound => {
            (Severity::Error, format!("`{name}` has no {what} in DNS"), "mail for it will wait and expire")
        }
        DnsError::BadName => (Severity::Error, format!("`{name}` can't be a name in DNS"), ""),
        DnsError::Temporary(cause) => (Severity::Warning, format!("`{name}` can't be looked up now: {cause}"), ""),
    }
}

fn circle(what: &str) -> Finding {
    (Severity::Error, format!("{what} is this gateway itself: its mail would go round in circles"), "")
}

impl Own {
    /// A listener of ours is at that address and port.
    fn is_at(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        self.listeners.iter().filter(|listener| listener.port() == port).any(|listener| {
            let ip = listener.ip().to_canonical();
            ip == address || (ip.is_unspecified() && is_of_this_machine(address))
        })
    }
}

/// What is sent to an address of this machine comes from it. Nothing is sent: connecting a datagram socket asks the
/// kernel for the way only.
fn is_of_this_machine(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let way = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 25))?;
        socket.local_addr()
    });
    address.is_loopback() || way.is_ok_and(|local| local.ip().to_canonical() == address)
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::ResponseCode;
    use hickory_resolver::proto::rr::RecordType;

    use super::*;
    use crate::config;
    use crate::dns::responder::{Answer, Responder};

    fn own(listeners: &[&str]) -> Own {
        Own {
            name: Domain::parse("mx.example.net").unwrap(),
            listeners: listeners.iter().map(|address| address.parse().unwrap()).collect(),
            mx_port: 25,
            split: None,
        }
    }

    #[test]
    fn our_own_addresses_are_known() {
        let everywhere = own(&["0.0.0.0:25"]);
        assert!(everywhere.is_at([127, 0, 0, 1].into(), 25));
        assert!(!everywhere.is_at([127, 0, 0, 1].into(), 2525) && !everywhere.is_at([192, 0, 2, 7].into(), 25));
        let one = own(&["192.0.2.7:25"]);
        assert!(one.is_at("::ffff:192.0.2.7".parse().unwrap(), 25) && !one.is_at([127, 0, 0, 1].into(), 25));
    }

    /// What is said of a tenant's destination, and where.
    async fn findings(dns: &Responder, destination: &str) -> Vec<(Severity, String)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let text = format!(
            "[server]\nhost_name = \"mx.example.net\"\n[spool]\ndirectory = \"spool\"\n[[listener]]\nname = \"mx\"\n\
             address = \"192.0.2.25:25\"\nrole = \"inbound\"\n[[tenant]]\nname = \"t\"\ndomains = [\"t.example\"]\n\
             destination = {destination}\n"
        );
        std::fs::write(&path, text).unwrap();
        let settings = config::load(&path, &[]).unwrap().settings;
        let places = config::Places::read(&path);
        let mut report = Report::new(&places);
        check(&settings, &dns.resolver(), &mut report).await;
        let problems = report.into_problems();
        assert!(problems.iter().all(|problem| problem.places[0].line == 12), "{problems:?}");
        problems.into_iter().map(|problem| (problem.severity, problem.message)).collect()
    }

    #[tokio::test]
    async fn destinations_are_resolved() {
        let dns = Responder::start().await;
        dns.a("good.example", &["192.0.2.1"]).a("self.example", &["192.0.2.25"]);
        dns.mx("good-mx.example", &[(10, "good.example")]).mx("null.example", &[(0, ".")]);
        dns.mx("half.example", &[(10, "good.example"), (20, "gone.example")]);
        dns.mx("ours.example", &[(10, "mx.example.net")]).mx("dead.example", &[(10, "gone.example")]);
        for kind in [RecordType::A, RecordType::AAAA] {
            dns.set("broken.example", kind, Answer::Code(ResponseCode::ServFail));
        }
        for good in ["\"good.example\"", "{ mx = \"good-mx.example\" }", "\"192.0.2.1\"", "\"192.0.2.25:2525\""] {
            assert_eq!(findings(&dns, good).await, [], "{good}");
        }
        for (destination, severity, says) in [
            ("\"gone.example\"", Severity::Error, "`gone.example` has no address in DNS"),
            ("\"broken.example\"", Severity::Warning, "`broken.example` can't be looked up now: "),
            ("\"self.example\"", Severity::Error, "self.example is this gateway itself"),
            ("\"192.0.2.25\"", Severity::Error, "192.0.2.25 is this gateway itself"),
            ("{ mx = \"null.example\" }", Severity::Error, "null.example takes no mail (null MX, RFC 7505)"),
            ("{ mx = \"half.example\" }", Severity::Warning, "`gone.example` has no address in DNS"),
            ("{ mx = \"dead.example\" }", Severity::Error, "`gone.example` has no address in DNS"),
            ("{ mx = \"ours.example\" }", Severity::Error, "the MX of ours.example is this gateway itself"),
            ("{ maildir = \"no/such/place\" }", Severity::Error, "the Maildir "),
        ] {
            let found = findings(&dns, destination).await;
            assert!(found.len() == 1 && found[0].0 == severity && found[0].1.starts_with(says), "{says}: {found:?}");
        }
    }

    #[tokio::test]
    async fn r57_what_the_internal_dns_says_counts_too() {
        let (public, internal) = (Responder::start().await, Responder::start().await);
        public.mx("t.example", &[(10, "mx.example.net")]).mx("loop.example", &[(10, "mx.example.net")]);
        internal.mx("t.example", &[(10, "inside.example")]).a("inside.example", &["192.0.2.1"]);
        internal.set("down.example", RecordType::MX, Answer::Code(ResponseCode::ServFail));
        public.mx("down.example", &[(10, "mx.example.net")]);
        for (domain, expected) in [
            ("t.example", None),
            ("loop.example", Some((Severity::Error, "MX of loop.example: 554 5.4.6 "))),
            ("down.example", Some((Severity::Warning, "MX of down.example: 451 4.4.3 "))),
        ] {
            let domain = Domain::parse(domain).unwrap();
            let settings = crate::delivery::Settings {
                own_hosts: vec![Host::parse("mx.example.net").unwrap()],
                internal_domains: [domain.clone()].into(),
                ..crate::delivery::Settings::default()
            };
            let metrics = Arc::new(Metrics::new().unwrap());
            let delivery = Delivery::new(settings, public.resolver(), metrics).unwrap();
            let own = Own {
                split: Some((delivery.with_internal(Some(internal.resolver())), [domain.clone()].into())),
                ..own(&["192.0.2.25:25"])
            };
            let findings = look(&Target::Exchanges(domain.clone()), &public.resolver(), &own).await;
            let said = findings.first().map(|(severity, text, _)| (*severity, text.as_str()));
            assert_eq!(said.map(|(severity, _)| severity), expected.map(|(severity, _)| severity), "{domain}");
            assert!(said.zip(expected).is_none_or(|((_, text), (_, start))| text.starts_with(start)), "{said:?}");
        }
    }

    #[test]
    fn what_dns_says_decides() {
        let temporary = DnsError::Temporary("SERVFAIL".to_owned());
        for (error, severity, says) in [
            (DnsError::NotFound, Severity::Error, "`a.example` has no address in DNS"),
            (DnsError::BadName, Severity::Error, "`a.example` can't be a name in DNS"),
            (temporary, Severity::Warning, "`a.example` can't be looked up now: SERVFAIL"),
        ] {
            let finding = unresolved("a.example", "address", &error);
            assert_eq!((finding.0, finding.1.as_str()), (severity, says));
        }
    }
}
