//! Embeds the default plugins, which `plugins/build` has made before.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let built = root.join("target/plugins");
    println!("cargo:rerun-if-changed={}", built.display());
    let mut plugins: Vec<(String, PathBuf)> =
        crates(&root.join("plugins")).map(|name| (name.clone(), built.join(format!("{name}.wasm")))).collect();
    plugins.sort();
    let mut code = String::from("pub const PLUGINS: &[(&str, &[u8])] = &[\n");
    for (name, path) in plugins {
        let Ok(path) = path.canonicalize() else {
            panic!(
                "\n\n  The plugin {name} has not been built to WebAssembly yet.\n  Run `make plugins` first; `make run`, `make test` and `make build` do so by themselves.\n\n"
            );
        };
        println!("cargo:rerun-if-changed={}", path.display());
        code += &format!("    ({name:?}, include_bytes!({:?})),\n", path.display().to_string());
    }
    code += "];\n";
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("builtin.rs");
    fs::write(out, code).expect("OUT_DIR can be written to");
}

/// The folders with a Cargo.toml.
fn crates(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).expect("the folder plugins is there");
    entries
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}
