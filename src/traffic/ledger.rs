//! The ledger: what of Xray's counters was counted, and what of it which sink has taken. Keeps: a byte
//! is in one place only, and moves in one transaction; nothing is sent before it is written that it
//! is being sent.

mod audit;
mod boots;
mod collect;
mod ears;
mod fit;
mod gone;
mod inbounds;
#[cfg(test)]
mod kernel_tests;
mod reports;
mod rows;
mod schema;
mod sums;
#[cfg(test)]
mod tests;
mod totals;
pub mod views;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

pub use collect::{Collected, Reading};
pub use ears::Around;
pub use fit::Fit;
pub use gone::Left;
pub use reports::{Closed, Fate, Undecided, Whose};
pub use rows::State;
pub use sums::Used;

use crate::base::clock::Clock;
use crate::model::ids::UserId;
use crate::model::report::{Decision, Report, ReportId};
use crate::model::tally::Distribution;
use crate::store::{self, Health, Reader, Spec, Store, StoreError, Work, WorkError};
use crate::traffic::receivers::{Receivers, SinkName};
use collect::{Cache, To};
use ears::Ears;
use reports::Places;
use totals::Totals;

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
    /// They go in one request, with one answer for all: one that is in doubt goes alone.
    pub together: bool,
    /// Which may be.
    pub fit: Fit,
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
    reader: Reader,
    cache: Arc<Mutex<Cache>>,
    receivers: Arc<RwLock<Receivers>>,
    ears: Arc<Ears>,
    totals: Arc<Totals>,
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
    /// The ledger of `state_dir`, whose bytes go to these sinks; nobody pushes users. The caller holds the
    /// folder's lock. Xrays that the file does not know are known from now on.
    pub fn start(
        state_dir: &Path,
        receivers: impl Into<Receivers>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        Self::start_among(state_dir, receivers, Around::default(), clock)
    }

    /// The same where `around` says for whom bytes are, and hears of them.
    pub fn start_among(
        state_dir: &Path,
        receivers: impl Into<Receivers>,
        around: Around,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            store: Store::start(spec(state_dir, clock))?,
            reader: Reader::new(spec(state_dir, clock)),
            cache: Arc::new(Mutex::new(Cache::new(&clock.moment()))),
            receivers: Arc::new(RwLock::new(receivers.into())),
            ears: Arc::new(Ears::new(around)),
            totals: Arc::default(),
            clock,
        })
    }

    /// Bytes that are wanted by panels that push go to these sinks and no others from now on. What is
    /// left for registrations that are gone is dropped, and for the configured panel kept; of which, and
    /// how much.
    pub async fn set_kernel_sinks(&self, sinks: Vec<SinkName>) -> Result<Vec<Left>, StoreError> {
        self.receive(sinks.clone());
        // Whatever is counted after this is counted for these: there is one writer.
        self.write("sinks", move |work| gone::keep_only(work, &sinks))
            .await
    }

    fn receive(&self, kernel: Vec<SinkName>) {
        let receivers = self.receivers.write();
        let mut receivers = receivers.unwrap_or_else(PoisonError::into_inner);
        *receivers = receivers.clone().with_kernel(kernel);
    }

    /// Takes a read of counters in.
    pub async fn collect(&self, reading: Reading) -> Result<Collected, StoreError> {
        let (cache, receivers) = (self.cache.clone(), self.receivers.clone());
        let (ears, clock, now_ms) = (self.ears.clone(), self.clock, self.now_ms());
        let written = self
            .store
            .write("collect", move |work| {
                let mut cache = locked(&cache);
                look_at(work, &mut cache, &ears, clock)?;
                // A copy: whoever changes them must not wait for the disk.
                let read = |lock: &RwLock<Receivers>| {
                    lock.read().unwrap_or_else(PoisonError::into_inner).clone()
                };
                let to = To {
                    receivers: &read(&receivers),
                    owners: ears.owners(),
                    now_ms,
                };
                let done = collect::take_in(work, &mut cache, &reading, to)?;
                ears.counted(work, done.pushed);
                Ok((done.collected, work.generation, done.taken))
            })
            .await;
        self.totals.changed();
        let (collected, generation, taken) = written?;
        locked(&self.cache).put(generation, taken);
        Ok(collected)
    }

    /// Makes reports to `sink` of what is open; how many.
    pub async fn close(&self, sink: &str, whose: Whose) -> Result<usize, StoreError> {
        let closed = self.close_fit(sink, whose, Fit::default()).await?;
        Ok(closed.reports)
    }

    /// The same of what is fit to be told.
    pub async fn close_fit(
        &self,
        sink: &str,
        whose: Whose,
        fit: Fit,
    ) -> Result<Closed, StoreError> {
        let (sink, now) = (SinkName::from(sink), self.now_ms());
        self.write("close", move |work| {
            reports::close(work, &sink, &whose, &fit, now)
        })
        .await
    }

    /// Writes down what became of reports that were sent, and gives out the oldest that may go: they
    /// are *sending* from then on.
    pub async fn turn(&self, sink: &str, turn: Turn) -> Result<Vec<Claimed>, StoreError> {
        let (sink, now, ears) = (SinkName::from(sink), self.now_ms(), self.ears.clone());
        let places = Places {
            free: turn.places,
            doubted_after: before(now, turn.resend_within),
            together: turn.together,
            fit: turn.fit,
        };
        self.write("turn", move |work| {
            let mut settled = Vec::new();
            for Done { seq, id, fate } in turn.done {
                settled.extend(reports::record(work, (seq, id), fate, now)?);
            }
            ears.settled(work, &sink, settled)?;
            if let Some(under_way) = turn.only_under_way {
                reports::bring_back(work, &sink, &under_way, now)?;
            }
            let claimed = reports::claim(work, &sink, &places, now)?;
            let claimed = claimed.into_iter();
            Ok(claimed
                .map(|(seq, report)| Claimed { seq, report })
                .collect())
        })
        .await
    }

    /// Whatever was *sending* when we ended is unknown; how many reports were.
    pub async fn orphans(&self, sink: &str) -> Result<usize, StoreError> {
        let (sink, now) = (SinkName::from(sink), self.now_ms());
        self.write("orphans", move |work| reports::orphans(work, &sink, now))
            .await
    }

    /// Makes unknown reports pending again, under their numbers: those that are in doubt for no longer
    /// than `within`, or all; how many.
    pub async fn release(&self, sink: &str, within: Option<Duration>) -> Result<usize, StoreError> {
        let (sink, now) = (SinkName::from(sink), self.now_ms());
        let after = before(now, within);
        self.write("release", move |work| {
            reports::release(work, &sink, after, now)
        })
        .await
    }

    /// Carries out what a person decided of a report; the number that it has then.
    pub async fn decide(
        &self,
        id: ReportId,
        decision: Decision,
    ) -> Result<Result<ReportId, Undecided>, StoreError> {
        let (now, ears) = (self.now_ms(), self.ears.clone());
        self.write("decide", move |work| {
            let decided = reports::decide(work, id, decision, now)?;
            let (id, settled) = match decided {
                Ok(decided) => decided,
                Err(undecided) => return Ok(Err(undecided)),
            };
            if let Some(row) = settled {
                let sink = row.sink.clone();
                ears.settled(work, &sink, vec![row])?;
            }
            Ok(Ok(id))
        })
        .await
    }

    /// Whether the sink at `address` has shown that it drops repeats. At another address nothing has
    /// been shown yet.
    pub async fn dedupes(&self, sink: &str, address: String) -> Result<bool, StoreError> {
        let sink = SinkName::from(sink);
        self.read("dedupes", move |work| {
            Ok(rows::dedupes(work, &sink, &address)?.unwrap_or(false))
        })
        .await
    }

    /// Keeps whether the sink at `address` drops repeats.
    pub async fn keep_dedupes(
        &self,
        sink: &str,
        address: String,
        dedupes: bool,
    ) -> Result<(), StoreError> {
        let sink = SinkName::from(sink);
        self.write("sink", move |work| {
            rows::keep_dedupes(work, &sink, &address, dedupes)
        })
        .await
    }

    /// A view of the whole ledger.
    pub async fn summary(&self) -> Result<views::Summary, StoreError> {
        self.read("summary", |work| views::summary(work)).await
    }

    /// What was counted in each inbound; read beside the writer where it changed since it was asked last.
    pub async fn inbounds(&self) -> Result<Vec<views::InboundTotals>, StoreError> {
        if let Some(totals) = self.totals.get() {
            return Ok(totals);
        }
        let as_of = self.totals.writes();
        let read = self.reader.read(views::inbounds).await?;
        let totals = read.unwrap_or_default();
        self.totals.keep(as_of, &totals);
        Ok(totals)
    }

    /// What every user has moved; read beside the writer.
    pub async fn used(&self) -> Result<HashMap<UserId, Used>, StoreError> {
        let read = self.reader.read(sums::used).await?;
        Ok(read.unwrap_or_default())
    }

    /// What one user has moved; read beside the writer.
    pub async fn used_by(&self, user: UserId) -> Result<Used, StoreError> {
        let read = self.reader.read(move |it| sums::used_by(it, user)).await?;
        Ok(read.unwrap_or_default())
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
        let written = self.store.write(label, self.within_file(work)).await;
        self.totals.changed();
        written
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
        let (cache, ears, clock) = (self.cache.clone(), self.ears.clone(), self.clock);
        move |opened: &Work<'_>| {
            look_at(opened, &mut locked(&cache), &ears, clock)?;
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
fn look_at(work: &Work<'_>, cache: &mut Cache, ears: &Ears, clock: Clock) -> Result<(), WorkError> {
    if !cache.is_at(work.generation) {
        audit::audit(work)?;
        ears.all(work)?;
        cache.at(work.generation, &clock.moment());
    }
    Ok(())
}

/// A panic while it was held leaves it whole or, at worst, without what would be read anew.
fn locked(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}
