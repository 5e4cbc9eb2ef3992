//! What people and panels see of the ledger: sums by node, reports by state, everything since a day.
//! Only reads; also for a process beside the one that writes. Nodes are the panel's throughout, also for
//! sinks whose bytes are kept by inbound.

use jiff::Timestamp;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use super::inbounds::Inbounds;
use super::rows::{self, Done, OpenRow, ReportRow, State, bytes_of, node_of, stored_node, time};
use crate::model::ids::{NodeId, UserId};
use crate::model::report::ReportId;
use crate::store::WorkError;
use crate::traffic::baselines::Bytes;

/// One day in milliseconds.
const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// Bytes in so many reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// How many reports; of what is open, how many users.
    pub reports: u64,
    /// Their bytes.
    #[serde(flatten)]
    pub bytes: Bytes,
}

/// One node's bytes for one sink since the ledger began. What was counted is what is open, in reports
/// and settled, to the byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTotals {
    /// The panel's node.
    pub node: u64,
    /// Which sink.
    pub sink: String,
    /// Bytes that were counted for it.
    pub counted: Bytes,
    /// Taken by the sink.
    pub settled: Amount,
    /// In no report yet.
    pub open: Amount,
    /// To be sent.
    pub pending: Amount,
    /// Under way.
    pub sending: Amount,
    /// Refused for good.
    pub rejected: Amount,
    /// Taken or not, nobody knows.
    pub unknown: Amount,
    /// When the oldest bytes were counted that the sink has neither taken nor refused.
    pub oldest: Option<Timestamp>,
}

/// What was counted in one managed inbound since it is known, for whomever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundTotals {
    /// The panel's node that it serves, or last did.
    pub node: u64,
    /// The Xray's name.
    pub xray: String,
    /// Xray's tag.
    pub tag: String,
    /// How much.
    #[serde(flatten)]
    pub bytes: Bytes,
}

/// Bytes of an Xray that were there before the ledger and are billed to nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The Xray's name.
    pub xray: String,
    /// How many, of its boots that are known.
    #[serde(flatten)]
    pub bytes: Bytes,
}

/// The whole ledger in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// By node and sink.
    pub nodes: Vec<NodeTotals>,
    /// What was adopted.
    pub adopted: Vec<Adopted>,
}

/// A report as it is shown. Its user is whole: this is for the host's administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownReport {
    /// Its number.
    pub id: ReportId,
    /// Which sink it is for.
    pub sink: String,
    /// The panel's node.
    pub node: u64,
    /// Whose bytes.
    pub uuid: UserId,
    /// How many.
    #[serde(flatten)]
    pub bytes: Bytes,
    /// When the first of them were counted.
    pub since: Timestamp,
    /// When the last of them were.
    pub until: Timestamp,
    /// How it stands.
    pub state: State,
    /// How often it was sent.
    pub attempts: u32,
    /// When its state last changed.
    pub changed: Timestamp,
    /// Why it stands so.
    pub words: String,
}

/// One line of an export: bytes of one user at one node for one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportLine {
    /// `settled` (summed by day), `open`, or a report's state.
    pub state: String,
    /// When the first of them were counted; of settled ones, when the day began on which they were
    /// taken.
    pub since: Timestamp,
    /// When the last of them were counted, where that is known.
    pub until: Option<Timestamp>,
    /// Which sink.
    pub sink: String,
    /// The panel's node.
    pub node: u64,
    /// Whose bytes.
    pub uuid: UserId,
    /// How many.
    #[serde(flatten)]
    pub bytes: Bytes,
    /// In how many reports.
    pub reports: u64,
    /// The report's number, where it is one.
    pub id: Option<ReportId>,
    /// Why it stands so.
    pub words: String,
}

