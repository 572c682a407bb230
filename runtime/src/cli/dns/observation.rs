//! What DNS says: the questions, and nothing of what the answers mean.
//!
//! All strangers' answers are bounded: how many hosts are looked up, how far up the tree the search goes.

use std::net::IpAddr;

use tokio::task::JoinSet;

use super::expectation::{Expectation, Gateway};
use super::{dmarc, spf};
use crate::authentication::Verifier;
use crate::dns::{DnsError, Exchange, Iprev, Resolver};
use crate::mail::evidence::{Origin, Spf};
use crate::smtp::{Domain, ReversePath};

/// Hosts of a domain whose addresses are looked up, and addresses of ours that SPF is evaluated for.
const MAX_HOSTS: usize = 10;
/// RFC 9989 §4.10: names that are asked on the way up the tree.
const MAX_PARENTS: usize = 8;

pub(super) type Answer<T> = Result<T, DnsError>;

/// Of one domain. A list is empty where there is no such record, unless it says otherwise.
#[derive(Debug)]
pub(super) struct Observation {
    /// Best first; `NotFound`: no MX records.
    pub(super) exchanges: Answer<Vec<Exchange>>,
    /// Addresses of the exchanges that are not ours.
    pub(super) hosts: Vec<(Domain, Answer<Vec<IpAddr>>)>,
    /// `NotFound`: neither the domain nor anything above it is a zone.
    pub(super) servers: Answer<Servers>,
    /// Only SPF records.
    pub(super) spf: Answer<Vec<Vec<u8>>>,
    /// What SPF says of mail from each egress address, as whoever gets it evaluates it.
    pub(super) verdicts: Vec<(IpAddr, Spf)>,
    /// All TXT records of each key's name, in the order of the keys.
    pub(super) keys: Vec<Answer<Vec<Vec<u8>>>>,
    pub(super) dmarc: Answer<Dmarc>,
    /// Records that allow our receiver of reports to get them; `None`: not needed.
    pub(super) authorization: Option<Answer<Vec<Vec<u8>>>>,
}

/// The name servers of the zone that holds the domain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Servers {
    pub(super) zone: Domain,
    pub(super) names: Vec<Domain>,
}

/// Records at the first name, the domain's own or one above it, that has any.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dmarc {
    pub(super) owner: Domain,
    pub(super) records: Vec<Vec<u8>>,
}

/// Of the gateway.
#[derive(Debug)]
pub(super) struct GatewayObservation {
    /// Of each MX host.
    pub(super) hosts: Vec<HostObservation>,
    pub(super) host_name: Answer<Vec<IpAddr>>,
    pub(super) egress: Vec<(IpAddr, Iprev)>,
}

#[derive(Debug)]
pub(super) struct HostObservation {
    pub(super) host: Domain,
    pub(super) addresses: Answer<Vec<IpAddr>>,
    /// What it is an alias of; `NotFound`: it is none.
    pub(super) alias: Answer<Domain>,
}

/// `egress`: the addresses from which mail leaves.
pub(super) async fn observe(
    resolver: &Resolver,
    verifier: &Verifier,
    expectation: &Expectation,
    egress: &[IpAddr],
) -> Observation {
    let domain = &expectation.domain;
    let ((exchanges, hosts), servers, spf, verdicts, keys, dmarc, authorization) = tokio::join!(
        exchanges(resolver, expectation),
        servers(resolver, domain),
        texts(resolver, domain.as_str(), spf::is_record),
        verdicts(verifier, domain, egress),
        keys(resolver, expectation),
        dmarc_of(resolver, domain),
        authorization(resolver, expectation),
    );
    Observation { exchanges, hosts, servers, spf, verdicts, keys, dmarc, authorization }
}

pub(super) async fn observe_gateway(resolver: &Resolver, gateway: &Gateway) -> GatewayObservation {
    let host_name = resolver.addresses(gateway.host_name.as_str()).await;
    let egress = match (gateway.egress.as_slice(), &host_name) {
        ([], Ok(addresses)) => addresses.clone(),
        (configured, _) => configured.to_vec(),
    };
    let mut hosts = Vec::new();
    for exchange in &gateway.mx {
        let host = exchange.host.clone();
        let (addresses, alias) = tokio::join!(resolver.addresses(host.as_str()), resolver.cname(host.as_str()));
        hosts.push(HostObservation { host, addresses, alias });
    }
    let mut names = Vec::new();
    for address in egress {
        names.push((address, resolver.client_name(address).await));
    }
    GatewayObservation { hosts, host_name, egress: names }
}

