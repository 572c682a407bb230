//! The config as it is written, and its checks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use postern_sdk::address::domain_name;
use postern_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    rules: Vec<RuleConfig>,
    #[serde(default)]
    tables: Tables,
}

/// Tables with more rules, by their names in the gateway's config.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tables {
    pub recipient: Option<String>,
    pub sender: Option<String>,
}

impl Tables {
    /// Those that are set, by key.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("recipient", &self.recipient), ("sender", &self.sender)]
            .into_iter()
            .filter_map(|(key, table)| Some((key, table.as_deref()?)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    name: String,
    #[serde(default)]
    recipient: Vec<Pattern>,
    #[serde(default)]
    sender: Vec<Pattern>,
    to: Target,
}

pub struct Rule {
    pub name: String,
    pub what: What,
    pub to: Target,
}

/// What a rule lists (R54); where it lists both, both must match.
pub struct What {
    recipient: Vec<Pattern>,
    sender: Vec<Pattern>,
}

impl What {
    /// The first half of the question, which is the same for all recipients.
    pub fn has_sender(&self, sender: Option<&Address>) -> bool {
        self.sender.is_empty() || sender.is_some_and(|sender| listed(&self.sender, sender))
    }

    pub fn has_recipient(&self, recipient: &Address) -> bool {
        self.recipient.is_empty() || listed(&self.recipient, recipient)
    }

    /// For the log: by what it has matched.
    pub fn name(&self) -> &'static str {
        match (self.recipient.is_empty(), self.sender.is_empty()) {
            (_, true) => "recipient",
            (true, false) => "sender",
            (false, false) => "sender and recipient",
        }
    }
}

fn listed(list: &[Pattern], address: &Address) -> bool {
    list.iter().any(|pattern| pattern.matches(address))
}

/// Where the mail of a rule goes, as the gateway writes routes: `mx`, `mx:DOMAIN`, `host:HOST:PORT`, `smart-host:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    text: String,
    route: Route,
}

impl Config {
    pub fn check(self) -> Result<(Vec<Rule>, Tables), String> {
        let rules = self.rules.into_iter().enumerate().map(|(at, rule)| {
            let name = rule.name.clone();
            rule.check().map_err(|problem| format!("rules[{at}] ({name:?}): {problem}"))
        });
        Ok((rules.collect::<Result<_, _>>()?, self.tables))
    }
}

impl RuleConfig {
    fn check(self) -> Result<Rule, &'static str> {
        if self.name.is_empty() {
            return Err("name: must not be empty");
        }
        if self.recipient.is_empty() && self.sender.is_empty() {
            return Err("has neither recipient nor sender");
        }
        Ok(Rule { name: self.name, what: What { recipient: self.recipient, sender: self.sender }, to: self.to })
    }
}

impl Target {
    pub fn route(&self) -> &Route {
        &self.route
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Target {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.parse::<Parsed>() {
            Ok(Parsed(route)) => Ok(Self { text, route }),
            Err(problem) => Err(format!("{text:?}: {problem}")),
        }
    }
}

struct Parsed(Route);

impl FromStr for Parsed {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        let route = match (kind, rest) {
            ("mx", None) => Route::Mx,
            ("mx", Some(domain)) => Route::MxOf(domain_name(domain).map_err(|_| "mx:DOMAIN needs a domain name")?),
            ("host", Some(host)) => host_and_port(host)?,
            ("smart-host", Some(name)) if !name.is_empty() => Route::SmartHost(name.to_owned()),
            _ => return Err("is none of mx, mx:DOMAIN, host:HOST:PORT, smart-host:NAME"),
        };
        Ok(Self(route))
    }
}

/// The port is 25 where none is written. An IPv6 address stands in brackets.
fn host_and_port(text: &str) -> Result<Route, &'static str> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, "25"),
        Some((host, port)) => (host, port.strip_prefix(':').ok_or("after ] comes :PORT")?),
        None => text.split_once(':').unwrap_or((text, "25")),
    };
    let host = match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_string(),
        Err(_) => {
            domain_name(host).map_err(|_| "host:HOST:PORT needs a host name or an IP address, IPv6 in brackets")?
        }
    };
    match port.parse() {
        Ok(port) if port > 0 => Ok(Route::Host(host, port)),
        _ => Err("the port is a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let host = |host: &str, port| Some(Route::Host(host.into(), port));
        for (text, expected) in [
            ("mx", Some(Route::Mx)),
            ("mx:Example.com.", Some(Route::MxOf("example.com".into()))),
            ("host:mail.example.com:2525", host("mail.example.com", 2525)),
            ("host:mail.example.com.", host("mail.example.com", 25)),
            ("host:192.0.2.1:26", host("192.0.2.1", 26)),
            ("host:[2001:db8::1]:26", host("2001:db8::1", 26)),
            ("host:[2001:db8::1]", host("2001:db8::1", 25)),
            ("smart-host:eu", Some(Route::SmartHost("eu".into()))),
            ("host:2001:db8::1", None),
            ("host:mail.example.com:0", None),
            ("host:mail.example.com:70000", None),
            ("host:[2001:db8::1]26", None),
            ("host:", None),
            ("host", None),
            ("smart-host:", None),
            ("mx:", None),
            ("MX", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Parsed>().ok().map(|parsed| parsed.0), expected, "{text:?}");
        }
    }
}
