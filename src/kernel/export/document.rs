//! What is written by an export: the running configuration, cut to what was asked for. Pure.
//!
//! Kept here: nothing that lets somebody in is written, whatever was asked for: no password, no key, no
//! token, and of a UUID its beginning only.

use serde_json::{Map, Value, json};

use crate::base::redact;

/// What stands in the place of what is hidden.
const HIDDEN: &str = "***";
/// Parts of names whose values let somebody in.
const SECRET_PARTS: [&str; 7] = [
    "password",
    "passwd",
    "secret",
    "token",
    "private",
    "credential",
    "authorization",
];
/// Names of such values that are parts of harmless names too.
const SECRET_NAMES: [&str; 7] = [
    "key",
    "access_key",
    "api_key",
    "auth",
    "psk",
    "pass",
    "uuid",
];
/// What tells of a user who he is.
const OF_A_PERSON: [&str; 7] = [
    "username",
    "name",
    "email",
    "tags",
    "note",
    "description",
    "metadata",
];

/// What runs: all that can be exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The protocols (inbounds), each an object with its `id`.
    pub protocols: Vec<Value>,
    /// The users who should be on this node, each an object.
    pub users: Vec<Value>,
    /// How the agent's own API is set up.
    pub api: Value,
}

/// What of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Users too.
    pub include_users: bool,
    /// Of users nothing that says who they are.
    pub redact_users: bool,
    /// The API too.
    pub include_api: bool,
    /// Only the protocols of these ids; `None`: all.
    pub protocol_ids: Option<Vec<String>>,
    /// By what the document calls itself.
    pub version: String,
}

/// A document, and what is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// All of it.
    pub value: Value,
    /// Protocols in it.
    pub protocols: usize,
    /// Users in it; `None`: they were not wanted.
    pub users: Option<usize>,
}

/// What is to be written of what runs.
pub fn document(contents: Contents, wanted: &Wanted) -> Document {
    let is_wanted = |protocol: &Value| {
        let ids = wanted.protocol_ids.as_ref();
        let is_it = |id: &String| protocol["id"] == id.as_str();
        ids.is_none_or(|ids| ids.iter().any(is_it))
    };
    let protocols = contents.protocols.into_iter().filter(is_wanted);
    let protocols: Vec<_> = protocols.map(hidden).collect();
    let of_user = |user| {
        let user = if wanted.redact_users {
            unnamed(user)
        } else {
            user
        };
        hidden(user)
    };
    let users = wanted.include_users.then(|| {
        let users = contents.users.into_iter();
        users.map(of_user).collect::<Vec<_>>()
    });
    let count = (protocols.len(), users.as_ref().map(Vec::len));
    let mut value = json!({ "version": wanted.version, "protocols": protocols });
    if let Some(users) = users {
        value["users"] = users.into();
    }
    if wanted.include_api {
        value["api"] = hidden(contents.api);
    }
    Document {
        value,
        protocols: count.0,
        users: count.1,
    }
}

/// Without what says who a user is.
fn unnamed(user: Value) -> Value {
    let Value::Object(user) = user else {
        return user;
    };
    let fields = user.into_iter().map(|(name, value)| {
        let tells = OF_A_PERSON.contains(&name.to_lowercase().as_str());
        let value = if tells { hide(&value) } else { value };
        (name, value)
    });
    Value::Object(fields.collect())
}

/// Without what lets somebody in, however deep it stands.
fn hidden(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(field).collect::<Map<_, _>>())
        }
        Value::Array(values) => values.into_iter().map(hidden).collect(),
        Value::String(text) => redact::uuids(&text).into(),
        other => other,
    }
}

fn field((name, value): (String, Value)) -> (String, Value) {
    let value = if is_secret(&name) {
        hide(&value)
    } else {
        hidden(value)
    };
    (redact::uuids(&name), value)
}

/// What is not set does not look as if it were, and whether something is set is no secret.
fn hide(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value.clone(),
        _ => HIDDEN.into(),
    }
}

