//! The gateway, played in memory: a plugin's stages are called as the gateway would, with what a test has set up.
//!
//! Limits, errors and the meaning of each call are those of the contract in `wit/`. A mistake of the test itself, as an
//! address that is none, panics. Capabilities need no grant here, but edits that need one do: [`Gateway::grant`].

#![expect(clippy::panic, clippy::expect_used, reason = "a mistake of the test ends the test")]

mod client;
mod mail;
pub(crate) mod sys;
mod world;

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

pub use client::Client;
pub use mail::{Edit, Mail};

use crate::authentication::{Arc, Dmarc, Origin, Signature, Spf, SpfIdentity};
use crate::call_ahead::Presence;
use crate::dns::{Answer, DnsError, Exchange, Question, RecordType};
use crate::plugin::{Plugin, check, instance};
use crate::scan::{Assessment, ScanError};
use crate::{Address, Direction, Event, Message, Recipient, Session, Stage, Verdict};
use world::World;

/// The gateway around a plugin: its config, and everything it can ask for.
#[derive(Default)]
pub struct Gateway {
    world: Rc<World>,
}

/// What a plugin has answered, and what else it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub verdict: Verdict,
    /// In the order they were made; they have been applied to the mail.
    pub edits: Vec<Edit>,
    pub exemptions: Vec<Exemption>,
    /// `info: text`, at most 64 lines and 16 KiB.
    pub log: Vec<String>,
}

/// A test whose refusals were lifted, and the rule that did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exemption {
    pub test: String,
    pub rule: String,
}

impl Gateway {
    /// Without config, of the platform, at 2026-01-01 00:00 UTC; DNS and tables are empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// The plugin's config, as JSON.
    pub fn config(self, json: impl ToString) -> Self {
        self.world.state().config = json.to_string();
        self
    }

    /// The name that the plugin stands under.
    pub fn name(self, name: &str) -> Self {
        self.world.state().name = name.to_owned();
        self
    }

    /// `platform`, `reseller:NAME` or `tenant:NAME`.
    pub fn scope(self, scope: &str) -> Self {
        self.world.state().scope = scope.to_owned();
        self
    }

    /// `recipients`, `route:mx`, `route:host` or `route:NAME`.
    pub fn grant(self, grant: &str) -> Self {
        self.world.state().grants.insert(grant.to_owned());
        self
    }

