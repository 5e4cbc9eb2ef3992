//! Managed inbounds by number, and what was counted in each. A number never changes: records for panels
//! that push are kept under it, so a row whose bits flipped would have bytes billed to another node.

use std::collections::HashMap;

use rusqlite::{Connection, Row};

use super::rows::{Done, Sum, all, bytes_of, damaged, node_of, stored, stored_node};
use crate::model::desired::InboundKey;
use crate::model::ids::{InboundTag, NodeId};
use crate::traffic::baselines::Bytes;
use crate::traffic::receivers::is_kernel;

/// An inbound in the ledger.
#[derive(Clone, Debug)]
pub(super) struct InboundRow {
    pub(super) id: i64,
    pub(super) key: InboundKey,
    /// Counted in it, for whomever.
    pub(super) bytes: Bytes,
}

impl InboundRow {
    fn sum(&self) -> Sum {
        Sum::of("inbound")
            .int(self.id)
            .text(&self.key.xray)
            .text(self.key.tag.as_str())
            .int(stored_node(self.key.node))
            .bytes(self.bytes)
    }

    fn read(row: &Row<'_>) -> Done<Self> {
        let read = Self {
            id: row.get("id")?,
            key: InboundKey {
                node: node_of(row.get("node")?),
                xray: row.get("xray")?,
                tag: InboundTag(row.get("tag")?),
            },
            bytes: bytes_of(row, "up", "down")?,
        };
        read.sum().check(row.get("crc")?)?;
        Ok(read)
    }

    fn keep(&self, connection: &Connection) -> Done<()> {
        connection
            .prepare_cached(
                "INSERT INTO inbound (id, xray, tag, node, up, down, crc)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET node = ?4, up = ?5, down = ?6, crc = ?7",
            )?
            .execute((
                self.id,
                &self.key.xray,
                self.key.tag.as_str(),
                stored_node(self.key.node),
                stored(self.bytes.up),
                stored(self.bytes.down),
                self.sum().seal(),
            ))?;
        Ok(())
    }
}

/// All of them, by number.
pub(super) struct Inbounds(HashMap<i64, InboundRow>);

impl Inbounds {
    pub(super) fn read(connection: &Connection) -> Done<Self> {
        let rows = all(connection, "SELECT * FROM inbound", &[], InboundRow::read)?;
        Ok(Self(rows.into_iter().map(|row| (row.id, row)).collect()))
    }

    /// Those that a sink needs: by number it has bytes for panels that push only.
    pub(super) fn for_sink(connection: &Connection, sink: &str) -> Done<Self> {
        if is_kernel(sink) {
            Self::read(connection)
        } else {
            Ok(Self(HashMap::new()))
        }
    }

    /// All, in the order of their numbers.
    pub(super) fn into_rows(self) -> Vec<InboundRow> {
        let mut rows: Vec<_> = self.0.into_values().collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// The inbound under which `sink` has bytes; `None` where it has them by node.
    pub(super) fn of(&self, sink: &str, number: NodeId) -> Done<Option<&InboundKey>> {
        if !is_kernel(sink) {
            return Ok(None);
        }
        match self.0.get(&stored_node(number)) {
            Some(row) => Ok(Some(&row.key)),
            None => Err(damaged("bytes are for an inbound that is not there")),
        }
    }

    /// The panel's node that a number stands for.
    pub(super) fn node(&self, sink: &str, number: NodeId) -> Done<NodeId> {
        Ok(self.of(sink, number)?.map_or(number, |key| key.node))
    }

    /// The numbers of `keys`, in their order. One that is new, or serves another node now, is written.
    pub(super) fn numbers(
        &mut self,
        connection: &Connection,
        keys: &[InboundKey],
    ) -> Done<Vec<i64>> {
        let mut numbers = Vec::with_capacity(keys.len());
        for key in keys {
            let same = |row: &&InboundRow| (&row.key.xray, &row.key.tag) == (&key.xray, &key.tag);
            let known = self.0.values().find(same).cloned();
            let is_known = known.as_ref().is_some_and(|row| row.key == *key);
            let next = self.0.keys().max().map_or(1, |last| last + 1);
            let row = InboundRow {
                id: known.as_ref().map_or(next, |row| row.id),
                key: key.clone(),
                bytes: known.map(|row| row.bytes).unwrap_or_default(),
            };
            if !is_known {
                row.keep(connection)?;
            }
            numbers.push(row.id);
            self.0.insert(row.id, row);
        }
        Ok(numbers)
    }

    /// Adds what was counted in one.
    pub(super) fn add(&mut self, connection: &Connection, number: i64, bytes: Bytes) -> Done<()> {
        let Some(row) = self.0.get_mut(&number) else {
            return Ok(());
        };
        row.bytes = row.bytes.plus(bytes);
        row.keep(connection)
    }
}
