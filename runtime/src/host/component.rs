//! From the bytes of a plugin to a component whose exports and imports are known.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, ComponentExportIndex};

use super::abi::VERSION;
use super::capability::{FREE, GRANTED, Grants};
use crate::pipeline::{Stage, StageSet};

pub mod cache;
pub mod compile;
mod difference;
pub mod inspect;

/// Octets of a plugin. The largest known are Python's, 18 MB.
pub const MAX_SOURCE: usize = 64 << 20;

/// SHA-256 of a plugin's bytes as they were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    pub fn of(source: &[u8]) -> Self {
        Self(Sha256::digest(source).into())
    }
}

impl std::fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// Why bytes are no plugin. The plugin's author reads this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("not WebAssembly: the file does not begin with \\0asm; give the .wasm file that the plugin's build made")]
    NotWasm,
    #[error("precompiled code (.cwasm, ELF) is never taken from outside; give the .wasm file it was made from")]
    Precompiled,
    #[error("{0} octets are more than a plugin may have ({MAX_SOURCE})")]
    TooBig(usize),
    #[error("a core module that can't be made a component (was it built with the SDK, or wit-bindgen?): {0}")]
    NoComponent(String),
    #[error("damaged, or cut off: {0}")]
    Unreadable(String),
    #[error(
        "it only describes interfaces (WIT), there is no code in it; give the .wasm file that the plugin's build made"
    )]
    Interfaces,
    #[error("{0}")]
    Read(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A core module; what it is to be a component of stands in a custom section.
    Module,
    Component,
}

/// For a file that has not been read yet.
pub fn check_size(octets: u64) -> Result<(), SourceError> {
    match usize::try_from(octets) {
        Ok(size) if size <= MAX_SOURCE => Ok(()),
        Ok(size) => Err(SourceError::TooBig(size)),
        Err(_) => Err(SourceError::TooBig(usize::MAX)),
    }
}

/// What the first octets say.
fn sniff(source: &[u8]) -> Result<Kind, SourceError> {
    check_size(source.len() as u64)?;
    if source.starts_with(b"\x7fELF") {
        return Err(SourceError::Precompiled);
    }
    match source.get(..8) {
        Some([b'\0', b'a', b's', b'm', 1, 0, 0, 0]) => Ok(Kind::Module),
        Some([b'\0', b'a', b's', b'm', _, _, 1, 0]) => Ok(Kind::Component),
        _ => Err(SourceError::NotWasm),
    }
}

/// Checks what can be known at a glance.
pub(super) fn check(source: &[u8]) -> Result<(), SourceError> {
    sniff(source).map(drop)
}

/// The bytes of a plugin's file, which may be anything: a device, or larger than memory. Blocking.
pub fn read_source(path: &Path) -> Result<Vec<u8>, SourceError> {
    let failed = |error: std::io::Error| SourceError::Read(error.to_string());
    let size = |octets: u64| usize::try_from(octets).unwrap_or(usize::MAX);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(SourceError::Read("not a file".to_owned()));
    }
    if size(metadata.len()) > MAX_SOURCE {
        return Err(SourceError::TooBig(size(metadata.len())));
    }
    let mut source = Vec::with_capacity(size(metadata.len()));
    // One octet more than may be: that it has grown meanwhile is found by `sniff`.
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_SOURCE as u64 + 1).read_to_end(&mut source).map_err(failed)?;
    sniff(&source)?;
    Ok(source)
}

/// The component in the bytes. Works on what may be hostile, so it runs where compiling does: see [`compile`].
fn to_component(source: &[u8]) -> Result<Cow<'_, [u8]>, SourceError> {
    match sniff(source)? {
        Kind::Component => Ok(Cow::Borrowed(source)),
        Kind::Module => {
            check_sections(source)?;
            let encode = || wit_component::ComponentEncoder::default().module(source)?.validate(true).encode();
            // The encoder is made for what tools have made; for what somebody has made to break it, a panic is an answer.
            let encoded = std::panic::catch_unwind(encode);
            let encoded = encoded.map_err(|_| SourceError::Unreadable("the encoder gives up".to_owned()))?;
            encoded.map(Cow::Owned).map_err(|error| SourceError::NoComponent(format!("{error:#}")))
        }
    }
}

