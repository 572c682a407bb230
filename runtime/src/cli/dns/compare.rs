//! What DNS says of a domain against what it should say (R31): no questions, no output, so each rule is a line of a table.

use std::net::IpAddr;

use super::expectation::{Expectation, Key};
use super::finding::{Finding, Status};
use super::observation::{Answer, Observation};
use super::{dmarc, provider, spf, zone};
use crate::dns::{DnsError, Exchange};
use crate::mail::Route;
use crate::mail::evidence::{AuthOutcome, Spf};
use crate::smtp::Domain;

/// In the order in which a domain is brought to the gateway (R6).
pub(super) fn domain(expectation: &Expectation, observation: &Observation) -> Vec<Finding> {
    let mut findings = vec![tenant(expectation), servers(observation, &expectation.domain)];
    findings.push(spf(expectation, &observation.spf, &observation.verdicts));
    findings.extend(keys(expectation, &observation.keys));
    findings.push(dmarc(expectation, observation));
    findings.extend(authorization(expectation, observation));
    findings.push(exchanges(expectation, &observation.exchanges));
    findings.extend(observation.hosts.iter().map(|(host, addresses)| foreign_host(host, addresses)));
    findings.extend(provider::notes(expectation, observation));
    findings
}

/// R6: a domain without a destination takes no mail, and its MX records must not name us yet.
fn tenant(expectation: &Expectation) -> Finding {
    let finding = |status| Finding::new("TENANT", &expectation.domain, status);
    let Some(tenant) = &expectation.tenant else {
        return finding(Status::Missing).advising("no tenant has this domain: its mail is refused; add it to one");
    };
    match &tenant.destination {
        Some(route) => finding(Status::Ok).found([format!("{} -> {}", tenant.name, shown_route(route))]),
        None => finding(Status::Missing)
            .found([&tenant.name])
            .advising("the tenant has no `destination`: its mail is refused; set it before the MX records"),
    }
}

fn shown_route(route: &Route) -> String {
    match route {
        Route::Mx(Some(domain)) => format!("MX of {domain}"),
        Route::Mx(None) => "MX".to_owned(),
        Route::Host { host, port, .. } => format!("{host}:{port}"),
        Route::Literal(address) => address.to_string(),
        Route::SmartHost(name) => format!("smart host {name}"),
        Route::Maildir(path) => path.display().to_string(),
    }
}

/// RFC 1034 §4.1: at least two.
fn servers(observation: &Observation, domain: &Domain) -> Finding {
    match &observation.servers {
        Ok(servers) => {
            let found = servers.names.iter().map(|name| format!("{} NS {name}", servers.zone));
            let (status, advice) = match servers.names.len() {
                0 => (Status::Wrong, "no name server has a name that a host can have"),
                1 => (Status::Warn, "a second name server, so that the domain is not gone when the first is"),
                _ => (Status::Ok, ""),
            };
            let expected = (status != Status::Ok).then_some("two or more name servers");
            Finding::new("NS", domain, status).found(found).expecting(expected).advising(advice)
        }
        Err(DnsError::NotFound) => Finding::new("NS", domain, Status::Missing)
            .expecting(["two or more name servers"])
            .advising("the domain is not delegated: is it registered, and not expired?"),
        Err(error) => Finding::unknown("NS", domain, error),
    }
}