fn count(row: &Row<'_>, column: &str) -> Done<u64> {
    let count: i64 = row.get(column)?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Sums by node and sink, and what was adopted.
pub fn summary(connection: &Connection) -> Result<Summary, WorkError> {
    let mut nodes = rows::all(
        connection,
        "SELECT * FROM total ORDER BY sink, node",
        &[],
        |row| {
            Ok(NodeTotals {
                node: node_of(row.get("node")?).0,
                sink: row.get("sink")?,
                counted: bytes_of(row, "counted_up", "counted_down")?,
                settled: Amount {
                    reports: count(row, "settled_reports")?,
                    bytes: bytes_of(row, "settled_up", "settled_down")?,
                },
                ..NodeTotals::default()
            })
        },
    )?;
    for totals in &mut nodes {
        add_unsettled(connection, totals)?;
    }
    let nodes = by_node(connection, nodes)?;
    let adopted = rows::all(
        connection,
        "SELECT xray, sum(adopted_up) AS up, sum(adopted_down) AS down FROM boot GROUP BY xray",
        &[],
        |row| {
            Ok(Adopted {
                xray: row.get("xray")?,
                bytes: bytes_of(row, "up", "down")?,
            })
        },
    )?;
    Ok(Summary { nodes, adopted })
}

/// Sums those of one sink whose inbounds serve one node.
fn by_node(connection: &Connection, all: Vec<NodeTotals>) -> Done<Vec<NodeTotals>> {
    let inbounds = Inbounds::read(connection)?;
    let mut by_node: Vec<NodeTotals> = Vec::with_capacity(all.len());
    for mut totals in all {
        totals.node = inbounds.node(&totals.sink, NodeId(totals.node))?.0;
        let same = |it: &&mut NodeTotals| (&it.sink, it.node) == (&totals.sink, totals.node);
        match by_node.iter_mut().find(same) {
            Some(known) => known.add(&totals),
            None => by_node.push(totals),
        }
    }
    Ok(by_node)
}

/// What was counted in every managed inbound.
pub fn inbounds(connection: &Connection) -> Result<Vec<InboundTotals>, WorkError> {
    let rows = Inbounds::read(connection)?.into_rows().into_iter();
    Ok(rows
        .map(|row| InboundTotals {
            node: row.key.node.0,
            xray: row.key.xray,
            tag: row.key.tag.0,
            bytes: row.bytes,
        })
        .collect())
}

fn add_unsettled(connection: &Connection, totals: &mut NodeTotals) -> Done<()> {
    let node = stored_node(NodeId(totals.node));
    let mut oldest = None;
    let mut amount = |row: &Row<'_>, ages: bool| {
        if ages {
            let since: Option<i64> = row.get("since")?;
            oldest = oldest.into_iter().chain(since).min();
        }
        Ok(Amount {
            reports: count(row, "reports")?,
            bytes: bytes_of(row, "up", "down")?,
        })
    };
    let open = rows::one(
        connection,
        "SELECT count(*) AS reports, coalesce(sum(up), 0) AS up, coalesce(sum(down), 0) AS down,
             min(since) AS since FROM open WHERE sink = ?1 AND node = ?2",
        &[&totals.sink, &node],
        |row| amount(row, true),
    )?;
    totals.open = open.unwrap_or_default();
    let by_state = rows::all(
        connection,
        "SELECT state, count(*) AS reports, sum(up) AS up, sum(down) AS down, min(since) AS since
         FROM report WHERE sink = ?1 AND node = ?2 GROUP BY state",
        &[&totals.sink, &node],
        |row| {
            let state: String = row.get("state")?;
            let ages = state != State::Rejected.name();
            Ok((state, amount(row, ages)?))
        },
    )?;
    for (state, amount) in by_state {
        match state.as_str() {
            "pending" => totals.pending = amount,
            "sending" => totals.sending = amount,
            "rejected" => totals.rejected = amount,
            _ => totals.unknown = amount,
        }
    }
    totals.oldest = oldest.map(time);
    Ok(())
}

