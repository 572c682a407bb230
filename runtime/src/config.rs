//! The config: TOML as written → [`Settings`].
//!
//! `postern.toml` and the files of `conf.d` beside it are one config. It goes through two stages: [`written`] says what
//! stands there, [`check`] what it means. A mistake is shown with file, line, mark and, where there is one, a suggestion.
//! This is the only module that reads the environment.

pub mod builtin;
mod check;
pub mod effective;
mod places;
pub mod problem;
mod section;
pub mod settings;
pub mod source;
pub mod suggest;
pub mod value;
pub mod whereabouts;
mod written;

use std::path::Path;

pub use check::{Identity, Installed, Known, declare};
pub use places::Places;
pub use problem::{ConfigError, Place, Problem, Severity};
pub use settings::{ByteSize, Secret, Settings};
pub use whereabouts::Whereabouts;

use problem::Findings;
use source::Sources;
use written::Written;

/// A config that can be used, and what is odd about it, or wrong with a part of it.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub warnings: Vec<Problem>,
}

impl Loaded {
    /// Those of the warnings that are errors: something that does not work, while all else does.
    pub fn faults(&self) -> impl Iterator<Item = &Problem> {
        self.warnings.iter().filter(|problem| problem.severity == Severity::Error)
    }
}

/// Reads `postern.toml` at `path`, and `conf.d/*.toml` beside it. `builtins` are the names of the plugins that are compiled in.
pub fn load(path: &Path, builtins: &[&str]) -> Result<Loaded, ConfigError> {
    let mut findings = Findings::default();
    let sources = Sources::read(path, &mut findings);
    from_sources(&sources, builtins, findings)
}

/// The config that `postern localserve` begins with; what it keeps stands beside it.
pub const LOCALSERVE: &str = include_str!("config/localserve.toml");

fn from_sources(sources: &Sources, builtins: &[&str], mut findings: Findings) -> Result<Loaded, ConfigError> {
    let root = sources.parse(&mut findings);
    // A file that can't be read at all would make references into it look wrong: no second stage then.
    let written = Written::read(root, &mut findings);
    let settings = match findings.has_errors() {
        true => None,
        false => check::check(written, sources, builtins, &mut findings),
    };
    let problems = findings.into_problems(sources);
    match settings {
        Some(settings) => Ok(Loaded { settings, warnings: problems }),
        None => Err(ConfigError { problems }),
    }
}

#[cfg(test)]
mod tests {

    use super::settings::{LineEnds, ListenerTls, PluginSource};
    use super::*;
    use crate::mail::{Route, TlsPolicy};
    use crate::pipeline::{Directions, OnFailure};
    use crate::smtp::Domain;
    use crate::tenancy::SendAs;

    const BUILTINS: &[&str] = &["access", "connection-policy", "routing"];

    /// Each folder of `tests/configs` holds a config and what is wrong with it.
    #[test]
    fn every_mistake_is_shown_with_its_place() {
        let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/configs");
        let mut cases: Vec<_> = std::fs::read_dir(folders).unwrap().map(|entry| entry.unwrap().path()).collect();
        cases.sort();
        assert!(cases.len() > 25, "where are they?");
        let mut wrong = Vec::new();
        for case in cases {
            let problems = match load(&case.join("postern.toml"), BUILTINS) {
                Ok(loaded) => loaded.warnings,
                Err(error) => error.problems,
            };
            let shown = ConfigError { problems }.to_string().replace(&format!("{}/", case.display()), "");
            let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_default();
            if shown != expected || shown.is_empty() {
                wrong.push(format!("=== {}\n{shown}", case.file_name().unwrap().display()));
            }
        }
        assert!(wrong.is_empty(), "these are shown differently now:\n{}", wrong.concat());
    }

    const SHORT: &str = "[server]\nhost_name = \"mx.example.net\"\nadministrators = [\"a@example.net\"]\n\
        [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:2525\"\nrole = \"inbound\"\n\
        [spool]\ndirectory = \".\"\n";

