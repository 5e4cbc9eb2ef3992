//! How everything stands, on one screen: of one node with two inbounds it fits 80 columns and 24 lines.
//! Pure: whoever draws it gives the time. Words of others can neither break a line nor steer a terminal.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::table::{Column, Table, age, size, words};
use crate::app::status::{Standing, TaskStanding};
use crate::sync::status::{InboundStatus, NodeStatus};
use crate::traffic::ledger::views::NodeTotals;
use crate::traffic::status::{SinkStatus, TrafficStatus, XrayTraffic};

/// Where nothing is known.
const UNKNOWN: &str = "-";

const XRAYS: Table<7> = Table([
    Column::text("XRAY", 0),
    Column::text("ANSWERS", 0),
    Column::text("COUNTED", 0),
    Column::number("UP", 0),
    Column::number("DOWN", 0),
    Column::number("COUNTERS", 0),
    Column::number("OF OTHERS", 0),
]);

const NODES: Table<6> = Table([
    Column::text("NODE", 0),
    Column::text("PANEL", 0),
    Column::text("ANSWERED", 0),
    Column::number("ALLOWED", 0),
    Column::number("MALFORMED", 0),
    Column::number("HELD", 0),
]);

const INBOUNDS: Table<9> = Table([
    Column::text("NODE", 0),
    Column::text("INBOUND", 0),
    Column::number("ALLOWED", 0),
    Column::number("LIVE", 0),
    Column::number("DRIFT", 0),
    Column::number("FOREIGN", 0),
    Column::number("HELD", 0),
    Column::text("SYNCED", 0),
    Column::number("CUT", 0),
]);

const TRAFFIC: Table<7> = Table([
    Column::text("NODE", 0),
    Column::number("COUNTED", 0),
    Column::number("TAKEN", 0),
    Column::number("PENDING", 0),
    Column::number("REJECTED", 0),
    Column::number("UNKNOWN", 0),
    Column::text("OLDEST", 0),
]);

/// A screen, and whether something on it is wrong.
pub(super) struct Screen {
    pub(super) lines: Vec<String>,
    pub(super) is_wrong: bool,
}

/// Draws it as of `now`.
pub(super) fn draw(standing: &Standing, now: Timestamp) -> Screen {
    let mut lines = head(standing, now);
    let groups = [
        xrays(standing, now),
        nodes(standing, now),
        inbounds(standing, now),
        traffic(standing, now),
        tasks(&standing.tasks),
        marked("note: ", notes(standing)),
    ];
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        lines.push(String::new());
        lines.extend(group);
    }
    let errors = errors(standing);
    let is_wrong = !errors.is_empty() || !standing.running;
    lines.push(String::new());
    if errors.is_empty() {
        lines.push("errors: none".to_owned());
    }
    lines.extend(marked("error: ", errors));
    Screen { lines, is_wrong }
}

fn head(standing: &Standing, now: Timestamp) -> Vec<String> {
    let (version, mode) = (words(&standing.version), words(&standing.mode));
    if !standing.running {
        let left = match standing.written_at {
            Some(at) => format!("this is what it left there {}", ago(Some(at), now)),
            None => "and nothing is kept there".to_owned(),
        };
        let folder = words(&standing.state_dir.to_string_lossy());
        return vec![
            format!("no agent is running on {folder}:"),
            format!("{left} (mode {mode}); nobody was asked"),
        ];
    }
    let process = standing.process.unwrap_or_default();
    let up = standing
        .started
        .map_or(UNKNOWN.to_owned(), |at| age(at, now));
    vec![format!(
        "xray-agent {version}: process {process}, up {up}, mode {mode}"
    )]
}

/// How long ago.
fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or(UNKNOWN.to_owned(), |at| format!("{} ago", age(at, now)))
}

fn table<const N: usize>(table: Table<N>, rows: &[[String; N]]) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let table = table.fitted(rows);
    let body = rows.iter().map(|row| table.row(row));
    std::iter::once(table.heading()).chain(body).collect()
}

fn marked(mark: &str, texts: Vec<String>) -> Vec<String> {
    let line = |text: String| format!("{mark}{}", words(&text));
    texts.into_iter().map(line).collect()
}

fn xrays(standing: &Standing, now: Timestamp) -> Vec<String> {
    // Whether it answers; `None`: not known yet.
    let mut answers: BTreeMap<&str, Option<bool>> = BTreeMap::new();
    for inbound in standing.nodes.iter().flat_map(|node| &node.inbounds) {
        let known = inbound.protocol.is_some() || inbound.error.is_some();
        let one = known.then_some(!inbound.away);
        let all = answers.entry(&inbound.xray).or_insert(one);
        *all = all.map_or(one, |all| Some(all && one.unwrap_or(true)));
    }
    let counted = |name: &str| {
        let all = standing.traffic.iter().flat_map(|traffic| &traffic.xrays);
        all.into_iter().find(|xray| xray.xray == name)
    };
    let rows: Vec<_> = answers
        .into_iter()
        .filter(|_| standing.running)
        .map(|(name, answers)| xray(name, answers, counted(name), now))
        .collect();
    table(XRAYS, &rows)
}

