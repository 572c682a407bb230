//! May this client send in the name of the sender (RFC 7208)? Judged at `mail-from`, or at `data` where the mail comes through
//! a trusted relay: only then it is known who stands before it (R11). What was found is written into the header, and with it
//! whether the client's address has a name (iprev), because this is the plugin that looks at the client.

mod config;
#[cfg(test)]
mod tests;

use postern_sdk::authentication::{self, Action, Origin, Outcome, ResultInfo, Spf, SpfIdentity, value_text};
use postern_sdk::prelude::*;
use postern_sdk::{ReadError, metrics};

use config::Config;

/// Remembered where the judgement had to wait for the data.
const WAITS: &str = "waits";

struct SpfPolicy {
    config: Config,
}

#[plugin]
impl Plugin for SpfPolicy {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config.check().map(|()| Self { config })
    }

    // What leaves a tenant is sent by its users, wherever they are.
    fn wants(&self, _: Stage, direction: Direction) -> bool {
        direction == Direction::Inbound
    }

    fn mail_from(&self, session: &Session, message: &Message) -> Verdict {
        match authentication::spf_mail_from(session, message) {
            Ok(spf) => {
                let verdict = self.judge(session, message, &spf);
                // It may be known when the mail is here: the look-up goes on.
                if spf.outcome == Outcome::Temperror && verdict == Verdict::Next {
                    let _ = session.remember(WAITS, b"");
                }
                verdict
            }
            Err(ReadError::Stage) => {
                if let Err(full) = session.remember(WAITS, b"") {
                    warn!("a relayed mail will not be judged: {full}");
                }
                Verdict::Next
            }
            Err(error) => {
                warn!("SPF is not known: {error}");
                Verdict::Next
            }
        }
    }

    fn data(&self, session: &Session, message: &Message) -> Verdict {
        let spf = match authentication::spf_mail_from(session, message) {
            Ok(spf) => spf,
            Err(error) => {
                warn!("SPF is not known: {error}");
                return Verdict::Next;
            }
        };
        let helo = authentication::spf_helo(session, message).ok();
        self.write(session, message, &spf, helo.as_ref());
        let action = self.action(&spf, helo.as_ref());
        if action == Action::Tag {
            tag(
                message,
                if self.config.action(spf.outcome) == Action::Tag { &spf } else { helo.as_ref().unwrap_or(&spf) },
            );
        }
        if session.recall(WAITS).is_none() {
            return Verdict::Next;
        }
        self.judge(session, message, &spf)
    }
}

impl SpfPolicy {
    /// The stricter of what both identities call for.
    fn action(&self, spf: &Spf, helo: Option<&Spf>) -> Action {
        let of_helo = match helo {
            Some(helo) if helo.outcome == Outcome::Fail => self.config.helo_fail,
            _ => Action::None,
        };
        let of_sender = self.config.action(spf.outcome);
        if strength(of_helo) > strength(of_sender) { of_helo } else { of_sender }
    }

    fn judge(&self, session: &Session, message: &Message, spf: &Spf) -> Verdict {
        let of_sender = self.config.action(spf.outcome);
        let stricter = strength(self.config.helo_fail) > strength(of_sender);
        let helo = stricter.then(|| authentication::spf_helo(session, message).ok()).flatten();
        let (action, spf) = match helo {
            Some(helo) if helo.outcome == Outcome::Fail => (self.config.helo_fail, helo),
            _ => (of_sender, spf.clone()),
        };
        match action {
            Action::None | Action::Tag => Verdict::Next,
            Action::Quarantine => {
                metrics::add("quarantined", 1);
                Verdict::quarantine(format!("SPF: {} ({})", spf.outcome, spf.reason))
            }
            Action::Defer => {
                metrics::add("deferred", 1);
                defer!("451 4.7.24", "SPF of {} can't be checked now: {}", spf.domain, spf.reason)
            }
            Action::Reject => {
                metrics::add("rejected", 1);
                let client = match authentication::origin(session, message) {
                    Ok(origin) => origin.address.to_string(),
                    Err(_) => "this client".to_owned(),
                };
                refusal(&spf, &client)
            }
        }
    }

