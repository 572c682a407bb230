//! What a name server may do instead of answering as it should.

use std::time::Duration;

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, NS, NULL, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::absolute;

#[derive(Debug, Clone)]
pub enum Manner {
    /// REFUSED, FORMERR …
    Code(ResponseCode),
    /// No answer, but other servers to ask.
    Lame,
    /// Says over UDP that there is more, and has it over TCP, if there is TCP.
    OverTcp(Vec<RData>),
    /// The answer under the wrong id, for another question, or octets that are no message.
    WrongId,
    WrongQuestion,
    Rubbish,
    /// Hundreds of answers under wrong ids, that somebody else has sent, and then the right one.
    Flooded,
    /// The right one, later.
    Late(Duration),
    /// An alias of that name, and nothing more.
    AliasOf(String),
    /// RFC 6672: everything below is redirected to below, and longer each time.
    Dname,
    /// These octets in the place of the data, whatever is asked for.
    Octets(Vec<u8>),
}

/// What is sent: so much later, these datagrams; the honest answer behind them where `honest`.
pub(super) struct Response {
    pub(super) after: Duration,
    pub(super) messages: Vec<Vec<u8>>,
    pub(super) honest: bool,
}

/// What a forger would want to be believed.
fn forged(kind: RecordType) -> RData {
    match kind {
        RecordType::TXT => RData::TXT(TXT::new(vec!["v=spf1 +all".to_owned()])),
        RecordType::MX => RData::MX(MX::new(1, absolute("forged.example"))),
        _ => RData::A(A::new(192, 0, 2, 66)),
    }
}

/// `None`: it is no question.
pub(super) fn respond(manner: &Manner, query: &[u8], tcp: bool) -> Option<Response> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let (name, kind) = (question.name().clone(), question.query_type());
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_query(question);
    let add = |message: &mut Message, data: RData| {
        message.add_answer(Record::from_rdata(name.clone(), 300, data));
    };
    let (mut after, mut honest, mut before) = (Duration::ZERO, false, Vec::new());
    match manner {
        Manner::Code(code) => message.metadata.response_code = *code,
        Manner::Lame => {
            let elsewhere = RData::NS(NS(absolute("ns.elsewhere.example")));
            message.add_authority(Record::from_rdata(name.clone(), 300, elsewhere));
        }
        Manner::OverTcp(records) if tcp => records.iter().for_each(|data| add(&mut message, data.clone())),
        Manner::OverTcp(_) => message.metadata.truncation = true,
        Manner::WrongId => {
            message.metadata.id = message.metadata.id.wrapping_add(1);
            add(&mut message, forged(kind));
        }
        Manner::WrongQuestion => {
            message.queries.clear();
            message.add_query(Query::query(absolute("other.example"), kind));
            message.add_answer(Record::from_rdata(absolute("other.example"), 300, forged(kind)));
        }
        Manner::Rubbish => before.push([&query.metadata.id.to_be_bytes()[..], b"\xff\xff no message"].concat()),
        Manner::Flooded => {
            honest = true;
            for wrong in 1..300 {
                let mut spoof = message.clone();
                spoof.metadata.id = query.metadata.id.wrapping_add(wrong);
                add(&mut spoof, forged(kind));
                before.push(spoof.to_vec().ok()?);
            }
        }
        Manner::Late(time) => (after, honest) = (*time, true),
        Manner::AliasOf(target) => add(&mut message, RData::CNAME(CNAME(absolute(target)))),
        Manner::Dname => {
            let target = Name::from_ascii(format!("a.{name}")).ok()?;
            let data = NULL::with(b"\x01a\x05dname\x07example\0".to_vec());
            let dname = RData::Unknown { code: RecordType::Unknown(39), rdata: data };
            message.add_answer(Record::from_rdata(absolute("dname.example"), 300, dname));
            add(&mut message, RData::CNAME(CNAME(target)));
        }
        Manner::Octets(octets) if octets.is_empty() => add(&mut message, RData::Update0(kind)),
        Manner::Octets(octets) => {
            add(&mut message, RData::Unknown { code: kind, rdata: NULL::with(octets.clone()) });
        }
    }
    let is_told = !honest && !matches!(manner, Manner::Rubbish);
    let messages = before.into_iter().chain(is_told.then(|| message.to_vec().ok()).flatten()).collect();
    Some(Response { after, messages, honest })
}
