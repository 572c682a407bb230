//! A name server in this process, over UDP on loopback, and over TCP where it is told to. What it was not told does not
//! exist; what a hostile one does stands in [`Manner`].

mod manner;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

pub use manner::Manner;

#[derive(Default)]
struct Zone {
    records: HashMap<(String, RecordType), Vec<RData>>,
    failing: HashSet<String>,
    silent: HashSet<String>,
    manners: HashMap<String, Manner>,
    asked: HashMap<String, usize>,
}

/// Ends with the test's runtime.
#[derive(Clone)]
pub struct Dns {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl Dns {
    /// # Errors
    /// No port is free.
    pub async fn start() -> std::io::Result<Self> {
        Self::listen(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?)
    }

    /// Over TCP, too.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start_with_tcp() -> std::io::Result<Self> {
        let (listener, socket) = loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            // The same port must be free for UDP.
            if let Ok(socket) = UdpSocket::bind(listener.local_addr()?).await {
                break (listener, socket);
            }
        };
        let dns = Self::listen(socket)?;
        let server = dns.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    while let Ok(len) = stream.read_u16().await {
                        let mut query = vec![0; len.into()];
                        stream.read_exact(&mut query).await?;
                        let told = server.misbehave(&query, true).map(|response| response.messages);
                        for response in told.unwrap_or_else(|| server.respond(&query).into_iter().collect()) {
                            stream.write_u16(u16::try_from(response.len()).unwrap_or(u16::MAX)).await?;
                            stream.write_all(&response).await?;
                        }
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        Ok(dns)
    }

