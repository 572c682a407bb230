//! What cargo must know of the SDK in a project: its workspace, and the versions that it was tested with. Both are taken
//! from our own Cargo.toml and Cargo.lock, line by line, so that they can't differ from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What the SDK uses in its tests alone; a project does not run them.
const ONLY_TESTS: &str = "wit-component";

/// The workspace of the SDK's crates: what their manifests inherit of ours, and nothing else.
pub(super) fn manifest(workspace: &str, members: &[&str]) -> String {
    let inherited: BTreeSet<&str> = members
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.split_once(".workspace"))
        .map(|(key, _)| key)
        .collect();
    let mut out = String::from(
        "# The SDK of Postern, as `postern plugin new` has written it.\n\
         [workspace]\nresolver = \"3\"\nmembers = [\"sdk/rust\", \"sdk/rust/macros\"]\n",
    );
    let mut section = "";
    for line in workspace.lines() {
        if line.starts_with('[') {
            section = line;
            if section.starts_with("[workspace.") {
                let _ = write!(out, "\n{section}\n");
            }
            continue;
        }
        let key = line.split([' ', '=']).next().unwrap_or_default();
        let wanted = match section {
            "[workspace.dependencies]" => inherited.contains(key),
            _ => section.starts_with("[workspace.") && !line.is_empty() && !line.starts_with('#'),
        };
        if wanted {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// A lock file for a project of that name: of ours, what the SDK needs. Cargo takes out what a project does not use.
pub(super) fn lock(ours: &str, name: &str) -> String {
    let mut blocks = ours.split("\n[[package]]\n");
    let mut out = blocks.next().unwrap_or_default().to_owned();
    let packages: BTreeMap<(&str, &str), &str> = blocks
        .filter_map(|block| Some(((field(block, "name")?, field(block, "version")?), block.trim_end())))
        .collect();
    let mut wanted = BTreeSet::new();
    let mut open = vec!["postern-sdk", "serde"];
    while let Some(dependency) = open.pop() {
        // The version is there only where it is not the only one.
        let (of, version) = dependency.split_once(' ').map_or((dependency, None), |(of, version)| (of, Some(version)));
        let found = packages.iter().find(|((name, is), _)| *name == of && version.is_none_or(|version| version == *is));
        let Some((key, block)) = found else { continue };
        if wanted.insert(*key) {
            open.extend(dependencies(block).filter(|of| key.0 != "postern-sdk" || *of != ONLY_TESTS));
        }
    }
    let project =
        format!("name = \"{name}\"\nversion = \"0.1.0\"\ndependencies = [\n \"postern-sdk\",\n \"serde\",\n]");
    let mut blocks: Vec<(&str, String)> = vec![(name, project)];
    blocks.extend(
        packages
            .iter()
            .filter(|(key, _)| wanted.contains(*key))
            .map(|((of, _), block)| (*of, without_tests(of, block))),
    );
    blocks.sort();
    for (_, block) in blocks {
        let _ = write!(out, "\n[[package]]\n{block}\n");
    }
    out
}

fn field<'a>(block: &'a str, name: &str) -> Option<&'a str> {
    block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
}

fn dependencies(block: &str) -> impl Iterator<Item = &str> {
    block.lines().filter_map(|line| line.strip_prefix(" \"")?.strip_suffix("\","))
}

fn without_tests(package: &str, block: &str) -> String {
    match package {
        "postern-sdk" => block.replace(&format!(" \"{ONLY_TESTS}\",\n"), ""),
        _ => block.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_inherited_is_kept() {
        let ours = "[workspace]\nmembers = [\"a\"]\n\n[workspace.package]\nversion = \"1.2.3\"\n\n\
            [workspace.dependencies]\nserde = \"1\" # x\nserde_json = \"1\"\ntokio = { version = \"1\" }\n\n\
            # about tests\nrcgen = \"1\"\n\n[profile.dev]\ndebug = false\n\n[workspace.lints.rust]\nunsafe_code = \"deny\"\n";
        let members = ["version.workspace = true\n[dependencies]\nserde.workspace = true\n[lints]\nworkspace = true\n"];
        let expected = "[workspace]\nresolver = \"3\"\nmembers = [\"sdk/rust\", \"sdk/rust/macros\"]\n\n\
            [workspace.package]\nversion = \"1.2.3\"\n\n[workspace.dependencies]\nserde = \"1\" # x\n\n\
            [workspace.lints.rust]\nunsafe_code = \"deny\"\n";
        let made = manifest(ours, &members);
        assert_eq!(made.split_once('\n').unwrap().1, expected);
    }

    #[test]
    fn the_lock_has_what_the_sdk_needs_in_our_versions() {
        let package = |name: &str, version: &str, dependencies: &[&str]| {
            let list: String = dependencies.iter().map(|name| format!(" \"{name}\",\n")).collect();
            format!("\n[[package]]\nname = \"{name}\"\nversion = \"{version}\"\ndependencies = [\n{list}]\n")
        };
        let ours = [
            "version = 4\n".to_owned(),
            package("postern-sdk", "0.1.0", &["old 1.0.0", "serde", "wit-component"]),
            package("old", "1.0.0", &[]),
            package("old", "2.0.0", &["tokio"]),
            package("serde", "1.0.1", &[]),
            package("tokio", "1.0.0", &[]),
            package("wit-component", "1.0.0", &["tokio"]),
        ];
        let made = lock(&ours.concat(), "mine");
        let named: Vec<_> = made.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
        assert_eq!(named, ["\"mine\"", "\"old\"", "\"postern-sdk\"", "\"serde\""]);
        assert!(made.starts_with("version = 4\n") && made.contains("version = \"1.0.0\"") && !made.contains("2.0.0"));
        assert!(!made.contains("wit-component"), "{made}");
    }
}
