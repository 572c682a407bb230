//! Who may connect and send, how often, and under which name (R65–R68, R70–R72).
//!
//! The tests of names run at `mail-from` and not before, because only then it is known whether the client has logged
//! in. Nothing is lost by it: refusals before RCPT are held until RCPT in any case.

mod config;
mod helo;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use postern_sdk::Role;
use postern_sdk::counters;
use postern_sdk::dns::{self, Question, RecordType};
use postern_sdk::metrics;
use postern_sdk::prelude::*;

use config::Config;
use helo::Name;

struct ConnectionPolicy {
    config: Config,
}

#[plugin]
impl Plugin for ConnectionPolicy {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config })
    }

    fn wants(&self, stage: Stage, direction: Direction) -> bool {
        let Config { max_connections, connections_per_minute, max_unknown_recipients, .. } = self.config;
        match stage {
            Stage::Connect => max_connections > 0 || connections_per_minute > 0 || max_unknown_recipients > 0,
            Stage::MailFrom => self.messages(direction).1 > 0 || self.judges_names(),
            Stage::Rcpt => max_unknown_recipients > 0,
            _ => true,
        }
    }

    fn connect(&self, session: &Session) -> Verdict {
        let client = session.client_address();
        if self.is_exempt(client) {
            return Verdict::Next;
        }
        let Config { max_connections, connections_per_minute, .. } = self.config;
        if max_connections > 0 && session.concurrent_connections() > max_connections {
            metrics::add("connections_at_once", 1);
            return disconnect!("421 4.7.0", "Too many connections from your address");
        }
        // Where clients must log in, who they are is not known yet.
        if session.role() == Role::Inbound
            && let Some(verdict) = self.check_unknown_recipients(session)
        {
            return verdict;
        }
        if is_over("connections", client, connections_per_minute) {
            metrics::add("new_connections", 1);
            return disconnect!("421 4.7.0", "Too many new connections from your address, try again in a minute");
        }
        Verdict::Next
    }

    fn mail_from(&self, session: &Session, _: &Message) -> Verdict {
        let client = session.client_address();
        if self.is_exempt(client) {
            return Verdict::Next;
        }
        let (kind, limit) = self.messages(session.direction());
        if is_over(kind, client, limit) {
            metrics::add("messages", 1);
            return defer!("450 4.7.1", "Too many messages from your address, try again in a minute");
        }
        if !self.judges_names() || session.trusted() || session.login().is_some() {
            return Verdict::Next;
        }
        [self.check_client_name(session), self.check_helo(session)]
            .into_iter()
            .flatten()
            .next()
            .unwrap_or(Verdict::Next)
    }

    /// A session that is under way is no way around what keeps new ones out.
    fn rcpt(&self, session: &Session, _: &Message, _: &Recipient) -> Verdict {
        if session.login().is_some() || self.is_exempt(session.client_address()) {
            return Verdict::Next;
        }
        self.check_unknown_recipients(session).unwrap_or(Verdict::Next)
    }
}

impl ConnectionPolicy {
    /// R67: under which name messages are counted, and how many a minute are too many.
    fn messages(&self, direction: Direction) -> (&'static str, u64) {
        match direction {
            Direction::Outbound => ("messages-out", self.config.messages_per_minute),
            Direction::Inbound => ("messages-in", self.config.inbound_messages_per_minute),
        }
    }

    fn judges_names(&self) -> bool {
        let Config { require_client_name, require_fqdn_helo, require_helo_in_dns, .. } = self.config;
        require_client_name || require_fqdn_helo || require_helo_in_dns
    }

    fn is_exempt(&self, client: IpAddr) -> bool {
        self.config.exempt_networks.iter().any(|network| network.contains(client))
    }

    /// R72: who guesses mailboxes is kept out until the day ends; the gateway's count begins anew then. A 4xx, because an
    /// honest server with an old list of addresses is to come back tomorrow.
    fn check_unknown_recipients(&self, session: &Session) -> Option<Verdict> {
        let max = self.config.max_unknown_recipients;
        if max == 0 || session.trusted() || session.unknown_recipients() <= max {
            return None;
        }
        metrics::add("unknown_recipients", 1);
        Some(disconnect!("421 4.7.0", "Too many unknown recipients from your address today, try again tomorrow"))
    }

    /// R65.
    fn check_client_name(&self, session: &Session) -> Option<Verdict> {
        if !self.config.require_client_name {
            return None;
        }
        let name = session.client_name();
        if !matches!(name, ClientName::Verified(_)) {
            metrics::add("client_names", 1);
        }
        match name {
            ClientName::Verified(_) => None,
            ClientName::Unconfirmed(name) => {
                Some(reject!("550 5.7.25", "The name of your address, {name}, does not resolve back to it"))
            }
            ClientName::None => Some(reject!("550 5.7.25", "Your address has no name in DNS")),
            ClientName::TemporaryFailure => {
                Some(defer!("451 4.7.25", "The name of your address can't be looked up now"))
            }
        }
    }

    /// R70 and R71.
    fn check_helo(&self, session: &Session) -> Option<Verdict> {
        let Config { require_fqdn_helo, require_helo_in_dns, .. } = self.config;
        if !require_fqdn_helo && !require_helo_in_dns {
            return None;
        }
        let said = session.helo()?.name;
        let verdict = match Name::parse(&said) {
            Name::Literal => None,
            Name::FullyQualified(name) if require_helo_in_dns => check_in_dns(&name),
            Name::FullyQualified(_) => None,
            Name::Other if require_fqdn_helo => {
                Some(reject!("550 5.7.0", "HELO needs a fully qualified domain name or an address literal"))
            }
            Name::Other => check_in_dns(&said),
        };
        if verdict.is_some() {
            metrics::add("helo_names", 1);
        }
        verdict
    }
}

/// R71: an address or a mail exchanger.
fn check_in_dns(name: &str) -> Option<Verdict> {
    let questions = [RecordType::A, RecordType::Aaaa, RecordType::Mx].map(|kind| Question::new(name, kind));
    let answers = dns::resolve_many(questions.into());
    if answers.iter().any(Result::is_ok) {
        None
    } else if answers.iter().any(|answer| answer.as_ref().is_err_and(|error| error.is_temporary())) {
        Some(defer!("451 4.7.0", "Your HELO name can't be looked up now"))
    } else {
        Some(reject!("550 5.7.0", "Your HELO name is not in DNS"))
    }
}

/// Counts one more of that kind in the running minute; 0 is no limit. What is refused counts too, so who goes on
/// trying stays blocked until the minute ends, and no longer (R67, R68).
fn is_over(kind: &str, client: IpAddr, limit: u64) -> bool {
    if limit == 0 {
        return false;
    }
    match counters::add(&format!("{kind}/{}", counted_as(client)), 1, 60) {
        Ok(count) => count > limit,
        Err(full) => {
            // To refuse everyone new would turn a flood of addresses into an outage.
            warn!("{kind} of {client} are not counted: {full}");
            false
        }
    }
}

/// An IPv6 client has its whole /64 to send from.
fn counted_as(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        ip => ip,
    }
}
