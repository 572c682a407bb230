//! What is loaded and what is not, and what the administrator is told.

use std::sync::Arc;

use super::component::compile::Compiler;
use super::guest::{self, Bench, Guest, Names, VERDICT, bench, settings, small};
use super::hostile::start_cause;
use super::{ContractError, LoadError, Settings, SourceError};
use crate::pipeline::Cause;

#[test]
fn loading_can_run_on_any_thread() {
    fn is_send<T: Send>(_: &T) {}
    let bench = Bench::new();
    is_send(&bench.host.load(settings(Arc::from(Vec::new()))));
}

#[tokio::test]
async fn w8_what_is_no_plugin_says_what_to_do() {
    let bench = Bench::new();
    let load = async |source: &[u8]| bench.host.load(settings(Arc::from(source))).await.map(drop).unwrap_err();
    assert_eq!(load(b"hello").await, LoadError::Source(SourceError::NotWasm));
    let code =
        super::engine::compiler().unwrap().precompile_component(&wat::parse_str("(component)").unwrap()).unwrap();
    assert_eq!(load(&code).await, LoadError::Source(SourceError::Precompiled));
    assert_eq!(
        load(&vec![0; super::component::MAX_SOURCE + 1]).await,
        LoadError::Source(SourceError::TooBig((64 << 20) + 1))
    );
    let component = async |text: &str| load(&wat::parse_str(text).unwrap()).await;
    assert_eq!(component("(component)").await, LoadError::Contract(ContractError::NoStage));
    let newer = r#"(component (instance $i) (export "postern:plugin/on-rcpt@0.2.0" (instance $i)))"#;
    assert!(component(newer).await.to_string().contains("exports on-rcpt@0.2.0, this gateway knows 0.1.0"));
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance)) (instance $i) (export "postern:plugin/on-helo@0.1.0" (instance $i)))"#;
    assert!(matches!(component(wasi).await, LoadError::Contract(ContractError::Wasi(_))));
    let hollow = r#"(component (instance $i) (export "postern:plugin/on-helo@0.1.0" (instance $i)))"#;
    assert!(matches!(component(hollow).await, LoadError::Link(_)));
    let import = r#"(component (import "postern:plugin/config@0.1.0" (instance (export "json" (func (result u32)))))
        (instance $i) (export "postern:plugin/on-helo@0.1.0" (instance $i)))"#;
    let error = component(import).await.to_string();
    assert!(error.contains("imports config with another type: json: result: u32, the contract has string"), "{error}");
    let other_type = r#"(component (core module $m (func (export "f"))) (core instance $m (instantiate $m))
        (func $f (canon lift (core func $m "f"))) (instance $i (export "judge" (func $f)))
        (export "postern:plugin/on-helo@0.1.0" (instance $i)))"#;
    assert_eq!(start_cause::<()>(Err(component(other_type).await)), Cause::Malformed);
    let broken = b"\0asm\x0d\0\x01\0\xff\xff\xff";
    assert!(matches!(load(broken).await, LoadError::Compile(_)));
}

#[tokio::test]
async fn w8_a_trap_at_load_keeps_it_out() {
    let bench = Bench::new();
    assert_eq!(start_cause(bench.load(Guest::new().at("load", "unreachable").at("connect", "")).await), Cause::Trap);
    let refuses = Guest::new()
        .item(&format!(
            r#"(data (i32.const {VERDICT}) "\01\00\00\00\b8\0b\00\00\07\00\00\00") (data (i32.const 3000) "no\nlist")"#
        ))
        .at("load", "")
        .at("connect", "");
    assert_eq!(bench.load(refuses).await.map(drop).unwrap_err(), LoadError::Refused("no list".to_owned()));
}

#[tokio::test]
async fn what_is_not_granted_or_not_there_is_named() {
    let bench = Bench::new();
    let clock = || Guest::new().import("clock", "now", "now", ") (result i64").at("connect", "(drop (call $now))");
    let error = bench.load(clock()).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("add \"clock\" to `grants`"), "{error}");
    let load = async |change: fn(&mut super::PluginSettings)| {
        let mut settings = settings(clock().build());
        change(&mut settings);
        bench.host.load(settings).await.map(|plugin| plugin.inspect().imports.clone())
    };
    assert_eq!(load(|s| s.grants = vec!["clock".to_owned()]).await.unwrap(), ["clock", "message", "session"]);
    assert_eq!(
        load(|s| s.grants = vec!["clok".to_owned()]).await.unwrap_err(),
        LoadError::UnknownGrant("clok".to_owned())
    );
    assert_eq!(load(|s| s.name = Arc::from("a b")).await.unwrap_err(), LoadError::Name("a b".to_owned()));
    assert!(matches!(load(|s| s.limits.memory = 1 << 40).await.unwrap_err(), LoadError::Limit { name: "memory", .. }));
}

#[tokio::test]
async fn compiled_code_is_cached_and_a_damaged_file_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Some(directory.path().join("code"));
    let with = |compiler| bench(Settings { cache: cache.clone(), compiler, ..small() }, Names::Nobody);
    let no_compiler = || Compiler::Child { program: "/nowhere/postern".into() };
    let source = guest::next("connect");
    let loads = async |bench: &Bench| bench.host.load(settings(source.clone())).await.map(drop);
    assert!(matches!(loads(&with(no_compiler())).await, Err(LoadError::Compile(_))));
    loads(&with(Compiler::InProcess)).await.unwrap();
    loads(&with(no_compiler())).await.unwrap();
    let file = std::fs::read_dir(directory.path().join("code")).unwrap().next().unwrap().unwrap().path();
    let mut octets = std::fs::read(&file).unwrap();
    let last = octets.len() - 1;
    octets[last] ^= 1;
    std::fs::write(&file, octets).unwrap();
    assert!(loads(&with(no_compiler())).await.is_err());
    loads(&with(Compiler::InProcess)).await.unwrap();
    loads(&with(no_compiler())).await.unwrap();
}

/// As `plugins/build` makes them: a trap is told by these names.
#[test]
fn built_plugins_keep_the_names_of_their_functions() {
    let module = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/plugins/access.wasm"));
    // The two ways in which the compiler writes them.
    let names = module.windows(3).filter(|octets| *octets == b"_ZN" || *octets == b"_RN").count();
    assert!(names > 50, "{names}");
}
