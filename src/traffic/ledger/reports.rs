//! Reports from their making to their end. Keeps: a report is *sending* in the ledger before anything
//! of it is sent; only an acceptance settles; a report that was sent once keeps its number and its
//! bytes for good; nothing is dropped.

use rusqlite::Connection;
use uuid::Uuid;

use super::fit::Fit;
use super::inbounds::Inbounds;
use super::rows::{self, Done, OpenRow, ReportRow, State, stored, stored_node};
use super::sums;
use crate::model::ids::UserId;
use crate::model::report::{Decision, Report, ReportId};
use crate::traffic::baselines::Bytes;
use crate::traffic::receivers::is_kernel;

/// One day in milliseconds.
const DAY_MS: i64 = 24 * 3_600 * 1_000;
/// Settled bytes are kept by day for the last so many days that had any: counted so, a wall clock that
/// was set wrongly takes none away.
const SETTLED_DAYS: i64 = 62;
/// Deletes older ones; goes from day to day by the key, for there may be millions of rows.
const DELETE_OLD_DAYS: &str = "
    DELETE FROM settled WHERE sink = ?1 AND day < (
        WITH RECURSIVE newest (day, n) AS (
            SELECT max(day), 1 FROM settled
            UNION ALL
            SELECT (SELECT max(day) FROM settled WHERE day < newest.day), n + 1
                FROM newest WHERE newest.day IS NOT NULL AND n < ?2)
        SELECT min(day) FROM newest)";
/// Over so many rejected reports those of one user for one reason are merged.
const REJECTED_MAX: i64 = 100_000;

/// A report that came to nothing so often lets all others go first. More than once, so that a sink
/// that is away is tried with few: reports that were sent once take no more bytes in.
const TRIES_FIRST: u32 = 4;

/// What became of a report that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Taken.
    Settled,
    /// Refused for good, in these words.
    Rejected(String),
    /// Not taken: to be sent again.
    Pending(String),
    /// Nobody knows.
    Unknown {
        /// What happened.
        words: String,
        /// Whether it is sent again under its number all the same.
        resend: bool,
    },
}

/// Whose open bytes are to be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Everybody's.
    All,
    /// These users'.
    Users(Vec<UserId>),
}

/// What closing a period came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Reports that were made or grew.
    pub reports: usize,
    /// Users, at one node or in one inbound, of whom the sink cannot be told: they stay open.
    pub left: usize,
    /// Their bytes.
    pub left_bytes: Bytes,
}

/// Makes reports of what is open and fit to be told. Bytes of a user of whom a report waits that was
/// never sent go into that one: so a user has at most one of them, however long the sink is away.
pub(super) fn close(
    connection: &Connection,
    sink: &str,
    whose: &Whose,
    fit: &Fit,
    now_ms: i64,
) -> Done<Closed> {
    let open = match whose {
        Whose::All => rows::all(
            connection,
            "SELECT * FROM open WHERE sink = ?1 ORDER BY since",
            &[&sink],
            |row| OpenRow::read(row, sink),
        )?,
        Whose::Users(users) => open_of(connection, sink, users)?,
    };
    let inbounds = Inbounds::for_sink(connection, sink)?;
    let mut closed = Closed::default();
    for row in &open {
        if !fit.takes(inbounds.of(sink, row.node)?, row.user) {
            closed.left += 1;
            closed.left_bytes = closed.left_bytes.plus(row.bytes);
            continue;
        }
        closed.reports += 1;
        close_one(connection, sink, row, now_ms)?;
        connection
            .prepare_cached("DELETE FROM open WHERE sink = ?1 AND user = ?2 AND node = ?3")?
            .execute((sink, row.user.bytes(), stored_node(row.node)))?;
    }
    if *whose == Whose::All {
        tidy(connection, sink, now_ms)?;
    }
    Ok(closed)
}

