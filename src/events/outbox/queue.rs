//! Queues as rows. Every change of a row is counted at its target in the same transaction, so that the
//! counts, by which the bounds are kept, are always right.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::{Limits, stored, targets, time};
use crate::model::delivery::{Fate, Outgoing, TargetId, Tried};
use crate::model::event::{Event, EventId};
use crate::store::{Work, WorkError};

/// What is to be sent to a target next.
#[derive(Clone, Debug)]
pub enum Next {
    /// This, as soon as it is due.
    Event(Box<Outgoing>),
    /// Nothing waits.
    Nothing,
    /// The target is gone or disabled.
    Gone,
}

/// An event that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The event.
    pub event: EventId,
    /// Its kind, as it is kept.
    pub name: String,
    /// What was to be sent.
    pub body: String,
    /// When it was put into the queue.
    pub queued_at: Timestamp,
    /// When it was given up.
    pub given_up_at: Timestamp,
    /// How often it was sent.
    pub tries: u32,
    /// Why it was given up.
    pub why: String,
}

/// Puts one in; whether the target is there and takes it.
pub(super) fn add(
    work: &Work<'_>,
    target: TargetId,
    event: &Event,
    body: &str,
    now_ms: i64,
    limits: &Limits,
) -> Result<bool, WorkError> {
    let bytes = stored(body.len() as u64);
    let counted = work
        .prepare_cached(
            "UPDATE outbox_target SET queued = queued + 1, queued_bytes = queued_bytes + ?2
             WHERE id = ?1 AND disabled IS NULL",
        )?
        .execute((target.0.as_bytes(), bytes))?;
    if counted == 0 {
        return Ok(false);
    }
    work.prepare_cached(
        "INSERT INTO outbox_queue (target, event, name, body, bytes, queued_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((
        target.0.as_bytes(),
        event.id.0.as_bytes(),
        event.name.name(),
        body,
        bytes,
        now_ms,
    ))?;
    keep_bounds(work, target, now_ms, limits)?;
    Ok(true)
}

/// The oldest that waits.
pub(super) fn next(connection: &Connection, target: TargetId) -> Result<Next, WorkError> {
    let Some(status) = targets::one(connection, target)? else {
        return Ok(Next::Gone);
    };
    if status.disabled.is_some() {
        return Ok(Next::Gone);
    }
    let mut query = connection.prepare_cached(
        "SELECT seq, event, body, tries, refusals, first_try_ms, due_ms FROM outbox_queue
         WHERE target = ?1 AND given_up_ms IS NULL ORDER BY seq LIMIT 1",
    )?;
    let mut rows = query.query([target.0.as_bytes()])?;
    let Some(row) = rows.next()? else {
        return Ok(Next::Nothing);
    };
    Ok(Next::Event(Box::new(Outgoing {
        seq: row.get(0)?,
        target: status.target,
        event: event_of(row, 1)?,
        body: row.get(2)?,
        tried: Tried {
            tries: row.get(3)?,
            refusals: row.get(4)?,
            first: row.get::<_, Option<i64>>(5)?.map(time).transpose()?,
        },
        due: row.get::<_, Option<i64>>(6)?.map(time).transpose()?,
    })))
}

/// Writes down what became of one. It may have been given up meanwhile, or gone with its target.
pub(super) fn settle(
    work: &Work<'_>,
    (seq, target, event): (i64, TargetId, EventId),
    fate: &Fate,
    now_ms: i64,
    limits: &Limits,
) -> Result<(), WorkError> {
    let waits: Option<bool> = work
        .prepare_cached(
            "SELECT given_up_ms IS NULL FROM outbox_queue
             WHERE seq = ?1 AND target = ?2 AND event = ?3",
        )?
        .query_row((seq, target.0.as_bytes(), event.0.as_bytes()), |row| {
            row.get(0)
        })
        .optional()?;
    let Some(waits) = waits else {
        return Ok(());
    };
    match fate {
        Fate::Delivered => delivered(work, seq, target, waits, now_ms),
        Fate::Retry { .. } | Fate::GivenUp { .. } if !waits => Ok(()),
        Fate::Retry {
            pause,
            refused,
            why,
        } => {
            let pause = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
            work.prepare_cached(
                "UPDATE outbox_queue SET tries = tries + 1, refusals = refusals + ?2,
                    first_try_ms = coalesce(first_try_ms, ?3), due_ms = ?4, why = ?5
                 WHERE seq = ?1",
            )?
            .execute((seq, refused, now_ms, now_ms.saturating_add(pause), why))?;
            failed(work, target, why)
        }
        Fate::GivenUp { why } => {
            tried(work, seq)?;
            give_up(work, target, seq, why, now_ms)?;
            failed(work, target, why)?;
            forget(work, target, limits)
        }
        Fate::Disabled { why } => {
            tried(work, seq)?;
            disable(work, target, why, now_ms)?;
            failed(work, target, why)?;
            forget(work, target, limits)
        }
    }
}

