//! The plugin on the side of WebAssembly: the bindings made from `wit/`, and how the crate's own types cross them.
//!
//! The imports are here. The exports are made in the plugin's own crate, by `#[plugin]`: a world with the stages it has
//! written, each of which calls the function of its name here.

#![allow(unsafe_code, reason = "generated: the canonical ABI is made of pointers")]

use std::rc::Rc;

use crate::plugin::{Plugin, check, instance};
use crate::{Address, Event, EventKind, Reply};

pub mod imports {
    wit_bindgen::generate!({
        world: "capabilities",
        path: "../../wit",
        runtime_path: "::wit_bindgen::rt",
    });
}
use imports::postern::plugin as wit;
pub use wit::message::{Message, Recipient};
pub use wit::session::Session;
pub use wit::types::Verdict;
pub use wit_bindgen;

pub fn load<P: Plugin>() -> Result<(), String> {
    check::<P>()
}

pub fn connect<P: Plugin>(session: &Session) -> Verdict {
    asked::<P>().connect(&crate::Session::new(session)).into()
}

pub fn helo<P: Plugin>(session: &Session) -> Verdict {
    asked::<P>().helo(&crate::Session::new(session)).into()
}

pub fn mail_from<P: Plugin>(session: &Session, message: &Message) -> Verdict {
    asked::<P>().mail_from(&crate::Session::new(session), &crate::Message::new(message)).into()
}

pub fn rcpt<P: Plugin>(session: &Session, message: &Message, recipient: Recipient) -> Verdict {
    asked::<P>().rcpt(&crate::Session::new(session), &crate::Message::new(message), &recipient.into()).into()
}

pub fn data<P: Plugin>(session: &Session, message: &Message) -> Verdict {
    asked::<P>().data(&crate::Session::new(session), &crate::Message::new(message)).into()
}

pub fn deliver<P: Plugin>(session: &Session, message: &Message) -> Verdict {
    asked::<P>().deliver(&crate::Session::new(session), &crate::Message::new(message)).into()
}

/// `kind` by its place in the contract's enumeration.
pub fn event<P: Plugin>(kind: u8, id: String, recipient: String, detail: String) {
    let kind = match kind {
        0 => EventKind::Accepted,
        1 => EventKind::Delivered,
        2 => EventKind::Deferred,
        3 => EventKind::Bounced,
        4 => EventKind::Expired,
        5 => EventKind::Quarantined,
        _ => EventKind::Discarded,
    };
    asked::<P>().event(&Event { kind, id, recipient, detail });
}

/// The instance, at a stage. Its config was checked when it was loaded, so an error here is the gateway's or ours: it
/// is logged, and the trap makes the plugin's failure policy speak.
fn asked<P: Plugin>() -> Rc<P> {
    instance::<P>().unwrap_or_else(|error| {
        sys::log_write(crate::log::Level::Error, &error);
        std::process::abort()
    })
}

impl From<crate::Verdict> for Verdict {
    fn from(verdict: crate::Verdict) -> Self {
        match verdict {
            crate::Verdict::Next => Self::Next,
            crate::Verdict::Accept => Self::Accept,
            crate::Verdict::Reject(reply) => Self::Reject(reply.into()),
            crate::Verdict::Defer(reply) => Self::Defer(reply.into()),
            crate::Verdict::Discard => Self::Discard,
            crate::Verdict::Quarantine(reason) => Self::Quarantine(reason),
            crate::Verdict::Disconnect(reply) => Self::Disconnect(reply.into()),
        }
    }
}

impl From<Reply> for wit::types::Reply {
    fn from(reply: Reply) -> Self {
        let code = reply.code();
        Self { code: code.reply, status: Some((code.subject, code.detail)), text: reply.text().to_owned() }
    }
}

impl From<wit::types::Address> for Address {
    fn from(address: wit::types::Address) -> Self {
        Self { local_part: address.local_part, domain: address.domain }
    }
}

