//! Every key of the file with its variable, kind, default and meaning: one table, from which the
//! reader takes variables and defaults, and from which the reference is made. What is not in here
//! does not exist.

use std::fmt::Write as _;

/// A key of the configuration.
#[derive(Debug)]
pub(super) struct Key {
    /// Group and name: `sync.interval`, `node.inbounds.tag`.
    pub(super) path: &'static str,
    /// The variable that goes before the file; empty for none.
    pub(super) variable: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Fallback,
    meaning: &'static str,
}

/// What may be written in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Empty is as if it were not there.
    Text,
    /// Empty has a meaning of its own.
    TextOrEmpty,
    /// Go's notation, or a number of seconds.
    Duration,
    Integer,
    Boolean,
    List,
}

/// What holds where nothing is set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fallback {
    /// This text, read as a variable's would be.
    Value(&'static str),
    /// Decided by the reader, in these words.
    Told(&'static str),
}

impl Kind {
    /// What it is, as one says it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text | Self::TextOrEmpty => "text",
            Self::Duration => "a duration",
            Self::Integer => "a whole number",
            Self::Boolean => "true or false",
            Self::List => "a list",
        }
    }
}

impl Key {
    /// Its name within its group.
    pub(super) fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// The group that it is in.
    pub(super) fn group(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(group, _)| group)
    }
}

/// The groups of keys: name, how the file writes it, what it is about.
pub(super) const GROUPS: [(&str, &str, &str); 15] = [
    ("panel", "[panel]", "The panel that is polled."),
    (
        "sync",
        "[sync]",
        "How often, and when a removal of many users waits for further polls.",
    ),
    ("apply", "[apply]", "What is done with the allowed users."),
    (
        "traffic",
        "[traffic]",
        "Traffic of users, in mode `xray-grpc`.",
    ),
    (
        "metrics",
        "[metrics]",
        "What is shown to Prometheus; see [metrics](metrics.md).",
    ),
    (
        "output",
        "[output]",
        "The files for other programs: `node-<id>/allowed-uuids.txt` and more.",
    ),
    ("state", "[state]", "What the agent keeps for itself."),
    ("http", "[http]", "The agent's HTTP server."),
    (
        "kernel",
        "[kernel]",
        "The control plane of a panel that pushes, `/v1` of the HTTP server. It is served once a \
         credential is set, or with `http.allow_insecure`.",
    ),
    (
        "kernel.panel",
        "[kernel.panel]",
        "A panel that is told of nodes and traffic without having registered for it.",
    ),
    (
        "kernel.panel.bindings",
        "[[kernel.panel.bindings]]",
        "By which numbers that panel knows an inbound.",
    ),
    ("log", "[log]", "The log, on standard error."),
    (
        "xray",
        "[[xray]]",
        "One for each Xray on this host; none is needed for one at its default.",
    ),
    (
        "node",
        "[[node]]",
        "One for each node of the panel that is served here.",
    ),
    (
        "node.inbounds",
        "inbounds = [ { … } ]",
        "An inbound is written as its tag alone, or as a table with these keys.",
    ),
];

/// The groups that are lists of tables.
pub(super) const LISTS: [&str; 3] = ["xray", "node", "kernel.panel.bindings"];

use Fallback::{Told, Value};
use Kind::{Boolean, Duration, Integer, List, Text, TextOrEmpty};

const fn key(
    path: &'static str,
    variable: &'static str,
    kind: Kind,
    default: Fallback,
    meaning: &'static str,
) -> Key {
    Key {
        path,
        variable,
        kind,
        default,
        meaning,
    }
}

