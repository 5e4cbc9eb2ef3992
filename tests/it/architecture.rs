//! The order of the house, read from the sources: imports point downwards, every file says what it
//! is, and nothing is left half done.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules by layer, from the bottom up. A module may use lower layers.
const LAYERS: [&[&str]; 6] = [
    &["base"],
    &["config", "model"],
    &[
        "xray", "panel", "store", "events", "audit", "egress", "hook", "host", "sockets",
        "control", "http", "metrics",
    ],
    &[
        "sync", "traffic", "jobs", "registry", "probe", "alert", "deliver",
    ],
    &["kernel", "scheduler", "monitor", "rpc"],
    &["app", "cli"],
];

/// Uses within one layer, each with its reason.
const WITHIN_A_LAYER: [(&str, &str, &str); 2] = [
    (
        "config",
        "model",
        "the configuration speaks of nodes and inbounds by their ids",
    ),
    ("cli", "app", "the command line runs the agent"),
];

/// Adapters that every adapter may use.
const FOR_ALL_ADAPTERS: &str = "store";

/// Files that decide and therefore touch no clock, runtime or log.
const PURE: [&str; 65] = [
    "app/control/changes.rs",
    "app/doctor/members.rs",
    "app/doctor/xray_file.rs",
    "app/doctor/xray_text.rs",
    "app/reload/changes.rs",
    "app/watching/happenings.rs",
    "http/host.rs",
    "http/limits.rs",
    "model/allowed.rs",
    "kernel/callbacks.rs",
    "model/credentials.rs",
    "model/health.rs",
    "registry/inbounds.rs",
    "registry/lives.rs",
    "registry/telling.rs",
    "sync/plan.rs",
    "sync/brake.rs",
    "sync/desired.rs",
    "sync/drift.rs",
    "sync/live.rs",
    "sync/pushed/identity.rs",
    "sync/pushed/quota.rs",
    "sync/pushed/record.rs",
    "sync/pushed/set.rs",
    "model/email.rs",
    "sync/facts.rs",
    "xray/boot.rs",
    "xray/counters.rs",
    "xray/dialect.rs",
    "traffic/account.rs",
    "traffic/baselines.rs",
    "traffic/delta.rs",
    "traffic/forms.rs",
    "traffic/identity.rs",
    "panel/answer.rs",
    "xray/account.rs",
    "xray/inbound.rs",
    "sockets/parse.rs",
    "hook/template.rs",
    "hook/environment.rs",
    "base/duration.rs",
    "base/redact.rs",
    "cli/screen.rs",
    "cli/table.rs",
    "traffic/classify.rs",
    "traffic/switches.rs",
    "traffic/pace.rs",
    "traffic/receivers.rs",
    "traffic/classify_batch.rs",
    "traffic/records.rs",
    "model/batch.rs",
    "store/error.rs",
    "egress/address.rs",
    "egress/policy.rs",
    "egress/redirect.rs",
    "egress/target.rs",
    "deliver/schedule.rs",
    "model/sign.rs",
    "model/delivery.rs",
    "kernel/streams/message.rs",
    "kernel/streams/origin.rs",
    "kernel/streams/patch.rs",
    "kernel/streams/query.rs",
    "kernel/streams/snapshot.rs",
    "kernel/export/document.rs",
];

/// What a pure file does not mention.
const IMPURE: [&str; 6] = [
    "tokio::",
    "tracing::",
    "std::fs",
    "Timestamp::now",
    "Instant::now",
    "SystemTime::now",
];

fn sources() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(&root).unwrap().to_owned(), text);
            }
        }
    }
    assert!(found.len() > 30, "the sources were not found");
    found
}

fn module_of(path: &Path) -> String {
    let first = path
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy()
        .into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Every module of this crate that the text names after `crate::`, grouped imports included.
fn used(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    for after in code.split("crate::").skip(1) {
        let word = |text: &str| -> String {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        };
        if let Some(group) = after.strip_prefix('{') {
            let mut depth = 0;
            let mut start = true;
            for (at, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    c if start && !c.is_whitespace() => {
                        used.push(word(&group[at..]));
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            used.push(word(after));
        }
    }
    used
}

fn may_use(from: &str, to: &str) -> bool {
    if from == to
        || WITHIN_A_LAYER
            .iter()
            .any(|(a, b, _)| *a == from && *b == to)
    {
        return true;
    }
    match (layer_of(from), layer_of(to)) {
        (Some(2), Some(2)) => to == FOR_ALL_ADAPTERS,
        (Some(from), Some(to)) => to < from,
        _ => false,
    }
}

#[test]
fn imports_point_downwards_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let from = module_of(&path);
        if from == "main" || from == "lib" {
            continue;
        }
        assert!(
            layer_of(&from).is_some(),
            "{}: no layer is given for {from}",
            path.display()
        );
        for to in used(&text).iter().filter(|to| !may_use(&from, to)) {
            wrong.push(format!("{}: {from} uses {to}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_import_would_be_found() {
    assert_eq!(
        used("use crate::{a::{b, c}, d};\n// crate::no\nlet x = crate::e::f();"),
        ["a", "d", "e"]
    );
    assert!(!may_use("base", "model") && !may_use("xray", "panel") && !may_use("panel", "sync"));
    assert!(may_use("sync", "xray") && may_use("app", "sync") && may_use("events", "store"));
    assert!(!may_use("sync", "traffic") && !may_use("model", "config"));
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    for (path, text) in sources() {
        assert!(
            text.starts_with("//!"),
            "{} does not open with //!",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_half_done() {
    for (path, text) in sources() {
        for word in ["FIXME", "TODO", "#[ignore", "unimplemented!("] {
            assert!(!text.contains(word), "{} holds {word}", path.display());
        }
    }
}

#[test]
fn what_decides_touches_no_clock_runtime_or_log() {
    let sources = sources();
    for path in PURE {
        let text = sources
            .get(Path::new(path))
            .unwrap_or_else(|| panic!("{path} is gone"));
        let code = text.split("#[cfg(test)]").next().unwrap();
        for impure in IMPURE {
            assert!(!code.contains(impure), "{path} mentions {impure}");
        }
    }
}

#[test]
fn tasks_are_started_by_the_supervisor_only() {
    for (path, text) in sources() {
        let supervisor =
            path.starts_with("base/supervise") || path == Path::new("base/supervise.rs");
        assert!(
            supervisor || !text.contains("tokio::spawn"),
            "{}",
            path.display()
        );
    }
}

/// By which something could be served that is not described, and so escapes `access`.
const UNDESCRIBED: [&str; 5] = [
    ".route(",
    ".route_service(",
    ".nest_service(",
    ".fallback",
    "axum::routing",
];

#[test]
fn every_route_is_described_where_it_is_made() {
    for (path, text) in sources() {
        if path.ends_with("tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        for way in UNDESCRIBED {
            assert!(!code.contains(way), "{}: {way}", path.display());
        }
    }
}
