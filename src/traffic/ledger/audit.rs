//! Whether a ledger that was opened just now still adds up: what was counted for a sink is what is open,
//! in reports and settled, to the byte, and sums of users are those of all of them. Rows that nobody finds any more, for a bit of their key was
//! flipped, show in nothing else.

use rusqlite::Connection;
use rusqlite::ffi::SQLITE_ERROR;

use super::rows::{self, Done, damaged};
use crate::store::WorkError;

/// Finds sums that do not come to zero.
const UNEVEN: &str = "
    SELECT count(*) FROM (
        SELECT 1 FROM (
            SELECT sink, node, up, down FROM open
            UNION ALL SELECT sink, node, up, down FROM report
            UNION ALL SELECT sink, node, settled_up - counted_up, settled_down - counted_down
                FROM total)
        GROUP BY sink, node HAVING sum(up) <> 0 OR sum(down) <> 0
        UNION ALL SELECT 1 FROM (
            SELECT source, up, down FROM user_sum
            UNION ALL SELECT source, -up, -down FROM source_sum)
        GROUP BY source HAVING sum(up) <> 0 OR sum(down) <> 0
        UNION ALL SELECT 1 FROM (
            SELECT sink, up, down FROM user_settled WHERE sink <> ''
            UNION ALL SELECT sink, -settled_up, -settled_down FROM total
                WHERE sink = 'kernel' OR sink LIKE 'kernel:%')
        GROUP BY sink HAVING sum(up) <> 0 OR sum(down) <> 0)";

/// Fails if the ledger does not add up.
pub(super) fn audit(connection: &Connection) -> Done<()> {
    match rows::scalar::<i64>(connection, UNEVEN, &[]) {
        Ok(Some(0) | None) => Ok(()),
        Ok(Some(_)) => Err(damaged("what was counted is not what is in it")),
        Err(WorkError::Sql(error)) if overflows(&error) => {
            Err(damaged("more is in it than can be counted"))
        }
        Err(error) => Err(error),
    }
}

/// The only error that this statement can come to by itself.
fn overflows(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|failure| failure.extended_code == SQLITE_ERROR)
}
