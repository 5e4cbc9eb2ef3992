//! Members of JSON objects as Xray finds them: by their names, in whatever case. Pure.

use serde_json::{Map, Value, json};

/// A member by its name, in whatever case.
pub(super) fn member<'a>(of: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    key(of, name).and_then(|key| of.get(&key))
}

fn key(of: &Map<String, Value>, name: &str) -> Option<String> {
    if of.contains_key(name) {
        return Some(name.to_owned());
    }
    of.keys()
        .find(|key| key.eq_ignore_ascii_case(name))
        .cloned()
}

/// The same, put there where there is none.
pub(super) fn member_or<'a>(
    of: &'a mut Map<String, Value>,
    name: &str,
    new: impl FnOnce() -> Value,
) -> &'a mut Value {
    let key = key(of, name).unwrap_or_else(|| name.to_owned());
    of.entry(key).or_insert_with(new)
}

/// A member that is an object; one is put there where there is none.
pub(super) fn object<'a>(of: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = member_or(of, name, || json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value
        .as_object_mut()
        .expect("invariant: it was just made one")
}

/// The same with a list.
pub(super) fn list<'a>(of: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let value = member_or(of, name, || json!([]));
    if !value.is_array() {
        *value = json!([]);
    }
    value
        .as_array_mut()
        .expect("invariant: it was just made one")
}

/// A member that is a text.
pub(super) fn text<'a>(of: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    member(of, name)?.as_str()
}

/// The objects of a list.
pub(super) fn items<'a>(
    of: &'a Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a Map<String, Value>> {
    let list = member(of, name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_object)
}

/// The texts of a list, or the one that stands in its place.
pub(super) fn texts<'a>(of: &'a Map<String, Value>, name: &str) -> Vec<&'a str> {
    match member(of, name) {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => one.split(',').map(str::trim).collect(),
        _ => Vec::new(),
    }
}

/// In one line, as people write it.
pub(super) fn spaced(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Object(members) => {
            let member = |(name, value)| format!("{}: {}", Value::String(name), spaced(&value));
            format!(
                "{{{}}}",
                joined(members.clone().into_iter().map(member).collect())
            )
        }
        Value::Array(items) => format!("[{}]", joined(items.iter().map(spaced).collect())),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_in_whatever_case_and_the_exact_one_first() {
        let Value::Object(mut of) = json!({"STATS": 1, "Api": {"Tag": "a"}, "api": {"tag": "b"}})
        else {
            panic!("it is an object");
        };
        assert_eq!(member(&of, "stats"), Some(&json!(1)));
        assert_eq!(text(object(&mut of, "api"), "TAG"), Some("b"));
        assert_eq!(member(&of, "policy"), None);
        // What is of another kind is none.
        assert!(object(&mut of, "stats").is_empty());
        assert_eq!(of.len(), 3);
    }

    #[test]
    fn a_value_is_written_in_one_line_that_can_be_read_again() {
        let value = json!({"a b": [1, {"c": "\"d\\"}], "e": null, "f": {}});
        let line = spaced(&value);
        assert_eq!(line, r#"{"a b": [1, {"c": "\"d\\"}], "e": null, "f": {}}"#);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
