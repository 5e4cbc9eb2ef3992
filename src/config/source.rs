//! Where a value comes from: the variable of its key, else the file, else the key's default. The
//! seam that all readers use: they name a key and say how its text is read; what is wrong with it
//! is noted here, and they go on with the default.

use super::Environment;
use super::keys::{self, Fallback, Key, Kind};
use super::problems::{Complaint, Found, Place, Problem};
use super::toml_file::{Entry, Item, Table, TomlFile, Value};
use super::values::Read;

/// A text that was found, and where.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) text: String,
    pub(super) place: Place,
}

impl Raw {
    /// The value; a problem names the place.
    pub(super) fn read<T>(&self, parse: impl Fn(&str) -> Read<T>) -> Result<T, Problem> {
        parse(&self.text).map_err(|complaint| complaint.at(&self.place))
    }
}

/// The environment, the file, and what was found wrong so far.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) environment: Environment,
    pub(super) file: Option<TomlFile>,
    pub(super) found: Found,
}

/// A group of keys, as one table of the file sets them, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    source: &'a Source,
    group: &'static str,
    table: Option<&'a Table>,
}

impl Source {
    /// The file's `[group]`, be it there or not.
    pub(super) fn section(&self, group: &'static str) -> Section<'_> {
        let entry = self.entry(group);
        let table = entry.and_then(|entry| match &entry.value {
            Value::Table(table) => Some(table),
            _ => None,
        });
        Section {
            source: self,
            group,
            table,
        }
    }

    /// What the file has under the name of a group, within tables where that has points.
    fn entry(&self, group: &str) -> Option<&Entry> {
        let (above, name) = group.rsplit_once('.').unwrap_or(("", group));
        if above.is_empty() {
            return self.file.as_ref()?.root.get(name);
        }
        match &self.entry(above)?.value {
            Value::Table(table) => table.get(name),
            _ => None,
        }
    }

    /// Each of the file's `[[group]]`.
    pub(super) fn sections(&self, group: &'static str) -> Vec<Section<'_>> {
        let entry = self.entry(group);
        let Some(Value::List(items)) = entry.map(|entry| &entry.value) else {
            return Vec::new();
        };
        items
            .iter()
            .filter_map(|item| self.inner(group, item))
            .collect()
    }

    /// A table within a list, as a section; `None` where it is something else.
    pub(super) fn inner<'a>(&'a self, group: &'static str, item: &'a Item) -> Option<Section<'a>> {
        match &item.value {
            Value::Table(table) => Some(Section {
                source: self,
                group,
                table: Some(table),
            }),
            _ => None,
        }
    }

    /// A group that the file does not set.
    pub(super) fn bare(&self, group: &'static str) -> Section<'_> {
        Section {
            source: self,
            group,
            table: None,
        }
    }

    /// A variable that is set, and text.
    pub(super) fn variable(&self, name: &str) -> Option<Raw> {
        let place = Place::Variable(name.to_owned());
        if self.environment.is_not_text(name) {
            let mend = "set it to plain text";
            self.found
                .report(&place, Complaint::new("is not UTF-8", mend));
        }
        self.environment.get(name).map(|text| Raw {
            text: text.to_owned(),
            place,
        })
    }

    /// A place in the file, or `variable` where there is no file.
    pub(super) fn place(&self, line: Option<usize>, key: &str, variable: &str) -> Place {
        match &self.file {
            Some(file) => Place::File {
                path: file.path.clone(),
                line,
                key: key.to_owned(),
            },
            None => Place::Variable(variable.to_owned()),
        }
    }

    /// The value, or `None` and the problem noted.
    pub(super) fn note<T>(&self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.found.add(problem)).ok()
    }
}

impl<'a> Section<'a> {
    /// The value of a key that has a default.
    pub(super) fn value<T>(&self, name: &str, parse: impl Fn(&str) -> Read<T>) -> T {
        self.optional(name, &parse).unwrap_or_else(|| {
            let Fallback::Value(text) = self.key(name).default else {
                unreachable!("invariant: only keys with a default are read so")
            };
            parse(text).expect("invariant: a default is a right value")
        })
    }

    /// The value of a key, if it is set and right.
    pub(super) fn optional<T>(&self, name: &str, parse: impl Fn(&str) -> Read<T>) -> Option<T> {
        self.source.note(self.raw(name)?.read(parse))
    }

    /// The text of a key that is set: the variable goes before the file.
    pub(super) fn raw(&self, name: &str) -> Option<Raw> {
        let variable = self.key(name).variable;
        let set = if variable.is_empty() {
            None
        } else {
            self.source.variable(variable)
        };
        set.or_else(|| self.in_file(name))
    }

    /// The text of a key that the file sets, and to the right kind of value.
    pub(super) fn in_file(&self, name: &str) -> Option<Raw> {
        let (entry, kind) = (self.table?.get(name)?, self.key(name).kind);
        match scalar(&entry.value, kind) {
            Some(text) if text.is_empty() && kind != Kind::TextOrEmpty => None,
            Some(text) => Some(Raw {
                text,
                place: self.place(name),
            }),
            None => {
                self.mismatch(name, kind, &entry.value);
                None
            }
        }
    }

    /// Whether the file has the key, whatever it sets it to.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.is_some_and(|table| table.get(name).is_some())
    }

    /// The items of a key that the file sets, and to a list.
    pub(super) fn list(&self, name: &str) -> Option<&'a [Item]> {
        let entry: &'a Entry = self.table?.get(name)?;
        if let Value::List(items) = &entry.value {
            return Some(items);
        }
        self.mismatch(name, Kind::List, &entry.value);
        None
    }

    fn mismatch(&self, name: &str, kind: Kind, value: &Value) {
        let mend = match kind {
            Kind::Text | Kind::TextOrEmpty => "write it in quotes",
            Kind::Duration => "write it as \"10s\" or as a number of seconds",
            Kind::Integer => "write it without quotes and point",
            Kind::Boolean => "write true or false, without quotes",
            Kind::List => "write it in brackets: [ \"…\" ]",
        };
        let what = format!("is {}, but {} is needed", value.kind(), kind.name());
        self.report(name, Complaint::new(what, mend));
    }

    /// Notes a problem with a key.
    pub(super) fn report(&self, name: &str, complaint: Complaint) {
        self.source.found.report(&self.place(name), complaint);
    }

    /// Where the file sets a key; where it does not, the line of the table that lacks it.
    pub(super) fn place(&self, name: &str) -> Place {
        let key = self.key(name);
        let line = self
            .table
            .map(|table| table.get(name).map_or(table.line, |entry| entry.line));
        self.source.place(line, key.path, key.variable)
    }

    fn key(&self, name: &str) -> &'static Key {
        keys::find(self.group, name).expect("invariant: readers ask for keys of the table")
    }
}

/// A value's text where it is of the kind.
fn scalar(value: &Value, kind: Kind) -> Option<String> {
    match (value, kind) {
        (Value::Text(text), Kind::Text | Kind::TextOrEmpty | Kind::Duration)
        | (Value::Integer(text), Kind::Integer | Kind::Duration)
        | (Value::Decimal(text), Kind::Duration) => Some(text.trim().to_owned()),
        (Value::Boolean(yes), Kind::Boolean) => Some(yes.to_string()),
        _ => None,
    }
}
