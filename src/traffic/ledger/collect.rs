//! Takes one read of counters into the ledger: which boot it is of, what is new, and both in one
//! transaction: baselines move and bytes are added, or neither.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;

use super::boots::{self, BootRow};
use super::inbounds::Inbounds;
use super::rows::{self, Done, OpenRow, node_of, stored, stored_node};
use super::sums::{self, Source};
use crate::base::clock::Moment;
use crate::model::ids::{NodeId, UserId};
use crate::model::pushed::{Owners, Wants};
use crate::store::WorkError;
use crate::traffic::account::{Books, Entry, Read, account};
use crate::traffic::baselines::{Baselines, Bytes};
use crate::traffic::forms::Forms;
use crate::traffic::identity::{Birth, born_after};
use crate::traffic::receivers::{self, Receivers, SinkName};
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

/// Where bytes go, and who says for whom they are.
#[derive(Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) receivers: &'a Receivers,
    pub(super) owners: &'a dyn Owners,
    pub(super) now_ms: i64,
}

/// What taking a read in leaves behind.
pub(super) struct TakenIn {
    pub(super) collected: Collected,
    pub(super) taken: Taken,
    /// Sums of pushed users that changed, both ways.
    pub(super) pushed: Vec<(UserId, u64)>,
}

/// Takes `reading` in.
pub(super) fn take_in(
    connection: &Connection,
    cache: &mut Cache,
    reading: &Reading,
    to: To<'_>,
) -> Done<TakenIn> {
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
    let mut adding = Adding::new(connection, reading, to)?;
    adding.add_all(&entry)?;
    let (new, pushed) = adding.finish()?;
    if is_new {
        forget_old(connection, reading, birth, &known)?;
    }
    let taken = Taken {
        xray: reading.xray.clone(),
        boot: row.id,
        baselines,
    };
    Ok(TakenIn {
        collected: collected(&entry, new, row.adopted),
        taken,
        pushed,
    })
}

/// Keeps the baselines that moved, and in the boot's row how many there are.
fn keep_moved(connection: &Connection, entry: &Entry, forms: &Forms, mut row: BootRow) -> Done<()> {
    let before = row.baselines;
    let moved = entry.counted.moved.iter();
    let mut moved: Vec<_> = moved.map(|it| (it.name.email(forms), it)).collect();
    // In the order of the table: its pages are then read and written once each.
    moved.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (email, moved) in moved {
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

/// Adds what is new to the open period of every sink that is to have it, and to all sums.
struct Adding<'a> {
    connection: &'a Connection,
    to: To<'a>,
    forms: &'a Forms,
    inbounds: Inbounds,
    /// Of the forms' inbounds, their numbers.
    numbers: Vec<i64>,
    sums: Sums,
}

/// What was added.
#[derive(Default)]
struct Sums {
    new: Bytes,
    polled: Bytes,
    pushed: Bytes,
    by_node: HashMap<NodeId, Bytes>,
    /// By number, of inbounds.
    counted: HashMap<i64, Bytes>,
    /// The same of those for panels that push.
    by_inbound: HashMap<i64, Bytes>,
    users: HashMap<UserId, u64>,
}

fn grow<K: std::hash::Hash + Eq>(sums: &mut HashMap<K, Bytes>, key: K, by: Bytes) {
    let sum = sums.entry(key).or_default();
    *sum = sum.plus(by);
}

impl<'a> Adding<'a> {
    fn new(connection: &'a Connection, reading: &'a Reading, to: To<'a>) -> Done<Self> {
        let mut inbounds = Inbounds::read(connection)?;
        let numbers = inbounds.numbers(connection, reading.forms.inbounds())?;
        Ok(Self {
            connection,
            to,
            forms: &reading.forms,
            inbounds,
            numbers,
            sums: Sums::default(),
        })
    }

    fn add_all(&mut self, entry: &Entry) -> Done<()> {
        let mut deltas: Vec<_> = entry.counted.deltas.iter().collect();
        // In the order of the tables: their pages are then read and written once each.
        deltas.sort_unstable_by_key(|(at, _)| (at.user, at.node, at.inbound));
        for (at, bytes) in deltas {
            self.sums.new = self.sums.new.plus(*bytes);
            let place = at.inbound.map(usize::from);
            let inbound = place.and_then(|place| {
                let key = self.forms.inbounds().get(place)?;
                Some((key, *self.numbers.get(place)?))
            });
            // Of an inbound that is managed no more nobody knows who was pushed to it.
            let wants = inbound.map_or(Wants::POLLED, |(key, _)| {
                receivers::effective(self.to.owners.wants(key, at.user))
            });
            if let Some((_, number)) = inbound {
                grow(&mut self.sums.counted, number, *bytes);
                if wants.pushed {
                    self.add_pushed(number, at.user, *bytes)?;
                }
            }
            if wants.polled {
                self.add_polled(at.node, at.user, *bytes)?;
            }
        }
        Ok(())
    }

    fn add_polled(&mut self, node: NodeId, user: UserId, bytes: Bytes) -> Done<()> {
        self.open(self.to.receivers.polled(), (node, user), bytes)?;
        sums::add_polled(self.connection, user, bytes)?;
        grow(&mut self.sums.by_node, node, bytes);
        self.sums.polled = self.sums.polled.plus(bytes);
        Ok(())
    }

    fn add_pushed(&mut self, number: i64, user: UserId, bytes: Bytes) -> Done<()> {
        self.open(self.to.receivers.kernel(), (node_of(number), user), bytes)?;
        let sum = sums::add_pushed(self.connection, user, bytes)?;
        self.sums.users.insert(user, sum.total());
        grow(&mut self.sums.by_inbound, number, bytes);
        self.sums.pushed = self.sums.pushed.plus(bytes);
        Ok(())
    }

    fn open(&self, sinks: &[SinkName], whose: (NodeId, UserId), bytes: Bytes) -> Done<()> {
        for sink in sinks {
            add_to_open(self.connection, sink, whose, bytes, self.to.now_ms)?;
        }
        Ok(())
    }

    /// Adds up; what is new, and the sums of pushed users that changed.
    fn finish(mut self) -> Done<(Bytes, Vec<(UserId, u64)>)> {
        let (connection, receivers) = (self.connection, self.to.receivers);
        for (node, bytes) in self.sums.by_node {
            for sink in receivers.polled() {
                add_to_total(connection, sink, node, bytes)?;
            }
        }
        for (number, bytes) in self.sums.by_inbound {
            for sink in receivers.kernel() {
                add_to_total(connection, sink, node_of(number), bytes)?;
            }
        }
        for (number, bytes) in self.sums.counted {
            self.inbounds.add(connection, number, bytes)?;
        }
        sums::add_to_source(connection, Source::Polled, self.sums.polled)?;
        sums::add_to_source(connection, Source::Pushed, self.sums.pushed)?;
        Ok((self.sums.new, self.sums.users.into_iter().collect()))
    }
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
