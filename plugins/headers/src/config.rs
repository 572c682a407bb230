//! The config as it is written, and its checks.

use postern_sdk::prelude::*;

use crate::condition::{Conditions, HeaderCondition, HeaderTest};
use crate::edit::{Actions, Written};
use crate::footer::Footer;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    rules: Vec<RuleConfig>,
    #[serde(default = "footer_limit")]
    footer_limit: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    name: String,
    direction: Option<DirectionConfig>,
    #[serde(default)]
    sender: Vec<Pattern>,
    #[serde(default)]
    except_sender: Vec<Pattern>,
    #[serde(default)]
    recipient: Vec<Pattern>,
    #[serde(default)]
    except_recipient: Vec<Pattern>,
    #[serde(default)]
    header: Vec<HeaderConfig>,
    #[serde(default)]
    tag: Vec<String>,
    larger_than: Option<u64>,
    smaller_than: Option<u64>,
    subject: Option<String>,
    #[serde(default)]
    add: Vec<FieldConfig>,
    #[serde(default)]
    replace: Vec<FieldConfig>,
    #[serde(default)]
    remove: Vec<String>,
    footer: Option<FooterConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DirectionConfig {
    Inbound,
    Outbound,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderConfig {
    name: String,
    equals: Option<String>,
    contains: Option<String>,
    #[serde(default)]
    absent: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldConfig {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FooterConfig {
    text: String,
    html: Option<String>,
}

pub struct Rule {
    pub name: String,
    pub conditions: Conditions,
    pub actions: Actions,
}

/// Fits twice into a guest's memory of 16 MiB. More than the default may need more CPU time than a call has, too.
const MAX_FOOTER_LIMIT: usize = 4 << 20;

fn footer_limit() -> usize {
    1 << 20
}

impl Config {
    /// The rules, and up to how many octets of body a mail gets a footer.
    pub fn check(self) -> Result<(Vec<Rule>, usize), String> {
        if self.footer_limit > MAX_FOOTER_LIMIT {
            return Err(format!("footer_limit: more than {MAX_FOOTER_LIMIT}"));
        }
        let rules = self.rules.into_iter().enumerate().map(|(at, rule)| {
            let name = rule.name.clone();
            rule.check().map_err(|problem| format!("rules[{at}] ({name:?}): {problem}"))
        });
        Ok((rules.collect::<Result<_, _>>()?, self.footer_limit))
    }
}

impl RuleConfig {
    fn check(self) -> Result<Rule, String> {
        if self.name.is_empty() {
            return Err("name: must not be empty".into());
        }
        let actions = Actions {
            subject: self.subject.map(subject).transpose().map_err(|problem| format!("subject: {problem}"))?,
            add: written(self.add).map_err(|problem| format!("add: {problem}"))?,
            replace: written(self.replace).map_err(|problem| format!("replace: {problem}"))?,
            remove: self.remove,
            footer: match self.footer {
                Some(FooterConfig { text, html }) => {
                    Some(Footer::new(&text, html.as_deref()).map_err(|problem| format!("footer: {problem}"))?)
                }
                None => None,
            },
        };
        for name in &actions.remove {
            check_name(name).map_err(|problem| format!("remove: {problem}"))?;
        }
        if actions.is_empty() {
            return Err("has none of subject, add, replace, remove, footer".into());
        }
        let direction = self.direction.map(|direction| match direction {
            DirectionConfig::Inbound => Direction::Inbound,
            DirectionConfig::Outbound => Direction::Outbound,
        });
        let header = self.header.into_iter().map(HeaderConfig::check).collect::<Result<_, _>>()?;
        let conditions = Conditions {
            direction,
            sender: self.sender,
            except_sender: self.except_sender,
            recipient: self.recipient,
            except_recipient: self.except_recipient,
            header,
            tag: self.tag,
            larger_than: self.larger_than,
            smaller_than: self.smaller_than,
        };
        Ok(Rule { name: self.name, conditions, actions })
    }
}

impl HeaderConfig {
    fn check(self) -> Result<HeaderCondition, String> {
        let test = match (self.equals, self.contains, self.absent) {
            (None, None, false) => HeaderTest::Present,
            (None, None, true) => HeaderTest::Absent,
            (Some(text), None, false) => HeaderTest::Equals(text),
            (None, Some(text), false) => HeaderTest::Contains(text),
            _ => return Err(format!("header: {:?} has more than one of equals, contains, absent", self.name)),
        };
        Ok(HeaderCondition { name: self.name, test })
    }
}

fn subject(text: String) -> Result<String, String> {
    let text = text.trim().to_owned();
    if text.is_empty() || text.len() > 200 || text.chars().any(char::is_control) || text.contains("=?") {
        return Err("1 to 200 octets of text, without control characters and =?".into());
    }
    Ok(text)
}

fn written(fields: Vec<FieldConfig>) -> Result<Vec<Written>, String> {
    let written = |field: FieldConfig| {
        check_name(&field.name)?;
        Written::new(field.name, &field.value)
            .ok_or_else(|| "a value has no control characters, and no long words".into())
    };
    fields.into_iter().map(written).collect()
}

/// Fields that others have made and rely on, or that have an action of their own.
const PROTECTED: [&str; 15] = [
    "Authentication-Results",
    "Bcc",
    "Cc",
    "Date",
    "Delivered-To",
    "DKIM-Signature",
    "From",
    "Message-ID",
    "MIME-Version",
    "Received",
    "Received-SPF",
    "Return-Path",
    "Sender",
    "Subject",
    "To",
];
const PROTECTED_BEGINNINGS: [&str; 4] = ["arc-", "content-", "resent-", "domainkey"];

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 76 || !name.bytes().all(|byte| matches!(byte, 33..=126) && byte != b':') {
        return Err(format!("{name:?}: a field name is 1 to 76 printable ASCII characters without colon"));
    }
    let lower = name.to_ascii_lowercase();
    let protected = PROTECTED.iter().any(|known| known.eq_ignore_ascii_case(name));
    if protected || PROTECTED_BEGINNINGS.iter().any(|start| lower.starts_with(start)) {
        return Err(format!("{name}: this field can't be changed by rules"));
    }
    Ok(())
}
