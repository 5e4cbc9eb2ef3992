//! What users have moved since the ledger began, and what of it panels that push have taken: quotas and
//! what is shown of a user rest on it. Nobody is billed by these; that rows and totals agree is looked at
//! whenever the file is opened (`audit`).

use std::collections::{BTreeSet, HashMap};

use rusqlite::Connection;

use super::rows::{self, Done, bytes_of, stored, user_of};
use crate::model::ids::UserId;
use crate::traffic::baselines::Bytes;

/// Sums of sinks that are gone stand under this name: the largest of each user.
pub(super) const GONE: &str = "";

/// For whom bytes were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Polled,
    Pushed,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Polled => "polled",
            Self::Pushed => "pushed",
        }
    }
}

/// Bytes of a user since the ledger began, by whom they were counted for: those for both are in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// For the panel that is polled.
    pub polled: Bytes,
    /// For panels that push.
    pub pushed: Bytes,
}

impl Used {
    /// What the user has moved: the larger of both.
    pub fn bytes(&self) -> Bytes {
        if self.pushed.total() > self.polled.total() {
            self.pushed
        } else {
            self.polled
        }
    }

    fn take(&mut self, source: &str, bytes: Bytes) {
        match source {
            "pushed" => self.pushed = bytes,
            _ => self.polled = bytes,
        }
    }
}

/// Adds to what a user has moved for the panel that is polled. A statement that gives nothing back costs
/// half of one that does, and every user of every read goes through this.
pub(super) fn add_polled(connection: &Connection, user: UserId, bytes: Bytes) -> Done<()> {
    connection
        .prepare_cached(
            "INSERT INTO user_sum (user, source, up, down) VALUES (?1, 'polled', ?2, ?3)
             ON CONFLICT (user, source) DO UPDATE SET up = up + ?2, down = down + ?3",
        )?
        .execute((user.bytes(), stored(bytes.up), stored(bytes.down)))?;
    Ok(())
}

/// Adds to what a user has moved for panels that push; the sum.
pub(super) fn add_pushed(connection: &Connection, user: UserId, bytes: Bytes) -> Done<Bytes> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO user_sum (user, source, up, down) VALUES (?1, 'pushed', ?2, ?3)
         ON CONFLICT (user, source) DO UPDATE SET up = up + ?2, down = down + ?3
         RETURNING up, down",
    )?;
    let (up, down) = (stored(bytes.up), stored(bytes.down));
    let mut rows = statement.query((user.bytes(), up, down))?;
    let sum = rows.next()?.map(|row| bytes_of(row, "up", "down"));
    // A statement that was not run to its end has not done all of its work.
    while rows.next()?.is_some() {}
    sum.unwrap_or_else(|| Ok(Bytes::default()))
}

/// Adds what one read came to, of all users together.
pub(super) fn add_to_source(connection: &Connection, source: Source, bytes: Bytes) -> Done<()> {
    if bytes.is_zero() {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO source_sum (source, up, down) VALUES (?1, ?2, ?3)
             ON CONFLICT (source) DO UPDATE SET up = up + ?2, down = down + ?3",
        )?
        .execute((source.name(), stored(bytes.up), stored(bytes.down)))?;
    Ok(())
}

/// Adds to what a sink of a panel that pushes has taken of a user.
pub(super) fn add_settled(
    connection: &Connection,
    sink: &str,
    user: UserId,
    bytes: Bytes,
) -> Done<()> {
    connection
        .prepare_cached(
            "INSERT INTO user_settled (user, sink, up, down) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (user, sink) DO UPDATE SET up = up + ?3, down = down + ?4",
        )?
        .execute((user.bytes(), sink, stored(bytes.up), stored(bytes.down)))?;
    Ok(())
}

/// The largest sum that a panel that pushes has taken of each of these users, both ways.
pub(super) fn settled_of(
    connection: &Connection,
    users: &BTreeSet<UserId>,
) -> Done<Vec<(UserId, u64)>> {
    let sql = "SELECT max(up + down) FROM user_settled WHERE user = ?1";
    let mut sums = Vec::with_capacity(users.len());
    for user in users {
        let sum: Option<Option<i64>> = rows::scalar(connection, sql, &[user.bytes()])?;
        sums.push((*user, whole(sum.flatten().unwrap_or_default())));
    }
    Ok(sums)
}

/// Sums of pushed users, both ways.
pub(super) struct Pushed {
    /// Counted.
    pub(super) counted: Vec<(UserId, u64)>,
    /// Taken.
    pub(super) settled: Vec<(UserId, u64)>,
}

/// All sums of pushed users.
pub(super) fn pushed(connection: &Connection) -> Done<Pushed> {
    let sums = |sql| {
        rows::all(connection, sql, &[], |row| {
            let sum: i64 = row.get("sum")?;
            Ok((user_of(row.get("user")?), whole(sum)))
        })
    };
    Ok(Pushed {
        counted: sums("SELECT user, up + down AS sum FROM user_sum WHERE source = 'pushed'")?,
        settled: sums("SELECT user, max(up + down) AS sum FROM user_settled GROUP BY user")?,
    })
}

fn whole(sum: i64) -> u64 {
    u64::try_from(sum).unwrap_or_default()
}

/// What every user has moved.
pub(super) fn used(connection: &Connection) -> Done<HashMap<UserId, Used>> {
    let mut all: HashMap<UserId, Used> = HashMap::new();
    let mut statement = connection.prepare_cached("SELECT * FROM user_sum")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let source: String = row.get("source")?;
        let used = all.entry(user_of(row.get("user")?)).or_default();
        used.take(&source, bytes_of(row, "up", "down")?);
    }
    Ok(all)
}

/// What one user has moved.
pub(super) fn used_by(connection: &Connection, user: UserId) -> Done<Used> {
    let mut sum = Used::default();
    let sql = "SELECT * FROM user_sum WHERE user = ?1";
    let sums = rows::all(connection, sql, &[user.bytes()], |row| {
        let source: String = row.get("source")?;
        Ok((source, bytes_of(row, "up", "down")?))
    })?;
    for (source, bytes) in sums {
        sum.take(&source, bytes);
    }
    Ok(sum)
}
