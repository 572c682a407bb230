//! Each interface once through the whole way: guest, canonical ABI, capability. What they check and refuse is tested
//! beside them.

use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::authentication::{Authenticator, Subject};
use super::call_ahead::{CallAhead, Presence};
use super::dns::{Answer, DnsError, Lookup, NameService, Question, RecordType};
use super::guest::{Bench, Guest, Names, ask, bench_of, bench_with, call, call_at, settings, small};
use super::signing::Keys;
use super::{Limits, PluginSettings, Settings};
use crate::mail::evidence::{ArcChain, Dmarc, Origin, Signature, Spf, SpfIdentity};
use crate::mail::{Body, BodyWriter, Mail, Recipient, Route, SignatureKind, SignatureRequest};
use crate::pipeline::{self, Call, ClientName, Edit, Filter as _, Position, Scope, Stage};
use crate::smtp::{Domain, Mailbox};

/// Where results come back to, and where texts of the test stand.
const RESULT: u32 = 4096;
const TEXT: u32 = 3000;

/// A guest that traps where something is not as expected.
struct Script {
    guest: Guest,
    body: String,
    text: u32,
}

impl Script {
    fn new() -> Self {
        let guest = Guest::new().item(
            "(func $must (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
             (func $same (param $a i32) (param $b i32) (param $n i32)
                (block $done (loop $next
                    (br_if $done (i32.eqz (local.get $n)))
                    (call $must (i32.eq (i32.load8_u (local.get $a)) (i32.load8_u (local.get $b))))
                    (local.set $a (i32.add (local.get $a) (i32.const 1)))
                    (local.set $b (i32.add (local.get $b) (i32.const 1)))
                    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                    (br $next))))",
        );
        Self { guest, body: String::new(), text: TEXT }
    }

    fn import(mut self, interface: &str, name: &str, alias: &str, params: &str) -> Self {
        self.guest = self.guest.import(interface, name, alias, params);
        self
    }