/// Bytes by node and user since `since`'s day, and those that are older and not settled. Where two
/// sinks are told of one byte it is one.
pub fn by_user(
    connection: &Connection,
    since: Timestamp,
) -> Result<Vec<(NodeId, UserId, Bytes)>, WorkError> {
    rows::all(
        connection,
        "SELECT node, user, max(up) AS up, max(down) AS down FROM (
             SELECT sink, iif(sink = 'kernel' OR sink LIKE 'kernel:%',
                     coalesce((SELECT node FROM inbound WHERE id = bytes.node), node), node) AS node,
                 user, sum(up) AS up, sum(down) AS down FROM (
                 SELECT sink, node, user, up, down FROM open
                 UNION ALL SELECT sink, node, user, up, down FROM report
                 UNION ALL SELECT sink, node, user, up, down FROM settled WHERE day >= ?1) AS bytes
             GROUP BY 1, 2, 3)
         GROUP BY node, user",
        &[&since.as_millisecond().div_euclid(DAY_MS)],
        |row| {
            let user = rows::user_of(row.get("user")?);
            Ok((
                node_of(row.get("node")?),
                user,
                bytes_of(row, "up", "down")?,
            ))
        },
    )
}

/// What the ledger holds of one user, by node and sink; what was counted is the sum of all.
pub fn of_user(connection: &Connection, user: UserId) -> Result<Vec<NodeTotals>, WorkError> {
    let rows = rows::all(
        connection,
        "SELECT sink, node, state, sum(reports) AS reports, sum(up) AS up, sum(down) AS down,
             min(since) AS since FROM (
             SELECT sink, node, 'open' AS state, 1 AS reports, up, down, since
                 FROM open WHERE user = ?1
             UNION ALL SELECT sink, node, state, 1, up, down, since FROM report WHERE user = ?1
             UNION ALL SELECT sink, node, 'settled', reports, up, down, NULL
                 FROM settled WHERE user = ?1)
         GROUP BY sink, node, state ORDER BY sink, node",
        &[user.bytes()],
        |row| {
            let (sink, node): (String, i64) = (row.get("sink")?, row.get("node")?);
            let state: String = row.get("state")?;
            let since: Option<i64> = row.get("since")?;
            let amount = Amount {
                reports: count(row, "reports")?,
                bytes: bytes_of(row, "up", "down")?,
            };
            Ok((sink, node_of(node).0, state, amount, since.map(time)))
        },
    )?;
    let mut all: Vec<NodeTotals> = Vec::new();
    for (sink, node, state, amount, since) in rows {
        if all
            .last()
            .is_none_or(|it| it.sink != sink || it.node != node)
        {
            all.push(NodeTotals {
                node,
                sink,
                ..NodeTotals::default()
            });
        }
        if let Some(totals) = all.last_mut() {
            totals.take(&state, amount, since);
        }
    }
    by_node(connection, all)
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self {
            reports: self.reports + other.reports,
            bytes: self.bytes.plus(other.bytes),
        }
    }
}

impl NodeTotals {
    /// Adds what another inbound of the same node has.
    fn add(&mut self, other: &Self) {
        self.counted = self.counted.plus(other.counted);
        self.settled = self.settled.plus(other.settled);
        self.open = self.open.plus(other.open);
        self.pending = self.pending.plus(other.pending);
        self.sending = self.sending.plus(other.sending);
        self.rejected = self.rejected.plus(other.rejected);
        self.unknown = self.unknown.plus(other.unknown);
        self.oldest = self.oldest.into_iter().chain(other.oldest).min();
    }

    /// Takes in what is in one state.
    fn take(&mut self, state: &str, amount: Amount, since: Option<Timestamp>) {
        self.counted = self.counted.plus(amount.bytes);
        if state != State::Rejected.name() {
            self.oldest = self.oldest.into_iter().chain(since).min();
        }
        match state {
            "settled" => self.settled = amount,
            "open" => self.open = amount,
            "pending" => self.pending = amount,
            "sending" => self.sending = amount,
            "rejected" => self.rejected = amount,
            _ => self.unknown = amount,
        }
    }
}

