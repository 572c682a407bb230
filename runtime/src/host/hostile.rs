//! What bad plugins do, and what becomes of it. The names are those of the failure model.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::dns::{Answer, DnsError, Lookup, NameService, Question};
use super::guest::{
    Bench, DISCONNECT, Guest, Names, REJECT, VERDICT, ask, bench, call_at, reply_verdict, settings, small,
};
use super::{BreakerSettings, Limits, LoadError, Settings};
use crate::mail::MessageId;
use crate::pipeline::{Call, Cause, ClientName, Event, EventKind, Filter as _, Stage, Verdict};

const JUDGING: [Stage; 6] = [Stage::Connect, Stage::Helo, Stage::MailFrom, Stage::Rcpt, Stage::Data, Stage::Deliver];

const LOOP: &str = "(loop $forever (br $forever))";
const LOG: (&str, &str, &str, &str) = ("log", "write", "log", "i32 i32 i32");

/// `temporary-failure` of `client-name`, and `timed-out` of `dns-error`, as they lie in memory.
const TEMPORARY_FAILURE: u8 = 3;
const TIMED_OUT: u8 = 3;

fn with(guest: Guest, (interface, name, alias, params): (&str, &str, &str, &str)) -> Guest {
    guest.import(interface, name, alias, params)
}

/// The cause with which a guest fails at a stage.
async fn cause(bench: &Bench, guest: Guest, stage: Stage) -> Cause {
    let plugin = bench.load(guest).await.unwrap();
    ask(&plugin, stage).await.unwrap_err().cause
}

pub(super) fn start_cause<T>(loaded: Result<T, LoadError>) -> Cause {
    match loaded {
        Err(LoadError::Start(failure)) => failure.cause,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("loaded"),
    }
}

#[tokio::test]
async fn a_good_plugin_is_asked_at_all_its_stages() {
    let bench = Bench::new();
    let guest = JUDGING.iter().fold(Guest::new(), |guest, stage| guest.at(stage.name(), "")).at("event", "");
    let plugin = bench.load(guest).await.unwrap();
    for stage in JUDGING {
        assert_eq!(ask(&plugin, stage).await, Ok(Verdict::Next), "{stage}");
    }
    let event =
        Event { kind: EventKind::Delivered, id: MessageId::next(), recipient: String::new(), detail: "250".into() };
    plugin.tell(event).await.unwrap();
    assert_eq!(plugin.interest().stages().iter().count(), 7);
}

