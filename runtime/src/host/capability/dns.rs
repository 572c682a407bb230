//! `dns`: questions to the gateway's resolver. While the answer is awaited the guest sleeps on its fiber; that is
//! wall time, not CPU time. No look-up outlasts [`Meter::patience`](super::super::limits::Meter::patience): what a slow
//! resolver leaves the guest with is `temporary`, not the end of its call.

use std::net::IpAddr;
use std::pin::Pin;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::super::abi::interface::dns::{self as guest, Host};
use super::super::abi::ip_to_guest;
use super::super::limits::Breach;
use super::super::state::{CallState, Environment};
use crate::pipeline::{Capability, Cause, ClientName};

/// Questions of one `resolve-many`.
const MAX_QUESTIONS: usize = 32;
/// Look-ups that one plugin in one scope has under way, two full `resolve-many`; the others wait for their turn.
pub(in super::super) const MAX_LOOK_UPS: usize = 64;
/// RFC 1035 §2.3.4, in text; for `ptr` an address is shorter.
const MAX_NAME: usize = 255;

pub type Lookup<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The seam between the host and the resolver. An answer may take as long as it likes: who asked stops
/// waiting, and drops it.
pub trait NameService: Send + Sync {
    fn resolve(&self, question: Question) -> Lookup<'_, Result<Answer, DnsError>>;

    /// The client's name, confirmed forward (iprev, RFC 8601 §3).
    fn client_name(&self, client: IpAddr) -> Lookup<'_, ClientName>;
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// A domain name; for `Ptr` an IP address or a name under in-addr.arpa or ip6.arpa. At most 255 octets of
    /// printable ASCII or UTF-8 without white space; otherwise as the guest gave it.
    pub name: String,
    pub kind: RecordType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordType {
    A,
    Aaaa,
    Mx,
    Txt,
    Ptr,
    Ns,
    Cname,
}

/// The records of the type that was asked for; never an empty list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Addresses(Vec<IpAddr>),
    /// Preference and host.
    Exchanges(Vec<(u16, String)>),
    /// The strings of each record, joined.
    Texts(Vec<Vec<u8>>),
    Names(Vec<String>),
}

impl Answer {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Addresses(list) => list.is_empty(),
            Self::Exchanges(list) => list.is_empty(),
            Self::Texts(list) => list.is_empty(),
            Self::Names(list) => list.is_empty(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    #[error("no such name, or no record of that type")]
    NotFound,
    #[error("no answer for now")]
    Temporary,
    #[error("no answer in time")]
    TimedOut,
    #[error("not a name that can be asked")]
    BadName,
}

type Answered = Result<guest::Answer, guest::DnsError>;

impl Host for CallState {
    async fn resolve(&mut self, question: guest::Question) -> wasmtime::Result<Answered> {
        self.enter(Capability::Dns, question.name.len())?;
        let Some(question) = checked(question) else { return Ok(Err(guest::DnsError::BadName)) };
        let start = Instant::now();
        let answer = self.environment.resolve(question, start + self.meter.patience()).await;
        self.meter.waited(start.elapsed());
        Ok(self.give(answer)?)
    }

    async fn resolve_many(&mut self, questions: Vec<guest::Question>) -> wasmtime::Result<Vec<Answered>> {
        self.enter(Capability::Dns, 0)?;
        if questions.len() > MAX_QUESTIONS {
            return Err(Breach::new(Cause::Malformed, format!("more than {MAX_QUESTIONS} questions at a time")).into());
        }
        let mut answers = vec![Err(DnsError::BadName); questions.len()];
        // Dropped with the call, the set ends what is still under way.
        let mut asked = JoinSet::new();
        let start = Instant::now();
        let end = start + self.meter.patience();
        for (number, question) in questions.into_iter().enumerate() {
            self.enter(Capability::Dns, question.name.len())?;
            let Some(question) = checked(question) else { continue };
            let environment = self.environment.clone();
            asked.spawn(async move { (number, environment.resolve(question, end).await) });
        }
        while let Some(joined) = asked.join_next().await {
            let (number, answer) = joined.map_err(|error| Breach::new(Cause::Host, error.to_string()))?;
            if let Some(place) = answers.get_mut(number) {
                *place = answer;
            }
        }
        self.meter.waited(start.elapsed());
        Ok(answers.into_iter().map(|answer| self.give(answer)).collect::<Result<_, _>>()?)
    }
}

impl Environment {
    /// `TimedOut` where there is no answer by then.
    async fn resolve(&self, question: Question, end: Instant) -> Result<Answer, DnsError> {
        let answer = self.looked_up(self.services.names.resolve(question));
        timeout_at(end, answer).await.unwrap_or(Err(DnsError::TimedOut))
    }

    /// Asks when it is this plugin's turn. The wait for that is part of the look-up, and whoever asks bounds both.
    pub async fn looked_up<T>(&self, answer: Lookup<'_, T>) -> T {
        let _turn = self.look_ups.turn().await;
        answer.await
    }
}

impl CallState {
    fn give(&mut self, answer: Result<Answer, DnsError>) -> Result<Answered, Breach> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(DnsError::NotFound) => return Ok(Err(guest::DnsError::NotFound)),
            Err(DnsError::Temporary) => return Ok(Err(guest::DnsError::Temporary)),
            Err(DnsError::TimedOut) => return Ok(Err(guest::DnsError::TimedOut)),
            Err(DnsError::BadName) => return Ok(Err(guest::DnsError::BadName)),
        };
        let octets = match &answer {
            Answer::Addresses(list) => list.len() * 20,
            Answer::Exchanges(list) => list.iter().map(|(_, host)| host.len() + 2).sum(),
            Answer::Texts(list) => list.iter().map(Vec::len).sum(),
            Answer::Names(list) => list.iter().map(String::len).sum(),
        };
        self.meter.pass(octets)?;
        Ok(Ok(match answer {
            Answer::Addresses(list) => guest::Answer::Addresses(list.into_iter().map(ip_to_guest).collect()),
            Answer::Exchanges(list) => guest::Answer::Exchanges(
                list.into_iter().map(|(preference, host)| guest::Exchange { preference, host }).collect(),
            ),
            Answer::Texts(list) => guest::Answer::Texts(list),
            Answer::Names(list) => guest::Answer::Names(list),
        }))
    }
}

fn checked(question: guest::Question) -> Option<Question> {
    let name = question.name;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return None;
    }
    let kind = match question.kind {
        guest::RecordType::A => RecordType::A,
        guest::RecordType::Aaaa => RecordType::Aaaa,
        guest::RecordType::Mx => RecordType::Mx,
        guest::RecordType::Txt => RecordType::Txt,
        guest::RecordType::Ptr => RecordType::Ptr,
        guest::RecordType::Ns => RecordType::Ns,
        guest::RecordType::Cname => RecordType::Cname,
    };
    Some(Question { name, kind })
}
