//! Embeds the default plugins, which `plugins/build` has made before, and what `postern plugin new` writes: the SDK and
//! the templates.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

fn main() -> ExitCode {
    match embed().and_then(|()| embed_sdk()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n  {error}\n");
            ExitCode::FAILURE
        }
    }
}

fn folder(name: &str) -> io::Result<PathBuf> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other("run by cargo only"))
}

fn embed() -> io::Result<()> {
    let root = folder("CARGO_MANIFEST_DIR")?.join("..");
    let built = root.join("target/plugins");
    println!("cargo:rerun-if-changed={}", root.join("plugins").display());
    let mut code = String::from("pub const PLUGINS: &[(&str, &[u8])] = &[\n");
    for name in plugins(&root.join("plugins"))? {
        let path = built.join(format!("{name}.wasm"));
        println!("cargo:rerun-if-changed={}", path.display());
        let path = path.canonicalize().map_err(|_| {
            io::Error::other(format!(
                "The plugin {name} has not been built to WebAssembly yet. Run `make plugins` first;\n  \
                 `make run`, `make test` and `make build` do so by themselves."
            ))
        })?;
        let _ = writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string());
    }
    code.push_str("];\n");
    fs::write(folder("OUT_DIR")?.join("builtin.rs"), code)
}

/// The folders with a Cargo.toml, by name.
fn plugins(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// As lists of path and text. A project holds the SDK's files where they lie here, so that their paths to each other hold.
fn embed_sdk() -> io::Result<()> {
    let root = folder("CARGO_MANIFEST_DIR")?.join("..").canonicalize()?;
    let mut code = String::new();
    for (name, base, parts) in [
        (
            "SDK",
            "",
            &[
                "sdk/rust/Cargo.toml",
                "sdk/rust/src",
                "sdk/rust/macros",
                "sdk/README.md",
                "sdk/toolchain.sh",
                "wit",
                "LICENSE",
            ][..],
        ),
        ("WIT", "wit", &["."]),
        ("RUST_TEMPLATE", "sdk/templates/rust", &["."]),
        ("JS_TEMPLATE", "sdk/templates/js", &["."]),
    ] {
        let base = root.join(base);
        let mut found = Vec::new();
        for part in parts {
            files(&base.join(part), &mut found)?;
        }
        found.sort();
        let _ = writeln!(code, "pub const {name}: &[(&str, &str)] = &[");
        for path in found {
            let relative = path.strip_prefix(&base).map_err(io::Error::other)?;
            println!("cargo:rerun-if-changed={}", path.display());
            let (relative, path) = (relative.display().to_string(), path.display().to_string());
            let _ = writeln!(code, "    ({relative:?}, include_str!({path:?})),");
        }
        code.push_str("];\n");
    }
    for (name, file) in [("WORKSPACE", "Cargo.toml"), ("LOCK", "Cargo.lock")] {
        let path = root.join(file);
        println!("cargo:rerun-if-changed={}", path.display());
        let _ = writeln!(code, "pub const {name}: &str = include_str!({:?});", path.display().to_string());
    }
    fs::write(folder("OUT_DIR")?.join("sdk.rs"), code)
}

/// All files below, without what building and installing leave there.
fn files(path: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_file() {
        found.push(path.components().collect());
        return Ok(());
    }
    println!("cargo:rerun-if-changed={}", path.display());
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let left_behind =
            name == "target" || name == "node_modules" || entry.path().extension().is_some_and(|e| e == "wasm");
        if !left_behind {
            files(&entry.path(), found)?;
        }
    }
    Ok(())
}
