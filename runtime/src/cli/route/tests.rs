//! Rules of two scopes, smart hosts, split DNS; and what leads nowhere.

use std::fmt::Write as _;
use std::io;

use super::*;
use crate::config;
use crate::dns::responder::Responder;
use crate::server::plugins;

/// The answer, its lines with single spaces, and the exit code.
async fn ask(dns: &Responder, more: &str, arguments: &str, json: bool) -> (String, u8) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("postern.toml");
    let mut text = format!(
        "[server]\nhost_name = \"mx.example.net\"\n[dns]\nservers = [\"{0}\"]\ninternal_servers = [\"{0}\"]\n\
         internal_domains = [\"split.example\"]\n[spool]\ndirectory = \"spool\"\n\
         [[listener]]\nname = \"mx\"\naddress = \"192.0.2.25:25\"\nrole = \"inbound\"\n\
         [[tenant]]\nname = \"company\"\nreseller = \"north\"\ndomains = [\"company.example\"]\n\
         destination = \"192.0.2.11:2525\"\noutbound = {{ smart_host = \"isp\" }}\n\
         [[tenant]]\nname = \"split\"\ndomains = [\"split.example\"]\ndestination = {{ mx = \"split.example\" }}\n\
         [[tenant]]\nname = \"closed\"\ndomains = [\"closed.example\"]\n\
         [[reseller]]\nname = \"north\"\nchain = [\"theirs\"]\n\
         [[smart_host]]\nname = \"isp\"\nhost = \"smtp.isp.example\"\nuser = \"us\"\npassword_file = \"secret\"\n\
         [[smart_host]]\nname = \"bulk\"\nhost = \"192.0.2.50\"\ntls = \"implicit\"\n",
        dns.address
    );
    let _ = write!(text, "{more}");
    std::fs::write(&path, text).unwrap();
    std::fs::write(directory.path().join("secret"), "canary\n").unwrap();
    let settings = config::load(&path, &plugins::builtins()).map_err(|error| error.to_string()).unwrap().settings;
    let words = ["postern", "route", "explain"].into_iter().chain(arguments.split_whitespace());
    let cli = <super::super::Cli as clap::Parser>::try_parse_from(words).unwrap();
    let super::super::Command::Tool(super::super::Tool::Route(Route::Explain(explain))) = cli.command else { panic!() };
    // As from a command: with a runtime of its own.
    let answered = tokio::task::spawn_blocking(move || {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
        let code = answer(&explain, &settings, Compiler::InProcess, json, &mut streams);
        let code = code.unwrap_or_else(|error| {
            out = format!("{error}\n").into_bytes();
            FAILED
        });
        (String::from_utf8(out).unwrap(), code)
    });
    let (text, code) = answered.await.unwrap();
    assert!(!directory.path().join("spool").exists(), "nothing is made");
    assert!(!text.contains("canary"), "{text}");
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    (lines.collect::<Vec<_>>().join("\n"), code)
}

const RULES: &str = r#"
[[plugin]]
name = "routing"
source = "builtin:routing"
grants = ["metrics", "tables", "route:bulk", "route:mx", "route:host"]
[[plugin.config.rules]]
name = "newsletter"
sender = ["news@company.example"]
to = "smart-host:bulk"
[[plugin]]
name = "theirs"
source = "builtin:routing"
scope = "reseller:north"
grants = ["metrics", "tables", "route:host"]
[[plugin.config.rules]]
name = "one"
recipient = ["one@company.example"]
to = "host:192.0.2.12"
[chain]
platform = ["routing"]
"#;