fn is_secret(name: &str) -> bool {
    let mut words = String::new();
    // `accessKey` and `access-key` are `access_key`.
    for c in name.chars() {
        if c.is_uppercase() && !words.is_empty() && !words.ends_with('_') {
            words.push('_');
        }
        words.extend(if c == '-' { '_' } else { c }.to_lowercase());
    }
    SECRET_NAMES.contains(&words.as_str())
        || words.ends_with("_key") && words != "public_key"
        || SECRET_PARTS.iter().any(|part| words.contains(part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "aaaaaaaa-0000-4000-8000-00000000000f";

    fn contents() -> Contents {
        Contents {
            protocols: vec![
                json!({ "id": "vless-in", "protocol": "vless", "privateKey": "canary" }),
                json!({ "id": "trojan-in", "protocol": "trojan" }),
            ],
            users: vec![json!({
                "id": ID, "username": "ann", "password": "canary", "tags": ["x"],
                "metadata": { "source": "panel", "uuid": ID },
            })],
            api: json!({ "listen": "127.0.0.1:1", "access_key": "canary", "allow_insecure": false }),
        }
    }

    fn all() -> Wanted {
        Wanted {
            include_users: true,
            include_api: true,
            version: "v1".to_owned(),
            ..Wanted::default()
        }
    }

    #[test]
    fn all_that_runs_is_there_but_what_lets_somebody_in() {
        let document = document(contents(), &all());
        let expected = json!({
            "version": "v1",
            "protocols": [
                { "id": "vless-in", "protocol": "vless", "privateKey": "***" },
                { "id": "trojan-in", "protocol": "trojan" },
            ],
            "users": [{
                "id": "aaaaaaaa…", "username": "ann", "password": "***", "tags": ["x"],
                "metadata": { "source": "panel", "uuid": "***" },
            }],
            "api": { "listen": "127.0.0.1:1", "access_key": "***", "allow_insecure": false },
        });
        assert_eq!(document.value, expected);
        assert_eq!((document.protocols, document.users), (2, Some(1)));
    }

    #[test]
    fn only_what_is_wanted_is_there() {
        let few = Wanted {
            protocol_ids: Some(vec!["trojan-in".to_owned(), "absent".to_owned()]),
            version: "mine".to_owned(),
            ..Wanted::default()
        };
        let few = document(contents(), &few);
        let protocols = json!([{ "id": "trojan-in", "protocol": "trojan" }]);
        assert_eq!(
            few.value,
            json!({ "version": "mine", "protocols": protocols })
        );
        assert_eq!((few.protocols, few.users), (1, None));
        let unnamed = Wanted {
            redact_users: true,
            ..all()
        };
        let unnamed = document(contents(), &unnamed);
        let user = json!({
            "id": "aaaaaaaa…", "username": "***", "password": "***", "tags": "***",
            "metadata": "***",
        });
        assert_eq!(unnamed.value["users"], json!([user]));
    }

    #[test]
    fn a_secret_is_known_by_its_name_however_it_is_written() {
        for name in [
            "password",
            "Password",
            "secretKey",
            "access-key",
            "apiKey",
            "privateKey",
            "uuid",
            "key",
            "read_token",
            "authorization",
            "tls_key",
            "webhookSecret",
            "pre_shared_key",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "id",
            "keys_total",
            "protocol",
            "listen",
            "publicKey",
            "keyboard",
            "author",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_is_written_however_deep_it_stands(
            depth in 0usize..8,
            name in prop::sample::select(vec!["password", "privateKey", "token", "users_secret"]),
            redact_users: bool,
        ) {
            let mut value = json!({ name: { "deep": ["canary"] }, "id": ID, ID: "x" });
            for level in 0..depth {
                value = if level % 2 == 0 { json!([value]) } else { json!({ "in": value }) };
            }
            let contents = Contents {
                protocols: vec![value.clone()],
                users: vec![value.clone()],
                api: value,
            };
            let wanted = Wanted { redact_users, ..all() };
            let text = document(contents, &wanted).value.to_string();
            prop_assert!(!text.contains("canary") && !text.contains(ID), "{text}");
        }
    }
}
