//! What `make install` installs, and what systemd thinks of the unit, where its tools are there to be asked.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("runtime/packaging")
}

fn installer(verb: &str, destination: &str, prefix: &Path) {
    let mut command = Command::new(packaging().join("install"));
    command.arg(verb).env("DESTDIR", destination).env("PREFIX", prefix).env("POSTERN", crate::postern_binary());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{verb}: {}", said(&output));
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(text).unwrap()
}

/// Relative, sorted.
fn files(directory: &Path) -> BTreeSet<String> {
    fn descend(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { descend(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    descend(directory, &mut found);
    found.iter().map(|path| path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn make_install_puts_all_in_its_place_and_uninstall_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let destination = directory.path().to_str().unwrap();
    let old = directory.path().join("opt/mail/share/man/man1/postern-gone.1");
    std::fs::create_dir_all(old.parent().unwrap()).unwrap();
    std::fs::write(&old, "a page of a command that is no more").unwrap();
    installer("install", destination, Path::new("/opt/mail"));
    let installed = files(&directory.path().join("opt/mail"));
    for wanted in [
        "bin/postern",
        "share/man/man1/postern.1",
        "share/man/man1/postern-queue-list.1",
        "share/bash-completion/completions/postern",
        "share/zsh/site-functions/_postern",
        "share/fish/vendor_completions.d/postern.fish",
        "lib/systemd/system/postern.service",
        "lib/sysusers.d/postern.conf",
        "lib/tmpfiles.d/postern.conf",
        "share/doc/postern/LICENSE",
        "share/doc/postern/postern.example.toml",
        "share/doc/postern/postern.toml",
        "share/doc/postern/grafana-dashboard.json",
        "share/doc/postern/alerts.yml",
    ] {
        assert!(installed.contains(wanted), "{wanted} is not among {installed:#?}");
    }
    assert!(!old.exists());
    let unit = std::fs::read_to_string(directory.path().join("opt/mail/lib/systemd/system/postern.service")).unwrap();
    assert!(unit.contains("ExecStart=/opt/mail/bin/postern --config /etc/postern/postern.toml serve"), "{unit}");
    assert!(!unit.contains("/usr/local"), "{unit}");
    installer("uninstall", destination, Path::new("/opt/mail"));
    assert_eq!(files(directory.path()), BTreeSet::new());
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_hardened() {
    let directory = tempfile::tempdir().unwrap();
    installer("install", "", directory.path());
    let unit = directory.path().join("lib/systemd/system/postern.service");
    let analyze = |arguments: &[&str]| match Command::new("systemd-analyze").args(arguments).arg(&unit).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    };
    // Where it is not installed, people who have it will see.
    let Some(verify) = analyze(&["verify", "--man=no"]) else { return };
    assert!(verify.status.success() && said(&verify).is_empty(), "{}", said(&verify));
    // Tenths; 1.5 when this was written.
    let security = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"]).unwrap();
    assert!(security.status.success(), "{}", said(&security));
}

/// Whoever copies the first config has one that is right.
#[test]
fn the_first_config_has_no_mistakes() {
    let output = Command::new(crate::postern_binary())
        .arg("--config")
        .arg(packaging().join("postern.toml"))
        .arg("check")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("warning"), "{}", said(&output));
}
