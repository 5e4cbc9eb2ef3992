//! What Xray's configuration lacks is found, and found no more once it is merged in.

use proptest::prelude::*;

use super::*;

type Change = fn(&mut Value);

fn needs() -> Needs {
    Needs {
        address: XrayAddress::Tcp("127.0.0.1:10085".to_owned()),
        levels: [0, 7].into(),
        counts: true,
        cuts: true,
        block_outbound: None,
    }
}

fn file(value: &Value) -> XrayFile {
    XrayFile::read(&value.to_string()).unwrap()
}

fn whole() -> Value {
    let on = json!({"statsUserUplink": true, "statsUserDownlink": true, "statsUserOnline": true});
    json!({
        "api": {"tag": "api", "listen": "127.0.0.1:10085",
            "services": ["HandlerService", "statsservice"]},
        "stats": {},
        "policy": {"levels": {"0": on, "7": on}},
        "routing": {"rules": []},
        "outbounds": [{"protocol": "freedom"}, {"tag": "hole", "protocol": "blackhole"}],
    })
}

/// What [`whole`] lacks after a change, in words.
fn lacks_after(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut value = whole();
    change(&mut value);
    let needs = Needs {
        block_outbound: Some("hole".to_owned()),
        ..needs()
    };
    let lacks = file(&value).lacks(&needs);
    lacks.iter().map(Lack::what).collect()
}

#[test]
fn each_thing_that_lacks_is_named() {
    let routing = "its \"api\" does not offer RoutingService";
    assert_eq!(lacks_after(|_| {}), [routing]);
    let all = |value: &mut Value| {
        value["api"]["services"] = json!(["HandlerService", "StatsService", "RoutingService"]);
    };
    assert!(lacks_after(all).is_empty());
    let table: [(Change, &str); 9] = [
        (|v| v["stats"] = Value::Null, "no \"stats\""),
        (
            |v| v["policy"]["levels"]["7"]["statsUserUplink"] = false.into(),
            "level 7 has no statsUserUplink",
        ),
        (
            |v| v["policy"]["levels"]["0"]["statsUserOnline"] = Value::Null,
            "level 0 has no statsUserOnline",
        ),
        (|v| v["api"]["listen"] = "".into(), "listens nowhere"),
        (
            |v| v["api"]["listen"] = "127.0.0.1:1".into(),
            "listens at 127.0.0.1:1",
        ),
        (|v| v["api"]["tag"] = "".into(), "no \"api\" with a tag"),
        (
            |v| v["outbounds"][1]["protocol"] = "freedom".into(),
            "no blackhole, but freedom",
        ),
        (|v| v["outbounds"] = json!([]), "has no outbound \"hole\""),
        (|v| v["routing"] = Value::Null, "no \"routing\""),
    ];
    for (change, words) in table {
        let lacks = lacks_after(|value| {
            all(value);
            change(value);
        });
        assert!(
            matches!(&lacks[..], [one] if one.contains(words)),
            "{words}: {lacks:?}"
        );
    }
}

#[test]
fn the_api_is_found_wherever_it_listens() {
    let tcp = |text: &str| XrayAddress::Tcp(text.to_owned());
    let table = [
        ("127.0.0.1:10085", tcp("localhost:10085"), true),
        ("0.0.0.0:10085", tcp("192.0.2.1:10085"), true),
        ("[::1]:10085", tcp("[::1]:10085"), true),
        ("[::1]:10085", tcp("127.0.0.1:10085"), false),
        ("127.0.0.1:10085", tcp("127.0.0.1:10086"), false),
        (
            "/run/x.sock,0660",
            XrayAddress::Unix("/run/x.sock".into()),
            true,
        ),
        ("@x", XrayAddress::Abstract("x".to_owned()), true),
        ("@x", tcp("127.0.0.1:1"), false),
    ];
    for (listen, address, expected) in table {
        let value = json!({"api": {"tag": "api", "listen": listen}});
        assert_eq!(file(&value).listens_at(&address), expected, "{listen}");
    }
    let behind_a_door = json!({
        "api": {"tag": "API"},
        "inbounds": [
            {"tag": "in", "protocol": "vless", "port": 443},
            {"tag": "door", "protocol": "dokodemo-door", "listen": "127.0.0.1", "port": "10085"},
        ],
        "routing": {"rules": [{"inboundTag": ["door"], "outboundTag": "API"}]},
    });
    assert!(file(&behind_a_door).listens_at(&tcp("127.0.0.1:10085")));
    let mut without_a_rule = behind_a_door;
    without_a_rule["routing"] = json!({});
    assert!(!file(&without_a_rule).listens_at(&tcp("127.0.0.1:10085")));
}

#[test]
fn lines_to_paste_are_members_of_a_configuration() {
    let needs = needs();
    let empty = file(&json!({}));
    let lines = to_paste(&empty.lacks(&needs), &needs).join("\n");
    let members: Value = serde_json::from_str(&format!("{{{lines}}}")).unwrap();
    assert!(file(&members).lacks(&needs).is_empty(), "{lines}");
}

#[test]
fn an_inbound_with_vless_own_encryption_is_told() {
    let of = |decryption: &str| {
        let settings = json!({"clients": [], "decryption": decryption});
        let value = json!({"inbounds": [{"tag": "in", "settings": settings}]});
        file(&value).encrypts("in")
    };
    assert!(of("mlkem768x25519plus.native.600s.key"));
    assert!(!of("none") && !of("") && !file(&json!({})).encrypts("in"));
}

/// `whole` without some of it, and with something that is none of ours.
fn parts() -> impl Strategy<Value = Value> {
    prop::collection::vec(any::<bool>(), 8).prop_map(|kept| {
        let mut value = whole();
        let root = value.as_object_mut().unwrap();
        for (name, kept) in ["api", "stats", "policy", "routing"].iter().zip(&kept) {
            if !kept {
                root.remove(*name);
            }
        }
        if let Some(api) = root.get_mut("api").and_then(Value::as_object_mut) {
            for (name, kept) in ["tag", "listen", "services"].iter().zip(&kept[4..]) {
                if !kept {
                    api.remove(*name);
                }
            }
            api.insert("mine".to_owned(), json!([1, {"a": null}]));
        }
        if kept[7] {
            root.insert("Stats".to_owned(), json!({}));
            root.remove("stats");
        }
        root.insert("log".to_owned(), json!({"loglevel": "none"}));
        value
    })
}

/// Whether all of `small` stands in `large`; a list may have grown at its end.
fn holds(large: &Value, small: &Value) -> bool {
    match (large, small) {
        (Value::Object(large), Value::Object(small)) => small
            .iter()
            .all(|(name, value)| large.get(name).is_some_and(|it| holds(it, value))),
        (Value::Array(large), Value::Array(small)) => large.starts_with(small),
        (large, small) => large == small,
    }
}

proptest! {
    #[test]
    fn what_was_mended_lacks_nothing_and_keeps_all(before in parts(), blocks in any::<bool>()) {
        let needs = Needs {
            block_outbound: blocks.then(|| "hole".to_owned()),
            ..needs()
        };
        let after = file(&before).mended(&needs);
        prop_assert_eq!(file(&after).lacks(&needs), []);
        prop_assert!(holds(&after, &before), "{before} became {after}");
        prop_assert_eq!(file(&after).mended(&needs), after);
    }
}