fn xray(
    name: &str,
    answers: Option<bool>,
    counted: Option<&XrayTraffic>,
    now: Timestamp,
) -> [String; 7] {
    let of = |show: fn(&XrayTraffic) -> String| counted.map_or(UNKNOWN.to_owned(), show);
    let answers = match answers {
        Some(true) => "yes",
        Some(false) => "no",
        None => UNKNOWN,
    };
    [
        words(name),
        answers.to_owned(),
        ago(counted.and_then(|xray| xray.collected_at), now),
        of(|xray| size(xray.up)),
        of(|xray| size(xray.down)),
        of(|xray| xray.ours.to_string()),
        of(|xray| xray.foreign.to_string()),
    ]
}

fn nodes(standing: &Standing, now: Timestamp) -> Vec<String> {
    let row = |node: &NodeStatus| {
        let panel = match (&node.panel_error, node.answered_at) {
            _ if !node.polled => "none",
            (Some(_), _) => "fails",
            (None, Some(_)) => "answers",
            (None, None) => UNKNOWN,
        };
        [
            node.node.to_string(),
            panel.to_owned(),
            ago(node.answered_at, now),
            node.allowed
                .map_or(UNKNOWN.to_owned(), |users| users.to_string()),
            node.malformed.to_string(),
            node.held.to_string(),
        ]
    };
    let rows: Vec<_> = standing.nodes.iter().map(row).collect();
    let mut lines = table(NODES, &rows);
    for node in &standing.nodes {
        lines.extend(node.hook.as_ref().map(|hook| {
            let success = ago(hook.last_success, now);
            let (runs, failures) = (hook.runs, hook.failures);
            let of = node.node;
            format!("hook of node {of}: {runs} runs, {failures} failed, last well {success}")
        }));
    }
    lines
}

fn inbounds(standing: &Standing, now: Timestamp) -> Vec<String> {
    let mut names: Vec<_> = each_inbound(standing)
        .map(|(_, inbound)| &inbound.xray)
        .collect();
    names.sort();
    names.dedup();
    let several = names.len() > 1;
    let rows: Vec<_> = each_inbound(standing)
        .map(|(node, it)| inbound(node, it, standing.running, several, now))
        .collect();
    table(INBOUNDS, &rows)
}

/// `several`: there is more than one Xray.
fn inbound(
    node: &NodeStatus,
    inbound: &InboundStatus,
    running: bool,
    several: bool,
    now: Timestamp,
) -> [String; 9] {
    let was_seen = running && inbound.protocol.is_some();
    let was_kept = !running && (node.allowed.is_some() || !node.polled);
    let known = |count: &dyn ToString, is_known: bool| {
        if is_known {
            count.to_string()
        } else {
            UNKNOWN.to_owned()
        }
    };
    let drift = inbound.desired.cast_signed() - inbound.live.cast_signed();
    let name = if several {
        format!("{} in {}", inbound.tag, inbound.xray)
    } else {
        inbound.tag.clone()
    };
    [
        node.node.to_string(),
        words(&name),
        known(&inbound.desired, was_seen || was_kept),
        known(&inbound.live, was_seen || was_kept),
        known(&drift, was_seen),
        known(&inbound.foreign, was_seen),
        inbound.held.to_string(),
        ago(inbound.last_success, now),
        known(&inbound.kick.users, running),
    ]
}

fn each_inbound(standing: &Standing) -> impl Iterator<Item = (&NodeStatus, &InboundStatus)> {
    let nodes = standing.nodes.iter();
    nodes.flat_map(|node| node.inbounds.iter().map(move |inbound| (node, inbound)))
}

fn traffic(standing: &Standing, now: Timestamp) -> Vec<String> {
    let sums = standing.ledger.iter().flat_map(|ledger| &ledger.nodes);
    let rows: Vec<_> = sums.map(|node| totals(node, now)).collect();
    let mut lines = table(TRAFFIC, &rows);
    let sinks = standing.traffic.iter().flat_map(|traffic| &traffic.sinks);
    lines.extend(sinks.map(|it| sink(it, now)));
    lines
}

