//! What the rest of the crate asks the gateway through; `wasm::sys` has the same.

use std::any::Any;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use mail_parser::{MessageParser, MimeHeaders as _, PartType};
use sha2::{Digest as _, Sha256};

use super::Exemption;
use super::client::{Client, Notes};
use super::mail::{Edit, Mail};
use super::world::current;
use crate::address::domain_name;
use crate::authentication::{Arc, Dmarc, DmarcPolicy, Origin, Outcome, Signature, Spf, SpfIdentity};
use crate::call_ahead::Presence;
use crate::counters::CountersFull;
use crate::dns::{Answer, DnsError, Question};
use crate::log::Level;
use crate::scan::{Assessment, ScanError};
use crate::signing::SigningError;
use crate::store::StoreError;
use crate::tables::TableError;
use crate::{
    Address, ClientName, Direction, EditError, Field, Helo, Network, Part, Position, ReadError, Recipient, Role, Route,
    Stage, Tls,
};

const MAX_NOTES: usize = 16;
const MAX_NOTE_OCTETS: usize = 4096;
const MAX_READ: u64 = 64 * 1024;
const MAX_EDITS: usize = 256;
const MAX_EDIT_OCTETS: usize = 32 * 1024 * 1024;
const MAX_BLOCK_MILLIS: u64 = 48 * 3600 * 1000;
const MAX_METRICS: usize = 32;
const MAX_QUESTIONS: usize = 32;

pub(crate) struct Session {
    client: Client,
    exemptions: RefCell<Vec<Exemption>>,
    notes: RefCell<Notes>,
    stage: Stage,
}

impl Session {
    pub(super) fn new(client: &Client, stage: Stage, notes: Notes) -> Self {
        Self { client: client.clone(), exemptions: RefCell::default(), notes: RefCell::new(notes), stage }
    }

    pub(super) fn finish(self) -> (Vec<Exemption>, Notes) {
        (self.exemptions.into_inner(), self.notes.into_inner())
    }

    pub(crate) fn id(&self) -> String {
        "s1".into()
    }

    pub(crate) fn client_port(&self) -> u16 {
        self.client.port
    }

    /// What is recorded with a mail does not have it.
    pub(crate) fn concurrent_connections(&self) -> u32 {
        if self.stage == Stage::Deliver { 0 } else { self.client.concurrent }
    }

    pub(crate) fn listener(&self) -> String {
        self.client.listener.clone()
    }

    pub(crate) fn trusted(&self) -> bool {
        self.client.trusted
    }

    pub(crate) fn login(&self) -> Option<String> {
        self.client.login.clone()
    }

    /// What is recorded with a mail does not have it.
    pub(crate) fn unknown_recipients(&self) -> u32 {
        if self.stage == Stage::Deliver { 0 } else { self.client.unknown_recipients }
    }

    pub(crate) fn exempt(&self, test: &str, rule: &str) {
        let exemption = Exemption { test: test.to_owned(), rule: rule.to_owned() };
        let mut exemptions = self.exemptions.borrow_mut();
        if !exemptions.contains(&exemption) {
            exemptions.push(exemption);
        }
    }

    pub(crate) fn remember(&self, key: &str, value: &[u8]) -> Result<(), ()> {
        let mut notes = self.notes.borrow_mut();
        let others = notes.iter().filter(|(known, _)| *known != key);
        let octets: usize = others.clone().map(|(key, value)| key.len() + value.len()).sum();
        if others.count() >= MAX_NOTES || octets + key.len() + value.len() > MAX_NOTE_OCTETS {
            return Err(());
        }
        notes.insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    pub(crate) fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.notes.borrow().get(key).cloned()
    }
}

pub(crate) fn client_address(session: &Session) -> IpAddr {
    session.client.address
}

pub(crate) fn client_name(session: &Session) -> ClientName {
    session.client.name.clone()
}

pub(crate) fn role(session: &Session) -> Role {
    session.client.role
}

pub(crate) fn direction(session: &Session) -> Direction {
    let client = &session.client;
    if client.login.is_some() || client.trusted || client.role == Role::Submission {
        Direction::Outbound
    } else {
        Direction::Inbound
    }
}

pub(crate) fn helo(session: &Session) -> Option<Helo> {
    session.client.helo.clone()
}

pub(crate) fn tls(session: &Session) -> Option<Tls> {
    session.client.tls.clone()
}

