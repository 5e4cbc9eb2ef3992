//! The journal: the latest events in the store, so that a stream goes on where it was after a restart.
//! Keeps the order of commits, which is the bus's order, and bounds.

use jiff::Timestamp;
use rusqlite::{Connection, Row};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::bus::Bounds;
use crate::model::event::{Event, EventId, EventName};
use crate::store::{Work, WorkError};

/// Every so many events what is too much by bytes is looked for, which reads the whole journal.
const BYTES_LOOKED_AT_EVERY: i64 = 256;

/// Adds an event, and forgets what is too old.
pub(super) fn append(work: &Work<'_>, event: &Event, bounds: Bounds) -> Result<(), WorkError> {
    let seq: i64 = work
        .prepare_cached(
            "INSERT INTO event_journal (id, name, occurred_ms, payload, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5) RETURNING seq",
        )?
        .query_row(
            (
                event.id.0.as_bytes(),
                event.name.name(),
                event.occurred_at.as_millisecond(),
                event.payload.get(),
                stored(event.bytes()),
            ),
            |row| row.get(0),
        )?;
    work.prepare_cached("DELETE FROM event_journal WHERE seq <= ?1")?
        .execute([seq.saturating_sub(stored(bounds.events))])?;
    if seq % BYTES_LOOKED_AT_EVERY == 0 {
        work.prepare_cached(
            "DELETE FROM event_journal WHERE seq <= (
                SELECT max(seq) FROM (
                    SELECT seq, sum(bytes) OVER (ORDER BY seq DESC) AS total FROM event_journal
                ) WHERE total > ?1
            )",
        )?
        .execute([stored(bounds.bytes)])?;
    }
    Ok(())
}

/// All that is remembered, oldest first. Kinds that this program does not know are left out: an older
/// one wrote them.
pub(super) fn read(connection: &Connection) -> Result<Vec<Event>, WorkError> {
    let mut query = connection
        .prepare("SELECT id, name, occurred_ms, payload FROM event_journal ORDER BY seq")?;
    let mut rows = query.query([])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.extend(event_of(row)?);
    }
    Ok(events)
}

fn event_of(row: &Row<'_>) -> Result<Option<Event>, WorkError> {
    let name: String = row.get(1)?;
    let Some(name) = EventName::parse(&name) else {
        return Ok(None);
    };
    let damaged = |what: &str| WorkError::Damaged(format!("an event's {what} makes no sense"));
    Ok(Some(Event {
        id: EventId(Uuid::from_bytes(row.get(0)?)),
        name,
        occurred_at: Timestamp::from_millisecond(row.get(2)?).map_err(|_| damaged("time"))?,
        payload: RawValue::from_string(row.get(3)?).map_err(|_| damaged("payload"))?,
    }))
}

fn stored(amount: usize) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