/// All keys, in the order of the reference.
// By hand, two lines a key: one a line is too long, and rustfmt would make it seven.
#[rustfmt::skip]
pub(super) static KEYS: [Key; 66] = [
    key("panel.url", "PANEL_BASE_URL", Text, Value("http://localhost:3000"),
        "Address of the panel, `http` or `https`."),
    key("panel.token", "INTERNAL_API_KEY", Text, Told("required"),
        "The panel's internal key; sent as `x-internal-token`."),
    key("panel.token_file", "INTERNAL_API_KEY_FILE", Text, Told("none"),
        "A file that holds the key instead."),
    key("panel.timeout", "HTTP_TIMEOUT_SECONDS", Duration, Value("10s"),
        "For a whole request to the panel; at most 1h."),
    key("panel.proxy", "", Text, Told("none"),
        "Reach the panel by this proxy: `http://`, `https://`, `socks5://` or `socks5h://`."),
    key("panel.body_bytes_max", "", Integer, Value("67108864"),
        "Largest answer in bytes, decompressed."),
    key("panel.users_max", "", Integer, Value("200000"),
        "Most users in one answer."),
    key("sync.interval", "INTERVAL_SECONDS", Duration, Value("10s"),
        "Between two polls; at most 24h."),
    key("sync.resync_interval", "", Duration, Value("5m"),
        "At the latest after this all users are read from Xray; at most 24h."),
    key("sync.confirm_polls", "", Integer, Value("2"),
        "Polls that must agree before over half of the users, and over 20, are removed."),
    key("sync.confirm_polls_all", "", Integer, Value("6"),
        "Polls that must agree before over nine tenths of the users, and at least 2, are removed."),
    key("apply.mode", "APPLY_MODE", Text, Told("`cmd` when a command is set, else `none`"),
        "`xray-grpc`: keep running Xrays equal. `cmd`: run a command after each change. `none`: \
         only write the files."),
    key("apply.command", "APPLY_CMD", Text, Told("none"),
        "The command, for `sh`; placeholders `{node_id}`, `{uuids_file}`, `{uuids_json}`."),
    key("apply.timeout", "APPLY_TIMEOUT_SECONDS", Duration, Value("60s"),
        "Then the command is ended, with all it started; at most 1h."),
    key("apply.kick", "XRAY_KICK", Text, Value("auto"),
        "Open sessions of a user who is removed. `auto`: they are cut wherever that can be done. \
         `off`: they go on until they end by themselves."),
    key("apply.kick_socket", "XRAY_KICK_SOCKET", Text, Value("/run/xray-agent-kick.sock"),
        "Where `xray-agent-kick.socket` listens: it cuts for an agent that may not do it itself."),
    key("apply.kick_ports", "", Text, Told("asked of Xray"),
        "The ports on which that unit cuts, such as `443,10000-10100`."),
    key("apply.block_outbound", "", Text, Told("none"),
        "Tag of a blackhole outbound, for new streams of removed users whose sessions could not be cut."),
    key("traffic.enabled", "ENABLE_TRAFFIC_REPORT", Boolean, Value("true"),
        "Count users' traffic and report it to the panel."),
    key("traffic.report_interval", "TRAFFIC_REPORT_INTERVAL_SECONDS", Duration, Value("60s"),
        "Between two reports of a user; at most 24h."),
    key("traffic.collect_interval", "TRAFFIC_COLLECT_INTERVAL_SECONDS", Duration, Value("10s"),
        "Between two readings of Xray's counters; at most 1h."),
    key("traffic.on_unknown", "TRAFFIC_ON_UNKNOWN", Text, Value("auto"),
        "What is done with a report of which it is not known whether the panel took it. `hold`: it \
         waits to be resolved. `resend`: it is sent again, which may count it twice. `auto`: it is \
         sent again only to a panel that has shown that it drops repeats."),
    key("traffic.first_read", "", Text, Value("adopt"),
        "Bytes that a running Xray counted before this ledger was begun. `adopt`: they are shown, \
         not reported. `count`: they are reported."),
    key("metrics.per_user", "", Boolean, Value("false"),
        "Show every user's traffic, by the first 8 characters of the UUID: two series for each user."),
    key("metrics.top", "", Integer, Value("0"),
        "Show the traffic of so many users, of those who moved most since the start; at most 1000."),
    key("output.dir", "OUTPUT_DIR", Text, Value("./out"),
        "Folder of the files for other programs."),
    key("output.mode", "", Text, Value("0640"),
        "Mode of those files, in octal, as text."),
    key("state.dir", "STATE_DIR", Text,
        Told("`$STATE_DIRECTORY`, else `.xray-agent` in the output folder"),
        "Folder of locks, state and the control socket."),
    key("http.listen", "HTTP_LISTEN", TextOrEmpty, Value("127.0.0.1:23860"),
        "Where it listens: `address:port`, or `off`. Other addresses than loopback need TLS."),
    key("http.scheduler_listen", "HTTP_SCHEDULER_LISTEN", TextOrEmpty, Value("127.0.0.1:7100"),
        "Where the scheduler listens besides, while it has something to serve; or `off`."),
    key("http.tls_cert", "HTTP_TLS_CERT", Text, Told("none: plain HTTP"),
        "Certificate chain in PEM, for all listeners; read again when it is renewed."),
    key("http.tls_key", "HTTP_TLS_KEY", Text, Told("none"),
        "Its private key in PEM."),
    key("http.hosts", "HTTP_HOSTS", Text, Told("addresses and `localhost`"),
        "Further names, between commas, under which a listener on loopback is asked, such as a proxy's."),
    key("http.read_token", "HTTP_READ_TOKEN", Text, Told("none: they may not"),
        "By this bearer token others than this host may read `/metrics` and `/openapi.json`; at least 16 characters."),
    key("http.allow_insecure", "HTTP_ALLOW_INSECURE", Boolean, Value("false"),
        "Answer without a credential; only while all listeners are on loopback."),
    key("kernel.access_key", "KERNEL_ACCESS_KEY", Text, Told("none"),
        "Name of the panel that pushes, as the user of HTTP's basic authentication; goes with `secret_key`."),
    key("kernel.secret_key", "KERNEL_SECRET_KEY", Text, Told("none"),
        "Its password; at least 16 characters."),
    key("kernel.token", "KERNEL_TOKEN", Text, Told("none"),
        "A bearer token that opens the same; at least 16 characters."),
    key("kernel.callbacks_allow", "KERNEL_CALLBACKS_ALLOW", Text, Told("none"),
        "What callbacks that were registered may reach of this host and of private networks: addresses, \
         networks and names, each with a port or for all, between commas."),
    key("kernel.degraded_after", "KERNEL_DEGRADED_AFTER", Integer, Value("1"),
        "Failures in a row from which on a node is degraded; at most 1000."),
    key("kernel.unhealthy_after", "KERNEL_UNHEALTHY_AFTER", Integer, Value("3"),
        "Failures in a row from which on it is unhealthy; not under `degraded_after`."),
    key("kernel.export_dir", "KERNEL_EXPORT_DIR", Text, Told("none: nothing is exported"),
        "The folder under which `/v1/export` may write."),
    key("kernel.geo_dir", "KERNEL_GEO_DIR", Text, Told("none: no providers"),
        "The folder of Xray's geo data, `geoip.dat` and its like, shown as providers of rules."),
    key("kernel.audit_keep", "KERNEL_AUDIT_KEEP", Integer, Value("100000"),
        "Calls that changed something of which a record is kept; the oldest go."),
    key("kernel.panel.url", "KERNEL_PANEL_URL", Text, Told("none"),
        "Its address, `http` or `https`."),
    key("kernel.panel.token", "KERNEL_PANEL_TOKEN", Text, Told("none"),
        "Its webhook's token, sent as `X-ZNP-Webhook-Token`."),
    key("kernel.panel.bindings", "", List, Told("none"),
        "Inbounds with the panel's numbers: a table for each."),
    key("kernel.panel.bindings.inbound", "", Text, Told("required"),
        "The inbound's `kernel_id`."),
    key("kernel.panel.bindings.node_id", "", Integer, Told("required"),
        "The panel's number of the node."),
    key("kernel.panel.bindings.binding_id", "", Integer, Told("required"),
        "The panel's number of its binding."),
    key("log.format", "LOG_FORMAT", Text, Told("`text` on a terminal, else `json`"),
        "`text` or `json`."),
    key("log.filter", "RUST_LOG", Text, Value("info"),
        "What is logged: a level, or directives such as `info,xray_agent::sync=debug`."),
    key("xray.name", "", Text, Value("xray"),
        "Its name; inbounds refer to it. Names differ."),
    key("xray.address", "XRAY_API_ADDR", Text, Value("127.0.0.1:10085"),
        "Its gRPC API: `host:port`, `unix:/path` or `unix:@abstract`."),
    key("xray.rpc_timeout", "XRAY_RPC_TIMEOUT_SECONDS", Duration, Value("5s"),
        "For one call; at most 1h."),
    key("xray.in_flight", "", Integer, Value("64"),
        "Most calls under way at once for each inbound, 1 to 1024."),
    key("node.id", "NODE_IDS", Integer, Told("required"),
        "The panel's id. The variable lists all: `1,2,3`."),
    key("node.inbounds", "XRAY_TAG_MAP", List, Told("`in-vless-reality` in mode `xray-grpc`"),
        "The inbounds that serve it. The variable gives tags: `1:in-a+in-ws,2:in-b`."),
    key("node.inbounds.xray", "", Text, Told("the only one"),
        "Name of the Xray that it is in."),
    key("node.inbounds.tag", "", TextOrEmpty, Told("required"),
        "Xray's tag of the inbound."),
    key("node.inbounds.kernel_id", "", Text, Told("made of the tag"),
        "Its name towards panels, only `a-z`, `0-9` and `-`; each inbound has its own."),
    key("node.inbounds.flow", "XRAY_VLESS_FLOW", TextOrEmpty, Value("auto"),
        "Flow of VLESS users: `auto` is `xtls-rprx-vision` where the inbound carries it; `none`; \
         or a flow."),
    key("node.inbounds.protocol", "", Text, Told("Xray tells"),
        "Used only where Xray does not tell: `vless`, `vmess`, `trojan`, `shadowsocks`, \
         `shadowsocks-2022` or `hysteria`."),
    key("node.inbounds.method", "", Text, Told("Xray tells"),
        "Shadowsocks' method, used only where no user of the inbound shows it."),
    key("node.inbounds.level", "", Integer, Value("0"),
        "Policy level of the users that are added."),
    key("node.inbounds.exclusive", "", Boolean, Value("false"),
        "Remove users that are not the agent's, too."),
];

