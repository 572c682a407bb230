//! `postern plugin new`: writes a project that needs nothing but this program and the language's own tools.
//!
//! The SDK is on no registry, so its sources are compiled in and become part of the project, in the layout that they
//! have here. With `--sdk` the project uses a checkout of Postern instead: for those who work on the SDK itself.

mod workspace;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::{CliError, Context, OK, Streams};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
}

/// How the templates are called; the project's own name comes in its place.
const TEMPLATE: &str = "house-rules";
/// Where a project holds the SDK.
const SDK_FOLDER: &str = "postern-sdk";

#[derive(Debug, Args)]
pub struct Arguments {
    /// The plugin's name: 1 to 64 of a-z, 0-9, `-` and `_`, a letter first.
    #[arg(value_name = "NAME")]
    pub name: String,
    #[arg(long, value_enum, default_value = "rust")]
    pub language: Language,
    /// Where the project's folder is made.
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    pub directory: PathBuf,
    /// Use the SDK of this checkout of Postern, in place of a copy in the project.
    #[arg(long, value_name = "DIRECTORY")]
    pub sdk: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    Rust,
    Js,
}

pub(super) fn run(arguments: &Arguments, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let Arguments { name, language, directory, sdk } = arguments;
    check_name(name).map_err(CliError::Usage)?;
    let sdk = sdk.as_deref().map(checkout).transpose()?;
    let folder = directory.join(name);
    let files = match language {
        Language::Rust => rust_project(name, sdk.as_deref())?,
        Language::Js => js_project(name, sdk.as_deref())?,
    };
    write_project(&folder, &files)?;
    let shown = folder.display();
    if context.json {
        writeln!(streams.out, "{}", json!({ "name": name, "folder": folder, "files": files.len() }))?;
        return Ok(OK);
    }
    let (build, test) = match language {
        Language::Rust => ("./build", "cargo test"),
        Language::Js => ("npm install && npm run build", "npm test"),
    };
    writeln!(streams.out, "{shown}: a plugin that refuses senders whose domain takes no mail. Next:\n")?;
    writeln!(streams.out, "  cd {shown}\n  {test}\n  {build}\n")?;
    writeln!(streams.out, "README.md there says how to try it out, and how to install it.")?;
    Ok(OK)
}

/// Legal as a plugin's name, as a crate's and as npm's.
fn check_name(name: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let shown = name.escape_debug();
    if !(1..=64).contains(&name.len())
        || !name.bytes().all(legal)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
    {
        return Err(format!(
            "`{shown}` is no name for a plugin: 1 to 64 characters of a-z, 0-9, `-` and `_`, a letter first"
        ));
    }
    if RESERVED.contains(&name) {
        return Err(format!("`{shown}` means something else to Rust or to this project: choose another name"));
    }
    Ok(())
}

/// Words of Rust, crates that are there already, and folders of cargo's and the project's own.
const RESERVED: [&str; 63] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "postern-sdk",
    "postern-sdk-macros",
    "postern_sdk",
    "priv",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "self",
    "serde",
    "serde_json",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "union",
    "unsafe",
    "unsized",
    "use",
    "virtual",
];

/// The checkout's own path, which holds the SDK.
fn checkout(directory: &Path) -> Result<PathBuf, CliError> {
    let shown = directory.display();
    let found = directory.canonicalize().map_err(|error| CliError::Usage(format!("{shown}: {error}")))?;
    match found.join("sdk/rust/Cargo.toml").is_file() && found.join("wit/world.wit").is_file() {
        true => Ok(found),
        false => Err(CliError::Usage(format!("{shown} is no checkout of Postern: sdk/rust and wit are not there"))),
    }
}

/// A file of the project: where, what is in it, and whether it is a program.
struct ProjectFile {
    path: PathBuf,
    text: String,
    executable: bool,
}

impl ProjectFile {
    fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { path: path.into(), executable: text.starts_with("#!"), text }
    }
}

