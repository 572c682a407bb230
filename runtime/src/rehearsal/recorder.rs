//! Writes down what the plugin says and what it cost, in the order in which it happens.

use std::pin::Pin;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::Event;
use crate::host::Plugin;
use crate::log::Record;
use crate::pipeline::{Call, Event as MailEvent, Failure, Filter, Interest, Judged, Stage};
use crate::queue::NewMail;
use crate::server::acceptance::new_mail;
use crate::session::{Accepted, CommitError, Services};

/// One call of the plugin.
#[derive(Debug, Clone)]
pub struct Hook {
    pub stage: Stage,
    /// At `rcpt`: who is asked about.
    pub recipient: Option<String>,
    pub judged: Judged,
    pub log: Vec<LogLine>,
}

impl Hook {
    /// For people and for `@ judged`: `reject 550 5.7.1 no`, `failure trap`.
    pub fn said(&self) -> String {
        let answer = match &self.judged.result {
            Ok(answer) => answer,
            Err(failure) => return format!("failure {}", failure.cause.name()),
        };
        match (&answer.verdict, answer.verdict.reply()) {
            (verdict, Some(reply)) => format!("{} {reply}", verdict.name()),
            (crate::pipeline::Verdict::Quarantine(reason), _) => format!("quarantine {reason}"),
            (verdict, None) => verdict.name().to_owned(),
        }
    }
}

/// What the plugin wrote into the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub level: String,
    pub text: String,
}

impl LogLine {
    fn of(record: &Record) -> Option<Self> {
        let fields = record.fields();
        let field = |name: &str| fields.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        match record.event {
            "plugin-log" => Some(Self { level: field("level")?, text: field("text")? }),
            "plugin-log-cut" => {
                Some(Self { level: "warn".to_owned(), text: "(more than a call may write was left out)".to_owned() })
            }
            _ => None,
        }
    }
}

/// What has happened so far.
pub struct Timeline {
    events: Mutex<Vec<Event>>,
    receiver: Mutex<Receiver<(Timestamp, Record)>>,
}

impl Timeline {
    pub fn new(receiver: Receiver<(Timestamp, Record)>) -> Self {
        Self { events: Mutex::default(), receiver: Mutex::new(receiver) }
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, event: Event) {
        self.events().push(event);
    }

    /// The gateway has closed; said once.
    pub fn close(&self) {
        let mut events = self.events();
        if !events.iter().any(|event| matches!(event, Event::Closed)) {
            events.push(Event::Closed);
        }
    }

    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events())
    }

    /// What the plugin has written since this was last asked.
    pub fn take_log(&self) -> Vec<LogLine> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.try_iter().filter_map(|(_, record)| LogLine::of(&record)).collect()
    }

    /// What the plugin said when it was last asked at that stage.
    pub fn last_at(&self, stage: Stage) -> Option<String> {
        let events = self.events();
        let mut hooks = events.iter().rev().filter_map(|event| match event {
            Event::Hook(hook) if hook.stage == stage => Some(hook.said()),
            _ => None,
        });
        hooks.next()
    }
}

/// The plugin, with every call written down.
pub struct Recorder {
    plugin: Arc<Plugin>,
    timeline: Arc<Timeline>,
}

impl Recorder {
    pub fn new(plugin: Arc<Plugin>, timeline: Arc<Timeline>) -> Self {
        Self { plugin, timeline }
    }
}

impl Filter for Recorder {
    fn interest(&self) -> Interest {
        self.plugin.interest()
    }

    fn judge<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Judged> + Send + 'a>> {
        Box::pin(async move {
            let stage = call.stage;
            let recipient = call.recipient.as_ref().map(|recipient| recipient.mailbox.to_string());
            let judged = self.plugin.judge(call).await;
            let hook = Hook { stage, recipient, judged: judged.clone(), log: self.timeline.take_log() };
            self.timeline.add(Event::Hook(Box::new(hook)));
            judged
        })
    }

    fn tell<'a>(&'a self, event: MailEvent) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        self.plugin.tell(event)
    }
}

/// Takes mail as the spool does, and forgets it when somebody has looked at it.
#[derive(Default)]
pub struct Void(Mutex<Vec<NewMail>>);

impl Void {
    pub fn take(&self) -> Vec<NewMail> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Services for Void {
    fn commit(&self, copies: Vec<Accepted>) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send + '_>> {
        let arrival = Timestamp::now();
        let mails: Option<Vec<_>> = copies.into_iter().map(|copy| new_mail(copy, arrival)).collect();
        Box::pin(async move {
            let mails = mails.ok_or(CommitError::Failed)?;
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(mails);
            Ok(())
        })
    }
}
