//! Rules for the source itself, which no lint knows: who may use whom (design.md §3), what production code does not say,
//! how long a file is, what lies at the top level.

use std::fs;
use std::path::{Path, PathBuf};

/// Every module of `runtime/src` and those it may use. `*`: all of them.
const USES: [(&str, &[&str]); 21] = [
    ("smtp", &[]),
    ("mail", &["smtp"]),
    // What is counted and told: types of the layers above only as names of series and events.
    ("metrics", &[]),
    ("log", &["mail", "metrics", "pipeline"]),
    ("dns", &["smtp", "metrics", "log"]),
    ("tenancy", &["smtp", "mail"]),
    ("authentication", &["smtp", "mail", "dns", "metrics", "log"]),
    ("signing", &["smtp", "mail", "authentication"]),
    ("spool", &["smtp", "mail", "metrics", "log"]),
    ("scan", &["smtp", "mail", "metrics"]),
    ("pipeline", &["smtp", "mail", "authentication", "dns", "tenancy", "spool", "metrics", "log"]),
    // These four do not know each other: session → pipeline ← host. The queue hands jobs to a `NextHop`.
    ("session", MIDDLE),
    ("host", MIDDLE),
    ("delivery", MIDDLE),
    ("queue", MIDDLE_AND_DELIVERY),
    ("config", &["*"]),
    ("server", &["*"]),
    ("rehearsal", &["*"]),
    ("cli", &["*"]),
    ("lib", &["*"]),
    ("main", &["*"]),
];
const MIDDLE: &[&str] = &["smtp", "mail", "pipeline", "spool", "authentication", "dns", "tenancy", "metrics", "log"];
const MIDDLE_AND_DELIVERY: &[&str] =
    &["smtp", "mail", "pipeline", "spool", "authentication", "dns", "tenancy", "metrics", "log", "delivery"];

/// What the queue may know of delivery: the seam, not who is behind it.
const DELIVERY_SEAM: [&str; 6] = ["NextHop", "Job", "Report", "Outcome", "Diagnosis", "DestinationKey"];

/// `target` and `postern-data` are what `make` leaves behind; neither is committed.
const TOP_LEVEL: [&str; 8] = ["runtime", "wit", "sdk", "plugins", "tests", "benches", "target", "postern-data"];

/// Lines of a file, its tests not counted.
const MAX_LINES: usize = 500;

/// A file of `runtime/src`.
struct Source {
    path: PathBuf,
    /// The first part of its path: the module that the rules speak of.
    module: String,
    text: String,
    /// Without comments, the content of strings, and what is only for tests.
    code: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let base = root().join("runtime/src");
    let mut files = Vec::new();
    rust_files(&base, &mut files);
    assert!(files.len() > 20, "only {} files in {}", files.len(), base.display());
    let test_modules: Vec<_> = files.iter().flat_map(|file| test_modules(file)).collect();
    let source = |path: PathBuf| {
        let relative = path.strip_prefix(&base).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.strip_suffix(".rs").unwrap_or(first).to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let only_tests =
            test_modules.iter().any(|module| path.starts_with(module) || path == module.with_extension("rs"));
        let code = if only_tests { String::new() } else { without_tests(&bare(&text)) };
        Source { path: relative.to_owned(), module, text, code }
    };
    files.into_iter().map(source).collect()
}

/// What is compiled for tests alone, or for a fuzzer as well.
const FOR_TESTS: [&str; 2] = ["#[cfg(test)]", "#[cfg(any(test, fuzzing))]"];

/// The modules that a file declares as `#[cfg(test)] mod foo;`, as paths without `.rs`.
fn test_modules(file: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| FOR_TESTS.contains(&pair[0])).filter_map(|pair| {
        let (_, name) = pair[1].strip_suffix(';')?.split_once("mod ")?;
        Some(file.with_extension("").join(name))
    });
    declared.collect()
}

/// Comments and the content of strings and character literals become spaces, a string's first quote stays; lines stay
/// where they are.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let blank = |out: &mut String, part: &str| out.extend(part.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
    while let Some(c) = rest.chars().next() {
        let after_name = out.chars().last().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let hashes = rest.strip_prefix('r').filter(|_| !after_name).map(|r| r.len() - r.trim_start_matches('#').len());
        let len = match hashes {
            Some(n) if rest[1 + n..].starts_with('"') => {
                let end = format!("\"{}", "#".repeat(n));
                rest[2 + n..].find(&end).map_or(rest.len(), |at| 2 + n + at + end.len())
            }
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if c == '"' => 1 + quoted(&rest[1..], '"'),
            // A lifetime has no quote after it.
            _ if c == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) => {
                1 + quoted(&rest[1..], '\'')
            }
            _ => 0,
        };
        if len == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            let quote = usize::from(c == '"');
            out.push_str(&rest[..quote]);
            blank(&mut out, &rest[quote..len]);
            rest = &rest[len..];
        }
    }
    out
}

