//! `postern dns blocklists` (R33): are the egress addresses or the tenants' domains on a block list?

use std::io;
use std::sync::Arc;

use serde_json::json;

use super::super::terminal::{json_line, plural, printable};
use super::super::{CliError, Context, FAILED, OK, Streams, UNKNOWN};
use super::zone;
use crate::dns::Resolver;
use crate::dns::blocklist::{BlockList, Listing, Row, Subject, Tally, look_up};

pub(super) async fn ask(resolver: &Resolver, lists: &[Arc<BlockList>], subjects: &[Subject]) -> Vec<Row> {
    look_up(resolver, lists, subjects).await
}

pub(super) fn show(rows: &[Row], context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let tally = Tally::of(rows);
    if context.json {
        let list: Vec<_> = rows.iter().map(row_json).collect();
        let answer = json!({
            "listed": tally.listed,
            "not_listed": tally.not_listed,
            "errors": tally.failed,
            "timed_out": tally.timed_out,
            "results": list,
        });
        writeln!(streams.out, "{}", json_line(&answer))?;
    } else {
        rows.iter().try_for_each(|row| show_row(row, streams))?;
        writeln!(
            streams.out,
            "listed {}, not listed {}, {} error{}, timed out {}",
            tally.listed,
            tally.not_listed,
            tally.failed,
            plural(tally.failed.into()),
            tally.timed_out
        )?;
    }
    Ok(if tally.listed > 0 {
        FAILED
    } else if tally.is_incomplete() {
        UNKNOWN
    } else {
        OK
    })
}

/// Those that are not listed are only counted: there are many.
fn show_row(row: &Row, streams: &mut Streams<'_>) -> io::Result<()> {
    let (word, codes, why) = match &row.listing {
        Listing::NotListed => return Ok(()),
        Listing::Listed { codes, reasons } => {
            let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
            let reasons: Vec<String> = reasons.iter().map(|reason| zone::shown(reason)).collect();
            ("listed", codes.join(" "), reasons.join(" / "))
        }
        Listing::Failed(why) => ("error", String::new(), why.clone()),
        Listing::TimedOut => ("timed out", String::new(), String::new()),
    };
    let line = format!("{word:10}{} on {}  {codes}  {why}", row.subject, row.list.name);
    writeln!(streams.out, "{}", printable(line.trim_end()))
}

fn row_json(row: &Row) -> serde_json::Value {
    let (list, subject) = (row.list.name.as_ref(), row.subject.to_string());
    match &row.listing {
        Listing::Listed { codes, reasons } => {
            let reasons: Vec<String> = reasons.iter().map(|reason| zone::shown(reason)).collect();
            json!({ "list": list, "subject": subject, "result": "listed", "codes": codes, "reasons": reasons })
        }
        Listing::NotListed => json!({ "list": list, "subject": subject, "result": "not-listed" }),
        Listing::Failed(why) => json!({ "list": list, "subject": subject, "result": "error", "why": why }),
        Listing::TimedOut => json!({ "list": list, "subject": subject, "result": "timed-out" }),
    }
}
