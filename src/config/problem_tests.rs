//! What is wrong is told, all of it, with where and how to mend it.

use super::tests::{LEAST, read_both};
use super::*;

/// The problems of a file and variables, with the file's folder taken out.
fn problems(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let problems = read_both(file, variables, Need::Check).expect_err(file);
    let short = |line: &str| match line.find("/c.toml") {
        Some(i) => line[i + 1..].to_owned(),
        None => line.to_owned(),
    };
    problems.to_string().lines().map(short).collect()
}

/// The one problem of the environment, beside what is needed.
fn of_variables(variables: &[(&'static str, &'static str)]) -> String {
    let found = problems("", &[&LEAST, variables].concat());
    assert_eq!(found.len(), 1, "{found:?}");
    found.concat()
}

/// The one problem of a file, beside what is needed.
fn of_file(file: &str) -> String {
    let found = problems(file, &LEAST);
    assert_eq!(found.len(), 1, "{found:?}");
    found.concat()
}

/// The same, with the file's name taken out; `\n` stands for a line break.
fn told_of_file(file: &str) -> Vec<String> {
    let told = problems(&file.replace(r"\n", "\n"), &LEAST);
    told.iter()
        .map(|told| told.replacen("c.toml:", "", 1))
        .collect()
}

/// Each line of `cases` is what is wrong, an arrow, and the start of the only message about it.
fn assert_told(cases: &str, told: impl Fn(&str) -> Vec<String>) {
    for case in cases.lines().filter(|line| !line.is_empty()) {
        let (wrong, expected) = case.split_once(" -> ").unwrap();
        let told = told(wrong);
        assert!(
            told.len() == 1 && told[0].starts_with(expected),
            "{case}\n told: {told:?}"
        );
        assert!(told[0].contains("; "), "no mend: {told:?}");
    }
}

#[test]
fn what_is_needed_and_missing_is_asked_for() {
    let found = problems("", &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("environment INTERNAL_API_KEY: is not set; "),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("environment NODE_IDS: is not set; "),
        "{found:?}"
    );
}

#[test]
fn a_wrong_variable_is_named() {
    // Variable and value, and how the message goes on behind the variable's name.
    let cases = r#"
PANEL_BASE_URL=backend:3000 -> does not begin with http://
NODE_IDS=, -> names no node; 
NODE_IDS=1,x -> "x" is not the id of a node; 
NODE_IDS=0 -> "0" is not the id of a node; 
NODE_IDS=-1 -> "-1" is not the id of a node; 
INTERVAL_SECONDS=0 -> must be more than 0; 
INTERVAL_SECONDS=-1 -> "-1" is not a duration: negative
INTERVAL_SECONDS=1d -> "1d" is not a duration: unknown
INTERVAL_SECONDS=24h1s -> "24h1s" is too long; at most
HTTP_TIMEOUT_SECONDS=3601 -> "3601" is too long; 
APPLY_TIMEOUT_SECONDS=x -> "x" is not a duration: no
XRAY_RPC_TIMEOUT_SECONDS=2h -> "2h" is too long
APPLY_MODE=grpc -> "grpc" is not a mode; give one of xray-grpc
APPLY_MODE=xray_grpc -> "xray_grpc" is not a mode; did you
APPLY_MODE=cmd -> is cmd, but there is no command; set APPLY_CMD
APPLY_CMD=powershell -File x -> is a PowerShell command, and hooks
APPLY_CMD=sh -c 'PWSH.exe x' -> is a PowerShell command, and hooks
APPLY_CMD=C:\b\pwsh.exe x -> is a PowerShell command, and hooks
XRAY_API_ADDR=xray -> "xray" is not the address of an Xray's
XRAY_TAG_MAP=1 -> "1" does not name a node and its inbounds; 
XRAY_TAG_MAP=1:+ -> "1:+" does not name a node and its
XRAY_TAG_MAP=a:b -> "a" is not the id of a node; 
XRAY_TAG_MAP=1:a,1:b -> names node 1 twice; 
ENABLE_TRAFFIC_REPORT=maybe -> "maybe" is neither true nor false; give true
TRAFFIC_REPORT_INTERVAL_SECONDS=0 -> must be more than 0; 
TRAFFIC_REPORT_INTERVAL_SECONDS=25h -> "25h" is too long; at most 24h
TRAFFIC_COLLECT_INTERVAL_SECONDS=3601 -> "3601" is too long; at most 1h
TRAFFIC_ON_UNKNOWN=resent -> "resent" is not a way to treat such reports; did you mean resend?
TRAFFIC_ON_UNKNOWN=drop -> "drop" is not a way to treat such reports; give one of auto, hold, resend
LOG_FORMAT=jsn -> "jsn" is not a format; did you mean json?
INTERNAL_API_KEY_FILE=/nowhere -> /nowhere cannot be
"#;
    assert_told(cases, |wrong| {
        let (name, value) = wrong.split_once('=').unwrap();
        let key = if name.ends_with("_FILE") { "" } else { "key" };
        let found = problems("", &[("INTERNAL_API_KEY", key), LEAST[1], (name, value)]);
        let prefix = format!("environment {name}: ");
        found.iter().map(|told| told.replace(&prefix, "")).collect()
    });
}

