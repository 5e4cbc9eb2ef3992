//! Users as people read them: counts by inbound, names by class, and all that is known of one.

use std::io::Write;

use super::stream::Out;
use super::table::{Column, Table, size, words};
use crate::app::users::{Checked, CheckedNode, Listed, ListedInbound};
use crate::panel::{Booked, Verdict};
use crate::traffic::ledger::views::NodeTotals;

/// Where nothing is known.
const UNKNOWN: &str = "-";

const INBOUNDS: Table<9> = Table([
    Column::text("NODE", 0),
    Column::text("INBOUND", 0),
    Column::text("PROTOCOL", 0),
    Column::number("ALLOWED", 0),
    Column::number("LIVE", 0),
    Column::number("MISSING", 0),
    Column::number("EXTRA", 0),
    Column::number("ALTERED", 0),
    Column::number("FOREIGN", 0),
]);

/// A line of counts for each inbound; with `verbose` the users of each class below.
pub(super) fn list<W: Write>(out: &mut Out<W>, nodes: &[Listed], verbose: bool) {
    let rows: Vec<_> = nodes.iter().flat_map(rows).collect();
    let table = INBOUNDS.fitted(&rows);
    out.line(table.heading());
    let mut rows = rows.iter();
    for node in nodes {
        if node.inbounds.is_empty() {
            rows.next().map(|row| out.line(table.row(row)));
        }
        for inbound in &node.inbounds {
            rows.next().map(|row| out.line(table.row(row)));
            if verbose {
                named(out, inbound);
            }
        }
    }
}

/// A node whose users are changed in no Xray has one row.
fn rows(node: &Listed) -> Vec<[String; 9]> {
    if node.inbounds.is_empty() {
        let mut row = std::array::from_fn(|_| UNKNOWN.to_owned());
        row[0] = node.node.to_string();
        row[3] = count(node.allowed);
        return vec![row];
    }
    let row = |inbound: &ListedInbound| {
        let is_judged = inbound.allowed.is_some();
        let live = inbound.error.is_none().then_some(inbound.live);
        let of = |class: &[String]| count(is_judged.then_some(class.len()));
        let classes = &inbound.classes;
        [
            node.node.to_string(),
            words(&format!("{} in {}", inbound.tag, inbound.xray)),
            inbound.protocol.unwrap_or(UNKNOWN).to_owned(),
            count(inbound.allowed),
            count(live),
            of(&classes.missing),
            of(&classes.extra),
            of(&classes.altered),
            count(live.map(|_| classes.foreign.len())),
        ]
    };
    node.inbounds.iter().map(row).collect()
}

fn count(users: Option<usize>) -> String {
    users.map_or(UNKNOWN.to_owned(), |users| users.to_string())
}

fn named<W: Write>(out: &mut Out<W>, inbound: &ListedInbound) {
    let classes = &inbound.classes;
    for (name, users) in [
        ("missing", &classes.missing),
        ("extra", &classes.extra),
        ("altered", &classes.altered),
        ("in conflict", &classes.conflicts),
        ("foreign", &classes.foreign),
    ] {
        for user in users {
            let is_held = name == "extra" && classes.held.contains(user);
            let held = if is_held { " (held by the brake)" } else { "" };
            if !out.line(format_args!("  {name} {}{held}", words(user))) {
                return;
            }
        }
    }
}

/// What could not be told, and what stands in for it; and who allowed the users, where not only a panel
/// that is polled did.
pub(super) fn unknown(nodes: &[Listed]) -> Vec<String> {
    let mut lines = Vec::new();
    for node in nodes {
        let of = node.node;
        if let Some(why) = &node.panel_error {
            let instead = match node.allowed {
                Some(_) => "allowed are those of its last good answer",
                None => "nobody knows who is allowed",
            };
            lines.push(format!("node {of}: {instead}: {}", words(why)));
        }
        for inbound in &node.inbounds {
            let name = words(&format!("{} in {}", inbound.tag, inbound.xray));
            if inbound.pushed > 0 {
                let (pushed, allowed) = (inbound.pushed, count(inbound.allowed));
                lines.push(format!(
                    "node {of}: {name}: {pushed} of {allowed} allowed were pushed"
                ));
            }
            if let Some(why) = &inbound.error {
                lines.push(format!("node {of}: {name}: {}", words(why)));
            } else if !inbound.read_back {
                lines.push(format!(
                    "node {of}: {name}: this core cannot list its users: what was applied is taken \
                     for live"
                ));
            }
        }
    }
    lines
}