    /// The address and length of a text, as two operands.
    fn text(&mut self, octets: &[u8]) -> String {
        let hex = octets.iter().fold(String::new(), |out, octet| out + &format!("\\{octet:02x}"));
        let at = self.text;
        let guest = std::mem::take(&mut self.guest);
        self.guest = guest.item(&format!(r#"(data (i32.const {at}) "{hex}")"#));
        self.text += u32::try_from(octets.len()).unwrap();
        format!("(i32.const {at}) (i32.const {})", octets.len())
    }

    /// Calls; `{}` in the operands stand for these texts.
    fn call(mut self, alias: &str, operands: &str, texts: &[&[u8]]) -> Self {
        let mut operands = operands.to_owned();
        for text in texts {
            let place = self.text(text);
            operands = operands.replacen("{}", &place, 1);
        }
        self.body += &format!("(call ${alias} {operands})\n");
        self
    }

    fn octet(mut self, at: u32, expected: u8) -> Self {
        self.body += &format!("(call $must (i32.eq (i32.load8_u (i32.const {at})) (i32.const {expected})))\n");
        self
    }

    fn long(mut self, at: u32, expected: u64) -> Self {
        let expected = expected.cast_signed();
        self.body += &format!("(call $must (i64.eq (i64.load (i32.const {at})) (i64.const {expected})))\n");
        self
    }

    /// A string or list of octets whose pointer and length stand at `at`, itself reached through `list` pointers.
    fn octets(mut self, at: &str, expected: &[u8]) -> Self {
        let text = self.text(expected);
        self.body += &format!(
            "(call $must (i32.eq (i32.load offset=4 {at}) (i32.const {})))
             (call $same (i32.load {at}) {text})\n",
            expected.len()
        );
        self
    }

    fn at(self, stage: Stage) -> PluginSettings {
        settings(self.guest.at(stage.name(), &self.body).build())
    }
}

fn at(address: u32) -> String {
    format!("(i32.const {address})")
}

async fn run(bench: &Bench, plugin: PluginSettings, call: Call) -> pipeline::Answer {
    let plugin = bench.host.load(plugin).await.unwrap();
    plugin.judge(call).await.result.unwrap()
}

fn granted(plugin: PluginSettings, grants: &[&str]) -> PluginSettings {
    PluginSettings { grants: grants.iter().map(|grant| (*grant).to_owned()).collect(), ..plugin }
}

#[tokio::test]
async fn where_there_is_nothing_to_do_a_plugin_is_not_asked() {
    use crate::pipeline::{Direction, StageSet};
    let bench = Bench::new();
    // Inbound at `rcpt`, outbound at `data`. What is said later changes nothing.
    let skip = |stage: u8, direction: u8| format!("(call $skip (i32.const {stage}) (i32.const {direction}))");
    let guest = Guest::new()
        .import("config", "skip", "skip", "i32 i32")
        .at("load", &(skip(3, 0) + &skip(4, 1)))
        .at("connect", &skip(0, 0))
        .at("rcpt", "")
        .at("data", "");
    let plugin = bench.load(guest).await.unwrap();
    ask(&plugin, Stage::Connect).await.unwrap();
    let stages = |stages: &[Stage]| stages.iter().copied().collect::<StageSet>();
    assert_eq!(plugin.interest().of(Direction::Inbound), stages(&[Stage::Connect, Stage::Data]));
    assert_eq!(plugin.interest().of(Direction::Outbound), stages(&[Stage::Connect, Stage::Rcpt]));
    assert_eq!(plugin.inspect().stages, stages(&[Stage::Connect, Stage::Rcpt, Stage::Data]));
    assert_eq!(plugin.report().stages, ["connect", "rcpt", "data"]);
}

#[tokio::test]
async fn config_says_who_one_is() {
    let script = Script::new()
        .import("config", "json", "json", "i32")
        .import("config", "name", "name", "i32")
        .import("config", "scope", "scope", "i32")
        .call("json", "(i32.const 4096)", &[])
        .octets(&at(RESULT), br#"{"limit":5}"#)
        .call("name", "(i32.const 4096)", &[])
        .octets(&at(RESULT), b"guest")
        .call("scope", "(i32.const 4096)", &[])
        .octets(&at(RESULT), b"tenant:acme");
    let plugin = PluginSettings { config: serde_json::json!({"limit": 5}), ..script.at(Stage::Connect) };
    run(&Bench::new(), plugin, call_at(Stage::Connect)).await;
}

#[tokio::test]
async fn session_tells_of_the_client() {
    let script = Script::new()
        .import("session", "[method]session.client-address", "address", "i32 i32")
        .import("session", "[method]session.client-name", "client-name", "i32 i32")
        .import("session", "[method]session.exempt", "exempt", "i32 i32 i32 i32 i32")
        .call("address", "(local.get $session) (i32.const 4096)", &[])
        .octet(RESULT, 0)
        .octet(RESULT + 2, 192)
        .octet(RESULT + 5, 7)
        .call("client-name", "(local.get $session) (i32.const 4096)", &[])
        .octet(RESULT, 0)
        .octets(&at(RESULT + 4), b"client.example.org")
        .call("exempt", "(local.get $session) {} {}", &[b"dnsbl", b"partners"])
        .call("exempt", "(local.get $session) {} {}", &[b"dnsbl", b"partners"]);
    let call = call_at(Stage::Connect);
    let name = call.session.client_name.clone();
    let answer = run(&bench_with(small(), Arc::new(Scripted)), script.at(Stage::Connect), call).await;
    assert_eq!((answer.exemptions.len(), answer.exemptions[0].test.as_str()), (1, "dnsbl"));
    assert!(matches!(name.get(), Some(ClientName::Verified(_))), "kept for the session");
}

struct Scripted;

impl NameService for Scripted {
    fn resolve(&self, question: Question) -> Lookup<'_, Result<Answer, DnsError>> {
        Box::pin(async move {
            match (question.name.as_str(), question.kind) {
                ("example.org", RecordType::Mx) => Ok(Answer::Exchanges(vec![(10, "mx.example.org".to_owned())])),
                ("slow.example.org", RecordType::Txt) => {
                    tokio::task::yield_now().await;
                    Ok(Answer::Texts(vec![b"v=spf1".to_vec()]))
                }
                _ => Err(DnsError::NotFound),
            }
        })
    }

    fn client_name(&self, _: IpAddr) -> Lookup<'_, ClientName> {
        Box::pin(async { ClientName::Verified("client.example.org".parse().unwrap()) })
    }
}

#[tokio::test]
async fn dns_answers_in_the_order_of_the_questions() {
    let script = Script::new()
        .import("dns", "resolve", "resolve", "i32 i32 i32 i32")
        .import("dns", "resolve-many", "many", "i32 i32 i32")
        .call("resolve", "{} (i32.const 2) (i32.const 4096)", &[b"example.org"])
        .octet(RESULT, 0)
        .octet(RESULT + 4, 1)
        .octet(RESULT + 12, 1)
        .octets("(i32.add (i32.load (i32.const 4104)) (i32.const 4))", b"mx.example.org")
        .call("resolve", "{} (i32.const 2) (i32.const 4096)", &[b"no such name"])
        .octet(RESULT, 1)
        .octet(RESULT + 4, 2);
    // Two questions: `slow.example.org` TXT, `x` A.
    let mut script = script;
    let slow = script.text(b"slow.example.org");
    let none = script.text(b"x");
    let (slow, none) = (slow.split_once(") ").unwrap().0.to_owned(), none.split_once(") ").unwrap().0.to_owned());
    script.body += &format!(
        "(i32.store (i32.const 5000) {slow})) (i32.store (i32.const 5004) (i32.const 16)) (i32.store8 (i32.const 5008) (i32.const 3))
         (i32.store (i32.const 5012) {none})) (i32.store (i32.const 5016) (i32.const 1)) (i32.store8 (i32.const 5020) (i32.const 0))"
    );
    let script = script
        .call("many", "(i32.const 5000) (i32.const 2) (i32.const 4096)", &[])
        .octet(RESULT + 4, 2)
        .octets("(i32.load offset=8 (i32.load (i32.const 4096)))", b"v=spf1");
    let plugin = granted(script.at(Stage::Connect), &["dns"]);
    run(&bench_with(small(), Arc::new(Scripted)), plugin, call_at(Stage::Connect)).await;
}