/// All that is announced is there: a file that was cut off is told from one that was built wrongly.
fn check_sections(source: &[u8]) -> Result<(), SourceError> {
    let mut sections = wasmparser::Parser::new(0).parse_all(source);
    sections.try_for_each(|section| section.map(drop)).map_err(|error| SourceError::Unreadable(error.to_string()))
}

/// What a component exports and imports does not fit this gateway. The administrator, or the author, reads this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    #[error(
        "it exports no stage: nothing would ever be asked of it (on-connect, on-helo, on-mail-from, on-rcpt, on-data, on-deliver, on-event)"
    )]
    NoStage,
    #[error("it {verb} {name}@{found}, this gateway knows {VERSION}: build it with the SDK of this release")]
    Version { verb: &'static str, name: String, found: String },
    #[error("it {verb} postern:plugin/{name}, which this gateway does not know: build it with the SDK of this release")]
    Unknown { verb: &'static str, name: String },
    #[error(
        "it imports {0}: plugins have no files, sockets, clocks or environment; build it for wasm32-unknown-unknown, or with WASI switched off"
    )]
    Wasi(String),
    #[error("it imports {0}, which is not of this gateway")]
    Foreign(String),
    #[error("it imports {}, which its entry does not grant: add {} to `grants`", .0.join(", "), quoted(.0))]
    NotGranted(Vec<String>),
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

const PACKAGE: &str = "postern:plugin/";

/// What a component offers and asks for.
#[derive(Debug, Clone)]
pub(super) struct Contract {
    pub stages: StageSet,
    pub on_load: bool,
    /// Interfaces of `postern:plugin`, without package and version.
    pub imports: BTreeSet<String>,
}

impl Contract {
    /// Of a compiled component; the error is the first thing that does not fit.
    pub fn read(engine: &Engine, component: &Component) -> Result<Self, ContractError> {
        let ty = component.component_type();
        let (exports, imports) = (ty.exports(engine).map(|(name, _)| name), ty.imports(engine).map(|(name, _)| name));
        let (contract, problems) = Self::gather(exports, imports);
        problems.into_iter().next().map_or(Ok(contract), Err)
    }

    /// By the names of what is exported and imported; and all that does not fit.
    fn gather<N: AsRef<str>>(
        exports: impl IntoIterator<Item = N>,
        imports: impl IntoIterator<Item = N>,
    ) -> (Self, Vec<ContractError>) {
        let mut contract = Self { stages: StageSet::default(), on_load: false, imports: BTreeSet::new() };
        let mut problems: Vec<_> =
            exports.into_iter().filter_map(|name| contract.add_export(name.as_ref()).err()).collect();
        // Where one does not fit, that is why there is none.
        if contract.stages.is_empty() && problems.is_empty() {
            problems.push(ContractError::NoStage);
        }
        problems.extend(imports.into_iter().filter_map(|name| contract.add_import(name.as_ref()).err()));
        (contract, problems)
    }

    fn add_export(&mut self, export: &str) -> Result<(), ContractError> {
        let Some(name) = export.strip_prefix(PACKAGE) else { return Ok(()) };
        let (name, version) = versioned(name);
        let stage = name.strip_prefix("on-").and_then(|on| Stage::ALL.into_iter().find(|stage| stage.name() == on));
        if stage.is_none() && name != "on-load" {
            return Err(ContractError::Unknown { verb: "exports", name: name.to_owned() });
        }
        check_version("exports", name, version)?;
        match stage {
            Some(stage) => self.stages = self.stages.with(stage),
            None => self.on_load = true,
        }
        Ok(())
    }

    fn add_import(&mut self, import: &str) -> Result<(), ContractError> {
        if import.starts_with("wasi:") {
            return Err(ContractError::Wasi(import.to_owned()));
        }
        let Some(name) = import.strip_prefix(PACKAGE) else { return Err(ContractError::Foreign(import.to_owned())) };
        let (name, version) = versioned(name);
        if !FREE.contains(&name) && !GRANTED.contains(&name) {
            return Err(ContractError::Unknown { verb: "imports", name: name.to_owned() });
        }
        check_version("imports", name, version)?;
        // It has no functions; whoever imports another interface imports it with it.
        if name != "types" {
            self.imports.insert(name.to_owned());
        }
        Ok(())
    }