pub(crate) struct Message {
    mail: Mail,
    stage: Stage,
    journal: RefCell<Vec<Edit>>,
    octets: RefCell<usize>,
}

impl Message {
    pub(super) fn new(mail: Mail, stage: Stage) -> Self {
        Self { mail, stage, journal: RefCell::default(), octets: RefCell::default() }
    }

    pub(super) fn finish(self) -> Vec<Edit> {
        self.journal.into_inner()
    }

    pub(crate) fn id(&self) -> String {
        "m1".into()
    }

    pub(crate) fn tenant(&self) -> Option<String> {
        self.mail.tenant.clone()
    }

    pub(crate) fn size(&self) -> Option<u64> {
        self.mail.size
    }

    pub(crate) fn tags(&self) -> Vec<String> {
        self.mail.tags.clone()
    }

    fn content(&self) -> Result<&Mail, ReadError> {
        if self.stage >= Stage::Data && self.mail.fields.is_some() { Ok(&self.mail) } else { Err(ReadError::Stage) }
    }

    fn write(&self, from: Stage, octets: usize, edit: Edit) -> Result<(), EditError> {
        if self.stage < from {
            return Err(EditError::Stage);
        }
        let mut journal = self.journal.borrow_mut();
        let mut sum = self.octets.borrow_mut();
        let is_free = |edit: &Edit| matches!(edit, Edit::SetRecipientRoute(..));
        let routes = journal.iter().filter(|edit| is_free(edit)).count();
        let counted = journal.len() - routes.min(self.mail.recipients.len());
        let free = is_free(&edit) && routes < self.mail.recipients.len();
        if !free && counted >= MAX_EDITS || *sum + octets > MAX_EDIT_OCTETS {
            return Err(EditError::Full);
        }
        *sum += octets;
        journal.push(edit);
        Ok(())
    }
}

pub(crate) fn reverse_path(message: &Message) -> Option<Address> {
    message.mail.reverse_path.clone()
}

pub(crate) fn recipients(message: &Message) -> Vec<Recipient> {
    message.mail.recipients.clone()
}

pub(crate) fn fields(message: &Message) -> Result<Vec<Field>, ReadError> {
    message.content().map(Mail::fields)
}

pub(crate) fn header(message: &Message, name: &str) -> Result<Vec<Vec<u8>>, ReadError> {
    message.content().map(|mail| mail.header(name))
}

pub(crate) fn body_size(message: &Message) -> Result<u64, ReadError> {
    message.content().map(|mail| mail.body.len() as u64)
}

pub(crate) fn read(message: &Message, offset: u64, len: u32) -> Result<Vec<u8>, ReadError> {
    message.content().map(|mail| range(&mail.body, offset, len))
}

pub(crate) fn search(message: &Message, needle: &[u8], offset: u64) -> Result<Option<u64>, ReadError> {
    let body = &message.content()?.body;
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(body.len());
    let rest = body.get(start..).unwrap_or_default();
    let found = if needle.is_empty() { Some(0) } else { rest.windows(needle.len()).position(|part| part == needle) };
    Ok(found.map(|at| (start + at) as u64))
}

pub(crate) fn digest(message: &Message) -> Result<Vec<u8>, ReadError> {
    message.content().map(|mail| Sha256::digest(mail.to_bytes()).to_vec())
}

pub(crate) fn parts(message: &Message) -> Result<Vec<Part>, ReadError> {
    Ok(taken_apart(message)?.into_iter().map(|(part, _)| part).collect())
}

pub(crate) fn read_part(message: &Message, index: u32, offset: u64, len: u32) -> Result<Vec<u8>, ReadError> {
    let parts = taken_apart(message)?;
    let (_, content) = parts.get(index as usize).ok_or(ReadError::NoPart)?;
    Ok(range(content, offset, len))
}

fn range(octets: &[u8], offset: u64, len: u32) -> Vec<u8> {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(octets.len());
    let end = offset.saturating_add(u64::from(len).min(MAX_READ));
    octets.get(place(offset)..place(end)).unwrap_or_default().to_vec()
}

