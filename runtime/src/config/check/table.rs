//! Tables: those that have a section of their own, and those that a plugin names by their path.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use toml::{Spanned, Value};

use super::Checker;
use super::tenant::Names;
use crate::config::settings::Table;
use crate::config::suggest::did_you_mean;
use crate::config::value::name::Name;
use crate::config::value::word::{TableFormat, WrittenTable};
use crate::config::value::{At, FromText as _};
use crate::config::written;
use crate::host::table::{Bounds, Column, Format};

/// The declared ones by name.
pub(super) type Tables = HashMap<Arc<str>, Arc<Table>>;

impl Checker<'_> {
    pub(super) fn declared_tables(&mut self, written: Vec<written::Table>) -> Tables {
        self.declared("table", written.iter().map(|table| &table.name));
        written.into_iter().filter_map(|table| self.table(table)).collect()
    }

    fn table(&mut self, written: written::Table) -> Option<(Arc<str>, Arc<Table>)> {
        let name = written.name.value.0.clone();
        let path = self.file(&written.file);
        let format = match written.format.as_ref().map(|at| at.value) {
            Some(TableFormat::Lines) => Format::Lines,
            Some(TableFormat::Csv) => Format::csv(),
            Some(TableFormat::Toml) => Format::Toml,
            None => Format::of(&written.file.value),
        };
        let columns = [&written.key_column, &written.value_column].map(|column| column.as_ref());
        let format = self.columns(format, columns);
        let default = Bounds::default();
        let entries = written.max_entries.map(|count| usize::try_from(count.0).unwrap_or(usize::MAX));
        let octets = written.max_size.map_or(default.octets, |at| at.value.0);
        let bounds = Bounds { octets, entries: entries.unwrap_or(default.entries) };
        Some((name.clone(), Arc::new(Table { name, path: path?, format, bounds })))
    }

    fn columns(&mut self, format: Format, written: [Option<&Spanned<Value>>; 2]) -> Format {
        let [key, value] = written.map(|column| column.and_then(|column| Some((self.column(column)?, column))));
        match format {
            Format::Csv { key: first, value: second } => Format::Csv {
                key: key.map_or(first, |(column, _)| column),
                value: value.map_or(second, |(column, _)| column),
            },
            other => {
                if let Some((_, column)) = key.or(value) {
                    self.findings
                        .push_error(Some(column.span().into()), "only CSV has columns".to_owned())
                        .help("write `format = \"csv\"`, or name the file *.csv");
                }
                other
            }
        }
    }

    fn column(&mut self, written: &Spanned<Value>) -> Option<Column> {
        let column = match written.get_ref() {
            Value::Integer(number) => {
                usize::try_from(*number).ok().filter(|n| (1..=64).contains(n)).map(Column::Number)
            }
            Value::String(name) if !name.trim().is_empty() => Some(Column::Name(name.trim().into())),
            _ => None,
        };
        if column.is_none() {
            let message = "a column is a number from 1 to 64, or a name in the file's first line";
            self.findings.error(Some(written.span().into()), message.to_owned());
        }
        column
    }

    /// Those of a plugin, by the names that it knows them under.
    pub(super) fn tables(
        &mut self,
        written: BTreeMap<String, At<WrittenTable>>,
        names: &Names,
    ) -> BTreeMap<String, Arc<Table>> {
        let mut tables = BTreeMap::new();
        for (name, at) in written {
            if let Err(problem) = Name::from_text(&name) {
                self.findings.error(Some(at.span), problem.lines().next().unwrap_or_default().to_owned());
            }
            let table = match at.value {
                WrittenTable::Named(table) => self.known_table(&At { value: table, span: at.span }, names),
                WrittenTable::File(path) => self.file(&At { value: path, span: at.span }).map(by_path),
            };
            tables.extend(table.map(|table| (name, table)));
        }
        tables
    }

    fn known_table(&mut self, name: &At<Name>, names: &Names) -> Option<Arc<Table>> {
        let known = names.tables.get(&name.value.0);
        if known.is_none() {
            let known = names.tables.keys().map(AsRef::as_ref);
            let help = did_you_mean(&name.value.0, known).unwrap_or_else(|| match names.open {
                true => "a table of the config can't be had here: name its file".to_owned(),
                false => format!("declare it: [[table]] name = \"{}\", file = \"…\"", name.value.0),
            });
            self.findings.push_error(Some(name.span), format!("there is no table `{}`", name.value.0)).help(help);
        }
        known.cloned()
    }
}

fn by_path(path: PathBuf) -> Arc<Table> {
    Arc::new(Table::of(path))
}
