//! `postern status`: the running gateway on one screen. Exit code 0: it takes mail.

use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;

use super::control::vitals::{Down, Listener, Vitals};
use super::control::{Client, Request, Response};
use super::terminal::{json_line, plural, printable, size, span, table};
use super::{CliError, Context, FAILED, OK, Streams};

/// A certificate that ends sooner is marked.
const SOON: i64 = 14 * 24 * 3600;

pub(super) fn run(context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    run_at(&context.control_socket()?, context.json, streams.out)
}

fn run_at(socket: &Path, json: bool, out: &mut dyn Write) -> Result<u8, CliError> {
    let vitals = match Client::connect(socket)?.ask(&Request::Status)? {
        Response::Status { status } => *status,
        other => return Err(other.unexpected().into()),
    };
    if json {
        let mut answer = serde_json::to_value(&vitals).map_err(io::Error::from)?;
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("ready".to_owned(), vitals.not_ready.is_none().into());
        }
        writeln!(out, "{}", json_line(&answer))?;
    } else {
        write!(out, "{}", screen(&vitals))?;
    }
    Ok(if vitals.not_ready.is_none() { OK } else { FAILED })
}

/// What a person reads. Names and replies may come from outside.
fn screen(vitals: &Vitals) -> String {
    let now = vitals.now;
    let ready = vitals.not_ready.as_ref().map_or_else(|| "ready".to_owned(), |why| format!("NOT READY, {why}"));
    let up = span(now, vitals.started);
    let mut lines =
        vec![format!("postern {} on {}: {ready}; up {up}, process {}\n", vitals.version, vitals.host_name, vitals.pid)];
    let mut say = |name: &str, text: String| lines.push(format!("{name:<10} {}", printable(&text)));
    say("Config", config(vitals));
    if let Some(refused) = &vitals.refused {
        say("", format!("RELOAD REFUSED {} ago: {}", span(now, refused.at), refused.error));
    }
    for (n, line) in listeners(&vitals.listeners, now).into_iter().enumerate() {
        say(if n == 0 { "Listeners" } else { "" }, line);
    }
    if let Some(http) = vitals.http {
        say("", format!("http://{http}/metrics"));
    }
    let overload = if vitals.sessions.overload { ": OVERLOAD, they get less time and fewer errors" } else { "" };
    say("Sessions", format!("{} open, at most {}{overload}", vitals.sessions.open, vitals.sessions.limit));
    let messages = &vitals.messages;
    say(
        "Messages",
        format!(
            "{} accepted ({} to quarantine, {} dropped), {} refused ({} for a time) since the start",
            messages.accepted, messages.quarantined, messages.discarded, messages.refused, messages.deferred
        ),
    );
    say("Queue", queue(vitals));
    for down in &vitals.queue.down {
        say("", down_line(down, now));
    }
    if let Some(more) = vitals.queue.down_total.checked_sub(vitals.queue.down.len() as u64).filter(|more| *more > 0) {
        say("", format!("and {more} more destinations are down"));
    }
    say("Spool", spool(vitals));
    say("Plugins", plugins(vitals));
    if vitals.broken_keys > 0 {
        let plural = plural(vitals.broken_keys);
        say(
            "Keys",
            format!("{} FOR SIGNATURES CAN'T BE USED: postern check names the file{plural}", vitals.broken_keys),
        );
    }
    if vitals.events_dropped > 0 {
        say("Log", format!("{} EVENTS LOST: the log could not keep up", vitals.events_dropped));
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end_matches(' '))).collect()
}

fn config(vitals: &Vitals) -> String {
    let file = vitals.config.as_ref().map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
    match (vitals.reloaded, &vitals.refused) {
        (Some(at), _) => format!("{file}, reloaded {} ago", span(vitals.now, at)),
        (None, None) => format!("{file}, as it was at the start"),
        (None, Some(_)) => file,
    }
}

fn listeners(listeners: &[Listener], now: Timestamp) -> Vec<String> {
    let certificate = |expires: Timestamp| match expires.as_second().saturating_sub(now.as_second()) {
        ..=0 => format!("CERTIFICATE EXPIRED {} ago", span(now, expires)),
        1..SOON => format!("CERTIFICATE EXPIRES in {}", span(expires, now)),
        _ => format!("certificate expires in {}", span(expires, now)),
    };
    let row = |listener: &Listener| {
        let tls = if listener.tls == "none" { "no TLS".to_owned() } else { listener.tls.clone() };
        let expires = listener.certificate_expires.map(certificate).unwrap_or_default();
        vec![listener.name.clone(), listener.address.to_string(), listener.role.clone(), tls, expires]
    };
    table(&listeners.iter().map(row).collect::<Vec<_>>()).lines().map(str::to_owned).collect()
}

