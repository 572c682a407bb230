//! The whole gateway: from a config as an operator writes it, with the real plugins, to the mail that the next hop gets.
//!
//! A folder of `tests/scenarios` holds
//! - `postern.toml`, in which `{sink}` and `{other}` are the ports of two next hops and `{directory}` a folder of its own;
//! - `session.smtp`, a dialogue (see [`crate::script`]) with the first listener;
//! - `expected.txt`: what must come out, a line each:
//!   `sink 1 to b@example.com` (also `other`; `from`), `sink 1 has "Subject: x"`, `sink 1 whole "…"` (without the fields
//!   `Received`), `sinks 1` and `others 0` (how many in all), `event plugin plugin=access verdict=reject` (an event with
//!   these fields was logged), `queue 0` (messages that are left in it).

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::Client;
use crate::escape::unescape;
use crate::scene::Scene;
use crate::script::{Dialog, Step, matches};
use crate::sink::Taken;

/// A scenario that has not come to its end by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the scenario of a folder.
///
/// # Errors
/// What did not come out as expected.
pub async fn run(folder: &Path) -> Result<(), String> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    let (config, dialog, expected) = (read("postern.toml")?, read("session.smtp")?, read("expected.txt")?);
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let scene = Scene::set(&config, directory.path()).await?;
    scene.talk(&Dialog::parse("session.smtp", &dialog)?).await?;
    for line in expected.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let check = scene.check(line);
        match timeout(PATIENCE, check).await {
            Ok(result) => result.map_err(|got| format!("expected: {line}\n     got: {got}"))?,
            Err(_) => return Err(format!("never came: {line}\n{}", scene.story())),
        }
    }
    scene.server.stop().await;
    Ok(())
}

impl Scene {
    async fn talk(&self, dialog: &Dialog) -> Result<(), String> {
        let stream = TcpStream::connect(self.address()).await.map_err(|error| error.to_string())?;
        let mut client = Client::new(Box::new(stream), false, PATIENCE);
        for (line, step) in &dialog.steps {
            let failed = |text: String| format!("session.smtp:{line}: {text}");
            match step {
                Step::Send(octets) => client.send(octets).await,
                Step::Expect(pattern) => {
                    let got = client.line().await.map_err(failed)?;
                    if !matches(pattern, &got) {
                        return Err(failed(format!("expected {pattern:?}, got {got:?}\n{}", self.story())));
                    }
                }
                Step::ExpectReply(code) => {
                    let got = client.reply().await.map_err(failed)?;
                    if !got.iter().all(|line| line.starts_with(code.as_str())) {
                        return Err(failed(format!("expected {code}, got {got:?}")));
                    }
                }
                Step::Close => client.closed().await.map_err(failed)?,
                _ => return Err(failed("a scenario says and hears, nothing else".to_owned())),
            }
        }
        client.hang_up();
        Ok(())
    }

    async fn check(&self, line: &str) -> Result<(), String> {
        let (what, rest) = line.split_once(' ').ok_or("no such expectation")?;
        match what {
            "sinks" | "others" => {
                let count = number(rest)?;
                let taken = self.sink(what.trim_end_matches('s'))?.wait_for(count).await;
                if taken.len() == count { Ok(()) } else { Err(taken.len().to_string()) }
            }
            "sink" | "other" => {
                let (n, rest) = rest.split_once(' ').ok_or("a number, then what is expected of it")?;
                let n = number(n)?;
                let taken = self.sink(what)?.wait_for(n).await;
                mail(taken.get(n.wrapping_sub(1)).ok_or("mails are counted from 1")?, rest)
            }
            "event" => self.event(rest).await,
            "queue" => self.queue(number(rest)?).await,
            _ => Err("no such expectation".to_owned()),
        }
    }

    /// Events come on a thread of their own, so they are waited for.
    async fn event(&self, wanted: &str) -> Result<(), String> {
        let mut words = wanted.split(' ');
        let name = words.next().unwrap_or("");
        let fields: Vec<_> = words.filter_map(|word| word.split_once('=')).collect();
        let is_it = |event: &Value| {
            let text = |name: &str| event.get(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            text("event").as_deref() == Some(name)
                && fields.iter().all(|(name, value)| text(name).is_some_and(|got| matches(value, &got)))
        };
        self.until(|events| events.iter().any(is_it)).await;
        Ok(())
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn mail(taken: &Taken, wanted: &str) -> Result<(), String> {
    let (what, value) = wanted.split_once(' ').ok_or("what is expected of it")?;
    let quoted = || {
        let inside = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).ok_or("no quotes")?;
        unescape(inside)
    };
    let shown = || crate::escape::show(&taken.octets);
    match what {
        "from" if taken.sender == value.trim_matches(['<', '>']) => Ok(()),
        "from" => Err(taken.sender.clone()),
        "to" if taken.recipients.join(" ") == value => Ok(()),
        "to" => Err(taken.recipients.join(" ")),
        "has" => {
            let part = quoted()?;
            let there = taken.octets.windows(part.len().max(1)).any(|window| window == part);
            there.then_some(()).ok_or_else(shown)
        }
        "whole" => (without_received(&taken.octets) == quoted()?).then_some(()).ok_or_else(shown),
        _ => Err(format!("nothing is known of a mail's {what}")),
    }
}

/// The one field that the gateway always adds, with its folded lines.
fn without_received(octets: &[u8]) -> Vec<u8> {
    let mut rest = octets;
    while rest.starts_with(b"Received:") {
        let mut end = 0;
        loop {
            let line = rest.get(end..).unwrap_or_default();
            end += line.iter().position(|&b| b == b'\n').map_or(line.len(), |lf| lf + 1);
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        rest = rest.get(end..).unwrap_or_default();
    }
    rest.to_vec()
}
