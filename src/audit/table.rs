//! The audit's table in `agent.db`: written at its end, trimmed at its beginning in small steps, read
//! from its end.

use jiff::Timestamp;
use rusqlite::{Connection, Row};
use uuid::Uuid;

use super::record::{Entry, name};
use super::{Filter, Retention};
use crate::store::{Work, WorkError};

/// Rows that go in one step by each limit: a trim never holds up what waits behind it.
pub(super) const STEP: i64 = 256;

/// Adds entries. One that is there already, from a write whose outcome was not known, stays as it is.
pub(super) fn append<'a>(
    work: &Work<'_>,
    entries: impl IntoIterator<Item = &'a Entry>,
) -> Result<(), WorkError> {
    let mut insert = work.prepare_cached(
        "INSERT INTO audit_record
         (id, at_ms, channel, endpoint, action, actor, target, success, detail, metadata)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING",
    )?;
    for entry in entries {
        let metadata = serde_json::to_string(&entry.metadata);
        insert.execute((
            entry.id.as_bytes(),
            entry.timestamp_ms,
            &entry.channel,
            &entry.endpoint,
            &entry.action,
            &entry.actor,
            &entry.target,
            entry.success,
            &entry.detail,
            metadata.expect("invariant: a map of texts can be written"),
        ))?;
    }
    Ok(())
}

/// A step of forgetting what is too much or too old. Tells whether there may be more.
pub(super) fn trim(work: &Work<'_>, keep: Retention, now: Timestamp) -> Result<bool, WorkError> {
    let most = i64::try_from(keep.records).unwrap_or(i64::MAX);
    let too_many = work
        .prepare_cached(
            "DELETE FROM audit_record WHERE seq IN (
                SELECT seq FROM audit_record
                WHERE seq <= (SELECT max(seq) FROM audit_record) - ?1
                ORDER BY seq LIMIT ?2
            )",
        )?
        .execute((most, STEP))?;
    let age_ms = i64::try_from(keep.age.as_millis()).unwrap_or(i64::MAX);
    let oldest = now.as_millisecond().saturating_sub(age_ms);
    let too_old = work
        .prepare_cached(
            "DELETE FROM audit_record WHERE seq IN (
                SELECT seq FROM audit_record WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2
            )",
        )?
        .execute((oldest, STEP))?;
    let is_full = |rows: usize| i64::try_from(rows).is_ok_and(|rows| rows >= STEP);
    Ok(is_full(too_many) || is_full(too_old))
}

/// What the filter lets through, newest first.
pub(super) fn query(connection: &Connection, filter: &Filter) -> Result<Vec<Entry>, WorkError> {
    let mut query = connection.prepare(
        "SELECT id, at_ms, channel, endpoint, action, actor, target, success, detail, metadata
         FROM audit_record
         WHERE (?1 IS NULL OR at_ms >= ?1)
           AND (?2 IS NULL OR success = ?2)
           AND (?3 IS NULL OR action = ?3)
           AND (?4 IS NULL OR actor = ?4)
           AND (?5 IS NULL OR target = ?5)
         ORDER BY seq DESC LIMIT ?6",
    )?;
    let kept_as = |text: &Option<String>| text.as_deref().map(name);
    let mut rows = query.query((
        filter.since_ms,
        filter.success,
        kept_as(&filter.action),
        kept_as(&filter.actor),
        kept_as(&filter.target),
        filter.limit(),
    ))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(entry_of(row)?);
    }
    Ok(entries)
}

fn entry_of(row: &Row<'_>) -> Result<Entry, WorkError> {
    let metadata: String = row.get(9)?;
    let damaged = |e| WorkError::Damaged(format!("a record's metadata makes no sense: {e}"));
    Ok(Entry {
        id: Uuid::from_bytes(row.get(0)?),
        timestamp_ms: row.get(1)?,
        channel: row.get(2)?,
        endpoint: row.get(3)?,
        action: row.get(4)?,
        actor: row.get(5)?,
        target: row.get(6)?,
        success: row.get(7)?,
        detail: row.get(8)?,
        metadata: serde_json::from_str(&metadata).map_err(damaged)?,
    })
}
