//! Sinks of panels that push come and go. What is left for a registration that is gone can be told to
//! nobody: it is dropped, and how much it was is said. The configured panel is never gone for good: what
//! is left for it is kept until it is configured again.

use rusqlite::Connection;

use super::rows::{self, Done, bytes_of};
use super::sums::GONE;
use crate::traffic::baselines::Bytes;
use crate::traffic::receivers::{KERNEL, SinkName, is_kernel};

/// What was left for a sink that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its name.
    pub sink: String,
    /// What it had not taken.
    pub bytes: Bytes,
    /// Whether it is kept until the sink is there again; else it was dropped.
    pub is_kept: bool,
}

/// Forgets the sinks of panels that push that are not among `there`, but for the configured panel. What
/// each had taken of users still counts for their quotas.
pub(super) fn keep_only(connection: &Connection, there: &[SinkName]) -> Done<Vec<Left>> {
    let known = rows::all(
        connection,
        "SELECT sink FROM total UNION SELECT sink FROM open UNION SELECT sink FROM report",
        &[],
        |row| Ok(row.get::<_, String>("sink")?),
    )?;
    let gone = known.into_iter().filter(|sink| {
        let is_there = there.iter().any(|there| **there == **sink);
        is_kernel(sink) && !is_there
    });
    let mut all = Vec::new();
    for sink in gone {
        let bytes = left_for(connection, &sink)?;
        let is_kept = sink == KERNEL;
        if !is_kept {
            forget(connection, &sink)?;
        }
        all.push(Left {
            sink,
            bytes,
            is_kept,
        });
    }
    Ok(all)
}

fn left_for(connection: &Connection, sink: &str) -> Done<Bytes> {
    let sql = "SELECT coalesce(sum(up), 0) AS up, coalesce(sum(down), 0) AS down FROM (
        SELECT up, down FROM open WHERE sink = ?1
        UNION ALL SELECT up, down FROM report WHERE sink = ?1)";
    let bytes = rows::one(connection, sql, &[&sink], |row| bytes_of(row, "up", "down"))?;
    Ok(bytes.unwrap_or_default())
}

fn forget(connection: &Connection, sink: &str) -> Done<()> {
    connection
        .prepare_cached(
            "INSERT INTO user_settled (user, sink, up, down)
             SELECT user, ?2, up, down FROM user_settled WHERE sink = ?1
             ON CONFLICT (user, sink) DO UPDATE SET up = excluded.up, down = excluded.down
                 WHERE excluded.up + excluded.down > up + down",
        )?
        .execute((sink, GONE))?;
    for table in ["open", "report", "settled", "total", "user_settled"] {
        connection.execute(&format!("DELETE FROM {table} WHERE sink = ?1"), [sink])?;
    }
    Ok(())
}
