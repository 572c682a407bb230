//! A plugin that says what the dialogue wants it to say.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use postern::mail::Recipient;
use postern::pipeline::{
    Answer, Call, Cause, Chain, Chains, Direction, Directions, Edit, Entry, Event, Exemption, Failure, Filter,
    Interest, Judged, OnFailure, Scope, Series, Stage, Usage, Verdict,
};
use postern::smtp::{Enhanced, Mailbox, Reply};

/// One `@ filter` line: `[option …] STAGE VERDICT …`.
///
/// Options: `name=N` (lines of one name and scope are one plugin), `scope=platform|tenant:N|reseller:N`, `exemptable`,
/// `for=inbound|outbound`, `on_failure=defer|continue|reject|quarantine|disconnect`, `if=ADDRESS` (this recipient or
/// sender only), `wants=inbound|outbound` (it has no work at this stage of other mail), `once`, `exempts=TEST`, `adds=ADDRESS` (a recipient).
/// Verdicts: `next`, `accept`, `discard`, `quarantine REASON`, `reject|defer|disconnect CODE [X.Y.Z] TEXT`, `fail CAUSE`.
#[derive(Debug, Clone)]
pub struct Line {
    name: String,
    scope: Scope,
    exemptable: bool,
    directions: Directions,
    on_failure: OnFailure,
    rule: Rule,
}

#[derive(Debug, Clone)]
struct Rule {
    stage: Stage,
    address: Option<Mailbox>,
    wants: Directions,
    once: bool,
    says: Result<Answer, Failure>,
}

/// How often each plugin was asked at each stage.
pub type Asked = Arc<Mutex<HashMap<(String, Stage), usize>>>;

impl Line {
    pub fn parse(text: &str, number: usize) -> Result<Self, String> {
        let mut line = Self {
            name: format!("filter{number}"),
            scope: Scope::Platform,
            exemptable: false,
            directions: Directions::Both,
            on_failure: OnFailure::Defer,
            rule: Rule {
                stage: Stage::Data,
                address: None,
                wants: Directions::Both,
                once: false,
                says: Ok(Answer::new(Verdict::Next)),
            },
        };
        let (mut exemptions, mut edits) = (Vec::new(), Vec::new());
        let mut words = text.split(' ');
        line.rule.stage = loop {
            let word = words.next().ok_or("a stage is missing")?;
            match word.split_once('=').unwrap_or((word, "")) {
                ("name", name) => line.name = name.to_owned(),
                ("scope", scope) => line.scope = parse_scope(scope)?,
                ("exemptable", _) => line.exemptable = true,
                ("once", _) => line.rule.once = true,
                ("for", "inbound") => line.directions = Directions::Inbound,
                ("for", "outbound") => line.directions = Directions::Outbound,
                ("on_failure", policy) => line.on_failure = parse_policy(policy)?,
                ("wants", "inbound") => line.rule.wants = Directions::Inbound,
                ("wants", "outbound") => line.rule.wants = Directions::Outbound,
                ("if", address) => line.rule.address = Some(parse_mailbox(address)?),
                ("exempts", test) => {
                    exemptions.push(Exemption { test: test.to_owned(), rule: "dialogue".to_owned() });
                }
                ("adds", address) => edits.push(Edit::AddRecipient(Recipient::new(parse_mailbox(address)?))),
                _ => break parse_stage(word)?,
            }
        };
        let verdict = words.next().ok_or("a verdict is missing")?;
        let rest: Vec<_> = words.collect();
        line.rule.says = match (verdict, rest.as_slice()) {
            ("fail", [cause]) => Err(Failure { cause: parse_cause(cause)?, detail: "scripted".to_owned() }),
            _ => Ok(Answer { edits, exemptions, ..Answer::new(parse_verdict(verdict, &rest.join(" "))?) }),
        };
        Ok(line)
    }
}

/// The chains of all lines; lines of one name and scope make one entry.
pub fn chains(lines: &[Line], asked: &Asked) -> Chains {
    let mut order: Vec<(&Line, Vec<Rule>)> = Vec::new();
    for line in lines {
        match order.iter_mut().find(|(first, _)| first.name == line.name && first.scope == line.scope) {
            Some((_, rules)) => rules.push(line.rule.clone()),
            None => order.push((line, vec![line.rule.clone()])),
        }
    }
    let mut by_scope: HashMap<Scope, Chain> = HashMap::new();
    for (line, rules) in order {
        let used = rules.iter().map(|_| AtomicUsize::new(0)).collect();
        let filter = Scripted { name: line.name.clone(), rules, used, asked: asked.clone() };
        by_scope.entry(line.scope.clone()).or_default().entries.push(Entry {
            name: line.name.as_str().into(),
            filter: Arc::new(filter),
            directions: line.directions,
            on_failure: line.on_failure,
            exemptable: line.exemptable,
            series: Series::default(),
        });
    }
    let mut chains = Chains::default();
    for (scope, chain) in by_scope {
        match scope {
            Scope::Platform => chains.platform = Arc::new(chain),
            Scope::Reseller(name) => drop(chains.resellers.insert(name, Arc::new(chain))),
            Scope::Tenant(name) => drop(chains.tenants.insert(name, Arc::new(chain))),
        }
    }
    chains
}

