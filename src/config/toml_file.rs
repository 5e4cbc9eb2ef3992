//! The file as a tree in which everything knows its line. Only TOML's grammar is checked here; what
//! the keys mean is none of its business.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problems::{Complaint, Place, Problem};

/// Largest file in bytes: a configuration of a thousand nodes has a tenth of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file that was read.
#[derive(Debug)]
pub(super) struct TomlFile {
    pub(super) path: PathBuf,
    pub(super) root: Table,
}

/// A table, whichever way it is written.
#[derive(Debug)]
pub(super) struct Table {
    /// Line of its header, or where it opens.
    pub(super) line: usize,
    /// In the order of the names.
    pub(super) entries: Vec<Entry>,
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value. Numbers stay text, in decimal: what reads them knows their bounds.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Integer(String),
    Decimal(String),
    Boolean(bool),
    DateTime,
    List(Vec<Item>),
    Table(Table),
}

/// An entry of a list.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) value: Value,
}

impl Table {
    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

impl Value {
    /// What it is, as one says it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "a whole number",
            Self::Decimal(_) => "a number with a point",
            Self::Boolean(_) => "true or false",
            Self::DateTime => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl TomlFile {
    /// Reads a file. `None` where there is none.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Vec<Problem>> {
        let whole = Place::File {
            path: path.to_owned(),
            line: None,
            key: String::new(),
        };
        let bytes = match read_bytes(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                let mend = "make it a file that this user may read";
                return Err(vec![
                    Complaint::new(format!("cannot be read: {e}"), mend).at(&whole),
                ]);
            }
        };
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let what = "is larger than 1 MiB";
            let mend = "is it a configuration? name the right file";
            return Err(vec![Complaint::new(what, mend).at(&whole)]);
        }
        Self::parse(path, &bytes).map(Some)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Vec<Problem>> {
        let at = |line| Place::File {
            path: path.to_owned(),
            line: Some(line),
            key: String::new(),
        };
        let text = str::from_utf8(bytes).map_err(|e| {
            let line = Lines::of(bytes).at(e.valid_up_to());
            vec![Complaint::new("is not UTF-8", "write the file in UTF-8").at(&at(line))]
        })?;
        let lines = Lines::of(bytes);
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            let root = table(root.get_ref(), 1, &lines);
            return Ok(Self {
                path: path.to_owned(),
                root,
            });
        }
        let syntax = |e: toml::de::Error| {
            let what = format!("is not TOML: {}", e.message());
            let line = lines.start(&e.span().unwrap_or_default());
            Complaint::new(what, "see https://toml.io for the notation").at(&at(line))
        };
        Err(errors.into_iter().map(syntax).collect())
    }
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where each line begins.
struct Lines(Vec<usize>);

impl Lines {
    fn of(bytes: &[u8]) -> Self {
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        Self(std::iter::once(0).chain(ends.map(|(i, _)| i + 1)).collect())
    }

    /// The line, from 1, that holds a byte.
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }

    fn start(&self, span: &Range<usize>) -> usize {
        self.at(span.start)
    }
}

fn table(source: &DeTable<'_>, line: usize, lines: &Lines) -> Table {
    let entry = |(name, content): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name_text: &std::borrow::Cow<'_, str> = name.get_ref();
        Entry {
            name: name_text.to_string(),
            line: lines.start(&name.span()),
            value: value(content, lines),
        }
    };
    Table {
        line,
        entries: source.iter().map(entry).collect(),
    }
}

fn value(source: &Spanned<DeValue<'_>>, lines: &Lines) -> Value {
    let line = lines.start(&source.span());
    match source.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(
                |_| Value::Integer(number.to_string()),
                |n| Value::Integer(n.to_string()),
            ),
        DeValue::Float(number) => Value::Decimal(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Value::Boolean(*yes),
        DeValue::Datetime(_) => Value::DateTime,
        DeValue::Array(items) => {
            let item = |item: &Spanned<_>| Item {
                line: lines.start(&item.span()),
                value: value(item, lines),
            };
            Value::List(items.iter().map(item).collect())
        }
        DeValue::Table(entries) => Value::Table(table(entries, line, lines)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TomlFile, Vec<Problem>> {
        TomlFile::parse(Path::new("/c.toml"), text.as_bytes())
    }

    #[test]
    fn everything_knows_its_line() {
        let text = "[panel]\nurl = 'x'\n\n[[node]]\nid = 0x10\ninbounds = [\n\
                    'a',\n{ tag = 'b' },\n]\n\n[[node]]\nid = 2\n";
        let file = parse(text).unwrap();
        let panel = file.root.get("panel").unwrap();
        assert_eq!(panel.line, 1);
        let Value::Table(panel) = &panel.value else {
            panic!()
        };
        assert_eq!((panel.line, panel.get("url").unwrap().line), (1, 2));
        let Value::List(nodes) = &file.root.get("node").unwrap().value else {
            panic!()
        };
        assert_eq!(
            nodes.iter().map(|item| item.line).collect::<Vec<_>>(),
            [4, 11]
        );
        let Value::Table(first) = &nodes[0].value else {
            panic!()
        };
        assert!(matches!(&first.get("id").unwrap().value, Value::Integer(n) if n == "16"));
        let Value::List(inbounds) = &first.get("inbounds").unwrap().value else {
            panic!()
        };
        assert_eq!(
            inbounds.iter().map(|item| item.line).collect::<Vec<_>>(),
            [7, 8]
        );
    }

    #[test]
    fn every_error_of_the_grammar_names_its_line() {
        let problems = parse("[panel]\nurl = \n[sync]\ninterval = 1s\n").unwrap_err();
        let places: Vec<_> = problems.iter().map(Problem::place).collect();
        assert_eq!(places, ["/c.toml:2", "/c.toml:4"]);
    }

    #[test]
    fn bytes_that_are_not_text_name_their_line() {
        let problems = TomlFile::parse(Path::new("/c.toml"), b"a = 1\nb = '\xff'\n").unwrap_err();
        assert_eq!(
            problems[0].to_string(),
            "/c.toml:2: is not UTF-8; write the file in UTF-8"
        );
    }

    #[test]
    fn a_file_over_its_limit_is_refused_and_a_missing_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        assert!(TomlFile::open(&path).unwrap().is_none());
        std::fs::write(&path, vec![b'\n'; 1 << 20]).unwrap();
        assert!(TomlFile::open(&path).unwrap().is_some());
        std::fs::write(&path, vec![b'\n'; (1 << 20) + 1]).unwrap();
        assert!(
            TomlFile::open(&path).unwrap_err()[0]
                .to_string()
                .contains("larger than 1 MiB")
        );
        assert!(
            TomlFile::open(folder.path()).unwrap_err()[0]
                .to_string()
                .contains("be read")
        );
    }
}