#[tokio::test]
async fn r53_route_explain_names_the_rule_and_the_hosts() {
    let dns = Responder::start().await;
    dns.a("smtp.isp.example", &["192.0.2.60"]).mx("them.example", &[(20, "b.them.example"), (10, "a.them.example")]);
    dns.a("a.them.example", &["192.0.2.70"]).a("b.them.example", &["192.0.2.71"]);
    dns.mx("split.example", &[(5, "inside.split.example")]).a("inside.split.example", &["192.0.2.80"]);
    for (arguments, expected) in [
        (
            "--from news@company.example --to x@them.example",
            "mail from news@company.example to x@them.example, outbound, tenant company\n\
             plugin routing (platform): next; smart-host:bulk\n\
             info: rule \"newsletter\": smart-host:bulk: 1 of 1 recipients, by sender\n\
             plugin theirs (reseller:north): next\n\
             route smart-host:bulk, chosen by the plugin routing (platform)\ntls implicit\nhosts 192.0.2.50 192.0.2.50:465",
        ),
        (
            "--from x@them.example --to one@company.example",
            "mail from x@them.example to one@company.example, inbound, tenant company\n\
             plugin routing (platform): next\n\
             plugin theirs (reseller:north): next; host:[192.0.2.12]:25\n\
             info: rule \"one\": host:192.0.2.12: 1 of 1 recipients, by recipient\n\
             route host:[192.0.2.12]:25, chosen by the plugin theirs (reseller:north)\n\
             tls opportunistic\nhosts 192.0.2.12 192.0.2.12:25",
        ),
        (
            "--from <> --to two@company.example",
            "mail from <> to two@company.example, inbound, tenant company\n\
             plugin routing (platform): next\nplugin theirs (reseller:north): next\n\
             route host:[192.0.2.11]:2525, the destination of the tenant company\n\
             tls opportunistic\nhosts 192.0.2.11 192.0.2.11:2525",
        ),
        (
            "--from a@company.example --to x@them.example",
            "mail from a@company.example to x@them.example, outbound, tenant company\n\
             plugin routing (platform): next\nplugin theirs (reseller:north): next\n\
             route smart-host:isp, what the tenant company has for outbound mail\n\
             tls verified, login as us\nhosts smtp.isp.example 192.0.2.60:587",
        ),
        (
            "--from a@split.example --to x@them.example",
            "mail from a@split.example to x@them.example, outbound, tenant split\n\
             plugin routing (platform): next\nroute mx:them.example, as nothing else was chosen\ntls opportunistic\n\
             hosts a.them.example 192.0.2.70:25 preference 10\nb.them.example 192.0.2.71:25 preference 20",
        ),
    ] {
        let (text, code) = ask(&dns, RULES, arguments, false).await;
        assert_eq!((text.as_str(), code), (expected, OK), "{arguments}");
    }
    // Both resolvers are the same one here, and of two equals the internal goes first.
    let (text, _) = ask(&dns, RULES, "--from <> --to x@split.example", true).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let way = &answer["recipients"][0];
    assert_eq!(
        (&way["chosen_by"], &way["hosts"][0]["internal"]),
        (&json!({ "destination_of": "split" }), &json!(true))
    );
    assert_eq!((&answer["plugins"][0]["plugin"], &answer["verdict"]), (&json!("routing"), &json!("next")));
}

#[tokio::test]
async fn what_leads_nowhere_is_said() {
    let dns = Responder::start().await;
    dns.mx("loop.example", &[(10, "mx.example.net")]);
    let without_grant = RULES.replace("\"route:bulk\", ", "");
    for (more, arguments, says) in [
        (RULES, "--from <> --to x@gone.example", "problem 550 5.1.2 gone.example has no host that takes mail"),
        (RULES, "--from <> --to x@loop.example", "problem 554 5.4.6 Mail for loop.example loops back to this host"),
        (
            &without_grant,
            "--from news@company.example --to x@them.example",
            "verdict defer 451 4.3.5 Local error in configuration",
        ),
        (RULES, "--from <> --to x@closed.example", "which has no destination: no mail is taken"),
    ] {
        let (text, code) = ask(&dns, more, arguments, false).await;
        assert!(text.contains(says) && code == FAILED, "{arguments}: {text}");
    }
}
