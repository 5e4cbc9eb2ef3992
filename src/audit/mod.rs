//! The audit: who changed what, by every way into the agent, kept in `agent.db`.
//!
//! Kept here: telling of a change never holds up whoever makes it; what cannot be written down is
//! counted and shown; what is kept has bounds in number and age and holds no credential.

mod queue;
mod record;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{sleep, timeout};
use utoipa::ToSchema;

use crate::base::clock::Clock;
use crate::base::retry::Backoff;
use crate::base::said::Said;
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::store::{Reader, Store, StoreError, Work, WorkError};
use queue::Queue;

pub use record::{Entry, Record};

/// Entries in one transaction: few syncs of the disk for a burst, and none takes long.
const BATCH: usize = 64;
/// The longest sleep in one go: the wall clock may step, and the host sleep.
const NAP: Duration = Duration::from_secs(20);
/// Pauses after the store did not take something (jitter adds up to as much again).
const STORE_PAUSES: (Duration, Duration) = (Duration::from_secs(1), NAP);
/// How often what is too old is looked for where nothing is written.
const TRIMMED_EVERY: Duration = Duration::from_hours(1);
/// A question waits so long for what was told before it to be written down.
const QUESTION_WAITS: Duration = Duration::from_secs(1);
/// Records of a question that names no number.
const LIMIT_DEFAULT: u32 = 100;
/// Most records of a question: half a MiB.
const LIMIT_MAX: u32 = 1_000;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Records; beyond it the oldest go.
    pub records: u64,
    /// Older ones go.
    pub age: Duration,
}

impl Default for Retention {
    /// Some 50 MB, and what a person asks about after a quarter of a year.
    fn default() -> Self {
        Self {
            records: 100_000,
            age: Duration::from_hours(90 * 24),
        }
    }
}

/// Which records are asked for. What is not set lets all through; names must match whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// At most so many, 1 to 1 000; 100 unless set.
    pub limit: Option<u32>,
    /// Not older than this, in Unix milliseconds.
    pub since_ms: Option<i64>,
    /// Done, or not done.
    pub success: Option<bool>,
    /// What was done.
    pub action: Option<String>,
    /// By whom.
    pub actor: Option<String>,
    /// To what.
    pub target: Option<String>,
}

impl Filter {
    fn limit(&self) -> u32 {
        self.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX)
    }
}

/// How the audit is. Counts are since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AuditHealthSnapshot)]
pub struct AuditHealth {
    /// Records that wait to be written down.
    pub queued: usize,
    /// Records that never will be.
    pub dropped: u64,
    /// Writes that failed.
    pub sink_failures: u64,
    /// Why the last one did.
    pub last_error: Option<String>,
    /// Where records are written.
    pub sinks: Vec<SinkHealth>,
}

/// A place where records are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AuditSinkHealth)]
pub struct SinkHealth {
    /// Its name.
    pub name: &'static str,
    /// Writes that failed.
    pub failures: u64,
}

/// A handle; clones share the queue.
#[derive(Clone, Debug)]
pub struct Audit {
    store: Store,
    reader: Reader,
    queue: Arc<Queue>,
    retention: Retention,
    clock: Clock,
}

impl Audit {
    /// The audit in this `agent.db`, which `reader` reads. What is told waits until it is [`run`].
    ///
    /// [`run`]: Audit::run
    pub fn new(store: Store, reader: Reader, retention: Retention, clock: Clock) -> Self {
        Self {
            store,
            reader,
            queue: Arc::new(Queue::new()),
            retention,
            clock,
        }
    }

    /// Tells of a change. Never waits; where 1 024 records wait already it is dropped and counted.
    pub fn record(&self, record: Record) {
        self.queue.push(self.entry(record));
    }

    /// Writes a change down within the transaction on `agent.db` that makes it.
    pub fn within(&self, work: &Work<'_>, record: Record) -> Result<(), WorkError> {
        table::append(work, [&self.entry(record)])?;
        table::trim(work, self.retention, self.clock.now())?;
        Ok(())
    }

    /// Records, newest first; those that were told before this question are among them, unless the
    /// store does not take them within a second.
    pub async fn query(&self, filter: Filter) -> Result<Vec<Entry>, StoreError> {
        let _ = timeout(QUESTION_WAITS, self.queue.all_settled()).await;
        let found = self.reader.read(move |work| table::query(work, &filter));
        Ok(found.await?.unwrap_or_default())
    }

    /// How it is.
    pub fn health(&self) -> AuditHealth {
        self.queue.health()
    }

    /// Writes down what is told, until the end is asked for and what waits then is written too.
    pub async fn run(self, mut shutdown: Shutdown, heartbeat: Heartbeat) {
        let mut backoff = Backoff::new(STORE_PAUSES.0, STORE_PAUSES.1);
        let (mut said, mut trimmed) = (Said::default(), None);
        loop {
            heartbeat.beat();
            let done = self.work_off(&mut trimmed).await;
            let trouble = done.err().map(|e| e.to_string());
            said.state("audit", trouble.as_deref());
            if shutdown.is_requested() {
                return;
            }
            let pause = if trouble.is_some() {
                backoff.next_pause().min(NAP)
            } else {
                backoff.reset();
                NAP
            };
            // All arms are cancel-safe.
            tokio::select! {
                () = shutdown.requested() => {}
                () = self.queue.bell.notified(), if trouble.is_none() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Writes down all that waits, or says why not. For the end, when nobody tells anything any more.
    pub async fn flush(&self) -> Result<(), StoreError> {
        loop {
            let batch = self.queue.head(BATCH);
            let Some((last, _)) = batch.last() else {
                return Ok(());
            };
            let last = *last;
            match self.write(batch).await {
                Ok(()) => self.queue.written(last),
                Err(e) => {
                    self.queue.failed(e.to_string());
                    // Trying it again would fail again, for ever, and hold up what comes behind.
                    if !matches!(e, StoreError::Bug(_)) {
                        return Err(e);
                    }
                    self.queue.given_up(last);
                }
            }
        }
    }

    async fn work_off(&self, trimmed: &mut Option<Duration>) -> Result<(), StoreError> {
        self.flush().await?;
        let now = self.clock.monotonic();
        if trimmed.is_some_and(|then| now.saturating_sub(then) < TRIMMED_EVERY) {
            return Ok(());
        }
        let (retention, at) = (self.retention, self.clock.now());
        let step = move |work: &Work<'_>| table::trim(work, retention, at);
        while self.store.write("audit_trim", step).await? {}
        *trimmed = Some(now);
        Ok(())
    }

    async fn write(&self, batch: Vec<(u64, Entry)>) -> Result<(), StoreError> {
        let (retention, now) = (self.retention, self.clock.now());
        let work = move |work: &Work<'_>| {
            table::append(work, batch.iter().map(|(_, entry)| entry))?;
            // More goes in a step than comes in a batch: the bound holds.
            table::trim(work, retention, now).map(drop)
        };
        self.store.write("audit", work).await
    }

    fn entry(&self, record: Record) -> Entry {
        Entry::new(record, self.clock.now().as_millisecond())
    }
}
