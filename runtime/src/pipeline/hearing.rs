//! Runs the chains of all scopes at a stage and combines what they say.
//!
//! - Platform first, then the reseller, then the tenant; each sees the edits of those before; the strongest verdict wins.
//! - What is refused before RCPT is held and answered at RCPT, because only the recipient reveals the tenant; then the
//!   tenant's chain hears the earlier stages too. A `disconnect` acts at once.
//! - A refusal that no exemption can lift ends the stage, and later stages are not asked.
//! - An exemption lifts the refusals of a test that the platform has marked, held ones too: from where it was said on,
//!   for the session, the transaction or the one recipient.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::chain::{Chain, Chains, Direction, Directions, Entry, OnFailure, Scope};
use super::edit::Edit;
use super::facts::SessionFacts;
use super::filter::{Call, Exemption, Failure, Judged, Notes, Usage, no_notes};
use super::stage::Stage;
use super::verdict::Verdict;
use crate::log::{EventLog, Fields, List, Record};
use crate::mail::{Mail, Recipient};
use crate::metrics::Metrics;
use crate::smtp::{Enhanced, Reply};

/// Where a hearing writes down what was said.
#[derive(Clone)]
pub struct Clerk {
    pub log: EventLog,
    pub metrics: Arc<Metrics>,
}

/// A verdict other than `next` and `accept`, and who gave it.
#[derive(Debug, Clone)]
struct Opinion {
    test: Arc<str>,
    exemptable: bool,
    /// It counts only for such mail: AUTH may come after it was given.
    directions: Directions,
    verdict: Verdict,
}

/// What was said at one stage or for one recipient.
#[derive(Debug, Clone, Default)]
struct Layer {
    opinions: Vec<Opinion>,
    exemptions: Vec<Arc<str>>,
    /// In which direction the mail was thought to go when the platform was asked.
    heard_as: Option<Direction>,
}

type Memory = HashMap<(Scope, Arc<str>), Notes>;

/// What was said of a session. Lives as long as what it judged: HELO said again drops the second layer.
#[derive(Debug, Clone, Default)]
pub struct SessionStanding {
    connect: Layer,
    helo: Layer,
    connect_memory: Memory,
    helo_memory: Memory,
}

/// What was said of a transaction. Dropped with it.
#[derive(Debug, Clone, Default)]
pub struct TransactionStanding {
    /// Of `mail-from`, and of what reseller and tenant said of the earlier stages.
    mail: Layer,
    /// One for each recipient that was taken.
    recipients: Vec<Layer>,
    memory: Memory,
    /// Reseller and tenant have heard the earlier stages.
    tenant_heard: bool,
    /// What the recipient was answered last was the platform's own word.
    refused_by_platform: bool,
}

impl TransactionStanding {
    /// The platform's chain has refused the recipient that was heard last, and not the chain of a reseller or tenant, whose
    /// word counts for their own mail and for nobody else's.
    pub fn refused_by_platform(&self) -> bool {
        self.refused_by_platform
    }
}

impl SessionStanding {
    /// A new EHLO: what was said of the old one does not count.
    pub fn forget_helo(&mut self) {
        self.helo = Layer::default();
        self.helo_memory.clear();
    }
}

/// Everything a stage needs, by value: it goes in and comes back.
pub struct Hearing {
    pub chains: Arc<Chains>,
    pub session: SessionStanding,
    pub transaction: TransactionStanding,
    pub facts: Arc<SessionFacts>,
    /// Shared with whoever may have to undo what plugins change: it is copied only when they do.
    pub mail: Option<Arc<Mail>>,
    pub direction: Direction,
    pub tenant: Option<Arc<str>>,
    pub reseller: Option<Arc<str>>,
}