fn totals(node: &NodeTotals, now: Timestamp) -> [String; 7] {
    let waiting = node.open.bytes.plus(node.pending.bytes);
    [
        node.node.to_string(),
        size(node.counted.total()),
        size(node.settled.bytes.total()),
        size(waiting.plus(node.sending.bytes).total()),
        size(node.rejected.bytes.total()),
        size(node.unknown.bytes.total()),
        ago(node.oldest, now),
    ]
}

fn sink(sink: &SinkStatus, now: Timestamp) -> String {
    let mut line = format!(
        "{}: {} of {} at once under way, last took one {}",
        words(&sink.sink),
        sink.under_way,
        sink.at_once,
        ago(sink.settled_at, now)
    );
    if let Some(at) = sink.resumes_at {
        line += ", next in ";
        line += &age(now, at);
    }
    line
}

/// How many there are, and those that are not well.
fn tasks(all: &[TaskStanding]) -> Vec<String> {
    if all.is_empty() {
        return Vec::new();
    }
    let is_well = |task: &&TaskStanding| task.alive && task.last_error.is_none();
    let well = all.iter().filter(is_well).count();
    let mut lines = vec![format!("tasks: {well} of {} well", all.len())];
    for task in all.iter().filter(|task| !is_well(task)) {
        let now = if task.alive { "runs" } else { "does not run" };
        let why = task.last_error.as_deref().map_or(String::new(), |error| {
            format!(", failed last: {}", words(error))
        });
        let (name, restarts) = (words(&task.name), task.restarts);
        lines.push(format!("  {name} {now}, {restarts} restarts{why}"));
    }
    lines
}

/// What is not as usual, and no error.
fn notes(standing: &Standing) -> Vec<String> {
    let mut notes = Vec::new();
    let configuration = standing.configuration.iter();
    for changed in configuration.flat_map(|it| &it.after_restart) {
        notes.push(format!(
            "{changed} has changed in the configuration: a restart takes it in"
        ));
    }
    for (_, inbound) in each_inbound(standing) {
        let tag = &inbound.tag;
        if inbound.pushed > 0 {
            let (pushed, allowed) = (inbound.pushed, inbound.desired);
            notes.push(format!("{tag}: {pushed} of {allowed} allowed were pushed"));
        }
        if !inbound.read_back {
            let core = match inbound.core.as_deref() {
                Some("v2ray") => "V2Ray 4",
                _ => "this Xray",
            };
            notes.push(format!(
                "{tag}: {core} cannot list its users: what was applied is taken for live"
            ));
        }
        if inbound.conflicts > 0 {
            let users = inbound.conflicts;
            notes.push(format!(
                "{tag}: {users} in conflict: another has their secret"
            ));
        }
        if inbound.kick.not_cut > 0 {
            let users = inbound.kick.not_cut;
            notes.push(format!("{tag}: {users} who were removed may be connected"));
        }
        if let Some(why) = &inbound.kick.obstacle {
            notes.push(format!(
                "{tag}: open sessions of removed users may go on: {why}"
            ));
        }
        for source in &inbound.unknown_sources {
            notes.push(format!("{tag}: nobody is removed, not known: {source}"));
        }
    }
    notes
}