impl From<&Address> for wit::types::Address {
    fn from(address: &Address) -> Self {
        Self { local_part: address.local_part.clone(), domain: address.domain.clone() }
    }
}

impl From<Recipient> for crate::Recipient {
    fn from(recipient: Recipient) -> Self {
        Self { address: recipient.address.into(), original: recipient.original }
    }
}

/// What the rest of the crate asks the gateway through; `testing::sys` has the same.
pub(crate) mod sys {
    pub(crate) use super::wit::message::Message;
    pub(crate) use super::wit::session::Session;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use std::any::Any;
    use std::cell::OnceCell;
    use std::rc::Rc;

    use super::wit;
    use crate::Address;
    use crate::authentication::{Arc, Dmarc, DmarcPolicy, Origin, Outcome, Signature, Spf, SpfIdentity};
    use crate::call_ahead::Presence;
    use crate::counters::CountersFull;
    use crate::dns::{Answer, DnsError, Exchange, Question, RecordType};
    use crate::scan::{Assessment, ScanError, Symbol};
    use crate::signing::SigningError;
    use crate::store::StoreError;
    use crate::tables::TableError;
    use crate::{ClientName, Direction, EditError, Field, Helo, Part, Position, ReadError, Role, Route, Tls};
    pub(crate) use wit::authentication::service_id;
    pub(crate) use wit::clock::{next_day, now};
    pub(crate) use wit::config::{json as config_json, name as config_name, scope as config_scope};
    pub(crate) use wit::counters::blocked as counter_blocked;
    pub(crate) use wit::metrics::add as metric_add;
    pub(crate) use wit::signing::selectors as signing_selectors;
    pub(crate) use wit::store::{read as store_read, remove as store_remove};

    pub(crate) fn config_skip(stage: crate::Stage, direction: Direction) {
        let stage = match stage {
            crate::Stage::Connect => wit::config::Stage::Connect,
            crate::Stage::Helo => wit::config::Stage::Helo,
            crate::Stage::MailFrom => wit::config::Stage::MailFrom,
            crate::Stage::Rcpt => wit::config::Stage::Rcpt,
            crate::Stage::Data => wit::config::Stage::Data,
            crate::Stage::Deliver => wit::config::Stage::Deliver,
            crate::Stage::Event => wit::config::Stage::Event,
        };
        let direction = match direction {
            Direction::Inbound => wit::types::Direction::Inbound,
            Direction::Outbound => wit::types::Direction::Outbound,
        };
        wit::config::skip(stage, direction);
    }

    thread_local! {
        /// One instance of the component has one instance of the plugin.
        static INSTANCE: OnceCell<Rc<dyn Any>> = const { OnceCell::new() };
    }

