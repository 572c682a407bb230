//! Calls of plugins that do nothing but say `next`: what the gateway pays for asking, whatever they answer.

use std::sync::Arc;

use criterion::{Bencher, BenchmarkId, Criterion};
use postern::host::calendar::Calendar;
use postern::host::counter::system_clock;
use postern::host::{Host, Limits, Plugin, PluginSettings, Services, Settings};
use postern::mail::{Envelope, Mail, MessageId, Recipient};
use postern::pipeline::{
    Call, Chain, Chains, Clerk, Direction, Directions, Entry, Filter as _, Hearing, OnFailure, Role, Scope, Series,
    SessionFacts, SessionId, SessionStanding, Stage, TransactionStanding, Verdict,
};
use postern::rehearsal::zone::Zone;
use postern::smtp::{Mailbox, ReversePath};
use postern_tests::guest::Guest;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::{clerk, parsed};

/// Those at which a mail is judged.
const STAGES: [Stage; 6] = [Stage::Connect, Stage::Helo, Stage::MailFrom, Stage::Rcpt, Stage::Data, Stage::Deliver];
/// Plugins in a chain.
const CHAINS: [usize; 3] = [0, 1, 10];

/// One call at each stage: with a fresh instance, and with one that is kept.
pub fn stages(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = criterion.benchmark_group("plugin call");
    for (name, reuse) in [("fresh", false), ("reused", true)] {
        let plugin = bench.load(&STAGES, reuse);
        for stage in STAGES {
            let call = call(stage);
            group.bench_function(BenchmarkId::new(name, stage), |bencher| {
                bench.time(bencher, async || {
                    let judged = plugin.judge(call.clone()).await;
                    assert!(judged.result.is_ok_and(|answer| answer.verdict == Verdict::Next));
                });
            });
        }
    }
    group.finish();
}

/// A recipient that so many plugins are asked about, with all that is written down about it.
pub fn chain(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = criterion.benchmark_group("chain at rcpt");
    let kinds = [("fresh", false), ("reused", true)];
    for ((name, reuse), plugins) in kinds.into_iter().flat_map(|kind| CHAINS.map(|plugins| (kind, plugins))) {
        // Nowhere else: who has not been asked at the stages before would be asked now.
        let load = || bench.load(&[Stage::Rcpt], reuse);
        let entries = (0..plugins).map(|number| entry(number, load())).collect();
        let chains = Arc::new(Chains { platform: Arc::new(Chain { entries }), ..Chains::default() });
        let Call { session: facts, mail, recipient, .. } = call(Stage::Rcpt);
        let recipient = recipient.expect("one at rcpt");
        group.bench_function(BenchmarkId::new(name, plugins), |bencher| {
            bench.time(bencher, async || {
                let mut hearing = Hearing {
                    chains: chains.clone(),
                    session: SessionStanding::default(),
                    transaction: TransactionStanding::default(),
                    facts: facts.clone(),
                    mail: mail.clone(),
                    direction: Direction::Inbound,
                    tenant: None,
                    reseller: None,
                };
                assert_eq!(hearing.rcpt(&bench.clerk, &recipient).await, Verdict::Next);
            });
        });
    }
    group.finish();
}

fn entry(number: usize, plugin: Arc<Plugin>) -> Entry {
    Entry {
        name: format!("plugin-{number}").into(),
        filter: plugin,
        directions: Directions::Both,
        on_failure: OnFailure::Defer,
        exemptable: false,
        series: Series::default(),
    }
}

struct Bench {
    runtime: Runtime,
    host: Host,
    clerk: Clerk,
}

impl Bench {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let clerk = clerk();
        let names = Arc::new(Zone::parse("").expect("an empty zone"));
        let calendar = Calendar::new(jiff::tz::TimeZone::UTC);
        let services = Services::new(clerk.log.clone(), clerk.metrics.clone(), names, system_clock(), calendar);
        let host = Host::new(Settings::default(), services).expect("a host");
        Self { runtime, host, clerk }
    }

    fn load(&self, stages: &[Stage], reuse: bool) -> Arc<Plugin> {
        let guest = stages.iter().fold(Guest::new(), |guest, stage| guest.at(stage.name(), ""));
        let settings = PluginSettings {
            name: "guest".into(),
            scope: Scope::Platform,
            source: guest.build(),
            config: serde_json::Value::Null,
            grants: Vec::new(),
            tables: Arc::default(),
            scanners: Default::default(),
            limits: Limits::default(),
            reuse,
        };
        self.runtime.block_on(self.host.load(settings)).expect("a plugin that fits")
    }

    /// Without what it costs to enter the runtime.
    fn time(&self, bencher: &mut Bencher<'_>, step: impl AsyncFn()) {
        bencher.iter_custom(|times| {
            self.runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..times {
                    step().await;
                }
                start.elapsed()
            })
        });
    }
}

fn call(stage: Stage) -> Call {
    let session = Arc::new(SessionFacts {
        id: SessionId::next(),
        client: ([192, 0, 2, 7], 40000).into(),
        local: ([192, 0, 2, 1], 25).into(),
        listener: "mx".into(),
        role: Role::Inbound,
        client_name: Arc::default(),
        concurrent: 1,
        helo: None,
        tls: None,
        login: None,
        trusted: false,
    });
    let mailbox = |text: &str| text.parse::<Mailbox>().expect("a mailbox");
    let mail = Mail {
        id: MessageId::next(),
        tenant: None,
        envelope: Envelope::new(ReversePath(Some(mailbox("sender@example.org")))),
        message: matches!(stage, Stage::Data | Stage::Deliver).then(|| parsed(4096)),
        tags: Vec::new(),
        route: None,
        recipient_routes: Vec::new(),
        signatures: Vec::new(),
        evidence: Default::default(),
    };
    Call {
        stage,
        session,
        mail: (!matches!(stage, Stage::Connect | Stage::Helo)).then(|| Arc::new(mail)),
        recipient: (stage == Stage::Rcpt).then(|| Recipient::new(mailbox("rcpt@example.com"))),
        notes: Default::default(),
    }
}
