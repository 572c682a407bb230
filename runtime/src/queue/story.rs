//! What the queue tells: the event log, the series, and whoever has asked to hear what becomes of a mail.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::IntGauge;

use super::dsn::Action;
use super::meta::{Accepted, Kept, Kind};
use super::prepare::Prepared;
use super::schedule::Standing;
use super::settle::Step;
use super::store::NewMail;
use crate::log::{EventLog, Record};
use crate::mail::{MessageId, Route};
use crate::metrics::Metrics;
use crate::pipeline::{Event, EventKind};
use crate::spool::SpoolError;

/// Is told of each step of a mail (not of a DSN) after it is durable: tenant, whether it is outbound, and the event.
/// Must not block.
pub type Observer = Arc<dyn Fn(Option<&Arc<str>>, bool, Event) + Send + Sync>;

pub(super) struct Story {
    log: EventLog,
    metrics: Arc<Metrics>,
    gauges: [IntGauge; Standing::ALL.len()],
    pub(super) observer: OnceLock<Observer>,
}

impl Story {
    pub(super) fn new(log: EventLog, metrics: Arc<Metrics>) -> Self {
        let gauges = Standing::ALL.map(|standing| metrics.queue_messages.with_label_values(&[standing.name()]));
        Self { log, metrics, gauges, observer: OnceLock::new() }
    }

    pub(super) fn gauges(&self, counts: [usize; Standing::ALL.len()], oldest: u64) {
        for (gauge, count) in self.gauges.iter().zip(counts) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.metrics.queue_oldest_seconds.set(Duration::from_millis(oldest).as_secs_f64());
    }

    pub(super) fn queued(&self, mail: &NewMail) {
        let accepted = &mail.accepted;
        let envelope = &accepted.envelope;
        let first = envelope.recipients.first().map(|r| r.mailbox.to_string()).unwrap_or_default();
        let mut record = Record::new("queued")
            .id(mail.id)
            .text("from", &envelope.reverse_path)
            .text("to", first)
            .number("recipients", envelope.recipients.len() as u64)
            .number("size", mail.message.len())
            .flag("outbound", accepted.outbound);
        if let Some(tenant) = &accepted.tenant {
            record = record.text("tenant", tenant);
        }
        if let Some(origin) = accepted.origin {
            record = record.text("origin", origin);
        }
        if accepted.kind == Kind::Dsn {
            record = record.flag("dsn", true);
            if let Some(message_id) = mail.message.header.message_id() {
                record = record.text("message_id", message_id);
            }
        }
        self.log.emit(record);
        self.tell(accepted, mail.id, EventKind::Accepted, "", "");
        if let Some(reason) = &accepted.quarantine {
            self.quarantined(accepted, mail.id, reason);
        }
    }

    pub(super) fn recovered(&self, messages: u64, unreadable: u64) {
        self.log.emit(Record::new("recovered").number("messages", messages).number("unreadable", unreadable));
    }

    pub(super) fn split(&self, origin: MessageId, part: &NewMail, route: &Route) {
        let count = part.accepted.envelope.recipients.len() as u64;
        let record = Record::new("split").id(part.id).text("origin", origin).text("route", route);
        self.log.emit(record.number("recipients", count));
    }

    pub(super) fn prepared(&self, id: MessageId, prepared: &Prepared) {
        if !prepared.judged {
            return;
        }
        let mut record = Record::new("prepared").id(id).text("verdict", prepared.verdict.name());
        if let Some(reply) = prepared.verdict.reply() {
            record = record.text("reply", reply);
        }
        if let Some(route) = &prepared.mail.route {
            record = record.text("route", route);
        }
        let routes = prepared.mail.recipient_routes.len() as u64;
        if routes > 0 {
            record = record.number("recipient_routes", routes);
        }
        self.log.emit(record);
    }

    pub(super) fn attempt(&self, id: MessageId, route: &Route, down: bool, result: &'static str, took: Duration) {
        self.metrics.delivery_seconds.with_label_values(&[result]).observe(took.as_secs_f64());
        let record = Record::new("attempt").id(id).text("route", route).text("result", result);
        self.log.emit(record.flag("destination_down", down).micros("took_us", took));
    }