/// A multipart of two parts, with its body in memory or in a file.
fn mail(directory: Option<&std::path::Path>) -> (Arc<Mail>, Vec<u8>) {
    let body = b"--b\r\n\r\nplain needle\r\n--b\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n--b--\r\n";
    let header = "From: a@x.org\r\nSubject: hi\r\nSUBJECT:  there\r\nContent-Type: multipart/mixed; boundary=b\r\n";
    let made = call(Stage::Data, Some(&format!("{header}\r\n{}", std::str::from_utf8(body).unwrap())));
    let mut mail = Arc::unwrap_or_clone(made.mail.unwrap());
    if let Some(directory) = directory {
        let mut writer = BodyWriter::new(directory.to_owned(), 0);
        writer.push(body);
        writer.flush().unwrap();
        let body: Body = writer.finish().unwrap();
        assert!(body.as_file().is_some());
        mail.message.as_mut().unwrap().body = body;
    }
    let whole = [header.as_bytes(), b"\r\n", body].concat();
    (Arc::new(mail), Sha256::digest(whole).to_vec())
}

fn reading(digest: &[u8]) -> Script {
    Script::new()
        .import("message", "[method]message.header", "header", "i32 i32 i32 i32")
        .import("message", "[method]message.read", "read", "i32 i64 i32 i32")
        .import("message", "[method]message.search", "search", "i32 i32 i32 i64 i32")
        .import("message", "[method]message.digest", "digest", "i32 i32")
        .import("message", "[method]message.parts", "parts", "i32 i32")
        .import("message", "[method]message.read-part", "read-part", "i32 i32 i64 i32 i32")
        .call("header", "(local.get $message) {} (i32.const 4096)", &[b"subject"])
        .octet(RESULT, 0)
        .octet(RESULT + 8, 2)
        .octets("(i32.load (i32.const 4100))", b"hi")
        .octets("(i32.add (i32.load (i32.const 4100)) (i32.const 8))", b"there")
        .call("read", "(local.get $message) (i64.const 2) (i32.const 3) (i32.const 4096)", &[])
        .octet(RESULT, 0)
        .octets(&at(RESULT + 4), b"b\r\n")
        .call("search", "(local.get $message) {} (i64.const 3) (i32.const 4096)", &[b"needle"])
        .octet(RESULT, 0)
        .octet(RESULT + 8, 1)
        .long(RESULT + 16, 13)
        .call("digest", "(local.get $message) (i32.const 4096)", &[])
        .octets(&at(RESULT + 4), digest)
        .call("parts", "(local.get $message) (i32.const 4096)", &[])
        .octet(RESULT, 0)
        .octet(RESULT + 8, 2)
        .octets("(i32.load (i32.const 4100))", b"text/plain")
        .call("read-part", "(local.get $message) (i32.const 1) (i64.const 1) (i32.const 99) (i32.const 4096)", &[])
        .octet(RESULT, 0)
        .octets(&at(RESULT + 4), b"ello")
        .call("read-part", "(local.get $message) (i32.const 2) (i64.const 0) (i32.const 99) (i32.const 4096)", &[])
        .octet(RESULT, 1)
        .octet(RESULT + 4, 1)
}

