//! What a plugin is, told without compiling it: what it exports and imports, what it needs to be granted, and all that does
//! not fit this gateway.
//!
//! The rules are those of [`Contract`], which reads the compiled component; here the types of the functions are compared
//! too, so that whoever gets a plugin that does not fit learns everything at once, by the names of the contract.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{Function, Interface, Resolve, World, WorldId, WorldItem};

use super::difference::difference;
use super::{ContentDigest, Contract, Kind, PACKAGE, SourceError, sniff, to_component, versioned};
use crate::host::abi::VERSION;
use crate::host::capability::{GRANTED, RECIPIENTS};

/// Differences that are told; a component may have any number.
const MAX_DIFFERENCES: usize = 100;
/// Characters of one.
const MAX_DIFFERENCE: usize = 1000;

/// What there is to know of a plugin's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// `module` (core, with an embedded world) or `component`.
    pub kind: String,
    /// Octets.
    pub size: usize,
    /// SHA-256, 64 hexadecimal digits.
    pub digest: String,
    /// Versions of `postern:plugin` that it was built with: one, as a rule.
    pub contract: Vec<String>,
    /// What it is asked at.
    pub stages: Vec<String>,
    /// It has `on-load`.
    pub checks_config: bool,
    /// Interfaces of the contract that it imports.
    pub imports: Vec<String>,
    /// Those of them that its entry must grant, or it is not loaded.
    pub needs_grants: Vec<String>,
    /// Grants without which edits that it can make are denied.
    pub may_need_grants: Vec<String>,
    /// What does not fit this gateway, all of it.
    pub differences: Vec<String>,
}

impl Findings {
    pub fn fits(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Looks at a plugin. The error is for what is no plugin at all. Takes a second for the largest, so it blocks.
pub fn inspect(source: &[u8]) -> Result<Findings, SourceError> {
    let kind = sniff(source)?;
    // The decoder is made for what tools have made; for what somebody has made to break it, a panic of it is an answer.
    let read = catch_unwind(|| {
        let component = to_component(source)?;
        decode(&component).map_err(|error| SourceError::Unreadable(format!("{error:#}")))
    });
    let panicked = |_| Err(SourceError::Unreadable("the decoder gives up".to_owned()));
    let (resolve, world) = match read.unwrap_or_else(panicked)? {
        DecodedWasm::Component(resolve, world) => (resolve, world),
        DecodedWasm::WitPackage(..) => return Err(SourceError::Interfaces),
    };
    Ok(Findings {
        kind: match kind {
            Kind::Module => "module",
            Kind::Component => "component",
        }
        .to_owned(),
        size: source.len(),
        digest: ContentDigest::of(source).to_string(),
        ..compare(&resolve, world)
    })
}

/// The contract of this gateway, as its own files have it.
static CONTRACT: LazyLock<Resolve> = LazyLock::new(|| {
    let mut files = wit_parser::SourceMap::new();
    for (name, text) in FILES {
        files.push_str(name, text);
    }
    let mut resolve = Resolve::default();
    // Where they could not be read, no interface would be known, and nothing fit; a test holds them to it.
    if let Ok(group) = files.parse() {
        let _ = resolve.push_group(group);
    }
    resolve
});

const FILES: [(&str, &str); 4] = [
    ("capabilities.wit", include_str!("../../../../wit/capabilities.wit")),
    ("stages.wit", include_str!("../../../../wit/stages.wit")),
    ("types.wit", include_str!("../../../../wit/types.wit")),
    ("world.wit", include_str!("../../../../wit/world.wit")),
];

/// An interface of the contract.
fn known(name: &str) -> Option<&'static Interface> {
    CONTRACT.interfaces.iter().map(|(_, interface)| interface).find(|known| known.name.as_deref() == Some(name))
}

#[expect(clippy::indexing_slicing, reason = "the world is of the resolve that it was found in")]
fn compare(resolve: &Resolve, world: WorldId) -> Findings {
    let world = &resolve.worlds[world];
    let names = |items: &wit_parser::IndexMap<wit_parser::WorldKey, WorldItem>| -> Vec<String> {
        items.keys().map(|key| resolve.name_world_key(key)).collect()
    };
    let (exports, imports) = (names(&world.exports), names(&world.imports));
    let (contract, problems) = Contract::gather(&exports, &imports);
    let problems = problems.iter().map(ToString::to_string);
    let differences = problems.chain(of_exports(resolve, world, &exports)).chain(of_imports(resolve, world, &imports));
    let ours = exports.iter().chain(&imports).filter_map(|name| name.strip_prefix(PACKAGE));
    let versions: BTreeSet<_> = ours.map(|name| versioned(name).1.to_owned()).collect();
    let needs_grant = |name: &&String| GRANTED.contains(&name.as_str());
    Findings {
        kind: String::new(),
        size: 0,
        digest: String::new(),
        contract: versions.into_iter().collect(),
        stages: contract.stages.iter().map(|stage| stage.name().to_owned()).collect(),
        checks_config: contract.on_load,
        needs_grants: contract.imports.iter().filter(needs_grant).cloned().collect(),
        imports: contract.imports.into_iter().collect(),
        may_need_grants: edits(resolve, world, &imports),
        differences: bounded(differences),
    }
}

fn bounded(differences: impl Iterator<Item = String>) -> Vec<String> {
    let mut differences = differences;
    let cut = |text: String| text.chars().take(MAX_DIFFERENCE).collect();
    let mut told: Vec<String> = differences.by_ref().take(MAX_DIFFERENCES).map(cut).collect();
    let more = differences.count();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told
}

/// The interface of the contract that such an export or import means, where it has its name and version.
fn meant(name: &str) -> Option<(&str, &'static Interface)> {
    let (name, version) = versioned(name.strip_prefix(PACKAGE)?);
    let interface = known(name).filter(|_| version == VERSION)?;
    Some((name, interface))
}

fn functions<'a>(resolve: &'a Resolve, item: &WorldItem) -> Option<&'a Interface> {
    match item {
        WorldItem::Interface { id, .. } => resolve.interfaces.get(*id),
        WorldItem::Function(_) | WorldItem::Type { .. } => None,
    }
}