/// Those with that beginning; none is no error.
async fn texts(resolver: &Resolver, name: &str, is_wanted: impl Fn(&[u8]) -> bool) -> Answer<Vec<Vec<u8>>> {
    match resolver.txt(name).await {
        Ok(texts) => Ok(texts.into_iter().filter(|text| is_wanted(text)).collect()),
        Err(DnsError::NotFound) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

type Hosts = Vec<(Domain, Answer<Vec<IpAddr>>)>;

async fn exchanges(resolver: &Resolver, expectation: &Expectation) -> (Answer<Vec<Exchange>>, Hosts) {
    let exchanges = resolver.mx(&expectation.domain).await;
    let names = exchanges.iter().flatten().filter_map(|exchange| exchange.host.clone());
    let foreign = names.filter(|host| !expectation.is_ours(host)).take(MAX_HOSTS);
    let mut questions = JoinSet::new();
    for (number, host) in foreign.enumerate() {
        let resolver = resolver.clone();
        questions.spawn(async move {
            let addresses = resolver.addresses(host.as_str()).await;
            (number, host, addresses)
        });
    }
    let mut hosts = questions.join_all().await;
    hosts.sort_by_key(|(number, ..)| *number);
    (exchanges, hosts.into_iter().map(|(_, host, addresses)| (host, addresses)).collect())
}

async fn verdicts(verifier: &Verifier, domain: &Domain, egress: &[IpAddr]) -> Vec<(IpAddr, Spf)> {
    let Ok(sender) = format!("postmaster@{domain}").parse() else { return Vec::new() };
    let path = ReversePath(Some(sender));
    let mut verdicts = Vec::new();
    for address in egress.iter().take(MAX_HOSTS) {
        let origin = Origin { address: *address, helo: None, relayed: false };
        verdicts.push((*address, verifier.spf_mail_from(&Ok(origin), &path).await));
    }
    verdicts
}

/// The domain need not be the top of its zone.
async fn servers(resolver: &Resolver, domain: &Domain) -> Answer<Servers> {
    for zone in upwards(domain) {
        match resolver.ns(zone.as_str()).await {
            Ok(mut names) => {
                names.sort();
                return Ok(Servers { zone, names });
            }
            Err(DnsError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Err(DnsError::NotFound)
}

async fn keys(resolver: &Resolver, expectation: &Expectation) -> Vec<Answer<Vec<Vec<u8>>>> {
    let mut answers = Vec::new();
    for key in &expectation.keys {
        answers.push(texts(resolver, &expectation.key_name(key), |_| true).await);
    }
    answers
}

async fn dmarc_of(resolver: &Resolver, domain: &Domain) -> Answer<Dmarc> {
    for owner in upwards(domain) {
        let records = texts(resolver, &format!("_dmarc.{owner}"), dmarc::is_record).await?;
        if !records.is_empty() {
            return Ok(Dmarc { owner, records });
        }
    }
    Ok(Dmarc { owner: domain.clone(), records: Vec::new() })
}

async fn authorization(resolver: &Resolver, expectation: &Expectation) -> Option<Answer<Vec<Vec<u8>>>> {
    let reports = expectation.dmarc_reports.as_ref()?;
    let name = dmarc::authorization(&expectation.domain, reports)?;
    Some(texts(resolver, &name, dmarc::is_record).await)
}

/// The domain and those above it, but not the top level; of a deep one the upper ones (RFC 9989 §4.10).
fn upwards(domain: &Domain) -> Vec<Domain> {
    let labels: Vec<&str> = domain.as_str().split('.').collect();
    let names = (0..labels.len().saturating_sub(1).max(1)).filter_map(|from| {
        let near_the_top = labels.len() - from < MAX_PARENTS;
        (from == 0 || near_the_top).then(|| labels.get(from..).map(|labels| labels.join(".")))?
    });
    names.filter_map(|name| Domain::parse(&name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_up_is_short() {
        let names =
            |text: &str| upwards(&Domain::parse(text).unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names("company.com"), ["company.com"]);
        assert_eq!(names("mail.company.co.uk"), ["mail.company.co.uk", "company.co.uk", "co.uk"]);
        assert_eq!(names("localhost"), ["localhost"]);
        let deep = names("a.b.c.d.e.f.g.h.i.j.company.com");
        assert_eq!((deep[0].as_str(), deep[1].as_str()), ("a.b.c.d.e.f.g.h.i.j.company.com", "f.g.h.i.j.company.com"));
        assert!(deep.len() <= MAX_PARENTS, "{deep:?}");
    }
}
