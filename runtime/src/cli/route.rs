//! `postern route explain`: which rule of which plugin decides where a mail goes, and to which hosts that comes.
//!
//! By the config as its files say it now, with the plugins that are installed and switched, as a start would put them in force.

mod explain;

use std::fmt::Write as _;
use std::net::IpAddr;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::explain::{Asked, By, Explanation, Heard, Way};
use super::terminal::{json_line, printable, table};
use super::{CliError, Context, FAILED, OK, Streams};
use crate::config::Settings;
use crate::host::Compiler;
use crate::pipeline::{Direction, Edit, Verdict};
use crate::smtp::{Mailbox, ReversePath};

#[derive(Debug, Subcommand)]
pub enum Route {
    /// Say where a mail would go, and why; nothing is sent.
    Explain(Explain),
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The sender's address; `<>` is the null sender, which bounces have.
    #[arg(long, value_name = "ADDRESS", value_parser = sender)]
    pub from: ReversePath,
    /// The recipient's address.
    #[arg(long, value_name = "ADDRESS", value_parser = mailbox)]
    pub to: Mailbox,
    /// The address of the client that brings it, for plugins that ask.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub client: IpAddr,
    /// As if from a client that may relay, also where the recipient is a tenant's.
    #[arg(long)]
    pub outbound: bool,
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    Mailbox::parse(text).map_err(|error| error.to_string())
}

fn sender(text: &str) -> Result<ReversePath, String> {
    if text == "<>" { Ok(ReversePath(None)) } else { mailbox(text).map(|sender| ReversePath(Some(sender))) }
}

pub(super) fn run(route: &Route, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let Route::Explain(explain) = route;
    answer(explain, &context.settings()?, Compiler::this_program(), context.json, streams)
}

fn answer(
    explain: &Explain,
    settings: &Settings,
    compiler: Compiler,
    json: bool,
    streams: &mut Streams<'_>,
) -> Result<u8, CliError> {
    let Explain { from, to, client, outbound } = explain;
    let asked = Asked { from: from.clone(), to: to.clone(), client: *client, outbound: *outbound };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let explanation = runtime.block_on(explain::explain(settings, compiler, &asked))?;
    match json {
        true => writeln!(streams.out, "{}", json_line(&to_json(&asked, &explanation)))?,
        false => write!(streams.out, "{}", text(&asked, &explanation))?,
    }
    Ok(if explanation.leads_somewhere() { OK } else { FAILED })
}

impl Explanation {
    fn leads_somewhere(&self) -> bool {
        let has_host = |way: &Way| way.prospect.as_ref().is_none_or(|prospect| !prospect.hops.is_empty());
        matches!(self.verdict, Verdict::Next | Verdict::Accept)
            && !self.ways.is_empty()
            && self.ways.iter().all(has_host)
    }
}

fn text(asked: &Asked, explanation: &Explanation) -> String {
    let mut rows = vec![row("mail", format!("from {} to {}, {}", path(&asked.from), asked.to, whose(explanation)))];
    for heard in &explanation.heard {
        let routes: Vec<_> = heard.routes().map(|route| format!("; {route}")).collect();
        rows.push(row("plugin", format!("{} ({}): {}{}", heard.plugin, heard.scope, said(heard), routes.concat())));
        rows.extend(heard.log.iter().map(|line| row("", format!("  {}: {}", line.level, line.text))));
    }
    if !matches!(explanation.verdict, Verdict::Next | Verdict::Accept) {
        rows.push(row("verdict", shown(&explanation.verdict)));
    }
    for way in &explanation.ways {
        let whom = if way.recipient == asked.to { String::new() } else { format!(" for {}", way.recipient) };
        rows.push(row("route", format!("{}{whom}, {}", way.route, chosen_by(&way.by))));
        let Some(prospect) = &way.prospect else { continue };
        let login = prospect.login.as_ref().map_or_else(String::new, |user| format!(", login as {user}"));
        rows.push(row("tls", format!("{}{login}", prospect.tls)));
        for (n, hop) in prospect.hops.iter().enumerate() {
            let by = hop.preference.map_or_else(String::new, |preference| {
                format!("  preference {preference}{}", if hop.internal { ", by the internal DNS" } else { "" })
            });
            rows.push(row(if n == 0 { "hosts" } else { "" }, format!("{}  {}{by}", hop.host, hop.address)));
        }
        rows.extend(prospect.problem.iter().map(|problem| row("problem", problem.to_string())));
    }
    rows.iter_mut().flatten().for_each(|cell| *cell = printable(cell));
    table(&rows)
}

