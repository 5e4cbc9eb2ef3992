//! Metrics of users: nodes, inbounds, hooks, and the calls that are made for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::Page;
use crate::metrics::families as of;
use crate::model::tally::{Calls, OTHER, Passes};
use crate::sync::engine::Tallies;
use crate::sync::status::{HookStatus, InboundStatus, KickStatus, NodeStatus};

/// Adds every node with its inbounds or its hook.
pub(super) fn add(page: &mut Page, nodes: &[NodeStatus], tallies: &Tallies) {
    let mut xrays: BTreeMap<&str, bool> = BTreeMap::new();
    for status in nodes {
        let node = status.node.to_string();
        add_node(page, &node, status);
        for inbound in &status.inbounds {
            let labels = [node.as_str(), &inbound.xray, &inbound.tag];
            add_inbound(page, &labels, inbound);
            add_kick(page, &labels, &inbound.kick);
            *xrays.entry(&inbound.xray).or_insert(true) &= answers(inbound);
        }
        if let Some(hook) = &status.hook {
            add_hook(page, &node, hook);
        }
    }
    for (xray, is_up) in xrays {
        page.add(&of::XRAY_UP, &[xray], is_up);
    }
    for (key, passes) in &tallies.passes {
        let node = key.node.to_string();
        add_passes(page, [&node, &key.xray, key.tag.as_str()], passes);
    }
}

/// Whether Xray answered the last pass. Before the first nothing is known.
fn answers(inbound: &InboundStatus) -> bool {
    !inbound.away && (inbound.protocol.is_some() || inbound.error.is_some())
}

fn add_node(page: &mut Page, node: &str, status: &NodeStatus) {
    let labels = &[node];
    if let Some(allowed) = status.allowed {
        page.add(&of::NODE_ALLOWED, labels, allowed);
    }
    page.add(&of::NODE_MALFORMED, labels, status.malformed);
    page.add(&of::NODE_HELD, labels, status.held);
    page.add(&of::NODE_FILES_UP, labels, status.files_error.is_none());
    // Of a panel that is not there nobody is to be alarmed.
    if !status.polled {
        return;
    }
    let is_up = status.panel_error.is_none() && status.answered_at.is_some();
    page.add(&of::PANEL_UP, labels, is_up);
    page.add_time(&of::PANEL_ANSWERED, labels, status.answered_at);
}

fn add_inbound(page: &mut Page, labels: &[&str], status: &InboundStatus) {
    let drift = whole(status.desired) - whole(status.live);
    page.add(&of::DESIRED, labels, status.desired);
    page.add(&of::LIVE, labels, status.live);
    page.add(&of::FOREIGN, labels, status.foreign);
    page.add(&of::DRIFT, labels, drift);
    page.add(&of::HELD, labels, status.held);
    page.add(&of::CONFLICTS, labels, status.conflicts);
    page.add(&of::FAILED, labels, status.failed);
    page.add(&of::UNKNOWN_SOURCES, labels, status.unknown_sources.len());
    page.add_time(&of::SYNC_SUCCESS, labels, status.last_success);
}

fn whole(users: usize) -> i64 {
    i64::try_from(users).unwrap_or(i64::MAX)
}

fn add_kick(page: &mut Page, labels: &[&str], kick: &KickStatus) {
    page.add(&of::KICK_ENABLED, labels, kick.enabled);
    page.add(&of::KICK_OBSTRUCTED, labels, kick.obstacle.is_some());
    page.add(&of::KICKED, labels, kick.users);
    page.add(&of::KICKED_SOCKETS, labels, kick.sockets);
    page.add(&of::NOT_KICKED, labels, kick.not_cut);
    page.add(&of::BLOCKED, labels, kick.blocked);
}

fn add_passes(page: &mut Page, labels: [&str; 3], passes: &Passes) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let results = [
        ("ok", &passes.done),
        ("held", &passes.held),
        ("failed", &passes.failed),
    ];
    for (result, counter) in results {
        let [node, xray, inbound] = labels;
        page.add(&of::SYNCS, &[node, xray, inbound, result], count(counter));
    }
    page.add(&of::SYNC_DURATION, &labels, passes.took.distribution());
    page.add(&of::KICK_DELAY, &labels, passes.cut_after.distribution());
    page.add(&of::ADDED, &labels, count(&passes.added));
    page.add(&of::REMOVED, &labels, count(&passes.removed));
}

fn add_hook(page: &mut Page, node: &str, hook: &HookStatus) {
    page.add(&of::HOOK_RUNS, &[node], hook.runs);
    page.add(&of::HOOK_FAILURES, &[node], hook.failures);
    page.add_time(&of::HOOK_SUCCESS, &[node], hook.last_success);
}

/// Adds requests to the panel, of all its clients together.
pub(super) fn add_requests<'a>(page: &mut Page, clients: impl Iterator<Item = &'a Calls>) {
    let mut sums = BTreeMap::<_, u64>::new();
    for (request, count) in clients.flat_map(Calls::counts) {
        *sums.entry(request).or_default() += count;
    }
    for ((call, status), count) in sums {
        let code = match status {
            0 => "none".to_owned(),
            OTHER => "other".to_owned(),
            status => status.to_string(),
        };
        page.add(&of::PANEL_REQUESTS, &[call, &code], count);
    }
}

/// Adds calls to each Xray, of all its clients together.
pub(super) fn add_calls<'a>(page: &mut Page, clients: impl Iterator<Item = (&'a str, Arc<Calls>)>) {
    let mut sums = BTreeMap::<_, u64>::new();
    for (xray, calls) in clients {
        for ((method, code), count) in calls.counts() {
            *sums.entry((xray, method, code)).or_default() += count;
        }
    }
    for ((xray, method, code), count) in sums {
        let code = match code {
            OTHER => "Other".to_owned(),
            code => format!("{:?}", tonic::Code::from_i32(code.into())),
        };
        page.add(&of::XRAY_CALLS, &[xray, method, &code], count);
    }
}
