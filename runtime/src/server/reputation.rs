//! Whether the gateway's addresses and its tenants' domains are in bad repute: block lists are asked again and again while
//! it runs (R33). What they say goes into metrics by list and result, and into the event log when it changes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::live::Live;
use crate::config::Settings;
use crate::dns::blocklist::{Listing, Row, Subject, Tally, look_up};
use crate::dns::{DnsError, Resolver};
use crate::pipeline::Clerk;
use crate::smtp::Domain;

/// How soon a reload that changes the interval is noticed; and after a start it waits so long, since a gateway that
/// starts again and again must not ask each time.
const TICK: Duration = Duration::from_secs(60);

/// Asks the lists of the config in force, as often as it says. Never ends.
pub(super) async fn watch(live: Arc<Live>, resolver: Resolver, clerk: Clerk) {
    let mut watcher = Watcher { resolver, clerk, asked: None, listed: BTreeSet::new() };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        watcher.tick(&live.in_force().settings, Instant::now()).await;
    }
}

/// From which addresses mail leaves: those of the config, else those of the host name.
pub async fn egress(settings: &Settings, resolver: &Resolver) -> Result<Vec<IpAddr>, DnsError> {
    match settings.identity.egress.as_slice() {
        [] => resolver.addresses(settings.server.host_name.as_str()).await,
        configured => Ok(configured.to_vec()),
    }
}

/// Of all tenants, in order.
pub fn domains(settings: &Settings) -> Vec<Domain> {
    let tenants = settings.directory.tenants();
    let mut domains: Vec<Domain> = tenants.flat_map(|tenant| tenant.domains.iter().cloned()).collect();
    domains.sort();
    domains
}

struct Watcher {
    resolver: Resolver,
    clerk: Clerk,
    /// `None`: the metrics say nothing.
    asked: Option<Instant>,
    /// List and subject, when they were asked last.
    listed: BTreeSet<(Arc<str>, String)>,
}

impl Watcher {
    async fn tick(&mut self, settings: &Settings, now: Instant) {
        let Some(interval) = settings.identity.blocklist_interval else {
            if self.asked.take().is_some() {
                self.clerk.metrics.blocklist_entries.reset();
                self.listed.clear();
            }
            return;
        };
        if self.asked.is_none_or(|asked| now.duration_since(asked) >= interval) {
            self.asked = Some(now);
            self.ask(settings).await;
        }
    }

