//! What the ledger knows of Xrays: since when, their boots, and each boot's counters as last counted. A
//! row that nobody finds any more, for a bit of its key was flipped, would bill its counters whole once
//! more: so all rows are looked at, and counted.

use rusqlite::{Connection, Row};

use super::rows::{
    Done, Sum, all, amount, bytes_of, damaged, node_of, scalar, stored, stored_node,
};
use crate::model::ids::NodeId;
use crate::traffic::baselines::Bytes;
use crate::traffic::identity::Birth;
use crate::xray::boot::Boot;

/// Since when an Xray is known; from now on, where it was not.
pub(super) fn birth(connection: &Connection, xray: &str, now: &Birth) -> Done<Birth> {
    let known = all(
        connection,
        "SELECT name, kernel, born_ms, crc FROM xray",
        &[],
        |row| {
            let name: String = row.get("name")?;
            let birth = Birth {
                kernel: row.get("kernel")?,
                at_ms: row.get("born_ms")?,
            };
            birth_sum(&name, &birth).check(row.get("crc")?)?;
            Ok((name, birth))
        },
    )?;
    match known.into_iter().find(|(name, _)| name == xray) {
        Some((_, birth)) => Ok(birth),
        None => set_birth(connection, xray, now).map(|()| now.clone()),
    }
}

fn birth_sum(xray: &str, birth: &Birth) -> Sum {
    Sum::of("xray")
        .text(xray)
        .text(&birth.kernel)
        .int(birth.at_ms)
}

/// Sets since when an Xray is known.
pub(super) fn set_birth(connection: &Connection, xray: &str, birth: &Birth) -> Done<()> {
    let sum = birth_sum(xray, birth).seal();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO xray (name, kernel, born_ms, crc) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute((xray, &birth.kernel, birth.at_ms, sum))?;
    Ok(())
}

/// A boot in the ledger.
#[derive(Clone, Debug)]
pub(super) struct BootRow {
    pub(super) id: i64,
    pub(super) xray: String,
    pub(super) boot: Boot,
    pub(super) seen: i64,
    pub(super) adopted: Bytes,
    /// How many baselines are kept of it.
    pub(super) baselines: i64,
}

impl BootRow {
    fn sum(&self) -> Sum {
        let boot = &self.boot;
        Sum::of("boot")
            .int(self.id)
            .text(&self.xray)
            .text(&boot.kernel_boot_id)
            .int(boot.started_ms)
            .int(boot.started_awake_ms.unwrap_or(i64::MIN))
            .int(boot.uptime_s.into())
            .int(stored(boot.total_alloc))
            .int(stored(boot.mallocs))
            .int(self.seen)
            .bytes(self.adopted)
            .int(self.baselines)
    }

    fn read(row: &Row<'_>) -> Done<Self> {
        let read = Self {
            id: row.get("id")?,
            xray: row.get("xray")?,
            boot: Boot {
                kernel_boot_id: row.get("kernel")?,
                started_ms: row.get("started_ms")?,
                started_awake_ms: row.get("started_awake_ms")?,
                uptime_s: row.get("uptime_s")?,
                total_alloc: amount(row.get("total_alloc")?)?,
                mallocs: amount(row.get("mallocs")?)?,
            },
            seen: row.get("seen")?,
            adopted: bytes_of(row, "adopted_up", "adopted_down")?,
            baselines: row.get("baselines")?,
        };
        read.sum().check(row.get("crc")?)?;
        Ok(read)
    }

    /// One that is seen for the first time.
    pub(super) fn new(connection: &Connection, xray: &str, boot: &Boot) -> Done<Self> {
        let id = next_seen(connection)?;
        Ok(Self {
            id,
            xray: xray.to_owned(),
            boot: boot.clone(),
            seen: id,
            adopted: Bytes::default(),
            baselines: 0,
        })
    }

    /// Keeps it as the one that was seen last.
    pub(super) fn keep_as_last(&mut self, connection: &Connection) -> Done<()> {
        self.seen = next_seen(connection)?;
        self.keep(connection)
    }

