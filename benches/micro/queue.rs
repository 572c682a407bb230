//! A mail's whole way through the queue, with a spool in memory and a next hop that takes everything: beside nothing else, and
//! beside a million mails that wait for their next attempt. What grows with them is the scheduler's.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use jiff::{SignedDuration, Timestamp};
use postern::delivery::{Diagnosis, Job, NextHop, Outcome, Report};
use postern::mail::{Envelope, Mail, MessageId, Recipient, Route};
use postern::pipeline::Verdict;
use postern::queue::{Accepted, NewMail, Prepare, Prepared, Queue, Settings, State};
use postern::smtp::{Domain, Host, Mailbox, Reply, ReversePath};
use postern::spool::{Batch, Recovered, Spool, SpoolError, Stored};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::{clerk, parsed};

const WAITING: u32 = 1_000_000;
/// Destinations that they are for.
const DESTINATIONS: u32 = 10_000;
/// Mails that are under way at a time.
const AT_A_TIME: u32 = 20;

/// Mails a second that are taken, scheduled twice (for the plugins at `deliver`, for the attempt) and settled.
pub fn turn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue, one mail");
    group.sample_size(20).throughput(Throughput::Elements(1));
    for waiting in [0, WAITING] {
        // Made when it is measured, so that a filter of the command line spares its memory.
        let mut made = None;
        group.bench_function(BenchmarkId::from_parameter(waiting), |bencher| {
            let bench = made.get_or_insert_with(|| Bench::new(waiting));
            bencher.iter_custom(|mails| bench.run(mails));
        });
    }
    group.finish();
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    queue: Arc<Queue>,
    ends: Arc<Ends>,
}

impl Bench {
    fn new(waiting: u32) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let settings = Settings {
            max_messages: 2 * WAITING as usize,
            ..Settings::new(Domain::parse("mx.example.net").expect("a domain"))
        };
        let ends = Arc::new(Ends { kept: Mutex::default(), delivered: Semaphore::new(0) });
        let clerk = clerk();
        let queue = Queue::new(settings, ends.clone(), ends.clone(), ends.clone(), clerk.log, clerk.metrics);
        queue.recover((0..waiting).map(waiting_mail).collect());
        runtime.spawn(queue.clone().run(std::future::pending()));
        Self { runtime, queue, ends }
    }

    fn run(&self, mails: u64) -> Duration {
        self.runtime.block_on(async {
            let start = Instant::now();
            let mut left = mails;
            while left > 0 {
                let group = u32::try_from(left).unwrap_or(u32::MAX).min(AT_A_TIME);
                for _ in 0..group {
                    self.queue.accept(vec![new_mail()]).await.expect("a healthy spool");
                }
                self.ends.delivered.acquire_many(group).await.expect("an open semaphore").forget();
                left -= u64::from(group);
            }
            start.elapsed()
        })
    }
}

fn accepted(domain: &str) -> Accepted {
    let sender: Mailbox = "smith@example.org".parse().expect("a mailbox");
    let mut envelope = Envelope::new(ReversePath(Some(sender)));
    envelope.recipients.push(Recipient::new(format!("jones@{domain}").parse().expect("a mailbox")));
    Accepted { tenant: Some("example".into()), ..Accepted::new(envelope, Timestamp::now()) }
}

fn new_mail() -> NewMail {
    NewMail { id: MessageId::next(), accepted: accepted("example.com"), message: parsed(4096) }
}

/// As the spool finds it at the start: tried once, and due again in some hours.
fn waiting_mail(number: u32) -> Recovered {
    let minutes = i64::from(60 + number % 180);
    let mut state = State::new(1);
    state.prepared = true;
    state.attempts = 1;
    state.next_attempt = Some(Timestamp::now() + SignedDuration::from_mins(minutes));
    let accepted = accepted(&format!("d{}.example", number % DESTINATIONS));
    let meta = serde_json::json!({ "v": 1, "m": accepted }).to_string().into();
    let state = serde_json::json!({ "v": 1, "m": state }).to_string();
    Recovered { id: MessageId::next(), meta, state: Some(state.into()), size: 4096 }
}

/// What stands around the queue, without a disk and without a network.
struct Ends {
    kept: Mutex<HashMap<MessageId, Stored>>,
    /// A permit for each.
    delivered: Semaphore,
}

impl Ends {
    fn change(&self, change: impl FnOnce(&mut HashMap<MessageId, Stored>)) {
        change(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Spool for Ends {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), SpoolError>> + Send + '_>> {
        self.change(|kept| {
            for entry in batch.store {
                kept.insert(entry.id, Stored { meta: entry.meta, state: entry.state, message: entry.message });
            }
            for (id, state) in batch.state {
                kept.entry(id).and_modify(|stored| stored.state = Some(state));
            }
            for id in batch.done {
                kept.remove(&id);
            }
        });
        Box::pin(std::future::ready(Ok(())))
    }

    /// It is settled.
    fn forget(&self, id: MessageId) {
        self.change(|kept| drop(kept.remove(&id)));
        self.delivered.add_permits(1);
    }

    fn read(&self, id: MessageId) -> Pin<Box<dyn Future<Output = Result<Stored, SpoolError>> + Send + '_>> {
        let mut found = Err(SpoolError::NotFound(id));
        self.change(|kept| {
            if let Some(stored) = kept.get(&id) {
                found = Ok(stored.clone());
            }
        });
        Box::pin(std::future::ready(found))
    }

    fn is_healthy(&self) -> bool {
        true
    }

    fn has_room_for(&self, _: u64) -> bool {
        true
    }
}

impl NextHop for Ends {
    fn deliver<'a>(&'a self, job: Job) -> Pin<Box<dyn Future<Output = Report> + Send + 'a>> {
        let taken = || {
            let reply = Reply::new(250, None, "taken");
            Outcome::Delivered(Diagnosis { host: None, reply, remote: true, of_recipient: false, dsn_relayed: false })
        };
        let outcomes = job.envelope.recipients.iter().map(|_| taken()).collect();
        Box::pin(std::future::ready(Report { outcomes, destination_down: false }))
    }
}

impl Prepare for Ends {
    fn prepare<'a>(&'a self, mail: Mail, _: &'a Accepted) -> Pin<Box<dyn Future<Output = Prepared> + Send + 'a>> {
        Box::pin(std::future::ready(Prepared { verdict: Verdict::Next, mail, judged: false, edited: false }))
    }

    fn destination(&self, _: &Accepted, recipient: &Recipient) -> Option<Route> {
        let host = Host::parse(&recipient.mailbox.domain()?.to_string()).ok()?;
        Some(Route::Host { host, port: 25, tls: Default::default() })
    }
}
