//! DNS block lists (RFC 5782), asked about ourselves: is one of our addresses or of our tenants' domains listed (R33)?
//!
//! Only an answer in 127.0.0.0/8 is a hit. Anything else (an expired zone that a domain trader answers for, the codes by
//! which lists refuse a question) is an error: a list that is broken must neither raise an alarm nor silence one. So each
//! list is first asked about what it must not list, and about what it must.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{DnsError, Resolver};
use crate::smtp::Domain;

/// Questions at a time: the lists' operators count them.
const QUESTIONS: usize = 16;
/// Texts of one hit, and octets of each, that are kept.
const MAX_REASONS: usize = 3;
const MAX_REASON: usize = 400;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockList {
    /// In labels of metrics.
    pub name: Arc<str>,
    pub zone: Domain,
    pub subjects: Subjects,
    /// Answers that count; empty: all in 127.0.0.0/8.
    pub codes: Vec<IpNet>,
}

/// What a list lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subjects {
    Addresses,
    Domains,
}

/// Who may be listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Address(IpAddr),
    Domain(Domain),
}

/// What a list says of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    Listed {
        codes: Vec<Ipv4Addr>,
        /// TXT, as the list wrote it: any octets.
        reasons: Vec<Vec<u8>>,
    },
    NotListed,
    /// The list is broken or refuses us, or DNS failed; why.
    Failed(String),
    /// No answer in time.
    TimedOut,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub list: Arc<BlockList>,
    pub subject: Subject,
    pub listing: Listing,
}

/// How often which listing; counted apart (R33).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub listed: u32,
    pub not_listed: u32,
    pub failed: u32,
    pub timed_out: u32,
}

impl Tally {
    pub fn of<'r>(rows: impl IntoIterator<Item = &'r Row>) -> Self {
        let mut tally = Self::default();
        for row in rows {
            let count = match row.listing {
                Listing::Listed { .. } => &mut tally.listed,
                Listing::NotListed => &mut tally.not_listed,
                Listing::Failed(_) => &mut tally.failed,
                Listing::TimedOut => &mut tally.timed_out,
            };
            *count += 1;
        }
        tally
    }

    /// Whether nothing can be said of somebody.
    pub const fn is_incomplete(&self) -> bool {
        self.failed > 0 || self.timed_out > 0
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Domain(domain) => domain.fmt(f),
        }
    }
}

impl Subject {
    /// The name under which a list has it (RFC 5782 §2.1, §2.4, §3).
    fn name_in(&self, zone: &Domain) -> String {
        match self {
            Self::Address(address) => format!("{}.{zone}", reversed(*address)),
            Self::Domain(domain) => format!("{domain}.{zone}"),
        }
    }

    const fn is_of(&self, subjects: Subjects) -> bool {
        matches!((self, subjects), (Self::Address(_), Subjects::Addresses) | (Self::Domain(_), Subjects::Domains))
    }
}

/// Whether a list may answer so to say *listed*: in 127.0.0.0/8, but not in 127.255.255.0/24, where errors are.
pub fn is_code(network: &IpNet) -> bool {
    let IpNet::V4(network) = network else { return false };
    network.network().is_loopback() && network.broadcast().is_loopback() && !is_refusal(network.network())
}

/// "Query refused", "too many questions", "this zone's name is mistyped": what lists answer instead of nothing.
fn is_refusal(code: Ipv4Addr) -> bool {
    matches!(code.octets(), [127, 255, 255, _])
}

/// Octets of IPv4, nibbles of IPv6; last first.
fn reversed(address: IpAddr) -> String {
    let labels: Vec<String> = match address.to_canonical() {
        IpAddr::V4(four) => four.octets().iter().rev().map(ToString::to_string).collect(),
        IpAddr::V6(six) => {
            six.octets().iter().rev().flat_map(|octet| [octet & 15, octet >> 4]).map(|n| format!("{n:x}")).collect()
        }
    };
    labels.join(".")
}

