//! SQLite stores. Each has one file and one thread that alone writes it; work is handed to that
//! thread, runs in one transaction, and is on the disk when its caller hears of it.
//!
//! Where a store says so, works that wait together share one commit (each is still undone alone).
//!
//! Kept here: a file is never emptied in silence. A damaged one, or one that is older than what
//! was committed, is set aside with all its bytes and a new one begun; one of a newer schema is
//! refused untouched. After a failed sync of the disk nothing is tried again: the process ends.

pub mod agent;
mod aside;
#[cfg(test)]
mod damage_tests;
mod error;
mod health;
mod open;
mod reader;
#[cfg(test)]
mod tests;
mod witness;
mod writer;

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use crate::base::clock::Clock;
use crate::model::tally::{Distribution, Durations};

pub use error::{StoreError, WorkError};
pub use health::{Health, State};
pub use open::{look_into, open_read_only};
pub use reader::Reader;
use writer::{Kind, Writer};

/// Marks a database as one of ours (SQLite's `application_id`): `XRAG`.
const APPLICATION_ID: i64 = 0x5852_4147;
/// The oldest SQLite that is used: up to 3.51.2 two connections could corrupt a write-ahead log at
/// its reset. As `major * 1 000 000 + minor * 1 000 + patch`.
const SQLITE_OLDEST: i32 = 3_051_003;
/// Work that waits for the thread. More waits in its callers, who are then slowed down to what the
/// disk can do; nothing is dropped.
const QUEUE_MAX: usize = 64;

/// What a store is: its file, its schema.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it is called in messages, failpoints and as a thread, for example `ledger`.
    pub what: &'static str,
    /// The database; its log, index and witness stand beside it.
    pub file: PathBuf,
    /// The schema's steps as SQL, in order. A released one is never changed.
    pub migrations: &'static [&'static str],
    /// How many works that wait may share a commit: one sync of the disk for all of them, and the
    /// answer to each only when all are done. 1: each has its own.
    pub group_max: usize,
    /// How much of the file SQLite may keep in memory, in KiB.
    pub cache_kib: u32,
    /// Names files set aside and times commits.
    pub clock: Clock,
}

/// Work on its way to the thread, with the way back.
trait Job: Send {
    fn kind(&self) -> Kind;
    fn label(&self) -> &'static str;
    /// Once, within a transaction.
    fn perform(&mut self, within: &Work<'_>) -> Result<(), WorkError>;
    /// Once, when the transaction is over.
    fn answer(self: Box<Self>, done: Result<(), StoreError>);
}

/// What is done when a transaction is on the disk.
type AfterCommit = Box<dyn FnOnce() + Send>;

/// A handle; clones share the store. After the last one is dropped the thread does what was queued
/// and closes the file.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Box<dyn Job>>,
    shared: Arc<Shared>,
    /// Its other end is dropped by the thread when the file is closed.
    closed: watch::Receiver<()>,
}

impl Store {
    /// Starts the thread. The file is opened by the first work, and again after a failure.
    pub fn start(spec: Spec) -> Result<Self, StoreError> {
        if rusqlite::version_number() < SQLITE_OLDEST {
            let version = rusqlite::version();
            return Err(StoreError::Bug(format!(
                "SQLite {version} can corrupt a store; build with 3.51.3 or newer"
            )));
        }
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let (closing, closed) = watch::channel(());
        let shared = Arc::new(Shared::default());
        let (what, group_max) = (spec.what, spec.group_max);
        let writer = Writer::new(spec, Arc::clone(&shared));
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name(what.to_owned())
            .spawn(move || {
                work_off(queue, writer, group_max, &of_thread);
                drop(closing);
            })
            .map_err(|e| {
                StoreError::Unavailable(format!(
                    "the thread of the {what} does not start: {e}; raise the unit's TasksMax"
                ))
            })?;
        Ok(Self {
            jobs,
            shared,
            closed,
        })
    }