impl Hearing {
    /// `connect`, `helo`, `mail-from`: only a disconnect acts now, the rest is held.
    pub async fn early(&mut self, clerk: &Clerk, stage: Stage) -> Verdict {
        let mut round = Round::new(clerk);
        if self.held_for_good() {
            return Verdict::Next;
        }
        let mut layer = Layer { heard_as: Some(self.direction), ..Layer::default() };
        let chain = self.chains.platform.clone();
        self.run(&mut round, &Scope::Platform, &chain, stage, None, &mut layer).await;
        let disconnect = strongest(&layer.opinions).filter(|v| matches!(v, Verdict::Disconnect(_)));
        match stage {
            Stage::Connect => self.session.connect = layer,
            Stage::Helo => self.session.helo = layer,
            _ => self.transaction.mail = layer,
        }
        let verdict = disconnect.unwrap_or(Verdict::Next);
        self.note_stage(&round, stage, &verdict);
        verdict
    }

    /// One recipient: the answer counts everything held, less what is lifted.
    pub async fn rcpt(&mut self, clerk: &Clerk, recipient: &Recipient) -> Verdict {
        let mut round = Round::new(clerk);
        let (mut layer, mut of_platform) = (Layer::default(), 0);
        if !self.held_for_good() {
            self.hear_tenant(&mut round).await;
        }
        if !self.held_for_good() {
            for (scope, chain) in self.scopes() {
                let ends = self.run(&mut round, &scope, &chain, Stage::Rcpt, Some(recipient), &mut layer).await;
                if scope == Scope::Platform {
                    of_platform = layer.opinions.len();
                }
                if ends {
                    break;
                }
            }
        }
        let verdict = self.combine(&layer);
        let by_platform = layer.opinions.iter().take(of_platform).any(|opinion| opinion.verdict == verdict);
        self.transaction.refused_by_platform = by_platform && verdict.is_refusal();
        if !verdict.is_refusal() {
            self.transaction.recipients.push(layer);
        }
        self.note_stage(&round, Stage::Rcpt, &verdict);
        verdict
    }

    /// The message. What was held has been answered at RCPT.
    pub async fn data(&mut self, clerk: &Clerk) -> Verdict {
        self.whole_mail(clerk, Stage::Data).await
    }

    /// Before the first attempt to deliver.
    pub async fn deliver(&mut self, clerk: &Clerk) -> Verdict {
        self.whole_mail(clerk, Stage::Deliver).await
    }

    async fn whole_mail(&mut self, clerk: &Clerk, stage: Stage) -> Verdict {
        let mut round = Round::new(clerk);
        let mut layer = Layer::default();
        for (scope, chain) in self.scopes() {
            if self.run(&mut round, &scope, &chain, stage, None, &mut layer).await {
                break;
            }
        }
        let lifted = self.lifted(&layer, true);
        let verdict = strongest(&without(&layer.opinions, &lifted)).unwrap_or(Verdict::Next);
        self.note_stage(&round, stage, &verdict);
        verdict
    }