/// Asks each list about each subject that it could list. In bounded time; rows in the order of the lists, then subjects.
pub async fn look_up(resolver: &Resolver, lists: &[Arc<BlockList>], subjects: &[Subject]) -> Vec<Row> {
    let permits = Arc::new(Semaphore::new(QUESTIONS));
    let mut questions = JoinSet::new();
    for (number, list) in lists.iter().enumerate() {
        let own: Vec<Subject> = subjects.iter().filter(|subject| subject.is_of(list.subjects)).cloned().collect();
        let (resolver, list, permits) = (resolver.clone(), list.clone(), permits.clone());
        questions.spawn(async move { (number, ask_list(&resolver, &list, own, &permits).await) });
    }
    let mut answered = questions.join_all().await;
    answered.sort_by_key(|(number, _)| *number);
    answered.into_iter().flat_map(|(_, rows)| rows).collect()
}

async fn ask_list(
    resolver: &Resolver,
    list: &Arc<BlockList>,
    subjects: Vec<Subject>,
    permits: &Arc<Semaphore>,
) -> Vec<Row> {
    if subjects.is_empty() {
        return Vec::new();
    }
    if let Err(listing) = test_entries(resolver, list).await {
        let row = |subject| Row { list: list.clone(), subject, listing: listing.clone() };
        return subjects.into_iter().map(row).collect();
    }
    let mut questions = JoinSet::new();
    for subject in subjects {
        let (resolver, list, permits) = (resolver.clone(), list.clone(), permits.clone());
        questions.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            let listing = ask(&resolver, &list, &subject).await;
            Row { list, subject, listing }
        });
    }
    let mut rows = questions.join_all().await;
    rows.sort_by(|one, other| one.subject.cmp(&other.subject));
    rows
}

/// RFC 5782 §5: 127.0.0.1 and `INVALID` are in no list, 127.0.0.2 is in each of addresses. (`TEST` should be in each of
/// domains, but many have a test entry of their own.) Otherwise the list is dead, or answers for everything.
async fn test_entries(resolver: &Resolver, list: &BlockList) -> Result<(), Listing> {
    let (never, always) = match list.subjects {
        Subjects::Addresses => ("1.0.0.127", Some("2.0.0.127")),
        Subjects::Domains => ("invalid", None),
    };
    match judge(resolver.ipv4(&format!("{never}.{}", list.zone)).await, &[]) {
        Listing::NotListed => {}
        Listing::Listed { .. } => return Err(Listing::Failed(format!("it lists everything, even {never}"))),
        trouble => return Err(trouble),
    }
    let Some(always) = always else { return Ok(()) };
    match judge(resolver.ipv4(&format!("{always}.{}", list.zone)).await, &[]) {
        Listing::Listed { .. } => Ok(()),
        Listing::NotListed => Err(Listing::Failed("it is out of service: its test entry 127.0.0.2 is gone".to_owned())),
        trouble => Err(trouble),
    }
}

async fn ask(resolver: &Resolver, list: &BlockList, subject: &Subject) -> Listing {
    let name = subject.name_in(&list.zone);
    let mut listing = judge(resolver.ipv4(&name).await, &list.codes);
    if let Listing::Listed { reasons, .. } = &mut listing {
        // Whether it says why changes nothing.
        let said = resolver.txt(&name).await.unwrap_or_default();
        *reasons = said.into_iter().take(MAX_REASONS).collect();
        reasons.iter_mut().for_each(|reason| reason.truncate(MAX_REASON));
    }
    listing
}