/// All that is known of one user.
pub(super) fn checked<W: Write>(out: &mut Out<W>, checked: &Checked) {
    out.line(format_args!("user {}", words(&checked.user)));
    for node in &checked.nodes {
        at_node(out, node);
    }
    match (&checked.booked, &checked.booked_error) {
        (Some(booked), _) => out.line(panel_books(booked)),
        (None, why) => {
            let why = words(why.as_deref().unwrap_or_default());
            out.line(format_args!("panel's books: not known: {why}"))
        }
    };
    match (&checked.ledger, &checked.ledger_error) {
        (_, Some(why)) => {
            out.line(format_args!("our ledger: not known: {}", words(why)));
        }
        (None, None) => {
            out.line("our ledger: there is none");
        }
        (Some(all), None) if all.is_empty() => {
            out.line("our ledger: nothing of him");
        }
        (Some(all), None) => all.iter().for_each(|totals| {
            out.line(ledger(totals));
        }),
    }
}

fn at_node<W: Write>(out: &mut Out<W>, node: &CheckedNode) {
    let of = node.node;
    let auth = match (&node.auth, &node.auth_error) {
        (Some(auth), _) => verdict(auth),
        (None, why) => {
            let why = words(why.as_deref().unwrap_or_default());
            format!("the panel does not say: {why}")
        }
    };
    out.line(format_args!("node {of}: {auth}"));
    out.line(match (node.listed, &node.listed_error) {
        (Some(true), _) => "  in its last list".to_owned(),
        (Some(false), _) => "  not in its last list".to_owned(),
        (None, Some(why)) => format!("  its last list cannot be read: {}", words(why)),
        (None, None) => "  no list of it was kept".to_owned(),
    });
    for inbound in &node.inbounds {
        let name = words(&format!("{} in {}", inbound.tag, inbound.xray));
        let held = if inbound.held {
            ", his removal is held by the brake"
        } else {
            ""
        };
        let why = inbound.error.as_deref().unwrap_or_default();
        out.line(match inbound.live {
            Some(true) => format!("  {name}: live{held}"),
            Some(false) => format!("  {name}: not live"),
            None => format!("  {name}: not known: {}", words(why)),
        });
    }
}

fn verdict(auth: &Verdict) -> String {
    let mut text = if auth.allow { "allowed" } else { "refused" }.to_owned();
    if let Some(reason) = &auth.reason {
        text += ", ";
        text += &words(reason);
    }
    if let Some(plans) = &auth.active_plan_ids {
        let plans: Vec<_> = plans.iter().map(u64::to_string).collect();
        text += ", active plans: ";
        text += &plans.join(" ");
    }
    text
}

fn panel_books(booked: &Booked) -> String {
    let amount = |bytes: Option<u64>| bytes.map_or(UNKNOWN.to_owned(), size);
    let status = booked.status.as_deref().unwrap_or(UNKNOWN);
    format!(
        "panel's books: {} of {} used; within a day {} up, {} down; status {}",
        amount(booked.traffic_used),
        amount(booked.traffic_total),
        amount(booked.upload_24h),
        amount(booked.download_24h),
        words(status)
    )
}

fn ledger(totals: &NodeTotals) -> String {
    let waiting = totals.open.bytes.plus(totals.pending.bytes);
    format!(
        "our ledger, node {}, {}: {} counted: {} taken, {} pending, {} rejected, {} unknown",
        totals.node,
        words(&totals.sink),
        size(totals.counted.total()),
        size(totals.settled.bytes.total()),
        size(waiting.plus(totals.sending.bytes).total()),
        size(totals.rejected.bytes.total()),
        size(totals.unknown.bytes.total())
    )
}
