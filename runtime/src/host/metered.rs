//! What calls cost and who is charged for it.

use std::time::Duration;

use tokio::time::advance;

use super::guest::{Bench, Guest, Names, ask, bench, call_at, settings, small};
use super::{BreakerSettings, BreakerState, Plugin, PluginSettings, Report, Settings};
use crate::mail::MessageId;
use crate::pipeline::{Capability, Cause, Event, EventKind, Filter as _, Scope, Stage, Usage};

const CLIENT_NAME: (&str, &str, &str, &str) = ("session", "[method]session.client-name", "client-name", "i32 i32");
const LOG: (&str, &str, &str, &str) = ("log", "write", "log", "i32 i32 i32");

fn with(guest: Guest, (interface, name, alias, params): (&str, &str, &str, &str)) -> Guest {
    guest.import(interface, name, alias, params)
}

/// Counts to that number.
fn count(to: u32) -> String {
    format!(
        "(loop $more (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $more (i32.lt_u (local.get $i) (i32.const {to}))))"
    )
}

fn of(scope: Scope, name: &str, guest: &Guest) -> PluginSettings {
    PluginSettings { scope, name: name.into(), ..settings(guest.build()) }
}

fn event() -> Event {
    Event { kind: EventKind::Delivered, id: MessageId::next(), recipient: String::new(), detail: String::new() }
}

/// Of five calls the one that was disturbed least.
async fn cheapest(plugin: &Plugin, stage: Stage) -> Usage {
    let mut usages = Vec::new();
    for _ in 0..5 {
        usages.push(plugin.judge(call_at(stage)).await.usage);
    }
    usages.into_iter().min_by_key(|usage| usage.cpu).unwrap()
}