/// `wanted`: the codes that count; empty: all.
fn judge(answer: Result<Vec<Ipv4Addr>, DnsError>, wanted: &[IpNet]) -> Listing {
    let codes = match answer {
        Ok(codes) => codes,
        Err(DnsError::NotFound) => return Listing::NotListed,
        Err(error) if error.is_timeout() => return Listing::TimedOut,
        Err(error) => return Listing::Failed(error.to_string()),
    };
    if let Some(code) = codes.iter().find(|code| is_refusal(**code)) {
        return Listing::Failed(format!("it refuses our questions ({code})"));
    }
    if let Some(code) = codes.iter().find(|code| !code.is_loopback()) {
        return Listing::Failed(format!("it answers {code}, which is no answer of a block list"));
    }
    let counts = |code: &Ipv4Addr| wanted.is_empty() || wanted.iter().any(|net| net.contains(&IpAddr::V4(*code)));
    let codes: Vec<Ipv4Addr> = codes.into_iter().filter(counts).collect();
    if codes.is_empty() { Listing::NotListed } else { Listing::Listed { codes, reasons: Vec::new() } }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::ResponseCode;
    use hickory_resolver::proto::rr::RecordType;

    use super::*;
    use crate::dns::responder::{Answer, Responder, txt};

    fn list(zone: &str, subjects: Subjects) -> Arc<BlockList> {
        let zone = Domain::parse(zone).unwrap();
        Arc::new(BlockList { name: zone.as_str().into(), zone, subjects, codes: Vec::new() })
    }

    fn address(text: &str) -> Subject {
        Subject::Address(text.parse().unwrap())
    }

    fn domain(text: &str) -> Subject {
        Subject::Domain(Domain::parse(text).unwrap())
    }

    /// A list in order, as far as its test entry goes.
    fn alive(dns: &Responder, zone: &str) {
        dns.a(&format!("2.0.0.127.{zone}"), &["127.0.0.2"]);
    }

    #[test]
    fn names_in_a_list() {
        let zone = Domain::parse("bl.example").unwrap();
        for (subject, name) in [
            (address("192.0.2.7"), "7.2.0.192.bl.example"),
            (address("::ffff:192.0.2.7"), "7.2.0.192.bl.example"),
            (address("2001:db8::1f"), "f.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example"),
            (domain("company.com"), "company.com.bl.example"),
        ] {
            assert_eq!(subject.name_in(&zone), name);
        }
    }

    #[test]
    fn r33_only_codes_of_127_are_hits() {
        let codes = |texts: &[&str]| Ok(texts.iter().map(|text| text.parse().unwrap()).collect());
        let only: Vec<IpNet> = vec!["127.0.0.4/30".parse().unwrap()];
        for (answer, wanted, expected) in [
            (codes(&["127.0.0.2"]), &[][..], "listed"),
            (codes(&["127.0.0.2"]), &only, "not listed"),
            (codes(&["127.0.0.2", "127.0.0.5"]), &only, "listed"),
            (codes(&["192.0.2.1"]), &[], "failed"),
            (codes(&["127.0.0.2", "192.0.2.1"]), &[], "failed"),
            (codes(&["127.255.255.254"]), &[], "failed"),
            (codes(&["127.0.0.2", "127.255.255.255"]), &[], "failed"),
            (codes(&[]), &[], "not listed"),
            (Err(DnsError::NotFound), &[], "not listed"),
            (Err(DnsError::Temporary("timed out".to_owned())), &[], "timed out"),
            (Err(DnsError::Temporary("the server answered Refused".to_owned())), &[], "failed"),
            (Err(DnsError::BadName), &[], "failed"),
        ] {
            let shown = format!("{answer:?}");
            let found = match judge(answer, wanted) {
                Listing::Listed { .. } => "listed",
                Listing::NotListed => "not listed",
                Listing::Failed(_) => "failed",
                Listing::TimedOut => "timed out",
            };
            assert_eq!(found, expected, "{shown}");
        }
        for (net, legal) in [
            ("127.0.0.2/32", true),
            ("127.0.0.0/8", true),
            ("126.0.0.0/7", false),
            ("127.255.255.1/32", false),
            ("::1/128", false),
        ] {
            assert_eq!(is_code(&net.parse().unwrap()), legal, "{net}");
        }
    }

    #[tokio::test]
    async fn r33_listed_not_listed_failed_and_timed_out_are_counted_apart() {
        let dns = Responder::start().await;
        alive(&dns, "bl.example");
        let reason = format!("see https://bl.example/ \u{1b}[31m{}", "x".repeat(150));
        dns.a("7.2.0.192.bl.example", &["127.0.0.3"]);
        dns.set(
            "7.2.0.192.bl.example",
            RecordType::TXT,
            Answer::Records(vec![txt(&[reason.as_str(); 4]), txt(&["b"]), txt(&["c"]), txt(&["d"])]),
        );
        dns.set("9.2.0.192.bl.example", RecordType::A, Answer::Silent);
        dns.set("10.2.0.192.bl.example", RecordType::A, Answer::Code(ResponseCode::ServFail));
        dns.a("11.2.0.192.bl.example", &["127.255.255.254"]);
        dns.a("company.com.dbl.example", &["127.0.1.2"]);
        let lists = [list("bl.example", Subjects::Addresses), list("dbl.example", Subjects::Domains)];
        let subjects = ["192.0.2.7", "192.0.2.8", "192.0.2.9", "192.0.2.10", "192.0.2.11"].map(address);
        let subjects = [&subjects[..], &[domain("company.com"), domain("good.example")]].concat();
        let rows = look_up(&dns.resolver(), &lists, &subjects).await;
        let on = |name: &str| rows.iter().filter(|row| &*row.list.name == name).collect::<Vec<_>>();
        let tally = Tally::of(on("bl.example"));
        assert_eq!(tally, Tally { listed: 1, not_listed: 1, failed: 2, timed_out: 1 });
        assert!(tally.is_incomplete());
        let of_domains = Tally::of(on("dbl.example"));
        assert_eq!(of_domains, Tally { listed: 1, not_listed: 1, ..Tally::default() });
        let Listing::Listed { codes, reasons } = &rows[0].listing else { panic!("{rows:?}") };
        assert_eq!(
            (codes.as_slice(), reasons.len(), reasons[0].len()),
            (&[Ipv4Addr::new(127, 0, 0, 3)][..], 3, MAX_REASON)
        );
        assert_eq!(dns.queries("8.2.0.192.bl.example", RecordType::TXT), 0, "only of hits");
    }

    #[tokio::test]
    async fn r33_a_list_that_is_broken_lists_nobody_and_clears_nobody() {
        let dns = Responder::start().await;
        dns.a("1.0.0.127.all.example", &["127.0.0.2"]).a("2.0.0.127.all.example", &["127.0.0.2"]);
        dns.a("7.2.0.192.all.example", &["127.0.0.2"]);
        dns.a("1.0.0.127.parked.example", &["203.0.113.5"]);
        dns.a("1.0.0.127.refuses.example", &["127.255.255.254"]);
        dns.set("1.0.0.127.silent.example", RecordType::A, Answer::Silent);
        dns.a("invalid.domains.example", &["127.0.0.2"]);
        let zones = ["all.example", "parked.example", "refuses.example", "silent.example", "gone.example"];
        let mut lists: Vec<_> = zones.iter().map(|zone| list(zone, Subjects::Addresses)).collect();
        lists.push(list("domains.example", Subjects::Domains));
        let rows = look_up(&dns.resolver(), &lists, &[address("192.0.2.7"), domain("company.com")]).await;
        let said: Vec<_> = rows
            .iter()
            .map(|row| match &row.listing {
                Listing::Failed(why) => why.as_str(),
                Listing::TimedOut => "timed out",
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(said.len(), 6, "{said:?}");
        for (said, part) in
            said.iter().zip(["everything", "203.0.113.5", "refuses", "timed out", "out of service", "invalid"])
        {
            assert!(said.contains(part), "{said}");
        }
    }
}