#[tokio::test]
async fn message_is_read_in_pieces_from_memory_and_file() {
    let bench = Bench::new();
    let directory = tempfile::tempdir().unwrap();
    for directory in [None, Some(directory.path())] {
        let (mail, digest) = mail(directory);
        let asked = Call { mail: Some(mail), ..call_at(Stage::Data) };
        run(&bench, reading(&digest).at(Stage::Data), asked).await;
    }
}

#[tokio::test]
async fn there_is_no_content_before_data() {
    let script = Script::new()
        .import("message", "[method]message.read", "read", "i32 i64 i32 i32")
        .import("message", "[method]message.parts", "parts", "i32 i32")
        .call("read", "(local.get $message) (i64.const 0) (i32.const 3) (i32.const 4096)", &[])
        .octet(RESULT, 1)
        .octet(RESULT + 4, 0)
        .call("parts", "(local.get $message) (i32.const 4096)", &[])
        .octet(RESULT, 1)
        .octet(RESULT + 4, 0);
    run(&Bench::new(), script.at(Stage::Rcpt), call_at(Stage::Rcpt)).await;
}

#[tokio::test]
async fn edits_come_out_as_they_were_asked_for() {
    let script = Script::new()
        .import("message", "[method]message.add-header", "add", "i32 i32 i32 i32 i32 i32 i32")
        .import("message", "[method]message.set-route", "route", "i32 i32 i32 i32 i32 i32")
        .import("message", "[method]message.add-tag", "tag", "i32 i32 i32 i32")
        .call("add", "(local.get $message) {} {} (i32.const 0) (i32.const 4096)", &[b"X-Seen", b"yes"])
        .octet(RESULT, 0)
        .call("route", "(local.get $message) (i32.const 3) {} (i32.const 0) (i32.const 4096)", &[b"partner"])
        .octet(RESULT, 0)
        .call("tag", "(local.get $message) {} (i32.const 4096)", &[b"spam:low"])
        .octet(RESULT, 0);
    let plugin = granted(script.at(Stage::Deliver), &["route:partner"]);
    let edits = run(&Bench::new(), plugin, call_at(Stage::Deliver)).await.edits;
    let [Edit::AddField { field, position: Position::Top }, Edit::SetRoute(Route::SmartHost(name)), Edit::AddTag(tag)] =
        edits.as_slice()
    else {
        panic!("{edits:?}")
    };
    assert_eq!((&field.raw()[..], &**name, tag.as_str()), (&b"X-Seen: yes\r\n"[..], "partner", "spam:low"));
}