    fn write(&self, session: &Session, message: &Message, spf: &Spf, helo: Option<&Spf>) {
        let sender = message.reverse_path().map(|sender| sender.to_string());
        let mut results = vec![of_sender(sender.as_deref(), spf)];
        // Of a null reverse-path it is the same.
        if let Some(helo) = helo.filter(|helo| helo.outcome != Outcome::None && sender.is_some()) {
            results.push(ResultInfo::new("spf", helo.outcome).reason(&helo.reason).property("smtp.helo", &helo.domain));
        }
        let origin = authentication::origin(session, message).ok();
        results.extend(origin.as_ref().filter(|_| self.config.iprev).and_then(|origin| iprev(session, origin)));
        let written = authentication::add_results(message, &results);
        let received = match origin.filter(|_| self.config.received_spf) {
            Some(origin) => {
                let text = received_spf(sender.as_deref().unwrap_or_default(), spf, &origin);
                message.add_header("Received-SPF", &text, Position::Top)
            }
            None => Ok(()),
        };
        for error in [written, received].into_iter().filter_map(Result::err) {
            warn!("a result is not written: {error}");
        }
    }
}

fn of_sender(sender: Option<&str>, spf: &Spf) -> ResultInfo {
    let info = ResultInfo::new("spf", spf.outcome).reason(&spf.reason);
    match sender {
        Some(sender) => info.property("smtp.mailfrom", sender),
        None => info.property("smtp.helo", &spf.domain),
    }
}

/// RFC 8601 §2.7.3, §3. The gateway looks the name up once for each session, in bounded time. Of who stood before a trusted
/// relay nothing is said: the name that the gateway knows is the relay's (R11).
fn iprev(session: &Session, origin: &Origin) -> Option<ResultInfo> {
    if origin.relayed {
        return None;
    }
    let (outcome, reason) = match session.client_name() {
        ClientName::Verified(_) => (Outcome::Pass, String::new()),
        ClientName::Unconfirmed(name) => (Outcome::Fail, format!("{name} does not lead back to it")),
        // No PTR record is not a failure: there was nothing to confirm.
        ClientName::None => (Outcome::Permerror, "it has no name".to_owned()),
        ClientName::TemporaryFailure => (Outcome::Temperror, "its name can't be looked up now".to_owned()),
    };
    let address = origin.address.to_canonical().to_string();
    Some(ResultInfo::new("iprev", outcome).reason(&reason).property("policy.iprev", &address))
}

/// RFC 7208 §9.1.
fn received_spf(sender: &str, spf: &Spf, origin: &Origin) -> String {
    let identity = match (&spf.identity, sender.is_empty()) {
        (SpfIdentity::MailFrom, false) => "mailfrom",
        _ => "helo",
    };
    let receiver = authentication::service_id();
    let comment: String = spf.reason.chars().map(|c| if matches!(c, '(' | ')' | '\\') { ' ' } else { c }).collect();
    let mut text = format!(
        "{} ({receiver}: {comment}) client-ip={}; envelope-from={};",
        spf.outcome,
        origin.address,
        value_text(sender),
    );
    if let Some(helo) = &origin.helo {
        text.push_str(&format!(" helo={};", value_text(helo)));
    }
    text.push_str(&format!(" receiver={receiver}; identity={identity}"));
    text
}

/// RFC 7208 §8.4, §8.7, with the codes of RFC 7372.
fn refusal(spf: &Spf, client: &str) -> Verdict {
    let (domain, reason) = (&spf.domain, &spf.reason);
    if spf.outcome == Outcome::Permerror {
        return reject!("550 5.7.24", "SPF of {domain} can't be evaluated: {reason}");
    }
    let says = spf.explanation.as_ref().map(|text| format!("; {domain} explains: {text}")).unwrap_or_default();
    match spf.outcome {
        Outcome::None => reject!("550 5.7.23", "{domain} has no SPF record, which is needed here"),
        outcome => reject!("550 5.7.23", "SPF {outcome}: {client} may not send for {domain} ({reason}){says}"),
    }
}

fn tag(message: &Message, spf: &Spf) {
    metrics::add("tagged", 1);
    if let Err(error) = message.add_tag(&format!("spf:{}", spf.outcome)) {
        warn!("no tag: {error}");
    }
}

fn strength(action: Action) -> u8 {
    match action {
        Action::None => 0,
        Action::Tag => 1,
        Action::Quarantine => 2,
        Action::Defer => 3,
        Action::Reject => 4,
    }
}
