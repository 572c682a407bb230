//! The modules that `plugins/build` makes: what they export and import, as the gateway will see it.

#![expect(clippy::panic, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::path::{Path, PathBuf};

use wit_component::{ComponentEncoder, DecodedWasm};

/// Plugin, stages, capabilities beside config, log, message and session.
const PLUGINS: [(&str, &[&str], &[&str]); 17] = [
    ("access", &["connect", "mail-from", "rcpt"], &["metrics", "tables"]),
    ("antispam", &["data"], &["metrics", "scan"]),
    ("antivirus", &["data"], &["metrics", "scan"]),
    ("arc-seal", &["data", "deliver"], &["authentication", "metrics", "signing"]),
    ("connection-policy", &["connect", "mail-from", "rcpt"], &["counters", "dns", "metrics"]),
    ("dkim", &["data"], &["authentication", "metrics"]),
    ("dkim-sign", &["deliver"], &["metrics", "signing"]),
    ("dmarc", &["data"], &["authentication", "metrics"]),
    ("dnsbl", &["mail-from", "data"], &["authentication", "dns", "metrics"]),
    ("forwarding", &["data"], &["metrics"]),
    ("greylist", &["rcpt"], &["authentication", "clock", "metrics", "store"]),
    ("headers", &["data", "deliver"], &["metrics"]),
    ("limits", &["mail-from", "rcpt"], &["counters", "metrics", "tables"]),
    ("recipients", &["rcpt"], &["call-ahead", "metrics", "tables"]),
    ("routing", &["deliver"], &["metrics", "tables"]),
    ("sender-policy", &["mail-from", "rcpt"], &["dns", "metrics"]),
    ("spf", &["data", "mail-from"], &["authentication", "metrics"]),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn module(name: &str) -> Vec<u8> {
    let path = workspace().join(format!("target/plugins/{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run plugins/build", path.display()))
}

/// The names of interfaces that a component imports and exports, without package and version, sorted.
fn interfaces(component: &[u8]) -> (Vec<String>, Vec<String>) {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component).unwrap() else {
        panic!("not a component");
    };
    let short = |key| {
        let name = resolve.name_world_key(key);
        name.strip_prefix("postern:plugin/")
            .and_then(|name| name.strip_suffix("@0.1.0"))
            .expect("of the contract")
            .to_owned()
    };
    let world = &resolve.worlds[world];
    let mut imports: Vec<_> = world.imports.keys().map(short).collect();
    let mut exports: Vec<_> = world.exports.keys().map(short).collect();
    imports.sort();
    exports.sort();
    (imports, exports)
}

#[test]
fn plugins_export_the_stages_that_they_have_and_import_what_they_use() {
    for (name, stages, capabilities) in PLUGINS {
        let encoder = ComponentEncoder::default().module(&module(name)).unwrap();
        let component = encoder.validate(true).encode().unwrap();
        let (mut imports, exports) = interfaces(&component);
        let mut expected: Vec<_> = stages.iter().map(|stage| format!("on-{stage}")).collect();
        expected.push("on-load".into());
        expected.sort();
        assert_eq!(exports, expected, "{name}");
        imports.retain(|import| !["config", "log", "message", "session", "types"].contains(&import.as_str()));
        assert_eq!(imports, capabilities, "{name}");
    }
}

#[test]
fn modules_are_small_and_the_same_wherever_they_are_built() {
    let home = std::env::home_dir().unwrap();
    for (name, ..) in PLUGINS {
        let module = module(name);
        // The largest takes mails apart and reads five forms of rules.
        assert!(module.len() < 224 * 1024, "{name} has {} octets", module.len());
        for place in [workspace().canonicalize().unwrap(), home.clone()] {
            let place = place.to_str().unwrap().as_bytes();
            let found = module.windows(place.len()).position(|part| part == place);
            assert!(place == b"/" || found.is_none(), "{name} names a folder of the machine that built it");
        }
    }
}
