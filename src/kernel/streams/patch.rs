//! Merge patches of RFC 7396: what turns one document into another. In such a patch null means
//! "delete", so a document must hold none of its own. Pure.

use serde_json::{Map, Value};

/// Takes every member that is null out of every object.
pub(super) fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// The patch that turns `from` into `to`, both without nulls.
pub(super) fn diff(from: &Value, to: &Value) -> Value {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => Value::Object(of_members(from, to)),
        _ => to.clone(),
    }
}

fn of_members(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let gone = from.keys().filter(|key| !to.contains_key(*key));
    let mut patch: Map<_, _> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, now) in to {
        match from.get(key) {
            Some(before) if before == now => {}
            Some(before) => drop(patch.insert(key.clone(), diff(before, now))),
            None => drop(patch.insert(key.clone(), now.clone())),
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Few keys, so that documents share some.
    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3_i64).prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-d]", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn snapshot() -> impl Strategy<Value = Value> {
        prop::collection::hash_map("[a-d]", document(), 0..4).prop_map(|members| {
            let mut value = Value::Object(members.into_iter().collect());
            without_nulls(&mut value);
            value
        })
    }

    proptest! {
        #[test]
        fn a_patch_makes_one_document_of_the_other(from in snapshot(), to in snapshot()) {
            let patch = diff(&from, &to);
            let mut patched = from;
            json_patch::merge(&mut patched, &patch);
            prop_assert_eq!(patched, to);
        }

        #[test]
        fn what_did_not_change_makes_an_empty_patch(same in snapshot()) {
            prop_assert_eq!(diff(&same, &same), json!({}));
        }
    }

    #[test]
    fn a_patch_names_what_changed_only() {
        let from = json!({"a": {"x": 1, "y": 2}, "b": [1, {"c": 2}], "d": 4, "e": {"f": 1}});
        let to = json!({"a": {"x": 1, "y": 3}, "b": [1, {"c": 2}], "e": {}, "g": {"h": 5}});
        let patch = json!({"a": {"y": 3}, "d": null, "e": {"f": null}, "g": {"h": 5}});
        assert_eq!(diff(&from, &to), patch);
    }

    #[test]
    fn members_that_are_null_are_left_out_wherever_they_stand() {
        let mut value = json!({"a": null, "b": {"c": null}, "d": [null, {"e": null, "f": 1}]});
        without_nulls(&mut value);
        assert_eq!(value, json!({"b": {}, "d": [null, {"f": 1}]}));
    }
}