/// The key of that name in that group.
pub(super) fn find(group: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.group() == group && key.name() == name)
}

/// The reference of the configuration, as Markdown: a table for each group.
pub fn reference() -> String {
    let mut text = String::new();
    for (group, header, about) in GROUPS {
        let _ = writeln!(text, "### `{header}`\n\n{about}\n");
        text.push_str("| key | variable | kind | default | meaning |\n|---|---|---|---|---|\n");
        for key in KEYS.iter().filter(|key| key.group() == group) {
            let variable = code(key.variable);
            let default = match key.default {
                Value(default) => code(default),
                Told(words) => words.to_owned(),
            };
            let kind = key.kind.name().trim_start_matches("a ");
            let (name, meaning) = (key.name(), key.meaning);
            let _ = writeln!(
                text,
                "| `{name}` | {variable} | {kind} | {default} | {meaning} |"
            );
        }
        text.push('\n');
    }
    text
}

fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Holds `docs/configuration.md` to the table; with `UPDATE_DOCS=1` it writes it instead.
    #[test]
    fn configuration_reference() {
        crate::base::generated::hold("configuration.md", "keys", &reference());
    }

    #[test]
    fn every_key_has_its_own_path_and_variable_and_a_group() {
        let paths: BTreeSet<_> = KEYS.iter().map(|key| key.path).collect();
        assert_eq!(paths.len(), KEYS.len());
        let variables: Vec<_> = KEYS.iter().map(|key| key.variable).collect();
        let named = variables.iter().filter(|name| !name.is_empty());
        assert_eq!(named.clone().collect::<BTreeSet<_>>().len(), named.count());
        for key in &KEYS {
            assert!(
                GROUPS.iter().any(|(group, ..)| *group == key.group()),
                "{}",
                key.path
            );
            assert!(!reference().contains("a list |") && !key.meaning.contains('|'));
        }
    }
}