fn open_of(connection: &Connection, sink: &str, users: &[UserId]) -> Done<Vec<OpenRow>> {
    let mut open = Vec::new();
    for user in users {
        open.extend(rows::all(
            connection,
            "SELECT * FROM open WHERE sink = ?1 AND user = ?2",
            &[&sink, user.bytes()],
            |row| OpenRow::read(row, sink),
        )?);
    }
    Ok(open)
}

fn close_one(connection: &Connection, sink: &str, row: &OpenRow, now_ms: i64) -> Done<()> {
    let waiting = ReportRow::find(
        connection,
        "sink = ?1 AND user = ?2 AND state = 'pending' AND node = ?3 AND attempts = 0",
        &[&sink, row.user.bytes(), &stored_node(row.node)],
    )?;
    if let Some(mut report) = waiting {
        report.bytes = report.bytes.plus(row.bytes);
        report.until = now_ms;
        return report.update(connection);
    }
    let report = ReportRow {
        seq: 0,
        id: ReportId(Uuid::now_v7()),
        sink: sink.to_owned(),
        node: row.node,
        user: row.user,
        bytes: row.bytes,
        since: row.since,
        until: now_ms,
        state: State::Pending,
        attempts: 0,
        doubted: 0,
        changed: now_ms,
        words: String::new(),
    };
    report.insert(connection)
}

/// How many reports may go, and which.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// At most so many.
    pub(super) free: usize,
    /// One that has been in doubt since before is held instead: the sink may have forgotten it, or does
    /// not know repeats.
    pub(super) doubted_after: i64,
    /// They go in one request, with one answer for all: one that is in doubt goes alone.
    pub(super) together: bool,
    pub(super) fit: Fit,
}

/// Marks the oldest reports that may go as *sending* and gives them. A user's go one after the other. One
/// that came to nothing [`TRIES_FIRST`] times goes after all others: a sink that fails at one report for
/// ever must not get none but that one.
pub(super) fn claim(
    connection: &Connection,
    sink: &str,
    places: &Places,
    now_ms: i64,
) -> Done<Vec<(i64, Report)>> {
    let inbounds = Inbounds::for_sink(connection, sink)?;
    let mut claimed = Vec::new();
    for tried_often in [false, true] {
        loop {
            let free = places.free - claimed.len();
            let mut holds = false;
            for mut row in oldest(connection, sink, tried_often, (places, free), &inbounds)? {
                row.changed = now_ms;
                if row.doubted != 0 && row.doubted < places.doubted_after {
                    row.state = State::Unknown;
                    holds = true;
                } else if places.together && row.doubted != 0 && !claimed.is_empty() {
                    continue;
                } else {
                    row.state = State::Sending;
                    row.attempts += 1;
                    claimed.push((row.seq, row.report(inbounds.of(sink, row.node)?)));
                }
                row.update(connection)?;
                if places.together && row.doubted != 0 && !claimed.is_empty() {
                    return Ok(claimed);
                }
            }
            // The places of those that are held go to the next.
            if !holds {
                break;
            }
        }
    }
    Ok(claimed)
}

/// The oldest that may go, of those that were tried often or of the others; at most so many.
fn oldest(
    connection: &Connection,
    sink: &str,
    tried_often: bool,
    (places, most): (&Places, usize),
    inbounds: &Inbounds,
) -> Done<Vec<ReportRow>> {
    let sql = "SELECT * FROM report AS r WHERE sink = ?1 AND state = 'pending'
             AND (attempts >= ?2) = ?3
             AND NOT EXISTS (SELECT 1 FROM report AS other
                 WHERE other.sink = r.sink AND other.user = r.user
                     AND (other.state = 'sending'
                         OR (other.state = 'pending' AND other.seq < r.seq)))
         ORDER BY seq";
    let mut found = Vec::new();
    if most == 0 {
        return Ok(found);
    }
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query((sink, TRIES_FIRST, tried_often))?;
    while found.len() < most
        && let Some(row) = rows.next()?
    {
        let row = ReportRow::read(row)?;
        if places.fit.takes(inbounds.of(sink, row.node)?, row.user) {
            found.push(row);
        }
    }
    Ok(found)
}

