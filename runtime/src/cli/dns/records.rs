//! `postern dns records`: what to publish, as lines of a zone file; and the egress addresses for firewalls (R15).

use std::io;
use std::net::IpAddr;

use serde_json::json;

use super::super::terminal::json_line;
use super::super::{CliError, Context, FAILED, OK, Streams, UNKNOWN};
use super::expectation::Expectation;
use super::observation::Observation;
use super::plan::{Change, Obstacle, What, plan};
use super::{dmarc, zone};

pub(super) fn show(
    expectation: &Expectation,
    observation: &Observation,
    context: &Context<'_>,
    streams: &mut Streams<'_>,
) -> Result<u8, CliError> {
    let changes = plan(expectation, observation);
    let permission = permission(expectation, observation);
    if context.json {
        let list: Vec<_> = changes.iter().map(change_json).collect();
        let answer = json!({ "domain": expectation.domain.as_str(), "records": list, "own_zone": permission });
        writeln!(streams.out, "{}", json_line(&answer))?;
    } else {
        writeln!(streams.out, "; {}: what to publish, in this order", expectation.domain)?;
        for (number, change) in changes.iter().enumerate() {
            show_change(number + 1, change, streams)?;
        }
        if let Some(line) = &permission {
            writeln!(
                streams.out,
                "\n; In your own zone, not in the customer's: reports about this domain may come to you\n{line}"
            )?;
        }
    }
    Ok(exit_code(&changes))
}

/// The record by which we allow reports about this domain to be sent to us; `None`: not needed, or there.
fn permission(expectation: &Expectation, observation: &Observation) -> Option<String> {
    let name = dmarc::authorization(&expectation.domain, expectation.dmarc_reports.as_ref()?)?;
    let is_there = matches!(&observation.authorization, Some(Ok(records)) if !records.is_empty());
    (!is_there).then(|| zone::txt(&name, b"v=DMARC1"))
}

pub(super) fn exit_code(changes: &[Change]) -> u8 {
    let any =
        |wanted: fn(&Obstacle) -> bool| changes.iter().any(|change| change.edit.as_ref().err().is_some_and(wanted));
    if any(|obstacle| matches!(obstacle, Obstacle::People(_))) {
        FAILED
    } else if any(|obstacle| matches!(obstacle, Obstacle::Unknown { .. })) {
        UNKNOWN
    } else {
        OK
    }
}

fn show_change(number: usize, change: &Change, streams: &mut Streams<'_>) -> io::Result<()> {
    let out = &mut *streams.out;
    let name = change.what.name();
    let when =
        if change.what == What::Mx { ", last: when all above is in place and the mail has a destination" } else { "" };
    match &change.edit {
        Ok(edit) if edit.is_done => writeln!(out, "\n; {number}. {name}: is in place")?,
        Ok(edit) if edit.remove.is_empty() => writeln!(out, "\n; {number}. {name}: new{when}")?,
        Ok(edit) => {
            writeln!(out, "\n; {number}. {name}: in place of this{when}")?;
            edit.remove.iter().try_for_each(|line| writeln!(out, ";    {line}"))?;
        }
        Err(Obstacle::People(why)) => writeln!(out, "\n; {number}. {name}: NOT BEFORE SOMEBODY HAS DECIDED: {why}")?,
        Err(Obstacle::Unknown { cause, fresh }) => {
            writeln!(out, "\n; {number}. {name}: DNS did not say what is there ({cause}). Only if there is nothing:")?;
            fresh.iter().try_for_each(|line| writeln!(out, ";    {line}"))?;
        }
    }
    change.edit.iter().flat_map(|edit| &edit.publish).try_for_each(|line| writeln!(out, "{line}"))
}

fn change_json(change: &Change) -> serde_json::Value {
    let record = change.what.name();
    match &change.edit {
        Ok(edit) => {
            let state = if edit.is_done {
                "in-place"
            } else if edit.remove.is_empty() {
                "new"
            } else {
                "replace"
            };
            json!({ "record": record, "state": state, "remove": edit.remove, "publish": edit.publish })
        }
        Err(Obstacle::People(why)) => json!({ "record": record, "state": "undecided", "why": why }),
        Err(Obstacle::Unknown { cause, fresh }) => {
            json!({ "record": record, "state": "unknown", "why": cause, "if_nothing_is_there": fresh })
        }
    }
}

/// One a line, for whoever feeds a firewall or a connector.
pub(super) fn show_egress(egress: &[IpAddr], context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    if context.json {
        writeln!(streams.out, "{}", json!({ "egress_addresses": egress }))?;
    } else {
        egress.iter().try_for_each(|address| writeln!(streams.out, "{address}"))?;
    }
    Ok(OK)
}