#[tokio::test]
async fn w1_endless_loops_end_wherever_they_are() {
    let bench = Bench::new();
    let hook = Guest::new().at("connect", LOOP);
    assert_eq!(cause(&bench, hook, Stage::Connect).await, Cause::Cpu);
    let allocator = Guest::new().item(&format!("(func $allocated {LOOP})")).at("rcpt", "");
    assert_eq!(cause(&bench, allocator, Stage::Rcpt).await, Cause::Cpu);
    let post = format!(r#"(func (export "cabi_post_postern:plugin/on-connect@0.1.0#judge") (param i32) {LOOP})"#);
    assert_eq!(cause(&bench, Guest::new().item(&post).at("connect", ""), Stage::Connect).await, Cause::Cpu);
    let start = Guest::new().item(&format!("(func $start {LOOP}) (start $start)")).at("connect", "");
    assert_eq!(start_cause(bench.load(start).await), Cause::Cpu);
    let load = Guest::new().at("load", LOOP).at("connect", "");
    assert_eq!(start_cause(bench.load(load).await), Cause::Cpu);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_others_are_answered_meanwhile() {
    let bench = Bench::new();
    let stuck = bench.load(Guest::new().at("connect", LOOP)).await.unwrap();
    let good = bench.load(Guest::new().at("connect", "")).await.unwrap();
    let loops: Vec<_> = (0..3)
        .map(|_| {
            let stuck = stuck.clone();
            tokio::spawn(async move { ask(&stuck, Stage::Connect).await })
        })
        .collect();
    for _ in 0..100 {
        assert_eq!(ask(&good, Stage::Connect).await, Ok(Verdict::Next));
    }
    for stuck in loops {
        assert_eq!(stuck.await.unwrap().unwrap_err().cause, Cause::Cpu);
    }
}

#[tokio::test]
async fn w2_memory_tables_and_stack_are_bounded() {
    let bench = Bench::new();
    let hog = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    let plugin = bench.load(Guest::new().at("data", hog)).await.unwrap();
    let judged = plugin.judge(call_at(Stage::Data)).await;
    assert_eq!(judged.result.unwrap_err().cause, Cause::Memory);
    assert!(judged.usage.memory > 0 && judged.usage.memory <= Limits::default().memory);
    let table = Guest::new().item("(table $t 1 funcref)").at(
        "data",
        "(loop $more (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable",
    );
    assert_eq!(cause(&bench, table, Stage::Data).await, Cause::Memory);
    let table = Guest::new().item("(table 50000 funcref)").at("data", "");
    assert_eq!(start_cause(bench.load(table).await), Cause::Memory);
    let many = Guest::new().item("(memory 1) (memory 1) (memory 1)").at("data", "");
    assert!(matches!(bench.load(many).await, Err(LoadError::Fit(_))));
    let big = Guest::new().at("data", "").build_with_memory(257);
    assert_eq!(start_cause(bench.host.load(settings(big)).await), Cause::Memory);
    let recursion = Guest::new().item("(func $deep (call $deep))").at("data", "(call $deep)");
    assert_eq!(cause(&bench, recursion, Stage::Data).await, Cause::Stack);
}

#[tokio::test]
async fn w2_a_guest_that_takes_no_for_an_answer_goes_on() {
    let bench = Bench::new();
    let modest = Guest::new().at("data", "(drop (memory.grow (i32.const 10000)))");
    let plugin = bench.load(modest).await.unwrap();
    assert_eq!(ask(&plugin, Stage::Data).await, Ok(Verdict::Next));
}

#[tokio::test]
async fn w3_a_trap_at_each_stage_is_a_failure_that_names_it() {
    let bench = Bench::new();
    let guest = JUDGING.iter().fold(Guest::new(), |guest, stage| guest.at(stage.name(), "unreachable"));
    let plugin = bench.load(guest.at("event", "unreachable")).await.unwrap();
    for stage in JUDGING {
        let failure = ask(&plugin, stage).await.unwrap_err();
        assert_eq!(failure.cause, Cause::Trap);
        assert!(failure.detail.contains("unreachable") && failure.detail.contains(&format!("on-{stage}")), "{failure}");
        assert!(failure.detail.len() <= 1024);
    }
    let event =
        Event { kind: EventKind::Bounced, id: MessageId::next(), recipient: String::new(), detail: String::new() };
    assert_eq!(plugin.tell(event).await.unwrap_err().cause, Cause::Trap);
}

/// What the SDK's guests do when they panic: the hook writes the message, then a chain of the standard library's functions
/// ends in a trap.
fn panicking(level: u32) -> Guest {
    let message = "panicked at src/rules.rs:7:9:\\0ano rule for \\22x\\22";
    let name = |path: &str| {
        let parts = path.split("::").map(|part| format!("{}{part}", part.len()));
        format!("_ZN{}17h0123456789abcdefE", parts.collect::<String>())
    };
    let (panic, rule) = (name("core::panicking::panic_fmt"), name("my_plugin::rules::check"));
    with(Guest::new(), LOG)
        .item(&format!(r#"(data (i32.const 3000) "{message}")"#))
        .item(&format!("(func ${panic} (call $log (i32.const {level}) (i32.const 3000) (i32.const 45)) unreachable)"))
        .item(&format!("(func ${rule} (call ${panic}))"))
        .at("rcpt", &format!("(call ${rule})"))
        .at("connect", "(call $log (i32.const 3) (i32.const 3000) (i32.const 45))")
        .at("helo", "unreachable")
}

#[tokio::test]
async fn w3_a_panic_is_told_with_its_message_and_the_names_of_functions() {
    let bench = Bench::new();
    let reuse = super::PluginSettings { reuse: true, ..settings(panicking(3).build()) };
    let plugin = bench.host.load(reuse).await.unwrap();
    let failure = ask(&plugin, Stage::Rcpt).await.unwrap_err();
    let expected = "panicked at src/rules.rs:7:9: no rule for \"x\"; wasm trap: wasm `unreachable` instruction executed, \
        in my_plugin::rules::check < on-rcpt";
    assert_eq!((failure.cause, failure.detail.as_str()), (Cause::Trap, expected));
    // What was said in an earlier call, or is no error, is not why.
    ask(&plugin, Stage::Connect).await.unwrap();
    let failure = ask(&plugin, Stage::Helo).await.unwrap_err();
    assert!(failure.detail.starts_with("wasm trap"), "{failure}");
    let failure = ask(&bench.load(panicking(2)).await.unwrap(), Stage::Rcpt).await.unwrap_err();
    assert!(failure.detail.starts_with("wasm trap"), "{failure}");
}

#[tokio::test]
async fn w3_other_traps() {
    let bench = Bench::new();
    for body in [
        "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
        "(drop (i32.load (i32.const -4)))",
        "(drop (i32.trunc_f32_s (f32.const nan)))",
    ] {
        assert_eq!(cause(&bench, Guest::new().at("helo", body), Stage::Helo).await, Cause::Trap, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn w3_the_breaker_opens_and_recovers() {
    let breaker = BreakerSettings { failures: 3, ..BreakerSettings::default() };
    let bench = bench(Settings { breaker, ..small() }, Names::Nobody);
    // Traps where the session's helo is absent; at `mail-from` it is well.
    let plugin = bench.load(Guest::new().at("connect", "unreachable").at("helo", "")).await.unwrap();
    let open = || bench.metrics.plugin_breaker_open.with_label_values(&["guest", "tenant:acme"]).get();
    for _ in 0..3 {
        assert_eq!(ask(&plugin, Stage::Connect).await.unwrap_err().cause, Cause::Trap);
    }
    assert_eq!(open(), 1);
    assert_eq!(ask(&plugin, Stage::Helo).await.unwrap_err().cause, Cause::Breaker);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(ask(&plugin, Stage::Helo).await, Ok(Verdict::Next));
    assert_eq!(open(), 0);
    assert_eq!(ask(&plugin, Stage::Helo).await, Ok(Verdict::Next));
}

#[tokio::test]
async fn w4_floods_of_host_calls_end() {
    let bench = Bench::new();
    let small = "(loop $more (call $log (i32.const 1) (i32.const 0) (i32.const 1)) (br $more))";
    let failure = {
        let plugin = bench.load(with(Guest::new(), LOG).at("data", small)).await.unwrap();
        let judged = plugin.judge(call_at(Stage::Data)).await;
        assert_eq!(judged.usage.host_calls, Limits::default().host_calls + 1);
        judged.result.unwrap_err()
    };
    assert_eq!(failure.cause, Cause::HostCalls);
    let logged = bench.events.try_iter().filter(|(_, record)| record.event == "plugin-log").count();
    assert_eq!(logged, Limits::default().log_lines);
    let big = "(loop $more (call $log (i32.const 1) (i32.const 0) (i32.const 262144)) (br $more))";
    let plugin = bench.load(with(Guest::new(), LOG).at("data", big)).await.unwrap();
    let failure = ask(&plugin, Stage::Data).await.unwrap_err();
    assert!(failure.cause == Cause::HostCalls && failure.detail.contains("octets"), "{failure}");
}

#[tokio::test]
async fn w4_one_crossing_and_all_handles_are_bounded() {
    let bench = Bench::new();
    let own = Guest::new()
        .world(
            "export extra: interface { resource thing { constructor(); } }",
            r#"(import "[export]extra" "[resource-new]thing" (func $new (param i32) (result i32)))"#,
        )
        .item(r#"(func (export "extra#[constructor]thing") (result i32) (call $new (i32.const 1)))"#)
        .at("connect", "(loop $more (drop (call $new (i32.const 1))) (br $more))");
    assert_eq!(cause(&bench, own, Stage::Connect).await, Cause::HostCalls);
    // 400 questions whose names all are the same 100 KiB: 40 MiB for the host to copy.
    let many = ("dns", "resolve-many", "many", "i32 i32 i32");
    let body = "(loop $fill
            (i32.store offset=204804 (i32.mul (local.get $i) (i32.const 12)) (i32.const 102400))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $fill (i32.lt_u (local.get $i) (i32.const 400))))
        (call $many (i32.const 204800) (i32.const 400) (i32.const 4096))";
    let guest = with(Guest::new(), many).at("connect", body);
    let granted = super::PluginSettings { grants: vec!["dns".to_owned()], ..settings(guest.build()) };
    let plugin = bench.host.load(granted).await.unwrap();
    let failure = ask(&plugin, Stage::Connect).await.unwrap_err();
    assert!(failure.cause == Cause::HostCalls && failure.detail.contains("too much data"), "{failure}");
}

#[tokio::test]
async fn w4_log_lines_carry_whose_they_are() {
    let bench = Bench::new();
    let guest = with(Guest::new(), LOG)
        .item(r#"(data (i32.const 3000) "hello\0a{}")"#)
        .at("data", "(call $log (i32.const 2) (i32.const 3000) (i32.const 8))");
    let plugin = bench.load(guest).await.unwrap();
    let call = call_at(Stage::Data);
    let (session, id) = (call.session.id, call.mail.as_ref().unwrap().id);
    plugin.judge(call).await.result.unwrap();
    let (_, record) = bench.events.try_recv().unwrap();
    assert_eq!((record.session, record.id), (Some(session), Some(id)));
    let fields = record.fields();
    let fields = ["plugin", "scope", "level", "text"].map(|name| fields[name].as_str().unwrap().to_owned());
    assert_eq!(fields, ["guest", "tenant:acme", "warn", "hello\n{}"]);
}

#[tokio::test]
async fn w5_malformed_returns_are_never_used() {
    let bench = Bench::new();
    let raw = |octets: &str| format!(r#"(data (i32.const {VERDICT}) "{octets}")"#);
    for (what, item) in [
        ("case out of range", raw("\\07")),
        ("case far out of range", raw("\\ff")),
        ("text of 4 GiB", raw("\\02\\00\\00\\00\\26\\02\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\ff\\ff\\ff\\ff")),
        (
            "text beyond the memory",
            raw("\\02\\00\\00\\00\\26\\02\\00\\00\\00\\00\\00\\00\\f0\\ff\\03\\00\\00\\01\\00\\00"),
        ),
        ("option out of range", raw("\\02\\00\\00\\00\\26\\02\\02")),
        ("invalid UTF-8", reply_verdict(REJECT, 550, b"\xff\xfe")),
        ("lone surrogate", reply_verdict(REJECT, 550, b"\xed\xa0\x80")),
        ("code 0", reply_verdict(REJECT, 0, b"x")),
        ("code 200", reply_verdict(REJECT, 200, b"x")),
        ("code 450 for reject", reply_verdict(REJECT, 450, b"x")),
        ("code 999", reply_verdict(REJECT, 999, b"x")),
        ("CRLF", reply_verdict(REJECT, 550, b"x\r\n250 ok")),
        ("NUL", reply_verdict(REJECT, 550, b"x\0")),
        ("too long", reply_verdict(REJECT, 550, &[b'a'; 481])),
        (
            "reason with CR",
            reply_verdict(5, 0, b"").replace(
                "\\05\\00\\00\\00\\00\\00\\01\\00\\07\\00\\01\\00",
                "\\05\\00\\00\\00\\00\\08\\00\\00\\01\\00\\00\\00",
            ) + r#"(data (i32.const 2048) "\0d")"#,
        ),
    ] {
        assert_eq!(
            cause(&bench, Guest::new().item(&item).at("rcpt", ""), Stage::Rcpt).await,
            Cause::Malformed,
            "{what}"
        );
    }
    let disconnect = Guest::new().item(&reply_verdict(DISCONNECT, 421, b"x")).at("deliver", "");
    assert_eq!(cause(&bench, disconnect, Stage::Deliver).await, Cause::Malformed);
    for pointer in [VERDICT + 1, 4 << 16, u32::MAX - 3] {
        let body = format!("(call $drop-session (local.get $session)) (return (i32.const {}))", pointer.cast_signed());
        assert_eq!(
            cause(&bench, Guest::new().at("connect", &body), Stage::Connect).await,
            Cause::Malformed,
            "{pointer}"
        );
    }
    let kept_handle = format!("(return (i32.const {VERDICT}))");
    assert_eq!(cause(&bench, Guest::new().at("connect", &kept_handle), Stage::Connect).await, Cause::Malformed);
}

#[tokio::test]
async fn w5_a_legal_reply_comes_through() {
    let bench = Bench::new();
    let plugin =
        bench.load(Guest::new().item(&reply_verdict(REJECT, 554, "não".as_bytes())).at("rcpt", "")).await.unwrap();
    let verdict = ask(&plugin, Stage::Rcpt).await.unwrap();
    assert_eq!(verdict.reply().unwrap().to_string(), "554 5.7.1 não");
}

#[tokio::test]
async fn w5_malformed_arguments_are_refused_too() {
    let bench = Bench::new();
    for (what, call) in [
        ("level out of range", "(call $log (i32.const 4) (i32.const 0) (i32.const 0))"),
        ("text beyond the memory", "(call $log (i32.const 1) (i32.const 262143) (i32.const 2))"),
        ("text of 4 GiB", "(call $log (i32.const 1) (i32.const 0) (i32.const -1))"),
        (
            "invalid UTF-8",
            "(i32.store8 (i32.const 0) (i32.const 255)) (call $log (i32.const 1) (i32.const 0) (i32.const 1))",
        ),
    ] {
        assert_eq!(
            cause(&bench, with(Guest::new(), LOG).at("helo", call), Stage::Helo).await,
            Cause::Malformed,
            "{what}"
        );
    }
    let forged = Guest::new().import("session", "[method]session.trusted", "trusted", "i32) (result i32");
    let forged = forged.at("helo", "(drop (call $trusted (i32.const 77)))");
    assert_eq!(cause(&bench, forged, Stage::Helo).await, Cause::Malformed);
}

const ADD_HEADER: (&str, &str, &str, &str) =
    ("message", "[method]message.add-header", "add-header", "i32 i32 i32 i32 i32 i32 i32");
/// `X-A: 1`, its result at 4096.
const EDIT: &str = "(call $add-header (local.get $message) (i32.const 3000) (i32.const 3) (i32.const 3003) (i32.const 1) (i32.const 0) (i32.const 4096))";

fn editing(after: &str) -> Guest {
    with(Guest::new(), ADD_HEADER)
        .item(r#"(data (i32.const 3000) "X-A1")"#)
        .at("data", &format!("{EDIT} {EDIT} {after}"))
}

#[tokio::test]
async fn w9_edits_come_all_together_or_not_at_all() {
    let bench = Bench::new();
    let plugin = bench.load(editing("")).await.unwrap();
    let answer = plugin.judge(call_at(Stage::Data)).await.result.unwrap();
    assert_eq!(answer.edits.len(), 2);
    for after in ["unreachable", LOOP, "(i32.store8 (i32.const 1024) (i32.const 99))"] {
        let plugin = bench.load(editing(after)).await.unwrap();
        let call = call_at(Stage::Data);
        let before = call.mail.clone().unwrap();
        assert!(plugin.judge(call).await.result.is_err(), "{after}");
        assert_eq!(before.message.as_ref().unwrap().header.fields().len(), 2);
    }
}

#[tokio::test]
async fn a_refused_edit_that_is_not_handled_is_named() {
    let bench = Bench::new();
    let add_recipient = ("message", "[method]message.add-recipient", "add", "i32 i32 i32 i32 i32 i32");
    let body = "(call $add (local.get $message) (i32.const 3000) (i32.const 1) (i32.const 3001) (i32.const 5) (i32.const 4096))
        (if (i32.load8_u (i32.const 4096)) (then unreachable))";
    let guest = || with(Guest::new(), add_recipient).item(r#"(data (i32.const 3000) "ax.org")"#).at("data", body);
    let failure = ask(&bench.load(guest()).await.unwrap(), Stage::Data).await.unwrap_err();
    assert!(failure.cause == Cause::Denied && failure.detail.contains("recipients"), "{failure}");
    let granted = super::PluginSettings { grants: vec!["recipients".to_owned()], ..settings(guest().build()) };
    let answer = bench.host.load(granted).await.unwrap().judge(call_at(Stage::Data)).await.result.unwrap();
    assert_eq!(answer.edits.len(), 1);
}

/// Asks for the client's name.
fn waiting() -> Guest {
    let client_name = ("session", "[method]session.client-name", "client-name", "i32 i32");
    with(Guest::new(), client_name).at("connect", "(call $client-name (local.get $session) (i32.const 4096))")
}

/// Traps where the octet at that address is another.
fn expect(address: u32, octet: u8) -> String {
    format!("(if (i32.ne (i32.load8_u (i32.const {address})) (i32.const {octet})) (then unreachable))")
}

#[tokio::test(start_paused = true)]
async fn n1_a_client_name_that_takes_too_long_is_a_temporary_failure_for_the_session() {
    let bench = bench(small(), Names::Silent);
    let client_name = ("session", "[method]session.client-name", "client-name", "i32 i32");
    let body = format!("(call $client-name (local.get $session) (i32.const 4096)) {}", expect(4096, TEMPORARY_FAILURE));
    let plugin = bench.load(with(Guest::new(), client_name).at("connect", &body).at("helo", &body)).await.unwrap();
    let connect = call_at(Stage::Connect);
    let session = connect.session.clone();
    let judged = plugin.judge(connect).await;
    assert_eq!(judged.result.unwrap().verdict, Verdict::Next);
    let third = Limits::default().wall / 3;
    assert!(judged.usage.wall >= third && judged.usage.wall < third * 2, "{:?}", judged.usage.wall);
    assert_eq!(session.client_name.get(), Some(&ClientName::TemporaryFailure));
    let judged = plugin.judge(Call { session, ..call_at(Stage::Helo) }).await;
    assert_eq!(judged.result.unwrap().verdict, Verdict::Next);
    assert!(judged.usage.wall < Duration::from_millis(100), "it has waited again: {:?}", judged.usage.wall);
}

#[tokio::test(start_paused = true)]
async fn n1_a_silent_resolver_is_timed_out_however_often_it_is_asked() {
    let bench = bench(small(), Names::Silent);
    let body = format!(
        "(loop $again
            (call $resolve (i32.const 3000) (i32.const 1) (i32.const 0) (i32.const 4096)) {} {}
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const 40))))",
        expect(4096, 1),
        expect(4100, TIMED_OUT)
    );
    let guest = with(Guest::new(), ("dns", "resolve", "resolve", "i32 i32 i32 i32"))
        .item(r#"(data (i32.const 3000) "a")"#)
        .at("connect", &body);
    let granted = super::PluginSettings { grants: vec!["dns".to_owned()], ..settings(guest.build()) };
    let plugin = bench.host.load(granted).await.unwrap();
    assert_eq!(ask(&plugin, Stage::Connect).await, Ok(Verdict::Next));
}

#[tokio::test(start_paused = true)]
async fn n1_many_questions_at_a_time_are_timed_out_all_at_once() {
    let bench = bench(small(), Names::Silent);
    let many = ("dns", "resolve-many", "many", "i32 i32 i32");
    // Two questions of an `a` each, name at 3000. Each answer has its case first, and the error 4 octets behind it.
    let body = "(call $many (i32.const 3100) (i32.const 2) (i32.const 4096))
        (if (i32.ne (i32.load offset=4 (i32.const 4096)) (i32.const 2)) (then unreachable))
        (if (i32.ne (i32.load8_u (i32.load (i32.const 4096))) (i32.const 1)) (then unreachable))
        (if (i32.ne (i32.load8_u offset=4 (i32.load (i32.const 4096))) (i32.const 3)) (then unreachable))";
    let guest = with(Guest::new(), many)
        .item(r#"(data (i32.const 3000) "a") (data (i32.const 3100) "\b8\0b\00\00\01\00\00\00\00\00\00\00\b8\0b\00\00\01\00\00\00\00\00\00\00")"#)
        .at("connect", body);
    let granted = super::PluginSettings { grants: vec!["dns".to_owned()], ..settings(guest.build()) };
    let judged = bench.host.load(granted).await.unwrap().judge(call_at(Stage::Connect)).await;
    assert_eq!(judged.result.unwrap().verdict, Verdict::Next);
    assert!(judged.usage.wall < Limits::default().wall / 2, "{:?}", judged.usage.wall);
}

/// Answers nothing; the questions that are under way each hold one of it.
struct Counting(Arc<()>);

impl Counting {
    fn asked<T: Send>(&self) -> Lookup<'_, T> {
        Box::pin(async {
            let _under_way = self.0.clone();
            std::future::pending().await
        })
    }
}

impl NameService for Counting {
    fn resolve(&self, _: Question) -> Lookup<'_, Result<Answer, DnsError>> {
        self.asked()
    }

    fn client_name(&self, _: IpAddr) -> Lookup<'_, ClientName> {
        self.asked()
    }
}

#[tokio::test(start_paused = true)]
async fn n1_one_plugin_does_not_take_the_whole_resolver() {
    let token = Arc::new(());
    let names = Arc::new(Counting(token.clone()));
    let bench = super::guest::bench_with(small(), names);
    let body = "(loop $next
            (i32.store (i32.add (i32.const 5000) (local.get $i)) (i32.const 3000))
            (i32.store offset=4 (i32.add (i32.const 5000) (local.get $i)) (i32.const 1))
            (local.set $i (i32.add (local.get $i) (i32.const 12)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 384))))
        (call $many (i32.const 5000) (i32.const 32) (i32.const 4096))";
    let guest = with(Guest::new(), ("dns", "resolve-many", "many", "i32 i32 i32"))
        .item(r#"(data (i32.const 3000) "a")"#)
        .at("connect", body);
    let granted = super::PluginSettings { grants: vec!["dns".to_owned()], ..settings(guest.build()) };
    let greedy = bench.host.load(granted).await.unwrap();
    let other = bench.load(waiting()).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    let mut under_way = Vec::new();
    for plugin in [&greedy, &greedy, &greedy, &other] {
        let plugin = plugin.clone();
        calls.spawn(async move { ask(&plugin, Stage::Connect).await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        // Without this one and that of the service.
        under_way.push(Arc::strong_count(&token) - 2);
    }
    assert_eq!(under_way, [32, 64, 64, 65]);
    assert_eq!(calls.join_all().await, vec![Ok(Verdict::Next); 4], "those that had no turn are temporary too");
    assert_eq!(Arc::strong_count(&token), 2);
}

#[tokio::test]
async fn w11_whatever_takes_too_long_ends_at_the_wall() {
    let bench = bench(small(), Names::Silent);
    let limits = Limits { cpu: Duration::from_secs(60), wall: Duration::from_millis(50), ..Limits::default() };
    let endless =
        super::PluginSettings { limits: limits.clone(), ..settings(Guest::new().at("connect", LOOP).build()) };
    let judged = bench.host.load(endless).await.unwrap().judge(call_at(Stage::Connect)).await;
    assert_eq!(judged.result.unwrap_err().cause, Cause::Wall);
    assert!(judged.usage.wall >= limits.wall && judged.usage.cpu < limits.cpu);
}

#[tokio::test(start_paused = true)]
async fn a_plugin_over_its_quota_is_busy_and_others_are_not() {
    let bench = bench(small(), Names::Silent);
    // Its look-up takes longer than the others' turn.
    let limits = Limits { calls: 1, wall: Duration::from_secs(60), ..Limits::default() };
    let stuck = super::PluginSettings { limits, ..settings(waiting().build()) };
    let stuck = bench.host.load(stuck).await.unwrap();
    let good = bench.load(Guest::new().at("connect", "")).await.unwrap();
    let held = tokio::spawn({
        let stuck = stuck.clone();
        async move { ask(&stuck, Stage::Connect).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(ask(&stuck, Stage::Connect).await.unwrap_err().cause, Cause::Busy);
    assert_eq!(ask(&good, Stage::Connect).await, Ok(Verdict::Next));
    assert_eq!(held.await.unwrap(), Ok(Verdict::Next));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_many_plugins_leaves_room_for_others() {
    let bench = bench(Settings { calls: 8, ..small() }, Names::Silent);
    let of = |scope: &str, guest: Guest| super::PluginSettings {
        scope: crate::pipeline::Scope::Tenant(scope.into()),
        limits: Limits { wall: Duration::from_secs(60), ..Limits::default() },
        ..settings(guest.build())
    };
    let mut stuck = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let plugin = bench.host.load(of("many", waiting())).await.unwrap();
        stuck.spawn(async move { ask(&plugin, Stage::Connect).await.err().map(|failure| failure.cause) });
    }
    tokio::task::yield_now().await;
    let good = bench.host.load(of("other", Guest::new().at("connect", ""))).await.unwrap();
    let asked = tokio::time::Instant::now();
    assert_eq!(ask(&good, Stage::Connect).await, Ok(Verdict::Next));
    assert!(asked.elapsed() < Duration::from_secs(1), "it has waited for them: {:?}", asked.elapsed());
    let causes = stuck.join_all().await;
    assert_eq!(causes.iter().filter(|cause| **cause == Some(Cause::Busy)).count(), 6, "{causes:?}");
}

#[tokio::test(start_paused = true)]
async fn w7_a_caller_that_goes_away_leaves_nothing_behind() {
    let bench = bench(Settings { calls: 1, warm: 0, ..small() }, Names::Silent);
    let plugin = bench.load(waiting().at("helo", "")).await.unwrap();
    for _ in 0..20 {
        let gone = tokio::time::timeout(Duration::from_millis(10), plugin.judge(call_at(Stage::Connect))).await;
        assert!(gone.is_err());
    }
    // Permit and slot are free again, and nothing was counted as a failure.
    assert_eq!(ask(&plugin, Stage::Helo).await, Ok(Verdict::Next));
}

/// Rejects where it finds the canary anywhere in its memory; then writes it all over.
fn canary() -> Guest {
    let scan = "(memory.grow (i32.const 60)) drop
        (loop $next
            (if (i64.eq (i64.load (local.get $i)) (i64.const 0x5ca1ab1edeadbeef))
                (then (i32.store8 (i32.const 1024) (i32.const 2)) (i32.store16 (i32.const 1028) (i32.const 550))))
            (if (i32.gt_u (local.get $i) (i32.const 4096)) (then (i64.store (local.get $i) (i64.const 0x5ca1ab1edeadbeef))))
            (local.set $i (i32.add (local.get $i) (i32.const 8)))
            (br_if $next (i32.lt_u (local.get $i) (i32.mul (memory.size) (i32.const 65536)))))";
    Guest::new().at("connect", scan)
}

#[tokio::test]
async fn w10_no_instance_sees_the_memory_of_another() {
    let bench = bench(Settings { calls: 1, warm: 0, ..small() }, Names::Nobody);
    let limits = Limits { cpu: Duration::from_secs(5), ..Limits::default() };
    let plugin = |scope: &str| super::PluginSettings {
        scope: crate::pipeline::Scope::Tenant(scope.into()),
        limits: limits.clone(),
        ..settings(canary().build())
    };
    let one = bench.host.load(plugin("one")).await.unwrap();
    let other = bench.host.load(plugin("other")).await.unwrap();
    for _ in 0..8 {
        assert_eq!(ask(&one, Stage::Connect).await, Ok(Verdict::Next));
        assert_eq!(ask(&other, Stage::Connect).await, Ok(Verdict::Next));
    }
    // The canary can be found: an instance that is used again finds its own.
    let kept = bench_with_reuse(&limits).await;
    assert_eq!(ask(&kept, Stage::Connect).await, Ok(Verdict::Next));
    assert!(matches!(ask(&kept, Stage::Connect).await, Ok(Verdict::Reject(_))));
}

async fn bench_with_reuse(limits: &Limits) -> Arc<super::Plugin> {
    let reuse = super::PluginSettings { reuse: true, limits: limits.clone(), ..settings(canary().build()) };
    Bench::new().host.load(reuse).await.unwrap()
}

#[tokio::test]
async fn w10_a_warm_instance_is_dropped_after_a_failure() {
    let bench = Bench::new();
    let guest = Guest::new().at("connect", "").at("helo", "unreachable").at("rcpt", "");
    let reuse = super::PluginSettings { reuse: true, ..settings(guest.build()) };
    let plugin = bench.host.load(reuse).await.unwrap();
    let idle = || plugin.pool.as_ref().unwrap().idle();
    for stage in [Stage::Connect, Stage::Rcpt, Stage::Connect] {
        assert_eq!(ask(&plugin, stage).await, Ok(Verdict::Next));
        assert_eq!(idle(), 1);
    }
    assert!(ask(&plugin, Stage::Helo).await.is_err());
    assert_eq!(idle(), 0);
    for _ in 0..1000 {
        ask(&plugin, Stage::Connect).await.unwrap();
    }
    assert_eq!(idle(), 0, "it has done its thousand calls");
}

#[tokio::test]
async fn w12_nothing_is_remembered_but_the_notes() {
    let bench = Bench::new();
    let remember = ("session", "[method]session.remember", "remember", "i32 i32 i32 i32 i32 i32");
    let guest = with(Guest::new(), remember)
        .item(r#"(data (i32.const 3000) "key")"#)
        .at("connect", "(call $remember (local.get $session) (i32.const 3000) (i32.const 3) (i32.const 3001) (i32.const 2) (i32.const 4096))")
        .at("helo", "(call $remember (local.get $session) (i32.const 3000) (i32.const 3) (i32.const 3000) (i32.const 5000) (i32.const 4096))
            (if (i32.eqz (i32.load8_u (i32.const 4096))) (then unreachable))");
    let plugin = bench.load(guest).await.unwrap();
    let call = call_at(Stage::Connect);
    let given = call.notes.clone();
    let answer = plugin.judge(call).await.result.unwrap();
    assert_eq!(answer.notes.get("key").map(Vec::as_slice), Some(&b"ey"[..]));
    assert!(given.is_empty());
    let full = plugin.judge(call_at(Stage::Helo)).await.result.unwrap();
    assert!(full.notes.is_empty(), "5000 octets are more than fit");
}