    pub(crate) fn instance<P: 'static>() -> Option<Rc<P>> {
        INSTANCE.with(|kept| kept.get().cloned()).and_then(|kept| kept.downcast().ok())
    }

    pub(crate) fn keep_instance(made: Rc<dyn Any>) {
        INSTANCE.with(|kept| _ = kept.set(made));
    }

    /// A panic would else leave no word: there is no standard error.
    pub(crate) fn report_panics() {
        std::panic::set_hook(Box::new(|panic| log_write(crate::log::Level::Error, &panic.to_string())));
    }

    fn ip(address: wit::types::IpAddress) -> IpAddr {
        match address {
            wit::types::IpAddress::Ipv4((a, b, c, d)) => Ipv4Addr::new(a, b, c, d).into(),
            wit::types::IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => Ipv6Addr::new(a, b, c, d, e, f, g, h).into(),
        }
    }

    fn wit_ip(address: IpAddr) -> wit::types::IpAddress {
        match address {
            IpAddr::V4(ip) => wit::types::IpAddress::Ipv4(ip.octets().into()),
            IpAddr::V6(ip) => wit::types::IpAddress::Ipv6(ip.segments().into()),
        }
    }

    pub(crate) fn client_address(session: &Session) -> IpAddr {
        ip(session.client_address())
    }

    pub(crate) fn client_name(session: &Session) -> ClientName {
        match session.client_name() {
            wit::session::ClientName::Verified(name) => ClientName::Verified(name),
            wit::session::ClientName::Unconfirmed(name) => ClientName::Unconfirmed(name),
            wit::session::ClientName::None => ClientName::None,
            wit::session::ClientName::TemporaryFailure => ClientName::TemporaryFailure,
        }
    }

    pub(crate) fn role(session: &Session) -> Role {
        match session.role() {
            wit::session::Role::Inbound => Role::Inbound,
            wit::session::Role::Submission => Role::Submission,
            wit::session::Role::Relay => Role::Relay,
        }
    }

    pub(crate) fn direction(session: &Session) -> Direction {
        match session.direction() {
            wit::types::Direction::Inbound => Direction::Inbound,
            wit::types::Direction::Outbound => Direction::Outbound,
        }
    }

    pub(crate) fn helo(session: &Session) -> Option<Helo> {
        session.helo().map(|helo| Helo { name: helo.name, extended: helo.extended })
    }

    pub(crate) fn tls(session: &Session) -> Option<Tls> {
        session.tls().map(|tls| Tls { version: tls.version, cipher: tls.cipher, server_name: tls.server_name })
    }

    pub(crate) fn reverse_path(message: &Message) -> Option<Address> {
        message.reverse_path().map(Into::into)
    }

    pub(crate) fn recipients(message: &Message) -> Vec<crate::Recipient> {
        message.recipients().into_iter().map(Into::into).collect()
    }

    fn read_error(error: wit::message::ReadError) -> ReadError {
        match error {
            wit::message::ReadError::Stage => ReadError::Stage,
            wit::message::ReadError::NoPart => ReadError::NoPart,
            wit::message::ReadError::Unparsable => ReadError::Unparsable,
            wit::message::ReadError::Failed => ReadError::Failed,
        }
    }

    fn edit_error(error: wit::message::EditError) -> EditError {
        match error {
            wit::message::EditError::Stage => EditError::Stage,
            wit::message::EditError::Invalid(what) => EditError::Invalid(what),
            wit::message::EditError::Denied(grant) => EditError::Denied(grant),
            wit::message::EditError::Full => EditError::Full,
        }
    }

    pub(crate) fn fields(message: &Message) -> Result<Vec<Field>, ReadError> {
        let fields = message.fields().map_err(read_error)?;
        Ok(fields.into_iter().map(|field| Field { name: field.name, value: field.value }).collect())
    }

    pub(crate) fn header(message: &Message, name: &str) -> Result<Vec<Vec<u8>>, ReadError> {
        message.header(name).map_err(read_error)
    }

    pub(crate) fn body_size(message: &Message) -> Result<u64, ReadError> {
        message.body_size().map_err(read_error)
    }

    pub(crate) fn read(message: &Message, offset: u64, len: u32) -> Result<Vec<u8>, ReadError> {
        message.read(offset, len).map_err(read_error)
    }

    pub(crate) fn search(message: &Message, needle: &[u8], offset: u64) -> Result<Option<u64>, ReadError> {
        message.search(needle, offset).map_err(read_error)
    }

    pub(crate) fn digest(message: &Message) -> Result<Vec<u8>, ReadError> {
        message.digest().map_err(read_error)
    }

    pub(crate) fn parts(message: &Message) -> Result<Vec<Part>, ReadError> {
        let parts = message.parts().map_err(read_error)?;
        let part = |part: wit::message::Part| Part {
            content_type: part.content_type,
            filename: part.filename,
            attachment: part.attachment,
            size: part.size,
        };
        Ok(parts.into_iter().map(part).collect())
    }

    pub(crate) fn read_part(message: &Message, index: u32, offset: u64, len: u32) -> Result<Vec<u8>, ReadError> {
        message.read_part(index, offset, len).map_err(read_error)
    }

    pub(crate) fn add_header(message: &Message, name: &str, value: &str, at: Position) -> Result<(), EditError> {
        let at = match at {
            Position::Top => wit::message::Position::Top,
            Position::Bottom => wit::message::Position::Bottom,
        };
        message.add_header(name, value, at).map_err(edit_error)
    }

    pub(crate) fn replace_header(
        message: &Message,
        name: &str,
        nth: u32,
        value: Option<&str>,
    ) -> Result<(), EditError> {
        message.replace_header(name, nth, value).map_err(edit_error)
    }

    pub(crate) fn replace_body(message: &Message, body: &[u8]) -> Result<(), EditError> {
        message.replace_body(body).map_err(edit_error)
    }

    pub(crate) fn set_reverse_path(message: &Message, path: Option<&Address>) -> Result<(), EditError> {
        message.set_reverse_path(path.map(Into::into).as_ref()).map_err(edit_error)
    }

    pub(crate) fn add_recipient(message: &Message, address: &Address) -> Result<(), EditError> {
        message.add_recipient(&address.into()).map_err(edit_error)
    }

    pub(crate) fn remove_recipient(message: &Message, address: &Address) -> Result<(), EditError> {
        message.remove_recipient(&address.into()).map_err(edit_error)
    }

    pub(crate) fn set_route(message: &Message, route: &Route) -> Result<(), EditError> {
        message.set_route(&wit_route(route)).map_err(edit_error)
    }

    pub(crate) fn set_recipient_route(message: &Message, address: &Address, route: &Route) -> Result<(), EditError> {
        message.set_recipient_route(&address.into(), &wit_route(route)).map_err(edit_error)
    }

    fn wit_route(route: &Route) -> wit::message::Route {
        match route {
            Route::Mx => wit::message::Route::Mx,
            Route::MxOf(domain) => wit::message::Route::MxOf(domain.clone()),
            Route::Host(host, port) => wit::message::Route::Host((host.clone(), *port)),
            Route::SmartHost(name) => wit::message::Route::SmartHost(name.clone()),
        }
    }

    pub(crate) fn add_tag(message: &Message, tag: &str) -> Result<(), EditError> {
        message.add_tag(tag).map_err(edit_error)
    }

    fn wit_question(question: Question) -> wit::dns::Question {
        let kind = match question.kind {
            RecordType::A => wit::dns::RecordType::A,
            RecordType::Aaaa => wit::dns::RecordType::Aaaa,
            RecordType::Mx => wit::dns::RecordType::Mx,
            RecordType::Txt => wit::dns::RecordType::Txt,
            RecordType::Ptr => wit::dns::RecordType::Ptr,
            RecordType::Ns => wit::dns::RecordType::Ns,
            RecordType::Cname => wit::dns::RecordType::Cname,
        };
        wit::dns::Question { name: question.name, kind }
    }

    fn answer(answer: Result<wit::dns::Answer, wit::dns::DnsError>) -> Result<Answer, DnsError> {
        match answer {
            Ok(wit::dns::Answer::Addresses(addresses)) => {
                Ok(Answer::Addresses(addresses.into_iter().map(ip).collect()))
            }
            Ok(wit::dns::Answer::Exchanges(exchanges)) => {
                let exchange = |mx: wit::dns::Exchange| Exchange { preference: mx.preference, host: mx.host };
                Ok(Answer::Exchanges(exchanges.into_iter().map(exchange).collect()))
            }
            Ok(wit::dns::Answer::Texts(texts)) => Ok(Answer::Texts(texts)),
            Ok(wit::dns::Answer::Names(names)) => Ok(Answer::Names(names)),
            Err(wit::dns::DnsError::NotFound) => Err(DnsError::NotFound),
            Err(wit::dns::DnsError::Temporary) => Err(DnsError::Temporary),
            Err(wit::dns::DnsError::TimedOut) => Err(DnsError::TimedOut),
            Err(wit::dns::DnsError::BadName) => Err(DnsError::BadName),
        }
    }

    pub(crate) fn resolve(question: Question) -> Result<Answer, DnsError> {
        answer(wit::dns::resolve(&wit_question(question)))
    }

    pub(crate) fn resolve_many(questions: Vec<Question>) -> Vec<Result<Answer, DnsError>> {
        let questions: Vec<_> = questions.into_iter().map(wit_question).collect();
        wit::dns::resolve_many(&questions).into_iter().map(answer).collect()
    }

    fn table_error(error: wit::tables::TableError) -> TableError {
        match error {
            wit::tables::TableError::NoTable => TableError::NoTable,
            wit::tables::TableError::Unavailable => TableError::Unavailable,
        }
    }

    pub(crate) fn table_lookup(table: &str, key: &str) -> Result<Option<String>, TableError> {
        wit::tables::lookup(table, key).map_err(table_error)
    }

    pub(crate) fn table_match_address(table: &str, address: &Address) -> Result<Option<String>, TableError> {
        wit::tables::match_address(table, &address.into()).map_err(table_error)
    }

    pub(crate) fn table_match_domain(table: &str, domain: &str) -> Result<Option<String>, TableError> {
        wit::tables::match_domain(table, domain).map_err(table_error)
    }

    pub(crate) fn table_match_ip(table: &str, address: IpAddr) -> Result<Option<String>, TableError> {
        wit::tables::match_ip(table, wit_ip(address)).map_err(table_error)
    }

    pub(crate) fn counter_add(key: &str, by: u64, seconds: u32) -> Result<u64, CountersFull> {
        wit::counters::add(key, by, seconds).map_err(|_| CountersFull)
    }

    pub(crate) fn counter_block(key: &str, until: u64) -> Result<(), CountersFull> {
        wit::counters::block(key, until).map_err(|_| CountersFull)
    }

    pub(crate) fn store_write(key: &str, value: &[u8], seconds: u32) -> Result<(), StoreError> {
        wit::store::write(key, value, seconds).map_err(|error| match error {
            wit::store::StoreError::TooBig => StoreError::TooBig,
            wit::store::StoreError::Full => StoreError::Full,
        })
    }

    fn outcome(outcome: wit::authentication::Outcome) -> Outcome {
        match outcome {
            wit::authentication::Outcome::None => Outcome::None,
            wit::authentication::Outcome::Pass => Outcome::Pass,
            wit::authentication::Outcome::Fail => Outcome::Fail,
            wit::authentication::Outcome::Softfail => Outcome::Softfail,
            wit::authentication::Outcome::Neutral => Outcome::Neutral,
            wit::authentication::Outcome::Policy => Outcome::Policy,
            wit::authentication::Outcome::Temperror => Outcome::Temperror,
            wit::authentication::Outcome::Permerror => Outcome::Permerror,
        }
    }

    pub(crate) fn origin(session: &Session, message: &Message) -> Result<Origin, ReadError> {
        let origin = wit::authentication::origin(session, message).map_err(read_error)?;
        Ok(Origin { address: ip(origin.address), helo: origin.helo, relayed: origin.relayed })
    }

    pub(crate) fn spf(session: &Session, message: &Message, identity: SpfIdentity) -> Result<Spf, ReadError> {
        let spf = match identity {
            SpfIdentity::Helo => wit::authentication::spf_helo(session, message),
            SpfIdentity::MailFrom => wit::authentication::spf_mail_from(session, message),
        };
        let spf = spf.map_err(read_error)?;
        let identity = match spf.identity {
            wit::authentication::SpfIdentity::Helo => SpfIdentity::Helo,
            wit::authentication::SpfIdentity::MailFrom => SpfIdentity::MailFrom,
        };
        let (domain, reason, explanation) = (spf.domain, spf.reason, spf.explanation);
        Ok(Spf { outcome: outcome(spf.outcome), identity, domain, reason, explanation })
    }

    pub(crate) fn dkim(message: &Message) -> Result<Vec<Signature>, ReadError> {
        let signature = |signature: wit::authentication::DkimResult| Signature {
            outcome: outcome(signature.outcome),
            domain: signature.domain,
            selector: signature.selector,
            identity: signature.identity,
            algorithm: signature.algorithm,
            value: signature.value,
            testing: signature.testing,
            reason: signature.reason,
        };
        Ok(wit::authentication::dkim(message).map_err(read_error)?.into_iter().map(signature).collect())
    }

    pub(crate) fn dmarc(session: &Session, message: &Message) -> Result<Dmarc, ReadError> {
        let dmarc = wit::authentication::dmarc(session, message).map_err(read_error)?;
        let policy = match dmarc.policy {
            wit::authentication::DmarcPolicy::None => DmarcPolicy::None,
            wit::authentication::DmarcPolicy::Quarantine => DmarcPolicy::Quarantine,
            wit::authentication::DmarcPolicy::Reject => DmarcPolicy::Reject,
        };
        Ok(Dmarc {
            outcome: outcome(dmarc.outcome),
            domain: dmarc.domain,
            policy_domain: dmarc.policy_domain,
            policy,
            spf_aligned: dmarc.spf_aligned,
            dkim_aligned: dmarc.dkim_aligned,
            reason: dmarc.reason,
        })
    }

    pub(crate) fn arc(message: &Message) -> Result<Arc, ReadError> {
        let arc = wit::authentication::arc(message).map_err(read_error)?;
        Ok(Arc { outcome: outcome(arc.outcome), sets: arc.sets, sealer: arc.sealer, reason: arc.reason })
    }

    fn signing_error(error: wit::signing::SigningError) -> SigningError {
        match error {
            wit::signing::SigningError::Stage => SigningError::Stage,
            wit::signing::SigningError::NoKey => SigningError::NoKey,
            wit::signing::SigningError::Denied => SigningError::Denied,
            wit::signing::SigningError::Full => SigningError::Full,
        }
    }

    pub(crate) fn sign(message: &Message, domain: &str, selector: &str) -> Result<(), SigningError> {
        wit::signing::sign(message, domain, selector).map_err(signing_error)
    }

    pub(crate) fn seal(message: &Message, domain: &str, selector: &str) -> Result<(), SigningError> {
        wit::signing::seal(message, domain, selector).map_err(signing_error)
    }

    fn scan_error(error: wit::scan::ScanError) -> ScanError {
        match error {
            wit::scan::ScanError::Stage => ScanError::Stage,
            wit::scan::ScanError::NoScanner => ScanError::NoScanner,
            wit::scan::ScanError::TooBig(most) => ScanError::TooBig(most),
            wit::scan::ScanError::Unavailable(why) => ScanError::Unavailable(why),
        }
    }

    pub(crate) fn virus(message: &Message, scanner: &str) -> Result<Option<String>, ScanError> {
        wit::scan::virus(message, scanner).map_err(scan_error)
    }

    pub(crate) fn assess(session: &Session, message: &Message, scanner: &str) -> Result<Assessment, ScanError> {
        let said = wit::scan::assess(session, message, scanner).map_err(scan_error)?;
        let symbol = |symbol: wit::scan::Symbol| Symbol { name: symbol.name, score: symbol.score };
        Ok(Assessment {
            score: said.score,
            required: said.required,
            action: said.action,
            symbols: said.symbols.into_iter().map(symbol).collect(),
            subject: said.subject,
            text: said.text,
        })
    }

    pub(crate) fn call_ahead(address: &Address) -> Presence {
        match wit::call_ahead::recipient(&address.into()) {
            wit::call_ahead::Presence::Exists => Presence::Exists,
            wit::call_ahead::Presence::Unknown(reply) => Presence::Unknown(reply),
            wit::call_ahead::Presence::Unavailable(why) => Presence::Unavailable(why),
        }
    }

    pub(crate) fn log_write(level: crate::log::Level, text: &str) {
        let level = match level {
            crate::log::Level::Debug => wit::log::Level::Debug,
            crate::log::Level::Info => wit::log::Level::Info,
            crate::log::Level::Warn => wit::log::Level::Warn,
            crate::log::Level::Error => wit::log::Level::Error,
        };
        wit::log::write(level, text);
    }
}