#[tokio::test]
async fn a_recipients_route_through_the_abi() {
    const STAGE: u8 = 0;
    const INVALID: u8 = 1;
    const DENIED: u8 = 2;
    let set = |script: Script, to: &[u8], host: &[u8]| {
        // A smart host; the port of the variant's largest case stays 0.
        let operands = "(local.get $message) {} {} (i32.const 3) {} (i32.const 0) (i32.const 4096)";
        script.call("route", operands, &[to, b"Example.com", host])
    };
    let params = "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32";
    let script = || Script::new().import("message", "[method]message.set-recipient-route", "route", params);
    let mut at_deliver = call_at(Stage::Deliver);
    let mail = Arc::make_mut(at_deliver.mail.as_mut().unwrap());
    mail.envelope.recipients = ["a@example.com", "b@example.com"].map(|to| Recipient::new(to.parse().unwrap())).into();

    let asked = set(script(), b"b", b"partner").octet(RESULT, 0);
    let asked =
        set(asked, b"a", b"other").octet(RESULT, 1).octet(RESULT + 4, DENIED).octets(&at(RESULT + 8), b"route:other");
    let asked = set(asked, b"c", b"partner").octet(RESULT, 1).octet(RESULT + 4, INVALID);
    let asked = set(asked, b"a\r\n", b"partner").octet(RESULT, 1).octet(RESULT + 4, INVALID);
    let plugin = granted(asked.at(Stage::Deliver), &["route:partner"]);
    let edits = run(&Bench::new(), plugin, at_deliver).await.edits;
    let [Edit::SetRecipientRoute(mailbox, Route::SmartHost(name))] = edits.as_slice() else { panic!("{edits:?}") };
    assert_eq!((mailbox.to_string().as_str(), &**name), ("b@example.com", "partner"));

    let early = set(script(), b"b", b"partner").octet(RESULT, 1).octet(RESULT + 4, STAGE);
    let plugin = granted(early.at(Stage::Data), &["route:partner"]);
    assert!(run(&Bench::new(), plugin, call_at(Stage::Data)).await.edits.is_empty());
}

#[tokio::test]
async fn metrics_are_the_plugins_own_and_capped() {
    let bench = Bench::new();
    let mut script = Script::new().import("metrics", "add", "add", "i32 i32 i64");
    for number in 0..34 {
        script = script.call("add", "{} (i64.const 2)", &[format!("n{number}").as_bytes()]);
    }
    script = script.call("add", "{} (i64.const 1)", &[b"Not a name"]);
    run(&bench, granted(script.at(Stage::Connect), &["metrics"]), call_at(Stage::Connect)).await;
    let count = |name: &str| bench.metrics.plugin_custom.with_label_values(&["guest", name]).get();
    assert_eq!((count("n0"), count("n31"), count("n33"), count("other")), (2, 2, 0, 5));
}

#[tokio::test]
async fn tables_are_those_that_the_entry_names() {
    let script = Script::new()
        .import("tables", "lookup", "lookup", "i32 i32 i32 i32 i32")
        .call("lookup", "{} {} (i32.const 4096)", &[b"list", b"K"])
        .octet(RESULT, 0)
        .octet(RESULT + 4, 1)
        .octets(&at(RESULT + 8), b"v")
        .call("lookup", "{} {} (i32.const 4096)", &[b"list", b"other"])
        .octet(RESULT, 0)
        .octet(RESULT + 4, 0)
        .call("lookup", "{} {} (i32.const 4096)", &[b"secret", b"K"])
        .octet(RESULT, 1)
        .octet(RESULT + 4, 0);
    let plugin = PluginSettings { tables: super::guest::tables(), ..granted(script.at(Stage::Connect), &["tables"]) };
    run(&Bench::new(), plugin, call_at(Stage::Connect)).await;
}