/// Functions that an export lacks, or has with another type. Others that it has are its own affair.
fn of_exports(resolve: &Resolve, world: &World, names: &[String]) -> Vec<String> {
    let mut differences = Vec::new();
    for (export, item) in names.iter().zip(world.exports.values()) {
        let Some((name, contract)) = meant(export).filter(|(name, _)| name.starts_with("on-")) else { continue };
        let Some(has) = functions(resolve, item) else { continue };
        for (function, ours) in &contract.functions {
            differences.extend(match has.functions.get(function) {
                None => Some(format!("exports {name} without its function {function}")),
                Some(theirs) => typed(resolve, "exports", name, theirs, ours),
            });
        }
    }
    differences
}

/// Functions that an import has and the contract has not, or with another type. Those that it leaves out it does not use.
fn of_imports(resolve: &Resolve, world: &World, names: &[String]) -> Vec<String> {
    let mut differences = Vec::new();
    for (import, item) in names.iter().zip(world.imports.values()) {
        let Some((name, contract)) = meant(import) else { continue };
        let Some(has) = functions(resolve, item) else { continue };
        for (function, theirs) in &has.functions {
            differences.extend(match contract.functions.get(function) {
                None => Some(format!("imports {name} with a function {function}, which {VERSION} does not have")),
                Some(ours) => typed(resolve, "imports", name, theirs, ours),
            });
        }
    }
    differences
}

fn typed(resolve: &Resolve, verb: &str, interface: &str, theirs: &Function, ours: &Function) -> Option<String> {
    difference((resolve, theirs), (&CONTRACT, ours))
        .map(|found| format!("{verb} {interface} with another type: {found}"))
}