    fn of_text(text: &str, builtins: &[&str]) -> Result<Settings, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        std::fs::write(&path, format!("{SHORT}{text}")).unwrap();
        load(&path, builtins).map(|loaded| loaded.settings).map_err(|error| error.to_string())
    }

    fn all() -> Vec<&'static str> {
        builtin::GRANTS.iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn without_a_chain_it_is_the_default_one() {
        let settings = of_text("", &all()).unwrap();
        let chain = &settings.chains.platform;
        let names: Vec<_> = chain.iter().map(|entry| &*entry.plugin.name).collect();
        let default = ["access", "connection-policy", "sender-policy", "spf", "dkim", "dmarc", "recipients", "routing"];
        assert_eq!(names, default);
        let spf = chain.iter().find(|entry| &*entry.plugin.name == "spf").unwrap();
        assert!(spf.exemptable && spf.directions == Directions::Inbound && spf.plugin.reuse);
        assert!(spf.plugin.grants.iter().any(|grant| &*grant.0 == "authentication"));
        // Its own entry changes one of them; an empty list is no chain.
        let text = "[[plugin]]\nname = \"spf\"\nconfig = { fail = \"tag\" }\n";
        let settings = of_text(text, &all()).unwrap();
        let spf = settings.chains.platform.iter().find(|entry| &*entry.plugin.name == "spf").unwrap();
        assert_eq!(spf.plugin.config["fail"], "tag");
        assert_eq!(spf.plugin.source, PluginSource::Builtin("spf".into()));
        assert!(spf.plugin.grants.iter().any(|grant| &*grant.0 == "authentication"));
        assert_eq!(of_text("[chain]\nplatform = []\n", &all()).unwrap().chains.platform.len(), 0);
    }

    #[test]
    fn a_built_in_plugin_need_not_be_declared() {
        let text = "[chain]\nplatform = [\"access\"]\n[[tenant]]\nname = \"a\"\ndomains = [\"a.example\"]\n\
            destination = \"mail.a.example\"\nchain = [\"greylist\"]\n";
        let settings = of_text(text, &all()).unwrap();
        let chain = settings.chains.tenants.get("a").unwrap();
        assert_eq!((chain.len(), &*chain[0].plugin.name), (1, "greylist"));
        // One of that name in the tenant's own scope beside the platform's would be told from it by nobody.
        let text = "[[tenant]]\nname = \"a\"\ndomains = [\"a.example\"]\ndestination = \"mail.a.example\"\nchain = [\"spf\"]\n\
            [[plugin]]\nname = \"spf\"\nscope = \"tenant:a\"\n";
        let error = of_text(text, &all()).unwrap_err();
        assert!(error.contains("`spf` is the name of a plugin of the platform"), "{error}");
        let error = of_text("[[plugin]]\nname = \"own\"\n", &all()).unwrap_err();
        assert!(error.contains("the plugin `own` has no `source`"), "{error}");
    }

    #[test]
    fn a_missing_config_is_named() {
        let error = load(Path::new("/nonexistent/postern.toml"), BUILTINS).unwrap_err().to_string();
        assert!(error.contains("can't read /nonexistent/postern.toml"), "{error}");
        assert_eq!(error.matches("error:").count(), 1, "{error}");
    }

    #[test]
    fn the_preset_of_localserve_can_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("spool")).unwrap();
        std::fs::write(at("localserve.toml"), LOCALSERVE).unwrap();
        let loaded = load(&at("localserve.toml"), &all()).unwrap();
        assert_eq!(loaded.warnings, []);
        let settings = loaded.settings;
        assert!(settings.listeners.iter().all(|listener| listener.address.ip().is_loopback()));
        assert_eq!(settings.spool.directory, at("spool"));
        assert_eq!(settings.control_socket(), at("spool/control.sock"));
        let tenant = settings.directory.tenant_of(&Domain::parse("example.com").unwrap()).unwrap();
        assert_eq!(tenant.destination, Some(Route::Maildir(at("maildir"))));
        assert!(!settings.dns.system && settings.dns.servers.is_empty());
        let names: Vec<_> = settings.chains.platform.iter().map(|entry| &*entry.plugin.name).collect();
        let default: Vec<_> = builtin::DEFAULT_CHAIN.iter().map(|place| place.plugin).collect();
        assert_eq!(names, default);
        assert!(settings.chains.platform.iter().all(|entry| entry.plugin.reuse));
    }

    /// A copy of the example with the files that it names beside it.
    fn example() -> (tempfile::TempDir, Loaded) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let text = include_str!("../postern.example.toml");
        for folder in ["tls", "secrets", "tables", "plugins"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        let signed = rcgen::generate_simple_self_signed(vec!["mx.example.net".to_owned()]).unwrap();
        std::fs::write(at("tls/mx.pem"), signed.cert.pem()).unwrap();
        std::fs::write(at("tls/mx.key"), signed.signing_key.serialize_pem()).unwrap();
        make_private(&at("tls/mx.key"));
        std::fs::write(at("secrets/isp"), "correct horse canary\n").unwrap();
        std::fs::write(at("tables/blocked.csv"), "").unwrap();
        std::fs::write(at("plugins/house-rules.wasm"), "").unwrap();
        std::fs::write(at("postern.toml"), text).unwrap();
        let loaded = load(&at("postern.toml"), BUILTINS).map_err(|error| error.to_string()).unwrap();
        (directory, loaded)
    }

    fn make_private(file: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn the_example_means_what_it_says() {
        let (directory, loaded) = example();
        assert_eq!(loaded.warnings, []);
        let settings = loaded.settings;
        let company = settings.directory.tenant("company").unwrap();
        let host = crate::smtp::Host::Domain(Domain::parse("mail.company.com").unwrap());
        assert_eq!(company.destination, Some(Route::Host { host, port: 25, tls: TlsPolicy::Opportunistic }));
        assert_eq!(company.outbound, Some(Route::SmartHost("isp".into())));
        let minutes: Vec<_> = settings.queue.retry.iter().map(|wait| wait.as_secs() / 60).collect();
        assert_eq!(minutes, [5, 10, 20, 40, 80, 160, 240]);
        assert_eq!(settings.listeners[0].tls, ListenerTls::StartTls);
        assert_eq!(settings.listeners[0].line_ends, LineEnds::Strict);
        assert!(settings.listeners[1].auth && !settings.listeners[0].auth);
        let login = settings.smart_hosts[0].login.as_ref().unwrap();
        assert_eq!(login.password.reveal(), "correct horse canary");
        let user = settings.directory.user("anna@company.com").unwrap();
        assert!(matches!(&user.may_send_as, SendAs::These { domains, .. } if domains.len() == 1));
        let chain = &settings.chains.tenants["company"];
        assert_eq!(chain[0].plugin.source, PluginSource::File(directory.path().join("plugins/house-rules.wasm")));
        assert_eq!((chain[0].directions, chain[0].on_failure), (Directions::Inbound, OnFailure::Continue));
        assert_eq!(chain[0].plugin.config["greeting"], "hello");
        assert!(settings.chains.platform.iter().any(|entry| entry.exemptable));
    }

    /// Canaries: a password, a hash, a key.
    #[test]
    fn debug_shows_no_secret() {
        let (_directory, loaded) = example();
        let shown = format!("{:?}", loaded.settings);
        for secret in ["canary", "c29tc2FsdA", "PRIVATE KEY"] {
            assert!(!shown.contains(secret), "{secret}");
        }
        assert!(shown.contains("anna@company.com"), "it does show the rest");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (directory, _) = example();
        let other = rcgen::generate_simple_self_signed(vec!["other.example".to_owned()]).unwrap();
        std::fs::write(directory.path().join("tls/mx.key"), other.signing_key.serialize_pem()).unwrap();
        let error = load(&directory.path().join("postern.toml"), BUILTINS).unwrap_err().to_string();
        assert!(error.contains("tls/mx.key: ") && error.contains("KeyMismatch"), "{error}");
    }

    /// A list of the files of `conf.d` is one config with `postern.toml`; paths are relative to the file they stand in.
    #[test]
    fn files_are_merged() {
        let (directory, _) = example();
        let more = directory.path().join("conf.d");
        std::fs::create_dir(&more).unwrap();
        std::fs::write(more.join("a.toml"), "[server]\nmax_errors = 7\n[[tenant]]\nname = \"more\"\ndomains = [\"more.example\"]\ndestination = { maildir = \"m\" }\n")
            .unwrap();
        std::fs::write(more.join(".b.toml"), "half a").unwrap();
        std::fs::write(more.join("c.toml~"), "half a").unwrap();
        let settings = load(&directory.path().join("postern.toml"), BUILTINS).unwrap().settings;
        assert_eq!(settings.server.max_errors, 7);
        let tenant = settings.directory.tenant("more").unwrap();
        assert_eq!(tenant.destination, Some(Route::Maildir(more.join("m"))));
    }

    /// Nothing that is cut short or garbled makes more trouble than an error.
    #[test]
    fn a_half_written_file_is_an_error_with_a_place() {
        let text = include_str!("../postern.example.toml");
        let mut refused = 0;
        for end in (0..text.len()).step_by(53).filter(|&end| text.is_char_boundary(end)) {
            let sources = Sources::from_text(Path::new("postern.toml"), &text[..end]);
            if let Err(error) = from_sources(&sources, BUILTINS, Findings::default()) {
                assert!(error.problems.iter().any(|problem| problem.severity == Severity::Error));
                assert!(error.to_string().starts_with("error: ") || error.to_string().starts_with("warning: "));
                refused += 1;
            }
        }
        assert!(refused > 50);
    }
}
