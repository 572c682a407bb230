//! One section of a config at a time: from a TOML table to what is written there, with serde's errors in our words.

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

use super::problem::Findings;
use super::source::Span;
use super::suggest::did_you_mean;

/// Every section, and whether it is a list.
const SECTIONS: [(&str, bool); 23] = [
    ("server", false),
    ("tls", false),
    ("spool", false),
    ("queue", false),
    ("delivery", false),
    ("dns", false),
    ("call_ahead", false),
    ("identity", false),
    ("signing", false),
    ("authentication", false),
    ("chain", false),
    ("plugins", false),
    ("log", false),
    ("listener", true),
    ("smart_host", true),
    ("scanner", true),
    ("reseller", true),
    ("tenant", true),
    ("user", true),
    ("trusted_network", true),
    ("table", true),
    ("plugin", true),
    ("blocklist", true),
];
/// Mistakes shown of one section.
const MAX_MISTAKES: usize = 20;

/// `[name]`; what is not there is the default.
pub fn one<'i, T: Deserialize<'i> + Default>(root: &mut DeTable<'i>, name: &str, findings: &mut Findings) -> T {
    let Some((key, value)) = root.remove_entry(name) else { return T::default() };
    if !value.get_ref().is_table() {
        findings
            .push_error(Some(key.span().into()), format!("`{name}` is a table"))
            .help(format!("begin it with `[{name}]`"));
        return T::default();
    }
    read(value, &format!("[{name}]"), findings).unwrap_or_default()
}

/// `[[name]]`, those elements that are well written.
pub fn list<'i, T: Deserialize<'i>>(root: &mut DeTable<'i>, name: &str, findings: &mut Findings) -> Vec<T> {
    let Some((key, value)) = root.remove_entry(name) else { return Vec::new() };
    match value.into_inner() {
        DeValue::Array(list) => {
            let header = format!("[[{name}]]");
            list.into_iter().filter_map(|element| read(element, &header, findings)).collect()
        }
        _ => {
            findings
                .push_error(Some(key.span().into()), format!("`{name}` is a list of tables"))
                .help(format!("begin each with `[[{name}]]`"));
            Vec::new()
        }
    }
}

/// What is left when all sections were taken out.
pub fn refuse_others(root: &DeTable<'_>, findings: &mut Findings) {
    for key in root.keys() {
        let name = key.get_ref().as_ref();
        let known = did_you_mean(name, SECTIONS.iter().map(|(section, _)| *section));
        let help = known.unwrap_or_else(|| {
            let all = SECTIONS.map(|(name, list)| if list { format!("[[{name}]]") } else { format!("[{name}]") });
            format!("the sections are {}", all.join(", "))
        });
        findings.push_error(Some(key.span().into()), format!("unknown section `{}`", name.escape_debug())).help(help);
    }
}

/// Serde stops at the first mistake: it is taken out and the rest read again, so that all are shown at once.
pub fn read<'i, T: Deserialize<'i>>(
    mut value: Spanned<DeValue<'i>>,
    header: &str,
    findings: &mut Findings,
) -> Option<T> {
    let mut taken_out: Vec<String> = Vec::new();
    for _ in 0..MAX_MISTAKES {
        let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(section) => return taken_out.is_empty().then_some(section),
            Err(error) => error,
        };
        let mistake = Mistake::new(error.message(), header);
        if mistake.missing.as_ref().is_some_and(|key| taken_out.contains(key)) {
            return None;
        }
        let span = error.span();
        let finding = findings.push_error(span.clone().map(Span::from), mistake.message);
        if let Some(help) = mistake.help {
            finding.help(help);
        }
        taken_out.push(span.and_then(|span| take_out(value.get_mut(), &span))?);
    }
    None
}

/// Removes the entry of a table or the element of a list that is at that place; the entry's name.
fn take_out(value: &mut DeValue<'_>, span: &std::ops::Range<usize>) -> Option<String> {
    match value {
        DeValue::Table(table) => {
            let here = |(key, value): (&Spanned<_>, &Spanned<_>)| key.span() == *span || value.span() == *span;
            let found = table.iter().find(|(key, value)| here((key, value))).map(|(key, _)| key.get_ref().to_string());
            if let Some(name) = found {
                table.remove(name.as_str());
                return Some(name);
            }
            table.iter_mut().find_map(|(_, value)| take_out(value.get_mut(), span))
        }
        DeValue::Array(list) if list.iter().any(|element| element.span() == *span) => {
            let mut rest = DeArray::new();
            std::mem::replace(list, DeArray::new())
                .into_iter()
                .filter(|element| element.span() != *span)
                .for_each(|element| rest.push(element));
            *list = rest;
            Some(String::new())
        }
        DeValue::Array(list) => list.iter_mut().find_map(|element| take_out(element.get_mut(), span)),
        _ => None,
    }
}

struct Mistake {
    message: String,
    help: Option<String>,
    /// The key that is missing, where that is the mistake.
    missing: Option<String>,
}

impl Mistake {
    fn new(error: &str, header: &str) -> Self {
        let mut ticked = error.split('`').skip(1).step_by(2);
        if error.starts_with("unknown field ") {
            let key = ticked.next().unwrap_or("");
            return Self::unknown_key(key, &ticked.collect::<Vec<_>>());
        }
        if error.starts_with("missing field ") {
            let key = ticked.next().unwrap_or("").to_owned();
            return Self { message: format!("{header} has no `{key}`"), help: None, missing: Some(key) };
        }
        if let Some((found, expected)) = error.strip_prefix("invalid type: ").and_then(|e| e.split_once(", expected "))
        {
            let message = format!("expected {}, found {}", plain(expected), plain(found));
            return Self { message, help: None, missing: None };
        }
        match error.split_once('\n') {
            Some((message, help)) => Self { message: message.to_owned(), help: Some(help.to_owned()), missing: None },
            None => Self { message: error.to_owned(), help: None, missing: None },
        }
    }

    fn unknown_key(key: &str, known: &[&str]) -> Self {
        let passwords = known.contains(&"password_file");
        let help = if key == "password" && passwords {
            "a password is not written in the config: use `password_file` or `password_env`".to_owned()
        } else {
            did_you_mean(key, known.iter().copied())
                .unwrap_or_else(|| format!("the keys here are {}", known.join(", ")))
        };
        Self { message: format!("unknown key `{}`", key.escape_debug()), help: Some(help), missing: None }
    }
}

/// Serde's names of types in the words of the manual, without the value itself, which may be a secret.
fn plain(what: &str) -> &str {
    let kinds = [
        ("string", "a text"),
        ("integer", "a number"),
        ("floating point", "a fraction"),
        ("boolean", "true or false"),
        ("a boolean", "true or false"),
        ("a sequence", "a list"),
        ("sequence", "a list"),
        ("map", "a table"),
        ("a map", "a table"),
        ("struct ", "a table"),
    ];
    kinds.iter().find(|(serde, _)| what.starts_with(serde)).map_or(what, |(_, ours)| ours)
}
