//! SPF (RFC 7208): may this client send in the name of that domain?
//!
//! The evaluation is our own, over our own resolver: see `docs/decisions/0010-sender-authentication.md`. All limits of
//! §4.6.4 hold; a void look-up is counted once for a term, as the RFC has it, not for each host of an `mx`.

mod expansion;
mod record;

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::{Outcome, printable};
use crate::dns::{DnsError, LiteralName, Resolver};
use crate::mail::evidence::{Spf, SpfIdentity};
use expansion::{MacroString, Values};
use record::{Cidr, Mechanism, Record, is_spf};

/// RFC 7208 §4.6.4: terms that look something up.
const MAX_LOOK_UPS: u32 = 10;
/// Look-ups that find nothing.
const MAX_VOID_LOOK_UPS: u32 = 2;
/// Hosts of one `mx`; more are a fault of the record. Names of the client: more are not looked at.
const MAX_HOSTS: usize = 10;
/// Of the explanation that a domain gives.
const MAX_EXPLANATION: usize = 400;

/// One check.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    pub identity: SpfIdentity,
    pub client: IpAddr,
    /// As the client gave it; empty where it gave none.
    pub helo: &'a str,
    /// Of the sender; `postmaster` where there is none (§4.3).
    pub local: &'a str,
    pub domain: &'a str,
    /// The gateway's own name.
    pub receiver: &'a str,
}

/// §4, `check_host()`, within that time.
pub async fn check(resolver: &Resolver, question: &Question<'_>, time: Duration) -> Spf {
    let mut check = Check::new(resolver, question);
    let ended = timeout(time, check.run()).await;
    let (found, explanation) = ended.unwrap_or_else(|_| {
        (Finding::new(Outcome::Temperror, format!("DNS has not answered within {} s", time.as_secs())), None)
    });
    Spf {
        outcome: found.outcome,
        identity: question.identity,
        domain: printable(question.domain, 255),
        reason: printable(&found.reason, 300),
        explanation,
    }
}

/// There is no name to check (an address literal, or no HELO at all).
pub fn without_domain(identity: SpfIdentity) -> Spf {
    let reason = "there is no domain to ask".to_owned();
    Spf { outcome: Outcome::None, identity, domain: String::new(), reason, explanation: None }
}

/// Nobody knows for which client.
pub fn undecided(identity: SpfIdentity, domain: &str, fault: &str) -> Spf {
    let (domain, reason) = (printable(domain, 255), printable(fault, 300));
    Spf { outcome: Outcome::Temperror, identity, domain, reason, explanation: None }
}

struct Check<'a> {
    resolver: &'a Resolver,
    question: &'a Question<'a>,
    client: IpAddr,
    look_ups: u32,
    voids: u32,
    /// Validated names of the client, once they are known.
    names: Option<Vec<String>>,
}

struct Finding {
    outcome: Outcome,
    reason: String,
    /// Of the record that decided, and its domain.
    explanation: Option<(MacroString, String)>,
}

impl Finding {
    fn new(outcome: Outcome, reason: String) -> Self {
        Self { outcome, reason, explanation: None }
    }
}

/// Ends the check: temperror or permerror.
struct Stop(Outcome, String);

impl Stop {
    fn permanent(reason: impl Into<String>) -> Self {
        Self(Outcome::Permerror, reason.into())
    }
}

impl<'a> Check<'a> {
    fn new(resolver: &'a Resolver, question: &'a Question<'a>) -> Self {
        // §5: an address of IPv4 in one of IPv6 is one of IPv4.
        let client = question.client.to_canonical();
        Self { resolver, question, client, look_ups: 0, voids: 0, names: None }
    }

    async fn run(&mut self) -> (Finding, Option<String>) {
        let found = self.check_host(self.question.domain).await;
        let found = found.unwrap_or_else(|Stop(outcome, reason)| Finding::new(outcome, reason));
        let explanation = match &found.explanation {
            Some((spec, domain)) if found.outcome == Outcome::Fail => self.explain(spec, domain).await,
            _ => None,
        };
        (found, explanation)
    }

    async fn check_host(&mut self, domain: &str) -> Result<Finding, Stop> {
        let Some(record) = self.record_of(domain).await? else {
            return Ok(Finding::new(Outcome::None, format!("{domain} has no SPF record")));
        };
        for directive in &record.directives {
            if self.is_match(&directive.mechanism, domain).await? {
                return Ok(Finding {
                    outcome: directive.outcome,
                    reason: format!("{} of {domain}", directive.text),
                    explanation: record.explanation.map(|spec| (spec, domain.to_owned())),
                });
            }
        }
        let Some(redirect) = &record.redirect else {
            // §4.7.
            return Ok(Finding::new(Outcome::Neutral, format!("nothing in the record of {domain} matches")));
        };
        self.count_look_up()?;
        let target = self.target(Some(redirect), domain).await;
        let found = Box::pin(self.check_host(&target)).await?;
        // §6.1.
        if found.outcome == Outcome::None {
            return Err(Stop::permanent(format!("{domain} redirects to {target}, which has no SPF record")));
        }
        Ok(found)
    }