fn queue(vitals: &Vitals) -> String {
    let queue = &vitals.queue;
    let states = [
        (queue.ready, "ready"),
        (queue.waiting, "waiting"),
        (queue.delivering, "being delivered"),
        (queue.held, "held"),
        (queue.quarantined, "in quarantine"),
    ];
    let counted: Vec<String> =
        states.iter().filter(|(count, _)| *count > 0).map(|(count, state)| format!("{count} {state}")).collect();
    if counted.is_empty() {
        return "empty".to_owned();
    }
    let oldest = Timestamp::from_second(i64::try_from(queue.oldest).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
    let oldest = match queue.oldest {
        0 => String::new(),
        _ => format!("; the oldest is {} old", span(oldest, Timestamp::UNIX_EPOCH)),
    };
    format!("{}{oldest}", counted.join(", "))
}

fn down_line(down: &Down, now: Timestamp) -> String {
    format!(
        "DOWN {}: {} message{}, {} failure{}, tried again in {}: {}",
        down.destination,
        down.messages,
        plural(down.messages),
        down.failures,
        plural(down.failures.into()),
        span(down.next_attempt, now),
        down.reply
    )
}

fn spool(vitals: &Vitals) -> String {
    let spool = &vitals.spool;
    let health = if spool.healthy { "healthy" } else { "FAILED, restart the gateway" };
    let free = match spool.free {
        Some(free) if free <= spool.reserve => format!("ONLY {} free, {} are kept", size(free), size(spool.reserve)),
        Some(free) => format!("{} free", size(free)),
        None => "free room unknown".to_owned(),
    };
    let damaged = match spool.damaged {
        0 => String::new(),
        n => format!(", {n} DAMAGED RECORD{} set aside", plural(n).to_ascii_uppercase()),
    };
    format!("{health}, {} in {}, {free}{damaged}", size(spool.octets), spool.directory.display())
}

fn plugins(vitals: &Vitals) -> String {
    let plugins = &vitals.plugins;
    let open = plugins.open.iter().map(|open| format!("{} ({})", open.plugin, open.scopes.join(", ")));
    let open: Vec<String> = open.collect();
    let failing = match open.as_slice() {
        [] => String::new(),
        open => format!("; NOT ASKED, for they fail: {}", open.join(", ")),
    };
    let broken: Vec<_> = plugins.broken.iter().map(|broken| format!("{} ({})", broken.plugin, broken.scope)).collect();
    let broken = if broken.is_empty() { String::new() } else { format!("; BROKEN: {}", broken.join(", ")) };
    format!("{} in use{failing}{broken}", plugins.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::control::vitals::{Broken, Messages, OpenBreaker, Plugins, Queue, RefusedReload, Sessions, Spool};
    use crate::cli::control::{ErrorKind, bind, serve};

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn healthy() -> Vitals {
        let listener = |name: &str, port: u16, tls: &str, expires: Option<&str>| Listener {
            name: name.to_owned(),
            address: ([192, 0, 2, 1], port).into(),
            role: if port == 25 { "inbound".to_owned() } else { "submission".to_owned() },
            tls: tls.to_owned(),
            certificate_expires: expires.map(at),
        };
        Vitals {
            version: "0.1.0".to_owned(),
            pid: 4711,
            host_name: "mx.example.net".to_owned(),
            config: Some("/etc/postern/postern.toml".into()),
            started: at("2026-02-26T08:00:00Z"),
            now: at("2026-03-01T12:00:00Z"),
            not_ready: None,
            reloaded: None,
            refused: None,
            listeners: vec![
                listener("mx", 25, "starttls", Some("2026-05-01T00:00:00Z")),
                listener("users", 465, "implicit", Some("2026-03-03T00:00:00Z")),
            ],
            http: Some(([127, 0, 0, 1], 9100).into()),
            sessions: Sessions { open: 12, limit: 2000, overload: false },
            queue: Queue {
                ready: 0,
                waiting: 0,
                delivering: 0,
                held: 0,
                quarantined: 0,
                oldest: 0,
                down: Vec::new(),
                down_total: 0,
            },
            spool: Spool {
                directory: "/var/spool/postern".into(),
                healthy: true,
                octets: 70 << 20,
                free: Some(40 << 30),
                reserve: 75 << 20,
                damaged: 0,
            },
            plugins: Plugins { count: 3, ..Plugins::default() },
            broken_keys: 0,
            messages: Messages { accepted: 1000, quarantined: 10, discarded: 1, refused: 200, deferred: 20 },
            events_dropped: 0,
        }
    }

    fn troubled() -> Vitals {
        let down = Down {
            destination: "mx:example.org".to_owned(),
            messages: 400,
            failures: 1,
            next_attempt: at("2026-03-01T12:05:00Z"),
            reply: "451 4.4.1 \u{1b}[31mno answer".to_owned(),
        };
        let healthy = healthy();
        Vitals {
            not_ready: Some("the spool is full".to_owned()),
            refused: Some(RefusedReload { at: at("2026-03-01T11:59:00Z"), error: "error: unknown key `x`".to_owned() }),
            queue: Queue { waiting: 500, held: 1, oldest: 7260, down: vec![down], down_total: 3, ..healthy.queue },
            spool: Spool { free: Some(10 << 20), damaged: 2, ..healthy.spool },
            plugins: Plugins {
                count: 3,
                open: vec![OpenBreaker { plugin: "rules".to_owned(), scopes: vec!["tenant:company".to_owned()] }],
                broken: vec![Broken {
                    plugin: "old".to_owned(),
                    scope: "tenant:other".to_owned(),
                    reason: "it is damaged".to_owned(),
                }],
            },
            sessions: Sessions { open: 1700, limit: 2000, overload: true },
            broken_keys: 2,
            events_dropped: 5,
            ..healthy
        }
    }

    #[test]
    fn a_healthy_gateway_fits_a_screen() {
        let expected = "\
postern 0.1.0 on mx.example.net: ready; up 3d 4h, process 4711

Config     /etc/postern/postern.toml, as it was at the start
Listeners  mx     192.0.2.1:25   inbound     starttls  certificate expires in 60d 12h
           users  192.0.2.1:465  submission  implicit  CERTIFICATE EXPIRES in 1d 12h
           http://127.0.0.1:9100/metrics
Sessions   12 open, at most 2000
Messages   1000 accepted (10 to quarantine, 1 dropped), 200 refused (20 for a time) since the start
Queue      empty
Spool      healthy, 70 MiB in /var/spool/postern, 40 GiB free
Plugins    3 in use
";
        assert_eq!(screen(&healthy()), expected);
    }

    #[test]
    fn trouble_stands_out_and_moves_no_cursor() {
        let text = screen(&troubled());
        assert!(!text.contains('\u{1b}'), "{text}");
        for line in [
            "postern 0.1.0 on mx.example.net: NOT READY, the spool is full; up 3d 4h, process 4711",
            "Config     /etc/postern/postern.toml",
            "           RELOAD REFUSED 1m ago: error: unknown key `x`",
            "Sessions   1700 open, at most 2000: OVERLOAD, they get less time and fewer errors",
            "Queue      500 waiting, 1 held; the oldest is 2h 1m old",
            "           DOWN mx:example.org: 400 messages, 1 failure, tried again in 5m: 451 4.4.1 \\u{1b}[31mno answer",
            "           and 2 more destinations are down",
            "Spool      healthy, 70 MiB in /var/spool/postern, ONLY 10 MiB free, 75 MiB are kept, 2 DAMAGED RECORDS set aside",
            "Plugins    3 in use; NOT ASKED, for they fail: rules (tenant:company); BROKEN: old (tenant:other)",
            "Keys       2 FOR SIGNATURES CAN'T BE USED: postern check names the files",
            "Log        5 EVENTS LOST: the log could not keep up",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    async fn ask(response: Response, json: bool) -> (Result<u8, CliError>, String) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let gateway = serve(bind(&socket).unwrap(), move |_| std::future::ready(response.clone()));
        let command = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            let result = run_at(&socket, json, &mut out);
            (result, String::from_utf8(out).unwrap())
        });
        tokio::select! {
            () = gateway => unreachable!("it serves for ever"),
            result = command => result.unwrap(),
        }
    }

    #[tokio::test]
    async fn the_exit_code_says_whether_it_takes_mail() {
        let status = |vitals| Response::Status { status: Box::new(vitals) };
        let (code, out) = ask(status(healthy()), false).await;
        assert_eq!((code.unwrap(), out), (OK, screen(&healthy())));
        let (code, out) = ask(status(troubled()), true).await;
        assert_eq!(code.unwrap(), FAILED);
        let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&answer["ready"], &answer["queue"]["waiting"]), (&false.into(), &500.into()));
        let (error, _) = ask(Response::error(ErrorKind::Failed, "no"), false).await;
        assert_eq!(error.unwrap_err().to_string(), "no");
    }
}
