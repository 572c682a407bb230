//! rspamd: a mail a request, `POST /checkv2`, over HTTP/1.1 connections that are used again.
//!
//! The daemon is told of the mail in header fields of the request. Their values are checked by the type they have to have:
//! a value with a control character in it is left out, and can't begin another field.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::address::{Address, Wire};
use super::content::Content;
use super::pool::{self, Fault};
use super::{Circumstances, Settings, printable};
use crate::mail::evidence::Assessment;

/// Octets of an answer; a mail that fires hundreds of symbols has some ten thousand.
const MAX_ANSWER: usize = 1 << 20;
/// Octets of the header of an answer, and fields in it.
const MAX_ANSWER_HEADER: usize = 64 * 1024;
const MAX_ANSWER_FIELDS: usize = 64;
/// Recipients that it is told; the gateway takes no more in one mail by default.
const MAX_RECIPIENTS: usize = 1000;
/// Symbols that are passed on, and octets of the name of one.
const MAX_SYMBOLS: usize = 256;
const MAX_SYMBOL: usize = 128;
/// Octets of an action.
const MAX_ACTION: usize = 64;
/// Characters of what it would write as subject (a line, RFC 5322 §2.1.1) or say to the client.
const MAX_TEXT: usize = 900;

type Driver = http1::Connection<TokioIo<Wire>, Content>;

/// An HTTP connection. Nothing happens on it but while something is asked of it, see [`Connection::drive`].
pub(super) struct Connection {
    sender: http1::SendRequest<Content>,
    /// `None` when it has ended.
    driver: Option<Pin<Box<Driver>>>,
    authority: HeaderValue,
}

/// The fields of a request.
pub(super) struct Head(HeaderMap);

impl Head {
    pub(super) fn new(settings: &Settings, told: &Circumstances) -> Self {
        let mut head = Self(HeaderMap::new());
        head.add("ip", &told.client.to_canonical().to_string());
        head.add_known("hostname", told.client_name.as_deref());
        head.add_known("helo", told.helo.as_deref());
        head.add_known("user", told.login.as_deref());
        let sender = told.envelope.reverse_path.0.as_ref().map(ToString::to_string);
        // Empty: the null reverse-path.
        head.add("from", sender.as_deref().unwrap_or_default());
        let recipients = &told.envelope.recipients;
        for recipient in recipients.iter().take(MAX_RECIPIENTS) {
            head.add("rcpt", &recipient.mailbox.to_string());
        }
        if let [only] = recipients.as_slice() {
            head.add("deliver-to", &only.mailbox.to_string());
        }
        head.add("queue-id", &told.id);
        head.add("mta-name", &settings.host_name);
        if let Some(password) = &settings.password {
            head.add("password", password);
        }
        head
    }

    fn add_known(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// What no field can hold is left out: it is less than rspamd could know, and nothing else than was said.
    fn add(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            // It has far less fields than a map can take.
            let _ = self.0.try_append(HeaderName::from_static(name), value);
        }
    }
}

impl pool::Connection for Connection {
    type Told = Head;
    type Said = Assessment;

    async fn open(address: &Address) -> Result<Self, Fault> {
        let failed = |error: &dyn std::fmt::Display| Fault::of(format!("it can't be reached: {error}"));
        let wire = address.connect().await.map_err(|error| failed(&error))?;
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_ANSWER_HEADER).max_headers(MAX_ANSWER_FIELDS);
        let (sender, driver) = builder.handshake(TokioIo::new(wire)).await.map_err(|error| failed(&error))?;
        let authority = HeaderValue::from_str(&address.authority()).map_err(|error| failed(&error))?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), authority })
    }

    async fn scan(&mut self, head: &Head, content: Content) -> Result<Assessment, Fault> {
        let (status, answer) = self.ask(Method::POST, "/checkv2", &head.0, content).await?;
        match status {
            StatusCode::OK => parse(&answer).ok_or_else(|| Fault::of("its answer makes no sense")),
            status => Err(Fault::of(format!("it answers {}: {}", status.as_u16(), printable(&answer)))),
        }
    }
}

