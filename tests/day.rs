//! A reseller's day, as sdk/README.md tells it, with the program that `make test` has built: from `postern plugin new` to
//! a rule that judges one tenant's mail. Two builds of a project of its own; their target folder is kept between runs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use postern_tests::program::{Gateway, free_address};

/// The project, built once for all tests.
struct Project {
    folder: PathBuf,
    target: PathBuf,
}

/// What a command has said, and whether it is content.
fn said(output: &Output) -> (bool, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The command must succeed; what it said.
fn run(command: &mut Command) -> String {
    let (well, text) = said(&command.output().unwrap());
    assert!(well, "{command:?}\n{text}");
    text
}

fn postern() -> Command {
    let mut command = Command::new(crate::postern_binary());
    command.env("XDG_CACHE_HOME", target().join("day/cache"));
    command
}

/// Where this test was built.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

impl Project {
    /// Always at the same place: what is built of other people's crates is used again.
    fn built() -> &'static Self {
        static PROJECT: OnceLock<Project> = OnceLock::new();
        PROJECT.get_or_init(|| {
            let work = target().join("day/work");
            let _ = std::fs::remove_dir_all(&work);
            std::fs::create_dir_all(&work).unwrap();
            let new = run(postern().args(["plugin", "new", "house-rules", "--directory"]).arg(&work));
            assert!(new.contains("cargo test"), "{new}");
            let project = Self { folder: work.join("house-rules"), target: target().join("day") };
            let tests = run(project.command("cargo").args(["test", "--offline"]));
            assert!(tests.contains("test result: ok. 3 passed"), "{tests}");
            project.build();
            project
        })
    }

    /// In the project's folder, without what the cargo that runs this test has set for its own build.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("CARGO_TARGET_DIR", &self.target);
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "CARGO"] {
            command.env_remove(variable);
        }
        command
    }

    /// Nothing may be downloaded: the versions are those of our own lock file, which are here.
    fn build(&self) {
        let made = run(self.command(self.folder.join("build")).arg("--offline"));
        assert!(made.contains("house-rules.wasm: "), "{made}");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `postern plugin test` with the project's samples and this session.
    fn rehearse(&self, session: &Path, more: &[&str]) -> Output {
        let mut command = postern();
        command.args(["plugin", "test"]).arg(self.file("house-rules.wasm")).args(["--grant", "dns", "--session"]);
        command.arg(session).arg("--eml").arg(self.file("samples/mail.eml"));
        command.arg("--dns").arg(self.file("samples/zone.toml")).args(more).output().unwrap()
    }
}

/// The plugin's answers, by the events of `postern plugin test --json`.
fn hooks(text: &str) -> Vec<Value> {
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == "hook").collect()
}

