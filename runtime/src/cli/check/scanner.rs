//! Whether every scanner answers.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::deep::Report;
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::scan::Scanner;
use crate::server::setup;

/// All at the same time: each takes a few seconds at most.
pub(super) async fn check(settings: &Settings, metrics: &Arc<Metrics>, report: &mut Report<'_>) {
    let mut pings = JoinSet::new();
    for scanner in setup::scanners(settings) {
        let scanner = Scanner::new(scanner, metrics.clone());
        pings.spawn(async move { (scanner.ping().await, scanner) });
    }
    let mut silent = Vec::new();
    while let Some(pinged) = pings.join_next().await {
        if let Ok((Err(why), scanner)) = pinged {
            silent.push((scanner.settings().name.clone(), format!("{}: {why}", scanner.settings().address)));
        }
    }
    silent.sort_unstable();
    for (name, why) in silent {
        let help = "until it answers, the plugins that ask it defer mail, or do what their config says of that";
        report.error(("scanner", &name, "address"), format!("the scanner {name} does not answer at {why}"), help);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{self, Places};

    #[tokio::test]
    async fn every_scanner_that_is_silent_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 6]).await.unwrap();
            stream.write_all(b"PONG\0").await.unwrap();
        });
        let scanner = |name: &str, kind: &str, address: &str| {
            format!("[[scanner]]\nname = \"{name}\"\nkind = \"{kind}\"\naddress = \"{address}\"\n")
        };
        let text = format!(
            "[server]\nhost_name = \"mx.example.net\"\n[spool]\ndirectory = \"spool\"\n[[listener]]\nname = \"mx\"\n\
             address = \"127.0.0.1:0\"\nrole = \"inbound\"\n{}{}",
            scanner("good", "clamd", &format!("tcp:127.0.0.1:{port}")),
            scanner("gone", "clamd", &format!("unix:{}", directory.path().join("clamd.ctl").display())),
        );
        std::fs::write(&path, text).unwrap();
        let settings = config::load(&path, &[]).unwrap().settings;
        let places = Places::read(&path);
        let mut report = Report::new(&places);
        check(&settings, &Arc::new(Metrics::new().unwrap()), &mut report).await;
        let problems = report.into_problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.starts_with("the scanner gone does not answer at unix:"), "{problems:?}");
        assert_eq!(problems[0].places[0].line, 16);
    }
}