#[tokio::test]
async fn counters_outlast_the_call_and_clock_is_coarse() {
    let bench = Bench::new();
    let script = |count: u64| {
        let script = Script::new()
            .import("counters", "add", "add", "i32 i32 i64 i32 i32")
            .import("counters", "block", "block", "i32 i32 i64 i32")
            .import("counters", "blocked", "blocked", "i32 i32 i32")
            .import("clock", "now", "now", ") (result i64")
            .call("add", "{} (i64.const 3) (i32.const 2592000) (i32.const 4096)", &[b"client"])
            .octet(RESULT, 0)
            .long(RESULT + 8, count)
            .call("block", "{} (i64.add (call $now) (i64.const 60000)) (i32.const 4096)", &[b"client"])
            .octet(RESULT, 0)
            .call("blocked", "{} (i32.const 4096)", &[b"client"])
            .octet(RESULT, 1);
        let mut script = script;
        script.body += "(call $must (i64.eqz (i64.rem_u (call $now) (i64.const 10))))";
        granted(script.at(Stage::Connect), &["counters", "clock"])
    };
    run(&bench, script(3), call_at(Stage::Connect)).await;
    run(&bench, script(6), call_at(Stage::Connect)).await;
}

#[tokio::test]
async fn the_store_outlasts_the_call() {
    let bench = Bench::new();
    let store = |script: Script| {
        script
            .import("store", "read", "read", "i32 i32 i32")
            .import("store", "write", "write", "i32 i32 i32 i32 i32 i32")
            .import("store", "remove", "remove", "i32 i32")
    };
    let writes = store(Script::new())
        .call("read", "{} (i32.const 4096)", &[b"k"])
        .octet(RESULT, 0)
        .call("write", "{} {} (i32.const 60) (i32.const 4096)", &[b"k", b"value"])
        .octet(RESULT, 0)
        .call("write", "{} {} (i32.const 60) (i32.const 4096)", &[b"", b"value"])
        .octet(RESULT, 1)
        .octet(RESULT + 1, 0);
    let reads = store(Script::new())
        .call("read", "{} (i32.const 4096)", &[b"k"])
        .octet(RESULT, 1)
        .octets(&at(RESULT + 4), b"value")
        .call("remove", "{}", &[b"k"])
        .call("read", "{} (i32.const 4096)", &[b"k"])
        .octet(RESULT, 0);
    for script in [writes, reads] {
        run(&bench, granted(script.at(Stage::Connect), &["store"]), call_at(Stage::Connect)).await;
    }
}

#[tokio::test]
async fn results_in_our_name_need_the_grant() {
    const DENIED: u8 = 2;
    let add = |script: Script, value: &[u8]| {
        let operands = "(local.get $message) {} {} (i32.const 0) (i32.const 4096)";
        script.call("add", operands, &[b"authentication-results", value])
    };
    let script = || Script::new().import("message", "[method]message.add-header", "add", "i32 i32 i32 i32 i32 i32 i32");
    // The name of one that looks nothing up.
    let forged = add(script(), b"(x) LOCALHOST; arc=pass").octet(RESULT, 1).octet(RESULT + 4, DENIED);
    let forged = add(forged, b"mx.example.org; arc=pass").octet(RESULT, 0);
    assert_eq!(run(&Bench::new(), forged.at(Stage::Data), call_at(Stage::Data)).await.edits.len(), 1);
    let own = add(script(), b"localhost; arc=pass").octet(RESULT, 0);
    let plugin = granted(own.at(Stage::Data), &["authentication"]);
    assert_eq!(run(&Bench::new(), plugin, call_at(Stage::Data)).await.edits.len(), 1);
}

/// One key of `example.com`, for the tenant `acme` alone.
struct OneKey;

impl Keys for OneKey {
    fn selectors(&self, scope: &Scope, _: Option<&Mail>, domain: &Domain) -> Option<Vec<Box<str>>> {
        match (scope, domain.as_str()) {
            (Scope::Tenant(tenant), "example.com") if &**tenant == "acme" => Some(vec!["s1".into()]),
            (_, "example.org") => Some(Vec::new()),
            _ => None,
        }
    }
}

