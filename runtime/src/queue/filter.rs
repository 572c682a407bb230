//! What an operator asks of the queue, and what it answers: plain values for CLI and API.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::meta::{Accepted, Kind, State};
use super::schedule::{Down, Slot, Standing};
use crate::mail::MessageId;

/// Which messages; what is `None` or empty does not narrow. The empty filter means all: who destroys, asks first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    pub ids: Vec<MessageId>,
    pub tenant: Option<Arc<str>>,
    /// An address, `@domain`, or `<>` for the null reverse-path. Case does not matter.
    pub sender: Option<String>,
    /// An address or `@domain`, among all recipients, those that are done included.
    pub recipient: Option<String>,
    /// A domain, without `@`, of one of the recipients. Case does not matter.
    pub domain: Option<String>,
    /// A destination's key, e.g. `mx:example.com`.
    pub destination: Option<String>,
    /// As listed: one that is ready counts as waiting while its destination is down.
    pub state: Option<Standing>,
    /// Seconds.
    pub older_than: Option<u64>,
    /// What its reason, its last word, or that of its destination that is down must hold. Case (ASCII) does not matter.
    pub error: Option<String>,
    /// Only those later than this one: the page after it.
    pub after: Option<MessageId>,
    /// Only those not later than this one, so that a verb in steps does not run after what comes in meanwhile.
    pub until: Option<MessageId>,
    /// At most so many, the oldest first; and whoever sets it is answered in bounded time, though more may follow.
    pub limit: Option<usize>,
}

/// A part of a list, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub messages: Vec<Summary>,
    /// Where the next page begins, even if this one is empty; `None`: this was the last one.
    pub next: Option<MessageId>,
}

/// A message in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub id: MessageId,
    pub state: Standing,
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// Empty for the null reverse-path.
    pub sender: String,
    /// The first one.
    pub recipient: String,
    pub recipients: u32,
    pub destination: String,
    /// Octets.
    pub size: u64,
    pub arrival: Timestamp,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// Why it is held or in quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was last said of a recipient that is still to be tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_word: Option<String>,
    /// What its destination said, for one that waits because the destination is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_down: Option<String>,
}

/// Everything about a message but its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    #[serde(flatten)]
    pub summary: Summary,
    /// When it is given up, or removed from the quarantine; `None` while it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    pub accepted: Accepted,
    pub progress: State,
    /// The header fields from the top, unfolded, octets that are not printable ASCII escaped.
    pub header: Vec<String>,
}

/// What a verb has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub changed: Vec<MessageId>,
    /// Being delivered at that moment: left alone, so that nothing is done twice. Try again.
    pub busy: Vec<MessageId>,
    /// Ids that were asked for and are not in the queue.
    pub missing: Vec<MessageId>,
    /// In a state that the verb is not for, e.g. to be released and not held.
    pub unfit: Vec<MessageId>,
    /// Can't be read from the spool.
    pub unreadable: Vec<MessageId>,
    /// Where the next step begins; `None`: the verb is done with all that was selected.
    pub next: Option<MessageId>,
}

impl Filter {
    pub fn id(id: MessageId) -> Self {
        Self { ids: vec![id], ..Self::default() }
    }

    /// All but ids and page, which the caller picks by, and the recipients, of which the memory holds only the first.
    pub(super) fn matches(&self, slot: &Slot, down: Option<&Down>, now: u64) -> bool {
        let age = slot.life.age(now) / 1000;
        self.tenant.as_ref().is_none_or(|tenant| slot.tenant.as_ref() == Some(tenant))
            && self.sender.as_ref().is_none_or(|pattern| address_matches(pattern, &slot.sender))
            && self.destination.as_ref().is_none_or(|key| **key == *slot.key)
            && self.state.is_none_or(|state| state == shown(slot, down))
            && self.older_than.is_none_or(|seconds| age >= seconds)
            && self.error.as_ref().is_none_or(|text| {
                let said =
                    [slot.reason.as_deref(), slot.last_word.as_deref(), down.map(|down| down.last.text.as_str())];
                said.into_iter().flatten().any(|said| holds(said, text))
            })
    }

