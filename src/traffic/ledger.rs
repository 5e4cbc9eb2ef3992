//! The ledger: what of Xray's counters was counted, and what of it which sink has taken. Keeps: a byte
//! is in one place only, and moves in one transaction; nothing is sent before it is written that it
//! is being sent.

mod audit;
mod boots;
mod collect;
mod reports;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
pub mod views;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use collect::{Collected, Reading};
pub use reports::{Fate, Undecided, Whose};
pub use rows::State;

use crate::base::clock::Clock;
use crate::model::report::{Decision, Report, ReportId};
use crate::model::tally::Distribution;
use crate::store::{self, Health, Spec, Store, StoreError, Work, WorkError};
use collect::Cache;

/// Baselines and open rows of some thousand users stay in memory from one read to the next.
const CACHE_KIB: u32 = 2_000;
/// The ledger's file in the state folder.
pub const FILE: &str = "ledger.db";

/// A report that was given out to be sent.
#[derive(Clone, Debug)]
pub struct Claimed {
    seq: i64,
    /// The report.
    pub report: Report,
}

/// What became of a claimed report.
#[derive(Clone, Debug)]
pub struct Done {
    seq: i64,
    /// A ledger that was begun anew counts from one again: the place alone may be another's.
    id: ReportId,
    fate: Fate,
}

/// One turn of reports.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// What became of those that were sent.
    pub done: Vec<Done>,
    /// How many may be given out.
    pub places: usize,
    /// For so long a report that is in doubt may be sent again; zero: not at all; `None`: for ever.
    pub resend_within: Option<Duration>,
    /// After a turn of which nobody knows whether it was written: only these are under way.
    pub only_under_way: Option<Vec<i64>>,
}

impl Claimed {
    /// Its place in the ledger.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// With what became of it.
    pub fn done(&self, fate: Fate) -> Done {
        Done {
            seq: self.seq,
            id: self.report.id,
            fate,
        }
    }
}

/// A handle; clones share the ledger.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
    cache: Arc<Mutex<Cache>>,
    sinks: Arc<[&'static str]>,
    clock: Clock,
}

/// Where the ledger of a state folder is, and its schema.
pub fn spec(state_dir: &Path, clock: Clock) -> Spec {
    Spec {
        what: "ledger",
        file: file(state_dir),
        migrations: schema::MIGRATIONS,
        group_max: 1,
        cache_kib: CACHE_KIB,
        clock,
    }
}

/// Where the ledger of a state folder is.
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