/// Writes down what became of a report that was sent; the report, where it is settled.
pub(super) fn record(
    connection: &Connection,
    (seq, id): (i64, ReportId),
    fate: Fate,
    now_ms: i64,
) -> Done<Option<ReportRow>> {
    let condition = "seq = ?1 AND id = ?2 AND state = 'sending'";
    let found = ReportRow::find(connection, condition, &[&seq, id.0.as_bytes()])?;
    // Not there: the ledger was begun anew meanwhile, and what it was is in the one set aside.
    let Some(mut row) = found else {
        return Ok(None);
    };
    let (state, words) = match fate {
        Fate::Settled => {
            settle(connection, &row, now_ms)?;
            return Ok(Some(row));
        }
        Fate::Rejected(words) => (State::Rejected, words),
        Fate::Pending(words) => (State::Pending, words),
        Fate::Unknown { words, resend } => {
            row.doubt(now_ms);
            (
                if resend {
                    State::Pending
                } else {
                    State::Unknown
                },
                words,
            )
        }
    };
    row.state = state;
    row.words = words;
    row.changed = now_ms;
    row.update(connection)?;
    Ok(None)
}

/// Takes a report out and adds its bytes to what the sink has taken.
fn settle(connection: &Connection, row: &ReportRow, now_ms: i64) -> Done<()> {
    let (up, down) = (stored(row.bytes.up), stored(row.bytes.down));
    let node = stored_node(row.node);
    connection
        .prepare_cached("DELETE FROM report WHERE seq = ?1")?
        .execute([row.seq])?;
    connection
        .prepare_cached(
            "INSERT INTO settled (day, sink, node, user, up, down, reports)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)
             ON CONFLICT (day, sink, node, user) DO UPDATE SET
                 up = up + ?5, down = down + ?6, reports = reports + 1",
        )?
        .execute((
            now_ms.div_euclid(DAY_MS),
            &row.sink,
            node,
            row.user.bytes(),
            up,
            down,
        ))?;
    connection
        .prepare_cached(
            "INSERT INTO total (sink, node, settled_up, settled_down, settled_reports)
             VALUES (?1, ?2, ?3, ?4, 1)
             ON CONFLICT (sink, node) DO UPDATE SET settled_up = settled_up + ?3,
                 settled_down = settled_down + ?4, settled_reports = settled_reports + 1",
        )?
        .execute((&row.sink, node, up, down))?;
    if is_kernel(&row.sink) {
        sums::add_settled(connection, &row.sink, row.user, row.bytes)?;
    }
    Ok(())
}

/// Whatever was under way when we ended may have arrived or not.
pub(super) fn orphans(connection: &Connection, sink: &str, now_ms: i64) -> Done<usize> {
    let rows = rows::all(
        connection,
        "SELECT * FROM report WHERE sink = ?1 AND state = 'sending'",
        &[&sink],
        ReportRow::read,
    )?;
    let count = rows.len();
    for mut row in rows {
        row.state = State::Unknown;
        row.doubt(now_ms);
        "the agent ended while it was being sent".clone_into(&mut row.words);
        row.changed = now_ms;
        row.update(connection)?;
    }
    Ok(count)
}

/// After a transaction of which nobody knows whether it was committed: what it marked as *sending* was
/// not sent, and goes back. `under_way` are those that are.
pub(super) fn bring_back(
    connection: &Connection,
    sink: &str,
    under_way: &[i64],
    now_ms: i64,
) -> Done<()> {
    let rows = rows::all(
        connection,
        "SELECT * FROM report WHERE sink = ?1 AND state = 'sending'",
        &[&sink],
        ReportRow::read,
    )?;
    for mut row in rows {
        if !under_way.contains(&row.seq) {
            row.state = State::Pending;
            row.changed = now_ms;
            row.update(connection)?;
        }
    }
    Ok(())
}

