//! Inbounds that get in each other's way: one that two nodes fall on, and two that panels could not
//! tell apart. Only where inbounds are used at all.

use std::collections::BTreeMap;

use super::ApplyMode;
use super::nodes::{Draft, Placed};
use super::problems::{Complaint, Found};
use crate::model::ids::NodeId;

/// Reports every clash among the inbounds of all nodes.
pub(super) fn report(drafts: &[Draft], mode: ApplyMode, found: &Found) {
    if mode != ApplyMode::XrayGrpc {
        return;
    }
    let mut same: BTreeMap<_, Vec<(NodeId, &Placed)>> = BTreeMap::new();
    for draft in drafts {
        for placed in &draft.inbounds {
            let inbound = (placed.inbound.xray.as_str(), &placed.inbound.tag);
            same.entry(inbound).or_default().push((draft.id, placed));
        }
    }
    for users in same.values().filter(|users| users.len() > 1) {
        report_shared(users, found);
    }
    // Those that are one inbound have just been reported; their ids are the same by nature.
    let each = same
        .values()
        .filter_map(|users| users.last())
        .map(|(_, placed)| *placed);
    report_kernel_ids(each, found);
}

/// Several entries are one inbound.
fn report_shared(users: &[(NodeId, &Placed)], found: &Found) {
    let Some((_, last)) = users.last() else {
        return;
    };
    let (tag, xray) = (&last.inbound.tag, &last.inbound.xray);
    let mut ids: Vec<NodeId> = users.iter().map(|(id, _)| *id).collect();
    ids.dedup();
    let complaint = if let [id] = ids[..] {
        let what = format!("node {id} names the inbound {tag} of {xray} twice");
        Complaint::new(what, "name it once")
    } else {
        let what = format!("nodes {} fall on one inbound, {tag} of {xray}", and(&ids));
        let mend = format!(
            "give each its own, in the file or with XRAY_TAG_MAP={}",
            example(&ids)
        );
        Complaint::new(what, mend)
    };
    found.report(&last.place, complaint);
}

/// A map that would do: `1:in-a,2:in-b`.
fn example(ids: &[NodeId]) -> String {
    let entries = ids
        .iter()
        .zip('a'..='z')
        .map(|(id, letter)| format!("{id}:in-{letter}"));
    entries.collect::<Vec<_>>().join(",")
}

fn and(items: &[impl ToString]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    match texts.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => texts.concat(),
    }
}

/// Different inbounds have one name towards panels.
fn report_kernel_ids<'a>(inbounds: impl Iterator<Item = &'a Placed>, found: &Found) {
    let mut same: BTreeMap<&str, Vec<&Placed>> = BTreeMap::new();
    for placed in inbounds {
        same.entry(&placed.inbound.kernel_id)
            .or_default()
            .push(placed);
    }
    for (kernel_id, users) in same {
        let Some((last, [_, ..])) = users.split_last() else {
            continue;
        };
        let name = |p: &&Placed| format!("{} of {}", p.inbound.tag, p.inbound.xray);
        let names: Vec<String> = users.iter().map(name).collect();
        let what = format!("inbounds {} have one kernel_id, {kernel_id}", and(&names));
        let mend = format!("give one another: kernel_id = \"{kernel_id}-2\"");
        found.report(&last.place, Complaint::new(what, mend));
    }
}