#[test]
fn a_wrong_flow_is_told_once_however_many_inbounds_have_it() {
    let variables = [
        ("XRAY_VLESS_FLOW", "No Flow"),
        ("XRAY_TAG_MAP", "1:in-a+in-b"),
    ];
    assert!(of_variables(&variables).starts_with("environment XRAY_VLESS_FLOW: \"No Flow\" is"));
}

#[test]
fn two_nodes_on_one_inbound_are_told_the_map_to_set() {
    let told = of_variables(&[("NODE_IDS", "1,2"), ("APPLY_MODE", "xray-grpc")]);
    let expected = "environment XRAY_TAG_MAP: nodes 1 and 2 fall on one inbound, in-vless-reality \
                    of xray; give each its own, in the file or with XRAY_TAG_MAP=1:in-a,2:in-b";
    assert_eq!(told, expected);
    let file = "apply.mode = 'xray-grpc'\nnode = [\n{ id = 1, inbounds = ['a', 'b'] },\n\
                { id = 2, inbounds = [\n'b'] },\n{ id = 3, inbounds = ['b']}]";
    let told = problems(file, &LEAST[..1]).concat();
    assert!(
        told.starts_with("c.toml:6: node.inbounds: nodes 1, 2 and 3 fall on one"),
        "{told}"
    );
    let told = of_variables(&[("XRAY_TAG_MAP", "1:a+a"), ("APPLY_MODE", "xray-grpc")]);
    assert!(
        told.contains("node 1 names the inbound a of xray twice; name it once"),
        "{told}"
    );
}

#[test]
fn two_inbounds_of_one_kernel_id_are_both_named() {
    let map = ("XRAY_TAG_MAP", "1:In A+in-a");
    let told = of_variables(&[map, ("APPLY_MODE", "xray-grpc")]);
    let expected = "environment XRAY_TAG_MAP: inbounds In A of xray and in-a of xray have one \
                    kernel_id, in-a; give one another: kernel_id = \"in-a-2\"";
    assert_eq!(told, expected);
}