/// Octets up to and with the closing quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Takes out each item that is [`FOR_TESTS`].
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = FOR_TESTS.iter().filter_map(|mark| rest.find(mark)).min() {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = item.find([';', '{']).unwrap_or(item.len() - 1);
        let len = if item[end..].starts_with('{') { end + braced(&item[end..]) } else { end + 1 };
        rest = &item[len..];
    }
    out + rest
}

/// Octets of the block that begins here.
fn braced(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// The paths behind each `crate::`, two names deep: `crate::{a::X, b}` gives `a::X` and `b`.
fn crate_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` of a macro and `postern_crate::` are no uses of ours.
        let before = code[..at].chars().last().unwrap_or(' ');
        if before != '$' && !before.is_alphanumeric() && before != '_' {
            expand("", &code[at + "crate::".len()..], 2, &mut paths);
        }
    }
    paths
}

fn expand(prefix: &str, text: &str, depth: usize, paths: &mut Vec<String>) {
    let text = text.trim_start();
    if text.starts_with('{') {
        let inside = &text[1..braced(text).max(2) - 1];
        let mut level = 0;
        let parts = inside.split(|c| {
            level += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && level == 0
        });
        parts.filter(|part| !part.trim().is_empty()).for_each(|part| expand(prefix, part, depth, paths));
        return;
    }
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}::{name}") };
    match text[name.len()..].strip_prefix("::") {
        Some(rest) if depth > 1 => expand(&path, rest, depth - 1, paths),
        _ => paths.push(path),
    }
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn modules_use_only_whom_they_may() {
    let mut faults = Vec::new();
    for Source { path, module, code, .. } in sources() {
        let Some((_, allowed)) = USES.iter().find(|(name, _)| *name == module) else {
            faults.push(format!("{}: the module {module} is not in the table of tests/tidy.rs", path.display()));
            continue;
        };
        for used in crate_paths(&code) {
            let (first, second) = used.split_once("::").unwrap_or((&used, ""));
            let known = USES.iter().any(|(name, _)| *name == first);
            let own = first == module || allowed.contains(&first) || allowed.contains(&"*");
            if known && !own {
                faults.push(format!("{}: {module} must not use {used}", path.display()));
            }
            if module == "queue" && first == "delivery" && !DELIVERY_SEAM.contains(&second) {
                faults.push(format!("{}: the queue knows only the seam of delivery, not {used}", path.display()));
            }
        }
    }
    report(&faults);
}

#[test]
fn production_code_does_not_panic() {
    let mut faults = Vec::new();
    for Source { path, text, code, .. } in sources() {
        for word in [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!(", "dbg!("] {
            for (at, _) in code.match_indices(word) {
                // A parser may have an `expect` of its own; the one that panics takes a text.
                if word == ".expect(" && !code[at + word.len()..].trim_start().starts_with('"') {
                    continue;
                }
                let line = code[..at].matches('\n').count();
                let reasoned = text.lines().take(line + 1).skip(line.saturating_sub(20)).any(is_reasoned);
                if !reasoned {
                    faults.push(format!("{}:{}: {word}", path.display(), line + 1));
                }
            }
        }
    }
    report(&faults);
}

/// The attribute that names the lint and says why it may be broken here.
fn is_reasoned(line: &str) -> bool {
    let attribute = line.trim_start();
    attribute.contains("expect(") && attribute.contains("clippy::") || attribute.starts_with("clippy::")
}

#[test]
fn files_say_what_they_are_and_are_short() {
    let mut faults = Vec::new();
    for Source { path, text, code, .. } in sources() {
        if !text.starts_with("//!") && path != Path::new("main.rs") {
            faults.push(format!("{}: does not open with //!", path.display()));
        }
        let lines = code.lines().count();
        if lines > MAX_LINES {
            faults.push(format!("{}: {lines} lines without its tests, more than {MAX_LINES}", path.display()));
        }
    }
    report(&faults);
}

#[test]
fn the_top_level_is_given() {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let names = folders.map(|entry| entry.file_name().into_string().unwrap());
    let unknown: Vec<_> = names.filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "design.md §2 does not know {unknown:?}");
}

/// The rules can fail.
#[test]
fn the_scan_sees_what_it_must() {
    assert_eq!(crate_paths("use crate::{mail::{A, b::C}, smtp};"), ["mail::A", "mail::b", "smtp"]);
    assert_eq!(crate_paths("fn f(x: crate::host::X) { $crate::no() }"), ["host::X"]);
    let code = "let s = \"x.unwrap()\"; // y.unwrap()\nlet c = '\"'; f::<'a>(r#\"\".unwrap()\"#);\nz.unwrap()";
    assert_eq!(bare(code).matches(".unwrap()").count(), 1);
    assert_eq!(bare(code).lines().count(), code.lines().count());
    let code = "a\n#[cfg(test)]\nmod tests { fn f() { {} } }\nb\n#[cfg(test)]\nmod more;\nc";
    assert_eq!(without_tests(code).split_whitespace().collect::<String>(), "abc");
}
