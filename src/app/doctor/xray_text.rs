//! Reads the text of Xray's configuration: JSON with comments, as Xray takes it. Pure.

use serde_json::{Map, Value};

/// Why a text is no such configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    /// It does not even look like it: TOML or YAML, perhaps.
    #[error("it is not JSON (only JSON, with comments, is read here)")]
    Other,
    /// It does, and is not.
    #[error("it is no right JSON: {0}")]
    Broken(String),
}

/// The outer object of a configuration.
pub(super) fn read(text: &str) -> Result<Map<String, Value>, NotJson> {
    let plain = without_comments(text.trim_start_matches('\u{feff}'));
    if !plain.trim_start().starts_with('{') {
        return Err(NotJson::Other);
    }
    serde_json::from_str(&plain).map_err(|e| NotJson::Broken(e.to_string()))
}

/// The text with blanks in the place of `//`, `#` and `/* */`, so that lines and columns stay.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let comment = comment_bytes(rest);
        let length = match c {
            '"' => string_bytes(rest),
            _ if comment > 0 => comment,
            _ => c.len_utf8(),
        };
        let (part, after) = rest.split_at(length);
        if comment > 0 {
            out.extend(part.chars().map(|c| if c == '\n' { c } else { ' ' }));
        } else {
            out.push_str(part);
        }
        rest = after;
    }
    out
}

/// Length of the comment that `text` begins with; 0 without one.
fn comment_bytes(text: &str) -> usize {
    if text.starts_with("//") || text.starts_with('#') {
        return text.find('\n').unwrap_or(text.len());
    }
    match text.strip_prefix("/*") {
        Some(inner) => inner.find("*/").map_or(text.len(), |end| end + 4),
        None => 0,
    }
}

/// Length of the string that `text` begins with, its quotes included.
fn string_bytes(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn comments_are_passed_over_and_what_only_looks_like_one_stays() {
        let text =
            "\u{feff}// a {\n{ /* b\n \" */ \"u\": \"https://x#y /* \\\" // z\", # c\n\"n\": 1 }//";
        let read = Value::from(read(text).unwrap());
        assert_eq!(read, json!({"u": "https://x#y /* \" // z", "n": 1}));
    }

    #[test]
    fn what_is_no_json_is_told_apart_and_by_its_line() {
        for other in ["", "log:\n  loglevel: none\n", "[log]\nx = 1\n", "[1]"] {
            assert_eq!(read(other), Err(NotJson::Other), "{other}");
        }
        let Err(NotJson::Broken(why)) = read("{ // {\n\n \"a\": 1,\n}") else {
            panic!("a comma too many was taken");
        };
        assert!(why.contains("line 4"), "{why}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_lose_a_line(text in "[\\PC\n\"/*#\\\\]{0,60}") {
            let plain = without_comments(&text);
            prop_assert_eq!(plain.matches('\n').count(), text.matches('\n').count());
        }

        #[test]
        fn json_without_comments_is_read_as_it_is(key in "\\PC{0,12}", value in "\\PC{0,20}") {
            let written = json!({ key: value });
            prop_assert_eq!(Value::from(read(&written.to_string()).unwrap()), written);
        }
    }
}
