//! What must change in a domain's zone, in the order of R6: SPF, DKIM and DMARC, and MX when all that is in place.
//!
//! Only what is known changes: where DNS has not said what is published, or where only people can say what was meant,
//! there is an [`Obstacle`] and no proposal that could wipe something out.

use super::compare::{self, Published};
use super::expectation::Expectation;
use super::finding::cause;
use super::observation::Observation;
use super::{dmarc, spf, zone};
use crate::dns::DnsError;

/// Octets of a record that is shown to be replaced; a letter has no room for more.
const MAX_REPLACED: usize = 1000;

#[derive(Debug)]
pub(super) struct Change {
    pub(super) what: What,
    pub(super) edit: Result<Edit, Obstacle>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Spf,
    Dkim,
    Dmarc,
    Mx,
}

/// Lines of a zone file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edit {
    /// What is there now and goes; empty: nothing is there.
    pub(super) remove: Vec<String>,
    /// What shall be there.
    pub(super) publish: Vec<String>,
    /// It is there: nothing is to be done.
    pub(super) is_done: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// DNS had no answer. `fresh`: what to publish if there is nothing.
    Unknown { cause: String, fresh: Vec<String> },
    /// Somebody must decide.
    People(String),
}

impl What {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Spf => "SPF",
            Self::Dkim => "DKIM",
            Self::Dmarc => "DMARC",
            Self::Mx => "MX",
        }
    }
}

pub(super) fn plan(expectation: &Expectation, observation: &Observation) -> Vec<Change> {
    let mut changes = vec![Change { what: What::Spf, edit: spf(expectation, observation) }];
    changes.extend(keys(expectation, observation));
    changes.push(Change { what: What::Dmarc, edit: dmarc(expectation, observation) });
    changes.push(Change { what: What::Mx, edit: exchanges(expectation, observation) });
    changes
}

fn unknown(error: &DnsError, fresh: Vec<String>) -> Obstacle {
    Obstacle::Unknown { cause: cause(error), fresh }
}

fn done(publish: String) -> Edit {
    Edit { remove: Vec::new(), publish: vec![publish], is_done: true }
}

/// R26: a record that is there is kept, with our part in it.
fn spf(expectation: &Expectation, observation: &Observation) -> Result<Edit, Obstacle> {
    let owner = expectation.domain.as_str();
    let fresh = zone::txt(owner, spf::fresh(&expectation.spf).as_bytes());
    let records = match &observation.spf {
        Ok(records) => records,
        Err(error) => return Err(unknown(error, vec![fresh])),
    };
    let remove: Vec<String> = records.iter().map(|record| zone::txt(owner, record)).collect();
    if records.is_empty() {
        return Ok(Edit { remove, publish: vec![fresh], is_done: false });
    }
    let parsed: Result<Vec<_>, _> = records.iter().map(|record| spf::Record::parse(record)).collect();
    let parsed =
        parsed.map_err(|why| Obstacle::People(format!("the SPF record that is there can't be used: {why}")))?;
    let joined = match parsed.as_slice() {
        [one]
            if expectation.spf.iter().all(|mechanism| one.allows(mechanism))
                || compare::spf_passes(&observation.verdicts) =>
        {
            return Ok(done(remove.into_iter().next().unwrap_or_default()));
        }
        [one] => one.clone(),
        several => spf::Record::join(several).ok_or_else(|| {
            Obstacle::People("there are several SPF records, one with `redirect`: make one of them".to_owned())
        })?,
    };
    let merged = joined.with(&expectation.spf).to_string();
    Ok(Edit { remove, publish: vec![zone::txt(owner, merged.as_bytes())], is_done: false })
}

fn keys(expectation: &Expectation, observation: &Observation) -> Vec<Change> {
    let edit = |(key, answer): (&super::expectation::Key, &super::observation::Answer<Vec<Vec<u8>>>)| {
        let name = expectation.key_name(key);
        let line = zone::txt(&name, key.record.as_bytes());
        let records = match answer {
            Ok(records) => records.as_slice(),
            Err(error) => return Err(unknown(error, vec![line])),
        };
        match records {
            [] => Ok(Edit { remove: Vec::new(), publish: vec![line], is_done: false }),
            [one] if matches!(compare::published(one, key), Published::Same | Published::Testing) => Ok(done(line)),
            // R30.
            _ => Err(Obstacle::People(format!(
                "{name} has another record already, which is not to be overwritten: make a key with another selector"
            ))),
        }
    };
    let pairs = expectation.keys.iter().zip(&observation.keys);
    pairs.map(|pair| Change { what: What::Dkim, edit: edit(pair) }).collect()
}

/// R28. A policy that is there stays; reports come to us besides.
fn dmarc(expectation: &Expectation, observation: &Observation) -> Result<Edit, Obstacle> {
    let reports = expectation.dmarc_reports.as_ref();
    let line = |owner: &crate::smtp::Domain, record: &[u8]| zone::txt(&format!("_dmarc.{owner}"), record);
    let fresh = line(&expectation.domain, dmarc::fresh(reports).as_bytes());
    let found = match &observation.dmarc {
        Ok(found) => found,
        Err(error) => return Err(unknown(error, vec![fresh])),
    };
    let remove: Vec<String> = found.records.iter().map(|record| line(&found.owner, record)).collect();
    let record = match found.records.as_slice() {
        [one] if one.len() > MAX_REPLACED => {
            return Err(Obstacle::People(format!("the DMARC record that is there has {} octets", one.len())));
        }
        [] => return Ok(Edit { remove, publish: vec![fresh], is_done: false }),
        [one] => dmarc::Record::parse(one).ok(),
        _ => return Err(Obstacle::People("there are several DMARC records: leave one".to_owned())),
    };
    let Some(record) = record.filter(|record| record.tag("v") == Some("DMARC1") && record.policy().is_some()) else {
        let publish = vec![line(&found.owner, dmarc::fresh(reports).as_bytes())];
        return Ok(Edit { remove, publish, is_done: false });
    };
    match reports.filter(|reports| !record.reports_to(reports)) {
        None => Ok(done(remove.into_iter().next().unwrap_or_default())),
        Some(reports) => {
            let publish = line(&found.owner, record.with_reports(reports).to_string().as_bytes());
            Ok(Edit { remove, publish: vec![publish], is_done: false })
        }
    }
}

fn exchanges(expectation: &Expectation, observation: &Observation) -> Result<Edit, Obstacle> {
    let domain = &expectation.domain;
    let wanted = expectation.mx.iter().map(|exchange| zone::mx(domain, exchange.preference, exchange.host.as_str()));
    let publish: Vec<String> = wanted.collect();
    let found = match &observation.exchanges {
        Ok(found) => found,
        Err(DnsError::NotFound) => return Ok(Edit { remove: Vec::new(), publish, is_done: false }),
        Err(error) => return Err(unknown(error, publish)),
    };
    let line = |exchange: &crate::dns::Exchange| zone::mx(domain, exchange.preference, &compare::host_of(exchange));
    let current: Vec<String> = found.iter().map(line).collect();
    if compare::exchanges_are_right(expectation, found) {
        return Ok(Edit { remove: Vec::new(), publish: current, is_done: true });
    }
    Ok(Edit { remove: current.into_iter().filter(|line| !publish.contains(line)).collect(), publish, is_done: false })
}