fn spf(expectation: &Expectation, answer: &Answer<Vec<Vec<u8>>>, verdicts: &[(IpAddr, Spf)]) -> Finding {
    let finding = |status| Finding::new("SPF", &expectation.domain, status);
    let ours = &expectation.spf;
    let records = match answer {
        Ok(records) => records,
        Err(error) => return Finding::unknown("SPF", &expectation.domain, error).expecting(ours),
    };
    let found = records.iter().map(|record| zone::shown(record));
    let [record] = records.as_slice() else {
        return match records.len() {
            0 => finding(Status::Missing).expecting([spf::fresh(ours)]).advising("publish this TXT record"),
            _ => finding(Status::Wrong)
                .found(found)
                .expecting(["one SPF record"])
                .advising("with several of them nobody can evaluate any (RFC 7208 4.5): make one of them"),
        };
    };
    let parsed = match spf::Record::parse(record) {
        Ok(parsed) => parsed,
        Err(why) => {
            return finding(Status::Wrong).found(found).expecting(ours).advising(format!("it can't be used: {why}"));
        }
    };
    let complete = ours.iter().all(|mechanism| parsed.allows(mechanism));
    // What includes of theirs say in the end counts, not by whose words.
    let passes = complete || spf_passes(verdicts);
    let undecided = verdicts.iter().any(|(_, verdict)| verdict.outcome == AuthOutcome::Temperror);
    let expected = [parsed.with(ours).to_string()];
    match (parsed.faults().into_iter().reduce(graver), refused(verdicts, complete)) {
        (Some(spf::Fault::Grave(what)), _) => finding(Status::Wrong).found(found).expecting(expected).advising(what),
        (_, Some((address, verdict))) => finding(Status::Wrong).found(found).expecting(expected).advising(format!(
            "mail from {address}: {}, {}",
            verdict.outcome.name(),
            verdict.reason
        )),
        _ if !passes && undecided => {
            let error = DnsError::Temporary("what the record includes could not be looked up".to_owned());
            Finding::unknown("SPF", &expectation.domain, &error).found(found).expecting(expected)
        }
        _ if !passes => finding(Status::Wrong)
            .found(found)
            .expecting(expected)
            .advising("mail that leaves by the gateway fails SPF: replace the record"),
        (Some(spf::Fault::Odd(what)), _) => finding(Status::Warn).found(found).advising(what),
        _ => finding(Status::Ok).found(found),
    }
}

fn graver(one: spf::Fault, other: spf::Fault) -> spf::Fault {
    if matches!(one, spf::Fault::Grave(_)) { one } else { other }
}

/// The first that would be refused. Without our part in the record that is no news.
fn refused(verdicts: &[(IpAddr, Spf)], complete: bool) -> Option<&(IpAddr, Spf)> {
    let bad = [AuthOutcome::Fail, AuthOutcome::Softfail, AuthOutcome::Neutral, AuthOutcome::Permerror];
    verdicts.iter().find(|(_, verdict)| complete && bad.contains(&verdict.outcome))
}

/// Mail from each address would pass.
pub(super) fn spf_passes(verdicts: &[(IpAddr, Spf)]) -> bool {
    !verdicts.is_empty() && verdicts.iter().all(|(_, verdict)| verdict.outcome == AuthOutcome::Pass)
}

fn keys(expectation: &Expectation, answers: &[Answer<Vec<Vec<u8>>>]) -> Vec<Finding> {
    if expectation.keys.is_empty() {
        let advice = "no key signs this domain's mail: `postern dkim generate` makes one";
        return vec![Finding::new("DKIM", &expectation.domain, Status::Warn).advising(advice)];
    }
    expectation.keys.iter().zip(answers).map(|(key, answer)| self::key(expectation, key, answer)).collect()
}

fn key(expectation: &Expectation, key: &Key, answer: &Answer<Vec<Vec<u8>>>) -> Finding {
    let name = expectation.key_name(key);
    let finding = |status| Finding::new("DKIM", &name, status).expecting([&key.record]);
    let records = match answer {
        Ok(records) => records,
        Err(error) => return Finding::unknown("DKIM", &name, error).expecting([&key.record]),
    };
    let found = records.iter().map(|record| zone::shown(record));
    match records.as_slice() {
        [] => finding(Status::Missing).advising("publish this TXT record; signatures can't be verified without it"),
        [one] => {
            let (status, advice) = match published(one, key) {
                Published::Same => (Status::Ok, ""),
                Published::Testing => (Status::Warn, "`t=y` says that it is only a test: take it out"),
                Published::Revoked => (Status::Wrong, "an empty `p=` says that the key is revoked"),
                // R30.
                Published::Other => (
                    Status::Wrong,
                    "another key is published under this selector; it may be in use and is not to be overwritten: make a key with \
                     another selector",
                ),
            };
            let finding = finding(status).found(found).advising(advice);
            if status == Status::Ok { Finding { expected: Vec::new(), ..finding } } else { finding }
        }
        _ => {
            finding(Status::Wrong).found(found).advising("several records under one selector: only one of them is read")
        }
    }
}