struct Scripted {
    name: String,
    rules: Vec<Rule>,
    used: Vec<AtomicUsize>,
    asked: Asked,
}

impl Scripted {
    fn says(&self, call: &Call) -> Result<Answer, Failure> {
        let sender = call.mail.as_ref().and_then(|mail| mail.envelope.reverse_path.mailbox());
        let recipient = call.recipient.as_ref().map(|recipient| &recipient.mailbox);
        for (rule, used) in self.rules.iter().zip(&self.used) {
            let concerned =
                rule.address.as_ref().is_none_or(|address| recipient.or(sender).is_some_and(|a| a == address));
            if rule.stage == call.stage && concerned && (used.fetch_add(1, Ordering::Relaxed) == 0 || !rule.once) {
                return rule.says.clone();
            }
        }
        Ok(Answer::new(Verdict::Next))
    }
}

impl Filter for Scripted {
    fn interest(&self) -> Interest {
        let of = |direction| {
            let wanted = self.rules.iter().filter(|rule| rule.wants.has(direction));
            wanted.map(|rule| rule.stage).collect()
        };
        Interest { inbound: of(Direction::Inbound), outbound: of(Direction::Outbound) }
    }

    fn judge<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Judged> + Send + 'a>> {
        *self.asked.lock().expect("no panic").entry((self.name.clone(), call.stage)).or_default() += 1;
        let result = self.says(&call);
        Box::pin(async { Judged { result, usage: Usage::default() } })
    }

    fn tell<'a>(&'a self, _: Event) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        Box::pin(async { Ok(()) })
    }
}

pub fn parse_stage(word: &str) -> Result<Stage, String> {
    Stage::ALL.into_iter().find(|stage| stage.name() == word).ok_or(format!("no stage {word}"))
}

fn parse_mailbox(text: &str) -> Result<Mailbox, String> {
    Mailbox::parse(text).map_err(|error| error.to_string())
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    match text.split_once(':') {
        None if text == "platform" => Ok(Scope::Platform),
        Some(("tenant", name)) => Ok(Scope::Tenant(name.into())),
        Some(("reseller", name)) => Ok(Scope::Reseller(name.into())),
        _ => Err(format!("no scope {text}")),
    }
}

fn parse_policy(text: &str) -> Result<OnFailure, String> {
    match text {
        "defer" => Ok(OnFailure::Defer),
        "continue" => Ok(OnFailure::Continue),
        "reject" => Ok(OnFailure::Reject),
        "quarantine" => Ok(OnFailure::Quarantine),
        "disconnect" => Ok(OnFailure::Disconnect),
        _ => Err(format!("no policy {text}")),
    }
}

fn parse_cause(text: &str) -> Result<Cause, String> {
    Cause::ALL.into_iter().find(|cause| cause.name() == text).ok_or(format!("no cause {text}"))
}

fn parse_verdict(word: &str, rest: &str) -> Result<Verdict, String> {
    match word {
        "next" => Ok(Verdict::Next),
        "accept" => Ok(Verdict::Accept),
        "discard" => Ok(Verdict::Discard),
        "quarantine" => Ok(Verdict::Quarantine(rest.to_owned())),
        "reject" => parse_reply(rest).map(Verdict::Reject),
        "defer" => parse_reply(rest).map(Verdict::Defer),
        "disconnect" => parse_reply(rest).map(Verdict::Disconnect),
        _ => Err(format!("no verdict {word}")),
    }
}

/// `550 5.7.1 No` or `550 No`.
pub fn parse_reply(text: &str) -> Result<Reply, String> {
    let bad = || format!("no reply: {text}");
    let (code, rest) = text.split_once(' ').ok_or_else(bad)?;
    let code = code.parse().map_err(|_| bad())?;
    let (status, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let numbers: Vec<u16> = status.split('.').filter_map(|number| number.parse().ok()).collect();
    let (enhanced, text) = match numbers.as_slice() {
        &[_, subject, detail] => (Some(Enhanced::new(subject, detail)), after),
        _ => (None, rest),
    };
    Reply::checked(code, enhanced, text).map_err(|error| error.to_string())
}
