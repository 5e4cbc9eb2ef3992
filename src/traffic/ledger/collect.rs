//! Takes one read of counters into the ledger: which boot it is of, what is new, and both in one
//! transaction: baselines move and bytes are added, or neither.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;

use super::boots::{self, BootRow};
use super::rows::{self, Done, OpenRow, stored, stored_node};
use crate::base::clock::Moment;
use crate::model::ids::{NodeId, UserId};
use crate::store::WorkError;
use crate::traffic::account::{Books, Entry, Read, account};
use crate::traffic::baselines::{Baselines, Bytes};
use crate::traffic::forms::Forms;
use crate::traffic::identity::{Birth, born_after};
use crate::xray::boot::Boot;
use crate::xray::counters::UserCounters;

/// So many boots of an Xray are known; more processes than these do not share a port.
const BOOTS_MAX: usize = 8;

/// One bulk read, to be taken into the ledger.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The Xray's name.
    pub xray: Arc<str>,
    /// Whose its counters are.
    pub forms: Arc<Forms>,
    /// The boot, seen before and after the counters.
    pub boot: Boot,
    /// Whether it may be on another host.
    pub remote: bool,
    /// Whether it came over the connection of the last read that was taken in.
    pub same_connection: bool,
    /// The counters.
    pub counters: Arc<UserCounters>,
    /// Whether a boot older than the ledger is adopted.
    pub adopts: bool,
}

/// What a read came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    /// Counters of ours, each way by itself.
    pub ours: usize,
    /// Counters of others.
    pub foreign: usize,
    /// Their bytes, both ways, since Xray started.
    pub foreign_bytes: u64,
    /// Bytes that are new.
    pub new: Bytes,
    /// Bytes of this boot that were there before the ledger, and are billed to nobody.
    pub adopted: Bytes,
    /// Whether that was so with this very read.
    pub adopts_now: bool,
    /// Counters that somebody else has reset.
    pub resets: usize,
    /// Whether another process answers at the same address.
    pub alternates: bool,
}

/// Counters of the boots that were read last, so that they need not be read from the disk. What is
/// taken out and not put back after the commit is read anew: it may not be what was committed.
#[derive(Debug)]
pub(super) struct Cache {
    generation: Option<u64>,
    /// Since when Xrays are known to a file that does not know them.
    born: Birth,
    by_xray: HashMap<Arc<str>, (i64, Arc<Baselines>)>,
}

impl Cache {
    /// Empty; Xrays are known since `now`.
    pub(super) fn new(now: &Moment) -> Self {
        Self {
            generation: None,
            born: birth(now),
            by_xray: HashMap::new(),
        }
    }

    /// Whether what is cached is of that file.
    pub(super) fn is_at(&self, generation: u64) -> bool {
        self.generation == Some(generation)
    }

    /// What is cached of a file that was opened anew is void, and a file begun anew knows Xrays only
    /// from then on: an older one may have billed what they counted before.
    pub(super) fn at(&mut self, generation: u64, now: &Moment) {
        if self.generation.is_some() {
            self.born = birth(now);
        }
        self.generation = Some(generation);
        self.by_xray.clear();
    }

    fn take(&mut self, xray: &str, boot: i64) -> Option<Arc<Baselines>> {
        let (cached, baselines) = self.by_xray.remove(xray)?;
        (cached == boot).then_some(baselines)
    }

    /// Puts back what was taken, as it was committed.
    pub(super) fn put(&mut self, generation: u64, taken: Taken) {
        if self.generation == Some(generation) {
            self.by_xray
                .insert(taken.xray, (taken.boot, taken.baselines));
        }
    }
}

/// Baselines of a boot, to be put back into the cache after the commit.
pub(super) struct Taken {
    xray: Arc<str>,
    boot: i64,
    baselines: Arc<Baselines>,
}

fn birth(now: &Moment) -> Birth {
    Birth {
        kernel: now.kernel_boot_id.clone(),
        at_ms: i64::try_from(now.monotonic.as_millis()).unwrap_or(i64::MAX),
    }
}

