//! The plugin's own settings, and the name it stands under.

use serde::de::DeserializeOwned;

use crate::sys;

/// Under which name this plugin stands in a chain: the name of the test.
pub fn name() -> String {
    sys::config_name()
}

/// For whom it stands there: `platform`, `reseller:NAME` or `tenant:NAME`.
pub fn scope() -> String {
    sys::config_scope()
}

/// The error says where: `rules[2].ip: not an IP address`.
pub(crate) fn parse<C: DeserializeOwned>(json: &str) -> Result<C, String> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(json)).map_err(|error| {
        let path = error.path().to_string();
        // A place in the JSON that the gateway made says nothing to who wrote TOML.
        let text = error.into_inner().to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        if path == "." { text.to_owned() } else { format!("{path}: {text}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        rules: Vec<Rule>,
        limit: u32,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        ip: crate::Network,
    }

    #[test]
    fn errors_name_the_key() {
        for (json, expected) in [
            (r#"{"limit": "x"}"#, "limit: invalid type: string \"x\", expected u32"),
            (r#"{"rules": []}"#, "missing field `limit`"),
            (r#"{"limit": 1, "rules": [{"ip": "::1"}, {"ip": "x"}]}"#, "rules[1].ip: \"x\": not an IP address"),
            (r#"{"limit": 1, "other": 2}"#, "other: unknown field `other`, expected `rules` or `limit`"),
        ] {
            assert_eq!(parse::<Settings>(json).unwrap_err(), expected);
        }
        let settings: Settings = parse(r#"{"limit": 7, "rules": [{"ip": "192.0.2.1"}]}"#).unwrap();
        assert_eq!(settings.limit, 7);
        assert!(settings.rules[0].ip.contains("192.0.2.1".parse().unwrap()));
    }
}