    fn listen(socket: UdpSocket) -> std::io::Result<Self> {
        let dns = Self { address: socket.local_addr()?, zone: Arc::default() };
        let server = dns.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let socket = Arc::new(socket);
            while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
                let query = &buffer[..len];
                let told = server.misbehave(query, false);
                let is_honest = told.as_ref().is_none_or(|told| told.honest);
                let honest = if is_honest { server.respond(query) } else { None };
                let (after, messages) = told.map_or_else(Default::default, |told| (told.after, told.messages));
                let socket = socket.clone();
                let send = async move {
                    for message in messages.into_iter().chain(honest) {
                        let _ = socket.send_to(&message, peer).await;
                    }
                };
                if after.is_zero() {
                    send.await;
                } else {
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        send.await;
                    });
                }
            }
        });
        Ok(dns)
    }

    /// An A or AAAA record.
    pub fn address(&self, name: &str, address: &str) -> &Self {
        match ip(address) {
            IpAddr::V4(four) => self.add(name, RecordType::A, RData::A(A(four))),
            IpAddr::V6(six) => self.add(name, RecordType::AAAA, RData::AAAA(AAAA(six))),
        }
    }

    pub fn mx(&self, name: &str, preference: u16, host: &str) -> &Self {
        self.add(name, RecordType::MX, RData::MX(MX::new(preference, absolute(host))))
    }

    /// Another name; what that one has comes with it, as from a server that resolves.
    pub fn cname(&self, name: &str, target: &str) -> &Self {
        self.add(name, RecordType::CNAME, RData::CNAME(CNAME(absolute(target))))
    }

    pub fn ns(&self, name: &str, host: &str) -> &Self {
        self.add(name, RecordType::NS, RData::NS(NS(absolute(host))))
    }

    pub fn txt(&self, name: &str, text: &str) -> &Self {
        self.add(name, RecordType::TXT, RData::TXT(TXT::new(vec![text.to_owned()])))
    }

    /// The same with any octets.
    pub fn txt_octets(&self, name: &str, text: &[u8]) -> &Self {
        self.add(name, RecordType::TXT, RData::TXT(TXT::from_bytes(vec![text])))
    }

    /// The name of an address, of any octets, and the address of that name.
    pub fn ptr_octets(&self, address: &str, labels: &[&[u8]]) -> &Self {
        let name = Name::from_labels(labels.iter().copied()).unwrap_or_else(|error| panic!("{labels:?}: {error}"));
        let (forward, reverse) = (name.to_ascii(), Name::from(ip(address)).to_ascii());
        self.address(&forward.trim_end_matches('.').to_ascii_lowercase(), address);
        self.add(reverse.trim_end_matches('.'), RecordType::PTR, RData::PTR(PTR(name)))
    }

    /// A line of a zone's file (RFC 1035 §5.1) as `postern` writes it: of MX or TXT, with the whole name in front.
    ///
    /// # Panics
    /// It is none.
    pub fn publish(&self, line: &str) -> &Self {
        let (head, data) = line.split_once(" IN ").unwrap_or_else(|| panic!("{line}"));
        let name = head.split(' ').next().unwrap_or_default().trim_end_matches('.');
        match data.split_once(' ') {
            Some(("MX", exchange)) => {
                let (preference, host) = exchange.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                self.mx(name, preference.parse().unwrap_or_else(|_| panic!("{line}")), host)
            }
            Some(("TXT", strings)) => {
                let strings: Vec<String> = strings.split('"').skip(1).step_by(2).map(str::to_owned).collect();
                assert!(strings.iter().all(|string| string.len() <= 255), "RFC 1035 §3.3: {line}");
                self.add(name, RecordType::TXT, RData::TXT(TXT::new(strings)))
            }
            _ => panic!("{line}"),
        }
    }

    /// For `[dns]` of a config.
    pub fn setting(&self) -> String {
        format!("servers = [\"{}\"]\ntimeout = \"500ms\"", self.address)
    }

    /// The name of an address.
    pub fn ptr(&self, address: &str, name: &str) -> &Self {
        let reverse = Name::from(ip(address)).to_ascii();
        self.add(reverse.trim_end_matches('.'), RecordType::PTR, RData::PTR(PTR(absolute(name))))
    }

    /// SERVFAIL to whatever is asked of the name, or of the name of the address.
    pub fn fails(&self, name: &str) -> &Self {
        let name = match name.parse::<IpAddr>() {
            Ok(address) => Name::from(address).to_ascii().trim_end_matches('.').to_owned(),
            Err(_) => name.to_owned(),
        };
        self.lock().failing.insert(name);
        self
    }

    /// No answer to whatever is asked of the name.
    pub fn silent(&self, name: &str) -> &Self {
        self.lock().silent.insert(name.to_owned());
        self
    }

    /// What it does when it is asked of the name.
    pub fn misbehaves(&self, name: &str, manner: Manner) -> &Self {
        self.lock().manners.insert(name.to_owned(), manner);
        self
    }

    /// How often it was asked of names that end so.
    pub fn asked(&self, end: &str) -> usize {
        self.lock().asked.iter().filter(|(name, _)| name.ends_with(end)).map(|(_, times)| times).sum()
    }

    fn misbehave(&self, query: &[u8], tcp: bool) -> Option<manner::Response> {
        let message = Message::from_vec(query).ok()?;
        let name = message.queries.first()?.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let mut zone = self.lock();
        *zone.asked.entry(name.clone()).or_default() += 1;
        manner::respond(zone.manners.get(name.trim_start_matches("a."))?, query, tcp)
    }

    fn add(&self, name: &str, kind: RecordType, data: RData) -> &Self {
        self.lock().records.entry((name.to_owned(), kind)).or_default().push(data);
        self
    }

    fn lock(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, query: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        let question = query.queries.first()?.clone();
        let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let zone = self.lock();
        if zone.silent.contains(&name) {
            return None;
        }
        let mut message = Message::response(query.metadata.id, query.metadata.op_code);
        message.metadata.recursion_desired = true;
        message.metadata.recursion_available = true;
        message.add_query(question.clone());
        let known = zone.records.keys().any(|(known, _)| *known == name);
        let (mut owner, mut name) = (question.name().clone(), name);
        if let Some([RData::CNAME(CNAME(target))]) =
            zone.records.get(&(name.clone(), RecordType::CNAME)).map(Vec::as_slice)
        {
            message.add_answer(Record::from_rdata(owner, 300, RData::CNAME(CNAME(target.clone()))));
            owner = target.clone();
            name = target.to_ascii().trim_end_matches('.').to_owned();
        }
        match zone.records.get(&(name.clone(), question.query_type())) {
            _ if zone.failing.contains(&name) => message.metadata.response_code = ResponseCode::ServFail,
            Some(records) => {
                for data in records {
                    message.add_answer(Record::from_rdata(owner.clone(), 300, data.clone()));
                }
            }
            None => {
                if !known {
                    message.metadata.response_code = ResponseCode::NXDomain;
                }
                let soa = SOA::new(absolute("ns.example"), absolute("root.example"), 1, 60, 60, 60, 60);
                message.add_authority(Record::from_rdata(absolute("example"), 60, RData::SOA(soa)));
            }
        }
        message.to_vec().ok()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    name.set_fqdn(true);
    name
}