/// The latest that were given up, newest first.
pub(super) fn given_up(
    connection: &Connection,
    target: TargetId,
    count: u32,
) -> Result<Vec<GivenUp>, WorkError> {
    let mut query = connection.prepare_cached(
        "SELECT event, name, body, queued_ms, given_up_ms, tries, coalesce(why, '')
         FROM outbox_queue WHERE target = ?1 AND given_up_ms IS NOT NULL
         ORDER BY seq DESC LIMIT ?2",
    )?;
    let mut rows = query.query((target.0.as_bytes(), count))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(GivenUp {
            event: event_of(row, 0)?,
            name: row.get(1)?,
            body: row.get(2)?,
            queued_at: time(row.get(3)?)?,
            given_up_at: time(row.get(4)?)?,
            tries: row.get(5)?,
            why: row.get(6)?,
        });
    }
    Ok(found)
}

/// Has what was given up wait again, at its old place; how many.
pub(super) fn replay(
    work: &Work<'_>,
    target: TargetId,
    event: Option<EventId>,
    now_ms: i64,
    limits: &Limits,
) -> Result<usize, WorkError> {
    let event = event.map(|event| *event.0.as_bytes());
    let mut query = work.prepare_cached(
        "UPDATE outbox_queue SET given_up_ms = NULL, why = NULL, tries = 0, refusals = 0,
            first_try_ms = NULL, due_ms = NULL
         WHERE target = ?1 AND given_up_ms IS NOT NULL AND (?2 IS NULL OR event = ?2)
         RETURNING bytes",
    )?;
    let bytes: Vec<i64> = query
        .query_map((target.0.as_bytes(), event), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let (count, sum) = (stored(bytes.len() as u64), bytes.iter().sum::<i64>());
    work.prepare_cached(
        "UPDATE outbox_target SET kept = kept - ?2, kept_bytes = kept_bytes - ?3,
            given_up = given_up - ?2, queued = queued + ?2, queued_bytes = queued_bytes + ?3
         WHERE id = ?1",
    )?
    .execute((target.0.as_bytes(), count, sum))?;
    keep_bounds(work, target, now_ms, limits)?;
    Ok(bytes.len())
}

fn delivered(
    work: &Work<'_>,
    seq: i64,
    target: TargetId,
    waited: bool,
    now_ms: i64,
) -> Result<(), WorkError> {
    let bytes: i64 = work
        .prepare_cached("DELETE FROM outbox_queue WHERE seq = ?1 RETURNING bytes")?
        .query_row([seq], |row| row.get(0))?;
    let counted = if waited {
        "UPDATE outbox_target SET queued = queued - 1, queued_bytes = queued_bytes - ?2,
            delivered = delivered + 1, delivered_ms = ?3, trouble = NULL WHERE id = ?1"
    } else {
        "UPDATE outbox_target SET kept = kept - 1, kept_bytes = kept_bytes - ?2,
            given_up = given_up - 1,
            delivered = delivered + 1, delivered_ms = ?3, trouble = NULL WHERE id = ?1"
    };
    work.prepare_cached(counted)?
        .execute((target.0.as_bytes(), bytes, now_ms))?;
    Ok(())
}

fn tried(work: &Work<'_>, seq: i64) -> Result<(), WorkError> {
    work.prepare_cached("UPDATE outbox_queue SET tries = tries + 1 WHERE seq = ?1")?
        .execute([seq])?;
    Ok(())
}

fn failed(work: &Work<'_>, target: TargetId, why: &str) -> Result<(), WorkError> {
    work.prepare_cached(
        "UPDATE outbox_target SET failed = failed + 1, trouble = ?2 WHERE id = ?1",
    )?
    .execute((target.0.as_bytes(), why))?;
    Ok(())
}

fn give_up(
    work: &Work<'_>,
    target: TargetId,
    seq: i64,
    why: &str,
    now_ms: i64,
) -> Result<(), WorkError> {
    let bytes: i64 = work
        .prepare_cached(
            "UPDATE outbox_queue SET given_up_ms = ?2, why = ?3 WHERE seq = ?1 RETURNING bytes",
        )?
        .query_row((seq, now_ms, why), |row| row.get(0))?;
    work.prepare_cached(
        "UPDATE outbox_target SET queued = queued - 1, queued_bytes = queued_bytes - ?2,
            kept = kept + 1, kept_bytes = kept_bytes + ?2, given_up = given_up + 1
         WHERE id = ?1",
    )?
    .execute((target.0.as_bytes(), bytes))?;
    Ok(())
}

/// Gives up all that waits, and takes nothing more.
fn disable(work: &Work<'_>, target: TargetId, why: &str, now_ms: i64) -> Result<(), WorkError> {
    work.prepare_cached(
        "UPDATE outbox_queue SET given_up_ms = ?2, why = ?3
         WHERE target = ?1 AND given_up_ms IS NULL",
    )?
    .execute((target.0.as_bytes(), now_ms, why))?;
    work.prepare_cached(
        "UPDATE outbox_target SET disabled = ?2, kept = kept + queued,
            kept_bytes = kept_bytes + queued_bytes, given_up = given_up + queued,
            queued = 0, queued_bytes = 0
         WHERE id = ?1",
    )?
    .execute((target.0.as_bytes(), why))?;
    Ok(())
}

/// Gives up the oldest until the queue is within its bounds.
fn keep_bounds(
    work: &Work<'_>,
    target: TargetId,
    now_ms: i64,
    limits: &Limits,
) -> Result<(), WorkError> {
    let why = format!(
        "more than {} events or {} MiB wait for this target",
        limits.queued,
        limits.queued_bytes >> 20
    );
    while is_over(work, target, limits)? {
        let oldest: i64 = work
            .prepare_cached(
                "SELECT seq FROM outbox_queue WHERE target = ?1 AND given_up_ms IS NULL
                 ORDER BY seq LIMIT 1",
            )?
            .query_row([target.0.as_bytes()], |row| row.get(0))?;
        give_up(work, target, oldest, &why, now_ms)?;
    }
    forget(work, target, limits)
}

fn is_over(work: &Work<'_>, target: TargetId, limits: &Limits) -> Result<bool, WorkError> {
    let is_over = work
        .prepare_cached("SELECT queued > ?2 OR queued_bytes > ?3 FROM outbox_target WHERE id = ?1")?
        .query_row(
            (
                target.0.as_bytes(),
                stored(limits.queued),
                stored(limits.queued_bytes),
            ),
            |row| row.get(0),
        )?;
    Ok(is_over)
}

/// Deletes the oldest that were given up until what is kept of them is within its bounds.
fn forget(work: &Work<'_>, target: TargetId, limits: &Limits) -> Result<(), WorkError> {
    let id = target.0.as_bytes();
    loop {
        let is_over: bool = work
            .prepare_cached("SELECT kept > ?2 OR kept_bytes > ?3 FROM outbox_target WHERE id = ?1")?
            .query_row(
                (id, stored(limits.kept), stored(limits.kept_bytes)),
                |row| row.get(0),
            )?;
        if !is_over {
            return Ok(());
        }
        let bytes: i64 = work
            .prepare_cached(
                "DELETE FROM outbox_queue WHERE seq = (
                    SELECT seq FROM outbox_queue WHERE target = ?1 AND given_up_ms IS NOT NULL
                    ORDER BY seq LIMIT 1
                 ) RETURNING bytes",
            )?
            .query_row([id], |row| row.get(0))?;
        work.prepare_cached(
            "UPDATE outbox_target SET kept = kept - 1, kept_bytes = kept_bytes - ?2,
                forgotten = forgotten + 1 WHERE id = ?1",
        )?
        .execute((id, bytes))?;
    }
}

fn event_of(row: &Row<'_>, at: usize) -> rusqlite::Result<EventId> {
    Ok(EventId(Uuid::from_bytes(row.get(at)?)))
}