#[tokio::test]
async fn signatures_are_asked_for_with_keys_of_ones_own() {
    const STAGE: u8 = 0;
    const NO_KEY: u8 = 1;
    const DENIED: u8 = 2;
    let params = "i32 i32 i32 i32 i32 i32";
    let sign = |script: Script, domain: &[u8], selector: &[u8]| {
        script.call("sign", "(local.get $message) {} {} (i32.const 4096)", &[domain, selector])
    };
    let script = || Script::new().import("signing", "sign", "sign", params);
    let asked = sign(script(), b"Example.com", b"s1").octet(RESULT, 0);
    let asked = sign(asked, b"example.com", b"s1").octet(RESULT, 0);
    let asked = sign(asked, b"example.com", b"s2").octet(RESULT, 1).octet(RESULT + 1, NO_KEY);
    let asked = sign(asked, b"example.org", b"s1").octet(RESULT, 1).octet(RESULT + 1, NO_KEY);
    let asked = sign(asked, b"other.example", b"s1").octet(RESULT, 1).octet(RESULT + 1, DENIED);
    let bench = bench_of(|services| services.keys = Arc::new(OneKey));
    let edits = run(&bench, granted(asked.at(Stage::Deliver), &["signing"]), call_at(Stage::Deliver)).await.edits;
    let [Edit::Sign(SignatureRequest { kind: SignatureKind::Dkim, domain, selector })] = edits.as_slice() else {
        panic!("{edits:?}")
    };
    assert_eq!((domain.as_str(), &**selector), ("example.com", "s1"));
    let early = sign(script(), b"example.com", b"s1").octet(RESULT, 1).octet(RESULT + 1, STAGE);
    run(&bench, granted(early.at(Stage::Data), &["signing"]), call_at(Stage::Data)).await;
}

#[tokio::test]
async fn what_nobody_says_in_time_is_no_answer() {
    const TEMPERROR: u8 = 6;
    const UNAVAILABLE: u8 = 2;
    let limits = Limits { wall: std::time::Duration::from_millis(500), ..Limits::default() };
    let script = Script::new()
        .import("authentication", "spf-mail-from", "spf", "i32 i32 i32")
        .import("call-ahead", "recipient", "recipient", "i32 i32 i32 i32 i32")
        .call("spf", "(local.get $session) (local.get $message) (i32.const 4096)", &[])
        .octet(RESULT, 0)
        .octet(RESULT + 4, TEMPERROR)
        .call("recipient", "{} {} (i32.const 4096)", &[b"a", b"example.com"])
        .octet(RESULT, UNAVAILABLE);
    let plugin = granted(script.at(Stage::MailFrom), &["authentication", "call-ahead"]);
    let bench = bench_of(|services| {
        services.authenticator = Arc::new(Mute);
        services.call_ahead = Arc::new(Mute);
    });
    run(&bench, PluginSettings { limits, ..plugin }, call_at(Stage::MailFrom)).await;
}

/// Whoever asks it waits for ever.
struct Mute;

impl Authenticator for Mute {
    fn service_id(&self) -> Arc<str> {
        Arc::from("mx.example.com")
    }
    fn origin(&self, _: Subject) -> Lookup<'_, Option<Origin>> {
        Box::pin(std::future::pending())
    }
    fn spf(&self, _: Subject, _: SpfIdentity) -> Lookup<'_, Option<Spf>> {
        Box::pin(std::future::pending())
    }
    fn dkim(&self, _: Subject) -> Lookup<'_, Option<Arc<[Signature]>>> {
        Box::pin(std::future::pending())
    }
    fn dmarc(&self, _: Subject) -> Lookup<'_, Option<Dmarc>> {
        Box::pin(std::future::pending())
    }
    fn arc(&self, _: Subject) -> Lookup<'_, Option<ArcChain>> {
        Box::pin(std::future::pending())
    }
}

impl CallAhead for Mute {
    fn recipient(&self, _: Arc<Mail>, _: Mailbox) -> Lookup<'_, Presence> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn the_journal_of_a_warm_instance_is_new_each_time() {
    let script = Script::new().import("message", "[method]message.add-tag", "tag", "i32 i32 i32 i32").call(
        "tag",
        "(local.get $message) {} (i32.const 4096)",
        &[b"once"],
    );
    let bench = super::guest::bench(Settings { warm: 1, ..small() }, Names::Nobody);
    let plugin = bench.host.load(PluginSettings { reuse: true, ..script.at(Stage::Data) }).await.unwrap();
    for _ in 0..3 {
        assert_eq!(plugin.judge(call_at(Stage::Data)).await.result.unwrap().edits.len(), 1);
    }
}