/// The grants of the edits that it imports.
fn edits(resolve: &Resolve, world: &World, names: &[String]) -> Vec<String> {
    let items = names.iter().zip(world.imports.values());
    let message = items.filter(|(name, _)| meant(name).is_some_and(|(name, _)| name == "message"));
    let functions = message.filter_map(|(_, item)| functions(resolve, item)).flat_map(|has| has.functions.keys());
    let grants: BTreeSet<_> = functions
        .filter_map(|function| match function.as_str() {
            "[method]message.add-recipient" => Some(RECIPIENTS),
            "[method]message.set-route" | "[method]message.set-recipient-route" => Some("route:…"),
            _ => None,
        })
        .collect();
    grants.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::guest::Guest;
    use super::*;

    #[test]
    fn the_contract_is_that_of_the_files() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: BTreeSet<_> = names.filter(|name| name.ends_with(".wit")).collect();
        assert_eq!(names, FILES.iter().map(|(name, _)| (*name).to_owned()).collect());
        assert_eq!(CONTRACT.packages.iter().next().unwrap().1.name.to_string(), format!("postern:plugin@{VERSION}"));
        assert!(known("on-rcpt").is_some() && known("dns").is_some() && known("no").is_none());
    }

    /// What is found of a component of such a world that uses all of it.
    fn findings(world: &str, packages: &[&str]) -> Findings {
        let mut resolve = CONTRACT.clone();
        for package in packages {
            resolve.push_source("other.wit", package).unwrap();
        }
        let package = resolve.push_source("test.wit", &format!("package test:test;\nworld w {{ {world} }}")).unwrap();
        let world = resolve.select_world(&[package], Some("w")).unwrap();
        compare(&resolve, world)
    }

    #[test]
    fn the_whole_contract_fits() {
        let findings = findings("include postern:plugin/plugin@0.1.0;", &[]);
        assert_eq!(findings.differences, [""; 0]);
        assert_eq!((findings.stages.len(), findings.checks_config), (7, true));
        assert_eq!(findings.contract, ["0.1.0"]);
        assert_eq!(
            findings.imports,
            [
                "authentication",
                "call-ahead",
                "clock",
                "config",
                "counters",
                "dns",
                "log",
                "message",
                "metrics",
                "scan",
                "session",
                "signing",
                "store",
                "tables"
            ]
        );
        let free = ["config", "log", "message", "session"];
        let granted = findings.imports.iter().filter(|import| !free.contains(&import.as_str()));
        assert_eq!(findings.needs_grants, granted.cloned().collect::<Vec<_>>());
        assert_eq!(findings.may_need_grants, ["recipients", "route:…"]);
    }

    #[test]
    fn a_module_imports_what_it_uses() {
        let guest = Guest::new().import("dns", "resolve", "resolve", "i32 i32 i32 i32");
        let module = guest.at("rcpt", "").build();
        let component = to_component(&module).unwrap().into_owned();
        for (source, kind) in [(&module[..], "module"), (&component, "component")] {
            let findings = inspect(source).unwrap();
            assert_eq!(findings.differences, [""; 0]);
            assert_eq!((findings.kind.as_str(), findings.checks_config), (kind, false));
            assert_eq!((findings.size, findings.digest), (source.len(), ContentDigest::of(source).to_string()));
            assert_eq!(findings.stages, ["rcpt"]);
            assert_eq!(findings.imports, ["dns", "message", "session"]);
            assert_eq!((findings.needs_grants, findings.may_need_grants), (vec!["dns".to_owned()], Vec::new()));
        }
    }

    #[test]
    fn all_that_does_not_fit_is_told() {
        let future =
            "package postern:plugin@0.2.0; interface on-rcpt { judge: func(); } interface dns { ask: func(); }";
        let wasi = "package wasi:cli@0.2.6; interface environment { get: func(); }";
        let acme = "package acme:x; interface y { f: func(); }";
        let world = "import postern:plugin/dns@0.2.0; import wasi:cli/environment@0.2.6; import acme:x/y;
            export postern:plugin/on-rcpt@0.2.0; import f: func();";
        let findings = findings(world, &[future, wasi, acme]);
        let expected = [
            "exports on-rcpt@0.2.0, this gateway knows 0.1.0",
            "imports dns@0.2.0, this gateway knows 0.1.0",
            "imports wasi:cli/environment@0.2.6: plugins have no files",
            "imports acme:x/y, which is not of this gateway",
            "imports f, which is not of this gateway",
        ];
        for expected in expected {
            assert!(
                findings.differences.iter().any(|told| told.contains(expected)),
                "{expected}: {:#?}",
                findings.differences
            );
        }
        assert_eq!(
            (findings.differences.len(), findings.contract.as_slice()),
            (expected.len(), &["0.2.0".to_owned()][..])
        );
    }

    #[test]
    fn functions_of_another_type_are_told() {
        // As if it were this version, and is not.
        let other = CONTRACT_TEXT
            .replace("code: u16,", "code: u32,")
            .replace("now: func() -> u64;", "now: func() -> u32; zone: func() -> s32;");
        let mut resolve = Resolve::default();
        resolve.push_source("other.wit", &other).unwrap();
        let package = resolve
            .push_source("test.wit", "package test:test; world w { include postern:plugin/plugin-on-helo@0.1.0; }")
            .unwrap();
        let world = resolve.select_world(&[package], Some("w")).unwrap();
        let told = compare(&resolve, world).differences;
        assert_eq!(
            told,
            [
                "exports on-helo with another type: judge: result: case reject: field code: u32, the contract has u16",
                "imports clock with another type: now: result: u32, the contract has u64",
                "imports clock with a function zone, which 0.1.0 does not have",
            ]
        );
        let hollow = r#"(component (instance $i) (export "postern:plugin/on-helo@0.1.0" (instance $i)))"#;
        let told = inspect(&wat::parse_str(hollow).unwrap()).unwrap().differences;
        assert_eq!(told, ["exports on-helo without its function judge"]);
    }

    /// The files as one.
    static CONTRACT_TEXT: LazyLock<String> = LazyLock::new(|| {
        let texts: Vec<_> =
            FILES.iter().map(|(_, text)| text.replacen("package postern:plugin@0.1.0;", "", 1)).collect();
        format!("package postern:plugin@0.1.0;\n{}", texts.join("\n"))
    });

    #[test]
    fn w8_what_is_no_plugin_is_refused() {
        let text = |source: &[u8]| inspect(source).map(drop).unwrap_err().to_string();
        assert!(text(b"\x7fELF\x02\x01\x01\0").contains("precompiled code"));
        assert!(text(b"hello").contains("not WebAssembly"));
        assert!(text(&vec![0; super::super::MAX_SOURCE + 1]).contains("more than a plugin may have"));
        assert!(text(b"\0asm\x0d\0\x01\0\xff\xff\xff").contains("damaged, or cut off"));
        let told = |source: &str| inspect(&wat::parse_str(source).unwrap()).unwrap().differences;
        assert!(told("(component)")[0].contains("it exports no stage"));
        let mut resolve = Resolve::default();
        let package = resolve.push_source("a.wit", "package a:b; interface i { f: func(); }").unwrap();
        assert!(text(&wit_component::encode(&resolve, package).unwrap()).contains("describes interfaces"));
    }

    #[test]
    fn w8_cut_or_changed_anywhere_it_never_panics() {
        let module = Guest::new().at("helo", "").build();
        let component = to_component(&module).unwrap().into_owned();
        for source in [&component[..], &module] {
            for end in (0..source.len()).step_by(source.len() / 150) {
                assert!(!inspect(&source[..end]).is_ok_and(|findings| findings.fits()), "{end}");
            }
            let mut changed = source.to_vec();
            for at in (8..source.len()).step_by(source.len() / 150) {
                changed[at] ^= 0xff;
                // Whatever it says.
                let _ = inspect(&changed);
                changed[at] ^= 0xff;
            }
            assert_eq!(changed, source);
        }
    }
}