impl Ledger {
    /// The ledger of `state_dir`, whose bytes go to `sinks`. The caller holds the folder's lock.
    /// Xrays that the file does not know are known from now on.
    pub fn start(
        state_dir: &Path,
        sinks: Arc<[&'static str]>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            store: Store::start(spec(state_dir, clock))?,
            cache: Arc::new(Mutex::new(Cache::new(&clock.moment()))),
            sinks,
            clock,
        })
    }

    /// Takes a read of counters in.
    pub async fn collect(&self, reading: Reading) -> Result<Collected, StoreError> {
        let (cache, sinks, clock) = (self.cache.clone(), self.sinks.clone(), self.clock);
        let now = self.now_ms();
        let (collected, generation, taken) = self
            .store
            .write("collect", move |work| {
                let mut cache = locked(&cache);
                look_at(work, &mut cache, clock)?;
                let (collected, taken) = collect::take_in(work, &mut cache, &reading, &sinks, now)?;
                Ok((collected, work.generation, taken))
            })
            .await?;
        locked(&self.cache).put(generation, taken);
        Ok(collected)
    }

    /// Makes reports to `sink` of what is open; how many.
    pub async fn close(&self, sink: &'static str, whose: Whose) -> Result<usize, StoreError> {
        let now = self.now_ms();
        self.write("close", move |work| reports::close(work, sink, &whose, now))
            .await
    }

    /// Writes down what became of reports that were sent, and gives out the oldest that may go: they
    /// are *sending* from then on.
    pub async fn turn(&self, sink: &'static str, turn: Turn) -> Result<Vec<Claimed>, StoreError> {
        let now = self.now_ms();
        let doubted_after = before(now, turn.resend_within);
        self.write("turn", move |work| {
            for Done { seq, id, fate } in turn.done {
                reports::record(work, (seq, id), fate, now)?;
            }
            if let Some(under_way) = turn.only_under_way {
                reports::bring_back(work, sink, &under_way, now)?;
            }
            let claimed = reports::claim(work, sink, turn.places, doubted_after, now)?;
            let claimed = claimed.into_iter();
            Ok(claimed
                .map(|(seq, report)| Claimed { seq, report })
                .collect())
        })
        .await
    }

    /// Whatever was *sending* when we ended is unknown; how many reports were.
    pub async fn orphans(&self, sink: &'static str) -> Result<usize, StoreError> {
        let now = self.now_ms();
        self.write("orphans", move |work| reports::orphans(work, sink, now))
            .await
    }

    /// Makes unknown reports pending again, under their numbers: those that are in doubt for no longer
    /// than `within`, or all; how many.
    pub async fn release(
        &self,
        sink: &'static str,
        within: Option<Duration>,
    ) -> Result<usize, StoreError> {
        let now = self.now_ms();
        let after = before(now, within);
        self.write("release", move |work| {
            reports::release(work, sink, after, now)
        })
        .await
    }

    /// Carries out what a person decided of a report; the number that it has then.
    pub async fn decide(
        &self,
        id: ReportId,
        decision: Decision,
    ) -> Result<Result<ReportId, Undecided>, StoreError> {
        let now = self.now_ms();
        self.write("decide", move |work| {
            reports::decide(work, id, decision, now)
        })
        .await
    }

    /// Whether the sink at `address` has shown that it drops repeats. At another address nothing has
    /// been shown yet.
    pub async fn dedupes(&self, sink: &'static str, address: String) -> Result<bool, StoreError> {
        self.read("dedupes", move |work| {
            Ok(rows::dedupes(work, sink, &address)?.unwrap_or(false))
        })
        .await
    }

    /// Keeps whether the sink at `address` drops repeats.
    pub async fn keep_dedupes(
        &self,
        sink: &'static str,
        address: String,
        dedupes: bool,
    ) -> Result<(), StoreError> {
        self.write("sink", move |work| {
            rows::keep_dedupes(work, sink, &address, dedupes)
        })
        .await
    }

    /// A view of the whole ledger.
    pub async fn summary(&self) -> Result<views::Summary, StoreError> {
        self.read("summary", |work| views::summary(work)).await
    }

    /// Lets go of the ledger, and completes when its file is closed in order: when the other handles
    /// are dropped, too.
    pub async fn let_go(self) {
        self.store.close().await;
    }

    /// How the store is.
    pub fn health(&self) -> Health {
        self.store.health()
    }

    /// How long its commits took.
    pub fn commits(&self) -> Distribution {
        self.store.commits()
    }

    /// Why it cannot be used, if it cannot.
    pub fn trouble(&self) -> Option<String> {
        match self.store.health().state {
            store::State::Ok => None,
            store::State::Degraded(why)
            | store::State::Refused(why)
            | store::State::Failed(why) => Some(why),
        }
    }

    /// Completes when a sync of the disk failed: the process has to end.
    pub async fn failed(&self) -> String {
        self.store.failed().await
    }

    async fn write<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&Work<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.store.write(label, self.within_file(work)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&Work<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.store.read(label, self.within_file(work)).await
    }

    /// Lets the cache know of every file that was opened, whoever opens it.
    fn within_file<T, W>(
        &self,
        work: W,
    ) -> impl FnOnce(&Work<'_>) -> Result<T, WorkError> + use<T, W>
    where
        W: FnOnce(&Work<'_>) -> Result<T, WorkError>,
    {
        let (cache, clock) = (self.cache.clone(), self.clock);
        move |opened: &Work<'_>| {
            look_at(opened, &mut locked(&cache), clock)?;
            work(opened)
        }
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }
}

/// The moment `within` before `now`; without a bound the beginning of time, and with one of zero its
/// end, for the wall clock can step back.
fn before(now_ms: i64, within: Option<Duration>) -> i64 {
    match within {
        None => i64::MIN,
        Some(Duration::ZERO) => i64::MAX,
        Some(within) => {
            now_ms.saturating_sub(i64::try_from(within.as_millis()).unwrap_or(i64::MAX))
        }
    }
}

/// Looks at a file that was opened anew, before anything is done with what it holds.
fn look_at(work: &Work<'_>, cache: &mut Cache, clock: Clock) -> Result<(), WorkError> {
    if !cache.is_at(work.generation) {
        audit::audit(work)?;
        cache.at(work.generation, &clock.moment());
    }
    Ok(())
}

/// A panic while it was held leaves it whole or, at worst, without what would be read anew.
fn locked(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}
