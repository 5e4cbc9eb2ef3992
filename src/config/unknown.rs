//! Keys that the configuration does not have: each is a problem, with the key that was probably
//! meant. A misspelt key must never be a setting that quietly does not hold.

use super::keys::{GROUPS, KEYS, LISTS};
use super::problems::{Complaint, Found, Place};
use super::toml_file::{Entry, Item, Table, TomlFile, Value};

/// Reports every key of the file that the table of keys lacks.
pub(super) fn report(file: &TomlFile, found: &Found) {
    Walk { file, found }.table(&file.root, "");
}

struct Walk<'a> {
    file: &'a TomlFile,
    found: &'a Found,
}

impl Walk<'_> {
    /// The entries of a table of the group `group`, empty for the file itself.
    fn table(&self, table: &Table, group: &str) {
        for entry in &table.entries {
            let path = join(group, &entry.name);
            if KEYS.iter().any(|key| key.path == path) {
                self.inner_tables(&entry.value, &path);
            } else if is_group(&path) {
                self.group(entry, &path);
            } else {
                let what = "there is no such key".to_owned();
                self.report(
                    entry.line,
                    &path,
                    Complaint::new(what, suggestion(group, entry)),
                );
            }
        }
    }

    /// `[group]`, or each `[[group]]`.
    fn group(&self, entry: &Entry, path: &str) {
        let list = LISTS.contains(&path);
        match &entry.value {
            Value::Table(table) if !list => self.table(table, path),
            Value::List(items) if list && items.iter().all(is_table) => {
                self.inner_tables(&entry.value, path);
            }
            other => {
                let header = if list {
                    format!("[[{path}]]")
                } else {
                    format!("[{path}]")
                };
                let what = format!("is {}, not {header}", one(other));
                self.report(
                    entry.line,
                    path,
                    Complaint::new(what, format!("write {header}")),
                );
            }
        }
    }

    fn inner_tables(&self, value: &Value, path: &str) {
        let Value::List(items) = value else { return };
        for item in items {
            if let Value::Table(table) = &item.value {
                self.table(table, path);
            }
        }
    }

    fn report(&self, line: usize, key: &str, complaint: Complaint) {
        let path = self.file.path.clone();
        // A key in quotes may hold line breaks.
        let key = key.escape_debug().to_string();
        let place = Place::File {
            path,
            line: Some(line),
            key,
        };
        self.found.report(&place, complaint);
    }
}

fn is_table(item: &Item) -> bool {
    matches!(item.value, Value::Table(_))
}

fn one(value: &Value) -> &'static str {
    match value {
        Value::Table(_) => "one table",
        other => other.kind(),
    }
}

fn is_group(path: &str) -> bool {
    GROUPS.iter().any(|(group, ..)| *group == path)
}

fn join(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{group}.{name}")
    }
}

/// What to write instead of an entry that is not known.
fn suggestion(group: &str, entry: &Entry) -> String {
    let names: Vec<&str> = if group.is_empty() {
        GROUPS
            .iter()
            .map(|(name, ..)| *name)
            .filter(|name| !name.contains('.'))
            .collect()
    } else {
        KEYS.iter()
            .filter(|key| key.group() == group)
            .map(super::keys::Key::name)
            .collect()
    };
    if let Some(name) = nearest(&entry.name, names.iter().copied()) {
        return format!("did you mean {name}?");
    }
    let elsewhere = KEYS.iter().find(|key| key.name() == entry.name);
    match elsewhere {
        Some(key) => format!("did you mean {}?", key.path),
        None => format!("take it out, or use one of {}", names.join(", ")),
    }
}

/// The name that is closest to what was written, if it is close enough to be meant.
pub(super) fn nearest<'n>(
    written: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let written = written.to_lowercase();
    let close = |name: &str| {
        let edits = distance(&written, name);
        (edits <= 1 + name.len() / 5).then_some(edits)
    };
    let close = names
        .into_iter()
        .filter_map(|name| Some((close(name)?, name)));
    close.min().map(|(_, name)| name)
}

/// Levenshtein's: how many characters to insert, drop or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_edits() {
        let cases = [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("url", "urls", 1),
            ("é", "e", 1),
        ];
        for (a, b, edits) in cases {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }

    #[test]
    fn only_what_is_close_is_suggested() {
        let names = ["interval", "resync_interval", "url"];
        assert_eq!(nearest("intervall", names), Some("interval"));
        assert_eq!(nearest("URL", names), Some("url"));
        assert_eq!(nearest("resync_intervl", names), Some("resync_interval"));
        assert_eq!(nearest("colour", names), None);
    }
}