    /// §4.3 to §4.5. A name that can't be asked has no record.
    async fn record_of(&self, domain: &str) -> Result<Option<Record>, Stop> {
        let Some(name) = LiteralName::parse(domain).ok().filter(|_| domain.trim_end_matches('.').contains('.')) else {
            return Ok(None);
        };
        let mut texts = match self.resolver.literal_txt(&name).await {
            Ok(texts) => texts,
            Err(DnsError::NotFound | DnsError::BadName) => return Ok(None),
            Err(error) => return Err(temporary(domain, &error)),
        };
        texts.retain(|text| is_spf(text));
        match texts.as_slice() {
            [] => Ok(None),
            [text] => Record::parse(text)
                .map(Some)
                .map_err(|fault| Stop::permanent(format!("the record of {domain} is wrong: {fault}"))),
            several => Err(Stop::permanent(format!("{domain} has {} SPF records", several.len()))),
        }
    }

    async fn is_match(&mut self, mechanism: &Mechanism, domain: &str) -> Result<bool, Stop> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(net) => Ok(matches!(self.client, IpAddr::V4(client) if net.contains(&client))),
            Mechanism::Ip6(net) => Ok(matches!(self.client, IpAddr::V6(client) if net.contains(&client))),
            Mechanism::Include(spec) => self.matches_include(spec, domain).await,
            Mechanism::A(spec, cidr) => {
                self.count_look_up()?;
                let target = self.target(spec.as_ref(), domain).await;
                let Ok(name) = LiteralName::parse(&target) else { return Ok(false) };
                let addresses = self.addresses(&name).await;
                let addresses = self.found(addresses, &target)?;
                Ok(addresses.iter().any(|address| cidr.spans(*address, self.client)))
            }
            Mechanism::Mx(spec, cidr) => self.matches_mx(spec.as_ref(), *cidr, domain).await,
            Mechanism::Ptr(spec) => {
                self.count_look_up()?;
                let target = self.target(spec.as_ref(), domain).await.to_ascii_lowercase();
                self.validate_names(true).await?;
                Ok(self.names.iter().flatten().any(|name| is_within(name, &target)))
            }
            Mechanism::Exists(spec) => {
                self.count_look_up()?;
                let target = self.target(Some(spec), domain).await;
                let Ok(name) = LiteralName::parse(&target) else { return Ok(false) };
                // §5.7: an A record, also where the client has IPv6.
                let addresses = self.resolver.literal_ipv4(&name).await;
                Ok(!self.found(addresses, &target)?.is_empty())
            }
        }
    }

    /// §5.2.
    async fn matches_include(&mut self, spec: &MacroString, domain: &str) -> Result<bool, Stop> {
        self.count_look_up()?;
        let target = self.target(Some(spec), domain).await;
        match Box::pin(self.check_host(&target)).await?.outcome {
            Outcome::Pass => Ok(true),
            Outcome::None => Err(Stop::permanent(format!("{domain} includes {target}, which has no SPF record"))),
            _ => Ok(false),
        }
    }

    /// §5.4.
    async fn matches_mx(&mut self, spec: Option<&MacroString>, cidr: Cidr, domain: &str) -> Result<bool, Stop> {
        self.count_look_up()?;
        let target = self.target(spec, domain).await;
        let Ok(name) = LiteralName::parse(&target) else { return Ok(false) };
        let hosts = self.resolver.literal_mx(&name).await;
        let hosts = self.found(hosts, &target)?;
        if hosts.len() > MAX_HOSTS {
            return Err(Stop::permanent(format!("{target} has more than {MAX_HOSTS} MX records")));
        }
        for host in hosts {
            match self.addresses(&host).await {
                Ok(addresses) if addresses.iter().any(|address| cidr.spans(*address, self.client)) => return Ok(true),
                Ok(_) | Err(DnsError::NotFound | DnsError::BadName) => {}
                Err(error) => return Err(temporary(&target, &error)),
            }
        }
        Ok(false)
    }

    /// Of the client's family (§5).
    async fn addresses(&self, name: &LiteralName) -> Result<Vec<IpAddr>, DnsError> {
        Ok(match self.client {
            IpAddr::V4(_) => self.resolver.literal_ipv4(name).await?.into_iter().map(IpAddr::V4).collect(),
            IpAddr::V6(_) => self.resolver.literal_ipv6(name).await?.into_iter().map(IpAddr::V6).collect(),
        })
    }

    fn count_look_up(&mut self) -> Result<(), Stop> {
        self.look_ups += 1;
        if self.look_ups > MAX_LOOK_UPS {
            return Err(Stop::permanent(format!("more than {MAX_LOOK_UPS} terms that need DNS")));
        }
        Ok(())
    }

    /// What was found, nothing included; that is counted.
    fn found<T>(&mut self, answer: Result<Vec<T>, DnsError>, name: &str) -> Result<Vec<T>, Stop> {
        match answer {
            Ok(found) => Ok(found),
            Err(DnsError::BadName) => Ok(Vec::new()),
            Err(DnsError::NotFound) => {
                self.voids += 1;
                if self.voids > MAX_VOID_LOOK_UPS {
                    return Err(Stop::permanent(format!("more than {MAX_VOID_LOOK_UPS} look-ups that find nothing")));
                }
                Ok(Vec::new())
            }
            Err(error) => Err(temporary(name, &error)),
        }
    }

    /// The domain that a term speaks of.
    async fn target(&mut self, spec: Option<&MacroString>, domain: &str) -> String {
        let Some(spec) = spec else { return domain.to_owned() };
        let client_name = self.client_name(spec, domain).await;
        spec.expand_domain(&self.values(domain, &client_name))
    }

    fn values<'v>(&'v self, domain: &'v str, client_name: &'v str) -> Values<'v> {
        Values {
            client: self.client,
            helo: self.question.helo,
            local: self.question.local,
            sender_domain: self.question.domain,
            domain,
            client_name,
            receiver: self.question.receiver,
            now: jiff::Timestamp::now().as_second(),
        }
    }

    /// §7.3, macro `p`: the domain itself, else a name below it, else any, else `unknown`.
    async fn client_name(&mut self, spec: &MacroString, domain: &str) -> String {
        if !spec.names_client() {
            return String::new();
        }
        // Not counted as void: it is no term. The names are looked up once for all macros.
        let _ = self.validate_names(false).await;
        let domain = domain.to_ascii_lowercase();
        let names = self.names.as_deref().unwrap_or_default();
        let best = names.iter().find(|name| **name == domain).or(names.iter().find(|name| is_within(name, &domain)));
        best.or(names.first()).cloned().unwrap_or_else(|| "unknown".to_owned())
    }

    /// §5.5. Where DNS fails, the name is not validated, and nothing else happens.
    async fn validate_names(&mut self, counted: bool) -> Result<(), Stop> {
        if self.names.is_some() {
            return Ok(());
        }
        let names = match self.resolver.names_of(self.client).await {
            Err(DnsError::NotFound) if counted => self.found(Err(DnsError::NotFound), "the client's name")?,
            other => other.unwrap_or_default(),
        };
        let mut validated = Vec::new();
        for name in names.iter().take(MAX_HOSTS) {
            let Ok(literal) = LiteralName::parse(name.as_str()) else { continue };
            if self.addresses(&literal).await.is_ok_and(|addresses| addresses.contains(&self.client)) {
                validated.push(name.as_str().to_owned());
            }
        }
        self.names = Some(validated);
        Ok(())
    }

    /// §6.2: whatever goes wrong, there is just no explanation.
    async fn explain(&mut self, spec: &MacroString, domain: &str) -> Option<String> {
        let name = LiteralName::parse(&self.target(Some(spec), domain).await).ok()?;
        let texts = self.resolver.literal_txt(&name).await.ok()?;
        let [text] = texts.as_slice() else { return None };
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= record::MAX_RECORD)?;
        let text = MacroString::parse(text, true).ok()?;
        let client_name = self.client_name(&text, domain).await;
        Some(printable(&text.expand(&self.values(domain, &client_name)), MAX_EXPLANATION))
    }
}