    /// The recipient has revealed the tenant: its chain, and the reseller's, hear what came before.
    async fn hear_tenant(&mut self, round: &mut Round<'_>) {
        if std::mem::replace(&mut self.transaction.tenant_heard, true) {
            return;
        }
        let mut layer = std::mem::take(&mut self.transaction.mail);
        self.hear_missed(round, &mut layer).await;
        'scopes: for (scope, chain) in self.scopes().into_iter().filter(|(scope, _)| *scope != Scope::Platform) {
            for stage in [Stage::Connect, Stage::Helo, Stage::MailFrom] {
                if self.run(round, &scope, &chain, stage, None, &mut layer).await {
                    break 'scopes;
                }
            }
        }
        self.transaction.mail = layer;
    }

    /// AUTH has turned inbound mail into outbound mail: the platform's entries for that direction alone have not been
    /// asked about connection and name yet.
    async fn hear_missed(&mut self, round: &mut Round<'_>, layer: &mut Layer) {
        let entries = self.chains.platform.entries.clone();
        for (stage, heard_as) in
            [(Stage::Connect, self.session.connect.heard_as), (Stage::Helo, self.session.helo.heard_as)]
        {
            if heard_as == Some(self.direction) {
                continue;
            }
            // None at all was asked where a refusal was held that counts no more.
            let was_asked = |entry: &&Entry| heard_as.is_some_and(|heard_as| entry.is_asked(stage, heard_as));
            let missed = entries.iter().filter(|entry| !was_asked(entry)).cloned().collect();
            if self.run(round, &Scope::Platform, &Chain { entries: missed }, stage, None, layer).await {
                return;
            }
        }
    }

    fn scopes(&self) -> Vec<(Scope, Arc<Chain>)> {
        let reseller = self.reseller.as_ref().and_then(|name| {
            self.chains.resellers.get(name).map(|chain| (Scope::Reseller(name.clone()), chain.clone()))
        });
        let tenant = self
            .tenant
            .as_ref()
            .and_then(|name| self.chains.tenants.get(name).map(|chain| (Scope::Tenant(name.clone()), chain.clone())));
        std::iter::once((Scope::Platform, self.chains.platform.clone())).chain(reseller).chain(tenant).collect()
    }

    /// Asks one scope's chain. True when the stage ends: a refusal that nothing can lift.
    async fn run(
        &mut self,
        round: &mut Round<'_>,
        scope: &Scope,
        chain: &Chain,
        stage: Stage,
        recipient: Option<&Recipient>,
        layer: &mut Layer,
    ) -> bool {
        for entry in chain.at(stage, self.direction) {
            if entry.exemptable && self.lifted(layer, stage >= Stage::Data).contains(&entry.name) {
                round.clerk.log.emit(self.record("exempted", stage, entry, scope));
                continue;
            }
            let verdict = self.ask(round, scope, entry, stage, recipient, layer).await;
            if verdict.strength() > 0 {
                let ends = verdict.is_refusal() && !entry.exemptable;
                layer.opinions.push(Opinion {
                    test: entry.name.clone(),
                    exemptable: entry.exemptable,
                    directions: entry.directions_at(stage),
                    verdict,
                });
                if ends {
                    return true;
                }
            } else if verdict == Verdict::Accept {
                break;
            }
        }
        false
    }

    async fn ask(
        &mut self,
        round: &mut Round<'_>,
        scope: &Scope,
        entry: &Entry,
        stage: Stage,
        recipient: Option<&Recipient>,
        layer: &mut Layer,
    ) -> Verdict {
        let notes = self.notes(scope, entry);
        let call = Call {
            stage,
            session: self.facts.clone(),
            mail: self.mail.clone(),
            recipient: recipient.cloned(),
            notes: notes.clone(),
        };
        let Judged { result, usage } = entry.filter.judge(call).await;
        let (verdict, failure) = match result {
            Ok(answer) => {
                // Most plugins note nothing.
                if !Arc::ptr_eq(&notes, &answer.notes) {
                    self.keep_notes(scope, entry, stage, answer.notes);
                }
                self.lift(round.clerk, entry, answer.exemptions, stage, layer);
                self.edit(answer.edits);
                (answer.verdict, None)
            }
            Err(failure) => (on_failure(entry.on_failure, stage, &failure), Some(failure)),
        };
        round.count(entry, stage, &verdict, usage.wall);
        if verdict == Verdict::Next && failure.is_none() {
            round.note_next(scope, entry, stage, &usage);
            return verdict;
        }
        let mut record = self
            .record("plugin", stage, entry, scope)
            .text("verdict", verdict.name())
            .micros("wall_us", usage.wall)
            .micros("cpu_us", usage.cpu);
        if let Some(version) = entry.filter.version() {
            record = record.text("version", version);
        }
        if let Some(reply) = verdict.reply() {
            record = record.text("reply", reply);
        }
        if let Verdict::Quarantine(reason) = &verdict {
            record = record.text("reason", reason);
        }
        if let Some(failure) = failure {
            record = record.text("failure", failure.cause.name()).text("detail", &failure.detail);
        }
        round.clerk.log.emit(record);
        verdict
    }

    /// What a plugin noted in the session is read in the transaction; a reading of its own is made when it writes.
    fn notes(&self, scope: &Scope, entry: &Entry) -> Notes {
        let memories = [&self.transaction.memory, &self.session.helo_memory, &self.session.connect_memory];
        let mut some = memories.into_iter().filter(|memory| !memory.is_empty()).peekable();
        if some.peek().is_none() {
            return no_notes();
        }
        let key = (scope.clone(), entry.name.clone());
        some.find_map(|memory| memory.get(&key)).cloned().unwrap_or_else(no_notes)
    }

    /// The notes of `connect` and `helo` are the session's; RSET must not lose them, nor a transaction leave any.
    fn keep_notes(&mut self, scope: &Scope, entry: &Entry, stage: Stage, notes: Notes) {
        let memory = match stage {
            Stage::Connect if *scope == Scope::Platform => &mut self.session.connect_memory,
            Stage::Helo if *scope == Scope::Platform => &mut self.session.helo_memory,
            _ => &mut self.transaction.memory,
        };
        memory.insert((scope.clone(), entry.name.clone()), notes);
    }

    fn edit(&mut self, edits: Vec<Edit>) {
        if let Some(mail) = self.mail.as_mut().filter(|_| !edits.is_empty()) {
            let mail = Arc::make_mut(mail);
            edits.into_iter().for_each(|edit| edit.apply(mail));
        }
    }

    fn lift(&self, clerk: &Clerk, entry: &Entry, exemptions: Vec<Exemption>, stage: Stage, layer: &mut Layer) {
        for exemption in exemptions {
            clerk.log.emit(
                Record::new("exemption")
                    .session(self.facts.id)
                    .text("stage", stage)
                    .text("by", &entry.name)
                    .text("test", &exemption.test)
                    .text("rule", &exemption.rule),
            );
            layer.exemptions.push(exemption.test.into());
        }
    }

    /// A refusal is held that no exemption can lift: nobody need be asked any more.
    fn held_for_good(&self) -> bool {
        let layers = [&self.session.connect, &self.session.helo, &self.transaction.mail];
        let counts = |o: &&Opinion| o.directions.has(self.direction);
        let mut opinions = layers.into_iter().flat_map(|layer| &layer.opinions).filter(counts);
        opinions.any(|o| o.verdict.is_refusal() && !o.exemptable)
    }

    /// The answer to RCPT: all that was said of session, transaction and this recipient.
    fn combine(&self, recipient: &Layer) -> Verdict {
        let lifted = self.lifted(recipient, false);
        let layers = [&self.session.connect, &self.session.helo, &self.transaction.mail, recipient];
        let mut opinions: Vec<_> = layers.into_iter().flat_map(|layer| without(&layer.opinions, &lifted)).collect();
        opinions.retain(|opinion| opinion.directions.has(self.direction));
        strongest(&opinions).unwrap_or(Verdict::Next)
    }

    /// Tests that are lifted. For the whole mail, a recipient's exemption counts only when all recipients have it.
    fn lifted(&self, layer: &Layer, whole_mail: bool) -> Vec<Arc<str>> {
        let common = [&self.session.connect, &self.session.helo, &self.transaction.mail, layer];
        let mut lifted: Vec<_> = common.into_iter().flat_map(|layer| layer.exemptions.iter().cloned()).collect();
        if whole_mail && let Some((first, rest)) = self.transaction.recipients.split_first() {
            let by_all = |test: &&Arc<str>| rest.iter().all(|layer| layer.exemptions.contains(test));
            lifted.extend(first.exemptions.iter().filter(by_all).cloned());
        }
        lifted
    }

    fn record(&self, event: &'static str, stage: Stage, entry: &Entry, scope: &Scope) -> Record {
        let record = Record::new(event).session(self.facts.id);
        let record = if let Some(mail) = &self.mail { record.id(mail.id) } else { record };
        record.text("stage", stage).text("plugin", &entry.name).text("scope", scope)
    }

    fn note_stage(&self, round: &Round<'_>, stage: Stage, verdict: &Verdict) {
        let took = round.started.elapsed();
        let Clerk { log, metrics } = round.clerk;
        metrics.stage_seconds.with_label_values(&[stage.name()]).observe(took.as_secs_f64());
        let record = Record::new("stage").session(self.facts.id);
        let record = if let Some(mail) = &self.mail { record.id(mail.id) } else { record };
        let record = record.text("stage", stage).text("verdict", verdict.name()).micros("took_us", took);
        log.emit(record.list("next", &round.next));
    }
}

