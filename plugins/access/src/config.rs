//! The config as it is written, and its checks.

use postern_sdk::prelude::*;

use crate::rule::{Action, Criterion, DomainPattern, Rule, What};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    rules: Vec<RuleConfig>,
    tables: Tables,
    exempt: Exempt,
    /// Sender, recipient and domain are what the client says they are. The platform's to allow.
    forgeable_skips_antivirus: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    name: String,
    action: Action,
    #[serde(default)]
    ip: Vec<Network>,
    #[serde(default)]
    sender: Vec<Address>,
    #[serde(default)]
    recipient: Vec<Address>,
    #[serde(default)]
    domain: Vec<Pattern>,
}

/// Tables with more rules, by their names in the gateway's config.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tables {
    pub ip: Option<String>,
    pub sender: Option<String>,
    pub recipient: Option<String>,
    pub domain: Option<String>,
}

/// Which tests white-listed mail is spared, by the criterion of the rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exempt {
    ip: Vec<String>,
    network: Vec<String>,
    sender: Vec<String>,
    recipient: Vec<String>,
    domain: Vec<String>,
}

impl Default for Exempt {
    /// The table of R61.
    fn default() -> Self {
        let tests = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            ip: tests(&["dnsbl", "spf", "antivirus", "dkim", "dmarc"]),
            network: tests(&["dnsbl", "spf", "dkim", "dmarc"]),
            sender: tests(&["spf", "antivirus"]),
            recipient: tests(&["spf", "antivirus"]),
            domain: tests(&["spf", "antivirus", "dkim", "dmarc"]),
        }
    }
}

impl Exempt {
    pub fn tests(&self, criterion: Criterion) -> &[String] {
        match criterion {
            Criterion::Ip => &self.ip,
            Criterion::Network => &self.network,
            Criterion::Sender => &self.sender,
            Criterion::Recipient => &self.recipient,
            Criterion::Domain => &self.domain,
        }
    }
}

impl Tables {
    /// Those that are set, by key.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("ip", &self.ip), ("sender", &self.sender), ("recipient", &self.recipient), ("domain", &self.domain)]
            .into_iter()
            .filter_map(|(key, table)| Some((key, table.as_deref()?)))
    }
}

impl Config {
    /// `scope`: who owns this config.
    pub fn check(self, scope: &str) -> Result<(Vec<Rule>, Tables, Exempt), String> {
        if self.forgeable_skips_antivirus && scope != "platform" {
            return Err("forgeable_skips_antivirus: only the platform can allow it, in a plugin of its own".into());
        }
        let rules = self.rules.into_iter().enumerate().map(|(at, rule)| {
            let name = rule.name.clone();
            rule.check().map_err(|problem| format!("rules[{at}] ({name:?}): {problem}"))
        });
        let rules = rules.collect::<Result<_, _>>()?;
        let mut exempt = self.exempt;
        if !self.forgeable_skips_antivirus {
            for tests in [&mut exempt.sender, &mut exempt.recipient, &mut exempt.domain] {
                tests.retain(|test| !is_antivirus(test));
            }
        }
        Ok((rules, self.tables, exempt))
    }
}

/// By its name: the platform has named it.
fn is_antivirus(test: &str) -> bool {
    test.strip_prefix("antivirus").is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

impl RuleConfig {
    fn check(self) -> Result<Rule, String> {
        if self.name.is_empty() {
            return Err("name: must not be empty".into());
        }
        let domain_only_white = self.domain.is_empty() || self.action == Action::Allow;
        let mut lists = Vec::new();
        if !self.ip.is_empty() {
            lists.push(What::Ip(self.ip));
        }
        if !self.sender.is_empty() {
            lists.push(What::Sender(self.sender));
        }
        if !self.recipient.is_empty() {
            lists.push(What::Recipient(self.recipient));
        }
        if !self.domain.is_empty() {
            let domains = self.domain.into_iter().map(DomainPattern::new).collect::<Option<_>>();
            lists.push(What::Domain(domains.ok_or("domain: has an address; addresses go into sender")?));
        }
        let what = match (lists.pop(), lists.is_empty()) {
            (Some(what), true) => what,
            _ => return Err("has exactly one of ip, sender, recipient, domain".into()),
        };
        if !domain_only_white {
            return Err("domain: can only be allowed".into());
        }
        Ok(Rule { name: self.name, action: self.action, what })
    }
}
