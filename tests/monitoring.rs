//! Dashboard and alert rules speak of series that exist, with labels that they have; each alert is tested and explained.
//! What only promtool can say is asked where it is there; `make test-monitoring` sees to that.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Labels of every series: the scrape gives these, and a histogram's buckets `le`.
const OF_THE_SCRAPE: [&str; 3] = ["job", "instance", "le"];
/// Series of Prometheus's own.
const FOREIGN: [&str; 1] = ["up"];
struct Series {
    histogram: bool,
    labels: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The lines `field: Kind = "postern_name" ["label", …];` of metrics.rs.
fn declared() -> BTreeMap<String, Series> {
    let text = read("runtime/src/metrics.rs");
    let mut found = BTreeMap::new();
    for (at, _) in text.match_indices("= \"postern_") {
        let (before, after) = (&text[..at], &text[at + 3..]);
        let kind = before.trim_end().rsplit(' ').next().unwrap();
        let (name, rest) = after.split_once('"').unwrap();
        let labels = rest.trim_start().strip_prefix('[').map_or("", |rest| rest.split_once(']').unwrap().0);
        let labels = labels.split(',').map(|label| label.trim().trim_matches('"').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        found.insert(name.to_owned(), Series { histogram: kind.starts_with("Histogram"), labels });
    }
    assert!(found.len() > 25, "only {} series are found in metrics.rs", found.len());
    found
}

/// Every PromQL expression of the dashboard.
fn dashboard() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("expr").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| collect(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let board: Value = serde_json::from_str(&read("runtime/packaging/grafana-dashboard.json")).unwrap();
    collect(&board, &mut found);
    assert!(found.len() > 40, "only {} expressions", found.len());
    found
}

/// Every expression of the alerts, by name.
fn alerts() -> BTreeMap<String, String> {
    let text = read("runtime/packaging/alerts.yml");
    let blocks = text.split("- alert: ").skip(1).map(|block| {
        let (name, rest) = block.split_once('\n').unwrap();
        let expression = rest.split_once("expr:").unwrap().1;
        let end = ["\n        for:", "\n        labels:"].iter().filter_map(|key| expression.find(key)).min().unwrap();
        (name.to_owned(), expression[..end].trim_start_matches([' ', '|']).to_owned())
    });
    let alerts: BTreeMap<_, _> = blocks.collect();
    assert!(alerts.len() > 15, "only {} alerts", alerts.len());
    alerts
}

fn word(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// What an expression asks for that is not there.
fn faults(expression: &str, known: &BTreeMap<String, Series>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut labels_here = BTreeSet::new();
    let mut count = 0;
    for (at, _) in expression.match_indices("postern_") {
        let name = word(&expression[at..]);
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let histogram = base.and_then(|base| known.get(base)).filter(|series| series.histogram);
        let Some(series) = histogram.or_else(|| known.get(name).filter(|series| !series.histogram)) else {
            faults.push(format!("no series {name}"));
            continue;
        };
        count += 1;
        labels_here.extend(series.labels.iter().map(String::as_str));
        let selector = expression[at + name.len()..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        for matcher in selector.map_or("", |(inside, _)| inside).split(", ").filter(|matcher| !matcher.is_empty()) {
            let label = word(matcher.trim());
            if !series.labels.contains(label) && !OF_THE_SCRAPE.contains(&label) {
                faults.push(format!("{name} has no label {label}"));
            }
        }
    }
    if count == 0 && !FOREIGN.iter().any(|name| expression.contains(name)) {
        faults.push("it asks for no series of ours".to_owned());
    }
    for (at, opening) in expression.match_indices("by (") {
        let list = expression[at + opening.len()..].split_once(')').unwrap().0;
        for label in list.split(',').map(str::trim) {
            if !labels_here.contains(label) && !OF_THE_SCRAPE.contains(&label) {
                faults.push(format!("no series in it has the label {label}"));
            }
        }
    }
    faults
}

#[test]
fn monitoring_asks_for_series_that_exist() {
    let known = declared();
    let asked = dashboard().into_iter().chain(alerts().into_values());
    let faults: Vec<_> =
        asked.flat_map(|e| faults(&e, &known).into_iter().map(move |fault| format!("{fault}: {e}"))).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// A series that nobody shows is one that nobody looks at.
#[test]
fn monitoring_shows_every_series() {
    let expressions = dashboard().join("\n") + &read("runtime/packaging/grafana-dashboard.json");
    let alerts = read("runtime/packaging/alerts.yml");
    let unseen: Vec<_> =
        declared().into_keys().filter(|name| !expressions.contains(name.as_str()) && !alerts.contains(name)).collect();
    assert!(unseen.is_empty(), "neither on the dashboard nor in an alert: {unseen:?}");
}

/// Whoever is woken looks for the events that the text names.
#[test]
fn monitoring_names_events_that_exist() {
    fn sources(directory: &Path, text: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let (mut source, told) = (String::new(), read("runtime/src/server/story.rs"));
    sources(&root().join("runtime/src"), &mut source);
    let text = read("runtime/packaging/alerts.yml");
    let named = text.split("event").skip(1).filter_map(|rest| {
        let rest = rest.strip_prefix('s').unwrap_or(rest).strip_prefix(" '")?;
        rest.split_once('\'').map(|(name, _)| name)
    });
    let named: BTreeSet<_> = named.collect();
    let is_there = |name: &&str| {
        ["new", "record"].iter().any(|maker| source.contains(&format!("{maker}(\"{name}\"")))
            || told.contains(&format!("\"{name}\""))
    };
    let missing: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty() && named.len() > 5, "{missing:?} of {named:?}");
}

/// Who speaks of a panel names it by its title.
#[test]
fn monitoring_gives_each_panel_a_title_of_its_own() {
    let board: Value = serde_json::from_str(&read("runtime/packaging/grafana-dashboard.json")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let mut titles = BTreeSet::new();
    let twice: Vec<_> =
        panels.map(|panel| panel["title"].to_string()).filter(|title| !titles.insert(title.clone())).collect();
    assert!(twice.is_empty() && titles.len() > 40, "{twice:?}");
}

#[test]
fn monitoring_tests_and_explains_every_alert() {
    let (tests, page) = (read("runtime/packaging/alerts.test.yml"), read("runtime/docs/monitoring.md"));
    for name in alerts().keys() {
        assert!(tests.contains(&format!("name: {name} fires")), "{name} is never seen to fire");
        assert!(tests.contains(&format!("name: {name} keeps quiet")), "{name} is never seen to keep quiet");
        assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/monitoring.md");
    }
    let text = read("runtime/packaging/alerts.yml");
    for key in ["severity: ", "summary: ", "description: ", "runbook: "] {
        assert_eq!(text.matches(key).count(), alerts().len() + text[..200].matches(key).count(), "{key}");
    }
}

/// The rules above can fail.
#[test]
fn monitoring_faults_are_found() {
    let known = declared();
    for (wrong, fault) in [
        ("rate(postern_no_such_total[5m])", "no series postern_no_such_total"),
        ("postern_ready{stage=\"data\"}", "postern_ready has no label stage"),
        ("sum by (tenant) (postern_ready)", "no series in it has the label tenant"),
        ("rate(postern_stage_duration_seconds[5m])", "no series postern_stage_duration_seconds"),
        ("postern_ready_count", "no series postern_ready_count"),
        ("vector(1)", "it asks for no series of ours"),
    ] {
        assert_eq!(faults(wrong, &known).first().map(String::as_str), Some(fault), "{wrong}");
    }
}

/// `None`: it is not here, and nobody demands it.
fn promtool(arguments: &[&str], input: &[u8]) -> Option<String> {
    let demanded = std::env::var_os("POSTERN_PROMTOOL");
    let mut command = Command::new(demanded.clone().unwrap_or_else(|| "promtool".into()));
    command.args(arguments).current_dir(root().join("runtime/packaging"));
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            assert!(demanded.is_none(), "POSTERN_PROMTOOL: {error}");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "promtool {}:\n{said}", arguments.join(" "));
    Some(said)
}

#[test]
fn monitoring_rules_please_promtool() {
    let Some(said) = promtool(&["check", "rules", "alerts.yml"], b"") else { return };
    assert!(said.contains(&format!("{} rules found", alerts().len())), "{said}");
    promtool(&["test", "rules", "alerts.test.yml"], b"");
}

/// The expressions of the dashboard, as rules, are PromQL.
#[test]
fn monitoring_dashboard_pleases_promtool() {
    let directory = tempfile::tempdir().unwrap();
    let mut rules = "groups: [{ name: dashboard, rules: [\n".to_owned();
    for (number, expression) in dashboard().iter().enumerate() {
        let expression = [("$__rate_interval", "5m"), ("$__range", "1h"), ("$__interval", "1m"), ("$instance", ".*")]
            .iter()
            .fold(expression.clone(), |expression, (variable, value)| expression.replace(variable, value));
        rules += &format!("  {{ record: 'panel:{number}', expr: '{}' }},\n", expression.replace('\'', "''"));
    }
    let path = directory.path().join("dashboard.yml");
    std::fs::write(&path, rules + "]}]\n").unwrap();
    promtool(&["check", "rules", path.to_str().unwrap()], b"");
}

/// Ended when dropped.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The whole answer to a request, or what a conversation of SMTP's says.
fn exchange(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What a gateway exposes that has taken a mail.
fn exposition() -> String {
    let directory = tempfile::tempdir().unwrap();
    let (mail, http) = (free_address(), free_address());
    std::fs::create_dir(directory.path().join("spool")).unwrap();
    let path = directory.path().join("postern.toml");
    let config = format!(
        "[server]\nhost_name = \"mx.example.com\"\n[server.http]\naddress = \"{http}\"\n\
         [[listener]]\nname = \"mx\"\naddress = \"{mail}\"\nrole = \"inbound\"\ntls = \"none\"\n\
         [spool]\ndirectory = \"spool\"\nreserve = \"1 MiB\"\n[log]\nfile = \"events.log\"\n[dns]\nsystem = false\n\
         [[tenant]]\nname = \"example\"\ndomains = [\"example.com\"]\ndestination = {{ maildir = \"maildir\" }}\n\
         [[plugin]]\nname = \"access\"\nsource = \"builtin:access\"\ngrants = [\"metrics\", \"tables\"]\n\
         [chain]\nplatform = [\"access\"]\n"
    );
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(crate::postern_binary());
    command.arg("--config").arg(&path).arg("serve").stdout(Stdio::null()).stderr(Stdio::null());
    let mut gateway = Gateway(command.spawn().unwrap());
    while TcpStream::connect(mail).is_err() {
        assert!(gateway.0.try_wait().unwrap().is_none(), "the gateway has ended by itself");
        std::thread::yield_now();
    }
    let stream = TcpStream::connect(mail).unwrap();
    let session = "EHLO client.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n\
                   DATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n";
    let replies = talk(&stream, session);
    assert!(replies.contains("221 "), "{replies}");
    exchange(http, "GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").unwrap()
}

/// A command for each reply, as one does who does not pipeline.
fn talk(stream: &TcpStream, session: &str) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (mut reader, mut writer) = (stream, stream);
    let mut replies = String::new();
    let (commands, data) = session.split_once("DATA\r\n").unwrap();
    let (data, quit) = data.split_once("\r\n.\r\n").unwrap();
    let data = format!("{data}\r\n.\r\n");
    let mut reply = || {
        let before = replies.len();
        // A last line has a space after its code.
        let is_whole = |reply: &str| {
            let last = reply.strip_suffix("\r\n").and_then(|reply| reply.lines().last());
            last.is_some_and(|line| line.as_bytes().get(3) == Some(&b' '))
        };
        while !is_whole(&replies[before..]) {
            let mut octets = [0; 4096];
            let len = reader.read(&mut octets).unwrap();
            assert!(len > 0, "closed after {replies}");
            replies += str::from_utf8(&octets[..len]).unwrap();
        }
    };
    reply();
    for part in commands.split_inclusive("\r\n").chain(["DATA\r\n", &data, quit]) {
        writer.write_all(part.as_bytes()).unwrap();
        reply();
    }
    replies
}

#[test]
fn monitoring_sees_what_a_gateway_exposes() {
    let answer = exposition();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let known = declared();
    let sampled: BTreeSet<_> = text.lines().filter(|line| !line.starts_with('#')).map(word).collect();
    for name in &sampled {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        assert!(known.contains_key(*name) || base.is_some_and(|base| known.contains_key(base)), "{name}");
    }
    for (line, why) in [
        ("postern_ready 1", "mail is taken"),
        ("postern_spool_healthy 1", "the spool is well"),
        ("postern_messages_total{verdict=\"accept\"} 1", "a mail was taken"),
        ("postern_messages_total{verdict=\"defer\"} 0", "an alert needs the rise from 0"),
        ("postern_tls_handshakes_total{result=\"failed\"} 0", "likewise"),
    ] {
        assert!(text.lines().any(|there| there == line), "{line}: {why}\n{text}");
    }
    let _ = promtool(&["check", "metrics"], text.as_bytes());
}
