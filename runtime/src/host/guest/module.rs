//! Guests for tests: written as text, made into plugins the way a build makes them.
//!
//! The package `tests` takes this file as a module of its own, so it uses nothing of the gateway's.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Where guests put the verdict that they return; all zeros are `next`.
pub const VERDICT: u32 = 1024;

/// A core module in the making. Its functions return what stands at [`VERDICT`], after dropping their handles.
#[derive(Default)]
pub struct Guest {
    stages: Vec<String>,
    world: String,
    imports: String,
    items: String,
}

impl Guest {
    pub fn new() -> Self {
        Self::default()
    }

    /// `(import "postern:plugin/{interface}" "{name}" (func ${alias} (param …)))`
    pub fn import(mut self, interface: &str, name: &str, alias: &str, params: &str) -> Self {
        let _ = writeln!(
            self.imports,
            r#"(import "postern:plugin/{interface}@0.1.0" "{name}" (func ${alias} (param {params})))"#
        );
        self
    }

    /// What else stands in the world, and what the module imports for it.
    pub fn world(mut self, item: &str, import: &str) -> Self {
        self.world.push_str(item);
        self.imports.push_str(import);
        self
    }

    /// Whatever stands in a module: data, functions.
    pub fn item(mut self, item: &str) -> Self {
        self.items.push_str(item);
        self.items.push('\n');
        self
    }

    /// Exports a stage whose function does this before it returns.
    pub fn at(mut self, stage: &str, body: &str) -> Self {
        let (params, drops, result) = match stage {
            "connect" | "helo" => ("(param $session i32)", "(call $drop-session (local.get $session))", true),
            "rcpt" => (
                "(param $session i32) (param $message i32) (param i32 i32 i32 i32 i32 i32 i32)",
                "(call $drop-session (local.get $session)) (call $drop-message (local.get $message))",
                true,
            ),
            "load" => ("", "", true),
            "event" => ("(param i32 i32 i32 i32 i32 i32 i32)", "", false),
            _ => (
                "(param $session i32) (param $message i32)",
                "(call $drop-session (local.get $session)) (call $drop-message (local.get $message))",
                true,
            ),
        };
        let function = match stage {
            "load" => "check",
            "event" => "notify",
            _ => "judge",
        };
        let (result, value) =
            if result { ("(result i32)", format!("(i32.const {VERDICT})")) } else { ("", String::new()) };
        let item = format!(
            r#"(func $on-{stage} (export "postern:plugin/on-{stage}@0.1.0#{function}") {params} {result} (local $i i32)
                {body} {drops} {value})"#
        );
        self.stages.push(stage.to_owned());
        self.item(&item)
    }

    /// A core module with the world in a custom section, as `cargo build` leaves it.
    pub fn build(&self) -> Arc<[u8]> {
        self.build_with_memory(4)
    }

    pub fn build_with_memory(&self, pages: u32) -> Arc<[u8]> {
        let Self { imports, items, .. } = self;
        let text = format!(
            r#"(module $guest
                (import "postern:plugin/session@0.1.0" "[resource-drop]session" (func $drop-session (param i32)))
                (import "postern:plugin/message@0.1.0" "[resource-drop]message" (func $drop-message (param i32)))
                {imports}
                (memory (export "memory") {pages})
                (global $heap (mut i32) (i32.const 65536))
                (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (call $allocated)
                    (global.get $heap)
                    (global.set $heap (i32.add (global.get $heap) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8)))))
                {allocated}
                {items})"#,
            allocated = if items.contains("(func $allocated") { "" } else { "(func $allocated)" },
        );
        let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut resolve = wit_parser::Resolve::default();
        resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")).unwrap();
        let includes: String =
            self.stages.iter().map(|stage| format!("include postern:plugin/plugin-on-{stage}@0.1.0;\n")).collect();
        let world = format!("package test:guest;\nworld guest {{ {includes} {} }}", self.world);
        let package = resolve.push_str("guest.wit", &world).unwrap();
        let world = resolve.select_world(&[package], Some("guest")).unwrap();
        wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8)
            .unwrap();
        Arc::from(module)
    }
}

/// A plugin that says `next` at one stage.
pub fn next(stage: &str) -> Arc<[u8]> {
    Guest::new().at(stage, "").build()
}

/// A verdict with a reply, as it lies in memory: the text at 2048.
pub fn reply_verdict(case: u8, code: u16, text: &[u8]) -> String {
    let hex = |octets: &[u8]| octets.iter().fold(String::new(), |out, octet| out + &format!("\\{octet:02x}"));
    let mut verdict = vec![case, 0, 0, 0];
    verdict.extend(code.to_le_bytes());
    verdict.extend([1, 0, 7, 0, 1, 0]);
    verdict.extend(2048_u32.to_le_bytes());
    verdict.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    format!(r#"(data (i32.const {VERDICT}) "{}") (data (i32.const 2048) "{}")"#, hex(&verdict), hex(text))
}

pub const REJECT: u8 = 2;
pub const DISCONNECT: u8 = 6;
