//! The queue over a spool in memory and a scripted next hop, in virtual time.

mod fairness;
mod memory_spool;
mod operator;
mod prepare;
mod reports;
mod restart;
mod retry;
mod scripted;

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};

pub(super) use self::memory_spool::{Kill, MemorySpool};
pub(super) use self::scripted::{Plan, Script, deferred, delivered, down, failed, relayed_with_dsn};
use super::{Accepted, NewMail, Queue, Settings};
use crate::log::{EventLog, Record};
use crate::mail::{Body, Envelope, Header, Message, MessageId, Recipient};
use crate::metrics::Metrics;
use crate::smtp::{Domain, Mailbox, ReversePath};

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A queue that runs, and all that stands around it.
struct Bench {
    queue: Arc<Queue>,
    spool: Arc<MemorySpool>,
    hop: Arc<Script>,
    plan: Arc<Plan>,
    metrics: Arc<Metrics>,
    log: Receiver<(Timestamp, Record)>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

fn settings() -> Settings {
    Settings { jitter_percent: 0, ..Settings::new(Domain::parse("mx.example.net").unwrap()) }
}

impl Bench {
    fn new() -> Self {
        Self::with(settings(), MemorySpool::default(), Arc::new(Script::default()), Arc::new(Plan::default()))
    }

    /// Starts from what the spool holds.
    fn with(settings: Settings, spool: MemorySpool, hop: Arc<Script>, plan: Arc<Plan>) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (event_log, log) = EventLog::new(metrics.clone());
        let spool = Arc::new(spool);
        let queue = Queue::new(settings, spool.clone(), hop.clone(), plan.clone(), event_log, metrics.clone());
        queue.recover(spool.recovered());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(queue.clone().run(async {
            let _ = stopped.await;
        }));
        Self { queue, spool, hop, plan, metrics, log, stop: Some(stop), running }
    }

    async fn accept(&self, mail: NewMail) -> MessageId {
        let id = mail.id;
        self.queue.accept(vec![mail]).await.unwrap();
        id
    }

    /// Lets that much time pass.
    async fn pass(&self, seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
    }

    fn events(&self) -> Vec<String> {
        self.log.try_iter().map(|(_, record)| record.event.to_owned()).collect()
    }

    /// Stops as SIGTERM does.
    async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.running).await.unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn mail(queue: &Queue, from: &str, to: &[&str]) -> NewMail {
    let sender = (!from.is_empty()).then(|| Mailbox::parse(from).unwrap());
    let mut envelope = Envelope::new(ReversePath(sender));
    envelope.recipients = to.iter().map(|to| Recipient::new(Mailbox::parse(to).unwrap())).collect();
    let message = message(b"Message-ID: <1@example.com>\r\nSubject: hello\r\n", b"text\r\n");
    let accepted = Accepted { authenticated: true, ..Accepted::new(envelope, queue.now()) };
    NewMail { id: MessageId::next(), accepted, message }
}

fn message(header: &'static [u8], body: &'static [u8]) -> Message {
    Message { header: Header::parse(&Bytes::from_static(header)), body: Body::from_bytes(Bytes::from_static(body)) }
}

fn octets(message: &Message) -> Vec<u8> {
    let mut octets = message.header.to_bytes().to_vec();
    octets.extend_from_slice(b"\r\n");
    octets.extend_from_slice(message.body.as_memory().unwrap());
    octets
}