/// Sends what is unknown again under its old number, if it was not in doubt before `doubted_after`.
pub(super) fn release(
    connection: &Connection,
    sink: &str,
    doubted_after: i64,
    now_ms: i64,
) -> Done<usize> {
    let rows = rows::all(
        connection,
        "SELECT * FROM report WHERE sink = ?1 AND state = 'unknown' AND doubted >= ?2",
        &[&sink, &doubted_after],
        ReportRow::read,
    )?;
    let count = rows.len();
    for mut row in rows {
        row.state = State::Pending;
        row.changed = now_ms;
        row.update(connection)?;
    }
    Ok(count)
}

/// Why a decision was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// No report has this number.
    #[error(
        "there is no report {0}: `xray-agent traffic unknown` and `traffic rejected` list them"
    )]
    NoSuch(ReportId),
    /// The report is in another state.
    #[error("report {id} is {}: {mend}", .state.name())]
    State {
        /// Its number.
        id: ReportId,
        /// How it stands.
        state: State,
        /// What can be done.
        mend: &'static str,
    },
}

/// What came of a decision: the number that the report has then, and the report, where it is settled.
type Decided = Result<(ReportId, Option<ReportRow>), Undecided>;

/// Carries out a person's decision.
pub(super) fn decide(
    connection: &Connection,
    id: ReportId,
    decision: Decision,
    now_ms: i64,
) -> Done<Decided> {
    let Some(mut row) = ReportRow::find(connection, "id = ?1", &[id.0.as_bytes()])? else {
        return Ok(Err(Undecided::NoSuch(id)));
    };
    let (needed, mend) = match decision {
        Decision::Delivered | Decision::NotDelivered => {
            (State::Unknown, "only an unknown report is resolved")
        }
        Decision::Retry => (
            State::Rejected,
            "only a rejected report is retried; an unknown one is resolved",
        ),
    };
    if row.state != needed {
        let state = row.state;
        return Ok(Err(Undecided::State { id, state, mend }));
    }
    row.state = State::Pending;
    row.changed = now_ms;
    match decision {
        Decision::Delivered => {
            settle(connection, &row, now_ms)?;
            return Ok(Ok((row.id, Some(row))));
        }
        Decision::NotDelivered => {
            row.doubted = 0;
            row.update(connection)?;
        }
        Decision::Retry => {
            row.id = ReportId(Uuid::now_v7());
            row.doubted = 0;
            row.update(connection)?;
        }
    }
    Ok(Ok((row.id, None)))
}

impl ReportRow {
    fn doubt(&mut self, now_ms: i64) {
        if self.doubted == 0 {
            self.doubted = now_ms;
        }
    }
}

/// Keeps what is kept for people within bounds.
fn tidy(connection: &Connection, sink: &str, now_ms: i64) -> Done<()> {
    connection
        .prepare_cached(DELETE_OLD_DAYS)?
        .execute((sink, SETTLED_DAYS))?;
    let rejected: Option<i64> = rows::scalar(
        connection,
        "SELECT count(*) FROM report WHERE sink = ?1 AND state = 'rejected'",
        &[&sink],
    )?;
    if rejected.unwrap_or_default() > REJECTED_MAX {
        merge_rejected(connection, sink, now_ms)?;
    }
    Ok(())
}

/// Merges rejected reports of one user at one node for one reason into the oldest of them.
fn merge_rejected(connection: &Connection, sink: &str, now_ms: i64) -> Done<()> {
    let rows = rows::all(
        connection,
        "SELECT * FROM report WHERE sink = ?1 AND state = 'rejected'
         ORDER BY user, node, words, seq",
        &[&sink],
        ReportRow::read,
    )?;
    let same =
        |a: &ReportRow, b: &ReportRow| (a.user, a.node, &a.words) == (b.user, b.node, &b.words);
    for group in rows.chunk_by(same).filter(|group| group.len() > 1) {
        let mut first = group[0].clone();
        for row in &group[1..] {
            first.bytes = first.bytes.plus(row.bytes);
            first.until = first.until.max(row.until);
            connection
                .prepare_cached("DELETE FROM report WHERE seq = ?1")?
                .execute([row.seq])?;
        }
        first.changed = now_ms;
        first.update(connection)?;
    }
    Ok(())
}
