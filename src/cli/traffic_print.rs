//! Traffic as people read it: tables, and a line for each Xray and sink.

use std::io::Write;

use jiff::Timestamp;

use super::stream::Out;
use super::table::{Column, Table, size, words};
use crate::traffic::ledger::State;
use crate::traffic::ledger::views::{NodeTotals, ShownReport, Summary};
use crate::traffic::status::{SinkStatus, TrafficStatus, XrayTraffic};

/// Sums.
const TOTALS: Table<8> = Table([
    Column::text("NODE", 0),
    Column::text("SINK", 0),
    Column::number("COUNTED", 0),
    Column::number("SETTLED", 0),
    Column::number("WAITING", 0),
    Column::number("REJECTED", 0),
    Column::number("UNKNOWN", 0),
    Column::text("OLDEST UNSENT", 0),
]);

/// Reports. As wide as what mostly stands in them: `1023.9 MiB`, a time, `report-traffic`.
pub(super) const REPORTS: Table<9> = Table([
    Column::text("REPORT", 36),
    Column::text("NODE", 4),
    Column::text("USER", 8),
    Column::number("UP", 10),
    Column::number("DOWN", 10),
    Column::text("COUNTED SINCE", 20),
    Column::number("SENT", 4),
    Column::text("SINK", 14),
    Column::text("WHY", 0),
]);

/// To the second.
fn time(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A row of [`REPORTS`].
pub(super) fn report(report: &ShownReport) -> String {
    let why = words(&report.words);
    let why = match report.state {
        State::Sending if why.is_empty() => "under way".to_owned(),
        State::Sending => format!("under way; before: {why}"),
        _ => why,
    };
    REPORTS.row(&[
        report.id.to_string(),
        report.node.to_string(),
        report.uuid.short(),
        size(report.bytes.up),
        size(report.bytes.down),
        time(report.since),
        report.attempts.to_string(),
        report.sink.clone(),
        why,
    ])
}

/// Sums by node, and what asks for a person.
pub(super) fn summary<W: Write>(out: &mut Out<W>, summary: &Summary) {
    let rows: Vec<_> = summary.nodes.iter().map(totals).collect();
    if !rows.is_empty() {
        let table = TOTALS.fitted(&rows);
        out.line(table.heading());
        for row in &rows {
            out.line(table.row(row));
        }
    }
    for adopted in summary.adopted.iter().filter(|it| !it.bytes.is_zero()) {
        out.line(format_args!(
            "xray {}: {} up, {} down were there before the ledger and are billed to nobody",
            adopted.xray,
            size(adopted.bytes.up),
            size(adopted.bytes.down)
        ));
    }
    let sum = |of: fn(&NodeTotals) -> u64| summary.nodes.iter().map(of).sum();
    let rejected: u64 = sum(|node| node.rejected.reports);
    if rejected > 0 {
        out.line(format_args!(
            "{rejected} rejected: `xray-agent traffic rejected` shows why, `traffic retry` sends \
             one again"
        ));
    }
    let unknown: u64 = sum(|node| node.unknown.reports);
    if unknown > 0 {
        out.line(format_args!(
            "{unknown} unknown: `xray-agent traffic unknown` lists them, `traffic resolve` says \
             what became of one"
        ));
    }
}

fn totals(node: &NodeTotals) -> [String; 8] {
    let waiting = node.open.bytes.plus(node.pending.bytes);
    [
        node.node.to_string(),
        node.sink.clone(),
        size(node.counted.total()),
        size(node.settled.bytes.total()),
        size(waiting.plus(node.sending.bytes).total()),
        size(node.rejected.bytes.total()),
        size(node.unknown.bytes.total()),
        node.oldest.map_or("-".to_owned(), time),
    ]
}

/// How the running agent stands.
pub(super) fn live<W: Write>(out: &mut Out<W>, status: &TrafficStatus) {
    if let Some(error) = &status.ledger_error {
        out.line(format_args!("ledger: {}", words(error)));
    }
    for xray in &status.xrays {
        out.line(self::xray(xray));
    }
    for sink in &status.sinks {
        out.line(self::sink(sink));
    }
}

/// One Xray.
pub(super) fn xray(xray: &XrayTraffic) -> String {
    let mut parts = vec![format!(
        "xray {}: {} up, {} down since the start, {} counters, {} of others",
        xray.xray,
        size(xray.up),
        size(xray.down),
        xray.ours,
        xray.foreign
    )];
    parts.push(match xray.collected_at {
        Some(at) => format!("collected {}", time(at)),
        None => "never collected".to_owned(),
    });
    if xray.resets > 0 {
        parts.push(format!("{} reset by somebody else", xray.resets));
    }
    if xray.shared_address {
        parts.push("two Xrays answer at this address in turn".to_owned());
    }
    let problems = xray.not_counting.iter().chain(&xray.error);
    parts.extend(problems.map(|why| words(why)));
    parts.join("; ")
}

/// One sink.
pub(super) fn sink(sink: &SinkStatus) -> String {
    // Kept for a panel that is not there.
    if let (true, Some(error)) = (sink.address.is_empty(), &sink.error) {
        return format!("{}: {}", sink.sink, words(error));
    }
    let drops = if sink.dedupes {
        "drops repeats"
    } else {
        "has not shown that it drops repeats"
    };
    let mut parts = vec![
        format!(
            "{} at {}: {} of {} at once under way",
            sink.sink,
            words(&sink.address),
            sink.under_way,
            sink.at_once
        ),
        drops.to_owned(),
    ];
    let at = |what: &str, at: Option<Timestamp>| at.map(|at| format!("{what} {}", time(at)));
    parts.extend(at("last took one", sink.settled_at));
    if sink.untold > 0 {
        parts.push(format!(
            "{} of {} users wait, for its panel has no number of them or of their inbound",
            size(sink.untold_bytes),
            sink.untold
        ));
    }
    if let Some(error) = &sink.error {
        let what = if sink.fault {
            "the configuration is wrong"
        } else {
            "failed last"
        };
        parts.push(format!("{what}: {}", words(error)));
    }
    parts.extend(at("next attempt", sink.resumes_at));
    parts.join("; ")
}