    pub fn table<'a>(self, name: &str, rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let rows = rows.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        self.world.state().tables.insert(name.to_owned(), Some(rows));
        self
    }

    /// A table that is granted, but could not be read.
    pub fn broken_table(self, name: &str) -> Self {
        self.world.state().tables.insert(name.to_owned(), None);
        self
    }

    /// An A or AAAA record.
    pub fn dns_address(self, name: &str, address: &str) -> Self {
        let address: IpAddr = address.parse().expect("an IP address");
        let kind = if address.is_ipv4() { RecordType::A } else { RecordType::Aaaa };
        self.dns_record(name, kind, Answer::Addresses(vec![address]))
    }

    pub fn dns_mx(self, name: &str, preference: u16, host: &str) -> Self {
        let exchange = Exchange { preference, host: host.to_owned() };
        self.dns_record(name, RecordType::Mx, Answer::Exchanges(vec![exchange]))
    }

    pub fn dns_txt(self, name: &str, text: &str) -> Self {
        self.dns_record(name, RecordType::Txt, Answer::Texts(vec![text.into()]))
    }

    /// The name of an IP address.
    pub fn dns_ptr(self, address: &str, name: &str) -> Self {
        self.dns_record(address, RecordType::Ptr, Answer::Names(vec![name.to_owned()]))
    }

    /// Records of that name and type, besides those there are.
    pub fn dns_record(self, name: &str, kind: RecordType, records: Answer) -> Self {
        self.world.state().add_records(Question::new(name, kind), records);
        self
    }

    /// A server that fails, for any question for that name.
    pub fn dns_fails(self, name: &str) -> Self {
        self.world.state().fail_name(name, DnsError::Temporary);
        self
    }

    /// No answer to any question for that name.
    pub fn dns_times_out(self, name: &str) -> Self {
        self.world.state().fail_name(name, DnsError::TimedOut);
        self
    }

    pub fn now(&self) -> SystemTime {
        self.world.now()
    }

    pub fn set_time(&self, time: SystemTime) {
        self.world.state().clock = crate::counters::millis(time);
    }

    pub fn advance(&self, by: Duration) {
        let now = self.now();
        self.set_time(now + by);
    }

    /// What the plugin has counted.
    pub fn metric(&self, name: &str) -> u64 {
        self.world.state().metrics.get(name).copied().unwrap_or(0)
    }

    /// No more counters can be made.
    pub fn fill_counters(&self) {
        self.world.state().counters_full = true;
    }

    /// No more entries can be stored.
    pub fn fill_store(&self) {
        self.world.state().store_full = true;
    }

    /// Who has sent any mail, other than the client.
    pub fn origin(self, origin: Origin) -> Self {
        self.world.state().evidence.origin = Some(origin);
        self
    }

    /// Of any mail; else there is no record. By its `identity`.
    pub fn spf(self, spf: Spf) -> Self {
        match spf.identity {
            SpfIdentity::Helo => self.world.state().evidence.spf_helo = Some(spf),
            SpfIdentity::MailFrom => self.world.state().evidence.spf_mail_from = Some(spf),
        }
        self
    }

    /// One more signature of any mail.
    pub fn dkim(self, signature: Signature) -> Self {
        self.world.state().evidence.dkim.push(signature);
        self
    }

    /// Of any mail; else there is no record.
    pub fn dmarc(self, dmarc: Dmarc) -> Self {
        self.world.state().evidence.dmarc = Some(dmarc);
        self
    }

    /// Of any mail; else there are no sets.
    pub fn arc(self, arc: Arc) -> Self {
        self.world.state().evidence.arc = Some(arc);
        self
    }

    /// A key to sign with.
    pub fn key(self, domain: &str, selector: &str) -> Self {
        self.world.state().keys.entry(domain.to_ascii_lowercase()).or_default().push(selector.to_owned());
        self
    }

    /// A granted scanner of kind `clamd`, and what it says of any mail.
    pub fn virus(self, scanner: &str, found: Result<Option<&str>, ScanError>) -> Self {
        let found = found.map(|name| name.map(str::to_owned));
        self.world.state().viruses.insert(scanner.to_owned(), found);
        self
    }

    /// A granted scanner of kind `rspamd`, and what it says of any mail.
    pub fn assessment(self, scanner: &str, said: Result<Assessment, ScanError>) -> Self {
        self.world.state().assessments.insert(scanner.to_owned(), said);
        self
    }

    /// What the destination says of a mailbox; of any other it is unavailable.
    pub fn presence(self, address: &str, presence: Presence) -> Self {
        let address: Address = address.parse().unwrap_or_else(|error| panic!("{address}: {error}"));
        self.world.state().presences.insert(address.to_string(), presence);
        self
    }

    /// Loads the plugin: its config is checked.
    pub fn load<P: Plugin>(&self) -> Result<(), String> {
        self.world.enter(check::<P>)
    }

    pub fn connect<P: Plugin>(&self, client: &Client) -> Judged {
        self.of_session::<P>(client, Stage::Connect, |plugin, session| plugin.connect(session))
    }

    pub fn helo<P: Plugin>(&self, client: &Client) -> Judged {
        self.of_session::<P>(client, Stage::Helo, |plugin, session| plugin.helo(session))
    }

    pub fn mail_from<P: Plugin>(&self, client: &Client, mail: &mut Mail) -> Judged {
        self.of_mail::<P>(client, mail, Stage::MailFrom, |plugin, session, message| plugin.mail_from(session, message))
    }

    /// A recipient that is not refused is one of the mail's afterwards.
    pub fn rcpt<P: Plugin>(&self, client: &Client, mail: &mut Mail, recipient: &str) -> Judged {
        let address: Address = recipient.parse().unwrap_or_else(|error| panic!("{recipient}: {error}"));
        let recipient = Recipient { address, original: None };
        let judged = self.of_mail::<P>(client, mail, Stage::Rcpt, |plugin, session, message| {
            plugin.rcpt(session, message, &recipient)
        });
        if judged.verdict.reply().is_none() && judged.verdict != Verdict::Discard {
            mail.recipients.push(recipient);
        }
        judged
    }

    pub fn data<P: Plugin>(&self, client: &Client, mail: &mut Mail) -> Judged {
        self.of_mail::<P>(client, mail, Stage::Data, |plugin, session, message| plugin.data(session, message))
    }

    pub fn deliver<P: Plugin>(&self, client: &Client, mail: &mut Mail) -> Judged {
        self.of_mail::<P>(client, mail, Stage::Deliver, |plugin, session, message| plugin.deliver(session, message))
    }

    /// Gives what it has logged.
    pub fn event<P: Plugin>(&self, event: &Event) -> Vec<String> {
        self.world.enter(|| ready::<P>().event(event));
        self.world.take_log()
    }

    fn of_session<P: Plugin>(&self, client: &Client, stage: Stage, judge: impl Fn(&P, &Session) -> Verdict) -> Judged {
        let notes = client.notes::<P>();
        let session = sys::Session::new(client, stage, notes);
        let verdict = self
            .world
            .enter(|| asked::<P>(stage, sys::direction(&session), |plugin| judge(plugin, &Session::new(&session))));
        let (exemptions, notes) = session.finish();
        client.keep_notes::<P>(notes);
        Judged { verdict, edits: Vec::new(), exemptions, log: self.world.take_log() }
    }

    fn of_mail<P: Plugin>(
        &self,
        client: &Client,
        mail: &mut Mail,
        stage: Stage,
        judge: impl Fn(&P, &Session, &Message) -> Verdict,
    ) -> Judged {
        let mut notes = client.notes::<P>();
        notes.extend(mail.notes::<P>());
        let session = sys::Session::new(client, stage, notes);
        let message = sys::Message::new(mail.clone(), stage);
        let judge = |plugin: &P| judge(plugin, &Session::new(&session), &Message::new(&message));
        let verdict = self.world.enter(|| asked::<P>(stage, sys::direction(&session), judge));
        let (exemptions, notes) = session.finish();
        mail.keep_notes::<P>(notes);
        let edits = message.finish();
        for edit in &edits {
            mail.apply(edit);
        }
        Judged { verdict, edits, exemptions, log: self.world.take_log() }
    }
}

/// A plugin that wants nothing of a stage is not called at it.
fn asked<P: Plugin>(stage: Stage, direction: Direction, judge: impl FnOnce(&P) -> Verdict) -> Verdict {
    let plugin = ready::<P>();
    if plugin.wants(stage, direction) { judge(&plugin) } else { Verdict::Next }
}

fn ready<P: Plugin>() -> Rc<P> {
    instance::<P>().unwrap_or_else(|error| panic!("the plugin does not load: {error}"))
}

impl Judged {
    /// The names of the tests that were lifted.
    pub fn exempted(&self) -> Vec<&str> {
        self.exemptions.iter().map(|exemption| exemption.test.as_str()).collect()
    }
}

/// What a resolver says of a name that the test knows nothing of.
const UNKNOWN: Result<Answer, DnsError> = Err(DnsError::NotFound);

#[cfg(test)]
mod tests;