    /// All that it asks for is granted.
    pub fn check_grants(&self, grants: &Grants) -> Result<(), ContractError> {
        let needs_grant = |name: &&String| GRANTED.contains(&name.as_str()) && !grants.has(name);
        let missing: Vec<_> = self.imports.iter().filter(needs_grant).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(ContractError::NotGranted(missing)) }
    }
}

fn versioned(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, "no version"))
}

fn check_version(verb: &'static str, name: &str, version: &str) -> Result<(), ContractError> {
    if version == VERSION {
        return Ok(());
    }
    Err(ContractError::Version { verb, name: name.to_owned(), found: version.to_owned() })
}

/// The function of an exported interface, found once.
pub(super) fn export(component: &Component, interface: &str, function: &str) -> Option<ComponentExportIndex> {
    let interface = component.get_export_index(None, &*format!("{PACKAGE}{interface}@{VERSION}"))?;
    component.get_export_index(Some(&interface), function)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w8_the_first_octets_tell() {
        for (source, expected) in [
            (&b"\0asm\x01\0\0\0"[..], Ok(Kind::Module)),
            (b"\0asm\x0d\0\x01\0", Ok(Kind::Component)),
            (b"\x7fELF\x02\x01\x01\0", Err(SourceError::Precompiled)),
            (b"", Err(SourceError::NotWasm)),
            (b"\0asm", Err(SourceError::NotWasm)),
            (b"\0asm\x02\0\0\0", Err(SourceError::NotWasm)),
            (b"#!/bin/sh\n", Err(SourceError::NotWasm)),
        ] {
            assert_eq!(sniff(source), expected, "{source:?}");
        }
        let big = vec![0; MAX_SOURCE + 1];
        assert_eq!(sniff(&big), Err(SourceError::TooBig(MAX_SOURCE + 1)));
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big.wasm");
        std::fs::File::create(&path).unwrap().set_len(200 << 20).unwrap();
        assert_eq!(read_source(&path), Err(SourceError::TooBig(200 << 20)));
        for (path, expected) in
            [(directory.path(), "not a file"), (&path.join("no"), ""), (Path::new("/dev/zero"), "not a file")]
        {
            let error = read_source(path).unwrap_err();
            assert!(matches!(&error, SourceError::Read(text) if text.contains(expected)), "{error}");
        }
        std::fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
        assert_eq!(read_source(&path).unwrap(), b"\0asm\x01\0\0\0");
    }

    #[test]
    fn a_module_without_metadata_is_told_what_it_lacks() {
        let error = to_component(b"\0asm\x01\0\0\0").map(drop);
        // An empty module is the component of an empty world: it is found to have no stage.
        assert!(error.is_ok() || matches!(error, Err(SourceError::NoComponent(_))));
        let broken = to_component(b"\0asm\x01\0\0\0\xff\xff\xff\xff").map(drop);
        assert!(matches!(broken, Err(SourceError::Unreadable(_))), "{broken:?}");
    }

    #[test]
    fn names_that_do_not_fit_are_explained() {
        let mut contract = Contract { stages: StageSet::default(), on_load: false, imports: BTreeSet::new() };
        let text = |result: Result<(), ContractError>| result.unwrap_err().to_string();
        assert!(
            text(contract.add_export("postern:plugin/on-rcpt@0.2.0"))
                .contains("exports on-rcpt@0.2.0, this gateway knows 0.1.0")
        );
        assert!(text(contract.add_export("postern:plugin/on-vrfy@0.1.0")).contains("exports postern:plugin/on-vrfy"));
        assert!(text(contract.add_import("postern:plugin/dns@9.0.0")).contains("imports dns@9.0.0"));
        assert!(text(contract.add_import("postern:plugin/vault@0.1.0")).contains("imports postern:plugin/vault"));
        assert!(text(contract.add_import("wasi:cli/environment@0.2.6")).contains("no files"));
        assert!(text(contract.add_import("acme:x/y")).contains("acme:x/y"));
        contract.add_import("postern:plugin/dns@0.1.0").unwrap();
        contract.add_import("postern:plugin/clock@0.1.0").unwrap();
        let missing = text(contract.check_grants(&Grants::new(["clock".to_owned()]).unwrap()));
        assert!(missing.contains("add \"dns\" to `grants`"), "{missing}");
    }
}