fn rust_project(name: &str, sdk: Option<&Path>) -> Result<Vec<ProjectFile>, CliError> {
    let mut files = from_template(embedded::RUST_TEMPLATE, name, sdk)?;
    files.push(ProjectFile::new("Cargo.lock", workspace::lock(embedded::LOCK, name)));
    if sdk.is_none() {
        let sdk = Path::new(SDK_FOLDER);
        files.extend(embedded::SDK.iter().map(|(path, text)| ProjectFile::new(sdk.join(path), *text)));
        let manifests: Vec<&str> =
            embedded::SDK.iter().filter(|(path, _)| path.ends_with("Cargo.toml")).map(|(_, text)| *text).collect();
        files.push(ProjectFile::new(sdk.join("Cargo.toml"), workspace::manifest(embedded::WORKSPACE, &manifests)));
    }
    Ok(files)
}

/// There is no SDK in JavaScript: the contract is enough for componentize-js.
fn js_project(name: &str, sdk: Option<&Path>) -> Result<Vec<ProjectFile>, CliError> {
    if sdk.is_some() {
        return Err(CliError::Usage("--sdk is for Rust: a project in JavaScript has the contract alone".to_owned()));
    }
    let mut files = from_template(embedded::JS_TEMPLATE, name, None)?;
    let contract = Path::new("wit/deps/postern");
    files.extend(embedded::WIT.iter().map(|(path, text)| ProjectFile::new(contract.join(path), *text)));
    Ok(files)
}

/// The template under the project's own name, with the SDK where it is.
fn from_template(template: &[(&str, &str)], name: &str, sdk: Option<&Path>) -> Result<Vec<ProjectFile>, CliError> {
    let sdk = match sdk {
        None => None,
        Some(path) => {
            // It is put between quotes of TOML, of JSON and of the shell.
            let plain =
                |path: &&str| !path.contains(['"', '\'', '\\', '$', '`']) && !path.chars().any(char::is_control);
            let strange = || CliError::Usage("the path of --sdk has quotes or other special characters".to_owned());
            Some(path.to_str().filter(plain).ok_or_else(strange)?)
        }
    };
    let text = |text: &str| {
        let mut text = text
            .replace("HouseRules", &camel_case(name))
            .replace("house_rules", &name.replace('-', "_"))
            .replace(TEMPLATE, name);
        if let Some(sdk) = sdk {
            for (mark, end) in [("\"", "/sdk"), ("\"", "/wit"), (". ./", "/sdk")] {
                let start = if mark == "\"" { mark } else { ". " };
                text = text.replace(&format!("{mark}{SDK_FOLDER}{end}"), &format!("{start}{sdk}{end}"));
            }
        }
        text
    };
    Ok(template.iter().map(|(path, content)| ProjectFile::new(*path, text(content))).collect())
}

/// `house-rules` → `HouseRules`.
fn camel_case(name: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect::<String>()
    };
    name.split(['-', '_']).map(word).collect()
}

/// Into a folder that was not there. What was written is taken away again when it can't be finished.
fn write_project(folder: &Path, files: &[ProjectFile]) -> Result<(), CliError> {
    let failed = |path: &Path, error: &io::Error| CliError::Failed(format!("{}: {error}", path.display()));
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(CliError::Failed(format!("{} is there already: nothing was written", folder.display())));
        }
        Err(error) => return Err(failed(folder, &error)),
        Ok(()) => {}
    }
    let written = files.iter().try_for_each(|file| {
        let path = folder.join(&file.path);
        write_file(&path, file).map_err(|error| failed(&path, &error))
    });
    if written.is_err() {
        // What failed is what the user must hear of.
        let _ = fs::remove_dir_all(folder);
    }
    written
}

