//! Sinks of panels that push come and go. What is left for one that is gone can be told to nobody: it is
//! dropped, and how much it was is said.

use rusqlite::Connection;

use super::rows::{self, Done, bytes_of};
use super::sums::GONE;
use crate::traffic::baselines::Bytes;
use crate::traffic::receivers::{SinkName, is_kernel};

/// A sink that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its name.
    pub sink: String,
    /// What it had not taken.
    pub bytes: Bytes,
}

/// Forgets the sinks of panels that push that are not among `kept`. What each had taken of users still
/// counts for their quotas.
pub(super) fn keep_only(connection: &Connection, kept: &[SinkName]) -> Done<Vec<Dropped>> {
    let known = rows::all(
        connection,
        "SELECT sink FROM total UNION SELECT sink FROM open UNION SELECT sink FROM report",
        &[],
        |row| Ok(row.get::<_, String>("sink")?),
    )?;
    let gone = known.into_iter().filter(|sink| {
        let is_kept = kept.iter().any(|kept| **kept == **sink);
        is_kernel(sink) && !is_kept
    });
    gone.map(|sink| forget(connection, sink)).collect()
}

fn forget(connection: &Connection, sink: String) -> Done<Dropped> {
    let left = "SELECT coalesce(sum(up), 0) AS up, coalesce(sum(down), 0) AS down FROM (
        SELECT up, down FROM open WHERE sink = ?1
        UNION ALL SELECT up, down FROM report WHERE sink = ?1)";
    let bytes = rows::one(connection, left, &[&sink], |row| {
        bytes_of(row, "up", "down")
    })?;
    connection
        .prepare_cached(
            "INSERT INTO user_settled (user, sink, up, down)
             SELECT user, ?2, up, down FROM user_settled WHERE sink = ?1
             ON CONFLICT (user, sink) DO UPDATE SET up = excluded.up, down = excluded.down
                 WHERE excluded.up + excluded.down > up + down",
        )?
        .execute((&sink, GONE))?;
    for table in ["open", "report", "settled", "total", "user_settled"] {
        connection.execute(&format!("DELETE FROM {table} WHERE sink = ?1"), [&sink])?;
    }
    Ok(Dropped {
        sink,
        bytes: bytes.unwrap_or_default(),
    })
}
