//! What the chains lack that a start does not ask for: name servers, and tests of the default chain that are left out.

use std::collections::BTreeSet;
use std::path::Path;

use super::deep::Report;
use crate::config::Settings;
use crate::config::builtin::DEFAULT_CHAIN;
use crate::config::settings::{ChainEntry, PluginSource};
use crate::pipeline::{Direction, Role};

/// Grants of those that ask DNS, by themselves or by what the gateway finds out for them.
const ASKING: [&str; 2] = ["dns", "authentication"];
/// Of the default chain, those that judge no mail of strangers.
const NO_TESTS: [&str; 2] = ["access", "routing"];

/// `resolv_conf`: where the system says which its name servers are.
pub(super) fn check(settings: &Settings, builtins: &[&str], resolv_conf: &Path, report: &mut Report<'_>) {
    name_servers(settings, resolv_conf, report);
    left_out(settings, builtins, report);
}

fn name_servers(settings: &Settings, resolv_conf: &Path, report: &mut Report<'_>) {
    let dns = &settings.dns;
    let (key, why) = match (dns.servers.is_empty(), dns.system) {
        (true, false) => ("system", "there are no name servers".to_owned()),
        (true, true) if !resolv_conf.exists() => {
            ("servers", format!("there are no name servers: {} is not there", resolv_conf.display()))
        }
        _ => return,
    };
    let chains = &settings.chains;
    let below = chains.resellers.values().chain(chains.tenants.values());
    let entries = std::iter::once(&chains.platform).chain(below).flatten();
    let asks = |entry: &&ChainEntry| entry.plugin.grants.iter().any(|grant| ASKING.contains(&&*grant.0));
    let asking: BTreeSet<&str> = entries.filter(asks).map(|entry| &*entry.plugin.name).collect();
    if !asking.is_empty() {
        let names = asking.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("{why}, and plugins of the chain ask them: {names}");
        report.warning(
            ("dns", "", key),
            message,
            "mail that they can't judge waits; name servers with `servers` of [dns]",
        );
    }
}

/// Of the built-in plugins, by whatever name.
fn left_out(settings: &Settings, builtins: &[&str], report: &mut Report<'_>) {
    if !settings.listeners.iter().any(|listener| listener.role == Role::Inbound) {
        return;
    }
    let stands = |test: &str| {
        let is_it = |entry: &&ChainEntry| match &entry.plugin.source {
            PluginSource::Builtin(name) => **name == *test && entry.directions.has(Direction::Inbound),
            PluginSource::File(_) => false,
        };
        settings.chains.platform.iter().any(|entry| is_it(&entry))
    };
    let tests = DEFAULT_CHAIN.iter().map(|place| place.plugin).filter(|test| !NO_TESTS.contains(test));
    let missing: Vec<_> = tests.filter(|test| builtins.contains(test) && !stands(test)).collect();
    if !missing.is_empty() {
        let them = if missing.len() == 1 { "it" } else { "them" };
        let message = format!(
            "the chain of the platform leaves out {}: inbound mail is not judged by {them}",
            missing.join(", ")
        );
        report.warning(("chain", "", "platform"), message, "as it should be, if that is meant");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Places};
    use crate::server::plugins;

    /// The first lines of what is said.
    fn said(text: &str, resolv_conf: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let head = "[server]\nhost_name = \"mx.example.net\"\n[spool]\ndirectory = \".\"\n\
            [[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\n";
        std::fs::write(&path, format!("{head}{text}")).unwrap();
        let builtins = plugins::builtins();
        let settings = config::load(&path, &builtins).unwrap_or_else(|error| panic!("{error}")).settings;
        let places = Places::read(&path);
        let mut report = Report::new(&places);
        check(&settings, &builtins, &directory.path().join(resolv_conf), &mut report);
        let problems = report.into_problems();
        assert!(problems.iter().all(|problem| problem.places.len() < 2));
        problems.into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn chains_that_ask_name_servers_that_there_are_none() {
        let asking = "and plugins of the chain ask them: connection-policy, dkim, dmarc, sender-policy, spf";
        let inbound = "role = \"inbound\"\n";
        let said = |text: &str, resolv_conf| said(&format!("{inbound}{text}"), resolv_conf);
        assert_eq!(said("", "postern.toml"), Vec::<String>::new());
        let missing = said("", "gone");
        assert!(missing[0].ends_with(asking) && missing[0].contains("gone is not there"), "{missing:?}");
        assert_eq!(said("[dns]\nsystem = false\n", "gone"), [format!("there are no name servers, {asking}")]);
        assert_eq!(said("[dns]\nservers = [\"192.0.2.1\"]\n", "gone"), Vec::<String>::new());
        let none = "[dns]\nsystem = false\n[chain]\nplatform = [\"headers\"]\n[[tenant]]\nname = \"t\"\n\
            domains = [\"t.example\"]\ndestination = \"192.0.2.1\"\n";
        assert_eq!(said(none, "gone").len(), 1, "what does not ask");
        let with_dns = said(&format!("{none}chain = [\"dnsbl\"]\n"), "gone");
        assert!(with_dns[0].ends_with("ask them: dnsbl"), "{with_dns:?}");
    }

    #[test]
    fn tests_of_the_default_chain_that_are_left_out() {
        let chain = |entries: &str| format!("[chain]\nplatform = [{entries}]\n");
        let all = "\"connection-policy\", \"sender-policy\", \"dkim\", \"recipients\"";
        let outbound = "role = \"relay\"\n";
        for (text, expected) in [
            (chain(&format!("{all}, \"spf\", \"dmarc\"")), None),
            (chain(all), Some("spf, dmarc: inbound mail is not judged by them")),
            (
                chain(&format!("{all}, \"mine\", {{ plugin = \"dmarc\", direction = \"outbound\" }}"))
                    + "[[plugin]]\nname = \"mine\"\nsource = \"builtin:spf\"\n",
                Some("dmarc: inbound mail is not judged by it"),
            ),
            (
                chain(""),
                Some(
                    "connection-policy, sender-policy, spf, dkim, dmarc, recipients: inbound mail is not judged by them",
                ),
            ),
        ] {
            let said_of_it = said(&format!("role = \"inbound\"\n{text}"), "postern.toml");
            let expected = expected.map(|tests| format!("the chain of the platform leaves out {tests}"));
            assert_eq!(said_of_it, Vec::from_iter(expected), "{text}");
        }
        let text = format!("tls = \"none\"\n{outbound}{}", chain(""));
        assert_eq!(said(&text, "postern.toml"), Vec::<String>::new(), "nobody sends mail in");
    }
}
