//! The ledger as metrics show it. A look at all of it takes long where there are many users, so it is
//! read beside the scrapes, on a connection of its own: a scrape shows what the last look saw and, when
//! that is old, has the next one begun. Without scrapes nothing is read.
//!
//! Kept here: no look holds up the ledger's writer; one is under way at most; looks take a small part
//! of the time.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use crate::base::clock::Clock;
use crate::config;
use crate::store::{Spec, StoreError, WorkError, open_read_only};
use crate::traffic::baselines::Bytes;
use crate::traffic::ledger::views::{Summary, by_user, summary};

/// A younger look is not repeated.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A look that took long is repeated after so many times as long: at most a twentieth of the time goes
/// into looks.
const PAUSE_FACTOR: u32 = 20;
/// A scrape that knows of no look younger than this waits for one.
const RECENT: Duration = Duration::from_mins(3);
/// But not longer than this: Prometheus waits 10 s for all of a scrape.
const WAITS: Duration = Duration::from_secs(2);

/// What a look saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// When.
    pub(super) at: Timestamp,
    /// Sums by node and state.
    pub(super) summary: Summary,
    /// The files' bytes.
    pub(super) size_bytes: u64,
    /// By node and the first 8 characters of a user, since the start; those who moved most first.
    pub(super) users: Vec<((u64, [u8; 4]), Bytes)>,
    begun: Duration,
    took: Duration,
}

/// Looks at the ledger.
#[derive(Debug)]
pub(in crate::app) struct Looker {
    spec: Spec,
    clock: Clock,
    seen: Mutex<Option<Arc<Seen>>>,
    /// Held by the look that is under way.
    users: Arc<tokio::sync::Mutex<Users>>,
}

impl Looker {
    pub(in crate::app) fn new(spec: Spec, clock: Clock, shown: config::Metrics) -> Arc<Self> {
        Arc::new(Self {
            spec,
            clock,
            seen: Mutex::default(),
            users: Arc::new(tokio::sync::Mutex::new(Users::new(shown))),
        })
    }

    /// What was seen last; has the next look begun when that is due.
    pub(super) async fn seen(self: &Arc<Self>) -> Option<Arc<Seen>> {
        let before = self.locked().clone();
        let now = self.clock.monotonic();
        let age = before.as_ref().map(|seen| now.saturating_sub(seen.begun));
        let pause = before.as_ref().map_or(LOOK_EVERY, |seen| {
            LOOK_EVERY.max(seen.took.saturating_mul(PAUSE_FACTOR))
        });
        if age.is_none_or(|age| age >= pause)
            && let Ok(users) = self.users.clone().try_lock_owned()
        {
            let looker = self.clone();
            let look = spawn_blocking(move || looker.look(users));
            if age.is_none_or(|age| age >= RECENT.max(pause)) {
                let _ = timeout(WAITS, look).await;
            }
        }
        self.locked().clone()
    }

    /// Blocks on the disk.
    fn look(&self, mut users: tokio::sync::OwnedMutexGuard<Users>) {
        let begun = self.clock.monotonic();
        match self.read(&mut users) {
            Ok(Some((at, summary))) => {
                let seen = Seen {
                    at,
                    summary,
                    size_bytes: size_of(&self.spec.file),
                    users: users.shown(),
                    begun,
                    took: self.clock.monotonic().saturating_sub(begun),
                };
                *self.locked() = Some(Arc::new(seen));
            }
            Ok(None) => {}
            // Whoever writes it tells what is wrong.
            Err(error) => debug!("metrics: {error}"),
        }
    }

    fn read(&self, users: &mut Users) -> Result<Option<(Timestamp, Summary)>, StoreError> {
        let Some(connection) = open_read_only(&self.spec)? else {
            return Ok(None);
        };
        let now = self.clock.now();
        let read = || -> Result<Summary, WorkError> {
            // All of it as of one moment.
            connection.execute_batch("BEGIN")?;
            let summary = summary(&connection)?;
            users.look(&connection, now)?;
            Ok(summary)
        };
        match { read }() {
            Ok(summary) => Ok(Some((now, summary))),
            Err(error) => Err(StoreError::Unavailable(format!("the ledger: {error}"))),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Arc<Seen>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The database and its log.
pub(super) fn size_of(file: &Path) -> u64 {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let files = [file.to_owned(), PathBuf::from(log)];
    let sizes = files.iter().filter_map(|file| fs::metadata(file).ok());
    sizes.map(|found| found.len()).sum()
}

type Known = HashMap<(u64, [u8; 4]), Bytes>;

/// What users moved since the start, counted from one look to the next: in the ledger itself settled
/// days go in the end. Users of the same first 8 characters are shown as one.
#[derive(Debug)]
struct Users {
    shown: config::Metrics,
    /// Settled days from this one on are looked at.
    since: Timestamp,
    last: Option<Known>,
    counted: Known,
}

impl Users {
    fn new(shown: config::Metrics) -> Self {
        Self {
            shown,
            since: Timestamp::UNIX_EPOCH,
            last: None,
            counted: Known::new(),
        }
    }

    fn look(&mut self, connection: &Connection, now: Timestamp) -> Result<(), WorkError> {
        if self.shown == config::Metrics::Top(0) {
            return Ok(());
        }
        if let Some(last) = &self.last {
            for (user, bytes) in known(connection, self.since)? {
                let before = last.get(&user).copied().unwrap_or_default();
                let counted = self.counted.entry(user).or_default();
                *counted = counted.plus(Bytes {
                    up: bytes.up.saturating_sub(before.up),
                    down: bytes.down.saturating_sub(before.down),
                });
            }
        }
        self.since = now;
        self.last = Some(known(connection, now)?);
        Ok(())
    }

    fn shown(&self) -> Vec<((u64, [u8; 4]), Bytes)> {
        let moved = self.counted.iter().filter(|(_, bytes)| !bytes.is_zero());
        let mut users: Vec<_> = moved.map(|(user, bytes)| (*user, *bytes)).collect();
        if let config::Metrics::Top(most) = self.shown {
            users.sort_unstable_by_key(|(user, bytes)| (u64::MAX - bytes.total(), *user));
            users.truncate(most);
        }
        users
    }
}

fn known(connection: &Connection, since: Timestamp) -> Result<Known, WorkError> {
    let mut known = Known::new();
    for (node, user, bytes) in by_user(connection, since)? {
        let [a, b, c, d, ..] = *user.bytes();
        let sum = known.entry((node.0, [a, b, c, d])).or_default();
        *sum = sum.plus(bytes);
    }
    Ok(known)
}