    async fn ask(&mut self, settings: &Settings) {
        let lists = &settings.identity.blocklists;
        // Without an answer there is still something to ask: the domains.
        let addresses = egress(settings, &self.resolver).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the egress addresses are not known, so block lists are not asked about them");
            Vec::new()
        });
        let addresses = addresses.into_iter().map(Subject::Address);
        let subjects: Vec<Subject> = addresses.chain(domains(settings).into_iter().map(Subject::Domain)).collect();
        let rows = look_up(&self.resolver, lists, &subjects).await;
        let metric = &self.clerk.metrics.blocklist_entries;
        // A list that is gone from the config says nothing any more.
        metric.reset();
        for list in lists {
            let tally = Tally::of(rows.iter().filter(|row| row.list.name == list.name));
            let counts = [
                ("listed", tally.listed),
                ("not-listed", tally.not_listed),
                ("error", tally.failed),
                ("timed-out", tally.timed_out),
            ];
            for (result, count) in counts {
                metric.with_label_values(&[&*list.name, result]).set(count.into());
            }
        }
        self.tell(&rows);
    }

    /// Only what is new; of whom a list says nothing now, what it said before stands.
    fn tell(&mut self, rows: &[Row]) {
        for row in rows {
            let key = (row.list.name.clone(), row.subject.to_string());
            let record = |result| {
                crate::log::Record::new("blocklist").text("list", &key.0).text("subject", &key.1).text("result", result)
            };
            match &row.listing {
                Listing::Listed { codes, .. } if !self.listed.contains(&key) => {
                    let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
                    self.clerk.log.emit(record("listed").text("codes", codes.join(" ")));
                    self.listed.insert(key);
                }
                Listing::NotListed if self.listed.contains(&key) => {
                    self.clerk.log.emit(record("not-listed"));
                    self.listed.remove(&key);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::ResponseCode;
    use hickory_resolver::proto::rr::RecordType;

    use super::*;
    use crate::config;
    use crate::dns::responder::{Answer, Responder};
    use crate::log::EventLog;
    use crate::metrics::Metrics;

    fn settings(interval: &str) -> (tempfile::TempDir, Settings) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let text = format!(
            "[server]\nhost_name = \"mx.example.net\"\n[spool]\ndirectory = \"spool\"\n[[listener]]\nname = \"mx\"\n\
             address = \"127.0.0.1:0\"\nrole = \"inbound\"\n[[tenant]]\nname = \"t\"\ndomains = [\"company.com\"]\n\
             destination = \"192.0.2.1\"\n[identity]\negress_addresses = [\"192.0.2.25\", \"192.0.2.26\"]\n{interval}\
             [[blocklist]]\nname = \"bl\"\nzone = \"bl.example\"\n[[blocklist]]\nname = \"dbl\"\nzone = \"dbl.example\"\n\
             lists = \"domains\"\n"
        );
        std::fs::write(&path, text).unwrap();
        let settings = config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}")).settings;
        (directory, settings)
    }

    #[tokio::test]
    async fn r33_the_running_gateway_asks_as_often_as_it_is_told() {
        let (_directory, hourly) = settings("blocklist_interval = \"1h\"\n");
        let (_other, never) = settings("");
        let dns = Responder::start().await;
        dns.a("2.0.0.127.bl.example", &["127.0.0.2"]).a("25.2.0.192.bl.example", &["127.0.0.4"]);
        dns.set("company.com.dbl.example", RecordType::A, Answer::Code(ResponseCode::ServFail));
        let metrics = Arc::new(Metrics::new().unwrap());
        let (log, events) = EventLog::new(metrics.clone());
        let clerk = Clerk { log, metrics: metrics.clone() };
        let mut watcher = Watcher { resolver: dns.resolver(), clerk, asked: None, listed: BTreeSet::new() };
        let count = |list, result| metrics.blocklist_entries.with_label_values(&[list, result]).get();
        let asked = || dns.queries("2.0.0.127.bl.example", RecordType::A);
        let start = Instant::now();

        watcher.tick(&never, start).await;
        assert_eq!(asked(), 0);
        watcher.tick(&hourly, start).await;
        assert_eq!([count("bl", "listed"), count("bl", "not-listed"), count("bl", "error")], [1, 1, 0]);
        assert_eq!([count("dbl", "listed"), count("dbl", "error"), count("dbl", "timed-out")], [0, 1, 0]);
        let told = |events: &std::sync::mpsc::Receiver<(jiff::Timestamp, crate::log::Record)>| {
            events.try_iter().map(|(time, record)| record.to_json(time)).collect::<Vec<_>>()
        };
        let first = told(&events);
        assert_eq!(
            (first.len(), &first[0]["subject"], &first[0]["codes"]),
            (1, &"192.0.2.25".into(), &"127.0.0.4".into())
        );

        // Nobody asks before it is time, and what is known already is told once. Answers are remembered for a while.
        watcher.resolver = dns.resolver();
        watcher.tick(&hourly, start + Duration::from_secs(3599)).await;
        assert_eq!(asked(), 1);
        watcher.tick(&hourly, start + Duration::from_secs(3600)).await;
        assert_eq!((asked(), told(&events).len()), (2, 0));

        // No answer is no news; then it is off the list.
        dns.set("25.2.0.192.bl.example", RecordType::A, Answer::Code(ResponseCode::ServFail));
        watcher.resolver = dns.resolver();
        watcher.tick(&hourly, start + Duration::from_secs(7200)).await;
        assert_eq!((count("bl", "error"), told(&events).len()), (1, 0));
        dns.set("25.2.0.192.bl.example", RecordType::A, Answer::Empty);
        watcher.resolver = dns.resolver();
        watcher.tick(&hourly, start + Duration::from_secs(10_800)).await;
        assert_eq!(told(&events)[0]["result"], "not-listed");

        // Switched off: the series are gone, not left as they were.
        watcher.tick(&never, start + Duration::from_secs(14_400)).await;
        assert!(!String::from_utf8(metrics.render()).unwrap().contains("postern_blocklist_entries{"));
    }
}