impl Connection {
    pub(super) async fn ping(&mut self) -> Result<(), Fault> {
        let (status, answer) = self.ask(Method::GET, "/ping", &HeaderMap::new(), Content::none()).await?;
        let pong = answer.trim_ascii() == b"pong";
        if status == StatusCode::OK && pong { Ok(()) } else { Err(Fault::of("it does not answer as rspamd does")) }
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        head: &HeaderMap,
        content: Content,
    ) -> Result<(StatusCode, Vec<u8>), Fault> {
        let mut request = Request::new(content);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Fault::of("no such path"))?;
        *request.headers_mut() = head.clone();
        request.headers_mut().insert(HOST, self.authority.clone());
        let Self { sender, driver, .. } = self;
        // A connection that its daemon has closed, or has said something on unasked, is told apart here, before anything is
        // asked on it. The runtime learns of what has arrived only when it gets its turn.
        drive(driver, tokio::task::yield_now()).await;
        drive(driver, sender.ready()).await.map_err(|error| Fault::Lost(plain(&error)))?;
        let asked = sender.send_request(request);
        let response = drive(driver, asked).await.map_err(fault)?;
        let status = response.status();
        let answer = drive(driver, read(response)).await?;
        Ok((status, answer))
    }
}

/// The connection does nothing by itself: it is polled while something is waited for, in place of a task that would
/// outlive who asks.
async fn drive<F: Future>(driver: &mut Option<Pin<Box<Driver>>>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Some(running) = driver
            && running.as_mut().poll(cx).is_ready()
        {
            // Dropped, it tells those who wait that nothing comes any more.
            *driver = None;
        }
        work.as_mut().poll(cx)
    })
    .await
}

/// All of an answer's body.
async fn read(response: Response<Incoming>) -> Result<Vec<u8>, Fault> {
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Fault::of(format!("its answer is cut off: {}", plain(&error))))?;
        let Ok(data) = frame.into_data() else { continue };
        if answer.len() + data.len() > MAX_ANSWER {
            return Err(Fault::of("its answer does not end"));
        }
        answer.extend_from_slice(&data);
    }
    Ok(answer)
}

fn fault(error: hyper::Error) -> Fault {
    if error.is_parse() { Fault::of("its answer makes no sense") } else { Fault::Lost(plain(&error)) }
}

/// With what lies below it, which says more.
fn plain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => printable(format!("{error}: {source}").as_bytes()),
        None => printable(error.to_string().as_bytes()),
    }
}

/// What is used of an answer. `required_score` and `action` are always there.
#[derive(Deserialize)]
struct Answer {
    score: f64,
    required_score: f64,
    action: String,
    #[serde(default)]
    symbols: HashMap<String, Symbol>,
    subject: Option<String>,
    #[serde(default)]
    messages: Messages,
}

#[derive(Deserialize)]
struct Symbol {
    #[serde(default)]
    score: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Messages {
    smtp_message: Option<String>,
}

fn parse(answer: &[u8]) -> Option<Assessment> {
    let Answer { score, required_score, action, symbols, subject, messages } = serde_json::from_slice(answer).ok()?;
    let plain =
        |text: &str, max: usize| (1..=max).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~'));
    if !plain(&action, MAX_ACTION) {
        return None;
    }
    let legal = symbols.into_iter().filter(|(name, _)| plain(name, MAX_SYMBOL));
    let mut symbols: Vec<_> = legal.map(|(name, symbol)| (name, symbol.score)).collect();
    symbols.sort_by(|(a, x), (b, y)| y.total_cmp(x).then_with(|| a.cmp(b)));
    symbols.truncate(MAX_SYMBOLS);
    Some(Assessment {
        score,
        required: required_score,
        action,
        symbols,
        subject: subject.as_deref().and_then(line),
        text: messages.smtp_message.as_deref().and_then(line),
    })
}

/// On one line, without controls; `None` where nothing is left.
fn line(text: &str) -> Option<String> {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Envelope, Recipient};
    use crate::scan::Kind;
    use crate::smtp::{Mailbox, ReversePath};

