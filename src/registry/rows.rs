//! Registered nodes and managed inbounds as rows of `agent.db`.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::inbounds::Inbound;
use super::lives::{Lives, Registered};
use crate::model::health::Thresholds;
use crate::store::{Work, WorkError};

/// All registered nodes, by id.
pub(super) fn nodes(connection: &Connection) -> Result<Vec<Registered>, WorkError> {
    let mut query = connection.prepare_cached("SELECT known FROM registry_node ORDER BY id")?;
    let texts = query.query_map([], |row| row.get::<_, String>(0))?;
    texts.map(|text| read(&text?)).collect()
}

/// One of them.
pub(super) fn node(connection: &Connection, id: &str) -> Result<Option<Registered>, WorkError> {
    let text: Option<String> = connection
        .prepare_cached("SELECT known FROM registry_node WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    text.map(|text| read(&text)).transpose()
}

/// Those whose silence means something by now, or who were heard in what is the future since the clock
/// was set back.
pub(super) fn due(connection: &Connection, now: Timestamp) -> Result<Vec<Registered>, WorkError> {
    let mut query = connection.prepare_cached(
        "SELECT known FROM registry_node WHERE due_ms <= ?1 OR heard_ms > ?1 ORDER BY id",
    )?;
    let texts = query.query_map([now.as_millisecond()], |row| row.get::<_, String>(0))?;
    texts.map(|text| read(&text?)).collect()
}

/// When somebody's silence means something next.
pub(super) fn next_due(connection: &Connection) -> Result<Option<Timestamp>, WorkError> {
    let due: Option<i64> = connection
        .prepare_cached("SELECT min(due_ms) FROM registry_node")?
        .query_row([], |row| row.get(0))?;
    Ok(due.map(|due| Timestamp::from_millisecond(due).unwrap_or(Timestamp::MAX)))
}

/// How many nodes are registered.
pub(super) fn count(connection: &Connection) -> Result<usize, WorkError> {
    let count: i64 = connection
        .prepare_cached("SELECT count(*) FROM registry_node")?
        .query_row([], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Writes a node down; its silence means nothing before `not_before`.
pub(super) fn put_node(
    work: &Work<'_>,
    node: &Registered,
    not_before: Option<Timestamp>,
) -> Result<(), WorkError> {
    let due = Lives::new([node.clone()], Thresholds::default()).next_tick();
    let due = due.max(not_before).unwrap_or(Timestamp::MAX);
    work.prepare_cached(
        "INSERT INTO registry_node (id, known, heard_ms, due_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET known = excluded.known, heard_ms = excluded.heard_ms,
            due_ms = excluded.due_ms",
    )?
    .execute((
        &node.node.id,
        written(node),
        node.heard_at.as_millisecond(),
        due.as_millisecond(),
    ))?;
    Ok(())
}

/// Takes a node out; whether it was there.
pub(super) fn remove_node(work: &Work<'_>, id: &str) -> Result<bool, WorkError> {
    let removed = work
        .prepare_cached("DELETE FROM registry_node WHERE id = ?1")?
        .execute([id])?;
    Ok(removed > 0)
}

/// All managed inbounds, by id.
pub(super) fn inbounds(connection: &Connection) -> Result<Vec<Inbound>, WorkError> {
    let mut query = connection.prepare_cached("SELECT told FROM registry_inbound ORDER BY id")?;
    let texts = query.query_map([], |row| row.get::<_, String>(0))?;
    texts.map(|text| read(&text?)).collect()
}

/// Whether a managed inbound has this kernel id.
pub(super) fn is_managed(connection: &Connection, id: &str) -> Result<bool, WorkError> {
    let mut query = connection.prepare_cached("SELECT 1 FROM registry_inbound WHERE id = ?1")?;
    Ok(query.exists([id])?)
}

/// Writes down what was told of an inbound.
pub(super) fn put_inbound(work: &Work<'_>, inbound: &Inbound) -> Result<(), WorkError> {
    work.prepare_cached(
        "INSERT INTO registry_inbound (id, told) VALUES (?1, ?2)
         ON CONFLICT (id) DO UPDATE SET told = excluded.told",
    )?
    .execute((&inbound.id, written(inbound)))?;
    Ok(())
}

/// Takes an inbound out.
pub(super) fn remove_inbound(work: &Work<'_>, id: &str) -> Result<(), WorkError> {
    work.prepare_cached("DELETE FROM registry_inbound WHERE id = ?1")?
        .execute([id])?;
    Ok(())
}

fn written(what: &impl Serialize) -> String {
    serde_json::to_string(what).expect("invariant: its maps have texts for keys")
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, WorkError> {
    let damaged = |e| WorkError::Damaged(format!("a node is not what was written: {e}"));
    serde_json::from_str(text).map_err(damaged)
}