impl Cidr {
    /// Both are in one network.
    fn spans(self, address: IpAddr, client: IpAddr) -> bool {
        let net = match address {
            IpAddr::V4(_) => ipnet::IpNet::new(address, self.four),
            IpAddr::V6(_) => ipnet::IpNet::new(address, self.six),
        };
        net.is_ok_and(|net| net.contains(&client))
    }
}

fn is_within(name: &str, domain: &str) -> bool {
    name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn temporary(name: &str, error: &DnsError) -> Stop {
    Stop(Outcome::Temperror, format!("{name}: {error}"))
}

#[cfg(any(test, fuzzing))]
pub(super) fn read_anything(octets: &[u8]) {
    let values = Values {
        client: IpAddr::from([192, 0, 2, 3]),
        helo: "mail.example.org",
        local: "strong-bad",
        sender_domain: "email.example.com",
        domain: "email.example.com",
        client_name: "mx.example.org",
        receiver: "gw.example.net",
        now: 0,
    };
    let _ = Record::parse(octets);
    let Ok(text) = std::str::from_utf8(octets) else { return };
    for spec in [MacroString::parse(text, true), MacroString::parse_domain(text)].into_iter().flatten() {
        let expanded = spec.expand(&values);
        // A letter stands for a name, at most three octets for each of it (§7.3).
        assert!(expanded.len() <= text.len() * 100, "{} octets of {text:?}", expanded.len());
        assert!(spec.expand_domain(&values).len() <= expanded.len());
    }
}

#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;