/// Takes `reading` in, for all `sinks`, at `now_ms`.
pub(super) fn take_in(
    connection: &Connection,
    cache: &mut Cache,
    reading: &Reading,
    sinks: &[&'static str],
    now_ms: i64,
) -> Done<(Collected, Taken)> {
    let xray = &*reading.xray;
    let begins = if reading.adopts {
        cache.born.clone()
    } else {
        Birth::of_all_time(&cache.born.kernel)
    };
    let birth = boots::birth(connection, xray, &begins)?;
    let known = boots::boots(connection, xray)?;
    let entry = put_to_account(connection, cache, reading, &birth, &known)?;
    let before = entry.boot.map(|place| known[place].clone());
    let is_new = before.is_none();
    let mut row = match before {
        Some(row) => BootRow {
            boot: entry.row.clone(),
            ..row
        },
        None => BootRow {
            adopted: entry.counted.adopted,
            ..BootRow::new(connection, xray, &entry.row)?
        },
    };
    let mut baselines = match cache.take(xray, row.id) {
        Some(baselines) => baselines,
        None => load(connection, &reading.forms, &row)?,
    };
    row.keep_as_last(connection)?;
    keep_moved(connection, &entry, &reading.forms, row.clone())?;
    // Nobody else holds it now, so that nothing is copied.
    Arc::make_mut(&mut baselines).absorb(&entry.counted.moved);
    let new = add(connection, &entry, sinks, now_ms)?;
    if is_new {
        forget_old(connection, reading, birth, &known)?;
    }
    let taken = Taken {
        xray: reading.xray.clone(),
        boot: row.id,
        baselines,
    };
    Ok((collected(&entry, new, row.adopted), taken))
}

/// Keeps the baselines that moved, and in the boot's row how many there are.
fn keep_moved(connection: &Connection, entry: &Entry, forms: &Forms, mut row: BootRow) -> Done<()> {
    let before = row.baselines;
    for moved in &entry.counted.moved {
        let email = moved.name.email(forms);
        let is_new = boots::keep_baseline(connection, row.id, &email, moved.node, moved.bytes)?;
        row.baselines += i64::from(is_new);
    }
    if row.baselines != before {
        row.keep(connection)?;
    }
    Ok(())
}

fn collected(entry: &Entry, new: Bytes, adopted: Bytes) -> Collected {
    let counted = &entry.counted;
    Collected {
        ours: counted.ours,
        foreign: counted.foreign,
        foreign_bytes: counted.foreign_bytes,
        new,
        adopted,
        adopts_now: !counted.adopted.is_zero(),
        resets: counted.resets,
        alternates: entry.alternates,
    }
}

fn put_to_account(
    connection: &Connection,
    cache: &mut Cache,
    reading: &Reading,
    birth: &Birth,
    known: &[BootRow],
) -> Done<Entry> {
    let seen: Vec<Boot> = known.iter().map(|row| row.boot.clone()).collect();
    let read = Read {
        boot: &reading.boot,
        remote: reading.remote,
        same_connection: reading.same_connection,
        counters: &reading.counters,
    };
    let of_xray = Books {
        forms: &reading.forms,
        birth,
        known: &seen,
    };
    account(read, of_xray, |place| {
        let row = &known[place];
        match cache.by_xray.get(&reading.xray) {
            Some((cached, baselines)) if *cached == row.id => Ok(baselines.clone()),
            _ => load(connection, &reading.forms, row),
        }
    })
}

fn load(
    connection: &Connection,
    forms: &Forms,
    row: &BootRow,
) -> Result<Arc<Baselines>, WorkError> {
    let mut baselines = Baselines::default();
    boots::each_baseline(connection, (row.id, row.baselines), |email, node, bytes| {
        baselines.restore(forms, email, node, bytes);
    })?;
    Ok(Arc::new(baselines))
}

/// Adds what is new to the open period of every sink.
fn add(connection: &Connection, entry: &Entry, sinks: &[&'static str], now_ms: i64) -> Done<Bytes> {
    let mut sum = Bytes::default();
    let mut by_node: HashMap<NodeId, Bytes> = HashMap::new();
    for (&(node, user), &bytes) in &entry.counted.deltas {
        sum = sum.plus(bytes);
        let of_node = by_node.entry(node).or_default();
        *of_node = of_node.plus(bytes);
        for sink in sinks {
            add_to_open(connection, sink, (node, user), bytes, now_ms)?;
        }
    }
    for (node, bytes) in by_node {
        for sink in sinks {
            add_to_total(connection, sink, node, bytes)?;
        }
    }
    Ok(sum)
}

fn add_to_open(
    connection: &Connection,
    sink: &str,
    (node, user): (NodeId, UserId),
    bytes: Bytes,
    now_ms: i64,
) -> Done<()> {
    let before = rows::one(
        connection,
        "SELECT * FROM open WHERE sink = ?1 AND user = ?2 AND node = ?3",
        &[&sink, user.bytes(), &stored_node(node)],
        |row| OpenRow::read(row, sink),
    )?;
    let mut row = before.unwrap_or(OpenRow {
        user,
        node,
        bytes: Bytes::default(),
        since: now_ms,
    });
    row.bytes = row.bytes.plus(bytes);
    row.keep(connection, sink)
}

fn add_to_total(connection: &Connection, sink: &str, node: NodeId, bytes: Bytes) -> Done<()> {
    connection
        .prepare_cached(
            "INSERT INTO total (sink, node, counted_up, counted_down) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (sink, node) DO UPDATE SET
                 counted_up = counted_up + ?3, counted_down = counted_down + ?4",
        )?
        .execute((
            sink,
            stored_node(node),
            stored(bytes.up),
            stored(bytes.down),
        ))?;
    Ok(())
}

/// Forgets the boots that were not seen for longest. One of them that answers once more must not be
/// taken for new: whatever is not younger than it is adopted from now on.
fn forget_old(
    connection: &Connection,
    reading: &Reading,
    birth: Birth,
    known: &[BootRow],
) -> Done<()> {
    let mut later = birth;
    for row in known.iter().skip(BOOTS_MAX - 1) {
        connection
            .prepare_cached("DELETE FROM boot WHERE id = ?1")?
            .execute([row.id])?;
        later = born_after(&later, &row.boot, &reading.boot.kernel_boot_id);
        boots::set_birth(connection, &reading.xray, &later)?;
    }
    Ok(())
}