#[test]
fn a_wrong_value_in_the_file_is_told_with_line_and_key() {
    // The file (`\n` for its line breaks), and how the message goes on behind its name.
    let cases = r#"
[panel]\nurl = 'ftp://x' -> 2: panel.url: does not begin with http
[panel]\nurl = 5 -> 2: panel.url: is a whole number, but text is needed; 
panel.proxy = 'socks4://u:canary@x' -> 1: panel.proxy: does not begin with http
panel.users_max = 0 -> 1: panel.users_max: "0" is not a whole number within
panel.users_max = '5' -> 1: panel.users_max: is text, but a whole number is
panel.body_bytes_max = 99999999999999999999 -> 1: panel.body_bytes_max: "9999
sync.interval = true -> 1: sync.interval: is true or false, but a duration is
sync.interval = 1979-05-27 -> 1: sync.interval: is a date, but a duration is
sync.confirm_polls = 0 -> 1: sync.confirm_polls: "0" is not a whole number
traffic.enabled = 'yes' -> 1: traffic.enabled: is text, but true or false is needed; 
traffic.enabled = 1 -> 1: traffic.enabled: is a whole number, but true or false is
traffic.first_read = 'adapt' -> 1: traffic.first_read: "adapt" is not a way to treat such
traffic.interval = '5s' -> 1: traffic.interval: there is no such key; did you mean sync.interval
apply.kick = 'on' -> 1: apply.kick: "on" is not a way to treat open sessions; 
apply.kick_ports = '22,' -> 1: apply.kick_ports: "" is neither a port nor a range of ports; 
apply.kick_ports = '9-8' -> 1: apply.kick_ports: "9-8" is neither a port nor
apply.kick_ports = '0-9' -> 1: apply.kick_ports: "0-9" is neither a port nor
apply.kick_ports = '443,70000' -> 1: apply.kick_ports: "70000" is neither a port nor
output.mode = 640 -> 1: output.mode: is a whole number, but text is needed; 
output.mode = '0440' -> 1: output.mode: "0440" is not the mode of a file
output.mode = '0680' -> 1: output.mode: "0680" is not the mode of a file
output.mode = '4755' -> 1: output.mode: "4755" is not the mode of a file
[[xray]]\nin_flight = 1025 -> 2: xray.in_flight: "1025" is not a whole number
[[xray]]\nname = 'a b' -> 2: xray.name: "a b" cannot be a name; 
apply = 5 -> 1: apply: is a whole number, not [apply]; write [apply]
[xray]\nname = 'a' -> 1: xray: is one table, not [[xray]]; write [[xray]]
[[node]]\ninbounds = ['a'] -> 1: node.id: is missing; add it here
[[node]]\nid = '1' -> 2: node.id: is text, but a whole number is needed; 
[[node]]\nid = 0 -> 2: node.id: "0" is not the id of a node; 
[[node]]\nid = 1\n[[node]]\nid = 1 -> 4: node.id: another [[node]] has the id 1
[[node]]\nid = 1\ninbounds = 'a' -> 3: node.inbounds: is text, but a list is
[[node]]\nid = 1\ninbounds = [] -> 3: node.inbounds: names no inbound; 
[[node]]\nid = 1\ninbounds = [5] -> 3: node.inbounds: must hold tags or tables, not a whole number; 
[[node]]\nid = 1\ninbounds = [''] -> 3: node.inbounds: "" cannot be the tag of an inbound; 
[[node]]\nid = 1\ninbounds = [{ tag = '' }] -> 3: node.inbounds.tag: "" cannot be the tag of an
[[node]]\nid = 1\ninbounds = [{ level = 1 }] -> 3: node.inbounds.tag: is missing; add it here
[[node]]\nid = 1\ninbounds = [{ tag = 'a', level = -1 }] -> 3: node.inbounds.level: "-1" is not a
[[node]]\nid = 1\ninbounds = [{ tag = 'a', xray = 'xry' }] -> 3: node.inbounds.xray: there is no
[[node]]\nid = 1\ninbounds = [{ tag = 'a', kernel_id = 'A' }] -> 3: node.inbounds.kernel_id: "A"
[[node]]\nid = 1\ninbounds = [{ tag = 'a', flow = 'a b' }] -> 3: node.inbounds.flow: "a b" is not
[[node]]\nid = 1\ninbounds = [{ tag = 'a', protocol = 'vles' }] -> 3: node.inbounds.protocol: "vles"
[[node]]\nid = 1\ninbounds = [{ tag = 'a', method = 'rc4' }] -> 3: node.inbounds.method: "rc4" is
[[node]]\nid = 1\ninbounds = [{ tag = 'a', exclusive = 1 }] -> 3: node.inbounds.exclusive: is a
"#;
    assert_told(cases, told_of_file);
}

#[test]
fn a_key_that_does_not_exist_is_told_with_the_one_that_was_meant() {
    // The file (`\n` for its line breaks), and how the message goes on behind its name.
    let cases = r"
[panle]\nurl = 'x' -> 1: panle: there is no such key; did you mean panel?
[sync]\nintervall = 5 -> 2: sync.intervall: there is no such key; did you mean int
[sync]\nurl = 'x' -> 2: sync.url: there is no such key; did you mean panel.url?
state.colour = 1 -> 1: state.colour: there is no such key; take it out, or use one
[[xray]]\nadress = 'x' -> 2: xray.adress: there is no such key; did you mean addr
[[node]]\nid = 1\ninbounds = [{ tag = 'a',\nlevl = 1 }] -> 4: node.inbounds.levl:
";
    assert_told(cases, told_of_file);
}

#[test]
fn several_xrays_have_names_and_addresses_and_every_inbound_says_its_own() {
    let two = "[[xray]]\nname = 'a'\n[[xray]]\nname = 'b'\naddress = ':2'\n";
    let told = problems(two, &[&LEAST[..], &[("XRAY_API_ADDR", ":1")]].concat());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("environment XRAY_API_ADDR: is set, but the file has 2"),
        "{told:?}"
    );
    let told = of_file("[[xray]]\nname = 'a'\n[[xray]]\nname = 'b'\n");
    assert!(
        told.starts_with("c.toml:3: xray.address: is the address of a, too"),
        "{told}"
    );
    let told = of_file("[[xray]]\n[[xray]]\naddress = ':2'\n");
    assert!(
        told.starts_with("c.toml:2: xray.name: another [[xray]] is named xray"),
        "{told}"
    );
    let told = of_file(&format!("{two}[[node]]\nid = 1\ninbounds = ['in-a']\n"));
    let expected = "c.toml:8: node.inbounds: does not say which Xray the inbound in-a is in; write \
                    { tag = \"in-a\", xray = \"…\" } in the file, with one of a, b";
    assert_eq!(told, expected);
}