fn errors(standing: &Standing) -> Vec<String> {
    let refused = standing.configuration.iter().flat_map(|it| &it.error);
    let refused = refused.map(|why| {
        format!("the configuration was refused, the one before it is still used: {why}")
    });
    let mut errors: Vec<String> = refused.collect();
    errors.extend(standing.ledger_error.iter().cloned());
    errors.extend(standing.nodes.iter().flat_map(NodeStatus::problems));
    errors.extend(standing.traffic.iter().flat_map(TrafficStatus::problems));
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::app::ConfigurationStatus;

    const NOW: &str = "2026-11-21T12:00:00Z";
    /// The widest ages and sizes there are.
    const BEFORE: &str = "2026-11-21T11:00:01Z";
    const BYTES: u64 = 1_073_741_000;

    /// A running agent with that many inbounds on one node, where all figures are long.
    fn standing(inbounds: usize) -> Standing {
        let inbound = json!({
            "xray": "main", "tag": "in-vless-reality", "protocol": "vless", "desired": 100_000,
            "live": 99_999, "foreign": 1_000, "held": 0, "held_polls": null, "conflicts": 0,
            "failed": 0, "added": 0, "removed": 0, "read_back": true, "last_success": BEFORE,
            "error": null, "unknown_sources": [],
        });
        let node = json!({
            "node": 1234, "allowed": 100_000, "malformed": 0, "held": 0, "answered_at": BEFORE,
            "panel_error": null, "files_error": null, "hook": null,
            "inbounds": vec![inbound; inbounds],
        });
        let amount = json!({"reports": 1, "up": 0, "down": BYTES});
        let sums = json!({
            "node": 1234, "sink": "report-traffic", "counted": {"up": 0, "down": BYTES},
            "settled": amount, "open": amount, "pending": amount, "sending": amount,
            "rejected": amount, "unknown": amount, "oldest": BEFORE,
        });
        let xray = json!({
            "xray": "main", "collected_at": BEFORE, "error": null, "up": BYTES, "down": BYTES,
            "ours": 200_000, "foreign": 1_000, "foreign_bytes": BYTES, "adopted_bytes": 0,
            "resets": 0, "shared_address": false, "not_counting": null,
        });
        let sink = json!({
            "sink": "report-traffic", "address": "http://panel.example.org/", "under_way": 16,
            "at_once": 16, "dedupes": true, "settled_at": BEFORE, "error": null, "fault": false,
            "resumes_at": null,
        });
        let standing = json!({
            "running": true, "state_dir": "/var/lib/xray-agent", "version": "0.1.0",
            "process": 1_234_567, "mode": "xray-grpc", "started": BEFORE, "nodes": [node],
            "traffic": {"xrays": [xray], "sinks": [sink], "ledger_error": null},
            "tasks": [{"name": "node 1234", "alive": true, "restarts": 0, "last_error": null}],
            "ledger": {"nodes": [sums], "adopted": []}, "ledger_error": null,
        });
        serde_json::from_value(standing).unwrap()
    }

    fn drawn(standing: &Standing) -> Screen {
        draw(standing, NOW.parse().unwrap())
    }

    #[test]
    fn a_configuration_that_was_refused_and_one_that_waits_are_shown() {
        let mut standing = standing(1);
        standing.configuration = Some(ConfigurationStatus {
            error: Some("panel.url: is no address\nnode: is empty".to_owned()),
            after_restart: vec!["http".to_owned()],
            ..ConfigurationStatus::default()
        });
        let screen = drawn(&standing);
        assert!(screen.is_wrong);
        let has = |words: &str| screen.lines.iter().any(|line| line.contains(words));
        assert!(has("note: http has changed in the configuration"));
        assert!(
            has("still used: panel.url: is no address"),
            "{:?}",
            screen.lines
        );
    }

    #[test]
    fn a_node_with_two_inbounds_fits_a_terminal_of_80_by_24() {
        let screen = drawn(&standing(2));
        assert!(!screen.is_wrong);
        assert!(screen.lines.len() <= 24, "{:#?}", screen.lines);
        for line in &screen.lines {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_task_that_is_not_well_is_named_and_words_of_others_stay_in_their_line() {
        let mut standing = standing(1);
        standing.tasks.push(TaskStanding {
            name: "inbound \u{1b}[2J".to_owned(),
            alive: false,
            restarts: 3,
            last_error: Some("panicked:\nat once".to_owned()),
        });
        let tag = &mut standing.nodes[0].inbounds[0].tag;
        *tag = "aaaaaaaa-0000-4000-8000-000000000001\n".to_owned();
        standing.nodes[0].panel_error = Some("no\u{202e} answer".to_owned());
        let screen = drawn(&standing);
        assert!(screen.is_wrong);
        let text = screen.lines.concat();
        assert!(!text.contains(['\n', '\u{1b}', '\u{202e}']), "{text}");
        assert!(!text.contains("aaaaaaaa-0000"), "{text}");
        assert!(text.contains("tasks: 1 of 2 well"), "{text}");
        assert!(
            text.contains("does not run, 3 restarts, failed last: panicked"),
            "{text}"
        );
        assert!(text.contains("error: node 1234: panel: no"), "{text}");
    }

    #[test]
    fn without_a_polled_panel_none_is_missed_and_pushed_users_are_told() {
        let mut standing = standing(1);
        let node = standing.nodes[0].clone().of_panel(false);
        standing.nodes[0] = node;
        standing.nodes[0].inbounds[0].pushed = 7;
        let screen = drawn(&standing);
        assert!(!screen.is_wrong);
        let text = screen.lines.join("\n");
        assert!(text.contains("7 of 100000 allowed were pushed"), "{text}");
        assert!(text.contains("none"), "{text}");
        assert!(!text.contains("fails"), "{text}");
    }

    #[test]
    fn what_was_never_seen_is_not_shown_as_nothing() {
        let mut standing = standing(1);
        standing.nodes[0].inbounds[0].protocol = None;
        let screen = drawn(&standing);
        let row = screen
            .lines
            .iter()
            .find(|line| line.contains("in-vless-reality"));
        let cells: Vec<_> = row.unwrap().split_whitespace().collect();
        assert_eq!(cells[2..6], ["-", "-", "-", "-"], "{cells:?}");
    }
}
