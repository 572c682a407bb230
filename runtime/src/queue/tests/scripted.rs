//! A next hop that says what it is told to say, and the chains and destinations of a test.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant, sleep};

use super::super::{Accepted, Prepare, Prepared};
use super::octets;
use crate::delivery::{Diagnosis, Job, NextHop, Outcome, Report};
use crate::mail::{Mail, MessageId, Recipient, Route};
use crate::pipeline::Verdict;
use crate::smtp::{Enhanced, Reply};

/// One attempt, as the next hop saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) struct Sent {
    /// Seconds since the script was made.
    pub at: u64,
    pub id: MessageId,
    pub from: String,
    pub to: Vec<String>,
    pub route: String,
    pub octets: Vec<u8>,
    /// Recipients it was accepted for.
    pub accepted: Vec<String>,
}

type Answer = Box<dyn FnMut(&Job) -> Report + Send>;

/// Delivers everything, at once, unless told otherwise.
pub(in crate::queue) struct Script {
    start: Instant,
    answer: Mutex<Answer>,
    sent: Mutex<Vec<Sent>>,
    pub delay: Mutex<Duration>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            answer: Mutex::new(Box::new(|job| each(job, |_| delivered()))),
            sent: Mutex::default(),
            delay: Mutex::default(),
        }
    }
}

fn each(job: &Job, answer: impl Fn(&str) -> Outcome) -> Report {
    let outcomes = job.envelope.recipients.iter().map(|r| answer(&r.mailbox.to_string())).collect();
    Report { outcomes, destination_down: false }
}

impl Script {
    /// An answer for each recipient.
    pub(in crate::queue) fn answer(&self, answer: impl Fn(&str) -> Outcome + Send + 'static) {
        self.report(move |job| each(job, &answer));
    }

    pub(in crate::queue) fn report(&self, answer: impl FnMut(&Job) -> Report + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub(in crate::queue) fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    /// When it was tried to deliver to this recipient, in seconds.
    pub(in crate::queue) fn times(&self, to: &str) -> Vec<u64> {
        self.sent().iter().filter(|sent| sent.to.iter().any(|t| t == to)).map(|sent| sent.at).collect()
    }
}

impl NextHop for Script {
    fn deliver<'a>(&'a self, job: Job) -> Pin<Box<dyn Future<Output = Report> + Send + 'a>> {
        Box::pin(async move {
            let at = self.start.elapsed().as_secs();
            let delay = *self.delay.lock().unwrap();
            if !delay.is_zero() {
                sleep(delay).await;
            }
            // One that panics must not take the next one with it.
            let report = (self.answer.lock().unwrap_or_else(PoisonError::into_inner))(&job);
            let to: Vec<String> = job.envelope.recipients.iter().map(|r| r.mailbox.to_string()).collect();
            let accepted = to.iter().zip(&report.outcomes).filter(|(_, o)| matches!(o, Outcome::Delivered(_)));
            self.sent.lock().unwrap().push(Sent {
                at,
                id: job.id,
                from: job.envelope.reverse_path.to_string(),
                accepted: accepted.map(|(to, _)| to.clone()).collect(),
                to,
                route: job.route.to_string(),
                octets: octets(&job.message),
            });
            report
        })
    }
}

fn diagnosis(code: u16, subject: u16, detail: u16, text: &str) -> Diagnosis {
    let reply = Reply::new(code, Some(Enhanced::new(subject, detail)), text);
    Diagnosis {
        host: Some("next.example.org".to_owned()),
        reply,
        remote: true,
        of_recipient: false,
        dsn_relayed: false,
    }
}

pub(in crate::queue) fn delivered() -> Outcome {
    Outcome::Delivered(diagnosis(250, 0, 0, "taken"))
}

pub(in crate::queue) fn relayed_with_dsn() -> Outcome {
    Outcome::Delivered(Diagnosis { dsn_relayed: true, ..diagnosis(250, 0, 0, "taken") })
}

pub(in crate::queue) fn deferred() -> Outcome {
    Outcome::Deferred(diagnosis(450, 2, 1, "not now"))
}

pub(in crate::queue) fn failed() -> Outcome {
    Outcome::Failed(diagnosis(550, 1, 1, "no such user"))
}

pub(in crate::queue) fn down(job: &Job) -> Report {
    let reply = Reply::new(451, Some(Enhanced::new(4, 1)), "no answer from any host");
    let diagnosis = Diagnosis { host: None, reply, remote: false, of_recipient: false, dsn_relayed: false };
    let outcomes = job.envelope.recipients.iter().map(|_| Outcome::Deferred(diagnosis.clone())).collect();
    Report { outcomes, destination_down: true }
}

type Judge = Box<dyn FnMut(Mail) -> Prepared + Send>;

/// No plugins, everything by MX, unless told otherwise.
pub(in crate::queue) struct Plan {
    judge: Mutex<Judge>,
    destinations: Mutex<HashMap<String, Route>>,
    asked: Mutex<Vec<Vec<String>>>,
}

impl Default for Plan {
    fn default() -> Self {
        let judge: Judge = Box::new(|mail| Prepared { verdict: Verdict::Next, mail, judged: false, edited: false });
        Self { judge: Mutex::new(judge), destinations: Mutex::default(), asked: Mutex::default() }
    }
}

impl Plan {
    pub(in crate::queue) fn judge(&self, judge: impl FnMut(Mail) -> Prepared + Send + 'static) {
        *self.judge.lock().unwrap() = Box::new(judge);
    }

    /// A verdict without edits.
    pub(in crate::queue) fn verdict(&self, verdict: Verdict) {
        self.judge(move |mail| Prepared { verdict: verdict.clone(), mail, judged: true, edited: false });
    }

    /// Where mail for an address goes.
    pub(in crate::queue) fn send(&self, to: &str, route: Route) {
        self.destinations.lock().unwrap().insert(to.to_owned(), route);
    }

    /// The recipients of each question.
    pub(in crate::queue) fn asked(&self) -> Vec<Vec<String>> {
        self.asked.lock().unwrap().clone()
    }
}

impl Prepare for Plan {
    fn prepare<'a>(&'a self, mail: Mail, _: &'a Accepted) -> Pin<Box<dyn Future<Output = Prepared> + Send + 'a>> {
        self.asked.lock().unwrap().push(mail.envelope.recipients.iter().map(|r| r.mailbox.to_string()).collect());
        let prepared = (self.judge.lock().unwrap())(mail);
        Box::pin(async move { prepared })
    }

    fn destination(&self, _: &Accepted, recipient: &Recipient) -> Option<Route> {
        self.destinations.lock().unwrap().get(&recipient.mailbox.to_string()).cloned()
    }
}