/// Each part that is no multipart, with its decoded content.
fn taken_apart(message: &Message) -> Result<Vec<(Part, Vec<u8>)>, ReadError> {
    let bytes = message.content()?.to_bytes();
    let parsed = MessageParser::default().parse(&bytes).ok_or(ReadError::Unparsable)?;
    let leaves = parsed.parts.iter().filter(|part| !matches!(part.body, PartType::Multipart(_)));
    let leaf = |part: &mail_parser::MessagePart<'_>| {
        let content_type = part.content_type().map_or_else(
            || "text/plain".to_owned(),
            |kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default()).to_ascii_lowercase(),
        );
        let content = match &part.body {
            PartType::Message(inner) => inner.raw_message.to_vec(),
            _ => part.contents().to_vec(),
        };
        let attachment = part.content_disposition().is_some_and(|disposition| disposition.is_attachment());
        let filename = part.attachment_name().map(str::to_owned);
        (Part { content_type, filename, attachment, size: content.len() as u64 }, content)
    };
    Ok(leaves.map(leaf).collect())
}

fn invalid(what: &str) -> EditError {
    EditError::Invalid(what.to_owned())
}

fn check_field(name: &str, value: &str) -> Result<(), EditError> {
    if name.is_empty() || name.len() > 76 || !name.bytes().all(|byte| matches!(byte, 33..=126) && byte != b':') {
        return Err(invalid("a field name is 1 to 76 printable ASCII characters without colon"));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(invalid("a field value must not have CR, LF, NUL or other controls"));
    }
    if value.len() > 64 * 1024 { Err(invalid("a field value is too long")) } else { Ok(()) }
}

fn check_address(address: &Address) -> Result<(), EditError> {
    let bad = |text: &str| text.is_empty() || text.chars().any(char::is_control);
    if bad(&address.local_part) || bad(&address.domain) || address.domain.contains(['@', ' ', '<', '>']) {
        return Err(invalid("not an address"));
    }
    Ok(())
}

pub(crate) fn add_header(message: &Message, name: &str, value: &str, at: Position) -> Result<(), EditError> {
    check_field(name, value)?;
    let edit = Edit::AddHeader { name: name.to_owned(), value: value.to_owned(), at };
    message.write(Stage::Data, name.len() + value.len(), edit)
}

pub(crate) fn replace_header(message: &Message, name: &str, nth: u32, value: Option<&str>) -> Result<(), EditError> {
    check_field(name, value.unwrap_or_default())?;
    if name.eq_ignore_ascii_case("Received") {
        return Err(invalid("Received can't be changed or removed"));
    }
    if value.is_none() && name.eq_ignore_ascii_case("From") && last_from(message) {
        return Err(invalid("the last From can't be removed"));
    }
    let octets = name.len() + value.map_or(0, str::len);
    let edit = Edit::ReplaceHeader { name: name.to_owned(), nth, value: value.map(str::to_owned) };
    message.write(Stage::Data, octets, edit)
}

/// Whether one more removed would leave none.
fn last_from(message: &Message) -> bool {
    let removed = |edit: &&Edit| match edit {
        Edit::ReplaceHeader { name, value, .. } => value.is_none() && name.eq_ignore_ascii_case("From"),
        _ => false,
    };
    message.journal.borrow().iter().filter(removed).count() + 1 >= message.mail.header("From").len()
}

pub(crate) fn replace_body(message: &Message, body: &[u8]) -> Result<(), EditError> {
    let octet = |at: usize| body.get(at).copied();
    let bare = |at: usize| match octet(at) {
        Some(b'\n') => at == 0 || octet(at - 1) != Some(b'\r'),
        Some(b'\r') => octet(at + 1) != Some(b'\n'),
        other => other == Some(0),
    };
    if (0..body.len()).any(bare)
        || body.split(|&octet| octet == b'\n').any(|line| line.strip_suffix(b"\r").unwrap_or(line).len() > 998)
    {
        return Err(invalid("the lines of a body end in CRLF, have at most 998 octets and no NUL"));
    }
    let mut body = body.to_vec();
    if !body.is_empty() && !body.ends_with(b"\r\n") {
        body.extend_from_slice(b"\r\n");
    }
    message.write(Stage::Data, body.len(), Edit::ReplaceBody(body))
}

pub(crate) fn set_reverse_path(message: &Message, path: Option<&Address>) -> Result<(), EditError> {
    path.map_or(Ok(()), check_address)?;
    message.write(Stage::MailFrom, 0, Edit::SetReversePath(path.cloned()))
}

pub(crate) fn add_recipient(message: &Message, address: &Address) -> Result<(), EditError> {
    if message.stage < Stage::Data {
        return Err(EditError::Stage);
    }
    need("recipients")?;
    check_address(address)?;
    message.write(Stage::Data, 0, Edit::AddRecipient(address.clone()))
}