#[test]
fn everything_is_told_at_once_the_file_by_its_lines() {
    let file = "[panel]\nurl = 'nonsense'\ntimeuot = 5\n\n[sync]\ninterval = '0s'\n[output]\n\
                mode = '99'\n";
    let places = |found: Vec<String>| -> Vec<String> {
        found
            .iter()
            .map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let expected = [
        "c.toml:2 panel.url",
        "c.toml:3 panel.timeuot",
        "c.toml:6 sync.interval",
        "c.toml:8 output.mode",
        "environment INTERNAL_API_KEY is not set; set it to the panel's internal key, or set \
         INTERNAL_API_KEY_FILE, or token_file under [panel] in the file",
        "environment LOG_FORMAT \"xml\" is not a format; give one of text, json",
    ];
    let variables = [("LOG_FORMAT", "xml"), ("NODE_IDS", "1")];
    assert_eq!(places(problems(file, &variables)), expected);
}

#[test]
fn errors_of_the_grammar_are_all_that_is_told() {
    let found = problems("[panel]\nurl = \n[sync]\ninterval = 1s\n", &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("c.toml:2: is not TOML: "), "{found:?}");
    assert!(found[1].starts_with("c.toml:4: is not TOML: "), "{found:?}");
}

#[test]
fn a_named_file_must_be_there() {
    let environment = Environment::from_pairs(LEAST);
    let sources = Sources {
        environment,
        file: Some("/nowhere/c.toml".into()),
    };
    let told = read(&sources, Need::Run).unwrap_err().to_string();
    assert!(
        told.starts_with("/nowhere/c.toml: there is no such file; "),
        "{told}"
    );
}

#[test]
fn a_token_is_never_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let name = path.to_str().unwrap();
    let wrong = ["canary\ncanary", "canary\u{7}", ""];
    for text in wrong {
        std::fs::write(&path, text).unwrap();
        let file = format!("[panel]\ntoken_file = '{name}'\n");
        let told = [
            problems(&file, &LEAST[1..]).concat(),
            problems("", &[("INTERNAL_API_KEY_FILE", name), LEAST[1]]).concat(),
        ];
        assert!(told.iter().all(|told| !told.contains("canary")), "{told:?}");
        assert!(told.iter().all(|told| told.contains(name)), "{told:?}");
    }
    let both = format!("[panel]\ntoken = 'canary'\ntoken_file = '{name}'\n");
    let told = problems(&both, &LEAST[1..]).concat();
    assert!(
        told.starts_with("c.toml:3: panel.token_file: is set beside token; "),
        "{told}"
    );
    let url = problems(
        "",
        &[&LEAST[..], &[("PANEL_BASE_URL", "http://u:canary@h")]].concat(),
    );
    assert!(!url.concat().contains("canary"), "{url:?}");
}

#[test]
fn any_value_of_any_key_is_taken_or_refused() {
    let values = [
        "''",
        "' '",
        "'\u{e9}'",
        "-1",
        "1e999",
        "0x7fffffffffffffff",
        "nan",
        "[]",
        "{}",
    ];
    let more = [
        "true",
        "1979-05-27",
        "['']",
        "[{}]",
        "[[1]]",
        "{ tag = 5 }",
        "[{ tag = [] }]",
    ];
    for key in &keys::KEYS {
        for value in values.iter().chain(&more) {
            let name = key.name();
            let file = match key.group() {
                "node.inbounds" => {
                    format!("node = [{{ id = 1, inbounds = [{{ {name} = {value} }}] }}]")
                }
                group if keys::LISTS.contains(&group) => {
                    format!("{group} = [{{ {name} = {value} }}]")
                }
                _ => format!("{} = {value}", key.path),
            };
            if let Err(found) = read_both(&file, &[], Need::Run) {
                assert!(
                    found.iter().all(|problem| !problem.mend().is_empty()),
                    "{found}"
                );
            }
        }
    }
}