/// What stands in DNS for one of our keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    Same,
    Testing,
    Revoked,
    Other,
}

/// RFC 6376 §3.6.1: tags in any order, white space anywhere in the key.
pub(super) fn published(record: &[u8], key: &Key) -> Published {
    let tags = |octets: &[u8]| {
        let text: String = octets.iter().filter(|o| !o.is_ascii_whitespace()).map(|o| char::from(*o)).collect();
        let tag = |part: &str| part.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        text.split(';').filter_map(tag).collect::<Vec<_>>()
    };
    let (found, wanted) = (tags(record), tags(key.record.as_bytes()));
    let tag =
        |tags: &[(String, String)], name: &str| tags.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    // RFC 6376 §3.6.1: without `k` it is RSA.
    let kind = |tags| tag(tags, "k").unwrap_or_else(|| "rsa".to_owned());
    match tag(&found, "p") {
        Some(p) if p.is_empty() => Published::Revoked,
        Some(p) if Some(&p) == tag(&wanted, "p").as_ref() && kind(&found) == kind(&wanted) => {
            let testing = tag(&found, "t").is_some_and(|flags| flags.split(':').any(|flag| flag == "y"));
            if testing { Published::Testing } else { Published::Same }
        }
        _ => Published::Other,
    }
}

fn dmarc(expectation: &Expectation, observation: &Observation) -> Finding {
    let domain = &expectation.domain;
    let finding = |status| Finding::new("DMARC", format!("_dmarc.{domain}"), status);
    let reports = expectation.dmarc_reports.as_ref();
    let answer = match &observation.dmarc {
        Ok(answer) => answer,
        Err(error) => return Finding::unknown("DMARC", format!("_dmarc.{domain}"), error),
    };
    let found: Vec<String> = match answer.owner == *domain {
        true => answer.records.iter().map(|record| zone::shown(record)).collect(),
        false => answer.records.iter().map(|r| format!("_dmarc.{}: {}", answer.owner, zone::shown(r))).collect(),
    };
    let [record] = answer.records.as_slice() else {
        return match answer.records.len() {
            0 => finding(Status::Missing).expecting([dmarc::fresh(reports)]).advising("publish this TXT record"),
            // RFC 9989 §4.7.
            _ => finding(Status::Wrong)
                .found(found)
                .expecting(["one DMARC record"])
                .advising("several count as none: leave one"),
        };
    };
    let parsed = match dmarc::Record::parse(record) {
        Ok(parsed) if parsed.tag("v") == Some("DMARC1") => parsed,
        Ok(_) => return finding(Status::Wrong).found(found).advising("the version is `DMARC1`, in capitals"),
        Err(why) => return finding(Status::Wrong).found(found).advising(format!("it can't be used: {why}")),
    };
    if parsed.policy().is_none() {
        return finding(Status::Wrong).found(found).advising("it has no `p=none`, `p=quarantine` or `p=reject`");
    }
    // R29.
    match reports.filter(|reports| !parsed.reports_to(reports)) {
        Some(reports) => finding(Status::Warn)
            .found(found)
            .expecting([parsed.with_reports(reports).to_string()])
            .advising("no reports come to the service: add its address to `rua`"),
        None if parsed.policy() == Some("none") => finding(Status::Ok).found(found).advising(
            "`p=none` only watches: `quarantine`, then `reject`, when the reports show that all your mail passes",
        ),
        None => finding(Status::Ok).found(found),
    }
}

fn authorization(expectation: &Expectation, observation: &Observation) -> Option<Finding> {
    let name = dmarc::authorization(&expectation.domain, expectation.dmarc_reports.as_ref()?)?;
    let expected = "v=DMARC1";
    Some(match observation.authorization.as_ref()? {
        Ok(records) if records.is_empty() => Finding::new("DMARC", &name, Status::Missing)
            .expecting([expected])
            .advising("publish this TXT record in your own zone (or once for all, under `*`): without it nobody sends reports"),
        Ok(records) => Finding::new("DMARC", &name, Status::Ok).found(records.iter().map(|record| zone::shown(record))),
        Err(error) => Finding::unknown("DMARC", &name, error).expecting([expected]),
    })
}