#[tokio::test]
async fn a_call_much_shorter_than_a_tick_is_measured() {
    let bench = Bench::new();
    let body = format!("(call $log (i32.const 1) (i32.const 0) (i32.const 100)) {}", count(2_000_000));
    let plugin = bench.load(with(Guest::new(), LOG).at("helo", "").at("connect", &body)).await.unwrap();
    let nothing = cheapest(&plugin, Stage::Helo).await;
    assert!(nothing.cpu > Duration::ZERO && nothing.cpu <= nothing.wall, "{nothing:?}");
    assert_eq!((nothing.host_calls, nothing.octets), (0, 0));
    let work = cheapest(&plugin, Stage::Connect).await;
    assert!(work.cpu > nothing.cpu && work.cpu <= work.wall, "{work:?}");
    assert_eq!((work.host_calls, work.octets), (1, 100));
    assert_eq!(work.calls_of.iter().collect::<Vec<_>>(), [(Capability::Log, 1)]);
    assert_eq!(work.memory, 4 << 16);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_dns_is_not_charged() {
    let bench = bench(small(), Names::Silent);
    let body = "(call $client-name (local.get $session) (i32.const 4096))";
    let plugin = bench.load(with(Guest::new(), CLIENT_NAME).at("connect", body)).await.unwrap();
    let usage = plugin.judge(call_at(Stage::Connect)).await.usage;
    assert!(usage.wall >= Duration::from_secs(3) && usage.cpu < Duration::from_secs(1), "{usage:?}");
    assert_eq!(usage.calls_of.of(Capability::Session), 1);
}

#[tokio::test]
async fn an_account_outlives_the_versions_of_its_plugin() {
    let bench = Bench::new();
    let acme = Scope::Tenant("acme".into());
    let log = "(call $log (i32.const 1) (i32.const 0) (i32.const 8))";
    let old = with(Guest::new(), LOG).at("connect", log).at("event", log);
    let new = Guest::new().at("connect", "unreachable");
    let plugin = bench.host.load(of(acme.clone(), "rule", &old)).await.unwrap();
    ask(&plugin, Stage::Connect).await.unwrap();
    plugin.tell(event()).await.unwrap();
    drop(plugin);
    let plugin = bench.host.load(of(acme.clone(), "rule", &new)).await.unwrap();
    ask(&plugin, Stage::Connect).await.unwrap_err();
    for (scope, name) in [(acme, "other"), (Scope::Platform, "rule")] {
        let plugin = bench.host.load(of(scope, name, &old)).await.unwrap();
        ask(&plugin, Stage::Connect).await.unwrap();
    }
    // One that is never asked, and one that is refused when it is loaded.
    bench.host.load(of(Scope::Platform, "idle", &old)).await.unwrap();
    let bad = Guest::new().at("load", "unreachable").at("helo", "");
    assert!(bench.host.load(of(Scope::Platform, "bad", &bad)).await.is_err());

    let accounts = bench.host.usage();
    let named: Vec<_> = accounts.plugins.iter().map(|a| (a.scope.as_str(), a.plugin.as_str(), a.used.calls)).collect();
    assert_eq!(named, [("platform", "rule", 1), ("tenant:acme", "other", 1), ("tenant:acme", "rule", 3)]);
    let rule = &accounts.plugins[2].used;
    assert_eq!((rule.failures["trap"], rule.host_calls, rule.capabilities["log"], rule.octets), (1, 2, 2, 16));
    assert!(rule.cpu_seconds > 0.0 && rule.cpu_seconds <= rule.wall_seconds && rule.memory_peak == 4 << 16);
    let sum = &accounts.scopes[1];
    assert_eq!((sum.scope.as_str(), sum.plugins, sum.used.calls, sum.used.octets), ("tenant:acme", 2, 4, 24));
    assert_eq!((sum.used.failures["trap"], sum.used.capabilities["log"]), (1, 3));
    let json = serde_json::to_value(&accounts).unwrap();
    assert_eq!(json["plugins"][2]["capabilities"]["log"], 2);
    assert_eq!(serde_json::from_value::<super::Accounts>(json).unwrap(), accounts);
}

#[tokio::test]
async fn the_series_follow_the_accounts() {
    let bench = Bench::new();
    let guest = with(Guest::new(), LOG).at("connect", "(call $log (i32.const 1) (i32.const 0) (i32.const 8))");
    let plugin = bench.host.load(of(Scope::Platform, "rule", &guest.at("helo", "unreachable"))).await.unwrap();
    let read = || String::from_utf8(bench.metrics.render()).unwrap();
    for round in 1..=2 {
        ask(&plugin, Stage::Connect).await.unwrap();
        ask(&plugin, Stage::Helo).await.unwrap_err();
        // Read twice: what was told once is not told again.
        read();
        let text = read();
        for series in [
            format!("postern_plugin_calls_total{{plugin=\"rule\",scope=\"platform\"}} {}\n", round * 2),
            format!("postern_plugin_failures_total{{cause=\"trap\",plugin=\"rule\",scope=\"platform\"}} {round}\n"),
            format!(
                "postern_plugin_host_calls_total{{capability=\"log\",plugin=\"rule\",scope=\"platform\"}} {round}\n"
            ),
            format!("postern_plugin_octets_total{{plugin=\"rule\",scope=\"platform\"}} {}\n", round * 8),
            "postern_plugin_memory_peak_octets{plugin=\"rule\",scope=\"platform\"} 262144\n".to_owned(),
        ] {
            assert!(text.contains(&series), "{series}{text}");
        }
        let cpu = text.lines().find_map(|line| {
            line.strip_prefix("postern_plugin_cpu_seconds_total{plugin=\"rule\",scope=\"platform\"} ")
        });
        let cpu: f64 = cpu.unwrap().parse().unwrap();
        assert!((cpu - bench.host.usage().plugins[0].used.cpu_seconds).abs() < 1e-9);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_the_bill() {
    let bench = bench(small(), Names::Silent);
    let body = format!("{} (call $client-name (local.get $session) (i32.const 4096))", count(1_000_000));
    let plugin = bench.load(with(Guest::new(), CLIENT_NAME).at("connect", &body)).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_millis(10), plugin.judge(call_at(Stage::Connect))).await;
    assert!(gone.is_err());
    let used = &bench.host.usage().plugins[0].used;
    assert_eq!((used.calls, used.capabilities["session"], used.failures.len()), (1, 1, 0));
    assert!(used.cpu_seconds > 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_report_tells_how_a_version_does() {
    let breaker = BreakerSettings { failures: 2, ..BreakerSettings::default() };
    let bench = bench(Settings { breaker, ..small() }, Names::Nobody);
    let guest = Guest::new().at("connect", "").at("helo", "unreachable");
    let plugin = PluginSettings { reuse: true, ..of(Scope::Platform, "rule", &guest) };
    let plugin = bench.host.load(plugin).await.unwrap();
    let fresh = plugin.report().activity;
    assert_eq!((fresh.calls, fresh.warm, fresh.wall_us.p99, fresh.breaker), (0, 0, 0.0, BreakerState::Closed));
    for _ in 0..10 {
        ask(&plugin, Stage::Connect).await.unwrap();
    }
    assert_eq!(plugin.report().activity.warm, 1);
    for expected in [Cause::Trap, Cause::Trap, Cause::Breaker, Cause::Breaker] {
        assert_eq!(ask(&plugin, Stage::Helo).await.unwrap_err().cause, expected);
    }
    // Those that the breaker kept away did not run, and are no failures of its own.
    assert_eq!((plugin.calls(), plugin.failures()), (12, 2));
    let report = plugin.report();
    let Report { activity, .. } = &report;
    assert_eq!((activity.failures["trap"], activity.failures["breaker"]), (2, 2));
    assert_eq!(activity.breaker, BreakerState::Open { retry_in_ms: 1000 });
    assert!(activity.cpu_us.p50 > 0.0 && activity.cpu_us.p50 <= activity.cpu_us.p99, "{activity:?}");
    assert_eq!((activity.memory_peak, activity.warm), (4 << 16, 0));
    advance(Duration::from_secs(1)).await;
    assert_eq!(plugin.breaker(), BreakerState::Open { retry_in_ms: 0 });
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        (&json["plugin"], &json["stages"], &json["calls"]),
        (&"rule".into(), &serde_json::json!(["connect", "helo"]), &12.into())
    );
    assert_eq!(json["breaker"], serde_json::json!({ "state": "open", "retry_in_ms": 1000 }));
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}