fn row(what: &str, text: String) -> Vec<String> {
    vec![what.to_owned(), text]
}

fn path(path: &ReversePath) -> String {
    path.mailbox().map_or_else(|| "<>".to_owned(), ToString::to_string)
}

fn whose(explanation: &Explanation) -> String {
    let mut text = match explanation.direction {
        Direction::Inbound => "inbound".to_owned(),
        Direction::Outbound => "outbound".to_owned(),
    };
    if let Some(tenant) = &explanation.tenant {
        let _ = write!(text, ", tenant {tenant}");
    }
    text
}

fn chosen_by(by: &By) -> String {
    match by {
        By::Plugin(plugin, scope) => format!("chosen by the plugin {plugin} ({scope})"),
        By::Destination(tenant) => format!("the destination of the tenant {tenant}"),
        By::Outbound(tenant) => format!("what the tenant {tenant} has for outbound mail"),
        By::Mx => "as nothing else was chosen".to_owned(),
    }
}

impl Heard {
    fn routes(&self) -> impl Iterator<Item = &crate::mail::Route> {
        self.edits().filter_map(|edit| match edit {
            Edit::SetRoute(route) | Edit::SetRecipientRoute(_, route) => Some(route),
            _ => None,
        })
    }
}

fn said(heard: &Heard) -> String {
    match &heard.judged.result {
        Ok(answer) => shown(&answer.verdict),
        Err(failure) => format!("failure {}: {}", failure.cause.name(), failure.detail),
    }
}

fn shown(verdict: &Verdict) -> String {
    match (verdict, verdict.reply()) {
        (_, Some(reply)) => format!("{} {reply}", verdict.name()),
        (Verdict::Quarantine(reason), _) => format!("quarantine {reason}"),
        _ => verdict.name().to_owned(),
    }
}

fn to_json(asked: &Asked, explanation: &Explanation) -> Value {
    let log = |heard: &Heard| -> Vec<Value> {
        heard.log.iter().map(|line| json!({ "level": line.level, "text": line.text })).collect()
    };
    let plugins: Vec<Value> = explanation
        .heard
        .iter()
        .map(|heard| {
            let routes: Vec<String> = heard.routes().map(ToString::to_string).collect();
            let (plugin, scope) = (&heard.plugin, heard.scope.to_string());
            json!({ "plugin": plugin, "scope": scope, "said": said(heard), "routes": routes, "log": log(heard) })
        })
        .collect();
    json!({
        "from": path(&asked.from),
        "to": asked.to.to_string(),
        "direction": match explanation.direction { Direction::Inbound => "inbound", Direction::Outbound => "outbound" },
        "tenant": explanation.tenant,
        "plugins": plugins,
        "verdict": shown(&explanation.verdict),
        "recipients": explanation.ways.iter().map(way).collect::<Vec<_>>(),
    })
}

fn way(way: &Way) -> Value {
    let hosts = way.prospect.as_ref().map_or_else(Vec::new, |prospect| {
        let hop = |hop: &crate::delivery::Hop| {
            let (preference, internal) = (hop.preference, hop.internal);
            json!({ "host": hop.host, "address": hop.address.to_string(), "preference": preference, "internal": internal })
        };
        prospect.hops.iter().map(hop).collect()
    });
    let prospect = way.prospect.as_ref();
    let by = match &way.by {
        By::Plugin(plugin, scope) => json!({ "plugin": plugin, "scope": scope.to_string() }),
        By::Destination(tenant) => json!({ "destination_of": tenant }),
        By::Outbound(tenant) => json!({ "outbound_of": tenant }),
        By::Mx => Value::Null,
    };
    json!({
        "recipient": way.recipient.to_string(),
        "route": way.route.to_string(),
        "chosen_by": by,
        "tls": prospect.map(|prospect| prospect.tls.to_string()),
        "login": prospect.and_then(|prospect| prospect.login.as_ref()),
        "hosts": hosts,
        "problem": prospect.and_then(|prospect| prospect.problem.as_ref()).map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests;