pub(crate) fn remove_recipient(message: &Message, address: &Address) -> Result<(), EditError> {
    message.write(Stage::Data, 0, Edit::RemoveRecipient(address.clone()))
}

pub(crate) fn set_route(message: &Message, route: &Route) -> Result<(), EditError> {
    check_route(message, route)?;
    message.write(Stage::Deliver, 0, Edit::SetRoute(route.clone()))
}

pub(crate) fn set_recipient_route(message: &Message, address: &Address, route: &Route) -> Result<(), EditError> {
    check_route(message, route)?;
    check_address(address)?;
    let known = message.mail.recipients.iter().any(|known| known.address == *address);
    if !known && !message.journal.borrow().contains(&Edit::AddRecipient(address.clone())) {
        return Err(invalid("not a recipient of this mail"));
    }
    message.write(Stage::Deliver, 0, Edit::SetRecipientRoute(address.clone(), route.clone()))
}

fn check_route(message: &Message, route: &Route) -> Result<(), EditError> {
    if message.stage != Stage::Deliver {
        return Err(EditError::Stage);
    }
    match route {
        Route::Mx => need("route:mx"),
        Route::MxOf(domain) => {
            need("route:mx")?;
            domain_name(domain).map(drop).map_err(|error| invalid(&error.to_string()))
        }
        Route::Host(_, 0) => Err(invalid("port 0")),
        Route::Host(..) => need("route:host"),
        Route::SmartHost(name) if matches!(name.as_str(), "mx" | "host") => Err(invalid("no smart host has this name")),
        Route::SmartHost(name) => need(&format!("route:{name}")),
    }
}

pub(crate) fn add_tag(message: &Message, tag: &str) -> Result<(), EditError> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.:".contains(&byte);
    if tag.is_empty() || tag.len() > 64 || !tag.bytes().all(legal) {
        return Err(invalid("a tag is 1 to 64 characters of a-z, 0-9, -, _, . and :"));
    }
    message.write(Stage::MailFrom, 0, Edit::AddTag(tag.to_owned()))
}

fn need(grant: &str) -> Result<(), EditError> {
    if current().state().grants.contains(grant) { Ok(()) } else { Err(EditError::Denied(grant.to_owned())) }
}

pub(crate) fn instance<P: 'static>() -> Option<Rc<P>> {
    current().state().instance()
}

pub(crate) fn keep_instance(made: Rc<dyn Any>) {
    current().state().keep_instance(made);
}

/// The test's own harness does.
pub(crate) fn report_panics() {}

pub(crate) fn config_json() -> String {
    current().state().config.clone()
}

pub(crate) fn config_name() -> String {
    current().state().name.clone()
}

pub(crate) fn config_scope() -> String {
    current().state().scope.clone()
}

/// The played gateway asks the plugin itself.
pub(crate) fn config_skip(_: Stage, _: Direction) {}

pub(crate) fn log_write(level: Level, text: &str) {
    let level = match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    current().state().log(level, text);
}

pub(crate) fn metric_add(name: &str, by: u64) {
    let world = current();
    let mut state = world.state();
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let named = (1..=48).contains(&name.len()) && name.bytes().all(legal);
    let room =
        state.metrics.contains_key(name) || state.metrics.keys().filter(|name| *name != "other").count() < MAX_METRICS;
    *state.metrics.entry(if named && room { name } else { "other" }.to_owned()).or_default() += by;
}

pub(crate) fn now() -> u64 {
    current().state().clock / 10 * 10
}

/// The gateway is in UTC.
pub(crate) fn next_day() -> u64 {
    const DAY: u64 = 24 * 3600 * 1000;
    (current().state().clock / DAY + 1) * DAY
}

pub(crate) fn resolve(question: Question) -> Result<Answer, DnsError> {
    current().state().resolve(question)
}

pub(crate) fn resolve_many(questions: Vec<Question>) -> Vec<Result<Answer, DnsError>> {
    assert!(questions.len() <= MAX_QUESTIONS, "more than {MAX_QUESTIONS} questions");
    questions.into_iter().map(resolve).collect()
}

/// What `find` makes of the rows.
fn with_rows<T>(table: &str, find: impl FnOnce(&[(String, String)]) -> T) -> Result<T, TableError> {
    match current().state().tables.get(table) {
        None => Err(TableError::NoTable),
        Some(None) => Err(TableError::Unavailable),
        Some(Some(rows)) => Ok(find(rows)),
    }
}