    /// Writes it in the place of the one that there was.
    pub(super) fn keep(&self, connection: &Connection) -> Done<()> {
        let mut statement = connection.prepare_cached(
            "INSERT INTO boot (id, xray, kernel, started_ms, started_awake_ms, uptime_s,
                 total_alloc, mallocs, seen, adopted_up, adopted_down, baselines, crc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT (id) DO UPDATE SET started_ms = ?4, started_awake_ms = ?5, kernel = ?3,
                 uptime_s = ?6, total_alloc = ?7, mallocs = ?8, seen = ?9, adopted_up = ?10,
                 adopted_down = ?11, baselines = ?12, crc = ?13",
        )?;
        let boot = &self.boot;
        statement.execute((
            self.id,
            &self.xray,
            &boot.kernel_boot_id,
            boot.started_ms,
            boot.started_awake_ms,
            boot.uptime_s,
            stored(boot.total_alloc),
            stored(boot.mallocs),
            self.seen,
            stored(self.adopted.up),
            stored(self.adopted.down),
            self.baselines,
            self.sum().seal(),
        ))?;
        Ok(())
    }
}

/// The boots of an Xray, the last seen first. Those of the others are looked at too: one of ours that
/// were taken for theirs would count anew.
pub(super) fn boots(connection: &Connection, xray: &str) -> Done<Vec<BootRow>> {
    let sql = "SELECT * FROM boot ORDER BY seen DESC";
    let mut known = all(connection, sql, &[], BootRow::read)?;
    known.retain(|row| row.xray == xray);
    Ok(known)
}

/// What the next boot to be seen counts as; the last one seen is never forgotten.
fn next_seen(connection: &Connection) -> Done<i64> {
    let sql = "SELECT coalesce(max(seen), 0) + 1 FROM boot";
    Ok(scalar(connection, sql, &[])?.unwrap_or(1))
}

fn baseline_sum(boot: i64, email: &str, node: NodeId, bytes: Bytes) -> Sum {
    Sum::of("baseline")
        .int(boot)
        .text(email)
        .int(stored_node(node))
        .bytes(bytes)
}

/// Every baseline of a boot.
pub(super) fn each_baseline(
    connection: &Connection,
    (boot, count): (i64, i64),
    mut take: impl FnMut(&str, NodeId, Bytes),
) -> Done<()> {
    let sql = "SELECT email, node, up, down, crc FROM baseline WHERE boot = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([boot])?;
    let mut missing = count;
    while let Some(row) = rows.next()? {
        missing -= 1;
        let email = row
            .get_ref("email")?
            .as_str()
            .map_err(|_| damaged("an e-mail is no text"))?;
        let (node, bytes) = (node_of(row.get("node")?), bytes_of(row, "up", "down")?);
        baseline_sum(boot, email, node, bytes).check(row.get("crc")?)?;
        take(email, node, bytes);
    }
    // A counter without its baseline would count whole, once more.
    match missing {
        0 => Ok(()),
        _ => Err(damaged(
            "baselines of a boot are missing, or are not its own",
        )),
    }
}

/// Keeps a baseline; whether there was none.
pub(super) fn keep_baseline(
    connection: &Connection,
    boot: i64,
    email: &str,
    node: NodeId,
    bytes: Bytes,
) -> Done<bool> {
    let (crc, node) = (
        baseline_sum(boot, email, node, bytes).seal(),
        stored_node(node),
    );
    let values = (boot, email, node, stored(bytes.up), stored(bytes.down), crc);
    let updated = connection
        .prepare_cached(
            "UPDATE baseline SET node = ?3, up = ?4, down = ?5, crc = ?6
             WHERE boot = ?1 AND email = ?2",
        )?
        .execute(values)?;
    if updated > 0 {
        return Ok(false);
    }
    connection
        .prepare_cached(
            "INSERT INTO baseline (boot, email, node, up, down, crc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(values)?;
    Ok(true)
}