fn exchanges(expectation: &Expectation, answer: &Answer<Vec<Exchange>>) -> Finding {
    let expected = expectation.mx.iter().map(|exchange| format!("{} {}", exchange.preference, exchange.host));
    let finding = |status| Finding::new("MX", &expectation.domain, status).expecting(expected.clone());
    let found = match answer {
        Ok(found) => found,
        Err(DnsError::NotFound) => return finding(Status::Missing).advising("publish these records"),
        Err(error) => return Finding::unknown("MX", &expectation.domain, error).expecting(expected),
    };
    let shown = found.iter().map(|exchange| format!("{} {}", exchange.preference, host_of(exchange)));
    let (status, advice) = judge(expectation, found);
    let finding = finding(status).found(shown).advising(advice);
    if status == Status::Ok { Finding { expected: Vec::new(), ..finding } } else { finding }
}

pub(super) fn host_of(exchange: &Exchange) -> String {
    exchange.host.as_ref().map_or_else(|| ".".to_owned(), ToString::to_string)
}

pub(super) fn exchanges_are_right(expectation: &Expectation, found: &[Exchange]) -> bool {
    judge(expectation, found).0 == Status::Ok
}

/// `found`: best first, as the resolver gives it.
fn judge(expectation: &Expectation, found: &[Exchange]) -> (Status, String) {
    let wrong = |advice: &str| (Status::Wrong, advice.to_owned());
    let hosts: Vec<(u16, &Domain)> = found.iter().filter_map(|e| Some((e.preference, e.host.as_ref()?))).collect();
    if hosts.is_empty() {
        return wrong("they say that the domain takes no mail (RFC 7505): replace them");
    }
    let (ours, foreign): (Vec<_>, Vec<_>) = hosts.iter().partition(|(_, host)| expectation.is_ours(host));
    let Some((best, _)) = ours.first() else {
        return wrong("none of them is the gateway: replace them, when the records above are right");
    };
    // R9.
    if let Some((_, host)) = foreign.iter().find(|(preference, _)| preference <= best) {
        return (
            Status::Wrong,
            format!("{host} is as good as the gateway or better, so mail goes past the filter: remove it"),
        );
    }
    let missing = expectation.mx.iter().find(|exchange| !ours.iter().any(|(_, host)| **host == exchange.host));
    if let Some(missing) = missing {
        return (Status::Wrong, format!("{} is not there: add it", missing.host));
    }
    let beside = |(_, host): &&(u16, &Domain)| {
        expectation.is_destination(host) || super::expectation::Provider::of(host).is_some()
    };
    if let Some((_, host)) = foreign.iter().find(beside) {
        return (Status::Warn, format!("whoever wants to go past the filter writes to {host}: remove it"));
    }
    if let Some((_, host)) = foreign.first() {
        // R11.
        let advice = format!("{host} is not the gateway: remove it, unless it hands all mail over to the gateway");
        return (Status::Warn, advice);
    }
    let preference = |wanted: &Domain| ours.iter().find(|(_, host)| *host == wanted).map(|(preference, _)| *preference);
    let order: Vec<_> = expectation.mx.iter().map(|exchange| preference(&exchange.host)).collect();
    if !order.is_sorted() {
        return (Status::Warn, "they are in another order than expected".to_owned());
    }
    (Status::Ok, String::new())
}

fn foreign_host(host: &Domain, addresses: &Answer<Vec<IpAddr>>) -> Finding {
    match addresses {
        Ok(addresses) => Finding::new("A/AAAA", host, Status::Ok).found(addresses),
        Err(DnsError::Temporary(_)) => {
            let unknown = DnsError::Temporary("its addresses could not be looked up".to_owned());
            Finding::unknown("A/AAAA", host, &unknown)
        }
        Err(_) => {
            Finding::new("A/AAAA", host, Status::Warn).advising("an MX record leads to this host, which has no address")
        }
    }
}

#[cfg(test)]
mod tests;
