//! A name server for tests, on loopback: a table of answers, some of which no honest server gives.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, NULL, PTR, SOA, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::{Resolver, Settings};
use crate::metrics::Metrics;

/// What fits into a datagram that is not fragmented on its way.
const MAX_UDP: usize = 1232;

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Records(Vec<RData>),
    /// SERVFAIL, REFUSED …
    Code(ResponseCode),
    Silent,
    /// Over UDP truncated; over TCP these.
    OverTcp(Vec<RData>),
    /// Truncated over both.
    Truncated,
    /// NOERROR and nothing at all: no SOA.
    Empty,
    /// No answer, but other servers to ask (lame).
    Referral,
    /// The right records under the wrong message id.
    WrongId,
    /// The right records for another question.
    WrongQuestion,
    /// Octets that are no message.
    Rubbish,
}

#[derive(Debug, Default)]
struct Zone {
    answers: HashMap<(String, RecordType), Answer>,
    queries: HashMap<(String, RecordType), usize>,
}

/// Ends with its last clone's tasks when the test's runtime does.
#[derive(Debug, Clone)]
pub(crate) struct Responder {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl Responder {
    pub(crate) async fn start() -> Self {
        let zone = Arc::new(Mutex::new(Zone::default()));
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            // The same port must be free for UDP too.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = tcp.local_addr().unwrap();
        tokio::spawn(serve_udp(udp, zone.clone()));
        tokio::spawn(serve_tcp(tcp, zone.clone()));
        Self { address, zone }
    }

    pub(crate) fn set(&self, name: &str, kind: RecordType, answer: Answer) -> &Self {
        self.zone.lock().unwrap().answers.insert((name.to_owned(), kind), answer);
        self
    }

    pub(crate) fn a(&self, name: &str, addresses: &[&str]) -> &Self {
        let data = addresses.iter().map(|ip| RData::A(A(ip.parse().unwrap()))).collect();
        self.set(name, RecordType::A, Answer::Records(data))
    }

    pub(crate) fn aaaa(&self, name: &str, addresses: &[&str]) -> &Self {
        let data = addresses.iter().map(|ip| RData::AAAA(AAAA(ip.parse().unwrap()))).collect();
        self.set(name, RecordType::AAAA, Answer::Records(data))
    }

    pub(crate) fn mx(&self, name: &str, exchanges: &[(u16, &str)]) -> &Self {
        let data = exchanges.iter().map(|(preference, host)| RData::MX(MX::new(*preference, absolute(host)))).collect();
        self.set(name, RecordType::MX, Answer::Records(data))
    }

    pub(crate) fn ptr(&self, address: &str, names: &[&str]) -> &Self {
        let reverse = Name::from(address.parse::<std::net::IpAddr>().unwrap()).to_ascii();
        let data = names.iter().map(|name| RData::PTR(PTR(absolute(name)))).collect();
        self.set(reverse.trim_end_matches('.'), RecordType::PTR, Answer::Records(data))
    }

    pub(crate) fn cname(&self, name: &str, target: &str) -> &Self {
        self.set(name, RecordType::CNAME, Answer::Records(vec![RData::CNAME(CNAME(absolute(target)))]))
    }

    /// How often it was asked.
    pub(crate) fn queries(&self, name: &str, kind: RecordType) -> usize {
        self.zone.lock().unwrap().queries.get(&(name.to_owned(), kind)).copied().unwrap_or(0)
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            servers: vec![self.address],
            system: false,
            timeout: Duration::from_millis(300),
            attempts: 2,
            cache_entries: 1000,
            max_concurrent: 64,
        }
    }

    pub(crate) fn resolver(&self) -> Resolver {
        Resolver::new(self.settings(), Arc::new(Metrics::new().unwrap())).unwrap()
    }
}

pub(crate) fn absolute(name: &str) -> Name {
    let mut name = if name == "." { Name::root() } else { Name::from_ascii(name).unwrap() };
    name.set_fqdn(true);
    name
}

pub(crate) fn txt(strings: &[&str]) -> RData {
    RData::TXT(TXT::new(strings.iter().map(|&string| string.to_owned()).collect()))
}

/// Octets in the place of the rdata, whatever they are.
pub(crate) fn raw(kind: RecordType, octets: &[u8]) -> RData {
    match octets {
        [] => RData::Update0(kind),
        octets => RData::Unknown { code: kind, rdata: NULL::with(octets.to_vec()) },
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = vec![0; 4096];
    while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
        if let Some(response) = respond(&buffer[..len], &zone, false) {
            let _ = socket.send_to(&response, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let zone = zone.clone();
        tokio::spawn(async move {
            while let Ok(len) = stream.read_u16().await {
                let mut query = vec![0; len.into()];
                stream.read_exact(&mut query).await?;
                if let Some(response) = respond(&query, &zone, true) {
                    stream.write_u16(u16::try_from(response.len()).unwrap()).await?;
                    stream.write_all(&response).await?;
                }
            }
            std::io::Result::Ok(())
        });
    }
}

fn respond(query: &[u8], zone: &Mutex<Zone>, tcp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let kind = question.query_type();
    let mut zone = zone.lock().unwrap();
    *zone.queries.entry((name.clone(), kind)).or_default() += 1;
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_query(question.clone());
    let add = |message: &mut Message, records: &[RData]| {
        for data in records {
            message.add_answer(Record::from_rdata(question.name().clone(), 300, data.clone()));
        }
    };
    let answer =
        zone.answers.get(&(name.clone(), kind)).or_else(|| zone.answers.get(&(name.clone(), RecordType::CNAME)));
    match answer {
        Some(Answer::Records(records)) => add(&mut message, records),
        Some(Answer::OverTcp(records)) if tcp => add(&mut message, records),
        Some(Answer::OverTcp(_) | Answer::Truncated) => message.metadata.truncation = true,
        Some(Answer::Code(code)) => message.metadata.response_code = *code,
        Some(Answer::Silent) => return None,
        Some(Answer::Empty) => {}
        Some(Answer::Referral) => {
            let elsewhere = RData::NS(NS(absolute("ns.elsewhere.example")));
            message.add_authority(Record::from_rdata(question.name().clone(), 300, elsewhere));
        }
        Some(Answer::WrongId) => {
            message.metadata.id = message.metadata.id.wrapping_add(1);
            add(&mut message, &[RData::A(A::new(192, 0, 2, 66))]);
        }
        Some(Answer::WrongQuestion) => {
            message.queries.clear();
            message.add_query(hickory_resolver::proto::op::Query::query(absolute("other.example"), kind));
            message.add_answer(Record::from_rdata(absolute("other.example"), 300, RData::A(A::new(192, 0, 2, 66))));
        }
        Some(Answer::Rubbish) => return Some([&query.metadata.id.to_be_bytes()[..], b"\xff\xff not DNS"].concat()),
        None => {
            if !zone.answers.keys().any(|(known, _)| *known == name) {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
            let soa = SOA::new(absolute("ns.example"), absolute("root.example"), 1, 60, 60, 60, 60);
            message.add_authority(Record::from_rdata(absolute("example"), 60, RData::SOA(soa)));
        }
    }
    let wire = message.to_vec().ok()?;
    if tcp || wire.len() <= MAX_UDP { Some(wire) } else { message.truncate().to_vec().ok() }
}
