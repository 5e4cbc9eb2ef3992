//! What a right configuration comes to: defaults, environment, file, and what goes before what.

use std::path::Path;

use super::read::read_or_default;
use super::*;

/// Where no file is.
pub(super) const NOWHERE: &str = "/nowhere/xray-agent.toml";

/// The least that is needed.
pub(super) const LEAST: [(&str, &str); 2] = [("INTERNAL_API_KEY", "key"), ("NODE_IDS", "1")];

/// Reads variables, and a file if `file` is not empty.
pub(super) fn read_both(
    file: &str,
    variables: &[(&str, &str)],
    need: Need,
) -> Result<Config, Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, file).unwrap();
    let environment = Environment::from_pairs(variables.iter().copied());
    let sources = Sources {
        environment,
        file: (!file.is_empty()).then_some(path),
    };
    read_or_default(&sources, need, Path::new(NOWHERE))
}

pub(super) fn run(file: &str, variables: &[(&str, &str)]) -> Config {
    read_both(file, variables, Need::Run).unwrap_or_else(|problems| panic!("{problems}"))
}

pub(super) fn with(variables: &[(&'static str, &'static str)]) -> Config {
    run("", &[&LEAST, variables].concat())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn what_is_not_set_has_the_defaults_of_the_contract() {
    let config = with(&[]);
    let panel = config.panel.unwrap();
    assert_eq!(panel.url.as_str(), "http://localhost:3000/");
    assert_eq!(panel.token.expose(), "key");
    assert_eq!((panel.timeout, panel.proxy), (seconds(10), None));
    assert_eq!((panel.body_bytes_max, panel.users_max), (64 << 20, 200_000));
    assert_eq!(config.mode, ApplyMode::None);
    let address = XrayAddress::Tcp("127.0.0.1:10085".into());
    let xray = Xray {
        name: "xray".into(),
        address,
        rpc_timeout: seconds(5),
        in_flight: 64,
    };
    assert_eq!(config.xrays, [xray]);
    assert_eq!(
        config.nodes,
        [Node {
            id: NodeId(1),
            inbounds: Vec::new()
        }]
    );
    assert_eq!(
        config.hook,
        Hook {
            command: None,
            timeout: seconds(60)
        }
    );
    let brake = Brake {
        confirm_polls: 2,
        confirm_polls_all: 6,
    };
    let (interval, resync_interval) = (seconds(10), seconds(300));
    assert_eq!(
        config.sync,
        Sync {
            interval,
            resync_interval,
            brake
        }
    );
    let traffic = Traffic {
        enabled: true,
        report_interval: seconds(60),
        collect_interval: seconds(10),
        on_unknown: OnUnknown::Auto,
        first_read: FirstRead::Adopt,
    };
    assert_eq!(config.traffic, traffic);
    let out = std::env::current_dir().unwrap().join("out");
    assert_eq!(
        config.output,
        Output {
            dir: out.clone(),
            mode: 0o640
        }
    );
    assert_eq!(config.state_dir, out.join(".xray-agent"));
    assert_eq!(
        config.log,
        Log {
            format: None,
            filter: "info".into()
        }
    );
}

#[test]
fn empty_variables_mean_the_default() {
    let names = keys::KEYS
        .iter()
        .map(|key| key.variable)
        .filter(|name| !name.is_empty());
    let empty = names.filter(|name| LEAST.iter().all(|(least, _)| least != name));
    let empty: Vec<(&str, &str)> = empty.map(|name| (name, " ")).collect();
    assert!(empty.len() > 10);
    let config = with(&empty);
    assert_eq!(format!("{config:?}"), format!("{:?}", with(&[])));
}

#[test]
fn the_connectors_own_example_runs() {
    // Seed 001, section 2.
    let variables = [
        ("PANEL_BASE_URL", "http://127.0.0.1:3000"),
        ("INTERNAL_API_KEY", "你的内部密钥"),
        ("NODE_IDS", "1,2,3"),
        ("OUTPUT_DIR", "./out"),
        ("INTERVAL_SECONDS", "10"),
    ];
    let config = run("", &variables);
    let panel = config.panel.unwrap();
    assert_eq!(panel.url.as_str(), "http://127.0.0.1:3000/");
    assert_eq!(panel.token.expose(), "你的内部密钥");
    assert_eq!(
        config
            .nodes
            .iter()
            .map(|node| node.id.0)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(
        config.output.dir,
        std::env::current_dir().unwrap().join("out")
    );
    assert_eq!(
        (config.sync.interval, config.mode),
        (seconds(10), ApplyMode::None)
    );
}

#[test]
fn the_connectors_hook_runs() {
    let command = "bash ./apply.sh {node_id} {uuids_file}";
    let config = with(&[("APPLY_CMD", command), ("ENABLE_TRAFFIC_REPORT", "off")]);
    assert_eq!(config.mode, ApplyMode::Cmd);
    assert_eq!(config.hook.command.as_deref(), Some(command));
    for harmless in [
        "/opt/powershell/apply.sh",
        "sh -c 'echo powershells'",
        "sh pwsh.sh",
    ] {
        assert_eq!(
            with(&[("APPLY_CMD", harmless)]).mode,
            ApplyMode::Cmd,
            "{harmless}"
        );
    }
}

#[test]
fn seconds_are_whole_or_fractional_or_durations() {
    let cases = [
        ("10", 10_000),
        ("0.5", 500),
        ("10s", 10_000),
        ("1m30s", 90_000),
        ("24h", 86_400_000),
    ];
    for (text, ms) in cases {
        assert_eq!(
            with(&[("INTERVAL_SECONDS", text)]).sync.interval,
            Duration::from_millis(ms)
        );
    }
    for (text, ms) in [("7", 7000), ("0.25", 250), ("'7s'", 7000), ("'7'", 7000)] {
        let file = format!("[sync]\ninterval = {text}\n");
        assert_eq!(
            run(&file, &LEAST).sync.interval,
            Duration::from_millis(ms),
            "{text}"
        );
    }
}

#[test]
fn the_environment_goes_before_the_file() {
    let file = r#"
        [panel]
        url = "https://file/base/"
        token = "file"
        timeout = 3
        [apply]
        mode = "cmd"
        command = "file"
        [[xray]]
        name = "edge"
        address = "unix:/run/xray.sock"
        rpc_timeout = "2s"
        [[node]]
        id = 7
        inbounds = [{ tag = "in-a", flow = "none" }]
    "#;
    let alone = run(file, &[]);
    let panel = alone.panel.unwrap();
    assert_eq!(
        (panel.url.as_str(), panel.token.expose()),
        ("https://file/base", "file")
    );
    assert_eq!(panel.timeout, seconds(3));
    assert_eq!(
        (alone.mode, alone.hook.command.as_deref()),
        (ApplyMode::Cmd, Some("file"))
    );
    assert_eq!(
        alone.xrays[0].address,
        XrayAddress::Unix("/run/xray.sock".into())
    );
    assert_eq!(alone.nodes[0].inbounds[0].flow, Flow::Given(String::new()));
    let variables = [
        ("PANEL_BASE_URL", "http://env"),
        ("INTERNAL_API_KEY", "env"),
        ("APPLY_MODE", "xray-grpc"),
        ("XRAY_API_ADDR", "unix:@x"),
        ("XRAY_VLESS_FLOW", "xtls-rprx-vision"),
    ];
    let over = run(file, &variables);
    let panel = over.panel.unwrap();
    assert_eq!(
        (panel.url.as_str(), panel.token.expose()),
        ("http://env/", "env")
    );
    assert_eq!(
        (over.mode, panel.timeout),
        (ApplyMode::XrayGrpc, seconds(3))
    );
    assert_eq!(over.xrays[0].name, "edge");
    assert_eq!(over.xrays[0].address, XrayAddress::Abstract("x".into()));
    assert_eq!(over.xrays[0].rpc_timeout, seconds(2));
    let inbound = &over.nodes[0].inbounds[0];
    assert_eq!(
        (inbound.xray.as_str(), inbound.protocol_from_tag),
        ("edge", false)
    );
    assert_eq!(inbound.flow, Flow::Given("xtls-rprx-vision".into()));
}

#[test]
fn traffic_is_set_by_variables_and_by_the_file_alike() {
    let truths = [
        (true, ["true", "TRUE", "t", "1", "yes", "On"]),
        (false, ["false", "False", "F", "0", "NO", "off"]),
    ];
    for (enabled, texts) in truths {
        for text in texts {
            let config = with(&[("ENABLE_TRAFFIC_REPORT", text)]);
            assert_eq!(config.traffic.enabled, enabled, "{text}");
        }
    }
    let file = "[traffic]\nenabled = false\nreport_interval = '24h'\ncollect_interval = 0.5\n\
                on_unknown = 'hold'\nfirst_read = 'count'\n";
    let expected = Traffic {
        enabled: false,
        report_interval: seconds(86_400),
        collect_interval: Duration::from_millis(500),
        on_unknown: OnUnknown::Hold,
        first_read: FirstRead::Count,
    };
    assert_eq!(run(file, &LEAST).traffic, expected);
    let variables = [
        ("ENABLE_TRAFFIC_REPORT", "1"),
        ("TRAFFIC_REPORT_INTERVAL_SECONDS", "30"),
        ("TRAFFIC_COLLECT_INTERVAL_SECONDS", "1h"),
        ("TRAFFIC_ON_UNKNOWN", "resend"),
    ];
    let over = Traffic {
        enabled: true,
        report_interval: seconds(30),
        collect_interval: seconds(3600),
        on_unknown: OnUnknown::Resend,
        first_read: FirstRead::Count,
    };
    let both = run(file, &[&LEAST[..], &variables].concat());
    assert_eq!(both.traffic, over);
}

#[test]
fn open_sessions_are_cut_unless_told_otherwise() {
    let kick = Kick {
        enabled: true,
        socket: "/run/xray-agent-kick.sock".into(),
        ports: None,
        block_outbound: None,
    };
    assert_eq!(with(&[]).kick, kick);
}

#[test]
fn kicking_is_set_by_variables_and_by_the_file_alike() {
    let file = "[apply]\nkick = 'auto'\nkick_ports = '443, 10000-10100'\nblock_outbound = 'hole'\n";
    let kick = run(file, &[&LEAST[..], &[("XRAY_KICK", "off")]].concat()).kick;
    let ports = [(443, 443), (10_000, 10_100)].map(|range| range.try_into().unwrap());
    assert!(!kick.enabled);
    assert_eq!(kick.ports, Some(ports.to_vec()));
    assert_eq!(kick.block_outbound.as_deref(), Some("hole"));
    assert!(with(&[("XRAY_KICK", "auto")]).kick.enabled);
}

/// Every key that the other tests do not set.
const FULL: &str = r#"
panel = { token = "t", proxy = "socks5h://u:p@h:1", body_bytes_max = 4_096, users_max = 9 }
sync = { resync_interval = "1h", confirm_polls = 3, confirm_polls_all = 4 }
apply = { mode = "xray-grpc", timeout = "1m", kick_socket = "/k" }
output = { dir = "/o", mode = "0600" }
state.dir = "/s"
log = { format = "json", filter = "debug" }
[[xray]]
name = "a"
in_flight = 1024
[[xray]]
name = "b"
address = "[::1]:10086"
[[node]]
id = 2
[[node.inbounds]]
tag = "In B:1"
xray = "b"
protocol = "shadowsocks"
method = "chacha20-ietf-poly1305"
level = 1
exclusive = true
[[node.inbounds]]
tag = "in-b"
xray = "a"
kernel_id = "b"
flow = ""
"#;

#[test]
fn every_key_of_the_file_is_read() {
    let config = run(FULL, &[]);
    let panel = config.panel.unwrap();
    assert_eq!(panel.proxy.unwrap().0.as_str(), "socks5h://u:p@h:1");
    assert_eq!((panel.body_bytes_max, panel.users_max), (4096, 9));
    assert_eq!(config.sync.resync_interval, seconds(3600));
    assert_eq!(
        config.sync.brake,
        Brake {
            confirm_polls: 3,
            confirm_polls_all: 4
        }
    );
    assert_eq!(config.hook.timeout, seconds(60));
    assert_eq!(
        config.output,
        Output {
            dir: "/o".into(),
            mode: 0o600
        }
    );
    assert_eq!(config.state_dir, Path::new("/s"));
    assert_eq!(
        config.log,
        Log {
            format: Some(LogFormat::Json),
            filter: "debug".into()
        }
    );
    assert_eq!(config.xrays[0].in_flight, 1024);
    assert_eq!(
        config.xrays[1].address,
        XrayAddress::Tcp("[::1]:10086".into())
    );
}

#[test]
fn every_key_of_an_inbound_is_read() {
    let config = run(FULL, &[]);
    let [first, second] = &config.nodes[0].inbounds[..] else {
        panic!()
    };
    assert_eq!(
        (first.xray.as_str(), first.kernel_id.as_str()),
        ("b", "in-b-1")
    );
    assert_eq!(first.protocol, Some(Protocol::Shadowsocks));
    assert_eq!(first.method.as_deref(), Some("chacha20-poly1305"));
    assert_eq!(
        (first.level, first.exclusive, &first.flow),
        (1, true, &Flow::Auto)
    );
    assert_eq!(
        (second.xray.as_str(), second.kernel_id.as_str()),
        ("a", "b")
    );
    assert_eq!(second.flow, Flow::Given(String::new()));
}

#[test]
fn the_state_lies_where_systemd_says_unless_told_otherwise() {
    let systemd = ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
    assert_eq!(with(&[systemd]).state_dir, Path::new("/var/lib/a"));
    assert_eq!(
        with(&[systemd, ("STATE_DIR", "/mine")]).state_dir,
        Path::new("/mine")
    );
    let file = run("state.dir = '/file'", &[&LEAST[..], &[systemd]].concat());
    assert_eq!(file.state_dir, Path::new("/file"));
    assert_eq!(
        with(&[("OUTPUT_DIR", "/o")]).state_dir,
        Path::new("/o/.xray-agent")
    );
}

#[test]
fn the_default_file_is_read_where_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, "log.filter = 'trace'").unwrap();
    let sources = Sources {
        environment: Environment::from_pairs(LEAST),
        file: None,
    };
    assert_eq!(
        read_or_default(&sources, Need::Run, &path)
            .unwrap()
            .log
            .filter,
        "trace"
    );
    let nowhere = Path::new(NOWHERE);
    assert_eq!(
        read_or_default(&sources, Need::Run, nowhere)
            .unwrap()
            .log
            .filter,
        "info"
    );
}

#[test]
fn neither_tokens_nor_variables_are_printed() {
    let config = with(&[("INTERNAL_API_KEY", "canary")]);
    let environment = Environment::from_pairs([("INTERNAL_API_KEY", "canary")]);
    let sources = Sources {
        environment,
        file: None,
    };
    let text = format!("{config:?} {sources:?}");
    assert!(!text.contains("canary"), "{text}");
}

#[test]
fn the_packaged_file_and_the_documented_example_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packaged = std::fs::read_to_string(root.join("packaging/config.toml")).unwrap();
    let docs = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    let example = docs
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    for file in [packaged.as_str(), example.unwrap()] {
        assert!(file.contains("\ntoken_file = "));
        let read = read_both(file, &LEAST[..1], Need::Check);
        assert!(read.is_ok(), "{}", read.unwrap_err());
    }
}