    /// `None`: only the envelope in the spool can say.
    pub(super) fn matches_recipient(&self, slot: &Slot) -> Option<bool> {
        if self.matches_address(&slot.recipient) {
            return Some(true);
        }
        (slot.recipients <= 1).then_some(false)
    }

    pub(super) fn matches_envelope(&self, accepted: &Accepted) -> bool {
        accepted.envelope.recipients.iter().any(|recipient| self.matches_address(&recipient.mailbox.to_string()))
    }

    /// Of one recipient.
    fn matches_address(&self, address: &str) -> bool {
        self.recipient.as_ref().is_none_or(|pattern| address_matches(pattern, address))
            && self.domain.as_ref().is_none_or(|domain| {
                address.rsplit_once('@').is_some_and(|(_, host)| host.eq_ignore_ascii_case(domain))
            })
    }
}

fn holds(said: &str, text: &str) -> bool {
    let (said, text) = (said.as_bytes(), text.as_bytes());
    text.is_empty() || said.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text))
}

fn address_matches(pattern: &str, address: &str) -> bool {
    if pattern == "<>" {
        return address.is_empty();
    }
    if pattern.starts_with('@') {
        let at = address.rfind('@').and_then(|at| address.get(at..));
        return at.is_some_and(|domain| domain.eq_ignore_ascii_case(pattern));
    }
    address.eq_ignore_ascii_case(pattern)
}

/// For people, a message whose destination is down waits, though it stands ready in its line.
fn shown(slot: &Slot, down: Option<&Down>) -> Standing {
    if down.is_some() { Standing::Waiting } else { slot.standing() }
}

impl Summary {
    /// `down`: it is ready, and its destination is not. Once that may be tried again, there is no time to name.
    pub(super) fn new(id: MessageId, slot: &Slot, down: Option<&Down>, clock: &Clock) -> Self {
        let next_attempt = slot.next_attempt().or(down.map(|down| down.until).filter(|until| *until > clock.now()));
        Self {
            id,
            state: shown(slot, down),
            kind: slot.kind,
            tenant: slot.tenant.clone(),
            sender: slot.sender.to_string(),
            recipient: slot.recipient.to_string(),
            recipients: slot.recipients,
            destination: slot.key.to_string(),
            size: slot.size,
            arrival: slot.arrival,
            attempts: slot.attempts,
            next_attempt: next_attempt.map(|at| clock.at(at)),
            reason: slot.reason.as_deref().map(str::to_owned),
            last_word: slot.last_word.as_deref().map(str::to_owned),
            destination_down: down.map(|down| down.last.text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, address, expected) in [
            ("a@example.com", "A@Example.com", true),
            ("a@example.com", "aa@example.com", false),
            ("@example.com", "a@EXAMPLE.com", true),
            ("@example.com", "a@sub.example.com", false),
            ("@example.com", "a@badexample.com", false),
            ("<>", "", true),
            ("<>", "a@example.com", false),
            ("a@example.com", "", false),
        ] {
            assert_eq!(address_matches(pattern, address), expected, "{pattern} {address}");
        }
    }

    #[test]
    fn a_text_is_found_in_any_case() {
        for (said, text, expected) in [
            ("451 4.7.1 Greylisted, come back", "greylisted", true),
            ("451 4.7.1 Greylisted, come back", "4.7.1", true),
            ("451", "451 4.7.1", false),
            ("ÄRGER", "ÄRGER", true),
            ("", "x", false),
        ] {
            assert_eq!(holds(said, text), expected, "{said} {text}");
        }
    }

    #[test]
    fn recipient_and_domain_are_of_one_recipient() {
        let of = |to: &str, domain: &str| {
            let filter =
                Filter { recipient: Some(to.to_owned()), domain: Some(domain.to_owned()), ..Filter::default() };
            filter.matches_address("A@Example.com")
        };
        assert!(of("a@example.com", "EXAMPLE.com"));
        assert!(!of("a@example.com", "example.org") && !of("b@example.com", "example.com"));
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(serde_json::from_str::<Filter>(r#"{"sendr":"x"}"#).is_err());
    }
}