fn write_file(path: &Path, file: &ProjectFile) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mode = if file.executable { 0o755 } else { 0o644 };
    fs::File::options().write(true).create_new(true).mode(mode).open(path)?.write_all(file.text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cli::plugin::Plugin;
    use crate::cli::{FAILED, Tool, WRONG, run as run_tool};

    /// Exit code, and what was said.
    fn new(name: &str, language: Language, directory: &Path, sdk: Option<&Path>) -> (u8, String) {
        let arguments = Arguments {
            name: name.to_owned(),
            language,
            directory: directory.to_owned(),
            sdk: sdk.map(Path::to_owned),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
        let context = Context { config: Path::new("none"), json: false, builtins: &[] };
        let code = run_tool(&Tool::Plugin(Plugin::New(arguments)), &context, &mut streams);
        (code, String::from_utf8([out, err].concat()).unwrap())
    }

    fn files_of(folder: &Path) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found
    }

    #[test]
    fn names_are_those_of_plugins_and_of_crates() {
        for name in ["a", "house-rules", "x_1-y", &"a".repeat(64)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "-a", "1a", "A", "a.b", "a/b", "..", "a b", "é", "match", "serde", "test", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_rust_project_has_its_own_name_and_all_of_the_sdk() {
        let directory = tempfile::tempdir().unwrap();
        let (code, said) = new("no-spam", Language::Rust, directory.path(), None);
        assert_eq!((code, said.contains("cargo test")), (OK, true), "{said}");
        let folder = directory.path().join("no-spam");
        let files = files_of(&folder);
        for file in [
            ".cargo/config.toml",
            ".gitignore",
            "Cargo.lock",
            "Cargo.toml",
            "README.md",
            "build",
            "postern-sdk/Cargo.toml",
            "postern-sdk/sdk/rust/Cargo.toml",
            "postern-sdk/sdk/rust/macros/src/lib.rs",
            "postern-sdk/sdk/rust/src/testing/world.rs",
            "postern-sdk/sdk/toolchain.sh",
            "postern-sdk/wit/world.wit",
            "samples/mail.eml",
            "samples/session.smtp",
            "samples/zone.toml",
            "src/lib.rs",
        ] {
            assert!(files.contains(file), "{file} is not in {files:?}");
        }
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        for file in files.iter().filter(|file| !file.starts_with(SDK_FOLDER)) {
            let text = read(file).to_ascii_lowercase();
            assert!(!text.contains("house-rules") && !text.contains("house_rules"), "{file}");
        }
        assert!(read("src/lib.rs").contains("impl Plugin for NoSpam {"));
        assert_eq!(folder.join("build").metadata().unwrap().permissions().mode() & 0o111, 0o111);
    }

    #[test]
    fn a_js_project_has_the_contract() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(new("no-spam", Language::Js, directory.path(), None).0, OK);
        let files = files_of(&directory.path().join("no-spam"));
        for file in
            ["package.json", "src/plugin.js", "test/rule.test.js", "wit/world.wit", "wit/deps/postern/types.wit"]
        {
            assert!(files.contains(file), "{file} is not in {files:?}");
        }
    }

    #[test]
    fn a_checkout_is_used_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(new("no-spam", Language::Rust, directory.path(), Some(root)).0, OK);
        let folder = directory.path().join("no-spam");
        assert!(!folder.join(SDK_FOLDER).exists());
        let sdk = root.canonicalize().unwrap();
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        let manifest = read("Cargo.toml");
        assert!(manifest.contains(&format!("path = \"{}/sdk/rust\"", sdk.display())), "{manifest}");
        assert!(read("build").contains(&format!("\n. {}/sdk/toolchain.sh\n", sdk.display())), "{}", read("build"));
        let (code, said) = new("other", Language::Rust, directory.path(), Some(directory.path()));
        assert_eq!((code, said.contains("no checkout of Postern")), (WRONG, true), "{said}");
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("mine");
        fs::create_dir(&folder).unwrap();
        let (code, said) = new("mine", Language::Rust, directory.path(), None);
        assert_eq!((code, said.contains("is there already")), (FAILED, true), "{said}");
        assert!(files_of(&folder).is_empty());
        assert_eq!(new("../mine", Language::Rust, directory.path(), None).0, WRONG);
        assert_eq!(new("mine", Language::Rust, &directory.path().join("nowhere"), None).0, FAILED);
    }
}