    /// Each recipient's outcome, then the report on them.
    pub(super) fn settled(&self, kept: &Kept, steps: &[Step], report: Option<&NewMail>) {
        steps.iter().for_each(|step| self.step(kept, step, report));
        let Some(report) = report else { return };
        for action in ["failed", "delayed", "delivered", "relayed"] {
            if steps.iter().any(|step| step.action.name() == action) {
                self.metrics.dsns.with_label_values(&[action]).inc();
            }
        }
        let to = &kept.accepted.envelope.reverse_path;
        self.log.emit(Record::new("dsn").id(kept.id).text("dsn", report.id).text("to", to));
        self.queued(report);
    }

    fn step(&self, kept: &Kept, step: &Step, report: Option<&NewMail>) {
        let recipient = kept.accepted.envelope.recipients.get(step.recipient).map(|r| r.mailbox.to_string());
        let recipient = recipient.unwrap_or_default();
        let state = kept.state.recipients.get(step.recipient);
        let last = state.and_then(|state| state.last.as_ref());
        let (event, label, kind) = match step.action {
            Action::Delivered | Action::Relayed | Action::HandedOver => {
                ("delivered", Some("delivered"), Some(EventKind::Delivered))
            }
            Action::Deferred => ("deferred", Some("deferred"), Some(EventKind::Deferred)),
            Action::Failed => ("failed", Some("failed"), Some(EventKind::Bounced)),
            Action::Expired => ("expired", Some("expired"), Some(EventKind::Expired)),
            Action::Delayed => ("delayed", None, None),
        };
        if let Some(label) = label {
            self.metrics.deliveries.with_label_values(&[label]).inc();
        }
        let mut record = Record::new(event).id(kept.id).text("to", &recipient);
        record = record.number("attempts", u64::from(state.map_or(0, |state| state.attempts)));
        if let Some(last) = last {
            record = record.text("reply", &last.text).flag("remote", last.remote);
            if let Some(host) = &last.host {
                record = record.text("host", host);
            }
        }
        if matches!(step.action, Action::Failed | Action::Expired) {
            // I1: where nobody is told, the log says that the mail was dropped.
            record = record.flag("dropped", report.is_none());
        }
        if let Some(next) = kept.state.next_attempt.filter(|_| step.action == Action::Deferred) {
            record = record.text("next", next);
        }
        self.log.emit(record);
        if let Some(kind) = kind {
            let detail = last.map_or("", |last| last.text.as_str());
            self.tell(&kept.accepted, kept.id, kind, &recipient, detail);
        }
    }

    pub(super) fn quarantined(&self, accepted: &Accepted, id: MessageId, reason: &str) {
        self.log.emit(Record::new("quarantined").id(id).text("reason", reason));
        self.tell(accepted, id, EventKind::Quarantined, "", reason);
    }

    pub(super) fn discarded(&self, accepted: &Accepted, id: MessageId, cause: &str) {
        self.log.emit(Record::new("discarded").id(id).text("cause", cause));
        self.tell(accepted, id, EventKind::Discarded, "", cause);
    }

    pub(super) fn deleted(&self, id: MessageId, cause: &'static str) {
        self.log.emit(Record::new("deleted").id(id).text("cause", cause));
    }

    pub(super) fn held(&self, id: MessageId, reason: &str) {
        self.log.emit(Record::new("held").id(id).text("reason", reason));
    }

    pub(super) fn released(&self, id: MessageId) {
        self.log.emit(Record::new("released").id(id));
    }

    pub(super) fn flushed(&self, id: MessageId) {
        self.log.emit(Record::new("flushed").id(id));
    }

    pub(super) fn unreadable(&self, id: MessageId, error: &dyn std::error::Error) {
        tracing::error!(%id, %error, "a queued message can't be read");
        self.log.emit(Record::new("unreadable").id(id).text("error", error));
    }

    pub(super) fn commit_failed(&self, id: MessageId, error: &SpoolError) {
        tracing::error!(%id, %error, "an outcome can't be recorded yet");
        self.log.emit(Record::new("commit-failed").id(id).text("error", error));
    }

    fn tell(&self, accepted: &Accepted, id: MessageId, kind: EventKind, recipient: &str, detail: &str) {
        // What becomes of our own reports says nothing of anybody's mail.
        if let Some(observer) = self.observer.get().filter(|_| accepted.kind == Kind::Mail) {
            let event = Event { kind, id, recipient: recipient.to_owned(), detail: detail.to_owned() };
            observer(accepted.tenant.as_ref(), accepted.outbound, event);
        }
    }
}
