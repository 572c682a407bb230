//! Embeds the default plugins, which `plugins/build` has made before.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n  {error}\n");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> io::Result<()> {
    let folder = |name| env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other("run by cargo only"));
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
