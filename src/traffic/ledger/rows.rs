//! Rows as values: each is checked against its checksum when it is read, and sealed with a new one
//! when it is written. A row that does not fit its checksum spoils the whole store: nothing of it is
//! billed.

use jiff::Timestamp;
use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use crate::model::desired::InboundKey;
use crate::model::ids::{NodeId, UserId};
use crate::model::report::{Report, ReportId};
use crate::store::WorkError;
use crate::traffic::baselines::Bytes;

/// What reading and writing rows comes to.
pub(super) type Done<T> = Result<T, WorkError>;

/// In which state a report is that its sink has not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// To be sent.
    Pending,
    /// Under way.
    Sending,
    /// Refused for good; kept with the panel's words.
    Rejected,
    /// Nobody knows whether it was taken.
    Unknown,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Sending, Self::Rejected, Self::Unknown];

    /// As it is written in the ledger and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending => "sending",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A report in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReportRow {
    pub(super) seq: i64,
    /// Its number.
    pub(super) id: ReportId,
    /// Which sink it is for.
    pub(super) sink: String,
    /// The panel's node; for a sink of a panel that pushes, an inbound's number.
    pub(super) node: NodeId,
    /// Whose bytes.
    pub(super) user: UserId,
    /// How many.
    pub(super) bytes: Bytes,
    /// When the first of them were counted, in Unix milliseconds.
    pub(super) since: i64,
    /// When the last of them were.
    pub(super) until: i64,
    /// How it stands.
    pub(super) state: State,
    /// How often it was sent.
    pub(super) attempts: u32,
    /// When it was first not known whether it was taken; 0 if that was always known.
    pub(super) doubted: i64,
    /// When its state last changed.
    pub(super) changed: i64,
    /// Why it stands so.
    pub(super) words: String,
}

/// A sum over a row's content.
pub(super) struct Sum(crc32fast::Hasher);

impl Sum {
    pub(super) fn of(table: &str) -> Self {
        Self(crc32fast::Hasher::new()).text(table)
    }

    pub(super) fn int(mut self, value: i64) -> Self {
        self.0.update(&value.to_le_bytes());
        self
    }

    pub(super) fn text(mut self, value: &str) -> Self {
        self.0.update(&value.len().to_le_bytes());
        self.0.update(value.as_bytes());
        self
    }

    pub(super) fn blob(mut self, value: &[u8; 16]) -> Self {
        self.0.update(value);
        self
    }

    pub(super) fn bytes(self, value: Bytes) -> Self {
        self.int(stored(value.up)).int(stored(value.down))
    }

    pub(super) fn seal(self) -> i64 {
        i64::from(self.0.finalize())
    }

    /// Whether the row is as it was written.
    pub(super) fn check(self, kept: i64) -> Done<()> {
        if self.seal() == kept {
            return Ok(());
        }
        Err(damaged("a row does not fit its checksum"))
    }
}

pub(super) fn damaged(why: &str) -> WorkError {
    WorkError::Damaged(why.to_owned())
}

/// An amount as SQLite takes it: eight exbibytes of one user are not seen.
pub(super) fn stored(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A moment of the ledger; nonsense is shown as the beginning of time.
pub(super) fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A node's number keeps its bits.
pub(super) fn stored_node(node: NodeId) -> i64 {
    node.0.cast_signed()
}

pub(super) fn node_of(stored: i64) -> NodeId {
    NodeId(stored.cast_unsigned())
}

pub(super) fn user_of(stored: [u8; 16]) -> UserId {
    UserId::from_bytes(stored)
}

pub(super) fn amount(stored: i64) -> Done<u64> {
    u64::try_from(stored).map_err(|_| damaged("an amount is below zero"))
}

/// Two columns of a row as bytes both ways.
pub(super) fn bytes_of(row: &Row<'_>, up: &str, down: &str) -> Done<Bytes> {
    Ok(Bytes {
        up: amount(row.get(up)?)?,
        down: amount(row.get(down)?)?,
    })
}

/// All rows that a statement gives, each read by `read`.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    parameters: &[&dyn ToSql],
    mut read: impl FnMut(&Row<'_>) -> Done<T>,
) -> Done<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

/// The first row that a statement gives, if it gives one.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    parameters: &[&dyn ToSql],
    read: impl FnOnce(&Row<'_>) -> Done<T>,
) -> Done<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    rows.next()?.map(read).transpose()
}

/// Bytes of a user at a node that are in no report yet.
#[derive(Clone, Debug)]
pub(super) struct OpenRow {
    pub(super) user: UserId,
    pub(super) node: NodeId,
    pub(super) bytes: Bytes,
    pub(super) since: i64,
}

impl OpenRow {
    fn sum(&self, sink: &str) -> Sum {
        Sum::of("open")
            .text(sink)
            .blob(self.user.bytes())
            .int(stored_node(self.node))
            .bytes(self.bytes)
            .int(self.since)
    }

    /// From a row with all columns.
    pub(super) fn read(row: &Row<'_>, sink: &str) -> Done<Self> {
        let read = Self {
            user: user_of(row.get("user")?),
            node: node_of(row.get("node")?),
            bytes: bytes_of(row, "up", "down")?,
            since: row.get("since")?,
        };
        read.sum(sink).check(row.get("crc")?)?;
        Ok(read)
    }

