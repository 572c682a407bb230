//! Where things stand in a config that is right, for those who find fault with them later.

use std::collections::HashMap;
use std::path::Path;

use toml::de::DeTable;

use super::problem::{Findings, Place};
use super::source::{Sources, Span};

/// The keys of all sections; those of lists by the element's `name` (of a user: `login`).
#[derive(Debug, Default)]
pub struct Places {
    sources: Sources,
    spans: HashMap<(String, String, String), Span>,
}

impl Places {
    /// Of the same files as [`load`](super::load). What can't be read has no place.
    pub fn read(path: &Path) -> Self {
        let mut findings = Findings::default();
        let sources = Sources::read(path, &mut findings);
        let mut spans = HashMap::new();
        for (section, value) in sources.parse(&mut findings) {
            let section = section.get_ref();
            if let Some(table) = value.get_ref().as_table() {
                note(section, "", table, &mut spans);
                let inner = table.iter().filter_map(|(key, value)| Some((key.get_ref(), value.get_ref().as_table()?)));
                inner.for_each(|(key, table)| note(&format!("{section}.{key}"), "", table, &mut spans));
            }
            for table in value.get_ref().as_array().into_iter().flat_map(|list| list.iter()) {
                let Some(table) = table.get_ref().as_table() else { continue };
                let name = ["name", "login"].iter().find_map(|key| table.get(*key)?.get_ref().as_str());
                note(section, name.unwrap_or_default(), table, &mut spans);
            }
        }
        Self { sources, spans }
    }

    pub fn is_written(&self, section: &str, name: &str, key: &str) -> bool {
        self.spans.contains_key(&(section.to_owned(), name.to_owned(), key.to_owned()))
    }

    /// Of a key; if it is not written, of the name of its element. `name`: empty for what is no list.
    pub fn of(&self, section: &str, name: &str, key: &str) -> Option<Place> {
        let span = |key: &str| self.spans.get(&(section.to_owned(), name.to_owned(), key.to_owned())).copied();
        self.sources.place(span(key).or_else(|| span("name"))?, "")
    }
}

fn note(section: &str, name: &str, table: &DeTable<'_>, spans: &mut HashMap<(String, String, String), Span>) {
    for (key, value) in table {
        let place = (section.to_owned(), name.to_owned(), key.get_ref().to_string());
        spans.insert(place, value.span().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_place_and_else_its_element() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let text = "[spool]\ndirectory = \"x\"\n[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"b\"\noutbound = \"y\"\n";
        std::fs::write(&path, text).unwrap();
        let places = Places::read(&path);
        let line = |section: &str, name: &str, key: &str| places.of(section, name, key).map(|place| place.line);
        assert_eq!(line("spool", "", "directory"), Some(2));
        assert_eq!(line("tenant", "b", "outbound"), Some(7));
        assert_eq!(line("tenant", "b", "destination"), Some(6));
        assert_eq!((line("tenant", "c", "outbound"), line("spool", "", "reserve")), (None, None));
    }
}
