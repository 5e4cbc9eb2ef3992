//! What people read.

use super::{FAILED, traffic_print};
use crate::app::{Preview, Reloaded};
use crate::config::{ApplyMode, Config};
use crate::model::ids::UserId;
use crate::model::user_list::UserList;
use crate::sync::plan::Plan;
use crate::sync::status::{InboundStatus, KickStatus, NodeStatus};
use crate::traffic::status::TrafficStatus;

/// The outcome of a pass; the exit code.
pub(super) fn outcome(nodes: &[NodeStatus]) -> u8 {
    let mut failed = false;
    for node in nodes {
        say!("{}", node_line(node));
        for inbound in &node.inbounds {
            say!("  {}", inbound_line(inbound));
            if let Some(why) = &inbound.kick.obstacle {
                say!("    open sessions of removed users may go on: {why}");
            }
        }
        for problem in node.problems() {
            failed = true;
            eprintln!("{problem}");
        }
    }
    if failed { FAILED } else { 0 }
}

fn node_line(node: &NodeStatus) -> String {
    let allowed = node.allowed.map_or("unknown".to_owned(), |n| n.to_string());
    let mut parts = vec![format!("{allowed} allowed")];
    parts.extend(counts([
        (node.malformed, "malformed"),
        (node.held, "held in the files"),
    ]));
    format!("node {}: {}", node.node, parts.join(", "))
}

fn inbound_line(inbound: &InboundStatus) -> String {
    let protocol = inbound.protocol.as_deref().unwrap_or("protocol unknown");
    let mut parts = vec![
        format!("{} live", inbound.live),
        format!("{} added", inbound.added),
        format!("{} removed", inbound.removed),
    ];
    parts.extend(counts([
        (inbound.foreign, "foreign"),
        (inbound.held, "held"),
        (inbound.conflicts, "in conflict"),
        (inbound.failed, "failed"),
    ]));
    let mut line = format!("{} ({protocol}): {}", inbound.tag, parts.join(", "));
    if !inbound.read_back {
        line += match inbound.core.as_deref() {
            Some("v2ray") => " (V2Ray 4",
            _ => " (this Xray",
        };
        line += " cannot list its users: what was applied is taken for live)";
    }
    line += &kicked(&inbound.kick);
    for unknown in &inbound.unknown_sources {
        line += "; nobody is removed, for a source is unknown: ";
        line += unknown;
    }
    line
}

/// What became of open sessions of users who were removed, if there is anything to say.
fn kicked(kick: &KickStatus) -> String {
    let (users, sockets, left) = (kick.users, kick.sockets, kick.not_cut);
    let cut = (users > 0).then(|| format!("; cut off {users} ({sockets} connections)"));
    let not_cut = (left > 0).then(|| format!("; could not cut off {left}"));
    [cut, not_cut].into_iter().flatten().collect()
}

/// Those that are not zero.
fn counts<const N: usize>(of: [(usize, &str); N]) -> impl Iterator<Item = String> + '_ {
    of.into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
}

/// How traffic stands; the exit code.
pub(super) fn traffic(status: &TrafficStatus) -> u8 {
    for xray in &status.xrays {
        say!("{}", traffic_print::xray(xray));
    }
    for sink in &status.sinks {
        say!("{}", traffic_print::sink(sink));
    }
    let problems = status.problems();
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() { 0 } else { FAILED }
}

/// What passes would do; the exit code.
pub(super) fn previews(previews: &[Preview], verbose: bool) -> u8 {
    let mut failed = false;
    for preview in previews {
        match &preview.plan {
            Ok(plan) => {
                say!("node {}, {}", preview.node, planned(&preview.status, plan));
                if verbose {
                    users(plan);
                }
            }
            Err(why) => {
                failed = true;
                eprintln!("node {}, {}: {why}", preview.node, preview.status.tag);
            }
        }
        for unknown in &preview.status.unknown_sources {
            failed = true;
            eprintln!("node {}, {}: {unknown}", preview.node, preview.status.tag);
        }
    }
    if failed { FAILED } else { 0 }
}