#[test]
fn a_new_plugin_builds_passes_its_tests_and_is_rehearsed() {
    let project = Project::built();
    let session = project.file("samples/session.smtp");
    let (well, text) = said(&project.rehearse(&session, &["--json"]));
    assert!(well, "{text}");
    let hooks = hooks(&text);
    let verdicts: Vec<_> = hooks.iter().map(|hook| hook["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["next", "reject", "defer"], "{text}");
    assert_eq!(hooks[1]["log"][0]["text"], "nowhere.example takes no mail");
    for hook in &hooks {
        assert_eq!(hook["stage"], "mail-from");
        assert!(hook["host_calls"].as_u64().unwrap() > 0 && hook["memory"].as_u64().unwrap() > 0, "{hook}");
    }

    let (well, text) = said(&project.rehearse(&session, &[]));
    assert!(well && text.contains("house-rules for tenant:test: mail-from; compiled earlier, loaded in "), "{text}");

    // An expectation that does not hold, and a plugin that may not do what it does, are told by the exit code.
    let wrong = project.file("samples/wrong.smtp");
    let wish = "C: EHLO a.example\nC: MAIL FROM:<ann@nowhere.example>\nC: RCPT TO:<bob@company.example>\n\
        S...: 250\nS: 250 *\nS: 250 *\nC: DATA\nS: 354 *\n@ eml\n";
    std::fs::write(&wrong, wish).unwrap();
    let output = project.rehearse(&wrong, &[]);
    let (_, text) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("!  line 6: expected 250 *, got 550 5.1.8 "), "{text}");
    let small = project.file("small.toml");
    std::fs::write(&small, "limits = { memory = \"64 KiB\" }\n").unwrap();
    let output = project.rehearse(&session, &["--settings", small.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output).1);
    let output = project.rehearse(&session, &["--scope", "everybody"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output).1);
}

#[test]
fn a_checkout_can_be_used_in_place_of_the_copy() {
    let work = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let arguments = ["plugin", "new", "other-rules", "--directory"];
    run(postern().args(arguments).arg(work.path()).arg("--sdk").arg(root));
    let metadata = ["metadata", "--offline", "--quiet", "--format-version=1"];
    let described = run(Command::new("cargo").args(metadata).current_dir(work.path().join("other-rules")));
    let sdk = root.join("sdk/rust/Cargo.toml").canonicalize().unwrap();
    assert!(described.contains(sdk.to_str().unwrap()), "{described}");
}

/// A gateway for two tenants, which asks no DNS server: whatever a plugin looks up is unknown for now.
fn config(directory: &Path, listen: SocketAddr, http: SocketAddr) -> String {
    format!(
        r#"
        [server]
        host_name = "mx.example.net"
        administrators = ["admin@example.net"]
        [server.http]
        address = "{http}"
        [[listener]]
        name = "mx"
        address = "{listen}"
        role = "inbound"
        tls = "none"
        [spool]
        directory = "{directory}/spool"
        [log]
        file = "{directory}/events.jsonl"
        [dns]
        system = false
        [chain]
        platform = []
        [[tenant]]
        name = "company"
        domains = ["company.example"]
        destination = {{ host = "127.0.0.1", port = 9, tls = "never" }}
        [[tenant]]
        name = "studio"
        domains = ["studio.example"]
        destination = {{ host = "127.0.0.1", port = 9, tls = "never" }}
        "#,
        directory = directory.display(),
    )
}

/// What a client hears at RCPT.
fn answer(listen: SocketAddr, recipient: &str) -> String {
    let mut stream = TcpStream::connect(listen).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut reply = || loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the gateway has closed");
        if line.as_bytes().get(3) != Some(&b'-') {
            return line;
        }
    };
    reply();
    for command in ["EHLO client.example", "MAIL FROM:<ann@example.org>"] {
        write!(stream, "{command}\r\n").unwrap();
        assert!(reply().starts_with("250"));
    }
    write!(stream, "RCPT TO:<{recipient}>\r\n").unwrap();
    let answer = reply();
    stream.write_all(b"QUIT\r\n").unwrap();
    answer
}

fn metrics(http: SocketAddr) -> String {
    let mut stream = TcpStream::connect(http).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn installed_for_one_tenant_it_judges_that_tenants_mail_and_no_others() {
    let project = Project::built();
    let directory = tempfile::tempdir().unwrap();
    let (listen, http) = (free_address(), free_address());
    let path = directory.path().join("postern.toml");
    std::fs::create_dir(directory.path().join("spool")).unwrap();
    std::fs::write(&path, config(directory.path(), listen, http)).unwrap();
    let gateway = Gateway::start(&path, listen);
    let postern = |arguments: &[&str]| run(postern().arg("--config").arg(&path).args(arguments));
    let plugin = project.file("house-rules.wasm");
    let install = ["plugin", "install", plugin.to_str().unwrap(), "--scope", "tenant:company", "--grant", "dns"];
    let hears = |recipient: &str, expected: &str| {
        let got = answer(listen, recipient);
        assert!(got.starts_with(expected), "{recipient}: {got}");
    };

    hears("bob@company.example", "250");
    postern(&install);
    hears("bob@company.example", "451 4.1.8");
    hears("eve@studio.example", "250");
    assert!(postern(&["plugin", "list"]).contains("house-rules"));
    assert!(postern(&["plugin", "usage", "--json"]).contains("house-rules"));
    let series = metrics(http);
    let counted = |line: &str| line.starts_with("postern_plugin_verdicts") && line.contains("plugin=\"house-rules\"");
    assert!(series.lines().any(counted), "{series}");

    // The next version says it with another status; then back to the one before.
    let source = project.file("src/lib.rs");
    let first = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, first.replace("451 4.1.8", "451 4.7.1")).unwrap();
    project.build();
    postern(&install);
    hears("bob@company.example", "451 4.7.1");
    postern(&["plugin", "rollback", "house-rules", "--scope", "tenant:company"]);
    hears("bob@company.example", "451 4.1.8");
    hears("eve@studio.example", "250");
    std::fs::write(&source, first).unwrap();
    gateway.stop();
}