    /// Writes it in the place of the one that there was.
    pub(super) fn keep(&self, connection: &Connection, sink: &str) -> Done<()> {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO open (sink, user, node, up, down, since, crc)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                sink,
                self.user.bytes(),
                stored_node(self.node),
                stored(self.bytes.up),
                stored(self.bytes.down),
                self.since,
                self.sum(sink).seal(),
            ))?;
        Ok(())
    }
}

impl ReportRow {
    fn sum(&self) -> Sum {
        Sum::of("report")
            .blob(self.id.0.as_bytes())
            .text(&self.sink)
            .int(stored_node(self.node))
            .blob(self.user.bytes())
            .bytes(self.bytes)
            .int(self.since)
            .int(self.until)
            .text(self.state.name())
            .int(self.attempts.into())
            .int(self.doubted)
            .int(self.changed)
            .text(&self.words)
    }

    /// From a row with all columns.
    pub(super) fn read(row: &Row<'_>) -> Done<Self> {
        let state: String = row.get("state")?;
        let read = Self {
            seq: row.get("seq")?,
            id: ReportId(Uuid::from_bytes(row.get("id")?)),
            sink: row.get("sink")?,
            node: node_of(row.get("node")?),
            user: user_of(row.get("user")?),
            bytes: bytes_of(row, "up", "down")?,
            since: row.get("since")?,
            until: row.get("until")?,
            state: State::of(&state).ok_or_else(|| damaged("a report has no state"))?,
            attempts: row.get("attempts")?,
            doubted: row.get("doubted")?,
            changed: row.get("changed")?,
            words: row.get("words")?,
        };
        read.sum().check(row.get("crc")?)?;
        Ok(read)
    }

    /// The first report that a condition gives.
    pub(super) fn find(
        connection: &Connection,
        condition: &str,
        parameters: &[&dyn ToSql],
    ) -> Done<Option<Self>> {
        let sql = format!("SELECT * FROM report WHERE {condition} LIMIT 1");
        one(connection, &sql, parameters, Self::read)
    }

    /// Writes a new one; `seq` is given by the ledger.
    pub(super) fn insert(&self, connection: &Connection) -> Done<()> {
        connection
            .prepare_cached(
                "INSERT INTO report (id, sink, node, user, up, down, since, until, state, attempts,
                     doubted, changed, words, crc)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            )?
            .execute((
                self.id.0.as_bytes(),
                &self.sink,
                stored_node(self.node),
                self.user.bytes(),
                stored(self.bytes.up),
                stored(self.bytes.down),
                self.since,
                self.until,
                self.state.name(),
                self.attempts,
                self.doubted,
                self.changed,
                &self.words,
                self.sum().seal(),
            ))?;
        Ok(())
    }

    /// Writes what may change in a report that is there.
    pub(super) fn update(&self, connection: &Connection) -> Done<()> {
        connection
            .prepare_cached(
                "UPDATE report SET id = ?2, up = ?3, down = ?4, until = ?5, state = ?6,
                     attempts = ?7, doubted = ?8, changed = ?9, words = ?10, crc = ?11
                 WHERE seq = ?1",
            )?
            .execute((
                self.seq,
                self.id.0.as_bytes(),
                stored(self.bytes.up),
                stored(self.bytes.down),
                self.until,
                self.state.name(),
                self.attempts,
                self.doubted,
                self.changed,
                &self.words,
                self.sum().seal(),
            ))?;
        Ok(())
    }

    /// As it is sent.
    pub(super) fn report(&self, inbound: Option<&InboundKey>) -> Report {
        Report {
            id: self.id,
            node: inbound.map_or(self.node, |inbound| inbound.node),
            user: self.user,
            up: self.bytes.up,
            down: self.bytes.down,
            inbound: inbound.cloned(),
            until: time(self.until),
        }
    }
}

/// A value of one column of one row, where there is one.
pub(super) fn scalar<T: rusqlite::types::FromSql>(
    connection: &Connection,
    sql: &str,
    parameters: &[&dyn ToSql],
) -> Done<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement
        .query_row(parameters, |row| row.get(0))
        .optional()?)
}

fn sink_sum(name: &str, address: &str, dedupes: bool) -> Sum {
    Sum::of("sink").text(name).text(address).int(dedupes.into())
}

/// Whether the sink at `address` has shown that it drops repeats, if it has shown anything.
pub(super) fn dedupes(connection: &Connection, sink: &str, address: &str) -> Done<Option<bool>> {
    let sql = "SELECT address, dedupes, crc FROM sink WHERE name = ?1";
    let shown = one(connection, sql, &[&sink], |row| {
        let (at, dedupes): (String, bool) = (row.get("address")?, row.get("dedupes")?);
        sink_sum(sink, &at, dedupes).check(row.get("crc")?)?;
        Ok((at == address).then_some(dedupes))
    })?;
    Ok(shown.flatten())
}

/// Keeps whether the sink at `address` drops repeats.
pub(super) fn keep_dedupes(
    connection: &Connection,
    sink: &str,
    address: &str,
    dedupes: bool,
) -> Done<()> {
    let crc = sink_sum(sink, address, dedupes).seal();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO sink (name, address, dedupes, crc) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute((sink, address, dedupes, crc))?;
    Ok(())
}
