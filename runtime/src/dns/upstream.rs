//! The name servers, behind `hickory-resolver`: one question, one answer with the time it may be kept.
//!
//! The cache of that crate is off: it counts answers, not octets, so answers of 64 KiB could fill the memory.

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as NetDnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};

use super::{DnsError, FAILURE_TTL, Settings, TIMED_OUT};

/// No answer is kept longer, whatever its zone says.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// RFC 2308 §5 suggests one to three hours at most; a corrected zone should not wait so long for its mail.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(900);
/// A chain of aliases in one answer.
const MAX_ALIASES: usize = 16;

/// With how long it may be kept; zero: not at all. No records: the name has none of that kind (NODATA). `NotFound`:
/// there is no such name (NXDOMAIN).
pub(super) type Answer = (Result<Arc<[RData]>, DnsError>, Duration);

pub(super) struct Upstream(TokioResolver);

impl Upstream {
    /// `None` without any server.
    pub(super) fn new(settings: &Settings) -> Result<Option<Self>, String> {
        let mut builder = if !settings.servers.is_empty() {
            TokioResolver::builder_with_config(own_servers(settings), TokioRuntimeProvider::default())
        } else if settings.system {
            TokioResolver::builder_tokio().map_err(|error| error.to_string())?
        } else {
            return Ok(None);
        };
        set_options(&mut builder, settings);
        builder.build().map(|resolver| Some(Self(resolver))).map_err(|error| error.to_string())
    }

    pub(super) async fn ask(&self, name: Name, kind: RecordType) -> Answer {
        match self.0.lookup(name.clone(), kind).await {
            Ok(lookup) => records_of(&name, kind, &lookup),
            Err(NetError::Dns(NetDnsError::NoRecordsFound(none))) => self.absence(kind, none).await,
            Err(error) => (Err(temporary(&error)), FAILURE_TTL),
        }
    }

    /// What "no records" means: the crate says it for an honest absence, for a server that only points elsewhere
    /// (lame), and for a chain of aliases that it gave up on (N4).
    async fn absence(&self, kind: RecordType, none: NoRecords) -> Answer {
        let ttl = none.negative_ttl.map_or(Duration::ZERO, |ttl| Duration::from_secs(ttl.into()).min(MAX_NEGATIVE_TTL));
        let no_data: Answer = (Ok(Arc::new([])), ttl);
        match none.response_code {
            ResponseCode::NXDomain => (Err(DnsError::NotFound), ttl),
            ResponseCode::NoError if none.soa.is_some() => no_data,
            ResponseCode::NoError if none.ns.is_some() => failure("the server only refers to others"),
            // RFC 2308 §2.2 type 3, without SOA, or a cut chain: then the last name is an alias itself.
            ResponseCode::NoError if kind != RecordType::CNAME => {
                match self.0.lookup(none.query.name().clone(), RecordType::CNAME).await {
                    Ok(_) => failure("the chain of aliases does not end"),
                    Err(error) if error.is_no_records_found() => no_data,
                    Err(error) => (Err(temporary(&error)), FAILURE_TTL),
                }
            }
            ResponseCode::NoError => no_data,
            code => failure(&format!("the server answered {code}")),
        }
    }
}

fn own_servers(settings: &Settings) -> ResolverConfig {
    let servers = settings.servers.iter().map(|server| {
        let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
        udp.port = server.port();
        tcp.port = server.port();
        NameServerConfig::new(server.ip(), true, vec![udp, tcp])
    });
    ResolverConfig::from_name_servers(servers.collect())
}

fn set_options(builder: &mut ResolverBuilder<TokioRuntimeProvider>, settings: &Settings) {
    let options = builder.options_mut();
    options.timeout = settings.timeout;
    // The crate counts those after the first.
    options.attempts = usize::try_from(settings.attempts.saturating_sub(1)).unwrap_or(0);
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // Aliases in the answer show which of its records belong to the question.
    options.preserve_intermediates = true;
    options.edns0 = true;
}

fn failure(what: &str) -> Answer {
    (Err(DnsError::Temporary(what.to_owned())), FAILURE_TTL)
}

fn temporary(error: &NetError) -> DnsError {
    DnsError::Temporary(match error {
        NetError::Timeout => TIMED_OUT.to_owned(),
        NetError::Truncated => "the answer was truncated".to_owned(),
        NetError::Dns(NetDnsError::ResponseCode(code)) => format!("the server answered {code}"),
        NetError::Proto(_) => "the answer was malformed".to_owned(),
        other => other.to_string(),
    })
}

/// The records of the kind under the name asked for, or under what it is an alias of; others in the answer are nobody's.
fn records_of(name: &Name, kind: RecordType, lookup: &Lookup) -> Answer {
    let owners = chain(name, kind, lookup.answers());
    let belongs = |record: &&Record| owners.contains(&&record.name);
    let wanted: Vec<&Record> =
        lookup.answers().iter().filter(belongs).filter(|record| record.record_type() == kind).collect();
    if wanted.is_empty() {
        return failure("the answer has no record that was asked for");
    }
    // Truncated rdata of an A record and the like ends as an empty one in an update, never in an answer.
    if wanted.iter().any(|record| matches!(record.data, RData::Update0(_) | RData::Unknown { .. })) {
        return failure("the answer was malformed");
    }
    let aliases = lookup.answers().iter().filter(belongs).filter(|record| record.record_type() == RecordType::CNAME);
    let ttl = wanted.iter().copied().chain(aliases).map(|record| record.ttl).min().unwrap_or(0);
    let data: Arc<[RData]> = wanted.into_iter().map(|record| record.data.clone()).collect();
    (Ok(data), Duration::from_secs(ttl.into()).min(MAX_TTL))
}

/// The name and its aliases, as far as the answer has them.
fn chain<'a>(name: &'a Name, kind: RecordType, answers: &'a [Record]) -> Vec<&'a Name> {
    let mut owners = vec![name];
    while kind != RecordType::CNAME && owners.len() <= MAX_ALIASES {
        let last = owners.last().copied().unwrap_or(name);
        let next = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *last => Some(&target.0),
            _ => None,
        });
        match next {
            Some(next) if !owners.contains(&next) => owners.push(next),
            _ => break,
        }
    }
    owners
}