    fn head(told: &Circumstances) -> Vec<(String, String)> {
        let settings = Settings {
            name: "rspamd".into(),
            kind: Kind::Rspamd,
            address: Address::Http("127.0.0.1".to_owned(), 1),
            timeout: std::time::Duration::from_secs(1),
            max_size: 1,
            connections: 1,
            password: Some("canary".to_owned()),
            host_name: "mx.example.net".to_owned(),
        };
        assert!(!format!("{settings:?}").contains("canary"));
        let text = |value: &HeaderValue| std::str::from_utf8(value.as_bytes()).unwrap().to_owned();
        Head::new(&settings, told).0.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn told() -> Circumstances {
        let mut envelope = Envelope::new(ReversePath(Some(Mailbox::parse("a@b.example").unwrap())));
        envelope.recipients.push(Recipient::new(Mailbox::parse("c@example.com").unwrap()));
        Circumstances {
            client: "::ffff:192.0.2.7".parse().unwrap(),
            client_name: Some("client.example".to_owned()),
            helo: Some("helo.example".to_owned()),
            login: None,
            id: "m1".to_owned(),
            envelope,
        }
    }

    #[test]
    fn the_whole_envelope_is_told() {
        let mut told = told();
        let expected = [
            ("ip", "192.0.2.7"),
            ("hostname", "client.example"),
            ("helo", "helo.example"),
            ("from", "a@b.example"),
            ("rcpt", "c@example.com"),
            ("deliver-to", "c@example.com"),
            ("queue-id", "m1"),
            ("mta-name", "mx.example.net"),
            ("password", "canary"),
        ];
        assert_eq!(head(&told), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        told.envelope.recipients.push(Recipient::new(Mailbox::parse("d@example.com").unwrap()));
        told.envelope.reverse_path = ReversePath(None);
        told.login = Some("anna".to_owned());
        let head = head(&told);
        let of = |name: &str| head.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
        assert_eq!(of("rcpt"), ["c@example.com", "d@example.com"]);
        assert_eq!((of("from"), of("user"), of("deliver-to")), (vec![""], vec!["anna"], vec![]));
    }

    #[test]
    fn i8_nothing_a_client_says_begins_another_field() {
        for evil in ["a\r\nPassword: x", "a\nIP: 127.0.0.1", "a\r", "a\0b", "\x7f", "a\x1b[2J"] {
            let told = Circumstances { helo: Some(evil.to_owned()), login: Some(evil.to_owned()), ..told() };
            let head = head(&told);
            assert!(head.iter().all(|(name, _)| name != "helo" && name != "user"), "{evil:?}");
            assert!(head.iter().all(|(_, value)| !value.contains(char::is_control)), "{evil:?}");
        }
    }

    #[test]
    fn more_recipients_than_it_is_told_are_no_trouble() {
        let mut told = told();
        told.envelope.recipients = vec![told.envelope.recipients[0].clone(); 50_000];
        assert_eq!(head(&told).iter().filter(|(name, _)| name == "rcpt").count(), MAX_RECIPIENTS);
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = br#"{"is_skipped":false,"score":6.5,"required_score":15.0,"action":"add header",
            "symbols":{"B":{"name":"B","score":2.0,"metric_score":2.0,"options":["x"]},"A":{"score":2.0},
                       "LOW":{"score":-3},"X\r\nY":{"score":99},"TOP":{"score":5.25}},
            "messages":{"smtp_message":"Try\r\nlater"},"subject":"[SPAM] x","message-id":"a@b"}"#;
        let said = parse(answer).unwrap();
        assert_eq!((said.score, said.required, said.action.as_str()), (6.5, 15.0, "add header"));
        let names: Vec<_> = said.symbols.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["TOP", "A", "B", "LOW"]);
        assert_eq!((said.subject.as_deref(), said.text.as_deref()), (Some("[SPAM] x"), Some("Try  later")));
        let least = br#"{"score":0,"required_score":15,"action":"no action"}"#;
        assert_eq!(parse(least).unwrap().symbols, []);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for answer in [
            "",
            "{}",
            "null",
            "[]",
            "<html>",
            r#"{"error":"wrong password"}"#,
            r#"{"score":"1","required_score":15,"action":"reject"}"#,
            r#"{"score":1,"action":"reject"}"#,
            r#"{"score":1e999,"required_score":15,"action":"reject"}"#,
            r#"{"score":NaN,"required_score":15,"action":"reject"}"#,
            r#"{"score":1,"required_score":15}"#,
            r#"{"score":1,"required_score":15,"action":""}"#,
            r#"{"score":1,"required_score":15,"action":"re\r\nject"}"#,
            r#"{"score":1,"required_score":15,"action":"reject"} {}"#,
            r#"{"score":1,"required_score":15,"action":"reject","symbols":[]}"#,
        ] {
            assert_eq!(parse(answer.as_bytes()), None, "{answer}");
        }
        let deep = format!("{{\"x\":{}", "[".repeat(100_000));
        assert_eq!(parse(deep.as_bytes()), None);
        let many: String = (0..5000).map(|n| format!(",\"S{n}\":{{\"score\":{n}}}")).collect();
        let many = format!("{{\"score\":1,\"required_score\":5,\"action\":\"x\",\"symbols\":{{{}}}}}", &many[1..]);
        let said = parse(many.as_bytes()).unwrap();
        assert_eq!((said.symbols.len(), said.symbols[0].0.as_str()), (MAX_SYMBOLS, "S4999"));
    }
}