fn planned(status: &InboundStatus, plan: &Plan) -> String {
    let repairs = plan.repairs.len();
    format!(
        "{}: {} desired, {} live, {} foreign; would add {}, remove {}, rewrite {repairs}, hold {}",
        status.tag,
        status.desired,
        status.live,
        status.foreign,
        plan.additions.len(),
        plan.removals.len(),
        status.held
    )
}

fn users(plan: &Plan) {
    let each = |sign: char, users: &mut dyn Iterator<Item = UserId>| {
        users.for_each(|user| say!("  {sign} {user}"));
    };
    each(
        '-',
        &mut plan.removals.iter().filter_map(|removal| removal.user),
    );
    each('~', &mut plan.repairs.iter().map(|repair| repair.user));
    each('+', &mut plan.additions.iter().copied());
    each('!', &mut plan.conflicts.iter().copied());
}

/// The outcome of `apply`; the exit code.
pub(super) fn applied(list: &UserList, inbounds: &[InboundStatus]) -> u8 {
    let mut failed = false;
    if list.malformed > 0 {
        eprintln!("{} lines are no UUIDs and were passed over", list.malformed);
    }
    for inbound in inbounds {
        say!("{}", inbound_line(inbound));
        if let Some(problem) = inbound.problem() {
            failed = true;
            eprintln!("{}: {problem}", inbound.tag);
        }
    }
    if failed { FAILED } else { 0 }
}

/// A configuration that is right, in short.
pub(super) fn configuration(config: &Config) {
    let mode = match config.mode {
        ApplyMode::XrayGrpc => "xray-grpc: users are changed in the running Xray",
        ApplyMode::Cmd => "cmd: the hook runs after each change",
        ApplyMode::None => "none: only the files are kept",
    };
    say!("the configuration is right");
    say!("mode   {mode}");
    if let Some(panel) = &config.panel {
        say!("panel  {} every {:?}", panel.url, config.sync.interval);
    } else {
        say!("panel  none is polled: users are pushed");
    }
    if let Some(panel) = &config.kernel.panel {
        say!("kernel panel  {}: told of nodes and traffic", panel.url);
    }
    for node in &config.nodes {
        let tags: Vec<_> = node
            .inbounds
            .iter()
            .map(|inbound| format!("{} in {}", inbound.tag, inbound.xray))
            .collect();
        say!("node   {} {}", node.id, tags.join(", "));
    }
    if config.mode == ApplyMode::XrayGrpc {
        for xray in &config.xrays {
            say!("xray   {} at {}", xray.name, xray.address);
        }
    }
    if let Some(line) = traffic_line(config) {
        say!("{line}");
    }
    say!("files  {}", config.output.dir.display());
    say!("state  {}", config.state_dir.display());
}

/// What is done about traffic; nothing in the modes that have none.
fn traffic_line(config: &Config) -> Option<String> {
    let traffic = &config.traffic;
    match (config.mode, traffic.enabled) {
        (ApplyMode::XrayGrpc, true) => Some(format!(
            "traffic  counted every {:?}, reported every {:?}",
            traffic.collect_interval, traffic.report_interval
        )),
        (ApplyMode::XrayGrpc, false) => Some("traffic  not counted".to_owned()),
        _ => None,
    }
}

/// What a reload came to.
pub(super) fn reloaded(reloaded: &Reloaded) -> u8 {
    if reloaded.changed.is_empty() {
        say!("read: nothing has changed");
    } else {
        say!("taken in: {}", reloaded.changed.join(", "));
    }
    if !reloaded.after_restart.is_empty() {
        say!(
            "changed too, but taken in by a restart only: {}",
            reloaded.after_restart.join(", ")
        );
    }
    0
}