/// One stage of one mail, as it is written down.
struct Round<'a> {
    clerk: &'a Clerk,
    started: Instant,
    /// Who said `next`, which is nearly everybody: they stand in the record of the stage.
    next: List,
}

impl<'a> Round<'a> {
    fn new(clerk: &'a Clerk) -> Self {
        Self { clerk, started: Instant::now(), next: List::default() }
    }

    fn count(&self, entry: &Entry, stage: Stage, verdict: &Verdict, wall: Duration) {
        let (metrics, name) = (&self.clerk.metrics, entry.name.as_ref());
        let seconds = || metrics.plugin_seconds.with_label_values(&[name, stage.name()]);
        entry.series.seconds(stage, seconds).observe(wall.as_secs_f64());
        let verdicts = || metrics.plugin_verdicts.with_label_values(&[name, stage.name(), verdict.name()]);
        match verdict {
            Verdict::Next => entry.series.nexts(stage, verdicts).inc(),
            _ => verdicts().inc(),
        }
    }

    fn note_next(&mut self, scope: &Scope, entry: &Entry, stage: Stage, usage: &Usage) {
        let mut item = Fields::default();
        item.text("plugin", &entry.name);
        item.text("scope", scope);
        item.text("stage", stage.name());
        if let Some(version) = entry.filter.version() {
            item.text("version", version);
        }
        item.micros("wall_us", usage.wall);
        item.micros("cpu_us", usage.cpu);
        self.next.push(&item);
    }
}