/// Every report in `state`, the oldest first, given one at a time.
pub fn each_report(
    connection: &Connection,
    state: State,
    mut take: impl FnMut(ShownReport) -> bool,
) -> Result<(), WorkError> {
    let inbounds = Inbounds::read(connection)?;
    let sql = "SELECT * FROM report WHERE state = ?1 ORDER BY seq";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([state.name()])?;
    while let Some(row) = rows.next()? {
        if !take(shown(ReportRow::read(row)?, &inbounds)?) {
            break;
        }
    }
    Ok(())
}

fn shown(row: ReportRow, inbounds: &Inbounds) -> Done<ShownReport> {
    Ok(ShownReport {
        id: row.id,
        node: inbounds.node(&row.sink, row.node)?.0,
        sink: row.sink,
        uuid: row.user,
        bytes: row.bytes,
        since: time(row.since),
        until: time(row.until),
        state: row.state,
        attempts: row.attempts,
        changed: time(row.changed),
        words: row.words,
    })
}

/// Everything since `since`, given one line at a time: what was taken, by day; what was not, whole.
pub fn export(
    connection: &Connection,
    since: Timestamp,
    mut take: impl FnMut(ExportLine) -> bool,
) -> Result<(), WorkError> {
    let since_ms = since.as_millisecond();
    let from = (connection, &Inbounds::read(connection)?);
    let went_on =
        export_settled(from, since_ms, &mut take)? && export_reports(from, since_ms, &mut take)?;
    if went_on {
        export_open(from, &mut take)?;
    }
    Ok(())
}

type Take<'a> = &'a mut dyn FnMut(ExportLine) -> bool;
type From<'a> = (&'a Connection, &'a Inbounds);

fn export_settled((from, inbounds): From<'_>, since_ms: i64, take: Take<'_>) -> Done<bool> {
    let sql = "SELECT * FROM settled WHERE day >= ?1 ORDER BY day, sink, node, user";
    let mut statement = from.prepare_cached(sql)?;
    let mut rows = statement.query([since_ms.div_euclid(DAY_MS)])?;
    while let Some(row) = rows.next()? {
        let (day, sink): (i64, String) = (row.get("day")?, row.get("sink")?);
        let line = ExportLine {
            state: "settled".to_owned(),
            since: time(day.saturating_mul(DAY_MS)),
            until: None,
            node: inbounds.node(&sink, node_of(row.get("node")?))?.0,
            sink,
            uuid: rows::user_of(row.get("user")?),
            bytes: bytes_of(row, "up", "down")?,
            reports: count(row, "reports")?,
            id: None,
            words: String::new(),
        };
        if !take(line) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn export_reports((from, inbounds): From<'_>, since_ms: i64, take: Take<'_>) -> Done<bool> {
    let sql = "SELECT * FROM report WHERE until >= ?1 ORDER BY seq";
    let mut statement = from.prepare_cached(sql)?;
    let mut rows = statement.query([since_ms])?;
    while let Some(row) = rows.next()? {
        let report = shown(ReportRow::read(row)?, inbounds)?;
        let line = ExportLine {
            state: report.state.name().to_owned(),
            since: report.since,
            until: Some(report.until),
            sink: report.sink,
            node: report.node,
            uuid: report.uuid,
            bytes: report.bytes,
            reports: 1,
            id: Some(report.id),
            words: report.words,
        };
        if !take(line) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn export_open((from, inbounds): From<'_>, take: Take<'_>) -> Done<()> {
    let mut statement = from.prepare_cached("SELECT * FROM open ORDER BY since")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let sink: String = row.get("sink")?;
        let open = OpenRow::read(row, &sink)?;
        let line = ExportLine {
            state: "open".to_owned(),
            since: time(open.since),
            until: None,
            node: inbounds.node(&sink, open.node)?.0,
            sink,
            uuid: open.user,
            bytes: open.bytes,
            reports: 0,
            id: None,
            words: String::new(),
        };
        if !take(line) {
            break;
        }
    }
    Ok(())
}