    /// Runs `work` in one transaction (`BEGIN IMMEDIATE`) on the store's thread and commits it to
    /// the disk. `label` names it for failpoints (`<what>.<label>.before_commit`, `.after_commit`)
    /// and messages. A caller that is dropped while its work is queued or runs does not stop it; one
    /// that is dropped while it still waits for a place in the queue takes its work along.
    pub async fn write<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&Work<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.hand_over(Kind::Write, label, work).await
    }

    /// The same for work that only reads (`BEGIN DEFERRED`): whatever it does is rolled back.
    pub async fn read<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&Work<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.hand_over(Kind::Read, label, work).await
    }

    /// How the store is.
    pub fn health(&self) -> Health {
        let mut health = Health::default();
        self.shared.health(|now| health.clone_from(now));
        health
    }

    /// How long its committed transactions took, from their begin to the disk.
    pub fn commits(&self) -> Distribution {
        self.shared.commits.distribution()
    }

    /// Completes, with the reason, when a sync of the disk failed (or the thread died): the process
    /// has to end, and nothing of this store is used again.
    pub async fn failed(&self) -> String {
        let mut failed = self.shared.failed.subscribe();
        let reason = failed.wait_for(Option::is_some).await;
        reason
            .ok()
            .and_then(|reason| reason.clone())
            .expect("invariant: the sender lives as long as this handle")
    }

    /// Drops this handle and completes when the file is closed: when the other handles are dropped
    /// too, and what was queued is done.
    pub async fn close(self) {
        let Self {
            jobs, mut closed, ..
        } = self;
        drop(jobs);
        let _ = closed.changed().await;
    }

    async fn hand_over<T: Send + 'static>(
        &self,
        kind: Kind,
        label: &'static str,
        work: impl FnOnce(&Work<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(Handed {
            kind,
            label,
            work: Some(work),
            result: None,
            answer,
        });
        if self.jobs.send(job).await.is_err() {
            return Err(self.gone());
        }
        answered.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> StoreError {
        match &*self.shared.failed.borrow() {
            Some(why) => StoreError::Failed(why.clone()),
            None => StoreError::Closed,
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// Within a transaction: the connection, by `Deref`. Statements prepared with `prepare_cached`
/// stay prepared. An error of SQLite is to be given back, not passed over: some end the transaction.
pub struct Work<'a> {
    connection: &'a Connection,
    after_commit: &'a RefCell<Vec<AfterCommit>>,
    /// Changes whenever the file was opened anew: what a caller remembers of the store's content
    /// under another one is void.
    pub generation: u64,
}

impl Work<'_> {
    /// Has `act` done when this work is committed and on the disk: on the store's thread, in the order
    /// of commits, before the caller hears of it. Never done for work that was undone, nor where the
    /// commit's outcome is not known. It must not wait for anything.
    pub fn after_commit(&self, act: impl FnOnce() + Send + 'static) {
        self.after_commit.borrow_mut().push(Box::new(act));
    }
}

impl fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Deref for Work<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

/// What the thread tells the handles.
#[derive(Debug, Default)]
struct Shared {
    health: Mutex<Health>,
    commits: Durations,
    failed: watch::Sender<Option<String>>,
}

impl Shared {
    fn health(&self, look: impl FnOnce(&mut Health)) {
        look(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn fail(&self, why: &str) {
        self.health(|health| health.state = State::Failed(why.to_owned()));
        self.failed.send_replace(Some(why.to_owned()));
    }
}

/// [`Job`] of a caller who waits for a `T`.
struct Handed<T, W> {
    kind: Kind,
    label: &'static str,
    work: Option<W>,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Job for Handed<T, W>
where
    T: Send,
    W: FnOnce(&Work<'_>) -> Result<T, WorkError> + Send,
{
    fn kind(&self) -> Kind {
        self.kind
    }

    fn label(&self) -> &'static str {
        self.label
    }

    fn perform(&mut self, within: &Work<'_>) -> Result<(), WorkError> {
        let work = self.work.take().expect("invariant: work is run once");
        self.result = Some(work(within)?);
        Ok(())
    }

    fn answer(self: Box<Self>, done: Result<(), StoreError>) {
        let result = self.result;
        let done = done.map(|()| result.expect("invariant: work that succeeded left a result"));
        // Nobody there: the caller was dropped, which does not undo its work.
        let _ = self.answer.send(done);
    }
}

/// The thread: works until the last handle is dropped.
fn work_off(
    mut queue: mpsc::Receiver<Box<dyn Job>>,
    mut writer: Writer,
    group_max: usize,
    shared: &Shared,
) {
    let ended = catch_unwind(AssertUnwindSafe(move || {
        let mut left = None;
        while let Some(first) = left.take().or_else(|| queue.blocking_recv()) {
            let group = grouped(first, &mut queue, group_max, &mut left);
            writer.run(group);
        }
    }));
    // Work that panics is caught where it is called; this is a fault in the store itself.
    if let Err(panic) = ended {
        let why = format!("the store's thread {}", writer::message_of(&*panic));
        error!("{why}");
        shared.fail(&why);
    }
}

/// `first` and what waits behind it that may share its commit. What may not is `left` for the next
/// turn: nothing overtakes.
fn grouped(
    first: Box<dyn Job>,
    queue: &mut mpsc::Receiver<Box<dyn Job>>,
    group_max: usize,
    left: &mut Option<Box<dyn Job>>,
) -> Vec<Box<dyn Job>> {
    let is_write = first.kind() == Kind::Write;
    let mut group = vec![first];
    while is_write && group.len() < group_max {
        match queue.try_recv() {
            Ok(job) if job.kind() == Kind::Write => group.push(job),
            Ok(job) => {
                *left = Some(job);
                break;
            }
            Err(_) => break,
        }
    }
    group
}