fn without(opinions: &[Opinion], lifted: &[Arc<str>]) -> Vec<Opinion> {
    opinions.iter().filter(|o| !(o.exemptable && lifted.contains(&o.test))).cloned().collect()
}

/// Of equally strong verdicts the first: it was said first.
fn strongest(opinions: &[Opinion]) -> Option<Verdict> {
    let strength = opinions.iter().map(|o| o.verdict.strength()).max()?;
    opinions.iter().find(|o| o.verdict.strength() == strength).map(|o| o.verdict.clone())
}

/// faults.md W13: what the policy makes of a failure, at every stage. The client never hears why.
fn on_failure(policy: OnFailure, stage: Stage, failure: &Failure) -> Verdict {
    match policy {
        OnFailure::Defer => Verdict::Defer(Reply::local_error()),
        OnFailure::Continue => Verdict::Next,
        OnFailure::Reject => Verdict::Reject(Reply::new(
            554,
            Some(Enhanced::new(3, 0)),
            "Transaction failed: policy could not be checked",
        )),
        OnFailure::Quarantine => Verdict::Quarantine(format!("plugin failed: {}", failure.cause.name())),
        // At `deliver` there is nobody to disconnect from.
        OnFailure::Disconnect if stage == Stage::Deliver => Verdict::Defer(Reply::local_error()),
        OnFailure::Disconnect => {
            Verdict::Disconnect(Reply::new(421, Some(Enhanced::new(3, 0)), "Service not available"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::sync::Mutex;

    use super::*;
    use crate::mail::{Envelope, MessageId};
    use crate::pipeline::{Answer, Cause, Event, Filter, Interest, Role, Series, SessionId};
    use crate::smtp::{Mailbox, ReversePath};

    /// Says what its script says, stage by stage, and counts how often it was asked.
    struct Scripted {
        says: Vec<(Stage, Result<Answer, Failure>)>,
        asked: Mutex<Vec<Stage>>,
    }

    impl Filter for Scripted {
        fn interest(&self) -> Interest {
            Interest::both(self.says.iter().map(|(stage, _)| *stage).collect())
        }
        fn judge<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Judged> + Send + 'a>> {
            self.asked.lock().unwrap().push(call.stage);
            let result = self.says.iter().find(|(stage, _)| *stage == call.stage).unwrap().1.clone();
            Box::pin(async { Judged { result, usage: Usage::default() } })
        }
        fn tell<'a>(&'a self, _: Event) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
            Box::pin(async { Ok(()) })
        }
    }

    fn says(stage: Stage, verdict: Verdict) -> (Stage, Result<Answer, Failure>) {
        (stage, Ok(Answer::new(verdict)))
    }

    fn exempts(stage: Stage, test: &str) -> (Stage, Result<Answer, Failure>) {
        let exemptions = vec![Exemption { test: test.to_owned(), rule: "friend".to_owned() }];
        (stage, Ok(Answer { exemptions, ..Answer::new(Verdict::Next) }))
    }

    fn entry(name: &str, exemptable: bool, says: Vec<(Stage, Result<Answer, Failure>)>) -> (Entry, Arc<Scripted>) {
        let filter = Arc::new(Scripted { says, asked: Mutex::default() });
        let entry = Entry {
            name: name.into(),
            filter: filter.clone(),
            directions: Directions::Both,
            on_failure: OnFailure::Defer,
            exemptable,
            series: Series::default(),
        };
        (entry, filter)
    }

    fn hearing(platform: Vec<Entry>, tenant: Vec<Entry>) -> Hearing {
        let chains = Chains {
            platform: Arc::new(Chain { entries: platform }),
            tenants: HashMap::from([("t".into(), Arc::new(Chain { entries: tenant }))]),
            ..Chains::default()
        };
        let client: SocketAddr = "192.0.2.1:1234".parse().unwrap();
        let facts = SessionFacts {
            id: SessionId::next(),
            client,
            local: client,
            listener: "mx".into(),
            role: Role::Inbound,
            client_name: Arc::default(),
            concurrent: 1,
            helo: None,
            tls: None,
            login: None,
            trusted: false,
        };
        let mail = Mail {
            id: MessageId::next(),
            tenant: None,
            envelope: Envelope::new(ReversePath::NULL),
            message: None,
            tags: Vec::new(),
            route: None,
            recipient_routes: Vec::new(),
            signatures: Vec::new(),
            evidence: Default::default(),
        };
        Hearing {
            chains: Arc::new(chains),
            session: SessionStanding::default(),
            transaction: TransactionStanding::default(),
            facts: Arc::new(facts),
            mail: Some(Arc::new(mail)),
            direction: Direction::Inbound,
            tenant: Some("t".into()),
            reseller: None,
        }
    }

    fn clerk() -> Clerk {
        let metrics = Arc::new(Metrics::new().unwrap());
        Clerk { log: EventLog::new(metrics.clone()).0, metrics }
    }

    fn no(code: u16) -> Reply {
        Reply::new(code, None, "no")
    }

    fn recipient() -> Recipient {
        Recipient::new(Mailbox::parse("a@example.com").unwrap())
    }

    #[tokio::test]
    async fn an_early_refusal_is_answered_at_rcpt_and_ends_the_questions() {
        let (first, _) = entry("list", false, vec![says(Stage::Connect, Verdict::Reject(no(550)))]);
        let (later, asked) = entry("later", false, vec![says(Stage::Rcpt, Verdict::Next)]);
        let mut hearing = hearing(vec![first, later], vec![]);
        assert_eq!(hearing.early(&clerk(), Stage::Connect).await, Verdict::Next);
        assert_eq!(hearing.rcpt(&clerk(), &recipient()).await, Verdict::Reject(no(550)));
        assert!(asked.asked.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_disconnect_acts_at_once() {
        let (first, _) = entry("list", true, vec![says(Stage::Connect, Verdict::Disconnect(no(421)))]);
        assert_eq!(hearing(vec![first], vec![]).early(&clerk(), Stage::Connect).await, Verdict::Disconnect(no(421)));
    }

    #[tokio::test]
    async fn a_tenant_can_lift_only_what_the_platform_allows() {
        for (exemptable, expected) in [(true, Verdict::Next), (false, Verdict::Reject(no(550)))] {
            let (dnsbl, _) = entry("dnsbl", exemptable, vec![says(Stage::Connect, Verdict::Reject(no(550)))]);
            let (white, _) = entry("access", false, vec![exempts(Stage::Rcpt, "dnsbl")]);
            let mut hearing = hearing(vec![dnsbl], vec![white]);
            hearing.early(&clerk(), Stage::Connect).await;
            assert_eq!(hearing.rcpt(&clerk(), &recipient()).await, expected);
        }
    }

    #[tokio::test]
    async fn the_strongest_verdict_wins_across_scopes() {
        let (weak, _) = entry("a", true, vec![says(Stage::Data, Verdict::Quarantine("odd".into()))]);
        let (strong, _) = entry("b", true, vec![says(Stage::Data, Verdict::Defer(no(451)))]);
        let mut hearing = hearing(vec![weak], vec![strong]);
        assert_eq!(hearing.data(&clerk()).await, Verdict::Defer(no(451)));
    }

    #[tokio::test]
    async fn a_tenants_accept_does_not_undo_the_platform() {
        let (platform, _) = entry("a", true, vec![says(Stage::Rcpt, Verdict::Reject(no(550)))]);
        let (tenant, _) = entry("b", false, vec![says(Stage::Rcpt, Verdict::Accept)]);
        let mut hearing = hearing(vec![platform], vec![tenant]);
        assert_eq!(hearing.rcpt(&clerk(), &recipient()).await, Verdict::Reject(no(550)));
    }

    #[tokio::test]
    async fn the_tenants_chain_hears_earlier_stages_once() {
        let (tenant, asked) =
            entry("t", true, vec![says(Stage::Connect, Verdict::Next), says(Stage::Rcpt, Verdict::Next)]);
        let mut hearing = hearing(vec![], vec![tenant]);
        hearing.early(&clerk(), Stage::Connect).await;
        assert!(asked.asked.lock().unwrap().is_empty());
        hearing.rcpt(&clerk(), &recipient()).await;
        hearing.rcpt(&clerk(), &recipient()).await;
        assert_eq!(*asked.asked.lock().unwrap(), [Stage::Connect, Stage::Rcpt, Stage::Rcpt]);
    }

    #[tokio::test]
    async fn an_exemption_of_one_recipient_is_not_the_mails() {
        let (white, _) = entry("white", false, vec![exempts(Stage::Rcpt, "spam")]);
        let (spam, _) = entry("spam", true, vec![says(Stage::Data, Verdict::Reject(no(550)))]);
        let mut both = hearing(vec![white, spam], vec![]);
        both.rcpt(&clerk(), &recipient()).await;
        assert_eq!(both.data(&clerk()).await, Verdict::Next);
        both.transaction.recipients.push(Layer::default());
        assert_eq!(both.data(&clerk()).await, Verdict::Reject(no(550)));
    }

    #[tokio::test]
    async fn a_failure_is_never_consent() {
        let failure = Failure { cause: Cause::Trap, detail: "unreachable".into() };
        for stage in [Stage::Connect, Stage::Rcpt, Stage::Data, Stage::Deliver] {
            for (policy, name) in [
                (OnFailure::Defer, "defer"),
                (OnFailure::Continue, "next"),
                (OnFailure::Reject, "reject"),
                (OnFailure::Quarantine, "quarantine"),
                (OnFailure::Disconnect, if stage == Stage::Deliver { "defer" } else { "disconnect" }),
            ] {
                let (mut bad, _) = entry("bad", true, vec![(stage, Err(failure.clone()))]);
                bad.on_failure = policy;
                let mut hearing = hearing(vec![bad], vec![]);
                let verdict = match stage {
                    Stage::Connect => {
                        let early = hearing.early(&clerk(), stage).await;
                        if early.is_refusal() { early } else { hearing.rcpt(&clerk(), &recipient()).await }
                    }
                    Stage::Rcpt => hearing.rcpt(&clerk(), &recipient()).await,
                    Stage::Data => hearing.data(&clerk()).await,
                    _ => hearing.deliver(&clerk()).await,
                };
                assert_eq!(verdict.name(), name, "{stage} {policy:?}");
            }
        }
    }
}