fn value_of(rows: &[(String, String)], key: &str) -> Option<String> {
    rows.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)).map(|(_, value)| value.clone())
}

fn value_of_domain(rows: &[(String, String)], domain: &str) -> Option<String> {
    let parents = domain.match_indices('.').filter_map(|(dot, _)| domain.get(dot..));
    std::iter::once(domain).chain(parents).find_map(|key| value_of(rows, key))
}

pub(crate) fn table_lookup(table: &str, key: &str) -> Result<Option<String>, TableError> {
    with_rows(table, |rows| value_of(rows, key))
}

pub(crate) fn table_match_address(table: &str, address: &Address) -> Result<Option<String>, TableError> {
    with_rows(table, |rows| value_of(rows, &address.to_string()).or_else(|| value_of_domain(rows, &address.domain)))
}

pub(crate) fn table_match_domain(table: &str, domain: &str) -> Result<Option<String>, TableError> {
    with_rows(table, |rows| value_of_domain(rows, domain))
}

pub(crate) fn table_match_ip(table: &str, address: IpAddr) -> Result<Option<String>, TableError> {
    with_rows(table, |rows| {
        let networks = rows.iter().filter_map(|(key, value)| Some((key.parse::<Network>().ok()?, value)));
        let longest =
            networks.filter(|(network, _)| network.contains(address)).max_by_key(|(network, _)| network.specificity());
        longest.map(|(_, value)| value.clone())
    })
}

/// Windows of 48 hours at most, as in the gateway.
const MAX_WINDOW: u32 = 48 * 3600;

pub(crate) fn counter_add(key: &str, by: u64, seconds: u32) -> Result<u64, CountersFull> {
    let world = current();
    let mut state = world.state();
    let seconds = seconds.clamp(1, MAX_WINDOW);
    let window = state.clock / (u64::from(seconds) * 1000);
    let place = (key.to_owned(), seconds);
    if by > 0 && state.counters_full && !state.counters.contains_key(&place) {
        return Err(CountersFull);
    }
    let count = state.counters.entry(place).or_insert((window, 0));
    if count.0 != window {
        *count = (window, 0);
    }
    count.1 = count.1.saturating_add(by);
    Ok(count.1)
}

pub(crate) fn counter_blocked(key: &str) -> Option<u64> {
    let world = current();
    let state = world.state();
    state.blocks.get(key).copied().filter(|&until| until > state.clock)
}

pub(crate) fn counter_block(key: &str, until: u64) -> Result<(), CountersFull> {
    let world = current();
    let mut state = world.state();
    if state.counters_full && !state.blocks.contains_key(key) {
        return Err(CountersFull);
    }
    // A time that has passed ends the block.
    let until = until.min(state.clock.saturating_add(MAX_BLOCK_MILLIS));
    state.blocks.insert(key.to_owned(), until);
    Ok(())
}

const MAX_STORE_KEY: usize = 256;
const MAX_STORE_VALUE: usize = 4096;
const MAX_STORE_SECONDS: u32 = 365 * 24 * 3600;

pub(crate) fn store_read(key: &str) -> Option<Vec<u8>> {
    let world = current();
    let state = world.state();
    state.store.get(key).filter(|(until, _)| *until > state.clock).map(|(_, value)| value.clone())
}

pub(crate) fn store_write(key: &str, value: &[u8], seconds: u32) -> Result<(), StoreError> {
    let world = current();
    let mut state = world.state();
    if key.is_empty() || key.len() > MAX_STORE_KEY || value.len() > MAX_STORE_VALUE {
        return Err(StoreError::TooBig);
    }
    if state.store_full && !state.store.contains_key(key) {
        return Err(StoreError::Full);
    }
    let until = state.clock + u64::from(seconds.min(MAX_STORE_SECONDS)) * 1000;
    state.store.insert(key.to_owned(), (until, value.to_vec()));
    Ok(())
}

pub(crate) fn store_remove(key: &str) {
    current().state().store.remove(key);
}

pub(crate) fn service_id() -> String {
    "mx.test".to_owned()
}

/// Who asks too early or too late gets [`ReadError::Stage`].
fn at(message: &Message, from: Stage) -> Result<(), ReadError> {
    if (from..=Stage::Data).contains(&message.stage) { Ok(()) } else { Err(ReadError::Stage) }
}

