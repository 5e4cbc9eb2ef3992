//! Metrics of traffic: reading counters, the ledger, and carrying reports.

use jiff::Timestamp;

use super::ledger::Seen;
use crate::metrics::Page;
use crate::metrics::families as of;
use crate::model::ids::UserId;
use crate::store;
use crate::traffic::baselines::Bytes;
use crate::traffic::engine::Handle;
use crate::traffic::ledger::views::NodeTotals;
use crate::traffic::status::{SinkStatus, XrayTraffic};

/// How the ledger is called among stores.
const LEDGER: &str = "ledger";

/// Adds what traffic's loops tell.
pub(super) fn add(page: &mut Page, handle: &Handle) {
    let status = handle.status();
    for xray in &status.xrays {
        add_xray(page, xray);
    }
    for sink in &status.sinks {
        add_sink(page, sink);
    }
    let (health, commits) = handle.store();
    let is_well = health.state == store::State::Ok;
    page.add(&of::STORE_UP, &[LEDGER], is_well);
    page.add(&of::STORE_COMMIT, &[LEDGER], commits);
}

fn add_xray(page: &mut Page, status: &XrayTraffic) {
    let xray = status.xray.as_str();
    let is_up = status.error.is_none() && status.collected_at.is_some();
    page.add(&of::COLLECT_UP, &[xray], is_up);
    page.add_time(&of::COLLECT_SUCCESS, &[xray], status.collected_at);
    page.add(&of::COUNTING, &[xray], status.not_counting.is_none());
    page.add(&of::SHARED_ADDRESS, &[xray], status.shared_address);
    page.add(&of::XRAY_TRAFFIC, &[xray, "up"], status.up);
    page.add(&of::XRAY_TRAFFIC, &[xray, "down"], status.down);
    page.add(&of::COUNTERS, &[xray, "ours"], status.ours);
    page.add(&of::COUNTERS, &[xray, "foreign"], status.foreign);
    page.add(&of::FOREIGN_BYTES, &[xray], status.foreign_bytes);
    page.add(&of::ADOPTED, &[xray], status.adopted_bytes);
    page.add(&of::RESETS, &[xray], status.resets);
}

fn add_sink(page: &mut Page, status: &SinkStatus) {
    let labels = &[status.sink.as_str()];
    page.add(&of::SINK_UP, labels, status.error.is_none());
    page.add(&of::SINK_UNDER_WAY, labels, status.under_way);
    page.add(&of::SINK_DEDUPES, labels, status.dedupes);
    page.add(&of::SINK_UNTOLD, labels, status.untold_bytes);
    page.add_time(&of::SINK_SETTLED, labels, status.settled_at);
}

/// Adds what was seen of the ledger last.
pub(super) fn add_ledger(page: &mut Page, seen: Option<&Seen>, now: Timestamp) {
    page.add_time(&of::LEDGER_READ, &[], seen.map(|seen| seen.at));
    let Some(seen) = seen else { return };
    page.add(&of::STORE_SIZE, &[LEDGER], seen.size_bytes);
    for totals in &seen.summary.nodes {
        add_totals(page, totals, now);
    }
    for ((node, [a, b, c, d]), bytes) in &seen.users {
        // One UUID that begins so; only its beginning is shown.
        let user = UserId::from_bytes([*a, *b, *c, *d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let (node, user) = (node.to_string(), user.short());
        for (direction, bytes) in both(*bytes) {
            page.add(&of::USER_TRAFFIC, &[&node, &user, direction], bytes);
        }
    }
}

fn add_totals(page: &mut Page, totals: &NodeTotals, now: Timestamp) {
    let (node, sink) = (totals.node.to_string(), totals.sink.as_str());
    for (direction, bytes) in both(totals.counted) {
        page.add(&of::TRAFFIC, &[&node, sink, direction], bytes);
    }
    for (direction, bytes) in both(totals.settled.bytes) {
        page.add(&of::SETTLED_BYTES, &[&node, sink, direction], bytes);
    }
    let settled = totals.settled.reports;
    page.add(&of::SETTLED_REPORTS, &[&node, sink], settled);
    let states = [
        ("open", totals.open),
        ("pending", totals.pending),
        ("sending", totals.sending),
        ("rejected", totals.rejected),
        ("unknown", totals.unknown),
    ];
    for (state, amount) in states {
        page.add(&of::REPORTS, &[&node, sink, state], amount.reports);
        for (direction, bytes) in both(amount.bytes) {
            page.add(&of::REPORT_BYTES, &[&node, sink, state, direction], bytes);
        }
    }
    let oldest = totals.oldest.map(|oldest| now.duration_since(oldest));
    let age = oldest.map_or(0.0, |age| age.as_secs_f64().max(0.0));
    page.add(&of::OLDEST, &[&node, sink], age);
}

fn both(bytes: Bytes) -> [(&'static str, u64); 2] {
    [("up", bytes.up), ("down", bytes.down)]
}