pub(crate) fn origin(session: &Session, message: &Message) -> Result<Origin, ReadError> {
    let world = current();
    let state = world.state();
    let set = state.evidence.origin.clone();
    at(message, if set.as_ref().is_some_and(|origin| origin.relayed) { Stage::Data } else { Stage::MailFrom })?;
    let helo = || session.client.helo.as_ref().map(|helo| helo.name.clone());
    Ok(set.unwrap_or_else(|| Origin { address: session.client.address, helo: helo(), relayed: false }))
}

pub(crate) fn spf(session: &Session, message: &Message, identity: SpfIdentity) -> Result<Spf, ReadError> {
    let helo = origin(session, message)?.helo.unwrap_or_default();
    let world = current();
    let state = world.state();
    let (set, domain) = match (identity, &message.mail.reverse_path) {
        (SpfIdentity::MailFrom, Some(sender)) => (&state.evidence.spf_mail_from, sender.domain.clone()),
        (SpfIdentity::MailFrom, None) => (&state.evidence.spf_mail_from, helo),
        (SpfIdentity::Helo, _) => (&state.evidence.spf_helo, helo),
    };
    Ok(set.clone().unwrap_or_else(|| Spf {
        outcome: Outcome::None,
        identity,
        domain,
        reason: "no record".to_owned(),
        explanation: None,
    }))
}

pub(crate) fn dkim(message: &Message) -> Result<Vec<Signature>, ReadError> {
    at(message, Stage::Data)?;
    Ok(current().state().evidence.dkim.clone())
}

pub(crate) fn dmarc(_: &Session, message: &Message) -> Result<Dmarc, ReadError> {
    at(message, Stage::Data)?;
    Ok(current().state().evidence.dmarc.clone().unwrap_or_else(|| Dmarc {
        outcome: Outcome::None,
        domain: String::new(),
        policy_domain: String::new(),
        policy: DmarcPolicy::None,
        spf_aligned: false,
        dkim_aligned: false,
        reason: "no record".to_owned(),
    }))
}

pub(crate) fn arc(message: &Message) -> Result<Arc, ReadError> {
    at(message, Stage::Data)?;
    let none = || Arc { outcome: Outcome::None, sets: 0, sealer: None, reason: String::new() };
    Ok(current().state().evidence.arc.clone().unwrap_or_else(none))
}

pub(crate) fn signing_selectors(domain: &str) -> Vec<String> {
    current().state().keys.get(&domain.to_ascii_lowercase()).cloned().unwrap_or_default()
}

const MAX_SIGNATURES: usize = 8;

fn request(message: &Message, domain: &str, selector: &str, edit: Edit) -> Result<(), SigningError> {
    if message.stage != Stage::Deliver {
        return Err(SigningError::Stage);
    }
    if !signing_selectors(domain).iter().any(|known| known == selector) {
        return Err(SigningError::NoKey);
    }
    let mut journal = message.journal.borrow_mut();
    if journal.contains(&edit) {
        return Ok(());
    }
    let asked = journal.iter().filter(|edit| matches!(edit, Edit::Sign { .. } | Edit::Seal { .. }));
    if asked.count() >= MAX_SIGNATURES {
        return Err(SigningError::Full);
    }
    journal.push(edit);
    Ok(())
}

pub(crate) fn sign(message: &Message, domain: &str, selector: &str) -> Result<(), SigningError> {
    let edit = Edit::Sign { domain: domain.to_ascii_lowercase(), selector: selector.to_owned() };
    request(message, domain, selector, edit)
}

pub(crate) fn seal(message: &Message, domain: &str, selector: &str) -> Result<(), SigningError> {
    let edit = Edit::Seal { domain: domain.to_ascii_lowercase(), selector: selector.to_owned() };
    request(message, domain, selector, edit)
}

pub(crate) fn virus(message: &Message, scanner: &str) -> Result<Option<String>, ScanError> {
    at(message, Stage::Data).map_err(|_| ScanError::Stage)?;
    current().state().viruses.get(scanner).cloned().unwrap_or(Err(ScanError::NoScanner))
}

pub(crate) fn assess(_: &Session, message: &Message, scanner: &str) -> Result<Assessment, ScanError> {
    at(message, Stage::Data).map_err(|_| ScanError::Stage)?;
    current().state().assessments.get(scanner).cloned().unwrap_or(Err(ScanError::NoScanner))
}

pub(crate) fn call_ahead(address: &Address) -> Presence {
    let unavailable = || Presence::Unavailable("no destination".to_owned());
    current().state().presences.get(&address.to_string()).cloned().unwrap_or_else(unavailable)
}
